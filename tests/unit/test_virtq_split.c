/* The split ring against a driver that keeps the rules, and one that breaks each of them. */
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

#define SIZE	 8u
#define RAM	 0x20000ull
#define BOUNDARY 0x10000ull /* between two ranges of RAM */
#define DESC	 0x1000ull
#define AVAIL	 0x2000ull
#define USED	 0x3000ull
#define TABLE	 0x4000ull
#define DATA	 0x8000ull
#define MAX_IOV	 16

/* size, ready, broken, three addresses, two positions, two wrap counters */
#define SAVED_SIZE (2 + 1 + 1 + 3 * 8 + 2 * 2 + 2)

#define EVENT_IDX (1ull << VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  (1ull << VIRTIO_RING_F_INDIRECT_DESC)

struct fixture {
	struct guest_mem *mem;
	struct virtq q;
	struct vring_desc *desc, *table;
	struct vring_avail *avail;
	struct vring_used *used;
	struct iovec iov[MAX_IOV];
	struct virtq_chain c;
};

static int setup(void **state)
{
	const struct guest_mem_range ranges[2] = {
		{ .gpa = 0, .size = BOUNDARY },
		{ .gpa = BOUNDARY, .size = RAM - BOUNDARY },
	};
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(guest_mem_create(&f->mem, GUEST_MEM_ANON, ranges, 2, NULL), 0);
	f->desc = guest_mem_ptr(f->mem, DESC, SIZE * sizeof(*f->desc));
	f->avail = guest_mem_ptr(f->mem, AVAIL, 64);
	f->used = guest_mem_ptr(f->mem, USED, 128);
	f->table = guest_mem_ptr(f->mem, TABLE, 4096);
	f->c.iov = f->iov;
	f->c.max_iov = MAX_IOV;
	virtq_init(&f->q, 0, 256);
	f->q.size = SIZE;
	f->q.ready = true;
	f->q.desc_gpa = DESC;
	f->q.driver_gpa = AVAIL;
	f->q.device_gpa = USED;
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
	assert_int_equal(virtq_start(&f->q, f->mem, features | 1ull << VIRTIO_F_VERSION_1), 0);
}

static void set(struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	*d = (struct vring_desc){ .addr = addr, .len = len, .flags = flags, .next = next };
}

static void offer(struct fixture *f, uint16_t head)
{
	f->avail->ring[f->avail->idx % SIZE] = head;
	f->avail->idx++;
}

/* One readable descriptor in slot @i, offered. */
static void offer_plain(struct fixture *f, uint16_t i)
{
	set(&f->desc[i], DATA + i * 64, 64, 0, 0);
	offer(f, i);
}

static void assert_broken(struct fixture *f)
{
	assert_int_equal(virtq_pop(&f->q, &f->c), -EBADMSG);
	assert_non_null(f->q.why_broken);
	/* And it stays so, whatever the driver mends. */
	memset(f->desc, 0, SIZE * sizeof(*f->desc));
	offer_plain(f, 0);
	assert_int_equal(virtq_pop(&f->q, &f->c), -EBADMSG);
	assert_false(virtq_has_work(&f->q));
	assert_int_equal(f->q.stats.errors, 1);
}

/* ---- chains ---- */

static void pop_of_an_empty_ring_gives_nothing(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	assert_int_equal(virtq_pop(&f->q, &f->c), 0);
	assert_false(virtq_has_work(&f->q));
}

static void pop_gives_readable_segments_then_writable_ones(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	set(&f->desc[3], DATA, 16, VRING_DESC_F_NEXT, 1);
	set(&f->desc[1], DATA + 0x100, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 6);
	set(&f->desc[6], DATA + 0x800, 1, VRING_DESC_F_WRITE, 0);
	offer(f, 3);
	assert_true(virtq_has_work(&f->q));
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.id, 3);
	assert_int_equal(f->c.num_out, 1);
	assert_int_equal(f->c.num_in, 2);
	assert_int_equal(f->c.out_bytes, 16);
	assert_int_equal(f->c.in_bytes, 513);
	assert_ptr_equal(f->iov[1].iov_base, guest_mem_ptr(f->mem, DATA + 0x100, 512));
	assert_int_equal(f->iov[2].iov_len, 1);
	assert_int_equal(virtq_pop(&f->q, &f->c), 0);
}

static void pop_splits_a_buffer_that_crosses_ranges(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	set(&f->desc[0], BOUNDARY - 10, 30, VRING_DESC_F_WRITE, 0);
	offer(f, 0);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.num_in, 2);
	assert_int_equal(f->iov[0].iov_len, 10);
	assert_int_equal(f->iov[1].iov_len, 20);
	assert_int_equal(f->c.in_bytes, 30);
}

static void pop_follows_an_indirect_table(void **state)
{
	struct fixture *f = *state;

	start(f, INDIRECT);
	/* Virtio 1.2, 2.7.5.3.2: direct ones may come before the table. */
	set(&f->desc[0], DATA, 8, VRING_DESC_F_NEXT, 2);
	set(&f->desc[2], TABLE, 3 * 16, VRING_DESC_F_INDIRECT, 0);
	set(&f->table[0], DATA + 16, 8, VRING_DESC_F_NEXT, 2);
	set(&f->table[2], DATA + 32, 8, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	set(&f->table[1], DATA + 48, 8, VRING_DESC_F_WRITE, 0);
	offer(f, 0);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.id, 0);
	assert_int_equal(f->c.num_out, 2);
	assert_int_equal(f->c.num_in, 2);
}

static void unpop_gives_the_same_chain_again(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	offer_plain(f, 5);
	offer_plain(f, 2);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.id, 2);
	virtq_unpop(&f->q, &f->c);
	assert_int_equal(f->q.inflight, 1);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.id, 2);
	assert_int_equal(virtq_pop(&f->q, &f->c), 0);
}

/* ---- a driver that breaks the rules ---- */

static void pop_rejects_head_past_the_table(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	offer(f, SIZE);
	assert_broken(f);
}

static void pop_rejects_next_past_the_table(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	set(&f->desc[0], DATA, 8, VRING_DESC_F_NEXT, SIZE);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_looping_chain(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	set(&f->desc[0], DATA, 8, VRING_DESC_F_NEXT, 1);
	set(&f->desc[1], DATA, 8, VRING_DESC_F_NEXT, 0);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_index_that_jumps(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	offer_plain(f, 0);
	f->avail->idx = SIZE + 1;
	assert_broken(f);
}

static void pop_rejects_descriptor_of_no_bytes(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	set(&f->desc[0], DATA, 0, 0, 0);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_address_outside_ram(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	set(&f->desc[0], RAM - 8, 9, 0, 0);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_address_that_wraps(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	set(&f->desc[0], UINT64_MAX - 3, 64, 0, 0);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_readable_after_writable(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	set(&f->desc[0], DATA, 8, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	set(&f->desc[1], DATA, 8, 0, 0);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_more_segments_than_there_is_room(void **state)
{
	struct fixture *f = *state;

	start(f, INDIRECT);
	for (unsigned i = 0; i <= MAX_IOV; i++)
		set(&f->table[i], DATA, 8, i < MAX_IOV ? VRING_DESC_F_NEXT : 0, i + 1);
	set(&f->desc[0], TABLE, (MAX_IOV + 1) * 16, VRING_DESC_F_INDIRECT, 0);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_more_chains_than_descriptors(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	/* Never returning one, the driver goes on offering: memory for requests has a bound. */
	start(f, 0);
	for (i = 0; i < SIZE; i++) {
		offer_plain(f, i);
		assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	}
	offer_plain(f, 0);
	assert_broken(f);
}

static void pop_rejects_indirect_without_the_feature(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	set(&f->table[0], DATA, 8, 0, 0);
	set(&f->desc[0], TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_nested_indirect_table(void **state)
{
	struct fixture *f = *state;

	start(f, INDIRECT);
	set(&f->table[0], TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	set(&f->desc[0], TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_indirect_with_next(void **state)
{
	struct fixture *f = *state;

	start(f, INDIRECT);
	set(&f->table[0], DATA, 8, 0, 0);
	set(&f->desc[0], TABLE, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_table_of_odd_length(void **state)
{
	struct fixture *f = *state;

	start(f, INDIRECT);
	set(&f->table[0], DATA, 8, 0, 0);
	set(&f->desc[0], TABLE, 17, VRING_DESC_F_INDIRECT, 0);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_table_of_no_entries(void **state)
{
	struct fixture *f = *state;

	start(f, INDIRECT);
	set(&f->desc[0], TABLE, 0, VRING_DESC_F_INDIRECT, 0);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_table_outside_ram(void **state)
{
	struct fixture *f = *state;

	start(f, INDIRECT);
	set(&f->desc[0], RAM - 16, 32, VRING_DESC_F_INDIRECT, 0);
	offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_table_that_loops(void **state)
{
	struct fixture *f = *state;

	start(f, INDIRECT);
	set(&f->table[0], DATA, 8, VRING_DESC_F_NEXT, 1);
	set(&f->table[1], DATA, 8, VRING_DESC_F_NEXT, 0);
	set(&f->desc[0], TABLE, 32, VRING_DESC_F_INDIRECT, 0);
	offer(f, 0);
	assert_broken(f);
}

static void start_rejects_what_is_not_a_ring(void **state)
{
	static const struct {
		uint16_t size;
		uint64_t desc, driver, device;
	} bad[] = {
		{ 0, DESC, AVAIL, USED },	   { 3, DESC, AVAIL, USED },
		{ 512, DESC, AVAIL, USED }, /* larger than the maximum */
		{ SIZE, DESC + 8, AVAIL, USED },   { SIZE, DESC, AVAIL + 1, USED },
		{ SIZE, DESC, AVAIL, USED + 2 },   { SIZE, RAM - 64, AVAIL, USED },
		{ SIZE, DESC, RAM, USED },	   { SIZE, DESC, AVAIL, UINT64_MAX - 7 },
		{ SIZE, BOUNDARY - 16, AVAIL, USED },
	};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		virtq_reset(&f->q);
		f->q.size = bad[i].size;
		f->q.desc_gpa = bad[i].desc;
		f->q.driver_gpa = bad[i].driver;
		f->q.device_gpa = bad[i].device;
		assert_int_equal(virtq_start(&f->q, f->mem, 0), -EINVAL);
		assert_false(f->q.started);
		assert_int_equal(virtq_pop(&f->q, &f->c), -EBADMSG);
	}
}

static void reset_forgets_what_was_broken(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	offer(f, SIZE);
	assert_broken(f);
	virtq_stop(&f->q);
	virtq_reset(&f->q);
	assert_int_equal(f->q.size, 256);
	assert_false(f->q.ready);
	f->q.size = SIZE;
	f->q.desc_gpa = DESC;
	f->q.driver_gpa = AVAIL;
	f->q.device_gpa = USED;
	f->avail->idx = 0;
	start(f, 0);
	offer_plain(f, 1);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
}

/* ---- returning chains ---- */

static void push_is_not_seen_before_flush(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	offer_plain(f, 4);
	virtq_pop(&f->q, &f->c);
	virtq_push(&f->q, &f->c, 7);
	assert_int_equal(f->used->idx, 0);
	assert_true(virtq_flush(&f->q));
	assert_int_equal(f->used->idx, 1);
	assert_int_equal(f->used->ring[0].id, 4);
	assert_int_equal(f->used->ring[0].len, 7);
	/* Nothing new: no second interrupt. */
	assert_false(virtq_flush(&f->q));
}

static void indices_wrap_at_65536(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	start(f, 0);
	for (i = 0; i < 65536 + 10; i++) {
		offer_plain(f, i % SIZE);
		assert_int_equal(virtq_pop(&f->q, &f->c), 1);
		assert_int_equal(f->c.id, i % SIZE);
		virtq_push(&f->q, &f->c, i);
		assert_true(virtq_flush(&f->q));
		assert_int_equal(f->used->ring[i % SIZE].len, i);
	}
	assert_int_equal(f->used->idx, 10);
}

static void no_interrupt_flag_is_honoured(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	f->avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	offer_plain(f, 0);
	virtq_pop(&f->q, &f->c);
	virtq_push(&f->q, &f->c, 0);
	assert_false(virtq_flush(&f->q));
	assert_int_equal(f->q.stats.suppressed, 1);
}

/* Return one more chain and say whether that interrupts. */
static bool one_more(struct fixture *f, unsigned i)
{
	offer_plain(f, i % SIZE);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	virtq_push(&f->q, &f->c, 0);
	return virtq_flush(&f->q);
}

static void event_index_decides_about_interrupts(void **state)
{
	struct fixture *f = *state;
	uint16_t *used_event = &f->avail->ring[SIZE];
	unsigned i;

	start(f, EVENT_IDX);
	/* The first decision has nothing to compare with: better one too many. */
	*used_event = 1000;
	assert_true(one_more(f, 0));
	*used_event = 4; /* when the fifth is used */
	for (i = 1; i < 4; i++)
		assert_false(one_more(f, i));
	assert_true(one_more(f, 4));
	assert_false(one_more(f, 5));
	/* Across the end of the index. */
	for (i = 6; i < 65534; i++)
		one_more(f, i);
	*used_event = 1;
	assert_false(one_more(f, 65534));
	assert_false(one_more(f, 65535));
	assert_false(one_more(f, 0));
	assert_true(one_more(f, 1));
}

static void event_index_in_the_middle_of_a_batch_interrupts(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	start(f, EVENT_IDX);
	one_more(f, 0);
	f->avail->ring[SIZE] = 2;
	for (i = 1; i < 5; i++) {
		offer_plain(f, i);
		virtq_pop(&f->q, &f->c);
		virtq_push(&f->q, &f->c, 0);
	}
	assert_true(virtq_flush(&f->q));
}

/* ---- kicks ---- */

static void kicks_off_and_on_use_the_flag(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	assert_int_equal(f->used->flags, 0);
	virtq_kicks_off(&f->q);
	assert_int_equal(f->used->flags, VRING_USED_F_NO_NOTIFY);
	assert_false(virtq_kicks_on(&f->q));
	assert_int_equal(f->used->flags, 0);
}

static void kicks_on_tells_of_chains_that_came_meanwhile(void **state)
{
	struct fixture *f = *state;
	uint16_t *avail_event = (uint16_t *)&f->used->ring[SIZE];

	start(f, EVENT_IDX);
	virtq_kicks_off(&f->q);
	offer_plain(f, 0);
	assert_true(virtq_kicks_on(&f->q));
	virtq_pop(&f->q, &f->c);
	assert_false(virtq_kicks_on(&f->q));
	/* The driver kicks when it makes the chain after the ones we know available. */
	assert_int_equal(*avail_event, 1);
}

/* ---- state and dirty pages ---- */

static void saved_queue_goes_on_where_it_was(void **state)
{
	struct fixture *f = *state;
	struct state_reader r;
	struct state_writer w;
	struct virtq q;
	size_t pos = 0;

	start(f, 0);
	one_more(f, 0);
	one_more(f, 1);
	offer_plain(f, 2); /* not yet taken */
	virtq_stop(&f->q);

	state_writer_init(&w);
	state_begin(&w, "q", 0, 1);
	virtq_save(&f->q, &w);
	state_end(&w);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
	virtq_init(&q, 0, 256);
	assert_int_equal(virtq_load(&q, &r, false), 0);
	assert_int_equal(state_reader_end(&r, NULL), 0);
	state_writer_done(&w);

	f->q = q;
	start(f, 0);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.id, 2);
	virtq_push(&f->q, &f->c, 0);
	virtq_flush(&f->q);
	assert_int_equal(f->used->idx, 3);
}

static void load_refuses_what_cannot_be(void **state)
{
	uint8_t good[SAVED_SIZE] = { SIZE, 0, 1 };
	struct state_reader r;
	struct virtq q;

	virtq_init(&q, 0, 256);
	r = (struct state_reader){ .p = good, .len = sizeof(good), .name = "q" };
	assert_int_equal(virtq_load(&q, &r, false), 0);

	good[1] = 2; /* size 520 */
	r = (struct state_reader){ .p = good, .len = sizeof(good), .name = "q" };
	assert_int_equal(virtq_load(&q, &r, false), -EBADMSG);
	good[1] = 0;

	good[28] = 3; /* three taken, none returned */
	r = (struct state_reader){ .p = good, .len = sizeof(good), .name = "q" };
	assert_int_equal(virtq_load(&q, &r, false), -EBADMSG);

	r = (struct state_reader){ .p = good, .len = 20, .name = "q" };
	assert_true(virtq_load(&q, &r, false) < 0);
}

static bool is_dirty(struct fixture *f, uint64_t gpa)
{
	const struct guest_mem_range *range = &f->mem->range[gpa >= BOUNDARY];
	uint64_t page = (gpa - range->gpa) / PAGE_SIZE;

	return range->dirty[page / 64] >> (page % 64) & 1;
}

static void what_we_write_is_marked_dirty(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(guest_mem_track_dirty(f->mem, true), 0);
	start(f, 0);
	set(&f->desc[0], BOUNDARY - PAGE_SIZE, 3 * PAGE_SIZE, VRING_DESC_F_WRITE, 0);
	offer(f, 0);
	virtq_pop(&f->q, &f->c);
	assert_false(is_dirty(f, BOUNDARY));
	virtq_push(&f->q, &f->c, PAGE_SIZE + 1);
	virtq_flush(&f->q);
	assert_true(is_dirty(f, USED));
	assert_true(is_dirty(f, BOUNDARY - 1));
	assert_true(is_dirty(f, BOUNDARY));
	assert_false(is_dirty(f, BOUNDARY + PAGE_SIZE));
	assert_false(is_dirty(f, AVAIL));
	guest_mem_track_dirty(f->mem, false);
}

/* ---- copying ---- */

static void copies_go_across_segments(void **state)
{
	struct fixture *f = *state;
	uint8_t *a = guest_mem_ptr(f->mem, DATA, 16), *b = guest_mem_ptr(f->mem, DATA + 100, 16);
	char buf[16] = "";

	start(f, 0);
	memcpy(a, "abcdef", 6);
	memcpy(b, "ghijkl", 6);
	set(&f->desc[0], DATA, 6, VRING_DESC_F_NEXT, 1);
	set(&f->desc[1], DATA + 100, 6, VRING_DESC_F_NEXT, 2);
	set(&f->desc[2], DATA + 200, 3, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 3);
	set(&f->desc[3], DATA + 300, 3, VRING_DESC_F_WRITE, 0);
	offer(f, 0);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);

	assert_int_equal(virtq_copy_out(&f->c, 4, buf, 5), 5);
	assert_memory_equal(buf, "efghi", 5);
	assert_int_equal(virtq_copy_out(&f->c, 10, buf, 16), 2);
	assert_memory_equal(buf, "kl", 2);
	assert_int_equal(virtq_copy_out(&f->c, 12, buf, 16), 0);

	assert_int_equal(virtq_copy_in(&f->c, 1, "12345678", 8), 5);
	assert_memory_equal(guest_mem_ptr(f->mem, DATA + 201, 2), "12", 2);
	assert_memory_equal(guest_mem_ptr(f->mem, DATA + 300, 4), "345\0", 4);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(pop_of_an_empty_ring_gives_nothing),
		TEST(pop_gives_readable_segments_then_writable_ones),
		TEST(pop_splits_a_buffer_that_crosses_ranges),
		TEST(pop_follows_an_indirect_table),
		TEST(unpop_gives_the_same_chain_again),
		TEST(pop_rejects_head_past_the_table),
		TEST(pop_rejects_next_past_the_table),
		TEST(pop_rejects_looping_chain),
		TEST(pop_rejects_index_that_jumps),
		TEST(pop_rejects_descriptor_of_no_bytes),
		TEST(pop_rejects_address_outside_ram),
		TEST(pop_rejects_address_that_wraps),
		TEST(pop_rejects_readable_after_writable),
		TEST(pop_rejects_more_segments_than_there_is_room),
		TEST(pop_rejects_more_chains_than_descriptors),
		TEST(pop_rejects_indirect_without_the_feature),
		TEST(pop_rejects_nested_indirect_table),
		TEST(pop_rejects_indirect_with_next),
		TEST(pop_rejects_table_of_odd_length),
		TEST(pop_rejects_table_of_no_entries),
		TEST(pop_rejects_table_outside_ram),
		TEST(pop_rejects_table_that_loops),
		TEST(start_rejects_what_is_not_a_ring),
		TEST(reset_forgets_what_was_broken),
		TEST(push_is_not_seen_before_flush),
		TEST(indices_wrap_at_65536),
		TEST(no_interrupt_flag_is_honoured),
		TEST(event_index_decides_about_interrupts),
		TEST(event_index_in_the_middle_of_a_batch_interrupts),
		TEST(kicks_off_and_on_use_the_flag),
		TEST(kicks_on_tells_of_chains_that_came_meanwhile),
		TEST(saved_queue_goes_on_where_it_was),
		TEST(load_refuses_what_cannot_be),
		TEST(what_we_write_is_marked_dirty),
		TEST(copies_go_across_segments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
