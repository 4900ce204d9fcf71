#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "firmware/firmware.h"
#include "tests/unit/fake_kernel.h"

static int setup(void **state)
{
	*state = malloc(FAKE_BZIMAGE_SIZE);
	if (!*state)
		return -1;
	fake_bzimage(*state);
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static void expect_refused(const uint8_t *image, uint64_t len, const char *why)
{
	struct fw_kernel k;
	struct error err = { 0 };

	assert_true(fw_kernel_parse(&k, image, len, &err) < 0);
	assert_int_equal(err.kind, ERROR_USAGE);
	if (!strstr(err.msg, why))
		fail_msg("'%s' does not say '%s'", err.msg, why);
}

static void expect_accepted(const uint8_t *image, uint64_t len, struct fw_kernel *k)
{
	struct error err = { 0 };

	if (fw_kernel_parse(k, image, len, &err) < 0)
		fail_msg("%s", err.msg);
}

static void header_fields_are_read(void **state)
{
	struct fw_kernel k;

	expect_accepted(*state, FAKE_BZIMAGE_SIZE, &k);
	assert_int_equal(k.kind, FW_KERNEL_BZIMAGE);
	assert_true(fw_kernel_is_linux(&k));
	assert_int_equal(k.setup_bytes, FAKE_BZIMAGE_SETUP);
	assert_int_equal(k.payload_bytes, FAKE_BZIMAGE_PAYLOAD);
	assert_int_equal(k.pref_address, FAKE_BZIMAGE_PREF);
	assert_int_equal(k.init_size, FAKE_BZIMAGE_INIT);
	assert_int_equal(k.kernel_alignment, 0x200000);
	assert_true(k.relocatable);
	assert_int_equal(k.cmdline_max, 2047);
	assert_int_equal(k.initrd_addr_max, 0x7fffffff);
	assert_true(k.initrd_above_4g);
	/* The header up to where its jump points, and nothing of what follows. */
	assert_int_equal(k.setup_header[0x206 - 0x1f1], 0x0f);
	for (unsigned i = 0x26c - 0x1f1; i < sizeof(k.setup_header); i++)
		assert_int_equal(k.setup_header[i], 0);
}

static void no_setup_sectors_mean_four(void **state)
{
	uint8_t *image = *state;
	struct fw_kernel k;

	image[0x1f1] = 0;
	expect_accepted(image, FAKE_BZIMAGE_SIZE, &k);
	assert_int_equal(k.setup_bytes, 5 * 512);
}

static void other_files_are_not_kernels(void **state)
{
	uint8_t *image = *state;

	expect_refused(image, 0, "neither a bzImage nor an ELF");
	expect_refused(image, 0x205, "neither a bzImage nor an ELF");
	image[0x1fe] = 0;
	expect_refused(image, FAKE_BZIMAGE_SIZE, "neither a bzImage nor an ELF");
}

static void every_truncation_is_refused(void **state)
{
	const uint8_t *image = *state;

	for (uint64_t len = 0; len < FAKE_BZIMAGE_SIZE - 15; len += len < 0x400 ? 1 : 1009) {
		/* A copy of that length: a read beyond it is the sanitizer's to find. */
		uint8_t *part = malloc(len ? len : 1);
		struct error err = { 0 };
		struct fw_kernel k;

		assert_non_null(part);
		memcpy(part, image, len);
		assert_true(fw_kernel_parse(&k, part, len, &err) < 0);
		assert_int_equal(err.kind, ERROR_USAGE);
		free(part);
	}
}

static void the_last_paragraph_may_be_cut(void **state)
{
	struct fw_kernel k;

	/* The header counts in 16 bytes, and kernels before 6.1 do not pad. */
	expect_accepted(*state, FAKE_BZIMAGE_SIZE - 15, &k);
	assert_int_equal(k.payload_bytes, FAKE_BZIMAGE_PAYLOAD - 15);
}

static void what_follows_the_payload_is_not_loaded(void **state)
{
	uint8_t *image = *state;
	struct fw_kernel k;

	/* A signature, for one. */
	put_le32(image + 0x1f4, FAKE_BZIMAGE_PAYLOAD / 16 - 100);
	expect_accepted(image, FAKE_BZIMAGE_SIZE, &k);
	assert_int_equal(k.payload_bytes, FAKE_BZIMAGE_PAYLOAD - 1600);
}

static void old_protocols_are_refused_by_number(void **state)
{
	uint8_t *image = *state;

	put_le16(image + 0x206, 0x020b);
	expect_refused(image, FAKE_BZIMAGE_SIZE, "boot protocol 2.11");
	put_le16(image + 0x206, 0x020f);
	image[0x201] = 0x40; /* the header claims to end before xloadflags */
	expect_refused(image, FAKE_BZIMAGE_SIZE, "boot protocol");
}

static void thirty_two_bit_kernels_are_refused(void **state)
{
	uint8_t *image = *state;

	put_le16(image + 0x236, 0);
	expect_refused(image, FAKE_BZIMAGE_SIZE, "not a 64-bit kernel");
	put_le16(image + 0x236, 1);
	image[0x211] = 0;
	expect_refused(image, FAKE_BZIMAGE_SIZE, "not a 64-bit kernel");
}

static void payload_outside_of_the_kernel_is_refused(void **state)
{
	uint8_t *image = *state;

	put_le32(image + 0x248, FAKE_BZIMAGE_PAYLOAD - 10);
	expect_refused(image, FAKE_BZIMAGE_SIZE, "no compressed kernel");
	put_le32(image + 0x248, 0xffffffff);
	put_le32(image + 0x24c, 0xffffffff);
	expect_refused(image, FAKE_BZIMAGE_SIZE, "no compressed kernel");
}

static void sizes_that_lie_are_refused(void **state)
{
	uint8_t *image = *state;

	put_le32(image + 0x1f4, 0);
	expect_refused(image, FAKE_BZIMAGE_SIZE, "no compressed kernel");
	put_le32(image + 0x1f4, 0xffffffff);
	expect_refused(image, FAKE_BZIMAGE_SIZE, "truncated");
	image[0x1f1] = 255;
	put_le32(image + 0x1f4, FAKE_BZIMAGE_PAYLOAD / 16);
	expect_refused(image, FAKE_BZIMAGE_SIZE, "truncated");
}

static void odd_alignments_are_refused(void **state)
{
	uint8_t *image = *state;

	put_le32(image + 0x230, 0);
	expect_refused(image, FAKE_BZIMAGE_SIZE, "alignment");
	put_le32(image + 0x230, 0x300000);
	expect_refused(image, FAKE_BZIMAGE_SIZE, "alignment");
}

static void init_size_covers_at_least_the_payload(void **state)
{
	uint8_t *image = *state;
	struct fw_kernel k;

	put_le32(image + 0x260, 0);
	expect_accepted(image, FAKE_BZIMAGE_SIZE, &k);
	assert_int_equal(k.init_size, FAKE_BZIMAGE_PAYLOAD);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(header_fields_are_read),
		TEST(no_setup_sectors_mean_four),
		TEST(other_files_are_not_kernels),
		TEST(every_truncation_is_refused),
		TEST(the_last_paragraph_may_be_cut),
		TEST(what_follows_the_payload_is_not_loaded),
		TEST(old_protocols_are_refused_by_number),
		TEST(thirty_two_bit_kernels_are_refused),
		TEST(payload_outside_of_the_kernel_is_refused),
		TEST(sizes_that_lie_are_refused),
		TEST(odd_alignments_are_refused),
		TEST(init_size_covers_at_least_the_payload),
	};

	return cmocka_run_group_tests_name("bzimage", tests, NULL, NULL);
}
