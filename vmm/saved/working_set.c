#include "vmm/saved/working_set.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/core/io.h"
#include "vmm/saved/snapshot_pages.h"

#define SECTION_TOUCHED "memory/touched"
#define SECTION_WRITTEN "memory/written"

/* Linux 5.14; older ones refuse it, and each page is a fault as without us. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

/* Entries of /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst. */
#define MAP_PRESENT (1ull << 63)
#define MAP_SWAPPED (1ull << 62)
#define MAP_OF_FILE (1ull << 61)
#define MAP_ENTRIES 512u

/* ---- one run ---- */

int working_set_open_map(void)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static void set_bit(uint64_t *words, uint64_t i)
{
	words[i / 64] |= 1ull << i % 64;
}

/* What is mapped of a private mapping was touched; what is not the file's any more was written. */
static int look(const struct guest_mem *mem, int map_fd, struct working_set *set)
{
	uint64_t first = (uintptr_t)mem->map >> PAGE_SHIFT, num = mem->map_size >> PAGE_SHIFT;
	uint64_t entry[MAP_ENTRIES];

	for (uint64_t at = 0; at < num; at += MAP_ENTRIES) {
		unsigned some = MIN(num - at, (uint64_t)MAP_ENTRIES);
		ssize_t len = some * sizeof(entry[0]);
		ssize_t n = pread(map_fd, entry, len, (off_t)((first + at) * sizeof(entry[0])));

		if (n != len)
			return n < 0 ? -errno : -EIO;
		for (unsigned i = 0; i < some; i++) {
			if (!(entry[i] & (MAP_PRESENT | MAP_SWAPPED)))
				continue;
			set_bit(set->touched, at + i);
			if (!(entry[i] & MAP_OF_FILE))
				set_bit(set->written, at + i);
		}
	}
	return 0;
}

int working_set_record(const struct guest_mem *mem, int map_fd, int fd)
{
	uint64_t num = mem->map_size >> PAGE_SHIFT;
	struct working_set set = {
		.touched = calloc(guest_mem_bitmap_words(mem->map_size), sizeof(uint64_t)),
		.written = calloc(guest_mem_bitmap_words(mem->map_size), sizeof(uint64_t)),
	};
	struct state_writer w;
	int r = set.touched && set.written ? look(mem, map_fd, &set) : -ENOMEM;

	state_writer_init(&w);
	if (!r) {
		snapshot_pages_put(&w, SECTION_TOUCHED, set.touched, num);
		snapshot_pages_put(&w, SECTION_WRITTEN, set.written, num);
		state_seal(&w);
		r = w.failed ? w.failed : io_write(fd, w.buf, w.len);
	}
	state_writer_done(&w);
	working_set_done(&set);
	return r;
}

/* ---- later ones ---- */

int working_set_read(struct working_set *set, const uint8_t *buf, size_t len, uint64_t pages,
		     struct error *err)
{
	struct state_set state = { 0 };
	int r = state_set_open(&state, buf, len, err);

	*set = (struct working_set){ 0 };
	if (!r)
		r = snapshot_pages_take(&state, SECTION_TOUCHED, pages, &set->touched, err);
	if (!r)
		r = snapshot_pages_take(&state, SECTION_WRITTEN, pages, &set->written, err);
	if (!r)
		r = state_set_finish(&state, err);
	if (r < 0)
		working_set_done(set);
	state_set_close(&state);
	return r;
}

void working_set_done(struct working_set *set)
{
	free(set->touched);
	free(set->written);
	*set = (struct working_set){ 0 };
}

static void populate(struct guest_mem *mem, const uint64_t *pages, int advice)
{
	uint64_t num = mem->map_size >> PAGE_SHIFT, at = 0, end;

	/* A page that cannot be had now is one that the guest will wait for: no reason to stop. */
	while ((at = guest_mem_next_run(pages, num, at, &end)) < num) {
		madvise(mem->map + at * PAGE_SIZE, (end - at) * PAGE_SIZE, advice);
		at = end;
	}
}

void working_set_bring_in(const struct working_set *set, struct guest_mem *mem)
{
	/* What was written was touched too: the first pass has it read from the disk in order. */
	populate(mem, set->touched, MADV_POPULATE_READ);
	populate(mem, set->written, MADV_POPULATE_WRITE);
}
