/* CPUID tables made from a host's that is written down here: an Intel and an AMD one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "vmm/hypervisor/x86_cpuid.h"

#define TSC_KHZ 2600000

#define INDEXED KVM_CPUID_FLAG_SIGNIFCANT_INDEX

/* All that x86-64-v4 wants, and monitor, vmx, pdcm, osxsave of a host besides. */
static const struct kvm_cpuid_entry2 intel_entries[] = {
	{ .function = 0, .eax = 0x1f, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69 },
	{ .function = 1, .eax = 0x50657, .ebx = 0x17400800, .ecx = 0x7ffefbff, .edx = 0xbfebfbff },
	{ .function = 4, .index = 0, .flags = INDEXED, .eax = 0x7c00c121 },
	{ .function = 4, .index = 2, .flags = INDEXED, .eax = 0x7c00c143 },
	{ .function = 4, .index = 3, .flags = INDEXED, .eax = 0x7c3fc163 },
	{ .function = 4, .index = 4, .flags = INDEXED },
	{ .function = 7, .index = 0, .flags = INDEXED, .eax = 2, .ebx = 0xf3bfffff,
	  .ecx = 0x1e, .edx = 0xbc000400 },
	{ .function = 7, .index = 1, .flags = INDEXED, .eax = 0x30 },
	{ .function = 0xa, .eax = 0x07300404 },
	{ .function = 0xb, .index = 0, .flags = INDEXED, .eax = 1, .ebx = 2, .ecx = 0x100,
	  .edx = 0x17 },
	{ .function = 0xd, .index = 0, .flags = INDEXED, .eax = 0x2e7, .ebx = 2696, .ecx = 2696 },
	{ .function = 0xd, .index = 1, .flags = INDEXED, .eax = 0xf, .ecx = 0x100 },
	{ .function = 0xd, .index = 2, .flags = INDEXED, .eax = 256, .ebx = 576 },
	{ .function = 0xd, .index = 5, .flags = INDEXED, .eax = 64, .ebx = 1088 },
	{ .function = 0xd, .index = 6, .flags = INDEXED, .eax = 512, .ebx = 1152 },
	{ .function = 0xd, .index = 7, .flags = INDEXED, .eax = 1024, .ebx = 1664 },
	{ .function = 0xd, .index = 9, .flags = INDEXED, .eax = 8, .ebx = 2688 },
	{ .function = 0x1f, .index = 0, .flags = INDEXED, .eax = 1, .ebx = 2, .ecx = 0x100 },
	{ .function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b, .ecx = 0x564b4d56,
	  .edx = 0x4d },
	{ .function = 0x40000001, .eax = 0x01007afb },
	{ .function = 0x80000000, .eax = 0x80000008 },
	{ .function = 0x80000001, .ecx = 0x121, .edx = 0x2c100800 },
	{ .function = 0x80000002, .eax = 0x65746e49, .ebx = 0x2952286c },
	{ .function = 0x80000003 },
	{ .function = 0x80000004 },
	{ .function = 0x80000007, .edx = 0x100 },
	{ .function = 0x80000008, .eax = 0x302e, .ecx = 0x5555 },
};

static const struct kvm_cpuid_entry2 amd_entries[] = {
	{ .function = 0, .eax = 0xd, .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65 },
	{ .function = 1, .eax = 0x800f12, .ebx = 0x05080800, .ecx = 0xfed83203, .edx = 0x178bfbff },
	{ .function = 7, .index = 0, .flags = INDEXED, .ebx = 0x209c01a9 },
	{ .function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b, .ecx = 0x564b4d56,
	  .edx = 0x4d },
	{ .function = 0x40000001, .eax = 0x01007afb },
	{ .function = 0x80000000, .eax = 0x8000001f },
	{ .function = 0x80000001, .ecx = 0x35c237ff, .edx = 0x2fd3fbff },
	{ .function = 0x80000008, .eax = 0x3030, .ebx = 0x1007, .ecx = 0x700f },
	{ .function = 0x8000000a, .eax = 1, .ebx = 8, .edx = 0x1bcff },
	{ .function = 0x8000001d, .index = 0, .flags = INDEXED, .eax = 0x4121 },
	{ .function = 0x8000001d, .index = 3, .flags = INDEXED, .eax = 0x1c163 },
	{ .function = 0x8000001e, .eax = 7, .ebx = 0x103 },
};

static struct x86_cpuid host_of(const struct kvm_cpuid_entry2 *entries, unsigned num)
{
	struct x86_cpuid host = { .num = num };

	memcpy(host.entry, entries, num * sizeof(entries[0]));
	return host;
}

static struct x86_cpuid intel(void)
{
	return host_of(intel_entries, ARRAY_SIZE(intel_entries));
}

static struct x86_cpuid amd(void)
{
	return host_of(amd_entries, ARRAY_SIZE(amd_entries));
}

static struct x86_cpuid make(struct x86_cpuid host, enum x86_cpu_model model, unsigned num_cpus)
{
	struct error err = { 0 };
	struct x86_cpuid made;

	if (x86_cpuid_make(&made, &host, model, num_cpus, TSC_KHZ, &err) < 0)
		fail_msg("%s", err.msg);
	return made;
}

static struct kvm_cpuid_entry2 leaf(const struct x86_cpuid *c, uint32_t function, uint32_t index)
{
	const struct kvm_cpuid_entry2 *e = x86_cpuid_find(c, function, index);

	if (!e)
		fail_msg("no leaf 0x%x.%u", function, index);
	return *e;
}

static void no_leaf_is_there_twice(void **state)
{
	struct x86_cpuid c = make(intel(), X86_CPU_HOST, 4);

	for (unsigned i = 0; i < c.num; i++)
		for (unsigned j = i + 1; j < c.num; j++)
			assert_false(c.entry[i].function == c.entry[j].function &&
				     c.entry[i].index == c.entry[j].index);
}

static void guests_get_clocks_that_need_no_calibration(void **state)
{
	struct x86_cpuid c = make(intel(), X86_CPU_HOST, 1);

	assert_int_equal(leaf(&c, 0x40000000, 0).eax, 0x40000010);
	assert_int_equal(leaf(&c, 0x40000010, 0).eax, TSC_KHZ);
	assert_int_equal(leaf(&c, 0x40000010, 0).ebx, 1000000);
	/* crystal * numerator / denominator is the TSC's frequency. */
	assert_int_equal((uint64_t)leaf(&c, 0x15, 0).ecx * leaf(&c, 0x15, 0).ebx /
				 leaf(&c, 0x15, 0).eax,
			 TSC_KHZ * 1000ull);
	assert_int_equal(leaf(&c, 0x16, 0).eax, 2600);
	assert_true(leaf(&c, 0, 0).eax >= 0x16);
	assert_true(leaf(&c, 1, 0).ecx & 1u << 24); /* TSC deadline */
	assert_true(leaf(&c, 1, 0).ecx & 1u << 21); /* x2APIC */
	assert_true(leaf(&c, 1, 0).ecx & 1u << 31); /* hypervisor */
}

static void an_unknown_frequency_is_not_made_up(void **state)
{
	struct x86_cpuid host = intel(), c;
	struct error err = { 0 };

	assert_int_equal(x86_cpuid_make(&c, &host, X86_CPU_HOST, 1, 0, &err), 0);
	assert_null(x86_cpuid_find(&c, 0x15, 0));
	assert_null(x86_cpuid_find(&c, 0x40000010, 0));
	assert_int_equal(leaf(&c, 0x40000000, 0).eax, 0x40000001);
}

static void the_hypervisor_names_itself(void **state)
{
	struct x86_cpuid c = make(amd(), X86_CPU_HOST, 1);
	struct kvm_cpuid_entry2 e = leaf(&c, 0x40000000, 0);
	char name[13] = "";

	memcpy(name, &e.ebx, 4);
	memcpy(name + 4, &e.ecx, 4);
	memcpy(name + 8, &e.edx, 4);
	assert_string_equal(name, "KVMKVMKVM");
	assert_int_equal(leaf(&c, 0x40000001, 0).eax, 0x01007afb);
}

static void what_a_microvm_cannot_have_is_gone(void **state)
{
	struct x86_cpuid c = make(intel(), X86_CPU_HOST, 1);

	assert_int_equal(leaf(&c, 1, 0).ecx & (1u << 3 | 1u << 5 | 1u << 15 | 1u << 27), 0);
	assert_null(x86_cpuid_find(&c, 0xa, 0));
	assert_null(x86_cpuid_find(&c, 0x1f, 0));
	c = make(amd(), X86_CPU_HOST, 1);
	assert_int_equal(leaf(&c, 0x80000001, 0).ecx & (1u << 2 | 1u << 23), 0);
	assert_null(x86_cpuid_find(&c, 0x8000000a, 0));
}

static void topology_is_one_package_of_single_thread_cores(void **state)
{
	struct x86_cpuid c = make(intel(), X86_CPU_HOST, 6);

	assert_int_equal(leaf(&c, 1, 0).ebx >> 16 & 0xff, 6);
	assert_true(leaf(&c, 1, 0).edx & 1u << 28);
	assert_int_equal(leaf(&c, 0xb, 0).eax, 0); /* no bits for threads */
	assert_int_equal(leaf(&c, 0xb, 0).ebx, 1);
	assert_int_equal(leaf(&c, 0xb, 0).ecx, 0x100);
	assert_int_equal(leaf(&c, 0xb, 1).eax, 3); /* 6 cores need 3 bits */
	assert_int_equal(leaf(&c, 0xb, 1).ebx, 6);
	assert_int_equal(leaf(&c, 0xb, 1).ecx, 0x201);
	assert_int_equal(leaf(&c, 0xb, 2).ecx & 0xff00, 0);
	/* The first levels are a core's own, the last is shared. */
	assert_int_equal(leaf(&c, 4, 0).eax >> 14 & 0xfff, 0);
	assert_int_equal(leaf(&c, 4, 2).eax >> 14 & 0xfff, 0);
	assert_int_equal(leaf(&c, 4, 3).eax >> 14 & 0xfff, 7);
	assert_int_equal(leaf(&c, 4, 0).eax >> 26, 7);
	assert_int_equal(leaf(&c, 4, 4).eax, 0); /* the end of the list stays one */
	assert_int_equal(leaf(&c, 0x80000008, 0).ecx, 0); /* reserved on Intel */
}

static void topology_on_amd_is_in_its_own_leaves(void **state)
{
	struct x86_cpuid c = make(amd(), X86_CPU_HOST, 4);

	assert_int_equal(leaf(&c, 0x80000008, 0).ecx, 2 << 12 | 3);
	assert_int_equal(leaf(&c, 0x8000001d, 0).eax >> 14 & 0xfff, 0);
	assert_int_equal(leaf(&c, 0x8000001d, 3).eax >> 14 & 0xfff, 3);
	assert_true(leaf(&c, 0x80000001, 0).ecx & 1u << 1);
	x86_cpuid_set_index(&c, 3);
	assert_int_equal(leaf(&c, 0x8000001e, 0).eax, 3);
	assert_int_equal(leaf(&c, 0x8000001e, 0).ebx, 3); /* core 3, one thread */
	assert_int_equal(leaf(&c, 0x8000001e, 0).ecx, 0); /* one node */
}

static void a_single_processor_claims_no_siblings(void **state)
{
	struct x86_cpuid c = make(amd(), X86_CPU_HOST, 1);

	assert_int_equal(leaf(&c, 1, 0).ebx >> 16 & 0xff, 1);
	assert_int_equal(leaf(&c, 1, 0).edx & 1u << 28, 0);
	assert_int_equal(leaf(&c, 0x80000008, 0).ecx, 0);
	assert_int_equal(leaf(&c, 0xb, 1).eax, 0);
}

static void apic_ids_are_the_vcpus_own_in_every_leaf(void **state)
{
	struct x86_cpuid c = make(intel(), X86_CPU_HOST, 300);

	assert_int_equal(leaf(&c, 1, 0).ebx >> 24, 0); /* not the host's */
	x86_cpuid_set_index(&c, 299);
	assert_int_equal(leaf(&c, 1, 0).ebx >> 24, 299 & 0xff);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(leaf(&c, 0xb, i).edx, 299);
	x86_cpuid_set_index(&c, 2);
	assert_int_equal(leaf(&c, 1, 0).ebx >> 24, 2);
	assert_int_equal(leaf(&c, 1, 0).ebx & 0xff00, 0x0800); /* cache line size stays */
}

static void models_have_their_level_and_no_more(void **state)
{
	struct x86_cpuid v2 = make(intel(), X86_CPU_V2, 1), v3 = make(intel(), X86_CPU_V3, 1),
			 v4 = make(intel(), X86_CPU_V4, 1);

	assert_true(leaf(&v2, 1, 0).ecx & 1u << 23);   /* popcnt */
	assert_false(leaf(&v2, 1, 0).ecx & 1u << 28);  /* avx */
	assert_false(leaf(&v2, 1, 0).ecx & 1u << 30);  /* rdrand is in no level */
	assert_false(leaf(&v2, 7, 0).ebx & 1u << 5);   /* avx2 */
	assert_null(x86_cpuid_find(&v2, 0xd, 0));      /* and so no xsave */
	assert_true(leaf(&v3, 1, 0).ecx & 1u << 28);
	assert_true(leaf(&v3, 7, 0).ebx & 1u << 5);
	assert_false(leaf(&v3, 7, 0).ebx & 1u << 16);  /* avx512f */
	assert_true(leaf(&v4, 7, 0).ebx & 1u << 16);
	/* What makes it a 64-bit machine is in all of them, and what keeps it safe. */
	assert_true(leaf(&v2, 0x80000001, 0).edx & 1u << 29);
	assert_true(leaf(&v2, 1, 0).edx & 1u << 9);
	assert_true(leaf(&v2, 7, 0).edx & 1u << 26);
	assert_true(leaf(&v2, 1, 0).ecx & 1u << 24);
	assert_int_equal(leaf(&v2, 7, 0).eax, 0);
	assert_null(x86_cpuid_find(&v2, 7, 1));
}

static void models_are_the_same_on_different_hosts(void **state)
{
	struct x86_cpuid a = intel(), b = intel(), made_a, made_b;

	/* A newer host: more of everything that is not in a level. */
	for (unsigned i = 0; i < b.num; i++) {
		if (b.entry[i].function == 7)
			b.entry[i].ecx = 0x5fbf5f5e & ~4u;
		if (b.entry[i].function == 1)
			b.entry[i].ecx |= 1u << 25;
	}
	for (unsigned i = 0; i < a.num; i++)
		if (a.entry[i].function == 7)
			a.entry[i].ecx = 0;
	made_a = make(a, X86_CPU_V3, 2);
	made_b = make(b, X86_CPU_V3, 2);
	assert_int_equal(made_a.num, made_b.num);
	assert_memory_equal(made_a.entry, made_b.entry, made_a.num * sizeof(made_a.entry[0]));
}

static void models_have_a_name_of_their_own(void **state)
{
	struct x86_cpuid host = make(intel(), X86_CPU_HOST, 1), v3 = make(intel(), X86_CPU_V3, 1);
	struct kvm_cpuid_entry2 e = leaf(&v3, 0x80000002, 0);
	const uint32_t regs[4] = { e.eax, e.ebx, e.ecx, e.edx };

	assert_memory_equal(regs, "wisp x86-64-v3\0", 16);
	assert_int_equal(leaf(&host, 0x80000002, 0).eax, 0x65746e49);
}

static void xsave_areas_are_as_large_as_their_components(void **state)
{
	struct x86_cpuid v3 = make(intel(), X86_CPU_V3, 1), v4 = make(intel(), X86_CPU_V4, 1),
			 all = make(intel(), X86_CPU_HOST, 1);

	assert_int_equal(leaf(&v3, 0xd, 0).eax, 7);
	assert_int_equal(leaf(&v3, 0xd, 0).ecx, 832);
	assert_null(x86_cpuid_find(&v3, 0xd, 5));
	assert_int_equal(leaf(&v4, 0xd, 0).eax, 0xe7);
	assert_int_equal(leaf(&v4, 0xd, 0).ecx, 2688);
	assert_int_equal(leaf(&all, 0xd, 0).ecx, 2696);
}

static void a_host_that_lacks_features_is_refused_by_their_names(void **state)
{
	struct x86_cpuid host = amd(), c;
	struct error err = { 0 };

	assert_int_equal(x86_cpuid_make(&c, &host, X86_CPU_V4, 1, TSC_KHZ, &err), -EINVAL);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_string_equal(err.msg, "--cpu x86-64-v4: this host lacks avx512f, avx512dq, "
				     "avx512cd, avx512bw, avx512vl");
}

static void a_host_without_anything_fills_the_message_and_no_more(void **state)
{
	struct x86_cpuid host = { 0 }, c;
	struct error err = { 0 };

	assert_int_equal(x86_cpuid_make(&c, &host, X86_CPU_V4, 1, TSC_KHZ, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "lacks fpu, tsc"));
}

static void a_full_table_is_refused_not_overrun(void **state)
{
	struct x86_cpuid host = intel(), c;
	struct error err = { 0 };

	for (; host.num < X86_MAX_CPUID; host.num++)
		host.entry[host.num] = (struct kvm_cpuid_entry2){ .function = 0x2000 + host.num };
	assert_int_equal(x86_cpuid_make(&c, &host, X86_CPU_HOST, 1, TSC_KHZ, &err), -E2BIG);
}

static void models_have_the_names_that_the_option_takes(void **state)
{
	static const char *const names[] = { "host", "x86-64-v2", "x86-64-v3", "x86-64-v4" };

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		assert_string_equal(x86_cpu_model_name(i), names[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_leaf_is_there_twice),
		cmocka_unit_test(guests_get_clocks_that_need_no_calibration),
		cmocka_unit_test(an_unknown_frequency_is_not_made_up),
		cmocka_unit_test(the_hypervisor_names_itself),
		cmocka_unit_test(what_a_microvm_cannot_have_is_gone),
		cmocka_unit_test(topology_is_one_package_of_single_thread_cores),
		cmocka_unit_test(topology_on_amd_is_in_its_own_leaves),
		cmocka_unit_test(a_single_processor_claims_no_siblings),
		cmocka_unit_test(apic_ids_are_the_vcpus_own_in_every_leaf),
		cmocka_unit_test(models_have_their_level_and_no_more),
		cmocka_unit_test(models_are_the_same_on_different_hosts),
		cmocka_unit_test(models_have_a_name_of_their_own),
		cmocka_unit_test(xsave_areas_are_as_large_as_their_components),
		cmocka_unit_test(a_host_that_lacks_features_is_refused_by_their_names),
		cmocka_unit_test(a_host_without_anything_fills_the_message_and_no_more),
		cmocka_unit_test(a_full_table_is_refused_not_overrun),
		cmocka_unit_test(models_have_the_names_that_the_option_takes),
	};

	return cmocka_run_group_tests_name("cpuid", tests, NULL, NULL);
}
