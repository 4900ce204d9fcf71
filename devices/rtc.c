#include "devices/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* Registers (MC146818A data sheet); alarms are those of the time one before them. */
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

#define A_UIP	   0x80 /* update in progress */
#define A_DV_RESET 0x60 /* both bits: the divider is held, so the clock stands */
#define A_RATE	   0x0f
#define A_RESET	   0x26 /* 32768 Hz, 1024 Hz periodic */

#define B_SET	 0x80 /* the clock stands, to be set */
#define B_BINARY 0x04
#define B_24H	 0x02

/* Flags of C are enabled by the same bits of B. */
#define C_IRQF	   0x80
#define C_PERIODIC 0x40
#define C_ALARM	   0x20
#define C_UPDATE   0x10
#define C_FLAGS	   (C_PERIODIC | C_ALARM | C_UPDATE)

#define D_VALID 0x80

#define HOUR_PM	  0x80
#define ALARM_ANY 0xc0 /* these two bits set: matches every value */

/* UIP is seen so long before each update: who sees it clear has that long to read. */
#define UIP_NS 244000

/* The first update after the divider is let go comes half a second later. */
#define DIVIDER_NS (NSEC_PER_SEC / 2)

/* Memory sizes as firmware reads them, in KiB or 64 KiB units, low byte first. */
#define CMOS_BASE_KIB	0x15
#define CMOS_EXT_KIB	0x17
#define CMOS_EXT2_KIB	0x30
#define CMOS_EXT_64KIB	0x34
#define CMOS_HIGH_64KIB 0x5b

#define CMOS_BYTES 128

#define LEAP_DAYS_BEFORE_1970 (1969 / 4 - 1969 / 100 + 1969 / 400)

#define DAY_SECONDS 86400
#define MAX_SECONDS 9000000000ll /* in 2255: nanoseconds still fit in 63 bits */
#define SECOND_NS   ((int64_t)NSEC_PER_SEC)

struct rtc {
	pthread_mutex_t lock;
	uint8_t index;
	uint8_t cmos[CMOS_BYTES]; /* time registers are true only while the clock stands */
	int64_t offset_ns;	  /* guest's time minus the clock's */
	int64_t seen_ns;	  /* guest's time up to which the flags of C are known */
	const struct clock *clock;
	struct irq_line irq;
	struct loop *loop;
	struct loop_timer timer; /* for the next interrupt */
	struct loop_task rearm;	 /* timers belong to the loop */
	bool armed;
};

/* ---- the calendar ---- */

/* Days from 1970-01-01 to January 1st of @year, which is not before it. */
static int64_t days_before_year(int64_t year)
{
	int64_t n = year - 1;

	return 365 * (year - 1970) + n / 4 - n / 100 + n / 400 - LEAP_DAYS_BEFORE_1970;
}

static unsigned days_before_month(int64_t year, unsigned month)
{
	static const uint16_t days[12] = { 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334 };
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

	return days[month - 1] + (leap && month > 2);
}

/* ---- registers and time ---- */

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
	if (rtc->cmos[RTC_B] & B_24H)
		return encode(rtc, hour);
	return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct rtc *rtc, uint8_t v)
{
	if (rtc->cmos[RTC_B] & B_24H)
		return decode(rtc, v);
	return decode(rtc, v & ~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

static bool divider_held(const struct rtc *rtc)
{
	return (rtc->cmos[RTC_A] & A_DV_RESET) == A_DV_RESET;
}

static bool stands(const struct rtc *rtc)
{
	return (rtc->cmos[RTC_B] & B_SET) || divider_held(rtc);
}

/* Never before 1970, whatever the host's clock has been set to. */
static int64_t guest_ns(const struct rtc *rtc)
{
	int64_t ns = (int64_t)clock_realtime_ns(rtc->clock) + rtc->offset_ns;

	return MAX(ns, (int64_t)0);
}

/* Put the time into the registers, as the chip does once a second. */
static void update_registers(struct rtc *rtc)
{
	int64_t seconds = guest_ns(rtc) / SECOND_NS;
	int64_t days = seconds / DAY_SECONDS, year = 1970 + days / 366;
	unsigned of_day = seconds % DAY_SECONDS, of_year, month = 12;

	if (stands(rtc))
		return;
	while (days_before_year(year + 1) <= days)
		year++;
	of_year = days - days_before_year(year);
	while (days_before_month(year, month) > of_year)
		month--;
	rtc->cmos[RTC_SECONDS] = encode(rtc, of_day % 60);
	rtc->cmos[RTC_MINUTES] = encode(rtc, of_day / 60 % 60);
	rtc->cmos[RTC_HOURS] = encode_hour(rtc, of_day / 3600);
	rtc->cmos[RTC_WEEKDAY] = encode(rtc, (days + 4) % 7 + 1); /* the first was a Thursday */
	rtc->cmos[RTC_DAY] = encode(rtc, of_year - days_before_month(year, month) + 1);
	rtc->cmos[RTC_MONTH] = encode(rtc, month);
	rtc->cmos[RTC_YEAR] = encode(rtc, year % 100);
	rtc->cmos[RTC_CENTURY] = encode(rtc, year / 100);
}

/* Time runs on from what is in the registers, @into_ns within that second. */
static void take_registers(struct rtc *rtc, int64_t into_ns)
{
	int64_t year = decode(rtc, rtc->cmos[RTC_YEAR]) + decode(rtc, rtc->cmos[RTC_CENTURY]) * 100;
	unsigned month = decode(rtc, rtc->cmos[RTC_MONTH]);
	int64_t days, seconds;

	/* The guest may have put anything there. */
	if (year < 1970)
		year = 1970;
	if (month < 1 || month > 12)
		month = 1;
	days = days_before_year(year) + days_before_month(year, month) +
	       (int64_t)decode(rtc, rtc->cmos[RTC_DAY]) - 1;
	seconds = days * DAY_SECONDS + decode_hour(rtc, rtc->cmos[RTC_HOURS]) * 3600ll +
		  decode(rtc, rtc->cmos[RTC_MINUTES]) * 60ll + decode(rtc, rtc->cmos[RTC_SECONDS]);
	seconds = seconds < 0 ? 0 : MIN(seconds, (int64_t)MAX_SECONDS);
	rtc->offset_ns = seconds * SECOND_NS + into_ns - (int64_t)clock_realtime_ns(rtc->clock);
	rtc->seen_ns = guest_ns(rtc);
}

/* ---- what has happened, and what is to come; under the lock ---- */

/* 0: no periodic interrupt. */
static int64_t period_ns(const struct rtc *rtc)
{
	unsigned rate = rtc->cmos[RTC_A] & A_RATE;

	if (!rate || divider_held(rtc))
		return 0;
	/* Rates 1 and 2 are those of 8 and 9 (data sheet, table 5). */
	return SECOND_NS * (1 << ((rate < 3 ? rate + 7 : rate) - 1)) / 32768;
}

static bool alarm_matches(const struct rtc *rtc, unsigned alarm, uint8_t now)
{
	return (rtc->cmos[alarm] & ALARM_ANY) == ALARM_ANY || rtc->cmos[alarm] == now;
}

/* Is there a time of day that the alarm matches? Not at "25 o'clock". */
static bool alarm_can_match(const struct rtc *rtc)
{
	bool hour = false, minute = false, second = false;

	for (unsigned i = 0; i < 24; i++)
		hour |= alarm_matches(rtc, RTC_HOURS_ALARM, encode_hour(rtc, i));
	for (unsigned i = 0; i < 60; i++) {
		minute |= alarm_matches(rtc, RTC_MINUTES_ALARM, encode(rtc, i));
		second |= alarm_matches(rtc, RTC_SECONDS_ALARM, encode(rtc, i));
	}
	return hour && minute && second;
}

/* The first second after @after at which the alarm goes off. */
static int64_t next_alarm(const struct rtc *rtc, int64_t after)
{
	int64_t t = after + 1;

	/* Or each write of a guest that has set no time would look at every second of a day. */
	if (!alarm_can_match(rtc))
		return MAX_SECONDS + DAY_SECONDS;
	while (t <= after + DAY_SECONDS) {
		unsigned of_day = t % DAY_SECONDS;

		if (!alarm_matches(rtc, RTC_HOURS_ALARM, encode_hour(rtc, of_day / 3600)))
			t += 3600 - of_day % 3600;
		else if (!alarm_matches(rtc, RTC_MINUTES_ALARM, encode(rtc, of_day / 60 % 60)))
			t += 60 - of_day % 60;
		else if (!alarm_matches(rtc, RTC_SECONDS_ALARM, encode(rtc, of_day % 60)))
			t++;
		else
			return t;
	}
	return MAX_SECONDS + DAY_SECONDS;
}

/* The line rises once, until C is read. */
static void update_interrupt(struct rtc *rtc)
{
	uint8_t *c = &rtc->cmos[RTC_C];

	if (!(*c & rtc->cmos[RTC_B] & C_FLAGS) || (*c & C_IRQF))
		return;
	*c |= C_IRQF;
	irq_line_raise(&rtc->irq);
}

/* Set the flags for everything since the last call. */
static void catch_up(struct rtc *rtc)
{
	int64_t now = guest_ns(rtc), seen = rtc->seen_ns, period = period_ns(rtc);
	uint8_t *c = &rtc->cmos[RTC_C];

	rtc->seen_ns = now;
	/* The host's clock may have been set back. */
	if (now <= seen)
		return;
	if (period && now / period != seen / period)
		*c |= C_PERIODIC;
	if (!stands(rtc) && now / SECOND_NS != seen / SECOND_NS) {
		*c |= C_UPDATE;
		if (next_alarm(rtc, seen / SECOND_NS) <= now / SECOND_NS)
			*c |= C_ALARM;
	}
	update_interrupt(rtc);
}

/* When, in the guest's time, there will be an interrupt; INT64_MAX: not by itself. */
static int64_t next_interrupt(const struct rtc *rtc)
{
	uint8_t enabled = rtc->cmos[RTC_B] & C_FLAGS;
	int64_t now = rtc->seen_ns, period = period_ns(rtc), next = INT64_MAX;

	/* One that was not acknowledged is followed by none. */
	if (rtc->cmos[RTC_C] & C_IRQF)
		return INT64_MAX;
	if ((enabled & C_PERIODIC) && period)
		next = (now / period + 1) * period;
	if ((enabled & C_UPDATE) && !stands(rtc))
		next = MIN(next, (now / SECOND_NS + 1) * SECOND_NS);
	if ((enabled & C_ALARM) && !stands(rtc))
		next = MIN(next, next_alarm(rtc, now / SECOND_NS) * SECOND_NS);
	return next;
}

/* ---- the loop's side ---- */

static void arm_timer(struct rtc *rtc)
{
	int64_t next;

	catch_up(rtc);
	next = next_interrupt(rtc);
	rtc->armed = next != INT64_MAX;
	if (rtc->armed)
		loop_timer_set(rtc->loop, &rtc->timer,
			       clock_monotonic_ns(rtc->clock) + (next - rtc->seen_ns));
	else
		loop_timer_cancel(rtc->loop, &rtc->timer);
}

static void rearm(struct loop_task *task)
{
	struct rtc *rtc = container_of(task, struct rtc, rearm);

	pthread_mutex_lock(&rtc->lock);
	arm_timer(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

static void timer_expired(struct loop_timer *t)
{
	struct rtc *rtc = container_of(t, struct rtc, timer);

	pthread_mutex_lock(&rtc->lock);
	arm_timer(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

/* ---- registers; vCPU threads ---- */

static bool is_time(unsigned index)
{
	return (index <= RTC_YEAR && index != RTC_SECONDS_ALARM && index != RTC_MINUTES_ALARM &&
		index != RTC_HOURS_ALARM) ||
	       index == RTC_CENTURY;
}

/* Something that decides about interrupts has changed. */
static void changed(struct rtc *rtc)
{
	update_interrupt(rtc);
	if (rtc->armed || next_interrupt(rtc) != INT64_MAX)
		loop_post(rtc->loop, &rtc->rearm);
}

static void write_control(struct rtc *rtc, unsigned index, uint8_t v)
{
	bool held = divider_held(rtc), stood = stands(rtc);

	/* With the old format and the old rate. */
	update_registers(rtc);
	rtc->cmos[index] = v;
	if (stood && !stands(rtc))
		take_registers(rtc, held ? DIVIDER_NS : 0);
}

static void write_register(struct rtc *rtc, unsigned index, uint8_t v)
{
	catch_up(rtc);
	if (index == RTC_A) {
		write_control(rtc, index, v & ~A_UIP);
	} else if (index == RTC_B) {
		write_control(rtc, index, v);
	} else if (is_time(index)) {
		/* Set while it runs: the rest goes on as it stands. */
		update_registers(rtc);
		rtc->cmos[index] = v;
		if (!stands(rtc))
			take_registers(rtc, guest_ns(rtc) % SECOND_NS);
	} else if (index != RTC_C && index != RTC_D) {
		rtc->cmos[index] = v;
	}
	changed(rtc);
}

static uint8_t read_register(struct rtc *rtc, unsigned index)
{
	uint8_t v;

	update_registers(rtc);
	switch (index) {
	case RTC_A:
		v = rtc->cmos[RTC_A];
		if (!stands(rtc) && guest_ns(rtc) % SECOND_NS >= SECOND_NS - UIP_NS)
			v |= A_UIP;
		return v;
	case RTC_C:
		catch_up(rtc);
		v = rtc->cmos[RTC_C];
		rtc->cmos[RTC_C] = 0;
		changed(rtc);
		return v;
	default:
		return rtc->cmos[index];
	}
}

static void rtc_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	const uint8_t *p = data;
	struct rtc *rtc = opaque;

	pthread_mutex_lock(&rtc->lock);
	for (unsigned i = 0; i < len; i++) {
		/* The top bit masks NMIs, of which there are none. */
		if (offset + i == 0)
			rtc->index = p[i] & (CMOS_BYTES - 1);
		else
			write_register(rtc, rtc->index, p[i]);
	}
	pthread_mutex_unlock(&rtc->lock);
}

/* The index register cannot be read: 0xff stays there. */
static void rtc_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	struct rtc *rtc = opaque;
	uint8_t *p = data;

	pthread_mutex_lock(&rtc->lock);
	if (offset + len == 2)
		p[len - 1] = read_register(rtc, rtc->index);
	pthread_mutex_unlock(&rtc->lock);
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
	rtc->timer.expired = timer_expired;
	rtc->rearm.run = rearm;
	rtc->cmos[RTC_A] = A_RESET;
	rtc->cmos[RTC_B] = B_24H;
	rtc->cmos[RTC_D] = D_VALID;
	rtc->seen_ns = guest_ns(rtc);
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
	while (rtc->rearm.queued)
		loop_run_once(rtc->loop, 0);
	loop_timer_cancel(rtc->loop, &rtc->timer);
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
	state_put_u64(w, rtc->seen_ns);
	state_put_bytes(w, rtc->cmos, sizeof(rtc->cmos));
	pthread_mutex_unlock(&rtc->lock);
}

int rtc_load(struct rtc *rtc, struct state_reader *r)
{
	uint8_t cmos[CMOS_BYTES], index = state_get_u8(r);
	int64_t offset = state_get_u64(r), seen = state_get_u64(r);

	state_get_bytes(r, cmos, sizeof(cmos));
	if (r->failed)
		return r->failed;
	if (index >= CMOS_BYTES)
		return state_reader_fail(r, "index %u", index);
	/* So that the sum of it and this host's time cannot overflow. */
	if (offset < INT64_MIN / 2 ||
	    offset > MAX_SECONDS * SECOND_NS - (int64_t)clock_realtime_ns(rtc->clock))
		return state_reader_fail(r, "a time beyond all calendars");
	pthread_mutex_lock(&rtc->lock);
	rtc->index = index;
	rtc->offset_ns = offset;
	memcpy(rtc->cmos, cmos, sizeof(cmos));
	rtc->cmos[RTC_A] &= ~A_UIP;
	rtc->cmos[RTC_C] &= C_IRQF | C_FLAGS;
	rtc->cmos[RTC_D] = D_VALID;
	/* An alarm that came while nobody ran goes off now; one of days ago does not. */
	rtc->seen_ns = guest_ns(rtc);
	if (seen >= 0 && seen < rtc->seen_ns && rtc->seen_ns - seen < DAY_SECONDS * SECOND_NS)
		rtc->seen_ns = seen;
	pthread_mutex_unlock(&rtc->lock);
	loop_post(rtc->loop, &rtc->rearm);
	return 0;
}
