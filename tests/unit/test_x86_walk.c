/* Guest page tables, walked in software. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vmm/hypervisor/x86_walk.h"

#define RAM_BYTES (8 * MiB)
#define PRESENT	  1ull
#define LARGE	  (1ull << 7)
#define KERNEL	  0xffffffff81000000ull

enum { PML5 = 0x1000, PML4 = 0x2000, PDPT = 0x3000, PD = 0x4000, PT = 0x5000 };

struct tables {
	struct guest_mem *mem;
	struct kvm_sregs sregs;
};

static void set(struct tables *t, uint64_t table, uint64_t linear, unsigned level, uint64_t entry)
{
	uint64_t index = linear >> (12 + 9 * (level - 1)) & 511;

	assert_int_equal(guest_mem_write(t->mem, table + index * 8, &entry, 8), 0);
}

static int setup(void **state)
{
	static struct tables t;
	struct guest_mem_range range = { .size = RAM_BYTES };
	struct error err = { 0 };

	assert_int_equal(guest_mem_create(&t.mem, GUEST_MEM_ANON, &range, 1, &err), 0);
	t.sregs = (struct kvm_sregs){
		.cr0 = X86_CR0_PG | X86_CR0_PE,
		.cr3 = PML4 | 0xfff, /* PCID and flags are not part of the address */
		.cr4 = X86_CR4_PAE,
		.efer = X86_EFER_LME | X86_EFER_LMA,
	};
	/* Two 4 KiB pages of the kernel, in reverse order, then a 2 MiB page. */
	set(&t, PML4, KERNEL, 4, PDPT | PRESENT);
	set(&t, PDPT, KERNEL, 3, PD | PRESENT);
	set(&t, PD, KERNEL, 2, PT | PRESENT);
	set(&t, PT, KERNEL, 1, 0x101000 | PRESENT);
	set(&t, PT, KERNEL + PAGE_SIZE, 1, 0x100000 | PRESENT);
	set(&t, PD, KERNEL + 2 * MiB, 2, 0x400000 | PRESENT | LARGE);
	set(&t, PD, KERNEL + 4 * MiB, 2, 0x600000 | PRESENT | LARGE);
	/* A device. */
	set(&t, PD, KERNEL + 6 * MiB, 2, 0xfee00000 | PRESENT | LARGE);
	*state = &t;
	return 0;
}

static int teardown(void **state)
{
	guest_mem_free(((struct tables *)*state)->mem);
	return 0;
}

static uint64_t walk(struct tables *t, uint64_t linear)
{
	return x86_walk(t->mem, &t->sregs, linear, NULL, NULL);
}

static void pages_of_each_size_are_translated(void **state)
{
	struct tables *t = *state;

	assert_int_equal(walk(t, KERNEL + 0x123), 0x101123);
	assert_int_equal(walk(t, KERNEL + PAGE_SIZE), 0x100000);
	assert_int_equal(walk(t, KERNEL + 2 * MiB + 0x12345), 0x412345);
	assert_int_equal(walk(t, KERNEL + 2 * PAGE_SIZE), UINT64_MAX);
	assert_int_equal(walk(t, 0), UINT64_MAX);
}

static void five_levels_have_one_more(void **state)
{
	struct tables *t = *state;

	set(t, PML5, KERNEL, 5, PML4 | PRESENT);
	t->sregs.cr3 = PML5;
	t->sregs.cr4 |= 1 << 12;
	assert_int_equal(walk(t, KERNEL + 1), 0x101001);
}

static void without_paging_linear_is_physical(void **state)
{
	struct tables *t = *state;

	t->sregs.cr0 = X86_CR0_PE;
	assert_int_equal(walk(t, 0x1234), 0x1234);
}

static void tables_outside_of_ram_end_the_walk(void **state)
{
	struct tables *t = *state;

	set(t, PD, KERNEL, 2, (1ull << 40) | PRESENT);
	assert_int_equal(walk(t, KERNEL), UINT64_MAX);
}

static void copies_follow_pages_and_stop_where_they_end(void **state)
{
	struct tables *t = *state;
	uint8_t buf[16];

	assert_int_equal(x86_linear_write(t->mem, &t->sregs, KERNEL + PAGE_SIZE - 4, "abcdefgh", 8),
			 8);
	assert_int_equal(guest_mem_read(t->mem, 0x101ffc, buf, 4), 0);
	assert_memory_equal(buf, "abcd", 4);
	assert_int_equal(guest_mem_read(t->mem, 0x100000, buf, 4), 0);
	assert_memory_equal(buf, "efgh", 4);
	assert_int_equal(x86_linear_read(t->mem, &t->sregs, KERNEL + 2 * PAGE_SIZE - 4, buf, 8), 4);
	assert_int_equal(x86_linear_read(t->mem, &t->sregs, KERNEL + 6 * MiB, buf, 8), 0);
}

static void mappings_are_collected_and_joined(void **state)
{
	struct tables *t = *state;
	struct x86_mapping map[8];

	assert_int_equal(x86_walk_all(t->mem, &t->sregs, 0xffff800000000000ull, map, 8), 3);
	assert_int_equal(map[0].linear, KERNEL);
	assert_int_equal(map[0].gpa, 0x101000);
	assert_int_equal(map[0].size, PAGE_SIZE);
	assert_int_equal(map[1].linear, KERNEL + PAGE_SIZE);
	assert_int_equal(map[2].linear, KERNEL + 2 * MiB);
	assert_int_equal(map[2].size, 4 * MiB);
	/* What does not fit is counted. */
	assert_int_equal(x86_walk_all(t->mem, &t->sregs, 0, map, 1), 3);
}

static void tables_in_a_circle_come_to_an_end(void **state)
{
	struct tables *t = *state;
	static struct x86_mapping map[64];

	for (unsigned i = 0; i < 512; i++)
		set(t, PML4, (uint64_t)i << 39, 4, PML4 | PRESENT);
	x86_walk_all(t->mem, &t->sregs, 0, map, ARRAY_SIZE(map));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(pages_of_each_size_are_translated),
		TEST(five_levels_have_one_more),
		TEST(without_paging_linear_is_physical),
		TEST(tables_outside_of_ram_end_the_walk),
		TEST(copies_follow_pages_and_stop_where_they_end),
		TEST(mappings_are_collected_and_joined),
		TEST(tables_in_a_circle_come_to_an_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
