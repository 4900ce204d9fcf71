/*
 * Receiving (virtio 1.2, 5.1.6.4): the frame is put straight into the driver's
 * buffers.
 *
 * With mergeable buffers a frame may take several. Enough for the longest one
 * are held, the message is scattered over them, and those it did not reach stay
 * for the next: no buffer is given back but on a stop. When the driver is short
 * of them, what does not fit lands in memory of ours and waits for more. The
 * header goes through a copy of ours, because it says how many buffers were taken.
 *
 * After the frame that was waited for come those that are there already, without
 * a round of the loop for each, and the driver is told of several at once.
 */
#include <errno.h>
#include <stdlib.h>

#include "virtio/virtio_net_internal.h"
#include "vmm/core/iov.h"

/* Frames taken before others on this loop have their turn. */
#define BUDGET 64

/* Frames that the driver is told of together: few enough to work on them while we go on. */
#define PUBLISH 16

static bool mergeable(const struct virtio_net *vn)
{
	return virtio_has(&vn->dev, VIRTIO_NET_F_MRG_RXBUF);
}

/* The longest message that the peer should send now. */
static uint64_t longest(const struct virtio_net *vn)
{
	unsigned mtu = vn->net->mtu ? vn->net->mtu : NET_DEFAULT_MTU;

	if (vn->accepted.tso4 || vn->accepted.tso6 || vn->accepted.uso)
		return NET_VNET_HDR + NET_MAX_FRAME;
	/* With a VLAN tag. */
	return NET_VNET_HDR + NET_ETH_HDR + 4 + mtu;
}

static bool full(const struct net_pair *p)
{
	return p->num_held == NET_MAX_HELD || p->num_iov >= NET_MAX_HELD;
}

static void move_to_front(struct net_pair *p)
{
	memmove(p->held, p->held + p->first_held, p->num_held * sizeof(p->held[0]));
	memmove(p->held_iov, p->held_iov + p->first_iov, p->num_iov * sizeof(p->held_iov[0]));
	for (unsigned i = 0; i < p->num_held; i++)
		p->held[i].iov -= p->first_iov;
	p->first_held = 0;
	p->first_iov = 0;
}

/* Take one more buffer: 1, 0 when there is none, or -errno after which the device has failed. */
static int hold(struct net_pair *p)
{
	struct virtq_chain *c;
	int r;

	if (p->first_held + p->num_held == NET_HELD_ROOM ||
	    p->first_iov + p->num_iov > NET_IOV_ROOM - VIRTQ_MAX_SEGMENTS)
		move_to_front(p);
	c = &p->held[p->first_held + p->num_held];
	c->iov = p->held_iov + p->first_iov + p->num_iov;
	c->max_iov = VIRTQ_MAX_SEGMENTS;
	r = virtq_pop(p->rxq, c);
	if (r < 0)
		net_fail(p->vn, "receive queue: %s", p->rxq->why_broken);
	if (r <= 0)
		return r;
	if (c->num_out || c->in_bytes < NET_VNET_HDR) {
		net_fail(p->vn, "receive queue: a buffer without room for a header");
		return -EBADMSG;
	}
	p->num_held++;
	p->num_iov += c->num_in;
	p->held_bytes += c->in_bytes;
	return 1;
}

/* Hold @wanted bytes, or all there are but at least @needed; false: the driver will kick. */
static bool hold_bytes(struct net_pair *p, uint64_t wanted, uint64_t needed)
{
	int r = 1;

	if (!mergeable(p->vn))
		wanted = needed = 1; /* one buffer, of whatever size */
	if (p->held_bytes >= wanted)
		return true;
	virtq_kicks_off(p->rxq);
	do {
		while (p->held_bytes < wanted && !full(p) && (r = hold(p)) > 0)
			;
		if (r < 0)
			return false;
		if (p->held_bytes >= needed || full(p))
			return true;
	} while (virtq_kicks_on(p->rxq));
	return false;
}

/* The first @num buffers have gone back to the driver. */
static void drop_held(struct net_pair *p, unsigned num)
{
	for (unsigned i = 0; i < num; i++) {
		const struct virtq_chain *c = &p->held[p->first_held++];

		p->first_iov += c->num_in;
		p->num_iov -= c->num_in;
		p->held_bytes -= c->in_bytes;
	}
	p->num_held -= num;
}

/*
 * May the driver be given a frame with this header? What it did not ask for is cleared or refused.
 */
static bool header_ok(const struct virtio_net *vn, struct virtio_net_hdr_v1 *h)
{
	switch (h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE:
		break;
	case VIRTIO_NET_HDR_GSO_TCPV4:
		if (!vn->accepted.tso4)
			return false;
		break;
	case VIRTIO_NET_HDR_GSO_TCPV6:
		if (!vn->accepted.tso6)
			return false;
		break;
	case NET_GSO_UDP_L4:
		if (!vn->accepted.uso)
			return false;
		break;
	default:
		return false;
	}
	if ((h->gso_type & VIRTIO_NET_HDR_GSO_ECN) && !vn->accepted.ecn)
		return false;
	h->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
	/* 5.1.6.4.1: a segment to be cut has a checksum to be filled in. */
	if (h->gso_type && (!(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || !h->gso_size))
		return false;
	if (vn->accepted.csum)
		return true;
	if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		return false;
	memset(h, 0, sizeof(*h));
	return true;
}

static void publish(struct net_pair *p)
{
	if (!p->unpublished)
		return;
	p->unpublished = 0;
	virtio_notify(&p->vn->dev, p->rxq->index);
}

/* A message of @len bytes, header included, lies in the buffers held. */
static void deliver(struct net_pair *p, uint64_t len)
{
	const struct virtq_chain *held = p->held + p->first_held;
	uint64_t left = len;
	unsigned n = 0;

	while (left)
		left -= MIN(left, held[n++].in_bytes);
	p->rx_hdr.num_buffers = htole16(n);
	virtq_copy_in(&held[0], 0, &p->rx_hdr, sizeof(p->rx_hdr));

	left = len;
	for (unsigned i = 0; i < n; i++) {
		uint64_t part = MIN(left, held[i].in_bytes);

		virtq_push(p->rxq, &held[i], part);
		left -= part;
	}
	drop_held(p, n);
	/* All buffers of a frame are published at once. */
	if (++p->unpublished == PUBLISH)
		publish(p);
}

/*
 * The rest of a frame that did not fit goes into buffers that came since. False
 * while they are too few.
 */
static bool unspill(struct net_pair *p)
{
	uint64_t done = p->spilled_from, offset = 0;

	if (!p->spilled_frame)
		return true;
	if (!mergeable(p->vn) || !hold_bytes(p, p->spilled_frame, p->spilled_frame))
		return !mergeable(p->vn);
	if (p->held_bytes < p->spilled_frame) {
		/* As many as can be held, and still too few: no driver means that. */
		p->net->rx_dropped++;
		p->spilled_frame = 0;
		return true;
	}
	for (unsigned i = 0; done < p->spilled_frame; i++) {
		const struct virtq_chain *c = &p->held[p->first_held + i];

		if (done < offset + c->in_bytes)
			done += virtq_copy_in(c, done - offset, p->spill + done - p->spilled_from,
					      p->spilled_frame - done);
		offset += c->in_bytes;
	}
	deliver(p, p->spilled_frame);
	p->spilled_frame = 0;
	return true;
}

/* What a receive of ours has brought. */
static void take(struct net_pair *p, int res)
{
	if (res < 0)
		return;
	if (p->vn->unplugged) {
		p->net->rx_dropped++;
		return;
	}
	net_spend(p, &p->vn->rx_limiter, MAX(res, (int)NET_VNET_HDR));
	if (res < (int)(NET_VNET_HDR + NET_ETH_HDR) || !header_ok(p->vn, &p->rx_hdr)) {
		p->net->rx_dropped++;
	} else if ((uint64_t)res <= p->held_bytes) {
		deliver(p, res);
	} else if (mergeable(p->vn)) {
		p->spilled_frame = res;
		p->spilled_from = p->held_bytes;
	} else {
		p->net->rx_dropped++;
	}
}

/* Make @p->rx ready to receive: false when buffers are missing. */
static bool prepare(struct net_pair *p)
{
	unsigned n = 1;

	if (!unspill(p) || !hold_bytes(p, longest(p->vn), 1))
		return false;
	/* Our header, then the buffers without the bytes that the header takes there. */
	p->rx_iov[0] = (struct iovec){ &p->rx_hdr, sizeof(p->rx_hdr) };
	n += iov_slice(p->held_iov + p->first_iov, p->num_iov, NET_VNET_HDR, UINT64_MAX,
		       p->rx_iov + 1);
	if (p->held_bytes < NET_VNET_HDR + NET_MAX_FRAME)
		p->rx_iov[n++] = (struct iovec){ p->spill, NET_MAX_FRAME };
	p->rx.iov = p->rx_iov;
	p->rx.iovcnt = n;
	return true;
}

/* 5.1.6.5.5: nothing may come on a pair that the driver does not use any more. */
static bool is_active(const struct net_pair *p)
{
	return p < p->vn->pair + p->vn->active;
}

static void received(struct net_rx *rx, int res)
{
	struct net_pair *p = container_of(rx, struct net_pair, rx);
	struct net *n = p->net;

	p->receiving = false;
	take(p, res);
	if (p->vn->dev.stopping) {
		publish(p);
		net_check_stopped(p->vn);
		return;
	}
	for (unsigned i = 0; i < BUDGET && res != -EAGAIN && n->link_up && is_active(p); i++) {
		if (net_must_wait(p, &p->vn->rx_limiter, &p->rx_limited) || !prepare(p))
			break;
		res = n->ops->recv_now(n, &p->rx);
		take(p, res);
	}
	publish(p);
	/* Other errors are for good, or the link is down. */
	if (res >= 0 || res == -EMSGSIZE || res == -EAGAIN || res == -ECANCELED)
		net_receive(p);
}

void net_receive(struct net_pair *p)
{
	struct virtio_device *dev = &p->vn->dev;
	bool ready;

	if (!dev->running || dev->stopping || p->handed || p->receiving || !p->net->link_up ||
	    !p->rxq->started || !is_active(p))
		return;
	ready = !net_must_wait(p, &p->vn->rx_limiter, &p->rx_limited) && prepare(p);
	publish(p);
	if (!ready)
		return;
	p->rx.done = received;
	p->receiving = true;
	p->net->ops->recv(p->net, &p->rx);
}

void net_receive_release(struct net_pair *p)
{
	/* Last taken, first put back. */
	while (p->num_held)
		virtq_unpop(p->rxq, &p->held[p->first_held + --p->num_held]);
	p->first_held = p->first_iov = p->num_iov = 0;
	p->held_bytes = 0;
	p->spilled_frame = 0; /* lost, as on a wire */
}
