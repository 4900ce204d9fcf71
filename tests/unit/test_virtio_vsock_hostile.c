/* A vsock device and packets, buffers and saved state that make no sense. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/fake_device.h"
#include "tests/unit/fake_vsock.h"

static void nonsense_is_answered_by_a_reset(void **state)
{
	struct virtio_vsock_hdr h;
	struct fake_vsock f;
	int fd;

	fake_vsock_begin(&f);
	/* Of no connection. */
	fake_vsock_send_data(&f, 1, 2, "x", 1);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_RESPONSE, 1, 2);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_RST, 1, 2);
	fake_vsock_expect_silence(&f);
	/* Of another type, or operation. */
	h = fake_vsock_packet(VIRTIO_VSOCK_OP_REQUEST, 1, 1234);
	h.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	fake_vsock_send_packet(&f, &h, NULL, 0);
	h = fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(h.type, VIRTIO_VSOCK_TYPE_SEQPACKET);
	fd = fake_vsock_open_from_guest(&f, 9000);
	fake_vsock_send_op(&f, 99, 9000, 1234);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	assert_true(fake_vsock_at_end(fd));
	close(fd);
	/* A port pair that is in use. */
	fd = fake_vsock_open_from_guest(&f, 9000);
	fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9000, 1234);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	close(fd);
	fake_vsock_end(&f);
}

static void length_beyond_the_packet_is_a_reset(void **state)
{
	struct virtio_vsock_hdr h;
	struct fake_vsock f;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_guest(&f, 9000);
	h = fake_vsock_packet(VIRTIO_VSOCK_OP_RW, 9000, 1234);
	h.len = 5;
	fake_vsock_send_packet(&f, &h, "four", 4);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	assert_true(fake_vsock_at_end(fd));
	close(fd);
	fake_vsock_end(&f);
}

static void packet_for_another_address_is_refused(void **state)
{
	struct virtio_vsock_hdr h;
	struct fake_used used;
	struct fake_vsock f;

	fake_vsock_begin(&f);
	h = fake_vsock_packet(VIRTIO_VSOCK_OP_REQUEST, 9000, 1234);
	h.dst_cid = 99;
	fake_vsock_send_packet(&f, &h, NULL, 0);
	fake_vsock_settle(&f);
	assert_true(fake_take_used(&f.d, FAKE_VSOCK_RX, &used));
	memcpy(&h, fake_ptr(&f.vm, f.rx[used.id], FAKE_VSOCK_HEADER), FAKE_VSOCK_HEADER);
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(h.src_cid, 99);
	h = fake_vsock_packet(VIRTIO_VSOCK_OP_REQUEST, 9000, 1234);
	h.src_cid = 3;
	fake_vsock_send_packet(&f, &h, NULL, 0);
	assert_int_equal(accept4(f.listen_fd, NULL, NULL, SOCK_NONBLOCK), -1);
	fake_vsock_end(&f);
}

static void short_packet_fails_the_device(void **state)
{
	struct fake_buf buf;
	struct fake_vsock f;

	fake_vsock_begin(&f);
	buf = (struct fake_buf){ f.tx, FAKE_VSOCK_HEADER - 1, false };
	fake_add(&f.d, FAKE_VSOCK_TX, &buf, 1);
	fake_kick(&f.d, FAKE_VSOCK_TX);
	fake_vsock_settle(&f);
	assert_true(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	fake_driver_probe(&f.d);
	assert_false(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	fake_vsock_end(&f);
}

static void tiny_receive_buffer_fails_the_device(void **state)
{
	struct fake_buf buf;
	struct fake_vsock f;

	fake_vsock_begin_with(&f, LOOP_AUTO, &(struct fake_driver_config){ 0 });
	buf = (struct fake_buf){ fake_alloc(&f.vm, FAKE_VSOCK_HEADER, 8), FAKE_VSOCK_HEADER, true };
	fake_add(&f.d, FAKE_VSOCK_RX, &buf, 1);
	fake_kick(&f.d, FAKE_VSOCK_RX);
	fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_RESPONSE, 1, 2);
	fake_vsock_settle(&f);
	assert_true(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	fake_vsock_end(&f);
}

static void flood_without_receive_buffers_is_held_up(void **state)
{
	struct virtio_vsock_hdr h = fake_vsock_packet(VIRTIO_VSOCK_OP_RESPONSE, 1, 2);
	struct fake_buf buf;
	struct fake_used used;
	struct fake_vsock f;
	unsigned sent = 0, taken = 0, resets = 0;

	fake_vsock_begin_with(&f, LOOP_AUTO, &(struct fake_driver_config){ 0 });
	memcpy(fake_ptr(&f.vm, f.tx, FAKE_VSOCK_HEADER), &h, FAKE_VSOCK_HEADER);
	buf = (struct fake_buf){ f.tx, FAKE_VSOCK_HEADER, false };
	while (fake_add(&f.d, FAKE_VSOCK_TX, &buf, 1) >= 0)
		sent++;
	fake_kick(&f.d, FAKE_VSOCK_TX);
	fake_vsock_settle(&f);
	while (fake_take_used(&f.d, FAKE_VSOCK_TX, &used))
		taken++;
	assert_true(taken > 0 && taken < sent);
	/* With buffers there it goes on, and every packet has its answer. */
	for (int i = 0; i < FAKE_VSOCK_RX_PAGES; i++)
		fake_vsock_add_buffer(&f);
	fake_kick(&f.d, FAKE_VSOCK_RX);
	while (fake_vsock_receive(&f, &h, NULL)) {
		assert_int_equal(h.op, VIRTIO_VSOCK_OP_RST);
		resets++;
	}
	assert_int_equal(resets, sent);
	fake_vsock_end(&f);
}

static void loaded_state_is_checked(void **state)
{
	struct state_writer w;
	struct fake_vsock f;

	fake_vsock_begin(&f);
	virtio_pause(f.d.dev, NULL, NULL);
	fake_section_begin(&w);
	f.d.dev->ops->save(f.d.dev, &w);
	assert_int_equal(fake_section_load(f.d.dev, &w), 0);

	fake_section_begin(&w);
	state_put_u64(&w, 2); /* the host's own */
	state_put_u32(&w, 0);
	assert_int_equal(fake_section_load(f.d.dev, &w), -EBADMSG);
	virtio_resume(f.d.dev);
	fake_vsock_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nonsense_is_answered_by_a_reset),
		cmocka_unit_test(length_beyond_the_packet_is_a_reset),
		cmocka_unit_test(packet_for_another_address_is_refused),
		cmocka_unit_test(short_packet_fails_the_device),
		cmocka_unit_test(tiny_receive_buffer_fails_the_device),
		cmocka_unit_test(flood_without_receive_buffers_is_held_up),
		cmocka_unit_test(loaded_state_is_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
