/*
 * User networking: a guest's frames on one side, this process's sockets on the
 * other, libslirp's TCP/IP between them. DHCP, DNS and a router are in it.
 *
 * The guest's side is a SEQPACKET socket: one message is a virtio-net header
 * and a frame (devices/net.h). One thread, no globals.
 */
#ifndef WISP_HELPERS_USER_NET_H
#define WISP_HELPERS_USER_NET_H

#include <netinet/in.h>

#include "vmm/core/error.h"

#define USER_NET_MAX_MTU 65520u /* what libslirp goes up to, in round numbers */
#define USER_NET_MIN_MTU 1280u	/* IPv6's minimum */
#define USER_NET_MAX_SEARCH 4u

struct user_net_config {
	int fd; /* the guest's side; borrowed */
	/*
	 * A listening SEQPACKET socket, or -1: who connects says "add RULE" or "remove RULE", as
	 * for user_net_forward(), or "list", and hears "ok", with what is listed behind it, each
	 * RULE behind a newline, or why not. Borrowed; not open: as -1.
	 */
	int control_fd;
	struct in_addr network, mask;
	struct in_addr host; /* the router, and this host with @host_loopback */
	struct in_addr dns;
	struct in_addr dhcp_start; /* the guest's address */
	const char *search[USER_NET_MAX_SEARCH + 1]; /* domains, up to NULL; borrowed */
	bool ipv6;
	bool restrict_out;  /* the guest reaches nothing by itself; forwards still work */
	bool host_loopback; /* what the guest sends to @host goes to this host's 127.0.0.1 */
	unsigned mtu;
};

struct user_net;

int user_net_create(struct user_net **ret_net, const struct user_net_config *config,
		    struct error *err);
void user_net_free(struct user_net *un);

/*
 * Forward what connects to (UDP: is sent to) "tcp:ADDR:PORT-:GPORT" of this
 * host to the guest's GPORT; tcp or udp, ADDR numeric, an IPv6 one in brackets.
 * Listens at once; errors name the forward.
 */
int user_net_forward(struct user_net *un, const char *rule, struct error *err);

/* Carry frames until the guest's side is closed. 0 or -errno. */
int user_net_run(struct user_net *un);

#endif
