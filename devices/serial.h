/*
 * A 16550A UART: full register model, FIFOs, loopback, interrupts.
 *
 * Registers are accessed on vCPU threads; input arrives on the chardev's loop;
 * one lock between them, never held over a chardev call that could wait.
 */
#ifndef WISP_DEVICES_SERIAL_H
#define WISP_DEVICES_SERIAL_H

#include "devices/chardev.h"
#include "vmm/core/bus.h"
#include "vmm/core/irq.h"
#include "vmm/core/rate.h"
#include "vmm/core/state.h"

struct serial;

#define SERIAL_COM1_PORT 0x3f8
#define SERIAL_COM1_IRQ	 4

/* @chardev (borrowed) may be NULL: output vanishes. At port @base of @pio, interrupt @gsi. */
int serial_create(struct serial **ret_s, struct bus *pio, uint16_t base, struct irq_table *irqs,
		  uint32_t gsi, struct chardev *chardev, struct loop *loop, struct error *err);
void serial_free(struct serial *s);

/*
 * From now on what is sent beyond @limits is dropped: to keep a guest waiting would be to stall
 * its kernel, which sends with interrupts off. A byte is an operation. Any thread.
 */
void serial_limit(struct serial *s, const struct rate_limits *limits);
/* Those of now. Any thread. */
void serial_limits(struct serial *s, struct rate_limits *ret_limits);
/* Bytes that were dropped so far, for that. Any thread. */
uint64_t serial_dropped(struct serial *s);

void serial_save(struct serial *s, struct state_writer *w);
int serial_load(struct serial *s, struct state_reader *r);

#endif
