/*
 * x86-64: the registers a vCPU starts with, CPUID, and the processor manuals'
 * rules for a guest state. Pure functions over plain data; any thread.
 */
#ifndef WISP_VMM_X86_H
#define WISP_VMM_X86_H

#include <linux/kvm.h>

#include "firmware/firmware.h"
#include "vmm/core/error.h"
#include "vmm/core/util.h"

#define X86_CR0_PE (1ull << 0)
#define X86_CR0_MP (1ull << 1)
#define X86_CR0_ET (1ull << 4)
#define X86_CR0_NE (1ull << 5)
#define X86_CR0_WP (1ull << 16)
#define X86_CR0_AM (1ull << 18)
#define X86_CR0_NW (1ull << 29)
#define X86_CR0_CD (1ull << 30)
#define X86_CR0_PG (1ull << 31)
#define X86_CR4_PAE (1ull << 5)
#define X86_EFER_SCE (1ull << 0)
#define X86_EFER_LME (1ull << 8)
#define X86_EFER_LMA (1ull << 10)
#define X86_EFER_NX  (1ull << 11)
#define X86_RFLAGS_FIXED (1ull << 1) /* the bit that always reads as one */

/*
 * A vCPU's general and system registers, in KVM's own shapes: the rest
 * (FPU, MSRs, local APIC, events) is vmm/hypervisor/x86_state.h.
 */
struct x86_vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
};

/*
 * The state in which the boot processor enters as @start says. Of what @state
 * had before only apic_base stays, KVM's from its reset.
 */
void x86_boot_state(struct x86_vcpu_state *state, const struct fw_start *start);

/*
 * Write what the entry needs besides registers into low guest memory: the GDT,
 * and for LINUX64 page tables that map the first 4 GiB.
 */
int x86_boot_tables(struct guest_mem *mem, const struct fw_start *start);

/*
 * Apply the VM-entry guest-state checks to @state: Intel SDM volume 3, 27.3.1
 * (VMX) and AMD APM volume 2, 15.5.1 (SVM). @phys_bits is the width of physical
 * addresses. 0, or -EINVAL with @err naming the rule that is broken.
 */
int x86_check_vmx(const struct x86_vcpu_state *state, unsigned phys_bits, struct error *err);
int x86_check_svm(const struct x86_vcpu_state *state, unsigned phys_bits, struct error *err);

enum x86_cpu_model { X86_CPU_HOST, X86_CPU_V2, X86_CPU_V3, X86_CPU_V4 };

/* As --cpu has it: "host", "x86-64-v2" and so on; static, for any thread. */
const char *x86_cpu_model_name(enum x86_cpu_model model);

#define X86_MAX_CPUID 192

struct x86_cpuid {
	uint32_t num;
	struct kvm_cpuid_entry2 entry[X86_MAX_CPUID];
};

/*
 * Make a vCPU's CPUID out of what the host supports: @model's features only,
 * topology of @num_cpus single-thread cores in one package, APIC id @index,
 * hypervisor leaves with the TSC's frequency. -EINVAL with @err when the host
 * lacks what @model promises (names the features).
 */
int x86_cpuid_make(struct x86_cpuid *cpuid, const struct x86_cpuid *host,
		   enum x86_cpu_model model, unsigned num_cpus, uint64_t tsc_khz,
		   struct error *err);
/* The per-vCPU fields (APIC ids) of a table made above. */
void x86_cpuid_set_index(struct x86_cpuid *cpuid, unsigned index);

#endif
