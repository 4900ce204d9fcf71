/* Compressed RAM: what goes in comes out, page by page, and nothing that was made to harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

#include "vmm/saved/packed_format.h"

/* Five chunks and a half. */
#define PAGES	  88u
#define RAM_BYTES (PAGES * PAGE_SIZE)
#define CHUNKS	  6u
#define PER_CHUNK (PACKED_CHUNK / PAGE_SIZE)

struct packed_there {
	int frames;
	struct state_writer index;
};

static int new_file(uint64_t bytes)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	return fd;
}

/* Pages of all kinds: of text, of noise, zero, and chunks of holes. */
static int new_memory(void)
{
	int fd = new_file(RAM_BYTES);
	uint32_t page[PAGE_SIZE / sizeof(uint32_t)], noise = 1;

	for (uint32_t i = 0; i < PAGES; i++) {
		if (i / PER_CHUNK == 1 || i % 7 == 3)
			continue;
		for (uint32_t k = 0; k < ARRAY_SIZE(page); k++) {
			noise = noise * 1664525 + 1013904223;
			page[k] = i / PER_CHUNK == 2 ? noise : i + 1;
		}
		assert_int_equal(pwrite(fd, page, sizeof(page), i * PAGE_SIZE), sizeof(page));
	}
	return fd;
}

static struct packed_there pack(int memory)
{
	struct packed_there t = { .frames = new_file(0) };

	state_writer_init(&t.index);
	assert_int_equal(packed_memory_write(memory, RAM_BYTES, t.frames, &t.index), 0);
	return t;
}

static int open_there(struct packed_memory *p, const struct packed_there *t, struct error *err)
{
	*err = (struct error){ 0 };
	return packed_memory_open(p, dup(t->frames), t->index.buf, t->index.len, err);
}

static void done(struct packed_there *t)
{
	close(t->frames);
	state_writer_done(&t->index);
}

/* An index of @num chunks, each with this frame. */
static void make_index(struct packed_there *t, uint64_t bytes, uint32_t chunk, unsigned num,
		       uint32_t len, uint64_t hash)
{
	state_writer_done(&t->index);
	state_writer_init(&t->index);
	state_begin(&t->index, PACKED_SECTION, 0, PACKED_VERSION);
	state_put_u64(&t->index, bytes);
	state_put_u32(&t->index, chunk);
	for (unsigned i = 0; i < num; i++) {
		state_put_u32(&t->index, len);
		state_put_u64(&t->index, hash);
	}
	state_end(&t->index);
	state_seal(&t->index);
}

/* One chunk whose frame is these bytes, with a hash that is right. */
static struct packed_there forge(const void *frame, size_t len)
{
	struct packed_there t = { .frames = new_file(0) };

	assert_int_equal(write(t.frames, frame, len), len);
	state_writer_init(&t.index);
	make_index(&t, PACKED_CHUNK, PACKED_CHUNK, 1, len, XXH3_64bits(frame, len));
	return t;
}

/* What its first page is read as. */
static int read_first(const struct packed_there *t)
{
	uint8_t page[PAGE_SIZE];
	struct packed_reader r;
	struct packed_memory p;
	struct error err;
	int ret;

	assert_int_equal(open_there(&p, t, &err), 0);
	assert_int_equal(packed_reader_init(&r), 0);
	ret = packed_memory_read(&p, &r, page, sizeof(page), 0);
	packed_reader_done(&r);
	packed_memory_close(&p);
	return ret;
}

/* ---- promises ---- */

static void every_page_comes_out_as_it_went_in(void **state)
{
	int memory = new_memory();
	struct packed_there t = pack(memory);
	uint8_t was[4 * PAGE_SIZE], is[4 * PAGE_SIZE];
	struct packed_reader r;
	struct packed_memory p;
	struct error err;

	(void)state;
	assert_int_equal(open_there(&p, &t, &err), 0);
	assert_int_equal(p.bytes, RAM_BYTES);
	assert_int_equal(p.num, CHUNKS);
	assert_int_equal(packed_reader_init(&r), 0);
	/* Up and down, over the borders of chunks too. */
	for (unsigned i = 0; i < 2 * PAGES; i++) {
		unsigned page = i < PAGES ? i : 2 * PAGES - 1 - i;
		size_t len = MIN(sizeof(was), RAM_BYTES - page * PAGE_SIZE);

		assert_int_equal(pread(memory, was, len, page * PAGE_SIZE), len);
		assert_int_equal(packed_memory_read(&p, &r, is, len, page * PAGE_SIZE), 0);
		assert_memory_equal(was, is, len);
	}
	packed_reader_done(&r);
	packed_memory_close(&p);
	done(&t);
	close(memory);
}

static void chunks_of_holes_take_no_room(void **state)
{
	int memory = new_memory(), empty = new_file(RAM_BYTES);
	struct packed_there t = pack(memory), none = pack(empty);
	struct packed_memory p;
	struct error err;
	struct stat st;

	(void)state;
	assert_int_equal(open_there(&p, &t, &err), 0);
	for (unsigned i = 0; i < CHUNKS; i++)
		assert_int_equal(packed_memory_has(&p, i), i != 1);
	packed_memory_close(&p);
	assert_int_equal(fstat(none.frames, &st), 0);
	assert_int_equal(st.st_size, 0);
	assert_int_equal(open_there(&p, &none, &err), 0);
	packed_memory_close(&p);
	done(&t);
	done(&none);
	close(memory);
	close(empty);
}

static void expanded_it_is_the_sparse_file_that_it_was(void **state)
{
	int memory = new_memory(), to = new_file(0);
	struct packed_there t = pack(memory);
	uint8_t was[PAGE_SIZE], is[PAGE_SIZE];
	struct packed_memory p;
	struct error err;
	struct stat st, st2;

	(void)state;
	assert_int_equal(open_there(&p, &t, &err), 0);
	assert_int_equal(packed_memory_expand(&p, to), 0);
	assert_int_equal(fstat(memory, &st), 0);
	assert_int_equal(fstat(to, &st2), 0);
	assert_int_equal(st.st_size, st2.st_size);
	assert_int_equal(st.st_blocks, st2.st_blocks);
	for (unsigned i = 0; i < PAGES; i++) {
		assert_int_equal(pread(memory, was, sizeof(was), i * PAGE_SIZE), sizeof(was));
		assert_int_equal(pread(to, is, sizeof(is), i * PAGE_SIZE), sizeof(is));
		assert_memory_equal(was, is, sizeof(was));
	}
	packed_memory_close(&p);
	done(&t);
	close(memory);
	close(to);
}

static void memory_too_large_for_an_index_is_known_before(void **state)
{
	struct state_writer index;

	assert_true(packed_memory_fits(336 * GiB));
	assert_false(packed_memory_fits(337 * GiB));
	state_writer_init(&index);
	assert_int_equal(packed_memory_write(-1, 337 * GiB, -1, &index), -EFBIG);
	state_writer_done(&index);
}

static void index_that_makes_no_sense_is_refused(void **state)
{
	int memory = new_memory();
	struct packed_there t = pack(memory);
	struct packed_memory p;
	struct error err;
	struct stat st;

	(void)state;
	assert_int_equal(fstat(t.frames, &st), 0);
	/* Cut off anywhere, or changed. */
	for (size_t len = 0; len < t.index.len; len += 7)
		assert_int_equal(packed_memory_open(&p, dup(t.frames), t.index.buf, len, &err),
				 -EBADMSG);
	for (size_t at = 0; at < t.index.len; at += 5) {
		t.index.buf[at] ^= 0x10;
		assert_int_equal(open_there(&p, &t, &err), -EBADMSG);
		t.index.buf[at] ^= 0x10;
	}
	/* Well sealed, and wrong: as many chunks as RAM has, none too long, all of the file. */
	make_index(&t, RAM_BYTES, PACKED_CHUNK, CHUNKS - 1, 0, 0);
	assert_int_equal(open_there(&p, &t, &err), -EBADMSG);
	make_index(&t, UINT64_MAX - PAGE_SIZE + 1, PACKED_CHUNK, CHUNKS, 0, 0);
	assert_int_equal(open_there(&p, &t, &err), -EBADMSG);
	make_index(&t, 0, PACKED_CHUNK, 0, 0, 0);
	assert_int_equal(open_there(&p, &t, &err), -EBADMSG);
	make_index(&t, RAM_BYTES - 1, PACKED_CHUNK, CHUNKS, 0, 0);
	assert_int_equal(open_there(&p, &t, &err), -EBADMSG);
	make_index(&t, RAM_BYTES, 2 * PACKED_CHUNK, CHUNKS / 2, 0, 0);
	assert_int_equal(open_there(&p, &t, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "chunks of 131072 bytes"));
	make_index(&t, RAM_BYTES, PACKED_CHUNK, CHUNKS, PACKED_FRAME_MAX + 1, 0);
	assert_int_equal(open_there(&p, &t, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "a frame of"));
	make_index(&t, RAM_BYTES, PACKED_CHUNK, CHUNKS, 100, 0);
	assert_int_equal(open_there(&p, &t, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "for frames of 600"));
	done(&t);
	close(memory);
}

static void frames_that_changed_are_noticed(void **state)
{
	int memory = new_memory();
	struct packed_there t = pack(memory);
	uint8_t page[PAGE_SIZE], byte;
	struct packed_reader r;
	struct packed_memory p;
	struct error err;

	(void)state;
	assert_int_equal(open_there(&p, &t, &err), 0);
	assert_int_equal(packed_reader_init(&r), 0);
	assert_int_equal(pread(t.frames, &byte, 1, 20), 1);
	byte ^= 1;
	assert_int_equal(pwrite(t.frames, &byte, 1, 20), 1);
	assert_int_equal(packed_memory_read(&p, &r, page, sizeof(page), 0), -EBADMSG);
	/* The others are what they were, and then this one still is not. */
	assert_int_equal(packed_memory_read(&p, &r, page, sizeof(page), 2 * PACKED_CHUNK), 0);
	assert_int_equal(packed_memory_read(&p, &r, page, sizeof(page), 0), -EBADMSG);
	/* What has been unpacked is not read again; what has not is cut off. */
	assert_int_equal(packed_memory_read(&p, &r, page, sizeof(page), 2 * PACKED_CHUNK), 0);
	assert_int_equal(ftruncate(t.frames, 10), 0);
	assert_int_equal(packed_memory_read(&p, &r, page, sizeof(page), 2 * PACKED_CHUNK), 0);
	assert_int_equal(packed_memory_read(&p, &r, page, sizeof(page), 3 * PACKED_CHUNK), -EIO);
	packed_reader_done(&r);
	packed_memory_close(&p);
	done(&t);
	close(memory);
}

/* With hashes that are right: whatever a frame holds, no more than a chunk comes out of it. */
static void frames_that_are_no_chunk_are_refused(void **state)
{
	static uint8_t zeros[64 * PACKED_CHUNK];
	/* A version of 2015, and one to be skipped. */
	static const uint8_t old[] = { 0x25, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0 };
	static const uint8_t skippable[] = { 0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4 };
	static const size_t sizes[] = { 0, 1, PACKED_CHUNK - 1, PACKED_CHUNK + 1, sizeof(zeros) };
	uint8_t frame[PACKED_FRAME_MAX];
	struct packed_there t;
	size_t n, half;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		n = ZSTD_compress(frame, sizeof(frame), zeros, sizes[i], 1);
		assert_false(ZSTD_isError(n));
		t = forge(frame, n);
		assert_int_equal(read_first(&t), -EBADMSG);
		done(&t);
	}
	/* Two that make up a chunk, and one with something behind it. */
	half = ZSTD_compress(frame, sizeof(frame), zeros, PACKED_CHUNK / 2, 1);
	n = half + ZSTD_compress(frame + half, sizeof(frame) - half, zeros, PACKED_CHUNK / 2, 1);
	t = forge(frame, n);
	assert_int_equal(read_first(&t), -EBADMSG);
	done(&t);
	n = ZSTD_compress(frame, sizeof(frame), zeros, PACKED_CHUNK, 1);
	for (size_t len = 1; len <= n + 1; len++) {
		t = forge(frame, len);
		assert_int_equal(read_first(&t), len == n ? 0 : -EBADMSG);
		done(&t);
	}
	t = forge(old, sizeof(old));
	assert_int_equal(read_first(&t), -EBADMSG);
	done(&t);
	t = forge(skippable, sizeof(skippable));
	assert_int_equal(read_first(&t), -EBADMSG);
	done(&t);
}

/* Bits that flipped, in a frame whose hash was made good again. */
static void forged_frames_do_no_harm(void **state)
{
	static uint8_t chunk[PACKED_CHUNK];
	uint8_t frame[PACKED_FRAME_MAX];
	struct packed_there t;
	size_t n;

	(void)state;
	for (unsigned i = 0; i < sizeof(chunk); i++)
		chunk[i] = i * i >> 8;
	n = ZSTD_compress(frame, sizeof(frame), chunk, sizeof(chunk), 3);
	assert_false(ZSTD_isError(n));
	for (size_t bit = 0; bit < 8 * n; bit += 1 + n / 100) {
		int r;

		frame[bit / 8] ^= 1u << bit % 8;
		t = forge(frame, n);
		r = read_first(&t);
		assert_true(r == 0 || r == -EBADMSG);
		done(&t);
		frame[bit / 8] ^= 1u << bit % 8;
	}
}

/* tests/golden/README.md */
static void golden_frames_are_read(void **state)
{
	static const char dir[] = "tests/golden/format-3-pci-split/";
	static uint8_t index[8 * KiB], ram[16 * MiB];
	int to = new_file(0), frames, fd;
	struct packed_memory p;
	struct error err = { 0 };
	char path[80];
	ssize_t len;

	(void)state;
	snprintf(path, sizeof(path), "%smemory-index", dir);
	fd = open(path, O_RDONLY);
	len = read(fd, index, sizeof(index));
	close(fd);
	snprintf(path, sizeof(path), "%smemory-zstd", dir);
	frames = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(frames >= 0);
	assert_in_range(len, 1, sizeof(index) - 1);
	if (packed_memory_open(&p, frames, index, len, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(packed_memory_expand(&p, to), 0);
	assert_int_equal(pread(to, ram, sizeof(ram), 0), sizeof(ram));
	assert_int_equal(XXH3_64bits(ram, sizeof(ram)), 0xf4f16d8a4acc3388);
	packed_memory_close(&p);
	close(to);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_page_comes_out_as_it_went_in),
		cmocka_unit_test(chunks_of_holes_take_no_room),
		cmocka_unit_test(expanded_it_is_the_sparse_file_that_it_was),
		cmocka_unit_test(memory_too_large_for_an_index_is_known_before),
		cmocka_unit_test(index_that_makes_no_sense_is_refused),
		cmocka_unit_test(frames_that_changed_are_noticed),
		cmocka_unit_test(frames_that_are_no_chunk_are_refused),
		cmocka_unit_test(forged_frames_do_no_harm),
		cmocka_unit_test(golden_frames_are_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
