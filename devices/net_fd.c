#include "devices/net_fd.h"

#include <errno.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

void net_fd_take_link_down(struct net *n)
{
	if (!n->link_up)
		return;
	n->link_up = false;
	if (n->link_changed)
		n->link_changed(n, n->link_arg);
}

/* ---- sending ---- */

void net_fd_sent(struct net_fd *f, int res)
{
	struct net_tx *tx = list_entry(f->waiting.next, struct net_tx, link);

	list_del(&tx->link);
	if (res < 0) {
		f->n.tx_dropped++;
	} else {
		f->n.tx_frames++;
		f->n.tx_bytes += res;
	}
	tx->done(tx, MIN(res, 0));
}

static void send_waiting(struct loop_task *task)
{
	struct net_fd *f = container_of(task, struct net_fd, send);

	while (!list_empty(&f->waiting)) {
		int r = f->canceling ? -ECANCELED : f->n.link_up ? f->send_batch(f) : -ENOTCONN;

		if (r > 0 || r == -EINTR)
			continue;
		if (r == -EAGAIN) {
			f->polling = true;
			loop_poll(f->n.loop, &f->writable, f->fd, POLLOUT);
			return;
		}
		if (r == -EPIPE || r == -ECONNRESET || r == -EBADFD)
			net_fd_take_link_down(&f->n);
		/* One that cannot be sent must not hold up those behind it. */
		net_fd_sent(f, r);
	}
	f->canceling = false;
}

static void is_writable(struct loop_op *op, int res)
{
	struct net_fd *f = container_of(op, struct net_fd, writable);

	f->polling = false;
	send_waiting(&f->send);
}

void net_fd_send(struct net *n, struct net_tx *tx)
{
	struct net_fd *f = net_fd_of(n);

	list_add_tail(&f->waiting, &tx->link);
	if (!f->polling)
		loop_defer(n->loop, &f->send);
}

void net_fd_cancel_send(struct net *n)
{
	struct net_fd *f = net_fd_of(n);

	if (list_empty(&f->waiting))
		return;
	f->canceling = true;
	if (f->polling)
		loop_cancel(n->loop, &f->writable);
	else
		loop_defer(n->loop, &f->send);
}

void net_fd_announce(struct net *n, const uint8_t mac[6])
{
	struct {
		uint8_t vnet[NET_VNET_HDR];
		struct ether_header eth;
		struct arphdr arp;
		uint8_t sender[6], sender_ip[4], target[6], target_ip[4];
		uint8_t padding[18]; /* to Ethernet's shortest frame */
	} __packed frame = {
		.eth.ether_type = htobe16(ETHERTYPE_REVARP),
		.arp = {
			.ar_hrd = htobe16(ARPHRD_ETHER),
			.ar_pro = htobe16(ETHERTYPE_IP),
			.ar_hln = 6,
			.ar_pln = 4,
			.ar_op = htobe16(ARPOP_RREQUEST),
		},
	};
	int fd = net_fd_of(n)->fd;
	ssize_t len;

	memset(frame.eth.ether_dhost, 0xff, sizeof(frame.eth.ether_dhost));
	memcpy(frame.eth.ether_shost, mac, 6);
	memcpy(frame.sender, mac, 6);
	memcpy(frame.target, mac, 6);
	/*
	 * Lost when the peer is full, as any frame may be; the driver announces too. Only taps,
	 * which are no sockets, were opened so that write() never waits.
	 */
	len = send(fd, &frame, sizeof(frame), MSG_DONTWAIT | MSG_NOSIGNAL);
	if (len < 0 && errno == ENOTSOCK)
		len = write(fd, &frame, sizeof(frame));
	if (len < 0)
		n->tx_dropped++;
}

/* ---- receiving ---- */

int net_fd_received(struct net *n, int res, bool truncated)
{
	if (res == -EAGAIN || res == -ECANCELED)
		return res;
	if (res > 0 && truncated) {
		n->rx_dropped++;
		return -EMSGSIZE;
	}
	if (res > 0) {
		n->rx_frames++;
		n->rx_bytes += res;
		return res;
	}
	/* No peer sends empty messages: this is its end, or as good as. */
	net_fd_take_link_down(n);
	return -ENOTCONN;
}

/* ---- life ---- */

void net_fd_init(struct net_fd *f, int fd, const uint8_t mac[6])
{
	memcpy(f->n.mac, mac, sizeof(f->n.mac));
	f->n.link_up = true;
	f->fd = fd;
	f->send.run = send_waiting;
	f->writable.done = is_writable;
	list_init(&f->waiting);
}

void net_fd_free(struct net *n)
{
	struct net_fd *f = net_fd_of(n);

	if (f->polling)
		loop_cancel(n->loop, &f->writable);
	while (f->polling || f->send.queued)
		loop_run_once(n->loop, f->polling ? UINT64_MAX : 0);
	close(f->fd);
	free(f);
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
