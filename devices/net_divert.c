#include "devices/net_divert.h"

#include <errno.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct net_divert {
	struct net n;
	struct net *inner;
	in_addr_t address;

	int fd; /* the service; -1: none */
	struct loop_op readable;
	bool polling; /* @readable is outstanding */
	bool waiting; /* the service has frames, as far as we know */

	struct net_rx *rx; /* what the driver's side receives into, or NULL */
	struct net_rx inner_rx;

	struct list sent; /* net_tx to be completed */
	struct loop_task complete;
};

static struct net_divert *divert_of(struct net *n)
{
	return container_of(n, struct net_divert, n);
}

/* ---- what the guest sends ---- */

/* The start of a frame with its header, as far as it says where the frame goes. */
struct start {
	uint8_t vnet[NET_VNET_HDR];
	struct ether_header eth;
	union {
		struct iphdr ip;
		struct {
			struct arphdr head;
			uint8_t sender[6], sender_ip[4], target[6], target_ip[4];
		} __packed arp;
	} __packed;
} __packed;

static size_t gather(const struct net_tx *tx, void *to, size_t size)
{
	size_t done = 0;

	for (unsigned i = 0; i < tx->iovcnt && done < size; i++) {
		size_t n = MIN(tx->iov[i].iov_len, size - done);

		memcpy((uint8_t *)to + done, tx->iov[i].iov_base, n);
		done += n;
	}
	return done;
}

static bool is_for_service(const struct net_divert *d, const struct net_tx *tx)
{
	struct start s;
	size_t len = gather(tx, &s, sizeof(s));

	if (len < NET_VNET_HDR + sizeof(s.eth) + sizeof(s.ip))
		return false;
	switch (be16toh(s.eth.ether_type)) {
	case ETHERTYPE_IP:
		return s.ip.daddr == d->address;
	case ETHERTYPE_ARP:
		return len == sizeof(s) && !memcmp(s.arp.target_ip, &d->address, 4);
	default:
		return false;
	}
}

static void complete(struct loop_task *task)
{
	struct net_divert *d = container_of(task, struct net_divert, complete);

	while (!list_empty(&d->sent)) {
		struct net_tx *tx = list_entry(d->sent.next, struct net_tx, link);

		list_del(&tx->link);
		tx->done(tx, 0);
	}
}

static void divert_send(struct net *n, struct net_tx *tx)
{
	struct net_divert *d = divert_of(n);
	struct msghdr msg = { .msg_iov = (struct iovec *)tx->iov, .msg_iovlen = tx->iovcnt };

	if (!is_for_service(d, tx)) {
		d->inner->ops->send(d->inner, tx);
		return;
	}
	if (d->fd < 0 || sendmsg(d->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		n->tx_dropped++;
	/* Never from within the call that asked. */
	list_add_tail(&d->sent, &tx->link);
	loop_defer(n->loop, &d->complete);
}

static void divert_cancel_send(struct net *n)
{
	struct net_divert *d = divert_of(n);

	d->inner->ops->cancel_send(d->inner);
}

/* ---- what it receives ---- */

/* The service has something to say: whoever waits for the network looks here first. */
static void readable(struct loop_op *op, int res)
{
	struct net_divert *d = container_of(op, struct net_divert, readable);

	d->polling = false;
	if (res < 0)
		return;
	d->waiting = true;
	if (d->rx)
		d->inner->ops->cancel_recv(d->inner, &d->inner_rx);
}

static void inner_received(struct net_rx *inner_rx, int res)
{
	struct net_divert *d = container_of(inner_rx, struct net_divert, inner_rx);
	struct net_rx *rx = d->rx;

	d->rx = NULL;
	rx->done(rx, res);
}

static void divert_recv(struct net *n, struct net_rx *rx)
{
	struct net_divert *d = divert_of(n);

	d->rx = rx;
	d->inner_rx.iov = rx->iov;
	d->inner_rx.iovcnt = rx->iovcnt;
	d->inner_rx.done = inner_received;
	d->inner->ops->recv(d->inner, &d->inner_rx);
	if (d->waiting) {
		/* Back at once, for the frame that is there. */
		d->inner->ops->cancel_recv(d->inner, &d->inner_rx);
	} else if (d->fd >= 0 && !d->polling) {
		d->polling = true;
		loop_poll(n->loop, &d->readable, d->fd, POLLIN);
	}
}

/* A frame of the service, or -EAGAIN. */
static int receive_service(struct net_divert *d, struct net_rx *rx)
{
	ssize_t len;

	rx->msg = (struct msghdr){ .msg_iov = rx->iov, .msg_iovlen = rx->iovcnt };
	do
		len = recvmsg(d->fd, &rx->msg, MSG_DONTWAIT);
	while (len < 0 && errno == EINTR);
	if (len > 0 && !(rx->msg.msg_flags & MSG_TRUNC)) {
		d->n.rx_frames++;
		d->n.rx_bytes += len;
		return (int)len;
	}
	d->waiting = false;
	if (len > 0) {
		d->n.rx_dropped++;
	} else if (len == 0 || errno != EAGAIN) {
		/* It has ended. No poll is outstanding: @waiting was set by the last one. */
		close(d->fd);
		d->fd = -1;
	}
	return -EAGAIN;
}

static int divert_recv_now(struct net *n, struct net_rx *rx)
{
	struct net_divert *d = divert_of(n);
	int r = d->waiting ? receive_service(d, rx) : -EAGAIN;

	return r != -EAGAIN ? r : d->inner->ops->recv_now(d->inner, rx);
}

static void divert_cancel_recv(struct net *n, struct net_rx *rx)
{
	struct net_divert *d = divert_of(n);

	d->inner->ops->cancel_recv(d->inner, &d->inner_rx);
}

/* ---- the rest is the network's ---- */

static void divert_set_offloads(struct net *n, const struct net_offloads *accepted)
{
	struct net *inner = divert_of(n)->inner;

	if (inner->ops->set_offloads)
		inner->ops->set_offloads(inner, accepted);
}

static void divert_announce(struct net *n, const uint8_t mac[6])
{
	struct net *inner = divert_of(n)->inner;

	if (inner->ops->announce)
		inner->ops->announce(inner, mac);
}

static void inner_link_changed(struct net *inner, void *arg)
{
	struct net_divert *d = arg;

	d->n.link_up = inner->link_up;
	if (d->n.link_changed)
		d->n.link_changed(&d->n, d->n.link_arg);
}

static void divert_free(struct net *n)
{
	struct net_divert *d = divert_of(n);

	if (d->polling)
		loop_cancel(n->loop, &d->readable);
	while (d->polling || d->complete.queued)
		loop_run_once(n->loop, d->polling ? UINT64_MAX : 0);
	if (d->fd >= 0)
		close(d->fd);
	net_close(d->inner);
	free(d);
}

static int divert_forget(struct net *n)
{
	struct net *inner = divert_of(n)->inner;

	return inner->ops->forget ? inner->ops->forget(inner) : 0;
}

static const struct net_ops divert_ops = {
	.send = divert_send,
	.cancel_send = divert_cancel_send,
	.recv = divert_recv,
	.recv_now = divert_recv_now,
	.cancel_recv = divert_cancel_recv,
	.set_offloads = divert_set_offloads,
	.announce = divert_announce,
	.forget = divert_forget,
	.free = divert_free,
};

int net_divert_create(struct net **ret_net, struct net *inner, struct in_addr address,
		      struct error *err)
{
	struct net_divert *d = calloc(1, sizeof(*d));

	if (!d)
		return error_set(err, -ENOMEM, "network: %m");
	d->n = *inner;
	d->n.ops = &divert_ops;
	d->inner = inner;
	d->address = address.s_addr;
	d->fd = -1;
	d->readable.done = readable;
	d->complete.run = complete;
	list_init(&d->sent);
	inner->link_changed = inner_link_changed;
	inner->link_arg = d;
	*ret_net = &d->n;
	return 0;
}

int net_divert_attach(struct net *n, int fd)
{
	struct net_divert *d;

	if (n->ops != &divert_ops)
		return -EOPNOTSUPP;
	d = divert_of(n);
	if (d->fd >= 0)
		return -EBUSY;
	d->fd = fd;
	d->waiting = true; /* perhaps: then what waits for the network looks, and waits for both */
	if (d->rx)
		d->inner->ops->cancel_recv(d->inner, &d->inner_rx);
	return 0;
}
