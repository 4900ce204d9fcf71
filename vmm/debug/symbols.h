/*
 * Names for the addresses of a Linux kernel's code, by the symbol table of its vmlinux or by
 * its System.map. The file is not trusted: what is wrong in it makes an error or a wrong name.
 * One thread.
 */
#ifndef WISP_VMM_SYMBOLS_H
#define WISP_VMM_SYMBOLS_H

#include "vmm/core/error.h"

struct symbols;

/* -ENODATA when @path has no names of code, as stripped kernels and stubs of System.map. */
int symbols_load(struct symbols **ret_s, const char *path, struct error *err);
void symbols_free(struct symbols *s);

/*
 * "name+0xoffset/0xsize" as the kernel itself prints it, for @address in the kernel as it was
 * linked; false when there is no code.
 */
bool symbols_name(const struct symbols *s, uint64_t address, char *buf, size_t size);

#endif
