/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI configuration space, by both ways to it. expect_pci=N: so many functions beside the bridge.
 */
#include "bare.h"

static void test_function(u32 bdf)
{
	u32 id = pci_read(bdf, 0), class = pci_read(bdf, 8) >> 8;
	u32 header = pci_read8(bdf, 0x0e) & 0x7f, different = 0, cap;
	u16 command = pci_read16(bdf, 4);
	bool sizes = true;

	note("%02x:%02x.%x %04x:%04x class %06x", bdf >> 8, bdf >> 3 & 31, bdf & 7, id & 0xffff,
	     id >> 16, class);
	for (u32 reg = 0; acpi.ecam && reg < 0x100; reg += 4)
		different += pci_read(bdf, reg) != pci_cf8_read(bdf, reg);
	check(!different, "both ways read the same");
	pci_write(bdf, 0, 0x12345678);
	check(pci_read(bdf, 0) == id, "the identity cannot be written");
	check(pci_read16(bdf, 2) == id >> 16 && pci_read8(bdf, 1) == (id >> 8 & 0xff),
	      "parts of it can be read");
	outl(0xcf8, 0x80000000 | bdf << 8);
	check(inw(0xcfc) == (id & 0xffff) && inw(0xcfe) == id >> 16 && inb(0xcff) == id >> 24,
	      "by the ports too");
	if (header)
		return;
	for (u32 bar = 0; bar < 6; bar++) {
		u32 low = pci_read(bdf, 0x10 + bar * 4);
		u64 size = pci_bar_size(bdf, bar);

		if (size) {
			note("  BAR %u: %lx, %lu bytes", bar, pci_bar(bdf, bar), size);
			sizes &= !(size & (size - 1)) && !(pci_bar(bdf, bar) & (size - 1));
			sizes &= pci_read(bdf, 0x10 + bar * 4) == low || !(low & ~0xfu);
		}
		if ((low & 7) == 4)
			bar++;
	}
	check(sizes, "BARs have sizes that are powers of two, and lie on multiples of them");
	pci_write16(bdf, 4, 0x0406);
	check((pci_read16(bdf, 4) & 0x0406) == 0x0406,
	      "memory, bus master and INTx can be switched");
	pci_write16(bdf, 4, command);
	cap = pci_capability(bdf, 0x11, 0);
	if (cap) {
		u32 table = pci_read(bdf, cap + 4), n = (pci_read16(bdf, cap + 2) & 0x7ff) + 1;
		u64 at = pci_bar(bdf, table & 7) + (table & ~7u);

		pci_write16(bdf, 4, command | 2);
		check(read32(at + 12) & 1, "MSI-X: %u vectors, the first masked", n);
		write32(at, 0xfee00000);
		write32(at + 8, 0x4041);
		check(read32(at) == 0xfee00000 && read32(at + 8) == 0x4041,
		      "MSI-X: the table keeps a message");
		check(pci_bar(bdf, pci_read(bdf, cap + 8) & 7),
		      "MSI-X: the pending bits are somewhere");
		pci_write16(bdf, 4, command);
	}
}

void payload(void)
{
	u32 functions = 0;

	outl(0xcf8, 0x80000000);
	if (inl(0xcf8) != 0x80000000 && !acpi.ecam) {
		skip("PCI", "there is none");
		return;
	}
	check(inl(0xcf8) == 0x80000000, "the address port keeps its value");
	check(pci_read(0, 8) >> 16 == 0x0600, "the first function is a host bridge (%x)",
	      pci_read(0, 8) >> 8);
	for (u32 slot = 0; slot < 32; slot++) {
		if (pci_read(slot << 3, 0) == 0xffffffff)
			continue;
		functions++;
		test_function(slot << 3);
	}
	check(pci_cf8_read(0x1f07 | 0x20, 0) == 0xffffffff || pci_cf8_read(0xff00, 0) == 0xffffffff,
	      "an empty place reads all ones");
	pci_cf8_write(0xff00, 4, 0xffffffff);
	outl(0xcf8, 0);
	check(inl(0xcfc) == 0xffffffff, "the data port is nobody's while the enable bit is clear");
	if (argument("expect_pci"))
		check(functions == 1 + argument_number("expect_pci", 0), "%u functions", functions);
}
