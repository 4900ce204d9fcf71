/*
 * The parts of the socket device to each other: packets and rings
 * (virtio_vsock.c), connections (virtio_vsock_conn.c) and the host's end of
 * them (virtio_vsock_host.c). Everything here runs on the device's loop.
 *
 * A connection is one UNIX stream socket (none at the port of the device's own
 * notice) and one pair of ports. Bytes from the
 * guest go straight from its pages into the socket; only what a slow reader
 * does not take is kept, in a buffer of VSOCK_BUFFER bytes whose room is the
 * credit that the guest has. Bytes from the host are read straight into the
 * guest's buffers, as far as its credit goes; what is more stays in the socket.
 * Nothing is ever waited for.
 */
#ifndef WISP_VIRTIO_VSOCK_INTERNAL_H
#define WISP_VIRTIO_VSOCK_INTERNAL_H

#include <linux/virtio_vsock.h>

#include "devices/vsock_broker.h"
#include "virtio/virtio.h"
#include "virtio/virtio_devices.h"
#include "vmm/core/fds.h"

enum { VSOCK_QUEUE_RX, VSOCK_QUEUE_TX, VSOCK_QUEUE_EVENT, VSOCK_NUM_QUEUES };

#define VSOCK_HOST_CID	 2u
#define VSOCK_MAX_CONNS	 512u	  /* each is a descriptor of the monitor */
#define VSOCK_BUFFER	 0x20000u /* bytes of the guest's that one connection keeps */
#define VSOCK_MAX_PACKET 0x10000u /* what Linux sends at most in one */
#define VSOCK_MAX_STRAYS 64u
#define VSOCK_BUCKETS	 64u
#define VSOCK_ANSWER_NS	 (10 * NSEC_PER_SEC) /* for a guest that runs; Linux answers at once */
#define VSOCK_HEADER	 sizeof(struct virtio_vsock_hdr)

enum vsock_state {
	VSOCK_HELLO,	 /* the host has connected and not yet said to which port */
	VSOCK_REQUESTED, /* the guest has been asked */
	VSOCK_OPENING,	 /* the guest has asked, a socket is on its way */
	VSOCK_OPEN,
	VSOCK_LINGERING, /* over for the guest; its last bytes go out to the host */
	VSOCK_DEAD,	 /* freed when nothing refers to it */
};

/* vsock_conn.to_send: packets that the guest is owed, in the order of sending. */
#define VSOCK_SEND_RST		  (1u << 0) /* and none of the others */
#define VSOCK_SEND_REQUEST	  (1u << 1)
#define VSOCK_SEND_RESPONSE	  (1u << 2)
#define VSOCK_SEND_CREDIT_UPDATE  (1u << 3)
#define VSOCK_SEND_CREDIT_REQUEST (1u << 4)
#define VSOCK_SEND_SHUTDOWN	  (1u << 5)

struct vsock_conn {
	struct virtio_vsock *vs;
	struct list link;   /* in vs->conns */
	struct list bucket; /* in vs->bucket[]; of none once it is over for the guest */
	struct list ready;  /* in vs->ready: there is something for the guest */
	enum vsock_state state;
	uint32_t guest_port, host_port;
	uint32_t open_id; /* of what the broker was asked; 0: not yet */
	uint64_t answer_by_ns; /* of a guest that was asked */
	uint8_t to_send;

	int fd; /* -1 before it is there */
	struct loop_op readable, writable;
	bool polling_in, polling_out;
	bool blind;	/* room in the socket cannot be waited for */
	bool has_input; /* the socket had bytes, or its end, when last seen */
	bool host_done; /* the host sends nothing more */
	bool host_deaf; /* the host receives nothing more */
	bool guest_done, guest_deaf;
	bool asked_credit;

	/* To the guest: bytes sent, and what its last header said. Modulo 2^32. */
	uint32_t sent, peer_forwarded, peer_buffer;
	/* From the guest: bytes taken, of these passed on, and that as last told. */
	uint32_t received, forwarded, told;
	uint8_t *buf; /* a ring; NULL while nothing is kept */
	uint32_t buf_start, buf_len;

	char line[32]; /* of the hello */
	uint8_t line_len;

	/* Of one to the device itself, without a socket: what is left to send. NULL: it has one. */
	char *notice;
	uint32_t notice_start, notice_len;
};

/* An RST for ports that no connection has. */
struct vsock_stray {
	uint64_t cid; /* as which we answer */
	uint32_t guest_port, host_port;
	uint16_t type;
};

struct virtio_vsock {
	struct virtio_device dev;
	uint64_t cid;
	struct virtio_vsock_notice notice;
	bool reset_event; /* the driver is to hear that all connections are gone */

	struct list conns, ready;
	struct list bucket[VSOCK_BUCKETS];
	unsigned num_conns;
	struct loop_task reaper; /* frees the dead */
	struct loop_timer sweep; /* while there are sockets whose end nothing reports */
	struct vsock_stray stray[VSOCK_MAX_STRAYS];
	unsigned num_strays;
	bool tx_waits; /* for room among the strays */
	uint32_t next_port;

	int listen_fd, broker_fd; /* -1: none */
	struct loop_op accept, reply;
	struct loop_timer retry;
	bool accepting, listening_to_broker;
	bool closing;
	uint32_t last_id;
	unsigned asked; /* and not yet answered */
	/* Where the broker's reply is received to. */
	struct msghdr reply_msg;
	struct iovec reply_iov;
	struct vsock_open_reply reply_buf;
	FDS_SPACE(1) reply_control;
};

/* ---- virtio_vsock.c ---- */

static inline bool vsock_is_running(const struct virtio_vsock *vs)
{
	return vs->dev.running && !vs->dev.stopping;
}

/* Is there a driver that could be asked? A paused one will be. */
static inline bool vsock_has_guest(const struct virtio_vsock *vs)
{
	return vs->dev.running || (vs->dev.paused && vs->dev.status & VIRTIO_CONFIG_S_DRIVER_OK);
}

/* Fill the driver's receive buffers with what connections have for it. */
void vsock_pump(struct virtio_vsock *vs);

/* ---- virtio_vsock_conn.c ---- */

/* vs->reaper.run: free the dead. */
void vsock_reap(struct loop_task *task);
/* vs->sweep.expired: look for hosts that are gone, and for guests that do not answer. */
void vsock_sweep(struct loop_timer *t);

/* NULL when there are too many, or no memory. @fd (-1: none yet) becomes the connection's. */
struct vsock_conn *vsock_conn_create(struct virtio_vsock *vs, enum vsock_state state, int fd);
struct vsock_conn *vsock_conn_find(struct virtio_vsock *vs, uint32_t guest_port,
				   uint32_t host_port);
/* Have it found by its ports from now on. */
void vsock_conn_name(struct vsock_conn *c, uint32_t guest_port, uint32_t host_port);

/* The socket is there and both sides agree. */
void vsock_conn_open(struct vsock_conn *c);

/* See to it that what it has or waits for is noticed; vsock_pump() does the sending. */
void vsock_conn_wake(struct vsock_conn *c);

/* The guest is asked from now on: if it has not answered by VSOCK_ANSWER_NS it is over. */
void vsock_conn_requested(struct vsock_conn *c);

/* Over, without a word to the guest. @c may not be used afterwards, but to wait for the reaper. */
void vsock_conn_close(struct vsock_conn *c);
/* The same, and the guest is owed an RST. */
void vsock_conn_reset(struct vsock_conn *c);

/* A packet of the guest's for it, in @chain behind the header @h. */
void vsock_conn_receive(struct vsock_conn *c, const struct virtio_vsock_hdr *h,
			const struct virtq_chain *chain);

/*
 * Put the next packet for the guest into @chain (room for a header and a
 * byte at least). Returns its length, or 0 when there is none.
 */
size_t vsock_conn_fill(struct vsock_conn *c, const struct virtq_chain *chain);

/* ---- virtio_vsock_host.c ---- */

/* Listen; on the loop, or before anybody runs it. */
void vsock_host_listen(struct virtio_vsock *vs);

/* The hello may have come: read on, up to the end of its line and no further. */
void vsock_host_hello(struct vsock_conn *c);

/* Ask the guest for a connection to its @port. */
void vsock_host_request(struct vsock_conn *c, uint32_t port);

/* The guest has accepted: tell the host. */
void vsock_host_answer(struct vsock_conn *c);

/*
 * Get the socket that @c, of the guest's making, ends at, or the notice in place of one; resets it
 * when there is neither.
 */
void vsock_host_open(struct vsock_conn *c);

/* Stop listening and asking; true when nothing of that is outstanding. */
bool vsock_host_close(struct virtio_vsock *vs);

#endif
