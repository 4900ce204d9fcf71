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
#include <unistd.h>

#include "tests/unit/fake_driver.h"
#include "virtio/virtio_devices.h"

#define RX   0
#define TX   1
#define CTRL 2

#define PAIRS 3 /* at most, in these tests */

/* All of the device's own; the rings' are the variant's to choose. */
#define ALL_FEATURES (((1ull << 28) - 1) | 1ull << VIRTIO_NET_F_SPEED_DUPLEX)
#define MERGEABLE    (1ull << VIRTIO_NET_F_MRG_RXBUF)

static const uint8_t mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };

struct variant {
	const char *name;
	struct fake_driver_config driver;
	enum loop_backend backend;
};

struct fixture {
	struct fake_vm vm;
	struct fake_driver d;
	struct virtio_device *dev;
	struct net *net;
	int peer;	 /* of the first pair of queues */
	int more[PAIRS]; /* of the others, in [1] and on; or 0 */
};

static struct fixture *begin_pairs(const struct variant *v, uint64_t features, uint16_t mtu,
				   unsigned num_pairs)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct fake_driver_config driver = v->driver;
	struct virtio_params params;
	struct net *nets[PAIRS];
	int pair[2];

	fake_vm_init(&f->vm, v->backend);
	for (unsigned i = 0; i < num_pairs; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
		assert_int_equal(net_open_socket(&nets[i], pair[0], mac, NULL), 0);
		net_attach(nets[i], f->vm.loop);
		f->more[i] = pair[1];
	}
	f->peer = f->more[0];
	f->net = nets[0];
	f->net->mtu = mtu;
	params = fake_vm_params(&f->vm, "net0");
	assert_int_equal(virtio_net_create(&f->dev, &params, nets, num_pairs, NULL), 0);
	driver.features = features;
	fake_driver_init(&f->d, &f->vm, f->dev, &driver);
	return f;
}

static struct fixture *begin(const struct variant *v, uint64_t features, uint16_t mtu)
{
	return begin_pairs(v, features, mtu, 1);
}

static void end(struct fixture *f)
{
	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
	if (f->peer >= 0)
		close(f->peer);
	for (unsigned i = 1; i < PAIRS; i++) {
		if (f->more[i])
			close(f->more[i]);
	}
	free(f);
}

/* ---- helpers: the driver's side ---- */

/* @num receive buffers of @len bytes; their ids and addresses go to the arrays. */
static void post(struct fixture *f, unsigned num, uint32_t len, int *ids, uint64_t *gpas)
{
	for (unsigned i = 0; i < num; i++) {
		struct fake_buf buf = { fake_alloc(&f->vm, len, 4), len, true };

		ids[i] = fake_add(&f->d, RX, &buf, 1);
		assert_true(ids[i] >= 0);
		gpas[i] = buf.gpa;
	}
	fake_kick(&f->d, RX);
	fake_run(&f->vm);
}

static void transmit(struct fixture *f, const struct virtio_net_hdr_v1 *h, const uint8_t *frame,
		     uint32_t len)
{
	uint64_t gpa = fake_alloc(&f->vm, sizeof(*h) + len, 1);
	struct fake_buf buf = { gpa, sizeof(*h) + len, false };
	uint8_t *p = fake_ptr(&f->vm, gpa, buf.len);

	memcpy(p, h, sizeof(*h));
	memcpy(p + sizeof(*h), frame, len);
	assert_true(fake_add(&f->d, TX, &buf, 1) >= 0);
	fake_kick(&f->d, TX);
}

static uint16_t status(struct fixture *f)
{
	uint16_t v;

	fake_config_read(&f->d, offsetof(struct virtio_net_config, status), &v, sizeof(v));
	return le16toh(v);
}

/* ---- helpers: the peer's side ---- */

static void fill(uint8_t *frame, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		frame[i] = i * 7 + i / 256 + seed;
}

static void peer_sends(struct fixture *f, struct virtio_net_hdr_v1 h, const uint8_t *frame,
		       size_t len)
{
	struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)frame, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	assert_int_equal(sendmsg(f->peer, &msg, 0), sizeof(h) + len);
}

/* The next frame that reached the peer, or -1 when there is none. */
static ssize_t peer_gets(struct fixture *f, struct virtio_net_hdr_v1 *h, uint8_t *frame,
			 size_t room)
{
	struct iovec iov[2] = { { h, sizeof(*h) }, { frame, room } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	ssize_t n;

	fake_run(&f->vm);
	do
		n = recvmsg(f->peer, &msg, 0);
	while (n == sizeof(struct net_hello));
	return n < 0 ? -1 : n - (ssize_t)sizeof(*h);
}

/* ---- sending ---- */

static void frames_go_out_in_order(void **state)
{
	struct fixture *f = begin(*state, ALL_FEATURES, 0);
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t frame[200], got[300];
	struct fake_used used;
	enum { N = 20 };

	for (unsigned i = 0; i < N; i++) {
		fill(frame, 60 + i, i);
		transmit(f, &h, frame, 60 + i);
	}
	for (unsigned i = 0; i < N; i++) {
		fill(frame, 60 + i, i);
		assert_int_equal(peer_gets(f, &h, got, sizeof(got)), 60 + i);
		assert_memory_equal(got, frame, 60 + i);
		assert_true(fake_wait_used(&f->d, TX, &used));
		assert_int_equal(used.len, 0);
	}
	assert_int_equal(peer_gets(f, &h, got, sizeof(got)), -1);
	end(f);
}

static void framing_is_the_drivers_choice(void **state)
{
	struct fixture *f = begin(*state, ALL_FEATURES, 0);
	uint64_t gpa = fake_alloc(&f->vm, 12 + 100, 1);
	/* The header in three segments, the last of them with some of the frame. */
	struct fake_buf bufs[] = {
		{ gpa, 5, false }, { gpa + 5, 3, false }, { gpa + 8, 20, false },
		{ gpa + 28, 84, false },
	};
	struct virtio_net_hdr_v1 h;
	uint8_t got[200];
	struct fake_used used;

	fill(fake_ptr(&f->vm, gpa + 12, 100), 100, 9);
	fake_add(&f->d, TX, bufs, 4);
	fake_kick(&f->d, TX);
	assert_int_equal(peer_gets(f, &h, got, sizeof(got)), 100);
	assert_memory_equal(got, fake_ptr(&f->vm, gpa + 12, 100), 100);
	assert_true(fake_wait_used(&f->d, TX, &used));
	end(f);
}

static void a_frame_of_64k_goes_out_whole(void **state)
{
	struct fixture *f = begin(*state, ALL_FEATURES, 0);
	struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				       .csum_start = htole16(34), .csum_offset = htole16(16),
				       .gso_size = htole16(1448), .hdr_len = htole16(66) };
	struct virtio_net_hdr_v1 seen;
	uint8_t *frame = malloc(65549), *got = malloc(70000);

	fill(frame, 65549, 1);
	transmit(f, &h, frame, 65549);
	assert_int_equal(peer_gets(f, &seen, got, 70000), 65549);
	assert_memory_equal(got, frame, 65549);
	assert_memory_equal(&seen, &h, sizeof(h));
	free(frame);
	free(got);
	end(f);
}

/* ---- receiving ---- */

static void a_small_frame_takes_one_buffer(void **state)
{
	struct fixture *f = begin(*state, ALL_FEATURES, 0);
	struct virtio_net_hdr_v1 *h;
	struct fake_used used;
	uint8_t frame[100];
	uint64_t gpa[4];
	int id[4];

	post(f, 4, 1600, id, gpa);
	for (unsigned i = 0; i < 4; i++) {
		fill(frame, sizeof(frame), i);
		peer_sends(f, (struct virtio_net_hdr_v1){ .flags = VIRTIO_NET_HDR_F_DATA_VALID },
			   frame, sizeof(frame));
		assert_true(fake_wait_used(&f->d, RX, &used));
		assert_int_equal(used.id, id[i]);
		assert_int_equal(used.len, 112);
		h = fake_ptr(&f->vm, gpa[i], 112);
		assert_int_equal(le16toh(h->num_buffers), 1);
		assert_int_equal(h->flags, VIRTIO_NET_HDR_F_DATA_VALID);
		assert_memory_equal(h + 1, frame, sizeof(frame));
	}
	end(f);
}

static void a_long_frame_is_spread_over_buffers(void **state)
{
	struct fixture *f = begin(*state, ALL_FEATURES, 9000);
	uint8_t *frame = malloc(9014), *got = malloc(9100);
	struct virtio_net_hdr_v1 h;
	struct fake_used used;
	uint64_t gpa[20];
	int id[20];
	unsigned n = 0;
	size_t len = 0;

	post(f, 20, 1500, id, gpa);
	fill(frame, 9014, 3);
	peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, 9014);
	do {
		assert_true(fake_wait_used(&f->d, RX, &used));
		assert_int_equal(used.id, id[n]);
		memcpy(got + len, fake_ptr(&f->vm, gpa[n], used.len), used.len);
		len += used.len;
		if (!n++)
			memcpy(&h, got, sizeof(h));
	} while (n < le16toh(h.num_buffers));
	assert_int_equal(n, 7);
	assert_int_equal(len, 9014 + 12);
	assert_memory_equal(got + 12, frame, 9014);

	/* Those that it did not reach are for the next frame, in order. */
	peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, 60);
	assert_true(fake_wait_used(&f->d, RX, &used));
	assert_int_equal(used.id, id[7]);
	assert_int_equal(used.len, 72);
	assert_memory_equal((uint8_t *)fake_ptr(&f->vm, gpa[7], 72) + 12, frame, 60);
	free(frame);
	free(got);
	end(f);
}

/* A frame that is there does not wait for a round of the loop of its own. */
static void a_burst_is_taken_at_once(void **state)
{
	struct fixture *f = begin(*state, ALL_FEATURES, 0);
	struct fake_used used;
	uint8_t frame[100];
	uint64_t gpa[60];
	int id[60];

	post(f, 60, 1600, id, gpa);
	for (unsigned i = 0; i < 30; i++) {
		fill(frame, sizeof(frame), i);
		peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, sizeof(frame));
	}
	for (unsigned i = 0; i < 3; i++)
		loop_run_once(f->vm.loop, NSEC_PER_SEC);
	for (unsigned i = 0; i < 30; i++) {
		assert_true(fake_take_used(&f->d, RX, &used));
		assert_int_equal(used.id, id[i]);
		fill(frame, sizeof(frame), i);
		assert_memory_equal((uint8_t *)fake_ptr(&f->vm, gpa[i], 112) + 12, frame, 100);
	}
	end(f);
}

/* A driver short of buffers loses nothing of a long frame, and short ones need not wait. */
static void a_long_frame_waits_for_its_last_buffers(void **state)
{
	struct fixture *f = begin(*state, ALL_FEATURES, 0);
	struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				       .gso_size = htole16(1448) };
	uint8_t *frame = malloc(60000), *got = malloc(70000), small[60] = { 9 };
	struct fake_used used;
	uint64_t gpa[44];
	size_t len = 0;
	int id[44];

	post(f, 3, 1600, id, gpa);
	peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, small, sizeof(small));
	assert_true(fake_wait_used(&f->d, RX, &used));
	assert_int_equal(used.id, id[0]);
	fill(frame, 60000, 7);
	peer_sends(f, h, frame, 60000);
	peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, small, sizeof(small));
	fake_run(&f->vm);
	assert_false(fake_take_used(&f->d, RX, &used));
	for (unsigned i = 3; i < 44; i++)
		post(f, 1, 1600, &id[i], &gpa[i]);
	for (unsigned i = 1; len < 60012; i++) {
		assert_true(fake_wait_used(&f->d, RX, &used));
		assert_int_equal(used.id, id[i]);
		memcpy(got + len, fake_ptr(&f->vm, gpa[i], used.len), used.len);
		len += used.len;
	}
	assert_int_equal(len, 60012);
	assert_memory_equal(got + 12, frame, 60000);
	memcpy(&h, got, sizeof(h));
	assert_int_equal(le16toh(h.num_buffers), 38);
	assert_true(fake_wait_used(&f->d, RX, &used));
	assert_int_equal(used.len, 72);
	free(frame);
	free(got);
	end(f);
}

static void frames_wait_for_buffers(void **state)
{
	struct fixture *f = begin(*state, ALL_FEATURES, 0);
	struct fake_used used;
	uint8_t frame[100];
	uint64_t gpa[2];
	int id[2];

	fill(frame, sizeof(frame), 1);
	peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, sizeof(frame));
	fake_run(&f->vm);
	assert_false(fake_take_used(&f->d, RX, &used));
	post(f, 2, 1600, id, gpa);
	assert_true(fake_wait_used(&f->d, RX, &used));
	assert_int_equal(used.id, id[0]);
	assert_memory_equal((uint8_t *)fake_ptr(&f->vm, gpa[0], 112) + 12, frame, sizeof(frame));
	end(f);
}

static void drained(struct virtio_device *dev, void *arg)
{
	*(bool *)arg = true;
}

static void pause_and_wait(struct fixture *f)
{
	bool done = false;

	virtio_pause(f->dev, drained, &done);
	for (int i = 0; i < 60 && !done; i++)
		loop_run_once(f->vm.loop, NSEC_PER_SEC);
	assert_true(done);
}

static void a_pause_gives_the_buffers_back(void **state)
{
	struct fixture *f = begin(*state, ALL_FEATURES, 9000);
	struct fake_used used;
	uint8_t frame[100];
	uint64_t gpa[10];
	int id[10];

	post(f, 10, 1500, id, gpa);
	pause_and_wait(f);
	assert_int_equal(f->dev->queue[RX].inflight, 0);
	assert_int_equal(f->dev->queue[RX].next_avail, f->dev->queue[RX].next_used);
	/* A frame that comes meanwhile waits in the socket. */
	fill(frame, sizeof(frame), 1);
	peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, sizeof(frame));
	fake_run(&f->vm);
	assert_false(fake_take_used(&f->d, RX, &used));
	virtio_resume(f->dev);
	assert_true(fake_wait_used(&f->d, RX, &used));
	assert_int_equal(used.id, id[0]);
	assert_memory_equal((uint8_t *)fake_ptr(&f->vm, gpa[0], 112) + 12, frame, sizeof(frame));
	end(f);
}

static void a_reset_while_receiving_is_clean(void **state)
{
	struct fixture *f = begin(*state, ALL_FEATURES, 0);
	struct fake_used used;
	uint8_t frame[100] = { 0 };
	uint64_t gpa[4];
	int id[4];

	for (unsigned i = 0; i < 3; i++) {
		post(f, 4, 1600, id, gpa);
		peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, sizeof(frame));
		assert_true(fake_wait_used(&f->d, RX, &used));
		assert_int_equal(used.id, id[0]);
		fake_driver_probe(&f->d);
	}
	end(f);
}

/* ---- what needs one variant only ---- */

static const struct variant plain = { "plain", { .event_idx = true, .indirect = true }, LOOP_AUTO };

static void nothing_unnegotiated_reaches_the_peer(void **state)
{
	struct fixture *f = begin(&plain, MERGEABLE, 0);
	struct virtio_net_hdr_v1 h, seen, zero = { 0 };
	uint8_t frame[60], got[100];
	struct fake_used used;

	memset(&h, 0xff, sizeof(h));
	fill(frame, sizeof(frame), 0);
	transmit(f, &h, frame, sizeof(frame));
	assert_int_equal(peer_gets(f, &seen, got, sizeof(got)), 60);
	assert_memory_equal(&seen, &zero, sizeof(zero));
	end(f);

	/* With checksums but without segmentation. */
	f = begin(&plain, MERGEABLE | 1ull << VIRTIO_NET_F_CSUM, 0);
	h = (struct virtio_net_hdr_v1){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					.gso_type = VIRTIO_NET_HDR_GSO_TCPV4 };
	transmit(f, &h, frame, sizeof(frame));
	assert_int_equal(peer_gets(f, &seen, got, sizeof(got)), -1);
	assert_true(fake_wait_used(&f->d, TX, &used));
	h.gso_type = VIRTIO_NET_HDR_GSO_NONE;
	h.flags = 0xff;
	transmit(f, &h, frame, sizeof(frame));
	assert_int_equal(peer_gets(f, &seen, got, sizeof(got)), 60);
	assert_int_equal(seen.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	end(f);
}

static void frames_of_no_length_are_dropped(void **state)
{
	static const uint32_t lens[] = { 0, 13 };
	struct fixture *f = begin(&plain, ALL_FEATURES, 0);
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t frame[60] = { 0 }, got[100];
	struct fake_buf tiny = { fake_alloc(&f->vm, 4, 1), 4, false };
	struct fake_buf huge = { fake_alloc(&f->vm, 65563, 1), 65563, false };
	struct fake_used used;

	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++)
		transmit(f, &h, frame, lens[i]);
	fake_add(&f->d, TX, &tiny, 1);
	fake_add(&f->d, TX, &huge, 1);
	fake_kick(&f->d, TX);
	for (unsigned i = 0; i < 4; i++)
		assert_true(fake_wait_used(&f->d, TX, &used));
	assert_int_equal(peer_gets(f, &h, got, sizeof(got)), -1);
	assert_int_equal(f->net->tx_dropped, 4);
	assert_int_equal(f->dev->needs_reset, 0);
	end(f);
}

static void a_pause_does_not_wait_for_a_full_peer(void **state)
{
	struct fixture *f = begin(&plain, ALL_FEATURES, 0);
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t *frame = calloc(1, 60000);
	struct fake_used used;
	enum { N = 40 };

	for (unsigned i = 0; i < N; i++)
		transmit(f, &h, frame, 60000);
	fake_run(&f->vm);
	pause_and_wait(f);
	assert_int_equal(f->dev->queue[TX].inflight, 0);
	virtio_resume(f->dev);
	for (unsigned i = 0; i < N; i++)
		assert_true(fake_wait_used(&f->d, TX, &used));
	assert_true(f->net->tx_dropped > 0);
	free(frame);
	end(f);
}

static void without_merging_a_frame_has_one_buffer(void **state)
{
	struct fixture *f = begin(&plain, 0, 0);
	struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_DATA_VALID, .gso_size = 7 };
	struct virtio_net_hdr_v1 *got;
	struct fake_used used;
	uint8_t frame[1000];
	uint64_t gpa[3];
	int id[3];

	post(f, 3, 512, id, gpa);
	fill(frame, sizeof(frame), 5);
	/* Too long for its buffer: dropped, and the buffer serves the next. */
	peer_sends(f, h, frame, 1000);
	peer_sends(f, h, frame, 400);
	assert_true(fake_wait_used(&f->d, RX, &used));
	assert_int_equal(used.id, id[0]);
	assert_int_equal(used.len, 412);
	got = fake_ptr(&f->vm, gpa[0], 412);
	assert_memory_equal(got + 1, frame, 400);
	/* 5.1.6.4.1: 1 also without the feature; and nothing else that was not negotiated. */
	assert_int_equal(le16toh(got->num_buffers), 1);
	assert_int_equal(got->flags, 0);
	assert_int_equal(got->gso_size, 0);
	assert_int_equal(f->net->rx_dropped, 1);
	end(f);
}

static void frames_the_driver_did_not_ask_for_are_dropped(void **state)
{
	struct fixture *f = begin(&plain, MERGEABLE, 0);
	struct virtio_net_hdr_v1 bad[] = {
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM },
		{ .gso_type = VIRTIO_NET_HDR_GSO_TCPV4 },
		{ .gso_type = VIRTIO_NET_HDR_GSO_TCPV6 },
		{ .gso_type = VIRTIO_NET_HDR_GSO_UDP },
		{ .gso_type = 0xff },
	};
	struct fake_used used;
	uint8_t frame[60] = { 0 };
	uint64_t gpa[2];
	int id[2];

	post(f, 2, 1600, id, gpa);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		peer_sends(f, bad[i], frame, sizeof(frame));
	/* And what is no frame at all. */
	peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, 13);
	assert_int_equal(send(f->peer, frame, 5, 0), 5);
	fill(frame, sizeof(frame), 8);
	peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, sizeof(frame));
	assert_true(fake_wait_used(&f->d, RX, &used));
	assert_int_equal(used.id, id[0]);
	assert_memory_equal((uint8_t *)fake_ptr(&f->vm, gpa[0], 72) + 12, frame, sizeof(frame));
	assert_int_equal(f->net->rx_dropped, ARRAY_SIZE(bad) + 2);
	end(f);
}

static void buffers_without_room_fail_the_device(void **state)
{
	struct fixture *f = begin(&plain, ALL_FEATURES, 0);
	uint64_t gpa = fake_alloc(&f->vm, 64, 4);
	struct fake_buf bad[] = { { gpa, 11, true }, { gpa, 64, false } };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		fake_add(&f->d, RX, &bad[i], 1);
		fake_kick(&f->d, RX);
		fake_run(&f->vm);
		assert_true(fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		fake_driver_probe(&f->d);
		assert_false(fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	}
	end(f);
}

/* ---- control queue ---- */

static uint8_t control_on(struct fixture *f, unsigned queue, uint8_t class, uint8_t cmd,
			  const void *data, uint32_t len)
{
	uint64_t gpa = fake_alloc(&f->vm, 2 + len + 1, 1);
	struct fake_buf bufs[] = { { gpa, 2, false }, { gpa + 2, len, false },
				   { gpa + 2 + len, 1, true } };
	uint8_t *p = fake_ptr(&f->vm, gpa, 3 + len);
	struct fake_used used;

	p[0] = class;
	p[1] = cmd;
	p[2 + len] = 0x55;
	if (len)
		memcpy(p + 2, data, len);
	else
		bufs[1] = bufs[2];
	fake_add(&f->d, queue, bufs, len ? 3 : 2);
	fake_kick(&f->d, queue);
	assert_true(fake_wait_used(&f->d, queue, &used));
	assert_int_equal(used.len, 1);
	return p[2 + len];
}

static uint8_t control(struct fixture *f, uint8_t class, uint8_t cmd, const uint8_t *data,
		       uint32_t len)
{
	return control_on(f, CTRL, class, cmd, data, len);
}

static void control_commands_are_answered(void **state)
{
	static const uint8_t other[6] = { 2, 4, 6, 8, 10, 12 };
	/* One unicast address, no multicast one; then with a count that lies. */
	uint8_t table[14] = { 1, 0, 0, 0, 2, 4, 6, 8, 10, 12, 0, 0, 0, 0 };
	struct fixture *f = begin(&plain, ALL_FEATURES, 0);
	uint8_t on = 1, now[6];

	assert_int_equal(control(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1), 0);
	assert_int_equal(control(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 0), 1);
	assert_int_equal(control(f, VIRTIO_NET_CTRL_RX, 99, &on, 1), 1);
	assert_int_equal(control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, 14),
			 0);
	table[0] = 0xff;
	table[3] = 0xff;
	assert_int_equal(control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, 14),
			 1);
	assert_int_equal(control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 5),
			 1);
	fake_config_read(&f->d, 0, now, 6);
	assert_memory_equal(now, mac, 6);
	assert_int_equal(control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6),
			 0);
	fake_config_read(&f->d, 0, now, 6);
	assert_memory_equal(now, other, 6);
	assert_int_equal(control(f, VIRTIO_NET_CTRL_MQ, 0, other, 2), 1);
	assert_int_equal(control(f, 200, 200, other, 6), 1);
	/* A reset brings the first address back. */
	fake_driver_probe(&f->d);
	fake_config_read(&f->d, 0, now, 6);
	assert_memory_equal(now, mac, 6);
	end(f);
}

/* What the driver takes is told to the peer before the first frame, and when it changes. */
static void the_peer_knows_what_the_driver_takes(void **state)
{
	struct fixture *f = begin(&plain, ALL_FEATURES, 0);
	uint64_t some = htole64(1ull << VIRTIO_NET_F_GUEST_CSUM);
	struct virtio_net_hdr_v1 h = { 0 };
	struct net_hello hello;
	uint8_t frame[60] = { 0 };

	fake_run(&f->vm);
	assert_int_equal(recv(f->peer, &hello, sizeof(hello), 0), -1);
	transmit(f, &h, frame, sizeof(frame));
	fake_run(&f->vm);
	assert_int_equal(recv(f->peer, &hello, sizeof(hello), 0), sizeof(hello));
	assert_int_equal(le32toh(hello.magic), NET_HELLO_MAGIC);
	assert_int_equal(le32toh(hello.takes), NET_HELLO_CSUM | NET_HELLO_TSO4 | NET_HELLO_TSO6);
	assert_int_equal(peer_gets(f, &h, frame, sizeof(frame)), 60);

	assert_int_equal(control(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
				 VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, (uint8_t *)&some, 8), 0);
	transmit(f, &h, frame, sizeof(frame));
	fake_run(&f->vm);
	assert_int_equal(recv(f->peer, &hello, sizeof(hello), 0), sizeof(hello));
	assert_int_equal(le32toh(hello.takes), NET_HELLO_CSUM);
	/* More than was negotiated cannot be asked for. */
	some = htole64(1ull << VIRTIO_NET_F_GUEST_UFO);
	assert_int_equal(control(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
				 VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, (uint8_t *)&some, 8), 1);
	end(f);
}

static void each_pair_has_its_own_end(void **state)
{
	struct fixture *f = begin_pairs(&plain, ALL_FEATURES, 0, PAIRS);
	uint8_t frame[60] = { 1 }, num[2] = { PAIRS, 0 }, buf[100];
	struct virtio_net_hdr_v1 h = { 0 };
	struct fake_used used;
	struct fake_buf rx, tx = { fake_alloc(&f->vm, 72, 1), 72, false };
	uint16_t pairs;

	fake_config_read(&f->d, offsetof(struct virtio_net_config, max_virtqueue_pairs), &pairs, 2);
	assert_int_equal(le16toh(pairs), PAIRS);
	rx = (struct fake_buf){ fake_alloc(&f->vm, 1600, 4), 1600, true };
	fake_add(&f->d, 2 * 2 + RX, &rx, 1);
	fake_kick(&f->d, 2 * 2 + RX);
	assert_int_equal(send(f->more[2], memcpy(buf, &h, sizeof(h)), 72, 0), 72);
	fake_run(&f->vm);
	/* One pair until the driver asks for more; the control queue is behind all of them. */
	assert_false(fake_take_used(&f->d, 2 * 2 + RX, &used));
	assert_int_equal(control_on(f, 2 * PAIRS, VIRTIO_NET_CTRL_MQ,
				    VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, num, 2), 0);
	assert_true(fake_wait_used(&f->d, 2 * 2 + RX, &used));
	assert_int_equal(used.len, 72);

	memcpy(fake_ptr(&f->vm, tx.gpa + sizeof(h), 60), frame, 60);
	fake_add(&f->d, 2 * 1 + TX, &tx, 1);
	fake_kick(&f->d, 2 * 1 + TX);
	assert_true(fake_wait_used(&f->d, 2 * 1 + TX, &used));
	assert_int_equal(recv(f->more[1], buf, sizeof(buf), 0), 72);
	num[0] = PAIRS + 1;
	assert_int_equal(control_on(f, 2 * PAIRS, VIRTIO_NET_CTRL_MQ,
				    VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, num, 2), 1);
	end(f);
}

static void without_several_pairs_the_last_queue_is_nobodys(void **state)
{
	struct fixture *f = begin_pairs(&plain, ALL_FEATURES & ~(1ull << VIRTIO_NET_F_MQ), 0,
					PAIRS);
	struct fake_buf buf = { fake_alloc(&f->vm, 1600, 4), 1600, true };
	struct fake_used used;
	const uint8_t mode = 0;

	assert_true(fake_add(&f->d, 2 * PAIRS, &buf, 1) >= 0);
	fake_kick(&f->d, 2 * PAIRS);
	fake_run(&f->vm);
	assert_false(fake_take_used(&f->d, 2 * PAIRS, &used));
	assert_int_equal(control(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &mode, 1), 0);
	end(f);
}

/* Over ten seconds, both ways, by frames and by bytes. */
static void rate_limits_hold(void **state)
{
	const struct rate_limits limits = { .ops = { .per_second = 100 },
					    .bytes = { .per_second = 5000 } };
	static const unsigned len[] = { 20, 400 }; /* frames limit the one, bytes the other */
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t frame[400] = { 0 }, got[500];

	for (unsigned i = 0; i < 2; i++) {
		struct fixture *f = begin(&plain, ALL_FEATURES, 0);
		unsigned out = 0, in = 0, waiting = 0, most = i ? 125 : 1000;
		struct fake_used used;
		uint64_t gpa[64];
		int id[64];

		virtio_net_limit(f->dev, &limits, &limits);
		post(f, 64, 1600, id, gpa);
		for (unsigned ms = 0; ms < 10000; ms += 20) {
			for (unsigned k = 0; k < 4; k++) {
				uint8_t m[NET_VNET_HDR + 400] = { 0 };

				send(f->peer, m, NET_VNET_HDR + len[i], MSG_DONTWAIT);
			}
			for (; waiting < 10; waiting++)
				transmit(f, &h, frame, len[i]);
			while (peer_gets(f, &h, got, sizeof(got)) >= 0)
				out++;
			while (fake_take_used(&f->d, TX, &used))
				waiting--;
			while (fake_take_used(&f->d, RX, &used)) {
				in++;
				post(f, 1, 1600, id, gpa);
			}
			clock_advance(&f->vm.clock, 20 * NSEC_PER_MSEC);
		}
		/* And the burst at the start: a tenth of a second's worth, and a frame too long. */
		assert_in_range(out, most * 95 / 100, most * 105 / 100);
		assert_in_range(in, most * 95 / 100, most * 105 / 100);
		end(f);
	}
}

static void a_moved_guest_announces_itself(void **state)
{
	struct fixture *f = begin(&plain, ALL_FEATURES, 0);

	assert_int_equal(status(f), VIRTIO_NET_S_LINK_UP);
	f->dev->ops->identity_changed(f->dev);
	assert_int_equal(status(f), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_true(fake_config_interrupts(&f->d) > 0);
	assert_int_equal(control(f, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, NULL,
				 0),
			 0);
	assert_int_equal(status(f), VIRTIO_NET_S_LINK_UP);
	end(f);
}

/* ---- configuration and state ---- */

static void config_space_describes_the_interface(void **state)
{
	struct fixture *f = begin(&plain, ALL_FEATURES, 4000);
	struct virtio_net_config c;

	fake_config_read(&f->d, 0, &c, offsetof(struct virtio_net_config, duplex) + 1);
	assert_memory_equal(c.mac, mac, 6);
	assert_int_equal(le16toh(c.mtu), 4000);
	assert_int_equal(le16toh(c.max_virtqueue_pairs), 1);
	assert_true(virtio_has(f->dev, VIRTIO_NET_F_MTU));
	end(f);
	f = begin(&plain, ALL_FEATURES, 0);
	assert_false(virtio_has(f->dev, VIRTIO_NET_F_MTU));
	end(f);
}

static void features_that_build_on_others_need_them(void **state)
{
	struct fixture *f = begin(&plain, ALL_FEATURES, 0);
	uint64_t tso = 1ull << VIRTIO_NET_F_HOST_TSO4, csum = 1ull << VIRTIO_NET_F_CSUM;

	assert_true(f->dev->ops->features_ok(f->dev, tso | csum));
	assert_false(f->dev->ops->features_ok(f->dev, tso));
	assert_false(f->dev->ops->features_ok(f->dev, 1ull << VIRTIO_NET_F_CTRL_RX));
	end(f);
}

static void a_lost_peer_is_a_link_that_is_down(void **state)
{
	struct fixture *f = begin(&plain, ALL_FEATURES, 0);
	struct virtio_net_hdr_v1 h = { 0 };
	struct fake_used used;
	uint8_t frame[60] = { 0 };
	uint64_t gpa[2];
	int id[2];

	post(f, 2, 1600, id, gpa);
	close(f->peer);
	f->peer = -1;
	while (f->net->link_up)
		loop_run_once(f->vm.loop, NSEC_PER_SEC);
	assert_int_equal(status(f), 0);
	assert_int_equal(fake_config_interrupts(&f->d), 1);
	/* The driver gets its frames back. */
	transmit(f, &h, frame, sizeof(frame));
	assert_true(fake_wait_used(&f->d, TX, &used));
	pause_and_wait(f);
	virtio_resume(f->dev);
	end(f);
}

/* Whatever is on its way is lost, the driver is told, and all is well when it is back. */
static void a_pulled_cable_is_a_link_that_is_down(void **state)
{
	struct fixture *f = begin(&plain, ALL_FEATURES, 0);
	uint8_t frame[NET_VNET_HDR + 60] = { 0 }, got[100];
	struct virtio_net_hdr_v1 h = { 0 };
	struct fake_used used;
	uint64_t gpa[2];
	int id[2];

	post(f, 2, 1600, id, gpa);
	virtio_net_plug(f->dev, false);
	assert_false(virtio_net_has_link(f->dev));
	assert_int_equal(status(f), 0);
	assert_int_equal(fake_config_interrupts(&f->d), 1);
	virtio_net_plug(f->dev, false);
	assert_int_equal(fake_config_interrupts(&f->d), 0);
	assert_int_equal(send(f->peer, frame, sizeof(frame), 0), sizeof(frame));
	transmit(f, &h, frame, 60);
	assert_true(fake_wait_used(&f->d, TX, &used));
	assert_true(peer_gets(f, &h, got, sizeof(got)) < 0);
	assert_false(fake_take_used(&f->d, RX, &used));
	assert_int_equal(f->net->rx_dropped, 1);
	assert_int_equal(f->net->tx_dropped, 1);

	virtio_net_plug(f->dev, true);
	assert_int_equal(status(f), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(fake_config_interrupts(&f->d), 1);
	assert_int_equal(send(f->peer, frame, sizeof(frame), 0), sizeof(frame));
	assert_true(fake_wait_used(&f->d, RX, &used));
	transmit(f, &h, frame, 60);
	assert_true(fake_wait_used(&f->d, TX, &used));
	assert_int_equal(peer_gets(f, &h, got, sizeof(got)), 60);
	end(f);
}

static int load(struct fixture *f, const void *p, size_t len)
{
	struct state_reader r = { .p = p, .len = len, .name = "net0" };
	int ret = virtio_load(f->dev, &r);

	return ret ? ret : state_reader_end(&r, NULL);
}

static void state_survives_and_lies_are_refused(void **state)
{
	static const uint8_t other[6] = { 2, 4, 6, 8, 10, 12 };
	struct fixture *a = begin(&plain, ALL_FEATURES, 0), *b;
	struct state_writer w;
	uint8_t now[6];

	control(a, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6);
	a->dev->ops->identity_changed(a->dev);
	pause_and_wait(a);
	state_writer_init(&w);
	virtio_save(a->dev, &w);

	b = begin(&plain, ALL_FEATURES, 0);
	pause_and_wait(b);
	assert_int_equal(load(b, w.buf, w.len), 0);
	fake_config_read(&b->d, 0, now, 6);
	assert_memory_equal(now, other, 6);
	assert_int_equal(status(b), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(load(b, w.buf, w.len - 1), -EBADMSG);
	/* From the end: offloads, whether chosen, two bytes of pairs, the announcement. */
	for (unsigned i = 1; i <= 5; i++) {
		uint8_t was = w.buf[w.len - i];

		w.buf[w.len - i] = 0x80;
		assert_int_equal(load(b, w.buf, w.len), -EBADMSG);
		w.buf[w.len - i] = was;
	}
	assert_int_equal(load(b, w.buf, w.len), 0);
	state_writer_done(&w);
	end(a);
	end(b);
}

#define VARIANTS(t) { #t, t, NULL, NULL, NULL }

int main(void)
{
	static const struct variant variants[] = {
		{ "split, mmio, epoll", { .transport = FAKE_MMIO }, LOOP_EPOLL },
		{ "split, pci, event index, indirect",
		  { .transport = FAKE_PCI, .event_idx = true, .indirect = true },
		  LOOP_AUTO },
		{ "packed, mmio, event index",
		  { .transport = FAKE_MMIO, .packed = true, .event_idx = true },
		  LOOP_AUTO },
		{ "packed, pci, indirect",
		  { .transport = FAKE_PCI, .packed = true, .indirect = true },
		  LOOP_EPOLL },
	};
	struct CMUnitTest matrix[] = {
		VARIANTS(frames_go_out_in_order),
		VARIANTS(framing_is_the_drivers_choice),
		VARIANTS(a_frame_of_64k_goes_out_whole),
		VARIANTS(a_small_frame_takes_one_buffer),
		VARIANTS(a_long_frame_is_spread_over_buffers),
		VARIANTS(a_burst_is_taken_at_once),
		VARIANTS(a_long_frame_waits_for_its_last_buffers),
		VARIANTS(frames_wait_for_buffers),
		VARIANTS(a_pause_gives_the_buffers_back),
		VARIANTS(a_reset_while_receiving_is_clean),
	};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_unnegotiated_reaches_the_peer),
		cmocka_unit_test(frames_of_no_length_are_dropped),
		cmocka_unit_test(a_pause_does_not_wait_for_a_full_peer),
		cmocka_unit_test(without_merging_a_frame_has_one_buffer),
		cmocka_unit_test(frames_the_driver_did_not_ask_for_are_dropped),
		cmocka_unit_test(buffers_without_room_fail_the_device),
		cmocka_unit_test(control_commands_are_answered),
		cmocka_unit_test(the_peer_knows_what_the_driver_takes),
		cmocka_unit_test(each_pair_has_its_own_end),
		cmocka_unit_test(without_several_pairs_the_last_queue_is_nobodys),
		cmocka_unit_test(rate_limits_hold),
		cmocka_unit_test(a_moved_guest_announces_itself),
		cmocka_unit_test(config_space_describes_the_interface),
		cmocka_unit_test(features_that_build_on_others_need_them),
		cmocka_unit_test(a_lost_peer_is_a_link_that_is_down),
		cmocka_unit_test(a_pulled_cable_is_a_link_that_is_down),
		cmocka_unit_test(state_survives_and_lies_are_refused),
	};
	int failed = 0;

	log_setup(STDERR_FILENO, LOG_ERROR);
	for (unsigned i = 0; i < ARRAY_SIZE(variants); i++) {
		for (unsigned j = 0; j < ARRAY_SIZE(matrix); j++)
			matrix[j].initial_state = (void *)&variants[i];
		failed += cmocka_run_group_tests_name(variants[i].name, matrix, NULL, NULL);
	}
	return failed + cmocka_run_group_tests_name("virtio_net", tests, NULL, NULL);
}
