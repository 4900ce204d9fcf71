/* Every state we start a processor in passes the manuals' checks, and each rule bites. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "vmm/hypervisor/x86.h"

#define PHYS_BITS 46

static struct x86_vcpu_state boot_state(enum fw_entry entry)
{
	const struct fw_start start = {
		.entry = entry,
		.rip = 0x1000200,
		.rsi = FW_ZERO_PAGE_ADDR,
		.rsp = FW_STACK_ADDR,
		.cr3 = entry == FW_ENTRY_LINUX64 ? FW_PAGE_TABLE_ADDR : 0,
	};
	struct x86_vcpu_state state;

	/* What was there before must not shine through. */
	memset(&state, 0xa5, sizeof(state));
	x86_boot_state(&state, &start);
	return state;
}

static void expect_valid(const struct x86_vcpu_state *state)
{
	struct error err = { 0 };

	if (x86_check_vmx(state, PHYS_BITS, &err) < 0 || x86_check_svm(state, PHYS_BITS, &err) < 0)
		fail_msg("%s", err.msg);
}

static void expect_vmx_breaks(const struct x86_vcpu_state *state, const char *what)
{
	struct error err = { 0 };

	assert_int_equal(x86_check_vmx(state, PHYS_BITS, &err), -EINVAL);
	if (!strstr(err.msg, what))
		fail_msg("'%s' does not name '%s'", err.msg, what);
}

static void expect_both_break(const struct x86_vcpu_state *state, const char *what)
{
	struct error err = { 0 };

	expect_vmx_breaks(state, what);
	assert_int_equal(x86_check_svm(state, PHYS_BITS, &err), -EINVAL);
	if (!strstr(err.msg, what))
		fail_msg("'%s' does not name '%s'", err.msg, what);
}

static void linux_entry_is_a_valid_guest_state(void **unused)
{
	struct x86_vcpu_state state = boot_state(FW_ENTRY_LINUX64);

	expect_valid(&state);
}

static void pvh_entry_is_a_valid_guest_state(void **unused)
{
	struct x86_vcpu_state state = boot_state(FW_ENTRY_PVH);

	expect_valid(&state);
}

static void reset_state_is_a_valid_guest_state(void **unused)
{
	struct x86_vcpu_state state = boot_state(FW_ENTRY_RESET);

	expect_valid(&state);
}

/* One state each, with one thing wrong, and the register that must be named. */
#define BREAK(check, entry, register, change)                                                      \
	do {                                                                                       \
		struct x86_vcpu_state st = boot_state(entry);                                      \
		__unused struct kvm_sregs *s = &st.sregs;                                          \
		__unused struct kvm_regs *r = &st.regs;                                            \
												   \
		change;                                                                            \
		check(&st, register);                                                              \
	} while (0)

static void control_register_rules_bite_on_both(void **unused)
{
	BREAK(expect_both_break, FW_ENTRY_LINUX64, "CR0", s->cr0 |= 1ull << 32);
	BREAK(expect_both_break, FW_ENTRY_LINUX64, "CR0", s->cr0 |= 1ull << 17);
	BREAK(expect_both_break, FW_ENTRY_PVH, "CR0", s->cr0 |= X86_CR0_NW);
	BREAK(expect_both_break, FW_ENTRY_LINUX64, "CR0", s->cr0 &= ~X86_CR0_PE);
	BREAK(expect_both_break, FW_ENTRY_LINUX64, "CR4", s->cr4 &= ~X86_CR4_PAE);
	BREAK(expect_both_break, FW_ENTRY_LINUX64, "CR4", s->cr4 |= 1ull << 15);
	BREAK(expect_both_break, FW_ENTRY_LINUX64, "CR4", s->cr4 |= 1ull << 63);
	BREAK(expect_both_break, FW_ENTRY_LINUX64, "CR3", s->cr3 |= 1ull << PHYS_BITS);
	BREAK(expect_both_break, FW_ENTRY_LINUX64, "EFER", s->efer &= ~X86_EFER_LMA);
	BREAK(expect_both_break, FW_ENTRY_PVH, "EFER", s->efer |= X86_EFER_LMA);
	BREAK(expect_both_break, FW_ENTRY_PVH, "EFER", s->efer |= 1ull << 1);
	BREAK(expect_both_break, FW_ENTRY_LINUX64, "CS", s->cs.db = 1);
	BREAK(expect_both_break, FW_ENTRY_PVH, "CS", (s->cs.l = 1, s->cs.db = 0));
}

static void control_register_rules_of_vmx_bite(void **unused)
{
	BREAK(expect_vmx_breaks, FW_ENTRY_PVH, "CR4", s->cr4 |= 1ull << 17);
	BREAK(expect_vmx_breaks, FW_ENTRY_PVH, "CR4", s->cr4 |= 1ull << 23);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "EFER", s->efer |= 1ull << 12);
}

static void code_segment_rules_bite(void **unused)
{
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "CS", s->cs.type = 0xa);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "CS", s->cs.unusable = 1);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "CS", s->cs.present = 0);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "CS", s->cs.s = 0);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "CS", s->cs.dpl = 3);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "CS", s->cs.base = 1ull << 32);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "CS", s->cs.g = 0);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "CS", s->cs.limit = 0xfffffffe);
	BREAK(expect_vmx_breaks, FW_ENTRY_PVH, "CS", (s->cs.type = 13, s->cs.dpl = 1));
	BREAK(expect_vmx_breaks, FW_ENTRY_RESET, "CS", (s->cs.type = 3, s->cs.dpl = 1));
}

static void stack_and_data_segment_rules_bite(void **unused)
{
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "SS", s->ss.type = 1);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "SS", s->ss.present = 0);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "SS", s->ss.base = 1ull << 40);
	/* CS of type 3, so that its own rule about DPL does not come first. */
	BREAK(expect_vmx_breaks, FW_ENTRY_RESET, "SS", (s->cs.type = 3, s->ss.dpl = 3));
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "DS", s->ds.type = 2);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "ES", s->es.type = 9);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "FS", s->fs.base = 1ull << 47);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "GS",
	      (s->gs.unusable = 1, s->gs.base = 1ull << 63));
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "DS", s->ds.g = 0);
}

static void system_segment_rules_bite(void **unused)
{
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "TR", s->tr.type = 9);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "TR", s->tr.type = 3);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "TR", s->tr.unusable = 1);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "TR", s->tr.selector |= 4);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "TR", s->tr.base = 1ull << 50);
	BREAK(expect_vmx_breaks, FW_ENTRY_RESET, "LDTR", s->ldt.type = 3);
	BREAK(expect_vmx_breaks, FW_ENTRY_RESET, "LDTR", s->ldt.present = 0);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "GDTR", s->gdt.base = 1ull << 48);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "IDTR", s->idt.base = 1ull << 48);
}

static void a_sixteen_bit_tss_is_fine_outside_of_long_mode(void **unused)
{
	struct x86_vcpu_state state = boot_state(FW_ENTRY_PVH);

	state.sregs.tr.type = 3;
	expect_valid(&state);
}

static void rip_and_rflags_rules_bite(void **unused)
{
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "RIP", r->rip = 1ull << 47);
	BREAK(expect_vmx_breaks, FW_ENTRY_PVH, "RIP", r->rip = 1ull << 32);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "RFLAGS", r->rflags = 0);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "RFLAGS", r->rflags |= 1ull << 22);
	BREAK(expect_vmx_breaks, FW_ENTRY_LINUX64, "RFLAGS", r->rflags |= 1ull << 3);
}

static void virtual_8086_mode_needs_its_segments(void **unused)
{
	struct x86_vcpu_state state = boot_state(FW_ENTRY_PVH);
	const struct kvm_segment v86 = {
		.selector = 0x1234,
		.base = 0x12340,
		.limit = 0xffff,
		.type = 3,
		.s = 1,
		.dpl = 3,
		.present = 1,
	};
	struct kvm_sregs *s = &state.sregs;

	state.regs.rflags |= 1ull << 17;
	expect_vmx_breaks(&state, "CS");
	s->cs = s->ds = s->es = s->fs = s->gs = s->ss = v86;
	expect_valid(&state);
	s->es.base++;
	expect_vmx_breaks(&state, "ES");
	s->es = v86;
	s->gs.limit = 0xfffff;
	expect_vmx_breaks(&state, "GS");
}

static void five_level_paging_widens_canonical_addresses(void **unused)
{
	struct x86_vcpu_state state = boot_state(FW_ENTRY_LINUX64);

	state.regs.rip = 1ull << 50;
	expect_vmx_breaks(&state, "RIP");
	state.sregs.cr4 |= 1ull << 12;
	expect_valid(&state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(linux_entry_is_a_valid_guest_state),
		cmocka_unit_test(pvh_entry_is_a_valid_guest_state),
		cmocka_unit_test(reset_state_is_a_valid_guest_state),
		cmocka_unit_test(control_register_rules_bite_on_both),
		cmocka_unit_test(control_register_rules_of_vmx_bite),
		cmocka_unit_test(code_segment_rules_bite),
		cmocka_unit_test(stack_and_data_segment_rules_bite),
		cmocka_unit_test(system_segment_rules_bite),
		cmocka_unit_test(a_sixteen_bit_tss_is_fine_outside_of_long_mode),
		cmocka_unit_test(rip_and_rflags_rules_bite),
		cmocka_unit_test(virtual_8086_mode_needs_its_segments),
		cmocka_unit_test(five_level_paging_widens_canonical_addresses),
	};

	return cmocka_run_group_tests_name("vmentry", tests, NULL, NULL);
}
