/* Reading: from the file, from the backing file, from nowhere, or decompressed. */
#include <errno.h>
#include <stdlib.h>

#include "devices/block_qcow2.h"

int q2_is_broken(struct qcow2 *q, uint64_t pos)
{
	log_limited(&q->complaints, LOG_ERROR, "disk '%s': corrupt: L2 entry for offset %#llx",
		    q->b.path, (unsigned long long)pos);
	return -EIO;
}

/* ---- compressed clusters ---- */

struct inflating {
	struct q2_part part;
	uint64_t pos, len;
	uint64_t host;
	uint32_t bytes;
	struct iovec iov;
	uint8_t *in;
};

/* Into q->inflated: sequential reads want the same cluster again. */
static int inflate_into_cache(struct qcow2 *q, const struct inflating *f)
{
	int r;

	if (!q->inflated)
		q->inflated = malloc(q->cluster_size);
	if (!q->inflated)
		return -ENOMEM;
	q->inflated_host = 0;
	r = qcow2_decompress(q->h.compression, q->inflated, q->cluster_size, f->in, f->bytes);
	if (r < 0)
		log_limited(&q->complaints, LOG_ERROR,
			    "disk '%s': corrupt: compressed cluster at %#llx", q->b.path,
			    (unsigned long long)f->host);
	else
		q->inflated_host = f->host;
	return r;
}

static void deflated_read(struct block_req *req, int res)
{
	struct inflating *f = container_of(req, struct inflating, part.req);
	struct q2_job *job = f->part.job;
	struct qcow2 *q = job->q;
	int r = res;

	if (!r && q->inflated_host != f->host)
		r = inflate_into_cache(q, f);
	if (!r)
		q2_fill(job, f->pos, q->inflated + (f->pos & (q->cluster_size - 1)), f->len);
	q2_part_done(&f->part, r);
	free(f->in);
	free(f);
}

static int read_deflated(struct q2_job *job, uint64_t len, const struct qcow2_extent *e)
{
	struct qcow2 *q = job->q;
	struct inflating *f;
	int r;

	if (!q2_place_is_sane(q, e->host, 1))
		return -EIO;
	if (q->inflated_host == e->host) {
		q2_fill(job, job->pos, q->inflated + (job->pos & (q->cluster_size - 1)), len);
		return 0;
	}
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->in = malloc(e->bytes);
	r = f->in ? q2_part_init(&f->part, job, job->pos, len, 0) : -ENOMEM;
	if (r < 0) {
		free(f->in);
		free(f);
		return r;
	}
	f->pos = job->pos;
	f->len = len;
	f->host = e->host;
	f->bytes = e->bytes;
	f->iov = (struct iovec){ f->in, e->bytes };
	f->part.req = (struct block_req){
		.op = BLOCK_READ,
		.offset = e->host,
		.len = e->bytes,
		.iov = &f->iov,
		.iovcnt = 1,
		.done = deflated_read,
	};
	block_submit(q->file, &f->part.req);
	return 0;
}

/* ---- everything else ---- */

static int read_backing(struct q2_job *job, uint64_t *len)
{
	const struct block *backing = job->q->backing;

	if (!backing || job->pos >= backing->size_bytes) {
		q2_fill(job, job->pos, NULL, *len);
		return 0;
	}
	*len = MIN(*len, backing->size_bytes - job->pos);
	return q2_part_submit(job, job->q->backing, job->pos, *len, job->pos);
}

int q2_read_some(struct q2_job *job)
{
	struct qcow2 *q = job->q;
	uint64_t len, host;
	struct qcow2_extent e;
	int r = q2_map(q, job->pos, q2_left(job), &job->wait, &e, &len);

	if (r < 0)
		return r;
	switch (e.kind) {
	case QCOW2_UNALLOCATED:
		r = read_backing(job, &len);
		break;
	case QCOW2_ZEROES:
	case QCOW2_ZEROES_HELD:
		q2_fill(job, job->pos, NULL, len);
		break;
	case QCOW2_DATA:
		host = e.host + (job->pos & (q->cluster_size - 1));
		r = q2_place_is_sane(q, host, len) ?
			    q2_part_submit(job, q->file, job->pos, len, host) :
			    -EIO;
		break;
	case QCOW2_DEFLATED:
		r = read_deflated(job, len, &e);
		break;
	default:
		r = q2_is_broken(q, job->pos);
	}
	if (!r)
		job->pos += len;
	return r;
}
