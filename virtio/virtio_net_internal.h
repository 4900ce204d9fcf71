/*
 * The parts of the network device to each other. Everything here runs on the
 * device's loop.
 */
#ifndef WISP_VIRTIO_NET_INTERNAL_H
#define WISP_VIRTIO_NET_INTERNAL_H

#include <linux/virtio_net.h>

#include "devices/net.h"
#include "virtio/virtio.h"
#include "vmm/core/rate.h"

/* Buffers held for a frame: 64 KiB in the smallest that Linux gives (1.5 KiB), with some to spare.
 */
#define NET_MAX_HELD 64

/* Room behind them, so that what is held moves to the front only now and then. */
#define NET_HELD_ROOM (NET_MAX_HELD + 32)
#define NET_IOV_ROOM  (NET_HELD_ROOM + VIRTQ_MAX_SEGMENTS)

struct virtio_net;

/* An eventfd of ours that the host's kernel writes to while it serves a pair; -1: none yet. */
struct net_word {
	struct loop_event event;
	struct net_pair *pair;
	int fd;
};

/* A receive and a transmit queue, and their own end on the host. */
struct net_pair {
	struct virtio_net *vn;
	struct net *net;
	struct virtq *rxq, *txq;

	/* The net serves both queues by itself, and we neither. */
	bool handed;
	int call[2]; /* then: what it signals for @rxq and @txq */
	struct net_word rx_call, tx_call; /* chains were used; only where no vector takes that */
	struct net_word error;

	/* Receiving. Buffers are taken before it is known how long the next frame is. */
	struct net_rx rx;
	bool receiving; /* @rx is outstanding */
	struct virtio_net_hdr_v1 rx_hdr;
	struct virtq_chain held[NET_HELD_ROOM]; /* in order, from @first_held on */
	struct iovec held_iov[NET_IOV_ROOM];	/* their segments, from @first_iov on */
	unsigned first_held, num_held, first_iov, num_iov;
	uint64_t held_bytes;
	struct iovec rx_iov[2 + NET_IOV_ROOM];
	unsigned unpublished; /* frames delivered since the driver was last told */

	/* What of a frame did not fit the buffers held: it waits here for more of them. */
	uint8_t *spill;
	uint64_t spilled_frame; /* bytes of that frame with its header; 0: none waits */
	uint64_t spilled_from;	/* so many of them are in the buffers */

	struct loop_timer rx_limited; /* goes on when the rate limit allows */

	/* Sending. */
	unsigned sending;
	struct loop_timer tx_limited;
	struct loop_task notify; /* once for all that was sent in a round */
	struct list kept;	 /* requests for reuse */
	unsigned num_kept;
	struct iovec iov[VIRTQ_MAX_SEGMENTS]; /* where a chain is popped to */
};

struct virtio_net {
	struct virtio_device dev;
	struct net *net;      /* the first pair's: link, address and offloads are told by it */
	_Atomic uint64_t mac; /* six bytes; also read by vCPUs */
	_Atomic uint16_t status;
	bool stays_here; /* no pair is handed over any more */
	const char *said_why_here; /* the last reason for that in the log, or NULL */
	bool unplugged; /* by us: what comes and goes is lost, as with a cable that is out */
	bool told_loss;  /* of its peer, which comes once */
	struct net_offloads accepted;		    /* on receive */
	bool offloads_chosen;			    /* by command, among those negotiated */
	struct rate_limiter rx_limiter, tx_limiter; /* of all pairs together */
	unsigned active;			    /* pairs in use */
	unsigned num_pairs;
	struct net_pair pair[];
};

static inline struct virtio_net *net_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_net, dev);
}

/* 5.1.2: the control queue comes after the pairs that the driver knows of. */
static inline unsigned net_control_queue(const struct virtio_net *vn)
{
	return virtio_has(&vn->dev, VIRTIO_NET_F_MQ) ? 2 * vn->num_pairs : 2;
}

void net_set_mac(struct virtio_net *vn, const uint8_t mac[6]);

/* What the driver takes on receive from now on, of what it has negotiated. */
void net_set_offloads(struct virtio_net *vn, const struct net_offloads *accepted);

/* Receive on the first @num pairs alone. */
void net_set_active(struct virtio_net *vn, unsigned num);

/*
 * True when the rate limit @l has @p wait: @t goes on then. What goes, of @bytes with its
 * header, is spent.
 */
bool net_must_wait(struct net_pair *p, struct rate_limiter *l, struct loop_timer *t);
void net_spend(struct net_pair *p, struct rate_limiter *l, uint64_t bytes);

/* Tell the core when it waits for us to stop and nothing is in flight. */
void net_check_stopped(struct virtio_net *vn);

/* Start to receive unless it is going on, or buffers or the link are missing. */
void net_receive(struct net_pair *p);

/* Give the buffers back as if they had not been taken; none is being received into. */
void net_receive_release(struct net_pair *p);

static inline bool net_is_limited(const struct virtio_net *vn)
{
	return rate_limited(&vn->rx_limiter) || rate_limited(&vn->tx_limiter);
}

/*
 * A net that can serve the rings of a pair without us (net_ops.hand_over) does where nothing needs
 * to see each frame, or what is written in the guest's memory: hand those over, when the device
 * starts. Stopped, it has given them back.
 */
void net_hand_over(struct virtio_net *vn);
void net_stop_handed(struct virtio_net *vn);

/* virtio_fail(), of which the kernel hears too: it serves no queue any more. */
void net_fail(struct virtio_net *vn, const char *fmt, ...) __printf(2, 3);

/*
 * Serve all pairs here: until the device starts without the reason for it (a limit, a link that was
 * taken down), or from now on and for as long as this process has the device.
 */
void net_take_back(struct virtio_net *vn);
void net_serve_here(struct virtio_device *dev);

/* virtio_ops.interrupts_moved: the kernel hears of it. */
void net_interrupts_moved(struct virtio_device *dev);

/* While it stops: what was served here may be handed over when it starts again. */
void net_unwatch_kicks(struct virtio_net *vn);

void net_init_handed(struct net_pair *p);
void net_done_handed(struct net_pair *p);

/* Answer what is on the control queue. */
void net_control(struct virtio_net *vn);

#endif
