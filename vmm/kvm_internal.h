/* What kvm.c (the VM) and kvm_vcpu.c (its processors) share; nobody else includes it. */
#ifndef WISP_VMM_KVM_INTERNAL_H
#define WISP_VMM_KVM_INTERNAL_H

#include <linux/kvm.h>

#include "vmm/kvm.h"

struct kvm_vm {
	struct hv hv;
	int fd;
	size_t run_size; /* bytes of a vCPU's shared page(s) */
};

static inline struct kvm_vm *to_kvm(struct hv *hv)
{
	return container_of(hv, struct kvm_vm, hv);
}

int kvm_vcpu_create(struct hv *hv, unsigned index, struct hv_vcpu **ret_vcpu, struct error *err);
void kvm_vcpu_free(struct hv_vcpu *vcpu);
int kvm_vcpu_run(struct hv_vcpu *vcpu, struct hv_exit *exit);
void kvm_vcpu_kick(struct hv_vcpu *vcpu);
void kvm_vcpu_unkick(struct hv_vcpu *vcpu);
int kvm_vcpu_setup(struct hv_vcpu *vcpu, const struct x86_cpuid *cpuid, struct error *err);
uint64_t kvm_tsc_khz(struct hv_vcpu *vcpu);
int kvm_vcpu_get(struct hv_vcpu *vcpu, struct x86_vcpu_state *state);
int kvm_vcpu_set(struct hv_vcpu *vcpu, const struct x86_vcpu_state *state);

#endif
