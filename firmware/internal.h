/*
 * What the files of firmware/ share and nobody else sees: reading a kernel
 * image, and the steps of fw_boot_setup().
 */
#ifndef WISP_FIRMWARE_INTERNAL_H
#define WISP_FIRMWARE_INTERNAL_H

#include "firmware/firmware.h"

/* How much of an image is read at first: the headers of all kernels there are lie within. */
#define FW_HEAD_BYTES 4096

/* The name of @k for messages. */
const char *fw_kernel_name(const struct fw_kernel *k);

/* Copy [offset, offset+len) of the image to @dst. 0, or a usage error in @err. */
int fw_kernel_read(const struct fw_kernel *k, uint64_t offset, void *dst, uint64_t len,
		   struct error *err);

/*
 * Read exactly @len bytes of @fd at @offset. 0, -errno, or -ENODATA when the
 * file ends before.
 */
int fw_pread_full(int fd, void *dst, uint64_t len, uint64_t offset);

/*
 * Does @head look like the format, and if so: is it sound? @head is the first
 * FW_HEAD_BYTES of the image, or all of it.
 */
bool fw_bzimage_probe(const uint8_t *head, uint64_t len);
int fw_bzimage_parse(struct fw_kernel *k, const uint8_t *head, uint64_t len, struct error *err);
bool fw_elf_probe(const uint8_t *head, uint64_t len);
int fw_elf_parse(struct fw_kernel *k, const uint8_t *head, uint64_t len, struct error *err);

/* The memory a kernel occupies until it has its own memory management: [start, end). */
struct fw_extent {
	uint64_t start, end;
};

/* Put the image into memory. Fills the entry of @start for the protocol of its kind. */
int fw_bzimage_load(const struct fw_kernel *k, struct guest_mem *mem, struct fw_extent *extent,
		    struct fw_start *start, struct error *err);
int fw_elf_load(const struct fw_kernel *k, struct guest_mem *mem, enum fw_protocol protocol,
		struct fw_extent *extent, struct fw_start *start, struct error *err);

/* Where the initrd ended up; @size 0: there is none. */
struct fw_initrd {
	uint64_t addr, size;
};

int fw_initrd_load(const struct fw_boot_config *config, struct guest_mem *mem,
		   const struct fw_extent *kernel, enum fw_entry entry, struct fw_initrd *initrd,
		   struct error *err);

/* The structures by which a kernel learns of all that: one of the two. */
int fw_linux_params(const struct fw_boot_config *config, struct guest_mem *mem,
		    const struct fw_initrd *initrd, uint64_t rsdp);
int fw_pvh_params(const struct fw_boot_config *config, struct guest_mem *mem,
		  const struct fw_initrd *initrd, uint64_t rsdp);

/* At most this many entries in a memory map; both protocols have room for them. */
#define FW_MAX_MEMORY_MAP 32

#endif
