/*
 * wisp-net as a guest and as a parent see it: the executable is started with
 * its end of a socketpair, and the test is the guest, with as little of
 * Ethernet, ARP, IPv4, UDP and TCP as that takes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/net.h"
#include "devices/net_offload.h"

#define GUEST_IP  0x0a00020fu /* 10.0.2.15 */
#define ROUTER_IP 0x0a000202u
#define WAIT_MS	  20000

static const uint8_t guest_mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };

struct fixture {
	pid_t pid;
	int fd;	    /* the guest's end */
	char said[256];
	uint8_t router_mac[6];
	uint8_t *frame; /* the last one received, header first */
	ssize_t len;	/* without the header */
	uint32_t space[20000];
};

/* ---- the process ---- */

static void helper_path(char *path, size_t size)
{
	char self[400];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	assert_true(n > 0);
	self[n] = '\0';
	/* BUILD/tests/unit/test_user_net */
	for (int i = 0; i < 3; i++)
		*strrchr(self, '/') = '\0';
	snprintf(path, size, "%s/wisp-net", self);
}

/* Start it with @args (up to NULL) and wait for what it says. */
static struct fixture *begin(const char *const *args)
{
	struct fixture *f = calloc(1, sizeof(*f));
	/* So that what follows the Ethernet header is aligned. */
	const size_t shift = 2;
	const char *argv[32] = { "wisp-net", "--fd", "3", "--status-fd", "4" };
	int pair[2], pipe_fd[2], n = 5;
	char path[512];
	ssize_t len;

	f->frame = (uint8_t *)f->space + shift;
	while (args && *args)
		argv[n++] = *args++;
	helper_path(path, sizeof(path));
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
	f->pid = fork();
	assert_true(f->pid >= 0);
	if (f->pid == 0) {
		int a = fcntl(pair[1], F_DUPFD, 10), b = fcntl(pipe_fd[1], F_DUPFD, 10);

		dup2(a, 3);
		dup2(b, 4);
		close(a);
		close(b);
		/* Locked in, a sanitizer cannot stop its threads to look for leaks. */
		setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
		execv(path, (char *const *)argv);
		_exit(127);
	}
	close(pair[1]);
	close(pipe_fd[1]);
	f->fd = pair[0];
	len = read(pipe_fd[0], f->said, sizeof(f->said) - 1);
	assert_true(len >= 0);
	close(pipe_fd[0]);
	return f;
}

/* Close our end; it has to follow. Returns its exit status. */
static int end(struct fixture *f)
{
	int status;

	close(f->fd);
	alarm(WAIT_MS / 1000);
	assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
	alarm(0);
	free(f);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* ---- frames ---- */

static void send_frame(struct fixture *f, const struct virtio_net_hdr_v1 *h, const void *frame,
		       size_t len)
{
	struct iovec iov[2] = { { (void *)h, sizeof(*h) }, { (void *)frame, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	assert_int_equal(sendmsg(f->fd, &msg, 0), sizeof(*h) + len);
}

static uint8_t *ethernet(struct fixture *f)
{
	return f->frame + sizeof(struct virtio_net_hdr_v1);
}

static struct iphdr *ip_of(struct fixture *f)
{
	return (struct iphdr *)(ethernet(f) + 14);
}

static void *payload_of(struct fixture *f)
{
	return (uint8_t *)ip_of(f) + ip_of(f)->ihl * 4;
}

/* The next frame within WAIT_MS, whatever it is. */
static bool get_frame(struct fixture *f, int wait_ms)
{
	struct pollfd p = { .fd = f->fd, .events = POLLIN };
	ssize_t n;

	if (poll(&p, 1, wait_ms) <= 0)
		return false;
	n = recv(f->fd, f->frame, sizeof(f->space) - 2, 0);
	if (n < (ssize_t)sizeof(struct virtio_net_hdr_v1) + 14)
		return false;
	f->len = n - sizeof(struct virtio_net_hdr_v1);
	return true;
}

/* Say where we live, to whoever asks. */
static void answer_arp(struct fixture *f)
{
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t *in = ethernet(f) + 14, out[42];

	if (in[7] != 1 || get_le32(in + 24) != htonl(GUEST_IP))
		return;
	memcpy(out, ethernet(f) + 6, 6);
	memcpy(out + 6, guest_mac, 6);
	memcpy(out + 12, "\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02", 10);
	memcpy(out + 22, guest_mac, 6);
	memcpy(out + 28, in + 24, 4);
	memcpy(out + 32, in + 8, 10);
	send_frame(f, &h, out, sizeof(out));
}

/* The next IPv4 packet of @protocol; ARP is answered on the way. */
static bool get_packet(struct fixture *f, uint8_t protocol)
{
	while (get_frame(f, WAIT_MS)) {
		uint16_t type = ethernet(f)[12] << 8 | ethernet(f)[13];

		if (type == ETHERTYPE_ARP)
			answer_arp(f);
		else if (type == ETHERTYPE_IP && ip_of(f)->protocol == protocol)
			return true;
	}
	return false;
}

/* Put Ethernet and IPv4 headers in front of @len bytes at @frame + 34. Returns the whole length. */
static size_t wrap(struct fixture *f, uint8_t *frame, uint8_t protocol, uint32_t from, uint32_t to,
		   size_t len)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = htons(20 + len),
		.ttl = 64,
		.protocol = protocol,
		.saddr = htonl(from),
		.daddr = htonl(to),
	};

	memset(frame, 0xff, 6);
	memcpy(frame + 6, guest_mac, 6);
	memcpy(frame + 12, "\x08\x00", 2);
	ip.check = net_checksum(&ip, sizeof(ip));
	memcpy(frame + 14, &ip, sizeof(ip));
	return 34 + len;
}

/* What a driver with checksum offload leaves: the pseudo header's sum, not inverted. */
static uint16_t pseudo_sum(uint8_t protocol, uint32_t from, uint32_t to, size_t len)
{
	uint8_t p[12] = { 0 };

	from = htonl(from);
	to = htonl(to);
	memcpy(p, &from, 4);
	memcpy(p + 4, &to, 4);
	p[9] = protocol;
	p[10] = len >> 8;
	p[11] = len;
	return ~net_checksum(p, sizeof(p));
}

static void send_udp(struct fixture *f, uint32_t from, uint16_t from_port, uint32_t to,
		     uint16_t port, const void *data, size_t len)
{
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t frame[2000];
	struct udphdr udp = { .source = htons(from_port), .dest = htons(port),
			      .len = htons(8 + len) };

	memcpy(frame + 34, &udp, 8);
	memcpy(frame + 42, data, len);
	send_frame(f, &h, frame, wrap(f, frame, IPPROTO_UDP, from, to, 8 + len));
}

/* As a driver with checksum and segmentation offload: the helper has to finish it. */
static void send_tcp(struct fixture *f, const struct tcphdr *like, uint32_t seq, uint32_t ack,
		     unsigned flags, const void *data, size_t len)
{
	static uint8_t frame[70000];
	struct virtio_net_hdr_v1 h = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = len > 1460 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_NONE,
		.gso_size = htole16(1460),
		.csum_start = htole16(34),
		.csum_offset = htole16(offsetof(struct tcphdr, check)),
	};
	struct tcphdr t = {
		.source = like->dest,
		.dest = like->source,
		.seq = htonl(seq),
		.ack_seq = htonl(ack),
		.doff = 5,
		.syn = !!(flags & TH_SYN),
		.ack = !!(flags & TH_ACK),
		.psh = len > 0,
		.window = htons(65535),
		.check = pseudo_sum(IPPROTO_TCP, GUEST_IP, ROUTER_IP, 20 + len),
	};

	memcpy(frame + 34, &t, sizeof(t));
	if (len)
		memcpy(frame + 54, data, len);
	send_frame(f, &h, frame, wrap(f, frame, IPPROTO_TCP, GUEST_IP, ROUTER_IP, 20 + len));
}

/* A DHCP request of @kind; the answer's kind, or 0. */
static uint8_t dhcp(struct fixture *f, uint8_t kind)
{
	uint8_t msg[300] = { 1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78 };
	uint8_t *in;

	memcpy(msg + 28, guest_mac, 6);
	memcpy(msg + 236, "\x63\x82\x53\x63\x35\x01", 6);
	msg[242] = kind;
	memcpy(msg + 243, "\x32\x04\x0a\x00\x02\x0f\xff", 7);
	send_udp(f, 0, 68, INADDR_BROADCAST, 67, msg, sizeof(msg));
	if (!get_packet(f, IPPROTO_UDP))
		return 0;
	memcpy(f->router_mac, ethernet(f) + 6, 6);
	in = (uint8_t *)payload_of(f) + 8;
	assert_memory_equal(in + 4, "\x12\x34\x56\x78", 4);
	assert_memory_equal(in + 236, "\x63\x82\x53\x63\x35\x01", 6);
	return in[242];
}

/* A listening or bound socket on an ephemeral port of 127.0.0.1. */
static int bound_socket(int type, uint16_t *ret_port)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*ret_port = ntohs(a.sin_port);
	return fd;
}

/* A port that is free now. */
static uint16_t free_port(int type)
{
	uint16_t port;

	close(bound_socket(type, &port));
	return port;
}

/* ---- the promises ---- */

static void it_is_ready_and_ends_with_its_guest(void **state)
{
	struct fixture *f = begin(NULL);

	assert_string_equal(f->said, "ready\n");
	assert_int_equal(end(f), 0);
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
		struct fixture *f = begin(bad[i].args);

		if (!strstr(f->said, bad[i].says))
			fail_msg("'%s' does not name '%s'", f->said, bad[i].says);
		assert_int_equal(end(f), 2);
	}
}

static void a_port_that_is_taken_is_named(void **state)
{
	char rule[64], says[96];
	struct fixture *f;
	uint16_t port;
	int fd = bound_socket(SOCK_STREAM, &port);

	assert_int_equal(listen(fd, 1), 0);
	snprintf(rule, sizeof(rule), "tcp:127.0.0.1:%u-:80", port);
	snprintf(says, sizeof(says), "cannot forward tcp 127.0.0.1:%u: Address already in use\n",
		 port);
	f = begin((const char *[]){ "--hostfwd", rule, NULL });
	assert_string_equal(f->said, says);
	assert_int_equal(end(f), 2);
	close(fd);

	fd = bound_socket(SOCK_DGRAM, &port);
	snprintf(rule, sizeof(rule), "udp:127.0.0.1:%u-:80", port);
	snprintf(says, sizeof(says), "cannot forward udp 127.0.0.1:%u: Address already in use\n",
		 port);
	f = begin((const char *[]){ "--hostfwd", rule, NULL });
	assert_string_equal(f->said, says);
	assert_int_equal(end(f), 2);
	close(fd);
}

static void dhcp_gives_the_guest_its_address(void **state)
{
	struct fixture *f = begin((const char *[]){ "--net", "192.168.77.0/24", NULL });
	uint8_t *in;

	assert_int_equal(dhcp(f, 1 /* discover */), 2 /* offer */);
	in = (uint8_t *)payload_of(f) + 8;
	assert_memory_equal(in + 16, "\xc0\xa8\x4d\x0f", 4);
	/* Router, and the name server beside it. */
	assert_non_null(memmem(in + 240, 80, "\x03\x04\xc0\xa8\x4d\x02", 6));
	assert_non_null(memmem(in + 240, 80, "\x06\x04\xc0\xa8\x4d\x03", 6));
	/* What libslirp has summed need not be summed again. */
	assert_int_equal(((struct virtio_net_hdr_v1 *)f->frame)->flags,
			 VIRTIO_NET_HDR_F_DATA_VALID);
	assert_int_equal(end(f), 0);
}

static void udp_is_forwarded_both_ways(void **state)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct udphdr *udp;
	struct fixture *f;
	uint16_t own, port;
	char rule[64], got[16];
	int fd = bound_socket(SOCK_DGRAM, &own);

	/* After ours, or it might be ours. */
	port = free_port(SOCK_DGRAM);

	snprintf(rule, sizeof(rule), "udp:127.0.0.1:%u-:5000", port);
	f = begin((const char *[]){ "--hostfwd", rule, NULL });
	assert_string_equal(f->said, "ready\n");
	dhcp(f, 1);
	dhcp(f, 3);

	to.sin_port = htons(port);
	assert_int_equal(sendto(fd, "hello", 5, 0, (struct sockaddr *)&to, sizeof(to)), 5);
	assert_true(get_packet(f, IPPROTO_UDP));
	udp = payload_of(f);
	assert_int_equal(ntohs(udp->dest), 5000);
	assert_memory_equal(udp + 1, "hello", 5);

	send_udp(f, GUEST_IP, 5000, ntohl(ip_of(f)->saddr), ntohs(udp->source), "olleh", 5);
	assert_int_equal(recv(fd, got, sizeof(got), 0), 5);
	assert_memory_equal(got, "olleh", 5);
	close(fd);
	assert_int_equal(end(f), 0);
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
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	assert_true(recv(fd, got, sizeof(got) - 1, 0) > 0);
	if (strcmp(got, answer))
		fail_msg("'%s' was answered with '%s', not '%s'", text, got, answer);
	close(fd);
}

static void forwards_come_and_go_while_it_runs(void **state)
{
	struct sockaddr_un where = { .sun_family = AF_UNIX };
	int first = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int fd = fcntl(first, F_DUPFD, 20); /* not one of those that begin() gives it */
	char number[16], add[64], remove[64], none[64];
	struct fixture *f;
	uint16_t port;

	snprintf(where.sun_path, sizeof(where.sun_path), "/tmp/wisp-test-forward-%d", getpid());
	assert_int_equal(bind(fd, (struct sockaddr *)&where, sizeof(where)), 0);
	assert_int_equal(listen(fd, 4), 0);
	snprintf(number, sizeof(number), "%d", fd);
	f = begin((const char *[]){ "--control-fd", number, NULL });
	close(fd);
	close(first);
	port = free_port(SOCK_STREAM);
	snprintf(add, sizeof(add), "add tcp:127.0.0.1:%u-:80", port);
	snprintf(remove, sizeof(remove), "remove tcp:127.0.0.1:%u-:80", port);
	snprintf(none, sizeof(none), "there is no forward of tcp 127.0.0.1:%u", port);

	assert_int_equal(connect_port(port), -ECONNREFUSED);
	ask(&where, remove, none);
	ask(&where, add, "ok");
	assert_int_equal(connect_port(port), 0);
	ask(&where, remove, "ok");
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
	assert_int_equal(end(f), 0);
}

static void tcp_is_forwarded_and_segments_may_be_long(void **state)
{
	enum { LONG = 40000 };
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	uint8_t *sent = malloc(LONG), *got = malloc(LONG);
	uint16_t port = free_port(SOCK_STREAM);
	struct timeval limit = { .tv_sec = WAIT_MS / 1000 };
	struct tcphdr syn;
	struct fixture *f;
	size_t have = 0;
	uint32_t seq;
	char rule[64];
	int fd;

	snprintf(rule, sizeof(rule), "tcp:127.0.0.1:%u-:80", port);
	f = begin((const char *[]){ "--hostfwd", rule, NULL });
	assert_string_equal(f->said, "ready\n");
	dhcp(f, 1);
	dhcp(f, 3);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	to.sin_port = htons(port);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);

	assert_true(get_packet(f, IPPROTO_TCP));
	memcpy(&syn, payload_of(f), sizeof(syn));
	assert_true(syn.syn && !syn.ack);
	assert_int_equal(ntohs(syn.dest), 80);
	assert_int_equal(ntohl(ip_of(f)->daddr), GUEST_IP);
	seq = ntohl(syn.seq) + 1;
	send_tcp(f, &syn, 1000, seq, TH_SYN | TH_ACK, NULL, 0);

	/* From the host. */
	assert_int_equal(send(fd, "from host", 9, 0), 9);
	do {
		assert_true(get_packet(f, IPPROTO_TCP));
	} while (ntohs(ip_of(f)->tot_len) == 40);
	assert_memory_equal((uint8_t *)payload_of(f) + ((struct tcphdr *)payload_of(f))->doff * 4,
			    "from host", 9);

	/* From the guest: one segment, far longer than the MTU, its checksum left out. */
	for (size_t i = 0; i < LONG; i++)
		sent[i] = i * 13;
	send_tcp(f, &syn, 1001, seq + 9, TH_ACK, sent, LONG);
	while (have < LONG) {
		ssize_t n = recv(fd, got + have, LONG - have, 0);

		assert_true(n > 0);
		have += n;
	}
	assert_memory_equal(got, sent, LONG);
	close(fd);
	assert_int_equal(end(f), 0);
	free(sent);
	free(got);
}

/* The guest was taken back to an earlier moment. */
static void connections_go_when_the_guest_goes_back(void **state)
{
	const struct net_forget word = { htole32(NET_FORGET_MAGIC), htole32(1) };
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct timeval limit = { .tv_sec = WAIT_MS / 1000 };
	uint16_t port = free_port(SOCK_STREAM);
	char rule[64], got[NET_VNET_HDR];
	struct tcphdr syn;
	struct fixture *f;
	uint32_t seq;
	ssize_t n;
	int fd;

	snprintf(rule, sizeof(rule), "tcp:127.0.0.1:%u-:80", port);
	f = begin((const char *[]){ "--hostfwd", rule, NULL });
	dhcp(f, 1);
	dhcp(f, 3);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	to.sin_port = htons(port);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	assert_true(get_packet(f, IPPROTO_TCP));
	memcpy(&syn, payload_of(f), sizeof(syn));
	seq = ntohl(syn.seq) + 1;
	send_tcp(f, &syn, 1000, seq, TH_SYN | TH_ACK, NULL, 0);

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
	send_tcp(f, &syn, 1001, seq, TH_ACK, "more", 4);
	assert_true(get_packet(f, IPPROTO_TCP));
	memcpy(&syn, payload_of(f), sizeof(syn));
	assert_true(syn.rst);

	/* The forward is there, for the next one. */
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	do {
		assert_true(get_packet(f, IPPROTO_TCP));
		memcpy(&syn, payload_of(f), sizeof(syn));
	} while (!syn.syn);
	assert_int_equal(ntohs(syn.dest), 80);
	close(fd);
	assert_int_equal(end(f), 0);
}

static void an_ipv6_port_is_listened_on(void **state)
{
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	uint16_t port = free_port(SOCK_STREAM);
	struct fixture *f;
	char rule[64];
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	to.sin6_port = htons(port);
	if (fd < 0 || bind(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		print_message("this host has no IPv6\n");
		skip();
	}
	close(fd);
	snprintf(rule, sizeof(rule), "tcp:[::1]:%u-:80", port);
	f = begin((const char *[]){ "--hostfwd", rule, NULL });
	assert_string_equal(f->said, "ready\n");
	fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	close(fd);
	assert_int_equal(end(f), 0);
}

/* UDP to an IPv6 address, its checksum left to the helper. */
static void send_udp6(struct fixture *f, const char *to, uint16_t port, const void *data,
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
	memcpy(frame + 6, guest_mac, 6);
	frame[19] = 8 + len;
	inet_pton(AF_INET6, "fec0::5054:ff:fe12:3456", frame + 22);
	assert_int_equal(inet_pton(AF_INET6, to, frame + 38), 1);
	memcpy(pseudo, frame + 22, 32);
	udp.check = ~net_checksum(pseudo, sizeof(pseudo));
	memcpy(frame + 54, &udp, sizeof(udp));
	memcpy(frame + 62, data, len);
	send_frame(f, &h, frame, 62 + len);
}

/* All that was sent before has been dealt with. */
static void settle(struct fixture *f)
{
	while (dhcp(f, 1) != 2)
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
	int fd = bound_socket(SOCK_DGRAM, &port);

	for (int allowed = 0; allowed < 2; allowed++) {
		struct fixture *f = begin(allowed ? open : NULL);

		dhcp(f, 1);
		dhcp(f, 3);
		send_udp(f, GUEST_IP, 4000, ROUTER_IP, port, "router", 6);
		settle(f);
		assert_int_equal(arrives(fd, "router", allowed ? WAIT_MS : 50), allowed);
		send_udp(f, GUEST_IP, 4000, INADDR_BROADCAST, port, "all", 3);
		settle(f);
		assert_int_equal(arrives(fd, "all", allowed ? WAIT_MS : 50), allowed);
		assert_int_equal(end(f), 0);
	}
	close(fd);
}

static void the_loopback_address_itself_is_never_reached(void **state)
{
	static const char *const open[] = { "--host-loopback", NULL };
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	uint16_t port;
	int fd = bound_socket(SOCK_DGRAM, &port);
	int six = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	any.sin6_port = htons(port);
	any.sin6_addr = in6addr_loopback;
	if (six >= 0 && bind(six, (struct sockaddr *)&any, sizeof(any)) < 0) {
		close(six);
		six = -1;
	}
	for (int allowed = 0; allowed < 2; allowed++) {
		struct fixture *f = begin(allowed ? open : NULL);

		dhcp(f, 1);
		dhcp(f, 3);
		send_udp(f, GUEST_IP, 4000, INADDR_LOOPBACK, port, "loopback", 8);
		send_udp(f, GUEST_IP, 4000, INADDR_LOOPBACK + 1, port, "loopback 2", 10);
		send_udp(f, GUEST_IP, 4000, INADDR_ANY, port, "any", 3);
		send_udp6(f, "::1", port, "loopback 6", 10);
		send_udp6(f, "::", port, "any 6", 5);
		send_udp6(f, "::ffff:127.0.0.1", port, "mapped", 6);
		settle(f);
		assert_false(arrives(fd, "", 50));
		if (six >= 0)
			assert_false(arrives(six, "", 0));
		assert_int_equal(end(f), 0);
	}
	close(fd);
	if (six >= 0)
		close(six);
}

static void a_connection_to_the_hosts_own_port_is_not_made(void **state)
{
	uint16_t port;
	int fd = bound_socket(SOCK_STREAM, &port);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct tcphdr like = { .source = htons(port), .dest = htons(4000) };
	struct fixture *f = begin(NULL);

	assert_int_equal(listen(fd, 5), 0);
	dhcp(f, 1);
	dhcp(f, 3);
	send_tcp(f, &like, 1, 0, TH_SYN, NULL, 0);
	settle(f);
	assert_int_equal(poll(&p, 1, 50), 0);
	assert_int_equal(end(f), 0);

	f = begin((const char *[]){ "--host-loopback", NULL });
	dhcp(f, 1);
	dhcp(f, 3);
	send_tcp(f, &like, 1, 0, TH_SYN, NULL, 0);
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	assert_int_equal(end(f), 0);
	close(fd);
}

static void garbage_does_not_end_it(void **state)
{
	struct fixture *f = begin(NULL);
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
		send_frame(f, &h, frame, len);
		while (get_frame(f, 0))
			;
	}
	/* A message that is no frame at all. */
	assert_int_equal(send(f->fd, frame, 3, 0), 3);
	do {
		assert_int_equal(waitpid(f->pid, NULL, WNOHANG), 0);
	} while (dhcp(f, 1) != 2);
	assert_int_equal(end(f), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_is_ready_and_ends_with_its_guest),
		cmocka_unit_test(wrong_options_are_named),
		cmocka_unit_test(a_port_that_is_taken_is_named),
		cmocka_unit_test(dhcp_gives_the_guest_its_address),
		cmocka_unit_test(udp_is_forwarded_both_ways),
		cmocka_unit_test(forwards_come_and_go_while_it_runs),
		cmocka_unit_test(tcp_is_forwarded_and_segments_may_be_long),
		cmocka_unit_test(connections_go_when_the_guest_goes_back),
		cmocka_unit_test(an_ipv6_port_is_listened_on),
		cmocka_unit_test(the_hosts_own_ports_are_closed_unless_opened),
		cmocka_unit_test(the_loopback_address_itself_is_never_reached),
		cmocka_unit_test(a_connection_to_the_hosts_own_port_is_not_made),
		cmocka_unit_test(garbage_does_not_end_it),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
