/*
 * The start info of the PVH boot protocol, version 1, as its 32-bit entry wants
 * it in ebx: Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h.
 */
#include "firmware/internal.h"

#define START_MAGIC   0x336ec578 /* "xEn3" with the top bit of the E set */
#define START_VERSION 1
#define START_SIZE    56
#define MODULE_SIZE   32
#define ENTRY_SIZE    24

/* All in one page: the start info, one module, the memory map. */
#define MODULE_OFFSET 64
#define MAP_OFFSET    128

_Static_assert(MAP_OFFSET + FW_MAX_MEMORY_MAP * ENTRY_SIZE <= PAGE_SIZE, "does not fit its page");

int fw_pvh_params(const struct fw_boot_config *config, struct guest_mem *mem,
		  const struct fw_initrd *initrd, uint64_t rsdp)
{
	struct fw_e820 map[FW_MAX_MEMORY_MAP];
	unsigned num = fw_memory_map(mem, config->platform, map, FW_MAX_MEMORY_MAP);
	uint8_t page[MAP_OFFSET + FW_MAX_MEMORY_MAP * ENTRY_SIZE] = { 0 };

	put_le32(page, START_MAGIC);
	put_le32(page + 4, START_VERSION);
	if (initrd->size) {
		put_le32(page + 12, 1);
		put_le64(page + 16, FW_PVH_INFO_ADDR + MODULE_OFFSET);
		put_le64(page + MODULE_OFFSET, initrd->addr);
		put_le64(page + MODULE_OFFSET + 8, initrd->size);
	}
	put_le64(page + 24, FW_CMDLINE_ADDR);
	put_le64(page + 32, rsdp);
	put_le64(page + 40, FW_PVH_INFO_ADDR + MAP_OFFSET);
	put_le32(page + 48, num);
	for (unsigned i = 0; i < num; i++) {
		uint8_t *e = page + MAP_OFFSET + i * ENTRY_SIZE;

		put_le64(e, map[i].addr);
		put_le64(e + 8, map[i].size);
		put_le32(e + 16, map[i].type);
	}
	return guest_mem_write(mem, FW_PVH_INFO_ADDR, page, sizeof(page));
}
