/*
 * Writing: in place where the cluster is ours alone, else to new clusters.
 *
 * A new cluster is written whole: what the request leaves out of its first and
 * last one is read first, as any reader would see it. Then the L2 table gets the
 * new place. Until then the request has these guest clusters to itself: others
 * that write there wait. Reads see the old content.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/block_qcow2.h"

/* Zeroes written by hand, at once. */
#define MAX_ZERO_BYTES (2 * MiB)

enum { FRONT, BEHIND };

/* ---- who has which clusters ---- */

static struct q2_alloc *first_alloc(struct qcow2 *q, uint64_t first, uint64_t count)
{
	struct q2_alloc *found = NULL;
	struct list *pos;

	list_for_each(pos, &q->allocs) {
		struct q2_alloc *a = list_entry(pos, struct q2_alloc, link);

		if (ranges_overlap(a->first, a->count, first, count) &&
		    (!found || a->first < found->first))
			found = a;
	}
	return found;
}

uint64_t q2_until_alloc(struct qcow2 *q, uint64_t first, uint64_t count)
{
	const struct q2_alloc *a = first_alloc(q, first, count);

	return a ? a->first - first : count;
}

int q2_await_alloc(struct qcow2 *q, uint64_t cluster, struct q2_wait *w)
{
	struct q2_alloc *a = first_alloc(q, cluster, 1);

	if (!a)
		return 0;
	list_add_tail(&a->waiters, &w->link);
	return -EAGAIN;
}

bool q2_reads_zero(const struct qcow2 *q, const struct qcow2_extent *e, uint64_t pos)
{
	switch (e->kind) {
	case QCOW2_ZEROES:
	case QCOW2_ZEROES_HELD:
		return true;
	case QCOW2_UNALLOCATED:
		return !q->backing ||
		       align_down(pos, q->cluster_size) >= q->backing->size_bytes;
	default:
		return false;
	}
}

/* ---- a write to new clusters ---- */

static void alloc_end(struct q2_alloc *a, int res)
{
	struct qcow2 *q = a->part.job->q;

	if (res < 0 && !a->reuse)
		q2_free_clusters(q, a->host >> q->cluster_bits, a->count);
	list_del(&a->link);
	q2_wake(&a->waiters, 0);
	q2_part_done(&a->part, res);
	for (unsigned i = 0; i < ARRAY_SIZE(a->fill_iov); i++)
		free(a->fill_iov[i].iov_base);
	free(a);
}

/* The data is there: now the table may say so. */
static void link_clusters(struct q2_wait *w, int res)
{
	struct q2_alloc *a = container_of(w, struct q2_alloc, wait);
	struct qcow2 *q = a->part.job->q;
	struct q2_spot spot;
	int r = res;

	if (!r)
		r = q2_spot_find(q, a->first << q->cluster_bits, w, &spot);
	if (r == -EAGAIN)
		return;
	for (uint64_t i = 0; !r && i < a->count; i++) {
		uint64_t old = q2_spot_entry(q, &spot, spot.index + i);

		q2_spot_set(q, &spot, spot.index + i,
			    (a->host + (i << q->cluster_bits)) | QCOW2_COPIED);
		if (!a->reuse)
			q2_free_entry(q, old);
	}
	alloc_end(a, r);
}

static void clusters_written(struct block_req *req, int res)
{
	struct q2_alloc *a = container_of(req, struct q2_alloc, part.req);

	link_clusters(&a->wait, res);
}

static void write_clusters(struct q2_alloc *a)
{
	struct block_req *req = &a->part.req;
	struct iovec *iov = a->part.iov;

	/* The part's segments have room for one in front and one behind. */
	if (a->fill_len[FRONT]) {
		iov[0] = a->fill_iov[FRONT];
		req->iov = iov;
		req->iovcnt++;
		req->offset -= a->fill_len[FRONT];
		req->len += a->fill_len[FRONT];
	}
	if (a->fill_len[BEHIND]) {
		((struct iovec *)req->iov)[req->iovcnt++] = a->fill_iov[BEHIND];
		req->len += a->fill_len[BEHIND];
	}
	req->op = BLOCK_WRITE;
	req->done = clusters_written;
	block_submit(a->part.job->q->file, req);
}

static void filled(struct q2_alloc *a, int res)
{
	if (res < 0)
		a->res = res;
	if (--a->filling)
		return;
	if (a->res < 0)
		alloc_end(a, a->res);
	else
		write_clusters(a);
}

static void front_read(struct block_req *req, int res)
{
	filled(container_of(req, struct q2_alloc, fill[FRONT]), res);
}

static void behind_read(struct block_req *req, int res)
{
	filled(container_of(req, struct q2_alloc, fill[BEHIND]), res);
}

/* Prepare the @len bytes at guest offset @pos that the request leaves out. */
static int fill(struct q2_alloc *a, unsigned side, const struct qcow2_extent *e, uint64_t pos,
		uint64_t len, bool fresh)
{
	struct qcow2 *q = a->part.job->q;
	bool zero = q2_reads_zero(q, e, pos);

	if (!len || (zero && fresh))
		return 0;
	a->fill_len[side] = len;
	a->fill_iov[side].iov_base = calloc(1, len);
	a->fill_iov[side].iov_len = len;
	if (!a->fill_iov[side].iov_base)
		return -ENOMEM;
	if (zero)
		return 0;
	a->fill[side] = (struct block_req){
		.op = BLOCK_READ,
		.offset = pos,
		.len = len,
		.iov = &a->fill_iov[side],
		.iovcnt = 1,
		.done = side == FRONT ? front_read : behind_read,
	};
	a->filling++;
	return 0;
}

static int alloc_start(struct q2_job *job, struct q2_alloc *a, const struct qcow2_extent *first,
		       const struct qcow2_extent *last, uint64_t len, bool fresh)
{
	struct qcow2 *q = job->q;
	uint64_t start = a->first << q->cluster_bits;
	uint64_t end = (a->first + a->count) << q->cluster_bits;
	int r;

	len = MIN(len, end - job->pos);
	r = q2_part_init(&a->part, job, job->pos, len, 1);
	if (r < 0) {
		if (!a->reuse)
			q2_free_clusters(q, a->host >> q->cluster_bits, a->count);
		free(a);
		return r;
	}
	a->part.req.offset = a->host + (job->pos - start);
	a->wait.go = link_clusters;
	list_init(&a->waiters);
	list_add_tail(&q->allocs, &a->link);
	a->filling = 1;
	r = fill(a, FRONT, first, start, job->pos - start, fresh);
	if (!r)
		r = fill(a, BEHIND, last, job->pos + len, end - (job->pos + len), fresh);
	/* The rest of it can only come later: this one read has not been started yet. */
	for (unsigned i = 0; !r && i < ARRAY_SIZE(a->fill); i++) {
		if (a->fill[i].done)
			q2_read_inner(q, &a->fill[i]);
	}
	if (r < 0) {
		list_del(&a->link);
		if (!a->reuse)
			q2_free_clusters(q, a->host >> q->cluster_bits, a->count);
		job->pending--;
		free(a->part.iov);
		free(a->fill_iov[FRONT].iov_base);
		free(a->fill_iov[BEHIND].iov_base);
		free(a);
		return r;
	}
	job->pos += len;
	filled(a, 0);
	return 0;
}

/* ---- where a write goes ---- */

static bool in_place(const struct qcow2_extent *e)
{
	return e->kind == QCOW2_DATA && e->copied;
}

static bool held(const struct qcow2_extent *e)
{
	return e->kind == QCOW2_ZEROES_HELD && e->copied;
}

/* How many of @max entries from @spot on are written the way the first is; @ret_last: the last. */
static uint64_t same_way(const struct qcow2 *q, const struct q2_spot *spot, uint64_t max,
			 const struct qcow2_extent *first, struct qcow2_extent *ret_last)
{
	bool has_place = in_place(first) || held(first);
	struct qcow2_extent e;
	uint64_t n;

	*ret_last = *first;
	for (n = 1; n < max; n++) {
		qcow2_entry_decode(&q->h, q2_spot_entry(q, spot, spot->index + n), &e);
		if (has_place ? e.kind != first->kind || !e.copied ||
					e.host != first->host + (n << q->cluster_bits) :
				in_place(&e) || held(&e) || e.kind == QCOW2_BROKEN)
			break;
		*ret_last = e;
	}
	return n;
}

static int write_new(struct q2_job *job, const struct q2_spot *spot, uint64_t max, uint64_t len,
		     const struct qcow2_extent *first)
{
	struct qcow2 *q = job->q;
	uint64_t most = MAX(MAX_ZERO_BYTES >> q->cluster_bits, 1ull);
	struct qcow2_extent last;
	struct q2_alloc *a;
	bool fresh = false;
	int r;

	if (job->req->op == BLOCK_WRITE_ZEROES)
		max = MIN(max, most);
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->first = job->pos >> q->cluster_bits;
	a->count = same_way(q, spot, max, first, &last);
	a->host = first->host;
	a->reuse = held(first);
	if (a->reuse)
		r = q2_place_is_sane(q, a->host, a->count << q->cluster_bits) ? 0 : -EIO;
	else
		r = q2_clusters_get(q, a->count, &job->wait, &a->host, &a->count, &fresh);
	if (r < 0) {
		free(a);
		return r;
	}
	/* It may have become less. */
	same_way(q, spot, a->count, first, &last);
	return alloc_start(job, a, first, &last, len, fresh);
}

int q2_write_some(struct q2_job *job, uint64_t len)
{
	struct qcow2 *q = job->q;
	uint64_t cluster = job->pos >> q->cluster_bits;
	uint64_t max = ((job->pos + len - 1) >> q->cluster_bits) - cluster + 1;
	uint64_t within = job->pos & (q->cluster_size - 1);
	struct qcow2_extent e, last;
	struct q2_spot spot;
	int r = q2_await_alloc(q, cluster, &job->wait);

	if (!r)
		r = q2_spot_make(q, job->pos, &job->wait, &spot);
	if (r < 0)
		return r;
	qcow2_entry_decode(&q->h, q2_spot_entry(q, &spot, spot.index), &e);
	if (e.kind == QCOW2_BROKEN)
		return q2_is_broken(q, job->pos);
	max = q2_until_alloc(q, cluster, MIN(max, (uint64_t)spot.entries - spot.index));
	if (!in_place(&e))
		return write_new(job, &spot, max, len, &e);
	len = MIN(len, (same_way(q, &spot, max, &e, &last) << q->cluster_bits) - within);
	if (!q2_place_is_sane(q, e.host + within, len))
		return -EIO;
	r = q2_part_submit(job, q->file, job->pos, len, e.host + within);
	if (!r)
		job->pos += len;
	return r;
}
