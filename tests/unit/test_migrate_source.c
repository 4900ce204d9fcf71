/*
 * A machine that gives its guest away, and what it may do with it meanwhile and afterwards: the
 * test is the destination, as far as it goes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include "tests/unit/made_machine.h"
#include "tests/unit/patience.h"
#include "vmm/migrate/migrate.h"

#define LONG_MS 60000

/* After which record of the source's the destination hangs up. */
struct going {
	struct made made;
	enum migrate_record_type last;
	bool ends; /* the guest does, while it stops for the last time */
	int sock[2];
	pthread_t destination;
	bool over; /* what came of it is here: */
	int result;
	struct migrate_report report;
	struct error err;
};

/* The destination's side up to @x->last: it grants post-copy, and says what it is asked to say. */
static void *arrive(void *arg)
{
	struct going *x = arg;
	struct migrate_record rec = { 0 };
	struct error err = { 0 };
	struct migrate_wire w;

	assert_int_equal(migrate_wire_init(&w, x->sock[1], x->sock[1], &err), 0);
	assert_int_equal(migrate_wire_expect_greeting(&w, LONG_MS, &err), 0);
	assert_int_equal(migrate_wire_greet(&w, &err), 0);
	while (rec.type != x->last) {
		int r = migrate_wire_receive(&w, &rec, LONG_MS, &err);

		if (!r && rec.type == MIGRATE_HELLO)
			r = migrate_wire_send(&w, MIGRATE_READY,
					      MIGRATE_COPIED | MIGRATE_READY_POSTCOPY, NULL, 0,
					      &err);
		else if (!r && rec.type == MIGRATE_ROUND)
			r = migrate_wire_send(&w, MIGRATE_ROUND_DONE, rec.page, NULL, 0, &err);
		else if (!r && rec.type == MIGRATE_STATE && x->last != MIGRATE_STATE)
			r = migrate_wire_send(&w, MIGRATE_PREPARED, 0, NULL, 0, &err);
		if (r == -ECONNABORTED && x->ends)
			break;
		if (r < 0)
			fail_msg("the destination: %s", err.msg);
	}
	migrate_wire_done(&w);
	return NULL;
}

/* That of another connection: has it that the guest runs, and hangs up when it has said so. */
static void *say_what_is_missing(void *arg)
{
	uint64_t missing[1] = { 1 };
	struct going *x = arg;
	struct migrate_record rec;
	struct error err = { 0 };
	struct migrate_wire w;

	assert_int_equal(migrate_wire_init(&w, x->sock[1], x->sock[1], &err), 0);
	assert_int_equal(migrate_wire_expect_greeting(&w, LONG_MS, &err), 0);
	assert_int_equal(migrate_wire_greet(&w, &err), 0);
	assert_int_equal(migrate_wire_expect(&w, MIGRATE_RESUME, &rec, LONG_MS, &err), 0);
	assert_int_equal(migrate_wire_send(&w, MIGRATE_MISSING, 0, missing, sizeof(missing), &err),
			 0);
	migrate_wire_done(&w);
	return NULL;
}

static void *hang_up(void *arg)
{
	struct going *x = arg;

	close(x->sock[1]);
	return NULL;
}

static void gone(void *arg, int r, const struct error *err, const struct migrate_report *report)
{
	struct going *x = arg;

	x->result = r;
	x->err = *err;
	x->report = *report;
	x->over = true;
}

static void connect_to(struct going *x, void *(*destination)(void *arg))
{
	x->over = false;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, x->sock), 0);
	assert_int_equal(pthread_create(&x->destination, NULL, destination, x), 0);
}

static void wait_for_the_end(struct going *x)
{
	for (uint64_t end = patience(); !x->over && !patience_ends(end);)
		loop_run_once(x->made.machine->loop, NSEC_PER_MSEC);
	assert_true(x->over);
	pthread_join(x->destination, NULL);
}

/* Its guest runs, and goes; the destination hangs up after @x->last. */
static void go(struct going *x, bool paused)
{
	const struct migrate_watcher watcher = { .done = gone, .arg = x };
	struct migrate_params params = {
		.journal = -1,
		.uuid = "0123456789abcde",
		.max_rounds = 30,
		.downtime_ns = 100 * NSEC_PER_MSEC,
		.postcopy = MIGRATE_POSTCOPY,
	};
	struct error err = { 0 };

	made_first(&x->made, "mmio");
	assert_int_equal(machine_start(x->made.machine, &err), 0);
	assert_false(machine_is_paused(x->made.machine));
	if (paused)
		made_pause(x->made.machine);
	connect_to(x, arrive);
	params.in = params.out = x->sock[0];
	assert_int_equal(migrate_start(x->made.machine, &params, &watcher, &err), 0);
	assert_true(migrate_is_under_way(x->made.machine));
	if (x->ends)
		machine_end(x->made.machine, MACHINE_END_POWEROFF, 0, NULL);
	wait_for_the_end(x);
	assert_true(x->result < 0);
}

/* The same, up to the record @last. */
static void go_until(struct going *x, enum migrate_record_type last, bool paused)
{
	*x = (struct going){ .last = last };
	go(x, paused);
}

static void go_on_over_another(struct going *x, void *(*destination)(void *arg))
{
	const struct migrate_watcher watcher = { .done = gone, .arg = x };
	struct migrate_params params = { .journal = -1 };
	struct error err = { 0 };

	connect_to(x, destination);
	params.in = params.out = x->sock[0];
	if (migrate_resume(x->made.machine, &params, &watcher, &err) < 0)
		fail_msg("%s", err.msg);
	/* Nobody takes back what is just being asked about. */
	assert_int_equal(migrate_take_back(x->made.machine, &err), -EBUSY);
	wait_for_the_end(x);
	assert_true(x->result < 0);
}

static void end(struct going *x)
{
	struct machine_end how;

	machine_end(x->made.machine, MACHINE_END_ASKED, 0, NULL);
	machine_run(x->made.machine, &how);
	made_free(&x->made);
}

/* What resumes it, and what would end it, waits until it is known whose the guest is. */
static void a_guest_that_was_handed_over_neither_runs_nor_ends_here(void **state)
{
	struct error err = { 0 };
	struct machine *m;
	struct going x;

	go_until(&x, MIGRATE_COMMIT, false);
	m = x.made.machine;
	assert_int_equal(x.report.phase, MIGRATE_UNCONFIRMED);
	assert_true(migrate_is_away(m));
	machine_resume(m);
	machine_end_hung(m);
	machine_set_deadline(m, clock_monotonic_ns(m->clock));
	loop_run_once(m->loop, NSEC_PER_MSEC);
	assert_true(machine_is_paused(m));
	assert_false(m->ending);

	assert_int_equal(migrate_take_back(m, &err), 0);
	assert_false(migrate_is_away(m));
	assert_false(machine_is_paused(m));
	clock_advance(&x.made.clock, NSEC_PER_SEC);
	loop_run_once(m->loop, NSEC_PER_MSEC);
	assert_true(m->ending);
	assert_int_equal(m->end.reason, MACHINE_END_TIMEOUT);
	end(&x);
}

static void a_guest_that_does_not_go_is_as_it_was(void **state)
{
	struct going x;

	go_until(&x, MIGRATE_STATE, false);
	assert_int_equal(x.report.phase, MIGRATE_FAILED);
	assert_false(migrate_is_under_way(x.made.machine));
	assert_false(machine_is_paused(x.made.machine));
	end(&x);

	go_until(&x, MIGRATE_STATE, true);
	assert_int_equal(x.report.phase, MIGRATE_FAILED);
	assert_true(machine_is_paused(x.made.machine));
	machine_resume(x.made.machine);
	assert_false(machine_is_paused(x.made.machine));
	end(&x);
}

/* It would be as if it had not: nobody there has heard its last word. */
static void a_guest_that_has_powered_off_runs_nowhere_else(void **state)
{
	struct going x = { .last = MIGRATE_COMMIT, .ends = true };

	go(&x, false);
	assert_int_equal(x.report.phase, MIGRATE_FAILED);
	assert_int_equal(x.result, -ECANCELED);
	end(&x);
}

static void who_hangs_up_on_another_try_has_shown_nothing(void **state)
{
	struct error err = { 0 };
	struct going x;

	go_until(&x, MIGRATE_COMMIT, false);
	go_on_over_another(&x, hang_up);
	assert_int_equal(x.report.phase, MIGRATE_UNCONFIRMED);
	assert_int_equal(migrate_take_back(x.made.machine, &err), 0);
	assert_false(machine_is_paused(x.made.machine));
	end(&x);
}

static void who_says_what_is_missing_has_the_guest(void **state)
{
	struct error err = { 0 };
	struct going x;

	go_until(&x, MIGRATE_COMMIT, false);
	go_on_over_another(&x, say_what_is_missing);
	assert_int_equal(x.report.phase, MIGRATE_CUT_OFF);
	assert_int_equal(migrate_take_back(x.made.machine, &err), -EINVAL);
	assert_true(machine_is_paused(x.made.machine));
	end(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_that_was_handed_over_neither_runs_nor_ends_here),
		cmocka_unit_test(a_guest_that_does_not_go_is_as_it_was),
		cmocka_unit_test(a_guest_that_has_powered_off_runs_nowhere_else),
		cmocka_unit_test(who_hangs_up_on_another_try_has_shown_nothing),
		cmocka_unit_test(who_says_what_is_missing_has_the_guest),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
