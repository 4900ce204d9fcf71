/*
 * All that a processor and the interrupt controllers are between two
 * instructions: what the hypervisor gives and takes (hv.h: vcpu_save,
 * vcpu_load, vm_save, vm_load), and how it is written into sections.
 *
 * Plain data in KVM's own shapes; pure functions, any thread. Loading checks
 * every field against what the architecture allows; what depends on the host
 * (an MSR it does not know, an XSAVE component it lacks) is the hypervisor's to refuse.
 */
#ifndef WISP_VMM_X86_STATE_H
#define WISP_VMM_X86_STATE_H

#include "vmm/core/state.h"
#include "vmm/hypervisor/x86.h"

#define X86_MAX_SAVED_MSRS 512
#define X86_MAX_XSAVE	   (16 * KiB) /* AMX needs 11 KiB; KVM's own minimum is 4 KiB */
#define X86_LAPIC_BYTES	   1024

struct x86_saved_vcpu {
	struct x86_vcpu_state regs;
	bool has_pdptrs; /* PAE paging: the four entries loaded with CR3 */
	uint64_t pdptr[4];
	uint32_t mp_state; /* KVM_MP_STATE_* */
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	struct kvm_xcrs xcrs;
	uint8_t lapic[X86_LAPIC_BYTES];
	/* The TSC at one and the same moment for all processors of the machine. */
	uint64_t tsc;
	uint32_t xsave_bytes;
	uint8_t xsave[X86_MAX_XSAVE]; /* not compacted */
	uint32_t num_msrs;
	struct kvm_msr_entry msr[X86_MAX_SAVED_MSRS]; /* without the TSC */
};

struct x86_saved_vm {
	struct kvm_irqchip pic[2], ioapic;
	uint64_t clock_ns;    /* KVM's paravirtual clock */
	uint64_t realtime_ns; /* the host's at that moment */
};

/*
 * Append the fields to the section that is open in @w, where a failure stays; a reader of the same
 * fields takes them in that order.
 */
void x86_vcpu_write(const struct x86_saved_vcpu *v, struct state_writer *w);
/*
 * Fields of the open section into @v, all checked. -EBADMSG through state_reader_fail(): @v is good
 * for nothing then.
 */
int x86_vcpu_read(struct x86_saved_vcpu *v, struct state_reader *r);

/* The same of the interrupt controllers and the clock. */
void x86_vm_write(const struct x86_saved_vm *vm, struct state_writer *w);
int x86_vm_read(struct x86_saved_vm *vm, struct state_reader *r);

/* The same of the CPUID that a guest was given; more than X86_MAX_CPUID entries are refused. */
void x86_cpuid_write(const struct x86_cpuid *cpuid, struct state_writer *w);
int x86_cpuid_read(struct x86_cpuid *cpuid, struct state_reader *r);

/*
 * Can a guest that was told @saved run where @offered is what we would tell it
 * now? -ENOTSUP with @err naming the features that are missing.
 */
int x86_cpuid_covers(const struct x86_cpuid *offered, const struct x86_cpuid *saved,
		     struct error *err);

#endif
