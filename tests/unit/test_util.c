#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vmm/core/util.h"

static void range_inside_refuses_wrapping_ends(void **state)
{
	assert_true(range_inside(0, 0x1000, 0, 0x1000));
	assert_true(range_inside(0xfff, 1, 0, 0x1000));
	assert_false(range_inside(0xfff, 2, 0, 0x1000));
	assert_false(range_inside(0x1000, UINT64_MAX, 0, 0x2000));
	assert_false(range_inside(UINT64_MAX, 2, 0, UINT64_MAX));
	assert_false(range_inside(0x0fff, 1, 0x1000, 0x1000));
	assert_true(range_inside(UINT64_MAX - 0xfff, 0x1000, UINT64_MAX - 0xfff, 0x1000));
}

static void ranges_overlap_only_when_they_share_a_byte(void **state)
{
	assert_true(ranges_overlap(0, 2, 1, 2));
	assert_true(ranges_overlap(0, 10, 3, 1));
	assert_false(ranges_overlap(0, 2, 2, 2));
	assert_false(ranges_overlap(2, 2, 0, 2));
}

static void align_keeps_aligned_values(void **state)
{
	assert_int_equal(align_up(0x1000, 0x1000), 0x1000);
	assert_int_equal(align_up(0x1001, 0x1000), 0x2000);
	assert_int_equal(align_down(0x1fff, 0x1000), 0x1000);
	assert_false(is_power_of_two(0));
	assert_true(is_power_of_two(1ull << 63));
	assert_false(is_power_of_two(3));
}

static void little_endian_access_needs_no_alignment(void **state)
{
	uint8_t b[9] = { 0 };

	put_le64(b + 1, 0x1122334455667788);
	assert_int_equal(b[1], 0x88);
	assert_int_equal(b[8], 0x11);
	assert_int_equal(get_le32(b + 3), 0x33445566);
	put_le16(b + 1, 0xabcd);
	assert_int_equal(get_le16(b + 1), 0xabcd);
	assert_int_equal(get_le64(b + 1), 0x112233445566abcd);
}

struct item {
	int value;
	struct list link;
};

static void list_keeps_order_and_allows_removal_while_walking(void **state)
{
	struct item items[4];
	struct list head, *pos, *next;
	int sum = 0;

	list_init(&head);
	assert_true(list_empty(&head));
	for (int i = 0; i < 4; i++) {
		items[i].value = i;
		list_add_tail(&head, &items[i].link);
	}
	list_for_each_safe(pos, next, &head)
		if (list_entry(pos, struct item, link)->value % 2 == 0)
			list_del(pos);
	list_for_each(pos, &head)
		sum = sum * 10 + list_entry(pos, struct item, link)->value;
	assert_int_equal(sum, 13);
	list_del(&items[0].link); /* a second time: harmless */
	list_del(&items[1].link);
	list_del(&items[3].link);
	assert_true(list_empty(&head));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(range_inside_refuses_wrapping_ends),
		cmocka_unit_test(ranges_overlap_only_when_they_share_a_byte),
		cmocka_unit_test(align_keeps_aligned_values),
		cmocka_unit_test(little_endian_access_needs_no_alignment),
		cmocka_unit_test(list_keeps_order_and_allows_removal_while_walking),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
