/*
 * A disk's way back to its NBD server. The monitor connects to nobody: it asks the dialer, which
 * answers with a socket over which the export has been agreed on. Meanwhile requests wait, up to
 * a limit that counts from the loss to the next answer, since a server that takes connections
 * and drops them is not back. Beyond it they fail, and one of them a second is reason to try
 * once more. A guest that ends or resets the disk does not wait: they fail then, too.
 *
 * A server that comes back is believed to have what it had acknowledged. One that has lost
 * writes from its own cache has lost them for the guest too.
 */
#include <errno.h>
#include <unistd.h>

#include "devices/block_nbd_internal.h"
#include "vmm/core/log.h"

#define REST_NS	    NSEC_PER_SEC
#define PATIENCE_NS (5 * NSEC_PER_SEC) /* with a server that has been given up */

static void dial(struct block_nbd *n);

static uint64_t now(const struct block_nbd *n)
{
	return clock_monotonic_ns(loop_clock(n->b.loop));
}

static void give_up(struct block_nbd *n)
{
	struct nbd_redial *d = &n->redial;

	if (!d->given_up)
		log_limited(&d->limit, LOG_ERROR,
			    "disk '%s': its server does not come back; requests fail", n->b.path);
	d->given_up = true;
	n->link = NBD_DOWN;
	loop_timer_cancel(n->b.loop, &d->timer);
	nbd_fail_all(n);
}

/* Until the next question, or the limit. */
static void rest(struct block_nbd *n)
{
	struct nbd_redial *d = &n->redial;

	n->link = NBD_RESTING;
	loop_timer_set(n->b.loop, &d->timer, MIN(d->next_ns, d->deadline_ns));
}

/* Until there is a request again, for what is left of the limit. */
static void stand_by(struct block_nbd *n)
{
	n->link = NBD_DOWN;
	loop_timer_cancel(n->b.loop, &n->redial.timer);
	nbd_fail_all(n);
}

/* There is no connection: ask for one, now or a little later, or give up. */
static void go_on(struct block_nbd *n)
{
	struct nbd_redial *d = &n->redial;

	/* Who had been given up has one chance at a time. */
	if (d->fd < 0 || d->given_up || now(n) >= d->deadline_ns)
		give_up(n);
	else if (d->hurried)
		stand_by(n);
	else if (now(n) >= d->next_ns)
		dial(n);
	else
		rest(n);
}

/* ---- a connection that is lost ---- */

void nbd_lost(struct block_nbd *n, const char *why)
{
	struct nbd_redial *d = &n->redial;

	if (n->link == NBD_UP) {
		if (!d->deadline_ns) {
			log_limited(&d->limit, LOG_WARN, "disk '%s': its server is gone (%s)",
				    n->b.path, why);
			d->deadline_ns = now(n) + d->limit_ns;
			d->next_ns = 0;
		}
		n->link = NBD_BREAKING;
		loop_timer_cancel(n->b.loop, &n->silence);
		loop_timer_cancel(n->b.loop, &d->timer);
		if (n->out.busy)
			loop_cancel(n->b.loop, &n->out.op);
		if (n->in.busy)
			loop_cancel(n->b.loop, &n->in.op);
	}
	/* Buffers are given back when no transfer is under way. */
	if (n->link != NBD_BREAKING || n->out.busy || n->in.busy)
		return;
	close(n->fd);
	n->fd = -1;
	nbd_take_back(n);
	go_on(n);
}

void nbd_proven(struct block_nbd *n)
{
	struct nbd_redial *d = &n->redial;

	if (!d->deadline_ns)
		return;
	log_limited(&d->limit, LOG_WARN, "disk '%s': its server is back", n->b.path);
	d->deadline_ns = 0;
	d->given_up = false;
	loop_timer_cancel(n->b.loop, &d->timer);
}

bool nbd_may_wait(struct block_nbd *n)
{
	struct nbd_redial *d = &n->redial;

	if (n->link != NBD_DOWN)
		return true;
	if (d->fd >= 0 && !d->given_up && now(n) < d->deadline_ns) {
		go_on(n);
		/* Its time may have ended just now. */
		return n->link != NBD_DOWN;
	}
	if (d->fd < 0 || now(n) < d->next_ns)
		return false;
	d->deadline_ns = now(n) + PATIENCE_NS;
	dial(n);
	return true;
}

void nbd_hurry(struct block_nbd *n)
{
	n->redial.hurried = true;
	switch (n->link) {
	case NBD_UP:
		if (n->redial.deadline_ns && nbd_is_asked(n))
			nbd_lost(n, "nobody waits for it");
		else
			nbd_heard(n);
		break;
	case NBD_DIALING:
		loop_cancel(n->b.loop, &n->redial.op);
		break;
	case NBD_RESTING:
		stand_by(n);
		break;
	case NBD_BREAKING:
	case NBD_DOWN:
		break;
	}
}

static void expired(struct loop_timer *t)
{
	struct block_nbd *n = container_of(t, struct block_nbd, redial.timer);

	switch (n->link) {
	case NBD_UP:
		/* One that was asked nothing has kept nobody waiting. */
		if (nbd_is_asked(n))
			nbd_lost(n, "it takes too long");
		else
			nbd_proven(n);
		break;
	case NBD_DIALING:
		loop_cancel(n->b.loop, &n->redial.op);
		break;
	case NBD_RESTING:
		go_on(n);
		break;
	case NBD_BREAKING:
	case NBD_DOWN:
		break;
	}
}

/* ---- the dialer ---- */

static bool is_same(const struct nbd_export *a, const struct nbd_export *b)
{
	return a->size_bytes == b->size_bytes && a->flags == b->flags &&
	       a->min_block == b->min_block && a->max_block == b->max_block;
}

static void listen_for_answer(struct block_nbd *n);

static void dialed(struct loop_op *op, int res)
{
	struct block_nbd *n = container_of(op, struct block_nbd, redial.op);
	struct nbd_redial *d = &n->redial;
	int fd = res > 0 ? fds_take_one(&d->msg) : -1;
	bool stale = res == -EINTR || (res == sizeof(d->reply) && d->reply.id != d->id);

	/* To a question that was given up before, or is given up now. */
	if (stale || d->hurried) {
		if (fd >= 0)
			close(fd);
		if (d->hurried || now(n) >= d->deadline_ns)
			go_on(n);
		else
			listen_for_answer(n);
		return;
	}
	if (fd >= 0 && res == sizeof(d->reply) && is_same(&d->reply.export, &n->export)) {
		loop_timer_set(n->b.loop, &d->timer, d->deadline_ns);
		nbd_connected(n, fd);
		return;
	}
	if (fd >= 0) {
		log_limited(&d->limit, LOG_ERROR, "disk '%s': its server has another disk now",
			    n->b.path);
		close(fd);
	}
	if (res == 0 || (res < 0 && res != -ECANCELED)) {
		close(d->fd);
		d->fd = -1;
	}
	go_on(n);
}

static void listen_for_answer(struct block_nbd *n)
{
	struct nbd_redial *d = &n->redial;

	d->iov = (struct iovec){ &d->reply, sizeof(d->reply) };
	d->msg = (struct msghdr){
		.msg_iov = &d->iov,
		.msg_iovlen = 1,
		.msg_control = &d->control,
		.msg_controllen = sizeof(d->control),
	};
	d->op.done = dialed;
	loop_recvmsg(n->b.loop, &d->op, d->fd, &d->msg, MSG_CMSG_CLOEXEC);
}

static void asked(struct loop_op *op, int res)
{
	struct block_nbd *n = container_of(op, struct block_nbd, redial.op);

	if (res == sizeof(n->redial.id) && !n->redial.hurried && now(n) < n->redial.deadline_ns)
		listen_for_answer(n);
	else
		go_on(n);
}

static void dial(struct block_nbd *n)
{
	struct nbd_redial *d = &n->redial;

	n->link = NBD_DIALING;
	d->id++;
	d->next_ns = now(n) + REST_NS;
	d->iov = (struct iovec){ &d->id, sizeof(d->id) };
	d->msg = (struct msghdr){ .msg_iov = &d->iov, .msg_iovlen = 1 };
	d->op.done = asked;
	loop_sendmsg(n->b.loop, &d->op, d->fd, &d->msg, 0);
	loop_timer_set(n->b.loop, &d->timer, d->deadline_ns);
}

void nbd_redial_init(struct block_nbd *n, int dialer, unsigned limit_s)
{
	n->redial.fd = limit_s ? dialer : -1;
	n->redial.limit_ns = limit_s * NSEC_PER_SEC;
	n->redial.timer.expired = expired;
}

void nbd_redial_done(struct block_nbd *n)
{
	if (n->b.loop)
		loop_timer_cancel(n->b.loop, &n->redial.timer);
	if (n->redial.fd >= 0)
		close(n->redial.fd);
}
