/* CPU templates: what of their JSON is taken, what it does to a host's CPUID and to MSRs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "vmm/hypervisor/x86_template.h"

#define LEAF(modifiers)                                                    \
	"{\"cpuid_modifiers\":[{\"leaf\":\"0x7\",\"subleaf\":\"0b1\"," \
	"\"flags\":1,\"modifiers\":[" modifiers "]}]}"

static int parse(const char *text, struct x86_template **t, struct error *err)
{
	json_t *json = json_loads(text, 0, NULL);
	int r;

	assert_non_null(json);
	r = x86_template_parse(t, json, err);
	json_decref(json);
	return r;
}

static struct x86_template *good(const char *text)
{
	struct x86_template *t = NULL;
	struct error err = { 0 };

	if (parse(text, &t, &err) < 0)
		fail_msg("%s", err.msg);
	return t;
}

static void empty_template_changes_nothing(void **state)
{
	struct x86_cpuid cpuid = { .num = 1, .entry[0] = { .function = 1, .eax = 5 } };
	struct x86_template *t = good("{}");

	assert_int_equal(x86_template_apply(t, &cpuid, NULL), 0);
	assert_int_equal(cpuid.entry[0].eax, 5);
	x86_template_free(t);
	x86_template_free(NULL);
}

static void named_bits_change_and_others_stay(void **state)
{
	struct x86_template *t = good(LEAF("{\"register\":\"ebx\",\"bitmap\":\"0b1_0xx\"},"
					   "{\"register\":\"edx\",\"bitmap\":\"01\"}"));
	struct x86_cpuid cpuid = {
		.num = 2,
		.entry = { { .function = 7, .index = 0, .ebx = 0xff },
			   { .function = 7, .index = 1, .eax = 3, .ebx = 0xf6, .edx = 2 } },
	};

	assert_int_equal(x86_template_apply(t, &cpuid, NULL), 0);
	assert_int_equal(cpuid.entry[0].ebx, 0xff);
	assert_int_equal(cpuid.entry[1].eax, 3);
	assert_int_equal(cpuid.entry[1].ebx, 0xfa);
	assert_int_equal(cpuid.entry[1].edx, 1);
	x86_template_free(t);
}

static void all_bits_of_a_register_may_be_given(void **state)
{
	struct x86_template *t = good(
		LEAF("{\"register\":\"ecx\",\"bitmap\":\"0b10000000000000000000000000000001\"}"));
	struct x86_cpuid cpuid = {
		.num = 1,
		.entry[0] = { .function = 7, .index = 1, .ecx = 0x7ffffffe },
	};

	assert_int_equal(x86_template_apply(t, &cpuid, NULL), 0);
	assert_int_equal(cpuid.entry[0].ecx, 0x80000001);
	x86_template_free(t);
}

static void leaf_that_the_host_lacks_is_named(void **state)
{
	struct x86_template *t = good(LEAF("{\"register\":\"eax\",\"bitmap\":\"0b1\"}"));
	struct x86_cpuid cpuid = { .num = 1, .entry[0] = { .function = 7, .index = 0 } };
	struct error err = { 0 };

	assert_int_equal(x86_template_apply(t, &cpuid, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "Leaf: 7, Subleaf: 1"));
	x86_template_free(t);
}

static void what_is_malformed_is_refused_in_words(void **state)
{
	static const struct {
		const char *text, *words;
	} bad[] = {
		{ "[]", "expected a map" },
		{ "{\"reg_modifiers\":[]}", "unknown field `reg_modifiers`" },
		{ "{\"kvm_capabilities\":{}}", "`kvm_capabilities`, expected a sequence" },
		{ "{\"kvm_capabilities\":[7]}", "expected a string" },
		{ "{\"kvm_capabilities\":[\"!\"]}", "[!] as a kvm capability" },
		{ "{\"kvm_capabilities\":[\"4294967296\"]}", "as a kvm capability" },
		{ "{\"cpuid_modifiers\":[7]}", "expected a map" },
		{ "{\"cpuid_modifiers\":[{\"leaf\":\"0x1\"}]}", "missing field `subleaf`" },
		{ "{\"cpuid_modifiers\":[{\"leaf\":\"0x1\",\"subleaf\":\"0x0\",\"flags\":\"0\","
		  "\"modifiers\":[]}]}",
		  "`flags`, expected u32" },
		{ "{\"cpuid_modifiers\":[{\"leaf\":1,\"subleaf\":\"0x0\",\"flags\":0,"
		  "\"modifiers\":[]}]}",
		  "`leaf`, expected a string" },
		{ LEAF("{\"register\":\"rax\",\"bitmap\":\"0b1\"}"), "[eax, ebx, ecx, edx]" },
		{ LEAF("{\"register\":\"eax\",\"bitmap\":\"0b2\"}"), "unknown character: 50" },
		{ LEAF("{\"register\":\"eax\",\"bitmap\":\"0bX\"}"), "unknown character: 88" },
		{ LEAF("{\"register\":\"eax\","
		       "\"bitmap\":\"0b000000000000000000000000000000000\"}"),
		  "string is too long" },
		{ LEAF("{\"register\":\"eax\",\"bitmap\":\"0b1\",\"x\":1}"), "unknown field `x`" },
		{ "{\"msr_modifiers\":[{\"addr\":\"10\",\"bitmap\":\"0b1\"}]}", "value [10]" },
		{ "{\"msr_modifiers\":[{\"addr\":\"0x\",\"bitmap\":\"0b1\"}]}", "string [0x]" },
		{ "{\"msr_modifiers\":[{\"addr\":\"0b12\",\"bitmap\":\"0b1\"}]}", "string [0b12]" },
		{ "{\"msr_modifiers\":[{\"addr\":\"0x100000000\",\"bitmap\":\"0b1\"}]}",
		  "[0x100000000] as a number" },
		{ "{\"msr_modifiers\":[{\"addr\":\"0x-1\",\"bitmap\":\"0b1\"}]}", "string [0x-1]" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct x86_template *t = NULL;
		struct error err = { 0 };

		assert_int_equal(parse(bad[i].text, &t, &err), -EINVAL);
		assert_null(t);
		if (!strstr(err.msg, bad[i].words))
			fail_msg("'%s' of %s", err.msg, bad[i].text);
	}
}

static void capabilities_are_those_to_be_had(void **state)
{
	struct x86_template *t = good("{\"kvm_capabilities\":[\"171\",\"!56\",\"0\"]}");

	assert_int_equal(t->num_capabilities, 2);
	assert_int_equal(t->capability[0], 171);
	assert_int_equal(t->capability[1], 0);
	x86_template_free(t);
}

/* ---- MSRs, of a processor that has one ---- */

#define MSR_THERE   0x10a
#define MSR_REFUSED 0x10b

struct hv_vcpu {
	uint64_t msr;
};

static int change_msr(struct hv_vcpu *vcpu, uint32_t index, uint64_t filter, uint64_t value)
{
	if (index == MSR_REFUSED)
		return -EINVAL;
	if (index != MSR_THERE)
		return -ENOENT;
	vcpu->msr = (vcpu->msr & ~filter) | value;
	return 0;
}

static void msrs_change_or_are_named(void **state)
{
	static const struct hv_ops ops = { .vcpu_change_msr = change_msr }, none;
	struct hv_vcpu vcpu = { .msr = 6 };
	struct x86_template *t = good("{\"msr_modifiers\":[{\"addr\":\"0x10a\",\"bitmap\":"
				      "\"0b1xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
				      "xxxxxx01\"}]}");
	struct error err = { 0 };

	assert_int_equal(x86_template_set_msrs(t, &ops, &vcpu, NULL), 0);
	assert_true(vcpu.msr == (1ull << 63 | 5));
	assert_int_equal(x86_template_set_msrs(t, &none, &vcpu, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "Register Address: 10a"));
	t->msr[0].index = MSR_REFUSED;
	assert_int_equal(x86_template_set_msrs(t, &ops, &vcpu, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "Register Address: 10b"));
	x86_template_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(empty_template_changes_nothing),
		cmocka_unit_test(named_bits_change_and_others_stay),
		cmocka_unit_test(all_bits_of_a_register_may_be_given),
		cmocka_unit_test(leaf_that_the_host_lacks_is_named),
		cmocka_unit_test(what_is_malformed_is_refused_in_words),
		cmocka_unit_test(capabilities_are_those_to_be_had),
		cmocka_unit_test(msrs_change_or_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
