#include "tests/unit/net_guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/ethernet.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/net_offload.h"
#include "vmm/core/util.h"

const uint8_t net_guest_mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };

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

struct net_guest *net_guest_begin(const char *const *args)
{
	struct net_guest *f = calloc(1, sizeof(*f));
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

int net_guest_end(struct net_guest *f)
{
	int status;

	close(f->fd);
	alarm(NET_GUEST_WAIT_MS / 1000);
	assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
	alarm(0);
	free(f);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* ---- frames ---- */

void net_guest_send_frame(struct net_guest *f, const struct virtio_net_hdr_v1 *h, const void *frame,
			  size_t len)
{
	struct iovec iov[2] = { { (void *)h, sizeof(*h) }, { (void *)frame, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	assert_int_equal(sendmsg(f->fd, &msg, 0), sizeof(*h) + len);
}

uint8_t *net_guest_ethernet(struct net_guest *f)
{
	return f->frame + sizeof(struct virtio_net_hdr_v1);
}

struct iphdr *net_guest_ip(struct net_guest *f)
{
	return (struct iphdr *)(net_guest_ethernet(f) + 14);
}

void *net_guest_payload(struct net_guest *f)
{
	return (uint8_t *)net_guest_ip(f) + net_guest_ip(f)->ihl * 4;
}

bool net_guest_get_frame(struct net_guest *f, int wait_ms)
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
static void answer_arp(struct net_guest *f)
{
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t *in = net_guest_ethernet(f) + 14, out[42];

	if (in[7] != 1 || get_le32(in + 24) != htonl(NET_GUEST_IP))
		return;
	memcpy(out, net_guest_ethernet(f) + 6, 6);
	memcpy(out + 6, net_guest_mac, 6);
	memcpy(out + 12, "\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02", 10);
	memcpy(out + 22, net_guest_mac, 6);
	memcpy(out + 28, in + 24, 4);
	memcpy(out + 32, in + 8, 10);
	net_guest_send_frame(f, &h, out, sizeof(out));
}

bool net_guest_get_packet(struct net_guest *f, uint8_t protocol)
{
	while (net_guest_get_frame(f, NET_GUEST_WAIT_MS)) {
		uint16_t type = net_guest_ethernet(f)[12] << 8 | net_guest_ethernet(f)[13];

		if (type == ETHERTYPE_ARP)
			answer_arp(f);
		else if (type == ETHERTYPE_IP && net_guest_ip(f)->protocol == protocol)
			return true;
	}
	return false;
}

/* Put Ethernet and IPv4 headers in front of @len bytes at @frame + 34. Returns the whole length. */
static size_t wrap(struct net_guest *f, uint8_t *frame, uint8_t protocol, uint32_t from,
		   uint32_t to, size_t len)
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
	memcpy(frame + 6, net_guest_mac, 6);
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

void net_guest_send_udp(struct net_guest *f, uint32_t from, uint16_t from_port, uint32_t to,
			uint16_t port, const void *data, size_t len)
{
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t frame[2000];
	struct udphdr udp = { .source = htons(from_port),
			      .dest = htons(port),
			      .len = htons(8 + len) };

	memcpy(frame + 34, &udp, 8);
	memcpy(frame + 42, data, len);
	net_guest_send_frame(f, &h, frame, wrap(f, frame, IPPROTO_UDP, from, to, 8 + len));
}

void net_guest_send_tcp(struct net_guest *f, const struct tcphdr *like, uint32_t seq, uint32_t ack,
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
		.check = pseudo_sum(IPPROTO_TCP, NET_GUEST_IP, NET_GUEST_ROUTER, 20 + len),
	};

	memcpy(frame + 34, &t, sizeof(t));
	if (len)
		memcpy(frame + 54, data, len);
	net_guest_send_frame(f, &h, frame,
			     wrap(f, frame, IPPROTO_TCP, NET_GUEST_IP, NET_GUEST_ROUTER, 20 + len));
}

uint8_t net_guest_dhcp(struct net_guest *f, uint8_t kind)
{
	uint8_t msg[300] = { 1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78 };
	uint8_t *in;

	memcpy(msg + 28, net_guest_mac, 6);
	memcpy(msg + 236, "\x63\x82\x53\x63\x35\x01", 6);
	msg[242] = kind;
	memcpy(msg + 243, "\x32\x04\x0a\x00\x02\x0f\xff", 7);
	net_guest_send_udp(f, 0, 68, INADDR_BROADCAST, 67, msg, sizeof(msg));
	if (!net_guest_get_packet(f, IPPROTO_UDP))
		return 0;
	memcpy(f->router_mac, net_guest_ethernet(f) + 6, 6);
	in = (uint8_t *)net_guest_payload(f) + 8;
	assert_memory_equal(in + 4, "\x12\x34\x56\x78", 4);
	assert_memory_equal(in + 236, "\x63\x82\x53\x63\x35\x01", 6);
	return in[242];
}

int net_guest_bound_socket(int type, uint16_t *ret_port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*ret_port = ntohs(a.sin_port);
	return fd;
}

uint16_t net_guest_free_port(int type)
{
	uint16_t port;

	close(net_guest_bound_socket(type, &port));
	return port;
}
