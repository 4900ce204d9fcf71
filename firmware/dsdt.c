#include "firmware/dsdt.h"

#include <stdio.h>

#include "vmm/core/platform.h"

#define COM1_PORT 0x3f8
#define COM1_GSI  4
#define RTC_PORT  0x70
#define RTC_GSI	  8

#define PCI_CONFIG_PORT 0xcf8
#define PCI_SLOTS	32
#define PCI_ANY_FUNCTION 0xffff

#define NOTIFY_DEVICE_CHECK  1
#define NOTIFY_EJECT_REQUEST 3
#define NOTIFY_EVENT	     0x80 /* button pressed, generation changed */

#define STA_PRESENT_DECODED 0x0b /* present, decoding, working; not shown in a user interface */

static void name_eisa(struct aml *a, const char *name, const char *id)
{
	aml_name(a, name);
	aml_eisa_id(a, id);
}

static void name_string(struct aml *a, const char *name, const char *value)
{
	aml_name(a, name);
	aml_string(a, value);
}

static void name_int(struct aml *a, const char *name, uint64_t value)
{
	aml_name(a, name);
	aml_int(a, value);
}

/* If (And (Local0, @bit)) { */
static size_t if_local0_has(struct aml *a, uint32_t bit)
{
	size_t mark = aml_if(a);

	aml_op(a, AML_AND);
	aml_op(a, AML_LOCAL0);
	aml_int(a, bit);
	aml_op(a, AML_ZERO);
	return mark;
}

static void notify(struct aml *a, const char *path, uint64_t value)
{
	aml_op(a, AML_NOTIFY);
	aml_path(a, path);
	aml_int(a, value);
}

/* ---- what sits at fixed addresses ---- */

static void write_serial(struct aml *a)
{
	size_t dev = aml_device(a, "COM1"), crs;

	name_eisa(a, "_HID", "PNP0501");
	name_int(a, "_UID", 1);
	crs = aml_resources(a);
	aml_res_io(a, COM1_PORT, 8);
	aml_res_edge_irq(a, COM1_GSI);
	aml_resources_end(a, crs);
	aml_end(a, dev);
}

static void write_rtc(struct aml *a)
{
	size_t dev = aml_device(a, "RTC"), crs;

	name_eisa(a, "_HID", "PNP0B00");
	crs = aml_resources(a);
	aml_res_io(a, RTC_PORT, 2);
	aml_res_edge_irq(a, RTC_GSI);
	aml_resources_end(a, crs);
	aml_end(a, dev);
}

static void write_pvpanic(struct aml *a)
{
	size_t dev = aml_device(a, "PEVT"), crs;

	name_string(a, "_HID", "QEMU0001");
	name_int(a, "_STA", STA_PRESENT_DECODED);
	crs = aml_resources(a);
	aml_res_io(a, POWER_PVPANIC_PORT, 1);
	aml_resources_end(a, crs);
	aml_end(a, dev);
}

static void write_virtio_mmio(struct aml *a, const struct fw_mmio_device *d, unsigned index)
{
	char name[8];
	size_t dev, crs;

	snprintf(name, sizeof(name), "VR%02X", index & 0xff);
	dev = aml_device(a, name);
	name_string(a, "_HID", "LNRO0005");
	name_int(a, "_UID", index);
	name_int(a, "_CCA", 1);
	crs = aml_resources(a);
	aml_res_memory32(a, d->base, d->size);
	aml_res_edge_irq(a, d->gsi);
	aml_resources_end(a, crs);
	aml_end(a, dev);
}

/* ---- PCI ---- */

static void write_pci_resources(struct aml *a, const struct fw_platform *p)
{
	size_t crs = aml_resources(a);

	aml_res_bus_window(a, 0, FW_ECAM_SIZE / MiB - 1);
	aml_res_io(a, PCI_CONFIG_PORT, 8);
	aml_res_io_window(a, 0, PCI_CONFIG_PORT - 1);
	aml_res_io_window(a, PCI_CONFIG_PORT + 8, 0xffff);
	aml_res_memory32_window(a, FW_PCI_MMIO32_ADDR, FW_PCI_MMIO32_SIZE);
	if (p->pci_mmio64_size)
		aml_res_memory64_window(a, p->pci_mmio64_base, p->pci_mmio64_size);
	aml_resources_end(a, crs);
}

/* INTA to INTD of each slot: straight to a GSI, rotated by the slot number. */
static void write_pci_routing(struct aml *a, const uint32_t *gsi)
{
	size_t table, entry;

	aml_name(a, "_PRT");
	table = aml_package(a, PCI_SLOTS * 4);
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		for (unsigned pin = 0; pin < 4; pin++) {
			entry = aml_package(a, 4);
			aml_int(a, slot << 16 | PCI_ANY_FUNCTION);
			aml_int(a, pin);
			aml_int(a, 0); /* no link device in between */
			aml_int(a, gsi[(slot + pin) % 4]);
			aml_end(a, entry);
		}
	}
	aml_end(a, table);
}

/*
 * _OSC (PCI Firmware 3.2, 4.5.1): hand over the PCI Express capability only.
 * Hot-plug is ACPI's here, and there are no ports that could signal PME or AER.
 */
static void write_pci_osc(struct aml *a)
{
	const unsigned pcie_capability = 1u << 4;
	/* Status bits of the first word. */
	const unsigned unknown_uuid = 1u << 2, unknown_revision = 1u << 3, masked = 1u << 4;
	size_t method = aml_method(a, "_OSC", 4), cond, inner;

	aml_op(a, AML_DWORD_FIELD);
	aml_op(a, AML_ARG3);
	aml_int(a, 0);
	aml_path(a, "CDW1");

	cond = aml_if(a);
	aml_op(a, AML_LEQUAL);
	aml_op(a, AML_ARG0);
	aml_uuid(a, "33DB4D5B-1FF7-401C-9657-7441C03DD766");
	aml_op(a, AML_DWORD_FIELD);
	aml_op(a, AML_ARG3);
	aml_int(a, 8);
	aml_path(a, "CDW3");
	aml_op(a, AML_AND);
	aml_path(a, "CDW3");
	aml_int(a, pcie_capability);
	aml_op(a, AML_LOCAL0);

	inner = aml_if(a);
	aml_op(a, AML_LNOT);
	aml_op(a, AML_LEQUAL);
	aml_op(a, AML_ARG1);
	aml_int(a, 1);
	aml_op(a, AML_OR);
	aml_path(a, "CDW1");
	aml_int(a, unknown_revision);
	aml_path(a, "CDW1");
	aml_end(a, inner);

	inner = aml_if(a);
	aml_op(a, AML_LNOT);
	aml_op(a, AML_LEQUAL);
	aml_path(a, "CDW3");
	aml_op(a, AML_LOCAL0);
	aml_op(a, AML_OR);
	aml_path(a, "CDW1");
	aml_int(a, masked);
	aml_path(a, "CDW1");
	aml_end(a, inner);

	aml_op(a, AML_STORE);
	aml_op(a, AML_LOCAL0);
	aml_path(a, "CDW3");
	aml_end(a, cond);

	cond = aml_else(a);
	aml_op(a, AML_OR);
	aml_path(a, "CDW1");
	aml_int(a, unknown_uuid);
	aml_path(a, "CDW1");
	aml_end(a, cond);

	aml_op(a, AML_RETURN);
	aml_op(a, AML_ARG3);
	aml_end(a, method);
}

static void slot_name(char *name, unsigned slot)
{
	snprintf(name, 8, "S%02X_", slot & 0xff);
}

/* DVNT (slots): notify each slot whose bit is set in Arg0 with Arg1. */
static void write_slot_notify(struct aml *a)
{
	size_t method = aml_method(a, "DVNT", 2), cond;
	char name[8];

	for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
		cond = aml_if(a);
		aml_op(a, AML_AND);
		aml_op(a, AML_ARG0);
		aml_int(a, 1u << slot);
		aml_op(a, AML_ZERO);
		slot_name(name, slot);
		aml_op(a, AML_NOTIFY);
		aml_path(a, name);
		aml_op(a, AML_ARG1);
		aml_end(a, cond);
	}
	aml_end(a, method);
}

/* Every slot but the host bridge's can be filled and emptied while the guest runs. */
static void write_pci_hotplug(struct aml *a)
{
	static const char *const fields[] = { "PCIU", "PCID", "PCEJ" };
	size_t dev, method;
	char name[8];

	aml_io_fields(a, "PHPR", POWER_PCI_HOTPLUG_PORT, fields, ARRAY_SIZE(fields));
	for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
		slot_name(name, slot);
		dev = aml_device(a, name);
		name_int(a, "_ADR", slot << 16);
		name_int(a, "_SUN", slot);
		method = aml_method(a, "_EJ0", 1);
		aml_op(a, AML_STORE);
		aml_int(a, 1u << slot);
		aml_path(a, "PCEJ");
		aml_end(a, method);
		aml_end(a, dev);
	}
	write_slot_notify(a);

	method = aml_method(a, "PCNT", 0);
	aml_path(a, "DVNT");
	aml_path(a, "PCIU");
	aml_int(a, NOTIFY_DEVICE_CHECK);
	aml_path(a, "DVNT");
	aml_path(a, "PCID");
	aml_int(a, NOTIFY_EJECT_REQUEST);
	aml_end(a, method);
}

static void write_pci(struct aml *a, const struct fw_platform *p)
{
	size_t dev = aml_device(a, "PCI0"), crs;

	name_eisa(a, "_HID", "PNP0A08");
	name_eisa(a, "_CID", "PNP0A03");
	name_int(a, "_UID", 0);
	name_int(a, "_SEG", 0);
	name_int(a, "_BBN", 0);
	write_pci_resources(a, p);
	write_pci_routing(a, p->intx_gsi);
	write_pci_osc(a);
	write_pci_hotplug(a);
	aml_end(a, dev);

	/* The window of MCFG must be claimed outside of the bridge: PCI Firmware 3.2, 4.1.2. */
	dev = aml_device(a, "ECAM");
	name_eisa(a, "_HID", "PNP0C02");
	name_int(a, "_UID", 1);
	crs = aml_resources(a);
	aml_res_memory32(a, FW_ECAM_ADDR, FW_ECAM_SIZE);
	aml_resources_end(a, crs);
	aml_end(a, dev);
}

/* ---- events ---- */

static void write_vmgenid(struct aml *a)
{
	size_t dev = aml_device(a, "VGEN"), pkg;

	/* Drivers match the compatible IDs: the specification's, and Hyper-V's own spelling. */
	name_string(a, "_HID", "WISP0001");
	aml_name(a, "_CID");
	pkg = aml_package(a, 2);
	aml_string(a, "VM_Gen_Counter");
	aml_string(a, "VMGENCTR");
	aml_end(a, pkg);
	name_string(a, "_DDN", "VM_Gen_Counter");
	aml_name(a, "ADDR");
	pkg = aml_package(a, 2);
	aml_int(a, FW_VMGENID_ADDR & UINT32_MAX);
	aml_int(a, FW_VMGENID_ADDR >> 32);
	aml_end(a, pkg);
	aml_end(a, dev);
}

/* As Linux's driver ptp_vmclock finds it; its clock has no reading, see firmware/vmclock.h. */
static void write_vmclock(struct aml *a)
{
	size_t dev = aml_device(a, "VCLK"), crs;

	name_string(a, "_HID", "AMZNC10C");
	name_string(a, "_CID", "VMCLOCK");
	crs = aml_resources(a);
	aml_res_memory32(a, FW_VMCLOCK_ADDR, PAGE_SIZE);
	aml_resources_end(a, crs);
	aml_end(a, dev);
}

static void write_power_button(struct aml *a)
{
	size_t dev = aml_device(a, "PWRB");

	name_eisa(a, "_HID", "PNP0C0C");
	name_int(a, "_UID", 0);
	aml_end(a, dev);
}

/* The generic event device: one interrupt, and a register that says what for. */
static void write_ged(struct aml *a, const struct fw_platform *p)
{
	static const char *const fields[] = { "GEVT" };
	size_t dev = aml_device(a, "GED"), crs, method, cond;

	name_string(a, "_HID", "ACPI0013");
	name_int(a, "_UID", 0);
	crs = aml_resources(a);
	aml_res_edge_irq(a, POWER_GED_GSI);
	aml_resources_end(a, crs);
	aml_io_fields(a, "GEDR", POWER_GED_PORT, fields, ARRAY_SIZE(fields));

	method = aml_method(a, "_EVT", 1);
	/* Reading clears: once, and then look at all the bits. */
	aml_op(a, AML_STORE);
	aml_path(a, "GEVT");
	aml_op(a, AML_LOCAL0);
	cond = if_local0_has(a, GED_POWER_BUTTON);
	notify(a, "\\_SB.PWRB", NOTIFY_EVENT);
	aml_end(a, cond);
	if (p->vmgenid) {
		cond = if_local0_has(a, GED_VMGENID);
		notify(a, "\\_SB.VGEN", NOTIFY_EVENT);
		aml_end(a, cond);
	}
	if (p->vmclock) {
		cond = if_local0_has(a, GED_VMCLOCK);
		notify(a, "\\_SB.VCLK", NOTIFY_EVENT);
		aml_end(a, cond);
	}
	if (p->pci) {
		cond = if_local0_has(a, GED_PCI_HOTPLUG);
		aml_path(a, "\\_SB.PCI0.PCNT");
		aml_end(a, cond);
	}
	aml_end(a, method);
	aml_end(a, dev);
}

void fw_dsdt_write(struct aml *a, const struct fw_platform *p)
{
	size_t scope, pkg;

	scope = aml_scope(a, "\\_SB");
	if (p->pci)
		write_pci(a, p);
	if (p->serial)
		write_serial(a);
	if (p->rtc)
		write_rtc(a);
	write_pvpanic(a);
	for (unsigned i = 0; i < p->num_mmio; i++)
		write_virtio_mmio(a, &p->mmio[i], i);
	write_power_button(a);
	if (p->vmgenid)
		write_vmgenid(a);
	if (p->vmclock)
		write_vmclock(a);
	write_ged(a, p);
	aml_end(a, scope);

	aml_name(a, "\\_S5");
	pkg = aml_package(a, 4);
	aml_int(a, POWER_SLEEP_TYPE_S5);
	aml_int(a, 0);
	aml_int(a, 0);
	aml_int(a, 0);
	aml_end(a, pkg);
}
