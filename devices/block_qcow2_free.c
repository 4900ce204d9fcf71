/*
 * Clusters that lost a reference, on their way to be free. Three things must
 * be over before one is given to somebody else: the commit that writes the
 * table without the reference; every request that was under way then, since it
 * may hold the old place; and the hole punched into the file.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/block_qcow2.h"

/* ---- lists of clusters ---- */

static bool ranges_add(struct q2_ranges *r, uint64_t cluster, uint64_t count)
{
	struct q2_range *last = r->num ? &r->at[r->num - 1] : NULL;
	struct q2_range *at;

	if (last && last->cluster + last->count == cluster) {
		last->count += count;
		return true;
	}
	if (!r->at || r->num == r->room) {
		at = realloc(r->at, (r->room * 2 + 8) * sizeof(*at));
		if (!at)
			return false;
		r->at = at;
		r->room = r->room * 2 + 8;
	}
	r->at[r->num++] = (struct q2_range){ cluster, count };
	return true;
}

void q2_ranges_move(struct q2_ranges *to, struct q2_ranges *from)
{
	if (!to->num) {
		free(to->at);
		*to = *from;
	} else {
		for (size_t i = 0; i < from->num; i++)
			ranges_add(to, from->at[i].cluster, from->at[i].count);
		free(from->at);
	}
	*from = (struct q2_ranges){ 0 };
}

/* ---- the one that works ---- */

struct q2_freer {
	struct qcow2 *q;
	struct q2_batch *batch;
	struct q2_wait wait;
	struct block_req punch;
	size_t range;
	uint64_t punched; /* clusters at the range's start whose hole is there */
};

static void next_batch(struct qcow2 *q);

static void freer_end(struct q2_freer *f)
{
	struct qcow2 *q = f->q;

	q->freer = NULL;
	free(f->batch->ranges.at);
	free(f->batch);
	free(f);
	next_batch(q);
	if (!q->freer)
		q2_freer_idle(q);
}

static void freer_go(struct q2_wait *w, int res);

static void hole_punched(struct block_req *req, int res)
{
	struct q2_freer *f = container_of(req, struct q2_freer, punch);

	/* It only gives space back: without it they are free all the same. */
	f->punched = req->len >> f->q->cluster_bits;
	freer_go(&f->wait, 0);
}

/*
 * The next clusters of @range, in one slice of refcounts: 1 when a hole is on its
 * way, 0 when they are done, or -errno.
 */
static int free_some(struct q2_freer *f, struct q2_range *range)
{
	struct qcow2 *q = f->q;
	unsigned index, order = q->h.refcount_order, n = 0;
	uint64_t in_slice, refs;
	struct q2_slice *s;
	int r = q2_refcount_find(q, range->cluster, &f->wait, &s, &index);

	if (r < 0)
		return r;
	in_slice = MIN(range->count, (uint64_t)(q->slice_size * 8 >> order) - index);
	if (!f->punched) {
		while (n < in_slice && qcow2_refcount_get(s->data, order, index + n) == 1)
			n++;
		if (n) {
			f->punch = (struct block_req){
				.op = BLOCK_DISCARD,
				.offset = range->cluster << q->cluster_bits,
				.len = (uint64_t)n << q->cluster_bits,
				.done = hole_punched,
			};
			block_submit(q->file, &f->punch);
			return 1;
		}
		n = 1;
	} else {
		n = f->punched;
		f->punched = 0;
	}
	for (unsigned i = 0; i < n; i++) {
		refs = qcow2_refcount_get(s->data, order, index + i);
		/* Nobody counted it: a corrupt image, and no reason to count below zero. */
		if (!refs)
			continue;
		qcow2_refcount_set(s->data, order, index + i, refs - 1);
		if (refs == 1)
			q->hint = MIN(q->hint, range->cluster + i);
	}
	q2_slice_dirty(s);
	range->cluster += n;
	range->count -= n;
	return 0;
}

static void freer_go(struct q2_wait *w, int res)
{
	struct q2_freer *f = container_of(w, struct q2_freer, wait);
	struct q2_ranges *ranges = &f->batch->ranges;
	int r = res;

	while (!r && f->range < ranges->num) {
		if (!ranges->at[f->range].count)
			f->range++;
		else
			r = free_some(f, &ranges->at[f->range]);
	}
	if (r > 0 || r == -EAGAIN)
		return;
	if (r < 0)
		log_limited(&f->q->complaints, LOG_WARN,
			    "disk '%s': clusters stay in use that could be free: %s", f->q->b.path,
			    strerror(-r));
	freer_end(f);
}

static void next_batch(struct qcow2 *q)
{
	struct q2_batch *batch;
	struct q2_freer *f;

	if (q->freer || list_empty(&q->batches))
		return;
	batch = list_entry(q->batches.next, struct q2_batch, link);
	/* The oldest request is from before: it ends by calling us. */
	if (!list_empty(&q->jobs) &&
	    list_entry(q->jobs.next, struct q2_job, link)->seq < batch->seq)
		return;
	f = calloc(1, sizeof(*f));
	if (!f)
		return; /* the next request that ends tries again */
	list_del(&batch->link);
	f->q = q;
	f->batch = batch;
	f->wait.go = freer_go;
	q->freer = f;
	freer_go(&f->wait, 0);
}

void q2_free_run(struct qcow2 *q)
{
	next_batch(q);
}

/* ---- giving clusters to it ---- */

void q2_free_clusters(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
	/* Without memory they stay counted: leaked, and found by a check. */
	ranges_add(&q->frees, cluster, count);
}

/* Not what a corrupt entry pointed to: freeing it would punch a hole into header or tables. */
static void free_place(struct qcow2 *q, uint64_t host, uint64_t len)
{
	uint64_t first = host >> q->cluster_bits, last = (host + len - 1) >> q->cluster_bits;
	uint64_t count = last - first + 1;

	if (q2_place_is_sane(q, first << q->cluster_bits, count << q->cluster_bits))
		q2_free_clusters(q, first, count);
}

void q2_free_entry(struct qcow2 *q, uint64_t entry)
{
	struct qcow2_extent e;

	qcow2_entry_decode(&q->h, entry, &e);
	switch (e.kind) {
	case QCOW2_DATA:
	case QCOW2_ZEROES_HELD:
		free_place(q, e.host, q->cluster_size);
		break;
	case QCOW2_DEFLATED:
		/* It counts once in each cluster that it touches. */
		free_place(q, e.host, e.bytes);
		if (q->inflated_host == e.host)
			q->inflated_host = 0;
		break;
	default:
		break;
	}
}

void q2_free_done(struct qcow2 *q)
{
	while (!list_empty(&q->batches)) {
		struct q2_batch *batch = list_entry(q->batches.next, struct q2_batch, link);

		list_del(&batch->link);
		free(batch->ranges.at);
		free(batch);
	}
	free(q->frees.at);
}

void q2_free_committed(struct qcow2 *q, struct q2_ranges *ranges)
{
	struct q2_batch *batch;

	if (!ranges->num)
		return;
	/* Two waiting are enough: the second one waits for more requests then. */
	if (!list_empty(&q->batches) && q->batches.next != q->batches.prev) {
		batch = list_entry(q->batches.prev, struct q2_batch, link);
	} else {
		batch = calloc(1, sizeof(*batch));
		if (!batch) {
			ranges->num = 0;
			return;
		}
		list_add_tail(&q->batches, &batch->link);
	}
	q2_ranges_move(&batch->ranges, ranges);
	batch->seq = q->next_seq;
	next_batch(q);
}
