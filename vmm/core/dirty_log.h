/*
 * What was written in guest memory, as two logs know it: the hypervisor's, of what
 * the guest wrote, and guest_mem's own, of what the monitor wrote. Migration, differential
 * snapshots and reset points read both here; there is one pair a machine, so one of them at a time.
 */
#ifndef WISP_CORE_DIRTY_LOG_H
#define WISP_CORE_DIRTY_LOG_H

#include "vmm/core/guest_mem.h"
#include "vmm/core/hv.h"

/* How many words a bitmap of the pages of @r has. */
static inline uint64_t dirty_log_words(const struct guest_mem_range *r)
{
	return ((r->size >> PAGE_SHIFT) + 63) / 64;
}

/* Where those of range @index begin in a bitmap of all RAM (guest_mem_bitmap_words()). */
static inline uint64_t dirty_log_first_word(const struct guest_mem *mem, unsigned index)
{
	return ((mem->range[index].host - mem->map) >> PAGE_SHIFT) / 64;
}

/*
 * Begin both logs; the hypervisor's may begin with every page in it. The guest may run. Or end the
 * hypervisor's: our own stays, since some thread may be just about to mark a page.
 */
int dirty_log_start(struct guest_mem *mem, struct hv *hv);
void dirty_log_stop(struct guest_mem *mem, struct hv *hv);

/*
 * Or what both have of range @index into @words. Our own is cleared; the hypervisor's is by
 * dirty_log_clear(), before the pages are read. -errno.
 */
int dirty_log_collect(struct guest_mem *mem, struct hv *hv, unsigned index, uint64_t *words);

/*
 * Have the hypervisor's log begin anew for those of @num_pages pages of range @index, from
 * @first_page on, a multiple of 64, that have a bit in @bitmap. -errno.
 */
int dirty_log_clear(struct guest_mem *mem, struct hv *hv, unsigned index, uint64_t first_page,
		    uint64_t num_pages, const uint64_t *bitmap);

/*
 * Or what both have into @words, a bitmap of all RAM, and have them begin anew. While the guest
 * stands still. -ENOTSUP when a range ends within a word, or -errno: then nothing is known.
 */
int dirty_log_take(struct guest_mem *mem, struct hv *hv, uint64_t *words);

#endif
