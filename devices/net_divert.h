/*
 * A net in front of another one: what the guest sends to one IPv4 address, and its
 * ARP requests for it, go to a service on a SEQPACKET socket in place of the network, and
 * frames of the service come in between the network's. So a service of the host
 * (instance metadata) sits on the guest's own link, on a network of any kind.
 *
 * The service speaks as devices/net.h has it for sockets, and takes frames with
 * checksums to fill in and segments of up to 64 KiB. What it is too slow for is dropped.
 * Without a service nobody has that address.
 */
#ifndef WISP_DEVICES_NET_DIVERT_H
#define WISP_DEVICES_NET_DIVERT_H

#include <netinet/in.h>

#include "devices/net.h"

/* In front of @inner, which it owns from a success on. */
int net_divert_create(struct net **ret_net, struct net *inner, struct in_addr address,
		      struct error *err);

/*
 * The service is at the other end of @fd, which @n owns from a success on. When it ends
 * another may come. -EOPNOTSUPP: @n diverts nothing; -EBUSY: there is one. On the loop.
 */
int net_divert_attach(struct net *n, int fd);

#endif
