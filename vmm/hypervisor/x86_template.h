/*
 * A CPU template: which bits of a guest's CPUID and model-specific registers
 * are to be other than the host's, in Firecracker's JSON ("custom CPU templates").
 *
 * What it says is done to the host's CPUID before the guest's is made of that:
 * topology, clocks and the hypervisor's own leaves are the machine's whatever it says.
 * Plain data once it is read; any thread.
 */
#ifndef WISP_VMM_X86_TEMPLATE_H
#define WISP_VMM_X86_TEMPLATE_H

#include <jansson.h>

#include "vmm/core/hv.h"
#include "vmm/hypervisor/x86_cpuid.h"

/* New value: (old & ~filter) | value. */
struct x86_bitmap {
	uint64_t filter, value;
};

struct x86_cpuid_change {
	uint32_t leaf, subleaf;
	enum x86_cpuid_reg reg;
	struct x86_bitmap bits;
};

struct x86_msr_change {
	uint32_t index;
	struct x86_bitmap bits;
};

struct x86_template {
	struct x86_cpuid_change *cpuid;
	unsigned num_cpuid;
	struct x86_msr_change *msr;
	unsigned num_msrs;
	uint32_t *capability; /* KVM_CAP_*, which the host must have */
	unsigned num_capabilities;
};

/*
 * Take @json apart: {"kvm_capabilities": ["N" or "!N"], "cpuid_modifiers": [{"leaf": "0x1",
 * "subleaf": "0x0", "flags": N, "modifiers": [{"register": "eax", "bitmap": "0b01x"}]}],
 * "msr_modifiers": [{"addr": "0x10a", "bitmap": "0b1x"}]}, each of which may be left out. A bit of
 * a bitmap, the last of which is bit 0, is 0, 1 or x, which is as it was. -EINVAL with @err in
 * Firecracker's words.
 */
int x86_template_parse(struct x86_template **ret_t, const json_t *json, struct error *err);

/* The same of the file at @path, with @path in what @err says. */
int x86_template_read(struct x86_template **ret_t, const char *path, struct error *err);

/* NULL is fine. */
void x86_template_free(struct x86_template *t);

/* Change @cpuid, a host's, as @t says; -EINVAL with @err when there is no such leaf in it. */
int x86_template_apply(const struct x86_template *t, struct x86_cpuid *cpuid, struct error *err);

/* Change the registers of @vcpu, which has had its CPUID and has not run. */
int x86_template_set_msrs(const struct x86_template *t, const struct hv_ops *ops,
			  struct hv_vcpu *vcpu, struct error *err);

#endif
