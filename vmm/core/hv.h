/*
 * The hypervisor as the rest of wisp sees it: the one seam to KVM.
 *
 * vmm/hypervisor/kvm.c implements it over /dev/kvm, tests/unit/fake_hv.c over nothing.
 * VM-wide functions may be called from any thread; those of a vCPU only from
 * the thread that runs it, but for hv_vcpu_kick().
 */
#ifndef WISP_CORE_HV_H
#define WISP_CORE_HV_H

#include "vmm/core/error.h"
#include "vmm/core/util.h"

struct hv_vcpu;
struct x86_vcpu_state;
struct x86_cpuid;
struct x86_saved_vcpu;
struct x86_saved_vm;

enum hv_mem_flags {
	HV_MEM_READ_ONLY = 1 << 0, /* writes exit as MMIO */
	HV_MEM_LOG_DIRTY = 1 << 1,
};

/* A doorbell: a guest write of @len bytes at @addr signals @fd instead of exiting. */
struct hv_ioeventfd {
	uint64_t addr;
	unsigned len; /* 0: any length (MMIO only, KVM_CAP_IOEVENTFD_ANY_LENGTH) */
	bool pio;
	bool match; /* only when the value written is @value */
	uint64_t value;
	int fd;
};

/* Where an interrupt number leads. */
struct hv_route {
	uint32_t gsi;
	enum { HV_ROUTE_IOAPIC, HV_ROUTE_PIC, HV_ROUTE_MSI } kind;
	uint32_t pin;	   /* IOAPIC, PIC (0-7 master, 8-15 slave) */
	uint64_t msi_addr; /* MSI */
	uint32_t msi_data;
};

enum hv_exit_kind {
	HV_EXIT_NONE,	    /* kicked, or handled inside; run again */
	HV_EXIT_PIO_READ,   /* fill @data, @size bytes, @count times */
	HV_EXIT_PIO_WRITE,
	HV_EXIT_MMIO_READ,  /* fill @data, @size bytes */
	HV_EXIT_MMIO_WRITE,
	HV_EXIT_HLT,
	HV_EXIT_SHUTDOWN,   /* triple fault */
	HV_EXIT_FAIL_ENTRY, /* the processor refused the state: @detail is its reason */
	HV_EXIT_INTERNAL,   /* the hypervisor gave up: @detail is the suberror */
	HV_EXIT_EVENT,	    /* @detail: HV_EVENT_* */
	HV_EXIT_DEBUG,	    /* at linear address @addr; @size: the vector; @detail: DR6 */
	HV_EXIT_MSR,	    /* unknown MSR @addr, already refused; @detail: it was a write */
	HV_EXIT_UNKNOWN,    /* @detail is the hypervisor's number */
	HV_EXIT_NUM_KINDS,
};

enum hv_event { HV_EVENT_SHUTDOWN, HV_EVENT_RESET, HV_EVENT_CRASH };

struct hv_exit {
	enum hv_exit_kind kind;
	uint64_t addr;	/* port or guest physical address */
	unsigned size;	/* of one element, 1, 2, 4 or 8 */
	unsigned count; /* elements of a string instruction, else 1 */
	uint8_t *data;	/* @size * @count bytes, valid until the next run */
	uint64_t detail;
	uint8_t insn[16]; /* instruction bytes with HV_EXIT_INTERNAL, when known */
	unsigned insn_len;
};

#define HV_MAX_HW_BREAKPOINTS 4

/* What of a vCPU's execution exits with HV_EXIT_DEBUG. */
struct hv_debug {
	bool enabled;
	bool software; /* #BP exits instead of reaching the guest */
	bool step;     /* one instruction, without interrupts where the host can hold them off */
	unsigned num_hw;
	struct hv_hw_breakpoint {
		/* DR7's numbers. */
		enum { HV_BREAK_EXEC = 0, HV_BREAK_WRITE = 1, HV_BREAK_ACCESS = 3 } kind;
		uint64_t addr;
		unsigned len; /* 1, 2, 4 or 8; execution: 1 */
	} hw[HV_MAX_HW_BREAKPOINTS];
	/* An exception that turned out to be the guest's own: deliver it at the next entry. */
	enum { HV_INJECT_NONE, HV_INJECT_BP, HV_INJECT_DB } inject;
	uint64_t dr6; /* what the guest is to find in DR6, with HV_INJECT_DB */
};

struct hv;
struct kvm_fpu;

struct hv_ops {
	void (*free)(struct hv *hv);

	/* Map @size bytes at @gpa to @host; @size 0 removes the slot. */
	int (*mem_set)(struct hv *hv, unsigned slot, uint64_t gpa, uint64_t size, void *host,
		       unsigned flags);
	/*
	 * Copy the dirty bitmap of @slot (one bit a page), which need not begin clean; clear,
	 * before the pages are read, re-protects those that have a bit in @bitmap, from
	 * @first_page (a multiple of 64) on. Where the host cannot tell the two apart get clears
	 * all at once, and clear does nothing.
	 */
	int (*dirty_get)(struct hv *hv, unsigned slot, uint64_t *bitmap);
	int (*dirty_clear)(struct hv *hv, unsigned slot, uint64_t first_page, uint32_t num_pages,
			   const uint64_t *bitmap);

	int (*ioeventfd)(struct hv *hv, const struct hv_ioeventfd *e, bool assign);
	/* A write to @fd raises @gsi (an edge). */
	int (*irqfd)(struct hv *hv, int fd, uint32_t gsi, bool assign);
	int (*irq_line)(struct hv *hv, uint32_t gsi, bool level);
	/* Replace the whole table. */
	int (*routes_set)(struct hv *hv, const struct hv_route *routes, unsigned num);
	int (*msi)(struct hv *hv, uint64_t addr, uint32_t data);

	int (*vcpu_create)(struct hv *hv, unsigned index, struct hv_vcpu **ret_vcpu,
			   struct error *err);
	void (*vcpu_free)(struct hv_vcpu *vcpu);
	/*
	 * First of all on the thread that will run it, before any filter of system calls: it can
	 * be kicked out of the guest from now on. 0 or -errno. NULL: nothing to prepare.
	 */
	int (*vcpu_begin)(struct hv_vcpu *vcpu);
	/* 0 with @exit filled, or -errno. Completes the previous exit first. */
	int (*vcpu_run)(struct hv_vcpu *vcpu, struct hv_exit *exit);
	/* Make the current or the next vcpu_run() return HV_EXIT_NONE. Any thread. */
	void (*vcpu_kick)(struct hv_vcpu *vcpu);
	/* Forget a kick; the vCPU's thread, before it enters the guest again. */
	void (*vcpu_unkick)(struct hv_vcpu *vcpu);
	/*
	 * Give a vCPU its CPUID and the MSRs that firmware would have set, before its
	 * first run. NULL where there is no processor behind it (fakes).
	 */
	int (*vcpu_setup)(struct hv_vcpu *vcpu, const struct x86_cpuid *cpuid, struct error *err);
	/*
	 * Have the bits in @filter of the MSR @index those of @value, after vcpu_setup() and before
	 * the first run. -ENOENT: there is no such MSR. May be NULL.
	 */
	int (*vcpu_change_msr)(struct hv_vcpu *vcpu, uint32_t index, uint64_t filter,
			       uint64_t value);
	/* The TSC's frequency as @vcpu's guest sees it; 0 when nobody says. May be NULL. */
	uint64_t (*tsc_khz)(struct hv_vcpu *vcpu);
	/* Registers as vmm/hypervisor/x86.h has them. */
	int (*vcpu_get)(struct hv_vcpu *vcpu, struct x86_vcpu_state *state);
	int (*vcpu_set)(struct hv_vcpu *vcpu, const struct x86_vcpu_state *state);

	/*
	 * All of a vCPU that is out of the guest with nothing pending, and of the
	 * interrupt controllers and clock, as vmm/hypervisor/x86_state.h has them. Any thread while
	 * all vCPUs stand still. Saved first the VM, then its vCPUs from 0 up; loaded
	 * the other way round, the vCPUs having had their CPUID. Errors say what is missing.
	 */
	int (*vm_save)(struct hv *hv, struct x86_saved_vm *vm, struct error *err);
	int (*vcpu_save)(struct hv_vcpu *vcpu, struct x86_saved_vcpu *state, struct error *err);
	int (*vcpu_load)(struct hv_vcpu *vcpu, const struct x86_saved_vcpu *state,
			 struct error *err);
	int (*vm_load)(struct hv *hv, const struct x86_saved_vm *vm, struct error *err);
	/* Make the TSC run at @khz, before vcpu_load(); -ENOTSUP. May be NULL. */
	int (*tsc_set_khz)(struct hv_vcpu *vcpu, uint64_t khz);
	/* The guest stood still: its watchdogs need not bark. May be NULL. */
	void (*vcpu_stood_still)(struct hv_vcpu *vcpu);

	/* Send an NMI to @vcpu, which is out of the guest. May be NULL. */
	int (*vcpu_nmi)(struct hv_vcpu *vcpu);

	/* For the debugger, while @vcpu is out of the guest. May be NULL. */
	int (*vcpu_debug)(struct hv_vcpu *vcpu, const struct hv_debug *debug);
	int (*vcpu_get_fpu)(struct hv_vcpu *vcpu, struct kvm_fpu *fpu);
	int (*vcpu_set_fpu)(struct hv_vcpu *vcpu, const struct kvm_fpu *fpu);
};

struct hv {
	const struct hv_ops *ops;
};

#endif
