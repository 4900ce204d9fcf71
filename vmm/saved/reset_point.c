#include "vmm/saved/reset_point.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "vmm/core/dirty_log.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/monitor.h"
#include "vmm/saved/reset_devices.h"
#include "vmm/saved/snapshot_track.h"

struct reset_point {
	struct machine *m;
	struct state_writer state;  /* of a point that was set; else empty */
	struct state_set set;	    /* its sections */
	struct state_set *sections; /* those, or the image's that the machine started from */
	uint64_t *changed;	    /* since the point: a bit for each page of RAM, in its order */
	bool logging;		    /* the dirty logs are ours; else all pages may have changed */
};

static uint64_t num_pages(const struct reset_point *p)
{
	return p->m->mem->map_size >> PAGE_SHIFT;
}

/* ---- what can be taken back ---- */

static int check(const struct machine *m, struct error *err)
{
	const struct machine_config *c = m->config;

	if (c->memory_backing != GUEST_MEM_ANON)
		return error_set(err, -ENOTSUP,
				 "a guest with --hugepages or --memory-backend shared cannot be "
				 "reset: its memory cannot be mapped privately");
	if (!guest_mem_is_whole(m->mem))
		return error_set(err, -EBUSY,
				 "some of the guest's memory is still to come: try again later");
	if (machine_was_plugged(m))
		return error_set(err, -ENOTSUP,
				 "a guest that devices were plugged into, or out of, cannot be "
				 "reset: it had others then");
	if (m->num_ports)
		return error_set(err, -ENOTSUP, "a guest of wisp test cannot be reset");
	for (unsigned i = 0; i < c->num_pmems; i++)
		if (!c->pmem[i].read_only)
			return error_set(err, -ENOTSUP,
					 "persistent memory '%s' may be written, which a reset "
					 "could not take back: give it with ',ro'",
					 c->pmem[i].id);
	return 0;
}

/* ---- what changed ---- */

static void forget_changes(struct reset_point *p)
{
	memset(p->changed, 0, guest_mem_bitmap_words(p->m->mem->map_size) * sizeof(*p->changed));
}

static void mark(uint64_t *words, uint64_t page, bool on)
{
	uint64_t bit = 1ull << (page % 64);

	words[page / 64] = on ? words[page / 64] | bit : words[page / 64] & ~bit;
}

/* The logs are ours from here on; they may begin with all pages in them. */
static int begin_logs(struct reset_point *p)
{
	struct machine *m = p->m;
	int r;

	/* What they knew of changes since the last snapshot is gone: the next one is complete. */
	snapshot_track_free(m->track);
	m->track = NULL;
	r = dirty_log_start(m->mem, m->hv);
	if (!r)
		r = dirty_log_take(m->mem, m->hv, p->changed);
	p->logging = !r;
	return r;
}

static int collect(struct reset_point *p)
{
	int r;

	if (p->logging)
		return dirty_log_take(p->m->mem, p->m->hv, p->changed);
	r = begin_logs(p);
	for (uint64_t page = 0; !r && page < num_pages(p); page++)
		mark(p->changed, page, true);
	return r;
}

void reset_point_lose_logs(struct reset_point *p)
{
	if (p)
		p->logging = false;
}

/* ---- a point ---- */

static struct reset_point *new_point(struct machine *m, struct error *err)
{
	struct reset_point *p = calloc(1, sizeof(*p));

	if (p) {
		p->m = m;
		p->sections = &p->set;
		state_writer_init(&p->state);
		p->changed = calloc(guest_mem_bitmap_words(m->mem->map_size), sizeof(*p->changed));
	}
	if (!p || !p->changed) {
		error_set(err, -ENOMEM, "reset point: %m");
		reset_point_free(p);
		return NULL;
	}
	return p;
}

void reset_point_free(struct reset_point *p)
{
	if (!p)
		return;
	state_set_close(&p->set);
	state_writer_done(&p->state);
	free(p->changed);
	free(p);
}

/* What it could go back to is partly gone. */
static void drop_point(struct machine *m)
{
	reset_point_free(m->point);
	m->point = NULL;
}

int reset_point_set(struct machine *m, int fd, int *disk_fds, uint64_t *ret_pages,
		    struct error *err)
{
	uint32_t overlaid = reset_devices_overlaid(m);
	struct guest_mem_saved saved;
	struct reset_point *p;
	int r = check(m, err);

	if (r < 0)
		return r;
	p = new_point(m, err);
	if (!p)
		return -ENOMEM;
	r = machine_save(m, &p->state, err);
	if (!r)
		r = state_set_open(&p->set, p->state.buf, p->state.len, err);
	if (!r) {
		r = begin_logs(p);
		if (r < 0)
			error_set(err, r, "which memory changes cannot be told: %m");
	}
	if (r < 0) {
		reset_point_lose_logs(m->point);
		reset_point_free(p);
		return r;
	}
	/* From here on disks and RAM are of this point, and an earlier one is none any more. */
	drop_point(m);
	r = reset_devices_set(m, disk_fds, err);
	if (!r)
		r = guest_mem_keep(m->mem, fd, &saved, err);
	if (r < 0) {
		/* Or all that it writes from now on would be gone with it, and nobody know. */
		reset_devices_unset(m, overlaid);
		reset_point_free(p);
		return r;
	}
	forget_changes(p);
	m->point = p;
	*ret_pages = saved.pages;
	return 0;
}

/*
 * Did @m begin as the sections and the one file that RAM still is a mapping of say? Its disks were
 * written since, where that may be.
 */
static bool has_start(const struct machine *m)
{
	const struct machine_image *image = m->monitor ? m->monitor->image : NULL;

	return image && !image->mem && !image->arrival && !image->num_layers &&
	       !reset_devices_files(m->config) && guest_mem_is_kept(m->mem);
}

struct reset_point *reset_point_of(struct machine *m, struct error *err)
{
	if (m->point)
		return m->point;
	if (!has_start(m)) {
		error_set(err, -ENOENT,
			  "there is no point to go back to: --set makes the present moment one");
		return NULL;
	}
	if (check(m, err) < 0)
		return NULL;
	m->point = new_point(m, err);
	if (m->point)
		m->point->sections = m->monitor->image->state;
	return m->point;
}

/* ---- back to it ---- */

/* Where @gpa of RAM is in the order of its pages. */
static uint64_t page_at(const struct guest_mem *mem, const struct guest_mem_range *range,
			uint64_t gpa)
{
	return (range->host - mem->map + (gpa - range->gpa)) >> PAGE_SHIFT;
}

/* Every page of what is to be kept has a bit in @ret_words. */
static int find_kept(struct reset_point *p, const struct reset_params *params, uint64_t *words,
		     struct error *err)
{
	const struct guest_mem *mem = p->m->mem;

	for (unsigned i = 0; i < params->num_kept; i++) {
		const struct reset_kept *k = &params->kept[i];
		const struct guest_mem_range *range = guest_mem_find(mem, k->gpa, k->size);
		uint64_t first;

		if (!range || !k->size || (k->gpa | k->size) % PAGE_SIZE)
			return error_usage(err, -EINVAL,
					   "0x%" PRIx64 "+0x%" PRIx64
					   " cannot be kept: it is not whole pages of the guest's "
					   "memory",
					   k->gpa, k->size);
		first = page_at(mem, range, k->gpa);
		for (uint64_t page = 0; page < k->size >> PAGE_SHIFT; page++)
			mark(words, first + page, true);
	}
	return 0;
}

/*
 * The pages to bring back, those that changed but for what is kept, into @back, which has what is
 * kept in it at first. On failure nothing is lost: all pages go back the next time.
 */
static int find_changed(struct reset_point *p, uint64_t *back, struct reset_result *ret)
{
	uint64_t words = guest_mem_bitmap_words(p->m->mem->map_size);
	int r = collect(p);

	if (r < 0) {
		p->logging = false;
		return r;
	}
	ret->pages = 0;
	for (uint64_t i = 0; i < words; i++) {
		uint64_t kept = back[i];

		back[i] = p->changed[i] & ~kept;
		/* What was kept has changed all the same, and is to go back when it is not kept. */
		p->changed[i] &= kept;
		ret->pages += __builtin_popcountll(back[i]);
	}
	return 0;
}

int reset_point_go_back(struct reset_point *p, const struct reset_params *params,
			struct reset_result *ret, struct error *err)
{
	const struct machine_image image = {
		.state = p->sections,
		.memory_fd = -1,
		.clock = params->clock,
		.same_identity = params->identical,
	};
	uint64_t *pages = calloc(guest_mem_bitmap_words(p->m->mem->map_size), sizeof(*pages));
	int r;

	if (!pages)
		return error_set(err, -ENOMEM, "reset: %m");
	r = find_kept(p, params, pages, err);
	if (!r) {
		r = find_changed(p, pages, ret);
		if (r < 0)
			error_set(err, r, "which memory changed cannot be told: %m");
	}
	if (r < 0) {
		free(pages);
		return r;
	}
	/* From here on the machine is neither as it was nor at its point, until all of it is. */
	r = guest_mem_bring_back(p->m->mem, pages, &ret->runs);
	free(pages);
	if (r < 0)
		error_set(err, r, "memory cannot be brought back: %m");
	if (!r)
		r = reset_devices_go_back(p->m, err);
	if (!r)
		r = machine_reload(p->m, &image, err);
	if (r < 0)
		machine_end(p->m, MACHINE_END_INTERNAL, MACHINE_STATUS_INTERNAL, NULL);
	return r;
}
