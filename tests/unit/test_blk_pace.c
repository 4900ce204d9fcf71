/* When a queue waits for more, played with drivers of several kinds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "virtio/virtio_blk_pace.h"
#include "vmm/core/util.h"

struct outcome {
	unsigned kicks, patient_kicks, changes;
};

/* A driver with @chains to give: what a doorbell brings when served at once, and when it waits. */
static struct outcome play(struct blk_pace *p, unsigned chains, unsigned at_once, unsigned waiting)
{
	struct outcome o = { 0 };
	bool patient = p->patient;

	while (chains) {
		unsigned n = MIN(chains, patient ? waiting : at_once);
		bool next = blk_pace_kicked(p, n);

		o.kicks++;
		o.patient_kicks += patient;
		o.changes += next != patient;
		patient = next;
		chains -= n;
	}
	return o;
}

static void one_at_a_time_is_served_at_once(void **state)
{
	struct blk_pace p;
	struct outcome o;

	blk_pace_init(&p);
	o = play(&p, 100000, 1, 1);
	assert_int_equal(o.kicks, 100000);
	/* A trial in 4096 doorbells, once the first ones have failed. */
	assert_in_range(o.patient_kicks, 1, 150);
	/* Each change is a system call or two: counts of them stay what they are. */
	assert_in_range(o.changes, 2, 60);
}

static void a_deep_queue_is_found_and_waited_for(void **state)
{
	struct blk_pace p;
	struct outcome o;

	blk_pace_init(&p);
	o = play(&p, 100000, 1, 32);
	assert_in_range(o.kicks, 100000 / 32, 100000 / 16);
	/* So it is when the driver was one of another kind before. */
	blk_pace_init(&p);
	play(&p, 100000, 1, 1);
	o = play(&p, 100000, 1, 32);
	assert_in_range(o.kicks, 100000 / 32, 100000 / 12);
}

static void what_already_comes_in_batches_is_left_alone(void **state)
{
	struct blk_pace p;
	struct outcome o;

	blk_pace_init(&p);
	o = play(&p, 400000, 8, 9);
	assert_in_range(o.patient_kicks, 1, 100);
}

static void a_driver_that_changes_its_ways_is_served_at_once_again(void **state)
{
	struct blk_pace p;
	struct outcome o;

	blk_pace_init(&p);
	play(&p, 10000, 1, 32);
	assert_true(p.patient);
	o = play(&p, 2 * BLK_PACE_WINDOW, 1, 1);
	assert_false(p.patient);
	assert_in_range(o.patient_kicks, 1, 2 * BLK_PACE_WINDOW - 1);
}

/* What was measured once does not hold for ever: now and then it is served at once. */
static void waiting_has_to_be_shown_to_pay_again(void **state)
{
	struct blk_pace p;
	struct outcome o;

	blk_pace_init(&p);
	o = play(&p, 10000000, 1, 32);
	assert_true(o.changes > 10);
	/* The processor is idle by now: waiting brings what serving at once does. */
	o = play(&p, 10000000, 32, 32);
	assert_in_range(o.patient_kicks, 1, BLK_PACE_WINDOW * (BLK_PACE_WINDOWS + 2));
}

static void a_quiet_queue_is_served_at_once_until_the_next_trial(void **state)
{
	struct blk_pace p;

	blk_pace_init(&p);
	play(&p, 10000, 1, 32);
	assert_true(p.patient);
	blk_pace_quiet(&p);
	assert_false(p.patient);
	for (unsigned i = 1; i < BLK_PACE_FIRST; i++)
		assert_false(blk_pace_kicked(&p, 1));
	assert_true(blk_pace_kicked(&p, 1));
}

static void doorbells_for_nothing_do_no_harm(void **state)
{
	struct blk_pace p;

	blk_pace_init(&p);
	for (unsigned i = 0; i < 3 * BLK_PACE_LONGEST; i++)
		blk_pace_kicked(&p, 0);
	play(&p, 1000, 1, 1);
	assert_false(p.patient);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_at_a_time_is_served_at_once),
		cmocka_unit_test(a_deep_queue_is_found_and_waited_for),
		cmocka_unit_test(what_already_comes_in_batches_is_left_alone),
		cmocka_unit_test(a_driver_that_changes_its_ways_is_served_at_once_again),
		cmocka_unit_test(waiting_has_to_be_shown_to_pay_again),
		cmocka_unit_test(a_quiet_queue_is_served_at_once_until_the_next_trial),
		cmocka_unit_test(doorbells_for_nothing_do_no_harm),
	};

	return cmocka_run_group_tests_name("blk_pace", tests, NULL, NULL);
}
