#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "tests/unit/loop_fixture.h"

/* ---- events ---- */

struct event {
	struct loop_event ev;
	unsigned fired;
	bool unwatch; /* from within fired() */
};

static void event_fired(struct loop_event *ev)
{
	struct event *e = container_of(ev, struct event, ev);

	e->fired++;
	if (e->unwatch)
		loop_event_unwatch(ev);
}

static void run_until_fired(struct loop *loop, struct event *e, unsigned fired)
{
	for (int i = 0; i < 1000 && e->fired < fired; i++)
		loop_run_once(loop, 10 * NSEC_PER_MSEC);
	for (int i = 0; i < 3; i++)
		loop_run_once(loop, 0);
	assert_int_equal(e->fired, fired);
}

/* The event lives on the test's stack: the loop must have let go of it. */
static void run_until_idle(struct loop *loop, struct event *e)
{
	loop_event_unwatch(&e->ev);
	while (!loop_event_idle(&e->ev))
		loop_run_once(loop, NSEC_PER_SEC);
}

static void events_fire(struct loop *loop, int flags)
{
	struct event e = { .ev.fired = event_fired };
	int fd = eventfd(0, flags), other = eventfd(0, flags);

	loop_event_watch(loop, &e.ev, fd);
	for (int i = 0; i < 3; i++)
		loop_run_once(loop, 0);
	assert_int_equal(e.fired, 0);
	for (unsigned i = 1; i <= 3; i++) {
		assert_int_equal(eventfd_write(fd, 1), 0);
		assert_int_equal(eventfd_write(fd, 1), 0); /* folded */
		run_until_fired(loop, &e, i);
	}
	loop_event_unwatch(&e.ev);
	assert_int_equal(eventfd_write(fd, 1), 0);
	run_until_idle(loop, &e);
	assert_int_equal(e.fired, 3);

	/* Watched again, and on another descriptor before the first watch has ended. */
	loop_event_watch(loop, &e.ev, fd);
	loop_run_once(loop, 0);
	loop_event_unwatch(&e.ev);
	loop_event_watch(loop, &e.ev, other);
	while (e.fired > 3 ? 0 : loop_run_once(loop, NSEC_PER_MSEC))
		;
	e.fired = 0;
	assert_int_equal(eventfd_write(other, 1), 0);
	run_until_fired(loop, &e, 1);

	e.unwatch = true;
	assert_int_equal(eventfd_write(other, 1), 0);
	run_until_fired(loop, &e, 2);
	run_until_idle(loop, &e);
	assert_int_equal(eventfd_write(other, 1), 0);
	for (int i = 0; i < 3; i++)
		loop_run_once(loop, 0);
	assert_int_equal(e.fired, 2);
	close(fd);
	close(other);
}

static void events_fire_until_unwatched(void **state)
{
	events_fire(*state, 0);
	events_fire(*state, EFD_NONBLOCK);
}

static void signals_reach_eventfds(void **state)
{
	struct loop *loop = *state;
	struct event e = { .ev.fired = event_fired };
	int fd = eventfd(0, EFD_NONBLOCK), watched = eventfd(0, EFD_NONBLOCK);
	eventfd_t value;

	loop_event_watch(loop, &e.ev, watched);
	for (int i = 0; i < 200; i++)
		loop_signal(loop, fd);
	loop_signal(loop, watched);
	run_until_fired(loop, &e, 1);
	assert_int_equal(eventfd_read(fd, &value), 0);
	assert_int_equal(value, 200);

	/* The counter full: the signal is there already. */
	assert_int_equal(eventfd_write(fd, UINT64_MAX - 1), 0);
	loop_signal(loop, fd);
	loop_run_once(loop, 0);
	assert_int_equal(eventfd_read(fd, &value), 0);
	assert_int_equal(value, UINT64_MAX - 1);
	run_until_idle(loop, &e);
	close(watched);
	close(fd);
}

/* ---- timers ---- */

struct timer {
	struct loop_timer t;
	struct loop *loop;
	char name;
	char *order; /* names are appended */
	struct timer *cancels;
	uint64_t again_at;
};

static void timer_expired(struct loop_timer *t)
{
	struct timer *timer = container_of(t, struct timer, t);
	size_t len = strlen(timer->order);

	timer->order[len] = timer->name;
	timer->order[len + 1] = 0;
	if (timer->cancels)
		loop_timer_cancel(timer->loop, &timer->cancels->t);
	if (timer->again_at)
		loop_timer_set(timer->loop, t, timer->again_at);
}

static void timers_follow_a_virtual_clock(void **state)
{
	char order[32] = "";
	struct clock clock;
	struct loop *loop;
	struct timer t[5];

	clock_init_virtual(&clock, 1000, 0);
	loop = loop_fixture_create(&clock);
	assert_ptr_equal(loop_clock(loop), &clock);
	for (int i = 0; i < 5; i++)
		t[i] = (struct timer){
			.t.expired = timer_expired, .loop = loop, .name = 'a' + i, .order = order,
		};
	loop_timer_set(loop, &t[0].t, 3000);
	loop_timer_set(loop, &t[1].t, 2000);
	loop_timer_set(loop, &t[2].t, 3000);
	loop_timer_set(loop, &t[3].t, 9000);
	loop_timer_set(loop, &t[3].t, 1500); /* again: the first is forgotten */
	loop_timer_set(loop, &t[4].t, 2500);
	loop_timer_cancel(loop, &t[4].t);
	loop_timer_cancel(loop, &t[4].t);
	assert_int_equal(loop_run_once(loop, 0), 0);
	clock_advance(&clock, 1000);
	assert_int_equal(loop_run_once(loop, UINT64_MAX), 2);
	assert_string_equal(order, "db");
	t[0].cancels = &t[2]; /* due in the same round */
	clock_advance(&clock, 10000);
	assert_int_equal(loop_run_once(loop, UINT64_MAX), 1);
	assert_string_equal(order, "dba");
	assert_false(t[2].t.armed);

	/* One that is always due does not keep the round from ending. */
	t[4].again_at = 1;
	loop_timer_set(loop, &t[4].t, 1);
	assert_int_equal(loop_run_once(loop, UINT64_MAX), 1);
	assert_int_equal(loop_run_once(loop, UINT64_MAX), 1);
	assert_string_equal(order, "dbaee");
	loop_free(loop);
}

static void timers_end_a_wait(void **state)
{
	struct loop *loop = *state;
	char order[8] = "";
	struct timer t = { .t.expired = timer_expired, .loop = loop, .name = 'x', .order = order };
	uint64_t start = clock_monotonic_ns(NULL), end;

	loop_timer_set(loop, &t.t, start + 3 * NSEC_PER_MSEC);
	while (!order[0])
		loop_run_once(loop, UINT64_MAX);
	end = clock_monotonic_ns(NULL);
	assert_true(end - start >= 3 * NSEC_PER_MSEC);
}

/* ---- tasks ---- */

struct task {
	struct loop_task task;
	struct loop *loop;
	unsigned runs, again;
};

static void task_run(struct loop_task *t)
{
	struct task *task = container_of(t, struct task, task);

	task->runs++;
	if (task->again) {
		task->again--;
		loop_defer(task->loop, t);
		loop_defer(task->loop, t);
	}
}

static void deferred_tasks_run_once_before_the_next_wait(void **state)
{
	struct loop *loop = *state;
	struct task t = { .task.run = task_run, .loop = loop, .again = 2 };

	loop_defer(loop, &t.task);
	loop_defer(loop, &t.task);
	assert_int_equal(t.runs, 0);
	for (unsigned i = 1; i <= 3; i++) {
		assert_int_equal(loop_run_once(loop, UINT64_MAX), 1);
		assert_int_equal(t.runs, i);
	}
	assert_int_equal(loop_run_once(loop, 0), 0);
}

enum { POSTERS = 4, CALLS = 500 };

struct shared {
	struct loop *loop;
	unsigned calls; /* the loop's own: no lock */
	unsigned left;	/* of the threads */
};

static int count_call(void *arg)
{
	struct shared *s = arg;

	return ++s->calls;
}

static int thread_ends(void *arg)
{
	struct shared *s = arg;

	if (--s->left == 0)
		loop_stop(s->loop);
	return 0;
}

static void *call_often(void *arg)
{
	struct shared *s = arg;

	assert_false(loop_is_mine(s->loop));
	for (int i = 0; i < CALLS; i++)
		assert_true(loop_call(s->loop, count_call, s) > i);
	loop_call(s->loop, thread_ends, s);
	return NULL;
}

static void calls_from_other_threads_are_answered(void **state)
{
	struct shared s = { .loop = *state, .left = POSTERS };
	pthread_t thread[POSTERS];

	assert_true(loop_is_mine(s.loop));
	assert_int_equal(loop_call(s.loop, count_call, &s), 1); /* our own: a plain call */
	for (int i = 0; i < POSTERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, call_often, &s), 0);
	loop_run(s.loop);
	for (int i = 0; i < POSTERS; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(s.calls, POSTERS * CALLS + 1);
}

struct post {
	struct loop_task task;
	struct loop *loop;
	unsigned runs;
	sem_t ran;
};

static void what_is_taken_back_does_not_run(void **state)
{
	struct loop *loop = *state;
	struct task t = { .task.run = task_run, .loop = loop };

	loop_unpost(loop, &t.task);
	loop_post(loop, &t.task);
	loop_unpost(loop, &t.task);
	assert_int_equal(loop_run_once(loop, 0), 0);
	assert_int_equal(t.runs, 0);
	loop_post(loop, &t.task);
	assert_int_equal(loop_run_once(loop, 0), 1);
	assert_int_equal(t.runs, 1);
}

static void post_ran(struct loop_task *task)
{
	struct post *p = container_of(task, struct post, task);

	p->runs++;
	sem_post(&p->ran);
}

static void *post_often(void *arg)
{
	struct post *p = arg;

	for (int i = 0; i < 1000; i++) {
		loop_post(p->loop, &p->task);
		while (sem_wait(&p->ran) < 0)
			;
	}
	loop_stop(p->loop);
	return NULL;
}

static void posts_wake_a_sleeping_loop_every_time(void **state)
{
	struct post p = { .task.run = post_ran, .loop = *state };
	pthread_t thread;

	sem_init(&p.ran, 0, 0);
	assert_int_equal(pthread_create(&thread, NULL, post_often, &p), 0);
	loop_run(p.loop);
	pthread_join(thread, NULL);
	assert_int_equal(p.runs, 1000);
	sem_destroy(&p.ran);
}

static void *run_thread(void *arg)
{
	loop_run(arg);
	return NULL;
}

static void a_loop_runs_on_the_thread_that_runs_it_first(void **state)
{
	struct loop *loop = loop_fixture_create(NULL);
	struct loop_result r = LOOP_RESULT;
	struct shared s = { .loop = loop };
	pthread_t thread;
	char buf[1];
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	loop_read(loop, &r.op, fds[0], buf, 1, UINT64_MAX); /* carried out by the other thread */
	assert_int_equal(pthread_create(&thread, NULL, run_thread, loop), 0);
	while (loop_is_mine(loop))
		sched_yield();
	assert_int_equal(loop_call(loop, count_call, &s), 1);
	loop_stop(loop);
	pthread_join(thread, NULL);
	assert_int_equal(r.calls, 1);
	loop_free(loop); /* with the wakeup event outstanding */
	close(fds[0]);
	close(fds[1]);
}

static void a_stop_before_the_run_is_not_lost(void **state)
{
	loop_stop(*state);
	loop_run(*state);
	loop_run_once(*state, 0);
}

/* ---- patience ---- */

struct patient {
	struct loop *loop;
	bool on;
};

static int be_patient(void *arg)
{
	struct patient *p = arg;

	loop_patience(p->loop, p->on);
	return sched_getscheduler(0);
}

static void *ask_idly(void *may_wait)
{
	const struct sched_param none = { 0 };

	sched_setscheduler(0, SCHED_IDLE, &none);
	*(bool *)may_wait = loop_thread_may_wait();
	return NULL;
}

static void *run(void *arg)
{
	loop_run(arg);
	return NULL;
}

static struct loop *start_patient(bool may_wait, pthread_t *ret_thread)
{
	struct loop_params params = { .backend = loop_fixture_backend(), .may_wait = may_wait };
	struct loop *loop;

	assert_int_equal(loop_create(&loop, &params, NULL), 0);
	assert_int_equal(pthread_create(ret_thread, NULL, run, loop), 0);
	/* Until it runs it is ours. */
	while (loop_is_mine(loop))
		sched_yield();
	return loop;
}

static void end_patient(struct loop *loop, pthread_t thread)
{
	loop_stop(loop);
	pthread_join(thread, NULL);
	loop_free(loop);
}

static void patience_is_counted_and_ends(void **state)
{
	struct patient more = { .on = true }, less = { .on = false };
	int waiting = loop_fixture_backend() == LOOP_URING ? SCHED_BATCH : SCHED_OTHER;
	pthread_t thread;

	more.loop = less.loop = start_patient(true, &thread);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(loop_call(more.loop, be_patient, &more), waiting);
		assert_int_equal(loop_call(more.loop, be_patient, &more), waiting);
		assert_int_equal(loop_call(more.loop, be_patient, &less), waiting);
		assert_int_equal(loop_call(more.loop, be_patient, &less), SCHED_OTHER);
	}
	end_patient(more.loop, thread);
}

static void patience_leaves_other_threads_as_they_are(void **state)
{
	struct patient p = { .on = true };
	pthread_t thread;

	p.loop = start_patient(false, &thread);
	assert_int_equal(loop_call(p.loop, be_patient, &p), SCHED_OTHER);
	p.on = false;
	assert_int_equal(loop_call(p.loop, be_patient, &p), SCHED_OTHER);
	end_patient(p.loop, thread);
}

static void a_thread_that_is_scheduled_by_choice_may_not_wait(void **state)
{
	bool may_wait = true;
	pthread_t thread;

	assert_true(loop_thread_may_wait());
	assert_int_equal(pthread_create(&thread, NULL, ask_idly, &may_wait), 0);
	pthread_join(thread, NULL);
	assert_false(may_wait);
}

/* ---- rounds within rounds ---- */

/* Two of a kind in one round: the first one waits for the second, as it would for a disk. */
struct couple {
	struct loop *loop;
	struct loop_task task[2];
	struct loop_timer timer[2];
	struct loop_op op[2];
	unsigned calls;
	bool met; /* while the first one waited */
};

static void couple_called(struct couple *c)
{
	if (c->calls++)
		return;
	/* Were it not to come, only this would end the wait. */
	for (int i = 0; i < 3 && c->calls < 2; i++)
		loop_run_once(c->loop, 10 * NSEC_PER_MSEC);
	c->met = c->calls == 2;
}

static void first_task(struct loop_task *t)
{
	couple_called(container_of(t, struct couple, task[0]));
}

static void second_task(struct loop_task *t)
{
	couple_called(container_of(t, struct couple, task[1]));
}

static void first_timer(struct loop_timer *t)
{
	couple_called(container_of(t, struct couple, timer[0]));
}

static void second_timer(struct loop_timer *t)
{
	couple_called(container_of(t, struct couple, timer[1]));
}

static void first_op(struct loop_op *op, int res)
{
	couple_called(container_of(op, struct couple, op[0]));
}

static void second_op(struct loop_op *op, int res)
{
	couple_called(container_of(op, struct couple, op[1]));
}

static void has_met(struct couple *c)
{
	while (c->calls < 2)
		loop_run_once(c->loop, NSEC_PER_SEC);
	assert_true(c->met);
	/* Each ran once. */
	loop_run_once(c->loop, 0);
	assert_int_equal(c->calls, 2);
	c->calls = 0;
	c->met = false;
}

static void a_callback_may_wait_for_another_of_its_round(void **state)
{
	struct couple c = {
		.loop = *state,
		.task = { { .run = first_task }, { .run = second_task } },
		.timer = { { .expired = first_timer }, { .expired = second_timer } },
		.op = { { .done = first_op }, { .done = second_op } },
	};
	int fds[2];

	for (unsigned i = 0; i < 2; i++)
		loop_defer(c.loop, &c.task[i]);
	has_met(&c);
	for (unsigned i = 0; i < 2; i++)
		loop_timer_set(c.loop, &c.timer[i], 1);
	has_met(&c);
	/* Ready before they are asked for, so that one wait completes both. */
	assert_int_equal(pipe(fds), 0);
	for (unsigned i = 0; i < 2; i++)
		loop_poll(c.loop, &c.op[i], fds[1], POLLOUT);
	has_met(&c);
	close(fds[0]);
	close(fds[1]);
}

/* ... and what was taken back meanwhile does not run. */
static void take_back_and_wait(struct loop_task *t)
{
	struct couple *c = container_of(t, struct couple, task[0]);

	loop_unpost(c->loop, &c->task[1]);
	loop_run_once(c->loop, 0);
}

static void what_is_taken_back_within_a_round_does_not_run(void **state)
{
	struct couple c = {
		.loop = *state,
		.task = { { .run = take_back_and_wait }, { .run = second_task } },
	};

	for (unsigned i = 0; i < 2; i++)
		loop_defer(c.loop, &c.task[i]);
	loop_run_once(c.loop, 0);
	loop_run_once(c.loop, 0);
	assert_int_equal(c.calls, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		loop_test(events_fire_until_unwatched),
		loop_test(signals_reach_eventfds),
		cmocka_unit_test(timers_follow_a_virtual_clock),
		loop_test(timers_end_a_wait),
		loop_test(what_is_taken_back_does_not_run),
		loop_test(deferred_tasks_run_once_before_the_next_wait),
		loop_test(calls_from_other_threads_are_answered),
		loop_test(posts_wake_a_sleeping_loop_every_time),
		cmocka_unit_test(a_loop_runs_on_the_thread_that_runs_it_first),
		loop_test(a_stop_before_the_run_is_not_lost),
		loop_test(a_callback_may_wait_for_another_of_its_round),
		loop_test(what_is_taken_back_within_a_round_does_not_run),
		cmocka_unit_test(patience_is_counted_and_ends),
		cmocka_unit_test(patience_leaves_other_threads_as_they_are),
		cmocka_unit_test(a_thread_that_is_scheduled_by_choice_may_not_wait),
	};

	return loop_fixture_run("loop events", tests, ARRAY_SIZE(tests));
}
