/*
 * Guest page tables, walked in software: for evidence, the debugger and core
 * files. Reads guest memory; the vCPU whose tables they are should be stopped.
 */
#ifndef WISP_VMM_X86_WALK_H
#define WISP_VMM_X86_WALK_H

#include "vmm/core/guest_mem.h"
#include "vmm/hypervisor/x86.h"

/* One level of a walk: @entry at @index of a table; @present as the processor would see it. */
struct x86_walk_step {
	unsigned level; /* 5 or less; 1 is the last */
	unsigned index;
	uint64_t table; /* guest physical */
	bool is_ram;	/* @table is; if not, @entry is 0 */
	uint64_t entry;
};

typedef void (*x86_walk_fn)(void *arg, const struct x86_walk_step *step);

/*
 * Translate @linear as a processor with @sregs would, by 2 to 5 levels or none.
 * @fn, unless NULL, is told of each entry read. Returns the guest physical
 * address, or UINT64_MAX where nothing is mapped. Intel SDM volume 3, chapter 4.
 */
uint64_t x86_walk(const struct guest_mem *mem, const struct kvm_sregs *sregs, uint64_t linear,
		  x86_walk_fn fn, void *arg);

/*
 * Copy between @buf and @len bytes of linear addresses from @linear, page by
 * page. Returns how many bytes could be copied: fewer than @len where a page is
 * not mapped or is not RAM. A write goes through what the guest maps read-only.
 */
size_t x86_linear_read(const struct guest_mem *mem, const struct kvm_sregs *sregs,
		       uint64_t linear, void *buf, size_t len);
size_t x86_linear_write(struct guest_mem *mem, const struct kvm_sregs *sregs, uint64_t linear,
			const void *buf, size_t len);

/* A run of linear addresses with one run of physical ones behind. */
struct x86_mapping {
	uint64_t linear, gpa, size;
};

/*
 * Collect what the long-mode page tables of @sregs map from @from on, neighbours
 * joined, into @map: at most @max runs. Returns how many there are, which may
 * be more than @max; 0 outside long mode.
 */
size_t x86_walk_all(const struct guest_mem *mem, const struct kvm_sregs *sregs, uint64_t from,
		    struct x86_mapping *map, size_t max);

#endif
