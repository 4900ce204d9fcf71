/* The split ring and a driver that keeps the rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>

#include "tests/unit/split_ring.h"

/* size, ready, broken, three addresses, two positions, two wrap counters */
#define SAVED_SIZE (2 + 1 + 1 + 3 * 8 + 2 * 2 + 2)

/* ---- chains ---- */

static void pop_of_an_empty_ring_gives_nothing(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	assert_int_equal(virtq_pop(&f->q, &f->c), 0);
	assert_false(virtq_has_work(&f->q));
}

static void pop_gives_readable_segments_then_writable_ones(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_set(&f->desc[3], RING_DATA, 16, VRING_DESC_F_NEXT, 1);
	split_ring_set(&f->desc[1], RING_DATA + 0x100, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE,
		       6);
	split_ring_set(&f->desc[6], RING_DATA + 0x800, 1, VRING_DESC_F_WRITE, 0);
	split_ring_offer(f, 3);
	assert_true(virtq_has_work(&f->q));
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.id, 3);
	assert_int_equal(f->c.num_out, 1);
	assert_int_equal(f->c.num_in, 2);
	assert_int_equal(f->c.out_bytes, 16);
	assert_int_equal(f->c.in_bytes, 513);
	assert_ptr_equal(f->iov[1].iov_base, guest_mem_ptr(f->mem, RING_DATA + 0x100, 512));
	assert_int_equal(f->iov[2].iov_len, 1);
	assert_int_equal(virtq_pop(&f->q, &f->c), 0);
}

static void pop_splits_a_buffer_that_crosses_ranges(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_set(&f->desc[0], RING_BOUNDARY - 10, 30, VRING_DESC_F_WRITE, 0);
	split_ring_offer(f, 0);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.num_in, 2);
	assert_int_equal(f->iov[0].iov_len, 10);
	assert_int_equal(f->iov[1].iov_len, 20);
	assert_int_equal(f->c.in_bytes, 30);
}

static void pop_follows_an_indirect_table(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, RING_INDIRECT);
	/* Virtio 1.2, 2.7.5.3.2: direct ones may come before the table. */
	split_ring_set(&f->desc[0], RING_DATA, 8, VRING_DESC_F_NEXT, 2);
	split_ring_set(&f->desc[2], RING_TABLE, 3 * 16, VRING_DESC_F_INDIRECT, 0);
	split_ring_set(&f->table[0], RING_DATA + 16, 8, VRING_DESC_F_NEXT, 2);
	split_ring_set(&f->table[2], RING_DATA + 32, 8, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	split_ring_set(&f->table[1], RING_DATA + 48, 8, VRING_DESC_F_WRITE, 0);
	split_ring_offer(f, 0);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.id, 0);
	assert_int_equal(f->c.num_out, 2);
	assert_int_equal(f->c.num_in, 2);
}

static void unpop_gives_the_same_chain_again(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_offer_plain(f, 5);
	split_ring_offer_plain(f, 2);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.id, 2);
	virtq_unpop(&f->q, &f->c);
	assert_int_equal(f->q.inflight, 1);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.id, 2);
	assert_int_equal(virtq_pop(&f->q, &f->c), 0);
}

/* ---- returning chains ---- */

static void push_is_not_seen_before_flush(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_offer_plain(f, 4);
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
	struct split_ring *f = *state;
	unsigned i;

	split_ring_start(f, 0);
	for (i = 0; i < 65536 + 10; i++) {
		split_ring_offer_plain(f, i % RING_SIZE);
		assert_int_equal(virtq_pop(&f->q, &f->c), 1);
		assert_int_equal(f->c.id, i % RING_SIZE);
		virtq_push(&f->q, &f->c, i);
		assert_true(virtq_flush(&f->q));
		assert_int_equal(f->used->ring[i % RING_SIZE].len, i);
	}
	assert_int_equal(f->used->idx, 10);
}

static void no_interrupt_flag_is_honoured(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	f->avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	split_ring_offer_plain(f, 0);
	virtq_pop(&f->q, &f->c);
	virtq_push(&f->q, &f->c, 0);
	assert_false(virtq_flush(&f->q));
	assert_int_equal(f->q.stats.suppressed, 1);
}

/* Return one more chain and say whether that interrupts. */
static bool one_more(struct split_ring *f, unsigned i)
{
	split_ring_offer_plain(f, i % RING_SIZE);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	virtq_push(&f->q, &f->c, 0);
	return virtq_flush(&f->q);
}

static void event_index_decides_about_interrupts(void **state)
{
	struct split_ring *f = *state;
	uint16_t *used_event = &f->avail->ring[RING_SIZE];
	unsigned i;

	split_ring_start(f, RING_EVENT_IDX);
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
	struct split_ring *f = *state;
	unsigned i;

	split_ring_start(f, RING_EVENT_IDX);
	one_more(f, 0);
	f->avail->ring[RING_SIZE] = 2;
	for (i = 1; i < 5; i++) {
		split_ring_offer_plain(f, i);
		virtq_pop(&f->q, &f->c);
		virtq_push(&f->q, &f->c, 0);
	}
	assert_true(virtq_flush(&f->q));
}

/* ---- kicks ---- */

static void kicks_off_and_on_use_the_flag(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	assert_int_equal(f->used->flags, 0);
	virtq_kicks_off(&f->q);
	assert_int_equal(f->used->flags, VRING_USED_F_NO_NOTIFY);
	assert_false(virtq_kicks_on(&f->q));
	assert_int_equal(f->used->flags, 0);
}

static void kicks_on_tells_of_chains_that_came_meanwhile(void **state)
{
	struct split_ring *f = *state;
	uint16_t *avail_event = (uint16_t *)&f->used->ring[RING_SIZE];

	split_ring_start(f, RING_EVENT_IDX);
	virtq_kicks_off(&f->q);
	split_ring_offer_plain(f, 0);
	assert_true(virtq_kicks_on(&f->q));
	virtq_pop(&f->q, &f->c);
	assert_false(virtq_kicks_on(&f->q));
	/* The driver kicks when it makes the chain after the ones we know available. */
	assert_int_equal(*avail_event, 1);
}

/* ---- state and dirty pages ---- */

static void saved_queue_goes_on_where_it_was(void **state)
{
	struct split_ring *f = *state;
	struct state_reader r;
	struct state_writer w;
	struct virtq q;
	size_t pos = 0;

	split_ring_start(f, 0);
	one_more(f, 0);
	one_more(f, 1);
	split_ring_offer_plain(f, 2); /* not yet taken */
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
	split_ring_start(f, 0);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	assert_int_equal(f->c.id, 2);
	virtq_push(&f->q, &f->c, 0);
	virtq_flush(&f->q);
	assert_int_equal(f->used->idx, 3);
}

static void load_refuses_what_cannot_be(void **state)
{
	uint8_t good[SAVED_SIZE] = { RING_SIZE, 0, 1 };
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

static bool is_dirty(struct split_ring *f, uint64_t gpa)
{
	const struct guest_mem_range *range = &f->mem->range[gpa >= RING_BOUNDARY];
	uint64_t page = (gpa - range->gpa) / PAGE_SIZE;

	return range->dirty[page / 64] >> (page % 64) & 1;
}

static void what_we_write_is_marked_dirty(void **state)
{
	struct split_ring *f = *state;

	assert_int_equal(guest_mem_track_dirty(f->mem, true), 0);
	split_ring_start(f, 0);
	split_ring_set(&f->desc[0], RING_BOUNDARY - PAGE_SIZE, 3 * PAGE_SIZE, VRING_DESC_F_WRITE,
		       0);
	split_ring_offer(f, 0);
	virtq_pop(&f->q, &f->c);
	assert_false(is_dirty(f, RING_BOUNDARY));
	virtq_push(&f->q, &f->c, PAGE_SIZE + 1);
	virtq_flush(&f->q);
	assert_true(is_dirty(f, RING_USED));
	assert_true(is_dirty(f, RING_BOUNDARY - 1));
	assert_true(is_dirty(f, RING_BOUNDARY));
	assert_false(is_dirty(f, RING_BOUNDARY + PAGE_SIZE));
	assert_false(is_dirty(f, RING_AVAIL));
	guest_mem_track_dirty(f->mem, false);
}

/* ---- copying ---- */

static void copies_go_across_segments(void **state)
{
	struct split_ring *f = *state;
	uint8_t *a = guest_mem_ptr(f->mem, RING_DATA, 16),
		*b = guest_mem_ptr(f->mem, RING_DATA + 100, 16);
	char buf[16] = "";

	split_ring_start(f, 0);
	memcpy(a, "abcdef", 6);
	memcpy(b, "ghijkl", 6);
	split_ring_set(&f->desc[0], RING_DATA, 6, VRING_DESC_F_NEXT, 1);
	split_ring_set(&f->desc[1], RING_DATA + 100, 6, VRING_DESC_F_NEXT, 2);
	split_ring_set(&f->desc[2], RING_DATA + 200, 3, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 3);
	split_ring_set(&f->desc[3], RING_DATA + 300, 3, VRING_DESC_F_WRITE, 0);
	split_ring_offer(f, 0);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);

	assert_int_equal(virtq_copy_out(&f->c, 4, buf, 5), 5);
	assert_memory_equal(buf, "efghi", 5);
	assert_int_equal(virtq_copy_out(&f->c, 10, buf, 16), 2);
	assert_memory_equal(buf, "kl", 2);
	assert_int_equal(virtq_copy_out(&f->c, 12, buf, 16), 0);

	assert_int_equal(virtq_copy_in(&f->c, 1, "12345678", 8), 5);
	assert_memory_equal(guest_mem_ptr(f->mem, RING_DATA + 201, 2), "12", 2);
	assert_memory_equal(guest_mem_ptr(f->mem, RING_DATA + 300, 4), "345\0", 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		split_ring_test(pop_of_an_empty_ring_gives_nothing),
		split_ring_test(pop_gives_readable_segments_then_writable_ones),
		split_ring_test(pop_splits_a_buffer_that_crosses_ranges),
		split_ring_test(pop_follows_an_indirect_table),
		split_ring_test(unpop_gives_the_same_chain_again),
		split_ring_test(push_is_not_seen_before_flush),
		split_ring_test(indices_wrap_at_65536),
		split_ring_test(no_interrupt_flag_is_honoured),
		split_ring_test(event_index_decides_about_interrupts),
		split_ring_test(event_index_in_the_middle_of_a_batch_interrupts),
		split_ring_test(kicks_off_and_on_use_the_flag),
		split_ring_test(kicks_on_tells_of_chains_that_came_meanwhile),
		split_ring_test(saved_queue_goes_on_where_it_was),
		split_ring_test(load_refuses_what_cannot_be),
		split_ring_test(what_we_write_is_marked_dirty),
		split_ring_test(copies_go_across_segments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
