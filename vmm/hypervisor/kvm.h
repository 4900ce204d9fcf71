/*
 * The hypervisor over /dev/kvm.
 *
 * The interrupt controllers (two PICs, IOAPIC, local APICs) are KVM's own: a
 * split irqchip would make every level-triggered interrupt and every IOAPIC
 * access an exit, and saves nothing that a guest with MSI-X uses. There is no
 * PIT. Threads: see vmm/core/hv.h.
 */
#ifndef WISP_VMM_KVM_H
#define WISP_VMM_KVM_H

#include "vmm/core/hv.h"
#include "vmm/hypervisor/x86.h"

/* What this host's KVM offers to every VM. */
struct kvm_host {
	struct x86_cpuid cpuid; /* what a guest's CPUID may contain */
	size_t run_size;	/* bytes a vCPU shares with us */
};

/* Ask /dev/kvm; before any VM, so that what is not there is refused early. Kind REFUSED. */
int kvm_host_query(int kvm_fd, struct kvm_host *ret_host, struct error *err);

/* Has this host's KVM all of these KVM_CAP_*? -ENOTSUP with @err, of kind REFUSED, if not. */
int kvm_check_capabilities(int kvm_fd, const uint32_t *capability, unsigned num,
			   struct error *err);

/*
 * Create a VM. @kvm_fd is an open /dev/kvm, borrowed for the VM's life.
 * Errors are of kind REFUSED or START. The VM belongs to this process's address space: do
 * not fork and go on in the child.
 */
int kvm_create(struct hv **ret_hv, int kvm_fd, const struct kvm_host *host, struct error *err);

/* How somebody who may not open /dev/kvm comes to do so. */
const char *kvm_permission_hint(void);

/*
 * Is the KVM of this host one that interprets a guest's kernel (kvm_pvm of cloud machines)? Linux
 * does not come up on it. @root is "" but in tests.
 */
bool kvm_is_paravirtual(const char *root);

/* Open /dev/kvm; kind REFUSED, with a hint, when the host does not let us. */
int kvm_open(struct error *err);

#endif
