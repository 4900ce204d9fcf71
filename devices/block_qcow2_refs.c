/*
 * Host clusters: how often each is referred to, and finding some that are free.
 *
 * Refcount blocks are in the cache by slices, the table of them is in memory.
 * Both grow with the file: a new block counts itself, and a new table lies with
 * the blocks that count it in one stretch behind all that was counted before.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/block_qcow2.h"

/* ---- zeroes ---- */

/* @len / Q2_ZEROES segments and one for the rest, all of them zeroes. NULL without memory. */
static struct iovec *zero_iov(struct qcow2 *q, uint64_t len, unsigned *ret_n)
{
	unsigned n = (len + Q2_ZEROES - 1) / Q2_ZEROES;
	struct iovec *iov = malloc(n * sizeof(*iov));

	if (!iov)
		return NULL;
	for (unsigned i = 0; i < n; i++) {
		iov[i] = (struct iovec){ q->zeroes, MIN(len, Q2_ZEROES) };
		len -= iov[i].iov_len;
	}
	*ret_n = n;
	return iov;
}

struct zeroing {
	struct block_req req;
	struct iovec *iov;
	struct block_req *outer;
};

static void zeroed(struct block_req *req, int res)
{
	struct zeroing *z = container_of(req, struct zeroing, req);
	struct block_req *outer = z->outer;

	free(z->iov);
	free(z);
	outer->done(outer, res);
}

int q2_zero_cluster(struct qcow2 *q, struct block_req *req, uint64_t host)
{
	struct zeroing *z = calloc(1, sizeof(*z));

	if (!z)
		return -ENOMEM;
	/* Written, not punched: the file must reach as far as what it refers to. */
	z->iov = zero_iov(q, q->cluster_size, &z->req.iovcnt);
	if (!z->iov) {
		free(z);
		return -ENOMEM;
	}
	z->outer = req;
	z->req.op = BLOCK_WRITE;
	z->req.offset = host;
	z->req.len = q->cluster_size;
	z->req.iov = z->iov;
	z->req.done = zeroed;
	block_submit(q->file, &z->req);
	return 0;
}

/* ---- refcounts ---- */

static unsigned block_bits(const struct qcow2 *q)
{
	return qcow2_refblock_bits(&q->h);
}

/* Refcounts in a slice. */
static unsigned slice_refs(const struct qcow2 *q)
{
	return q->slice_size * 8 >> q->h.refcount_order;
}

int q2_refcount_find(struct qcow2 *q, uint64_t cluster, struct q2_wait *w,
		     struct q2_slice **ret_s, unsigned *ret_index)
{
	uint64_t block = cluster >> block_bits(q);
	uint64_t within = cluster & ((1ull << block_bits(q)) - 1);
	uint64_t offset;

	if (block >= q->reftable.entries || !q->reftable.entry[block])
		return -EIO;
	offset = q->reftable.entry[block] & QCOW2_OFFSET;
	*ret_index = within % slice_refs(q);
	return q2_slice_get(q, offset + within / slice_refs(q) * q->slice_size, Q2_REFS, w, ret_s);
}

/* ---- a new refcount block ---- */

/* Growing the refcounts' own places, one at a time. */
struct growing {
	struct qcow2 *q;
	struct q2_wait wait;
	struct block_req req;
	struct iovec iov;
	uint64_t cluster; /* the first of the new ones */
	uint8_t *buf;	  /* new table: what goes there */
	uint64_t num_blocks, table_clusters;
	struct q2_table table; /* the new one, when it is in use */
	uint8_t header[12] __attribute__((aligned(8)));
	unsigned step;
};

/* Nothing that is known to be in use may be there: the image would destroy itself. */
static int take_place(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
	uint64_t host = cluster << q->cluster_bits, len = count << q->cluster_bits;

	q->file_end = MAX(q->file_end, host + len);
	return q2_place_is_sane(q, host, len) ? 0 : -EIO;
}

static int growing_start(struct qcow2 *q, struct growing **ret_g, void (*go)(struct q2_wait *, int))
{
	struct growing *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	g->q = q;
	g->wait.go = go;
	g->cluster = q->hint;
	q->refs_gate.busy = true;
	*ret_g = g;
	return 0;
}

static void growing_end(struct growing *g, int res)
{
	struct qcow2 *q = g->q;

	q->refs_gate.busy = false;
	q2_table_done(&g->table);
	free(g->buf);
	free(g);
	q2_wake(&q->refs_gate.waiters, res);
}

/* The block counts itself, then is used. */
static void count_block(struct q2_wait *w, int res)
{
	struct growing *g = container_of(w, struct growing, wait);
	struct qcow2 *q = g->q;
	uint64_t host = g->cluster << q->cluster_bits;
	uint64_t within = g->cluster & ((1ull << block_bits(q)) - 1);
	struct q2_slice *s;
	int r = res;

	if (!r)
		r = q2_slice_get(q, host + within / slice_refs(q) * q->slice_size, Q2_REFS, w, &s);
	if (r == -EAGAIN)
		return;
	if (!r) {
		qcow2_refcount_set(s->data, q->h.refcount_order, within % slice_refs(q), 1);
		q2_slice_dirty(s);
		q2_table_set(q, &q->reftable, g->cluster >> block_bits(q), host);
	}
	growing_end(g, r);
}

static void block_zeroed(struct block_req *req, int res)
{
	struct growing *g = container_of(req, struct growing, req);

	if (!res)
		q2_cache_drop(g->q, g->cluster << g->q->cluster_bits, g->q->cluster_size);
	count_block(&g->wait, res);
}

/* All that a missing block would count is free: put it there where the next cluster is wanted. */
static int make_block(struct qcow2 *q)
{
	struct growing *g;
	int r = growing_start(q, &g, count_block);

	if (r < 0)
		return r;
	g->req.done = block_zeroed;
	r = take_place(q, g->cluster, 1);
	if (!r)
		r = q2_zero_cluster(q, &g->req, g->cluster << q->cluster_bits);
	if (r < 0)
		growing_end(g, r);
	return r;
}

/* ---- a larger refcount table ---- */

static void put_table(struct growing *g)
{
	struct qcow2 *q = g->q;
	uint64_t first = g->cluster >> block_bits(q);
	uint8_t *table = g->buf + (g->num_blocks << q->cluster_bits);
	uint64_t used = g->num_blocks + g->table_clusters;

	for (uint64_t i = 0; i < q->reftable.entries; i++)
		put_be64(table + i * 8, q->reftable.entry[i]);
	for (uint64_t i = 0; i < g->num_blocks; i++)
		put_be64(table + (first + i) * 8, (g->cluster + i) << q->cluster_bits);
	for (uint64_t c = g->cluster; c < g->cluster + used; c++) {
		uint64_t block = (c >> block_bits(q)) - first;

		qcow2_refcount_set(g->buf + (block << q->cluster_bits), q->h.refcount_order,
				   c & ((1ull << block_bits(q)) - 1), 1);
	}
}

/* Before the file names the new table: from then on there is no way back. */
static int get_table(struct growing *g)
{
	const struct qcow2 *q = g->q;
	uint64_t bytes = g->table_clusters << q->cluster_bits;

	g->buf = calloc(1, (g->num_blocks << q->cluster_bits) + bytes);
	g->table = (struct q2_table){
		.offset = (g->cluster + g->num_blocks) << q->cluster_bits,
		.entries = bytes / 8,
		.entry = malloc(bytes),
		.dirty = calloc(1, bytes / q->slice_size + 1),
	};
	return g->buf && g->table.entry && g->table.dirty ? 0 : -ENOMEM;
}

/* From now on the new table is the one in memory too. */
static void use_table(struct growing *g)
{
	struct qcow2 *q = g->q;
	uint8_t *from = g->buf + (g->num_blocks << q->cluster_bits);
	struct q2_table old = q->reftable;

	for (uint64_t i = 0; i < g->table.entries; i++)
		g->table.entry[i] = get_be64(from + i * 8);
	q->reftable = g->table;
	g->table = old; /* goes with @g */
	q->h.reftable_offset = q->reftable.offset;
	q->h.reftable_clusters = g->table_clusters;
	q2_free_clusters(q, old.offset >> q->cluster_bits, old.entries * 8 >> q->cluster_bits);
}

static void grow_step(struct block_req *req, int res);

static void grow_submit(struct growing *g, enum block_op op, uint64_t offset, void *buf, size_t len)
{
	g->iov = (struct iovec){ buf, len };
	g->req = (struct block_req){
		.op = op,
		.offset = offset,
		.len = len,
		.iov = &g->iov,
		.iovcnt = len ? 1 : 0,
		.done = grow_step,
	};
	block_submit(g->q->file, &g->req);
}

/* Table and blocks, durable; then the header, durable; then it counts. */
static void grow_step(struct block_req *req, int res)
{
	struct growing *g = container_of(req, struct growing, req);
	struct qcow2 *q = g->q;

	/* The header that is written counts, also when nobody knows whether it will last. */
	if (res < 0 && g->step < 3) {
		growing_end(g, res);
		return;
	}
	switch (g->step++) {
	case 0:
	case 2:
		grow_submit(g, BLOCK_FLUSH, 0, NULL, 0);
		break;
	case 1:
		put_be64(g->header, (g->cluster + g->num_blocks) << q->cluster_bits);
		put_be32(g->header + 8, g->table_clusters);
		grow_submit(g, BLOCK_WRITE, QCOW2_AT_REFTABLE, g->header, sizeof(g->header));
		break;
	default:
		use_table(g);
		growing_end(g, res);
	}
}

/* The old table is in the file as it is in memory: nobody else may add to it now. */
static void grow_table(struct q2_wait *w, int res)
{
	struct growing *g = container_of(w, struct growing, wait);
	struct qcow2 *q = g->q;
	uint64_t entries, first = g->cluster >> block_bits(q), bytes, last;
	int r = res;

	/* Blocks for themselves and for the table: more blocks may need one block more. */
	for (g->num_blocks = 1;; g->num_blocks++) {
		entries = MAX(first + g->num_blocks + 1, q->reftable.entries * 3 / 2);
		g->table_clusters = (entries * 8 + q->cluster_size - 1) >> q->cluster_bits;
		last = g->cluster + g->num_blocks + g->table_clusters - 1;
		if (g->num_blocks >= (last >> block_bits(q)) - first + 1)
			break;
	}
	bytes = (g->num_blocks + g->table_clusters) << q->cluster_bits;
	if (!r && g->table_clusters << q->cluster_bits > QCOW2_MAX_REFTABLE)
		r = -EFBIG;
	if (!r)
		r = take_place(q, g->cluster, g->num_blocks + g->table_clusters);
	if (!r)
		r = get_table(g);
	if (r < 0) {
		growing_end(g, r);
		return;
	}
	put_table(g);
	/* Blocks that are found in the cache were never read from here. */
	q2_cache_drop(q, g->cluster << q->cluster_bits, bytes);
	grow_submit(g, BLOCK_WRITE, g->cluster << q->cluster_bits, g->buf, bytes);
}

static int make_table(struct qcow2 *q)
{
	struct growing *g;
	int r = growing_start(q, &g, grow_table);

	if (!r)
		q2_commit(q, &g->wait);
	return r;
}

/* ---- allocation ---- */

/* Free clusters from @index on, in a slice of refcounts, up to @want. */
static unsigned free_run(const struct qcow2 *q, const struct q2_slice *s, unsigned index,
			 uint64_t want)
{
	unsigned n = 0;

	while (n < want && index + n < slice_refs(q) &&
	       !qcow2_refcount_get(s->data, q->h.refcount_order, index + n))
		n++;
	return n;
}

static int await_growth(struct qcow2 *q, struct q2_wait *w, bool table)
{
	int r;

	if (!q->refs_gate.busy) {
		r = table ? make_table(q) : make_block(q);
		if (r < 0)
			return r;
	}
	list_add_tail(&q->refs_gate.waiters, &w->link);
	return -EAGAIN;
}

/* Find the first free cluster from hint on: its slice and index. */
static int find_free(struct qcow2 *q, struct q2_wait *w, struct q2_slice **ret_s, unsigned *ret_i)
{
	for (;;) {
		uint64_t block = q->hint >> block_bits(q);
		int r;

		if (block >= q->reftable.entries)
			return await_growth(q, w, true);
		if (!q->reftable.entry[block])
			return await_growth(q, w, false);
		r = q2_refcount_find(q, q->hint, w, ret_s, ret_i);
		if (r < 0)
			return r;
		for (; *ret_i < slice_refs(q); ++*ret_i, q->hint++) {
			if (free_run(q, *ret_s, *ret_i, 1))
				return 0;
		}
	}
}

int q2_clusters_get(struct qcow2 *q, uint64_t want, struct q2_wait *w, uint64_t *ret_host,
		    uint64_t *ret_count, bool *ret_fresh)
{
	uint64_t host, n, end = q->file_end >> q->cluster_bits;
	struct q2_slice *s;
	unsigned index;
	int r = find_free(q, w, &s, &index);

	if (r < 0)
		return r;
	/* A run of one kind: in front of the end, or behind it. */
	if (q->hint < end)
		want = MIN(want, end - q->hint);
	n = free_run(q, s, index, want);
	host = q->hint << q->cluster_bits;
	*ret_fresh = host >= q->file_end;
	if (*ret_fresh)
		q->file_end = host + (n << q->cluster_bits);
	/* Counted as free, yet in use: whoever writes there destroys the image. */
	if (!q2_place_is_sane(q, host, n << q->cluster_bits))
		return -EIO;
	for (unsigned i = 0; i < n; i++)
		qcow2_refcount_set(s->data, q->h.refcount_order, index + i, 1);
	q2_slice_dirty(s);
	q->hint += n;
	*ret_host = host;
	*ret_count = n;
	return 0;
}
