/*
 * What of a guest's frames may reach libslirp: nothing that would end at this
 * host's own loopback, and no fragment of an IPv4 packet, with which a guest could make
 * libslirp's reassembly write where it must not.
 *
 * libslirp passes on what a guest sends to 127.0.0.1 itself, and its switch
 * against the router's address standing for the loopback also drops the answers
 * to forwarded UDP. So it is decided here, by destination address, and such
 * answers are let through to whoever has asked. One thread.
 */
#ifndef WISP_HELPERS_GUEST_FILTER_H
#define WISP_HELPERS_GUEST_FILTER_H

#include <netinet/in.h>

#include "vmm/core/util.h"

#define GUEST_FILTER_FLOWS 64

struct guest_filter {
	struct in_addr host; /* the router's address; libslirp takes it for the loopback */
	struct in6_addr prefix6; /* and all of this /64 but the name server */
	/*
	 * The name servers: libslirp passes every port on to the host's own resolver, which is the
	 * loopback where a caching one runs. Port 53 is all that the guest is offered.
	 */
	struct in_addr dns;
	struct in6_addr dns6;
	bool host_loopback;  /* the guest may reach it by @host, though never by 127.0.0.1 */

	/* Who of this host has sent UDP to which port of the guest, the latest last. */
	struct {
		uint16_t peer, guest;
	} flow[GUEST_FILTER_FLOWS];
	unsigned next;
};

/* May libslirp have this Ethernet frame of @len bytes from the guest? */
bool guest_filter_allows(const struct guest_filter *f, const uint8_t *frame, size_t len);

/* Ethernet, IPv6, TCP. */
#define GUEST_FILTER_REFUSAL_MAX (14 + 40 + 20)

/*
 * The answer to a frame that is not allowed, for the guest: to who opens a TCP connection, that
 * it is refused (RFC 9293 section 3.10.7.1), so that nobody waits minutes for what will not come.
 * Returns its bytes in @answer; 0: there is none.
 */
size_t guest_filter_refusal(const uint8_t *frame, size_t len,
			    uint8_t answer[GUEST_FILTER_REFUSAL_MAX]);

/* A frame from libslirp goes to the guest: remember what it may answer. */
void guest_filter_learn(struct guest_filter *f, const uint8_t *frame, size_t len);

#endif
