/* The memory map (e820), from what is RAM and what the platform puts between. */
#include "firmware/firmware.h"

enum { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };

struct builder {
	struct fw_e820 *map;
	unsigned num, max;
};

static void add(struct builder *b, uint64_t start, uint64_t end, uint32_t type)
{
	if (start < end && b->num < b->max)
		b->map[b->num++] = (struct fw_e820){
			.addr = start,
			.size = end - start,
			.type = type,
		};
}

unsigned fw_memory_map(const struct guest_mem *mem, const struct fw_platform *platform,
		       struct fw_e820 *map, unsigned max)
{
	uint64_t low = guest_mem_low_end(mem), high = guest_mem_high_end(mem);
	struct builder b = { .map = map, .max = max };

	/* The first megabyte: conventional memory, what a BIOS has there, our tables, VMClock. */
	add(&b, 0, MIN(low, FW_LOW_RAM_END), E820_RAM);
	add(&b, FW_LOW_RAM_END, 0xa0000, E820_RESERVED);
	add(&b, FW_ACPI_ADDR, FW_VMCLOCK_ADDR + PAGE_SIZE, E820_RESERVED);
	add(&b, FW_KERNEL_ADDR, low, E820_RAM);
	/* Linux believes MCFG only where the memory map or ACPI reserves the window. */
	if (platform->pci)
		add(&b, FW_ECAM_ADDR, FW_ECAM_ADDR + FW_ECAM_SIZE, E820_RESERVED);
	/* KVM's pages for running real mode on VMX; no BAR may be put over them. */
	add(&b, FW_KVM_IDENTITY_ADDR, FW_KVM_TSS_ADDR + 3 * PAGE_SIZE, E820_RESERVED);
	add(&b, FW_HOLE_END, high, E820_RAM);
	return b.num;
}
