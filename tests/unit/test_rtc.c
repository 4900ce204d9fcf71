#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "devices/rtc.h"
#include "tests/unit/fake_hv.h"
#include "tests/unit/patience.h"

enum { SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH,
       YEAR, A, B, C, D, CENTURY = 0x32 };

#define B_SET	   0x80
#define B_PERIODIC 0x40
#define B_ALARM	   0x20
#define B_UPDATE   0x10
#define B_BINARY   0x04
#define B_24H	   0x02

struct fixture {
	struct hv *hv;
	struct irq_table *irqs;
	struct bus *pio;
	struct loop *loop;
	struct clock clock;
	struct rtc *rtc;
};

/* Starts at 2024-02-29 23:59:58 UTC, a Thursday. */
#define START 1709251198ull

static void fixture_init(struct fixture *f)
{
	struct loop_params params = { .backend = LOOP_EPOLL, .clock = &f->clock };

	clock_init_virtual(&f->clock, 1000 * NSEC_PER_SEC, START * NSEC_PER_SEC);
	f->hv = fake_hv_create(NULL);
	assert_int_equal(irq_table_create(&f->irqs, f->hv), 0);
	assert_int_equal(bus_create(&f->pio, "pio"), 0);
	assert_int_equal(loop_create(&f->loop, &params, NULL), 0);
	assert_int_equal(rtc_create(&f->rtc, f->pio, f->irqs, f->loop, &f->clock, 3 * GiB, 5 * GiB,
				    NULL),
			 0);
}

static void fixture_done(struct fixture *f)
{
	rtc_free(f->rtc);
	loop_free(f->loop);
	bus_free(f->pio);
	irq_table_free(f->irqs);
	f->hv->ops->free(f->hv);
}

static int setup(void **state)
{
	static struct fixture f;

	fixture_init(&f);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	fixture_done(*state);
	return 0;
}

static uint8_t get(struct fixture *f, uint8_t reg)
{
	uint8_t v = 0xff;

	assert_true(bus_write(f->pio, RTC_PORT, &reg, 1));
	assert_true(bus_read(f->pio, RTC_PORT + 1, &v, 1));
	return v;
}

static void put(struct fixture *f, uint8_t reg, uint8_t v)
{
	assert_true(bus_write(f->pio, RTC_PORT, &reg, 1));
	assert_true(bus_write(f->pio, RTC_PORT + 1, &v, 1));
}

static void advance(struct fixture *f, uint64_t ns)
{
	clock_advance(&f->clock, ns);
	while (loop_run_once(f->loop, 0))
		;
}

static uint64_t irqs(struct fixture *f)
{
	while (loop_run_once(f->loop, 0))
		;
	return fake_hv_interrupts(f->hv, RTC_IRQ);
}

static void expect_time(struct fixture *f, unsigned century, unsigned year, unsigned month,
			unsigned day, unsigned hour, unsigned minute, unsigned second)
{
	assert_int_equal(get(f, CENTURY), century);
	assert_int_equal(get(f, YEAR), year);
	assert_int_equal(get(f, MONTH), month);
	assert_int_equal(get(f, DAY), day);
	assert_int_equal(get(f, HOURS), hour);
	assert_int_equal(get(f, MINUTES), minute);
	assert_int_equal(get(f, SECONDS), second);
}

static void time_is_that_of_the_clock(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, D), 0x80);
	expect_time(f, 0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58);
	assert_int_equal(get(f, WEEKDAY), 5);
	advance(f, 2 * NSEC_PER_SEC);
	expect_time(f, 0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00);
	assert_int_equal(get(f, WEEKDAY), 6);
}

static void every_day_until_2200_is_the_calendars(void **state)
{
	struct fixture *f = *state;

	put(f, B, B_24H | B_BINARY);
	for (time_t t = START; t < 7258118400; t += 3 * 86400 + 3661) {
		struct tm tm;

		gmtime_r(&t, &tm);
		expect_time(f, tm.tm_year / 100 + 19, tm.tm_year % 100, tm.tm_mon + 1, tm.tm_mday,
			    tm.tm_hour, tm.tm_min, tm.tm_sec);
		assert_int_equal(get(f, WEEKDAY), tm.tm_wday + 1);
		clock_advance(&f->clock, (3 * 86400 + 3661) * NSEC_PER_SEC);
	}
}

static void formats_are_binary_or_bcd_and_of_12_or_24_hours(void **state)
{
	struct fixture *f = *state;

	put(f, B, B_24H | B_BINARY);
	expect_time(f, 20, 24, 2, 29, 23, 59, 58);
	put(f, B, B_BINARY);
	assert_int_equal(get(f, HOURS), 0x80 | 11);
	put(f, B, 0);
	assert_int_equal(get(f, HOURS), 0x91);
	advance(f, 2 * NSEC_PER_SEC);
	assert_int_equal(get(f, HOURS), 0x12); /* midnight */
	advance(f, 12 * 3600 * NSEC_PER_SEC);
	assert_int_equal(get(f, HOURS), 0x92); /* noon */
}

static void setting_the_time_holds_from_then_on(void **state)
{
	struct fixture *f = *state;

	/* As Linux: stop, reset the divider, write, go on. */
	put(f, B, B_24H | B_SET);
	put(f, A, 0x76);
	put(f, SECONDS, 0x30);
	put(f, MINUTES, 0x45);
	put(f, HOURS, 0x06);
	put(f, DAY, 0x31);
	put(f, MONTH, 0x12);
	put(f, YEAR, 0x99);
	put(f, CENTURY, 0x19);
	advance(f, 10 * NSEC_PER_SEC);
	expect_time(f, 0x19, 0x99, 0x12, 0x31, 0x06, 0x45, 0x30); /* it stands */
	put(f, B, B_24H);
	put(f, A, 0x26);
	/* The first update comes half a second after the divider is let go. */
	advance(f, NSEC_PER_SEC / 2 - 1);
	assert_int_equal(get(f, SECONDS), 0x30);
	advance(f, 1);
	assert_int_equal(get(f, SECONDS), 0x31);
	advance(f, (17 * 3600 + 14 * 60 + 29) * NSEC_PER_SEC);
	expect_time(f, 0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00);

	/* One register alone, while it runs. */
	put(f, YEAR, 0x30);
	expect_time(f, 0x20, 0x30, 0x01, 0x01, 0x00, 0x00, 0x00);
}

static void update_in_progress_warns_before_each_second(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, A), 0x26);
	advance(f, NSEC_PER_SEC - 244001);
	assert_int_equal(get(f, A), 0x26);
	advance(f, 1);
	assert_int_equal(get(f, A), 0xa6);
	put(f, B, B_24H | B_SET); /* not while it stands */
	assert_int_equal(get(f, A), 0x26);
	put(f, B, B_24H);
	put(f, A, 0xa6); /* and it cannot be written */
	assert_int_equal(get(f, A), 0x26);
}

static void updates_interrupt_each_second_once_read(void **state)
{
	struct fixture *f = *state;

	put(f, B, B_24H | B_UPDATE);
	assert_int_equal(irqs(f), 0);
	advance(f, NSEC_PER_SEC);
	assert_int_equal(irqs(f), 1);
	advance(f, 5 * NSEC_PER_SEC); /* nobody looked: no more */
	assert_int_equal(irqs(f), 1);
	assert_int_equal(get(f, C) & ~B_ALARM, 0x80 | B_PERIODIC | B_UPDATE);
	assert_int_equal(get(f, C), 0);
	irqs(f);
	advance(f, NSEC_PER_SEC);
	assert_int_equal(irqs(f), 2);
	/* Off: flags still show, to who polls. */
	put(f, B, B_24H);
	(void)get(f, C);
	advance(f, NSEC_PER_SEC);
	assert_int_equal(get(f, C) & 0xb0, B_UPDATE);
	assert_int_equal(irqs(f), 2);
}

static void the_alarm_goes_off_at_its_time(void **state)
{
	struct fixture *f = *state;

	/* 00:00:05, in 7 s. */
	put(f, SECONDS_ALARM, 0x05);
	put(f, MINUTES_ALARM, 0x00);
	put(f, HOURS_ALARM, 0x00);
	put(f, B, B_24H | B_ALARM);
	irqs(f);
	advance(f, 7 * NSEC_PER_SEC - 1);
	assert_int_equal(irqs(f), 0);
	advance(f, 1);
	assert_int_equal(irqs(f), 1);
	assert_int_equal(get(f, C) & 0xa0, 0xa0);
	/* And a day later again. */
	irqs(f);
	advance(f, 86400 * NSEC_PER_SEC);
	assert_int_equal(irqs(f), 2);
	(void)get(f, C);

	/* Every minute at 30. */
	put(f, SECONDS_ALARM, 0x30);
	put(f, MINUTES_ALARM, 0xff);
	put(f, HOURS_ALARM, 0xc0);
	irqs(f);
	for (int i = 0; i < 3; i++) {
		advance(f, (i ? 60 : 25) * NSEC_PER_SEC);
		assert_int_equal(irqs(f), 3 + i);
		(void)get(f, C);
		irqs(f);
	}
	/* A time that never comes. */
	put(f, HOURS_ALARM, 0x25);
	irqs(f);
	advance(f, 3 * 86400 * NSEC_PER_SEC);
	assert_int_equal(irqs(f), 5);
}

/* Each write asks for the next alarm: a day's seconds are not looked at one by one. */
static void an_alarm_that_never_comes_costs_the_guests_writes_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t end = patience();

	put(f, SECONDS_ALARM, 0x77);
	put(f, MINUTES_ALARM, 0xff);
	put(f, HOURS_ALARM, 0xff);
	put(f, B, B_24H | B_ALARM);
	/* Several minutes of a processor, at a millisecond each. */
	for (int i = 0; i < 300000 && !patience_ends(end); i++)
		put(f, 0x40, i);
	assert_false(patience_ends(end));
	assert_int_equal(irqs(f), 0);
	/* And a time that can come does. */
	put(f, SECONDS_ALARM, 0x00);
	irqs(f);
	advance(f, 2 * NSEC_PER_SEC);
	assert_int_equal(irqs(f), 1);
}

static void periodic_interrupts_have_the_rate_asked_for(void **state)
{
	struct fixture *f = *state;

	put(f, B, B_24H | B_PERIODIC); /* 1024 Hz */
	irqs(f);
	for (int i = 1; i <= 10; i++) {
		advance(f, NSEC_PER_SEC / 1024 + 1);
		assert_int_equal(irqs(f), i);
		assert_int_equal(get(f, C) & 0xc0, 0xc0);
		irqs(f);
	}
	put(f, A, 0x2f); /* 2 Hz */
	(void)get(f, C);
	irqs(f);
	advance(f, NSEC_PER_SEC / 4);
	assert_int_equal(irqs(f), 10);
	advance(f, NSEC_PER_SEC / 4);
	assert_int_equal(irqs(f), 11);
	(void)get(f, C);
	put(f, A, 0x20); /* none */
	irqs(f);
	advance(f, 10 * NSEC_PER_SEC);
	assert_int_equal(irqs(f), 11);
}

static void memory_sizes_are_there_for_firmware(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, 0x15) | get(f, 0x16) << 8, 640);
	assert_int_equal(get(f, 0x17) | get(f, 0x18) << 8, 0xffff);
	assert_int_equal((get(f, 0x34) | get(f, 0x35) << 8) * 64ull * KiB + 16 * MiB, 3 * GiB);
	assert_int_equal((get(f, 0x5b) | get(f, 0x5c) << 8 | get(f, 0x5d) << 16) * 64ull * KiB,
			 5 * GiB);
}

static void ports_behave_as_a_pcs(void **state)
{
	struct fixture *f = *state;
	uint8_t v = 0xff, both[2] = { 0x40, 0x5a };

	assert_true(bus_read(f->pio, RTC_PORT, &v, 1));
	assert_int_equal(v, 0xff);
	put(f, 0x80 | 0x50, 0x77); /* the NMI mask is no part of the index */
	assert_int_equal(get(f, 0x50), 0x77);
	assert_true(bus_write(f->pio, RTC_PORT, both, 2));
	assert_int_equal(get(f, 0x40), 0x5a);
	both[0] = both[1] = 0xff;
	assert_true(bus_read(f->pio, RTC_PORT, both, 2));
	assert_int_equal(both[0], 0xff);
	assert_int_equal(both[1], 0x5a);
	put(f, D, 0);
	assert_int_equal(get(f, D), 0x80);
}

/* Whatever is written, in whatever order: no overflow, no endless search. */
static void no_values_do_harm(void **state)
{
	struct fixture *f = *state;
	uint32_t x = 1;

	for (int i = 0; i < 100000; i++) {
		x = x * 1664525 + 1013904223;
		if (x >> 31)
			put(f, x >> 8 & 0x3f, x >> 16);
		else
			(void)get(f, x >> 8 & 0x3f);
		if (i % 64 == 0)
			advance(f, x % (NSEC_PER_SEC * 3));
	}
}

static void state_carries_time_and_alarm_over(void **state)
{
	struct fixture *f = *state, g;
	struct state_writer w;
	struct state_reader r;
	size_t pos = 0;

	put(f, HOURS, 0x12);
	put(f, SECONDS_ALARM, 0x05);
	put(f, MINUTES_ALARM, 0x00);
	put(f, HOURS_ALARM, 0x13);
	put(f, B, B_24H | B_ALARM);
	put(f, 0x60, 0xab);
	state_writer_init(&w);
	state_begin(&w, "rtc", 0, 1);
	rtc_save(f->rtc, &w);
	state_end(&w);
	/* Times beyond all calendars. */
	for (int i = 0; i < 2; i++) {
		state_begin(&w, "rtc", 1 + i, 1);
		state_put_u8(&w, 0);
		state_put_u64(&w, i ? INT64_MAX : INT64_MIN);
		state_put_u64(&w, 0);
		for (int j = 0; j < 128; j++)
			state_put_u8(&w, 0xff);
		state_end(&w);
	}

	fixture_init(&g);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
	assert_int_equal(rtc_load(g.rtc, &r), 0);
	assert_int_equal(state_reader_end(&r, NULL), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
		assert_int_equal(rtc_load(g.rtc, &r), -EBADMSG);
	}
	assert_int_equal(get(&g, HOURS), 0x12);
	assert_int_equal(get(&g, 0x60), 0xab);
	assert_int_equal(irqs(&g), 0);
	advance(&g, 7 * NSEC_PER_SEC);
	assert_int_equal(irqs(&g), 1);
	fixture_done(&g);
	state_writer_done(&w);
}

#define rtc_test(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		rtc_test(time_is_that_of_the_clock),
		rtc_test(every_day_until_2200_is_the_calendars),
		rtc_test(formats_are_binary_or_bcd_and_of_12_or_24_hours),
		rtc_test(setting_the_time_holds_from_then_on),
		rtc_test(update_in_progress_warns_before_each_second),
		rtc_test(updates_interrupt_each_second_once_read),
		rtc_test(the_alarm_goes_off_at_its_time),
		rtc_test(an_alarm_that_never_comes_costs_the_guests_writes_nothing),
		rtc_test(periodic_interrupts_have_the_rate_asked_for),
		rtc_test(memory_sizes_are_there_for_firmware),
		rtc_test(ports_behave_as_a_pcs),
		rtc_test(no_values_do_harm),
		rtc_test(state_carries_time_and_alarm_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
