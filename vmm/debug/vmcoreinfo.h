/*
 * What a Linux kernel says of itself for those who look at its memory from outside:
 * a note of lines "KEY=VALUE" that it keeps at the start of a page, written when it boots
 * (the kernel's Documentation/admin-guide/kdump/vmcoreinfo.rst). While nothing changes the memory.
 */
#ifndef WISP_VMM_VMCOREINFO_H
#define WISP_VMM_VMCOREINFO_H

#include "vmm/core/guest_mem.h"

/* The bytes that an ELF note takes: its header, and name and content padded to 4. */
#define NOTE_BYTES(name_size, content_size)                                                        \
	(sizeof(Elf64_Nhdr) + align_up(name_size, 4) + align_up(content_size, 4))

/* Whether @page begins with the note, and how long that is: header and all, at most a page. */
bool vmcoreinfo_is_note(const uint8_t *page, size_t *ret_size);

/*
 * Find the note: its guest physical address and how long it is.
 * Pages that nobody has touched are passed over, and stay untouched.
 */
bool vmcoreinfo_find(const struct guest_mem *mem, uint64_t *ret_gpa, size_t *ret_size);

/* By how much the kernel moved itself from where it was linked, as the note says. */
bool vmcoreinfo_kernel_offset(const struct guest_mem *mem, uint64_t *ret_offset);

/* What stands before that in the evidence of a machine that hung. */
#define VMCOREINFO_OFFSET_WORDS "kernel offset 0x"

#endif
