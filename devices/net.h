/*
 * A network interface's host side: frames in and out, each with a
 * virtio_net_hdr_v1 (12 bytes, little-endian) in front.
 *
 * A net belongs to one loop. The user-networking helper, the switch and any other
 * peer speak "one SEQPACKET message = one vnet header and one frame of up to 64
 * KiB" on a socket; tap speaks the same on its file descriptor.
 *
 * On a socket, a message that is too short for a frame is a word from side to
 * side: struct net_hello says what frames its sender takes. Until it has come,
 * only frames as on a wire may be sent, though their checksums may be left for
 * true. Who does not know it drops it.
 *
 * Operations are completed by done(), never from within the call that asked.
 */
#ifndef WISP_DEVICES_NET_H
#define WISP_DEVICES_NET_H

#include "vmm/core/loop.h"

#define NET_VNET_HDR	12u
#define NET_ETH_HDR	14u
#define NET_MAX_FRAME	(65536u + NET_ETH_HDR)
#define NET_DEFAULT_MTU 1500u
#define NET_MAX_PAIRS	16u /* queue pairs of one interface, each with its own net */

/* Virtio 1.3, 5.1.3 and 5.1.6: UDP segmentation, which older kernel headers do not name. */
#define VIRTIO_NET_F_GUEST_USO4 54
#define VIRTIO_NET_F_GUEST_USO6 55
#define VIRTIO_NET_F_HOST_USO	56
#define NET_GSO_UDP_L4		5

struct net;

struct net_tx {
	const struct iovec *iov; /* header first; stays valid until done() */
	unsigned iovcnt;
	void (*done)(struct net_tx *tx, int res); /* 0, or -errno: dropped */

	/* The net's own. */
	struct loop_op io;
	struct list link;
};

struct net_rx {
	struct iovec *iov; /* room for header and frame */
	unsigned iovcnt;
	/* Bytes received; -EMSGSIZE: a frame did not fit and is gone; -ENOTCONN: link down. */
	void (*done)(struct net_rx *rx, int res);

	/* The net's own. */
	struct loop_op io;
	struct msghdr msg;
	struct net *net;
};

/* Frames that are not as they would be on a wire, as the header describes them. */
struct net_offloads {
	bool csum; /* checksum still to be filled in, or already verified */
	bool tso4, tso6, uso;
	bool ecn; /* segments with congestion marks too */
};

#define NET_HELLO_MAGIC 0x70736977u /* "wisp" */
enum {
	NET_HELLO_CSUM = 1,
	NET_HELLO_TSO4 = 2,
	NET_HELLO_TSO6 = 4,
	NET_HELLO_ECN = 8,
	NET_HELLO_USO = 16
};

struct net_hello {
	uint32_t magic; /* little-endian, as is */
	uint32_t takes; /* NET_HELLO_* */
};

/*
 * To user networking, which says it back: the guest is at an earlier moment now, and what it had
 * going is dropped. What came before the answer is of the old time.
 */
#define NET_FORGET_MAGIC 0x66736977u /* "wisf" */

struct net_forget {
	uint32_t magic, number; /* little-endian; as long as a net_hello */
};

/* A split ring as somebody else is to serve it: devices/net_vhost.h. */
struct net_ring {
	uint16_t size;
	uint16_t position; /* the chain that is next, in the available and in the used ring */
	void *desc, *avail, *used; /* host addresses, of the sizes that @size makes */
	int kick; /* eventfd: signalled by the driver; not to be read */
	int call; /* and by who serves: chains were used, and the driver wants to know */
	int error; /* the ring is malformed, and nothing of it is served any more */
};

struct net_ops {
	/* Frames are sent in order; one that meets a full peer waits, and so do all after it. */
	void (*send)(struct net *n, struct net_tx *tx);
	/* Drop what waits: done() with -ECANCELED, soon. */
	void (*cancel_send)(struct net *n);
	/* One at a time. */
	void (*recv)(struct net *n, struct net_rx *rx);
	/*
	 * The same, of what is there already and without done(): bytes, or -EAGAIN,
	 * -EMSGSIZE, -ENOTCONN. No recv() is outstanding.
	 */
	int (*recv_now)(struct net *n, struct net_rx *rx);
	/* done() comes soon, with a frame or with -ECANCELED. */
	void (*cancel_recv)(struct net *n, struct net_rx *rx);
	/* What the driver negotiated: offloads it accepts on receive. May be NULL. */
	void (*set_offloads)(struct net *n, const struct net_offloads *accepted);
	/* Pairs beyond the first: does the driver use this one? May be NULL. */
	void (*set_enabled)(struct net *n, bool enabled);
	/* The guest, with this address, has moved here: tell the network. May be NULL. */
	void (*announce)(struct net *n, const uint8_t mac[6]);
	/*
	 * The guest went back to an earlier moment: drop what is on its way to it, and have a peer
	 * that is user networking drop all connections. Nothing waits in send() or recv(); returns
	 * when it is so. -errno: the peer does not answer, and its link is down. May be NULL.
	 */
	int (*forget)(struct net *n);
	/*
	 * Have the host's kernel move frames between the peer and the driver's two rings, receive
	 * and transmit, until take_back() tells how far it came; nothing else of them is touched
	 * meanwhile but for what take_back() changes. @features: what the driver negotiated, with
	 * the split ring. -errno: it does not, and nothing has changed. Nothing waits in send() or
	 * recv(). May be NULL, both.
	 */
	int (*hand_over)(struct net *n, uint64_t features, const struct net_ring ring[2]);
	void (*take_back)(struct net *n, uint16_t ret_position[2]);
	/*
	 * The kernel complains while it has them: of a peer that is gone? Then the link is down
	 * now. Else the rings are to blame. May be NULL: they are.
	 */
	bool (*has_lost_peer)(struct net *n);
	void (*free)(struct net *n);
};

struct net {
	const struct net_ops *ops;
	struct loop *loop;
	struct net_offloads takes, gives; /* what the peer can do, each way */
	uint16_t mtu;			  /* told to the driver; 0: not told, NET_DEFAULT_MTU */
	uint8_t mac[6];
	/* What is at the other end, where its loss is to be logged; NULL: it is no news. */
	const char *peer;
	bool link_up;
	void (*link_changed)(struct net *n, void *arg); /* on the loop */
	void *link_arg;
	uint64_t tx_frames, tx_bytes, rx_frames, rx_bytes, tx_dropped, rx_dropped;
};

/*
 * A peer on the SEQPACKET socket @fd, which the net owns from now on, also on
 * failure. The peer takes frames with checksums to fill and TCP segments of up
 * to 64 KiB. EOF takes the link down for good.
 */
int net_open_socket(struct net **ret_net, int fd, const uint8_t mac[6], struct error *err);

/* It waits and completes on @loop from here on. Before the first send() or recv(). */
void net_attach(struct net *n, struct loop *loop);

/* Nothing may be waiting in send() or recv(). Accepts NULL. */
void net_close(struct net *n);

#endif
