/*
 * Where addresses are: which port of a switch a guest's address was last seen
 * behind. A table of fixed size; an address that finds no room is not learned, and frames
 * to it go to all ports. The switch's own, on its thread.
 */
#ifndef WISP_DEVICES_NET_SWITCH_TABLE_H
#define WISP_DEVICES_NET_SWITCH_TABLE_H

#include "vmm/core/util.h"

#define NET_SWITCH_BUCKETS 1024u
#define NET_SWITCH_WAYS	   4u

struct net_switch_entry {
	uint64_t key;	  /* VLAN and address; 0: free */
	uint64_t seen_ns; /* when it sent last */
	unsigned port;
};

struct net_switch_table {
	struct net_switch_entry entry[NET_SWITCH_BUCKETS][NET_SWITCH_WAYS];
	uint64_t secret; /* so that no guest can choose whom it collides with */
	uint64_t max_age_ns;
	unsigned max_per_port;
	unsigned *num; /* addresses of each port; the owner's */
};

/* @addr has sent from @port at @now_ns. */
void net_switch_learn(struct net_switch_table *t, unsigned vlan, const uint8_t addr[6],
		      unsigned port, uint64_t now_ns);

/* The port that @addr is behind, or -1. */
int net_switch_find(const struct net_switch_table *t, unsigned vlan, const uint8_t addr[6],
		    uint64_t now_ns);

/* @port is gone. */
void net_switch_forget(struct net_switch_table *t, unsigned port);

#endif
