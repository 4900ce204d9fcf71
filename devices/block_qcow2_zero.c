/*
 * Discarding and zeroing: whole clusters by their L2 entries, what is less by
 * writing zeroes (or, for a discard, which is only advice, not at all).
 */
#include <errno.h>

#include "devices/block_qcow2.h"

#define KEEP UINT64_MAX	      /* as it is */
#define BY_HAND (UINT64_MAX - 1) /* zeroes must be written */

/* What the entry @old becomes. Version 2 has no way to say "zeroes" over a backing file. */
static uint64_t new_entry(const struct qcow2 *q, const struct block_req *req, uint64_t old)
{
	bool drop = req->op == BLOCK_DISCARD || req->may_unmap;
	bool flags = q->h.version >= 3;
	struct qcow2_extent e;

	qcow2_entry_decode(&q->h, old, &e);
	if (!q->backing && (drop || e.kind == QCOW2_UNALLOCATED))
		return e.kind == QCOW2_UNALLOCATED ? KEEP : 0;
	if (!flags)
		return req->op == BLOCK_DISCARD ? KEEP : BY_HAND;
	if (e.kind == QCOW2_ZEROES || (e.kind == QCOW2_ZEROES_HELD && !drop))
		return KEEP;
	if (e.kind == QCOW2_DATA && e.copied && !drop)
		return old | QCOW2_ZERO;
	return QCOW2_ZERO;
}

static bool keeps_cluster(uint64_t entry)
{
	return entry & QCOW2_OFFSET;
}

/* The next @count clusters, of one slice that need not exist. */
static int zero_clusters(struct q2_job *job, uint64_t count)
{
	struct qcow2 *q = job->q;
	struct q2_spot spot;
	uint64_t n, first = new_entry(q, job->req, 0);
	int r = q2_spot_find(q, job->pos, &job->wait, &spot);

	if (r < 0)
		return r;
	count = MIN(count, (uint64_t)spot.entries - spot.index);
	if (spot.slice) {
		for (n = 0; n < count; n++) {
			first = new_entry(q, job->req, q2_spot_entry(q, &spot, spot.index + n));
			if (first != KEEP)
				break;
		}
		/* What stays as it is needs no table of our own. */
		if (n) {
			job->pos += n << q->cluster_bits;
			return 0;
		}
	} else if (first == KEEP) {
		job->pos += count << q->cluster_bits;
		return 0;
	}
	if (first == BY_HAND)
		return q2_write_some(job, MIN(q2_left(job), q->cluster_size));
	r = q2_spot_make(q, job->pos, &job->wait, &spot);
	for (n = 0; !r && n < count; n++) {
		uint64_t old = q2_spot_entry(q, &spot, spot.index + n);
		uint64_t entry = new_entry(q, job->req, old);

		if (entry == BY_HAND)
			break;
		if (entry != KEEP) {
			q2_spot_set(q, &spot, spot.index + n, entry);
			if (!keeps_cluster(entry))
				q2_free_entry(q, old);
		}
		job->pos += q->cluster_size;
	}
	return r;
}

int q2_zero_some(struct q2_job *job)
{
	struct qcow2 *q = job->q;
	uint64_t within = job->pos & (q->cluster_size - 1), left = q2_left(job), end;
	uint64_t cluster = job->pos >> q->cluster_bits, count = left >> q->cluster_bits;
	struct qcow2_extent e;
	uint64_t len;
	int r = q2_await_alloc(q, cluster, &job->wait);

	if (r < 0)
		return r;
	/* The disk's last cluster is whole when nothing of the disk is left out. */
	if (job->pos + left == q->b.size_bytes && left & (q->cluster_size - 1) && !within)
		count++;
	if (!within && count) {
		end = job->pos + left;
		r = zero_clusters(job, q2_until_alloc(q, cluster, count));
		job->pos = MIN(job->pos, end);
		return r;
	}
	len = MIN(left, q->cluster_size - within);
	if (job->req->op == BLOCK_DISCARD) {
		job->pos += len;
		return 0;
	}
	r = q2_map(q, job->pos, len, &job->wait, &e, &len);
	if (r < 0)
		return r;
	if (!q2_reads_zero(q, &e, job->pos))
		return q2_write_some(job, len);
	job->pos += len;
	return 0;
}
