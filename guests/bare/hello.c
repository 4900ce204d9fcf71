/* SPDX-License-Identifier: Apache-2.0 */
/* The least there is: entered, memory map and command line read, a verdict given. */
#include "bare.h"

void payload(void)
{
	u64 ram = 0;

	for (u32 i = 0; i < num_ranges; i++)
		if (memory_map[i].type == 1)
			ram += memory_map[i].size;
	check(num_ranges > 0, "the loader gives a memory map");
	check(ram >= 1 << 20, "there is memory");
	note("%lu KiB of memory in %u ranges", ram >> 10, num_ranges);
	for (u32 i = 0; i < num_ranges; i++)
		note("  %016lx %016lx %u", memory_map[i].addr, memory_map[i].size,
		     memory_map[i].type);
	note("ACPI: %u tables, %u processors, %u virtio-mmio devices, ECAM at %lx", acpi.num_tables,
	     acpi.num_cpus, acpi.num_mmio, acpi.ecam);
	check(!argument("expect") || starts_with(argument("expect"), "hello"),
	      "the command line arrives");
}
