/*
 * Frames of a tap interface, one queue of it. Reading and writing never block:
 * the kernel takes a frame, or says that there is none.
 */
#include "devices/net_tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "devices/net_fd.h"
#include "devices/net_vhost.h"
#include "vmm/core/io.h"
#include "vmm/core/log.h"

#define BATCH 32
#define LOOK_NS 1000000000u

struct net_tap_queue {
	struct net_fd f; /* first: net_fd_free() frees it */
	bool detached;
	struct net_vhost *vhost; /* or NULL */
	struct net_ops vhost_ops; /* the queue's, when there is one */
	struct loop_timer look;	  /* while that serves */
};

static struct net_tap_queue *queue_of(struct net *n)
{
	return container_of(net_fd_of(n), struct net_tap_queue, f);
}

/* ---- sending ---- */

static int send_batch(struct net_fd *f)
{
	unsigned n = 0;

	while (n < BATCH && !list_empty(&f->waiting)) {
		struct net_tx *tx = list_entry(f->waiting.next, struct net_tx, link);
		ssize_t len = io_writev(f->fd, tx->iov, tx->iovcnt);

		/* EIO: the interface is down. What the kernel refuses is its sender's loss. */
		if (len < 0 && (n || errno == EAGAIN || errno == EINTR || errno == EBADFD))
			return n ? (int)n : -errno;
		net_fd_sent(f, len < 0 ? -errno : (int)len);
		n++;
	}
	return n;
}

/* ---- receiving ---- */

static int tap_recv_now(struct net *n, struct net_rx *rx)
{
	ssize_t len;

	do
		len = io_readv(net_fd_of(n)->fd, rx->iov, rx->iovcnt);
	while (len < 0 && errno == EINTR);
	/* A longer frame than there is room for would come cut; there is room for the longest. */
	return net_fd_received(n, len < 0 ? -errno : (int)len, false);
}

static void readable(struct loop_op *op, int res)
{
	struct net_rx *rx = container_of(op, struct net_rx, io);
	struct net *n = rx->net;

	if (net_fd_of(n)->recv_canceled)
		res = -ECANCELED;
	else if (res >= 0)
		res = tap_recv_now(n, rx);
	else
		res = net_fd_received(n, res, false);
	/* Somebody else's poll may have been meant. */
	if (res == -EAGAIN)
		loop_poll(n->loop, &rx->io, net_fd_of(n)->fd, POLLIN);
	else
		rx->done(rx, res);
}

static void tap_recv(struct net *n, struct net_rx *rx)
{
	rx->net = n;
	net_fd_of(n)->recv_canceled = false;
	rx->io.done = readable;
	loop_poll(n->loop, &rx->io, net_fd_of(n)->fd, POLLIN);
}

static void tap_cancel_recv(struct net *n, struct net_rx *rx)
{
	net_fd_of(n)->recv_canceled = true;
	loop_cancel(n->loop, &rx->io);
}

/* ---- what the driver negotiated ---- */

unsigned net_tap_offload_flags(const struct net_offloads *o)
{
	/* The kernel wants checksums wherever it gives segments. */
	if (!o->csum)
		return 0;
	return TUN_F_CSUM | (o->tso4 ? TUN_F_TSO4 : 0) | (o->tso6 ? TUN_F_TSO6 : 0) |
	       ((o->tso4 || o->tso6) && o->ecn ? TUN_F_TSO_ECN : 0) |
	       (o->uso ? NET_TUN_F_USO4 | NET_TUN_F_USO6 : 0);
}

static void tap_set_offloads(struct net *n, const struct net_offloads *accepted)
{
	if (ioctl(net_fd_of(n)->fd, TUNSETOFFLOAD, net_tap_offload_flags(accepted)) < 0)
		log_debug("tap: offloads %#x: %m", net_tap_offload_flags(accepted));
}

static void tap_set_enabled(struct net *n, bool enabled)
{
	struct net_tap_queue *q = queue_of(n);
	struct ifreq ifr = { .ifr_flags = enabled ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

	/* The kernel spreads frames over the queues that are attached. */
	if (q->detached == !enabled)
		return;
	if (ioctl(q->f.fd, TUNSETQUEUE, &ifr) < 0)
		log_debug("tap: %s a queue: %m", enabled ? "attach" : "detach");
	else
		q->detached = !enabled;
}

/* ---- rings that the kernel serves ---- */

static void look_later(struct net_tap_queue *q)
{
	struct loop *loop = q->f.n.loop;

	loop_timer_set(loop, &q->look, clock_monotonic_ns(loop_clock(loop)) + LOOK_NS);
}

static bool tap_has_lost_peer(struct net *n)
{
	struct net_tap_queue *q = queue_of(n);
	struct pollfd tap = { .fd = q->f.fd };

	/* A queue that is not attached has no interface either. */
	if (q->detached || poll(&tap, 1, 0) <= 0)
		return false;
	net_fd_take_link_down(n);
	return true;
}

/*
 * Nobody of ours reads the tap then, and a wait for its errors alone would hear nothing: the kernel
 * wakes who waits for frames. So we ask whether it still is there.
 */
static void look(struct loop_timer *t)
{
	struct net_tap_queue *q = container_of(t, struct net_tap_queue, look);

	if (!tap_has_lost_peer(&q->f.n))
		look_later(q);
}

static int tap_hand_over(struct net *n, uint64_t features, const struct net_ring ring[2])
{
	struct net_tap_queue *q = queue_of(n);
	int r = net_vhost_start(q->vhost, q->f.fd, features, ring);

	if (!r)
		look_later(q);
	return r;
}

static void tap_take_back(struct net *n, uint16_t ret_position[2])
{
	struct net_tap_queue *q = queue_of(n);

	loop_timer_cancel(n->loop, &q->look);
	net_vhost_stop(q->vhost, ret_position);
}

static void tap_free(struct net *n)
{
	struct net_tap_queue *q = queue_of(n);

	loop_timer_cancel(n->loop, &q->look);
	net_vhost_free(q->vhost);
	net_fd_free(n);
}

int net_tap_use_vhost(struct net *n, int vhost, const struct guest_mem *mem, struct error *err)
{
	struct net_tap_queue *q = queue_of(n);
	int r = net_vhost_create(&q->vhost, vhost, mem, err);

	if (r < 0)
		return r;
	q->vhost_ops = *n->ops;
	q->look.expired = look;
	q->vhost_ops.hand_over = tap_hand_over;
	q->vhost_ops.take_back = tap_take_back;
	q->vhost_ops.has_lost_peer = tap_has_lost_peer;
	n->ops = &q->vhost_ops;
	return 0;
}

/* ---- life ---- */

static const struct net_ops tap_ops = {
	.send = net_fd_send,
	.cancel_send = net_fd_cancel_send,
	.recv = tap_recv,
	.recv_now = tap_recv_now,
	.cancel_recv = tap_cancel_recv,
	.set_offloads = tap_set_offloads,
	.announce = net_fd_announce,
	.free = tap_free,
};

/* Of one queue among several: only those may be detached. */
static const struct net_ops tap_queue_ops = {
	.send = net_fd_send,
	.cancel_send = net_fd_cancel_send,
	.recv = tap_recv,
	.recv_now = tap_recv_now,
	.cancel_recv = tap_cancel_recv,
	.set_offloads = tap_set_offloads,
	.set_enabled = tap_set_enabled,
	.announce = net_fd_announce,
	.free = tap_free,
};

int net_tap_fd(struct net *n)
{
	return n->ops->recv == tap_recv ? queue_of(n)->f.fd : -1;
}

int net_open_tap(struct net **ret_net, int fd, const struct net_tap *tap, const uint8_t mac[6],
		 struct error *err)
{
	struct net_tap_queue *q;
	int r;

	q = fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0 ? NULL : calloc(1, sizeof(*q));
	if (!q) {
		r = error_set(err, -errno, "tap on descriptor %d: %m", fd);
		close(fd);
		return r;
	}
	q->f.n = (struct net){
		.ops = tap->num_queues > 1 ? &tap_queue_ops : &tap_ops,
		.takes = tap->offloads,
		.gives = tap->offloads,
		.mtu = tap->mtu,
	};
	net_fd_init(&q->f, fd, mac);
	q->f.send_batch = send_batch;
	*ret_net = &q->f.n;
	return 0;
}
