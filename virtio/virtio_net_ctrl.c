/*
 * The control queue (virtio 1.2, 5.1.6.5). All frames are passed on, so filters are only accepted.
 */
#include <errno.h>

#include "virtio/virtio_net_internal.h"

#define MAX_SEGMENTS 16

static bool rx_mode(const struct virtq_chain *c, uint8_t cmd)
{
	return cmd <= VIRTIO_NET_CTRL_RX_NOBCAST &&
	       c->out_bytes == sizeof(struct virtio_net_ctrl_hdr) + 1;
}

/* Two tables, each a count and that many addresses, and nothing after them. */
static bool mac_tables(const struct virtq_chain *c)
{
	uint64_t at = sizeof(struct virtio_net_ctrl_hdr);

	for (unsigned i = 0; i < 2; i++) {
		uint8_t count[4];

		if (virtq_copy_out(c, at, count, sizeof(count)) < sizeof(count))
			return false;
		at += sizeof(count) + 6ull * get_le32(count);
	}
	return at == c->out_bytes;
}

static bool mac_command(struct virtio_net *vn, const struct virtq_chain *c, uint8_t cmd)
{
	uint8_t mac[6];

	if (cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET)
		return mac_tables(c);
	if (cmd != VIRTIO_NET_CTRL_MAC_ADDR_SET ||
	    c->out_bytes != sizeof(struct virtio_net_ctrl_hdr) + sizeof(mac))
		return false;
	virtq_copy_out(c, sizeof(struct virtio_net_ctrl_hdr), mac, sizeof(mac));
	net_set_mac(vn, mac);
	return true;
}

static bool command(struct virtio_net *vn, const struct virtq_chain *c)
{
	struct virtio_net_ctrl_hdr h;

	virtq_copy_out(c, 0, &h, sizeof(h));
	switch (h.class) {
	case VIRTIO_NET_CTRL_RX:
		return virtio_has(&vn->dev, VIRTIO_NET_F_CTRL_RX) && rx_mode(c, h.cmd);
	case VIRTIO_NET_CTRL_MAC:
		return virtio_has(&vn->dev, VIRTIO_NET_F_CTRL_MAC_ADDR) &&
		       mac_command(vn, c, h.cmd);
	case VIRTIO_NET_CTRL_ANNOUNCE:
		if (!virtio_has(&vn->dev, VIRTIO_NET_F_GUEST_ANNOUNCE) ||
		    h.cmd != VIRTIO_NET_CTRL_ANNOUNCE_ACK)
			return false;
		atomic_fetch_and(&vn->status, ~VIRTIO_NET_S_ANNOUNCE);
		return true;
	default:
		return false;
	}
}

void net_control(struct virtio_net *vn)
{
	struct iovec iov[MAX_SEGMENTS];
	struct virtq_chain c = { .iov = iov, .max_iov = MAX_SEGMENTS };
	struct virtq *q = &vn->dev.queue[NET_QUEUE_CTRL];
	unsigned budget = q->size;
	uint8_t ack;
	int r = 0;

	do {
		virtq_kicks_off(q);
		while (budget-- && (r = virtq_pop(q, &c)) > 0) {
			if (c.out_bytes < sizeof(struct virtio_net_ctrl_hdr) || !c.in_bytes) {
				virtio_fail(&vn->dev, "control queue: a command without %s",
					    c.in_bytes ? "header" : "room for the answer");
				return;
			}
			ack = command(vn, &c) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
			virtq_copy_in(&c, 0, &ack, sizeof(ack));
			virtq_push(q, &c, sizeof(ack));
		}
	} while (r == 0 && virtq_kicks_on(q));
	if (r < 0)
		virtio_fail(&vn->dev, "control queue: %s", q->why_broken);
	else if (r > 0)
		virtio_kick_again(&vn->dev, NET_QUEUE_CTRL);
	virtio_notify(&vn->dev, NET_QUEUE_CTRL);
}
