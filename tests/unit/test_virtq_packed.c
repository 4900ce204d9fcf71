/* The packed ring: wrap counters, batches, events, and a driver that breaks the rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>

#include "virtio/virtq.h"

#define SIZE	6u /* a packed ring need not be a power of two */
#define RAM	0x20000ull
#define RING	0x1000ull
#define DRIVER	0x2000ull
#define DEVICE	0x3000ull
#define TABLE	0x4000ull
#define DATA	0x8000ull
#define MAX_IOV 16

#define EVENT_IDX (1ull << VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  (1ull << VIRTIO_RING_F_INDIRECT_DESC)

#define AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED  (1u << VRING_PACKED_DESC_F_USED)
#define NEXT  VRING_DESC_F_NEXT
#define WRITE VRING_DESC_F_WRITE

struct fixture {
	struct guest_mem *mem;
	struct virtq q;
	struct vring_packed_desc *ring, *table;
	struct vring_packed_desc_event *driver, *device;
	struct iovec iov[MAX_IOV];
	struct virtq_chain c;
	unsigned pos; /* the driver's */
	bool wrap;
};

static void configure(struct fixture *f)
{
	f->q.size = SIZE;
	f->q.ready = true;
	f->q.desc_gpa = RING;
	f->q.driver_gpa = DRIVER;
	f->q.device_gpa = DEVICE;
}

static int setup(void **state)
{
	const struct guest_mem_range range = { .gpa = 0, .size = RAM };
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(guest_mem_create(&f->mem, GUEST_MEM_ANON, &range, 1, NULL), 0);
	f->ring = guest_mem_ptr(f->mem, RING, SIZE * sizeof(*f->ring));
	f->driver = guest_mem_ptr(f->mem, DRIVER, sizeof(*f->driver));
	f->device = guest_mem_ptr(f->mem, DEVICE, sizeof(*f->device));
	f->table = guest_mem_ptr(f->mem, TABLE, 4096);
	f->c.iov = f->iov;
	f->c.max_iov = MAX_IOV;
	f->wrap = true;
	virtq_init(&f->q, 0, 256);
	configure(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	guest_mem_free(f->mem);
	free(f);
	return 0;
}

static void start(struct fixture *f, uint64_t features)
{
	features |= 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_RING_PACKED;
	assert_int_equal(virtq_start(&f->q, f->mem, features), 0);
}

/* The next slot of the driver's, made available. */
static void offer(struct fixture *f, uint64_t addr, uint32_t len, uint16_t flags, uint16_t id)
{
	struct vring_packed_desc *d = &f->ring[f->pos];

	d->addr = addr;
	d->len = len;
	d->id = id;
	d->flags = flags | (f->wrap ? AVAIL : USED);
	if (++f->pos == SIZE) {
		f->pos = 0;
		f->wrap = !f->wrap;
	}
}

static void assert_pop(struct fixture *f, uint16_t id)
{
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.id, id);
}

static void assert_broken(struct fixture *f)
{
	assert_int_equal(virtq_pop(&f->q, &f->c), -EBADMSG);
	assert_non_null(f->q.why_broken);
	assert_int_equal(virtq_pop(&f->q, &f->c), -EBADMSG);
	assert_false(virtq_has_work(&f->q));
}

static void pop_takes_chains_over_the_end_of_the_ring(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	offer(f, DATA, 8, NEXT, 9);
	offer(f, DATA, 8, NEXT, 9);
	offer(f, DATA, 8, NEXT, 9);
	offer(f, DATA, 8, WRITE, 2);
	assert_pop(f, 2); /* the id is that of the last slot */
	assert_int_equal(f->c.num_desc, 4);
	assert_int_equal(f->c.num_out, 3);
	assert_int_equal(f->c.num_in, 1);
	assert_int_equal(virtq_pop(&f->q, &f->c), 0);
	virtq_push(&f->q, &f->c, 8);
	assert_true(virtq_flush(&f->q));

	offer(f, DATA, 8, NEXT, 1);
	offer(f, DATA, 8, NEXT, 1);
	offer(f, DATA, 8, 0, 1);
	assert_pop(f, 1);
	assert_int_equal(f->c.num_desc, 3);
	assert_int_equal(f->q.next_avail, 1);
	assert_false(f->q.avail_wrap);
	virtq_push(&f->q, &f->c, 0);
	virtq_flush(&f->q);
	/* Used in the slot where the chain began, with the lap's counter. */
	assert_int_equal(f->ring[4].id, 1);
	assert_int_equal(f->ring[4].flags & (AVAIL | USED), AVAIL | USED);
	assert_int_equal(f->q.next_used, 1);
	assert_false(f->q.used_wrap);
}

static void slots_of_an_earlier_lap_are_not_available(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	start(f, 0);
	for (i = 0; i < SIZE; i++) {
		offer(f, DATA, 8, 0, i);
		assert_pop(f, i);
		virtq_push(&f->q, &f->c, 0);
	}
	virtq_flush(&f->q);
	assert_false(virtq_has_work(&f->q));
	assert_int_equal(virtq_pop(&f->q, &f->c), 0);
	offer(f, DATA, 8, 0, 3);
	assert_pop(f, 3);
	virtq_push(&f->q, &f->c, 0);
	virtq_flush(&f->q);
	/* The second lap's counter is 0. */
	assert_int_equal(f->ring[0].flags & (AVAIL | USED), 0);
}

static void batch_is_seen_at_once(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	start(f, 0);
	for (i = 0; i < 3; i++) {
		offer(f, DATA, 8, WRITE, i);
		assert_pop(f, i);
		virtq_push(&f->q, &f->c, 8);
		/* The driver looks at slot 0 first, and there nothing is used yet. */
		assert_false(f->ring[0].flags & USED);
	}
	assert_true(virtq_flush(&f->q));
	for (i = 0; i < 3; i++) {
		assert_int_equal(f->ring[i].flags, AVAIL | USED | WRITE);
		assert_int_equal(f->ring[i].len, 8);
	}
}

static void chains_come_back_in_any_order(void **state)
{
	struct fixture *f = *state;
	struct virtq_chain first;

	start(f, 0);
	offer(f, DATA, 8, NEXT, 7);
	offer(f, DATA, 8, 0, 7);
	offer(f, DATA, 8, 0, 4);
	assert_pop(f, 7);
	first = f->c;
	assert_pop(f, 4);
	virtq_push(&f->q, &f->c, 0);
	virtq_flush(&f->q);
	assert_int_equal(f->ring[0].id, 4);
	assert_int_equal(f->q.next_used, 1);
	virtq_push_id(&f->q, first.id, first.num_desc, 0);
	virtq_flush(&f->q);
	assert_int_equal(f->ring[1].id, 7);
	assert_int_equal(f->q.next_used, 3);
	assert_int_equal(f->q.inflight, 0);
}

static void unpop_goes_back_over_the_end(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	start(f, 0);
	for (i = 0; i < SIZE - 1; i++) {
		offer(f, DATA, 8, 0, i);
		assert_pop(f, i);
		virtq_push(&f->q, &f->c, 0);
	}
	virtq_flush(&f->q);
	offer(f, DATA, 8, NEXT, 5);
	offer(f, DATA, 8, 0, 5);
	assert_pop(f, 5);
	assert_false(f->q.avail_wrap);
	virtq_unpop(&f->q, &f->c);
	assert_int_equal(f->q.next_avail, SIZE - 1);
	assert_true(f->q.avail_wrap);
	assert_pop(f, 5);
	assert_int_equal(f->c.num_out, 2);
}

static void pop_follows_an_indirect_table(void **state)
{
	struct fixture *f = *state;

	start(f, INDIRECT);
	f->table[0] = (struct vring_packed_desc){ .addr = DATA, .len = 4 };
	/* Flags other than WRITE mean nothing in a table: Virtio 1.2, 2.8.7. */
	f->table[1] = (struct vring_packed_desc){ .addr = DATA, .len = 4, .flags = WRITE | NEXT };
	offer(f, TABLE, 32, VRING_DESC_F_INDIRECT, 3);
	assert_pop(f, 3);
	assert_int_equal(f->c.num_desc, 1);
	assert_int_equal(f->c.num_out, 1);
	assert_int_equal(f->c.num_in, 1);
}

static void pop_rejects_chain_longer_than_the_ring(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	start(f, 0);
	for (i = 0; i < SIZE; i++)
		offer(f, DATA, 8, NEXT, 0);
	assert_broken(f);
}

static void pop_rejects_slots_that_are_still_ours(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	start(f, 0);
	for (i = 0; i < SIZE; i++) {
		offer(f, DATA, 8, 0, i);
		assert_pop(f, i);
	}
	offer(f, DATA, 8, 0, 0);
	assert_broken(f);
}

static void pop_rejects_indirect_with_next(void **state)
{
	struct fixture *f = *state;

	start(f, INDIRECT);
	f->table[0] = (struct vring_packed_desc){ .addr = DATA, .len = 4 };
	offer(f, TABLE, 16, VRING_DESC_F_INDIRECT | NEXT, 3);
	assert_broken(f);
}

static void pop_rejects_descriptor_of_no_bytes(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	offer(f, DATA, 0, 0, 0);
	assert_broken(f);
}

static void pop_rejects_readable_after_writable(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	offer(f, DATA, 8, WRITE | NEXT, 0);
	offer(f, DATA, 8, 0, 0);
	assert_broken(f);
}

static void pop_rejects_address_outside_ram(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	offer(f, RAM, 8, 0, 0);
	assert_broken(f);
}

/* ---- events ---- */

/* Return one more chain and say whether that interrupts. */
static bool one_more(struct fixture *f)
{
	offer(f, DATA, 8, 0, 0);
	assert_pop(f, 0);
	virtq_push(&f->q, &f->c, 0);
	return virtq_flush(&f->q);
}

static void interrupts_follow_the_drivers_wish(void **state)
{
	struct fixture *f = *state;

	start(f, EVENT_IDX);
	assert_true(one_more(f));
	f->driver->flags = VRING_PACKED_EVENT_FLAG_DISABLE;
	assert_false(one_more(f));
	f->driver->flags = VRING_PACKED_EVENT_FLAG_ENABLE;
	assert_true(one_more(f));
}

static void interrupt_comes_at_the_event_in_every_lap(void **state)
{
	struct fixture *f = *state;
	unsigned lap, at, event;
	bool wrap = true;

	start(f, EVENT_IDX);
	f->driver->flags = VRING_PACKED_EVENT_FLAG_DESC;
	f->driver->off_wrap = 0 | 1u << 15;
	assert_true(one_more(f)); /* slot 0 of the first lap */
	at = 1;
	/* Ask for an event two slots ahead, again and again, over several ends of the ring. */
	for (lap = 0; lap < 4 * SIZE; lap++) {
		event = at + 2;
		f->driver->off_wrap = (event % SIZE) | (uint16_t)((event < SIZE) == wrap) << 15;
		assert_false(one_more(f));
		assert_false(one_more(f));
		assert_true(one_more(f));
		at += 3;
		if (at >= SIZE) {
			at -= SIZE;
			wrap = !wrap;
		}
	}
}

static void event_inside_a_batch_over_the_end_interrupts(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	start(f, EVENT_IDX);
	f->driver->flags = VRING_PACKED_EVENT_FLAG_DESC;
	for (i = 0; i < SIZE - 2; i++)
		one_more(f);
	/* The last slot of this lap; the batch takes it and two of the next. */
	f->driver->off_wrap = (SIZE - 1) | 1u << 15;
	for (i = 0; i < 4; i++) {
		offer(f, DATA, 8, 0, 0);
		assert_pop(f, 0);
		virtq_push(&f->q, &f->c, 0);
	}
	assert_true(virtq_flush(&f->q));
	/* And it is past now. */
	assert_false(one_more(f));
}

static void kicks_are_asked_for_at_our_position(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	start(f, EVENT_IDX);
	assert_int_equal(f->device->flags, VRING_PACKED_EVENT_FLAG_DESC);
	assert_int_equal(f->device->off_wrap, 0 | 1u << 15);
	virtq_kicks_off(&f->q);
	assert_int_equal(f->device->flags, VRING_PACKED_EVENT_FLAG_DISABLE);
	offer(f, DATA, 8, 0, 0);
	assert_true(virtq_kicks_on(&f->q));
	assert_pop(f, 0);
	virtq_push(&f->q, &f->c, 0);
	virtq_flush(&f->q);
	for (i = 1; i < SIZE; i++)
		one_more(f);
	assert_false(virtq_kicks_on(&f->q));
	assert_int_equal(f->device->off_wrap, 0); /* second lap */
}

static void kicks_without_event_index_are_on_or_off(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	assert_int_equal(f->device->flags, VRING_PACKED_EVENT_FLAG_ENABLE);
	virtq_kicks_off(&f->q);
	assert_int_equal(f->device->flags, VRING_PACKED_EVENT_FLAG_DISABLE);
}

static void start_rejects_what_is_not_a_ring(void **state)
{
	const uint64_t features = 1ull << VIRTIO_F_RING_PACKED;
	struct fixture *f = *state;

	f->q.size = 0;
	assert_int_equal(virtq_start(&f->q, f->mem, features), -EINVAL);
	virtq_reset(&f->q);
	configure(f);
	f->q.desc_gpa = RING + 8;
	assert_int_equal(virtq_start(&f->q, f->mem, features), -EINVAL);
	virtq_reset(&f->q);
	configure(f);
	f->q.device_gpa = DEVICE + 2;
	assert_int_equal(virtq_start(&f->q, f->mem, features), -EINVAL);
	virtq_reset(&f->q);
	configure(f);
	f->q.driver_gpa = RAM;
	assert_int_equal(virtq_start(&f->q, f->mem, features), -EINVAL);
}

static void start_rejects_a_position_past_the_end(void **state)
{
	const uint64_t features = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_RING_PACKED;
	struct fixture *f = *state;

	/* As it was loaded with a larger ring, or with a split one. */
	f->q.next_avail = f->q.next_used = SIZE;
	assert_int_equal(virtq_start(&f->q, f->mem, features), -EINVAL);
	virtq_reset(&f->q);
	configure(f);
	f->q.next_avail = f->q.next_used = SIZE - 1;
	assert_int_equal(virtq_start(&f->q, f->mem, features), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(pop_takes_chains_over_the_end_of_the_ring),
		TEST(slots_of_an_earlier_lap_are_not_available),
		TEST(batch_is_seen_at_once),
		TEST(chains_come_back_in_any_order),
		TEST(unpop_goes_back_over_the_end),
		TEST(pop_follows_an_indirect_table),
		TEST(pop_rejects_chain_longer_than_the_ring),
		TEST(pop_rejects_slots_that_are_still_ours),
		TEST(pop_rejects_indirect_with_next),
		TEST(pop_rejects_descriptor_of_no_bytes),
		TEST(pop_rejects_readable_after_writable),
		TEST(pop_rejects_address_outside_ram),
		TEST(interrupts_follow_the_drivers_wish),
		TEST(interrupt_comes_at_the_event_in_every_lap),
		TEST(event_inside_a_batch_over_the_end_interrupts),
		TEST(kicks_are_asked_for_at_our_position),
		TEST(kicks_without_event_index_are_on_or_off),
		TEST(start_rejects_what_is_not_a_ring),
		TEST(start_rejects_a_position_past_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
