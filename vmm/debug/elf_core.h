/*
 * An ELF core file of a guest, for gdb and crash: all of its RAM, the registers
 * of its vCPUs, and what a Linux kernel says of itself (VMCOREINFO).
 */
#ifndef WISP_VMM_ELF_CORE_H
#define WISP_VMM_ELF_CORE_H

#include "vmm/core/error.h"

struct machine;
struct elf_core;

/*
 * Take the registers of @m's vCPUs, which are out of the guest. The rest is
 * elf_core_write()'s, which may be called in a forked copy. On the loop.
 */
int elf_core_create(struct elf_core **ret_core, struct machine *m, struct error *err);

/*
 * Write the core to @fd, an empty regular file in which pages that are all zero
 * stay holes, while nothing changes RAM.
 *
 * There is a PT_LOAD for each range of RAM, at its physical address, and one for
 * each run of pages that the first vCPU's tables map for its kernel, at the linear
 * address, so that gdb finds the kernel where vmlinux, moved to its place, says.
 * NT_PRSTATUS notes are the vCPUs' in order. -errno; the file is then no ELF file.
 */
int elf_core_write(struct elf_core *core, int fd);

/* Accepts NULL. */
void elf_core_free(struct elf_core *core);

#endif
