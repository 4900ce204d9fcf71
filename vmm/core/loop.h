/*
 * An event loop of operations: everything that can wait is an operation that
 * is submitted and later completed, as io_uring has it.
 *
 * Two back ends behind one interface: io_uring, and epoll with worker threads
 * for hosts where io_uring is forbidden. A loop belongs to one thread, the first
 * that runs it, for good (until then, to the one that created it); every function
 * here is for that thread alone unless it says otherwise. Completions are only
 * ever delivered from within loop_run()/loop_run_once(), never from inside the
 * submitting call, so a caller may hold its state half-changed while it submits.
 *
 * A loop_op is embedded in the caller's request, belongs to the loop from
 * submission until its done() begins, and may be submitted again from done().
 */
#ifndef WISP_CORE_LOOP_H
#define WISP_CORE_LOOP_H

#include <pthread.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "vmm/core/clock.h"
#include "vmm/core/error.h"
#include "vmm/core/util.h"

struct loop;

struct loop_op {
	/* @res: what the system call would have returned, or -errno. */
	void (*done)(struct loop_op *op, int res);

	/* The loop's own. */
	struct list link;
	uint8_t kind;
	uint8_t state;
	uint16_t flags;
	int fd;
	union {
		const struct iovec *iov;
		void *buf;
		struct msghdr *msg;
	};
	uint64_t len;
	uint64_t offset;
	int res;
	uint64_t priv[4];
};

enum loop_backend {
	LOOP_AUTO, /* io_uring when the host allows it */
	LOOP_URING,
	LOOP_EPOLL,
};

/* Threads that the epoll back end starts when there is work for them. */
struct loop_workers_params {
	/* Makes one, as pthread_create() does, where the loop's thread may not. Or NULL */
	int (*make)(void *ctx, pthread_t *ret_thread, const pthread_attr_t *attr,
		    void *(*run)(void *arg), void *arg);
	/* Called by each of them, first of all, to confine itself. Or NULL */
	void (*begins)(void *ctx);
	void *ctx;
};

struct loop_params {
	enum loop_backend backend;
	unsigned entries;	   /* size of the submission queue; 0: 64. More ops are fine */
	const struct clock *clock; /* NULL: the host's; timers of a virtual clock fire in
				    * loop_run_once() after clock_advance() */
	const char *name;	   /* for the log; borrowed */
	bool may_wait;	/* loop_patience() may change how its thread is scheduled */
	bool no_accept; /* loop_accept() is not to be had: a ring then refuses that operation */
	struct loop_workers_params workers;
};

/*
 * A loop owned by the calling thread, until another runs it. -errno with @err: where a back end was
 * asked for by name the host must have it.
 */
int loop_create(struct loop **ret_loop, const struct loop_params *params, struct error *err);

/*
 * In the child of a fork: let go of the loop, which stays the parent's. Nothing
 * that is outstanding is cancelled, and it must not be used or freed any more.
 */
void loop_abandon(struct loop *loop);

/* No operation may be outstanding but timers, events and polls, which are dropped. */
void loop_free(struct loop *loop);

/* What it runs on, which LOOP_AUTO has settled. Any thread. */
enum loop_backend loop_backend(const struct loop *loop);
/* The clock that its timers go by; borrowed. Any thread. */
const struct clock *loop_clock(const struct loop *loop);

/*
 * Run until loop_stop(); at once when that was called already. The calling
 * thread becomes the loop's owner.
 */
void loop_run(struct loop *loop);

/*
 * Submit what is queued, wait up to @timeout_ns (UINT64_MAX: for ever, 0: do
 * not wait) for one completion, deliver all that are there, then due timers,
 * then tasks. Returns how many of all these were called. A callback may run it
 * itself to wait for something: first come those of its own round that are left.
 */
unsigned loop_run_once(struct loop *loop, uint64_t timeout_ns);

/* Make loop_run() return after the current round. Any thread. */
void loop_stop(struct loop *loop);

/* True on the owner's thread: the creator's until another one runs it. Any thread. */
bool loop_is_mine(const struct loop *loop);

/*
 * Is how this thread is scheduled nobody's choice, as by chrt(1)? What params.may_wait is to be;
 * asked before its system calls are filtered, for it and for all threads that it makes.
 */
bool loop_thread_may_wait(void);

/*
 * Have the loop's thread, when there is work, wait until whoever runs on its processor sleeps or
 * has had its share, in place of going first (SCHED_BATCH); on an idle one nothing changes. All
 * that the loop serves then waits: for no longer than it pays.
 * Counted: as often @on as not. Does nothing without params.may_wait, or over epoll.
 */
void loop_patience(struct loop *loop, bool on);

/* ---- operations; @op->done must be set; buffers stay valid until done() ---- */

/*
 * @offset is UINT64_MAX for files without a position (pipes, terminals, sockets).
 * A file that is not ready is waited for, O_NONBLOCK or not: -EAGAIN comes back
 * only for MSG_DONTWAIT. Transfers may be short. The order in which several
 * operations on one descriptor are carried out is not defined. Sockets answer
 * -EPIPE; for pipes the process must ignore or block SIGPIPE, as for write(2).
 */
void loop_readv(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
		unsigned iovcnt, uint64_t offset);
void loop_writev(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
		 unsigned iovcnt, uint64_t offset);
void loop_read(struct loop *loop, struct loop_op *op, int fd, void *buf, size_t len,
	       uint64_t offset);
void loop_write(struct loop *loop, struct loop_op *op, int fd, const void *buf, size_t len,
		uint64_t offset);
void loop_fsync(struct loop *loop, struct loop_op *op, int fd, bool data_only);
void loop_fallocate(struct loop *loop, struct loop_op *op, int fd, int mode, uint64_t offset,
		    uint64_t len);
void loop_recvmsg(struct loop *loop, struct loop_op *op, int fd, struct msghdr *msg, int flags);
void loop_sendmsg(struct loop *loop, struct loop_op *op, int fd, struct msghdr *msg, int flags);
void loop_accept(struct loop *loop, struct loop_op *op, int fd); /* res: descriptor, CLOEXEC */

/* One-shot readiness: done(revents). */
void loop_poll(struct loop *loop, struct loop_op *op, int fd, short events);

/* Ask an outstanding @op to end early; its done() still comes, often with -ECANCELED. */
void loop_cancel(struct loop *loop, struct loop_op *op);

/* ---- events: an eventfd that is read again and again until unwatched ---- */

struct loop_event {
	void (*fired)(struct loop_event *ev);
	/* The loop's own. */
	struct loop_op op;
	struct loop *loop;
	int fd;
	uint64_t value;
	bool watched;
};

/*
 * Call @ev->fired each time the eventfd @fd is signalled (counts are folded).
 * @ev is zero-initialised before its first use. A blocking eventfd is better:
 * io_uring refuses to wait in a read of a non-blocking one, which then takes
 * two more operations for each event.
 */
void loop_event_watch(struct loop *loop, struct loop_event *ev, int fd);

/*
 * Stop watching. fired() will not be called again, but @ev and @fd belong to
 * the loop until loop_event_idle() or until the loop is freed.
 */
void loop_event_unwatch(struct loop_event *ev);
bool loop_event_idle(const struct loop_event *ev);

/*
 * Add 1 to the eventfd @fd (which must be EFD_NONBLOCK), as part of the next
 * submission: an irqfd write without a system call of its own.
 */
void loop_signal(struct loop *loop, int fd);

/* ---- timers ---- */

struct loop_timer {
	void (*expired)(struct loop_timer *t);
	/* The loop's own. */
	struct list link;
	uint64_t deadline_ns;
	bool armed;
};

/* (Re-)arm for the absolute monotonic time @deadline_ns of the loop's clock. */
void loop_timer_set(struct loop *loop, struct loop_timer *t, uint64_t deadline_ns);
void loop_timer_cancel(struct loop *loop, struct loop_timer *t);

/* ---- work for later, and from other threads ---- */

struct loop_task {
	void (*run)(struct loop_task *task);
	/* The loop's own. */
	struct list link;
	bool queued;
};

/* Run @task once after the completions at hand are delivered and before the next wait. */
void loop_defer(struct loop *loop, struct loop_task *task);

/* As loop_defer(), from any thread; wakes the loop. Queuing a queued task does nothing. */
void loop_post(struct loop *loop, struct loop_task *task);

/* Take @task back if it has not begun. On the loop's thread, or while nobody runs the loop. */
void loop_unpost(struct loop *loop, struct loop_task *task);

/*
 * Run fn(arg) on the loop's thread and return its result; waits for it. From
 * the loop's own thread (see loop_is_mine()) it is a plain call. The caller
 * holds no lock that the loop could want. Any thread.
 */
int loop_call(struct loop *loop, int (*fn)(void *arg), void *arg);

#endif
