#include "vmm/core/guest_mem_later.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "vmm/core/log.h"

struct slot {
	uint64_t blocks; /* of it that are plugged */
	bool there;	 /* the hypervisor has it */
};

struct guest_mem_later {
	struct guest_mem_plugged plugged; /* first: guest_mem.h looks into it */
	struct hv *hv;
	uint64_t slot_bytes;
	unsigned num;
	bool logged;
	pthread_mutex_t lock; /* what is there, and @logged */
	struct slot slot[GUEST_MEM_LATER_SLOTS];
};

static struct guest_mem_later *later_of(const struct guest_mem_range *r)
{
	return (struct guest_mem_later *)r->plugged;
}

/* The range that [gpa, gpa+len) lies in, if it is one of ours; else NULL. */
static struct guest_mem_range *range_of(struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < mem->num_ranges; i++)
		if (mem->range[i].plugged &&
		    range_inside(gpa, len, mem->range[i].gpa, mem->range[i].size))
			return &mem->range[i];
	return NULL;
}

/* ---- life ---- */

void guest_mem_later_free(struct guest_mem_plugged *p)
{
	struct guest_mem_later *l = (struct guest_mem_later *)p;

	if (!l)
		return;
	pthread_mutex_destroy(&l->lock);
	free(p->blocks);
	free(l);
}

static int create(struct guest_mem_range *r, struct hv *hv, uint64_t block_bytes,
		  uint64_t slot_bytes)
{
	struct guest_mem_later *l = calloc(1, sizeof(*l));
	uint64_t num = r->size / slot_bytes + (r->size % slot_bytes != 0);

	if (!l || num > GUEST_MEM_LATER_SLOTS) {
		free(l);
		return l ? -EINVAL : -ENOMEM;
	}
	l->plugged.block_bytes = block_bytes;
	l->plugged.blocks = calloc((r->size / block_bytes + 63) / 64, sizeof(uint64_t));
	l->hv = hv;
	l->slot_bytes = slot_bytes;
	l->num = num;
	pthread_mutex_init(&l->lock, NULL);
	if (!l->plugged.blocks) {
		guest_mem_later_free(&l->plugged);
		return -ENOMEM;
	}
	r->plugged = &l->plugged;
	return 0;
}

int guest_mem_later_create(struct guest_mem *mem, struct hv *hv, uint64_t block_bytes,
			   uint64_t slot_bytes)
{
	int r = 0;

	for (unsigned i = 0; i < mem->num_ranges && !r; i++) {
		if (!mem->range[i].is_later)
			continue;
		guest_mem_later_free(mem->range[i].plugged);
		mem->range[i].plugged = NULL;
		r = create(&mem->range[i], hv, block_bytes, slot_bytes);
	}
	return r;
}

/* ---- slots; the caller has the lock ---- */

static uint64_t size_of_slot(const struct guest_mem_range *r, unsigned i)
{
	uint64_t slot_bytes = later_of(r)->slot_bytes;

	return MIN(slot_bytes, r->size - i * slot_bytes);
}

static int set_slot(const struct guest_mem_range *r, unsigned i, bool there)
{
	struct guest_mem_later *l = later_of(r);
	uint64_t at = i * l->slot_bytes;
	int ret = l->hv->ops->mem_set(l->hv, GUEST_MEM_LATER_FIRST_SLOT + i, r->gpa + at,
				      there ? size_of_slot(r, i) : 0, r->host + at,
				      there && l->logged ? HV_MEM_LOG_DIRTY : 0);

	if (!ret)
		l->slot[i].there = there;
	return ret;
}

/* One that cannot go is in no one's way. */
static void close_slot(const struct guest_mem_range *r, unsigned i)
{
	int ret = set_slot(r, i, false);

	if (ret < 0)
		log_warn("memory that is not plugged stays in the guest's reach: %s",
			 strerror(-ret));
}

/* Those that [at, at+len) of @r lies in and that are not there: all, or none and -errno. */
static int open_slots(const struct guest_mem_range *r, uint64_t at, uint64_t len)
{
	struct guest_mem_later *l = later_of(r);
	unsigned first = at / l->slot_bytes, last = (at + len - 1) / l->slot_bytes;
	int ret = 0;

	for (unsigned i = first; i <= last && !ret; i++)
		if (!l->slot[i].there)
			ret = set_slot(r, i, true);
	for (unsigned i = first; i <= last && ret < 0; i++)
		if (l->slot[i].there && !l->slot[i].blocks)
			close_slot(r, i);
	return ret;
}

/* ---- blocks ---- */

static void set_blocks(const struct guest_mem_range *r, uint64_t at, uint64_t len, bool plugged)
{
	struct guest_mem_later *l = later_of(r);

	for (uint64_t end = at + len; at < end; at += l->plugged.block_bytes) {
		uint64_t block = at / l->plugged.block_bytes, bit = 1ull << block % 64;
		uint64_t *word = &l->plugged.blocks[block / 64];

		if (plugged)
			__atomic_fetch_or(word, bit, __ATOMIC_RELAXED);
		else
			__atomic_fetch_and(word, ~bit, __ATOMIC_RELAXED);
		l->slot[at / l->slot_bytes].blocks += plugged ? 1 : -1;
	}
}

int guest_mem_plug(struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	struct guest_mem_range *r = range_of(mem, gpa, len);
	int ret;

	if (!r)
		return 0;
	pthread_mutex_lock(&later_of(r)->lock);
	ret = open_slots(r, gpa - r->gpa, len);
	if (!ret)
		set_blocks(r, gpa - r->gpa, len, true);
	pthread_mutex_unlock(&later_of(r)->lock);
	return ret;
}

/*
 * Slots with nothing plugged go. A guest that wrote where it had plugged nothing has memory there,
 * and what the hypervisor knew to be changed is lost: all of it goes back, and counts as changed.
 */
static void close_slots(struct guest_mem *mem, const struct guest_mem_range *r, uint64_t at,
			uint64_t len)
{
	struct guest_mem_later *l = later_of(r);

	for (unsigned i = at / l->slot_bytes; i <= (at + len - 1) / l->slot_bytes; i++) {
		if (!l->slot[i].there || l->slot[i].blocks)
			continue;
		close_slot(r, i);
		guest_mem_discard_host(mem, r->host + i * l->slot_bytes, size_of_slot(r, i));
	}
}

int guest_mem_unplug(struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	struct guest_mem_range *r = range_of(mem, gpa, len);
	int ret = guest_mem_discard(mem, gpa, len);

	if (ret < 0 || !r)
		return ret;
	pthread_mutex_lock(&later_of(r)->lock);
	set_blocks(r, gpa - r->gpa, len, false);
	close_slots(mem, r, gpa - r->gpa, len);
	pthread_mutex_unlock(&later_of(r)->lock);
	return 0;
}

static int plug_exactly(struct guest_mem_range *r, const uint64_t *plugged)
{
	struct guest_mem_later *l = later_of(r);
	uint64_t block_bytes = l->plugged.block_bytes;
	int ret = 0;

	for (uint64_t i = 0; i < r->size / block_bytes; i++) {
		bool is = l->plugged.blocks[i / 64] >> i % 64 & 1;
		bool wanted = plugged[i / 64] >> i % 64 & 1;

		if (is != wanted)
			set_blocks(r, i * block_bytes, block_bytes, wanted);
	}
	for (unsigned i = 0; i < l->num && !ret; i++) {
		if (l->slot[i].blocks && !l->slot[i].there)
			ret = set_slot(r, i, true);
		else if (!l->slot[i].blocks && l->slot[i].there)
			close_slot(r, i);
	}
	return ret;
}

int guest_mem_plug_exactly(struct guest_mem *mem, const uint64_t *plugged)
{
	int ret = 0;

	for (unsigned i = 0; i < mem->num_ranges && !ret; i++) {
		struct guest_mem_range *r = &mem->range[i];

		if (!r->plugged)
			continue;
		pthread_mutex_lock(&later_of(r)->lock);
		ret = plug_exactly(r, plugged);
		pthread_mutex_unlock(&later_of(r)->lock);
	}
	return ret;
}

/* ---- the log of changes ---- */

int guest_mem_later_log(struct guest_mem_range *r, bool on)
{
	struct guest_mem_later *l = later_of(r);
	int ret = 0;

	pthread_mutex_lock(&l->lock);
	l->logged = on;
	for (unsigned i = 0; i < l->num && !ret; i++)
		if (l->slot[i].there)
			ret = set_slot(r, i, true);
	pthread_mutex_unlock(&l->lock);
	return ret;
}

int guest_mem_later_dirty_get(struct guest_mem_range *r, uint64_t *bitmap)
{
	struct guest_mem_later *l = later_of(r);
	uint64_t words = (l->slot_bytes >> PAGE_SHIFT) / 64;
	int ret = 0;

	pthread_mutex_lock(&l->lock);
	for (unsigned i = 0; i < l->num && !ret; i++)
		if (l->slot[i].there)
			ret = l->hv->ops->dirty_get(l->hv, GUEST_MEM_LATER_FIRST_SLOT + i,
						    bitmap + i * words);
	pthread_mutex_unlock(&l->lock);
	return ret;
}

int guest_mem_later_dirty_clear(struct guest_mem_range *r, uint64_t first_page, uint64_t num_pages,
				const uint64_t *bitmap)
{
	struct guest_mem_later *l = later_of(r);
	uint64_t slot_pages = l->slot_bytes >> PAGE_SHIFT;
	int ret = 0;

	pthread_mutex_lock(&l->lock);
	while (num_pages && !ret) {
		unsigned i = first_page / slot_pages;
		uint64_t in_slot = first_page % slot_pages;
		uint64_t num = MIN(num_pages, slot_pages - in_slot);

		if (l->slot[i].there)
			ret = l->hv->ops->dirty_clear(l->hv, GUEST_MEM_LATER_FIRST_SLOT + i,
						      in_slot, num, bitmap);
		first_page += num;
		num_pages -= num;
		bitmap += num / 64;
	}
	pthread_mutex_unlock(&l->lock);
	return ret;
}
