/*
 * ACPI tables (ACPI 6.4, chapter 5), written in place: hardware-reduced, so that
 * a guest looks for none of the fixed hardware, PIC and PIT that are not there.
 */
#include "firmware/firmware.h"

#include <errno.h>

#include "firmware/dsdt.h"
#include "vmm/core/platform.h"

#define HEADER_SIZE   36
#define RSDP_SIZE     36
#define FADT_SIZE     276
#define TABLE_ALIGN   16
#define MAX_ROOT      4 /* tables that the XSDT points to */

#define OEM_ID	   "WISP  "
#define CREATOR_ID "WISP"

#define FADT_REVISION 6
#define MADT_REVISION 5
#define MCFG_REVISION 1
#define DSDT_REVISION 2 /* 64-bit integers in AML */
#define XSDT_REVISION 1

/* IAPC_BOOT_ARCH: neither legacy devices nor a keyboard controller, so those bits stay clear. */
#define BOOT_ARCH_NO_VGA  (1u << 2)
#define BOOT_ARCH_NO_ASPM (1u << 4)
#define BOOT_ARCH_NO_RTC  (1u << 5)

#define FADT_WBINVD	   (1u << 0)
#define FADT_PWR_BUTTON	   (1u << 4) /* the power button is a control method device */
#define FADT_SLP_BUTTON	   (1u << 5)
#define FADT_RESET_REG	   (1u << 10)
#define FADT_HW_REDUCED	   (1u << 20)

#define MADT_LAPIC	0
#define MADT_IOAPIC	1
#define MADT_LAPIC_NMI	4
#define MADT_X2APIC	9
#define MADT_ENABLED	1
#define MAX_LAPIC_ID	254 /* 255 is the broadcast: x2APIC entries from there on */

#define GAS_SYSTEM_IO 1
#define GAS_BYTE      1

/* A table being written at the cursor. */
struct tables {
	uint8_t *base; /* host address of FW_ACPI_ADDR */
	size_t len, cap;
	uint64_t root[MAX_ROOT];
	unsigned num_root;
};

static uint8_t checksum(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	while (len--)
		sum += *p++;
	return -sum;
}

/* Start a table of @size bytes (it may grow); NULL when there is no room. All zero. */
static uint8_t *table_begin(struct tables *t, const char *signature, uint8_t revision, size_t size)
{
	uint8_t *p;

	t->len = align_up(t->len, TABLE_ALIGN);
	if (size > t->cap || t->len > t->cap - size)
		return NULL;
	p = t->base + t->len;
	memset(p, 0, size);
	memcpy(p, signature, 4);
	p[8] = revision;
	memcpy(p + 10, OEM_ID, 6);
	memcpy(p + 16, OEM_ID "  ", 8);
	put_le32(p + 24, 1);
	memcpy(p + 28, CREATOR_ID, 4);
	put_le32(p + 32, 1);
	return p;
}

/* Close the table of @size bytes; returns its guest address. */
static uint64_t table_end(struct tables *t, uint8_t *p, size_t size)
{
	put_le32(p + 4, size);
	p[9] = checksum(p, size);
	t->len = p - t->base + size;
	return FW_ACPI_ADDR + (p - t->base);
}

static int end_root_table(struct tables *t, uint8_t *p, size_t size)
{
	t->root[t->num_root++] = table_end(t, p, size);
	return 0;
}

static void put_gas(uint8_t *p, uint16_t port)
{
	p[0] = GAS_SYSTEM_IO;
	p[1] = 8;
	p[2] = 0;
	p[3] = GAS_BYTE;
	put_le64(p + 4, port);
}

static int build_dsdt(struct tables *t, const struct fw_platform *platform, uint64_t *ret_dsdt)
{
	uint8_t *p = table_begin(t, "DSDT", DSDT_REVISION, HEADER_SIZE);
	struct aml aml;

	if (!p)
		return -ENOSPC;
	aml = (struct aml){ .buf = p, .len = HEADER_SIZE, .cap = t->cap - (p - t->base) };
	fw_dsdt_write(&aml, platform);
	if (aml.full)
		return -ENOSPC;
	*ret_dsdt = table_end(t, p, aml.len);
	return 0;
}

static int build_fadt(struct tables *t, const struct fw_platform *platform, uint64_t dsdt)
{
	uint8_t *p = table_begin(t, "FACP", FADT_REVISION, FADT_SIZE);

	if (!p)
		return -ENOSPC;
	put_le32(p + 40, dsdt);
	put_le16(p + 109, BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_ASPM |
				  (platform->rtc ? 0 : BOOT_ARCH_NO_RTC));
	put_le32(p + 112, FADT_WBINVD | FADT_PWR_BUTTON | FADT_SLP_BUTTON | FADT_RESET_REG |
				  FADT_HW_REDUCED);
	put_gas(p + 116, POWER_RESET_PORT);
	p[128] = POWER_RESET_VALUE;
	put_le64(p + 140, dsdt);
	put_gas(p + 244, POWER_SLEEP_CONTROL_PORT);
	put_gas(p + 256, POWER_SLEEP_CONTROL_PORT + 1);
	return end_root_table(t, p, FADT_SIZE);
}

static uint8_t *put_cpu(uint8_t *p, unsigned index, uint32_t apic_id)
{
	if (apic_id <= MAX_LAPIC_ID && index <= UINT8_MAX) {
		p[0] = MADT_LAPIC;
		p[1] = 8;
		p[2] = index;
		p[3] = apic_id;
		put_le32(p + 4, MADT_ENABLED);
	} else {
		p[0] = MADT_X2APIC;
		p[1] = 16;
		put_le32(p + 4, apic_id);
		put_le32(p + 8, MADT_ENABLED);
		put_le32(p + 12, index);
	}
	return p + p[1];
}

static int build_madt(struct tables *t, const struct fw_platform *platform)
{
	size_t max = HEADER_SIZE + 8 + 12 + 6 + platform->num_cpus * 16ull;
	uint8_t *table = table_begin(t, "APIC", MADT_REVISION, max), *p;

	if (!table)
		return -ENOSPC;
	put_le32(table + HEADER_SIZE, FW_LAPIC_ADDR);
	p = table + HEADER_SIZE + 8;
	for (unsigned i = 0; i < platform->num_cpus; i++)
		p = put_cpu(p, i, platform->apic_ids ? platform->apic_ids[i] : i);

	p[0] = MADT_IOAPIC;
	p[1] = 12;
	put_le32(p + 4, FW_IOAPIC_ADDR);
	p += p[1];

	p[0] = MADT_LAPIC_NMI;
	p[1] = 6;
	p[2] = 0xff; /* of all processors */
	p[5] = 1;    /* LINT1 */
	p += p[1];
	return end_root_table(t, table, p - table);
}

static int build_mcfg(struct tables *t)
{
	size_t size = HEADER_SIZE + 8 + 16;
	uint8_t *p = table_begin(t, "MCFG", MCFG_REVISION, size);

	if (!p)
		return -ENOSPC;
	put_le64(p + HEADER_SIZE + 8, FW_ECAM_ADDR);
	p[HEADER_SIZE + 19] = FW_ECAM_SIZE / MiB - 1; /* last bus */
	return end_root_table(t, p, size);
}

static int build_xsdt(struct tables *t, uint64_t *ret_xsdt)
{
	size_t size = HEADER_SIZE + t->num_root * 8;
	uint8_t *p = table_begin(t, "XSDT", XSDT_REVISION, size);

	if (!p)
		return -ENOSPC;
	for (unsigned i = 0; i < t->num_root; i++)
		put_le64(p + HEADER_SIZE + i * 8, t->root[i]);
	*ret_xsdt = table_end(t, p, size);
	return 0;
}

static void put_rsdp(uint8_t *p, uint64_t xsdt)
{
	memset(p, 0, RSDP_SIZE);
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, OEM_ID, 6);
	p[15] = 2;
	put_le32(p + 20, RSDP_SIZE);
	put_le64(p + 24, xsdt);
	p[8] = checksum(p, 20);
	p[32] = checksum(p, RSDP_SIZE);
}

int fw_acpi_build(struct guest_mem *mem, const struct fw_platform *platform, struct error *err)
{
	struct tables t = { .len = RSDP_SIZE, .cap = FW_ACPI_SIZE };
	uint64_t dsdt = 0, xsdt = 0;
	int r;

	t.base = guest_mem_ptr(mem, FW_ACPI_ADDR, FW_ACPI_SIZE);
	if (!t.base)
		return error_usage(err, -ENOMEM, "memory: ACPI tables need the first MiB");
	r = build_dsdt(&t, platform, &dsdt);
	if (!r)
		r = build_fadt(&t, platform, dsdt);
	if (!r)
		r = build_madt(&t, platform);
	if (!r && platform->pci)
		r = build_mcfg(&t);
	if (!r)
		r = build_xsdt(&t, &xsdt);
	if (r < 0)
		return error_set(err, r,
				 "ACPI: tables for %u CPUs and %u devices do not fit into %llu KiB",
				 platform->num_cpus, platform->num_mmio, FW_ACPI_SIZE / KiB);
	put_rsdp(t.base, xsdt);
	return 0;
}
