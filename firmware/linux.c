/*
 * The zero page (struct boot_params) of the Linux boot protocol, as its 64-bit
 * entry wants it in rsi: the kernel's Documentation/arch/x86/zero-page.rst.
 */
#include "firmware/internal.h"

/* Offsets in the zero page; from 0x1f1 on it is the setup header of the image. */
#define ACPI_RSDP_ADDR	  0x070
#define EXT_RAMDISK_IMAGE 0x0c0
#define EXT_RAMDISK_SIZE  0x0c4
#define E820_ENTRIES	  0x1e8
#define SETUP_HEADER	  0x1f1
#define VID_MODE	  0x1fa
#define BOOT_FLAG	  0x1fe
#define HEADER_MAGIC	  0x202
#define VERSION		  0x206
#define TYPE_OF_LOADER	  0x210
#define LOADFLAGS	  0x211
#define RAMDISK_IMAGE	  0x218
#define RAMDISK_SIZE	  0x21c
#define CMD_LINE_PTR	  0x228
#define CMDLINE_SIZE	  0x238
#define E820_TABLE	  0x2d0
#define E820_ENTRY_SIZE	  20

#define LOADER_UNDEFINED 0xff /* a boot loader without a number of its own */
#define LOADED_HIGH	 (1u << 0)
#define VID_MODE_NORMAL	 0xffff

/* An ELF image has no setup header, but the kernel inside reads one. */
static void invent_header(uint8_t *zp, const struct fw_kernel *k)
{
	put_le16(zp + BOOT_FLAG, 0xaa55);
	memcpy(zp + HEADER_MAGIC, "HdrS", 4);
	put_le16(zp + VERSION, 0x020f);
	zp[LOADFLAGS] = LOADED_HIGH;
	put_le32(zp + CMDLINE_SIZE, k->cmdline_max);
}

static void put_memory_map(uint8_t *zp, const struct fw_boot_config *config,
			   const struct guest_mem *mem)
{
	struct fw_e820 map[FW_MAX_MEMORY_MAP];
	unsigned num = fw_memory_map(mem, config->platform, map, FW_MAX_MEMORY_MAP);

	for (unsigned i = 0; i < num; i++) {
		uint8_t *e = zp + E820_TABLE + i * E820_ENTRY_SIZE;

		put_le64(e, map[i].addr);
		put_le64(e + 8, map[i].size);
		put_le32(e + 16, map[i].type);
	}
	zp[E820_ENTRIES] = num;
}

int fw_linux_params(const struct fw_boot_config *config, struct guest_mem *mem,
		    const struct fw_initrd *initrd, uint64_t rsdp)
{
	const struct fw_kernel *k = config->kernel;
	uint8_t zp[PAGE_SIZE] = { 0 };

	if (k->kind == FW_KERNEL_BZIMAGE)
		memcpy(zp + SETUP_HEADER, k->setup_header, sizeof(k->setup_header));
	else
		invent_header(zp, k);
	put_le16(zp + VID_MODE, VID_MODE_NORMAL);
	zp[TYPE_OF_LOADER] = LOADER_UNDEFINED;
	put_le32(zp + CMD_LINE_PTR, FW_CMDLINE_ADDR);
	put_le32(zp + RAMDISK_IMAGE, initrd->addr);
	put_le32(zp + EXT_RAMDISK_IMAGE, initrd->addr >> 32);
	put_le32(zp + RAMDISK_SIZE, initrd->size);
	put_le32(zp + EXT_RAMDISK_SIZE, initrd->size >> 32);
	put_le64(zp + ACPI_RSDP_ADDR, rsdp);
	put_memory_map(zp, config, mem);
	return guest_mem_write(mem, FW_ZERO_PAGE_ADDR, zp, sizeof(zp));
}
