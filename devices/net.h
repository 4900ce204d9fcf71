/*
 * A network interface's host side: frames in and out, each with a
 * virtio_net_hdr_v1 (12 bytes, little-endian) in front.
 *
 * A net belongs to one loop. Two kinds so far share one implementation: the
 * user-networking helper and any other peer that speaks "one SEQPACKET message
 * = one vnet header and one frame of up to 64 KiB" on a socket; tap speaks the
 * same on its file descriptor.
 */
#ifndef WISP_DEVICES_NET_H
#define WISP_DEVICES_NET_H

#include "vmm/core/loop.h"

#define NET_VNET_HDR  12u
#define NET_MAX_FRAME (65536u + 14u)

struct net;

struct net_tx {
	const struct iovec *iov; /* header first; stays valid until done() */
	unsigned iovcnt;
	void (*done)(struct net_tx *tx, int res); /* 0, or -errno: dropped */
	struct loop_op io;
	struct msghdr msg;
};

struct net_rx {
	struct iovec *iov; /* room for header and frame */
	unsigned iovcnt;
	void (*done)(struct net_rx *rx, int res); /* bytes received, or -errno */
	struct loop_op io;
	struct msghdr msg;
};

struct net_caps {
	bool csum, tso4, tso6, ufo_uso; /* the peer takes and gives such frames */
	uint16_t mtu;			/* 0: the default of 1500 */
};

struct net_ops {
	void (*send)(struct net *n, struct net_tx *tx);
	void (*recv)(struct net *n, struct net_rx *rx); /* one at a time per queue */
	void (*cancel_recv)(struct net *n, struct net_rx *rx);
	/* What the driver negotiated: offloads it accepts on receive. */
	void (*set_offloads)(struct net *n, const struct net_caps *caps);
	void (*announce)(struct net *n);
	void (*free)(struct net *n);
};

struct net {
	const struct net_ops *ops;
	struct loop *loop;
	struct net_caps caps;
	uint8_t mac[6];
	bool link_up;
	void (*link_changed)(struct net *n, void *arg); /* on the loop */
	void *link_arg;
	uint64_t tx_frames, tx_bytes, rx_frames, rx_bytes, tx_dropped;
};

/* A peer on the SEQPACKET socket @fd, which the net owns. EOF takes the link down. */
int net_open_socket(struct net **ret_net, int fd, const uint8_t mac[6], struct error *err);
void net_attach(struct net *n, struct loop *loop);
void net_close(struct net *n);

#endif
