/*
 * What the front of the loop (loop.c) and its two back ends (loop_uring.c,
 * loop_epoll.c) share; nobody else includes it.
 *
 * The front has timers, tasks, events and the delivery of completions; a back
 * end starts operations, waits, and hands over what has completed. All of it
 * runs on the owner's thread, but for loop_wake().
 */
#ifndef WISP_CORE_LOOP_INTERNAL_H
#define WISP_CORE_LOOP_INTERNAL_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "vmm/core/log.h"
#include "vmm/core/loop.h"

enum loop_op_kind {
	LOOP_OP_READV,
	LOOP_OP_WRITEV,
	LOOP_OP_READ,
	LOOP_OP_WRITE,
	LOOP_OP_FSYNC,
	LOOP_OP_FALLOCATE,
	LOOP_OP_RECVMSG,
	LOOP_OP_SENDMSG,
	LOOP_OP_ACCEPT,
	LOOP_OP_POLL,
	LOOP_OP_EVENT, /* a READ of 8 bytes that comes again and again */
};

/* op->state: where it is between submission and done(). */
enum loop_op_state {
	LOOP_OP_IDLE,
	LOOP_OP_QUEUED,	  /* given to the back end, not yet to the kernel; in op->link */
	LOOP_OP_INFLIGHT, /* the kernel or a worker has it */
	LOOP_OP_POLLING,  /* waits for readiness, then is tried again */
	LOOP_OP_COMPLETE, /* op->res is known; in loop->completed by op->link */
};

struct loop_backend_ops {
	enum loop_backend backend;
	/* Ask for nothing of the kernel that can be had later. */
	int (*create)(struct loop *loop, const struct loop_params *params, struct error *err);
	/* Drop whatever is outstanding: no done() any more, no buffer touched afterwards. */
	void (*free)(struct loop *loop);
	/* After a fork, in the child: unmap what is shared with the parent. May be NULL. */
	void (*abandon)(struct loop *loop);
	/* @op is filled in and in no list. Never completes it within the call. */
	void (*submit)(struct loop *loop, struct loop_op *op);
	void (*cancel)(struct loop *loop, struct loop_op *op);
	void (*signal)(struct loop *loop, int fd);
	/* Start what was submitted, wait for one completion, pass all to loop_complete(). */
	void (*wait)(struct loop *loop, uint64_t timeout_ns);
};

struct loop {
	const struct loop_backend_ops *ops;
	void *backend; /* the back end's own state */
	const struct clock *clock;
	const char *name;
	bool may_wait; /* loop_patience() does something */
	unsigned patience;
	_Atomic pthread_t owner;
	_Atomic bool stop;

	struct list completed; /* struct loop_op: known results, not yet delivered */
	struct list timers;    /* struct loop_timer, by deadline */

	/*
	 * What is left of the present round's completed, timers and tasks (under the lock): a
	 * callback that runs the loop until something has happened may wait for one of these.
	 */
	struct list delivering, due, running;

	int wake_fd;		/* eventfd */
	struct loop_event wake; /* on wake_fd: ends a wait */

	pthread_mutex_t lock; /* for tasks, running and loop_task.queued */
	struct list tasks;    /* struct loop_task, by loop_defer() and loop_post() */
};

/* The kernel's limit for one transfer; a longer one ends short. */
#define LOOP_MAX_TRANSFER 0x7ffff000ull

extern const struct loop_backend_ops loop_uring_ops;
extern const struct loop_backend_ops loop_epoll_ops;

/* @op, which is in no list, has ended: deliver it in this round. */
static inline void loop_complete(struct loop *loop, struct loop_op *op, int res)
{
	op->res = res;
	op->state = LOOP_OP_COMPLETE;
	list_add_tail(&loop->completed, &op->link);
}

/* What @op's file must be ready for. */
static inline short loop_op_readiness(const struct loop_op *op)
{
	switch ((enum loop_op_kind)op->kind) {
	case LOOP_OP_READV:
	case LOOP_OP_READ:
	case LOOP_OP_EVENT:
	case LOOP_OP_ACCEPT:
	case LOOP_OP_RECVMSG:
		return POLLIN;
	case LOOP_OP_WRITEV:
	case LOOP_OP_WRITE:
	case LOOP_OP_SENDMSG:
		return POLLOUT;
	case LOOP_OP_POLL:
		return (short)op->flags;
	case LOOP_OP_FSYNC:
	case LOOP_OP_FALLOCATE:
		break;
	}
	return 0;
}

/* Is -EAGAIN a reason to wait, and not @op's result? */
static inline bool loop_op_waits(const struct loop_op *op)
{
	switch ((enum loop_op_kind)op->kind) {
	case LOOP_OP_RECVMSG:
	case LOOP_OP_SENDMSG:
		return !(op->len & MSG_DONTWAIT);
	case LOOP_OP_FSYNC:
	case LOOP_OP_FALLOCATE:
		return false;
	default:
		return true;
	}
}

#endif
