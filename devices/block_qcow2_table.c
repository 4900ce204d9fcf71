/*
 * From guest offsets to places in the file: the L1 table, which is in memory
 * as a whole, and the L2 tables, which are in the cache by slices.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/block_qcow2.h"

/* ---- tables in memory ---- */

/* How many pieces of a slice's size a table has. */
static uint64_t num_pieces(const struct qcow2 *q, uint64_t entries)
{
	return (entries * 8 + q->slice_size - 1) / q->slice_size;
}

static int read_all(int fd, uint8_t *buf, size_t len, uint64_t offset)
{
	while (len) {
		ssize_t n = pread(fd, buf, len, offset);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n) {
			memset(buf, 0, len);
			break;
		}
		n = MAX(n, (ssize_t)0);
		buf += n;
		len -= n;
		offset += n;
	}
	return 0;
}

static int bad_entry(const struct qcow2 *q, const struct q2_table *t, uint64_t index,
		     const char *what, struct error *err)
{
	return error_usage(err, -EINVAL, "disk '%s': corrupt: entry %llu of its %s is %#llx",
			   q->b.path, (unsigned long long)index, what,
			   (unsigned long long)t->entry[index]);
}

int q2_table_load(struct qcow2 *q, struct q2_table *t, uint64_t offset, uint64_t entries,
		  const char *what, int fd, struct error *err)
{
	/* Whole pieces, aligned: the file may be open for direct I/O. */
	size_t len = align_up(entries * 8, Q2_MAX_SLICE);
	int r;

	*t = (struct q2_table){ .offset = offset, .entries = entries };
	t->dirty = calloc(1, num_pieces(q, entries) + 1);
	t->entry = aligned_alloc(Q2_MAX_SLICE, MAX(len, (size_t)Q2_MAX_SLICE));
	if (!t->dirty || !t->entry)
		return error_set(err, -ENOMEM, "disk '%s': %m", q->b.path);
	r = read_all(fd, (uint8_t *)t->entry, len, offset);
	if (r < 0)
		return error_usage(err, r, "disk '%s': cannot read its %s: %m", q->b.path, what);
	for (uint64_t i = 0; i < entries; i++) {
		t->entry[i] = be64toh(t->entry[i]);
		if (qcow2_table_offset(&q->h, t->entry[i]) >= q->file_end && t->entry[i])
			return bad_entry(q, t, i, what, err);
	}
	return 0;
}

static int compare_numbers(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

int q2_reftable_check(struct qcow2 *q, struct error *err)
{
	const struct q2_table *t = &q->reftable;
	uint64_t *sorted = malloc(t->entries * 8 + 1), n = 0;
	int r = 0;

	if (!sorted)
		return error_set(err, -ENOMEM, "disk '%s': %m", q->b.path);
	for (uint64_t i = 0; i < t->entries && !r; i++) {
		if (t->entry[i] & ~QCOW2_OFFSET)
			r = bad_entry(q, t, i, "refcount table", err);
		else if (t->entry[i])
			sorted[n++] = t->entry[i];
	}
	qsort(sorted, n, sizeof(*sorted), compare_numbers);
	for (uint64_t i = 1; i < n && !r; i++) {
		if (sorted[i] == sorted[i - 1])
			r = error_usage(err, -EINVAL,
					"disk '%s': corrupt: two entries of its refcount table are "
					"%#llx", q->b.path, (unsigned long long)sorted[i]);
	}
	free(sorted);
	return r;
}

void q2_table_set(struct qcow2 *q, struct q2_table *t, uint64_t index, uint64_t value)
{
	t->entry[index] = value;
	t->dirty[index * 8 / q->slice_size] = 1;
	t->any_dirty = true;
}

void q2_table_done(struct q2_table *t)
{
	free(t->entry);
	free(t->dirty);
}

/* ---- making an L2 table ---- */

/* One that is on its way. */
struct making {
	struct list link; /* qcow2.tables */
	struct list waiters;
	struct q2_wait wait;
	struct qcow2 *q;
	uint64_t l1_index;
	uint64_t host;
	uint8_t *old; /* the content of the shared table that it replaces, or NULL */
	struct block_req req;
	struct iovec iov;
};

static void making_end(struct making *m, int res)
{
	struct qcow2 *q = m->q;
	uint64_t old = q->l1.entry[m->l1_index] & QCOW2_OFFSET;

	if (res < 0 && m->host) {
		q2_free_clusters(q, m->host >> q->cluster_bits, 1);
	} else if (!res) {
		q2_cache_drop(q, m->host, q->cluster_size);
		q2_table_set(q, &q->l1, m->l1_index, m->host | QCOW2_COPIED);
		if (old)
			q2_free_clusters(q, old >> q->cluster_bits, 1);
	}
	list_del(&m->link);
	q2_wake(&m->waiters, res);
	free(m->old);
	free(m);
}

static void table_written(struct block_req *req, int res)
{
	making_end(container_of(req, struct making, req), res);
}

static void old_read(struct block_req *req, int res)
{
	struct making *m = container_of(req, struct making, req);

	if (res < 0) {
		making_end(m, res);
		return;
	}
	m->req.op = BLOCK_WRITE;
	m->req.offset = m->host;
	m->req.done = table_written;
	block_submit(m->q->file, &m->req);
}

/* A snapshot has the table too: go on with a copy. */
static int copy_table(struct making *m, uint64_t from)
{
	struct qcow2 *q = m->q;

	m->old = aligned_alloc(Q2_MAX_SLICE, MAX(q->cluster_size, (uint64_t)Q2_MAX_SLICE));
	if (!m->old)
		return -ENOMEM;
	m->iov = (struct iovec){ m->old, q->cluster_size };
	m->req = (struct block_req){
		.op = BLOCK_READ,
		.offset = from,
		.len = q->cluster_size,
		.iov = &m->iov,
		.iovcnt = 1,
		.done = old_read,
	};
	block_submit(q->file, &m->req);
	return 0;
}

static int making_start(struct making *m)
{
	struct qcow2 *q = m->q;
	uint64_t count, old = q->l1.entry[m->l1_index] & QCOW2_OFFSET;
	bool fresh;
	int r = q2_clusters_get(q, 1, &m->wait, &m->host, &count, &fresh);

	if (r < 0)
		return r;
	if (old)
		return copy_table(m, old);
	m->req.done = table_written;
	return q2_zero_cluster(q, &m->req, m->host);
}

static void make_go(struct q2_wait *w, int res)
{
	struct making *m = container_of(w, struct making, wait);
	int r = res ? res : making_start(m);

	if (r < 0 && r != -EAGAIN)
		making_end(m, r);
}

/* Wait for the table of @l1_index, which is on its way from now on: -EAGAIN, or why not. */
static int await_table(struct qcow2 *q, uint64_t l1_index, struct q2_wait *w)
{
	struct making *m;
	struct list *pos;
	int r;

	list_for_each(pos, &q->tables) {
		m = list_entry(pos, struct making, link);
		if (m->l1_index == l1_index) {
			list_add_tail(&m->waiters, &w->link);
			return -EAGAIN;
		}
	}
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->q = q;
	m->l1_index = l1_index;
	m->wait.go = make_go;
	list_init(&m->waiters);
	list_add_tail(&q->tables, &m->link);
	r = making_start(m);
	if (r < 0 && r != -EAGAIN) {
		making_end(m, r);
		return r;
	}
	list_add_tail(&m->waiters, &w->link);
	return -EAGAIN;
}

/* ---- finding entries ---- */

static unsigned entry_size(const struct qcow2 *q)
{
	return qcow2_extended(&q->h) ? 16 : 8;
}

static uint64_t l1_index_of(const struct qcow2 *q, uint64_t pos)
{
	return pos >> (q->cluster_bits + qcow2_l2_bits(&q->h));
}

int q2_spot_find(struct qcow2 *q, uint64_t pos, struct q2_wait *w, struct q2_spot *ret)
{
	uint64_t table = q->l1.entry[l1_index_of(q, pos)] & QCOW2_OFFSET;
	uint64_t index = pos >> q->cluster_bits & ((1ull << qcow2_l2_bits(&q->h)) - 1);
	uint64_t at = index * entry_size(q);

	ret->slice = NULL;
	ret->index = at % q->slice_size / entry_size(q);
	ret->entries = q->slice_size / entry_size(q);
	if (!table)
		return 0;
	return q2_slice_get(q, table + align_down(at, q->slice_size), Q2_MAP, w, &ret->slice);
}

int q2_spot_make(struct qcow2 *q, uint64_t pos, struct q2_wait *w, struct q2_spot *ret)
{
	uint64_t index = l1_index_of(q, pos);

	if (!(q->l1.entry[index] & QCOW2_OFFSET) || !(q->l1.entry[index] & QCOW2_COPIED))
		return await_table(q, index, w);
	return q2_spot_find(q, pos, w, ret);
}

uint64_t q2_spot_entry(const struct qcow2 *q, const struct q2_spot *spot, unsigned index)
{
	return spot->slice ? get_be64(spot->slice->data + index * entry_size(q)) : 0;
}

void q2_spot_set(struct qcow2 *q, const struct q2_spot *spot, unsigned index, uint64_t entry)
{
	put_be64(spot->slice->data + index * entry_size(q), entry);
	q2_slice_dirty(spot->slice);
}

bool q2_place_is_sane(struct qcow2 *q, uint64_t host, uint64_t len)
{
	const char *what = NULL;

	if (!range_inside(host, len, q->cluster_size, q->file_end - q->cluster_size))
		what = "outside the file";
	else if (ranges_overlap(host, len, q->l1.offset, q->l1.entries * 8))
		what = "in the L1 table";
	else if (ranges_overlap(host, len, q->reftable.offset, q->reftable.entries * 8))
		what = "in the refcount table";
	if (what)
		log_limited(&q->complaints, LOG_ERROR, "disk '%s': corrupt: data at %#llx, %s",
			    q->b.path, (unsigned long long)host, what);
	return !what;
}

/* ---- what is at a guest offset ---- */

/* Are two neighbours one stretch? @gap: from the start of the one to the other's. */
static bool continues(const struct qcow2_extent *a, const struct qcow2_extent *b, uint64_t gap)
{
	if (a->kind != b->kind)
		return false;
	switch (a->kind) {
	case QCOW2_UNALLOCATED:
	case QCOW2_ZEROES:
		return true;
	case QCOW2_ZEROES_HELD:
	case QCOW2_DATA:
		return b->copied == a->copied && b->host == a->host + gap;
	default:
		return false;
	}
}

/* Extended entries: the stretch of subclusters of one kind that has @within, of this cluster. */
static uint64_t map_subclusters(const struct qcow2 *q, const struct q2_spot *spot,
				struct qcow2_extent *e, uint64_t within)
{
	uint64_t bitmap = spot->slice ? get_be64(spot->slice->data + spot->index * 16 + 8) : 0;
	unsigned shift = q->cluster_bits - 5, n = within >> shift;
	struct qcow2_extent whole = *e;

	e->kind = qcow2_subcluster_kind(&whole, bitmap, n);
	if (e->kind == QCOW2_DEFLATED || e->kind == QCOW2_BROKEN)
		return q->cluster_size - within;
	while (++n < 32 && qcow2_subcluster_kind(&whole, bitmap, n) == e->kind)
		;
	return ((uint64_t)n << shift) - within;
}

int q2_map(struct qcow2 *q, uint64_t pos, uint64_t len, struct q2_wait *w,
	   struct qcow2_extent *ret_e, uint64_t *ret_len)
{
	uint64_t within = pos & (q->cluster_size - 1), have = q->cluster_size - within;
	struct qcow2_extent first, e;
	struct q2_spot spot;
	int r = q2_spot_find(q, pos, w, &spot);

	if (r < 0)
		return r;
	qcow2_entry_decode(&q->h, q2_spot_entry(q, &spot, spot.index), &first);
	if (qcow2_extended(&q->h)) {
		have = map_subclusters(q, &spot, &first, within);
	} else {
		for (unsigned i = 1; have < len && spot.index + i < spot.entries; i++) {
			qcow2_entry_decode(&q->h, q2_spot_entry(q, &spot, spot.index + i), &e);
			if (!continues(&first, &e, (uint64_t)i << q->cluster_bits))
				break;
			have += q->cluster_size;
		}
	}
	*ret_len = MIN(have, len);
	*ret_e = first;
	return 0;
}
