/* What the CPUID files share: entries of a table, and the models' part of making one. */
#ifndef WISP_VMM_X86_CPUID_H
#define WISP_VMM_X86_CPUID_H

#include "vmm/hypervisor/x86.h"

enum x86_cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* Register @reg of an entry. */
static inline uint32_t x86_cpuid_reg(const struct kvm_cpuid_entry2 *e, unsigned reg)
{
	const uint32_t regs[] = { e->eax, e->ebx, e->ecx, e->edx };

	return regs[reg];
}

/* Clear the bits of register @reg that are not in @bits. */
static inline void x86_cpuid_mask(struct kvm_cpuid_entry2 *e, unsigned reg, uint32_t bits)
{
	uint32_t *regs[] = { &e->eax, &e->ebx, &e->ecx, &e->edx };

	*regs[reg] &= bits;
}

/* The entry of a leaf and subleaf (0 where a leaf has none), or NULL. */
const struct kvm_cpuid_entry2 *x86_cpuid_find(const struct x86_cpuid *cpuid, uint32_t leaf,
					      uint32_t subleaf);

/* Has @host all that @model promises? -EINVAL with @err naming what is missing. */
int x86_cpu_model_check(const struct x86_cpuid *host, enum x86_cpu_model model, struct error *err);

/* Mask an entry of the host to what @model has; false: leave it out. */
bool x86_cpu_model_keep(struct kvm_cpuid_entry2 *e, enum x86_cpu_model model);

#endif
