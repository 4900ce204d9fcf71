/*
 * Guest RAM to a file and back: a sparse file as large as RAM, in the order of
 * guest addresses without the holes between ranges, in which only pages that
 * hold something take room.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "vmm/core/guest_mem.h"
#include "vmm/core/io.h"

/* Looked at and written together: a huge page. */
#define WINDOW_PAGES 512u

struct writer {
	struct guest_mem *mem;
	int fd;	  /* of the file */
	uint64_t base; /* where in it RAM begins */
	bool all; /* every page may hold something */
	struct guest_mem_saved *saved;
};

/* ---- which pages hold something ---- */

/*
 * Pages that were never touched are not resident, and read as zero. mincore()
 * needs no /proc, which a confined monitor does not have, but it also misses
 * pages that are out on swap.
 */
static void add_populated(struct writer *w, uint64_t offset, unsigned num, bool *wanted)
{
	uint8_t resident[WINDOW_PAGES];
	bool all = w->all || mincore(w->mem->map + offset, num * PAGE_SIZE, resident) < 0;

	for (unsigned i = 0; i < num; i++)
		wanted[i] = all || resident[i] & 1;
}

/* Does nobody on this host have anything on swap? */
static bool nothing_swapped(void)
{
	struct sysinfo info;

	return sysinfo(&info) == 0 && info.totalswap == info.freeswap;
}

/*
 * A file's holes are told by itself, whatever of it is on swap. And they have to be: a hole of
 * shared memory that is looked at is one no longer.
 */
static bool is_file(const struct guest_mem *mem)
{
	return mem->backing == GUEST_MEM_SHARED;
}

/* Is all told that RAM holds? Pages that are still to come are not. */
static bool is_told(const struct guest_mem *mem)
{
	return (is_file(mem) || nothing_swapped()) && guest_mem_is_whole(mem);
}

/* Of a file mapped over RAM also what nobody has touched yet: where it has data. */
static void add_overlay(struct writer *w, const struct guest_mem_overlay *o, uint64_t offset,
			unsigned num, bool *wanted)
{
	uint64_t o_start = o->host - w->mem->map;
	uint64_t start = MAX(offset, o_start);
	uint64_t end = MIN(offset + (uint64_t)num * PAGE_SIZE, o_start + o->size);

	while (start < end) {
		uint64_t data_end = end;

		if (o->fd >= 0) {
			off_t at = o->fd_offset + (start - o_start);
			off_t data = lseek(o->fd, at, SEEK_DATA), hole;

			/* ENXIO: none up to the end of the file. */
			if (data < 0 && errno == ENXIO)
				return;
			hole = data < 0 ? data : lseek(o->fd, data, SEEK_HOLE);
			if (hole >= 0) {
				start += data - at;
				data_end = MIN(end, start + (hole - data));
			}
		}
		for (uint64_t at = align_down(start, PAGE_SIZE); at < MIN(data_end, end);
		     at += PAGE_SIZE)
			wanted[(at - offset) / PAGE_SIZE] = true;
		start = data_end;
	}
}

/* What there is of RAM itself, and of what is mapped over it. */
static void add_all(struct writer *w, uint64_t offset, unsigned num, bool *wanted)
{
	const struct guest_mem *mem = w->mem;
	const struct guest_mem_overlay file = {
		.host = mem->map, .size = mem->map_size, .fd = mem->fd
	};

	if (is_file(mem) && !w->all)
		add_overlay(w, &file, offset, num, wanted);
	else
		add_populated(w, offset, num, wanted);
	for (unsigned k = 0; k < mem->num_overlays; k++)
		add_overlay(w, &mem->overlay[k], offset, num, wanted);
}

void guest_mem_populated(struct guest_mem *mem, uint64_t offset, unsigned num, bool *wanted)
{
	struct writer w = { .mem = mem, .all = !is_told(mem) };

	memset(wanted, 0, num * sizeof(*wanted));
	add_all(&w, offset, num, wanted);
	/* What went out to swap meanwhile may look as if it had never been there. */
	if (!w.all && !is_told(mem))
		memset(wanted, 1, num * sizeof(*wanted));
}

bool guest_mem_page_is_zero(const uint8_t *page)
{
	const uint64_t *word = (const uint64_t *)page;
	uint64_t any = 0;

	/* In steps, so that most pages are left at the first. */
	for (unsigned i = 0; i < PAGE_SIZE / sizeof(*word) && !any; i += 8)
		for (unsigned k = 0; k < 8; k++)
			any |= word[i + k];
	return !any;
}

unsigned guest_mem_alike(const uint8_t *pages, unsigned num, bool *ret_zero)
{
	bool zero = guest_mem_page_is_zero(pages);
	unsigned n = 1;

	while (n < num && guest_mem_page_is_zero(pages + n * PAGE_SIZE) == zero)
		n++;
	*ret_zero = zero;
	return n;
}

/* ---- out ---- */

static int write_window(struct writer *w, uint64_t offset, unsigned num)
{
	const struct guest_mem *mem = w->mem;
	bool wanted[WINDOW_PAGES] = { false };
	const uint8_t *host = mem->map + offset;
	unsigned i = 0;

	add_all(w, offset, num, wanted);
	while (i < num) {
		unsigned first = i;
		int r;

		while (i < num && wanted[i] && !guest_mem_page_is_zero(host + i * PAGE_SIZE))
			i++;
		if (i == first) {
			i++;
			continue;
		}
		r = io_write_at(w->fd, host + first * PAGE_SIZE, (i - first) * PAGE_SIZE,
			      w->base + offset + first * PAGE_SIZE);
		if (r < 0)
			return r;
		w->saved->pages += i - first;
	}
	return 0;
}

static int write_windows(struct writer *w)
{
	const uint64_t size = w->mem->map_size;
	int r = 0;

	for (uint64_t at = 0; at < size && !r; at += WINDOW_PAGES * PAGE_SIZE)
		r = write_window(w, at, MIN((size - at) / PAGE_SIZE, (uint64_t)WINDOW_PAGES));
	return r;
}

int guest_mem_save(struct guest_mem *mem, int fd, struct guest_mem_saved *ret_saved)
{
	return guest_mem_save_at(mem, fd, 0, ret_saved);
}

int guest_mem_save_at(struct guest_mem *mem, int fd, uint64_t base,
		      struct guest_mem_saved *ret_saved)
{
	struct guest_mem_saved saved = { .size = base + mem->map_size };
	struct writer w = {
		.mem = mem,
		.fd = fd,
		.base = base,
		.saved = &saved,
		.all = !is_told(mem),
	};
	int r = ftruncate(fd, saved.size) < 0 ? -errno : 0;

	if (!r)
		r = write_windows(&w);
	/* Something may have gone there meanwhile: then once more, all of it. */
	if (!r && !w.all && !is_told(mem)) {
		w.all = true;
		saved.pages = 0;
		r = write_windows(&w);
	}
	if (!r)
		*ret_saved = saved;
	return r;
}

/* ---- some pages ---- */

static bool has_bit(const uint64_t *words, uint64_t i)
{
	return words[i / 64] >> (i % 64) & 1;
}

uint64_t guest_mem_next_run(const uint64_t *pages, uint64_t num, uint64_t at, uint64_t *ret_end)
{
	uint64_t end;

	/* Most words are empty. */
	while (at < num && !has_bit(pages, at))
		at += at % 64 == 0 && !pages[at / 64] ? 64 : 1;
	at = end = MIN(at, num);
	while (end < num && has_bit(pages, end))
		end++;
	*ret_end = end;
	return at;
}

/* Pages @first to @end; without those that are all zero unless @zeros. */
static int save_run(struct guest_mem *mem, int fd, uint64_t first, uint64_t end, bool zeros,
		    uint64_t *written)
{
	const uint8_t *map = mem->map;

	while (first < end) {
		uint64_t at = first;
		int r;

		while (at < end && (zeros || !guest_mem_page_is_zero(map + at * PAGE_SIZE)))
			at++;
		r = io_write_at(fd, map + first * PAGE_SIZE, (at - first) * PAGE_SIZE,
			      first * PAGE_SIZE);
		if (r < 0)
			return r;
		*written += at - first;
		first = at + (at < end);
	}
	return 0;
}

int guest_mem_save_pages(struct guest_mem *mem, int fd, const uint64_t *pages, bool zeros,
			 struct guest_mem_saved *ret_saved)
{
	struct guest_mem_saved saved = { .size = mem->map_size };
	uint64_t num = mem->map_size >> PAGE_SHIFT, at = 0, end;
	int r = ftruncate(fd, saved.size) < 0 ? -errno : 0;

	while (!r && (at = guest_mem_next_run(pages, num, at, &end)) < num) {
		r = save_run(mem, fd, at, end, zeros, &saved.pages);
		at = end;
	}
	if (!r)
		*ret_saved = saved;
	return r;
}

/* ---- in ---- */

int guest_mem_load_pages(struct guest_mem *mem, int fd, const uint64_t *pages)
{
	uint64_t num = mem->map_size >> PAGE_SHIFT, at = 0, end;
	int r = 0;

	while (!r && (at = guest_mem_next_run(pages, num, at, &end)) < num) {
		r = io_read_at(fd, mem->map + at * PAGE_SIZE, (end - at) * PAGE_SIZE,
			     at * PAGE_SIZE);
		at = end;
	}
	return r;
}

/* Shared and huge pages cannot be a private mapping of a file: copy what there is. */
static int copy_data(struct guest_mem *mem, int fd)
{
	off_t data = 0, hole;
	int r;

	while ((data = lseek(fd, data, SEEK_DATA)) >= 0) {
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		r = io_read_at(fd, mem->map + data, hole - data, data);
		if (r < 0)
			return r;
		data = hole;
	}
	return errno == ENXIO ? 0 : -errno;
}

int guest_mem_load(struct guest_mem *mem, int fd, struct error *err)
{
	struct stat st;
	int r = 0;

	if (fstat(fd, &st) < 0)
		return error_set(err, -errno, "saved memory: %m");
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != mem->map_size)
		return error_set(err, -EBADMSG,
				 "saved memory: a file of %lld bytes for RAM of %llu bytes",
				 (long long)st.st_size, (unsigned long long)mem->map_size);
	if (mem->backing == GUEST_MEM_ANON) {
		struct guest_mem_overlay *o = &mem->overlay[0];
		int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);

		if (own < 0 ||
		    mmap(mem->map, mem->map_size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, own, 0) == MAP_FAILED) {
			r = -errno;
			if (own >= 0)
				close(own);
		} else {
			*o = (struct guest_mem_overlay){
				.host = mem->map,
				.size = mem->map_size,
				.fd = own,
			};
			mem->num_overlays = 1;
		}
	} else {
		r = copy_data(mem, fd);
	}
	return r < 0 ? error_set(err, r, "saved memory: cannot be mapped: %m") : 0;
}
