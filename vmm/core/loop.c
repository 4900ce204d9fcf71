#include "vmm/core/loop.h"

#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/core/loop_internal.h"

/* ---- life ---- */

static void woken(struct loop_event *ev)
{
}

static int create_backend(struct loop *loop, const struct loop_params *params, struct error *err)
{
	struct error why = { 0 };
	int r;

	switch (params->backend) {
	case LOOP_URING:
		loop->ops = &loop_uring_ops;
		return loop->ops->create(loop, params, err);
	case LOOP_EPOLL:
		loop->ops = &loop_epoll_ops;
		return loop->ops->create(loop, params, err);
	case LOOP_AUTO:
		break;
	}
	loop->ops = &loop_uring_ops;
	r = loop->ops->create(loop, params, &why);
	if (!r)
		return 0;
	log_info("loop '%s': %s; using epoll", loop->name, why.msg);
	loop->ops = &loop_epoll_ops;
	return loop->ops->create(loop, params, err);
}

int loop_create(struct loop **ret_loop, const struct loop_params *params, struct error *err)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int r;

	if (!loop)
		return error_set(err, -ENOMEM, "event loop: %m");
	loop->clock = params->clock;
	loop->name = params->name ? params->name : "loop";
	atomic_store(&loop->owner, pthread_self());
	list_init(&loop->completed);
	list_init(&loop->delivering);
	list_init(&loop->timers);
	list_init(&loop->due);
	list_init(&loop->tasks);
	list_init(&loop->running);
	pthread_mutex_init(&loop->lock, NULL);
	/* Blocking: io_uring answers reads of a non-blocking one at once. */
	loop->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (loop->wake_fd < 0) {
		r = error_set(err, -errno, "event loop '%s': eventfd: %m", loop->name);
		goto fail;
	}
	r = create_backend(loop, params, err);
	if (r < 0)
		goto fail;
	/* The other one's workers would take it over from its thread, and keep it. */
	loop->may_wait = params->may_wait && loop->ops->backend == LOOP_URING;
	loop->wake.fired = woken;
	loop_event_watch(loop, &loop->wake, loop->wake_fd);
	*ret_loop = loop;
	return 0;
fail:
	loop_free(loop);
	return r;
}

void loop_abandon(struct loop *loop)
{
	if (loop->ops->abandon)
		loop->ops->abandon(loop);
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	if (loop->backend)
		loop->ops->free(loop);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

enum loop_backend loop_backend(const struct loop *loop)
{
	return loop->ops->backend;
}

const struct clock *loop_clock(const struct loop *loop)
{
	return loop->clock;
}

bool loop_is_mine(const struct loop *loop)
{
	return pthread_equal(atomic_load_explicit(&loop->owner, memory_order_relaxed),
			     pthread_self());
}

bool loop_thread_may_wait(void)
{
	return sched_getscheduler(0) == SCHED_OTHER;
}

void loop_patience(struct loop *loop, bool on)
{
	const struct sched_param none = { 0 };

	loop->patience += on ? 1 : -1;
	/* The first one begins it, the last one ends it. */
	if (!loop->may_wait || loop->patience != (on ? 1 : 0))
		return;
	if (sched_setscheduler(0, on ? SCHED_BATCH : SCHED_OTHER, &none) < 0)
		loop->may_wait = false;
}

/* End the present or the next wait. Any thread. */
static void wake(struct loop *loop)
{
	static const uint64_t one = 1;
	ssize_t n;

	do
		n = write(loop->wake_fd, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
}

/* ---- operations ---- */

static void submit(struct loop *loop, struct loop_op *op, enum loop_op_kind kind, int fd)
{
	op->kind = kind;
	op->fd = fd;
	op->state = LOOP_OP_QUEUED;
	loop->ops->submit(loop, op);
}

void loop_readv(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
		unsigned iovcnt, uint64_t offset)
{
	op->iov = iov;
	op->len = iovcnt;
	op->offset = offset;
	submit(loop, op, LOOP_OP_READV, fd);
}

void loop_writev(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
		 unsigned iovcnt, uint64_t offset)
{
	op->iov = iov;
	op->len = iovcnt;
	op->offset = offset;
	submit(loop, op, LOOP_OP_WRITEV, fd);
}

void loop_read(struct loop *loop, struct loop_op *op, int fd, void *buf, size_t len,
	       uint64_t offset)
{
	op->buf = buf;
	op->len = MIN((uint64_t)len, LOOP_MAX_TRANSFER);
	op->offset = offset;
	submit(loop, op, LOOP_OP_READ, fd);
}

void loop_write(struct loop *loop, struct loop_op *op, int fd, const void *buf, size_t len,
		uint64_t offset)
{
	op->buf = (void *)buf;
	op->len = MIN((uint64_t)len, LOOP_MAX_TRANSFER);
	op->offset = offset;
	submit(loop, op, LOOP_OP_WRITE, fd);
}

void loop_fsync(struct loop *loop, struct loop_op *op, int fd, bool data_only)
{
	op->flags = data_only;
	submit(loop, op, LOOP_OP_FSYNC, fd);
}

void loop_fallocate(struct loop *loop, struct loop_op *op, int fd, int mode, uint64_t offset,
		    uint64_t len)
{
	op->flags = mode;
	op->offset = offset;
	op->len = len;
	submit(loop, op, LOOP_OP_FALLOCATE, fd);
}

void loop_recvmsg(struct loop *loop, struct loop_op *op, int fd, struct msghdr *msg, int flags)
{
	op->msg = msg;
	op->len = (unsigned)flags;
	submit(loop, op, LOOP_OP_RECVMSG, fd);
}

void loop_sendmsg(struct loop *loop, struct loop_op *op, int fd, struct msghdr *msg, int flags)
{
	op->msg = msg;
	op->len = (unsigned)flags;
	submit(loop, op, LOOP_OP_SENDMSG, fd);
}

void loop_accept(struct loop *loop, struct loop_op *op, int fd)
{
	submit(loop, op, LOOP_OP_ACCEPT, fd);
}

void loop_poll(struct loop *loop, struct loop_op *op, int fd, short events)
{
	op->flags = (uint16_t)events;
	submit(loop, op, LOOP_OP_POLL, fd);
}

void loop_cancel(struct loop *loop, struct loop_op *op)
{
	if (op->state != LOOP_OP_IDLE && op->state != LOOP_OP_COMPLETE)
		loop->ops->cancel(loop, op);
}

/* ---- events ---- */

static void event_submit(struct loop_event *ev)
{
	ev->op.buf = &ev->value;
	ev->op.len = sizeof(ev->value);
	ev->op.offset = UINT64_MAX;
	submit(ev->loop, &ev->op, LOOP_OP_EVENT, ev->fd);
}

static void event_done(struct loop_op *op, int res)
{
	struct loop_event *ev = container_of(op, struct loop_event, op);

	if (!ev->watched)
		return;
	if (res < 0 && res != -EINTR && res != -EAGAIN && res != -ECANCELED) {
		/* Not an eventfd, or closed under us: asking again would spin. */
		log_error("loop '%s': event on descriptor %d: %s", ev->loop->name, op->fd,
			  strerror(-res));
		ev->watched = false;
		return;
	}
	/*
	 * Watch again before fired(): it may unwatch, and then @ev stays busy until
	 * that took effect instead of being freed while we still hold it.
	 */
	event_submit(ev);
	if (res > 0)
		ev->fired(ev);
}

void loop_event_watch(struct loop *loop, struct loop_event *ev, int fd)
{
	ev->loop = loop;
	ev->fd = fd;
	ev->watched = true;
	ev->op.done = event_done;
	/* Otherwise an unwatch is still under way; its end starts the new watch. */
	if (ev->op.state == LOOP_OP_IDLE) {
		memset(ev->op.priv, 0, sizeof(ev->op.priv));
		event_submit(ev);
	}
}

void loop_event_unwatch(struct loop_event *ev)
{
	if (!ev->watched)
		return;
	ev->watched = false;
	loop_cancel(ev->loop, &ev->op);
}

bool loop_event_idle(const struct loop_event *ev)
{
	return ev->op.state == LOOP_OP_IDLE;
}

void loop_signal(struct loop *loop, int fd)
{
	loop->ops->signal(loop, fd);
}

/* ---- timers ---- */

void loop_timer_set(struct loop *loop, struct loop_timer *t, uint64_t deadline_ns)
{
	struct list *before;

	loop_timer_cancel(loop, t);
	t->deadline_ns = deadline_ns;
	t->armed = true;
	/* From the back: new deadlines are mostly the latest. Equal ones keep their order. */
	for (before = loop->timers.prev; before != &loop->timers; before = before->prev)
		if (list_entry(before, struct loop_timer, link)->deadline_ns <= deadline_ns)
			break;
	list_add_tail(before->next, &t->link);
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *t)
{
	if (!t->armed)
		return;
	t->armed = false;
	list_del(&t->link);
}

/* How long to wait at most, when the caller would wait @timeout_ns. */
static uint64_t until_next_timer(const struct loop *loop, uint64_t timeout_ns)
{
	const struct loop_timer *first;
	uint64_t now;

	if (list_empty(&loop->timers))
		return timeout_ns;
	first = list_entry(loop->timers.next, struct loop_timer, link);
	now = clock_monotonic_ns(loop->clock);
	if (first->deadline_ns <= now)
		return 0;
	/* A virtual clock does not move while we wait. */
	if (loop->clock && loop->clock->is_virtual)
		return timeout_ns;
	return MIN(timeout_ns, first->deadline_ns - now);
}

static unsigned expire_timers(struct loop *loop)
{
	unsigned n = 0;
	uint64_t now;

	if (list_empty(&loop->timers) && list_empty(&loop->due))
		return 0;
	now = clock_monotonic_ns(loop->clock);
	/* Apart from the rest, so that one that is set again for now waits for the next round. */
	while (!list_empty(&loop->timers)) {
		struct list *first = loop->timers.next;

		if (list_entry(first, struct loop_timer, link)->deadline_ns > now)
			break;
		list_del(first);
		list_add_tail(&loop->due, first);
	}
	while (!list_empty(&loop->due)) {
		struct loop_timer *t = list_entry(loop->due.next, struct loop_timer, link);

		t->armed = false;
		list_del(&t->link);
		t->expired(t);
		n++;
	}
	return n;
}

/* ---- tasks ---- */

/* True when the list was empty: the loop may be about to sleep. */
static bool queue_task(struct loop *loop, struct loop_task *task)
{
	bool first = false;

	pthread_mutex_lock(&loop->lock);
	if (!task->queued) {
		first = list_empty(&loop->tasks);
		task->queued = true;
		list_add_tail(&loop->tasks, &task->link);
	}
	pthread_mutex_unlock(&loop->lock);
	return first;
}

void loop_defer(struct loop *loop, struct loop_task *task)
{
	queue_task(loop, task);
}

void loop_post(struct loop *loop, struct loop_task *task)
{
	/* The loop looks at the list before each wait; only other threads can find it asleep. */
	if (queue_task(loop, task) && !loop_is_mine(loop))
		wake(loop);
}

void loop_unpost(struct loop *loop, struct loop_task *task)
{
	pthread_mutex_lock(&loop->lock);
	if (task->queued)
		list_del(&task->link);
	task->queued = false;
	pthread_mutex_unlock(&loop->lock);
}

static bool has_tasks(struct loop *loop)
{
	bool any;

	pthread_mutex_lock(&loop->lock);
	any = !list_empty(&loop->tasks) || !list_empty(&loop->running);
	pthread_mutex_unlock(&loop->lock);
	return any;
}

/* Those queued by now; one that queues itself again waits for the next round. */
static unsigned run_tasks(struct loop *loop)
{
	unsigned n = 0;

	pthread_mutex_lock(&loop->lock);
	list_move_all(&loop->running, &loop->tasks);
	while (!list_empty(&loop->running)) {
		struct loop_task *task = list_entry(loop->running.next, struct loop_task, link);

		list_del(&task->link);
		/* Before run(): posted from now on, it runs once more. */
		task->queued = false;
		pthread_mutex_unlock(&loop->lock);
		task->run(task);
		n++;
		pthread_mutex_lock(&loop->lock);
	}
	pthread_mutex_unlock(&loop->lock);
	return n;
}

struct call {
	struct loop_task task;
	int (*fn)(void *arg);
	void *arg;
	int result;
	sem_t done;
};

static void run_call(struct loop_task *task)
{
	struct call *call = container_of(task, struct call, task);

	call->result = call->fn(call->arg);
	/* The caller's stack frame may be gone right after this. */
	sem_post(&call->done);
}

int loop_call(struct loop *loop, int (*fn)(void *arg), void *arg)
{
	struct call call = { .task.run = run_call, .fn = fn, .arg = arg };

	if (loop_is_mine(loop))
		return fn(arg);
	sem_init(&call.done, 0, 0);
	loop_post(loop, &call.task);
	while (sem_wait(&call.done) < 0 && errno == EINTR)
		;
	sem_destroy(&call.done);
	return call.result;
}

/* ---- running ---- */

static unsigned deliver(struct loop *loop)
{
	unsigned n = 0;

	/* Operations that complete within callbacks (cancelled ones) wait for the next round. */
	list_move_all(&loop->delivering, &loop->completed);
	while (!list_empty(&loop->delivering)) {
		struct loop_op *op = list_entry(loop->delivering.next, struct loop_op, link);

		list_del(&op->link);
		op->state = LOOP_OP_IDLE;
		/* Wakeups are our own business. */
		n += op != &loop->wake.op;
		op->done(op, op->res);
	}
	return n;
}

/* Has a callback called us, behind which others of its round still wait? */
static bool is_within_round(const struct loop *loop)
{
	return !list_empty(&loop->delivering) || !list_empty(&loop->due);
}

unsigned loop_run_once(struct loop *loop, uint64_t timeout_ns)
{
	unsigned n;

	if (!loop_is_mine(loop))
		atomic_store(&loop->owner, pthread_self());
	if (!list_empty(&loop->completed) || is_within_round(loop) || has_tasks(loop))
		timeout_ns = 0;
	loop->ops->wait(loop, until_next_timer(loop, timeout_ns));
	n = deliver(loop);
	n += expire_timers(loop);
	n += run_tasks(loop);
	return n;
}

void loop_run(struct loop *loop)
{
	while (!atomic_exchange(&loop->stop, false))
		loop_run_once(loop, UINT64_MAX);
}

void loop_stop(struct loop *loop)
{
	atomic_store(&loop->stop, true);
	if (!loop_is_mine(loop))
		wake(loop);
}
