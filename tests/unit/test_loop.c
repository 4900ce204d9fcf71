#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/core/loop.h"

/* Every test below runs on both back ends; this says which, and is set by main(). */
static enum loop_backend backend;

static struct loop *create(const struct clock *clock)
{
	struct loop_params params = { .backend = backend, .clock = clock, .name = "test" };
	struct loop *loop = NULL;
	struct error err = { 0 };

	if (loop_create(&loop, &params, &err) < 0)
		fail_msg("%s", err.msg);
	return loop;
}

static int setup(void **state)
{
	*state = create(NULL);
	return 0;
}

static int teardown(void **state)
{
	loop_free(*state);
	return 0;
}

struct result {
	struct loop_op op;
	unsigned calls;
	int res;
};

static void record(struct loop_op *op, int res)
{
	struct result *r = container_of(op, struct result, op);

	r->calls++;
	r->res = res;
}

#define RESULT { .op.done = record }

/* Run until @r is complete; a minute without it is a failure. */
static int await(struct loop *loop, struct result *r)
{
	for (int i = 0; i < 60 && !r->calls; i++)
		while (!r->calls && loop_run_once(loop, NSEC_PER_SEC))
			;
	assert_int_equal(r->calls, 1);
	return r->res;
}

static void nonblocking(int fd)
{
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
}

/* ---- operations ---- */

static void completes_only_within_run(void **state)
{
	struct loop *loop = *state;
	struct result r = RESULT, w = RESULT;
	char buf[8] = "";
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	loop_write(loop, &w.op, fds[1], "hello", 6, UINT64_MAX);
	loop_read(loop, &r.op, fds[0], buf, sizeof(buf), UINT64_MAX);
	assert_int_equal(w.calls + r.calls, 0);
	assert_int_equal(await(loop, &r), 6);
	assert_int_equal(await(loop, &w), 6);
	assert_string_equal(buf, "hello");
	assert_int_equal(loop_run_once(loop, 0), 0);
	close(fds[0]);
	close(fds[1]);
}

/* A read waits for data whether or not the descriptor is O_NONBLOCK. */
static void reads_wait_for(struct loop *loop, bool nonblock)
{
	struct result r = RESULT, w = RESULT;
	char buf[4];
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	if (nonblock)
		nonblocking(fds[0]);
	loop_read(loop, &r.op, fds[0], buf, 4, UINT64_MAX);
	for (int i = 0; i < 5; i++)
		loop_run_once(loop, NSEC_PER_MSEC);
	assert_int_equal(r.calls, 0);
	loop_write(loop, &w.op, fds[1], "abc", 4, UINT64_MAX);
	assert_int_equal(await(loop, &r), 4);
	assert_int_equal(await(loop, &w), 4);
	assert_string_equal(buf, "abc");

	/* The end of the stream is a result too. */
	r.calls = 0;
	loop_read(loop, &r.op, fds[0], buf, 4, UINT64_MAX);
	loop_run_once(loop, 0);
	close(fds[1]);
	assert_int_equal(await(loop, &r), 0);
	close(fds[0]);
}

static void reads_wait_for_data(void **state)
{
	reads_wait_for(*state, false);
	reads_wait_for(*state, true);
}

static void writes_wait_for_room(void **state)
{
	struct loop *loop = *state;
	struct result w = RESULT;
	static char big[65536];
	int fds[2];
	ssize_t n;

	assert_int_equal(pipe(fds), 0);
	nonblocking(fds[1]);
	while ((n = write(fds[1], big, sizeof(big))) > 0)
		;
	loop_write(loop, &w.op, fds[1], "x", 1, UINT64_MAX);
	for (int i = 0; i < 5; i++)
		loop_run_once(loop, NSEC_PER_MSEC);
	assert_int_equal(w.calls, 0);
	assert_true(read(fds[0], big, sizeof(big)) > 0);
	assert_int_equal(await(loop, &w), 1);
	close(fds[0]);
	close(fds[1]);
}

static void files_are_read_and_written_at_offsets(void **state)
{
	struct loop *loop = *state;
	struct result r[4] = { RESULT, RESULT, RESULT, RESULT };
	char a[3] = "", b[5] = "";
	struct iovec in[2] = { { (void *)"abc", 3 }, { (void *)"defg", 4 } };
	struct iovec out[2] = { { a, 2 }, { b, 4 } };
	char path[] = "/tmp/wisp-loop-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	loop_writev(loop, &r[0].op, fd, in, 2, 10000);
	assert_int_equal(await(loop, &r[0]), 7);
	loop_readv(loop, &r[1].op, fd, out, 2, 10001);
	assert_int_equal(await(loop, &r[1]), 6);
	assert_string_equal(a, "bc");
	assert_string_equal(b, "defg");
	loop_fsync(loop, &r[2].op, fd, true);
	loop_fallocate(loop, &r[3].op, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10000, 3);
	assert_int_equal(await(loop, &r[2]), 0);
	assert_int_equal(await(loop, &r[3]), 0);
	r[0].calls = 0;
	loop_read(loop, &r[0].op, fd, b, 4, 10001);
	assert_int_equal(await(loop, &r[0]), 4);
	assert_memory_equal(b, "\0\0de", 4);
	/* The end of the file is a short read, then none. */
	r[0].calls = 0;
	loop_read(loop, &r[0].op, fd, b, 4, 10007);
	assert_int_equal(await(loop, &r[0]), 0);
	close(fd);
}

static void files_without_readiness_work_as_streams(void **state)
{
	struct loop *loop = *state;
	struct result r = RESULT, p = RESULT;
	char buf[4];
	int fd = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_RDWR);
	int file = memfd_create("test", 0);

	loop_read(loop, &r.op, fd, buf, 4, UINT64_MAX);
	assert_int_equal(await(loop, &r), 4);
	r.calls = 0;
	loop_write(loop, &r.op, file, "line", 4, UINT64_MAX);
	assert_int_equal(await(loop, &r), 4);
	assert_int_equal(lseek(file, 0, SEEK_CUR), 4);
	r.calls = 0;
	loop_write(loop, &r.op, null, "x", 1, UINT64_MAX);
	assert_int_equal(await(loop, &r), 1);
	loop_poll(loop, &p.op, file, POLLIN);
	assert_int_equal(await(loop, &p), POLLIN);
	close(file);
	close(null);
	close(fd);
}

static void errors_are_results(void **state)
{
	struct loop *loop = *state;
	struct result r = RESULT;
	char buf[4];
	int fds[2];

	loop_read(loop, &r.op, 999, buf, 4, UINT64_MAX);
	assert_int_equal(await(loop, &r), -EBADF);
	r.calls = 0;
	loop_fsync(loop, &r.op, -1, false);
	assert_int_equal(await(loop, &r), -EBADF);
	assert_int_equal(pipe(fds), 0);
	r.calls = 0;
	loop_read(loop, &r.op, fds[1], buf, 4, UINT64_MAX); /* the writing end */
	assert_int_equal(await(loop, &r), -EBADF);
	close(fds[0]);
	close(fds[1]);
}

static void sockets_accept_send_and_receive(void **state)
{
	struct loop *loop = *state;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct result accepted = RESULT, sent = RESULT, received = RESULT;
	struct iovec out = { (void *)"frame", 6 };
	char buf[16];
	struct iovec in = { buf, sizeof(buf) };
	struct msghdr out_msg = { .msg_iov = &out, .msg_iovlen = 1 };
	struct msghdr in_msg = { .msg_iov = &in, .msg_iovlen = 1 };
	socklen_t len = sizeof(addr);
	int listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	int client = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	int server;

	/* An abstract name of the kernel's choice. */
	assert_int_equal(bind(listener, (void *)&addr, sizeof(sa_family_t)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (void *)&addr, &len), 0);
	loop_accept(loop, &accepted.op, listener);
	loop_run_once(loop, 0);
	assert_int_equal(connect(client, (void *)&addr, len), 0);
	server = await(loop, &accepted);
	assert_true(server >= 0);
	assert_int_equal(fcntl(server, F_GETFD), FD_CLOEXEC);

	loop_recvmsg(loop, &received.op, server, &in_msg, MSG_DONTWAIT);
	assert_int_equal(await(loop, &received), -EAGAIN);
	received.calls = 0;
	loop_recvmsg(loop, &received.op, server, &in_msg, 0);
	loop_run_once(loop, 0);
	loop_sendmsg(loop, &sent.op, client, &out_msg, 0);
	assert_int_equal(await(loop, &received), 6);
	assert_int_equal(await(loop, &sent), 6);
	assert_string_equal(buf, "frame");

	/* A peer that is gone is an error and not a signal. */
	close(server);
	sent.calls = 0;
	loop_sendmsg(loop, &sent.op, client, &out_msg, 0);
	assert_int_equal(await(loop, &sent), -EPIPE);
	close(client);
	close(listener);
}

/* What a thread's system calls do not have, its ring does not have either. */
static void a_ring_without_accept_refuses_it(void **state)
{
	struct loop_params params = { .backend = backend, .name = "test", .no_accept = true };
	struct result accepted = RESULT, polled = RESULT;
	struct error err = { 0 };
	struct loop *loop;
	int fds[2];

	if (backend == LOOP_EPOLL)
		skip();
	assert_int_equal(loop_create(&loop, &params, &err), 0);
	assert_int_equal(pipe(fds), 0);
	loop_accept(loop, &accepted.op, fds[0]);
	assert_int_equal(await(loop, &accepted), -EACCES);
	loop_poll(loop, &polled.op, fds[1], POLLOUT);
	assert_int_equal(await(loop, &polled), POLLOUT);
	loop_free(loop);
	close(fds[0]);
	close(fds[1]);
}

static void poll_reports_once(void **state)
{
	struct loop *loop = *state;
	struct result p = RESULT;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	loop_poll(loop, &p.op, fds[0], POLLIN);
	loop_run_once(loop, NSEC_PER_MSEC);
	assert_int_equal(p.calls, 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_true(await(loop, &p) & POLLIN);
	assert_int_equal(write(fds[1], "x", 1), 1);
	for (int i = 0; i < 3; i++)
		loop_run_once(loop, NSEC_PER_MSEC);
	assert_int_equal(p.calls, 1);

	/* Ready already, and then the other end gone. */
	p.calls = 0;
	loop_poll(loop, &p.op, fds[0], POLLIN);
	assert_true(await(loop, &p) & POLLIN);
	close(fds[1]);
	p.calls = 0;
	loop_poll(loop, &p.op, fds[0], 0);
	assert_true(await(loop, &p) & POLLHUP);
	close(fds[0]);
}

static void more_operations_than_the_ring_has_room_for(void **state)
{
	enum { MANY = 500 };
	struct loop *loop = *state;
	struct result *r = calloc(MANY, sizeof(*r));
	static char buf[MANY];
	int fds[2], done = 0;

	assert_int_equal(pipe(fds), 0);
	for (int i = 0; i < MANY; i++) {
		r[i].op.done = record;
		loop_read(loop, &r[i].op, fds[0], &buf[i], 1, UINT64_MAX);
	}
	loop_run_once(loop, 0);
	assert_int_equal(write(fds[1], memset(buf, 'x', MANY), MANY), MANY);
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(await(loop, &r[i]), 1);
		done++;
	}
	assert_int_equal(done, MANY);
	free(r);
	close(fds[0]);
	close(fds[1]);
}

struct chain {
	struct loop *loop;
	struct loop_op op;
	int fd, left;
	char byte;
};

static void chain_on(struct loop_op *op, int res)
{
	struct chain *c = container_of(op, struct chain, op);

	assert_int_equal(res, 1);
	if (--c->left)
		loop_read(c->loop, &c->op, c->fd, &c->byte, 1, UINT64_MAX);
}

static void an_operation_is_submitted_again_from_done(void **state)
{
	struct chain c = { .loop = *state, .op.done = chain_on, .left = 100 };

	c.fd = open("/dev/zero", O_RDONLY);
	loop_read(c.loop, &c.op, c.fd, &c.byte, 1, UINT64_MAX);
	while (c.left)
		loop_run_once(c.loop, UINT64_MAX);
	close(c.fd);
}

static void a_descriptor_may_be_closed_and_used_again(void **state)
{
	struct loop *loop = *state;
	char buf[1];

	for (int i = 0; i < 3; i++) {
		struct result r = RESULT;
		int fds[2];

		assert_int_equal(pipe(fds), 0);
		loop_read(loop, &r.op, fds[0], buf, 1, UINT64_MAX);
		loop_run_once(loop, 0);
		assert_int_equal(write(fds[1], "x", 1), 1);
		assert_int_equal(await(loop, &r), 1);
		close(fds[0]);
		close(fds[1]);
	}
}

/* ---- cancelling ---- */

static void cancel_ends_what_waits_and_what_is_queued(void **state)
{
	struct loop *loop = *state;
	struct result waiting = RESULT, queued = RESULT, polling = RESULT, nonblock = RESULT;
	char buf[4][1];
	int fds[2], other[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(pipe(other), 0);
	nonblocking(other[0]);
	loop_read(loop, &waiting.op, fds[0], buf[0], 1, UINT64_MAX);
	loop_read(loop, &nonblock.op, other[0], buf[1], 1, UINT64_MAX);
	loop_poll(loop, &polling.op, fds[0], POLLIN);
	for (int i = 0; i < 3; i++)
		loop_run_once(loop, 0);
	loop_read(loop, &queued.op, fds[0], buf[2], 1, UINT64_MAX);
	loop_cancel(loop, &queued.op);
	loop_cancel(loop, &waiting.op);
	loop_cancel(loop, &waiting.op);
	loop_cancel(loop, &polling.op);
	loop_cancel(loop, &nonblock.op);
	assert_int_equal(queued.calls + waiting.calls + polling.calls + nonblock.calls, 0);
	assert_int_equal(await(loop, &queued), -ECANCELED);
	assert_int_equal(await(loop, &waiting), -ECANCELED);
	assert_int_equal(await(loop, &polling), -ECANCELED);
	assert_int_equal(await(loop, &nonblock), -ECANCELED);

	/* Nothing of it is left: the byte is for whoever reads next. */
	assert_int_equal(write(fds[1], "x", 1), 1);
	loop_run_once(loop, 0);
	waiting.calls = 0;
	loop_read(loop, &waiting.op, fds[0], buf[0], 1, UINT64_MAX);
	assert_int_equal(await(loop, &waiting), 1);
	loop_cancel(loop, &waiting.op); /* idle: no effect */
	for (int i = 0; i < 2; i++) {
		close(fds[i]);
		close(other[i]);
	}
}

static void free_drops_what_still_waits(void **state)
{
	struct loop *loop = create(NULL);
	struct result r = RESULT, p = RESULT;
	struct loop_timer t = { 0 };
	char buf[1] = "-";
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	loop_read(loop, &r.op, fds[0], buf, 1, UINT64_MAX);
	loop_poll(loop, &p.op, fds[0], POLLIN);
	loop_timer_set(loop, &t, UINT64_MAX);
	loop_run_once(loop, 0);
	loop_free(loop);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_int_equal(buf[0], '-');
	assert_int_equal(r.calls + p.calls, 0);
	close(fds[0]);
	close(fds[1]);
	loop_free(NULL);
}

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
	loop = create(&clock);
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
	struct loop *loop = create(NULL);
	struct result r = RESULT;
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

/* ---- a workload: many files and threads at once ---- */

struct worker_io {
	struct loop *loop;
	struct loop_op op;
	int fd, left;
	uint64_t value;
	bool writing;
};

static void io_done(struct loop_op *op, int res)
{
	struct worker_io *io = container_of(op, struct worker_io, op);
	uint64_t offset = io->left * 8ull;

	assert_int_equal(res, 8);
	if (io->writing) {
		io->writing = false;
		io->value = 0;
		loop_read(io->loop, op, io->fd, &io->value, 8, offset);
		return;
	}
	assert_int_equal(io->value, offset);
	if (--io->left == 0)
		return;
	offset = io->value = io->left * 8ull;
	io->writing = true;
	loop_write(io->loop, op, io->fd, &io->value, 8, offset);
}

static void parallel_file_io_keeps_its_data_apart(void **state)
{
	struct worker_io io[8];
	bool busy = true;

	for (int i = 0; i < 8; i++) {
		io[i] = (struct worker_io){ .loop = *state, .op.done = io_done, .left = 50 };
		io[i].fd = memfd_create("test", 0);
		io[i].value = io[i].left * 8ull;
		io[i].writing = true;
		loop_write(io[i].loop, &io[i].op, io[i].fd, &io[i].value, 8, io[i].value);
	}
	while (busy) {
		loop_run_once(*state, UINT64_MAX);
		busy = false;
		for (int i = 0; i < 8; i++)
			busy |= io[i].left != 0;
	}
	for (int i = 0; i < 8; i++)
		close(io[i].fd);
}

#define loop_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		loop_test(completes_only_within_run),
		loop_test(reads_wait_for_data),
		loop_test(writes_wait_for_room),
		loop_test(files_are_read_and_written_at_offsets),
		loop_test(files_without_readiness_work_as_streams),
		loop_test(errors_are_results),
		loop_test(sockets_accept_send_and_receive),
		cmocka_unit_test(a_ring_without_accept_refuses_it),
		loop_test(poll_reports_once),
		loop_test(more_operations_than_the_ring_has_room_for),
		loop_test(an_operation_is_submitted_again_from_done),
		loop_test(a_descriptor_may_be_closed_and_used_again),
		loop_test(cancel_ends_what_waits_and_what_is_queued),
		cmocka_unit_test(free_drops_what_still_waits),
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
		loop_test(parallel_file_io_keeps_its_data_apart),
	};
	struct loop_params params = { .backend = LOOP_URING, .name = "probe" };
	struct error err = { 0 };
	struct loop *probe;
	int failed;

	backend = LOOP_EPOLL;
	failed = cmocka_run_group_tests_name("loop over epoll", tests, NULL, NULL);
	if (loop_create(&probe, &params, &err) < 0) {
		printf("[  SKIPPED ] loop over io_uring: %s\n", err.msg);
		return failed;
	}
	loop_free(probe);
	backend = LOOP_URING;
	return failed + cmocka_run_group_tests_name("loop over io_uring", tests, NULL, NULL);
}
