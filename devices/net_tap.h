/*
 * Tap interfaces of the host. Setting one up needs the host's network namespace
 * and /dev/net/tun, so it is done by whoever may open files; what comes of it is
 * descriptors, and what the kernel can do for them. No threads.
 */
#ifndef WISP_DEVICES_NET_TAP_H
#define WISP_DEVICES_NET_TAP_H

#include "devices/net.h"

struct guest_mem;

/* linux/if_tun.h has them since Linux 6.2. */
#define NET_TUN_F_USO4 0x20
#define NET_TUN_F_USO6 0x40

struct net_tap {
	unsigned num_queues;
	int fd[NET_MAX_PAIRS];	      /* -1: taken */
	uint16_t mtu;		      /* of the interface; 0: as usual, or not known */
	struct net_offloads offloads; /* what this kernel does for taps, each way */
};

/*
 * Open @num_queues queues of the tap called @name, which exists already. Needs
 * no privilege when the tap is ours. Errors tell how to make one.
 */
int net_tap_open(struct net_tap *tap, const char *name, unsigned num_queues, struct error *err);

/*
 * The tap on @fd, which somebody else has opened; owned from now on, also on failure. What the
 * kernel does for it is tried out, which leaves it all off, unless who uses the tap still has
 * told, by @offloads, net_tap_offload_flags().
 */
int net_tap_adopt(struct net_tap *tap, int fd, unsigned offloads, struct error *err);

void net_tap_close(struct net_tap *tap);

/*
 * A queue of @tap on @fd, one of @tap->fd, as a net; @fd is owned from now on,
 * also on failure. An error of the descriptor takes the link down for good.
 */
int net_open_tap(struct net **ret_net, int fd, const struct net_tap *tap, const uint8_t mac[6],
		 struct error *err);

/*
 * Have @n, a tap's queue, hand rings over to the kernel by @vhost, one of net_vhost_open(), owned
 * from now on also on failure. @mem as for net_vhost_create().
 */
int net_tap_use_vhost(struct net *n, int vhost, const struct guest_mem *mem, struct error *err);

/* The descriptor of @n, which stays its own until net_close(); -1: it is no tap. Any thread. */
int net_tap_fd(struct net *n);

/* TUN_F_* for frames that a driver takes. */
unsigned net_tap_offload_flags(const struct net_offloads *o);

#endif
