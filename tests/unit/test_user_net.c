/* wisp-net as a guest and as its parent see it: what it gives, and what it keeps out of reach. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/net_offload.h"
#include "tests/unit/net_guest.h"
#include "vmm/core/util.h"

static void it_is_ready_and_ends_with_its_guest(void **state)
{
	struct net_guest *f = net_guest_begin(NULL);

	assert_string_equal(f->said, "ready\n");
	assert_int_equal(net_guest_end(f), 0);
}

static void wrong_options_are_named(void **state)
{
	static const struct {
		const char *args[4];
		const char *says;
	} bad[] = {
		{ { "--mtu", "10" }, "--mtu '10'" },
		{ { "--mtu", "1x" }, "--mtu '1x'" },
		{ { "--net", "10.0.2.0" }, "--net" },
		{ { "--net", "10.0.2.0/33" }, "--net '33'" },
		{ { "--host", "fec0::1" }, "--host" },
		{ { "--hostfwd", "tcp:127.0.0.1:80" }, "'tcp:127.0.0.1:80'" },
		{ { "--hostfwd", "tcp:127.0.0.1:0-:80" }, "'tcp:127.0.0.1:0-:80'" },
		{ { "--hostfwd", "tcp:127.0.0.1:65536-:80" }, "65536" },
		{ { "--hostfwd", "tcp:localhost:80-:80" }, "localhost" },
		{ { "--hostfwd", "sctp:127.0.0.1:80-:80" }, "sctp" },
		{ { "--hostfwd", "tcp:[::1:80-:80" }, "[::1" },
		{ { "extra" }, "wisp-net is started by wisp" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct net_guest *f = net_guest_begin(bad[i].args);

		if (!strstr(f->said, bad[i].says))
			fail_msg("'%s' does not name '%s'", f->said, bad[i].says);
		assert_int_equal(net_guest_end(f), 2);
	}
}

static void a_port_that_is_taken_is_named(void **state)
{
	char rule[64], says[96];
	struct net_guest *f;
	uint16_t port;
	int fd = net_guest_bound_socket(SOCK_STREAM, &port);

	assert_int_equal(listen(fd, 1), 0);
	snprintf(rule, sizeof(rule), "tcp:127.0.0.1:%u-:80", port);
	snprintf(says, sizeof(says), "cannot forward tcp 127.0.0.1:%u: Address already in use\n",
		 port);
	f = net_guest_begin((const char *[]){ "--hostfwd", rule, NULL });
	assert_string_equal(f->said, says);
	assert_int_equal(net_guest_end(f), 2);
	close(fd);

	fd = net_guest_bound_socket(SOCK_DGRAM, &port);
	snprintf(rule, sizeof(rule), "udp:127.0.0.1:%u-:80", port);
	snprintf(says, sizeof(says), "cannot forward udp 127.0.0.1:%u: Address already in use\n",
		 port);
	f = net_guest_begin((const char *[]){ "--hostfwd", rule, NULL });
	assert_string_equal(f->said, says);
	assert_int_equal(net_guest_end(f), 2);
	close(fd);
}

static void dhcp_gives_the_guest_its_address(void **state)
{
	struct net_guest *f = net_guest_begin((const char *[]){ "--net", "192.168.77.0/24", NULL });
	uint8_t *in;

	assert_int_equal(net_guest_dhcp(f, 1 /* discover */), 2 /* offer */);
	in = (uint8_t *)net_guest_payload(f) + 8;
	assert_memory_equal(in + 16, "\xc0\xa8\x4d\x0f", 4);
	/* Router, and the name server beside it. */
	assert_non_null(memmem(in + 240, 80, "\x03\x04\xc0\xa8\x4d\x02", 6));
	assert_non_null(memmem(in + 240, 80, "\x06\x04\xc0\xa8\x4d\x03", 6));
	/* What libslirp has summed need not be summed again. */
	assert_int_equal(((struct virtio_net_hdr_v1 *)f->frame)->flags,
			 VIRTIO_NET_HDR_F_DATA_VALID);
	assert_int_equal(net_guest_end(f), 0);
}

/* UDP to an IPv6 address, its checksum left to the helper. */
static void send_udp6(struct net_guest *f, const char *to, uint16_t port, const void *data,
		      size_t len)
{
	struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .csum_start = htole16(54),
				       .csum_offset = htole16(6) };
	struct udphdr udp = { .source = htons(4000), .dest = htons(port), .len = htons(8 + len) };
	uint8_t frame[200] = {
		[12] = 0x86, [13] = 0xdd, [14] = 0x60, [20] = IPPROTO_UDP, [21] = 64
	};
	uint8_t pseudo[40] = { [34] = 0, [35] = 8 + len, [39] = IPPROTO_UDP };

	memcpy(frame, "\x33\x33\0\0\0\2", 6);
	memcpy(frame + 6, net_guest_mac, 6);
	frame[19] = 8 + len;
	inet_pton(AF_INET6, "fec0::5054:ff:fe12:3456", frame + 22);
	assert_int_equal(inet_pton(AF_INET6, to, frame + 38), 1);
	memcpy(pseudo, frame + 22, 32);
	udp.check = ~net_checksum(pseudo, sizeof(pseudo));
	memcpy(frame + 54, &udp, sizeof(udp));
	memcpy(frame + 62, data, len);
	net_guest_send_frame(f, &h, frame, 62 + len);
}

/* All that was sent before has been dealt with. */
static void settle(struct net_guest *f)
{
	while (net_guest_dhcp(f, 1) != 2)
		;
}

static bool arrives(int fd, const char *text, int wait_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char got[64] = "";

	if (poll(&p, 1, wait_ms) <= 0)
		return false;
	assert_int_equal(recv(fd, got, sizeof(got), 0), strlen(text));
	assert_string_equal(got, text);
	return true;
}

static void the_hosts_own_ports_are_closed_unless_opened(void **state)
{
	static const char *const open[] = { "--host-loopback", NULL };
	uint16_t port;
	int fd = net_guest_bound_socket(SOCK_DGRAM, &port);

	for (int allowed = 0; allowed < 2; allowed++) {
		struct net_guest *f = net_guest_begin(allowed ? open : NULL);

		net_guest_dhcp(f, 1);
		net_guest_dhcp(f, 3);
		net_guest_send_udp(f, NET_GUEST_IP, 4000, NET_GUEST_ROUTER, port, "router", 6);
		settle(f);
		assert_int_equal(arrives(fd, "router", allowed ? NET_GUEST_WAIT_MS : 50), allowed);
		net_guest_send_udp(f, NET_GUEST_IP, 4000, INADDR_BROADCAST, port, "all", 3);
		settle(f);
		assert_int_equal(arrives(fd, "all", allowed ? NET_GUEST_WAIT_MS : 50), allowed);
		assert_int_equal(net_guest_end(f), 0);
	}
	close(fd);
}

static void the_loopback_address_itself_is_never_reached(void **state)
{
	static const char *const open[] = { "--host-loopback", NULL };
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	uint16_t port;
	int fd = net_guest_bound_socket(SOCK_DGRAM, &port);
	int six = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	any.sin6_port = htons(port);
	any.sin6_addr = in6addr_loopback;
	if (six >= 0 && bind(six, (struct sockaddr *)&any, sizeof(any)) < 0) {
		close(six);
		six = -1;
	}
	for (int allowed = 0; allowed < 2; allowed++) {
		struct net_guest *f = net_guest_begin(allowed ? open : NULL);

		net_guest_dhcp(f, 1);
		net_guest_dhcp(f, 3);
		net_guest_send_udp(f, NET_GUEST_IP, 4000, INADDR_LOOPBACK, port, "loopback", 8);
		net_guest_send_udp(f, NET_GUEST_IP, 4000, INADDR_LOOPBACK + 1, port, "loopback 2",
				   10);
		net_guest_send_udp(f, NET_GUEST_IP, 4000, INADDR_ANY, port, "any", 3);
		send_udp6(f, "::1", port, "loopback 6", 10);
		send_udp6(f, "::", port, "any 6", 5);
		send_udp6(f, "::ffff:127.0.0.1", port, "mapped", 6);
		settle(f);
		assert_false(arrives(fd, "", 50));
		if (six >= 0)
			assert_false(arrives(six, "", 0));
		assert_int_equal(net_guest_end(f), 0);
	}
	close(fd);
	if (six >= 0)
		close(six);
}

static void a_connection_to_the_hosts_own_port_is_not_made(void **state)
{
	uint16_t port;
	int fd = net_guest_bound_socket(SOCK_STREAM, &port);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct tcphdr like = { .source = htons(port), .dest = htons(4000) };
	struct net_guest *f = net_guest_begin(NULL);
	const struct tcphdr *answer;

	assert_int_equal(listen(fd, 5), 0);
	net_guest_dhcp(f, 1);
	net_guest_dhcp(f, 3);
	net_guest_send_tcp(f, &like, 1, 0, TH_SYN, NULL, 0);
	assert_true(net_guest_get_packet(f, IPPROTO_TCP));
	answer = net_guest_payload(f);
	assert_true(answer->rst && answer->ack);
	assert_int_equal(ntohl(answer->ack_seq), 2);
	assert_int_equal(poll(&p, 1, 50), 0);
	assert_int_equal(net_guest_end(f), 0);

	f = net_guest_begin((const char *[]){ "--host-loopback", NULL });
	net_guest_dhcp(f, 1);
	net_guest_dhcp(f, 3);
	net_guest_send_tcp(f, &like, 1, 0, TH_SYN, NULL, 0);
	assert_int_equal(poll(&p, 1, NET_GUEST_WAIT_MS), 1);
	assert_int_equal(net_guest_end(f), 0);
	close(fd);
}

static void garbage_does_not_end_it(void **state)
{
	struct net_guest *f = net_guest_begin(NULL);
	uint8_t frame[3000];
	unsigned seed = 1;

	for (int i = 0; i < 3000; i++) {
		struct virtio_net_hdr_v1 h;
		size_t len = rand_r(&seed) % (i % 10 ? 200 : sizeof(frame));

		for (size_t j = 0; j < sizeof(h); j++)
			((uint8_t *)&h)[j] = rand_r(&seed);
		for (size_t j = 0; j < len; j++)
			frame[j] = rand_r(&seed);
		/* Mostly something that is looked into. */
		if (len > 40 && i % 4) {
			static const uint8_t types[3][2] = { { 8, 0 }, { 8, 6 }, { 0x86, 0xdd } };

			memcpy(frame + 12, types[i % 3], 2);
			frame[14] = i % 3 == 2 ? 0x60 : 0x45;
			if (i % 8 > 3)
				h.flags = 0;
		}
		net_guest_send_frame(f, &h, frame, len);
		while (net_guest_get_frame(f, 0))
			;
	}
	/* A message that is no frame at all. */
	assert_int_equal(send(f->fd, frame, 3, 0), 3);
	do {
		assert_int_equal(waitpid(f->pid, NULL, WNOHANG), 0);
	} while (net_guest_dhcp(f, 1) != 2);
	assert_int_equal(net_guest_end(f), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_is_ready_and_ends_with_its_guest),
		cmocka_unit_test(wrong_options_are_named),
		cmocka_unit_test(a_port_that_is_taken_is_named),
		cmocka_unit_test(dhcp_gives_the_guest_its_address),
		cmocka_unit_test(the_hosts_own_ports_are_closed_unless_opened),
		cmocka_unit_test(the_loopback_address_itself_is_never_reached),
		cmocka_unit_test(a_connection_to_the_hosts_own_port_is_not_made),
		cmocka_unit_test(garbage_does_not_end_it),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
