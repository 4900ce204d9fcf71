/*
 * A disk behind an NBD server, as its two halves see it: block_nbd.c, which speaks the
 * protocol over a connection, and block_nbd_redial.c, which gets another one when that is
 * lost. Nobody else includes it. All of it runs on the block's loop.
 */
#ifndef WISP_DEVICES_BLOCK_NBD_INTERNAL_H
#define WISP_DEVICES_BLOCK_NBD_INTERNAL_H

#include "devices/block_internal.h"
#include "devices/nbd.h"
#include "vmm/core/fds.h"
#include "vmm/core/log.h"

#define NBD_SLOTS   128u  /* requests that the server may be working on */
#define NBD_MAX_IOV 1024u /* of one message: the kernel's limit */

struct nbd_request_head {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t len;
} __attribute__((packed));

struct nbd_reply_head {
	uint32_t magic, error;
	uint64_t cookie;
} __attribute__((packed));

struct nbd_slot {
	struct block_req *req; /* NULL: free */
	uint32_t turn;	       /* in the cookie: an answer to what is over is a lie */
	uint64_t len;	       /* of this piece */
	bool leaving;	       /* part of the message that is being sent: its buffers are in use */
	bool answered;
	bool long_work;	       /* a flush, a write that must last, a range without data */
	int res;
	struct nbd_request_head head;
};

/* What is left of a transfer, as the kernel gets it. */
struct nbd_stream {
	struct loop_op op;
	struct msghdr msg;
	struct iovec *at;
	unsigned num;
	bool busy;
	struct iovec iov[NBD_MAX_IOV];
};

enum nbd_link {
	NBD_UP,
	NBD_BREAKING, /* until the transfers under way have ended */
	NBD_DIALING,  /* the dialer has been asked */
	NBD_RESTING,  /* until it is asked again */
	NBD_DOWN,     /* given up, or nobody waits for it */
};

/* How a connection that was lost is replaced. */
struct nbd_redial {
	int fd;		      /* the dialer (devices/nbd.h); -1: there is none */
	uint64_t limit_ns;    /* how long requests wait for a server */
	uint64_t deadline_ns; /* when they fail; 0: the server has answered */
	uint64_t next_ns;     /* the dialer is not asked again before */
	bool given_up;	      /* requests have failed since the last answer */
	bool hurried;	      /* whoever asked does not wait for another connection */
	uint32_t id;	      /* of the question */
	struct log_limit limit;
	struct loop_timer timer;
	struct loop_op op;
	struct msghdr msg;
	struct iovec iov;
	struct nbd_dialed reply;
	FDS_SPACE(1) control;
};

struct block_nbd {
	struct block b;
	int fd; /* -1 while there is no connection */
	struct nbd_export export;
	enum nbd_link link;
	struct list waiting; /* requests for a slot */
	struct nbd_slot slot[NBD_SLOTS];
	unsigned busy;
	unsigned owed; /* of these, what the server has still to answer: while any, we listen */
	unsigned at_work; /* of what is owed, that which may take long */
	struct loop_task send;
	struct loop_timer silence;
	struct nbd_stream out, in;
	struct nbd_reply_head reply;
	struct nbd_slot *reading; /* its data is coming in, or NULL: a reply's head */
	struct nbd_redial redial;
};

/*
 * The connection is lost, @why says how. Requests under way go back to those that wait; these
 * wait for another connection, or fail. Called again by each transfer that ends.
 */
void nbd_lost(struct block_nbd *n, const char *why);

/* The server has answered: if its connection was lost before, it is back. */
void nbd_proven(struct block_nbd *n);

/* A request has come while there is no connection: may it wait? */
bool nbd_may_wait(struct block_nbd *n);

/* Nobody waits for a server that is gone: until there is another request. */
void nbd_hurry(struct block_nbd *n);

/* Is any request waiting, or under way? */
static inline bool nbd_is_asked(const struct block_nbd *n)
{
	return n->busy || !list_empty(&n->waiting);
}

/* block_nbd.c: what was under way waits again; all that waits fails, or may go over @fd. */
void nbd_take_back(struct block_nbd *n);
void nbd_fail_all(struct block_nbd *n);
void nbd_connected(struct block_nbd *n, int fd);

/* block_nbd.c: how long the server may be silent counts from now, while it owes anything. */
void nbd_heard(struct block_nbd *n);

void nbd_redial_init(struct block_nbd *n, int dialer, unsigned limit_s);
void nbd_redial_done(struct block_nbd *n);

#endif
