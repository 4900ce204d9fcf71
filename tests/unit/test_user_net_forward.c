/* wisp-net's forwards: ports of the host that lead to the guest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/net.h"
#include "tests/unit/net_guest.h"
#include "vmm/core/util.h"

/* A guest with its address, and a forward of @protocol from the host's @port to @guest_port. */
static struct net_guest *begin(const char *protocol, uint16_t port, unsigned guest_port)
{
	struct net_guest *f;
	char rule[64];

	snprintf(rule, sizeof(rule), "%s:127.0.0.1:%u-:%u", protocol, port, guest_port);
	f = net_guest_begin((const char *[]){ "--hostfwd", rule, NULL });
	assert_string_equal(f->said, "ready\n");
	net_guest_dhcp(f, 1);
	net_guest_dhcp(f, 3);
	return f;
}

static int dial(uint16_t port)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct timeval limit = { .tv_sec = NET_GUEST_WAIT_MS / 1000 };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

/* A connection to the guest's port 80, that it has accepted with sequence number 1000. */
static int open_connection(struct net_guest *f, uint16_t port, struct tcphdr *ret_syn)
{
	int fd = dial(port);

	assert_true(net_guest_get_packet(f, IPPROTO_TCP));
	memcpy(ret_syn, net_guest_payload(f), sizeof(*ret_syn));
	assert_true(ret_syn->syn && !ret_syn->ack);
	assert_int_equal(ntohs(ret_syn->dest), 80);
	assert_int_equal(ntohl(net_guest_ip(f)->daddr), NET_GUEST_IP);
	net_guest_send_tcp(f, ret_syn, 1000, ntohl(ret_syn->seq) + 1, TH_SYN | TH_ACK, NULL, 0);
	return fd;
}

static void udp_is_forwarded_both_ways(void **state)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct udphdr *udp;
	struct net_guest *f;
	uint16_t own, port;
	char got[16];
	int fd = net_guest_bound_socket(SOCK_DGRAM, &own);

	/* After ours, or it might be ours. */
	port = net_guest_free_port(SOCK_DGRAM);
	f = begin("udp", port, 5000);
	to.sin_port = htons(port);
	assert_int_equal(sendto(fd, "hello", 5, 0, (struct sockaddr *)&to, sizeof(to)), 5);
	assert_true(net_guest_get_packet(f, IPPROTO_UDP));
	udp = net_guest_payload(f);
	assert_int_equal(ntohs(udp->dest), 5000);
	assert_memory_equal(udp + 1, "hello", 5);

	net_guest_send_udp(f, NET_GUEST_IP, 5000, ntohl(net_guest_ip(f)->saddr), ntohs(udp->source),
			   "olleh", 5);
	assert_int_equal(recv(fd, got, sizeof(got), 0), 5);
	assert_memory_equal(got, "olleh", 5);
	close(fd);
	assert_int_equal(net_guest_end(f), 0);
}

/* ---- changes while it runs ---- */

static int connect_port(uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	r = connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
	close(fd);
	return r;
}

static void ask(const struct sockaddr_un *where, const char *text, const char *answer)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char got[256] = "";

	assert_int_equal(connect(fd, (const struct sockaddr *)where, sizeof(*where)), 0);
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	assert_int_equal(poll(&p, 1, NET_GUEST_WAIT_MS), 1);
	assert_true(recv(fd, got, sizeof(got) - 1, 0) > 0);
	if (strcmp(got, answer))
		fail_msg("'%s' was answered with '%s', not '%s'", text, got, answer);
	close(fd);
}

static void forwards_come_and_go_while_it_runs(void **state)
{
	struct sockaddr_un where = { .sun_family = AF_UNIX };
	int first = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int fd = fcntl(first, F_DUPFD, 20); /* not one of those that net_guest_begin() gives it */
	char number[16], add[64], remove[64], none[64], all[64];
	struct net_guest *f;
	uint16_t port;

	snprintf(where.sun_path, sizeof(where.sun_path), "/tmp/wisp-test-forward-%d", getpid());
	assert_int_equal(bind(fd, (struct sockaddr *)&where, sizeof(where)), 0);
	assert_int_equal(listen(fd, 4), 0);
	snprintf(number, sizeof(number), "%d", fd);
	f = net_guest_begin((const char *[]){ "--control-fd", number, NULL });
	close(fd);
	close(first);
	port = net_guest_free_port(SOCK_STREAM);
	snprintf(add, sizeof(add), "add tcp:127.0.0.1:%u-:80", port);
	snprintf(remove, sizeof(remove), "remove tcp:127.0.0.1:%u-:80", port);
	snprintf(none, sizeof(none), "there is no forward of tcp 127.0.0.1:%u", port);

	assert_int_equal(connect_port(port), -ECONNREFUSED);
	ask(&where, remove, none);
	ask(&where, "list", "ok");
	ask(&where, add, "ok");
	snprintf(all, sizeof(all), "ok\n%s", add + strlen("add "));
	ask(&where, "list", all);
	assert_int_equal(connect_port(port), 0);
	ask(&where, remove, "ok");
	ask(&where, "list", "ok");
	assert_int_equal(connect_port(port), -ECONNREFUSED);
	ask(&where, "add tcp:127.0.0.1:-:80",
	    "forward 'tcp:127.0.0.1:-:80' is not (tcp|udp):ADDR:PORT-:GUESTPORT");
	ask(&where, "open the door", "not a request");
	/* Who comes and says nothing keeps it from nothing. */
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&where, sizeof(where)), 0);
	ask(&where, add, "ok");
	close(fd);
	unlink(where.sun_path);
	assert_int_equal(net_guest_end(f), 0);
}

static void tcp_is_forwarded_and_segments_may_be_long(void **state)
{
	enum { LONG = 40000 };
	uint8_t *sent = malloc(LONG), *got = malloc(LONG);
	uint16_t port = net_guest_free_port(SOCK_STREAM);
	struct net_guest *f = begin("tcp", port, 80);
	struct tcphdr syn;
	int fd = open_connection(f, port, &syn);
	size_t have = 0;

	/* From the host. */
	assert_int_equal(send(fd, "from host", 9, 0), 9);
	do {
		assert_true(net_guest_get_packet(f, IPPROTO_TCP));
	} while (ntohs(net_guest_ip(f)->tot_len) == 40);
	assert_memory_equal((uint8_t *)net_guest_payload(f) +
				    ((struct tcphdr *)net_guest_payload(f))->doff * 4,
			    "from host", 9);

	/* From the guest: one segment, far longer than the MTU, its checksum left out. */
	for (size_t i = 0; i < LONG; i++)
		sent[i] = i * 13;
	net_guest_send_tcp(f, &syn, 1001, ntohl(syn.seq) + 10, TH_ACK, sent, LONG);
	while (have < LONG) {
		ssize_t n = recv(fd, got + have, LONG - have, 0);

		assert_true(n > 0);
		have += n;
	}
	assert_memory_equal(got, sent, LONG);
	close(fd);
	assert_int_equal(net_guest_end(f), 0);
	free(sent);
	free(got);
}

/* The guest was taken back to an earlier moment. */
static void connections_go_when_the_guest_goes_back(void **state)
{
	const struct net_forget word = { htole32(NET_FORGET_MAGIC), htole32(1) };
	uint16_t port = net_guest_free_port(SOCK_STREAM);
	struct net_guest *f = begin("tcp", port, 80);
	char got[NET_VNET_HDR];
	struct tcphdr syn;
	int fd = open_connection(f, port, &syn);
	ssize_t n;

	/* It answers behind what it had sent, and who was connected hears of it. */
	assert_int_equal(send(f->fd, &word, sizeof(word), 0), sizeof(word));
	do
		n = recv(f->fd, got, sizeof(got), MSG_TRUNC);
	while (n > (ssize_t)sizeof(word));
	assert_int_equal(n, sizeof(word));
	assert_memory_equal(got, &word, sizeof(word));
	assert_true(recv(fd, got, sizeof(got), 0) <= 0);
	close(fd);

	/* The guest, which thinks that it is connected, is told otherwise. */
	net_guest_send_tcp(f, &syn, 1001, ntohl(syn.seq) + 1, TH_ACK, "more", 4);
	assert_true(net_guest_get_packet(f, IPPROTO_TCP));
	memcpy(&syn, net_guest_payload(f), sizeof(syn));
	assert_true(syn.rst);

	/* The forward is there, for the next one. */
	fd = dial(port);
	do {
		assert_true(net_guest_get_packet(f, IPPROTO_TCP));
		memcpy(&syn, net_guest_payload(f), sizeof(syn));
	} while (!syn.syn);
	assert_int_equal(ntohs(syn.dest), 80);
	close(fd);
	assert_int_equal(net_guest_end(f), 0);
}

static void an_ipv6_port_is_listened_on(void **state)
{
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	uint16_t port = net_guest_free_port(SOCK_STREAM);
	struct net_guest *f;
	char rule[64];
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	to.sin6_port = htons(port);
	if (fd < 0 || bind(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		print_message("this host has no IPv6\n");
		skip();
	}
	close(fd);
	snprintf(rule, sizeof(rule), "tcp:[::1]:%u-:80", port);
	f = net_guest_begin((const char *[]){ "--hostfwd", rule, NULL });
	assert_string_equal(f->said, "ready\n");
	fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	close(fd);
	assert_int_equal(net_guest_end(f), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(udp_is_forwarded_both_ways),
		cmocka_unit_test(forwards_come_and_go_while_it_runs),
		cmocka_unit_test(tcp_is_forwarded_and_segments_may_be_long),
		cmocka_unit_test(connections_go_when_the_guest_goes_back),
		cmocka_unit_test(an_ipv6_port_is_listened_on),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
