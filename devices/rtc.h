/*
 * MC146818 real-time clock and 128 bytes of CMOS at ports 0x70/0x71. Time is
 * UTC from the clock given; alarms and periodic interrupts on IRQ 8. vCPU
 * threads, one lock; timers on the loop.
 */
#ifndef WISP_DEVICES_RTC_H
#define WISP_DEVICES_RTC_H

#include "vmm/core/bus.h"
#include "vmm/core/clock.h"
#include "vmm/core/irq.h"
#include "vmm/core/loop.h"
#include "vmm/core/state.h"

struct rtc;

#define RTC_PORT 0x70
#define RTC_IRQ	 8

/* @low_bytes, @high_bytes: RAM below and above 4 GiB, as firmware reads it from CMOS. */
int rtc_create(struct rtc **ret_rtc, struct bus *pio, struct irq_table *irqs, struct loop *loop,
	       const struct clock *clock, uint64_t low_bytes, uint64_t high_bytes,
	       struct error *err);
void rtc_free(struct rtc *rtc);
void rtc_save(struct rtc *rtc, struct state_writer *w);
int rtc_load(struct rtc *rtc, struct state_reader *r);

#endif
