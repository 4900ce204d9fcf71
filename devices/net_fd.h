/*
 * What nets on a file descriptor share: frames to send wait in a list and are
 * handed over at the end of a round of the loop, several at once where the kind
 * of descriptor can; when it is full, they wait for it. For devices/net_*.c.
 */
#ifndef WISP_DEVICES_NET_FD_H
#define WISP_DEVICES_NET_FD_H

#include "devices/net.h"

struct net_fd {
	struct net n;
	int fd;
	/*
	 * Hand over as many as is easy of the frames in @waiting, calling
	 * net_fd_sent() for each. How many, or -errno for the first of them.
	 */
	int (*send_batch)(struct net_fd *f);
	struct list waiting; /* net_tx, oldest first */
	struct loop_task send;
	struct loop_op writable;
	bool polling;	/* @writable is outstanding */
	bool canceling; /* drop all that waits */
	bool recv_canceled;
};

static inline struct net_fd *net_fd_of(struct net *n)
{
	return container_of(n, struct net_fd, n);
}

void net_fd_init(struct net_fd *f, int fd, const uint8_t mac[6]);

/* The first that waits is done: bytes, or -errno. */
void net_fd_sent(struct net_fd *f, int res);

/* net_ops as they are for all. */
void net_fd_send(struct net *n, struct net_tx *tx);
void net_fd_cancel_send(struct net *n);
void net_fd_free(struct net *n);

/* A broadcast "this address is here" (RARP), as if the guest had sent it. */
void net_fd_announce(struct net *n, const uint8_t mac[6]);

void net_fd_take_link_down(struct net *n);

/* Count what a receive brought, and translate errors: to what recv_now() returns. */
int net_fd_received(struct net *n, int res, bool truncated);

#endif
