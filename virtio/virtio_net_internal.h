/*
 * The parts of the network device to each other. Everything here runs on the
 * device's loop.
 */
#ifndef WISP_VIRTIO_NET_INTERNAL_H
#define WISP_VIRTIO_NET_INTERNAL_H

#include <linux/virtio_net.h>

#include "devices/net.h"
#include "virtio/virtio.h"

enum { NET_QUEUE_RX, NET_QUEUE_TX, NET_QUEUE_CTRL, NET_NUM_QUEUES };

/* Receive buffers taken ahead: a frame of 64 KiB in single pages, with some to spare. */
#define NET_MAX_HELD 64

struct virtio_net {
	struct virtio_device dev;
	struct net *net;
	_Atomic uint64_t mac; /* six bytes; also read by vCPUs */
	_Atomic uint16_t status;

	/* Receiving. Buffers are taken before it is known how long the next frame is. */
	struct net_rx rx;
	bool receiving; /* @rx is outstanding */
	struct virtio_net_hdr_v1 rx_hdr;
	struct virtq_chain held[NET_MAX_HELD]; /* in order; their segments in @held_iov */
	unsigned num_held, num_held_iov;
	uint64_t held_bytes;
	struct iovec held_iov[NET_MAX_HELD + VIRTQ_MAX_SEGMENTS];
	struct iovec rx_iov[1 + NET_MAX_HELD + VIRTQ_MAX_SEGMENTS];

	/* Sending. */
	unsigned sending;
	struct loop_task notify; /* once for all that was sent in a round */
	struct list kept; /* requests for reuse */
	unsigned num_kept;
	struct iovec iov[VIRTQ_MAX_SEGMENTS]; /* where a chain is popped to */
};

static inline struct virtio_net *net_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_net, dev);
}

void net_set_mac(struct virtio_net *vn, const uint8_t mac[6]);

/* Tell the core when it waits for us to stop and nothing is in flight. */
void net_check_stopped(struct virtio_net *vn);

/* Start to receive unless it is going on, or buffers or the link are missing. */
void net_receive(struct virtio_net *vn);

/* Give the buffers back as if they had not been taken; none is being received into. */
void net_receive_release(struct virtio_net *vn);

/* Answer what is on the control queue. */
void net_control(struct virtio_net *vn);

#endif
