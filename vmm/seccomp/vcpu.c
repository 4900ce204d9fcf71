/*
 * vCPU threads: enter the guest, serve its exits. Driver set-up (doorbells, interrupts) happens
 * here; requests do not.
 */
#include "vmm/seccomp/rules.h"

#include <linux/kvm.h>
#include <stddef.h>

const struct seccomp_rule seccomp_vcpu[] = {
	IOCTL(KVM_RUN, "enter the guest"),
	IOCTL(KVM_IOEVENTFD, "a doorbell moves with its BAR, or its queue starts"),
	IOCTL(KVM_IRQFD, "an interrupt vector is masked or unmasked"),
	IOCTL(KVM_SET_GSI_ROUTING, "where the guest wants its interrupts"),
	IOCTL(KVM_SIGNAL_MSI, "a message that was pending when it was unmasked"),
	IOCTL(KVM_IRQ_LINE, "level-triggered lines"),
	IOCTL(KVM_GET_REGS, "the report of a guest that failed"),
	IOCTL(KVM_GET_SREGS, "the report of a guest that failed"),
	IOCTL(KVM_SET_GUEST_DEBUG, "an int3 that is the guest's own goes back to it"),
	IOCTL(KVM_GET_DEBUGREGS, "a trap that is the guest's own goes back to it"),
	IOCTL(KVM_SET_DEBUGREGS, "a trap that is the guest's own goes back to it"),
	ALLOW(eventfd2, "a doorbell or vector that is used first"),
	{ 0 },
};
