/*
 * L2 tables and refcount blocks in memory: slices of a page, so that a big
 * cluster of table costs no more than what is used of it. Bounded; the one that
 * was not used for longest goes, and one that is dirty only after a commit.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/block_qcow2.h"

#define MIN_SLICES 32u
#define MAX_BYTES  (4 * MiB) /* maps 32 GiB of disk at once */

void q2_wake(struct list *waiters, int res)
{
	struct list batch;

	list_init(&batch);
	list_move_all(&batch, waiters);
	while (!list_empty(&batch)) {
		struct q2_wait *w = list_entry(batch.next, struct q2_wait, link);

		list_del(&w->link);
		w->go(w, res);
	}
}

void q2_cache_init(struct qcow2 *q)
{
	/* As many as map the whole disk, and an eighth more for refcounts. */
	uint64_t mapped = (uint64_t)(q->slice_size / 8) << q->cluster_bits;
	uint64_t want = MAX(q->b.size_bytes / mapped * 9 / 8, (uint64_t)MIN_SLICES);

	q->max_slices = MIN(want, MAX_BYTES / q->slice_size);
	for (unsigned i = 0; i < Q2_HASH; i++)
		list_init(&q->hash[i]);
	list_init(&q->lru);
	list_init(&q->dirty[Q2_REFS]);
	list_init(&q->dirty[Q2_MAP]);
	list_init(&q->room_waiters);
}

static void slice_free(struct q2_slice *s)
{
	list_del(&s->hash);
	list_del(&s->lru);
	list_del(&s->dirty_link);
	s->q->num_slices--;
	free(s->data);
	free(s);
}

void q2_cache_done(struct qcow2 *q)
{
	while (!list_empty(&q->lru))
		slice_free(list_entry(q->lru.next, struct q2_slice, lru));
}

static struct list *bucket(struct qcow2 *q, uint64_t offset)
{
	uint64_t n = offset / q->slice_size;

	/* Slices of one table are neighbours, tables are a cluster apart or far away. */
	return &q->hash[(n ^ n >> 8 ^ n >> 16) % Q2_HASH];
}

static struct q2_slice *lookup(struct qcow2 *q, uint64_t offset)
{
	struct list *head = bucket(q, offset), *pos;

	list_for_each(pos, head) {
		struct q2_slice *s = list_entry(pos, struct q2_slice, hash);

		if (s->offset == offset)
			return s;
	}
	return NULL;
}

/*
 * While no commit succeeds, as on a full host, what is dirty stays: there is room beside it for as
 * much again, so that what is in the image can still be read.
 */
static bool has_room(const struct qcow2 *q)
{
	return q->num_slices < q->max_slices * (q->commit.failed ? 2 : 1);
}

static bool make_room(struct qcow2 *q)
{
	struct list *pos = q->lru.next;

	while (pos != &q->lru && q->num_slices >= q->max_slices) {
		struct q2_slice *s = list_entry(pos, struct q2_slice, lru);

		pos = pos->next;
		if (!s->loading && !s->dirty && !s->writing)
			slice_free(s);
	}
	return has_room(q);
}

void q2_cache_committed(struct qcow2 *q, int res)
{
	q->commit.failed = res < 0;
	q2_wake(&q->room_waiters, has_room(q) ? 0 : res);
}

static void loaded(struct block_req *req, int res)
{
	struct q2_slice *s = container_of(req, struct q2_slice, req);
	struct qcow2 *q = s->q;
	struct list waiters;

	list_init(&waiters);
	list_move_all(&waiters, &s->waiters);
	s->loading = false;
	if (res < 0)
		slice_free(s);
	/* The slice may go in any of these calls. */
	q2_wake(&waiters, res);
	q2_wake(&q->room_waiters, 0);
}

static struct q2_slice *slice_new(struct qcow2 *q, uint64_t offset, enum q2_slice_kind kind)
{
	struct q2_slice *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	/* Aligned for direct I/O. */
	s->data = aligned_alloc(q->slice_size, q->slice_size);
	if (!s->data) {
		free(s);
		return NULL;
	}
	s->q = q;
	s->offset = offset;
	s->kind = kind;
	list_init(&s->waiters);
	list_init(&s->dirty_link);
	list_add_tail(bucket(q, offset), &s->hash);
	list_add_tail(&q->lru, &s->lru);
	q->num_slices++;
	return s;
}

static void load(struct q2_slice *s)
{
	s->loading = true;
	s->iov = (struct iovec){ s->data, s->q->slice_size };
	s->req = (struct block_req){
		.op = BLOCK_READ,
		.offset = s->offset,
		.len = s->q->slice_size,
		.iov = &s->iov,
		.iovcnt = 1,
		.done = loaded,
	};
	block_submit(s->q->file, &s->req);
}

int q2_slice_get(struct qcow2 *q, uint64_t offset, enum q2_slice_kind kind, struct q2_wait *w,
		 struct q2_slice **ret_s)
{
	struct q2_slice *s = lookup(q, offset);

	/* Only in a corrupt image is one place a table of both kinds. */
	if (s && s->kind != kind) {
		log_limited(&q->complaints, LOG_ERROR,
			    "disk '%s': corrupt: two tables at offset %#llx", q->b.path,
			    (unsigned long long)offset);
		return -EIO;
	}
	if (!s && !make_room(q)) {
		list_add_tail(&q->room_waiters, &w->link);
		/* Whoever waits is woken by it, or by a load that ends. */
		if (!q->commit.running && q2_is_dirty(q))
			q2_commit(q, NULL);
		return -EAGAIN;
	}
	if (!s) {
		s = slice_new(q, offset, kind);
		if (!s)
			return -ENOMEM;
		load(s);
	}
	if (s->loading) {
		list_add_tail(&s->waiters, &w->link);
		return -EAGAIN;
	}
	list_del(&s->lru);
	list_add_tail(&q->lru, &s->lru);
	*ret_s = s;
	return 0;
}

void q2_slice_dirty(struct q2_slice *s)
{
	if (s->dirty)
		return;
	s->dirty = true;
	list_add_tail(&s->q->dirty[s->kind], &s->dirty_link);
}

void q2_cache_drop(struct qcow2 *q, uint64_t offset, uint64_t len)
{
	for (uint64_t at = offset; at < offset + len; at += q->slice_size) {
		struct q2_slice *s = lookup(q, at);

		if (s && !s->loading && !s->dirty && !s->writing)
			slice_free(s);
	}
}
