/*
 * Guest physical memory: which addresses are RAM, and checked access to them.
 *
 * The guest is hostile and runs while we look: read a value once into the
 * host, check the copy, use the copy. Every guest address goes through one of
 * these accessors, which take a length. The set of ranges is fixed while vCPUs
 * or loops run; lookups need no lock and may come from any thread.
 */
#ifndef WISP_CORE_GUEST_MEM_H
#define WISP_CORE_GUEST_MEM_H

#include <sys/uio.h>

#include "vmm/core/error.h"
#include "vmm/core/util.h"

enum guest_mem_backing {
	GUEST_MEM_ANON,	   /* private anonymous, transparent huge pages */
	GUEST_MEM_SHARED,  /* memfd, mapped shared: another process maps it too */
	GUEST_MEM_HUGETLB, /* private anonymous hugetlbfs pages */
	GUEST_MEM_FILE,	   /* private mapping of a file (restore) */
	GUEST_MEM_ROM,	   /* file mapped read-only; writes exit to us */
};

/* What of memory that is plugged later is RAM now: a bit a block, which any thread may look at. */
struct guest_mem_plugged {
	uint64_t block_bytes;
	uint64_t *blocks;
};

struct guest_mem_range {
	uint64_t gpa;
	uint64_t size;	    /* bytes, page multiple */
	uint8_t *host;
	enum guest_mem_backing backing;
	int fd;		    /* -1 when anonymous */
	uint64_t fd_offset; /* of the range's first byte */
	unsigned slot;	    /* the hypervisor's slot number */
	bool read_only;
	bool is_later;	    /* no RAM until the guest plugs it (virtio/virtio_mem.h) */
	struct guest_mem_plugged *plugged; /* of that (guest_mem_later.h); NULL: all is RAM */
	uint64_t *dirty;    /* our own bitmap, one bit a page, or NULL when not tracked */
};

#define HUGE_PAGE (2 * MiB)

#define GUEST_MEM_MAX_RANGES   8
#define GUEST_MEM_MAX_OVERLAYS 16

/* A part of RAM that is a private mapping of a file: guest_mem_map_file(), guest_mem_load(). */
struct guest_mem_overlay {
	uint8_t *host;
	uint64_t size; /* bytes, page multiple */
	int fd;	       /* ours, to find its holes by; -1: take it as full */
	uint64_t fd_offset;
};

struct guest_mem {
	struct guest_mem_range range[GUEST_MEM_MAX_RANGES];
	unsigned num_ranges;
	uint8_t *map;	   /* the whole RAM as one mapping, in ascending gpa order */
	uint64_t map_size;
	enum guest_mem_backing backing;
	int fd;
	struct guest_mem_overlay overlay[GUEST_MEM_MAX_OVERLAYS];
	unsigned num_overlays;
	bool holed; /* some of an overlay was discarded, and is anonymous memory now */
	bool partial; /* pages are still to come (vmm/core/page_faults.h). Atomic */
	void *reservation; /* what was mapped for it: @map is aligned inside */
	uint64_t reservation_size;
};

/*
 * Map RAM and lay it out as @ranges say (gpa, size and is_later filled in, page
 * multiples, ascending). ANON: one reservation, huge pages advised;
 * nothing is touched. @backing is ANON, SHARED or HUGETLB.
 */
int guest_mem_create(struct guest_mem **ret_mem, enum guest_mem_backing backing,
		     const struct guest_mem_range *ranges, unsigned num_ranges, struct error *err);
void guest_mem_free(struct guest_mem *mem);

/*
 * The same over RAM that is there already, in the memfd of another process: mapped shared, and
 * nothing of it touched. @fd is borrowed, and checked as guest_mem_check_fd() does.
 */
int guest_mem_adopt(struct guest_mem **ret_mem, int fd, const struct guest_mem_range *ranges,
		    unsigned num_ranges, struct error *err);

/*
 * Can @fd, which somebody else made, be mapped as RAM of @size bytes? It has that size and
 * nobody can shrink it: our accesses would fault. -EBADMSG.
 */
int guest_mem_check_fd(int fd, uint64_t size, struct error *err);

/*
 * Leave guest memory out of core dumps. Once, after all files are mapped over
 * it: a new mapping forgets the advice.
 */
void guest_mem_hide(struct guest_mem *mem);

/* Ask the host for huge pages, where that is worth it, as guest_mem_create() does. Any thread. */
void guest_mem_advise(struct guest_mem *mem);

/*
 * Replace [gpa, gpa+len) by a private mapping of @fd from @offset: its pages
 * come from the page cache when they are touched, and the guest's writes stay
 * its own. All three are page multiples and the file reaches to the end of the
 * last page (reading beyond it would raise SIGBUS). Setup only. -ENOTSUP for a
 * backing that cannot (SHARED, HUGETLB) and -ENOSPC when there are too many:
 * the caller then copies.
 */
int guest_mem_map_file(struct guest_mem *mem, uint64_t gpa, uint64_t len, int fd,
		       uint64_t offset);

/* Is all of [offset, offset+len) of @r RAM now? Inside of it. */
static inline bool guest_mem_is_plugged(const struct guest_mem_range *r, uint64_t offset,
					uint64_t len)
{
	const struct guest_mem_plugged *p = r->plugged;

	if (!p || !len)
		return true;
	for (uint64_t i = offset / p->block_bytes; i <= (offset + len - 1) / p->block_bytes; i++)
		if (!(__atomic_load_n(&p->blocks[i / 64], __ATOMIC_RELAXED) >> i % 64 & 1))
			return false;
	return true;
}

/* The range that [gpa, gpa+len) lies in, all of it RAM now, or NULL. */
static inline const struct guest_mem_range *guest_mem_find(const struct guest_mem *mem,
							   uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < mem->num_ranges; i++)
		if (range_inside(gpa, len, mem->range[i].gpa, mem->range[i].size))
			return guest_mem_is_plugged(&mem->range[i], gpa - mem->range[i].gpa, len) ?
				       &mem->range[i] :
				       NULL;
	return NULL;
}

/*
 * Host pointer to [gpa, gpa+len), or NULL unless all of it is writable RAM
 * inside one range.
 */
static inline void *guest_mem_ptr(const struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	const struct guest_mem_range *r = guest_mem_find(mem, gpa, len);

	return r && !r->read_only ? r->host + (gpa - r->gpa) : NULL;
}

/* Copy out of / into guest memory, across ranges. 0 or -EFAULT (nothing copied then). */
int guest_mem_read(const struct guest_mem *mem, uint64_t gpa, void *dst, size_t len);
int guest_mem_write(struct guest_mem *mem, uint64_t gpa, const void *src, size_t len);

/*
 * Describe [gpa, gpa+len) by host iovecs, at most @max of them. Returns how
 * many (0 for an empty range), or -EFAULT (not all RAM; read-only when @writable) or -E2BIG.
 */
int guest_mem_iov(const struct guest_mem *mem, uint64_t gpa, uint64_t len, bool writable,
		  struct iovec *iov, unsigned max);

/*
 * Start our own dirty bitmap, all clean; any time, but by one thread at a time. Or stop it,
 * while vCPUs and loops are stopped: they may be just about to mark a page.
 */
int guest_mem_track_dirty(struct guest_mem *mem, bool on);

/* Is our own bitmap kept at this moment? Any thread; the bitmap is all there when it is. */
static inline bool guest_mem_is_tracked(const struct guest_mem *mem)
{
	return __atomic_load_n(&mem->range[0].dirty, __ATOMIC_ACQUIRE);
}

/*
 * Or @num words of that bitmap of range @index, from word @first on, into @words and clear
 * them. Pages are read after this: what is written later will be marked again. Any thread.
 */
void guest_mem_take_dirty(struct guest_mem *mem, unsigned index, uint64_t first, uint64_t num,
			  uint64_t *words);

/*
 * Mark what the monitor itself wrote, *after* the write has completed; a no-op
 * when not tracked. Any thread (atomic or).
 */
void guest_mem_mark_dirty(struct guest_mem *mem, uint64_t gpa, uint64_t len);

/* As above by host addresses, for iovecs handed to the kernel. */
void guest_mem_mark_dirty_host(struct guest_mem *mem, const void *host, uint64_t len);

/*
 * Give the pages of [gpa, gpa+len) back to the host; they read as zero
 * afterwards, whatever the backing, and count as dirty. Only whole pages (of
 * the backing's size) inside are dropped. -EFAULT when not all of it is RAM.
 */
int guest_mem_discard(struct guest_mem *mem, uint64_t gpa, uint64_t len);

/* As above by host address, for a segment of a chain. */
int guest_mem_discard_host(struct guest_mem *mem, void *host, uint64_t len);

/*
 * Which of @num pages (at most 512) from @offset of RAM on, in ascending order of addresses, may
 * hold something: the others were never touched, and read as zero.
 */
void guest_mem_populated(struct guest_mem *mem, uint64_t offset, unsigned num, bool *wanted);
bool guest_mem_page_is_zero(const uint8_t *page);

/* How many of the @num (1 or more) pages at @pages are zero, or not, as the first is: @ret_zero. */
unsigned guest_mem_alike(const uint8_t *pages, unsigned num, bool *ret_zero);

/* What guest_mem_save() wrote. */
struct guest_mem_saved {
	uint64_t size;	/* of the file, most of it holes */
	uint64_t pages; /* that hold something */
};

/*
 * Write RAM to @fd, an empty file: the ranges one after the other, pages that
 * are all zero as holes. While nobody changes it: paused, or in a forked copy. -errno.
 */
int guest_mem_save(struct guest_mem *mem, int fd, struct guest_mem_saved *ret_saved);

/* The same, with RAM beginning at byte @base of the file, a page multiple. */
int guest_mem_save_at(struct guest_mem *mem, int fd, uint64_t base,
		      struct guest_mem_saved *ret_saved);

/*
 * Which pages of RAM a differential file has: a bit each, in the order of the file, in
 * guest_mem_bitmap_words() words.
 */
static inline uint64_t guest_mem_bitmap_words(uint64_t size_bytes)
{
	return ((size_bytes >> PAGE_SHIFT) + 63) / 64;
}

/*
 * As guest_mem_save(), but only the pages with a bit in @pages. @zeros: pages that are all zero are
 * written too, so that the file's holes alone tell which pages it has.
 */
int guest_mem_save_pages(struct guest_mem *mem, int fd, const uint64_t *pages, bool zeros,
			 struct guest_mem_saved *ret_saved);

/*
 * Copy the pages with a bit in @pages from such a file, as large as RAM, over what RAM holds.
 * Before the guest runs. -errno.
 */
int guest_mem_load_pages(struct guest_mem *mem, int fd, const uint64_t *pages);

/*
 * The next run of bits in a bitmap of @num pages from @at on: its first page, and @ret_end behind
 * its last one; @num when there is none.
 */
uint64_t guest_mem_next_run(const uint64_t *pages, uint64_t num, uint64_t at, uint64_t *ret_end);

/*
 * Fill RAM, which is fresh, from such a file: private memory maps it, so that this
 * takes no time and siblings share its pages; other kinds copy it. @fd is borrowed.
 */
int guest_mem_load(struct guest_mem *mem, int fd, struct error *err);

/*
 * Keep what RAM holds now in @fd, an empty memfd that cannot shrink, which becomes a private
 * mapping in the place of RAM: from here on guest_mem_bring_back() knows what was there. Takes as
 * long as copying all of it, and for that time as much room again. @fd is borrowed. While nobody
 * changes RAM; -ENOTSUP for memory that is not private and anonymous.
 */
int guest_mem_keep(struct guest_mem *mem, int fd, struct guest_mem_saved *ret_saved,
		   struct error *err);

/* Is all of RAM such a mapping, of guest_mem_keep() or guest_mem_load(), and nothing over it? */
bool guest_mem_is_kept(const struct guest_mem *mem);

/*
 * Let the pages with a bit in @pages hold again what the file behind them does, also those that
 * were discarded. @ret_runs: in how many pieces. While nobody changes RAM, which is kept; -errno.
 */
int guest_mem_bring_back(struct guest_mem *mem, const uint64_t *pages, uint64_t *ret_runs);

/*
 * Has all of RAM come? Else a page that is missing comes when it is touched, which may take a
 * while, but only in this process: in a copy of it the page would read as zero. Any thread.
 */
static inline bool guest_mem_is_whole(const struct guest_mem *mem)
{
	return !__atomic_load_n(&mem->partial, __ATOMIC_ACQUIRE);
}

/* Total bytes of RAM, with what is plugged later. */
uint64_t guest_mem_size(const struct guest_mem *mem);
/* Without that. */
uint64_t guest_mem_first_size(const struct guest_mem *mem);

/*
 * One past the highest address below 4 GiB, and above 4 GiB (0 when there is none), of what is RAM
 * from the start.
 */
uint64_t guest_mem_low_end(const struct guest_mem *mem);
uint64_t guest_mem_high_end(const struct guest_mem *mem);

#endif
