/*
 * A switch between the networks of several microVMs: frames as devices/net.h
 * has them, from one SEQPACKET socket to others, segments of 64 KiB passed whole
 * to guests that take them and cut for those that do not.
 *
 * Who connects says first what it wants (struct net_switch_join): to be a port, in a
 * VLAN, or to be told the counters. Ports of different VLANs never see each other's
 * frames; guests' own VLAN tags are not passed on.
 *
 * A port may be a hostile guest's. What it can do to others is bounded: it has so
 * many addresses, takes others' room only where it is not used any more, and when it
 * does not read it is waited for once, and for a moment. One thread: the loop's.
 */
#ifndef WISP_DEVICES_NET_SWITCH_H
#define WISP_DEVICES_NET_SWITCH_H

#include <stdio.h>

#include "devices/net.h"

#define NET_SWITCH_MAX_PORTS	256
#define NET_SWITCH_PORT_NAME	32
#define NET_SWITCH_PORT_ADDRS	64 /* addresses behind one port */
#define NET_SWITCH_DEFAULT_VLAN 1u
#define NET_SWITCH_MAX_VLAN	4094u
#define NET_SWITCH_AGE_NS \
	(300 * NSEC_PER_SEC) /* an address that is silent for so long is forgotten */

#define NET_SWITCH_MAGIC 0x77737077u /* "wpsw" */
enum net_switch_wish { NET_SWITCH_JOIN = 1, NET_SWITCH_TEXT, NET_SWITCH_JSON };

/* The first message of a connection; all little-endian. A port's is answered by a 4-byte errno. */
struct net_switch_join {
	uint32_t magic;
	uint16_t wish;			 /* enum net_switch_wish */
	uint16_t vlan;			 /* 1 to NET_SWITCH_MAX_VLAN */
	char name[NET_SWITCH_PORT_NAME]; /* letters, digits, '.', '_', '-'; ends in 0 */
};

struct net_switch;

/* Frames are switched on @loop. */
int net_switch_create(struct net_switch **ret_sw, struct loop *loop, struct error *err);

/* Take who connects to @fd, which is owned from now on and listens. */
void net_switch_listen(struct net_switch *sw, int fd);

/* A port on the connected socket @fd, owned from now on, also on failure. -ENOSPC, -ENOMEM. */
int net_switch_add(struct net_switch *sw, int fd, const char *name, unsigned vlan);

/* A port whose peer takes all offloads, without having said so: user networking. */
int net_switch_add_uplink(struct net_switch *sw, int fd, const char *name, unsigned vlan);

/* Ports, addresses and counters, for people or as one JSON object. */
void net_switch_print(const struct net_switch *sw, FILE *out, bool json);

/* On the loop, which is turned until no port has anything under way. NULL is fine. */
void net_switch_free(struct net_switch *sw);

/* ---- the other side ---- */

/*
 * Connect to the switch at @path as the port @name in @vlan: the descriptor for
 * net_open_socket(), or -errno.
 */
int net_switch_connect(const char *path, const char *name, unsigned vlan, struct error *err);

/* Ask the switch at @path for its counters as text, for the caller to free. */
int net_switch_ask(const char *path, bool json, char **ret_text, struct error *err);

#endif
