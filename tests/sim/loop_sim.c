#include "tests/sim/loop_sim.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/core/loop_internal.h"

#define SECTOR	    512u
#define MAX_SIGNALS 256u
#define MAX_IDLE    10000u /* waits in a row without anything, when a loop waits for ever */

struct sim_backend {
	struct list pending; /* submitted, not carried out */
	struct list carried; /* carried out, op->res is known, not delivered */
	int signal[MAX_SIGNALS];
	unsigned num_signals;
	unsigned idle;
};

/* Loops are made deep inside of what is tested, so they find it here. */
static struct loop_sim *sim;

void loop_sim_use(struct loop_sim *s)
{
	sim = s;
}

static unsigned length(const struct list *l)
{
	struct list *pos;
	unsigned n = 0;

	list_for_each(pos, l) {
		const struct loop_op *op = list_entry(pos, struct loop_op, link);

		n += op->kind != LOOP_OP_EVENT && op->kind != LOOP_OP_POLL;
	}
	return n;
}

unsigned loop_sim_outstanding(const struct loop *loop)
{
	const struct sim_backend *b = loop->backend;

	return length(&b->pending) + length(&b->carried) + length(&loop->completed);
}

static int sim_create(struct loop *loop, const struct loop_params *params, struct error *err)
{
	struct sim_backend *b = calloc(1, sizeof(*b));

	if (!b || sim->num_loops == LOOP_SIM_MAX_LOOPS)
		abort();
	list_init(&b->pending);
	list_init(&b->carried);
	loop->backend = b;
	sim->loop[sim->num_loops++] = loop;
	return 0;
}

static void sim_free(struct loop *loop)
{
	unsigned i;

	if (loop_sim_outstanding(loop))
		sim->wrong("loop '%s' is freed with %u operations outstanding", loop->name,
			   loop_sim_outstanding(loop));
	for (i = 0; sim->loop[i] != loop; i++)
		;
	sim->loop[i] = sim->loop[--sim->num_loops];
	free(loop->backend);
	loop->backend = NULL;
}

static void sim_submit(struct loop *loop, struct loop_op *op)
{
	struct sim_backend *b = loop->backend;

	op->state = LOOP_OP_INFLIGHT;
	list_add_tail(&b->pending, &op->link);
	sim->operations++;
}

static void sim_cancel(struct loop *loop, struct loop_op *op)
{
	struct sim_backend *b = loop->backend;
	struct list *pos;

	/* What has been carried out cannot be taken back. */
	list_for_each(pos, &b->carried) {
		if (pos == &op->link)
			return;
	}
	list_del(&op->link);
	loop_complete(loop, op, -ECANCELED);
}

static void sim_signal(struct loop *loop, int fd)
{
	struct sim_backend *b = loop->backend;

	/* At once, as by a system call, or with the next submission, as by a ring. */
	if (b->num_signals == MAX_SIGNALS || chance_percent(sim->chance, 30))
		eventfd_write(fd, 1);
	else
		b->signal[b->num_signals++] = fd;
}

/* ---- carrying out ---- */

static bool ready(const struct loop_op *op)
{
	struct pollfd p = { .fd = op->fd, .events = loop_op_readiness(op) };

	return poll(&p, 1, 0) > 0;
}

static bool is_file_io(const struct loop_op *op)
{
	switch ((enum loop_op_kind)op->kind) {
	case LOOP_OP_READV:
	case LOOP_OP_WRITEV:
	case LOOP_OP_READ:
	case LOOP_OP_WRITE:
		return op->offset != UINT64_MAX;
	case LOOP_OP_FSYNC:
	case LOOP_OP_FALLOCATE:
		return true;
	default:
		return false;
	}
}

static ssize_t transfer(const struct loop_op *op, const struct iovec *iov, unsigned num)
{
	bool in = op->kind == LOOP_OP_READV || op->kind == LOOP_OP_READ ||
		  op->kind == LOOP_OP_EVENT;

	if (op->offset == UINT64_MAX)
		return in ? readv(op->fd, iov, (int)num) : writev(op->fd, iov, (int)num);
	return in ? preadv(op->fd, iov, (int)num, (off_t)op->offset) :
		    pwritev(op->fd, iov, (int)num, (off_t)op->offset);
}

/* Of a transfer of more than a sector only the first, as at a full medium or a signal. */
static int transfer_some(const struct loop_op *op, const struct iovec *iov, unsigned num)
{
	struct iovec first = iov[0];

	first.iov_len = MIN(first.iov_len, (size_t)SECTOR);
	if (num == 0 || first.iov_len % SECTOR)
		return (int)transfer(op, iov, num);
	return (int)transfer(op, &first, 1);
}

static int carry_out(const struct loop_op *op)
{
	struct iovec one = { .iov_base = op->buf, .iov_len = op->len };
	bool vector = op->kind == LOOP_OP_READV || op->kind == LOOP_OP_WRITEV;
	ssize_t r = 0;

	if (is_file_io(op) && chance_percent(sim->chance, sim->fault_percent)) {
		sim->faults++;
		if (op->kind == LOOP_OP_FSYNC || op->kind == LOOP_OP_FALLOCATE)
			return -EIO;
		if (chance_percent(sim->chance, 50))
			return op->kind == LOOP_OP_WRITEV ? -ENOSPC : -EIO;
		r = vector ? transfer_some(op, op->iov, op->len) : transfer_some(op, &one, 1);
		return r < 0 ? -errno : (int)r;
	}
	switch ((enum loop_op_kind)op->kind) {
	case LOOP_OP_READV:
	case LOOP_OP_WRITEV:
		r = transfer(op, op->iov, op->len);
		break;
	case LOOP_OP_READ:
	case LOOP_OP_WRITE:
	case LOOP_OP_EVENT:
		r = transfer(op, &one, 1);
		break;
	case LOOP_OP_FSYNC:
		break; /* there is no power to fail */
	case LOOP_OP_FALLOCATE:
		r = fallocate(op->fd, op->flags, (off_t)op->offset, (off_t)op->len);
		break;
	case LOOP_OP_RECVMSG:
		r = recvmsg(op->fd, op->msg, (int)op->len);
		break;
	case LOOP_OP_SENDMSG:
		r = sendmsg(op->fd, op->msg, (int)op->len | MSG_NOSIGNAL);
		break;
	case LOOP_OP_ACCEPT:
		r = accept4(op->fd, NULL, NULL, SOCK_CLOEXEC);
		break;
	case LOOP_OP_POLL:
		r = op->flags;
		break;
	}
	return r < 0 ? -errno : (int)r;
}

/* Go through @from in an order of chance; each that is due is done(). */
static void some_of(struct loop *loop, struct list *from, bool all,
		    void (*done)(struct loop *loop, struct loop_op *op))
{
	struct list *pos, *next, chosen;

	list_init(&chosen);
	list_for_each_safe(pos, next, from) {
		struct loop_op *op = list_entry(pos, struct loop_op, link);

		if (!all && chance_percent(sim->chance, 40))
			continue;
		if (from == &((struct sim_backend *)loop->backend)->pending && !is_file_io(op) &&
		    !ready(op))
			continue;
		list_del(&op->link);
		if (chance_percent(sim->chance, 50))
			list_add_tail(&chosen, &op->link);
		else
			list_add_tail(chosen.next, &op->link);
	}
	while (!list_empty(&chosen)) {
		struct loop_op *op = list_entry(chosen.next, struct loop_op, link);

		list_del(&op->link);
		done(loop, op);
	}
}

static void carry(struct loop *loop, struct loop_op *op)
{
	struct sim_backend *b = loop->backend;

	op->res = carry_out(op);
	if (op->kind != LOOP_OP_EVENT)
		sim->trace("    %s: operation %u: %d", loop->name, op->kind, op->res);
	list_add_tail(&b->carried, &op->link);
}

static void hand_over(struct loop *loop, struct loop_op *op)
{
	loop_complete(loop, op, op->res);
}

static void step(struct loop *loop, bool all)
{
	struct sim_backend *b = loop->backend;

	some_of(loop, &b->pending, all, carry);
	some_of(loop, &b->carried, all, hand_over);
}

static void let_others_run(struct loop *loop)
{
	struct sim_backend *b = loop->backend;

	if (++b->idle > MAX_IDLE)
		sim->wrong("loop '%s' waits for ever", loop->name);
	for (unsigned i = 0; i < sim->num_loops; i++) {
		if (sim->loop[i] != loop)
			loop_run_once(sim->loop[i], 0);
	}
}

static void sim_wait(struct loop *loop, uint64_t timeout_ns)
{
	struct sim_backend *b = loop->backend;

	for (unsigned i = 0; i < b->num_signals; i++)
		eventfd_write(b->signal[i], 1);
	b->num_signals = 0;
	step(loop, sim->hurry);
	if (list_empty(&loop->completed) && timeout_ns)
		step(loop, true);
	if (!list_empty(&loop->completed) || !timeout_ns)
		b->idle = 0;
	else
		let_others_run(loop);
}

const struct loop_backend_ops loop_epoll_ops = {
	.backend = LOOP_EPOLL,
	.create = sim_create,
	.free = sim_free,
	.submit = sim_submit,
	.cancel = sim_cancel,
	.signal = sim_signal,
	.wait = sim_wait,
};
