#include "vmm/core/guest_mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "vmm/core/guest_mem_later.h"

#define LOW_MEMORY (1 * MiB)

/* ---- creation ---- */

static int check_ranges(const struct guest_mem_range *ranges, unsigned num, uint64_t align,
			uint64_t *ret_size, struct error *err)
{
	uint64_t size = 0, end = 0;

	if (!num || num > GUEST_MEM_MAX_RANGES)
		return error_set(err, -EINVAL, "guest memory: %u ranges", num);
	for (unsigned i = 0; i < num; i++) {
		const struct guest_mem_range *r = &ranges[i];

		if (!r->size || r->gpa < end || r->gpa + r->size < r->gpa ||
		    size + r->size < size || (r->gpa | r->size) & (PAGE_SIZE - 1))
			return error_set(err, -EINVAL,
					 "guest memory: range 0x%llx+0x%llx is out of order",
					 (unsigned long long)r->gpa, (unsigned long long)r->size);
		if ((r->gpa | r->size) & (align - 1))
			return error_usage(
				err, -EINVAL,
				"--hugepages: memory of 0x%llx bytes is no multiple of %llu MiB",
				(unsigned long long)r->size, (unsigned long long)(align / MiB));
		end = r->gpa + r->size;
		size += r->size;
	}
	*ret_size = size;
	return 0;
}

static void *map_or_null(void *at, uint64_t size, int flags, int fd, uint64_t offset)
{
	void *p = mmap(at, size, PROT_READ | PROT_WRITE, flags, fd, offset);

	return p == MAP_FAILED ? NULL : p;
}

static int cannot_map(struct guest_mem *mem, struct error *err)
{
	return error_usage(err, -errno, "--memory: the host cannot reserve %llu MiB: %m",
			   (unsigned long long)(mem->map_size / MiB));
}

void guest_mem_advise(struct guest_mem *mem)
{
	/*
	 * Of the first MiB a guest uses a few pages at most. The advice parts the mapping
	 * there, so that no huge page fits over it, and what nobody touches is never
	 * cleared. A host without huge pages refuses the advice: only slower.
	 */
	if (mem->backing == GUEST_MEM_ANON && mem->map_size > LOW_MEMORY)
		madvise(mem->map + LOW_MEMORY, mem->map_size - LOW_MEMORY, MADV_HUGEPAGE);
}

static int map_anonymous(struct guest_mem *mem, struct error *err)
{
	/* Older kernels align to 4 KiB only: a huge page too many costs address space alone. */
	mem->reservation_size = mem->map_size + HUGE_PAGE;
	mem->reservation = map_or_null(NULL, mem->reservation_size,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!mem->reservation)
		return cannot_map(mem, err);
	mem->map = (uint8_t *)align_up((uintptr_t)mem->reservation, HUGE_PAGE);
	guest_mem_advise(mem);
	return 0;
}

int guest_mem_check_fd(int fd, uint64_t size, struct error *err)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct statfs fs;
	struct stat st;

	/* Of huge pages there may be none left when one is first touched, and that is our end. */
	if (fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		return error_set(err, -EBADMSG,
				 "guest memory: what was handed over is no memory of ordinary "
				 "pages");
	if (seals < 0 || !(seals & F_SEAL_SHRINK))
		return error_set(err, -EBADMSG, "guest memory: what was handed over is no memory, "
						"or could shrink");
	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != size)
		return error_set(err, -EBADMSG, "guest memory: what was handed over has another "
						"size than the guest");
	return 0;
}

static int create_memfd(struct guest_mem *mem, struct error *err)
{
	mem->fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (mem->fd < 0 || ftruncate(mem->fd, mem->map_size) < 0)
		return cannot_map(mem, err);
	/* Whoever else maps it must not be able to shrink it: our accesses would fault. */
	if (fcntl(mem->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return cannot_map(mem, err);
	return 0;
}

/* @fd: of memory that is there already, or -1. */
static int map_shared(struct guest_mem *mem, int fd, struct error *err)
{
	int r;

	if (fd < 0) {
		r = create_memfd(mem, err);
	} else {
		r = guest_mem_check_fd(fd, mem->map_size, err);
		if (!r) {
			mem->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
			if (mem->fd < 0)
				r = cannot_map(mem, err);
		}
	}
	if (r < 0)
		return r;
	mem->reservation_size = mem->map_size;
	mem->reservation = map_or_null(NULL, mem->map_size, MAP_SHARED | MAP_NORESERVE, mem->fd, 0);
	if (!mem->reservation)
		return cannot_map(mem, err);
	mem->map = mem->reservation;
	return 0;
}

static int map_hugetlb(struct guest_mem *mem, struct error *err)
{
	/* With a reservation: better to fail here than by SIGBUS in the middle of a run. */
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
	int r;

	mem->reservation_size = mem->map_size;
	mem->reservation = map_or_null(NULL, mem->map_size, flags, -1, 0);
	if (!mem->reservation) {
		r = error_usage(err, -errno,
				"--hugepages: the host has no %llu free pages of 2 MiB: %m",
				(unsigned long long)(mem->map_size / HUGE_PAGE));
		error_hint(err, "raise /proc/sys/vm/nr_hugepages, or leave --hugepages out");
		return r;
	}
	mem->map = mem->reservation;
	return 0;
}

static int create(struct guest_mem **ret_mem, enum guest_mem_backing backing, int fd,
		  const struct guest_mem_range *ranges, unsigned num_ranges, struct error *err)
{
	struct guest_mem *mem;
	uint64_t offset = 0;
	int r;

	mem = calloc(1, sizeof(*mem));
	if (!mem)
		return error_set(err, -ENOMEM, "guest memory: %m");
	mem->fd = -1;
	mem->backing = backing;
	r = check_ranges(ranges, num_ranges, backing == GUEST_MEM_HUGETLB ? HUGE_PAGE : PAGE_SIZE,
			 &mem->map_size, err);
	if (r < 0)
		goto fail;
	switch (backing) {
	case GUEST_MEM_ANON:
		r = map_anonymous(mem, err);
		break;
	case GUEST_MEM_SHARED:
		r = map_shared(mem, fd, err);
		break;
	case GUEST_MEM_HUGETLB:
		r = map_hugetlb(mem, err);
		break;
	case GUEST_MEM_FILE:
	case GUEST_MEM_ROM:
		r = error_set(err, -EINVAL, "guest memory: a file is mapped over RAM, not instead");
		break;
	}
	if (r < 0)
		goto fail;
	for (unsigned i = 0; i < num_ranges; i++) {
		mem->range[i] = (struct guest_mem_range){
			.gpa = ranges[i].gpa,
			.size = ranges[i].size,
			.host = mem->map + offset,
			.backing = backing,
			.fd = mem->fd,
			.fd_offset = offset,
			.slot = i,
			.is_later = ranges[i].is_later,
		};
		offset += ranges[i].size;
	}
	mem->num_ranges = num_ranges;
	*ret_mem = mem;
	return 0;
fail:
	guest_mem_free(mem);
	return r;
}

int guest_mem_create(struct guest_mem **ret_mem, enum guest_mem_backing backing,
		     const struct guest_mem_range *ranges, unsigned num_ranges, struct error *err)
{
	return create(ret_mem, backing, -1, ranges, num_ranges, err);
}

int guest_mem_adopt(struct guest_mem **ret_mem, int fd, const struct guest_mem_range *ranges,
		    unsigned num_ranges, struct error *err)
{
	return create(ret_mem, GUEST_MEM_SHARED, fd, ranges, num_ranges, err);
}

void guest_mem_free(struct guest_mem *mem)
{
	if (!mem)
		return;
	for (unsigned i = 0; i < mem->num_ranges; i++) {
		free(mem->range[i].dirty);
		guest_mem_later_free(mem->range[i].plugged);
	}
	for (unsigned i = 0; i < mem->num_overlays; i++)
		if (mem->overlay[i].fd >= 0)
			close(mem->overlay[i].fd);
	if (mem->reservation)
		munmap(mem->reservation, mem->reservation_size);
	if (mem->fd >= 0)
		close(mem->fd);
	free(mem);
}

int guest_mem_map_file(struct guest_mem *mem, uint64_t gpa, uint64_t len, int fd, uint64_t offset)
{
	uint8_t *host = guest_mem_ptr(mem, gpa, len);

	if (!host)
		return -EFAULT;
	if (!len || (gpa | len | offset) & (PAGE_SIZE - 1))
		return -EINVAL;
	if (mem->backing != GUEST_MEM_ANON)
		return -ENOTSUP;
	if (mem->num_overlays == GUEST_MEM_MAX_OVERLAYS)
		return -ENOSPC;
	if (!map_or_null(host, len, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, offset))
		return -errno;
	mem->overlay[mem->num_overlays++] = (struct guest_mem_overlay){
		.host = host,
		.size = len,
		.fd = -1,
	};
	return 0;
}

void guest_mem_hide(struct guest_mem *mem)
{
	madvise(mem->map, mem->map_size, MADV_DONTDUMP);
}

/* ---- checked access ---- */

/* The range that holds the byte at @gpa, ROM included, also where nothing is plugged. */
static struct guest_mem_range *range_at(const struct guest_mem *mem, uint64_t gpa)
{
	for (unsigned i = 0; i < mem->num_ranges; i++)
		if (range_inside(gpa, 1, mem->range[i].gpa, mem->range[i].size))
			return (struct guest_mem_range *)&mem->range[i];
	return NULL;
}

/* Bytes of [gpa, gpa+len) that lie in @r, which holds its first one. */
static uint64_t part_in(const struct guest_mem_range *r, uint64_t gpa, uint64_t len)
{
	return MIN(len, r->gpa + r->size - gpa);
}

int guest_mem_iov(const struct guest_mem *mem, uint64_t gpa, uint64_t len, bool writable,
		  struct iovec *iov, unsigned max)
{
	unsigned n = 0;

	if (gpa + len < gpa)
		return -EFAULT;
	while (len) {
		const struct guest_mem_range *r = range_at(mem, gpa);
		uint64_t part;

		if (!r || (writable && r->read_only))
			return -EFAULT;
		if (n == max)
			return -E2BIG;
		part = part_in(r, gpa, len);
		if (!guest_mem_is_plugged(r, gpa - r->gpa, part))
			return -EFAULT;
		iov[n].iov_base = r->host + (gpa - r->gpa);
		iov[n++].iov_len = part;
		gpa += part;
		len -= part;
	}
	return n;
}

int guest_mem_read(const struct guest_mem *mem, uint64_t gpa, void *dst, size_t len)
{
	struct iovec iov[GUEST_MEM_MAX_RANGES];
	int n = guest_mem_iov(mem, gpa, len, false, iov, ARRAY_SIZE(iov));

	for (int i = 0; i < n; i++) {
		memcpy(dst, iov[i].iov_base, iov[i].iov_len);
		dst = (uint8_t *)dst + iov[i].iov_len;
	}
	return MIN(n, 0);
}

int guest_mem_write(struct guest_mem *mem, uint64_t gpa, const void *src, size_t len)
{
	struct iovec iov[GUEST_MEM_MAX_RANGES];
	int n = guest_mem_iov(mem, gpa, len, true, iov, ARRAY_SIZE(iov));

	for (int i = 0; i < n; i++) {
		memcpy(iov[i].iov_base, src, iov[i].iov_len);
		src = (const uint8_t *)src + iov[i].iov_len;
	}
	if (n > 0)
		guest_mem_mark_dirty(mem, gpa, len);
	return MIN(n, 0);
}

/* ---- our own dirty bitmap ---- */

int guest_mem_track_dirty(struct guest_mem *mem, bool on)
{
	for (unsigned i = 0; i < mem->num_ranges; i++) {
		struct guest_mem_range *r = &mem->range[i];
		uint64_t words = ((r->size >> PAGE_SHIFT) + 63) / 64;
		uint64_t *dirty;

		if (!on) {
			free(r->dirty);
			r->dirty = NULL;
			continue;
		}
		if (r->dirty) {
			memset(r->dirty, 0, words * sizeof(*dirty));
			continue;
		}
		dirty = calloc(words, sizeof(*dirty));
		if (!dirty)
			return -ENOMEM;
		/* Release: whoever sees it finds it clean. */
		__atomic_store_n(&r->dirty, dirty, __ATOMIC_RELEASE);
	}
	return 0;
}

void guest_mem_take_dirty(struct guest_mem *mem, unsigned index, uint64_t first, uint64_t num,
			  uint64_t *words)
{
	uint64_t *dirty = mem->range[index].dirty;

	for (uint64_t i = 0; i < num && dirty; i++) {
		/* Most words are clean, and a plain load leaves them in the other's cache. */
		if (__atomic_load_n(&dirty[first + i], __ATOMIC_RELAXED))
			words[i] |= __atomic_exchange_n(&dirty[first + i], 0, __ATOMIC_SEQ_CST);
	}
}

/* Acquire: the bitmap may have come into being just now, by another thread. */
static bool is_tracked(const struct guest_mem_range *r)
{
	return __atomic_load_n(&r->dirty, __ATOMIC_ACQUIRE) != NULL;
}

/* @offset and @len lie within @r, @len is not 0. */
static void mark_pages(struct guest_mem_range *r, uint64_t offset, uint64_t len)
{
	uint64_t last = (offset + len - 1) >> PAGE_SHIFT;

	/*
	 * Always a locked or, never "test, then set": the test could be answered
	 * before our data is visible, and whoever clears the bit in between would
	 * read the old page and never see it dirty again.
	 */
	for (uint64_t page = offset >> PAGE_SHIFT; page <= last; page++)
		__atomic_fetch_or(&r->dirty[page / 64], 1ull << (page % 64), __ATOMIC_SEQ_CST);
}

void guest_mem_mark_dirty(struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	while (len) {
		struct guest_mem_range *r = range_at(mem, gpa);
		uint64_t part;

		if (!r)
			return;
		part = part_in(r, gpa, len);
		if (is_tracked(r))
			mark_pages(r, gpa - r->gpa, part);
		gpa += part;
		len -= part;
	}
}

void guest_mem_mark_dirty_host(struct guest_mem *mem, const void *host, uint64_t len)
{
	for (unsigned i = 0; i < mem->num_ranges && len; i++) {
		struct guest_mem_range *r = &mem->range[i];

		if (is_tracked(r) &&
		    range_inside((uintptr_t)host, len, (uintptr_t)r->host, r->size))
			mark_pages(r, (const uint8_t *)host - r->host, len);
	}
}

/* ---- discard ---- */

/*
 * Pages of a private file mapping: MADV_DONTNEED would bring the file's bytes
 * back. Whole huge pages are mapped over with anonymous memory; the rest is
 * zeroed in place, since every piece mapped over would cost a mapping of its own
 * and a process may have 65530.
 */
static int discard_overlay(uint8_t *host, uint64_t len)
{
	uint64_t first = align_up((uintptr_t)host, HUGE_PAGE) - (uintptr_t)host;
	uint64_t end = len;

	if (first <= len)
		end = align_down((uintptr_t)host + len, HUGE_PAGE) - (uintptr_t)host;
	if (first >= end) {
		memset(host, 0, len);
		return 0;
	}
	if (!map_or_null(host + first, end - first,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0))
		return -errno;
	madvise(host + first, end - first, MADV_HUGEPAGE);
	madvise(host + first, end - first, MADV_DONTDUMP);
	memset(host, 0, first);
	memset(host + end, 0, len - end);
	return 0;
}

/* Private anonymous memory, parts of which may be overlaid by files. */
static int discard_private(struct guest_mem *mem, uint8_t *host, uint64_t len)
{
	while (len) {
		uint64_t part = len;
		bool overlaid = false;
		int r;

		/* Cut off the longest piece that is all one or all the other. */
		for (unsigned i = 0; i < mem->num_overlays; i++) {
			const struct guest_mem_overlay *o = &mem->overlay[i];

			if (range_inside((uintptr_t)host, 1, (uintptr_t)o->host, o->size)) {
				overlaid = true;
				part = MIN(len, (uint64_t)(o->host + o->size - host));
				break;
			}
			if (o->host > host)
				part = MIN(part, (uint64_t)(o->host - host));
		}
		mem->holed |= overlaid;
		if (overlaid)
			r = discard_overlay(host, part);
		else
			r = madvise(host, part, MADV_DONTNEED) < 0 ? -errno : 0;
		if (r < 0)
			return r;
		host += part;
		len -= part;
	}
	return 0;
}

static int discard_in_range(struct guest_mem *mem, struct guest_mem_range *r, uint64_t offset,
			    uint64_t len)
{
	uint64_t page = r->backing == GUEST_MEM_HUGETLB ? HUGE_PAGE : PAGE_SIZE;
	uint64_t start = align_up(offset, page), end = align_down(offset + len, page);
	int ret = 0;

	if (start >= end)
		return 0;
	len = end - start;
	switch (r->backing) {
	case GUEST_MEM_ANON:
		ret = discard_private(mem, r->host + start, len);
		break;
	case GUEST_MEM_HUGETLB:
		/* Takes huge pages since Linux 5.18. */
		ret = madvise(r->host + start, len, MADV_DONTNEED) < 0 ? -errno : 0;
		break;
	case GUEST_MEM_SHARED:
		if (fallocate(r->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      r->fd_offset + start, len) < 0)
			ret = -errno;
		break;
	case GUEST_MEM_FILE:
		ret = discard_overlay(r->host + start, len);
		break;
	case GUEST_MEM_ROM:
		ret = -EFAULT;
		break;
	}
	if (!ret && is_tracked(r))
		mark_pages(r, start, len);
	return ret;
}

int guest_mem_discard(struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	struct iovec iov[GUEST_MEM_MAX_RANGES];
	int ret = guest_mem_iov(mem, gpa, len, true, iov, ARRAY_SIZE(iov));

	if (ret < 0)
		return ret;
	while (len) {
		struct guest_mem_range *r = range_at(mem, gpa);
		uint64_t part = part_in(r, gpa, len);

		ret = discard_in_range(mem, r, gpa - r->gpa, part);
		if (ret < 0)
			return ret;
		gpa += part;
		len -= part;
	}
	return 0;
}

int guest_mem_discard_host(struct guest_mem *mem, void *host, uint64_t len)
{
	for (unsigned i = 0; i < mem->num_ranges; i++) {
		struct guest_mem_range *r = &mem->range[i];

		if (!r->read_only &&
		    range_inside((uintptr_t)host, len, (uintptr_t)r->host, r->size))
			return discard_in_range(mem, r, (uint8_t *)host - r->host, len);
	}
	return -EFAULT;
}

/* ---- extent ---- */

uint64_t guest_mem_size(const struct guest_mem *mem)
{
	return mem->map_size;
}

uint64_t guest_mem_first_size(const struct guest_mem *mem)
{
	uint64_t size = 0;

	for (unsigned i = 0; i < mem->num_ranges; i++)
		if (!mem->range[i].is_later)
			size += mem->range[i].size;
	return size;
}

uint64_t guest_mem_low_end(const struct guest_mem *mem)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < mem->num_ranges; i++)
		if (mem->range[i].gpa < 4 * GiB && !mem->range[i].read_only)
			end = MAX(end, mem->range[i].gpa + mem->range[i].size);
	return MIN(end, 4 * GiB);
}

uint64_t guest_mem_high_end(const struct guest_mem *mem)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < mem->num_ranges; i++)
		if (mem->range[i].gpa + mem->range[i].size > 4 * GiB && !mem->range[i].read_only &&
		    !mem->range[i].is_later)
			end = MAX(end, mem->range[i].gpa + mem->range[i].size);
	return end;
}
