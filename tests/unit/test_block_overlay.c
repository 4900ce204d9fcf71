/* An image that can become again what it was: what is written to it is kept apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/block_overlay.h"
#include "tests/unit/block_result.h"

#define SIZE (1 * MiB + 3 * BLOCK_SECTOR)

struct fixture {
	struct loop *loop;
	int fd; /* of the image, to look at it */
	int overlay_fd;
	struct block *b;
	uint8_t *model; /* what the image is to hold */
};

static void *set_up(enum loop_backend backend, bool qcow2_guard)
{
	struct loop_params params = { .backend = backend, .name = "test" };
	struct fixture *f = calloc(1, sizeof(*f));
	struct block_config config = { .path = "image", .format = BLOCK_FORMAT_RAW };
	struct error err = { 0 };

	assert_int_equal(loop_create(&f->loop, &params, NULL), 0);
	f->fd = memfd_create("image", MFD_CLOEXEC);
	f->model = malloc(SIZE);
	for (size_t i = 0; i < SIZE; i++)
		f->model[i] = (i * 7 + i / 512) | 1;
	assert_int_equal(write(f->fd, f->model, SIZE), SIZE);
	config.fd = dup(f->fd);
	if (qcow2_guard)
		config.format = BLOCK_FORMAT_AUTO;
	if (block_open(&f->b, &config, &err) < 0)
		fail_msg("%s", err.msg);
	block_attach(f->b, f->loop);
	f->overlay_fd = memfd_create("overlay", MFD_CLOEXEC);
	return f;
}

static void begin(struct fixture *f)
{
	assert_int_equal(block_overlay_create(f->b, dup(f->overlay_fd)), 0);
}

static int setup(void **state)
{
	*state = set_up(LOOP_AUTO, false);
	begin(*state);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	block_close(f->b);
	loop_free(f->loop);
	close(f->fd);
	close(f->overlay_fd);
	free(f->model);
	free(f);
	return 0;
}

static void write_at(struct fixture *f, struct block *b, uint64_t offset, uint8_t value, size_t len)
{
	uint8_t *data = malloc(len);
	const struct iovec iov = { data, len };

	memset(data, value, len);
	assert_int_equal(block_do(f->loop, b,
				  (struct block_req){ .op = BLOCK_WRITE,
						      .offset = offset,
						      .len = len,
						      .iov = &iov,
						      .iovcnt = 1 }),
			 0);
	free(data);
}

/* In segments that end where no piece does. */
static void read_at(struct fixture *f, struct block *b, uint64_t offset, uint8_t *to, size_t len)
{
	struct iovec iov[3] = { { to, 100 }, { to + 100, len / 2 }, { to + 100 + len / 2 } };

	iov[2].iov_len = len - 100 - len / 2;
	assert_int_equal(block_do(f->loop, b,
				  (struct block_req){ .op = BLOCK_READ,
						      .offset = offset,
						      .len = len,
						      .iov = iov,
						      .iovcnt = 3 }),
			 0);
}

static void expect_model(struct fixture *f, struct block *b)
{
	uint8_t *got = malloc(SIZE);

	read_at(f, b, 0, got, SIZE);
	for (size_t i = 0; i < SIZE; i++)
		if (got[i] != f->model[i])
			fail_msg("byte %zu is 0x%02x, not 0x%02x", i, got[i], f->model[i]);
	free(got);
}

static void image_itself_is_not_written(void **state)
{
	struct fixture *f = *state;
	uint8_t before[4096], after[4096];

	assert_int_equal(pread(f->fd, before, sizeof(before), 8192), sizeof(before));
	write_at(f, f->b, 8192 + 512, 0xaa, 1024);
	memset(f->model + 8192 + 512, 0xaa, 1024);
	expect_model(f, f->b);
	assert_int_equal(pread(f->fd, after, sizeof(after), 8192), sizeof(after));
	assert_memory_equal(before, after, sizeof(before));
}

static void it_goes_back_to_what_it_was(void **state)
{
	struct fixture *f = *state;

	for (unsigned round = 0; round < 3; round++) {
		for (uint64_t at = 0; at < SIZE; at += 5 * BLOCK_SECTOR)
			write_at(f, f->b, at, round, BLOCK_SECTOR);
		write_at(f, f->b, SIZE - 2 * BLOCK_SECTOR, 9, 2 * BLOCK_SECTOR);
		assert_int_equal(block_overlay_go_back(f->b), 0);
		expect_model(f, f->b);
	}
}

static void room_of_what_went_back_is_given_back(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	write_at(f, f->b, 0, 1, 512 * KiB);
	assert_int_equal(block_overlay_go_back(f->b), 0);
	assert_int_equal(fstat(f->overlay_fd, &st), 0);
	assert_int_equal(st.st_blocks, 0);
}

static void what_was_written_before_a_later_point_stays(void **state)
{
	struct fixture *f = *state;

	for (unsigned point = 1; point < 4; point++) {
		uint64_t at = point * 37 * BLOCK_SECTOR;

		write_at(f, f->b, at, point, 130 * BLOCK_SECTOR);
		memset(f->model + at, point, 130 * BLOCK_SECTOR);
		assert_int_equal(block_overlay_keep(f->b), 0);
		write_at(f, f->b, at + BLOCK_SECTOR, 0xee, 3 * BLOCK_SECTOR);
		write_at(f, f->b, 0, 0xee, BLOCK_SECTOR);
		assert_int_equal(block_overlay_go_back(f->b), 0);
		expect_model(f, f->b);
	}
}

static void zeroes_are_written_and_kept(void **state)
{
	struct fixture *f = *state;
	const struct block_req zero = { .op = BLOCK_WRITE_ZEROES,
					.offset = 40 * BLOCK_SECTOR,
					.len = 300 * KiB };

	write_at(f, f->b, 50 * BLOCK_SECTOR, 5, BLOCK_SECTOR);
	assert_int_equal(block_do(f->loop, f->b, zero), 0);
	memset(f->model + zero.offset, 0, zero.len);
	expect_model(f, f->b);
	assert_int_equal(block_overlay_keep(f->b), 0);
	write_at(f, f->b, 41 * BLOCK_SECTOR, 5, BLOCK_SECTOR);
	assert_int_equal(block_overlay_go_back(f->b), 0);
	expect_model(f, f->b);
}

static void discard_and_flush_change_nothing(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(block_do(f->loop, f->b,
				  (struct block_req){ .op = BLOCK_DISCARD, .len = SIZE }),
			 0);
	assert_int_equal(block_do(f->loop, f->b, (struct block_req){ .op = BLOCK_FLUSH }), 0);
	expect_model(f, f->b);
}

static void all_handles_see_the_same(void **state)
{
	struct fixture *f = *state;
	struct block *handle;

	assert_int_equal(block_share(&handle, f->b, f->loop), 0);
	write_at(f, handle, 1024, 0x11, 512);
	write_at(f, f->b, 2048, 0x22, 512);
	memset(f->model + 1024, 0x11, 512);
	memset(f->model + 2048, 0x22, 512);
	expect_model(f, handle);
	expect_model(f, f->b);
	block_close(handle);
}

/* Seeded writes, zeroes, points and ways back, against arrays that do the same. */
static void it_is_what_a_model_says(void **state)
{
	struct fixture *f = *state;
	uint8_t *point = malloc(SIZE);
	unsigned seed = 7;

	memcpy(point, f->model, SIZE);
	for (unsigned i = 0; i < 400; i++) {
		uint64_t at = rand_r(&seed) % (SIZE / BLOCK_SECTOR) * BLOCK_SECTOR;
		uint64_t len = (1 + rand_r(&seed) % 200) * BLOCK_SECTOR;

		len = MIN(len, SIZE - at);
		switch (rand_r(&seed) % 10) {
		case 0:
			assert_int_equal(block_overlay_keep(f->b), 0);
			memcpy(point, f->model, SIZE);
			break;
		case 1:
			assert_int_equal(block_overlay_go_back(f->b), 0);
			memcpy(f->model, point, SIZE);
			break;
		case 2:
			assert_int_equal(block_do(f->loop, f->b,
						  (struct block_req){ .op = BLOCK_WRITE_ZEROES,
								      .offset = at,
								      .len = len }),
					 0);
			memset(f->model + at, 0, len);
			break;
		default:
			write_at(f, f->b, at, i, len);
			memset(f->model + at, (uint8_t)i, len);
		}
		if (i % 8 == 0)
			expect_model(f, f->b);
	}
	expect_model(f, f->b);
	free(point);
}

static void it_cannot_be_resized(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(block_resize(f->b, 2 * MiB), -EBUSY);
	block_overlay_remove(f->b);
	assert_int_equal(block_resize(f->b, 2 * MiB), 0);
}

static void only_an_empty_file_is_taken(void **state)
{
	struct fixture *f = set_up(LOOP_AUTO, false);
	int pair[2], second = memfd_create("second", MFD_CLOEXEC);

	assert_int_equal(pipe(pair), 0);
	assert_int_equal(block_overlay_create(f->b, f->fd), -EINVAL);
	assert_int_equal(block_overlay_create(f->b, pair[0]), -EINVAL);
	assert_false(block_has_overlay(f->b));
	begin(f);
	assert_int_equal(block_overlay_create(f->b, second), -EINVAL);
	close(pair[0]);
	close(pair[1]);
	close(second);
	*state = f;
	teardown(state);
}

/* One that nobody said the format of is guarded all the same. */
static void qcow2_header_is_still_refused(void **state)
{
	struct fixture *f = set_up(LOOP_AUTO, true);
	uint8_t head[512] = { 'Q', 'F', 'I', 0xfb };
	const struct iovec iov = { head, sizeof(head) };
	const struct block_req req = {
		.op = BLOCK_WRITE, .len = sizeof(head), .iov = &iov, .iovcnt = 1
	};

	begin(f);
	assert_int_equal(block_do(f->loop, f->b, req), -EPERM);
	head[0] = 'q';
	assert_int_equal(block_do(f->loop, f->b, req), 0);
	memcpy(f->model, head, sizeof(head));
	expect_model(f, f->b);
	assert_int_equal(block_overlay_go_back(f->b), 0);
	*state = f;
	teardown(state);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(image_itself_is_not_written),
		TEST(it_goes_back_to_what_it_was),
		TEST(room_of_what_went_back_is_given_back),
		TEST(what_was_written_before_a_later_point_stays),
		TEST(zeroes_are_written_and_kept),
		TEST(discard_and_flush_change_nothing),
		TEST(all_handles_see_the_same),
		TEST(it_is_what_a_model_says),
		TEST(it_cannot_be_resized),
		cmocka_unit_test(only_an_empty_file_is_taken),
		cmocka_unit_test(qcow2_header_is_still_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
