#include "vmm/core/dirty_log.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/core/guest_mem_later.h"

static int log_range(struct guest_mem_range *r, struct hv *hv, bool on)
{
	if (r->plugged)
		return guest_mem_later_log(r, on);
	return hv->ops->mem_set(hv, r->slot, r->gpa, r->size, r->host, on ? HV_MEM_LOG_DIRTY : 0);
}

static int set_logging(struct guest_mem *mem, struct hv *hv, bool on)
{
	int r = 0;

	for (unsigned i = 0; i < mem->num_ranges && !r; i++)
		r = log_range(&mem->range[i], hv, on);
	return r;
}

/* A bitmap of all RAM is those of the ranges one after the other. */
static bool ranges_end_with_words(const struct guest_mem *mem)
{
	for (unsigned i = 0; i + 1 < mem->num_ranges; i++)
		if (mem->range[i].size % (64 * PAGE_SIZE))
			return false;
	return true;
}

int dirty_log_start(struct guest_mem *mem, struct hv *hv)
{
	int r = guest_mem_track_dirty(mem, true);

	if (!r)
		r = set_logging(mem, hv, true);
	if (r < 0)
		set_logging(mem, hv, false);
	return r;
}

void dirty_log_stop(struct guest_mem *mem, struct hv *hv)
{
	set_logging(mem, hv, false);
}

static int get(struct guest_mem_range *r, struct hv *hv, uint64_t *bitmap)
{
	return r->plugged ? guest_mem_later_dirty_get(r, bitmap) :
			    hv->ops->dirty_get(hv, r->slot, bitmap);
}

int dirty_log_clear(struct guest_mem *mem, struct hv *hv, unsigned index, uint64_t first_page,
		    uint64_t num_pages, const uint64_t *bitmap)
{
	struct guest_mem_range *r = &mem->range[index];

	if (r->plugged)
		return guest_mem_later_dirty_clear(r, first_page, num_pages, bitmap);
	return hv->ops->dirty_clear(hv, r->slot, first_page, num_pages, bitmap);
}

int dirty_log_collect(struct guest_mem *mem, struct hv *hv, unsigned index, uint64_t *words)
{
	struct guest_mem_range *range = &mem->range[index];
	uint64_t num = dirty_log_words(range), tail = (range->size >> PAGE_SHIFT) % 64;
	uint64_t *dirty = calloc(num, sizeof(*dirty));
	int r = dirty ? get(range, hv, dirty) : -ENOMEM;

	if (r < 0) {
		free(dirty);
		return r;
	}
	guest_mem_take_dirty(mem, index, 0, num, dirty);
	/* A log that begins with all pages in it may go on to the end of its last word. */
	if (tail)
		dirty[num - 1] &= (1ull << tail) - 1;
	for (uint64_t i = 0; i < num; i++)
		words[i] |= dirty[i];
	free(dirty);
	return 0;
}

int dirty_log_take(struct guest_mem *mem, struct hv *hv, uint64_t *words)
{
	if (!ranges_end_with_words(mem))
		return -ENOTSUP;
	for (unsigned i = 0; i < mem->num_ranges; i++) {
		const struct guest_mem_range *range = &mem->range[i];
		uint64_t *part = words + dirty_log_first_word(mem, i);
		int r = dirty_log_collect(mem, hv, i, part);

		/* Also what was there before: a page that is clean now costs nothing to clear. */
		if (!r)
			r = dirty_log_clear(mem, hv, i, 0, range->size >> PAGE_SHIFT, part);
		if (r < 0)
			return r;
	}
	return 0;
}
