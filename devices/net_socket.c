/*
 * Frames as messages of a SEQPACKET socket.
 *
 * Sending: what a driver sends in one round is collected and handed over by
 * one sendmmsg() that does not block; it keeps the order, and stops where the
 * peer's buffer is full. Only then is there something to wait for.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/net.h"

#define BATCH 32

struct net_socket {
	struct net n;
	int fd;
	struct list waiting; /* net_tx, oldest first */
	struct loop_task send;
	struct loop_op writable;
	bool polling;	/* @writable is outstanding */
	bool canceling; /* drop all that waits */
	bool recv_canceled;
};

static struct net_socket *socket_of(struct net *n)
{
	return container_of(n, struct net_socket, n);
}

static void take_link_down(struct net *n)
{
	if (!n->link_up)
		return;
	n->link_up = false;
	if (n->link_changed)
		n->link_changed(n, n->link_arg);
}

/* ---- sending ---- */

static void end_first(struct net_socket *s, int res)
{
	struct net_tx *tx = list_entry(s->waiting.next, struct net_tx, link);

	list_del(&tx->link);
	if (res < 0) {
		s->n.tx_dropped++;
	} else {
		s->n.tx_frames++;
		s->n.tx_bytes += res;
	}
	tx->done(tx, MIN(res, 0));
}

/* Hand over up to BATCH frames. Returns how many, or -errno for the first of them. */
static int send_batch(struct net_socket *s)
{
	struct mmsghdr msg[BATCH];
	struct list *pos;
	unsigned n = 0;
	int sent;

	list_for_each(pos, &s->waiting) {
		struct net_tx *tx = list_entry(pos, struct net_tx, link);

		msg[n++].msg_hdr = (struct msghdr){
			.msg_iov = (struct iovec *)tx->iov,
			.msg_iovlen = tx->iovcnt,
		};
		if (n == BATCH)
			break;
	}
	sent = sendmmsg(s->fd, msg, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		return -errno;
	for (int i = 0; i < sent; i++)
		end_first(s, msg[i].msg_len);
	return sent;
}

static void send_waiting(struct loop_task *task)
{
	struct net_socket *s = container_of(task, struct net_socket, send);

	while (!list_empty(&s->waiting)) {
		int r = s->canceling ? -ECANCELED : s->n.link_up ? send_batch(s) : -ENOTCONN;

		if (r > 0 || r == -EINTR)
			continue;
		if (r == -EAGAIN) {
			s->polling = true;
			loop_poll(s->n.loop, &s->writable, s->fd, POLLOUT);
			return;
		}
		if (r == -EPIPE || r == -ECONNRESET)
			take_link_down(&s->n);
		/* One that cannot be sent must not hold up those behind it. */
		end_first(s, r);
	}
	s->canceling = false;
}

static void is_writable(struct loop_op *op, int res)
{
	struct net_socket *s = container_of(op, struct net_socket, writable);

	s->polling = false;
	send_waiting(&s->send);
}

static void socket_send(struct net *n, struct net_tx *tx)
{
	struct net_socket *s = socket_of(n);

	list_add_tail(&s->waiting, &tx->link);
	if (!s->polling)
		loop_defer(n->loop, &s->send);
}

static void socket_cancel_send(struct net *n)
{
	struct net_socket *s = socket_of(n);

	if (list_empty(&s->waiting))
		return;
	s->canceling = true;
	if (s->polling)
		loop_cancel(n->loop, &s->writable);
	else
		loop_defer(n->loop, &s->send);
}

/* ---- receiving ---- */

static void start_recv(struct net_rx *rx);

static void received(struct loop_op *op, int res)
{
	struct net_rx *rx = container_of(op, struct net_rx, io);
	struct net *n = rx->net;

	if (res < 0 && socket_of(n)->recv_canceled) {
		res = -ECANCELED;
	} else if (res == -EINTR) {
		start_recv(rx);
		return;
	} else if (res > 0 && (rx->msg.msg_flags & MSG_TRUNC)) {
		n->rx_dropped++;
		res = -EMSGSIZE;
	} else if (res > 0) {
		n->rx_frames++;
		n->rx_bytes += res;
	} else {
		/* No peer sends empty messages: this is its end, or as good as. */
		res = -ENOTCONN;
		take_link_down(n);
	}
	rx->done(rx, res);
}

static void start_recv(struct net_rx *rx)
{
	struct net *n = rx->net;

	rx->msg = (struct msghdr){ .msg_iov = rx->iov, .msg_iovlen = rx->iovcnt };
	rx->io.done = received;
	loop_recvmsg(n->loop, &rx->io, socket_of(n)->fd, &rx->msg, 0);
}

static void socket_recv(struct net *n, struct net_rx *rx)
{
	rx->net = n;
	socket_of(n)->recv_canceled = false;
	start_recv(rx);
}

static void socket_cancel_recv(struct net *n, struct net_rx *rx)
{
	socket_of(n)->recv_canceled = true;
	loop_cancel(n->loop, &rx->io);
}

/* ---- life ---- */

static void socket_free(struct net *n)
{
	struct net_socket *s = socket_of(n);

	if (s->polling)
		loop_cancel(n->loop, &s->writable);
	while (s->polling || s->send.queued)
		loop_run_once(n->loop, s->polling ? UINT64_MAX : 0);
	close(s->fd);
	free(s);
}

static const struct net_ops socket_ops = {
	.send = socket_send,
	.cancel_send = socket_cancel_send,
	.recv = socket_recv,
	.cancel_recv = socket_cancel_recv,
	.free = socket_free,
};

int net_open_socket(struct net **ret_net, int fd, const uint8_t mac[6], struct error *err)
{
	struct net_socket *s = NULL;
	socklen_t len = sizeof(int);
	int type, r;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0) {
		r = error_set(err, -errno, "network socket %d: %m", fd);
		goto fail;
	}
	if (type != SOCK_SEQPACKET) {
		r = error_set(err, -EPROTOTYPE, "network socket %d: is not a SEQPACKET socket", fd);
		goto fail;
	}
	s = calloc(1, sizeof(*s));
	if (!s) {
		r = error_set(err, -ENOMEM, "network socket %d: %m", fd);
		goto fail;
	}
	s->n = (struct net){
		.ops = &socket_ops,
		.takes = { .csum = true, .tso4 = true, .tso6 = true },
		.gives = { .csum = true },
		.link_up = true,
	};
	memcpy(s->n.mac, mac, sizeof(s->n.mac));
	s->fd = fd;
	s->send.run = send_waiting;
	s->writable.done = is_writable;
	list_init(&s->waiting);
	*ret_net = &s->n;
	return 0;
fail:
	close(fd);
	return r;
}

void net_attach(struct net *n, struct loop *loop)
{
	n->loop = loop;
}

void net_close(struct net *n)
{
	if (n)
		n->ops->free(n);
}
