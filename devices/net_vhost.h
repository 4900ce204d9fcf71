/*
 * vhost-net: the host's kernel moves frames between a tap and the rings of one queue pair, on a
 * thread of its own, with doorbells and interrupts that go past the monitor.
 *
 * It knows no rate limits and counts no frames for us, and what it writes into the guest's memory
 * appears in no dirty log of ours: devices take their rings back before anybody keeps one.
 *
 * The descriptor is opened by whoever may open files; the rest is for the process that the guest's
 * memory belongs to, on the net's loop.
 */
#ifndef WISP_DEVICES_NET_VHOST_H
#define WISP_DEVICES_NET_VHOST_H

#include "devices/net.h"
#include "vmm/core/guest_mem.h"

#define NET_VHOST_DEVICE "/dev/vhost-net"

struct net_vhost;

/* A descriptor for one queue pair, of a kernel that can do what we ask of it; or -errno. */
int net_vhost_open(struct error *err);

/*
 * Tie @fd, owned from now on also on failure, to this process and to the guest memory @mem, whose
 * ranges stay where they are. Before the process is locked in: it starts a kernel thread.
 */
int net_vhost_create(struct net_vhost **ret_vhost, int fd, const struct guest_mem *mem,
		     struct error *err);

/* As net_ops.hand_over and take_back, for the tap's queue @tap. */
int net_vhost_start(struct net_vhost *v, int tap, uint64_t features,
		    const struct net_ring ring[2]);
void net_vhost_stop(struct net_vhost *v, uint16_t ret_position[2]);

/* Accepts NULL, and one that serves rings. */
void net_vhost_free(struct net_vhost *v);

#endif
