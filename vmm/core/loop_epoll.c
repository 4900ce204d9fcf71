/*
 * The loop over epoll, for hosts where io_uring is forbidden.
 *
 * An operation is tried without blocking right before the wait of its round; if
 * the file is not ready it waits with others of the same descriptor and is
 * tried again when epoll reports an edge. Registration is edge-triggered, so
 * that it costs nothing while nobody waits; it is renewed whenever a first
 * operation comes to wait, since the descriptor may by then be another file
 * (only events, which own theirs from watch to idle, rely on the old one).
 * What cannot be waited for (regular files, fsync) goes to worker threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/core/io.h"
#include "vmm/core/loop_internal.h"
#include "vmm/core/loop_workers.h"

#define MAX_EVENTS 32

/* loop_op.priv of an event: the registration it relies on. */
#define PRIV_SERIAL 3

struct epoll_fd {
	struct list waiting;   /* struct loop_op, oldest first */
	short armed;	       /* registered for these (POLLIN, ...) */
	bool plain;	       /* has no RWF_NOWAIT: look with poll(2) first */
	uint64_t serial;       /* of the registration; 0: there is none */
};

struct epoll {
	int fd;
	uint64_t serial;
	struct list queue; /* submitted, not yet tried */
	struct epoll_fd **fds; /* by descriptor */
	size_t num_fds;
	struct loop_workers *workers; /* NULL until one is needed */
	struct loop_workers_params workers_params;
};

static int epoll_backend_create(struct loop *loop, const struct loop_params *params,
				struct error *err)
{
	struct epoll *ep = calloc(1, sizeof(*ep));
	int r;

	if (!ep)
		return error_set(err, -ENOMEM, "event loop: %m");
	list_init(&ep->queue);
	ep->workers_params = params->workers;
	ep->fd = epoll_create1(EPOLL_CLOEXEC);
	if (ep->fd < 0) {
		r = error_set(err, -errno, "event loop '%s': epoll: %m", loop->name);
		free(ep);
		return r;
	}
	loop->backend = ep;
	return 0;
}

static void epoll_backend_free(struct loop *loop)
{
	struct epoll *ep = loop->backend;

	loop_workers_free(ep->workers);
	for (size_t i = 0; i < ep->num_fds; i++)
		free(ep->fds[i]);
	free(ep->fds);
	close(ep->fd);
	free(ep);
	loop->backend = NULL;
}

static struct epoll_fd *get_fd(struct epoll *ep, int fd)
{
	struct epoll_fd *f;

	if ((size_t)fd >= ep->num_fds) {
		size_t num = MAX((size_t)fd + 1, ep->num_fds * 2);
		struct epoll_fd **grown = realloc(ep->fds, num * sizeof(*grown));

		if (!grown)
			return NULL;
		memset(grown + ep->num_fds, 0, (num - ep->num_fds) * sizeof(*grown));
		ep->fds = grown;
		ep->num_fds = num;
	}
	f = ep->fds[fd];
	if (!f) {
		f = ep->fds[fd] = calloc(1, sizeof(*f));
		if (f)
			list_init(&f->waiting);
	}
	return f;
}

/* ---- trying ---- */

static bool is_ready(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	return poll(&p, 1, 0) > 0;
}

/*
 * A write that may not block, to a file that is ready but knows no RWF_NOWAIT:
 * a pipe or terminal has promised room for PIPE_BUF bytes only. All others
 * (a tap, where a write is a frame) take all or refuse.
 */
static ssize_t write_plain(int fd, const struct iovec *iov, unsigned n)
{
	int flags = fcntl(fd, F_GETFL);
	struct iovec first;
	struct stat st;

	if (flags < 0 || flags & O_NONBLOCK || fstat(fd, &st) < 0 ||
	    !(S_ISFIFO(st.st_mode) || isatty(fd)))
		return io_writev(fd, iov, n);
	while (n > 1 && !iov->iov_len) {
		iov++;
		n--;
	}
	first = *iov;
	first.iov_len = MIN(first.iov_len, (size_t)PIPE_BUF);
	return io_writev(fd, &first, 1);
}

/*
 * Data of a stream in one direction. RWF_NOWAIT never blocks, whatever the
 * descriptor's flags; files without it (terminals, pipes of older kernels) are
 * asked by poll(2).
 */
static ssize_t try_transfer(struct epoll_fd *f, int fd, const struct iovec *iov, unsigned n,
			    bool write)
{
	ssize_t r;

	if (!f || !f->plain) {
		r = write ? pwritev2(fd, iov, n, -1, RWF_NOWAIT)
			  : preadv2(fd, iov, n, -1, RWF_NOWAIT);
		if (r >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS))
			return r < 0 ? -errno : r;
		/* Wait first: if it cannot be waited for, it is one for the workers. */
		if (!f || !f->serial)
			return -EAGAIN;
		f->plain = true;
	}
	if (!is_ready(fd, write ? POLLOUT : POLLIN))
		return -EAGAIN;
	r = write ? write_plain(fd, iov, n) : io_readv(fd, iov, n);
	return r < 0 ? -errno : r;
}

static int try_poll(const struct loop_op *op)
{
	struct pollfd p = { .fd = op->fd, .events = (short)op->flags };
	int r = poll(&p, 1, 0);

	if (r < 0)
		return -errno;
	if (r == 0)
		return -EAGAIN;
	return p.revents & POLLNVAL ? -EBADF : p.revents;
}

/* The result of @op, or -EAGAIN: not ready. */
static int try_op(struct epoll_fd *f, struct loop_op *op)
{
	struct iovec iov = { .iov_base = op->buf, .iov_len = op->len };
	ssize_t r = -EINVAL;

	switch ((enum loop_op_kind)op->kind) {
	case LOOP_OP_READV:
	case LOOP_OP_WRITEV:
		return try_transfer(f, op->fd, op->iov, op->len, op->kind == LOOP_OP_WRITEV);
	case LOOP_OP_READ:
	case LOOP_OP_WRITE:
	case LOOP_OP_EVENT:
		return try_transfer(f, op->fd, &iov, 1, op->kind == LOOP_OP_WRITE);
	case LOOP_OP_RECVMSG:
		r = recvmsg(op->fd, op->msg, op->len | MSG_DONTWAIT);
		break;
	case LOOP_OP_SENDMSG:
		r = sendmsg(op->fd, op->msg, op->len | MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case LOOP_OP_ACCEPT:
		/* Nobody else accepts: what poll(2) has seen is still there. */
		if (!is_ready(op->fd, POLLIN))
			return -EAGAIN;
		r = accept4(op->fd, NULL, NULL, SOCK_CLOEXEC);
		break;
	case LOOP_OP_POLL:
		return try_poll(op);
	case LOOP_OP_FSYNC:
	case LOOP_OP_FALLOCATE:
		break;
	}
	return r < 0 ? -errno : r;
}

/* ---- waiting ---- */

static uint32_t epoll_events(short events)
{
	/* The POLL* and EPOLL* values of these are the same. */
	return (uint16_t)events & (EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP);
}

/* Register @fd for @events beside what others wait for. Reports readiness that is there already. */
static int arm(struct epoll *ep, struct epoll_fd *f, int fd, short events)
{
	struct epoll_event e = { .data.fd = fd };
	struct list *pos;
	int r;

	list_for_each(pos, &f->waiting)
		events |= loop_op_readiness(list_entry(pos, struct loop_op, link));
	e.events = epoll_events(events) | EPOLLET;
	r = f->serial ? epoll_ctl(ep->fd, EPOLL_CTL_MOD, fd, &e) : -1;
	if (r < 0)
		r = epoll_ctl(ep->fd, EPOLL_CTL_ADD, fd, &e);
	if (r < 0 && errno == EEXIST)
		r = epoll_ctl(ep->fd, EPOLL_CTL_MOD, fd, &e);
	f->plain = false;
	f->armed = r < 0 ? 0 : events;
	f->serial = r < 0 ? 0 : ++ep->serial;
	return r < 0 ? -errno : 0;
}

static void give_to_worker(struct loop *loop, struct loop_op *op)
{
	struct epoll *ep = loop->backend;

	op->state = LOOP_OP_INFLIGHT;
	if (!ep->workers)
		ep->workers = loop_workers_create(loop->wake_fd, &ep->workers_params);
	if (!ep->workers)
		loop_complete(loop, op, -ENOMEM);
	else
		loop_workers_submit(ep->workers, op);
}

/* @op was not ready: have it tried again when its file is. */
static void wait_for(struct loop *loop, struct loop_op *op)
{
	struct epoll *ep = loop->backend;
	struct epoll_fd *f = op->fd < 0 ? NULL : get_fd(ep, op->fd);
	short events = loop_op_readiness(op);
	bool relied;
	int r = 0;

	if (!f) {
		loop_complete(loop, op, op->fd < 0 ? -EBADF : -ENOMEM);
		return;
	}
	relied = !list_empty(&f->waiting) ||
		 (op->kind == LOOP_OP_EVENT && op->priv[PRIV_SERIAL] == f->serial);
	if (!f->serial || !relied || (f->armed & events) != events)
		r = arm(ep, f, op->fd, events);
	if (r == -EPERM) {
		/* No such thing as readiness: a regular file, or /dev/null. */
		if (op->kind == LOOP_OP_POLL)
			loop_complete(loop, op, events & (POLLIN | POLLOUT));
		else
			give_to_worker(loop, op);
		return;
	}
	if (r < 0) {
		loop_complete(loop, op, r);
		return;
	}
	if (op->kind == LOOP_OP_EVENT)
		op->priv[PRIV_SERIAL] = f->serial;
	op->state = LOOP_OP_POLLING;
	list_add_tail(&f->waiting, &op->link);
}

static void epoll_submit(struct loop *loop, struct loop_op *op)
{
	struct epoll *ep = loop->backend;

	list_add_tail(&ep->queue, &op->link);
}

static bool has_position(const struct loop_op *op)
{
	switch ((enum loop_op_kind)op->kind) {
	case LOOP_OP_READV:
	case LOOP_OP_READ:
	case LOOP_OP_WRITEV:
	case LOOP_OP_WRITE:
		return op->offset != UINT64_MAX;
	case LOOP_OP_FSYNC:
	case LOOP_OP_FALLOCATE:
		return true;
	default:
		return false;
	}
}

/* What is in the page cache needs no worker. True when @op has its result. */
static bool read_cached(struct loop *loop, struct loop_op *op)
{
	struct iovec iov = { .iov_base = op->buf, .iov_len = op->len };
	ssize_t r = -1;

	if (op->kind == LOOP_OP_READV)
		r = preadv2(op->fd, op->iov, op->len, op->offset, RWF_NOWAIT);
	else if (op->kind == LOOP_OP_READ)
		r = preadv2(op->fd, &iov, 1, op->offset, RWF_NOWAIT);
	if (r <= 0)
		return false;
	loop_complete(loop, op, r);
	return true;
}

static void start(struct loop *loop, struct loop_op *op)
{
	struct epoll *ep = loop->backend;
	struct epoll_fd *f = NULL;
	int r;

	if (has_position(op)) {
		if (!read_cached(loop, op))
			give_to_worker(loop, op);
		return;
	}
	/* An event is read when it is reported, not before. */
	if (op->kind != LOOP_OP_EVENT) {
		if (op->fd >= 0 && (size_t)op->fd < ep->num_fds)
			f = ep->fds[op->fd];
		/* What was learnt about the descriptor holds while somebody waits for it. */
		if (f && list_empty(&f->waiting))
			f = NULL;
		r = try_op(f, op);
		if (r != -EAGAIN || !loop_op_waits(op)) {
			loop_complete(loop, op, r);
			return;
		}
	}
	wait_for(loop, op);
}

static void epoll_cancel(struct loop *loop, struct loop_op *op)
{
	struct epoll *ep = loop->backend;

	if (op->state == LOOP_OP_INFLIGHT && !loop_workers_cancel(ep->workers, op))
		return; /* being carried out */
	if (op->state != LOOP_OP_INFLIGHT)
		list_del(&op->link);
	loop_complete(loop, op, -ECANCELED);
}

static void epoll_signal(struct loop *loop, int fd)
{
	/* -EAGAIN: the count is full, so whoever reads it will see it. */
	eventfd_write(fd, 1);
}

static void on_edge(struct loop *loop, int fd)
{
	struct epoll *ep = loop->backend;
	struct epoll_fd *f = ep->fds[fd];
	struct list *pos, *next;

	if (list_empty(&f->waiting)) {
		/* Nobody cares any more; do not be woken again. */
		epoll_ctl(ep->fd, EPOLL_CTL_DEL, fd, NULL);
		f->serial = 0;
		return;
	}
	list_for_each_safe(pos, next, &f->waiting) {
		struct loop_op *op = list_entry(pos, struct loop_op, link);
		int r = try_op(f, op);

		if (r == -EAGAIN)
			continue;
		list_del(&op->link);
		loop_complete(loop, op, r);
	}
}

static int timeout_ms(uint64_t timeout_ns)
{
	if (timeout_ns == UINT64_MAX)
		return -1;
	if (!timeout_ns)
		return 0;
	/* Rounded up: early would mean waiting again, many times. */
	return MIN((timeout_ns - 1) / NSEC_PER_MSEC + 1, (uint64_t)INT_MAX);
}

static void epoll_backend_wait(struct loop *loop, uint64_t timeout_ns)
{
	struct epoll *ep = loop->backend;
	struct epoll_event events[MAX_EVENTS];
	int n;

	while (!list_empty(&ep->queue)) {
		struct loop_op *op = list_entry(ep->queue.next, struct loop_op, link);

		list_del(&op->link);
		start(loop, op);
	}
	if (!list_empty(&loop->completed))
		timeout_ns = 0;
	n = epoll_wait(ep->fd, events, MAX_EVENTS, timeout_ms(timeout_ns));
	for (int i = 0; i < n; i++)
		on_edge(loop, events[i].data.fd);
	if (ep->workers)
		loop_workers_reap(ep->workers, loop);
}

const struct loop_backend_ops loop_epoll_ops = {
	.backend = LOOP_EPOLL,
	.create = epoll_backend_create,
	.free = epoll_backend_free,
	.submit = epoll_submit,
	.cancel = epoll_cancel,
	.signal = epoll_signal,
	.wait = epoll_backend_wait,
};
