/* Registers and tables of each entry. What the processor thinks of them: test_vmentry. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "vmm/hypervisor/x86.h"

static const struct fw_start linux64 = {
	.entry = FW_ENTRY_LINUX64,
	.rip = 0x1000200,
	.rsi = FW_ZERO_PAGE_ADDR,
	.rsp = FW_STACK_ADDR,
	.cr3 = FW_PAGE_TABLE_ADDR,
};
static const struct fw_start pvh = {
	.entry = FW_ENTRY_PVH,
	.rip = 0x1000850,
	.rbx = FW_PVH_INFO_ADDR,
};
static const struct fw_start reset = { .entry = FW_ENTRY_RESET };

static struct x86_vcpu_state state_of(const struct fw_start *start)
{
	struct x86_vcpu_state state;

	memset(&state, 0xff, sizeof(state));
	state.sregs.apic_base = 0xfee00900;
	x86_boot_state(&state, start);
	return state;
}

static struct guest_mem *memory(uint64_t size)
{
	const struct guest_mem_range range = { .gpa = 0, .size = size };
	struct guest_mem *mem = NULL;
	struct error err = { 0 };

	if (guest_mem_create(&mem, GUEST_MEM_ANON, &range, 1, &err) < 0)
		fail_msg("%s", err.msg);
	return mem;
}

static void linux64_starts_in_long_mode_as_its_protocol_says(void **unused)
{
	struct x86_vcpu_state s = state_of(&linux64);

	assert_int_equal(s.regs.rip, 0x1000200);
	assert_int_equal(s.regs.rsi, FW_ZERO_PAGE_ADDR);
	assert_int_equal(s.regs.rsp, FW_STACK_ADDR);
	assert_int_equal(s.regs.rflags, 2); /* interrupts off */
	assert_int_equal(s.sregs.cr3, FW_PAGE_TABLE_ADDR);
	assert_true(s.sregs.cr0 & X86_CR0_PG && s.sregs.cr0 & X86_CR0_PE);
	assert_int_equal(s.sregs.efer, X86_EFER_LME | X86_EFER_LMA);
	assert_int_equal(s.sregs.cs.selector, 0x10);
	assert_true(s.sregs.cs.l && !s.sregs.cs.db);
	assert_int_equal(s.sregs.ds.selector, 0x18);
	assert_int_equal(s.sregs.ss.selector, 0x18);
	assert_int_equal(s.sregs.es.selector, 0x18);
}

static void pvh_starts_flat_without_paging(void **unused)
{
	struct x86_vcpu_state s = state_of(&pvh);

	assert_int_equal(s.regs.rip, 0x1000850);
	assert_int_equal(s.regs.rbx, FW_PVH_INFO_ADDR);
	assert_int_equal(s.regs.rflags, 2);
	assert_int_equal(s.sregs.cr0, X86_CR0_PE | X86_CR0_ET);
	assert_int_equal(s.sregs.cr4, 0);
	assert_int_equal(s.sregs.efer, 0);
	assert_int_equal(s.sregs.cs.base, 0);
	assert_int_equal(s.sregs.cs.limit, 0xffffffff);
	assert_int_equal(s.sregs.cs.type, 0xb);
	assert_true(s.sregs.cs.db && !s.sregs.cs.l);
	assert_int_equal(s.sregs.ds.limit, 0xffffffff);
	assert_int_equal(s.sregs.tr.type, 0xb);
	assert_int_equal(s.sregs.tr.limit, 0x67);
}

static void reset_starts_at_the_reset_vector(void **unused)
{
	struct x86_vcpu_state s = state_of(&reset);

	assert_int_equal(s.sregs.cs.selector, 0xf000);
	assert_int_equal(s.sregs.cs.base + s.regs.rip, 0xfffffff0);
	assert_int_equal(s.sregs.cr0 & (X86_CR0_PE | X86_CR0_PG), 0);
	assert_int_equal(s.sregs.idt.limit, 0xffff);
}

static void nothing_of_an_earlier_state_remains(void **unused)
{
	const struct fw_start *const starts[] = { &linux64, &pvh, &reset };

	for (unsigned i = 0; i < ARRAY_SIZE(starts); i++) {
		struct x86_vcpu_state s = state_of(starts[i]);

		assert_int_equal(s.regs.rax | s.regs.r15 | s.regs.rbp, 0);
		assert_int_equal(s.sregs.cr2 | s.sregs.cr8, 0);
		for (unsigned j = 0; j < ARRAY_SIZE(s.sregs.interrupt_bitmap); j++)
			assert_int_equal(s.sregs.interrupt_bitmap[j], 0);
		assert_int_equal(s.sregs.apic_base, 0xfee00900); /* but this is KVM's */
	}
}

/* Does the descriptor in memory say what the hidden part of @seg says? */
static void check_descriptor(struct guest_mem *mem, const struct kvm_sregs *s,
			     const struct kvm_segment *seg)
{
	uint64_t d;

	assert_true(seg->selector + 7u <= s->gdt.limit);
	d = get_le64(guest_mem_ptr(mem, s->gdt.base + seg->selector, 8));
	assert_int_equal((d >> 16 & 0xffffff) | (d >> 56) << 24, seg->base);
	assert_int_equal((d & 0xffff) | (d >> 48 & 0xf) << 16,
			 seg->g ? seg->limit >> 12 : seg->limit);
	assert_int_equal(d >> 40 & 0xf, seg->type);
	assert_int_equal(d >> 44 & 1, seg->s);
	assert_int_equal(d >> 45 & 3, seg->dpl);
	assert_int_equal(d >> 47 & 1, seg->present);
	assert_int_equal(d >> 53 & 1, seg->l);
	assert_int_equal(d >> 54 & 1, seg->db);
	assert_int_equal(d >> 55 & 1, seg->g);
}

static void gdt_agrees_with_the_segment_registers(void **unused)
{
	const struct fw_start *const starts[] = { &linux64, &pvh };

	for (unsigned i = 0; i < ARRAY_SIZE(starts); i++) {
		struct x86_vcpu_state s = state_of(starts[i]);
		struct guest_mem *mem = memory(2 * MiB);

		assert_int_equal(x86_boot_tables(mem, starts[i]), 0);
		assert_int_equal(get_le64(guest_mem_ptr(mem, s.sregs.gdt.base, 8)), 0);
		check_descriptor(mem, &s.sregs, &s.sregs.cs);
		check_descriptor(mem, &s.sregs, &s.sregs.ds);
		check_descriptor(mem, &s.sregs, &s.sregs.ss);
		check_descriptor(mem, &s.sregs, &s.sregs.tr);
		/* In long mode a system descriptor has 16 bytes. */
		assert_true(s.sregs.tr.selector + 15u <= s.sregs.gdt.limit);
		guest_mem_free(mem);
	}
}

/* Walk the tables as the processor does; all ones where @addr is not mapped. */
static uint64_t translate(struct guest_mem *mem, uint64_t cr3, uint64_t addr)
{
	uint64_t table = cr3;

	for (unsigned shift = 39; shift >= 21; shift -= 9) {
		uint64_t e = get_le64(guest_mem_ptr(mem, table + (addr >> shift & 511) * 8, 8));

		if (!(e & 1))
			return UINT64_MAX;
		table = e & 0x000ffffffffff000;
		if (e & 0x80)
			return table + (addr & ((1ull << shift) - 1));
	}
	return UINT64_MAX;
}

static void page_tables_map_four_gib_to_themselves(void **unused)
{
	struct guest_mem *mem = memory(2 * MiB);

	assert_int_equal(x86_boot_tables(mem, &linux64), 0);
	for (uint64_t addr = 0; addr < 4 * GiB; addr += 2 * MiB - 4096)
		assert_int_equal(translate(mem, FW_PAGE_TABLE_ADDR, addr), addr);
	assert_int_equal(translate(mem, FW_PAGE_TABLE_ADDR, 4 * GiB - 1), 4 * GiB - 1);
	assert_int_equal(translate(mem, FW_PAGE_TABLE_ADDR, 4 * GiB), UINT64_MAX);
	assert_int_equal(translate(mem, FW_PAGE_TABLE_ADDR, 512 * GiB), UINT64_MAX);
	guest_mem_free(mem);
}

static void low_memory_structures_do_not_overlap(void **unused)
{
	/* Ascending; each as long as what is written there. */
	static const struct {
		uint64_t addr, size;
	} part[] = {
		{ FW_GDT_ADDR, 7 * 8 },
		{ FW_PVH_INFO_ADDR, PAGE_SIZE },
		{ FW_ZERO_PAGE_ADDR, PAGE_SIZE },
		{ FW_PAGE_TABLE_ADDR, 6 * PAGE_SIZE },
		{ FW_CMDLINE_ADDR, FW_CMDLINE_MAX },
		{ FW_LOW_RAM_END, 0 },
		{ FW_ACPI_ADDR, FW_ACPI_SIZE },
		{ FW_KERNEL_ADDR, 0 },
	};

	for (unsigned i = 1; i < ARRAY_SIZE(part); i++)
		assert_true(part[i - 1].addr + part[i - 1].size <= part[i].addr);
	/* The stack grows down from the end of its page, above the zero page. */
	assert_true(FW_STACK_ADDR > FW_ZERO_PAGE_ADDR + PAGE_SIZE);
	assert_true(FW_STACK_ADDR <= FW_PAGE_TABLE_ADDR);
}

static void reset_needs_no_tables(void **unused)
{
	struct guest_mem *mem = memory(2 * MiB);

	assert_int_equal(x86_boot_tables(mem, &reset), 0);
	assert_int_equal(get_le64(guest_mem_ptr(mem, FW_GDT_ADDR + 0x10, 8)), 0);
	guest_mem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(linux64_starts_in_long_mode_as_its_protocol_says),
		cmocka_unit_test(pvh_starts_flat_without_paging),
		cmocka_unit_test(reset_starts_at_the_reset_vector),
		cmocka_unit_test(nothing_of_an_earlier_state_remains),
		cmocka_unit_test(gdt_agrees_with_the_segment_registers),
		cmocka_unit_test(page_tables_map_four_gib_to_themselves),
		cmocka_unit_test(low_memory_structures_do_not_overlap),
		cmocka_unit_test(reset_needs_no_tables),
	};

	return cmocka_run_group_tests_name("x86", tests, NULL, NULL);
}
