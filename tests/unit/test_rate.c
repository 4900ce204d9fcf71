#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/loop_fixture.h"
#include "vmm/core/clock.h"
#include "vmm/core/rate.h"

#define START (5 * NSEC_PER_SEC)

static struct rate_limiter limiter(struct rate ops, struct rate bytes)
{
	struct rate_limits limits = { .ops = ops, .bytes = bytes };
	struct rate_limiter l;

	rate_limiter_init(&l, &limits, START);
	return l;
}

/* As many requests of @bytes as may go in @seconds to somebody who always wants more. */
static uint64_t served(struct rate_limiter *l, uint64_t *now_ns, unsigned seconds, uint64_t bytes)
{
	uint64_t end_ns = *now_ns + seconds * NSEC_PER_SEC, n = 0;

	for (;;) {
		uint64_t wait_ns = rate_limiter_wait_ns(l, *now_ns);

		if (*now_ns + wait_ns >= end_ns)
			break;
		*now_ns += wait_ns;
		rate_limiter_take(l, *now_ns, 1, bytes);
		n++;
	}
	*now_ns = end_ns;
	return n;
}

static void no_limit_never_waits(void **state)
{
	struct rate_limiter l = limiter((struct rate){ 0 }, (struct rate){ 0 });

	assert_false(rate_limited(&l));
	for (unsigned i = 0; i < 1000; i++) {
		assert_int_equal(rate_limiter_wait_ns(&l, START), 0);
		rate_limiter_take(&l, START, 1, 1 * GiB);
	}
	rate_limiter_done(&l);
}

static void the_rate_is_kept_to_3_percent_over_10_seconds(void **state)
{
	static const uint64_t rates[] = { 1, 3, 7, 100, 12345, 1000000 };

	for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
		struct rate_limiter l =
			limiter((struct rate){ .per_second = rates[i] }, (struct rate){ 0 });
		uint64_t now_ns = START, n = served(&l, &now_ns, 10, 4096);

		/* The burst is a fortieth of it, and one goes on credit. */
		assert_in_range(n, 10 * rates[i], 10 * rates[i] + rates[i] / 4 + 2);
		/* Without the burst it is exact. */
		n = served(&l, &now_ns, 10, 4096);
		assert_in_range(n, 10 * rates[i] - 1, 10 * rates[i] + 1);
		rate_limiter_done(&l);
	}
}

static void bytes_are_limited_whatever_the_size_of_requests(void **state)
{
	static const uint64_t sizes[] = { 512, 4096, 1 * MiB, 3 * MiB };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct rate_limiter l = limiter((struct rate){ 0 },
						(struct rate){ .per_second = 10 * MiB });
		uint64_t now_ns = START, bytes = served(&l, &now_ns, 10, sizes[i]) * sizes[i];

		assert_in_range(bytes, 100 * MiB, 103 * MiB + sizes[i]);
		rate_limiter_done(&l);
	}
}

static void the_tighter_of_two_limits_decides(void **state)
{
	struct rate_limiter l = limiter((struct rate){ .per_second = 100, .burst = 1 },
					(struct rate){ .per_second = 1 * MiB, .burst = 1 });
	uint64_t now_ns = START;

	assert_in_range(served(&l, &now_ns, 10, 512), 999, 1002);
	assert_in_range(served(&l, &now_ns, 10, 64 * KiB), 159, 162);
	rate_limiter_done(&l);
}

static void a_burst_is_for_those_who_waited(void **state)
{
	struct rate_limiter l =
		limiter((struct rate){ .per_second = 10, .burst = 50 }, (struct rate){ 0 });
	uint64_t now_ns = START;

	assert_in_range(served(&l, &now_ns, 1, 0), 60, 61);
	assert_in_range(served(&l, &now_ns, 1, 0), 9, 11);
	now_ns += 60 * NSEC_PER_SEC;
	/* Not more than the burst, however long it was. */
	assert_in_range(served(&l, &now_ns, 1, 0), 60, 61);
	rate_limiter_done(&l);
}

static void what_is_given_once_does_not_come_again(void **state)
{
	struct rate_limiter l = limiter(
		(struct rate){ .per_second = 10, .burst = 1, .once = 100 }, (struct rate){ 0 });
	uint64_t now_ns = START;

	assert_in_range(served(&l, &now_ns, 1, 0), 110, 112);
	now_ns += 60 * NSEC_PER_SEC;
	assert_in_range(served(&l, &now_ns, 1, 0), 10, 12);
	rate_limiter_done(&l);
}

static void a_new_rate_holds_at_once(void **state)
{
	struct rate_limiter l = limiter((struct rate){ .per_second = 1 }, (struct rate){ 0 });
	struct rate_limits faster = { .ops = { .per_second = 1000, .burst = 1 } };
	uint64_t now_ns = START;

	/* A debt of a minute is forgotten with the rate it was made at. */
	rate_limiter_take(&l, now_ns, 60, 0);
	assert_true(rate_limiter_wait_ns(&l, now_ns) > 50 * NSEC_PER_SEC);
	rate_limiter_set(&l, &faster, now_ns);
	assert_in_range(served(&l, &now_ns, 1, 0), 999, 1002);
	rate_limiter_set(&l, &(struct rate_limits){ 0 }, now_ns);
	assert_false(rate_limited(&l));
	rate_limiter_done(&l);
}

/* Else whoever changes one limit gives the other's bursts anew. */
static void a_rate_that_stays_keeps_what_was_taken(void **state)
{
	struct rate_limits both = { .ops = { .per_second = 10, .burst = 1, .once = 100 },
				    .bytes = { .per_second = 1 * MiB, .burst = 1 } };
	struct rate_limiter l = limiter(both.ops, both.bytes);
	uint64_t now_ns = START;

	rate_limiter_take(&l, now_ns, 100, 60 * MiB);
	both.bytes.per_second = 100 * GiB;
	rate_limiter_set(&l, &both, now_ns);
	assert_in_range(served(&l, &now_ns, 1, 0), 10, 12);
	/* The same for bytes; and a burst given anew is another rate. */
	rate_limiter_take(&l, now_ns, 0, 6000 * GiB);
	both.ops.once = 50;
	rate_limiter_set(&l, &both, now_ns);
	assert_in_range(rate_limiter_wait_ns(&l, now_ns), 59 * NSEC_PER_SEC, 61 * NSEC_PER_SEC);
	both.bytes.per_second = 0;
	rate_limiter_set(&l, &both, now_ns);
	assert_in_range(served(&l, &now_ns, 1, 0), 60, 62);
	rate_limiter_done(&l);
}

static void the_largest_numbers_do_not_wrap(void **state)
{
	struct rate_limiter l = limiter((struct rate){ .per_second = 1, .burst = UINT32_MAX },
					(struct rate){ .per_second = 1ull << 40 });

	assert_int_equal(rate_limiter_wait_ns(&l, START), 0);
	rate_limiter_take(&l, START, 1, UINT32_MAX);
	assert_int_equal(rate_limiter_wait_ns(&l, START), 0);
	for (unsigned i = 0; i < 1000; i++)
		rate_limiter_take(&l, START, 1, UINT32_MAX);
	/* A thousand times 4 GiB at a terabyte a second: 3.9 s. */
	assert_in_range(rate_limiter_wait_ns(&l, START), 3 * NSEC_PER_SEC, 4 * NSEC_PER_SEC);
	rate_limiter_done(&l);
}

struct waiting {
	struct loop_timer timer;
	unsigned expired;
};

static void count_expiry(struct loop_timer *t)
{
	container_of(t, struct waiting, timer)->expired++;
}

static void who_is_held_is_told_when_to_go_on(void **state)
{
	struct rate_limiter l = limiter((struct rate){ .per_second = 10, .burst = 1 },
					(struct rate){ 0 });
	struct waiting w = { .timer.expired = count_expiry };
	struct clock clock;
	struct loop *loop;
	uint64_t now_ns = 0, wait_ns;

	clock_init_virtual(&clock, START, 0);
	loop = loop_fixture_create(&clock);
	assert_false(rate_limiter_holds(&l, loop, &w.timer, &now_ns));
	assert_int_equal(now_ns, START);
	rate_limiter_take(&l, now_ns, 2, 0);
	wait_ns = rate_limiter_wait_ns(&l, now_ns);
	assert_true(wait_ns >= NSEC_PER_SEC / 10);
	assert_true(rate_limiter_holds(&l, loop, &w.timer, &now_ns));
	clock_advance(&clock, wait_ns - 1);
	loop_run_once(loop, 0);
	assert_int_equal(w.expired, 0);
	clock_advance(&clock, 1);
	loop_run_once(loop, 0);
	assert_int_equal(w.expired, 1);
	assert_false(rate_limiter_holds(&l, loop, &w.timer, &now_ns));
	/* Without a limit nobody asks what time it is. */
	rate_limiter_set(&l, &(struct rate_limits){ 0 }, now_ns);
	now_ns = 7;
	assert_false(rate_limiter_holds(&l, loop, &w.timer, &now_ns));
	assert_int_equal(now_ns, 7);
	loop_free(loop);
	rate_limiter_done(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_limit_never_waits),
		cmocka_unit_test(the_rate_is_kept_to_3_percent_over_10_seconds),
		cmocka_unit_test(bytes_are_limited_whatever_the_size_of_requests),
		cmocka_unit_test(the_tighter_of_two_limits_decides),
		cmocka_unit_test(a_burst_is_for_those_who_waited),
		cmocka_unit_test(what_is_given_once_does_not_come_again),
		cmocka_unit_test(a_new_rate_holds_at_once),
		cmocka_unit_test(a_rate_that_stays_keeps_what_was_taken),
		cmocka_unit_test(the_largest_numbers_do_not_wrap),
		cmocka_unit_test(who_is_held_is_told_when_to_go_on),
	};

	return cmocka_run_group_tests_name("rate", tests, NULL, NULL);
}
