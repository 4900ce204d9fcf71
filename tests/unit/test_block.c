#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/block.h"
#include "tests/unit/block_result.h"
#include "tests/unit/loop_fixture.h"
#include "vmm/core/log.h"

#define SIZE (256 * KiB)

struct fixture {
	struct loop *loop;
	char dir[64];
	char path[96];
	uint8_t data[SIZE]; /* what the image holds */
};

static void write_image(struct fixture *f, uint64_t size)
{
	int fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	for (size_t i = 0; i < SIZE; i++)
		f->data[i] = (i * 7 + i / 512) | 1;
	assert_int_equal(write(fd, f->data, MIN(size, (uint64_t)SIZE)), MIN(size, (uint64_t)SIZE));
	close(fd);
}

static int set_up_in(void **state, const char *parent)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->loop = loop_fixture_create(NULL);
	snprintf(f->dir, sizeof(f->dir), "%s/wisp-test-XXXXXX", parent);
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/disk", f->dir);
	write_image(f, SIZE);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return set_up_in(state, "/var/tmp");
}

/* tmpfs: it can punch holes but not zero ranges. */
static int setup_shm(void **state)
{
	return set_up_in(state, "/dev/shm");
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unlink(f->path);
	rmdir(f->dir);
	loop_free(f->loop);
	free(f);
	return 0;
}

static struct block *open_block(struct fixture *f, struct block_config config)
{
	struct error err = { 0 };
	struct block *b = NULL;

	config.path = f->path;
	config.fd = -1;
	if (block_open(&b, &config, &err) < 0)
		fail_msg("%s", err.msg);
	block_attach(b, f->loop);
	return b;
}

/* Opening must fail with a message that names the file and contains @why. */
static int refused(struct fixture *f, struct block_config config, const char *why)
{
	struct error err = { 0 };
	struct block *b = NULL;
	int r;

	config.path = f->path;
	config.fd = -1;
	r = block_open(&b, &config, &err);
	assert_true(r < 0);
	assert_null(b);
	assert_int_equal(error_status(&err), 2);
	assert_non_null(strstr(err.msg, f->path));
	if (!strstr(err.msg, why))
		fail_msg("'%s' does not say '%s'", err.msg, why);
	return r;
}

static int transfer(struct fixture *f, struct block *b, enum block_op op, void *buf, size_t len,
		    uint64_t offset)
{
	struct iovec iov = { buf, len };

	return block_do(f->loop, b, (struct block_req){ .op = op, .offset = offset, .len = len,
						    .iov = &iov, .iovcnt = 1 });
}

static int change(struct fixture *f, struct block *b, enum block_op op, uint64_t offset,
		  uint64_t len, bool may_unmap)
{
	return block_do(f->loop, b, (struct block_req){ .op = op, .offset = offset, .len = len,
						    .may_unmap = may_unmap });
}

static void assert_image_is(struct fixture *f)
{
	uint8_t *now = malloc(SIZE);
	int fd = open(f->path, O_RDONLY);

	assert_int_equal(read(fd, now, SIZE), SIZE);
	assert_memory_equal(now, f->data, SIZE);
	close(fd);
	free(now);
}

/* ---- opening ---- */

static void what_is_no_disk_is_refused(void **state)
{
	struct fixture *f = *state;
	struct block_config config = { 0 };

	unlink(f->path);
	refused(f, config, "No such file");
	assert_int_equal(mkdir(f->path, 0700), 0);
	config.read_only = true;
	refused(f, config, "a directory");
	config.read_only = false;
	refused(f, config, "directory");
	rmdir(f->path);
	/* Nobody writes into it: an open that waits would never return. */
	assert_int_equal(mkfifo(f->path, 0600), 0);
	refused(f, config, "a pipe");
	config.read_only = true;
	refused(f, config, "a pipe");
	unlink(f->path);
	write_image(f, 511);
	refused(f, config, "less than a sector");
}

static void an_image_is_taken_for_what_it_says_or_is_told(void **state)
{
	struct fixture *f = *state;
	struct block_config config = { .format = BLOCK_FORMAT_QCOW2 };
	struct block *b;
	int fd;

	refused(f, config, "not a qcow2 image");
	fd = open(f->path, O_WRONLY);
	assert_int_equal(pwrite(fd, "QFI\xfb", 4, 0), 4);
	close(fd);
	config.format = BLOCK_FORMAT_AUTO;
	refused(f, config, "qcow2 version");
	/* Who says raw gets the bytes as they are. */
	config.format = BLOCK_FORMAT_RAW;
	b = open_block(f, config);
	block_close(b);
}

static void an_image_has_one_writer_or_many_readers(void **state)
{
	struct fixture *f = *state;
	struct block_config rw = { 0 }, ro = { .read_only = true };
	struct block *a = open_block(f, rw), *b;

	assert_int_equal(refused(f, rw, "in use by another process"), -EBUSY);
	assert_int_equal(refused(f, ro, "in use by another process"), -EBUSY);
	block_close(a);
	a = open_block(f, ro);
	b = open_block(f, ro);
	refused(f, rw, "in use by another process");
	block_close(a);
	refused(f, rw, "in use by another process");
	block_close(b);
	block_close(open_block(f, rw));
}

/* The bytes are those of QEMU's raw_apply_lock_bytes(): a right exercised, or granted to nobody. */
static void of_the_locks_of_others_only_those_in_the_way_matter(void **state)
{
	static const struct {
		off_t byte;
		bool reads, writes; /* may who comes */
	} locks[] = {
		{ 99, true, true },   { 100, true, true },   { 101, false, false },
		{ 102, true, true },  { 103, false, false }, { 104, true, true },
		{ 150, true, true },  { 199, true, true },   { 200, false, false },
		{ 201, true, false }, { 202, true, true },   { 203, true, false },
		{ 204, true, true },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(locks); i++) {
		struct flock lock = { .l_type = F_RDLCK, .l_start = locks[i].byte, .l_len = 1 };
		int fd = open(f->path, O_RDWR);

		assert_true(fd >= 0);
		assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
		for (int read_only = 0; read_only <= 1; read_only++) {
			struct block_config config = { .read_only = read_only };

			if (read_only ? locks[i].reads : locks[i].writes)
				block_close(open_block(f, config));
			else
				refused(f, config, "in use by another process");
		}
		close(fd);
	}
}

static void a_descriptor_is_taken_as_it_is(void **state)
{
	struct fixture *f = *state;
	struct block_config config = { .path = "given", .fd = open(f->path, O_RDWR | O_NONBLOCK) };
	struct error err = { 0 };
	struct block *b;
	uint8_t buf[512];

	assert_int_equal(block_open(&b, &config, &err), 0);
	/* A file system that would block answers EAGAIN otherwise. */
	assert_false(fcntl(config.fd, F_GETFL) & O_NONBLOCK);
	block_attach(b, f->loop);
	assert_int_equal(transfer(f, b, BLOCK_READ, buf, 512, 0), 0);
	assert_memory_equal(buf, f->data, 512);
	block_close(b);
	assert_int_equal(fcntl(config.fd, F_GETFD), -1);

	/* And closed when it is refused. */
	config.fd = open(f->dir, O_RDONLY);
	assert_true(block_open(&b, &config, &err) < 0);
	assert_int_equal(fcntl(config.fd, F_GETFD), -1);
}

static void the_size_is_whole_sectors(void **state)
{
	struct fixture *f = *state;
	struct block *b;

	write_image(f, 10 * 512 + 511);
	b = open_block(f, (struct block_config){ 0 });
	assert_int_equal(block_size(b), 10 * 512);
	assert_int_equal(b->logical_block, 512);
	block_close(b);
}

/* ---- transfers ---- */

static void scattered_bytes_arrive_in_order(void **state)
{
	struct fixture *f = *state;
	struct block *b = open_block(f, (struct block_config){ 0 });
	uint8_t buf[3072];
	struct iovec iov[3] = { { buf, 100 }, { buf + 100, 2000 }, { buf + 2100, 972 } };
	struct block_req req = { .offset = 1024, .len = 3072, .iov = iov, .iovcnt = 3 };

	req.op = BLOCK_READ;
	assert_int_equal(block_do(f->loop, b, req), 0);
	assert_memory_equal(buf, f->data + 1024, 3072);

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = ~i;
	memcpy(f->data + 1024, buf, sizeof(buf));
	req.op = BLOCK_WRITE;
	assert_int_equal(block_do(f->loop, b, req), 0);
	assert_int_equal(block_do(f->loop, b, (struct block_req){ .op = BLOCK_FLUSH }), 0);
	assert_image_is(f);
	/* The request's own segments are as they were. */
	assert_ptr_equal(iov[1].iov_base, buf + 100);
	assert_int_equal(iov[1].iov_len, 2000);
	assert_int_equal(b->inflight, 0);
	block_close(b);
}

static void many_requests_are_in_flight_at_once(void **state)
{
	struct fixture *f = *state;
	struct block *b = open_block(f, (struct block_config){ 0 });
	enum { N = 200 };
	struct block_result *r = calloc(N, sizeof(*r));
	struct iovec *iov = calloc(N, sizeof(*iov));
	uint8_t *buf = malloc(N * 512);

	for (int i = 0; i < N; i++) {
		iov[i] = (struct iovec){ buf + i * 512, 512 };
		r[i].req = (struct block_req){ .op = BLOCK_READ, .offset = (N - 1 - i) * 512,
					       .len = 512, .iov = &iov[i], .iovcnt = 1,
					       .done = block_result_record };
		block_submit(b, &r[i].req);
	}
	assert_int_equal(b->inflight, N);
	for (int i = 0; i < N; i++) {
		assert_int_equal(block_result_await(f->loop, &r[i]), 0);
		assert_memory_equal(buf + i * 512, f->data + (N - 1 - i) * 512, 512);
	}
	assert_int_equal(b->inflight, 0);
	block_close(b);
	free(r);
	free(iov);
	free(buf);
}

static uint64_t file_bytes(const struct fixture *f)
{
	struct stat st;

	assert_int_equal(stat(f->path, &st), 0);
	return st.st_size;
}

/* On its way to the kernel, or there already, while the image is made shorter. */
static void a_write_behind_a_new_end_does_not_lengthen_the_file(void **state)
{
	struct fixture *f = *state;
	struct block *b = open_block(f, (struct block_config){ 0 }), *handle;
	uint8_t buf[1024] = { 1 };
	struct iovec iov = { buf, sizeof(buf) };
	struct block_result r[3];

	assert_int_equal(block_share(&handle, b, f->loop), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++) {
		r[i] = (struct block_result){
			.req = { .op = BLOCK_WRITE, .offset = SIZE - 4096 - i * 1024, .len = 1024,
				 .iov = &iov, .iovcnt = 1, .done = block_result_record } };
		block_submit(i ? handle : b, &r[i].req);
	}
	/* The last of them crosses the new end. */
	assert_int_equal(block_resize(b, SIZE - 4096 - 1536), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++)
		assert_int_equal(block_result_await(f->loop, &r[i]), -EIO);
	assert_int_equal(block_size(handle), SIZE - 4096 - 1536);
	assert_int_equal(file_bytes(f), SIZE - 4096 - 1536);

	/* What is in front of the end, and what comes once there is room again, is written. */
	assert_int_equal(transfer(f, handle, BLOCK_WRITE, buf, 512, SIZE - 4096 - 2048), 0);
	assert_int_equal(block_resize(b, SIZE), 0);
	assert_int_equal(transfer(f, handle, BLOCK_WRITE, buf, 512, SIZE - 512), 0);
	assert_int_equal(file_bytes(f), SIZE);
	block_close(handle);
	block_close(b);
}

static void what_is_outside_is_an_error(void **state)
{
	struct fixture *f = *state;
	struct block *b = open_block(f, (struct block_config){ 0 });
	uint8_t buf[1024] = { 0 };

	assert_int_equal(transfer(f, b, BLOCK_WRITE, buf, 1024, SIZE - 512), -EIO);
	assert_int_equal(transfer(f, b, BLOCK_WRITE, buf, 512, UINT64_MAX - 511), -EIO);
	assert_int_equal(transfer(f, b, BLOCK_READ, buf, 512, SIZE), -EIO);
	assert_int_equal(change(f, b, BLOCK_WRITE_ZEROES, SIZE - 512, 1024, true), -EIO);
	assert_int_equal(change(f, b, BLOCK_DISCARD, 0, UINT64_MAX, false), -EIO);
	assert_int_equal(transfer(f, b, BLOCK_READ, buf, 512, SIZE - 512), 0);
	assert_image_is(f);
	block_close(b);
}

static void a_file_cut_short_is_an_error_not_a_hang(void **state)
{
	struct fixture *f = *state;
	struct block *b = open_block(f, (struct block_config){ 0 });
	uint8_t buf[4096];
	struct iovec iov[2] = { { buf, 1000 }, { buf + 1000, 3096 } };

	assert_int_equal(truncate(f->path, 2048), 0);
	/* Ends early in the second segment, goes on there, and finds nothing more. */
	assert_int_equal(block_do(f->loop, b, (struct block_req){ .op = BLOCK_READ, .len = 4096,
							      .iov = iov, .iovcnt = 2 }),
			 -EIO);
	assert_memory_equal(buf, f->data, 2048);
	assert_int_equal(transfer(f, b, BLOCK_READ, buf, 512, 512), 0);
	block_close(b);
}

static void a_full_host_is_an_error(void **state)
{
	struct fixture *f = *state;
	struct block *b = open_block(f, (struct block_config){ 0 });
	struct rlimit old, limit;
	uint8_t *buf = calloc(1, SIZE);
	int res;

	/* Writes end early at the limit on file sizes, and fail behind it, as on a full disk. */
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	limit = (struct rlimit){ SIZE / 2, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	res = transfer(f, b, BLOCK_WRITE, buf, SIZE, 0);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(res, -EFBIG);
	memset(f->data, 0, SIZE / 2);
	assert_image_is(f);
	block_close(b);
	free(buf);
}

static void a_read_only_disk_is_never_written(void **state)
{
	struct fixture *f = *state;
	struct block *b = open_block(f, (struct block_config){ .read_only = true });
	uint8_t buf[512] = { 0 };

	assert_int_equal(transfer(f, b, BLOCK_WRITE, buf, 512, 0), -EROFS);
	assert_int_equal(change(f, b, BLOCK_WRITE_ZEROES, 0, 512, true), -EROFS);
	assert_int_equal(change(f, b, BLOCK_DISCARD, 0, 512, false), -EROFS);
	assert_int_equal(block_do(f->loop, b, (struct block_req){ .op = BLOCK_FLUSH }), 0);
	assert_int_equal(transfer(f, b, BLOCK_READ, buf, 512, 512), 0);
	assert_memory_equal(buf, f->data + 512, 512);
	assert_false(b->can_discard);
	block_close(b);
	assert_image_is(f);
}

static void every_cache_mode_writes_and_flushes(void **state)
{
	struct fixture *f = *state;

	for (int cache = BLOCK_CACHE_WRITEBACK; cache <= BLOCK_CACHE_UNSAFE; cache++) {
		struct block *b = open_block(f, (struct block_config){ .cache = cache });
		uint8_t buf[512];
		struct iovec iov = { buf, 512 };

		memset(buf, 0xa0 + cache, sizeof(buf));
		memcpy(f->data + 512, buf, sizeof(buf));
		assert_int_equal(block_do(f->loop, b, (struct block_req){ .op = BLOCK_WRITE,
								      .durable = true,
								      .offset = 512, .len = 512,
								      .iov = &iov, .iovcnt = 1 }),
				 0);
		assert_int_equal(block_do(f->loop, b, (struct block_req){ .op = BLOCK_FLUSH }), 0);
		block_close(b);
		assert_image_is(f);
	}
}

/* ---- zeroes and holes ---- */

static void zeroes_are_exact(void **state)
{
	struct fixture *f = *state;
	struct block *b = open_block(f, (struct block_config){ 0 });

	/* Not on page boundaries, so that neighbours in the same page must survive. */
	assert_int_equal(change(f, b, BLOCK_WRITE_ZEROES, 512, 1024, false), 0);
	memset(f->data + 512, 0, 1024);
	assert_image_is(f);
	assert_int_equal(change(f, b, BLOCK_WRITE_ZEROES, 10240 + 512, 90 * KiB, true), 0);
	memset(f->data + 10240 + 512, 0, 90 * KiB);
	assert_image_is(f);
	assert_int_equal(change(f, b, BLOCK_WRITE_ZEROES, 110 * KiB, 140 * KiB, false), 0);
	memset(f->data + 110 * KiB, 0, 140 * KiB);
	assert_image_is(f);
	/* Nothing is a valid amount. */
	assert_int_equal(change(f, b, BLOCK_WRITE_ZEROES, SIZE, 0, false), 0);
	block_close(b);
}

static void discarding_gives_space_back(void **state)
{
	struct fixture *f = *state;
	struct block *b = open_block(f, (struct block_config){ 0 });
	struct stat before, after;

	assert_int_equal(block_do(f->loop, b, (struct block_req){ .op = BLOCK_FLUSH }), 0);
	assert_int_equal(stat(f->path, &before), 0);
	assert_int_equal(change(f, b, BLOCK_DISCARD, 64 * KiB, 128 * KiB, false), 0);
	assert_int_equal(stat(f->path, &after), 0);
	assert_int_equal(after.st_size, SIZE);
	assert_true(after.st_blocks < before.st_blocks);
	memset(f->data + 64 * KiB, 0, 128 * KiB);
	assert_image_is(f);
	block_close(b);
}

/* ---- direct I/O ---- */

static void direct_io_takes_any_alignment(void **state)
{
	struct fixture *f = *state;
	struct block_config config = { .path = f->path, .fd = -1, .direct = true };
	struct error err = { 0 };
	struct block *b;
	uint8_t *aligned = aligned_alloc(4096, 8192);
	uint8_t *odd = aligned + 3;

	if (block_open(&b, &config, &err) == -EINVAL) {
		assert_non_null(strstr(err.hint, "direct"));
		free(aligned);
		skip();
	}
	assert_non_null(b);
	block_attach(b, f->loop);
	assert_int_equal(transfer(f, b, BLOCK_READ, aligned, 8192, 8192), 0);
	assert_memory_equal(aligned, f->data + 8192, 8192);
	/* Memory, offset and length that no device takes as they are. */
	assert_int_equal(transfer(f, b, BLOCK_READ, odd, 512, 512), 0);
	assert_memory_equal(odd, f->data + 512, 512);
	memset(odd, 0x5a, 1024);
	memset(f->data + 4096 + 512, 0x5a, 1024);
	assert_int_equal(transfer(f, b, BLOCK_WRITE, odd, 1024, 4096 + 512), 0);
	/* And the two kinds see each other's bytes. */
	assert_int_equal(transfer(f, b, BLOCK_READ, aligned, 4096, 4096), 0);
	assert_memory_equal(aligned, f->data + 4096, 4096);
	memset(aligned, 0x33, 4096);
	memset(f->data + 4096, 0x33, 4096);
	assert_int_equal(transfer(f, b, BLOCK_WRITE, aligned, 4096, 4096), 0);
	assert_int_equal(transfer(f, b, BLOCK_READ, odd, 512, 4096 + 512), 0);
	assert_memory_equal(odd, f->data + 4096 + 512, 512);
	block_close(b);
	assert_image_is(f);
	free(aligned);
}

#define block_test(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
#define shm_test(t)   { #t " (tmpfs)", t, setup_shm, teardown, NULL }

int main(void)
{
	const struct CMUnitTest tests[] = {
		block_test(what_is_no_disk_is_refused),
		block_test(an_image_is_taken_for_what_it_says_or_is_told),
		block_test(an_image_has_one_writer_or_many_readers),
		block_test(of_the_locks_of_others_only_those_in_the_way_matter),
		block_test(a_descriptor_is_taken_as_it_is),
		block_test(the_size_is_whole_sectors),
		block_test(scattered_bytes_arrive_in_order),
		block_test(many_requests_are_in_flight_at_once),
		block_test(a_write_behind_a_new_end_does_not_lengthen_the_file),
		block_test(what_is_outside_is_an_error),
		block_test(a_file_cut_short_is_an_error_not_a_hang),
		block_test(a_full_host_is_an_error),
		block_test(a_read_only_disk_is_never_written),
		block_test(every_cache_mode_writes_and_flushes),
		block_test(zeroes_are_exact),
		shm_test(zeroes_are_exact),
		block_test(discarding_gives_space_back),
		shm_test(discarding_gives_space_back),
		block_test(direct_io_takes_any_alignment),
	};

	log_setup(STDERR_FILENO, LOG_ERROR);
	return loop_fixture_run("block", tests, ARRAY_SIZE(tests));
}
