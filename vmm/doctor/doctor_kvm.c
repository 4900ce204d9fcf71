/* What KVM offers here. */
#include "vmm/doctor/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/hypervisor/kvm.h"

/* Kernel headers older than 5.18 and 6.11 lack these. */
#ifndef KVM_CAP_XSAVE2
#define KVM_CAP_XSAVE2 208
#endif
#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
#endif

static const char newer_kernel[] = "a newer kernel, or the KVM of a real processor, may have it";

struct capability {
	int number;
	bool vital;
	const char *name;
	const char *use; /* what for, or what goes without it */
};

static const struct capability capabilities[] = {
	{ KVM_CAP_USER_MEMORY, true, "user-memory", "guest RAM in this process's memory" },
	{ KVM_CAP_IRQCHIP, true, "irqchip", "interrupt controllers in the kernel" },
	{ KVM_CAP_IRQ_ROUTING, true, "irq-routing", "interrupts and MSIs by table" },
	{ KVM_CAP_SIGNAL_MSI, true, "msi", "message-signalled interrupts" },
	{ KVM_CAP_IRQFD, true, "irqfd", "interrupts without a system call" },
	{ KVM_CAP_IOEVENTFD, true, "ioeventfd", "doorbells without an exit to us" },
	{ KVM_CAP_IMMEDIATE_EXIT, true, "immediate-exit", "stopping a processor reliably" },
	{ KVM_CAP_EXT_CPUID, true, "cpuid", "telling the guest what its processor can do" },
	{ KVM_CAP_TSC_DEADLINE_TIMER, false, "tsc-deadline", "timers at one exit each" },
	{ KVM_CAP_GET_TSC_KHZ, false, "tsc-frequency", "a guest that need not measure its clock" },
	{ KVM_CAP_IOEVENTFD_ANY_LENGTH, false, "ioeventfd-any", "cheaper MMIO doorbells" },
	{ KVM_CAP_READONLY_MEM, false, "readonly-memory", "ROMs" },
	{ KVM_CAP_XSAVE2, false, "xsave2", "saving large processor state (AMX)" },
	{ KVM_CAP_X86_USER_SPACE_MSR, false, "msr-exits", "counting unknown MSRs" },
	{ KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, false, "dirty-log", "tracking memory in small steps" },
	{ KVM_CAP_DIRTY_LOG_RING_ACQ_REL, false, "dirty-ring", "tracking memory without scanning" },
	{ KVM_CAP_BINARY_STATS_FD, false, "statistics", "exits counted by the kernel" },
	{ KVM_CAP_NESTED_STATE, false, "nested-state", "saving guests that run guests" },
	{ KVM_CAP_PRE_FAULT_MEMORY, false, "pre-fault", "filling page tables ahead of faults" },
};

static bool has_module(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	return access(path, F_OK) == 0;
}

/* Which code runs the guest: the processor's, or an emulation that no kernel survives. */
static void check_vendor(struct doctor *d)
{
	if (has_module("kvm_intel")) {
		doctor_say(d, DOCTOR_OK, "processor", NULL, "Intel VMX (kvm_intel)");
	} else if (has_module("kvm_amd")) {
		doctor_say(d, DOCTOR_OK, "processor", NULL, "AMD SVM (kvm_amd)");
	} else if (kvm_is_paravirtual("")) {
		d->can_run = false;
		doctor_say(
			d, DOCTOR_MISSING, "processor",
			"use a machine with VMX or SVM; to try wisp here, scripts/nested runs a "
			"command on an emulated host with KVM, and 'make run' does so by itself",
			"paravirtual KVM (kvm_pvm): guest kernels cannot run here, only bare-metal "
			"payloads");
	} else {
		doctor_say(d, DOCTOR_WARN, "processor", "modprobe kvm_intel or modprobe kvm_amd",
			   "neither kvm_intel nor kvm_amd is to be seen under /sys/module");
	}
}

static void check_nested(struct doctor *d)
{
	static const char *const paths[] = { "/sys/module/kvm_intel/parameters/nested",
					     "/sys/module/kvm_amd/parameters/nested" };

	for (unsigned i = 0; i < ARRAY_SIZE(paths); i++) {
		int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
		char c = 'N';

		if (fd < 0)
			continue;
		if (read(fd, &c, 1) == 1 && (c == 'Y' || c == '1'))
			doctor_say(d, DOCTOR_OK, "nested", NULL,
				   "guests may run guests of their own");
		else
			doctor_say(d, DOCTOR_WARN, "nested",
				   "load the KVM module with nested=1 if you need it",
				   "guests cannot run guests of their own");
		close(fd);
		return;
	}
}

static void check_capabilities(struct doctor *d, int kvm)
{
	for (unsigned i = 0; i < ARRAY_SIZE(capabilities); i++) {
		const struct capability *c = &capabilities[i];
		bool there = ioctl(kvm, KVM_CHECK_EXTENSION, c->number) > 0;

		if (there) {
			doctor_say(d, DOCTOR_OK, c->name, NULL, "%s", c->use);
		} else {
			doctor_say(d, c->vital ? DOCTOR_MISSING : DOCTOR_WARN, c->name,
				   newer_kernel, "KVM lacks it; it is for: %s", c->use);
			if (c->vital)
				d->can_run = false;
		}
	}
	doctor_say(d, DOCTOR_OK, "vcpus", NULL, "up to %d in one microVM",
		   ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS));
}

static const char *mend_open(int error)
{
	switch (error) {
	case ENOENT:
		return "enable virtualization in the firmware setup and modprobe kvm_intel or "
		       "kvm_amd; in a container, pass the device (--device /dev/kvm)";
	case EACCES:
	case EPERM:
		return kvm_permission_hint();
	case ENODEV:
	case ENXIO:
		return "modprobe kvm_intel or modprobe kvm_amd; the firmware setup may have it "
		       "disabled";
	}
	return NULL;
}

void doctor_check_kvm(struct doctor *d)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), version, vm;

	if (kvm < 0) {
		d->can_run = false;
		doctor_say(d, DOCTOR_MISSING, "kvm", mend_open(errno), "cannot open /dev/kvm: %m");
		return;
	}
	version = ioctl(kvm, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		d->can_run = false;
		doctor_say(d, DOCTOR_MISSING, "kvm", NULL, "/dev/kvm speaks version %d, not %d",
			   version, KVM_API_VERSION);
		close(kvm);
		return;
	}
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0) {
		d->can_run = false;
		doctor_say(d, DOCTOR_MISSING, "kvm",
			   errno == EBUSY ? "end the other hypervisor that holds the processor's "
					    "virtualization (VirtualBox, VMware)"
					  : NULL,
			   "/dev/kvm opens but creates no VM: %m");
	} else {
		doctor_say(d, DOCTOR_OK, "kvm", NULL, "/dev/kvm creates VMs, version %d", version);
		close(vm);
	}
	check_vendor(d);
	check_nested(d);
	check_capabilities(d, kvm);
	close(kvm);
}
