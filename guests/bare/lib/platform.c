/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI tables and PCI configuration space. */
#include "bare.h"

struct acpi acpi = { .lapic = 0xfee00000, .ioapic = 0xfec00000 };

static bool sums_to_zero(u64 addr, u32 len)
{
	u8 sum = 0;

	while (len--)
		sum += read8(addr++);
	return sum == 0;
}

static void read_madt(u64 t)
{
	u64 e = t + 44, end = t + read32(t + 4);

	acpi.lapic = read32(t + 36);
	for (; e < end && read8(e + 1); e += read8(e + 1)) {
		switch (read8(e)) {
		case 0: /* processor local APIC */
			if ((read32(e + 4) & 1) && acpi.num_cpus < MAX_CPUS)
				acpi.apic_ids[acpi.num_cpus++] = read8(e + 3);
			break;
		case 9: /* processor local x2APIC */
			if ((read32(e + 8) & 1) && acpi.num_cpus < MAX_CPUS)
				acpi.apic_ids[acpi.num_cpus++] = read32(e + 4);
			break;
		case 1:
			acpi.ioapic = read32(e + 4);
			acpi.ioapic_gsi_base = read32(e + 8);
			break;
		case 2:
			if (read8(e + 3) < 16)
				acpi.isa_gsi[read8(e + 3)] = read32(e + 4);
			break;
		}
	}
}

static void read_fadt(u64 t)
{
	u32 len = read32(t + 4);

	acpi.fadt_flags = read32(t + 112);
	if (len >= 129) {
		acpi.reset_space = read8(t + 116);
		acpi.reset_addr = read64(t + 120);
		acpi.reset_value = read8(t + 128);
	}
	acpi.dsdt = read32(t + 40);
	if (len >= 148 && read64(t + 140))
		acpi.dsdt = read64(t + 140);
	acpi.dsdt_len = read32(acpi.dsdt + 4);
}

static void add_mmio(u64 base, u32 size, u32 gsi)
{
	if (acpi.num_mmio == MAX_MMIO)
		return;
	acpi.mmio[acpi.num_mmio].base = base;
	acpi.mmio[acpi.num_mmio].size = size;
	acpi.mmio[acpi.num_mmio].gsi = gsi;
	acpi.num_mmio++;
}

/* Where the first Memory32Fixed after @p is. */
static u64 memory_after(u64 p, u64 end)
{
	for (u64 r = p; r < p + 80 && r + 12 < end; r++)
		if (read8(r) == 0x86 && read16(r + 1) == 9)
			return read32(r + 4);
	return 0;
}

/*
 * Not an AML interpreter: a virtio-mmio device's _HID is followed by a buffer of resources, in
 * which a Memory32Fixed and an Extended Interrupt descriptor are looked for; VMClock's has the
 * former.
 */
static void read_dsdt(void)
{
	u64 end = acpi.dsdt + acpi.dsdt_len;

	for (u64 p = acpi.dsdt + 36; p + 8 < end; p++) {
		u64 base = 0;
		u32 size = 0;

		if (read8(p) == 'A' && !memcmp((void *)p, "AMZNC10C", 8))
			acpi.vmclock = memory_after(p, end);
		if (read8(p) != 'L' || memcmp((void *)p, "LNRO0005", 8))
			continue;
		for (u64 r = p + 8; r < p + 160 && r + 12 < end; r++) {
			if (!base && read8(r) == 0x86 && read16(r + 1) == 9) {
				base = read32(r + 4);
				size = read32(r + 8);
				r += 11;
			} else if (base && read8(r) == 0x89 && read8(r + 4) == 1) {
				add_mmio(base, size, read32(r + 5));
				break;
			}
		}
	}
}

void acpi_read(void)
{
	const char *text;
	u64 rsdt, n;
	bool wide;

	for (u32 i = 0; i < 16; i++)
		acpi.isa_gsi[i] = i;
	if (!rsdp_addr)
		for (u64 p = 0xe0000; p < 0x100000 && !rsdp_addr; p += 16)
			if (read32(p) == 0x20445352 && !memcmp((void *)p, "RSD PTR ", 8))
				rsdp_addr = p;
	if (rsdp_addr) {
		acpi.ok = !memcmp((void *)rsdp_addr, "RSD PTR ", 8) && sums_to_zero(rsdp_addr, 20);
		wide = read8(rsdp_addr + 15) >= 2 && read64(rsdp_addr + 24);
		if (wide) {
			acpi.ok &= sums_to_zero(rsdp_addr, read32(rsdp_addr + 20));
			acpi.xsdt = read64(rsdp_addr + 24);
		}
		rsdt = wide ? acpi.xsdt : read32(rsdp_addr + 16);
		n = (read32(rsdt + 4) - 36) / (wide ? 8 : 4);
		acpi.ok &= sums_to_zero(rsdt, read32(rsdt + 4));
		for (u64 i = 0; i < n; i++) {
			u64 t = wide ? read64(rsdt + 36 + i * 8) : read32(rsdt + 36 + i * 4);

			acpi.num_tables++;
			acpi.ok &= sums_to_zero(t, read32(t + 4));
			switch (read32(t)) {
			case 0x43495041: /* APIC */
				acpi.madt = t;
				read_madt(t);
				break;
			case 0x50434146: /* FACP */
				acpi.fadt = t;
				read_fadt(t);
				break;
			case 0x4746434d: /* MCFG */
				acpi.mcfg = t;
				acpi.ecam = read64(t + 44);
				acpi.ecam_first_bus = read8(t + 54);
				acpi.ecam_last_bus = read8(t + 55);
				break;
			}
		}
		if (acpi.dsdt) {
			acpi.ok &= sums_to_zero(acpi.dsdt, acpi.dsdt_len);
			read_dsdt();
		}
	}
	/* wisp.mmio=ADDR,GSI for machines without tables. */
	text = argument("wisp.mmio");
	if (text) {
		u64 base = parse_number(text, &text);

		add_mmio(base, 0x200, *text == ',' ? parse_number(text + 1, NULL) : 0);
	}
}

/* ---- PCI ---- */

u32 pci_cf8_read(u32 bdf, u32 reg)
{
	outl(0xcf8, 0x80000000 | bdf << 8 | (reg & 0xfc));
	return inl(0xcfc);
}

void pci_cf8_write(u32 bdf, u32 reg, u32 v)
{
	outl(0xcf8, 0x80000000 | bdf << 8 | (reg & 0xfc));
	outl(0xcfc, v);
}

static bool in_ecam(u32 bdf)
{
	if (!acpi.ecam || bdf >> 8 < acpi.ecam_first_bus || bdf >> 8 > acpi.ecam_last_bus)
		return false;
	map_high(acpi.ecam + ((u64)bdf << 12));
	return true;
}

u32 pci_read(u32 bdf, u32 reg)
{
	if (in_ecam(bdf))
		return read32(acpi.ecam + ((u64)bdf << 12) + (reg & ~3u));
	return pci_cf8_read(bdf, reg);
}

void pci_write(u32 bdf, u32 reg, u32 v)
{
	if (in_ecam(bdf))
		write32(acpi.ecam + ((u64)bdf << 12) + (reg & ~3u), v);
	else
		pci_cf8_write(bdf, reg, v);
}

u8 pci_read8(u32 bdf, u32 reg)
{
	return pci_read(bdf, reg) >> (reg & 3) * 8;
}

u16 pci_read16(u32 bdf, u32 reg)
{
	return pci_read(bdf, reg) >> (reg & 2) * 8;
}

void pci_write16(u32 bdf, u32 reg, u16 v)
{
	/* The other half may hold bits that a write of one clears (status beside command). */
	if (in_ecam(bdf)) {
		write16(acpi.ecam + ((u64)bdf << 12) + reg, v);
	} else {
		outl(0xcf8, 0x80000000 | bdf << 8 | (reg & 0xfc));
		outw(0xcfc + (reg & 2), v);
	}
}

u64 pci_bar_size(u32 bdf, u32 bar)
{
	u32 reg = 0x10 + bar * 4;
	u32 low = pci_read(bdf, reg), high = 0;
	u16 command = pci_read16(bdf, 4);
	bool is64 = (low & 7) == 4;
	u64 mask;

	if (low & 1)
		return 0;
	pci_write16(bdf, 4, command & ~3);
	pci_write(bdf, reg, ~0u);
	mask = pci_read(bdf, reg) & ~0xfu;
	pci_write(bdf, reg, low);
	if (is64) {
		high = pci_read(bdf, reg + 4);
		pci_write(bdf, reg + 4, ~0u);
		mask |= (u64)pci_read(bdf, reg + 4) << 32;
		pci_write(bdf, reg + 4, high);
	} else if (mask) {
		mask |= 0xffffffff00000000;
	}
	pci_write16(bdf, 4, command);
	return mask ? -mask : 0;
}

u64 pci_bar(u32 bdf, u32 bar)
{
	/* Below all that machines like ours put there; only used where nobody assigned. */
	static u64 next = 0xc0000000;
	u32 reg = 0x10 + bar * 4;
	u32 low = pci_read(bdf, reg);
	u64 addr, size;

	if (low & 1)
		return 0;
	addr = low & ~0xfu;
	if ((low & 7) == 4)
		addr |= (u64)pci_read(bdf, reg + 4) << 32;
	if (!addr) {
		size = pci_bar_size(bdf, bar);
		if (!size)
			return 0;
		if (size < 4096)
			size = 4096;
		addr = (next + size - 1) & ~(size - 1);
		next = addr + size;
		pci_write(bdf, reg, addr);
		if ((low & 7) == 4)
			pci_write(bdf, reg + 4, 0);
	}
	map_high(addr);
	return addr;
}

u32 pci_capability(u32 bdf, u8 id, u32 from)
{
	u32 at = from ? pci_read8(bdf, from + 1) : pci_read8(bdf, 0x34);

	if (!from && !(pci_read16(bdf, 6) & 0x10))
		return 0;
	for (u32 i = 0; at >= 0x40 && i < 48; i++, at = pci_read8(bdf, at + 1))
		if (pci_read8(bdf, at) == id)
			return at;
	return 0;
}
