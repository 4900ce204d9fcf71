/*
 * Kernel images made up in memory: the smallest that pass every check, to be
 * broken by a test one field at a time. No code is in them.
 */
#ifndef WISP_TESTS_FAKE_KERNEL_H
#define WISP_TESTS_FAKE_KERNEL_H

#include <elf.h>

#include "vmm/core/util.h"

#define FAKE_BZIMAGE_SETUP   (5 * 512)	/* four setup sectors and the boot sector */
#define FAKE_BZIMAGE_PAYLOAD (64 * 1024)
#define FAKE_BZIMAGE_SIZE    (FAKE_BZIMAGE_SETUP + FAKE_BZIMAGE_PAYLOAD)
#define FAKE_BZIMAGE_PREF    0x1000000ull
#define FAKE_BZIMAGE_INIT    (4 * MiB)

/* Fill FAKE_BZIMAGE_SIZE bytes; payload byte i is fake_byte(i). */
void fake_bzimage(uint8_t *image);
uint8_t fake_byte(uint64_t offset);

/* An ELF image with three segments, as vmlinux has them: text, data with zeros after it, notes. */
#define FAKE_ELF_TEXT_OFFSET 0x1000
#define FAKE_ELF_TEXT_SIZE   0x20123 /* its last page is shared with what follows */
#define FAKE_ELF_TEXT_GPA    0x1000000ull
#define FAKE_ELF_TEXT_VADDR  0xffffffff81000000ull
#define FAKE_ELF_DATA_OFFSET 0x22800
#define FAKE_ELF_DATA_SIZE   0x11000
#define FAKE_ELF_DATA_GPA    0x1200800ull
#define FAKE_ELF_DATA_MEM    0x40000
#define FAKE_ELF_NOTE_OFFSET (0x40 + 4 * 56)
#define FAKE_ELF_SIZE	     0x34000
#define FAKE_ELF_PVH	     (FAKE_ELF_TEXT_GPA + 0x850)

struct fake_elf {
	uint8_t image[FAKE_ELF_SIZE];
};

/* Bytes that are in no header are fake_byte() of their offset. @pvh: with the note. */
void fake_elf(struct fake_elf *elf, bool pvh);

/* Headers for a test to break; write back what was changed. */
Elf64_Ehdr fake_elf_header(const struct fake_elf *elf);
void fake_elf_set_header(struct fake_elf *elf, const Elf64_Ehdr *ehdr);
/* 0 text, 1 data, 2 note */
Elf64_Phdr fake_elf_segment(const struct fake_elf *elf, unsigned index);
void fake_elf_set_segment(struct fake_elf *elf, unsigned index, const Elf64_Phdr *phdr);

/* Replace the notes by one with this padding and descriptor. */
void fake_elf_set_note(struct fake_elf *elf, uint64_t align, const char *name, uint32_t type,
		       const void *desc, uint32_t desc_size);

/* A file of @len bytes without a name; the descriptor is the caller's. -1 when it fails. */
int fake_file(const void *data, uint64_t len);

#endif
