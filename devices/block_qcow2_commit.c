/*
 * Commits: all metadata that is dirty at one moment goes to the file, in the
 * order that keeps it whole wherever the process or the power ends.
 *
 *   0. refcounts                   then sync: data and counts are there
 *   1. refcount table              then sync
 *   2. L2 tables, L1 table         then sync: what was flushed is found again
 *
 * What is written are copies. While a commit runs, requests go on changing the
 * tables in memory; that belongs to the next one. A commit that fails leaves
 * dirty what it had.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/block_qcow2.h"

enum { STEP_REFS, STEP_REFTABLE, STEP_MAP, NUM_STEPS };

/* A copy on its way to the file. */
struct q2_write {
	struct block_req req;
	struct iovec iov;
	struct list link;
	struct qcow2 *q;
	struct q2_slice *slice; /* or a piece of a table: */
	struct q2_table *table;
	uint64_t piece;
	uint8_t *data;
};

static void write_free(struct q2_write *w, bool redirty)
{
	if (w->slice) {
		w->slice->writing = false;
		if (redirty)
			q2_slice_dirty(w->slice);
	} else if (redirty) {
		w->table->dirty[w->piece] = 1;
		w->table->any_dirty = true;
	}
	list_del(&w->link);
	free(w->data);
	free(w);
}

static struct q2_write *write_new(struct qcow2 *q, unsigned step, uint64_t offset, size_t len)
{
	struct q2_write *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->data = aligned_alloc(Q2_MAX_SLICE, Q2_MAX_SLICE);
	if (!w->data) {
		free(w);
		return NULL;
	}
	w->q = q;
	w->iov = (struct iovec){ w->data, len };
	w->req.op = BLOCK_WRITE;
	w->req.offset = offset;
	w->req.len = len;
	w->req.iov = &w->iov;
	w->req.iovcnt = 1;
	list_add_tail(&q->commit.write[step], &w->link);
	return w;
}

static int copy_slices(struct qcow2 *q, enum q2_slice_kind kind, unsigned step)
{
	while (!list_empty(&q->dirty[kind])) {
		struct q2_slice *s = list_entry(q->dirty[kind].next, struct q2_slice, dirty_link);
		struct q2_write *w = write_new(q, step, s->offset, q->slice_size);

		if (!w)
			return -ENOMEM;
		w->slice = s;
		memcpy(w->data, s->data, q->slice_size);
		list_del(&s->dirty_link);
		s->dirty = false;
		s->writing = true;
	}
	return 0;
}

static int copy_table(struct qcow2 *q, struct q2_table *t, unsigned step)
{
	uint64_t per = q->slice_size / 8;

	if (!t->any_dirty)
		return 0;
	for (uint64_t piece = 0; piece * per < t->entries; piece++) {
		uint64_t n = MIN(per, t->entries - piece * per);
		struct q2_write *w;

		if (!t->dirty[piece])
			continue;
		w = write_new(q, step, t->offset + piece * q->slice_size, n * 8);
		if (!w)
			return -ENOMEM;
		w->table = t;
		w->piece = piece;
		for (uint64_t i = 0; i < n; i++)
			put_be64(w->data + i * 8, t->entry[piece * per + i]);
		t->dirty[piece] = 0;
	}
	t->any_dirty = false;
	return 0;
}

static int copy_all(struct qcow2 *q)
{
	int r = copy_slices(q, Q2_REFS, STEP_REFS);

	if (!r)
		r = copy_table(q, &q->reftable, STEP_REFTABLE);
	if (!r)
		r = copy_slices(q, Q2_MAP, STEP_MAP);
	if (!r)
		r = copy_table(q, &q->l1, STEP_MAP);
	return r;
}

static void start(struct qcow2 *q);

static void commit_end(struct qcow2 *q, int res)
{
	struct q2_commit *c = &q->commit;
	struct list waiters;

	for (unsigned i = 0; i < NUM_STEPS; i++) {
		while (!list_empty(&c->write[i]))
			write_free(list_entry(c->write[i].next, struct q2_write, link), res < 0);
	}
	c->running = false;
	if (res < 0)
		q2_ranges_move(&q->frees, &c->frees);
	else
		q2_free_committed(q, &c->frees);
	list_init(&waiters);
	list_move_all(&waiters, &c->now);
	q2_wake(&waiters, res);
	q2_cache_committed(q, res);
	if (!c->running && !list_empty(&c->next))
		start(q);
}

static void step_on(struct qcow2 *q);

static void synced(struct block_req *req, int res)
{
	struct q2_commit *c = container_of(req, struct q2_commit, sync);
	struct qcow2 *q = container_of(c, struct qcow2, commit);

	if (res < 0 || c->res < 0)
		commit_end(q, res < 0 ? res : c->res);
	else
		step_on(q);
}

static void sync_file(struct qcow2 *q)
{
	q->commit.sync = (struct block_req){ .op = BLOCK_FLUSH, .done = synced };
	block_submit(q->file, &q->commit.sync);
}

static void written(struct block_req *req, int res)
{
	struct q2_write *w = container_of(req, struct q2_write, req);
	struct qcow2 *q = w->q;
	struct q2_commit *c = &q->commit;

	if (res < 0 && !c->res)
		c->res = res;
	if (--c->pending)
		return;
	if (c->res < 0)
		commit_end(q, c->res);
	else
		sync_file(q);
}

static bool nothing_from(const struct q2_commit *c, unsigned step)
{
	while (step < NUM_STEPS && list_empty(&c->write[step]))
		step++;
	return step == NUM_STEPS;
}

static void step_on(struct qcow2 *q)
{
	struct q2_commit *c = &q->commit;
	struct list *pos, *writes;

	/*
	 * Even without new counts, data must be there before what refers to it: a
	 * first step is empty only when nothing refers to anything new.
	 */
	while (c->step < NUM_STEPS && list_empty(&c->write[c->step]) &&
	       (c->step || nothing_from(c, 0)))
		c->step++;
	if (c->step == NUM_STEPS) {
		commit_end(q, 0);
		return;
	}
	if (list_empty(&c->write[c->step])) {
		c->step++;
		sync_file(q);
		return;
	}
	writes = &c->write[c->step++];
	list_for_each(pos, writes)
		c->pending++;
	list_for_each(pos, writes) {
		struct q2_write *w = list_entry(pos, struct q2_write, link);

		w->req.done = written;
		block_submit(q->file, &w->req);
	}
}

static void start(struct qcow2 *q)
{
	struct q2_commit *c = &q->commit;

	c->running = true;
	c->step = 0;
	c->pending = 0;
	list_move_all(&c->now, &c->next);
	q2_ranges_move(&c->frees, &q->frees);
	c->res = copy_all(q);
	/* Nothing but data: one sync does it. And a failure is told later, as any other. */
	if (c->res < 0 || nothing_from(c, 0)) {
		c->step = NUM_STEPS;
		sync_file(q);
		return;
	}
	step_on(q);
}

void q2_commit(struct qcow2 *q, struct q2_wait *w)
{
	if (w)
		list_add_tail(&q->commit.next, &w->link);
	if (!q->commit.running)
		start(q);
}

bool q2_is_dirty(const struct qcow2 *q)
{
	return !list_empty(&q->dirty[Q2_REFS]) || !list_empty(&q->dirty[Q2_MAP]) ||
	       q->l1.any_dirty || q->reftable.any_dirty || q->frees.num;
}
