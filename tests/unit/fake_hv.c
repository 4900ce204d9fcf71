#include "tests/unit/fake_hv.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "tests/unit/fake_hv_parts.h"

void *fake_hv_need(void *p)
{
	if (!p)
		abort();
	return p;
}

int fake_hv_failure(struct fake_hv *f, enum fake_hv_op op)
{
	int r = f->fail[op].r;

	if (!r)
		return 0;
	if (f->fail[op].skip) {
		f->fail[op].skip--;
		return 0;
	}
	f->fail[op].r = 0;
	return r;
}

void fake_hv_fail(struct hv *hv, enum fake_hv_op op, unsigned skip, int r)
{
	struct fake_hv *f = to_fake(hv);

	pthread_mutex_lock(&f->lock);
	f->fail[op].skip = skip;
	f->fail[op].r = r;
	pthread_mutex_unlock(&f->lock);
}

void fake_hv_wake_vcpus(struct fake_hv *f)
{
	for (unsigned i = 0; i < MAX_VCPUS; i++)
		if (f->vcpu[i])
			eventfd_write(f->vcpu[i]->wake_fd, 1);
}

/* ---- doorbells ---- */

static bool same_doorbell(const struct hv_ioeventfd *a, const struct hv_ioeventfd *b)
{
	return a->addr == b->addr && a->pio == b->pio && a->len == b->len &&
	       a->match == b->match && (!a->match || a->value == b->value);
}

static int fake_ioeventfd(struct hv *hv, const struct hv_ioeventfd *e, bool assign)
{
	struct fake_hv *f = to_fake(hv);
	int r;

	pthread_mutex_lock(&f->lock);
	r = fake_hv_failure(f, FAKE_HV_IOEVENTFD);
	if (r)
		goto out;
	for (unsigned i = 0; i < f->num_doorbells; i++) {
		if (!same_doorbell(&f->doorbell[i], e))
			continue;
		if (assign)
			r = -EEXIST;
		else
			f->doorbell[i] = f->doorbell[--f->num_doorbells];
		goto out;
	}
	if (!assign) {
		r = -ENOENT;
	} else {
		if (f->num_doorbells == MAX_BOUND)
			abort();
		f->doorbell[f->num_doorbells++] = *e;
	}
out:
	pthread_mutex_unlock(&f->lock);
	return r;
}

static bool doorbell_matches(const struct hv_ioeventfd *e, bool pio, uint64_t addr, unsigned len,
			     uint64_t value)
{
	return e->pio == pio && e->addr == addr && (!e->len || e->len == len) &&
	       (!e->match || e->value == value);
}

bool fake_hv_ring_doorbell(struct fake_hv *f, const struct hv_exit *exit)
{
	bool rung = false;
	uint64_t value = 0;

	if ((exit->kind != HV_EXIT_PIO_WRITE && exit->kind != HV_EXIT_MMIO_WRITE) ||
	    exit->count != 1)
		return false;
	memcpy(&value, exit->data, MIN(exit->size, 8u));
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->num_doorbells && !rung; i++) {
		rung = doorbell_matches(&f->doorbell[i], exit->kind == HV_EXIT_PIO_WRITE,
					exit->addr, exit->size, value);
		if (rung)
			eventfd_write(f->doorbell[i].fd, 1);
	}
	pthread_mutex_unlock(&f->lock);
	return rung;
}

bool fake_hv_has_ioeventfd(struct hv *hv, bool pio, uint64_t addr, uint64_t value)
{
	struct fake_hv *f = to_fake(hv);
	bool found = false;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->num_doorbells; i++)
		found |= doorbell_matches(&f->doorbell[i], pio, addr, f->doorbell[i].len, value);
	pthread_mutex_unlock(&f->lock);
	return found;
}

unsigned fake_hv_num_ioeventfds(struct hv *hv)
{
	struct fake_hv *f = to_fake(hv);
	unsigned n;

	pthread_mutex_lock(&f->lock);
	n = f->num_doorbells;
	pthread_mutex_unlock(&f->lock);
	return n;
}

/* ---- memory ---- */

static uint64_t bitmap_words(const struct slot *s)
{
	return ((s->size >> PAGE_SHIFT) + 63) / 64;
}

static int fake_mem_set(struct hv *hv, unsigned slot, uint64_t gpa, uint64_t size, void *host,
			unsigned flags)
{
	struct fake_hv *f = to_fake(hv);
	struct slot *s;
	int r;

	if (slot >= MAX_SLOTS || (gpa | size | (uintptr_t)host) & (PAGE_SIZE - 1))
		return -EINVAL;
	s = &f->slot[slot];
	pthread_mutex_lock(&f->lock);
	r = fake_hv_failure(f, FAKE_HV_MEM_SET);
	for (unsigned i = 0; i < MAX_SLOTS && !r; i++)
		if (i != slot && size && f->slot[i].size &&
		    ranges_overlap(gpa, size, f->slot[i].gpa, f->slot[i].size))
			r = -EEXIST;
	if (!r) {
		free(s->dirty);
		*s = (struct slot){ .gpa = gpa, .size = size, .host = host, .flags = flags };
		if (size && flags & HV_MEM_LOG_DIRTY)
			s->dirty = fake_hv_need(calloc(bitmap_words(s), sizeof(uint64_t)));
		if (s->dirty && f->params.log_begins_full)
			memset(s->dirty, 0xff, bitmap_words(s) * sizeof(uint64_t));
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int fake_dirty_get(struct hv *hv, unsigned slot, uint64_t *bitmap)
{
	struct fake_hv *f = to_fake(hv);
	int r;

	if (slot >= MAX_SLOTS)
		return -EINVAL;
	pthread_mutex_lock(&f->lock);
	r = fake_hv_failure(f, FAKE_HV_DIRTY_GET);
	if (!r && !f->slot[slot].dirty)
		r = -ENOENT;
	if (!r)
		memcpy(bitmap, f->slot[slot].dirty, bitmap_words(&f->slot[slot]) * 8);
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int fake_dirty_clear(struct hv *hv, unsigned slot, uint64_t first_page, uint32_t num_pages,
			    const uint64_t *bitmap)
{
	struct fake_hv *f = to_fake(hv);
	struct slot *s;
	int r = 0;

	if (slot >= MAX_SLOTS)
		return -EINVAL;
	s = &f->slot[slot];
	pthread_mutex_lock(&f->lock);
	if (!s->dirty)
		r = -ENOENT;
	else if (first_page % 64 || !range_inside(first_page, num_pages, 0, s->size >> PAGE_SHIFT))
		r = -EINVAL;
	/* Bit 0 of @bitmap is @first_page. */
	for (uint32_t i = 0; i < num_pages && !r; i++)
		if (bitmap[i / 64] >> (i % 64) & 1)
			s->dirty[(first_page + i) / 64] &= ~(1ull << (i % 64));
	pthread_mutex_unlock(&f->lock);
	return r;
}

static struct slot *find_slot(struct fake_hv *f, uint64_t gpa, size_t len)
{
	for (unsigned i = 0; i < MAX_SLOTS; i++)
		if (f->slot[i].size && range_inside(gpa, len, f->slot[i].gpa, f->slot[i].size))
			return &f->slot[i];
	return NULL;
}

int fake_hv_read(struct hv *hv, uint64_t gpa, void *dst, size_t len)
{
	struct fake_hv *f = to_fake(hv);
	const struct slot *s;

	pthread_mutex_lock(&f->lock);
	s = find_slot(f, gpa, len);
	if (s)
		memcpy(dst, s->host + (gpa - s->gpa), len);
	pthread_mutex_unlock(&f->lock);
	return s ? 0 : -EFAULT;
}

int fake_hv_write(struct hv *hv, uint64_t gpa, const void *src, size_t len)
{
	struct fake_hv *f = to_fake(hv);
	struct slot *s;
	int r = 0;

	pthread_mutex_lock(&f->lock);
	s = find_slot(f, gpa, len);
	if (!s) {
		r = -EFAULT;
	} else if (s->flags & HV_MEM_READ_ONLY) {
		r = -EPERM;
	} else if (len) {
		uint64_t first = (gpa - s->gpa) >> PAGE_SHIFT;
		uint64_t last = (gpa - s->gpa + len - 1) >> PAGE_SHIFT;

		memcpy(s->host + (gpa - s->gpa), src, len);
		for (uint64_t page = first; s->dirty && page <= last; page++)
			s->dirty[page / 64] |= 1ull << (page % 64);
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

/* ---- life ---- */

static void fake_free(struct hv *hv)
{
	struct fake_hv *f = to_fake(hv);

	if (!hv)
		return;
	for (unsigned i = 0; i < MAX_SLOTS; i++)
		free(f->slot[i].dirty);
	free(f->routes);
	free(f->saved_vm);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

struct hv *fake_hv_create(const struct fake_hv_params *params)
{
	struct fake_hv *f = fake_hv_need(calloc(1, sizeof(*f)));

	f->ops = (struct hv_ops){
		.free = fake_free,
		.mem_set = fake_mem_set,
		.dirty_get = fake_dirty_get,
		.dirty_clear = fake_dirty_clear,
		.ioeventfd = fake_ioeventfd,
	};
	fake_hv_irq_ops(&f->ops);
	fake_hv_vcpu_ops(&f->ops);
	f->hv.ops = &f->ops;
	if (params)
		f->params = *params;
	pthread_mutex_init(&f->lock, NULL);
	return &f->hv;
}
