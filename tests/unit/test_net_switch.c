#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/net_offload.h"
#include "devices/net_switch.h"
#include "devices/net_switch_table.h"
#include "devices/net_tso.h"
#include "tests/unit/loop_fixture.h"
#include "tests/unit/num_fds.h"
#include "vmm/core/log.h"

#define PORTS 4

struct fixture {
	struct clock clock;
	struct loop *loop;
	struct net_switch *sw;
	int fd[PORTS];
};

static int setup(void **state)
{
	static const unsigned vlan[PORTS] = { 1, 1, 1, 7 };
	struct fixture *f = calloc(1, sizeof(*f));
	char name[8];
	int pair[2];

	clock_init_virtual(&f->clock, NSEC_PER_SEC, 0);
	f->loop = loop_fixture_create(&f->clock);
	assert_int_equal(net_switch_create(&f->sw, f->loop, NULL), 0);
	for (unsigned i = 0; i < PORTS; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
		f->fd[i] = pair[1];
		snprintf(name, sizeof(name), "p%u", i);
		assert_int_equal(net_switch_add(f->sw, pair[0], name, vlan[i]), 0);
	}
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	net_switch_free(f->sw);
	for (unsigned i = 0; i < PORTS; i++) {
		if (f->fd[i] >= 0)
			close(f->fd[i]);
	}
	loop_free(f->loop);
	free(f);
	return 0;
}

static void turn(struct fixture *f)
{
	while (loop_run_once(f->loop, 0))
		;
}

#define ALL 0xff

/* A frame of @len bytes from guest @from (02::from) to guest @to, or to ALL, through @port. */
static void send_frame(struct fixture *f, unsigned port, uint8_t from, uint8_t to, size_t len)
{
	uint8_t m[NET_VNET_HDR + 2000] = { 0 }, *eth = m + NET_VNET_HDR;

	eth[0] = to == ALL ? 0xff : 2;
	memset(eth + 1, to == ALL ? 0xff : 0, 5);
	eth[5] = to;
	eth[6] = 2;
	eth[11] = from;
	eth[12] = 8;
	for (size_t i = 14; i < len; i++)
		eth[i] = i;
	assert_int_equal(send(f->fd[port], m, NET_VNET_HDR + len, 0), NET_VNET_HDR + len);
}

/* Length of the next frame at @port, or -1. */
static ssize_t get_frame(struct fixture *f, unsigned port)
{
	uint8_t m[NET_VNET_HDR + NET_MAX_FRAME];
	ssize_t n;

	turn(f);
	n = recv(f->fd[port], m, sizeof(m), 0);
	return n < 0 ? -1 : n - (ssize_t)NET_VNET_HDR;
}

static void say_hello(struct fixture *f, unsigned port, uint32_t takes)
{
	struct net_hello hello = { htole32(NET_HELLO_MAGIC), htole32(takes) };

	assert_int_equal(send(f->fd[port], &hello, sizeof(hello), 0), sizeof(hello));
	turn(f);
}

static void frames_go_where_their_guest_is(void **state)
{
	struct fixture *f = *state;

	/* Not known yet: to all others of the VLAN. */
	send_frame(f, 0, 10, 11, 100);
	assert_int_equal(get_frame(f, 1), 100);
	assert_int_equal(get_frame(f, 2), 100);
	assert_int_equal(get_frame(f, 0), -1);
	assert_int_equal(get_frame(f, 3), -1);
	send_frame(f, 1, 11, 10, 80);
	assert_int_equal(get_frame(f, 0), 80);
	assert_int_equal(get_frame(f, 2), -1);
	send_frame(f, 0, 10, 11, 90);
	assert_int_equal(get_frame(f, 1), 90);
	assert_int_equal(get_frame(f, 2), -1);
	send_frame(f, 0, 10, ALL, 60);
	assert_int_equal(get_frame(f, 1), 60);
	assert_int_equal(get_frame(f, 2), 60);
	/* It moves: the newest is believed. */
	send_frame(f, 2, 10, 11, 70);
	assert_int_equal(get_frame(f, 1), 70);
	send_frame(f, 1, 11, 10, 75);
	assert_int_equal(get_frame(f, 2), 75);
	assert_int_equal(get_frame(f, 0), -1);
}

static void vlans_do_not_meet(void **state)
{
	struct fixture *f = *state;
	uint8_t tagged[NET_VNET_HDR + 64] = { [NET_VNET_HDR] = 0xff, [NET_VNET_HDR + 6] = 2,
					      [NET_VNET_HDR + 12] = 0x81 };

	send_frame(f, 3, 20, ALL, 100);
	send_frame(f, 3, 20, 10, 100);
	send_frame(f, 0, 10, 20, 100);
	for (unsigned i = 1; i < 3; i++) {
		assert_int_equal(get_frame(f, i), 100); /* the last one, flooded */
		assert_int_equal(get_frame(f, i), -1);
	}
	assert_int_equal(get_frame(f, 0), -1);
	assert_int_equal(get_frame(f, 3), -1);
	/* Nor does a tag of the guest's own lead anywhere. */
	send(f->fd[0], tagged, sizeof(tagged), 0);
	assert_int_equal(get_frame(f, 1), -1);
	assert_int_equal(get_frame(f, 3), -1);
}

static void addresses_grow_old(void **state)
{
	struct fixture *f = *state;

	send_frame(f, 1, 11, ALL, 60);
	assert_int_equal(get_frame(f, 2), 60);
	clock_advance(&f->clock, NET_SWITCH_AGE_NS + NSEC_PER_SEC);
	send_frame(f, 0, 10, 11, 60);
	assert_int_equal(get_frame(f, 1), 60);
	assert_int_equal(get_frame(f, 2), 60);
}

static void one_port_cannot_fill_the_table(void **state)
{
	static struct net_switch_table t;
	unsigned num[2] = { 0 };
	uint8_t addr[6] = { 2 };

	t = (struct net_switch_table){ .num = num, .max_per_port = 64, .max_age_ns = 1000 };
	for (unsigned i = 0; i < 100000; i++) {
		memcpy(addr + 1, &i, 4);
		net_switch_learn(&t, 1, addr, 0, 5);
	}
	assert_int_equal(num[0], 64);
	memset(addr + 1, 0xee, 5);
	net_switch_learn(&t, 1, addr, 1, 6);
	assert_int_equal(net_switch_find(&t, 1, addr, 7), 1);
	assert_int_equal(net_switch_find(&t, 2, addr, 7), -1);
	net_switch_forget(&t, 0);
	assert_int_equal(num[0], 0);
	assert_int_equal(net_switch_find(&t, 1, addr, 2000), -1);
}

/* A segment of 3 x 1000 bytes of TCP over IPv4, from guest 10 to guest 11; its length. */
static size_t make_segment(uint8_t *m)
{
	struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				       .gso_size = htole16(1000), .hdr_len = htole16(54),
				       .csum_start = htole16(34), .csum_offset = htole16(16) };
	uint8_t *eth = m + NET_VNET_HDR, *ip = eth + 14, *tcp = ip + 20;

	memset(m, 0, NET_VNET_HDR + 54);
	memcpy(m, &h, sizeof(h));
	eth[0] = eth[6] = 2;
	eth[5] = 11;
	eth[11] = 10;
	eth[12] = 8;
	ip[0] = 0x45;
	ip[2] = (3000 + 40) >> 8;
	ip[3] = (3000 + 40) & 0xff;
	ip[8] = 64;
	ip[9] = 6;
	ip[12] = ip[16] = 10;
	ip[15] = 1;
	ip[19] = 2;
	tcp[3] = 80;
	tcp[12] = 5 << 4;
	tcp[13] = 0x18; /* ACK, PSH */
	for (unsigned i = 0; i < 3000; i++)
		tcp[20 + i] = i;
	return NET_VNET_HDR + 54 + 3000;
}

static bool checksum_is_right(const uint8_t *eth, size_t len)
{
	uint8_t sum[65536];
	size_t tcp = len - 34;

	memcpy(sum, eth + 26, 8);
	memcpy(sum + 8, (uint8_t[]){ 0, 6, tcp >> 8, tcp }, 4);
	memcpy(sum + 12, eth + 34, tcp);
	return net_checksum(sum, 12 + tcp) == 0 && net_checksum(eth + 14, 20) == 0;
}

static void segments_stay_whole_or_are_cut(void **state)
{
	struct fixture *f = *state;
	static uint8_t m[70000];
	struct virtio_net_hdr_v1 h;
	size_t len = make_segment(m);

	send_frame(f, 1, 11, ALL, 60);
	turn(f);
	say_hello(f, 1, NET_HELLO_CSUM | NET_HELLO_TSO4);
	send(f->fd[0], m, len, 0);
	assert_int_equal(get_frame(f, 1), 3054);

	/* One that takes none gets what a wire would carry. */
	say_hello(f, 1, 0);
	send(f->fd[0], m, len, 0);
	turn(f);
	for (unsigned i = 0; i < 3; i++) {
		const uint8_t *eth = m + NET_VNET_HDR, *tcp = eth + 34;

		assert_int_equal(recv(f->fd[1], m, sizeof(m), 0), NET_VNET_HDR + 1054);
		memcpy(&h, m, sizeof(h));
		assert_int_equal(h.flags, 0);
		assert_int_equal(h.gso_type, 0);
		assert_true(checksum_is_right(eth, 1054));
		assert_int_equal(tcp[7], (i * 1000) & 0xff);
		assert_int_equal(tcp[13], i < 2 ? 0x10 : 0x18);
		for (unsigned k = 0; k < 1000; k++)
			assert_int_equal(tcp[20 + k], (uint8_t)(i * 1000 + k));
	}
	assert_int_equal(get_frame(f, 1), -1);
	/* Cut into single bytes it would be a flood. */
	len = make_segment(m);
	((struct virtio_net_hdr_v1 *)m)->gso_size = htole16(1);
	send(f->fd[0], m, len, 0);
	assert_int_equal(get_frame(f, 1), -1);
}

struct pieces {
	struct net_tso_join join;
	unsigned n;
};

static void join_piece(void *arg, uint8_t *segment, size_t len)
{
	struct pieces *p = arg;

	p->n++;
	assert_true(net_tso_join(&p->join, segment, len));
}

static void what_was_cut_can_be_joined(void **state)
{
	static uint8_t m[70000], frame[70000];
	static struct pieces p;
	struct virtio_net_hdr_v1 h;
	size_t len = make_segment(m) - NET_VNET_HDR;

	memcpy(&h, m, sizeof(h));
	memcpy(frame, m + NET_VNET_HDR, len);
	memset(&p, 0, sizeof(p));
	assert_int_equal(net_tso_cut(frame, len, &h, join_piece, &p), 0);
	assert_int_equal(p.n, 3);
	/* PSH ended the run. */
	assert_false(net_tso_join(&p.join, frame, 60));
	assert_int_equal(net_tso_joined(&p.join, &h), len);
	assert_int_equal(h.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(le16toh(h.gso_size), 1000);
	assert_int_equal(net_fill_checksum(p.join.frame, len, &h), 0);
	assert_true(checksum_is_right(p.join.frame, len));
	assert_memory_equal(p.join.frame + 54, m + NET_VNET_HDR + 54, 3000);
	assert_int_equal(net_tso_joined(&p.join, &h), 0);

	/* Another connection, a gap, and what is no data are left alone. */
	memcpy(frame, m + NET_VNET_HDR, 1054);
	frame[16] = 1040 >> 8;
	frame[17] = 1040 & 0xff;
	frame[47] = 0x10;
	assert_true(net_tso_join(&p.join, frame, 1054));
	assert_false(net_tso_join(&p.join, frame, 1054));
	frame[41] = 1000 & 0xff;
	frame[40] = 1000 >> 8;
	frame[37] ^= 1;
	assert_false(net_tso_join(&p.join, frame, 1054));
	frame[37] ^= 1;
	frame[47] = 0x12;
	assert_false(net_tso_join(&p.join, frame, 1054));
	frame[47] = 0x10;
	assert_true(net_tso_join(&p.join, frame, 1054));
	assert_int_equal(net_tso_joined(&p.join, &h), 2054);
}

static void one_that_does_not_read_is_waited_for_once(void **state)
{
	struct fixture *f = *state;
	unsigned got = 0;

	send_frame(f, 1, 11, ALL, 60);
	send_frame(f, 2, 12, ALL, 60);
	turn(f);
	/* Fill port 1 until the sender's own socket is full too. */
	for (unsigned i = 0; i < 3000; i++) {
		uint8_t m[NET_VNET_HDR + 1500] = { 0 };

		m[NET_VNET_HDR] = m[NET_VNET_HDR + 6] = 2;
		m[NET_VNET_HDR + 5] = 11;
		m[NET_VNET_HDR + 11] = 10;
		if (send(f->fd[0], m, sizeof(m), MSG_DONTWAIT) < 0)
			break;
		turn(f);
	}
	assert_int_equal(errno, EAGAIN);
	/* Others are not held up. */
	send_frame(f, 2, 12, ALL, 64);
	turn(f);
	clock_advance(&f->clock, NSEC_PER_SEC);
	turn(f);
	/* It was waited for; from now on what it has no room for is lost. */
	send_frame(f, 0, 10, 12, 99);
	for (ssize_t n; (n = get_frame(f, 2)) >= 0;)
		got += n == 99;
	assert_int_equal(got, 1);
	/* What fitted is there. */
	assert_int_equal(get_frame(f, 1), 60);
}

static void the_dead_and_the_rude_leave(void **state)
{
	struct fixture *f = *state;
	uint8_t junk[26] = { 1, 2, 3 };

	for (unsigned len = 1; len <= sizeof(junk); len++)
		send(f->fd[0], junk, len, 0);
	turn(f);
	close(f->fd[1]);
	f->fd[1] = -1;
	turn(f);
	send_frame(f, 0, 10, ALL, 60);
	assert_int_equal(get_frame(f, 2), 60);
	send_frame(f, 2, 12, 10, 61);
	assert_int_equal(get_frame(f, 0), 61);
}

#define both(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

static void client_waits_while_there_is_no_descriptor_for_it(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(un);
	int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	/* A name of the kernel's choice. */
	assert_int_equal(bind(listener, (struct sockaddr *)&un, sizeof(un.sun_family)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&un, &len), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, len), 0);
	net_switch_listen(f->sw, listener);
	assert_true(rounds_without_fds(f->loop) < 10);
	/* Whoever is taken and says nonsense is hung up on. */
	assert_int_equal(send(fd, "x", 1, 0), 1);
	clock_advance(&f->clock, 2 * NSEC_PER_SEC);
	turn(f);
	assert_int_equal(recv(fd, &len, sizeof(len), 0), 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		both(frames_go_where_their_guest_is),
		both(vlans_do_not_meet),
		both(addresses_grow_old),
		cmocka_unit_test(one_port_cannot_fill_the_table),
		both(segments_stay_whole_or_are_cut),
		cmocka_unit_test(what_was_cut_can_be_joined),
		both(client_waits_while_there_is_no_descriptor_for_it),
		both(one_that_does_not_read_is_waited_for_once),
		both(the_dead_and_the_rude_leave),
	};

	log_setup(STDERR_FILENO, LOG_ERROR);
	return loop_fixture_run("switch", tests, ARRAY_SIZE(tests));
}
