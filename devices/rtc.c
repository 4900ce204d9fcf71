#include "devices/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

/* Registers (MC146818A data sheet). */
#define RTC_SECONDS	  0x00
#define RTC_SECONDS_ALARM 0x01
#define RTC_MINUTES	  0x02
#define RTC_MINUTES_ALARM 0x03
#define RTC_HOURS	  0x04
#define RTC_HOURS_ALARM	  0x05
#define RTC_WEEKDAY	  0x06
#define RTC_DAY		  0x07
#define RTC_MONTH	  0x08
#define RTC_YEAR	  0x09
#define RTC_A		  0x0a
#define RTC_B		  0x0b
#define RTC_C		  0x0c
#define RTC_D		  0x0d
#define RTC_CENTURY	  0x32

#define A_UIP  0x80 /* update in progress: never, since time is computed when read */
#define A_RATE 0x0f
#define A_RESET 0x26 /* 32768 Hz, 1024 Hz periodic */

#define B_SET	   0x80
#define B_PERIODIC 0x40
#define B_ALARM	   0x20
#define B_UPDATE   0x10
#define B_BINARY   0x04
#define B_24H	   0x02

#define C_IRQF 0x80
#define D_VALID 0x80

#define HOUR_PM	  0x80
#define ALARM_ANY 0xc0 /* these two bits set: matches every value */

/* Memory sizes as firmware reads them, in KiB or 64 KiB units, low byte first. */
#define CMOS_BASE_KIB	 0x15
#define CMOS_EXT_KIB	 0x17
#define CMOS_EXT2_KIB	 0x30
#define CMOS_EXT_64KIB	 0x34
#define CMOS_HIGH_64KIB	 0x5b

#define CMOS_BYTES 128

struct rtc {
	pthread_mutex_t lock;
	uint8_t index;
	uint8_t cmos[CMOS_BYTES]; /* time registers hold what was set while B_SET */
	int64_t offset_ns;	  /* guest's time minus the clock's */
	const struct clock *clock;
	struct irq_line irq;
	struct loop *loop;
	struct loop_timer periodic, second;
	struct loop_task rearm; /* timers belong to the loop */
};

/* ---- time ---- */

static uint8_t encode(const struct rtc *rtc, unsigned v)
{
	return rtc->cmos[RTC_B] & B_BINARY ? v : (v / 10) << 4 | v % 10;
}

static unsigned decode(const struct rtc *rtc, uint8_t v)
{
	return rtc->cmos[RTC_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static uint8_t encode_hour(const struct rtc *rtc, unsigned hour)
{
	uint8_t pm = hour >= 12 ? HOUR_PM : 0;

	if (rtc->cmos[RTC_B] & B_24H)
		return encode(rtc, hour);
	return encode(rtc, hour % 12 ? hour % 12 : 12) | pm;
}

static unsigned decode_hour(const struct rtc *rtc, uint8_t v)
{
	unsigned hour;

	if (rtc->cmos[RTC_B] & B_24H)
		return decode(rtc, v);
	hour = decode(rtc, v & ~HOUR_PM) % 12;
	return v & HOUR_PM ? hour + 12 : hour;
}

static int64_t guest_time_ns(const struct rtc *rtc)
{
	return (int64_t)clock_realtime_ns(rtc->clock) + rtc->offset_ns;
}

/* Put the current time into the registers, as the update cycle of the chip does. */
static void update_registers(struct rtc *rtc)
{
	time_t now = guest_time_ns(rtc) / (int64_t)NSEC_PER_SEC;
	struct tm t;

	if ((rtc->cmos[RTC_B] & B_SET) || !gmtime_r(&now, &t))
		return;
	rtc->cmos[RTC_SECONDS] = encode(rtc, t.tm_sec);
	rtc->cmos[RTC_MINUTES] = encode(rtc, t.tm_min);
	rtc->cmos[RTC_HOURS] = encode_hour(rtc, t.tm_hour);
	rtc->cmos[RTC_WEEKDAY] = encode(rtc, t.tm_wday + 1);
	rtc->cmos[RTC_DAY] = encode(rtc, t.tm_mday);
	rtc->cmos[RTC_MONTH] = encode(rtc, t.tm_mon + 1);
	rtc->cmos[RTC_YEAR] = encode(rtc, t.tm_year % 100);
	rtc->cmos[RTC_CENTURY] = encode(rtc, (t.tm_year + 1900) / 100);
}

/* The guest has set the registers: from now on time runs from there. */
static void take_registers(struct rtc *rtc)
{
	struct tm t = {
		.tm_sec = decode(rtc, rtc->cmos[RTC_SECONDS]),
		.tm_min = decode(rtc, rtc->cmos[RTC_MINUTES]),
		.tm_hour = decode_hour(rtc, rtc->cmos[RTC_HOURS]),
		.tm_mday = decode(rtc, rtc->cmos[RTC_DAY]),
		.tm_mon = (int)decode(rtc, rtc->cmos[RTC_MONTH]) - 1,
		.tm_year = decode(rtc, rtc->cmos[RTC_YEAR]) +
			   decode(rtc, rtc->cmos[RTC_CENTURY]) * 100 - 1900,
	};
	int64_t set = (int64_t)timegm(&t) * (int64_t)NSEC_PER_SEC;

	rtc->offset_ns = set - (int64_t)clock_realtime_ns(rtc->clock);
}

/* ---- interrupts ---- */

static void raise_flag(struct rtc *rtc, uint8_t flag)
{
	rtc->cmos[RTC_C] |= flag;
	/* Flags and enables are the same bits of C and B. The line rises once, until C is read. */
	if ((rtc->cmos[RTC_B] & flag) && !(rtc->cmos[RTC_C] & C_IRQF)) {
		rtc->cmos[RTC_C] |= C_IRQF;
		irq_line_raise(&rtc->irq);
	}
}

static uint64_t period_ns(const struct rtc *rtc)
{
	unsigned rate = rtc->cmos[RTC_A] & A_RATE;

	if (!rate)
		return 0;
	/* Rates 1 and 2 are those of 8 and 9 (data sheet, table 5). */
	if (rate < 3)
		rate += 7;
	return NSEC_PER_SEC * (1u << (rate - 1)) / 32768;
}

static bool alarm_matches(const struct rtc *rtc, unsigned alarm, unsigned now)
{
	return (rtc->cmos[alarm] & ALARM_ANY) == ALARM_ANY || rtc->cmos[alarm] == rtc->cmos[now];
}

static void arm_timers(struct rtc *rtc)
{
	uint64_t now = clock_monotonic_ns(rtc->clock), period = period_ns(rtc);
	uint64_t into = guest_time_ns(rtc) % (int64_t)NSEC_PER_SEC;

	if ((rtc->cmos[RTC_B] & B_PERIODIC) && period) {
		if (!rtc->periodic.armed)
			loop_timer_set(rtc->loop, &rtc->periodic, now + period);
	} else {
		loop_timer_cancel(rtc->loop, &rtc->periodic);
	}
	if (rtc->cmos[RTC_B] & (B_ALARM | B_UPDATE)) {
		if (!rtc->second.armed)
			loop_timer_set(rtc->loop, &rtc->second, now + NSEC_PER_SEC - into);
	} else {
		loop_timer_cancel(rtc->loop, &rtc->second);
	}
}

static void rearm(struct loop_task *task)
{
	struct rtc *rtc = container_of(task, struct rtc, rearm);

	pthread_mutex_lock(&rtc->lock);
	arm_timers(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

static void period_over(struct loop_timer *t)
{
	struct rtc *rtc = container_of(t, struct rtc, periodic);

	pthread_mutex_lock(&rtc->lock);
	raise_flag(rtc, B_PERIODIC);
	arm_timers(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

static void second_over(struct loop_timer *t)
{
	struct rtc *rtc = container_of(t, struct rtc, second);

	pthread_mutex_lock(&rtc->lock);
	update_registers(rtc);
	raise_flag(rtc, B_UPDATE);
	if (alarm_matches(rtc, RTC_SECONDS_ALARM, RTC_SECONDS) &&
	    alarm_matches(rtc, RTC_MINUTES_ALARM, RTC_MINUTES) &&
	    alarm_matches(rtc, RTC_HOURS_ALARM, RTC_HOURS))
		raise_flag(rtc, B_ALARM);
	arm_timers(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

/* ---- registers; vCPU threads ---- */

static bool is_time(unsigned index)
{
	return (index <= RTC_YEAR && index != RTC_SECONDS_ALARM && index != RTC_MINUTES_ALARM &&
		index != RTC_HOURS_ALARM) ||
	       index == RTC_CENTURY;
}

static void write_register(struct rtc *rtc, unsigned index, uint8_t v)
{
	switch (index) {
	case RTC_A:
		rtc->cmos[RTC_A] = v & ~A_UIP;
		loop_post(rtc->loop, &rtc->rearm);
		break;
	case RTC_B:
		update_registers(rtc);
		if ((rtc->cmos[RTC_B] & B_SET) && !(v & B_SET)) {
			rtc->cmos[RTC_B] = v;
			take_registers(rtc);
		}
		rtc->cmos[RTC_B] = v;
		loop_post(rtc->loop, &rtc->rearm);
		break;
	case RTC_C:
	case RTC_D:
		break;
	default:
		/* Set while running: the rest goes on as it stands. */
		if (is_time(index))
			update_registers(rtc);
		rtc->cmos[index] = v;
		if (is_time(index) && !(rtc->cmos[RTC_B] & B_SET))
			take_registers(rtc);
		break;
	}
}

static void rtc_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	struct rtc *rtc = opaque;
	uint8_t v = *(const uint8_t *)data;

	pthread_mutex_lock(&rtc->lock);
	if (offset == 0)
		rtc->index = v & (CMOS_BYTES - 1);
	else
		write_register(rtc, rtc->index, v);
	pthread_mutex_unlock(&rtc->lock);
}

static void rtc_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	struct rtc *rtc = opaque;
	uint8_t v = 0xff; /* the index register cannot be read */

	pthread_mutex_lock(&rtc->lock);
	if (offset == 1) {
		if (is_time(rtc->index))
			update_registers(rtc);
		v = rtc->cmos[rtc->index];
		if (rtc->index == RTC_C)
			rtc->cmos[RTC_C] = 0;
	}
	pthread_mutex_unlock(&rtc->lock);
	*(uint8_t *)data = v;
}

static const struct bus_ops rtc_ops = { .read = rtc_read, .write = rtc_write };

/* ---- life ---- */

static void set_memory_sizes(struct rtc *rtc, uint64_t low, uint64_t high)
{
	uint64_t above_1m = low > MiB ? (low - MiB) / KiB : 0;
	uint64_t above_16m = low > 16 * MiB ? (low - 16 * MiB) / (64 * KiB) : 0;
	uint64_t high_units = high / (64 * KiB);

	put_le16(rtc->cmos + CMOS_BASE_KIB, 640);
	put_le16(rtc->cmos + CMOS_EXT_KIB, MIN(above_1m, 0xffffull));
	put_le16(rtc->cmos + CMOS_EXT2_KIB, MIN(above_1m, 0xffffull));
	put_le16(rtc->cmos + CMOS_EXT_64KIB, MIN(above_16m, 0xffffull));
	put_le16(rtc->cmos + CMOS_HIGH_64KIB, high_units);
	rtc->cmos[CMOS_HIGH_64KIB + 2] = high_units >> 16;
}

int rtc_create(struct rtc **ret_rtc, struct bus *pio, struct irq_table *irqs, struct loop *loop,
	       const struct clock *clock, uint64_t low_bytes, uint64_t high_bytes,
	       struct error *err)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));
	struct bus_region region = { RTC_PORT, 2, &rtc_ops, rtc, "rtc" };
	int r;

	if (!rtc)
		return error_set(err, -ENOMEM, "real-time clock: %m");
	pthread_mutex_init(&rtc->lock, NULL);
	irq_line_init(&rtc->irq, irqs, RTC_IRQ);
	rtc->clock = clock;
	rtc->loop = loop;
	rtc->periodic.expired = period_over;
	rtc->second.expired = second_over;
	rtc->rearm.run = rearm;
	rtc->cmos[RTC_A] = A_RESET;
	rtc->cmos[RTC_B] = B_24H;
	rtc->cmos[RTC_D] = D_VALID;
	set_memory_sizes(rtc, low_bytes, high_bytes);
	r = bus_add(pio, &region, err);
	if (r < 0) {
		rtc_free(rtc);
		return r;
	}
	*ret_rtc = rtc;
	return 0;
}

void rtc_free(struct rtc *rtc)
{
	if (!rtc)
		return;
	loop_timer_cancel(rtc->loop, &rtc->periodic);
	loop_timer_cancel(rtc->loop, &rtc->second);
	irq_line_done(&rtc->irq);
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}

void rtc_save(struct rtc *rtc, struct state_writer *w)
{
	pthread_mutex_lock(&rtc->lock);
	update_registers(rtc);
	state_put_u8(w, rtc->index);
	state_put_u64(w, rtc->offset_ns);
	state_put_bytes(w, rtc->cmos, sizeof(rtc->cmos));
	pthread_mutex_unlock(&rtc->lock);
}

int rtc_load(struct rtc *rtc, struct state_reader *r)
{
	rtc->index = state_get_u8(r) & (CMOS_BYTES - 1);
	rtc->offset_ns = state_get_u64(r);
	state_get_bytes(r, rtc->cmos, sizeof(rtc->cmos));
	rtc->cmos[RTC_A] &= ~A_UIP;
	if (!r->failed)
		loop_post(rtc->loop, &rtc->rearm);
	return r->failed;
}
