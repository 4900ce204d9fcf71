/*
 * A guest's CPUID: the host's, without what one microVM cannot have, and with
 * the topology, the clock and the hypervisor that it does have. Leaves are those
 * of SDM volume 2, CPUID, and of APM volume 3, appendix E.
 */
#include "vmm/hypervisor/x86_cpuid.h"

#include <errno.h>

/* Leaf 1. */
#define ECX_DTES64	 (1u << 2)
#define ECX_MONITOR	 (1u << 3)
#define ECX_DS_CPL	 (1u << 4)
#define ECX_VMX		 (1u << 5)
#define ECX_SMX		 (1u << 6)
#define ECX_EIST	 (1u << 7)
#define ECX_TM2		 (1u << 8)
#define ECX_PDCM	 (1u << 15)
#define ECX_X2APIC	 (1u << 21)
#define ECX_TSC_DEADLINE (1u << 24)
#define ECX_OSXSAVE	 (1u << 27) /* follows CR4; KVM keeps it */
#define ECX_HYPERVISOR	 (1u << 31)
#define EDX_HTT		 (1u << 28)
/* Leaf 0x80000001. */
#define EXT_ECX_CMP_LEGACY (1u << 1)
#define EXT_ECX_SVM	   (1u << 2)
#define EXT_ECX_IBS	   (1u << 10)
#define EXT_ECX_SKINIT	   (1u << 12)
#define EXT_ECX_TOPOEXT	   (1u << 22)
#define EXT_ECX_PERFCTR	   (1u << 23 | 1u << 24 | 1u << 28) /* core, northbridge, cache */
#define EXT_ECX_MWAITX	   (1u << 29)

#define LEAF_HYPERVISOR	  0x40000000
#define LEAF_KVM_FEATURES 0x40000001
#define LEAF_TIMING	  0x40000010

#define APIC_BUS_KHZ   1000000u /* KVM's local APIC timer counts nanoseconds */
#define BASIC_LEAF_MIN 0x16u	/* we fill up to there */

#define LEVEL_SMT  1
#define LEVEL_CORE 2

const struct kvm_cpuid_entry2 *x86_cpuid_find(const struct x86_cpuid *cpuid, uint32_t leaf,
					      uint32_t subleaf)
{
	for (unsigned i = 0; i < cpuid->num; i++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entry[i];

		if (e->function == leaf &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
			return e;
	}
	return NULL;
}

static bool is_amd(const struct x86_cpuid *cpuid)
{
	const struct kvm_cpuid_entry2 *e = x86_cpuid_find(cpuid, 0, 0);

	/* "AuthenticAMD", "HygonGenuine" */
	return e && (e->ebx == 0x68747541 || e->ebx == 0x6f677948);
}

/* Bits that number @count things. */
static unsigned id_bits(unsigned count)
{
	unsigned bits = 0;

	while (1u << bits < count)
		bits++;
	return bits;
}

/*
 * Leaves made anew below, and those of what a microVM does not have: performance
 * monitoring and tracing (state that cannot move, and the guest's watchdog would
 * exit for it), resource control, SGX, key locker, nested virtualisation, memory
 * encryption.
 */
static bool left_out(uint32_t leaf)
{
	switch (leaf) {
	case 0x5: /* monitor */
	case 0xa: /* performance monitoring */
	case 0xb:
	case 0xf: /* resource monitoring, allocation */
	case 0x10:
	case 0x12: /* SGX */
	case 0x14: /* processor trace */
	case 0x15:
	case 0x16:
	case 0x19: /* key locker */
	case 0x1b:
	case 0x1c: /* last branch records */
	case 0x1f:
	case 0x23: /* performance monitoring, extended */
	case LEAF_HYPERVISOR:
	case LEAF_TIMING:
	case 0x8000000a: /* SVM */
	case 0x8000001b: /* instruction-based sampling */
	case 0x8000001e:
	case 0x8000001f: /* memory encryption */
	case 0x80000020: /* resource control */
	case 0x80000022: /* performance monitoring, extended */
		return true;
	default:
		return false;
	}
}

/* Sharing of a cache (leaf 4, 0x8000001d): the last level by all, the others by nobody. */
static void set_cache(struct kvm_cpuid_entry2 *e, unsigned num_cpus)
{
	const uint32_t sharing = 0xfffu << 14;
	unsigned level = e->eax >> 5 & 7, ids = 1u << id_bits(num_cpus);

	e->eax &= ~sharing;
	if (level >= 3)
		e->eax |= MIN(ids - 1, 0xfffu) << 14;
	if (e->function == 4 && e->eax & 0x1f)
		e->eax = (e->eax & 0x03ffffff) | MIN(ids - 1, 63u) << 26;
}

/* Adjust an entry that comes from the host. */
static void adjust(struct kvm_cpuid_entry2 *e, bool amd, unsigned num_cpus)
{
	switch (e->function) {
	case 0:
		e->eax = MAX(e->eax, BASIC_LEAF_MIN);
		break;
	case 1:
		e->ebx = (e->ebx & 0xff00) | MIN(num_cpus, 255u) << 16;
		e->ecx &= ~(ECX_DTES64 | ECX_MONITOR | ECX_DS_CPL | ECX_VMX | ECX_SMX | ECX_EIST |
			    ECX_TM2 | ECX_PDCM | ECX_OSXSAVE);
		/* KVM emulates both, but reports them only where its own switches allow. */
		e->ecx |= ECX_X2APIC | ECX_TSC_DEADLINE | ECX_HYPERVISOR;
		e->edx = (e->edx & ~EDX_HTT) | (num_cpus > 1 ? EDX_HTT : 0);
		break;
	case 4:
	case 0x8000001d:
		set_cache(e, num_cpus);
		break;
	case 0x80000001:
		e->ecx &= ~(EXT_ECX_SVM | EXT_ECX_IBS | EXT_ECX_SKINIT | EXT_ECX_PERFCTR |
			    EXT_ECX_MWAITX | EXT_ECX_CMP_LEGACY);
		if (amd && num_cpus > 1)
			e->ecx |= EXT_ECX_CMP_LEGACY;
		break;
	case 0x80000008:
		e->ecx = amd ? id_bits(num_cpus) << 12 | MIN(num_cpus - 1, 255u) : 0;
		break;
	}
}

static void add(struct x86_cpuid *cpuid, struct kvm_cpuid_entry2 e)
{
	if (cpuid->num < X86_MAX_CPUID)
		cpuid->entry[cpuid->num] = e;
	cpuid->num++; /* beyond the end: x86_cpuid_make() sees it */
}

static void add_topology(struct x86_cpuid *cpuid, unsigned num_cpus)
{
	const struct kvm_cpuid_entry2 *ext = x86_cpuid_find(cpuid, 0x80000001, 0);

	add(cpuid, (struct kvm_cpuid_entry2){
			   .function = 0xb,
			   .index = 0,
			   .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			   .eax = 0,
			   .ebx = 1,
			   .ecx = LEVEL_SMT << 8,
		   });
	add(cpuid, (struct kvm_cpuid_entry2){
			   .function = 0xb,
			   .index = 1,
			   .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			   .eax = id_bits(num_cpus),
			   .ebx = num_cpus,
			   .ecx = LEVEL_CORE << 8 | 1,
		   });
	/* The level after the last is type 0, and still says the APIC id. */
	add(cpuid, (struct kvm_cpuid_entry2){
			   .function = 0xb,
			   .index = 2,
			   .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			   .ecx = 2,
		   });
	if (ext && ext->ecx & EXT_ECX_TOPOEXT)
		add(cpuid, (struct kvm_cpuid_entry2){ .function = 0x8000001e });
}

/* Who we are, and how fast the clocks are: a guest that is told need not measure. */
static void add_hypervisor(struct x86_cpuid *cpuid, uint64_t tsc_khz)
{
	add(cpuid, (struct kvm_cpuid_entry2){
			   .function = LEAF_HYPERVISOR,
			   .eax = tsc_khz ? LEAF_TIMING : LEAF_KVM_FEATURES,
			   .ebx = 0x4b4d564b, /* "KVMKVMKVM" */
			   .ecx = 0x564b4d56,
			   .edx = 0x4d,
		   });
	if (!tsc_khz)
		return;
	add(cpuid, (struct kvm_cpuid_entry2){
			   .function = LEAF_TIMING,
			   .eax = tsc_khz,
			   .ebx = APIC_BUS_KHZ,
		   });
	/* TSC = crystal * ebx / eax; Linux takes the crystal for the APIC timer's clock, too. */
	add(cpuid, (struct kvm_cpuid_entry2){
			   .function = 0x15,
			   .eax = APIC_BUS_KHZ,
			   .ebx = tsc_khz,
			   .ecx = APIC_BUS_KHZ * 1000,
		   });
	add(cpuid, (struct kvm_cpuid_entry2){
			   .function = 0x16,
			   .eax = tsc_khz / 1000,
			   .ebx = tsc_khz / 1000,
			   .ecx = 100,
		   });
}

/* A full XSAVE area has the components that are left; KVM computes only the current size. */
static void set_xsave_size(struct x86_cpuid *cpuid)
{
	struct kvm_cpuid_entry2 *main = NULL;
	uint32_t size = 576; /* legacy area and header */

	for (unsigned i = 0; i < cpuid->num; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entry[i];

		if (e->function != 0xd)
			continue;
		if (e->index == 0)
			main = e;
		else if (e->index >= 2 && !(e->ecx & 1)) /* not a supervisor component */
			size = MAX(size, e->ebx + e->eax);
	}
	if (main)
		main->ebx = main->ecx = size;
}

int x86_cpuid_make(struct x86_cpuid *cpuid, const struct x86_cpuid *host,
		   enum x86_cpu_model model, unsigned num_cpus, uint64_t tsc_khz,
		   struct error *err)
{
	bool amd = is_amd(host);
	int r;

	r = x86_cpu_model_check(host, model, err);
	if (r < 0)
		return r;
	cpuid->num = 0;
	for (unsigned i = 0; i < host->num && i < X86_MAX_CPUID; i++) {
		struct kvm_cpuid_entry2 e = host->entry[i];

		if (left_out(e.function))
			continue;
		adjust(&e, amd, num_cpus);
		if (x86_cpu_model_keep(&e, model))
			add(cpuid, e);
	}
	set_xsave_size(cpuid);
	add_topology(cpuid, num_cpus);
	add_hypervisor(cpuid, tsc_khz);
	if (cpuid->num > X86_MAX_CPUID)
		return error_set(err, -E2BIG, "CPUID: %u entries, %d at most", cpuid->num,
				 X86_MAX_CPUID);
	x86_cpuid_set_index(cpuid, 0);
	return 0;
}

void x86_cpuid_set_index(struct x86_cpuid *cpuid, unsigned index)
{
	for (unsigned i = 0; i < cpuid->num; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entry[i];

		switch (e->function) {
		case 1:
			e->ebx = (e->ebx & 0x00ffffff) | (index & 0xff) << 24;
			break;
		case 0xb:
			e->edx = index;
			break;
		case 0x8000001e:
			e->eax = index;
			e->ebx = index & 0xff; /* core id, one thread */
			break;
		}
	}
}
