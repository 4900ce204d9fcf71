/*
 * The state of a VM's processors, interrupt controllers and clock, out of KVM
 * and back into it. The order of the calls matters in both directions; where
 * one does, a comment says so.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <x86intrin.h>

#include "vmm/core/clock.h"
#include "vmm/hypervisor/kvm_internal.h"
#include "vmm/hypervisor/x86_msr_set.h"
#include "vmm/hypervisor/x86_state.h"

#ifndef KVM_CAP_XSAVE2
#define KVM_CAP_XSAVE2 208
#endif

#define MSR_TSC		   0x10
#define MSR_TSC_DEADLINE   0x6e0
#define MSR_MTRR_VARIABLE  0x200 /* eight pairs */
#define MSR_MTRR_FIXED_64K 0x250
#define MSR_MTRR_FIXED_16K 0x258 /* two */
#define MSR_MTRR_FIXED_4K  0x268 /* eight */
#define MSR_MTRR_DEF_TYPE  0x2ff
#define MSR_MACHINE_CHECK  0x400 /* four for each bank */
#define NUM_MACHINE_CHECK  128
#define MSR_HYPERV_FIRST   0x40000000
#define MSR_HYPERV_LAST	   0x400001ff
#define MSR_TSC_AUX	   0xc0000103
#define MSR_AMD_OSVW	   0xc0010140 /* two */
#define MSR_AMD_DE_CFG	   0xc0011029

struct msr_list {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[X86_MAX_SAVED_MSRS];
	struct x86_msr_set wanted; /* who is in it, as make_list() made it */
};

static int cannot(struct hv_vcpu *v, const char *what, int r, struct error *err)
{
	return error_kind_set(err, ERROR_START, r, "vCPU %u: KVM does not give its %s: %m",
			      v->index, what);
}

static int refused(struct hv_vcpu *v, const char *what, int r, struct error *err)
{
	return error_kind_set(err, ERROR_START, r, "vCPU %u: KVM refuses its %s: %m", v->index,
			      what);
}

static int extension(struct kvm_vm *vm, unsigned long cap)
{
	int r = ioctl(vm->fd, KVM_CHECK_EXTENSION, cap);

	return MAX(r, 0);
}

/* ---- model-specific registers ---- */

static void want(struct msr_list *list, uint32_t index)
{
	/* Hyper-V's are never offered; to ask for one makes KVM allocate for all of them. */
	if (index == MSR_TSC || (index >= MSR_HYPERV_FIRST && index <= MSR_HYPERV_LAST))
		return;
	if (list->head.nmsrs < X86_MAX_SAVED_MSRS && x86_msr_set_add(&list->wanted, index))
		list->entry[list->head.nmsrs++].index = index;
}

static void want_run(struct msr_list *list, uint32_t first, unsigned num)
{
	for (unsigned i = 0; i < num; i++)
		want(list, first + i);
}

/* KVM's own list, and what it emulates but (by version) leaves out of that. */
static struct msr_list *make_list(struct kvm_vm *vm)
{
	struct kvm_msr_list *indices;
	struct msr_list *list;

	list = calloc(1, sizeof(*list));
	indices = calloc(1, sizeof(*indices) + X86_MAX_SAVED_MSRS * sizeof(indices->indices[0]));
	if (!list || !indices)
		goto fail;
	indices->nmsrs = X86_MAX_SAVED_MSRS;
	if (ioctl(vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, indices) < 0)
		goto fail;
	for (unsigned i = 0; i < indices->nmsrs; i++)
		want(list, indices->indices[i]);
	free(indices);
	want_run(list, MSR_MTRR_VARIABLE, 16);
	want_run(list, MSR_MTRR_FIXED_64K, 1);
	want_run(list, MSR_MTRR_FIXED_16K, 2);
	want_run(list, MSR_MTRR_FIXED_4K, 8);
	want_run(list, MSR_MTRR_DEF_TYPE, 1);
	want_run(list, MSR_MACHINE_CHECK, NUM_MACHINE_CHECK);
	/* What a CPU template may have changed besides. */
	want_run(list, MSR_TSC_AUX, 1);
	want_run(list, MSR_AMD_OSVW, 2);
	want_run(list, MSR_AMD_DE_CFG, 1);
	return list;
fail:
	free(indices);
	free(list);
	return NULL;
}

/*
 * KVM stops at the first register that this processor does not have: leave it
 * out and go on behind it.
 */
static int get_msrs(struct hv_vcpu *v, struct msr_list *list)
{
	unsigned kept = 0, at = 0, num = list->head.nmsrs;
	struct msr_list *part = calloc(1, sizeof(*part));

	if (!part)
		return -ENOMEM;
	while (at < num) {
		int r;

		part->head.nmsrs = num - at;
		memcpy(part->entry, list->entry + at, (num - at) * sizeof(part->entry[0]));
		r = kvm_vcpu_ioctl(v, KVM_GET_MSRS, part);
		if (r < 0) {
			free(part);
			return r;
		}
		memmove(list->entry + kept, part->entry, r * sizeof(part->entry[0]));
		kept += r;
		at += r + 1;
	}
	list->head.nmsrs = kept;
	free(part);
	return 0;
}

static int get_msr(struct hv_vcpu *v, uint32_t index, uint64_t *ret)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = { .head.nmsrs = 1, .entry.index = index };
	int r = kvm_vcpu_ioctl(v, KVM_GET_MSRS, &one);

	*ret = one.entry.data;
	return r < 0 ? r : r == 1 ? 0 : -ENOENT;
}

static int set_msr(struct hv_vcpu *v, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = { .head.nmsrs = 1, .entry = { .index = index, .data = value } };
	int r = kvm_vcpu_ioctl(v, KVM_SET_MSRS, &one);

	return r < 0 ? r : r == 1 ? 0 : -EINVAL;
}

int kvm_vcpu_change_msr(struct hv_vcpu *v, uint32_t index, uint64_t filter, uint64_t value)
{
	uint64_t now;
	int r = get_msr(v, index, &now);

	return r ? r : set_msr(v, index, (now & ~filter) | (value & filter));
}

/* Set all of @list, in order. One that KVM will not set is fine when it has that value anyway. */
static int set_msrs(struct hv_vcpu *v, struct msr_list *list, struct error *err)
{
	unsigned num = list->head.nmsrs, at = 0;

	while (at < num) {
		const struct kvm_msr_entry *m;
		uint64_t now;
		int r;

		list->head.nmsrs = num - at;
		r = kvm_vcpu_ioctl(v, KVM_SET_MSRS, list);
		if (r < 0)
			return refused(v, "MSRs", r, err);
		if (r == (int)(num - at))
			return 0;
		m = &list->entry[r];
		if (get_msr(v, m->index, &now) < 0 || now != m->data)
			return error_kind_set(err, ERROR_REFUSED, -ENOTSUP,
					      "vCPU %u: this host's KVM refuses %#llx in MSR %#x",
					      v->index, m->data, m->index);
		at += r + 1;
		memmove(list->entry, list->entry + r + 1, (num - at) * sizeof(list->entry[0]));
	}
	return 0;
}

static int load_msrs(struct hv_vcpu *v, const struct x86_saved_vcpu *s, struct error *err)
{
	struct msr_list *known = make_list(v->vm), *list = calloc(1, sizeof(*list));
	const struct kvm_msr_entry *deadline = NULL;
	int r = 0;

	if (!known || !list) {
		r = error_set(err, -ENOMEM, "vCPU %u: MSRs: %m", v->index);
		goto out;
	}
	for (unsigned i = 0; i < s->num_msrs; i++) {
		/* Only what KVM saves: the file does not get to write others. */
		if (!x86_msr_set_has(&known->wanted, s->msr[i].index)) {
			r = error_kind_set(err, ERROR_REFUSED, -ENOTSUP,
					   "vCPU %u: this host's KVM has no MSR %#x", v->index,
					   s->msr[i].index);
			goto out;
		}
		if (s->msr[i].index == MSR_TSC_DEADLINE)
			deadline = &s->msr[i];
		else
			list->entry[list->head.nmsrs++] = s->msr[i];
	}
	/*
	 * Last: by the TSC, and only heard when the local APIC's timer is in that mode. Also
	 * none: a vCPU that goes back to an earlier state may have one that was set later.
	 */
	if (deadline)
		list->entry[list->head.nmsrs++] = *deadline;
	r = set_msrs(v, list, err);
out:
	free(known);
	free(list);
	return r;
}

static int save_msrs(struct hv_vcpu *v, struct x86_saved_vcpu *s, struct error *err)
{
	struct msr_list *list = make_list(v->vm);
	int r;

	if (!list)
		return error_set(err, -ENOMEM, "vCPU %u: MSRs: %m", v->index);
	r = get_msrs(v, list);
	if (r < 0) {
		free(list);
		return cannot(v, "MSRs", r, err);
	}
	s->num_msrs = list->head.nmsrs;
	memcpy(s->msr, list->entry, s->num_msrs * sizeof(s->msr[0]));
	free(list);
	return 0;
}

/* ---- the TSC: one moment for all vCPUs ---- */

static int tsc_offset(struct hv_vcpu *v, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)offset,
	};

	return kvm_vcpu_ioctl(v, request, &attr);
}

/* Does the guest's TSC run as fast as the host's, so that offsets are in its units? */
static bool tsc_unscaled(struct hv_vcpu *v)
{
	int host = ioctl(v->vm->fd, KVM_GET_TSC_KHZ, 0);

	/* The VM's own question is newer than offsets are; without an answer nobody scaled. */
	return host <= 0 || (uint64_t)host == kvm_tsc_khz(v);
}

static int save_tsc(struct hv_vcpu *v, struct x86_saved_vcpu *s)
{
	uint64_t offset;

	if (tsc_unscaled(v) && tsc_offset(v, KVM_GET_DEVICE_ATTR, &offset) == 0) {
		s->tsc = v->vm->tsc_moment + offset;
		return 0;
	}
	return get_msr(v, MSR_TSC, &s->tsc);
}

/*
 * By offsets they agree to the tick. Without, KVM itself makes those equal that
 * are set to values a second apart or less: give it the first one's for all
 * that were so close that they must have been in step.
 */
static int load_tsc(struct hv_vcpu *v, const struct x86_saved_vcpu *s)
{
	struct kvm_vm *vm = v->vm;
	uint64_t second = kvm_tsc_khz(v) * 1000, tsc = s->tsc, offset;

	if (!v->index) {
		vm->tsc_moment = __rdtsc();
		vm->load_ns = clock_monotonic_ns(NULL);
		vm->first_tsc = tsc;
	}
	offset = tsc - vm->tsc_moment;
	if (tsc_unscaled(v) && tsc_offset(v, KVM_SET_DEVICE_ATTR, &offset) == 0)
		return 0;
	if (tsc - vm->first_tsc < second || vm->first_tsc - tsc < second)
		tsc = vm->first_tsc;
	return set_msr(v, MSR_TSC, tsc);
}

int kvm_tsc_set_khz(struct hv_vcpu *v, uint64_t khz)
{
	int r;

	if (!extension(v->vm, KVM_CAP_TSC_CONTROL))
		return -ENOTSUP;
	do
		r = ioctl(v->fd, KVM_SET_TSC_KHZ, khz);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

void kvm_vcpu_stood_still(struct hv_vcpu *v)
{
	/* Fails where the guest does not use KVM's clock: then there is nobody to tell. */
	ioctl(v->fd, KVM_KVMCLOCK_CTRL, 0);
}

/* ---- one vCPU ---- */

static bool uses_pdptrs(const struct kvm_sregs *s)
{
	return s->cr0 & X86_CR0_PG && s->cr4 & X86_CR4_PAE && !(s->efer & X86_EFER_LMA);
}

static int save_sregs(struct hv_vcpu *v, struct x86_saved_vcpu *s, struct error *err)
{
	struct kvm_sregs2 two;
	int r = kvm_vcpu_ioctl(v, KVM_GET_SREGS, &s->regs.sregs);

	if (r < 0)
		return cannot(v, "system registers", r, err);
	/* What the events say about it is complete. */
	memset(s->regs.sregs.interrupt_bitmap, 0, sizeof(s->regs.sregs.interrupt_bitmap));
	if (!uses_pdptrs(&s->regs.sregs) || !extension(v->vm, KVM_CAP_SREGS2))
		return 0;
	r = kvm_vcpu_ioctl(v, KVM_GET_SREGS2, &two);
	if (r < 0)
		return cannot(v, "page directory pointers", r, err);
	s->has_pdptrs = two.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
	memcpy(s->pdptr, two.pdptrs, sizeof(s->pdptr));
	return 0;
}

static int load_sregs(struct hv_vcpu *v, const struct x86_saved_vcpu *s, struct error *err)
{
	const struct kvm_sregs *one = &s->regs.sregs;
	struct kvm_sregs2 two = {
		.cs = one->cs,
		.ds = one->ds,
		.es = one->es,
		.fs = one->fs,
		.gs = one->gs,
		.ss = one->ss,
		.tr = one->tr,
		.ldt = one->ldt,
		.gdt = one->gdt,
		.idt = one->idt,
		.cr0 = one->cr0,
		.cr2 = one->cr2,
		.cr3 = one->cr3,
		.cr4 = one->cr4,
		.cr8 = one->cr8,
		.efer = one->efer,
		.apic_base = one->apic_base,
		.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID,
	};
	int r;

	if (s->has_pdptrs && extension(v->vm, KVM_CAP_SREGS2)) {
		memcpy(two.pdptrs, s->pdptr, sizeof(two.pdptrs));
		r = kvm_vcpu_ioctl(v, KVM_SET_SREGS2, &two);
	} else {
		/* Those of PAE are then read from memory again, as a write to CR3 does. */
		r = kvm_vcpu_ioctl(v, KVM_SET_SREGS, (void *)one);
	}
	return r < 0 ? refused(v, "system registers", r, err) : 0;
}

/* The size of this VM's XSAVE areas, at most X86_MAX_XSAVE. */
static uint32_t xsave_bytes(struct kvm_vm *vm)
{
	uint32_t size = extension(vm, KVM_CAP_XSAVE2);

	size = MAX(size, (uint32_t)sizeof(struct kvm_xsave));
	return MIN(size, (uint32_t)X86_MAX_XSAVE);
}

static int save_xsave(struct hv_vcpu *v, struct x86_saved_vcpu *s, struct error *err)
{
	bool two = extension(v->vm, KVM_CAP_XSAVE2) > (int)sizeof(struct kvm_xsave);
	int r;

	if (extension(v->vm, KVM_CAP_XSAVE2) > (int)X86_MAX_XSAVE)
		return cannot(v, "XSAVE area (too large)", -E2BIG, err);
	s->xsave_bytes = xsave_bytes(v->vm);
	r = kvm_vcpu_ioctl(v, two ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, s->xsave);
	return r < 0 ? cannot(v, "XSAVE area", r, err) : 0;
}

static int load_xsave(struct hv_vcpu *v, const struct x86_saved_vcpu *s, struct error *err)
{
	int r = 0;

	/* KVM reads as much as it has; ours is zero-padded to more than that. */
	for (uint32_t i = xsave_bytes(v->vm); i < s->xsave_bytes; i++)
		if (s->xsave[i])
			r = -ENOTSUP;
	if (!r)
		r = kvm_vcpu_ioctl(v, KVM_SET_XSAVE, (void *)s->xsave);
	return r < 0 ? refused(v, "XSAVE area", r, err) : 0;
}

static int save_rest(struct hv_vcpu *v, struct x86_saved_vcpu *s, struct error *err)
{
	int r = kvm_vcpu_ioctl(v, KVM_GET_REGS, &s->regs.regs);

	if (r < 0)
		return cannot(v, "registers", r, err);
	if (extension(v->vm, KVM_CAP_XCRS)) {
		r = kvm_vcpu_ioctl(v, KVM_GET_XCRS, &s->xcrs);
		if (r < 0)
			return cannot(v, "extended control registers", r, err);
	}
	r = kvm_vcpu_ioctl(v, KVM_GET_DEBUGREGS, &s->debug);
	if (r < 0)
		return cannot(v, "debug registers", r, err);
	r = kvm_vcpu_ioctl(v, KVM_GET_LAPIC, s->lapic);
	return r < 0 ? cannot(v, "local APIC", r, err) : 0;
}

int kvm_vcpu_save(struct hv_vcpu *v, struct x86_saved_vcpu *s, struct error *err)
{
	struct kvm_mp_state mp;
	int r;

	memset(s, 0, sizeof(*s));
	/* First: KVM takes pending INIT and SIPI in at this, which changes the rest. */
	r = kvm_vcpu_ioctl(v, KVM_GET_MP_STATE, &mp);
	if (r < 0)
		return cannot(v, "run state", r, err);
	s->mp_state = mp.mp_state;
	r = save_sregs(v, s, err);
	if (!r)
		r = save_rest(v, s, err);
	if (!r)
		r = save_xsave(v, s, err);
	if (!r)
		r = save_msrs(v, s, err);
	if (r < 0)
		return r;
	r = save_tsc(v, s);
	if (r < 0)
		return cannot(v, "TSC", r, err);
	/* Last: nothing above may leave an event behind. */
	r = kvm_vcpu_ioctl(v, KVM_GET_VCPU_EVENTS, &s->events);
	return r < 0 ? cannot(v, "events", r, err) : 0;
}

/* Where @v is in its life: before anything that depends on it. */
static int load_mp_state(struct hv_vcpu *v, uint32_t state, struct error *err)
{
	struct kvm_mp_state mp = { .mp_state = state };
	int r = kvm_vcpu_ioctl(v, KVM_SET_MP_STATE, &mp);

	return r < 0 ? refused(v, "run state", r, err) : 0;
}

int kvm_vcpu_load(struct hv_vcpu *v, const struct x86_saved_vcpu *s, struct error *err)
{
	int r = load_mp_state(v, s->mp_state, err);

	if (r < 0)
		return r;
	/* The system registers hold the APIC's base and mode, which the LAPIC's page is read by. */
	r = load_sregs(v, s, err);
	if (r < 0)
		return r;
	r = kvm_vcpu_ioctl(v, KVM_SET_REGS, (void *)&s->regs.regs);
	if (r < 0)
		return refused(v, "registers", r, err);
	if (s->xcrs.nr_xcrs) {
		r = kvm_vcpu_ioctl(v, KVM_SET_XCRS, (void *)&s->xcrs);
		if (r < 0)
			return refused(v, "extended control registers", r, err);
	}
	r = load_xsave(v, s, err);
	if (r < 0)
		return r;
	r = kvm_vcpu_ioctl(v, KVM_SET_DEBUGREGS, (void *)&s->debug);
	if (r < 0)
		return refused(v, "debug registers", r, err);
	r = kvm_vcpu_ioctl(v, KVM_SET_LAPIC, (void *)s->lapic);
	if (r < 0)
		return refused(v, "local APIC", r, err);
	/* Before the timer's deadline, which counts in it. */
	r = load_tsc(v, s);
	if (r < 0)
		return refused(v, "TSC", r, err);
	r = load_msrs(v, s, err);
	if (r < 0)
		return r;
	/* Last: setting registers clears what is pending. */
	r = kvm_vcpu_ioctl(v, KVM_SET_VCPU_EVENTS, (void *)&s->events);
	if (r < 0)
		return refused(v, "events", r, err);
	kvm_vcpu_stood_still(v);
	return 0;
}

/* ---- what all vCPUs share ---- */

int kvm_vm_save(struct hv *hv, struct x86_saved_vm *s, struct error *err)
{
	struct kvm_irqchip *chip[] = { &s->pic[0], &s->pic[1], &s->ioapic };
	static const uint32_t id[] = { KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
				       KVM_IRQCHIP_IOAPIC };
	struct kvm_clock_data clock = { 0 };
	struct timespec now;
	int r;

	memset(s, 0, sizeof(*s));
	for (unsigned i = 0; i < ARRAY_SIZE(chip); i++) {
		chip[i]->chip_id = id[i];
		r = kvm_vm_ioctl(hv, KVM_GET_IRQCHIP, chip[i]);
		if (r < 0)
			return error_kind_set(err, ERROR_START, r,
					      "KVM does not give its interrupt controllers: %m");
	}
	r = kvm_vm_ioctl(hv, KVM_GET_CLOCK, &clock);
	if (r < 0)
		return error_kind_set(err, ERROR_START, r, "KVM does not give its clock: %m");
	to_kvm(hv)->tsc_moment = __rdtsc();
	clock_gettime(CLOCK_REALTIME, &now);
	s->clock_ns = clock.clock;
	s->realtime_ns = now.tv_sec * NSEC_PER_SEC + now.tv_nsec;
	return 0;
}

int kvm_vm_load(struct hv *hv, const struct x86_saved_vm *s, struct error *err)
{
	const struct kvm_irqchip *chip[] = { &s->pic[0], &s->pic[1], &s->ioapic };
	struct kvm_clock_data clock = { .clock = s->clock_ns };
	int r;

	/* The I/O APIC last: it sends what is pending to local APICs, which are there by now. */
	for (unsigned i = 0; i < ARRAY_SIZE(chip); i++) {
		r = kvm_vm_ioctl(hv, KVM_SET_IRQCHIP, (void *)chip[i]);
		if (r < 0)
			return error_kind_set(err, ERROR_START, r,
					      "KVM refuses the interrupt controllers: %m");
	}
	/* The TSC has run since it was set: a clock that lags behind it makes Linux distrust it. */
	if (to_kvm(hv)->load_ns)
		clock.clock += clock_monotonic_ns(NULL) - to_kvm(hv)->load_ns;
	r = kvm_vm_ioctl(hv, KVM_SET_CLOCK, &clock);
	return r < 0 ? error_kind_set(err, ERROR_START, r, "KVM refuses the clock: %m") : 0;
}
