#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/net.h"
#include "devices/net_offload.h"
#include "devices/net_tap.h"
#include "tests/unit/loop_fixture.h"
#include "vmm/core/log.h"

struct fixture {
	struct loop *loop;
	struct net *net;
	int peer;
	unsigned link_changes;
};

static void count_link(struct net *n, void *arg)
{
	((struct fixture *)arg)->link_changes++;
}

static int setup(void **state)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
	struct fixture *f = calloc(1, sizeof(*f));
	int pair[2];

	f->loop = loop_fixture_create(NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(net_open_socket(&f->net, pair[0], mac, NULL), 0);
	net_attach(f->net, f->loop);
	f->net->link_changed = count_link;
	f->net->link_arg = f;
	f->peer = pair[1];
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	net_close(f->net);
	if (f->peer >= 0)
		close(f->peer);
	loop_free(f->loop);
	free(f);
	return 0;
}

struct sending {
	struct net_tx tx;
	struct iovec iov[2];
	uint8_t header[NET_VNET_HDR];
	uint32_t number; /* the frame: which one it is, and filling */
	uint8_t *filling;
	unsigned calls;
	int res;
};

static void sent(struct net_tx *tx, int res)
{
	struct sending *s = container_of(tx, struct sending, tx);

	s->calls++;
	s->res = res;
}

static struct sending *make_frames(unsigned num, size_t len)
{
	struct sending *s = calloc(num, sizeof(*s));

	for (unsigned i = 0; i < num; i++) {
		s[i].filling = malloc(len);
		memset(s[i].filling, i, len);
		memcpy(s[i].filling, &i, sizeof(i));
		s[i].header[0] = i;
		s[i].iov[0] = (struct iovec){ s[i].header, NET_VNET_HDR };
		s[i].iov[1] = (struct iovec){ s[i].filling, len };
		s[i].tx = (struct net_tx){ .iov = s[i].iov, .iovcnt = 2, .done = sent };
	}
	return s;
}

static void free_frames(struct sending *s, unsigned num)
{
	for (unsigned i = 0; i < num; i++)
		free(s[i].filling);
	free(s);
}

static unsigned count_sent(const struct sending *s, unsigned num)
{
	unsigned n = 0;

	for (unsigned i = 0; i < num; i++) {
		assert_true(s[i].calls <= 1);
		n += s[i].calls;
	}
	return n;
}

static void turn(struct fixture *f)
{
	for (int i = 0; i < 10; i++)
		loop_run_once(f->loop, 0);
}

/* ---- sending ---- */

static void frames_arrive_whole_and_in_order(void **state)
{
	struct fixture *f = *state;
	enum { N = 100 };
	struct sending *s = make_frames(N, 60);
	uint8_t buf[128];

	for (unsigned i = 0; i < N; i++) {
		f->net->ops->send(f->net, &s[i].tx);
		assert_int_equal(s[i].calls, 0);
	}
	turn(f);
	assert_int_equal(count_sent(s, N), N);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(recv(f->peer, buf, sizeof(buf), 0), NET_VNET_HDR + 60);
		assert_int_equal(buf[0], (uint8_t)i);
		assert_memory_equal(buf + NET_VNET_HDR, s[i].filling, 60);
		assert_int_equal(s[i].res, 0);
	}
	assert_int_equal(f->net->tx_frames, N);
	free_frames(s, N);
}

static void a_full_peer_is_waited_for(void **state)
{
	struct fixture *f = *state;
	enum { N = 200, LEN = 60000 };
	struct sending *s = make_frames(N, LEN);
	uint8_t *buf = malloc(LEN + NET_VNET_HDR);
	unsigned got = 0, early;

	for (unsigned i = 0; i < N; i++)
		f->net->ops->send(f->net, &s[i].tx);
	turn(f);
	early = count_sent(s, N);
	assert_in_range(early, 1, N - 1);
	/* Nothing moves while the peer reads nothing, and the loop is free. */
	turn(f);
	assert_int_equal(count_sent(s, N), early);
	while (got < N) {
		while (recv(f->peer, buf, LEN + NET_VNET_HDR, 0) == LEN + (int)NET_VNET_HDR) {
			uint32_t number;

			memcpy(&number, buf + NET_VNET_HDR, sizeof(number));
			assert_int_equal(number, got);
			got++;
		}
		loop_run_once(f->loop, NSEC_PER_SEC);
	}
	assert_int_equal(count_sent(s, N), N);
	assert_int_equal(f->net->tx_dropped, 0);
	free(buf);
	free_frames(s, N);
}

static void waiting_frames_can_be_dropped(void **state)
{
	struct fixture *f = *state;
	enum { N = 200, LEN = 60000 };
	struct sending *s = make_frames(N, LEN);
	struct sending *later = make_frames(1, 60);
	uint8_t *buf = malloc(LEN + NET_VNET_HDR);
	unsigned early;

	for (unsigned i = 0; i < N; i++)
		f->net->ops->send(f->net, &s[i].tx);
	turn(f);
	early = count_sent(s, N);
	f->net->ops->cancel_send(f->net);
	assert_int_equal(count_sent(s, N), early);
	while (count_sent(s, N) < N)
		loop_run_once(f->loop, NSEC_PER_SEC);
	for (unsigned i = early; i < N; i++)
		assert_int_equal(s[i].res, -ECANCELED);
	assert_int_equal(f->net->tx_dropped, N - early);
	/* And the next ones are sent as ever. */
	while (recv(f->peer, buf, LEN + NET_VNET_HDR, 0) > 0)
		;
	f->net->ops->send(f->net, &later->tx);
	turn(f);
	assert_int_equal(later->res, 0);
	assert_int_equal(recv(f->peer, buf, LEN, 0), NET_VNET_HDR + 60);
	free(buf);
	free_frames(s, N);
	free_frames(later, 1);
}

static void a_peer_that_is_gone_takes_the_link_down(void **state)
{
	struct fixture *f = *state;
	struct sending *s = make_frames(3, 60);

	close(f->peer);
	f->peer = -1;
	for (unsigned i = 0; i < 3; i++)
		f->net->ops->send(f->net, &s[i].tx);
	turn(f);
	assert_int_equal(count_sent(s, 3), 3);
	for (unsigned i = 0; i < 3; i++)
		assert_true(s[i].res < 0);
	assert_false(f->net->link_up);
	assert_int_equal(f->link_changes, 1);
	free_frames(s, 3);
}

static void it_can_be_closed_while_the_peer_is_full(void **state)
{
	struct fixture *f = *state;
	enum { N = 50, LEN = 60000 };
	struct sending *s = make_frames(N, LEN);

	for (unsigned i = 0; i < N; i++)
		f->net->ops->send(f->net, &s[i].tx);
	turn(f);
	f->net->ops->cancel_send(f->net);
	while (count_sent(s, N) < N)
		loop_run_once(f->loop, NSEC_PER_SEC);
	net_close(f->net);
	f->net = NULL;
	free_frames(s, N);
}

/* ---- receiving ---- */

struct receiving {
	struct net_rx rx;
	struct iovec iov[3];
	uint8_t buf[200];
	unsigned calls;
	int res;
};

static void received(struct net_rx *rx, int res)
{
	struct receiving *r = container_of(rx, struct receiving, rx);

	r->calls++;
	r->res = res;
}

static void start(struct fixture *f, struct receiving *r)
{
	memset(r, 0, sizeof(*r));
	r->iov[0] = (struct iovec){ r->buf, 12 };
	r->iov[1] = (struct iovec){ r->buf + 12, 50 };
	r->iov[2] = (struct iovec){ r->buf + 62, 60 };
	r->rx = (struct net_rx){ .iov = r->iov, .iovcnt = 3, .done = received };
	f->net->ops->recv(f->net, &r->rx);
}

static int await(struct fixture *f, struct receiving *r)
{
	for (int i = 0; i < 60 && !r->calls; i++)
		loop_run_once(f->loop, NSEC_PER_SEC);
	assert_int_equal(r->calls, 1);
	return r->res;
}

static void a_frame_is_scattered_over_the_buffers(void **state)
{
	struct fixture *f = *state;
	struct receiving r;
	uint8_t frame[122];

	for (unsigned i = 0; i < sizeof(frame); i++)
		frame[i] = i;
	start(f, &r);
	turn(f);
	assert_int_equal(r.calls, 0);
	assert_int_equal(send(f->peer, frame, 100, 0), 100);
	assert_int_equal(await(f, &r), 100);
	assert_memory_equal(r.buf, frame, 100);
	/* One message, one frame: two that wait are not joined. */
	send(f->peer, frame, 30, 0);
	send(f->peer, frame, 122, 0);
	start(f, &r);
	assert_int_equal(await(f, &r), 30);
	start(f, &r);
	assert_int_equal(await(f, &r), 122);
	assert_int_equal(f->net->rx_frames, 3);
}

static void a_frame_that_does_not_fit_is_dropped_alone(void **state)
{
	struct fixture *f = *state;
	struct receiving r;
	uint8_t frame[500] = { 0 };

	send(f->peer, frame, 500, 0);
	send(f->peer, frame, 40, 0);
	start(f, &r);
	assert_int_equal(await(f, &r), -EMSGSIZE);
	start(f, &r);
	assert_int_equal(await(f, &r), 40);
	assert_int_equal(f->net->rx_dropped, 1);
	assert_true(f->net->link_up);
}

static void waiting_for_a_frame_can_be_ended(void **state)
{
	struct fixture *f = *state;
	struct receiving r;
	uint8_t frame[40] = { 0 };

	start(f, &r);
	turn(f);
	f->net->ops->cancel_recv(f->net, &r.rx);
	assert_int_equal(r.calls, 0);
	assert_int_equal(await(f, &r), -ECANCELED);
	/* The frame that comes after is for whoever asks next. */
	send(f->peer, frame, 40, 0);
	start(f, &r);
	assert_int_equal(await(f, &r), 40);
}

static void the_peers_end_takes_the_link_down(void **state)
{
	struct fixture *f = *state;
	struct receiving r;

	start(f, &r);
	turn(f);
	close(f->peer);
	f->peer = -1;
	assert_int_equal(await(f, &r), -ENOTCONN);
	assert_false(f->net->link_up);
	assert_int_equal(f->link_changes, 1);
}

/* A tap's queue reads and writes whole frames; here a socket does, that refuses its ioctls. */
static int setup_tap(void **state)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
	static const struct net_tap tap = { .num_queues = 1, .mtu = 9000, .offloads.csum = true };
	struct fixture *f = calloc(1, sizeof(*f));
	int pair[2];

	f->loop = loop_fixture_create(NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(net_open_tap(&f->net, pair[0], &tap, mac, NULL), 0);
	net_attach(f->net, f->loop);
	f->net->link_changed = count_link;
	f->net->link_arg = f;
	f->peer = pair[1];
	*state = f;
	return 0;
}

static void a_tap_takes_what_the_kernel_can(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(f->net->mtu, 9000);
	assert_true(f->net->takes.csum && f->net->gives.csum);
	assert_false(f->net->takes.tso4 || f->net->gives.tso4);
	assert_int_equal(net_tap_offload_flags(&f->net->gives), TUN_F_CSUM);
	assert_int_equal(net_tap_offload_flags(&(struct net_offloads){ .tso4 = true }), 0);
}

static void frames_that_are_there_come_without_a_wait(void **state)
{
	struct fixture *f = *state;
	struct receiving r;
	uint8_t frame[40] = { 0 };

	start(f, &r);
	for (unsigned i = 0; i < 3; i++)
		send(f->peer, frame, 40, 0);
	assert_int_equal(await(f, &r), 40);
	assert_int_equal(f->net->ops->recv_now(f->net, &r.rx), 40);
	assert_int_equal(f->net->ops->recv_now(f->net, &r.rx), 40);
	assert_int_equal(f->net->ops->recv_now(f->net, &r.rx), -EAGAIN);
	assert_true(f->net->link_up);
}

static void a_moved_address_is_announced(void **state)
{
	static const uint8_t mac[6] = { 2, 4, 6, 8, 10, 12 };
	struct fixture *f = *state;
	uint8_t frame[100];

	f->net->ops->announce(f->net, mac);
	assert_int_equal(recv(f->peer, frame, sizeof(frame), 0), NET_VNET_HDR + 60);
	assert_memory_equal(frame + NET_VNET_HDR, "\xff\xff\xff\xff\xff\xff", 6);
	assert_memory_equal(frame + NET_VNET_HDR + 6, mac, 6);
	assert_memory_equal(frame + NET_VNET_HDR + 12, "\x80\x35\0\x01\x08\0\x06\x04\0\x03", 10);
}

/* As that of a switch's port: who sent without MSG_DONTWAIT would wait there. */
static void an_announcement_to_a_full_peer_is_dropped(void **state)
{
	static const uint8_t mac[6] = { 2, 4, 6, 8, 10, 12 };
	struct net *n;
	uint8_t frame[1000] = { 0 };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	while (send(pair[0], frame, sizeof(frame), MSG_DONTWAIT) > 0)
		;
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(net_open_socket(&n, pair[0], mac, NULL), 0);
	alarm(10);
	n->ops->announce(n, mac);
	alarm(0);
	assert_int_equal(n->tx_dropped, 1);
	close(pair[1]);
	net_close(n);
}

static void a_tap_that_is_not_there_is_explained(void **state)
{
	struct error err = { 0 };
	struct net_tap tap;

	assert_int_equal(net_tap_open(&tap, "no-such-tap0", 1, &err), -ENODEV);
	assert_non_null(strstr(err.msg, "no such interface"));
	assert_non_null(strstr(err.hint, "ip tuntap add dev no-such-tap0 mode tap user"));
	assert_int_equal(net_tap_open(&tap, "a-name-that-is-too-long", 1, &err), -ENAMETOOLONG);
	/* lo is no tap; without /dev/net/tun we do not get so far. */
	assert_true(net_tap_open(&tap, "lo", 1, &err) < 0);
	assert_int_equal(net_tap_adopt(&tap, open("/dev/null", O_RDWR), 0, &err), -ENOTTY);
	assert_non_null(strstr(err.msg, "is not a tap"));
}

/* Does the kernel give TCP segments to the reader of tap0? */
static bool gives_segments(void)
{
	struct ethtool_value tso = { .cmd = ETHTOOL_GTSO };
	struct ifreq ifr = { .ifr_name = "tap0", .ifr_data = (char *)&tso };
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	bool does = ioctl(s, SIOCETHTOOL, &ifr) == 0 && tso.data;

	close(s);
	return does;
}

/* In a child, which has a network of its own. */
static _Noreturn void adopt_in_use(void)
{
	struct ifreq ifr = { .ifr_name = "tap0", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	const struct net_offloads used = { .csum = true, .tso4 = true };
	struct net_tap tap;
	int fd;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		_exit(77);
	fd = open("/dev/net/tun", O_RDWR);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0)
		_exit(77);
	if (ioctl(fd, TUNSETOFFLOAD, net_tap_offload_flags(&used)) < 0 || !gives_segments())
		_exit(1);
	if (net_tap_adopt(&tap, dup(fd), net_tap_offload_flags(&used), NULL) < 0 ||
	    memcmp(&tap.offloads, &used, sizeof(used)) != 0 || !gives_segments())
		_exit(2);
	net_tap_close(&tap);
	/* Nobody who uses it told: found out, and left off. */
	if (net_tap_adopt(&tap, dup(fd), 0, NULL) < 0 || !tap.offloads.tso4 || gives_segments())
		_exit(3);
	_exit(0);
}

static void a_tap_in_use_keeps_its_offloads(void **state)
{
	pid_t child = fork();
	int status;

	if (child == 0)
		adopt_in_use();
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
}

static void other_descriptors_are_refused(void **state)
{
	static const uint8_t mac[6];
	struct error err = { 0 };
	struct net *n = NULL;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(net_open_socket(&n, pair[0], mac, &err), -EPROTOTYPE);
	assert_non_null(strstr(err.msg, "SEQPACKET"));
	/* It was the net's to close. */
	assert_int_equal(fcntl(pair[0], F_GETFD), -1);
	close(pair[1]);
	assert_int_equal(net_open_socket(&n, open("/dev/null", O_RDONLY), mac, &err), -ENOTSOCK);
}

/* ---- checksums ---- */

static uint16_t slow_checksum(const uint8_t *p, size_t len)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += i % 2 ? p[i] : p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htobe16(~sum);
}

static void checksums_of_any_length_are_right(void **state)
{
	uint8_t buf[300];

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = i * 151 + 200;
	for (size_t len = 0; len < 260; len++) {
		assert_int_equal(net_checksum(buf, len), slow_checksum(buf, len));
		assert_int_equal(net_checksum(buf + 1, len), slow_checksum(buf + 1, len));
	}
	/* All ones: the carries are many. */
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(net_checksum(buf, 300), 0);
	/* RFC 1071, 3: the example. */
	memcpy(buf, "\x00\x01\xf2\x03\xf4\xf5\xf6\xf7", 8);
	assert_int_equal(net_checksum(buf, 8), htobe16(0x220d));
}

static void a_checksum_is_filled_where_the_header_says(void **state)
{
	struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .csum_start = htole16(34),
				       .csum_offset = htole16(6) };
	uint8_t frame[64], before[64];

	for (size_t i = 0; i < sizeof(frame); i++)
		frame[i] = i * 3;
	memcpy(before, frame, sizeof(frame));
	assert_int_equal(net_fill_checksum(frame, sizeof(frame), &h), 0);
	assert_memory_equal(frame, before, 40);
	assert_memory_equal(frame + 42, before + 42, 22);
	assert_int_equal(get_le16(frame + 40), slow_checksum(before + 34, 30));

	/* Without the flag nothing is. */
	memcpy(frame, before, sizeof(frame));
	h.flags = 0;
	assert_int_equal(net_fill_checksum(frame, sizeof(frame), &h), 0);
	assert_memory_equal(frame, before, sizeof(frame));
}

static void a_header_that_points_outside_is_refused(void **state)
{
	static const uint16_t bad[][2] = {
		{ 65, 0 }, { 64, 0 }, { 63, 0 }, { 60, 3 }, { 0, 63 },
		{ 0xffff, 0xffff }, { 0, 0xffff }, { 0xffff, 0 },
	};
	uint8_t frame[64] = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					       .csum_start = htole16(bad[i][0]),
					       .csum_offset = htole16(bad[i][1]) };

		assert_int_equal(net_fill_checksum(frame, sizeof(frame), &h), -EBADMSG);
	}
}

#define net_test(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
#define tap_test(t) cmocka_unit_test_setup_teardown(t, setup_tap, teardown)

int main(void)
{
	const struct CMUnitTest sockets[] = {
		net_test(frames_that_are_there_come_without_a_wait),
		net_test(a_moved_address_is_announced),
		cmocka_unit_test(an_announcement_to_a_full_peer_is_dropped),
		tap_test(a_tap_takes_what_the_kernel_can),
		tap_test(frames_arrive_whole_and_in_order),
		tap_test(a_full_peer_is_waited_for),
		tap_test(a_frame_is_scattered_over_the_buffers),
		tap_test(frames_that_are_there_come_without_a_wait),
		tap_test(waiting_for_a_frame_can_be_ended),
		tap_test(the_peers_end_takes_the_link_down),
		net_test(frames_arrive_whole_and_in_order),
		net_test(a_full_peer_is_waited_for),
		net_test(waiting_frames_can_be_dropped),
		net_test(a_peer_that_is_gone_takes_the_link_down),
		net_test(it_can_be_closed_while_the_peer_is_full),
		net_test(a_frame_is_scattered_over_the_buffers),
		net_test(a_frame_that_does_not_fit_is_dropped_alone),
		net_test(waiting_for_a_frame_can_be_ended),
		net_test(the_peers_end_takes_the_link_down),
	};
	const struct CMUnitTest others[] = {
		cmocka_unit_test(a_tap_that_is_not_there_is_explained),
		cmocka_unit_test(a_tap_in_use_keeps_its_offloads),
		cmocka_unit_test(other_descriptors_are_refused),
		cmocka_unit_test(checksums_of_any_length_are_right),
		cmocka_unit_test(a_checksum_is_filled_where_the_header_says),
		cmocka_unit_test(a_header_that_points_outside_is_refused),
	};
	int failed;

	log_setup(STDERR_FILENO, LOG_ERROR);
	failed = cmocka_run_group_tests_name("net", others, NULL, NULL);
	return failed + loop_fixture_run("net", sockets, ARRAY_SIZE(sockets));
}
