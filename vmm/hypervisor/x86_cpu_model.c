/*
 * The named CPU models: the levels of the x86-64 psABI (section 3.1.1), and what
 * a system needs besides. A guest of such a model sees the same instructions
 * on every host, so that it can move between them.
 */
#include "vmm/hypervisor/x86_cpuid.h"

#include <errno.h>
#include <stdio.h>

#include "vmm/hypervisor/x86_state.h"

#define BIT(n) (1u << (n))

#define LEAF_NAME     0x80000002
#define LEAF_NAME_END 0x80000004

struct feature {
	const char *name;
	uint32_t leaf;
	uint8_t reg; /* of enum x86_cpuid_reg */
	uint8_t bit;
	uint8_t level; /* the first that has it */
};

static const struct feature features[] = {
	{ "fpu", 1, CPUID_EDX, 0, 1 },
	{ "tsc", 1, CPUID_EDX, 4, 1 },
	{ "msr", 1, CPUID_EDX, 5, 1 },
	{ "pae", 1, CPUID_EDX, 6, 1 },
	{ "cx8", 1, CPUID_EDX, 8, 1 },
	{ "cmov", 1, CPUID_EDX, 15, 1 },
	{ "mmx", 1, CPUID_EDX, 23, 1 },
	{ "fxsr", 1, CPUID_EDX, 24, 1 },
	{ "sse", 1, CPUID_EDX, 25, 1 },
	{ "sse2", 1, CPUID_EDX, 26, 1 },
	{ "syscall", 0x80000001, CPUID_EDX, 11, 1 },
	{ "nx", 0x80000001, CPUID_EDX, 20, 1 },
	{ "lm", 0x80000001, CPUID_EDX, 29, 1 },

	{ "sse3", 1, CPUID_ECX, 0, 2 },
	{ "ssse3", 1, CPUID_ECX, 9, 2 },
	{ "cx16", 1, CPUID_ECX, 13, 2 },
	{ "sse4.1", 1, CPUID_ECX, 19, 2 },
	{ "sse4.2", 1, CPUID_ECX, 20, 2 },
	{ "popcnt", 1, CPUID_ECX, 23, 2 },
	{ "lahf", 0x80000001, CPUID_ECX, 0, 2 },

	{ "fma", 1, CPUID_ECX, 12, 3 },
	{ "movbe", 1, CPUID_ECX, 22, 3 },
	{ "xsave", 1, CPUID_ECX, 26, 3 },
	{ "avx", 1, CPUID_ECX, 28, 3 },
	{ "f16c", 1, CPUID_ECX, 29, 3 },
	{ "bmi1", 7, CPUID_EBX, 3, 3 },
	{ "avx2", 7, CPUID_EBX, 5, 3 },
	{ "bmi2", 7, CPUID_EBX, 8, 3 },
	{ "lzcnt", 0x80000001, CPUID_ECX, 5, 3 },

	{ "avx512f", 7, CPUID_EBX, 16, 4 },
	{ "avx512dq", 7, CPUID_EBX, 17, 4 },
	{ "avx512cd", 7, CPUID_EBX, 28, 4 },
	{ "avx512bw", 7, CPUID_EBX, 30, 4 },
	{ "avx512vl", 7, CPUID_EBX, 31, 4 },
};

/*
 * What a model takes from the host beyond its level: the parts of a PC that no
 * level names but every 64-bit processor has, and whatever says how to be
 * safe: to hide a mitigation is to switch it off.
 */
static const struct {
	uint32_t leaf;
	uint8_t reg;
	uint32_t bits;
} system_bits[] = {
	/* vme de pse mce apic sep */
	{ 1, CPUID_EDX, BIT(1) | BIT(2) | BIT(3) | BIT(7) | BIT(9) | BIT(11) },
	/* mtrr pge mca pat pse36 clflush ht */
	{ 1, CPUID_EDX,
	  BIT(12) | BIT(13) | BIT(14) | BIT(16) | BIT(17) | BIT(19) | BIT(28) },
	/* x2apic tsc-deadline hypervisor */
	{ 1, CPUID_ECX, BIT(21) | BIT(24) | BIT(31) },
	/* smep smap */
	{ 7, CPUID_EBX, BIT(7) | BIT(20) },
	/* umip */
	{ 7, CPUID_ECX, BIT(2) },
	/* md-clear spec-ctrl stibp flush-l1d arch-capabilities ssbd */
	{ 7, CPUID_EDX, BIT(10) | BIT(26) | BIT(27) | BIT(28) | BIT(29) | BIT(31) },
	/* cmp-legacy topoext: the topology leaves of AMD */
	{ 0x80000001, CPUID_ECX, BIT(1) | BIT(22) },
	/* fpu to pse36, mmx and fxsr: AMD repeats those of leaf 1 here */
	{ 0x80000001, CPUID_EDX, 0x0183f3ff },
	/* ibpb ibrs stibp ssbd virt-ssbd ssb-no */
	{ 0x80000008, CPUID_EBX, BIT(12) | BIT(14) | BIT(15) | BIT(24) | BIT(25) | BIT(26) },
};

/* The registers whose every bit is a feature: what a guest may use because it was told so. */
static const struct {
	uint32_t leaf, subleaf;
	uint8_t reg;
} feature_regs[] = {
	{ 1, 0, CPUID_ECX },	      { 1, 0, CPUID_EDX },	    { 7, 0, CPUID_EBX },
	{ 7, 0, CPUID_ECX },	      { 7, 0, CPUID_EDX },	    { 7, 1, CPUID_EAX },
	{ 0xd, 0, CPUID_EAX },	      { 0xd, 0, CPUID_EDX },	    { 0xd, 1, CPUID_EAX },
	{ 0x40000001, 0, CPUID_EAX }, { 0x80000001, 0, CPUID_ECX }, { 0x80000001, 0, CPUID_EDX },
	{ 0x80000007, 0, CPUID_EDX }, { 0x80000008, 0, CPUID_EBX }, { 0x80000021, 0, CPUID_EAX },
};

/* Components of XCR0 that each level knows. */
static const uint32_t level_xcr0[] = { [1] = 0, [2] = 0, [3] = 0x07, [4] = 0xe7 };

static unsigned model_level(enum x86_cpu_model model)
{
	switch (model) {
	case X86_CPU_HOST:
		return 0;
	case X86_CPU_V2:
		return 2;
	case X86_CPU_V3:
		return 3;
	case X86_CPU_V4:
		return 4;
	}
	return 0;
}

static const char *const model_names[] = {
	[X86_CPU_HOST] = "host",
	[X86_CPU_V2] = "x86-64-v2",
	[X86_CPU_V3] = "x86-64-v3",
	[X86_CPU_V4] = "x86-64-v4",
};

const char *x86_cpu_model_name(enum x86_cpu_model model)
{
	return model_names[model];
}

int x86_cpu_model_check(const struct x86_cpuid *host, enum x86_cpu_model model, struct error *err)
{
	unsigned level = model_level(model);
	char missing[200] = "";
	size_t len = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
		const struct feature *f = &features[i];
		const struct kvm_cpuid_entry2 *e = x86_cpuid_find(host, f->leaf, 0);

		if (f->level > level || (e && x86_cpuid_reg(e, f->reg) & BIT(f->bit)))
			continue;
		len += snprintf(missing + len, sizeof(missing) - len, "%s%s", len ? ", " : "",
				f->name);
		if (len >= sizeof(missing))
			break;
	}
	if (!len)
		return 0;
	return error_usage(err, -EINVAL, "--cpu %s: this host lacks %s", x86_cpu_model_name(model),
			   missing);
}

/* The bits of one register that @level allows; false for a leaf that has no feature bits. */
static bool allowed_bits(uint32_t leaf, unsigned reg, unsigned level, uint32_t *ret_bits)
{
	bool known = false;
	uint32_t bits = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
		const struct feature *f = &features[i];

		if (f->leaf == leaf && f->reg == reg) {
			known = true;
			if (f->level <= level)
				bits |= BIT(f->bit);
		}
	}
	for (unsigned i = 0; i < ARRAY_SIZE(system_bits); i++) {
		if (system_bits[i].leaf == leaf && system_bits[i].reg == reg) {
			known = true;
			bits |= system_bits[i].bits;
		}
	}
	*ret_bits = bits;
	return known;
}

/* Leaf 0xd: only the components that the level knows, in the standard format. */
static bool keep_xsave_leaf(struct kvm_cpuid_entry2 *e, uint32_t xcr0)
{
	switch (e->index) {
	case 0:
		e->eax &= xcr0;
		e->edx = 0;
		return xcr0;
	case 1:
		e->eax &= 1; /* xsaveopt */
		e->ebx = e->ecx = e->edx = 0;
		return xcr0;
	default:
		return e->index < 32 && xcr0 & BIT(e->index);
	}
}

/* Leaves 0x80000002 to 4: the name, 48 bytes in all. */
static void set_name(struct kvm_cpuid_entry2 *e, enum x86_cpu_model model)
{
	char name[48] = "";
	uint32_t regs[4];

	snprintf(name, sizeof(name), "wisp %s", x86_cpu_model_name(model));
	memcpy(regs, name + (e->function - LEAF_NAME) * sizeof(regs), sizeof(regs));
	e->eax = regs[0];
	e->ebx = regs[1];
	e->ecx = regs[2];
	e->edx = regs[3];
}

bool x86_cpu_model_keep(struct kvm_cpuid_entry2 *e, enum x86_cpu_model model)
{
	unsigned level = model_level(model);
	uint32_t bits;

	if (model == X86_CPU_HOST)
		return true;
	if (e->function == 0xd)
		return keep_xsave_leaf(e, level_xcr0[level]);
	if (e->function >= LEAF_NAME && e->function <= LEAF_NAME_END)
		set_name(e, model);
	if (e->function == 7) {
		if (e->index)
			return false;
		e->eax = 0; /* no further subleaf */
	}
	for (unsigned reg = CPUID_EAX; reg <= CPUID_EDX; reg++)
		if (allowed_bits(e->function, reg, level, &bits))
			x86_cpuid_mask(e, reg, bits);
	return true;
}

/* ---- may a guest that was told one thing run where another is true? ---- */

static uint32_t feature_word(const struct x86_cpuid *cpuid, unsigned i)
{
	const struct kvm_cpuid_entry2 *e =
		x86_cpuid_find(cpuid, feature_regs[i].leaf, feature_regs[i].subleaf);

	return e ? x86_cpuid_reg(e, feature_regs[i].reg) : 0;
}

/* "avx2", or where the bit is when it has no name here. */
static size_t name_bit(char *text, size_t size, unsigned i, unsigned bit)
{
	static const char *const reg[] = { "eax", "ebx", "ecx", "edx" };

	for (unsigned k = 0; k < ARRAY_SIZE(features); k++) {
		const struct feature *f = &features[k];

		if (f->leaf == feature_regs[i].leaf && f->reg == feature_regs[i].reg &&
		    f->bit == bit && !feature_regs[i].subleaf)
			return snprintf(text, size, "%s", f->name);
	}
	return snprintf(text, size, "CPUID %x.%x %s bit %u", feature_regs[i].leaf,
			feature_regs[i].subleaf, reg[feature_regs[i].reg], bit);
}

int x86_cpuid_covers(const struct x86_cpuid *offered, const struct x86_cpuid *saved,
		     struct error *err)
{
	const struct kvm_cpuid_entry2 *here = x86_cpuid_find(offered, 0, 0);
	const struct kvm_cpuid_entry2 *there = x86_cpuid_find(saved, 0, 0);
	char missing[200] = "";
	size_t len = 0;

	if (!here || !there || here->ebx != there->ebx || here->ecx != there->ecx ||
	    here->edx != there->edx)
		return error_kind_set(err, ERROR_REFUSED, -ENOTSUP,
				      "the guest was started on a processor of another maker");
	for (unsigned i = 0; i < ARRAY_SIZE(feature_regs); i++) {
		uint32_t lacks = feature_word(saved, i) & ~feature_word(offered, i);

		for (unsigned bit = 0; bit < 32 && len < sizeof(missing); bit++) {
			if (!(lacks & BIT(bit)))
				continue;
			if (len)
				len += snprintf(missing + len, sizeof(missing) - len, ", ");
			if (len < sizeof(missing))
				len += name_bit(missing + len, sizeof(missing) - len, i, bit);
		}
	}
	if (!len)
		return 0;
	error_kind_set(err, ERROR_REFUSED, -ENOTSUP,
		       "the guest uses processor features that this host lacks: %s", missing);
	error_hint(err, "a guest started with --cpu x86-64-v2 or -v3 moves between more hosts");
	return -ENOTSUP;
}
