/* What fw_boot_setup() leaves in guest memory: kernel, initrd, parameters, memory map. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "firmware/firmware.h"
#include "tests/unit/fake_kernel.h"

static const uint32_t intx_gsi[4] = { 16, 17, 18, 19 };
static const struct fw_platform platform = {
	.num_cpus = 1,
	.serial = true,
	.pci = true,
	.intx_gsi = intx_gsi,
};

static struct guest_mem *memory(uint64_t size, enum guest_mem_backing backing)
{
	const struct guest_mem_range ranges[2] = {
		{ .gpa = 0, .size = MIN(size, FW_HOLE_START) },
		{ .gpa = FW_HOLE_END, .size = size > FW_HOLE_START ? size - FW_HOLE_START : 0 },
	};
	struct guest_mem *mem = NULL;
	struct error err = { 0 };

	if (guest_mem_create(&mem, backing, ranges, ranges[1].size ? 2 : 1, &err) < 0)
		fail_msg("%s", err.msg);
	return mem;
}

static struct fw_kernel *open_image(const void *image, uint64_t len)
{
	struct fw_kernel *k = NULL;
	struct error err = { 0 };

	if (fw_kernel_open(&k, "fake", fake_file(image, len), &err) < 0)
		fail_msg("%s", err.msg);
	return k;
}

/* @change: what a test alters in the image, or NULL. */
static struct fw_kernel *open_bzimage(void (*change)(uint8_t *image))
{
	uint8_t *image = malloc(FAKE_BZIMAGE_SIZE);
	struct fw_kernel *k;

	assert_non_null(image);
	fake_bzimage(image);
	if (change)
		change(image);
	k = open_image(image, FAKE_BZIMAGE_SIZE);
	free(image);
	return k;
}

static struct fw_kernel *open_elf(bool pvh)
{
	struct fake_elf *elf = malloc(sizeof(*elf));
	struct fw_kernel *k;

	assert_non_null(elf);
	fake_elf(elf, pvh);
	k = open_image(elf->image, sizeof(elf->image));
	free(elf);
	return k;
}

/* An initrd of @size bytes, all holes but the first and the last byte. */
static int initrd_file(uint64_t size)
{
	int fd = fake_file("I", 1);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	assert_int_equal(pwrite(fd, "D", 1, size - 1), 1);
	return fd;
}

static int boot(struct guest_mem *mem, struct fw_kernel *k, enum fw_protocol protocol,
		int initrd_fd, struct fw_start *start, struct error *err)
{
	const struct fw_boot_config config = {
		.kernel = k,
		.protocol = protocol,
		.initrd_fd = initrd_fd,
		.initrd_path = "ird",
		.cmdline = "console=ttyS0 quiet",
		.platform = &platform,
	};

	return fw_boot_setup(mem, &config, start, err);
}

static struct fw_start must_boot(struct guest_mem *mem, struct fw_kernel *k,
				 enum fw_protocol protocol, int initrd_fd)
{
	struct error err = { 0 };
	struct fw_start start;

	if (boot(mem, k, protocol, initrd_fd, &start, &err) < 0)
		fail_msg("%s", err.msg);
	return start;
}

static void must_fail(struct guest_mem *mem, struct fw_kernel *k, enum fw_protocol protocol,
		      int initrd_fd, const char *why)
{
	struct error err = { 0 };
	struct fw_start start;

	assert_true(boot(mem, k, protocol, initrd_fd, &start, &err) < 0);
	assert_int_equal(err.kind, ERROR_USAGE);
	if (!strstr(err.msg, why))
		fail_msg("'%s' does not say '%s'", err.msg, why);
}

static uint8_t *at(struct guest_mem *mem, uint64_t gpa)
{
	uint8_t *p = guest_mem_ptr(mem, gpa, 1);

	if (!p)
		fail_msg("no memory at 0x%llx", (unsigned long long)gpa);
	return p;
}

static uint64_t zero_page_initrd(struct guest_mem *mem)
{
	const uint8_t *zp = at(mem, FW_ZERO_PAGE_ADDR);

	return get_le32(zp + 0x218) | (uint64_t)get_le32(zp + 0xc0) << 32;
}

static uint64_t zero_page_initrd_size(struct guest_mem *mem)
{
	const uint8_t *zp = at(mem, FW_ZERO_PAGE_ADDR);

	return get_le32(zp + 0x21c) | (uint64_t)get_le32(zp + 0xc4) << 32;
}

/* ---- bzImage ---- */

static void bzimage_payload_is_where_it_prefers(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_bzimage(NULL);
	struct fw_start start = must_boot(mem, k, FW_PROTOCOL_AUTO, -1);
	const uint8_t *p = at(mem, FAKE_BZIMAGE_PREF);

	assert_int_equal(start.entry, FW_ENTRY_LINUX64);
	assert_int_equal(start.rip, FAKE_BZIMAGE_PREF + 0x200);
	assert_int_equal(start.rsi, FW_ZERO_PAGE_ADDR);
	assert_int_equal(start.cr3, FW_PAGE_TABLE_ADDR);
	for (uint64_t i = 0; i < FAKE_BZIMAGE_PAYLOAD; i++)
		assert_int_equal(p[i], fake_byte(i));
	assert_int_equal(p[FAKE_BZIMAGE_PAYLOAD], 0);
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void zero_page_says_what_is_where(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_bzimage(NULL);
	const uint8_t *zp;

	must_boot(mem, k, FW_PROTOCOL_AUTO, -1);
	zp = at(mem, FW_ZERO_PAGE_ADDR);
	assert_memory_equal(zp + 0x202, "HdrS", 4);
	assert_int_equal(get_le16(zp + 0x206), 0x020f);
	assert_int_equal(zp[0x1ef], 0);	   /* the sentinel of a broken loader */
	assert_int_equal(zp[0x210], 0xff); /* type of loader */
	assert_int_equal(get_le32(zp + 0x228), FW_CMDLINE_ADDR);
	assert_int_equal(get_le64(zp + 0x70), FW_ACPI_ADDR);
	assert_int_equal(zero_page_initrd_size(mem), 0);
	assert_string_equal((char *)at(mem, FW_CMDLINE_ADDR), "console=ttyS0 quiet");
	assert_memory_equal(at(mem, FW_ACPI_ADDR), "RSD PTR ", 8);
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void memory_for_the_decompressor_is_demanded(void **state)
{
	struct fw_kernel *k = open_bzimage(NULL);
	struct guest_mem *mem = memory(FAKE_BZIMAGE_PREF + FAKE_BZIMAGE_INIT, GUEST_MEM_ANON);

	must_boot(mem, k, FW_PROTOCOL_AUTO, -1);
	guest_mem_free(mem);
	mem = memory(FAKE_BZIMAGE_PREF + FAKE_BZIMAGE_INIT - PAGE_SIZE, GUEST_MEM_ANON);
	must_fail(mem, k, FW_PROTOCOL_AUTO, -1, "kernel 'fake': does not fit into 19 MiB");
	guest_mem_free(mem);
	fw_kernel_free(k);
}

static void prefer_the_low_megabyte(uint8_t *image)
{
	put_le64(image + 0x258, 0x10000);
}

static void prefer_it_and_stay(uint8_t *image)
{
	prefer_the_low_megabyte(image);
	image[0x234] = 0;
}

static void a_kernel_that_prefers_the_low_megabyte_moves_up(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_bzimage(prefer_the_low_megabyte);

	assert_int_equal(must_boot(mem, k, FW_PROTOCOL_AUTO, -1).rip, 0x200000 + 0x200);
	fw_kernel_free(k);
	k = open_bzimage(prefer_it_and_stay);
	must_fail(mem, k, FW_PROTOCOL_AUTO, -1, "below 1 MiB");
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void prefer_the_top_of_everything(uint8_t *image)
{
	put_le64(image + 0x258, UINT64_MAX - 0xfff);
}

static void an_address_that_wraps_is_refused(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_bzimage(prefer_the_top_of_everything);

	must_fail(mem, k, FW_PROTOCOL_AUTO, -1, "does not fit");
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void bzimage_has_no_pvh_entry(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_bzimage(NULL);

	must_fail(mem, k, FW_PROTOCOL_PVH, -1, "PVH needs its vmlinux");
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void a_kernel_file_that_shrinks_is_noticed(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_bzimage(NULL);

	assert_int_equal(ftruncate(k->fd, 8192), 0);
	must_fail(mem, k, FW_PROTOCOL_AUTO, -1, "shrank");
	fw_kernel_free(k);
	guest_mem_free(mem);
}

/* ---- ELF ---- */

static void check_elf_in_memory(struct guest_mem *mem)
{
	const uint8_t *text = at(mem, FAKE_ELF_TEXT_GPA), *data = at(mem, FAKE_ELF_DATA_GPA);

	for (uint64_t i = 0; i < FAKE_ELF_TEXT_SIZE; i++)
		assert_int_equal(text[i], fake_byte(FAKE_ELF_TEXT_OFFSET + i));
	for (uint64_t i = 0; i < FAKE_ELF_DATA_SIZE; i++)
		assert_int_equal(data[i], fake_byte(FAKE_ELF_DATA_OFFSET + i));
	/* What the file has behind a segment is not the segment's. */
	for (uint64_t i = FAKE_ELF_TEXT_SIZE; i < align_up(FAKE_ELF_TEXT_SIZE, PAGE_SIZE); i++)
		assert_int_equal(text[i], 0);
	for (uint64_t i = FAKE_ELF_DATA_SIZE; i < FAKE_ELF_DATA_MEM; i++)
		assert_int_equal(data[i], 0);
	for (uint64_t i = 1; i < 0x800; i++)
		assert_int_equal(data[-(int64_t)i], 0);
}

static void elf_segments_are_mapped_and_exact(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_elf(true);

	must_boot(mem, k, FW_PROTOCOL_AUTO, -1);
	assert_int_equal(mem->num_overlays, 2);
	check_elf_in_memory(mem);
	/* The guest's writes stay its own: the next machine finds the file as it was. */
	memset(at(mem, FAKE_ELF_TEXT_GPA), 0, PAGE_SIZE);
	guest_mem_free(mem);
	mem = memory(64 * MiB, GUEST_MEM_ANON);
	must_boot(mem, k, FW_PROTOCOL_AUTO, -1);
	check_elf_in_memory(mem);
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void elf_segments_are_copied_where_mapping_cannot_be(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_SHARED);
	struct fw_kernel *k = open_elf(true);

	must_boot(mem, k, FW_PROTOCOL_AUTO, -1);
	assert_int_equal(mem->num_overlays, 0);
	check_elf_in_memory(mem);
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void elf_entry_follows_the_protocol(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_elf(true);
	struct fw_start start = must_boot(mem, k, FW_PROTOCOL_AUTO, -1);

	assert_int_equal(start.entry, FW_ENTRY_PVH);
	assert_int_equal(start.rip, FAKE_ELF_PVH);
	assert_int_equal(start.rbx, FW_PVH_INFO_ADDR);
	guest_mem_free(mem);

	mem = memory(64 * MiB, GUEST_MEM_ANON);
	start = must_boot(mem, k, FW_PROTOCOL_LINUX64, -1);
	assert_int_equal(start.entry, FW_ENTRY_LINUX64);
	assert_int_equal(start.rip, FAKE_ELF_TEXT_GPA);
	assert_int_equal(start.rsi, FW_ZERO_PAGE_ADDR);
	/* The kernel refuses a zero page without these. */
	assert_memory_equal(at(mem, FW_ZERO_PAGE_ADDR + 0x202), "HdrS", 4);
	assert_int_equal(get_le16(at(mem, FW_ZERO_PAGE_ADDR + 0x1fe)), 0xaa55);
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void elf_without_the_note_starts_in_long_mode(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_elf(false);

	assert_int_equal(must_boot(mem, k, FW_PROTOCOL_AUTO, -1).entry, FW_ENTRY_LINUX64);
	must_fail(mem, k, FW_PROTOCOL_PVH, -1, "no PVH entry");
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void elf_beyond_memory_is_refused(void **state)
{
	struct guest_mem *mem = memory(FAKE_ELF_TEXT_GPA + 2 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_elf(true);

	must_fail(mem, k, FW_PROTOCOL_AUTO, -1, "segment of 256 KiB at 0x1200800 does not fit");
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void pvh_start_info_says_what_is_where(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_elf(true);
	int initrd = initrd_file(12345);
	const uint8_t *info, *module, *map;

	must_boot(mem, k, FW_PROTOCOL_PVH, initrd);
	info = at(mem, FW_PVH_INFO_ADDR);
	assert_int_equal(get_le32(info), 0x336ec578);
	assert_int_equal(get_le32(info + 4), 1);
	assert_int_equal(get_le32(info + 12), 1); /* modules */
	assert_int_equal(get_le64(info + 24), FW_CMDLINE_ADDR);
	assert_int_equal(get_le64(info + 32), FW_ACPI_ADDR);
	module = at(mem, get_le64(info + 16));
	assert_int_equal(get_le64(module), align_down(64 * MiB - 12345, PAGE_SIZE));
	assert_int_equal(get_le64(module + 8), 12345);
	assert_int_equal(*at(mem, get_le64(module) + 12344), 'D');
	map = at(mem, get_le64(info + 40));
	assert_true(get_le32(info + 48) >= 3);
	assert_int_equal(get_le64(map), 0);
	assert_int_equal(get_le64(map + 8), FW_LOW_RAM_END);
	assert_int_equal(get_le32(map + 16), 1);
	close(initrd);
	fw_kernel_free(k);
	guest_mem_free(mem);
}

/* ---- initrd ---- */

static void initrd_is_at_the_top_of_low_memory(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_bzimage(NULL);
	int fd = initrd_file(3 * MiB + 1);
	uint64_t addr;

	must_boot(mem, k, FW_PROTOCOL_AUTO, fd);
	addr = zero_page_initrd(mem);
	assert_int_equal(addr, 64 * MiB - 3 * MiB - PAGE_SIZE);
	assert_int_equal(zero_page_initrd_size(mem), 3 * MiB + 1);
	assert_int_equal(*at(mem, addr), 'I');
	assert_int_equal(*at(mem, addr + 3 * MiB), 'D');
	close(fd);
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void limit_initrd(uint8_t *image)
{
	put_le32(image + 0x22c, 0x37ffffff);
}

static void initrd_obeys_the_header_and_the_hole(void **state)
{
	struct guest_mem *mem = memory(6 * GiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_bzimage(limit_initrd);
	int fd = initrd_file(MiB);

	must_boot(mem, k, FW_PROTOCOL_AUTO, fd);
	assert_int_equal(zero_page_initrd(mem), 0x38000000 - MiB);
	fw_kernel_free(k);

	k = open_bzimage(NULL);
	must_boot(mem, k, FW_PROTOCOL_AUTO, fd);
	assert_int_equal(zero_page_initrd(mem), 0x80000000 - MiB);
	fw_kernel_free(k);
	close(fd);
	guest_mem_free(mem);
}

static void initrd_goes_below_a_kernel_at_the_top(void **state)
{
	uint64_t end = FAKE_BZIMAGE_PREF + FAKE_BZIMAGE_INIT;
	struct guest_mem *mem = memory(end + MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_bzimage(NULL);
	int fd = initrd_file(MiB);

	must_boot(mem, k, FW_PROTOCOL_AUTO, fd);
	assert_int_equal(zero_page_initrd(mem), end); /* the gap fits exactly */
	close(fd);
	fd = initrd_file(MiB + 1);
	must_boot(mem, k, FW_PROTOCOL_AUTO, fd);
	assert_int_equal(zero_page_initrd(mem), FAKE_BZIMAGE_PREF - MiB - PAGE_SIZE);
	close(fd);
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void initrd_goes_above_4g_only_when_the_kernel_can(void **state)
{
	/* A limit that leaves no room anywhere below. */
	struct guest_mem *mem = memory(4 * GiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_bzimage(NULL);
	int fd = initrd_file(MiB);

	k->initrd_addr_max = FW_KERNEL_ADDR + 0xffff;
	must_boot(mem, k, FW_PROTOCOL_AUTO, fd);
	assert_int_equal(zero_page_initrd(mem), 5 * GiB - MiB);
	assert_int_equal(*at(mem, 5 * GiB - 1), 'D');
	k->initrd_above_4g = false;
	must_fail(mem, k, FW_PROTOCOL_AUTO, fd, "initrd 'ird': 1 MiB do not fit");
	close(fd);
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void initrd_larger_than_memory_is_refused_in_words(void **state)
{
	struct guest_mem *mem = memory(256 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_bzimage(NULL);
	int fd = initrd_file(300 * MiB);

	must_fail(mem, k, FW_PROTOCOL_AUTO, fd,
		  "initrd 'ird': 300 MiB do not fit beside the kernel in 256 MiB of memory");
	close(fd);
	fd = initrd_file(1ull << 40);
	must_fail(mem, k, FW_PROTOCOL_AUTO, fd, "do not fit");
	close(fd);
	fw_kernel_free(k);
	guest_mem_free(mem);
}

static void an_empty_initrd_is_refused(void **state)
{
	struct guest_mem *mem = memory(64 * MiB, GUEST_MEM_ANON);
	struct fw_kernel *k = open_bzimage(NULL);
	int fd = fake_file("", 0);

	must_fail(mem, k, FW_PROTOCOL_AUTO, fd, "initrd 'ird': empty");
	close(fd);
	fw_kernel_free(k);
	guest_mem_free(mem);
}

/* ---- memory map ---- */

static void check_map(uint64_t size, uint64_t expect_ram)
{
	struct guest_mem *mem = memory(size, GUEST_MEM_ANON);
	struct fw_platform p = platform;
	uint64_t ram = 0, end = 0;
	struct fw_e820 map[32];
	unsigned n;

	p.vmgenid = true;
	n = fw_memory_map(mem, &p, map, ARRAY_SIZE(map));
	for (unsigned i = 0; i < n; i++) {
		assert_true(map[i].size > 0);
		assert_true(map[i].addr >= end); /* ascending, none overlaps */
		end = map[i].addr + map[i].size;
		if (map[i].type == 1) {
			ram += map[i].size;
			assert_non_null(guest_mem_ptr(mem, map[i].addr, map[i].size));
		}
	}
	assert_int_equal(ram, expect_ram);
	guest_mem_free(mem);
}

static void memory_map_is_sorted_and_all_ram_is_ram(void **state)
{
	const uint64_t lost = FW_KERNEL_ADDR - FW_LOW_RAM_END;

	check_map(128 * MiB, 128 * MiB - lost);
	check_map(3 * GiB, 3 * GiB - lost);
	check_map(6 * GiB, 6 * GiB - lost);
	check_map(512 * GiB, 512 * GiB - lost);
}

static void memory_map_reserves_what_is_not_ram(void **state)
{
	static const struct {
		uint64_t addr, size;
	} reserved[] = {
		{ FW_ACPI_ADDR, FW_ACPI_SIZE },
		{ FW_VMCLOCK_ADDR, PAGE_SIZE },
		{ FW_ECAM_ADDR, FW_ECAM_SIZE },
		{ FW_KVM_TSS_ADDR, 3 * PAGE_SIZE },
		{ FW_KVM_IDENTITY_ADDR, PAGE_SIZE },
	};
	struct guest_mem *mem = memory(6 * GiB, GUEST_MEM_ANON);
	struct fw_e820 map[32];
	unsigned n = fw_memory_map(mem, &platform, map, ARRAY_SIZE(map));

	for (unsigned i = 0; i < ARRAY_SIZE(reserved); i++) {
		bool found = false;

		for (unsigned j = 0; j < n; j++)
			found |= map[j].type == 2 &&
				 range_inside(reserved[i].addr, reserved[i].size, map[j].addr,
					      map[j].size);
		if (!found)
			fail_msg("0x%llx is not reserved", (unsigned long long)reserved[i].addr);
	}
	/* A short array is filled, not overrun. */
	assert_int_equal(fw_memory_map(mem, &platform, map, 2), 2);
	guest_mem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bzimage_payload_is_where_it_prefers),
		cmocka_unit_test(zero_page_says_what_is_where),
		cmocka_unit_test(memory_for_the_decompressor_is_demanded),
		cmocka_unit_test(a_kernel_that_prefers_the_low_megabyte_moves_up),
		cmocka_unit_test(an_address_that_wraps_is_refused),
		cmocka_unit_test(bzimage_has_no_pvh_entry),
		cmocka_unit_test(a_kernel_file_that_shrinks_is_noticed),
		cmocka_unit_test(elf_segments_are_mapped_and_exact),
		cmocka_unit_test(elf_segments_are_copied_where_mapping_cannot_be),
		cmocka_unit_test(elf_entry_follows_the_protocol),
		cmocka_unit_test(elf_without_the_note_starts_in_long_mode),
		cmocka_unit_test(elf_beyond_memory_is_refused),
		cmocka_unit_test(pvh_start_info_says_what_is_where),
		cmocka_unit_test(initrd_is_at_the_top_of_low_memory),
		cmocka_unit_test(initrd_obeys_the_header_and_the_hole),
		cmocka_unit_test(initrd_goes_below_a_kernel_at_the_top),
		cmocka_unit_test(initrd_goes_above_4g_only_when_the_kernel_can),
		cmocka_unit_test(initrd_larger_than_memory_is_refused_in_words),
		cmocka_unit_test(an_empty_initrd_is_refused),
		cmocka_unit_test(memory_map_is_sorted_and_all_ram_is_ram),
		cmocka_unit_test(memory_map_reserves_what_is_not_ram),
	};

	return cmocka_run_group_tests_name("boot", tests, NULL, NULL);
}
