/* What the network device lets through, and what it drops: by header, length, limit and link. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/fake_device.h"
#include "tests/unit/fake_nic.h"
#include "virtio/virtio_devices.h"

#define MERGEABLE (1ull << VIRTIO_NET_F_MRG_RXBUF)

static void nothing_unnegotiated_reaches_the_peer(void **state)
{
	struct fake_nic *f = fake_nic_begin(&fake_plain, MERGEABLE, 0);
	struct virtio_net_hdr_v1 h, seen, zero = { 0 };
	uint8_t frame[60], got[100];
	struct fake_used used;

	memset(&h, 0xff, sizeof(h));
	fake_nic_fill(frame, sizeof(frame), 0);
	fake_nic_transmit(f, &h, frame, sizeof(frame));
	assert_int_equal(fake_nic_peer_gets(f, &seen, got, sizeof(got)), 60);
	assert_memory_equal(&seen, &zero, sizeof(zero));
	fake_nic_end(f);

	/* With checksums but without segmentation. */
	f = fake_nic_begin(&fake_plain, MERGEABLE | 1ull << VIRTIO_NET_F_CSUM, 0);
	h = (struct virtio_net_hdr_v1){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					.gso_type = VIRTIO_NET_HDR_GSO_TCPV4 };
	fake_nic_transmit(f, &h, frame, sizeof(frame));
	assert_int_equal(fake_nic_peer_gets(f, &seen, got, sizeof(got)), -1);
	assert_true(fake_wait_used(&f->d, FAKE_NIC_TX, &used));
	h.gso_type = VIRTIO_NET_HDR_GSO_NONE;
	h.flags = 0xff;
	fake_nic_transmit(f, &h, frame, sizeof(frame));
	assert_int_equal(fake_nic_peer_gets(f, &seen, got, sizeof(got)), 60);
	assert_int_equal(seen.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	fake_nic_end(f);
}

static void frames_of_no_length_are_dropped(void **state)
{
	static const uint32_t lens[] = { 0, 13 };
	struct fake_nic *f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t frame[60] = { 0 }, got[100];
	struct fake_buf tiny = { fake_alloc(&f->vm, 4, 1), 4, false };
	struct fake_buf huge = { fake_alloc(&f->vm, 65563, 1), 65563, false };
	struct fake_used used;

	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++)
		fake_nic_transmit(f, &h, frame, lens[i]);
	fake_add(&f->d, FAKE_NIC_TX, &tiny, 1);
	fake_add(&f->d, FAKE_NIC_TX, &huge, 1);
	fake_kick(&f->d, FAKE_NIC_TX);
	for (unsigned i = 0; i < 4; i++)
		assert_true(fake_wait_used(&f->d, FAKE_NIC_TX, &used));
	assert_int_equal(fake_nic_peer_gets(f, &h, got, sizeof(got)), -1);
	assert_int_equal(f->net->tx_dropped, 4);
	assert_int_equal(f->dev->needs_reset, 0);
	fake_nic_end(f);
}

static void a_pause_does_not_wait_for_a_full_peer(void **state)
{
	struct fake_nic *f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t *frame = calloc(1, 60000);
	struct fake_used used;
	enum { N = 40 };

	for (unsigned i = 0; i < N; i++)
		fake_nic_transmit(f, &h, frame, 60000);
	fake_run(&f->vm);
	fake_pause(&f->d);
	assert_int_equal(f->dev->queue[FAKE_NIC_TX].inflight, 0);
	virtio_resume(f->dev);
	for (unsigned i = 0; i < N; i++)
		assert_true(fake_wait_used(&f->d, FAKE_NIC_TX, &used));
	assert_true(f->net->tx_dropped > 0);
	free(frame);
	fake_nic_end(f);
}

static void without_merging_a_frame_has_one_buffer(void **state)
{
	struct fake_nic *f = fake_nic_begin(&fake_plain, 0, 0);
	struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_DATA_VALID, .gso_size = 7 };
	struct virtio_net_hdr_v1 *got;
	struct fake_used used;
	uint8_t frame[1000];
	uint64_t gpa[3];
	int id[3];

	fake_nic_post(f, 3, 512, id, gpa);
	fake_nic_fill(frame, sizeof(frame), 5);
	/* Too long for its buffer: dropped, and the buffer serves the next. */
	fake_nic_peer_sends(f, h, frame, 1000);
	fake_nic_peer_sends(f, h, frame, 400);
	assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
	assert_int_equal(used.id, id[0]);
	assert_int_equal(used.len, 412);
	got = fake_ptr(&f->vm, gpa[0], 412);
	assert_memory_equal(got + 1, frame, 400);
	/* 5.1.6.4.1: 1 also without the feature; and nothing else that was not negotiated. */
	assert_int_equal(le16toh(got->num_buffers), 1);
	assert_int_equal(got->flags, 0);
	assert_int_equal(got->gso_size, 0);
	assert_int_equal(f->net->rx_dropped, 1);
	fake_nic_end(f);
}

static void frames_the_driver_did_not_ask_for_are_dropped(void **state)
{
	struct fake_nic *f = fake_nic_begin(&fake_plain, MERGEABLE, 0);
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

	fake_nic_post(f, 2, 1600, id, gpa);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		fake_nic_peer_sends(f, bad[i], frame, sizeof(frame));
	/* And what is no frame at all. */
	fake_nic_peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, 13);
	assert_int_equal(send(f->peer, frame, 5, 0), 5);
	fake_nic_fill(frame, sizeof(frame), 8);
	fake_nic_peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, sizeof(frame));
	assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
	assert_int_equal(used.id, id[0]);
	assert_memory_equal((uint8_t *)fake_ptr(&f->vm, gpa[0], 72) + 12, frame, sizeof(frame));
	assert_int_equal(f->net->rx_dropped, ARRAY_SIZE(bad) + 2);
	fake_nic_end(f);
}

static void buffers_without_room_fail_the_device(void **state)
{
	struct fake_nic *f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
	uint64_t gpa = fake_alloc(&f->vm, 64, 4);
	struct fake_buf bad[] = { { gpa, 11, true }, { gpa, 64, false } };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		fake_add(&f->d, FAKE_NIC_RX, &bad[i], 1);
		fake_kick(&f->d, FAKE_NIC_RX);
		fake_run(&f->vm);
		assert_true(fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		fake_driver_probe(&f->d);
		assert_false(fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	}
	fake_nic_end(f);
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
		struct fake_nic *f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
		unsigned out = 0, in = 0, waiting = 0, most = i ? 125 : 1000;
		struct fake_used used;
		uint64_t gpa[64];
		int id[64];

		virtio_net_limit(f->dev, &limits, &limits);
		fake_nic_post(f, 64, 1600, id, gpa);
		for (unsigned ms = 0; ms < 10000; ms += 20) {
			for (unsigned k = 0; k < 4; k++) {
				uint8_t m[NET_VNET_HDR + 400] = { 0 };

				send(f->peer, m, NET_VNET_HDR + len[i], MSG_DONTWAIT);
			}
			for (; waiting < 10; waiting++)
				fake_nic_transmit(f, &h, frame, len[i]);
			while (fake_nic_peer_gets(f, &h, got, sizeof(got)) >= 0)
				out++;
			while (fake_take_used(&f->d, FAKE_NIC_TX, &used))
				waiting--;
			while (fake_take_used(&f->d, FAKE_NIC_RX, &used)) {
				in++;
				fake_nic_post(f, 1, 1600, id, gpa);
			}
			clock_advance(&f->vm.clock, 20 * NSEC_PER_MSEC);
		}
		/* And the burst at the start: a tenth of a second's worth, and a frame too long. */
		assert_in_range(out, most * 95 / 100, most * 105 / 100);
		assert_in_range(in, most * 95 / 100, most * 105 / 100);
		fake_nic_end(f);
	}
}

static void a_lost_peer_is_a_link_that_is_down(void **state)
{
	struct fake_nic *f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
	struct virtio_net_hdr_v1 h = { 0 };
	struct fake_used used;
	uint8_t frame[60] = { 0 };
	uint64_t gpa[2];
	int id[2];

	fake_nic_post(f, 2, 1600, id, gpa);
	close(f->peer);
	f->peer = -1;
	while (f->net->link_up)
		loop_run_once(f->vm.loop, NSEC_PER_SEC);
	assert_int_equal(fake_nic_status(f), 0);
	assert_int_equal(fake_config_interrupts(&f->d), 1);
	/* The driver gets its frames back. */
	fake_nic_transmit(f, &h, frame, sizeof(frame));
	assert_true(fake_wait_used(&f->d, FAKE_NIC_TX, &used));
	fake_pause(&f->d);
	virtio_resume(f->dev);
	fake_nic_end(f);
}

/* Whatever is on its way is lost, the driver is told, and all is well when it is back. */
/* What is logged while @peer, as it is called, goes, into @text. */
static void log_of_a_loss(const char *peer, char *text, size_t size)
{
	struct fake_nic *f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
	uint64_t gpa[1];
	int id[1], log[2];
	ssize_t n;

	assert_int_equal(pipe(log), 0);
	log_setup(log[1], LOG_WARN);
	f->net->peer = peer;
	fake_nic_post(f, 1, 1600, id, gpa);
	close(f->peer);
	f->peer = -1;
	while (f->net->link_up)
		loop_run_once(f->vm.loop, NSEC_PER_SEC);
	/* A cable comes and goes without another word. */
	virtio_net_plug(f->dev, false);
	virtio_net_plug(f->dev, true);
	fake_nic_end(f);
	log_setup(STDERR_FILENO, LOG_ERROR);
	close(log[1]);
	n = read(log[0], text, size - 1);
	text[MAX(n, 0)] = '\0';
	close(log[0]);
}

/* Its guest has no network any more, and whoever looks for the reason finds it. */
static void the_loss_of_a_switch_is_said_once(void **state)
{
	char text[400];

	log_of_a_loss(NULL, text, sizeof(text));
	assert_string_equal(text, "");
	log_of_a_loss("switch", text, sizeof(text));
	assert_non_null(strstr(text, "no switch is at its other end"));
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

static void a_pulled_cable_is_a_link_that_is_down(void **state)
{
	struct fake_nic *f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
	uint8_t frame[NET_VNET_HDR + 60] = { 0 }, got[100];
	struct virtio_net_hdr_v1 h = { 0 };
	struct fake_used used;
	uint64_t gpa[2];
	int id[2];

	fake_nic_post(f, 2, 1600, id, gpa);
	virtio_net_plug(f->dev, false);
	assert_false(virtio_net_has_link(f->dev));
	assert_int_equal(fake_nic_status(f), 0);
	assert_int_equal(fake_config_interrupts(&f->d), 1);
	virtio_net_plug(f->dev, false);
	assert_int_equal(fake_config_interrupts(&f->d), 0);
	assert_int_equal(send(f->peer, frame, sizeof(frame), 0), sizeof(frame));
	fake_nic_transmit(f, &h, frame, 60);
	assert_true(fake_wait_used(&f->d, FAKE_NIC_TX, &used));
	assert_true(fake_nic_peer_gets(f, &h, got, sizeof(got)) < 0);
	assert_false(fake_take_used(&f->d, FAKE_NIC_RX, &used));
	assert_int_equal(f->net->rx_dropped, 1);
	assert_int_equal(f->net->tx_dropped, 1);

	virtio_net_plug(f->dev, true);
	assert_int_equal(fake_nic_status(f), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(fake_config_interrupts(&f->d), 1);
	assert_int_equal(send(f->peer, frame, sizeof(frame), 0), sizeof(frame));
	assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
	fake_nic_transmit(f, &h, frame, 60);
	assert_true(fake_wait_used(&f->d, FAKE_NIC_TX, &used));
	assert_int_equal(fake_nic_peer_gets(f, &h, got, sizeof(got)), 60);
	fake_nic_end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_unnegotiated_reaches_the_peer),
		cmocka_unit_test(frames_of_no_length_are_dropped),
		cmocka_unit_test(a_pause_does_not_wait_for_a_full_peer),
		cmocka_unit_test(without_merging_a_frame_has_one_buffer),
		cmocka_unit_test(frames_the_driver_did_not_ask_for_are_dropped),
		cmocka_unit_test(buffers_without_room_fail_the_device),
		cmocka_unit_test(rate_limits_hold),
		cmocka_unit_test(a_lost_peer_is_a_link_that_is_down),
		cmocka_unit_test(the_loss_of_a_switch_is_said_once),
		cmocka_unit_test(a_pulled_cable_is_a_link_that_is_down),
	};

	log_setup(STDERR_FILENO, LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
