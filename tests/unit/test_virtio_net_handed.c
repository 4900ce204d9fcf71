/* Rings of the network device that the host's kernel serves, played by a test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_pci.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "tests/unit/fake_device.h"
#include "tests/unit/fake_nic.h"
#include "virtio/virtio_devices.h"

enum { RX, TX };

struct kernel {
	struct net_ops ops; /* the net's own, and ours in their place */
	unsigned handed, back;
	int refuses; /* -errno */
	bool lost;   /* its peer is gone */
	uint64_t features;
	struct net_ring ring[2];
};

static struct kernel *kernel_of(const struct net *n)
{
	return container_of(n->ops, struct kernel, ops);
}

static int hand_over(struct net *n, uint64_t features, const struct net_ring ring[2])
{
	struct kernel *k = kernel_of(n);

	k->handed++;
	k->features = features;
	memcpy(k->ring, ring, sizeof(k->ring));
	return k->refuses;
}

static void take_back(struct net *n, uint16_t ret_position[2])
{
	struct kernel *k = kernel_of(n);

	k->back++;
	ret_position[RX] = k->ring[RX].position;
	ret_position[TX] = k->ring[TX].position;
}

static bool has_lost_peer(struct net *n)
{
	return kernel_of(n)->lost;
}

/* Use every chain that is there, as one frame sent. */
static unsigned kernel_sends(struct kernel *k)
{
	struct net_ring *ring = &k->ring[TX];
	struct vring_avail *avail = ring->avail;
	struct vring_used *used = ring->used;
	unsigned n = 0;

	for (; ring->position != le16toh(avail->idx); n++) {
		unsigned slot = ring->position % ring->size;

		used->ring[slot].id = htole32(le16toh(avail->ring[slot]));
		used->ring[slot].len = 0;
		used->idx = htole16(++ring->position);
	}
	if (n)
		eventfd_write(ring->call, 1);
	return n;
}

static bool rung(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

/* A device with a net that can hand rings over, before its driver says DRIVER_OK. */
static struct fake_nic *begin(const struct fake_variant *v, struct kernel *k)
{
	struct fake_variant early = *v;
	struct fake_nic *f;

	early.driver.no_driver_ok = true;
	f = fake_nic_begin(&early, FAKE_NIC_FEATURES, 0);
	*k = (struct kernel){ .ops = *f->net->ops };
	k->ops.hand_over = hand_over;
	k->ops.take_back = take_back;
	k->ops.has_lost_peer = has_lost_peer;
	f->net->ops = &k->ops;
	return f;
}

static void send_frame(struct fake_nic *f)
{
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t frame[100];

	fake_nic_fill(frame, sizeof(frame), 1);
	fake_nic_transmit(f, &h, frame, sizeof(frame));
}

static bool peer_got_one(struct fake_nic *f)
{
	struct virtio_net_hdr_v1 h;
	uint8_t got[200];

	return fake_nic_peer_gets(f, &h, got, sizeof(got)) == 100;
}

static void take_used(struct fake_nic *f, unsigned num)
{
	struct fake_used used;

	for (unsigned i = 0; i < num; i++)
		assert_true(fake_wait_used(&f->d, FAKE_NIC_TX, &used));
	assert_false(fake_take_used(&f->d, FAKE_NIC_TX, &used));
}

static void doorbells_and_interrupts_go_past_us(void **state)
{
	struct kernel k;
	struct fake_nic *f = begin(*state, &k);

	fake_driver_ok(&f->d);
	assert_int_equal(k.handed, 1);
	assert_true(k.features & 1ull << VIRTIO_F_VERSION_1);
	assert_int_equal(k.ring[TX].position, 0);
	assert_true(rung(k.ring[RX].kick) && rung(k.ring[TX].kick));
	fake_interrupts(&f->d, FAKE_NIC_TX);
	for (unsigned i = 0; i < 3; i++)
		send_frame(f);
	assert_false(peer_got_one(f));
	assert_int_equal(kernel_sends(&k), 3);
	take_used(f, 3);
	fake_run(&f->vm);
	assert_int_equal(fake_interrupts(&f->d, FAKE_NIC_TX), 1);
	assert_int_equal(f->dev->queue[FAKE_NIC_TX].stats.kicks, 0);
	fake_nic_end(f);
	assert_int_equal(k.back, 1);
}

/* The driver gives the transmit queue the receive queue's vector while the kernel has them. */
static void a_vector_that_moves_is_followed(void **state)
{
	struct kernel k;
	struct fake_nic *f = begin(*state, &k);
	int old;

	fake_driver_ok(&f->d);
	send_frame(f);
	kernel_sends(&k);
	take_used(f, 1);
	old = k.ring[TX].call;
	fake_write(&f->vm, f->d.common + VIRTIO_PCI_COMMON_Q_SELECT, FAKE_NIC_TX, 2);
	fake_write(&f->vm, f->d.common + VIRTIO_PCI_COMMON_Q_MSIX, FAKE_NIC_RX + 1, 2);
	fake_run(&f->vm);
	assert_int_equal(k.back, 1);
	assert_int_equal(k.handed, 2);
	assert_int_not_equal(k.ring[TX].call, old);
	assert_int_equal(k.ring[TX].call, k.ring[RX].call);
	assert_int_equal(k.ring[TX].position, 1);
	fake_interrupts(&f->d, FAKE_NIC_RX);
	fake_interrupts(&f->d, FAKE_NIC_TX);
	send_frame(f);
	assert_int_equal(kernel_sends(&k), 1);
	take_used(f, 1);
	fake_run(&f->vm);
	assert_int_equal(fake_interrupts(&f->d, FAKE_NIC_RX), 1);
	assert_int_equal(fake_interrupts(&f->d, FAKE_NIC_TX), 0);
	/* The same again is no change. */
	fake_write(&f->vm, f->d.common + VIRTIO_PCI_COMMON_Q_MSIX, FAKE_NIC_RX + 1, 2);
	fake_run(&f->vm);
	assert_int_equal(k.handed, 2);
	fake_nic_end(f);
}

static void what_the_kernel_refuses_then_is_served_here(void **state)
{
	struct kernel k;
	struct fake_nic *f = begin(*state, &k);

	fake_driver_ok(&f->d);
	k.refuses = -ENOBUFS;
	fake_write(&f->vm, f->d.common + VIRTIO_PCI_COMMON_Q_SELECT, FAKE_NIC_TX, 2);
	fake_write(&f->vm, f->d.common + VIRTIO_PCI_COMMON_Q_MSIX, VIRTIO_MSI_NO_VECTOR, 2);
	fake_run(&f->vm);
	assert_int_equal(k.back, 1);
	send_frame(f);
	assert_true(peer_got_one(f));
	fake_nic_end(f);
	assert_int_equal(k.back, 1);
}

static void the_control_queue_stays_ours(void **state)
{
	uint8_t on = 1;
	struct kernel k;
	struct fake_nic *f = begin(*state, &k);

	fake_driver_ok(&f->d);
	assert_int_equal(fake_nic_control(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on,
					  1),
			 VIRTIO_NET_OK);
	fake_nic_end(f);
}

static void a_pause_takes_back_and_goes_on_from_there(void **state)
{
	struct kernel k;
	struct fake_nic *f = begin(*state, &k);

	fake_driver_ok(&f->d);
	for (unsigned i = 0; i < 5; i++)
		send_frame(f);
	kernel_sends(&k);
	take_used(f, 5);
	/* One that nobody has served yet. */
	send_frame(f);
	fake_pause(&f->d);
	assert_int_equal(k.back, 1);
	assert_int_equal(f->dev->queue[FAKE_NIC_TX].next_avail, 5);
	assert_int_equal(f->dev->queue[FAKE_NIC_TX].next_used, 5);
	virtio_resume(f->dev);
	assert_int_equal(k.handed, 2);
	assert_int_equal(k.ring[TX].position, 5);
	assert_int_equal(kernel_sends(&k), 1);
	take_used(f, 1);
	fake_nic_end(f);
}

/* What was not served there is served here, and it stays so over a reset. */
static void check_is_here(struct fake_nic *f, struct kernel *k)
{
	assert_int_equal(k->back, 1);
	assert_true(peer_got_one(f));
	take_used(f, 1);
	send_frame(f);
	assert_true(peer_got_one(f));
	fake_reset(&f->d);
	fake_driver_probe(&f->d);
	fake_driver_ok(&f->d);
	assert_int_equal(k->handed, 1);
}

static struct fake_nic *begin_busy(const struct fake_variant *v, struct kernel *k)
{
	struct fake_nic *f = begin(v, k);

	fake_driver_ok(&f->d);
	send_frame(f);
	kernel_sends(k);
	take_used(f, 1);
	send_frame(f);
	return f;
}

static void a_rate_limit_takes_back(void **state)
{
	const struct rate_limits limits = { .bytes = { .per_second = 1 << 30 } };
	struct kernel k;
	struct fake_nic *f = begin_busy(*state, &k);

	virtio_net_limit(f->dev, NULL, &limits);
	check_is_here(f, &k);
	fake_nic_end(f);
}

/* What was taken back goes over again when the reason for it is gone, at the next start. */
static void check_goes_over_again(struct fake_nic *f, struct kernel *k)
{
	assert_int_equal(k->back, 1);
	assert_true(peer_got_one(f));
	take_used(f, 1);
	fake_pause(&f->d);
	fake_run(&f->vm);
	virtio_resume(f->dev);
	assert_int_equal(k->handed, 2);
	assert_int_equal(k->ring[TX].position, 2);
	assert_true(rung(k->ring[TX].kick));
	send_frame(f);
	assert_false(peer_got_one(f));
	assert_int_equal(kernel_sends(k), 1);
	take_used(f, 1);
}

static void a_limit_that_is_gone_hands_over_again(void **state)
{
	const struct rate_limits limits = { .bytes = { .per_second = 1 << 30 } };
	const struct rate_limits none = { 0 };
	struct kernel k;
	struct fake_nic *f = begin_busy(*state, &k);

	virtio_net_limit(f->dev, NULL, &limits);
	virtio_net_limit(f->dev, NULL, &none);
	check_goes_over_again(f, &k);
	fake_reset(&f->d);
	fake_driver_probe(&f->d);
	fake_driver_ok(&f->d);
	assert_int_equal(k.handed, 3);
	fake_nic_end(f);
}

/* The doorbell's read was just asked to end: the loop keeps it, and no kick is lost. */
static void a_start_right_after_a_stop_is_served_here(void **state)
{
	const struct rate_limits limits = { .bytes = { .per_second = 1 << 30 } };
	const struct rate_limits none = { 0 };
	struct kernel k;
	struct fake_nic *f = begin_busy(*state, &k);

	virtio_net_limit(f->dev, NULL, &limits);
	virtio_net_limit(f->dev, NULL, &none);
	assert_true(peer_got_one(f));
	take_used(f, 1);
	fake_pause(&f->d);
	virtio_resume(f->dev);
	assert_int_equal(k.handed, 1);
	send_frame(f);
	assert_true(peer_got_one(f));
	take_used(f, 1);
	fake_nic_end(f);
}

/* Before there is anything to take back. */
static void who_tracks_memory_is_heard_before_the_driver(void **state)
{
	struct kernel k;
	struct fake_nic *f = begin(*state, &k);

	virtio_serve_here(f->dev);
	fake_driver_ok(&f->d);
	assert_int_equal(k.handed, 0);
	send_frame(f);
	assert_true(peer_got_one(f));
	take_used(f, 1);
	fake_nic_end(f);
}

static void who_tracks_memory_takes_back(void **state)
{
	struct kernel k;
	struct fake_nic *f = begin_busy(*state, &k);

	virtio_serve_here(f->dev);
	check_is_here(f, &k);
	fake_nic_end(f);
}

static void a_cable_that_is_pulled_takes_back(void **state)
{
	struct kernel k;
	struct fake_nic *f = begin_busy(*state, &k);

	virtio_net_plug(f->dev, false);
	assert_int_equal(k.back, 1);
	assert_false(peer_got_one(f));
	take_used(f, 1);
	virtio_net_plug(f->dev, true);
	send_frame(f);
	assert_true(peer_got_one(f));
	fake_nic_end(f);
}

static void nothing_is_handed_over_while_memory_is_tracked(void **state)
{
	struct kernel k;
	struct fake_nic *f = begin(*state, &k);

	assert_int_equal(guest_mem_track_dirty(f->vm.mem, true), 0);
	fake_driver_ok(&f->d);
	assert_int_equal(k.handed, 0);
	send_frame(f);
	assert_true(peer_got_one(f));
	fake_nic_end(f);
}

static void what_the_kernel_refuses_is_served_here(void **state)
{
	struct kernel k;
	struct fake_nic *f = begin(*state, &k);

	k.refuses = -EOPNOTSUPP;
	fake_driver_ok(&f->d);
	assert_int_equal(k.handed, 1);
	send_frame(f);
	assert_true(peer_got_one(f));
	fake_nic_end(f);
	assert_int_equal(k.back, 0);
}

static void a_ring_that_the_kernel_gives_up_fails_the_device(void **state)
{
	struct kernel k;
	struct fake_nic *f = begin(*state, &k);

	fake_driver_ok(&f->d);
	eventfd_write(k.ring[TX].error, 1);
	fake_run(&f->vm);
	assert_true(fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(k.back, 1);
	fake_reset(&f->d);
	assert_int_equal(k.back, 1);
	fake_driver_probe(&f->d);
	fake_driver_ok(&f->d);
	assert_int_equal(k.handed, 2);
	assert_int_equal(k.ring[TX].position, 0);
	fake_nic_end(f);
}

/* It cannot send to a tap that was deleted, and says so as of a ring that makes no sense. */
static void what_the_kernel_cannot_send_for_want_of_a_peer_is_no_fault_of_the_driver(void **state)
{
	struct kernel k;
	struct fake_nic *f = begin(*state, &k);

	fake_driver_ok(&f->d);
	k.lost = true;
	eventfd_write(k.ring[TX].error, 1);
	fake_run(&f->vm);
	assert_false(fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(k.back, 0);
	k.lost = false;
	eventfd_write(k.ring[RX].error, 1);
	fake_run(&f->vm);
	assert_true(fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	fake_nic_end(f);
}

/* Of a queue that is ours: the kernel would go on with the others. */
static void a_device_that_fails_takes_back(void **state)
{
	struct kernel k;
	struct fake_nic *f = begin(*state, &k);
	struct fake_buf no_room = { fake_alloc(&f->vm, 4, 1), 4, false };

	fake_driver_ok(&f->d);
	fake_add(&f->d, FAKE_NIC_CTRL, &no_room, 1);
	fake_kick(&f->d, FAKE_NIC_CTRL);
	fake_run(&f->vm);
	assert_true(fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(k.back, 1);
	fake_nic_end(f);
	assert_int_equal(k.back, 1);
}

#define OF(test, v) { #test " " #v, test, NULL, NULL, (void *)&v }
#define OF_ALL(test) OF(test, pci), OF(test, intx), OF(test, mmio)

int main(void)
{
	const struct fake_variant pci = { .name = "pci",
					      .driver = { .transport = FAKE_PCI,
							  .event_idx = true } };
	const struct fake_variant intx = { .name = "intx",
					       .driver = { .transport = FAKE_PCI, .intx = true } };
	const struct fake_variant mmio = { .name = "mmio", .backend = LOOP_EPOLL };
	const struct CMUnitTest tests[] = {
		OF_ALL(doorbells_and_interrupts_go_past_us),
		OF(a_vector_that_moves_is_followed, pci),
		OF(what_the_kernel_refuses_then_is_served_here, pci),
		OF(the_control_queue_stays_ours, pci),
		OF_ALL(a_pause_takes_back_and_goes_on_from_there),
		OF_ALL(a_rate_limit_takes_back),
		OF_ALL(a_limit_that_is_gone_hands_over_again),
		OF_ALL(a_start_right_after_a_stop_is_served_here),
		OF(who_tracks_memory_takes_back, pci),
		OF_ALL(who_tracks_memory_is_heard_before_the_driver),
		OF(a_cable_that_is_pulled_takes_back, mmio),
		OF(nothing_is_handed_over_while_memory_is_tracked, pci),
		OF(what_the_kernel_refuses_is_served_here, pci),
		OF_ALL(a_ring_that_the_kernel_gives_up_fails_the_device),
		OF(what_the_kernel_cannot_send_for_want_of_a_peer_is_no_fault_of_the_driver, pci),
		OF(a_device_that_fails_takes_back, pci),
	};

	return cmocka_run_group_tests_name("virtio_net_handed", tests, NULL, NULL);
}
