/*
 * A guest of wisp-net, for unit tests: the executable is started with its end of a socketpair, and
 * the test is the guest, with as little of Ethernet, ARP, IPv4, UDP and TCP as that takes.
 *
 *	g = net_guest_begin((const char *[]){ "--hostfwd", "udp:127.0.0.1:53-:5000", NULL });
 *	net_guest_dhcp(g, 1);
 *	net_guest_send_udp(g, NET_GUEST_IP, 5000, to, port, "hello", 5);
 *	assert_true(net_guest_get_packet(g, IPPROTO_UDP));
 *	assert_int_equal(net_guest_end(g), 0);
 *
 * Addresses and ports are in the host's byte order. All of it asserts (cmocka) that each step
 * succeeds, but for what is said to be returned.
 */
#ifndef WISP_TESTS_NET_GUEST_H
#define WISP_TESTS_NET_GUEST_H

#include <linux/virtio_net.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define NET_GUEST_IP	  0x0a00020fu /* 10.0.2.15 */
#define NET_GUEST_ROUTER  0x0a000202u
#define NET_GUEST_WAIT_MS 20000

struct net_guest {
	pid_t pid;
	int fd; /* the guest's end */
	char said[256];
	uint8_t router_mac[6];
	uint8_t *frame; /* the last one received, header first */
	ssize_t len;	/* without the header */
	uint32_t space[20000];
};

extern const uint8_t net_guest_mac[6];

/* Start it with @args (up to NULL; or none) and wait for what it says. */
struct net_guest *net_guest_begin(const char *const *args);

/* Close our end; it has to follow. Returns its exit status. */
int net_guest_end(struct net_guest *f);

/* ---- what comes ---- */

/* The next frame within @wait_ms, whatever it is. */
bool net_guest_get_frame(struct net_guest *f, int wait_ms);

/* The next IPv4 packet of @protocol within NET_GUEST_WAIT_MS; ARP is answered on the way. */
bool net_guest_get_packet(struct net_guest *f, uint8_t protocol);

/* Where the last one's parts are; all belong to @f, until the next comes. */
uint8_t *net_guest_ethernet(struct net_guest *f);
struct iphdr *net_guest_ip(struct net_guest *f);
void *net_guest_payload(struct net_guest *f);

/* ---- what goes ---- */

/* @len bytes from the Ethernet header on. */
void net_guest_send_frame(struct net_guest *f, const struct virtio_net_hdr_v1 *h,
			  const void *frame, size_t len);
void net_guest_send_udp(struct net_guest *f, uint32_t from, uint16_t from_port, uint32_t to,
			uint16_t port, const void *data, size_t len);

/*
 * Answer @like, to the router, as a driver with checksum and segmentation offload: the helper has
 * to finish it. @flags: TH_SYN, TH_ACK.
 */
void net_guest_send_tcp(struct net_guest *f, const struct tcphdr *like, uint32_t seq, uint32_t ack,
			unsigned flags, const void *data, size_t len);

/* A DHCP request of @kind; the answer's kind, or 0. */
uint8_t net_guest_dhcp(struct net_guest *f, uint8_t kind);

/* ---- the host's side ---- */

/* A bound socket on an ephemeral port of 127.0.0.1; the caller's. */
int net_guest_bound_socket(int type, uint16_t *ret_port);

/* A port that is free now. */
uint16_t net_guest_free_port(int type);

#endif
