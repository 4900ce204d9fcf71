/* Which of a guest's frames user networking passes on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/tcp.h>

#include "devices/net_offload.h"
#include "helpers/guest_filter.h"

#define ROUTER	    "10.0.2.2"
#define NAME_SERVER "10.0.2.3"
#define OUTSIDE	    "192.0.2.7"

struct frame {
	uint8_t bytes[128];
	size_t len;
};

static struct guest_filter filter(bool host_loopback)
{
	struct guest_filter f = { .host_loopback = host_loopback };

	inet_pton(AF_INET, ROUTER, &f.host);
	inet_pton(AF_INET, NAME_SERVER, &f.dns);
	inet_pton(AF_INET6, "fec0::", &f.prefix6);
	inet_pton(AF_INET6, "fec0::3", &f.dns6);
	return f;
}

/* An IPv4 or IPv6 packet of @protocol to port @port of @to, from the guest's port 4000. */
static struct frame packet(const char *to, uint8_t protocol, uint16_t port, uint8_t tcp_flags)
{
	bool v6 = strchr(to, ':');
	struct frame frame = { .len = 14 + (v6 ? 40 : 20) + 20 };
	uint8_t *ip = frame.bytes + 14, *payload = ip + (v6 ? 40 : 20);

	frame.bytes[12] = v6 ? 0x86 : 0x08;
	frame.bytes[13] = v6 ? 0xdd : 0x00;
	if (v6) {
		ip[0] = 0x60;
		ip[6] = protocol;
		inet_pton(AF_INET6, "fec0::15", ip + 8);
		inet_pton(AF_INET6, to, ip + 24);
	} else {
		ip[0] = 0x45;
		ip[9] = protocol;
		inet_pton(AF_INET, "10.0.2.15", ip + 12);
		inet_pton(AF_INET, to, ip + 16);
	}
	payload[0] = 4000 >> 8;
	payload[1] = 4000 & 255;
	payload[2] = port >> 8;
	payload[3] = port & 255;
	payload[13] = tcp_flags;
	return frame;
}

static bool allows(const struct guest_filter *f, struct frame frame)
{
	return guest_filter_allows(f, frame.bytes, frame.len);
}

static void name_server_is_reached_on_its_own_port_alone(void **state)
{
	struct guest_filter f = filter(false);
	static const char *const server[] = { NAME_SERVER, "fec0::3" };

	for (unsigned i = 0; i < ARRAY_SIZE(server); i++) {
		assert_true(allows(&f, packet(server[i], IPPROTO_UDP, 53, 0)));
		assert_true(allows(&f, packet(server[i], IPPROTO_TCP, 53, TH_SYN)));
		assert_false(allows(&f, packet(server[i], IPPROTO_UDP, 631, 0)));
		assert_false(allows(&f, packet(server[i], IPPROTO_TCP, 631, TH_SYN)));
	}
}

static void no_fragment_gets_through(void **state)
{
	static const uint16_t fragments[] = { 0x2000, 0x0001, 0x1fff, 0x8000, 0xe000 };
	struct guest_filter f = filter(false), open = filter(true);
	struct frame frame = packet("192.0.2.1", IPPROTO_UDP, 53, 0);

	for (unsigned i = 0; i < ARRAY_SIZE(fragments); i++) {
		frame.bytes[20] = fragments[i] >> 8;
		frame.bytes[21] = fragments[i] & 255;
		assert_false(allows(&f, frame));
		assert_false(allows(&open, frame));
	}
	/* "Do not fragment" is not one. */
	frame.bytes[20] = 0x40;
	frame.bytes[21] = 0;
	assert_true(allows(&f, frame));
}

static void name_server_gets_no_fragments(void **state)
{
	struct guest_filter f = filter(false);
	struct frame frame = packet(NAME_SERVER, IPPROTO_UDP, 53, 0);

	/* More fragments: the next one's ports are anything. */
	frame.bytes[14 + 6] = 0x20;
	assert_false(allows(&f, frame));
}

static void router_opens_no_connections(void **state)
{
	struct guest_filter f = filter(false), open = filter(true);

	assert_false(allows(&f, packet(ROUTER, IPPROTO_TCP, 22, TH_SYN)));
	assert_false(allows(&f, packet("fec0::2", IPPROTO_TCP, 22, TH_SYN)));
	/* A forwarded connection's answers have ACK set. */
	assert_true(allows(&f, packet(ROUTER, IPPROTO_TCP, 22, TH_SYN | TH_ACK)));
	assert_true(allows(&open, packet(ROUTER, IPPROTO_TCP, 22, TH_SYN)));
}

static void router_gets_udp_only_from_whom_it_asked(void **state)
{
	struct guest_filter f = filter(false);
	struct frame asked = packet("10.0.2.15", IPPROTO_UDP, 4000, 0);

	assert_true(allows(&f, packet(ROUTER, IPPROTO_UDP, 67, 0)));
	assert_false(allows(&f, packet(ROUTER, IPPROTO_UDP, 7000, 0)));
	/* From port 7000 of the router to the guest's port 4000. */
	inet_pton(AF_INET, ROUTER, asked.bytes + 14 + 12);
	asked.bytes[34] = 7000 >> 8;
	asked.bytes[35] = 7000 & 255;
	guest_filter_learn(&f, asked.bytes, asked.len);
	assert_true(allows(&f, packet(ROUTER, IPPROTO_UDP, 7000, 0)));
	assert_false(allows(&f, packet(ROUTER, IPPROTO_UDP, 7001, 0)));
}

static void loopback_is_never_reached(void **state)
{
	static const char *const loopback[] = { "127.0.0.1", "127.1.2.3", "0.0.0.0", "::1", "::",
						"::ffff:127.0.0.1" };
	struct guest_filter f = filter(true);

	for (unsigned i = 0; i < ARRAY_SIZE(loopback); i++)
		assert_false(allows(&f, packet(loopback[i], IPPROTO_TCP, 22, TH_SYN)));
}

static void outside_is_open(void **state)
{
	struct guest_filter f = filter(false);

	assert_true(allows(&f, packet(OUTSIDE, IPPROTO_TCP, 22, TH_SYN)));
	assert_true(allows(&f, packet("2001:db8::1", IPPROTO_UDP, 22, 0)));
}

/* Each in a block of its own size, so that the address sanitizer sees a byte too many. */
static void truncated_packets_are_not_read_past(void **state)
{
	struct guest_filter f = filter(false);
	struct frame frames[] = { packet(ROUTER, IPPROTO_TCP, 22, TH_SYN),
				  packet("fec0::2", IPPROTO_UDP, 22, 0) };
	uint8_t answer[GUEST_FILTER_REFUSAL_MAX];

	for (unsigned i = 0; i < ARRAY_SIZE(frames); i++)
		for (size_t len = 0; len <= frames[i].len; len++) {
			uint8_t *copy = test_malloc(len);

			memcpy(copy, frames[i].bytes, len);
			if (guest_filter_allows(&f, copy, len))
				assert_true(len < 14 + (i ? 40 : 20));
			guest_filter_learn(&f, copy, len);
			assert_int_equal(guest_filter_refusal(copy, len, answer),
					 i || len < frames[i].len ? 0 : 14 + 20 + 20);
			test_free(copy);
		}
}

/* The sum over a TCP segment's addresses, protocol, length and bytes: 0 where its sum is right. */
static uint16_t segment_sum(const uint8_t *addresses, size_t len, const struct tcphdr *segment)
{
	uint8_t sum[32 + 4 + 20] = { 0 };

	memcpy(sum, addresses, len);
	sum[33] = IPPROTO_TCP;
	sum[35] = sizeof(*segment);
	memcpy(sum + 36, segment, sizeof(*segment));
	return net_checksum(sum, sizeof(sum));
}

static void who_opens_a_connection_hears_that_it_is_refused(void **state)
{
	static const char *const refused[] = { ROUTER, NAME_SERVER, "fec0::2" };
	uint8_t answer[GUEST_FILTER_REFUSAL_MAX];
	struct tcphdr tcp;

	for (unsigned i = 0; i < ARRAY_SIZE(refused); i++) {
		struct frame asks = packet(refused[i], IPPROTO_TCP, 22, TH_SYN);
		bool v6 = strchr(refused[i], ':');
		size_t address = v6 ? 16 : 4, at = v6 ? 14 + 8 : 14 + 12, header = v6 ? 40 : 20;

		memset(asks.bytes, 1, 6);
		memset(asks.bytes + 6, 2, 6);
		memcpy(asks.bytes + 14 + header + 4, "\x01\x02\x03\xff", 4);
		assert_int_equal(guest_filter_refusal(asks.bytes, asks.len, answer),
				 14 + header + 20);
		assert_memory_equal(answer, asks.bytes + 6, 6);
		assert_memory_equal(answer + 6, asks.bytes, 6);
		assert_memory_equal(answer + 12, asks.bytes + 12, 2);
		assert_memory_equal(answer + at, asks.bytes + at + address, address);
		assert_memory_equal(answer + at + address, asks.bytes + at, address);
		memcpy(&tcp, answer + 14 + header, sizeof(tcp));
		assert_int_equal(ntohs(tcp.th_sport), 22);
		assert_int_equal(ntohs(tcp.th_dport), 4000);
		assert_int_equal(ntohl(tcp.th_ack), 0x01020400);
		assert_int_equal(tcp.th_flags, TH_RST | TH_ACK);
		assert_int_equal(segment_sum(answer + at, 2 * address, &tcp), 0);
		if (!v6)
			assert_int_equal(net_checksum(answer + 14, 20), 0);
	}
}

/* A refusal is answered by nobody, and what is no start of a connection is libslirp's to answer. */
static void nothing_else_is_answered(void **state)
{
	struct frame silent[] = { packet(ROUTER, IPPROTO_TCP, 22, TH_RST),
				packet(ROUTER, IPPROTO_TCP, 22, TH_SYN | TH_RST),
				packet(ROUTER, IPPROTO_TCP, 22, TH_SYN | TH_ACK),
				packet(ROUTER, IPPROTO_UDP, 22, TH_SYN),
				packet("127.0.0.1", IPPROTO_TCP, 22, TH_SYN),
				packet("::1", IPPROTO_TCP, 22, TH_SYN) };
	uint8_t answer[GUEST_FILTER_REFUSAL_MAX];

	for (unsigned i = 0; i < ARRAY_SIZE(silent); i++)
		assert_int_equal(guest_filter_refusal(silent[i].bytes, silent[i].len, answer), 0);
	/* Of a fragment nobody knows the ports. */
	silent[0] = packet(ROUTER, IPPROTO_TCP, 22, TH_SYN);
	silent[0].bytes[20] = 0x20;
	assert_int_equal(guest_filter_refusal(silent[0].bytes, silent[0].len, answer), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(name_server_is_reached_on_its_own_port_alone),
		cmocka_unit_test(no_fragment_gets_through),
		cmocka_unit_test(name_server_gets_no_fragments),
		cmocka_unit_test(router_opens_no_connections),
		cmocka_unit_test(router_gets_udp_only_from_whom_it_asked),
		cmocka_unit_test(loopback_is_never_reached),
		cmocka_unit_test(outside_is_open),
		cmocka_unit_test(truncated_packets_are_not_read_past),
		cmocka_unit_test(who_opens_a_connection_hears_that_it_is_refused),
		cmocka_unit_test(nothing_else_is_answered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
