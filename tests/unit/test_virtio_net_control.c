/* The network device's control queue, configuration space and state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/fake_device.h"
#include "tests/unit/fake_nic.h"
#include "virtio/virtio_devices.h"
#include "virtio/virtio_net_internal.h"

static void control_commands_are_answered(void **state)
{
	static const uint8_t other[6] = { 2, 4, 6, 8, 10, 12 };
	/* One unicast address, no multicast one; then with a count that lies. */
	uint8_t table[14] = { 1, 0, 0, 0, 2, 4, 6, 8, 10, 12, 0, 0, 0, 0 };
	struct fake_nic *f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
	uint8_t on = 1, now[6];

	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on,
					  1),
			 0);
	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on,
					  0),
			 1);
	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_RX, 99, &on, 1), 1);
	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET,
					  table, 14),
			 0);
	table[0] = 0xff;
	table[3] = 0xff;
	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET,
					  table, 14),
			 1);
	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
					  other, 5),
			 1);
	fake_config_read(&f->d, 0, now, 6);
	assert_memory_equal(now, fake_nic_mac, 6);
	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
					  other, 6),
			 0);
	fake_config_read(&f->d, 0, now, 6);
	assert_memory_equal(now, other, 6);
	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_MQ, 0, other, 2), 1);
	assert_int_equal(fake_nic_control(f, 200, 200, other, 6), 1);
	/* A reset brings the first address back. */
	fake_driver_probe(&f->d);
	fake_config_read(&f->d, 0, now, 6);
	assert_memory_equal(now, fake_nic_mac, 6);
	fake_nic_end(f);
}

/* What the driver takes is told to the peer before the first frame, and when it changes. */
static void the_peer_knows_what_the_driver_takes(void **state)
{
	struct fake_nic *f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
	uint64_t some = htole64(1ull << VIRTIO_NET_F_GUEST_CSUM);
	struct virtio_net_hdr_v1 h = { 0 };
	struct net_hello hello;
	uint8_t frame[60] = { 0 };

	fake_run(&f->vm);
	assert_int_equal(recv(f->peer, &hello, sizeof(hello), 0), -1);
	fake_nic_transmit(f, &h, frame, sizeof(frame));
	fake_run(&f->vm);
	assert_int_equal(recv(f->peer, &hello, sizeof(hello), 0), sizeof(hello));
	assert_int_equal(le32toh(hello.magic), NET_HELLO_MAGIC);
	assert_int_equal(le32toh(hello.takes), NET_HELLO_CSUM | NET_HELLO_TSO4 | NET_HELLO_TSO6);
	assert_int_equal(fake_nic_peer_gets(f, &h, frame, sizeof(frame)), 60);

	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
					  VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, (uint8_t *)&some, 8),
			 0);
	fake_nic_transmit(f, &h, frame, sizeof(frame));
	fake_run(&f->vm);
	assert_int_equal(recv(f->peer, &hello, sizeof(hello), 0), sizeof(hello));
	assert_int_equal(le32toh(hello.takes), NET_HELLO_CSUM);
	/* More than was negotiated cannot be asked for. */
	some = htole64(1ull << VIRTIO_NET_F_GUEST_UFO);
	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
					  VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, (uint8_t *)&some, 8),
			 1);
	fake_nic_end(f);
}

static void each_pair_has_its_own_end(void **state)
{
	struct fake_nic *f =
		fake_nic_begin_pairs(&fake_plain, FAKE_NIC_FEATURES, 0, FAKE_NIC_PAIRS);
	uint8_t frame[60] = { 1 }, num[2] = { FAKE_NIC_PAIRS, 0 }, buf[100];
	struct virtio_net_hdr_v1 h = { 0 };
	struct fake_used used;
	struct fake_buf rx, tx = { fake_alloc(&f->vm, 72, 1), 72, false };
	uint16_t pairs;

	fake_config_read(&f->d, offsetof(struct virtio_net_config, max_virtqueue_pairs), &pairs, 2);
	assert_int_equal(le16toh(pairs), FAKE_NIC_PAIRS);
	rx = (struct fake_buf){ fake_alloc(&f->vm, 1600, 4), 1600, true };
	fake_add(&f->d, 2 * 2 + FAKE_NIC_RX, &rx, 1);
	fake_kick(&f->d, 2 * 2 + FAKE_NIC_RX);
	assert_int_equal(send(f->more[2], memcpy(buf, &h, sizeof(h)), 72, 0), 72);
	fake_run(&f->vm);
	/* One pair until the driver asks for more; the control queue is behind all of them. */
	assert_false(fake_take_used(&f->d, 2 * 2 + FAKE_NIC_RX, &used));
	assert_int_equal(fake_nic_control_on(f, 2 * FAKE_NIC_PAIRS, VIRTIO_NET_CTRL_MQ,
					     VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, num, 2),
			 0);
	assert_true(fake_wait_used(&f->d, 2 * 2 + FAKE_NIC_RX, &used));
	assert_int_equal(used.len, 72);

	memcpy(fake_ptr(&f->vm, tx.gpa + sizeof(h), 60), frame, 60);
	fake_add(&f->d, 2 * 1 + FAKE_NIC_TX, &tx, 1);
	fake_kick(&f->d, 2 * 1 + FAKE_NIC_TX);
	assert_true(fake_wait_used(&f->d, 2 * 1 + FAKE_NIC_TX, &used));
	assert_int_equal(recv(f->more[1], buf, sizeof(buf), 0), 72);
	num[0] = FAKE_NIC_PAIRS + 1;
	assert_int_equal(fake_nic_control_on(f, 2 * FAKE_NIC_PAIRS, VIRTIO_NET_CTRL_MQ,
					     VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, num, 2),
			 1);
	fake_nic_end(f);
}

/* A frame comes for a pair just when the driver gives it up, and waits there until it is back. */
static void a_pair_that_is_given_up_receives_nothing_more(void **state)
{
	const struct fake_variant v = { "epoll", { .event_idx = true }, LOOP_EPOLL };
	struct fake_nic *f = fake_nic_begin_pairs(&v, FAKE_NIC_FEATURES, 0, FAKE_NIC_PAIRS);
	const unsigned queue = 2 * 2 + FAKE_NIC_RX;
	uint8_t all[2] = { FAKE_NIC_PAIRS, 0 }, buf[72] = { 0 };
	struct fake_used used;
	struct fake_buf rx;

	for (unsigned i = 0; i < 4; i++) {
		rx = (struct fake_buf){ fake_alloc(&f->vm, 1600, 4), 1600, true };
		fake_add(&f->d, queue, &rx, 1);
	}
	assert_int_equal(fake_nic_control_on(f, 2 * FAKE_NIC_PAIRS, VIRTIO_NET_CTRL_MQ,
					     VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, all, 2),
			 0);
	fake_kick(&f->d, queue);
	fake_run(&f->vm);
	/* Both before the loop turns: the receive under way is taken back, and a frame is there. */
	net_set_active(container_of(f->dev, struct virtio_net, dev), 1);
	assert_int_equal(send(f->more[2], buf, sizeof(buf), 0), sizeof(buf));
	fake_run(&f->vm);
	assert_false(fake_take_used(&f->d, queue, &used));
	assert_int_equal(fake_nic_control_on(f, 2 * FAKE_NIC_PAIRS, VIRTIO_NET_CTRL_MQ,
					     VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, all, 2),
			 0);
	assert_true(fake_wait_used(&f->d, queue, &used));
	assert_int_equal(used.len, sizeof(buf));
	fake_nic_end(f);
}

static void without_several_pairs_the_last_queue_is_nobodys(void **state)
{
	struct fake_nic *f = fake_nic_begin_pairs(&fake_plain,
						  FAKE_NIC_FEATURES & ~(1ull << VIRTIO_NET_F_MQ), 0,
						  FAKE_NIC_PAIRS);
	struct fake_buf buf = { fake_alloc(&f->vm, 1600, 4), 1600, true };
	struct fake_used used;
	const uint8_t mode = 0;

	assert_true(fake_add(&f->d, 2 * FAKE_NIC_PAIRS, &buf, 1) >= 0);
	fake_kick(&f->d, 2 * FAKE_NIC_PAIRS);
	fake_run(&f->vm);
	assert_false(fake_take_used(&f->d, 2 * FAKE_NIC_PAIRS, &used));
	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &mode,
					  1),
			 0);
	fake_nic_end(f);
}

static void config_space_describes_the_interface(void **state)
{
	struct fake_nic *f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 4000);
	struct virtio_net_config c;

	fake_config_read(&f->d, 0, &c, offsetof(struct virtio_net_config, duplex) + 1);
	assert_memory_equal(c.mac, fake_nic_mac, 6);
	assert_int_equal(le16toh(c.mtu), 4000);
	assert_int_equal(le16toh(c.max_virtqueue_pairs), 1);
	assert_true(virtio_has(f->dev, VIRTIO_NET_F_MTU));
	fake_nic_end(f);
	f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
	assert_false(virtio_has(f->dev, VIRTIO_NET_F_MTU));
	fake_nic_end(f);
}

static void features_that_build_on_others_need_them(void **state)
{
	struct fake_nic *f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
	uint64_t tso = 1ull << VIRTIO_NET_F_HOST_TSO4, csum = 1ull << VIRTIO_NET_F_CSUM;

	assert_true(f->dev->ops->features_ok(f->dev, tso | csum));
	assert_false(f->dev->ops->features_ok(f->dev, tso));
	assert_false(f->dev->ops->features_ok(f->dev, 1ull << VIRTIO_NET_F_CTRL_RX));
	fake_nic_end(f);
}

static void a_moved_guest_announces_itself(void **state)
{
	struct fake_nic *f = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);

	assert_int_equal(fake_nic_status(f), VIRTIO_NET_S_LINK_UP);
	f->dev->ops->identity_changed(f->dev);
	assert_int_equal(fake_nic_status(f), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_true(fake_config_interrupts(&f->d) > 0);
	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK,
					  NULL, 0),
			 0);
	assert_int_equal(fake_nic_status(f), VIRTIO_NET_S_LINK_UP);
	fake_nic_end(f);
}

static int load(struct fake_nic *f, const void *p, size_t len)
{
	struct state_reader r = { .p = p, .len = len, .name = "net0" };
	int ret = virtio_load(f->dev, &r);

	return ret ? ret : state_reader_end(&r, NULL);
}

static void state_survives_and_lies_are_refused(void **state)
{
	static const uint8_t other[6] = { 2, 4, 6, 8, 10, 12 };
	struct fake_nic *a = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0), *b;
	struct state_writer w;
	uint8_t now[6];

	fake_nic_control(a, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6);
	a->dev->ops->identity_changed(a->dev);
	fake_pause(&a->d);
	state_writer_init(&w);
	virtio_save(a->dev, &w);

	b = fake_nic_begin(&fake_plain, FAKE_NIC_FEATURES, 0);
	fake_pause(&b->d);
	assert_int_equal(load(b, w.buf, w.len), 0);
	fake_config_read(&b->d, 0, now, 6);
	assert_memory_equal(now, other, 6);
	assert_int_equal(fake_nic_status(b), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
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
	fake_nic_end(a);
	fake_nic_end(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(control_commands_are_answered),
		cmocka_unit_test(the_peer_knows_what_the_driver_takes),
		cmocka_unit_test(each_pair_has_its_own_end),
		cmocka_unit_test(a_pair_that_is_given_up_receives_nothing_more),
		cmocka_unit_test(without_several_pairs_the_last_queue_is_nobodys),
		cmocka_unit_test(config_space_describes_the_interface),
		cmocka_unit_test(features_that_build_on_others_need_them),
		cmocka_unit_test(a_moved_guest_announces_itself),
		cmocka_unit_test(state_survives_and_lies_are_refused),
	};

	log_setup(STDERR_FILENO, LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
