/* Memory that is plugged while the guest runs: who reaches what of it, and its log of changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/unit/fake_hv.h"
#include "vmm/core/dirty_log.h"
#include "vmm/core/guest_mem_later.h"

#define FIRST (4 * MiB)
#define GPA   (4 * GiB)
#define BLOCK (512 * KiB)
#define SLOT  (4 * BLOCK)
#define NUM   14 /* the last slot is half of one */
#define SIZE  (NUM * BLOCK)
#define LATER 1 /* the range */

struct fixture {
	struct hv *hv;
	struct guest_mem *mem;
};

static void begin(struct fixture *f, bool log_begins_full)
{
	const struct fake_hv_params params = { .log_begins_full = log_begins_full };
	const struct guest_mem_range ranges[] = {
		{ .size = FIRST },
		{ .gpa = GPA, .size = SIZE, .is_later = true },
	};

	f->hv = fake_hv_create(&params);
	assert_int_equal(guest_mem_create(&f->mem, GUEST_MEM_ANON, ranges, 2, NULL), 0);
	assert_int_equal(f->hv->ops->mem_set(f->hv, 0, 0, FIRST, f->mem->range[0].host, 0), 0);
	assert_int_equal(guest_mem_later_create(f->mem, f->hv, BLOCK, SLOT), 0);
}

static void end(struct fixture *f)
{
	guest_mem_free(f->mem);
	f->hv->ops->free(f->hv);
}

static uint64_t at(unsigned block)
{
	return GPA + block * BLOCK;
}

static int plug(struct fixture *f, unsigned block, unsigned num)
{
	return guest_mem_plug(f->mem, at(block), num * BLOCK);
}

static int unplug(struct fixture *f, unsigned block, unsigned num)
{
	return guest_mem_unplug(f->mem, at(block), num * BLOCK);
}

static bool guest_reaches(struct fixture *f, unsigned block)
{
	uint64_t x;

	return fake_hv_read(f->hv, at(block), &x, sizeof(x)) == 0;
}

static bool devices_reach(struct fixture *f, unsigned block)
{
	struct iovec iov;
	uint64_t x;
	bool found = guest_mem_ptr(f->mem, at(block), BLOCK);

	assert_int_equal(guest_mem_iov(f->mem, at(block), BLOCK, true, &iov, 1),
			 found ? 1 : -EFAULT);
	assert_int_equal(guest_mem_read(f->mem, at(block) + 8, &x, sizeof(x)),
			 found ? 0 : -EFAULT);
	assert_int_equal(guest_mem_write(f->mem, at(block) + 8, &(uint64_t){ 0 }, sizeof(x)),
			 found ? 0 : -EFAULT);
	return found;
}

static unsigned resident(struct fixture *f, unsigned block, unsigned num)
{
	unsigned char pages[SIZE >> PAGE_SHIFT];
	unsigned n = 0;

	assert_int_equal(mincore(f->mem->range[LATER].host + block * BLOCK, num * BLOCK, pages),
			 0);
	for (unsigned i = 0; i < num * BLOCK >> PAGE_SHIFT; i++)
		n += pages[i] & 1;
	return n;
}

/* ---- reach ---- */

static void nothing_is_in_reach_before_it_is_plugged(void **state)
{
	struct fixture f;

	begin(&f, false);
	for (unsigned i = 0; i < NUM; i++) {
		assert_false(guest_reaches(&f, i));
		assert_false(devices_reach(&f, i));
	}
	assert_int_equal(guest_mem_write(f.mem, 0x1000, "x", 1), 0);
	end(&f);
}

static void devices_reach_blocks_and_the_guest_their_slots(void **state)
{
	struct fixture f;

	begin(&f, false);
	assert_int_equal(plug(&f, 3, 2), 0);
	assert_int_equal(plug(&f, 13, 1), 0);
	for (unsigned i = 0; i < NUM; i++) {
		assert_int_equal(devices_reach(&f, i), i == 3 || i == 4 || i == 13);
		assert_int_equal(guest_reaches(&f, i), i < 8 || i >= 12);
	}
	/* An access from a block that is plugged into one that is not is no access at all. */
	assert_int_equal(guest_mem_write(f.mem, at(5) - 1, "xy", 2), -EFAULT);
	assert_int_equal(guest_mem_write(f.mem, at(4) - 1, "xy", 2), 0);
	assert_null(guest_mem_find(f.mem, at(4), 2 * BLOCK));
	end(&f);
}

static void what_a_guest_wrote_beside_what_it_had_goes_back_with_the_slot(void **state)
{
	struct fixture f;
	uint64_t x = 77;

	begin(&f, false);
	assert_int_equal(plug(&f, 4, 2), 0);
	memset(f.mem->range[LATER].host + 4 * BLOCK, 0x5a, 4 * BLOCK);
	assert_int_equal(unplug(&f, 4, 1), 0);
	assert_int_equal(resident(&f, 4, 1), 0);
	assert_int_equal(resident(&f, 5, 3), 3 * BLOCK >> PAGE_SHIFT);
	assert_true(guest_reaches(&f, 7));
	assert_int_equal(unplug(&f, 5, 1), 0);
	assert_int_equal(resident(&f, 0, NUM), 0);
	assert_false(guest_reaches(&f, 5));
	assert_int_equal(plug(&f, 7, 1), 0);
	assert_int_equal(fake_hv_read(f.hv, at(7), &x, sizeof(x)), 0);
	assert_int_equal(x, 0);
	end(&f);
}

static void what_the_hypervisor_has_no_slot_for_is_not_plugged(void **state)
{
	struct fixture f;

	begin(&f, false);
	/* Of three slots the third. */
	fake_hv_fail(f.hv, FAKE_HV_MEM_SET, 2, -ENOMEM);
	assert_int_equal(plug(&f, 2, 8), -ENOMEM);
	for (unsigned i = 0; i < NUM; i++) {
		assert_false(guest_reaches(&f, i));
		assert_false(devices_reach(&f, i));
	}
	assert_int_equal(plug(&f, 2, 8), 0);
	assert_true(guest_reaches(&f, 9));
	end(&f);
}

static void loading_plugs_exactly_what_was_and_gives_nothing_back(void **state)
{
	const uint64_t then = 1 << 1 | 1 << 8 | 1 << 13;
	struct fixture f;

	begin(&f, false);
	assert_int_equal(plug(&f, 0, 1), 0);
	assert_int_equal(plug(&f, 4, 1), 0);
	memset(f.mem->range[LATER].host, 0x5a, SIZE);
	assert_int_equal(guest_mem_plug_exactly(f.mem, &then), 0);
	for (unsigned i = 0; i < NUM; i++) {
		assert_int_equal(guest_reaches(&f, i), i < 4 || i >= 8);
		assert_int_equal(resident(&f, i, 1), BLOCK >> PAGE_SHIFT);
		assert_int_equal(devices_reach(&f, i), then >> i & 1);
	}
	assert_int_equal(unplug(&f, 1, 1), 0);
	assert_false(guest_reaches(&f, 0));
	end(&f);
}

static void copy_of_a_machine_begins_with_nothing_plugged(void **state)
{
	struct fixture f;
	struct hv *other = fake_hv_create(NULL);
	uint64_t x;

	begin(&f, false);
	assert_int_equal(plug(&f, 0, NUM), 0);
	assert_int_equal(guest_mem_later_create(f.mem, other, BLOCK, SLOT), 0);
	assert_false(devices_reach(&f, 0));
	assert_int_equal(plug(&f, 4, 1), 0);
	assert_int_equal(fake_hv_read(other, at(4), &x, sizeof(x)), 0);
	assert_int_not_equal(fake_hv_read(other, at(0), &x, sizeof(x)), 0);
	guest_mem_free(f.mem);
	f.hv->ops->free(f.hv);
	other->ops->free(other);
}

/* ---- changes ---- */

/* Is all of the block told to have changed, or nothing? Else the test fails. */
static bool changed(struct fixture *f, const uint64_t *words, unsigned block)
{
	const uint64_t *mine = words + dirty_log_first_word(f->mem, LATER);
	uint64_t num = BLOCK >> PAGE_SHIFT, n = 0;

	for (uint64_t i = block * num; i < (block + 1) * num; i++)
		n += mine[i / 64] >> i % 64 & 1;
	assert_true(n == 0 || n == num);
	return n;
}

static void write_all(struct fixture *f, unsigned block)
{
	for (uint64_t i = 0; i < BLOCK; i += PAGE_SIZE)
		assert_int_equal(fake_hv_write(f->hv, at(block) + i, "x", 1), 0);
}

static void what_is_written_in_slots_is_told_whenever_they_came(void **state)
{
	uint64_t words[(FIRST + SIZE) >> PAGE_SHIFT >> 6] = { 0 };
	struct fixture f;

	begin(&f, false);
	assert_int_equal(plug(&f, 0, 2), 0);
	assert_int_equal(dirty_log_start(f.mem, f.hv), 0);
	assert_int_equal(plug(&f, 12, 2), 0);
	write_all(&f, 1);
	write_all(&f, 13);
	assert_int_equal(dirty_log_take(f.mem, f.hv, words), 0);
	for (unsigned i = 0; i < NUM; i++)
		assert_int_equal(changed(&f, words, i), i == 1 || i == 13);
	memset(words, 0, sizeof(words));
	write_all(&f, 12);
	assert_int_equal(dirty_log_take(f.mem, f.hv, words), 0);
	for (unsigned i = 0; i < NUM; i++)
		assert_int_equal(changed(&f, words, i), i == 12);
	dirty_log_stop(f.mem, f.hv);
	end(&f);
}

static void what_went_with_its_slot_is_told_to_have_changed(void **state)
{
	uint64_t words[(FIRST + SIZE) >> PAGE_SHIFT >> 6] = { 0 };
	struct fixture f;

	begin(&f, false);
	assert_int_equal(plug(&f, 4, 2), 0);
	assert_int_equal(dirty_log_start(f.mem, f.hv), 0);
	write_all(&f, 5);
	write_all(&f, 6); /* which is not plugged, and in reach */
	assert_int_equal(unplug(&f, 4, 2), 0);
	assert_int_equal(dirty_log_take(f.mem, f.hv, words), 0);
	for (unsigned i = 4; i < 7; i++)
		assert_true(changed(&f, words, i));
	assert_false(changed(&f, words, 0));
	dirty_log_stop(f.mem, f.hv);
	end(&f);
}

static void log_is_cleared_across_slots(void **state)
{
	const uint64_t num = BLOCK >> PAGE_SHIFT;
	uint64_t words[(FIRST + SIZE) >> PAGE_SHIFT >> 6] = { 0 };
	uint64_t all[SIZE >> PAGE_SHIFT >> 6], got[SIZE >> PAGE_SHIFT >> 6] = { 0 };
	struct fixture f;

	begin(&f, true);
	assert_int_equal(plug(&f, 0, NUM), 0);
	assert_int_equal(unplug(&f, 5, 2), 0);
	assert_int_equal(dirty_log_start(f.mem, f.hv), 0);
	assert_int_equal(dirty_log_take(f.mem, f.hv, words), 0);
	for (unsigned i = 0; i < NUM; i++)
		write_all(&f, i);
	memset(all, 0xff, sizeof(all));
	/* From the second block on, as far as the one before the last. */
	assert_int_equal(dirty_log_clear(f.mem, f.hv, LATER, num, (NUM - 2) * num,
					 all + num / 64),
			 0);
	assert_int_equal(dirty_log_collect(f.mem, f.hv, LATER, got), 0);
	for (uint64_t i = 0; i < NUM * num; i++)
		assert_int_equal(got[i / 64] >> i % 64 & 1,
				 i / num == 0 || i / num == NUM - 1);
	dirty_log_stop(f.mem, f.hv);
	end(&f);
}

/* As of an option whose number is beyond all reason. */
static void one_slot_may_be_longer_than_all_there_is(void **state)
{
	uint64_t words[(FIRST + SIZE) >> PAGE_SHIFT >> 6] = { 0 };
	struct fixture f;

	begin(&f, false);
	assert_int_equal(guest_mem_later_create(f.mem, f.hv, BLOCK, -BLOCK), 0);
	assert_int_equal(dirty_log_start(f.mem, f.hv), 0);
	assert_int_equal(plug(&f, 3, 1), 0);
	assert_true(guest_reaches(&f, NUM - 1));
	write_all(&f, 3);
	assert_int_equal(dirty_log_take(f.mem, f.hv, words), 0);
	assert_true(changed(&f, words, 3));
	dirty_log_stop(f.mem, f.hv);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_in_reach_before_it_is_plugged),
		cmocka_unit_test(devices_reach_blocks_and_the_guest_their_slots),
		cmocka_unit_test(what_a_guest_wrote_beside_what_it_had_goes_back_with_the_slot),
		cmocka_unit_test(what_the_hypervisor_has_no_slot_for_is_not_plugged),
		cmocka_unit_test(loading_plugs_exactly_what_was_and_gives_nothing_back),
		cmocka_unit_test(copy_of_a_machine_begins_with_nothing_plugged),
		cmocka_unit_test(what_is_written_in_slots_is_told_whenever_they_came),
		cmocka_unit_test(what_went_with_its_slot_is_told_to_have_changed),
		cmocka_unit_test(log_is_cleared_across_slots),
		cmocka_unit_test(one_slot_may_be_longer_than_all_there_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
