/* The command line's length: what the kernel takes, and what there is room for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "firmware/firmware.h"
#include "tests/unit/fake_kernel.h"

static const struct guest_mem_range layout[] = { { .gpa = 0, .size = 32 * MiB } };

/* Boot with a command line of @len bytes and a kernel that takes @kernel_max. */
static int boot_with(uint64_t len, uint32_t kernel_max, struct error *err)
{
	static const struct fw_platform platform = { .num_cpus = 1 };
	uint8_t *image = malloc(FAKE_BZIMAGE_SIZE);
	char *cmdline = malloc(len + 1);
	struct fw_kernel k;
	const struct fw_boot_config config = {
		.kernel = &k,
		.initrd_fd = -1,
		.cmdline = cmdline,
		.platform = &platform,
	};
	struct guest_mem *mem;
	struct fw_start start;
	int r;

	assert_non_null(image);
	assert_non_null(cmdline);
	memset(cmdline, 'x', len);
	cmdline[len] = 0;
	fake_bzimage(image);
	put_le32(image + 0x238, kernel_max);
	assert_int_equal(fw_kernel_parse(&k, image, FAKE_BZIMAGE_SIZE, err), 0);
	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, layout, 1, err), 0);
	r = fw_boot_setup(mem, &config, &start, err);
	if (!r)
		assert_string_equal(guest_mem_ptr(mem, FW_CMDLINE_ADDR, len + 1), cmdline);
	guest_mem_free(mem);
	free(cmdline);
	free(image);
	return r;
}

static void the_longest_the_kernel_takes_is_taken(void **state)
{
	struct error err = { 0 };

	assert_int_equal(boot_with(2047, 2047, &err), 0);
	assert_int_equal(boot_with(0, 2047, &err), 0);
}

static void one_byte_more_is_refused_with_both_numbers(void **state)
{
	struct error err = { 0 };

	assert_int_equal(boot_with(2048, 2047, &err), -E2BIG);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_string_equal(err.msg, "kernel command line: 2048 bytes, but the kernel takes 2047 "
				     "at most");
}

static void a_generous_header_cannot_pass_the_room_there_is(void **state)
{
	struct error err = { 0 };

	assert_int_equal(boot_with(FW_CMDLINE_MAX - 1, UINT32_MAX, &err), 0);
	assert_int_equal(boot_with(FW_CMDLINE_MAX, UINT32_MAX, &err), -E2BIG);
	assert_int_equal(boot_with(4 * MiB, UINT32_MAX, &err), -E2BIG);
}

static void elf_kernels_take_what_linux_takes(void **state)
{
	struct fake_elf *elf = malloc(sizeof(*elf));
	struct error err = { 0 };
	struct fw_kernel k;

	assert_non_null(elf);
	fake_elf(elf, true);
	assert_int_equal(fw_kernel_parse(&k, elf->image, sizeof(elf->image), &err), 0);
	assert_int_equal(k.cmdline_max, 2047);
	free(elf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_longest_the_kernel_takes_is_taken),
		cmocka_unit_test(one_byte_more_is_refused_with_both_numbers),
		cmocka_unit_test(a_generous_header_cannot_pass_the_room_there_is),
		cmocka_unit_test(elf_kernels_take_what_linux_takes),
	};

	return cmocka_run_group_tests_name("cmdline", tests, NULL, NULL);
}
