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

#include "devices/net_fd.h"

#define BATCH 32

/* How long user networking may take to drop its connections. */
#define FORGET_WAIT_MS 1000

struct net_socket {
	struct net_fd f; /* first: net_fd_free() frees it */
	struct net_hello hello;
	bool told; /* the peer has it */
	uint32_t forgotten; /* how often */
};

static struct net_socket *socket_of(struct net *n)
{
	return container_of(net_fd_of(n), struct net_socket, f);
}

/* ---- sending ---- */

/* Before the first frame and not earlier: a peer may start only when there is one. */
static int tell_peer(struct net_socket *s)
{
	if (send(s->f.fd, &s->hello, sizeof(s->hello), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return -errno;
	s->told = true;
	return 0;
}

static int send_batch(struct net_fd *f)
{
	struct net_socket *s = socket_of(&f->n);
	struct mmsghdr msg[BATCH];
	struct list *pos;
	unsigned n = 0;
	int sent;

	if (!s->told) {
		int r = tell_peer(s);

		if (r < 0)
			return r;
	}
	list_for_each (pos, &f->waiting) {
		struct net_tx *tx = list_entry(pos, struct net_tx, link);

		msg[n++].msg_hdr = (struct msghdr){
			.msg_iov = (struct iovec *)tx->iov,
			.msg_iovlen = tx->iovcnt,
		};
		if (n == BATCH)
			break;
	}
	sent = sendmmsg(f->fd, msg, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		return -errno;
	for (int i = 0; i < sent; i++)
		net_fd_sent(f, msg[i].msg_len);
	return sent;
}

static void socket_set_offloads(struct net *n, const struct net_offloads *accepted)
{
	struct net_socket *s = socket_of(n);
	uint32_t takes = (accepted->csum ? NET_HELLO_CSUM : 0) |
			 (accepted->tso4 ? NET_HELLO_TSO4 : 0) |
			 (accepted->tso6 ? NET_HELLO_TSO6 : 0) |
			 (accepted->ecn ? NET_HELLO_ECN : 0) | (accepted->uso ? NET_HELLO_USO : 0);

	s->hello = (struct net_hello){ htole32(NET_HELLO_MAGIC), htole32(takes) };
	s->told = false;
}

/* ---- receiving ---- */

static void start_recv(struct net_rx *rx);

static void received(struct loop_op *op, int res)
{
	struct net_rx *rx = container_of(op, struct net_rx, io);
	struct net *n = rx->net;

	if (res < 0 && net_fd_of(n)->recv_canceled) {
		res = -ECANCELED;
	} else if (res == -EINTR) {
		start_recv(rx);
		return;
	}
	rx->done(rx, net_fd_received(n, res, rx->msg.msg_flags & MSG_TRUNC));
}

static void start_recv(struct net_rx *rx)
{
	struct net *n = rx->net;

	rx->msg = (struct msghdr){ .msg_iov = rx->iov, .msg_iovlen = rx->iovcnt };
	rx->io.done = received;
	loop_recvmsg(n->loop, &rx->io, net_fd_of(n)->fd, &rx->msg, 0);
}

static void socket_recv(struct net *n, struct net_rx *rx)
{
	rx->net = n;
	net_fd_of(n)->recv_canceled = false;
	start_recv(rx);
}

static int socket_recv_now(struct net *n, struct net_rx *rx)
{
	ssize_t len;

	rx->msg = (struct msghdr){ .msg_iov = rx->iov, .msg_iovlen = rx->iovcnt };
	do
		len = recvmsg(net_fd_of(n)->fd, &rx->msg, MSG_DONTWAIT);
	while (len < 0 && errno == EINTR);
	return net_fd_received(n, len < 0 ? -errno : (int)len, rx->msg.msg_flags & MSG_TRUNC);
}

static void socket_cancel_recv(struct net *n, struct net_rx *rx)
{
	net_fd_of(n)->recv_canceled = true;
	loop_cancel(n->loop, &rx->io);
}

/* ---- another time ---- */

/* Take one message from the peer: 1 when it is the answer to @asked, 0 when it is not. */
static int take_answer(int fd, const struct net_forget *asked)
{
	struct net_forget answer;
	ssize_t n = recv(fd, &answer, sizeof(answer), MSG_DONTWAIT | MSG_TRUNC);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (!n)
		return -ENOTCONN;
	return n == sizeof(answer) && !memcmp(&answer, asked, sizeof(answer));
}

static int ask_to_forget(int fd, const struct net_forget *word)
{
	uint64_t deadline_ns = clock_monotonic_ns(NULL) + FORGET_WAIT_MS * NSEC_PER_MSEC;
	bool asked = false;
	int r = 0;

	while (!r && clock_monotonic_ns(NULL) < deadline_ns) {
		struct pollfd p = { .fd = fd, .events = asked ? POLLIN : POLLIN | POLLOUT };

		if (poll(&p, 1, FORGET_WAIT_MS) < 0 && errno != EINTR)
			return -errno;
		if (!asked && (p.revents & POLLOUT)) {
			asked = send(fd, word, sizeof(*word), MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
			if (!asked && errno != EAGAIN && errno != EINTR)
				return -errno;
		}
		if (p.revents & (POLLIN | POLLHUP | POLLERR))
			r = take_answer(fd, word);
	}
	return r ? MIN(r, 0) : -ETIMEDOUT;
}

static int socket_forget(struct net *n)
{
	struct net_socket *s = socket_of(n);
	const struct net_forget word = {
		htole32(NET_FORGET_MAGIC),
		htole32(++s->forgotten),
	};
	int r = n->link_up ? ask_to_forget(s->f.fd, &word) : 0;

	/* What it would send now may be of another time: rather nothing. */
	if (r < 0)
		net_fd_take_link_down(n);
	return r;
}

/* ---- life ---- */

static const struct net_ops socket_ops = {
	.send = net_fd_send,
	.cancel_send = net_fd_cancel_send,
	.recv = socket_recv,
	.recv_now = socket_recv_now,
	.cancel_recv = socket_cancel_recv,
	.set_offloads = socket_set_offloads,
	.announce = net_fd_announce,
	.forget = socket_forget,
	.free = net_fd_free,
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
	s->f.n = (struct net){
		.ops = &socket_ops,
		.takes = { .csum = true, .tso4 = true, .tso6 = true },
		.gives = { .csum = true, .tso4 = true, .tso6 = true },
	};
	net_fd_init(&s->f, fd, mac);
	s->f.send_batch = send_batch;
	s->told = true; /* until there is something to tell */
	*ret_net = &s->f.n;
	return 0;
fail:
	close(fd);
	return r;
}
