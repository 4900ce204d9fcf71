/* The split ring and a driver that breaks each of the rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>

#include "tests/unit/split_ring.h"

static void assert_broken(struct split_ring *f)
{
	assert_int_equal(virtq_pop(&f->q, &f->c), -EBADMSG);
	assert_non_null(f->q.why_broken);
	/* And it stays so, whatever the driver mends. */
	memset(f->desc, 0, RING_SIZE * sizeof(*f->desc));
	split_ring_offer_plain(f, 0);
	assert_int_equal(virtq_pop(&f->q, &f->c), -EBADMSG);
	assert_false(virtq_has_work(&f->q));
	assert_int_equal(f->q.stats.errors, 1);
}

static void pop_rejects_head_past_the_table(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_offer(f, RING_SIZE);
	assert_broken(f);
}

static void pop_rejects_next_past_the_table(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_set(&f->desc[0], RING_DATA, 8, VRING_DESC_F_NEXT, RING_SIZE);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_looping_chain(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_set(&f->desc[0], RING_DATA, 8, VRING_DESC_F_NEXT, 1);
	split_ring_set(&f->desc[1], RING_DATA, 8, VRING_DESC_F_NEXT, 0);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_index_that_jumps(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_offer_plain(f, 0);
	f->avail->idx = RING_SIZE + 1;
	assert_broken(f);
}

static void pop_rejects_descriptor_of_no_bytes(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_set(&f->desc[0], RING_DATA, 0, 0, 0);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_address_outside_ram(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_set(&f->desc[0], RING_RAM - 8, 9, 0, 0);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_address_that_wraps(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_set(&f->desc[0], UINT64_MAX - 3, 64, 0, 0);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_readable_after_writable(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_set(&f->desc[0], RING_DATA, 8, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	split_ring_set(&f->desc[1], RING_DATA, 8, 0, 0);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_more_segments_than_there_is_room(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, RING_INDIRECT);
	for (unsigned i = 0; i <= RING_MAX_IOV; i++)
		split_ring_set(&f->table[i], RING_DATA, 8, i < RING_MAX_IOV ? VRING_DESC_F_NEXT : 0,
			       i + 1);
	split_ring_set(&f->desc[0], RING_TABLE, (RING_MAX_IOV + 1) * 16, VRING_DESC_F_INDIRECT, 0);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_more_chains_than_descriptors(void **state)
{
	struct split_ring *f = *state;
	unsigned i;

	/* Never returning one, the driver goes on offering: memory for requests has a bound. */
	split_ring_start(f, 0);
	for (i = 0; i < RING_SIZE; i++) {
		split_ring_offer_plain(f, i);
		assert_int_equal(virtq_pop(&f->q, &f->c), 1);
	}
	split_ring_offer_plain(f, 0);
	assert_broken(f);
}

static void pop_rejects_indirect_without_the_feature(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_set(&f->table[0], RING_DATA, 8, 0, 0);
	split_ring_set(&f->desc[0], RING_TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_nested_indirect_table(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, RING_INDIRECT);
	split_ring_set(&f->table[0], RING_TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	split_ring_set(&f->desc[0], RING_TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_indirect_with_next(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, RING_INDIRECT);
	split_ring_set(&f->table[0], RING_DATA, 8, 0, 0);
	split_ring_set(&f->desc[0], RING_TABLE, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_table_of_odd_length(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, RING_INDIRECT);
	split_ring_set(&f->table[0], RING_DATA, 8, 0, 0);
	split_ring_set(&f->desc[0], RING_TABLE, 17, VRING_DESC_F_INDIRECT, 0);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_table_of_no_entries(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, RING_INDIRECT);
	split_ring_set(&f->desc[0], RING_TABLE, 0, VRING_DESC_F_INDIRECT, 0);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_table_outside_ram(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, RING_INDIRECT);
	split_ring_set(&f->desc[0], RING_RAM - 16, 32, VRING_DESC_F_INDIRECT, 0);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void pop_rejects_table_that_loops(void **state)
{
	struct split_ring *f = *state;

	split_ring_start(f, RING_INDIRECT);
	split_ring_set(&f->table[0], RING_DATA, 8, VRING_DESC_F_NEXT, 1);
	split_ring_set(&f->table[1], RING_DATA, 8, VRING_DESC_F_NEXT, 0);
	split_ring_set(&f->desc[0], RING_TABLE, 32, VRING_DESC_F_INDIRECT, 0);
	split_ring_offer(f, 0);
	assert_broken(f);
}

static void start_rejects_what_is_not_a_ring(void **state)
{
	static const struct {
		uint16_t size;
		uint64_t desc, driver, device;
	} bad[] = {
		{ 0, RING_DESC, RING_AVAIL, RING_USED },
		{ 3, RING_DESC, RING_AVAIL, RING_USED },
		{ 512, RING_DESC, RING_AVAIL, RING_USED }, /* larger than the maximum */
		{ RING_SIZE, RING_DESC + 8, RING_AVAIL, RING_USED },
		{ RING_SIZE, RING_DESC, RING_AVAIL + 1, RING_USED },
		{ RING_SIZE, RING_DESC, RING_AVAIL, RING_USED + 2 },
		{ RING_SIZE, RING_RAM - 64, RING_AVAIL, RING_USED },
		{ RING_SIZE, RING_DESC, RING_RAM, RING_USED },
		{ RING_SIZE, RING_DESC, RING_AVAIL, UINT64_MAX - 7 },
		{ RING_SIZE, RING_BOUNDARY - 16, RING_AVAIL, RING_USED },
	};
	struct split_ring *f = *state;

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
	struct split_ring *f = *state;

	split_ring_start(f, 0);
	split_ring_offer(f, RING_SIZE);
	assert_broken(f);
	virtq_stop(&f->q);
	virtq_reset(&f->q);
	assert_int_equal(f->q.size, 256);
	assert_false(f->q.ready);
	f->q.size = RING_SIZE;
	f->q.desc_gpa = RING_DESC;
	f->q.driver_gpa = RING_AVAIL;
	f->q.device_gpa = RING_USED;
	f->avail->idx = 0;
	split_ring_start(f, 0);
	split_ring_offer_plain(f, 1);
	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		split_ring_test(pop_rejects_head_past_the_table),
		split_ring_test(pop_rejects_next_past_the_table),
		split_ring_test(pop_rejects_looping_chain),
		split_ring_test(pop_rejects_index_that_jumps),
		split_ring_test(pop_rejects_descriptor_of_no_bytes),
		split_ring_test(pop_rejects_address_outside_ram),
		split_ring_test(pop_rejects_address_that_wraps),
		split_ring_test(pop_rejects_readable_after_writable),
		split_ring_test(pop_rejects_more_segments_than_there_is_room),
		split_ring_test(pop_rejects_more_chains_than_descriptors),
		split_ring_test(pop_rejects_indirect_without_the_feature),
		split_ring_test(pop_rejects_nested_indirect_table),
		split_ring_test(pop_rejects_indirect_with_next),
		split_ring_test(pop_rejects_table_of_odd_length),
		split_ring_test(pop_rejects_table_of_no_entries),
		split_ring_test(pop_rejects_table_outside_ram),
		split_ring_test(pop_rejects_table_that_loops),
		split_ring_test(start_rejects_what_is_not_a_ring),
		split_ring_test(reset_forgets_what_was_broken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
