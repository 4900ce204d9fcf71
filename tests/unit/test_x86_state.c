/* Processors in sections of state, and what enemies write instead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "vmm/core/state.h"
#include "vmm/hypervisor/x86_msr_set.h"
#include "vmm/hypervisor/x86_state.h"

static struct x86_saved_vcpu *some_vcpu(void)
{
	struct x86_saved_vcpu *v = calloc(1, sizeof(*v));

	assert_non_null(v);
	v->regs.regs.rip = 0x1234567890;
	v->regs.regs.rflags = 0x202;
	v->regs.sregs.cs = (struct kvm_segment){ .base = 5,
						 .limit = 6,
						 .selector = 7,
						 .type = 11,
						 .present = 1,
						 .l = 1,
						 .s = 1,
						 .g = 1 };
	v->regs.sregs.cr0 = 0x80050033;
	v->regs.sregs.efer = 0xd01;
	v->has_pdptrs = true;
	v->pdptr[3] = 77;
	v->mp_state = KVM_MP_STATE_HALTED;
	v->events.nmi.masked = 1;
	v->events.flags = KVM_VCPUEVENT_VALID_SHADOW;
	v->debug.dr7 = 0x400;
	v->xcrs.nr_xcrs = 1;
	v->xcrs.xcrs[0].value = 7;
	v->lapic[0x30] = 9;
	v->tsc = 0x123456789abc;
	v->xsave_bytes = 4096;
	v->xsave[512] = 3;
	v->xsave[4095] = 4;
	v->num_msrs = 2;
	v->msr[0].index = 0x277;
	v->msr[1].index = 0x6e0;
	v->msr[1].data = 55;
	return v;
}

static int pass_through(const struct x86_saved_vcpu *v, struct x86_saved_vcpu *back,
			struct error *err)
{
	struct state_reader r;
	struct state_writer w;
	size_t pos = 0;
	int ret;

	state_writer_init(&w);
	state_begin(&w, "vcpu", 0, 1);
	x86_vcpu_write(v, &w);
	state_end(&w);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, err), 1);
	x86_vcpu_read(back, &r);
	ret = state_reader_end(&r, err);
	state_writer_done(&w);
	return ret;
}

static void vcpu_comes_back_as_it_was(void **unused)
{
	struct x86_saved_vcpu *v = some_vcpu(), *back = calloc(1, sizeof(*back));
	struct error err = { 0 };

	assert_non_null(back);
	assert_int_equal(pass_through(v, back, &err), 0);
	assert_memory_equal(v, back, sizeof(*v));
	free(v);
	free(back);
}

#define REFUSES(member, value, what)                                                      \
	do {                                                                              \
		struct x86_saved_vcpu *v = some_vcpu(), *back = calloc(1, sizeof(*back)); \
		struct error err = { 0 };                                                 \
		assert_non_null(back);                                                    \
		v->member = (value);                                                      \
		assert_int_equal(pass_through(v, back, &err), -EBADMSG);                  \
		if (!strstr(err.msg, what))                                               \
			fail_msg("'%s' does not name '%s'", err.msg, what);               \
		free(v);                                                                  \
		free(back);                                                               \
	} while (0)

static void vcpu_that_no_processor_can_be_is_refused(void **unused)
{
	REFUSES(regs.regs.rflags, 0, "RFLAGS");
	REFUSES(regs.regs.rflags, 1ull << 40 | 2, "RFLAGS");
	REFUSES(regs.sregs.cr0, 1ull << 32, "CR0");
	REFUSES(regs.sregs.cr8, 16, "CR8");
	REFUSES(regs.sregs.ss.type, 16, "type 16");
	REFUSES(regs.sregs.tr.present, 2, "flag is 2");
	REFUSES(mp_state, 9, "processor state 9");
	REFUSES(events.exception.nr, 32, "exception 32");
	REFUSES(events.flags, 1u << 31, "event flags");
	REFUSES(events.smi.smm, 1, "system management");
	REFUSES(events.sipi_vector, 256, "start-up vector");
	REFUSES(debug.dr7, 1ull << 33, "DR7");
	REFUSES(xcrs.xcrs[0].value, 6, "XCR0");
	REFUSES(xcrs.xcrs[0].xcr, 1, "XCR1");
	REFUSES(xsave[520], 1, "XSAVE");
	REFUSES(xsave_bytes, 100, "XSAVE");
	REFUSES(msr[1].index, 0x277, "MSR 0x277 is there twice");
	REFUSES(msr[0].index, 0x6e0, "MSR 0x6e0 is there twice");
}

static void register_0_may_not_be_there_twice_either(void **unused)
{
	struct x86_saved_vcpu *v = some_vcpu(), *back = calloc(1, sizeof(*back));
	struct error err = { 0 };

	assert_non_null(back);
	v->msr[0].index = 0;
	assert_int_equal(pass_through(v, back, &err), 0);
	v->msr[1].index = 0;
	assert_int_equal(pass_through(v, back, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "MSR 0 is there twice"));
	free(v);
	free(back);
}

/* As many as can be, all of which want one place, and the last ones that there are. */
static void set_of_registers_holds_whatever_was_added(void **unused)
{
	struct x86_msr_set set = { 0 };
	uint32_t index[X86_MAX_SAVED_MSRS];
	unsigned num = 0;

	for (uint32_t i = 1; num < X86_MAX_SAVED_MSRS - 3; i++)
		if (i * 0x9e3779b1u >> 22 == X86_MSR_SET_SLOTS - 1)
			index[num++] = i;
	index[num++] = 0;
	index[num++] = UINT32_MAX;
	index[num++] = UINT32_MAX - 1;
	for (unsigned i = 0; i < num; i++) {
		assert_false(x86_msr_set_has(&set, index[i]));
		assert_true(x86_msr_set_add(&set, index[i]));
		assert_false(x86_msr_set_add(&set, index[i]));
	}
	for (unsigned i = 0; i < num; i++) {
		assert_true(x86_msr_set_has(&set, index[i]));
		/* Those between were not added. */
		if (i && i < num - 3)
			assert_false(x86_msr_set_has(&set, index[i] + 1));
	}
}

static void guest_goes_only_where_its_features_are(void **unused)
{
	struct x86_cpuid here = { .num = 2 }, there;
	struct error err = { 0 };

	here.entry[0] = (struct kvm_cpuid_entry2){ .function = 0, .ebx = 1, .ecx = 2, .edx = 3 };
	here.entry[1] = (struct kvm_cpuid_entry2){ .function = 1, .ecx = 0xffff };
	there = here;
	assert_int_equal(x86_cpuid_covers(&here, &there, &err), 0);
	there.entry[1].ecx = 1;
	assert_int_equal(x86_cpuid_covers(&here, &there, &err), 0);
	there.entry[1].ecx = 1u << 28 | 1u << 20 | 1u << 25;
	assert_int_equal(x86_cpuid_covers(&here, &there, &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "avx"));
	assert_non_null(strstr(err.msg, "sse4.2"));
	assert_non_null(strstr(err.msg, "CPUID 1.0 ecx bit 25"));
	there = here;
	there.entry[0].ebx = 7;
	assert_int_equal(x86_cpuid_covers(&here, &there, &err), -ENOTSUP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vcpu_comes_back_as_it_was),
		cmocka_unit_test(vcpu_that_no_processor_can_be_is_refused),
		cmocka_unit_test(register_0_may_not_be_there_twice_either),
		cmocka_unit_test(set_of_registers_holds_whatever_was_added),
		cmocka_unit_test(guest_goes_only_where_its_features_are),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
