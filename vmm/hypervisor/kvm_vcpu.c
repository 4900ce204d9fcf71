#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "vmm/core/log.h"
#include "vmm/hypervisor/kvm.h"
#include "vmm/hypervisor/kvm_internal.h"

/* Interrupts KVM_RUN; its handler does nothing. */
#define KICK_SIGNAL SIGUSR1

#define MSR_IA32_MISC_ENABLE 0x1a0
#define MSR_MTRR_DEF_TYPE    0x2ff

#define MISC_ENABLE_FAST_STRING (1ull << 0)
/* MTRRs enabled, everything write-back: without it Linux leaves PAT off as well. */
#define MTRR_ENABLED_WRITE_BACK ((1ull << 11) | 6)

int kvm_vcpu_ioctl(struct hv_vcpu *v, unsigned long request, void *arg)
{
	int r;

	do
		r = ioctl(v->fd, request, arg);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

int kvm_vcpu_create(struct hv *hv, unsigned index, struct hv_vcpu **ret_vcpu, struct error *err)
{
	struct kvm_vm *vm = to_kvm(hv);
	struct hv_vcpu *v;
	int r;

	v = calloc(1, sizeof(*v));
	if (!v)
		return error_set(err, -ENOMEM, "vCPU %u: %m", index);
	v->vm = vm;
	v->index = index;
	v->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (v->fd < 0) {
		r = error_kind_set(err, ERROR_START, -errno, "KVM: cannot create vCPU %u: %m",
				   index);
		goto fail;
	}
	v->run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED) {
		v->run = NULL;
		r = error_kind_set(err, ERROR_START, -errno, "KVM: cannot map vCPU %u: %m", index);
		goto fail;
	}
	*ret_vcpu = v;
	return 0;
fail:
	kvm_vcpu_free(v);
	return r;
}

void kvm_vcpu_free(struct hv_vcpu *v)
{
	if (!v)
		return;
	if (atomic_load_explicit(&v->begun, memory_order_relaxed))
		timer_delete(v->timer);
	if (v->run)
		munmap(v->run, v->vm->run_size);
	if (v->fd >= 0)
		close(v->fd);
	free(v);
}

/* Unknown MSR: the architecture says #GP, which KVM injects when we report an error. */
static void refuse_msr(struct hv_vcpu *v, struct hv_exit *exit)
{
	exit->kind = HV_EXIT_MSR;
	exit->addr = v->run->msr.index;
	exit->detail = v->run->exit_reason == KVM_EXIT_X86_WRMSR;
	v->run->msr.error = 1;
}

static void decode_internal(const struct kvm_run *run, struct hv_exit *exit)
{
	exit->kind = HV_EXIT_INTERNAL;
	exit->detail = run->internal.suberror;
	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
	    run->emulation_failure.ndata > 1 &&
	    (run->emulation_failure.flags &
	     KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
		exit->insn_len = MIN(run->emulation_failure.insn_size, (uint8_t)15);
		memcpy(exit->insn, run->emulation_failure.insn_bytes, exit->insn_len);
	}
}

static void decode_exit(struct hv_vcpu *v, struct hv_exit *exit)
{
	struct kvm_run *run = v->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		exit->kind = run->io.direction == KVM_EXIT_IO_IN ? HV_EXIT_PIO_READ
								 : HV_EXIT_PIO_WRITE;
		exit->addr = run->io.port;
		exit->size = run->io.size;
		exit->count = run->io.count;
		exit->data = (uint8_t *)run + run->io.data_offset;
		break;
	case KVM_EXIT_MMIO:
		exit->kind = run->mmio.is_write ? HV_EXIT_MMIO_WRITE : HV_EXIT_MMIO_READ;
		exit->addr = run->mmio.phys_addr;
		exit->size = run->mmio.len;
		exit->count = 1;
		exit->data = run->mmio.data;
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		exit->kind = HV_EXIT_NONE;
		break;
	case KVM_EXIT_HLT:
		exit->kind = HV_EXIT_HLT;
		break;
	case KVM_EXIT_SHUTDOWN:
		exit->kind = HV_EXIT_SHUTDOWN;
		break;
	case KVM_EXIT_FAIL_ENTRY:
		exit->kind = HV_EXIT_FAIL_ENTRY;
		exit->detail = run->fail_entry.hardware_entry_failure_reason;
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		decode_internal(run, exit);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		exit->kind = HV_EXIT_EVENT;
		exit->detail = run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN ?
				       HV_EVENT_SHUTDOWN :
			       run->system_event.type == KVM_SYSTEM_EVENT_RESET ? HV_EVENT_RESET :
										  HV_EVENT_CRASH;
		break;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		refuse_msr(v, exit);
		break;
	case KVM_EXIT_DEBUG:
		exit->kind = HV_EXIT_DEBUG;
		exit->addr = run->debug.arch.pc;
		exit->size = run->debug.arch.exception;
		exit->detail = run->debug.arch.dr6;
		break;
	default:
		exit->kind = HV_EXIT_UNKNOWN;
		exit->detail = run->exit_reason;
		break;
	}
}

int kvm_vcpu_run(struct hv_vcpu *v, struct hv_exit *exit)
{
	memset(exit, 0, sizeof(*exit));
	if (ioctl(v->fd, KVM_RUN, 0) < 0) {
		/* EINTR: kicked. EAGAIN: an AP that left its wait for a SIPI without one. */
		if (errno == EINTR || errno == EAGAIN) {
			exit->kind = HV_EXIT_NONE;
			return 0;
		}
		if (errno != EFAULT)
			return -errno;
		/* The guest touched memory that the host could not give (or poisoned). */
		exit->kind = HV_EXIT_UNKNOWN;
		exit->detail = v->run->exit_reason;
		return -EFAULT;
	}
	decode_exit(v, exit);
	return 0;
}

static void kicked(int sig)
{
}

/*
 * The vCPU's thread is interrupted by a timer that expires at once: with tgkill, system call
 * filters could not tell our threads from other processes, and a timer reaches none but ours. It is
 * made here since who kicks may not, and as a guest that could not be stopped had better not start.
 */
int kvm_vcpu_begin(struct hv_vcpu *v)
{
	static const struct sigaction action = { .sa_handler = kicked };
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL };

	event._sigev_un._tid = gettid();
	if (sigaction(KICK_SIGNAL, &action, NULL) < 0 ||
	    timer_create(CLOCK_MONOTONIC, &event, &v->timer) < 0)
		return -errno;
	v->thread = pthread_self();
	/* Release: whoever sees the flag sees the timer. */
	atomic_store_explicit(&v->begun, true, memory_order_release);
	return 0;
}

static void interrupt_thread(struct hv_vcpu *v)
{
	static const struct itimerspec now = { .it_value.tv_nsec = 1 };

	if (timer_settime(v->timer, 0, &now, NULL) < 0) {
		/* Whoever waits for it to pause or to end would wait for ever. */
		log_error("vCPU %u: cannot be interrupted: %m", v->index);
		_exit(1);
	}
}

void kvm_vcpu_kick(struct hv_vcpu *v)
{
	/* Before the signal: a vCPU that is about to enter sees the flag and returns at once. */
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (atomic_load_explicit(&v->begun, memory_order_acquire) &&
	    !pthread_equal(pthread_self(), v->thread))
		interrupt_thread(v);
}

void kvm_vcpu_unkick(struct hv_vcpu *v)
{
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

int kvm_vcpu_get(struct hv_vcpu *v, struct x86_vcpu_state *state)
{
	int r = kvm_vcpu_ioctl(v, KVM_GET_REGS, &state->regs);

	return r ? r : kvm_vcpu_ioctl(v, KVM_GET_SREGS, &state->sregs);
}

int kvm_vcpu_set(struct hv_vcpu *v, const struct x86_vcpu_state *state)
{
	int r = kvm_vcpu_ioctl(v, KVM_SET_SREGS, (void *)&state->sregs);

	return r ? r : kvm_vcpu_ioctl(v, KVM_SET_REGS, (void *)&state->regs);
}

int kvm_vcpu_nmi(struct hv_vcpu *v)
{
	return kvm_vcpu_ioctl(v, KVM_NMI, NULL);
}

int kvm_vcpu_setup(struct hv_vcpu *v, const struct x86_cpuid *cpuid, struct error *err)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[2];
	} msrs = {
		.head.nmsrs = 2,
		.entry = {
			{ .index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLED_WRITE_BACK },
			{ .index = MSR_IA32_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING },
		},
	};
	struct kvm_cpuid2 *list;
	int r;

	list = calloc(1, sizeof(*list) + cpuid->num * sizeof(list->entries[0]));
	if (!list)
		return error_set(err, -ENOMEM, "vCPU %u: CPUID: %m", v->index);
	list->nent = cpuid->num;
	memcpy(list->entries, cpuid->entry, cpuid->num * sizeof(list->entries[0]));
	r = kvm_vcpu_ioctl(v, KVM_SET_CPUID2, list);
	free(list);
	if (r < 0)
		return error_kind_set(err, ERROR_START, r, "KVM refuses the CPUID of vCPU %u: %m",
				      v->index);
	/* KVM stops at the first MSR it does not take; none is vital. */
	r = kvm_vcpu_ioctl(v, KVM_SET_MSRS, &msrs);
	return r < 0 ? error_kind_set(err, ERROR_START, r, "KVM: MSRs of vCPU %u: %m", v->index)
		     : 0;
}

uint64_t kvm_tsc_khz(struct hv_vcpu *v)
{
	int r = kvm_vcpu_ioctl(v, KVM_GET_TSC_KHZ, NULL);

	return r > 0 ? r : 0;
}

/* ---- the debugger's ---- */

/* DR7: enable breakpoint @i globally, with its condition and length (Intel SDM 3, 18.2.4). */
static uint64_t dr7_of(unsigned i, const struct hv_hw_breakpoint *b)
{
	static const uint8_t length[] = { [1] = 0, [2] = 1, [4] = 3, [8] = 2 };

	return 2ull << (i * 2) |
	       (uint64_t)(b->kind | length[b->kind == HV_BREAK_EXEC ? 1 : b->len] << 2)
		       << (16 + i * 4);
}

/* A #DB that we hand back says why it came in DR6, which KVM only fills where nobody debugs. */
static int set_dr6(struct hv_vcpu *v, uint64_t dr6)
{
	struct kvm_debugregs regs;
	int r = kvm_vcpu_ioctl(v, KVM_GET_DEBUGREGS, &regs);

	if (r < 0)
		return r;
	/* The upper half must be 0 for KVM to take it. */
	regs.dr6 = (uint32_t)dr6;
	return kvm_vcpu_ioctl(v, KVM_SET_DEBUGREGS, &regs);
}

/* Asked once, by the thread that begins to step: a vCPU's own may not ask. */
static unsigned debug_flags(struct kvm_vm *vm)
{
	if (!vm->knows_debug) {
		vm->debug_flags = MAX(
			ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_GUEST_DEBUG2), 0);
		vm->knows_debug = true;
	}
	return vm->debug_flags;
}

int kvm_vcpu_debug(struct hv_vcpu *v, const struct hv_debug *debug)
{
	struct kvm_guest_debug d = { 0 };
	int r;

	if (debug->enabled)
		d.control = KVM_GUESTDBG_ENABLE;
	if (debug->software)
		d.control |= KVM_GUESTDBG_USE_SW_BP;
	if (debug->step) {
		d.control |= KVM_GUESTDBG_SINGLESTEP;
		d.control |= debug_flags(v->vm) & KVM_GUESTDBG_BLOCKIRQ;
	}
	if (debug->num_hw) {
		d.control |= KVM_GUESTDBG_USE_HW_BP;
		/* Always one; exact, as old processors want. */
		d.arch.debugreg[7] = 1 << 10 | 1 << 9;
		for (unsigned i = 0; i < debug->num_hw; i++) {
			d.arch.debugreg[i] = debug->hw[i].addr;
			d.arch.debugreg[7] |= dr7_of(i, &debug->hw[i]);
		}
	}
	if (debug->inject == HV_INJECT_BP)
		d.control |= KVM_GUESTDBG_INJECT_BP;
	else if (debug->inject == HV_INJECT_DB)
		d.control |= KVM_GUESTDBG_INJECT_DB;
	r = debug->inject == HV_INJECT_DB ? set_dr6(v, debug->dr6) : 0;
	if (r < 0)
		return r;
	return kvm_vcpu_ioctl(v, KVM_SET_GUEST_DEBUG, &d);
}

int kvm_vcpu_get_fpu(struct hv_vcpu *v, struct kvm_fpu *fpu)
{
	return kvm_vcpu_ioctl(v, KVM_GET_FPU, fpu);
}

int kvm_vcpu_set_fpu(struct hv_vcpu *v, const struct kvm_fpu *fpu)
{
	return kvm_vcpu_ioctl(v, KVM_SET_FPU, (void *)fpu);
}
