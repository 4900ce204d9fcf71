/*
 * The control queue (virtio 1.2, 5.1.6.5). All frames are passed on, so filters are only accepted:
 * 5.1.6.5.1 and 5.1.6.5.3 have them as best effort.
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

/* 5.1.6.5.5 */
static bool pairs_command(struct virtio_net *vn, const struct virtq_chain *c, uint8_t cmd)
{
	uint8_t num[2];

	if (cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET ||
	    c->out_bytes != sizeof(struct virtio_net_ctrl_hdr) + sizeof(num))
		return false;
	virtq_copy_out(c, sizeof(struct virtio_net_ctrl_hdr), num, sizeof(num));
	if (!get_le16(num) || get_le16(num) > vn->num_pairs)
		return false;
	net_set_active(vn, get_le16(num));
	return true;
}

/* 5.1.6.5.6: some of what was negotiated, or all of it again. */
static bool offloads_command(struct virtio_net *vn, const struct virtq_chain *c, uint8_t cmd)
{
	struct net_offloads accepted = { 0 };
	const struct {
		uint8_t feature;
		bool *accepted;
	} known[] = {
		{ VIRTIO_NET_F_GUEST_CSUM, &accepted.csum },
		{ VIRTIO_NET_F_GUEST_TSO4, &accepted.tso4 },
		{ VIRTIO_NET_F_GUEST_TSO6, &accepted.tso6 },
		{ VIRTIO_NET_F_GUEST_ECN, &accepted.ecn },
		{ VIRTIO_NET_F_GUEST_USO4, &accepted.uso },
	};
	uint64_t wanted;
	uint8_t bits[8];

	if (cmd != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
	    c->out_bytes != sizeof(struct virtio_net_ctrl_hdr) + sizeof(bits))
		return false;
	virtq_copy_out(c, sizeof(struct virtio_net_ctrl_hdr), bits, sizeof(bits));
	wanted = get_le64(bits);
	if (wanted & ~vn->dev.features)
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
		*known[i].accepted = wanted & (1ull << known[i].feature);
	/* Ours is one switch for both. */
	accepted.uso &= !!(wanted & (1ull << VIRTIO_NET_F_GUEST_USO6));
	if (!accepted.csum && wanted)
		return false;
	vn->offloads_chosen = true;
	net_set_offloads(vn, &accepted);
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
	case VIRTIO_NET_CTRL_VLAN:
		return virtio_has(&vn->dev, VIRTIO_NET_F_CTRL_VLAN) &&
		       h.cmd <= VIRTIO_NET_CTRL_VLAN_DEL && c->out_bytes == sizeof(h) + 2;
	case VIRTIO_NET_CTRL_MQ:
		return virtio_has(&vn->dev, VIRTIO_NET_F_MQ) && pairs_command(vn, c, h.cmd);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
		return virtio_has(&vn->dev, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) &&
		       offloads_command(vn, c, h.cmd);
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
	struct virtq *q = &vn->dev.queue[net_control_queue(vn)];
	unsigned budget = q->size;
	uint8_t ack;
	int r;

	do {
		virtq_kicks_off(q);
		while ((r = virtq_pop(q, &c)) > 0) {
			if (c.out_bytes < sizeof(struct virtio_net_ctrl_hdr) || !c.in_bytes) {
				net_fail(vn, "control queue: a command without %s",
					 c.in_bytes ? "header" : "room for the answer");
				return;
			}
			ack = command(vn, &c) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
			virtq_copy_in(&c, 0, &ack, sizeof(ack));
			virtq_push(q, &c, sizeof(ack));
			/* A driver that adds as fast as we take must not hold the loop for ever. */
			if (!--budget)
				break;
		}
	} while (r == 0 && virtq_kicks_on(q));
	if (r < 0)
		net_fail(vn, "control queue: %s", q->why_broken);
	else if (r > 0)
		virtio_kick_again(&vn->dev, q->index);
	virtio_notify(&vn->dev, q->index);
}
