/* Frames through the network device: rings, transports and loops of all kinds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/fake_device.h"
#include "tests/unit/fake_nic.h"
#include "virtio/virtio_devices.h"

/* ---- sending ---- */

static void frames_go_out_in_order(void **state)
{
	struct fake_nic *f = fake_nic_begin(*state, FAKE_NIC_FEATURES, 0);
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t frame[200], got[300];
	struct fake_used used;
	enum { N = 20 };

	for (unsigned i = 0; i < N; i++) {
		fake_nic_fill(frame, 60 + i, i);
		fake_nic_transmit(f, &h, frame, 60 + i);
	}
	for (unsigned i = 0; i < N; i++) {
		fake_nic_fill(frame, 60 + i, i);
		assert_int_equal(fake_nic_peer_gets(f, &h, got, sizeof(got)), 60 + i);
		assert_memory_equal(got, frame, 60 + i);
		assert_true(fake_wait_used(&f->d, FAKE_NIC_TX, &used));
		assert_int_equal(used.len, 0);
	}
	assert_int_equal(fake_nic_peer_gets(f, &h, got, sizeof(got)), -1);
	fake_nic_end(f);
}

static void framing_is_the_drivers_choice(void **state)
{
	struct fake_nic *f = fake_nic_begin(*state, FAKE_NIC_FEATURES, 0);
	uint64_t gpa = fake_alloc(&f->vm, 12 + 100, 1);
	/* The header in three segments, the last of them with some of the frame. */
	struct fake_buf bufs[] = {
		{ gpa, 5, false },
		{ gpa + 5, 3, false },
		{ gpa + 8, 20, false },
		{ gpa + 28, 84, false },
	};
	struct virtio_net_hdr_v1 h;
	uint8_t got[200];
	struct fake_used used;

	fake_nic_fill(fake_ptr(&f->vm, gpa + 12, 100), 100, 9);
	fake_add(&f->d, FAKE_NIC_TX, bufs, 4);
	fake_kick(&f->d, FAKE_NIC_TX);
	assert_int_equal(fake_nic_peer_gets(f, &h, got, sizeof(got)), 100);
	assert_memory_equal(got, fake_ptr(&f->vm, gpa + 12, 100), 100);
	assert_true(fake_wait_used(&f->d, FAKE_NIC_TX, &used));
	fake_nic_end(f);
}

static void a_frame_of_64k_goes_out_whole(void **state)
{
	struct fake_nic *f = fake_nic_begin(*state, FAKE_NIC_FEATURES, 0);
	struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				       .csum_start = htole16(34),
				       .csum_offset = htole16(16),
				       .gso_size = htole16(1448),
				       .hdr_len = htole16(66) };
	struct virtio_net_hdr_v1 seen;
	uint8_t *frame = malloc(65549), *got = malloc(70000);

	fake_nic_fill(frame, 65549, 1);
	fake_nic_transmit(f, &h, frame, 65549);
	assert_int_equal(fake_nic_peer_gets(f, &seen, got, 70000), 65549);
	assert_memory_equal(got, frame, 65549);
	assert_memory_equal(&seen, &h, sizeof(h));
	free(frame);
	free(got);
	fake_nic_end(f);
}

/* ---- receiving ---- */

static void a_small_frame_takes_one_buffer(void **state)
{
	struct fake_nic *f = fake_nic_begin(*state, FAKE_NIC_FEATURES, 0);
	struct virtio_net_hdr_v1 *h;
	struct fake_used used;
	uint8_t frame[100];
	uint64_t gpa[4];
	int id[4];

	fake_nic_post(f, 4, 1600, id, gpa);
	for (unsigned i = 0; i < 4; i++) {
		fake_nic_fill(frame, sizeof(frame), i);
		fake_nic_peer_sends(f,
				    (struct virtio_net_hdr_v1){
					    .flags = VIRTIO_NET_HDR_F_DATA_VALID },
				    frame, sizeof(frame));
		assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
		assert_int_equal(used.id, id[i]);
		assert_int_equal(used.len, 112);
		h = fake_ptr(&f->vm, gpa[i], 112);
		assert_int_equal(le16toh(h->num_buffers), 1);
		assert_int_equal(h->flags, VIRTIO_NET_HDR_F_DATA_VALID);
		assert_memory_equal(h + 1, frame, sizeof(frame));
	}
	fake_nic_end(f);
}

static void a_long_frame_is_spread_over_buffers(void **state)
{
	struct fake_nic *f = fake_nic_begin(*state, FAKE_NIC_FEATURES, 9000);
	uint8_t *frame = malloc(9014), *got = malloc(9100);
	struct virtio_net_hdr_v1 h;
	struct fake_used used;
	uint64_t gpa[20];
	int id[20];
	unsigned n = 0;
	size_t len = 0;

	fake_nic_post(f, 20, 1500, id, gpa);
	fake_nic_fill(frame, 9014, 3);
	fake_nic_peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, 9014);
	do {
		assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
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
	fake_nic_peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, 60);
	assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
	assert_int_equal(used.id, id[7]);
	assert_int_equal(used.len, 72);
	assert_memory_equal((uint8_t *)fake_ptr(&f->vm, gpa[7], 72) + 12, frame, 60);
	free(frame);
	free(got);
	fake_nic_end(f);
}

/* A frame that is there does not wait for a round of the loop of its own. */
static void a_burst_is_taken_at_once(void **state)
{
	struct fake_nic *f = fake_nic_begin(*state, FAKE_NIC_FEATURES, 0);
	struct fake_used used;
	uint8_t frame[100];
	uint64_t gpa[60];
	int id[60];

	fake_nic_post(f, 60, 1600, id, gpa);
	for (unsigned i = 0; i < 30; i++) {
		fake_nic_fill(frame, sizeof(frame), i);
		fake_nic_peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, sizeof(frame));
	}
	for (unsigned i = 0; i < 3; i++)
		loop_run_once(f->vm.loop, NSEC_PER_SEC);
	for (unsigned i = 0; i < 30; i++) {
		assert_true(fake_take_used(&f->d, FAKE_NIC_RX, &used));
		assert_int_equal(used.id, id[i]);
		fake_nic_fill(frame, sizeof(frame), i);
		assert_memory_equal((uint8_t *)fake_ptr(&f->vm, gpa[i], 112) + 12, frame, 100);
	}
	fake_nic_end(f);
}

/* A driver short of buffers loses nothing of a long frame, and short ones need not wait. */
static void a_long_frame_waits_for_its_last_buffers(void **state)
{
	struct fake_nic *f = fake_nic_begin(*state, FAKE_NIC_FEATURES, 0);
	struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				       .gso_size = htole16(1448) };
	uint8_t *frame = malloc(60000), *got = malloc(70000), small[60] = { 9 };
	struct fake_used used;
	uint64_t gpa[44];
	size_t len = 0;
	int id[44];

	fake_nic_post(f, 3, 1600, id, gpa);
	fake_nic_peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, small, sizeof(small));
	assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
	assert_int_equal(used.id, id[0]);
	fake_nic_fill(frame, 60000, 7);
	fake_nic_peer_sends(f, h, frame, 60000);
	fake_nic_peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, small, sizeof(small));
	fake_run(&f->vm);
	assert_false(fake_take_used(&f->d, FAKE_NIC_RX, &used));
	for (unsigned i = 3; i < 44; i++)
		fake_nic_post(f, 1, 1600, &id[i], &gpa[i]);
	for (unsigned i = 1; len < 60012; i++) {
		assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
		assert_int_equal(used.id, id[i]);
		memcpy(got + len, fake_ptr(&f->vm, gpa[i], used.len), used.len);
		len += used.len;
	}
	assert_int_equal(len, 60012);
	assert_memory_equal(got + 12, frame, 60000);
	memcpy(&h, got, sizeof(h));
	assert_int_equal(le16toh(h.num_buffers), 38);
	assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
	assert_int_equal(used.len, 72);
	free(frame);
	free(got);
	fake_nic_end(f);
}

static void frames_wait_for_buffers(void **state)
{
	struct fake_nic *f = fake_nic_begin(*state, FAKE_NIC_FEATURES, 0);
	struct fake_used used;
	uint8_t frame[100];
	uint64_t gpa[2];
	int id[2];

	fake_nic_fill(frame, sizeof(frame), 1);
	fake_nic_peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, sizeof(frame));
	fake_run(&f->vm);
	assert_false(fake_take_used(&f->d, FAKE_NIC_RX, &used));
	fake_nic_post(f, 2, 1600, id, gpa);
	assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
	assert_int_equal(used.id, id[0]);
	assert_memory_equal((uint8_t *)fake_ptr(&f->vm, gpa[0], 112) + 12, frame, sizeof(frame));
	fake_nic_end(f);
}

static void a_pause_gives_the_buffers_back(void **state)
{
	struct fake_nic *f = fake_nic_begin(*state, FAKE_NIC_FEATURES, 9000);
	struct fake_used used;
	uint8_t frame[100];
	uint64_t gpa[10];
	int id[10];

	fake_nic_post(f, 10, 1500, id, gpa);
	fake_pause(&f->d);
	assert_int_equal(f->dev->queue[FAKE_NIC_RX].inflight, 0);
	assert_int_equal(f->dev->queue[FAKE_NIC_RX].next_avail,
			 f->dev->queue[FAKE_NIC_RX].next_used);
	/* A frame that comes meanwhile waits in the socket. */
	fake_nic_fill(frame, sizeof(frame), 1);
	fake_nic_peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, sizeof(frame));
	fake_run(&f->vm);
	assert_false(fake_take_used(&f->d, FAKE_NIC_RX, &used));
	virtio_resume(f->dev);
	assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
	assert_int_equal(used.id, id[0]);
	assert_memory_equal((uint8_t *)fake_ptr(&f->vm, gpa[0], 112) + 12, frame, sizeof(frame));
	fake_nic_end(f);
}

static void a_reset_while_receiving_is_clean(void **state)
{
	struct fake_nic *f = fake_nic_begin(*state, FAKE_NIC_FEATURES, 0);
	struct fake_used used;
	uint8_t frame[100] = { 0 };
	uint64_t gpa[4];
	int id[4];

	for (unsigned i = 0; i < 3; i++) {
		fake_nic_post(f, 4, 1600, id, gpa);
		fake_nic_peer_sends(f, (struct virtio_net_hdr_v1){ 0 }, frame, sizeof(frame));
		assert_true(fake_wait_used(&f->d, FAKE_NIC_RX, &used));
		assert_int_equal(used.id, id[0]);
		fake_driver_probe(&f->d);
	}
	fake_nic_end(f);
}

int main(void)
{
	struct CMUnitTest matrix[] = {
		fake_variant_test(frames_go_out_in_order),
		fake_variant_test(framing_is_the_drivers_choice),
		fake_variant_test(a_frame_of_64k_goes_out_whole),
		fake_variant_test(a_small_frame_takes_one_buffer),
		fake_variant_test(a_long_frame_is_spread_over_buffers),
		fake_variant_test(a_burst_is_taken_at_once),
		fake_variant_test(a_long_frame_waits_for_its_last_buffers),
		fake_variant_test(frames_wait_for_buffers),
		fake_variant_test(a_pause_gives_the_buffers_back),
		fake_variant_test(a_reset_while_receiving_is_clean),
	};

	log_setup(STDERR_FILENO, LOG_ERROR);
	return fake_variants_run(matrix, ARRAY_SIZE(matrix));
}
