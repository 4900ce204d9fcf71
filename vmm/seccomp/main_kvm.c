/*
 * What the main thread asks of KVM: the guest's state when it is saved, put back or reported, and
 * which memory changed.
 */
#include "vmm/seccomp/rules.h"

#include <linux/kvm.h>
#include <stddef.h>

const struct seccomp_rule seccomp_main_kvm[] = {
	/* as vCPUs do */
	IOCTL(KVM_IOEVENTFD, "doorbells"),
	IOCTL(KVM_IRQFD, "interrupts"),
	IOCTL(KVM_SET_GSI_ROUTING, "where interrupts go"),
	IOCTL(KVM_SIGNAL_MSI, "a message"),
	IOCTL(KVM_IRQ_LINE, "level-triggered lines"),

	/* the VM */
	IOCTL(KVM_CHECK_EXTENSION, "what this KVM can"),
	IOCTL(KVM_ENABLE_CAP, "dirty log"),
	IOCTL(KVM_SET_USER_MEMORY_REGION, "dirty logging on and off, memory that is plugged"),
	IOCTL(KVM_NMI, "last words of a guest that hangs"),
	IOCTL(KVM_GET_MSR_INDEX_LIST, "which MSRs to save"),

	/* state, in the order in which it is restored */
	IOCTL(KVM_GET_TSC_KHZ, "the guest's clock"),
	IOCTL(KVM_SET_TSC_KHZ, "the guest's clock"),
	IOCTL(KVM_GET_MP_STATE, "state"),
	IOCTL(KVM_SET_MP_STATE, "state"),
	IOCTL(KVM_GET_REGS, "state"),
	IOCTL(KVM_SET_REGS, "state"),
	IOCTL(KVM_GET_SREGS, "state"),
	IOCTL(KVM_SET_SREGS, "state"),
	IOCTL(KVM_GET_SREGS2, "state"),
	IOCTL(KVM_SET_SREGS2, "state"),
	IOCTL(KVM_GET_FPU, "state"),
	IOCTL(KVM_SET_FPU, "state"),
	IOCTL(KVM_GET_XCRS, "state"),
	IOCTL(KVM_SET_XCRS, "state"),
	IOCTL(KVM_GET_XSAVE, "state"),
	IOCTL(KVM_GET_XSAVE2, "state"),
	IOCTL(KVM_SET_XSAVE, "state"),
	IOCTL(KVM_GET_LAPIC, "state"),
	IOCTL(KVM_SET_LAPIC, "state"),
	IOCTL(KVM_GET_MSRS, "state"),
	IOCTL(KVM_SET_MSRS, "state"),
	IOCTL(KVM_GET_DEBUGREGS, "state"),
	IOCTL(KVM_SET_DEBUGREGS, "state"),
	IOCTL(KVM_GET_VCPU_EVENTS, "state"),
	IOCTL(KVM_SET_VCPU_EVENTS, "state"),
	IOCTL(KVM_GET_IRQCHIP, "state"),
	IOCTL(KVM_SET_IRQCHIP, "state"),
	IOCTL(KVM_GET_CLOCK, "the guest's clock"),
	IOCTL(KVM_SET_CLOCK, "the guest's clock"),
	IOCTL(KVM_GET_DEVICE_ATTR, "the TSC's offset"),
	IOCTL(KVM_SET_DEVICE_ATTR, "the TSC's offset"),
	IOCTL(KVM_KVMCLOCK_CTRL, "the guest was paused: no alarm about lost time"),
	IOCTL(KVM_GET_DIRTY_LOG, "which memory changed"),
	IOCTL(KVM_CLEAR_DIRTY_LOG, "which memory changed"),

	/* the debugger */
	IOCTL(KVM_SET_GUEST_DEBUG, "breakpoints and steps"),
	{ 0 },
};
