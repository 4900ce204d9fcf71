#include "vmm/hypervisor/kvm.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/hypervisor/kvm_internal.h"

int kvm_vm_ioctl(struct hv *hv, unsigned long request, void *arg)
{
	int r;

	do
		r = ioctl(to_kvm(hv)->fd, request, arg);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

/*
 * Let dirty_get() leave pages writable, for dirty_clear() to protect in small parts, and a log that
 * begins say that all is dirty: neither then stops the guest for long. Older kernels have
 * one or none of both.
 */
static void clear_by_hand(struct kvm_vm *vm)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 };
	int can = vm->clears_by_hand ? 0 :
		  ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);

	if (can <= 0)
		return;
	cap.args[0] = can & (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
	vm->clears_by_hand = kvm_vm_ioctl(&vm->hv, KVM_ENABLE_CAP, &cap) == 0;
}

static int kvm_mem_set(struct hv *hv, unsigned slot, uint64_t gpa, uint64_t size, void *host,
		       unsigned flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)host,
	};

	if (flags & HV_MEM_READ_ONLY)
		region.flags |= KVM_MEM_READONLY;
	if (flags & HV_MEM_LOG_DIRTY) {
		clear_by_hand(to_kvm(hv));
		region.flags |= KVM_MEM_LOG_DIRTY_PAGES;
	}
	return kvm_vm_ioctl(hv, KVM_SET_USER_MEMORY_REGION, &region);
}

static int kvm_dirty_get(struct hv *hv, unsigned slot, uint64_t *bitmap)
{
	struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = bitmap };

	return kvm_vm_ioctl(hv, KVM_GET_DIRTY_LOG, &log);
}

static int kvm_dirty_clear(struct hv *hv, unsigned slot, uint64_t first_page, uint32_t num_pages,
			   const uint64_t *bitmap)
{
	struct kvm_clear_dirty_log log = {
		.slot = slot,
		.first_page = first_page,
		.num_pages = num_pages,
		.dirty_bitmap = (void *)bitmap,
	};

	/* Else dirty_get() has done it. */
	return to_kvm(hv)->clears_by_hand ? kvm_vm_ioctl(hv, KVM_CLEAR_DIRTY_LOG, &log) : 0;
}

static int kvm_ioeventfd_set(struct hv *hv, const struct hv_ioeventfd *e, bool assign)
{
	struct kvm_ioeventfd args = {
		.addr = e->addr,
		.len = e->len,
		.fd = e->fd,
		.datamatch = e->value,
	};

	if (e->pio)
		args.flags |= KVM_IOEVENTFD_FLAG_PIO;
	if (e->match)
		args.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
	if (!assign)
		args.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	return kvm_vm_ioctl(hv, KVM_IOEVENTFD, &args);
}

static int kvm_irqfd_set(struct hv *hv, int fd, uint32_t gsi, bool assign)
{
	struct kvm_irqfd args = {
		.fd = fd,
		.gsi = gsi,
		.flags = assign ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};

	return kvm_vm_ioctl(hv, KVM_IRQFD, &args);
}

static int kvm_irq_line(struct hv *hv, uint32_t gsi, bool level)
{
	struct kvm_irq_level args = { .irq = gsi, .level = level };

	return kvm_vm_ioctl(hv, KVM_IRQ_LINE, &args);
}

static int kvm_routes_set(struct hv *hv, const struct hv_route *routes, unsigned num)
{
	struct kvm_irq_routing *table;
	int r;

	table = calloc(1, sizeof(*table) + num * sizeof(table->entries[0]));
	if (!table)
		return -ENOMEM;
	table->nr = num;
	for (unsigned i = 0; i < num; i++) {
		struct kvm_irq_routing_entry *e = &table->entries[i];

		e->gsi = routes[i].gsi;
		switch (routes[i].kind) {
		case HV_ROUTE_IOAPIC:
			e->type = KVM_IRQ_ROUTING_IRQCHIP;
			e->u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
			e->u.irqchip.pin = routes[i].pin;
			break;
		case HV_ROUTE_PIC:
			e->type = KVM_IRQ_ROUTING_IRQCHIP;
			e->u.irqchip.irqchip = routes[i].pin < 8 ? KVM_IRQCHIP_PIC_MASTER
								 : KVM_IRQCHIP_PIC_SLAVE;
			e->u.irqchip.pin = routes[i].pin & 7;
			break;
		case HV_ROUTE_MSI:
			e->type = KVM_IRQ_ROUTING_MSI;
			e->u.msi.address_lo = (uint32_t)routes[i].msi_addr;
			e->u.msi.address_hi = routes[i].msi_addr >> 32;
			e->u.msi.data = routes[i].msi_data;
			break;
		}
	}
	r = kvm_vm_ioctl(hv, KVM_SET_GSI_ROUTING, table);
	free(table);
	return r;
}

static int kvm_msi(struct hv *hv, uint64_t addr, uint32_t data)
{
	struct kvm_msi msi = {
		.address_lo = (uint32_t)addr,
		.address_hi = addr >> 32,
		.data = data,
	};
	int r = kvm_vm_ioctl(hv, KVM_SIGNAL_MSI, &msi);

	return r < 0 ? r : 0;
}

static void kvm_free(struct hv *hv)
{
	struct kvm_vm *vm;

	if (!hv)
		return;
	vm = to_kvm(hv);
	if (vm->fd >= 0)
		close(vm->fd);
	free(vm);
}

static const struct hv_ops kvm_ops = {
	.free = kvm_free,
	.mem_set = kvm_mem_set,
	.dirty_get = kvm_dirty_get,
	.dirty_clear = kvm_dirty_clear,
	.ioeventfd = kvm_ioeventfd_set,
	.irqfd = kvm_irqfd_set,
	.irq_line = kvm_irq_line,
	.routes_set = kvm_routes_set,
	.msi = kvm_msi,
	.vcpu_create = kvm_vcpu_create,
	.vcpu_free = kvm_vcpu_free,
	.vcpu_run = kvm_vcpu_run,
	.vcpu_begin = kvm_vcpu_begin,
	.vcpu_kick = kvm_vcpu_kick,
	.vcpu_unkick = kvm_vcpu_unkick,
	.vcpu_setup = kvm_vcpu_setup,
	.vcpu_change_msr = kvm_vcpu_change_msr,
	.tsc_khz = kvm_tsc_khz,
	.vcpu_get = kvm_vcpu_get,
	.vcpu_set = kvm_vcpu_set,
	.vm_save = kvm_vm_save,
	.vcpu_save = kvm_vcpu_save,
	.vcpu_load = kvm_vcpu_load,
	.vm_load = kvm_vm_load,
	.tsc_set_khz = kvm_tsc_set_khz,
	.vcpu_stood_still = kvm_vcpu_stood_still,
	.vcpu_nmi = kvm_vcpu_nmi,
	.vcpu_debug = kvm_vcpu_debug,
	.vcpu_get_fpu = kvm_vcpu_get_fpu,
	.vcpu_set_fpu = kvm_vcpu_set_fpu,
};

const char *kvm_permission_hint(void)
{
	struct stat st;

	if (stat("/dev/kvm", &st) == 0 && (st.st_gid == 0 || (st.st_mode & 0060) != 0060))
		return "let a group have it, and be in that: sudo chgrp kvm /dev/kvm; sudo chmod "
		       "g+rw /dev/kvm";
	return "add yourself to the group that owns it: sudo usermod -aG $(stat -c %G /dev/kvm) "
	       "$USER, then log in again";
}

static bool has_module(const char *root, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/sys/module/%s", root, name);
	return access(path, F_OK) == 0;
}

bool kvm_is_paravirtual(const char *root)
{
	return has_module(root, "kvm_pvm") && !has_module(root, "kvm_intel") &&
	       !has_module(root, "kvm_amd");
}

int kvm_open(struct error *err)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int r;

	if (fd >= 0)
		return fd;
	r = error_kind_set(err, ERROR_REFUSED, -errno, "/dev/kvm: cannot open: %m");
	if (r == -EACCES || r == -EPERM)
		error_hint(err, "%s", kvm_permission_hint());
	else
		error_hint(err, "run 'wisp doctor' to see what this host can do");
	return r;
}

/* KVM knows no name of the processor and no first-level caches of AMD's: ask it. */
static void add_names(struct x86_cpuid *cpuid)
{
	for (unsigned i = 0; i < cpuid->num; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entry[i];

		if (e->function >= 0x80000002 && e->function <= 0x80000005)
			__cpuid(e->function, e->eax, e->ebx, e->ecx, e->edx);
	}
}

static int query_cpuid(int kvm_fd, struct x86_cpuid *ret_cpuid, struct error *err)
{
	struct kvm_cpuid2 *list;
	int r = 0;

	list = calloc(1, sizeof(*list) + X86_MAX_CPUID * sizeof(list->entries[0]));
	if (!list)
		return error_set(err, -ENOMEM, "CPUID: %m");
	list->nent = X86_MAX_CPUID;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, list) < 0) {
		r = error_kind_set(err, ERROR_REFUSED, -errno,
				   "/dev/kvm: cannot ask for the CPUID it supports: %m");
	} else {
		ret_cpuid->num = list->nent;
		memcpy(ret_cpuid->entry, list->entries, list->nent * sizeof(list->entries[0]));
		add_names(ret_cpuid);
	}
	free(list);
	return r;
}

int kvm_host_query(int kvm_fd, struct kvm_host *ret_host, struct error *err)
{
	int size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	if (size < 0)
		return error_kind_set(err, ERROR_REFUSED, -errno, "/dev/kvm: is not KVM: %m");
	ret_host->run_size = size;
	return query_cpuid(kvm_fd, &ret_host->cpuid, err);
}

int kvm_check_capabilities(int kvm_fd, const uint32_t *capability, unsigned num, struct error *err)
{
	for (unsigned i = 0; i < num; i++)
		if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, (unsigned long)capability[i]) <= 0)
			return error_kind_set(err, ERROR_REFUSED, -ENOTSUP,
					      "/dev/kvm: lacks capability %u", capability[i]);
	return 0;
}

/*
 * Pages that VMX needs to run real mode, and code before CR0.PG is set; SVM has
 * no use for them. The identity map goes first: KVM wants it before the first vCPU.
 */
static int reserve_vmx_pages(struct hv *hv)
{
	uint64_t identity = FW_KVM_IDENTITY_ADDR;
	unsigned eax, ebx, ecx, edx;
	int r;

	if (__get_cpuid(0, &eax, &ebx, &ecx, &edx) && ebx == signature_AMD_ebx)
		return 0;
	r = kvm_vm_ioctl(hv, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	return r < 0 ? r : kvm_vm_ioctl(hv, KVM_SET_TSS_ADDR, (void *)FW_KVM_TSS_ADDR);
}

int kvm_create(struct hv **ret_hv, int kvm_fd, const struct kvm_host *host, struct error *err)
{
	struct kvm_enable_cap msr_exits = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = { KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL },
	};
	struct kvm_vm *vm;
	int r;

	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return error_set(err, -ENOMEM, "virtual machine: %m");
	vm->hv.ops = &kvm_ops;
	vm->kvm_fd = kvm_fd;
	vm->run_size = host->run_size;
	do
		vm->fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	while (vm->fd < 0 && errno == EINTR);
	if (vm->fd < 0) {
		r = error_kind_set(err, ERROR_REFUSED, -errno, "KVM cannot create a VM: %m");
		error_hint(err, "run 'wisp doctor' to see what this host can do");
		goto fail;
	}
	r = reserve_vmx_pages(&vm->hv);
	if (r < 0) {
		error_kind_set(err, ERROR_START, r, "KVM: cannot reserve the VMX pages: %m");
		goto fail;
	}
	r = kvm_vm_ioctl(&vm->hv, KVM_CREATE_IRQCHIP, NULL);
	if (r < 0) {
		error_kind_set(err, ERROR_REFUSED, r, "KVM: no in-kernel interrupt controller: %m");
		goto fail;
	}
	/* To count the MSRs that nobody implements; kernels before 5.10 just raise #GP. */
	kvm_vm_ioctl(&vm->hv, KVM_ENABLE_CAP, &msr_exits);
	*ret_hv = &vm->hv;
	return 0;
fail:
	kvm_free(&vm->hv);
	return r;
}
