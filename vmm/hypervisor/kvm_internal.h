/* What kvm.c (the VM), kvm_vcpu.c and kvm_state.c (its processors) share; nobody else. */
#ifndef WISP_VMM_KVM_INTERNAL_H
#define WISP_VMM_KVM_INTERNAL_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "vmm/hypervisor/kvm.h"

struct kvm_vm {
	struct hv hv;
	int fd;
	int kvm_fd; /* /dev/kvm, borrowed */
	bool clears_by_hand; /* dirty_get() clears nothing */
	bool knows_debug; /* with the first step, which a vCPU's own thread never is: */
	unsigned debug_flags; /* what KVM_SET_GUEST_DEBUG takes */
	size_t run_size; /* bytes of a vCPU's shared page(s) */
	/* kvm_state.c: the host's TSC at the moment that all vCPUs are saved or loaded as of. */
	uint64_t tsc_moment;
	uint64_t load_ns;   /* and that moment of a load by the host's monotonic clock */
	uint64_t first_tsc; /* what vCPU 0 was loaded with */
};

/* The VM that a handle of the interface belongs to, which kvm.c has made. */
static inline struct kvm_vm *to_kvm(struct hv *hv)
{
	return container_of(hv, struct kvm_vm, hv);
}

struct hv_vcpu {
	struct kvm_vm *vm;
	int fd;
	unsigned index;
	struct kvm_run *run;
	pthread_t thread; /* that enters it */
	timer_t timer;	  /* interrupts that thread */
	_Atomic bool begun; /* both are known */
};

/* ioctl(2) on a vCPU or the VM, again when a signal cut it short: what it returns, or -errno. */
int kvm_vcpu_ioctl(struct hv_vcpu *v, unsigned long request, void *arg);
int kvm_vm_ioctl(struct hv *hv, unsigned long request, void *arg);

/* kvm_vcpu.c: members of struct hv_ops, where their contracts are. */
int kvm_vcpu_create(struct hv *hv, unsigned index, struct hv_vcpu **ret_vcpu, struct error *err);
void kvm_vcpu_free(struct hv_vcpu *vcpu);
int kvm_vcpu_run(struct hv_vcpu *vcpu, struct hv_exit *exit);
int kvm_vcpu_begin(struct hv_vcpu *vcpu);
void kvm_vcpu_kick(struct hv_vcpu *vcpu);
void kvm_vcpu_unkick(struct hv_vcpu *vcpu);
int kvm_vcpu_setup(struct hv_vcpu *vcpu, const struct x86_cpuid *cpuid, struct error *err);
int kvm_vcpu_change_msr(struct hv_vcpu *vcpu, uint32_t index, uint64_t filter, uint64_t value);
uint64_t kvm_tsc_khz(struct hv_vcpu *vcpu);
int kvm_vcpu_get(struct hv_vcpu *vcpu, struct x86_vcpu_state *state);
int kvm_vcpu_set(struct hv_vcpu *vcpu, const struct x86_vcpu_state *state);
int kvm_vcpu_debug(struct hv_vcpu *vcpu, const struct hv_debug *debug);
int kvm_vcpu_nmi(struct hv_vcpu *vcpu);
int kvm_vcpu_get_fpu(struct hv_vcpu *vcpu, struct kvm_fpu *fpu);
int kvm_vcpu_set_fpu(struct hv_vcpu *vcpu, const struct kvm_fpu *fpu);

/* kvm_state.c: the same. */
int kvm_vm_save(struct hv *hv, struct x86_saved_vm *vm, struct error *err);
int kvm_vm_load(struct hv *hv, const struct x86_saved_vm *vm, struct error *err);
int kvm_vcpu_save(struct hv_vcpu *v, struct x86_saved_vcpu *state, struct error *err);
int kvm_vcpu_load(struct hv_vcpu *v, const struct x86_saved_vcpu *state, struct error *err);
int kvm_tsc_set_khz(struct hv_vcpu *v, uint64_t khz);
void kvm_vcpu_stood_still(struct hv_vcpu *v);

#endif
