/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables are whole and say what is there.
 * expect_cpus=N, expect_mmio=N, expect_reduced=1 tell what should be.
 */
#include "bare.h"

void payload(void)
{
	u64 cpus = argument_number("expect_cpus", 0), mmio = argument_number("expect_mmio", ~0ul);
	bool unique = true, magic = true;

	if (!check(rsdp_addr, "there is an RSDP"))
		return;
	note("RSDP %lx, XSDT %lx, FADT %lx, MADT %lx, MCFG %lx, DSDT %lx (%u bytes)", rsdp_addr,
	     acpi.xsdt, acpi.fadt, acpi.madt, acpi.mcfg, acpi.dsdt, acpi.dsdt_len);
	check(acpi.ok, "every checksum is right (%u tables)", acpi.num_tables);
	for (u32 i = 0; i < num_ranges; i++)
		if (memory_map[i].type == 1 && rsdp_addr - memory_map[i].addr < memory_map[i].size)
			magic = false;
	check(magic, "the RSDP is not in memory that a kernel would take for free");

	if (check(acpi.madt, "there is a MADT")) {
		for (u32 i = 0; i < acpi.num_cpus; i++)
			for (u32 j = 0; j < i; j++)
				unique &= acpi.apic_ids[i] != acpi.apic_ids[j];
		check(acpi.num_cpus > 0 && unique, "%u processors, each with an APIC ID of its own",
		      acpi.num_cpus);
		if (cpus)
			check(acpi.num_cpus == cpus, "as many as asked for (%lu)", cpus);
		apic_init();
		check(apic_id() == acpi.apic_ids[0], "this one is the first of them (%u)",
		      apic_id());
		check(((ioapic_entry(acpi.ioapic_gsi_base) >> 16) & 1) == 1,
		      "the I/O APIC is where it says, masked");
	}
	if (check(acpi.fadt, "there is a FADT")) {
		note("FADT: flags %x, reset register %lx (space %u) takes %x", acpi.fadt_flags,
		     acpi.reset_addr, acpi.reset_space, acpi.reset_value);
		check(acpi.fadt_flags & 1 << 10, "FADT: there is a reset register");
		if (argument_number("expect_reduced", 0))
			check(acpi.fadt_flags & 1 << 20, "FADT: reduced hardware");
		check(acpi.dsdt && read32(acpi.dsdt) == 0x54445344, "FADT: leads to a DSDT");
	}
	if (acpi.mcfg) {
		check(acpi.ecam_last_bus >= acpi.ecam_first_bus, "MCFG: a range of buses");
		map_high(acpi.ecam);
		check(read32(acpi.ecam) != 0xffffffff,
		      "MCFG: the first function of all is there (%x)", read32(acpi.ecam));
	} else {
		skip("MCFG", "no PCI");
	}
	magic = true;
	for (u32 i = 0; i < acpi.num_mmio; i++) {
		note("virtio-mmio at %lx, GSI %u", acpi.mmio[i].base, acpi.mmio[i].gsi);
		magic &= read32(acpi.mmio[i].base) == 0x74726976;
	}
	if (acpi.num_mmio)
		check(magic, "DSDT: each virtio-mmio device is where it says");
	if (mmio != ~0ul)
		check(acpi.num_mmio == mmio, "DSDT: %lu virtio-mmio devices", mmio);
}
