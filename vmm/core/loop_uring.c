/*
 * The loop over io_uring.
 *
 * Submitted operations gather in a list and become entries of the ring right
 * before the one io_uring_enter() of a round, which also waits. The ring is
 * created disabled, restricted to the operations of this file, and enabled by
 * the thread that waits first: with SINGLE_ISSUER that is the only one that may
 * ever submit, so the kernel needs no lock.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/core/loop_internal.h"

#define DEFAULT_ENTRIES 64

/* loop_op.priv as used here. */
enum {
	PRIV_POLL,	 /* this submission waits for readiness; the operation follows */
	PRIV_CANCELLED,	 /* do not try again */
	PRIV_POLL_FIRST, /* an event on a non-blocking descriptor */
};

struct uring {
	struct io_uring ring;
	bool enabled;
	bool skip_success; /* IORING_FEAT_CQE_SKIP, Linux 5.17 */
	struct list queue;    /* submitted, no entry of the ring yet */
	struct list inflight; /* the kernel has them */
};

static const uint64_t one = 1; /* what a signal writes */

/*
 * seccomp cannot see what a ring does: allow what is used here and nothing else. Which files is
 * left open: they come and go with connections and hot-plugged disks, and whoever may read() and
 * write() any descriptor gains nothing by doing it on a ring.
 */
static int restrict_ring(struct uring *u, bool no_accept)
{
	static const uint8_t opcodes[] = {
		IORING_OP_READV,   IORING_OP_WRITEV,  IORING_OP_READ,	IORING_OP_WRITE,
		IORING_OP_FSYNC,   IORING_OP_FALLOCATE, IORING_OP_RECVMSG, IORING_OP_SENDMSG,
		IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL, IORING_OP_ACCEPT /* last */,
	};
	struct io_uring_restriction res[ARRAY_SIZE(opcodes) + 1] = { 0 };
	unsigned num = ARRAY_SIZE(opcodes) - no_accept;

	for (unsigned i = 0; i < num; i++) {
		res[i].opcode = IORING_RESTRICTION_SQE_OP;
		res[i].sqe_op = opcodes[i];
	}
	res[num].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	res[num].sqe_flags = IOSQE_CQE_SKIP_SUCCESS;
	return io_uring_register_restrictions(&u->ring, res, num + 1);
}

static int create_ring(struct uring *u, const struct loop_params *params)
{
	unsigned entries = params->entries ? params->entries : DEFAULT_ENTRIES;
	/* The newest first; Linux 6.1, 5.19 and 5.11 know each set. */
	static const unsigned flags[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
		0,
	};
	int r = -EINVAL;

	for (unsigned i = 0; i < ARRAY_SIZE(flags) && r == -EINVAL; i++) {
		struct io_uring_params p = {
			.flags = flags[i] | IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP,
		};

		r = io_uring_queue_init_params(entries, &u->ring, &p);
		u->skip_success = p.features & IORING_FEAT_CQE_SKIP;
	}
	if (r < 0)
		return r;
	/* Timeouts as arguments (5.11), and completions that are never dropped. */
	if (!(u->ring.features & IORING_FEAT_EXT_ARG) || !(u->ring.features & IORING_FEAT_NODROP))
		r = -ENOSYS;
	else
		r = restrict_ring(u, params->no_accept);
	if (r < 0)
		io_uring_queue_exit(&u->ring);
	return r;
}

static int uring_create(struct loop *loop, const struct loop_params *params, struct error *err)
{
	struct uring *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return error_set(err, -ENOMEM, "event loop: %m");
	list_init(&u->queue);
	list_init(&u->inflight);
	r = create_ring(u, params);
	if (r < 0) {
		free(u);
		error_set(err, r, "io_uring is not to be had on this host: %m");
		error_hint(err, "see 'wisp doctor'; the epoll back end works without it");
		return r;
	}
	loop->backend = u;
	return 0;
}

static void uring_submit(struct loop *loop, struct loop_op *op)
{
	struct uring *u = loop->backend;

	op->priv[PRIV_CANCELLED] = false;
	op->priv[PRIV_POLL] = op->kind == LOOP_OP_EVENT && op->priv[PRIV_POLL_FIRST];
	list_add_tail(&u->queue, &op->link);
}

static void queue_again(struct uring *u, struct loop_op *op, bool poll_first)
{
	op->state = LOOP_OP_QUEUED;
	op->priv[PRIV_POLL] = poll_first;
	list_add_tail(&u->queue, &op->link);
}

static void completed(struct loop *loop, struct loop_op *op, int res)
{
	struct uring *u = loop->backend;

	list_del(&op->link);
	if (op->priv[PRIV_CANCELLED] &&
	    (op->priv[PRIV_POLL] || res == -EAGAIN || res == -EINTR)) {
		loop_complete(loop, op, -ECANCELED);
	} else if (res == -EINTR) {
		/* The kernel's worker was called to something else while it wrote to a terminal. */
		queue_again(u, op, op->priv[PRIV_POLL]);
	} else if (op->priv[PRIV_POLL] && res >= 0) {
		queue_again(u, op, false);
	} else if (res == -EAGAIN && loop_op_waits(op)) {
		/* O_NONBLOCK: io_uring does not wait for such a file by itself. */
		op->priv[PRIV_POLL_FIRST] = true;
		queue_again(u, op, true);
	} else {
		loop_complete(loop, op, res);
	}
}

static void reap(struct loop *loop)
{
	struct uring *u = loop->backend;
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe (&u->ring, head, cqe) {
		struct loop_op *op = io_uring_cqe_get_data(cqe);

		/* Signals and cancellations have no operation. */
		if (op)
			completed(loop, op, cqe->res);
		n++;
	}
	io_uring_cq_advance(&u->ring, n);
}

/* Nothing goes on without the ring: these are errors of ours, not of a guest. */
static void check_enter(struct loop *loop, int r)
{
	if (r >= 0 || r == -EINTR || r == -ETIME || r == -EAGAIN || r == -EBUSY)
		return;
	log_error("loop '%s': io_uring_enter: %s", loop->name, strerror(-r));
	abort();
}

/* An entry of the ring, submitting what is in it when it is full. Enabled ring only. */
static struct io_uring_sqe *get_sqe(struct loop *loop)
{
	struct uring *u = loop->backend;
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&u->ring))) {
		check_enter(loop, io_uring_submit_and_get_events(&u->ring));
		/* Room for completions, or an older kernel takes no more. */
		reap(loop);
	}
	return sqe;
}

static void no_completion(const struct uring *u, struct io_uring_sqe *sqe)
{
	io_uring_sqe_set_data(sqe, NULL);
	if (u->skip_success)
		sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

static void prepare(struct io_uring_sqe *sqe, struct loop_op *op)
{
	if (op->priv[PRIV_POLL]) {
		io_uring_prep_poll_add(sqe, op->fd, (unsigned short)loop_op_readiness(op));
		io_uring_sqe_set_data(sqe, op);
		return;
	}
	switch ((enum loop_op_kind)op->kind) {
	case LOOP_OP_READV:
		io_uring_prep_readv(sqe, op->fd, op->iov, op->len, op->offset);
		break;
	case LOOP_OP_WRITEV:
		io_uring_prep_writev(sqe, op->fd, op->iov, op->len, op->offset);
		break;
	case LOOP_OP_READ:
	case LOOP_OP_EVENT:
		io_uring_prep_read(sqe, op->fd, op->buf, op->len, op->offset);
		break;
	case LOOP_OP_WRITE:
		io_uring_prep_write(sqe, op->fd, op->buf, op->len, op->offset);
		break;
	case LOOP_OP_FSYNC:
		io_uring_prep_fsync(sqe, op->fd, op->flags ? IORING_FSYNC_DATASYNC : 0);
		break;
	case LOOP_OP_FALLOCATE:
		io_uring_prep_fallocate(sqe, op->fd, op->flags, op->offset, op->len);
		break;
	case LOOP_OP_RECVMSG:
		io_uring_prep_recvmsg(sqe, op->fd, op->msg, op->len);
		break;
	case LOOP_OP_SENDMSG:
		io_uring_prep_sendmsg(sqe, op->fd, op->msg, op->len | MSG_NOSIGNAL);
		break;
	case LOOP_OP_ACCEPT:
		io_uring_prep_accept(sqe, op->fd, NULL, NULL, SOCK_CLOEXEC);
		break;
	case LOOP_OP_POLL:
		io_uring_prep_poll_add(sqe, op->fd, op->flags);
		break;
	}
	io_uring_sqe_set_data(sqe, op);
}

static void uring_cancel(struct loop *loop, struct loop_op *op)
{
	struct uring *u = loop->backend;
	struct io_uring_sqe *sqe;

	if (op->state == LOOP_OP_QUEUED) {
		list_del(&op->link);
		loop_complete(loop, op, -ECANCELED);
		return;
	}
	if (op->priv[PRIV_CANCELLED])
		return;
	op->priv[PRIV_CANCELLED] = true;
	sqe = get_sqe(loop);
	/*
	 * It may have been reaped right now. The entry must not be wasted, and is
	 * harmless: it is carried out before @op can be submitted again.
	 */
	io_uring_prep_cancel(sqe, op, 0);
	no_completion(u, sqe);
}

static void uring_signal(struct loop *loop, int fd)
{
	struct uring *u = loop->backend;
	struct io_uring_sqe *sqe = u->enabled ? get_sqe(loop) : io_uring_get_sqe(&u->ring);

	if (!sqe) {
		/* -EAGAIN: the count is full, so whoever reads it will see it. */
		eventfd_write(fd, one);
		return;
	}
	io_uring_prep_write(sqe, fd, &one, sizeof(one), -1);
	no_completion(u, sqe);
}

static void enable(struct loop *loop)
{
	struct uring *u = loop->backend;

	check_enter(loop, io_uring_enable_rings(&u->ring));
	u->enabled = true;
}

static void start_queued(struct loop *loop)
{
	struct uring *u = loop->backend;
	struct list batch;

	/* get_sqe() may put more into the queue: those wait for the next round. */
	list_init(&batch);
	list_move_all(&batch, &u->queue);
	while (!list_empty(&batch)) {
		struct loop_op *op = list_entry(batch.next, struct loop_op, link);
		struct io_uring_sqe *sqe = get_sqe(loop);

		prepare(sqe, op);
		list_del(&op->link);
		op->state = LOOP_OP_INFLIGHT;
		list_add_tail(&u->inflight, &op->link);
	}
}

static void enter(struct loop *loop, uint64_t timeout_ns)
{
	struct uring *u = loop->backend;
	int r;

	if (!timeout_ns) {
		r = io_uring_submit_and_get_events(&u->ring);
	} else if (timeout_ns == UINT64_MAX) {
		r = io_uring_submit_and_wait(&u->ring, 1);
	} else {
		struct __kernel_timespec ts = {
			.tv_sec = timeout_ns / NSEC_PER_SEC,
			.tv_nsec = timeout_ns % NSEC_PER_SEC,
		};
		struct io_uring_cqe *cqe;

		r = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
	}
	check_enter(loop, r);
	reap(loop);
}

static void uring_wait(struct loop *loop, uint64_t timeout_ns)
{
	struct uring *u = loop->backend;

	if (!u->enabled)
		enable(loop);
	start_queued(loop);
	/* A full ring may have been emptied on the way, with results. */
	if (!list_empty(&loop->completed) || !list_empty(&u->queue))
		timeout_ns = 0;
	enter(loop, timeout_ns);
}

/*
 * The kernel may write into buffers until an operation has ended: end them all.
 * Only the owner can; from elsewhere closing the ring has to do, as work of a
 * DEFER_TASKRUN ring is never carried out after it.
 */
static void end_all(struct loop *loop)
{
	struct uring *u = loop->backend;
	struct io_uring_sqe *sqe;
	struct list *pos;

	while (!list_empty(&u->inflight)) {
		list_for_each(pos, &u->inflight) {
			struct loop_op *op = list_entry(pos, struct loop_op, link);

			if (op->priv[PRIV_CANCELLED])
				continue;
			sqe = io_uring_get_sqe(&u->ring);
			if (!sqe)
				break;
			op->priv[PRIV_CANCELLED] = true;
			io_uring_prep_cancel(sqe, op, 0);
			no_completion(u, sqe);
		}
		enter(loop, UINT64_MAX);
	}
}

static void uring_free(struct loop *loop)
{
	struct uring *u = loop->backend;

	if (u->enabled && loop_is_mine(loop))
		end_all(loop);
	io_uring_queue_exit(&u->ring);
	free(u);
	loop->backend = NULL;
}

/* The mappings would keep the parent's ring, with all that is in flight on it. */
static void uring_abandon(struct loop *loop)
{
	struct uring *u = loop->backend;

	io_uring_queue_exit(&u->ring);
}

const struct loop_backend_ops loop_uring_ops = {
	.backend = LOOP_URING,
	.create = uring_create,
	.free = uring_free,
	.abandon = uring_abandon,
	.submit = uring_submit,
	.cancel = uring_cancel,
	.signal = uring_signal,
	.wait = uring_wait,
};
