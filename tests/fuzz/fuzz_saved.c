/*
 * Fuzz target (libFuzzer): the files of a snapshot beside its state, as an enemy wrote them: packed
 * memory and its index, which pages a layer has, and the working set. The first byte of the input
 * chooses which, and whether they are taken as they are or with the sections and hashes made good,
 * as an enemy would. Whatever comes is refused, or is memory that reads the same in
 * pieces, as a whole, unpacked, and packed again; or pages that are all inside RAM.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "vmm/core/guest_mem.h"
#include "vmm/saved/packed_format.h"
#include "vmm/saved/snapshot_pages.h"
#include "vmm/saved/working_set.h"

/* What is compared byte by byte: an index of a few bytes may be that of much more. */
#define LOOK_BYTES (16 * PACKED_CHUNK)
/* Of an index that is made good: with the last one it is more than what is compared. */
#define MAX_CHUNKS  17u
#define CHUNK_PAGES (PACKED_CHUNK / PAGE_SIZE)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int new_file(const void *data, size_t len)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || write(fd, data, len) != (ssize_t)len)
		abort();
	return fd;
}

/* ---- packed memory ---- */

/* @len bytes from the start, @step at a time; whether all of it is what its index says. */
static bool read_all(const struct packed_memory *p, uint8_t *buf, size_t len, size_t step)
{
	struct packed_reader reader;
	int r = packed_reader_init(&reader);

	for (size_t at = 0; at < len && !r; at += step)
		r = packed_memory_read(p, &reader, buf + at, MIN(step, len - at), at);
	packed_reader_done(&reader);
	return r == 0;
}

static void check_chunks(const struct packed_memory *p, const uint8_t *buf, size_t len)
{
	for (size_t at = 0; at < len; at++)
		if (buf[at] && !packed_memory_has(p, at / PACKED_CHUNK))
			abort();
}

/* @buf, the first @len bytes of @p, is what a file has into which all of @p was unpacked. */
static int unpack(const struct packed_memory *p, const uint8_t *buf, size_t len)
{
	int fd = new_file("", 0);
	uint8_t *file;

	if (packed_memory_expand(p, fd) < 0) {
		/* A frame beyond those that were looked at. */
		if (len == p->bytes)
			abort();
		close(fd);
		return -1;
	}
	file = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (lseek(fd, 0, SEEK_END) != (off_t)p->bytes || file == MAP_FAILED ||
	    memcmp(file, buf, len) != 0)
		abort();
	munmap(file, len);
	return fd;
}

static void pack_again(int from, uint64_t bytes, const uint8_t *buf, uint8_t *other, size_t len)
{
	int frames = new_file("", 0);
	struct packed_memory p;
	struct state_writer w;
	struct error err = { 0 };

	state_writer_init(&w);
	if (packed_memory_write(from, bytes, frames, &w) < 0 ||
	    packed_memory_open(&p, frames, w.buf, w.len, &err) < 0 || p.bytes != bytes ||
	    !read_all(&p, other, len, PACKED_CHUNK) || memcmp(buf, other, len) != 0)
		abort();
	packed_memory_close(&p);
	state_writer_done(&w);
}

static void use(const struct packed_memory *p)
{
	size_t len = MIN(p->bytes, LOOK_BYTES);
	uint8_t *buf = malloc(len), *other = malloc(len);
	bool good = read_all(p, buf, len, PACKED_CHUNK);
	int fd;

	/* Neither pages nor chunks; the same bytes, and the same opinion of them. */
	if (read_all(p, other, len, 3 * PAGE_SIZE / 2) != good ||
	    (good && memcmp(buf, other, len) != 0))
		abort();
	if (good) {
		check_chunks(p, buf, len);
		fd = unpack(p, buf, len);
		if (fd >= 0) {
			pack_again(fd, p->bytes, buf, other, len);
			close(fd);
		}
	}
	free(buf);
	free(other);
}

static void try_packed(const uint8_t *index, size_t index_len, const uint8_t *frames, size_t len)
{
	struct packed_memory p;
	struct error err = { 0 };

	if (packed_memory_open(&p, new_file(frames, len), index, index_len, &err) == 0) {
		if (p.at[p.num] != len || p.num != (p.bytes + PACKED_CHUNK - 1) / PACKED_CHUNK)
			abort();
		use(&p);
	} else if (err.msg[0] == '\0') {
		abort();
	}
	packed_memory_close(&p);
}

/* A length of the index, the index, and frames. */
static void try_packed_as_it_is(const uint8_t *data, size_t size)
{
	size_t len = size < 2 ? 0 : MIN((size_t)get_le16(data), size - 2);

	if (size >= 2)
		try_packed(data + 2, len, data + 2 + len, size - 2 - len);
}

/*
 * How many chunks, how many pages RAM lacks to be as many, of each chunk how long its frame is,
 * and the frames, whose hashes are theirs.
 */
static void try_packed_made_good(const uint8_t *data, size_t size)
{
	unsigned num = size < 2 ? 0 : 1 + data[0] % MAX_CHUNKS;
	const uint8_t *lengths = data + 2, *start = lengths + 2ul * num, *frames = start;
	struct state_writer w;
	size_t left;

	if (!num || size < 2 + 2ul * num)
		return;
	left = size - 2 - 2ul * num;
	state_writer_init(&w);
	state_begin(&w, PACKED_SECTION, 0, PACKED_VERSION);
	state_put_u64(&w, (uint64_t)num * PACKED_CHUNK - data[1] % (CHUNK_PAGES + 1) * PAGE_SIZE);
	state_put_u32(&w, PACKED_CHUNK);
	for (unsigned i = 0; i < num; i++) {
		size_t len = MIN((size_t)get_le16(lengths + 2ul * i), left);

		state_put_u32(&w, len);
		state_put_u64(&w, XXH3_64bits(frames, len));
		frames += len;
		left -= len;
	}
	state_end(&w);
	state_seal(&w);
	try_packed(w.buf, w.len, start, frames - start);
	state_writer_done(&w);
}

/* ---- sets of pages ---- */

static void put_section(struct state_writer *w, const char *name, const uint8_t *data, size_t size)
{
	state_begin(w, name, 0, 1);
	state_put_bytes(w, data, size);
	state_end(w);
}

static void check_pages(const uint64_t *pages, uint64_t num)
{
	uint64_t at = 0, end;

	while ((at = guest_mem_next_run(pages, num, at, &end)) < num) {
		if (end <= at || end > num)
			abort();
		at = end;
	}
	if (num % 64 && pages[num / 64] >> num % 64)
		abort();
}

static void try_layer(const uint8_t *data, size_t size, uint64_t num)
{
	struct error err = { 0 };
	struct state_writer w;
	uint64_t *pages;

	state_writer_init(&w);
	put_section(&w, "memory/pages", data, size);
	state_seal(&w);
	if (snapshot_pages_read(w.buf, w.len, num, &pages, &err) == 0) {
		check_pages(pages, num);
		free(pages);
	}
	state_writer_done(&w);
}

/* The guest has @num pages, and those of the set are brought in. */
static void try_working_set(const uint8_t *data, size_t size, uint64_t num)
{
	const struct guest_mem_range range = { .size = num * PAGE_SIZE };
	size_t half = size / 2;
	struct working_set set;
	struct guest_mem *mem;
	struct error err = { 0 };
	struct state_writer w;

	state_writer_init(&w);
	put_section(&w, "memory/touched", data, half);
	put_section(&w, "memory/written", data + half, size - half);
	state_seal(&w);
	if (working_set_read(&set, w.buf, w.len, num, &err) == 0) {
		check_pages(set.touched, num);
		check_pages(set.written, num);
		if (guest_mem_create(&mem, GUEST_MEM_ANON, &range, 1, &err) < 0)
			abort();
		working_set_bring_in(&set, mem);
		guest_mem_free(mem);
	}
	working_set_done(&set);
	state_writer_done(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	switch (data[0] % 4) {
	case 0:
		try_packed_as_it_is(data + 1, size - 1);
		break;
	case 1:
		try_packed_made_good(data + 1, size - 1);
		break;
	case 2:
		try_layer(data + 2, size - 2, 1 + data[1]);
		break;
	default:
		try_working_set(data + 2, size - 2, 1 + data[1]);
	}
	return 0;
}
