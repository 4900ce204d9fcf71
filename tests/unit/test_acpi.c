/* ACPI tables as a guest finds them: from the RSDP on, by checksums and lengths. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "firmware/dsdt.h"
#include "firmware/firmware.h"
#include "vmm/core/platform.h"

static const uint32_t intx_gsi[4] = { 16, 17, 18, 19 };
static const struct fw_mmio_device mmio[3] = {
	{ 0xd0000000, 0x200, 5 },
	{ 0xd0001000, 0x200, 6 },
	{ 0xd0002000, 0x200, 23 },
};

/* Everything at once; tests switch off what they look at. */
static const struct fw_platform full = {
	.num_cpus = 4,
	.serial = true,
	.rtc = true,
	.pci = true,
	.intx_gsi = intx_gsi,
	.pci_mmio64_base = 256 * GiB,
	.pci_mmio64_size = 16 * GiB,
	.vmgenid = true,
	.vmclock = true,
	.mmio = mmio,
	.num_mmio = ARRAY_SIZE(mmio),
};

static struct guest_mem *build(const struct fw_platform *platform)
{
	const struct guest_mem_range range = { .gpa = 0, .size = 2 * MiB };
	struct guest_mem *mem = NULL;
	struct error err = { 0 };

	if (guest_mem_create(&mem, GUEST_MEM_ANON, &range, 1, &err) < 0 ||
	    fw_acpi_build(mem, platform, &err) < 0)
		fail_msg("%s", err.msg);
	return mem;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s += *p++;
	return s;
}

/* A table at @gpa, whole, inside the ACPI area, with a right checksum. */
static const uint8_t *table_at(struct guest_mem *mem, uint64_t gpa)
{
	const uint8_t *t = guest_mem_ptr(mem, gpa, 36);
	uint32_t len;

	assert_non_null(t);
	len = get_le32(t + 4);
	assert_true(range_inside(gpa, len, FW_ACPI_ADDR, FW_ACPI_SIZE));
	assert_int_equal(sum(t, len), 0);
	return t;
}

static const uint8_t *xsdt(struct guest_mem *mem)
{
	const uint8_t *rsdp = guest_mem_ptr(mem, FW_ACPI_ADDR, 36), *t;

	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	assert_int_equal(rsdp[15], 2);
	t = table_at(mem, get_le64(rsdp + 24));
	assert_memory_equal(t, "XSDT", 4);
	return t;
}

/* NULL when the XSDT does not have it. */
static const uint8_t *find(struct guest_mem *mem, const char *signature)
{
	const uint8_t *root = xsdt(mem), *found = NULL;

	for (uint32_t at = 36; at < get_le32(root + 4); at += 8) {
		const uint8_t *t = table_at(mem, get_le64(root + at));

		if (!memcmp(t, signature, 4)) {
			assert_null(found); /* once */
			found = t;
		}
	}
	return found;
}

static const uint8_t *dsdt(struct guest_mem *mem)
{
	const uint8_t *t = table_at(mem, get_le64(find(mem, "FACP") + 140));

	assert_memory_equal(t, "DSDT", 4);
	return t;
}

static bool dsdt_has(struct guest_mem *mem, const void *bytes, size_t len)
{
	const uint8_t *t = dsdt(mem);

	return memmem(t, get_le32(t + 4), bytes, len);
}

static void tables_are_found_from_the_rsdp(void **state)
{
	struct guest_mem *mem = build(&full);

	assert_non_null(find(mem, "FACP"));
	assert_non_null(find(mem, "APIC"));
	assert_non_null(find(mem, "MCFG"));
	assert_non_null(dsdt(mem));
	guest_mem_free(mem);
}

static void fadt_is_hardware_reduced_and_can_end_the_machine(void **state)
{
	struct guest_mem *mem = build(&full);
	const uint8_t *t = find(mem, "FACP");

	assert_int_equal(t[8], 6);
	assert_true(get_le32(t + 112) & 1u << 20);
	assert_true(get_le32(t + 112) & 1u << 10);
	assert_int_equal(t[116], 1); /* reset register: port I/O */
	assert_int_equal(get_le64(t + 120), POWER_RESET_PORT);
	assert_int_equal(t[128], POWER_RESET_VALUE);
	assert_int_equal(t[244], 1);
	assert_int_equal(get_le64(t + 248), POWER_SLEEP_CONTROL_PORT);
	assert_int_equal(get_le64(t + 260), POWER_SLEEP_CONTROL_PORT + 1);
	assert_int_equal(get_le32(t + 40), get_le64(t + 140)); /* one DSDT, by both pointers */
	guest_mem_free(mem);
}

static void fadt_says_which_legacy_hardware_is_missing(void **state)
{
	struct fw_platform p = full;
	struct guest_mem *mem = build(&p);
	uint16_t arch = get_le16(find(mem, "FACP") + 109);

	assert_true(arch & 1u << 2);  /* no VGA */
	assert_false(arch & 1u << 1); /* and no 8042 */
	assert_false(arch & 1u << 5);
	guest_mem_free(mem);
	p.rtc = false;
	mem = build(&p);
	assert_true(get_le16(find(mem, "FACP") + 109) & 1u << 5); /* no CMOS RTC */
	guest_mem_free(mem);
}

/* Count MADT entries of @type, checking that they fill the table exactly. */
static unsigned madt_count(const uint8_t *madt, uint8_t type)
{
	uint32_t len = get_le32(madt + 4), at = 44;
	unsigned n = 0;

	while (at < len) {
		assert_true(madt[at + 1] >= 2);
		n += madt[at] == type;
		at += madt[at + 1];
	}
	assert_int_equal(at, len);
	return n;
}

static void madt_has_every_processor(void **state)
{
	struct guest_mem *mem = build(&full);
	const uint8_t *madt = find(mem, "APIC");

	assert_int_equal(get_le32(madt + 36), FW_LAPIC_ADDR);
	assert_int_equal(get_le32(madt + 40), 0); /* no PIC */
	assert_int_equal(madt_count(madt, 0), 4);
	assert_int_equal(madt_count(madt, 1), 1);
	assert_int_equal(madt_count(madt, 9), 0);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(madt[44 + i * 8 + 3], i);
		assert_int_equal(get_le32(madt + 44 + i * 8 + 4), 1);
	}
	guest_mem_free(mem);
}

static void processors_beyond_the_first_255_are_x2apics(void **state)
{
	struct fw_platform p = full;
	struct guest_mem *mem;
	const uint8_t *madt;

	p.num_cpus = 300;
	mem = build(&p);
	madt = find(mem, "APIC");
	assert_int_equal(madt_count(madt, 0), 255);
	assert_int_equal(madt_count(madt, 9), 45);
	guest_mem_free(mem);
}

static void apic_ids_are_those_given(void **state)
{
	const uint32_t ids[2] = { 8, 1000 };
	struct fw_platform p = full;
	struct guest_mem *mem;
	const uint8_t *madt;

	p.num_cpus = 2;
	p.apic_ids = ids;
	mem = build(&p);
	madt = find(mem, "APIC");
	assert_int_equal(madt[44 + 3], 8);
	assert_int_equal(madt[52], 9);
	assert_int_equal(get_le32(madt + 52 + 4), 1000);
	guest_mem_free(mem);
}

static void the_largest_machine_fits(void **state)
{
	struct fw_mmio_device many[FW_MAX_MMIO_DEVICES];
	struct fw_platform p = full;
	struct guest_mem *mem;

	for (unsigned i = 0; i < FW_MAX_MMIO_DEVICES; i++)
		many[i] = (struct fw_mmio_device){ FW_VIRTIO_MMIO_ADDR + i * PAGE_SIZE, 0x200, 5 };
	p.num_cpus = FW_MAX_CPUS;
	p.mmio = many;
	p.num_mmio = FW_MAX_MMIO_DEVICES;
	mem = build(&p);
	assert_int_equal(madt_count(find(mem, "APIC"), 9), FW_MAX_CPUS - 255);
	guest_mem_free(mem);
}

static void mcfg_is_the_window_of_the_bridge(void **state)
{
	struct guest_mem *mem = build(&full);
	const uint8_t *t = find(mem, "MCFG");

	assert_int_equal(get_le32(t + 4), 60);
	assert_int_equal(get_le64(t + 44), FW_ECAM_ADDR);
	assert_int_equal((t[55] - t[54] + 1) * MiB, FW_ECAM_SIZE);
	guest_mem_free(mem);
}

static void without_pci_nothing_speaks_of_it(void **state)
{
	struct fw_platform p = full;
	struct guest_mem *mem;

	p.pci = false;
	mem = build(&p);
	assert_null(find(mem, "MCFG"));
	assert_false(dsdt_has(mem, "PCI0", 4));
	guest_mem_free(mem);
}

static void devices_appear_as_the_platform_has_them(void **state)
{
	static const struct {
		const char *name;
		size_t offset;
	} optional[] = {
		{ "COM1", offsetof(struct fw_platform, serial) },
		{ "RTC_", offsetof(struct fw_platform, rtc) },
		{ "PCI0", offsetof(struct fw_platform, pci) },
		{ "VM_Gen_Counter", offsetof(struct fw_platform, vmgenid) },
		{ "AMZNC10C", offsetof(struct fw_platform, vmclock) },
	};
	struct guest_mem *mem = build(&full);

	assert_true(dsdt_has(mem, "LNRO0005", 9));
	assert_true(dsdt_has(mem, "QEMU0001", 9));
	assert_true(dsdt_has(mem, "ACPI0013", 9));
	for (unsigned i = 0; i < ARRAY_SIZE(optional); i++) {
		struct fw_platform p = full;
		struct guest_mem *without;

		*(bool *)((char *)&p + optional[i].offset) = false;
		without = build(&p);
		assert_true(dsdt_has(mem, optional[i].name, strlen(optional[i].name)));
		assert_false(dsdt_has(without, optional[i].name, strlen(optional[i].name)));
		guest_mem_free(without);
	}
	guest_mem_free(mem);
}

static void vmclock_is_a_page_that_no_table_reaches(void **state)
{
	const uint8_t crs[] = { 0x86, 9, 0, 1, 0x00, 0xf0, 0x0f, 0x00, 0x00, 0x10, 0, 0, 0x79 };
	struct guest_mem *mem = build(&full);

	assert_int_equal(FW_VMCLOCK_ADDR, 0xff000);
	assert_true(dsdt_has(mem, crs, sizeof(crs)));
	assert_false(ranges_overlap(FW_VMCLOCK_ADDR, PAGE_SIZE, FW_ACPI_ADDR, FW_ACPI_SIZE));
	guest_mem_free(mem);
}

static void virtio_mmio_devices_have_their_address_and_gsi(void **state)
{
	/* Memory32Fixed and an edge-triggered interrupt, as in ACPI 6.4, 6.4.3. */
	const uint8_t crs[] = { 0x86, 9, 0, 1, 0x00, 0x20, 0x00, 0xd0, 0x00, 0x02, 0, 0,
				0x89, 6, 0, 3, 1,    23,   0,	 0,    0,    0x79, 0 };
	struct guest_mem *mem = build(&full);

	assert_true(dsdt_has(mem, crs, sizeof(crs)));
	guest_mem_free(mem);
}

static void running_out_of_space_is_reported_at_any_length(void **state)
{
	uint8_t *whole = calloc(1, FW_ACPI_SIZE), *part;
	struct aml a = { .buf = whole, .cap = FW_ACPI_SIZE };
	size_t len;

	assert_non_null(whole);
	fw_dsdt_write(&a, &full);
	assert_false(a.full);
	len = a.len;
	for (size_t cap = 0; cap < len; cap += 61) {
		/* Exactly as large: a write beyond it is the sanitizer's to find. */
		part = malloc(cap ? cap : 1);
		assert_non_null(part);
		a = (struct aml){ .buf = part, .cap = cap };
		fw_dsdt_write(&a, &full);
		assert_true(a.full);
		free(part);
	}
	free(whole);
}

static void memory_below_a_megabyte_is_refused(void **state)
{
	const struct guest_mem_range range = { .gpa = 0, .size = 64 * KiB };
	struct guest_mem *mem = NULL;
	struct error err = { 0 };

	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, &range, 1, &err), 0);
	assert_true(fw_acpi_build(mem, &full, &err) < 0);
	guest_mem_free(mem);
}

/* ---- what the reference compiler thinks of it ---- */

static void save(const char *dir, const char *name, const uint8_t *table)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s.dat", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, table, get_le32(table + 4)), get_le32(table + 4));
	close(fd);
}

/* Disassemble, and compile what came out: errors in either fail. */
static void compile_again(const struct fw_platform *platform)
{
	struct guest_mem *mem = build(platform);
	char dir[] = "/tmp/wisp-acpi.XXXXXX", command[512];

	assert_non_null(mkdtemp(dir));
	save(dir, "dsdt", dsdt(mem));
	save(dir, "facp", find(mem, "FACP"));
	save(dir, "apic", find(mem, "APIC"));
	snprintf(command, sizeof(command),
		 "cd %s && iasl -d dsdt.dat >log 2>&1 && iasl -we dsdt.dsl >>log 2>&1 && "
		 "iasl -d facp.dat apic.dat >>log 2>&1 && ! grep -i 'error\\|invalid\\|warning' "
		 "facp.dsl apic.dsl",
		 dir);
	if (system(command))
		fail_msg("see %s/log", dir);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
	guest_mem_free(mem);
}

static void iasl_compiles_what_it_disassembles(void **state)
{
	struct fw_platform p = full;

	if (system("iasl -v >/dev/null 2>&1"))
		skip();
	compile_again(&full);
	p = (struct fw_platform){ .num_cpus = 1 };
	compile_again(&p);
	p.pci = true;
	p.intx_gsi = intx_gsi;
	compile_again(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_are_found_from_the_rsdp),
		cmocka_unit_test(fadt_is_hardware_reduced_and_can_end_the_machine),
		cmocka_unit_test(fadt_says_which_legacy_hardware_is_missing),
		cmocka_unit_test(madt_has_every_processor),
		cmocka_unit_test(processors_beyond_the_first_255_are_x2apics),
		cmocka_unit_test(apic_ids_are_those_given),
		cmocka_unit_test(the_largest_machine_fits),
		cmocka_unit_test(mcfg_is_the_window_of_the_bridge),
		cmocka_unit_test(without_pci_nothing_speaks_of_it),
		cmocka_unit_test(devices_appear_as_the_platform_has_them),
		cmocka_unit_test(vmclock_is_a_page_that_no_table_reaches),
		cmocka_unit_test(virtio_mmio_devices_have_their_address_and_gsi),
		cmocka_unit_test(running_out_of_space_is_reported_at_any_length),
		cmocka_unit_test(memory_below_a_megabyte_is_refused),
		cmocka_unit_test(iasl_compiles_what_it_disassembles),
	};

	return cmocka_run_group_tests_name("acpi", tests, NULL, NULL);
}
