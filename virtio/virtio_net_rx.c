/*
 * Receiving (virtio 1.2, 5.1.6.4): the frame is put straight into the driver's
 * buffers.
 *
 * With mergeable buffers a frame may take several. Enough for the longest one
 * are held, the message is scattered over them, and those it did not reach stay
 * for the next: no buffer is given back but on a stop. The header goes through
 * a copy of ours, because it says how many buffers were taken.
 */
#include <errno.h>

#include "virtio/virtio_net_internal.h"

static bool mergeable(const struct virtio_net *vn)
{
	return virtio_has(&vn->dev, VIRTIO_NET_F_MRG_RXBUF);
}

/* The longest message that the peer may send now. */
static uint64_t longest(const struct virtio_net *vn)
{
	unsigned mtu = vn->net->mtu ? vn->net->mtu : NET_DEFAULT_MTU;

	if (virtio_has(&vn->dev, VIRTIO_NET_F_GUEST_TSO4) ||
	    virtio_has(&vn->dev, VIRTIO_NET_F_GUEST_TSO6))
		return NET_VNET_HDR + NET_MAX_FRAME;
	/* With a VLAN tag. */
	return NET_VNET_HDR + NET_ETH_HDR + 4 + mtu;
}

static bool enough(const struct virtio_net *vn)
{
	const struct virtq *q = &vn->dev.queue[NET_QUEUE_RX];

	if (!mergeable(vn))
		return vn->num_held == 1;
	/* All there can be are enough too: what does not fit is dropped. */
	return vn->held_bytes >= longest(vn) || vn->num_held == NET_MAX_HELD ||
	       vn->num_held_iov >= NET_MAX_HELD || vn->num_held >= q->size;
}

/* Take one more buffer: 1, 0 when there is none, or -errno after which the device has failed. */
static int hold(struct virtio_net *vn)
{
	struct virtq *q = &vn->dev.queue[NET_QUEUE_RX];
	struct virtq_chain *c = &vn->held[vn->num_held];
	int r;

	c->iov = vn->held_iov + vn->num_held_iov;
	c->max_iov = VIRTQ_MAX_SEGMENTS;
	r = virtq_pop(q, c);
	if (r < 0)
		virtio_fail(&vn->dev, "receive queue: %s", q->why_broken);
	if (r <= 0)
		return r;
	if (c->num_out || c->in_bytes < NET_VNET_HDR) {
		virtio_fail(&vn->dev, "receive queue: a buffer without room for a header");
		return -EBADMSG;
	}
	vn->num_held++;
	vn->num_held_iov += c->num_in;
	vn->held_bytes += c->in_bytes;
	return 1;
}

static bool hold_enough(struct virtio_net *vn)
{
	struct virtq *q = &vn->dev.queue[NET_QUEUE_RX];
	int r;

	if (enough(vn))
		return true;
	do {
		virtq_kicks_off(q);
		do {
			r = hold(vn);
		} while (r > 0 && !enough(vn));
		if (r != 0)
			return r > 0;
	} while (virtq_kicks_on(q));
	return false;
}

/* The first @num buffers have gone back to the driver. */
static void drop_held(struct virtio_net *vn, unsigned num)
{
	unsigned iovs = 0;

	for (unsigned i = 0; i < num; i++) {
		iovs += vn->held[i].num_in;
		vn->held_bytes -= vn->held[i].in_bytes;
	}
	vn->num_held -= num;
	vn->num_held_iov -= iovs;
	memmove(vn->held, vn->held + num, vn->num_held * sizeof(vn->held[0]));
	memmove(vn->held_iov, vn->held_iov + iovs, vn->num_held_iov * sizeof(vn->held_iov[0]));
	for (unsigned i = 0; i < vn->num_held; i++)
		vn->held[i].iov -= iovs;
}

/*
 * May the driver be given a frame with this header? What it did not ask for is cleared or refused.
 */
static bool header_ok(const struct virtio_net *vn, struct virtio_net_hdr_v1 *h)
{
	bool csum = virtio_has(&vn->dev, VIRTIO_NET_F_GUEST_CSUM);

	switch (h->gso_type) {
	case VIRTIO_NET_HDR_GSO_NONE:
		break;
	case VIRTIO_NET_HDR_GSO_TCPV4:
		if (!virtio_has(&vn->dev, VIRTIO_NET_F_GUEST_TSO4))
			return false;
		break;
	case VIRTIO_NET_HDR_GSO_TCPV6:
		if (!virtio_has(&vn->dev, VIRTIO_NET_F_GUEST_TSO6))
			return false;
		break;
	default:
		return false;
	}
	h->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
	if (csum)
		return true;
	if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		return false;
	memset(h, 0, sizeof(*h));
	return true;
}

/* A message of @len bytes, header included, lies in the buffers held. */
static void deliver(struct virtio_net *vn, uint64_t len)
{
	struct virtq *q = &vn->dev.queue[NET_QUEUE_RX];
	uint64_t left = len;
	unsigned n = 0;

	while (left)
		left -= MIN(left, vn->held[n++].in_bytes);
	vn->rx_hdr.num_buffers = htole16(n);
	virtq_copy_in(&vn->held[0], 0, &vn->rx_hdr, sizeof(vn->rx_hdr));

	left = len;
	for (unsigned i = 0; i < n; i++) {
		uint64_t part = MIN(left, vn->held[i].in_bytes);

		virtq_push(q, &vn->held[i], part);
		left -= part;
	}
	drop_held(vn, n);
	/* All buffers of a frame are published at once. */
	virtio_notify(&vn->dev, NET_QUEUE_RX);
}

static void received(struct net_rx *rx, int res)
{
	struct virtio_net *vn = container_of(rx, struct virtio_net, rx);

	vn->receiving = false;
	if (res >= (int)(NET_VNET_HDR + NET_ETH_HDR) && header_ok(vn, &vn->rx_hdr))
		deliver(vn, res);
	else if (res > 0)
		vn->net->rx_dropped++;

	if (vn->dev.stopping)
		net_check_stopped(vn);
	else if (res > 0 || res == -EMSGSIZE)
		net_receive(vn);
}

void net_receive(struct virtio_net *vn)
{
	size_t skip = NET_VNET_HDR;
	struct iovec *iov;
	unsigned n = 0;

	if (!vn->dev.running || vn->dev.stopping || vn->receiving || !vn->net->link_up)
		return;
	if (!hold_enough(vn))
		return;

	/* Our header, then the buffers without the bytes that the header takes there. */
	vn->rx_iov[n++] = (struct iovec){ &vn->rx_hdr, sizeof(vn->rx_hdr) };
	for (iov = vn->held_iov; iov < vn->held_iov + vn->num_held_iov; iov++) {
		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		vn->rx_iov[n++] = (struct iovec){
			.iov_base = (uint8_t *)iov->iov_base + skip,
			.iov_len = iov->iov_len - skip,
		};
		skip = 0;
	}
	vn->rx.iov = vn->rx_iov;
	vn->rx.iovcnt = n;
	vn->rx.done = received;
	vn->receiving = true;
	vn->net->ops->recv(vn->net, &vn->rx);
}

void net_receive_release(struct virtio_net *vn)
{
	struct virtq *q = &vn->dev.queue[NET_QUEUE_RX];

	/* Last taken, first put back. */
	while (vn->num_held)
		virtq_unpop(q, &vn->held[--vn->num_held]);
	vn->num_held_iov = 0;
	vn->held_bytes = 0;
}
