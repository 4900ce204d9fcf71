/* qcow2 images: their life, and requests from their start to their end. */
#include "devices/block_qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdlib.h>

#include "devices/qcow2_image.h"
#include "vmm/core/iov.h"

/* ---- parts of a request ---- */

/* The segments of @job's request for @len bytes at @pos, to @out when that is not NULL. */
static unsigned cut_iov(const struct q2_job *job, uint64_t pos, uint64_t len, struct iovec *out)
{
	return iov_slice(job->req->iov, job->req->iovcnt, pos - job->req->offset, len, out);
}

static int zero_part(struct q2_part *part, uint64_t len, unsigned around)
{
	unsigned n = (len + Q2_ZEROES - 1) / Q2_ZEROES;

	part->iov = calloc(n + 2 * around, sizeof(*part->iov));
	if (!part->iov)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		part->iov[around + i] =
			(struct iovec){ part->job->q->zeroes, MIN(len, Q2_ZEROES) };
		len -= part->iov[around + i].iov_len;
	}
	part->req.iovcnt = n;
	return 0;
}

int q2_part_init(struct q2_part *part, struct q2_job *job, uint64_t pos, uint64_t len,
		 unsigned around)
{
	const struct block_req *req = job->req;
	int r;

	part->job = job;
	part->iov = NULL;
	part->req = (struct block_req){ .len = len };
	if (req->op == BLOCK_WRITE_ZEROES) {
		r = zero_part(part, len, around);
		if (r < 0)
			return r;
	} else if (len == req->len && !around) {
		part->req.iov = req->iov;
		part->req.iovcnt = req->iovcnt;
	} else {
		part->req.iovcnt = cut_iov(job, pos, len, NULL);
		part->iov = calloc(part->req.iovcnt + 2 * around + 1, sizeof(*part->iov));
		if (!part->iov)
			return -ENOMEM;
		cut_iov(job, pos, len, part->iov + around);
	}
	if (part->iov)
		part->req.iov = part->iov + around;
	job->pending++;
	return 0;
}

static void part_finished(struct block_req *req, int res)
{
	struct q2_part *part = container_of(req, struct q2_part, req);

	q2_part_done(part, res);
	free(part);
}

int q2_part_submit(struct q2_job *job, struct block *target, uint64_t pos, uint64_t len,
		   uint64_t offset)
{
	struct q2_part *part = malloc(sizeof(*part));
	int r;

	if (!part)
		return -ENOMEM;
	r = q2_part_init(part, job, pos, len, 0);
	if (r < 0) {
		free(part);
		return r;
	}
	part->req.op = job->req->op == BLOCK_READ ? BLOCK_READ : BLOCK_WRITE;
	part->req.offset = offset;
	part->req.done = part_finished;
	block_submit(target, &part->req);
	return 0;
}

void q2_fill(struct q2_job *job, uint64_t pos, const uint8_t *src, uint64_t len)
{
	uint64_t skip = pos - job->req->offset;

	for (unsigned i = 0; i < job->req->iovcnt && len; i++) {
		const struct iovec *iov = &job->req->iov[i];
		uint64_t n;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		n = MIN(iov->iov_len - skip, len);
		if (src) {
			memcpy((uint8_t *)iov->iov_base + skip, src, n);
			src += n;
		} else {
			memset((uint8_t *)iov->iov_base + skip, 0, n);
		}
		skip = 0;
		len -= n;
	}
}

/* ---- the first write ---- */

/*
 * Features that a writer who does not know them must take back: bitmaps of
 * what was written are no longer true.
 */
static void header_step(struct block_req *req, int res)
{
	struct qcow2 *q = container_of(req, struct qcow2, header_req);

	if (!res && req->op == BLOCK_WRITE) {
		q->header_req = (struct block_req){ .op = BLOCK_FLUSH, .done = header_step };
		block_submit(q->file, &q->header_req);
		return;
	}
	if (!res)
		q->h.autoclear = 0;
	q->header_gate.busy = false;
	q2_wake(&q->header_gate.waiters, res);
}

static int clear_autoclear(struct qcow2 *q, struct q2_wait *w)
{
	list_add_tail(&q->header_gate.waiters, &w->link);
	if (q->header_gate.busy)
		return -EAGAIN;
	q->header_gate.busy = true;
	q->header_iov = (struct iovec){ q->zeroes, 8 };
	q->header_req = (struct block_req){
		.op = BLOCK_WRITE,
		.offset = QCOW2_AT_AUTOCLEAR,
		.len = 8,
		.iov = &q->header_iov,
		.iovcnt = 1,
		.done = header_step,
	};
	block_submit(q->file, &q->header_req);
	return -EAGAIN;
}

/* ---- requests ---- */

static void job_end(struct q2_job *job)
{
	struct qcow2 *q = job->q;
	struct block_req *req = job->req;
	bool later = job->submitting;
	int res = job->res;

	list_del(&job->link);
	free(job);
	q2_free_run(q);
	if (later)
		block_finish_later(req, res);
	else
		block_finish(req, res);
}

static bool must_commit(const struct q2_job *job)
{
	const struct block_req *req = job->req;

	if (job->res < 0 || job->committing)
		return false;
	if (req->op == BLOCK_FLUSH)
		return true;
	return (req->op == BLOCK_WRITE || req->op == BLOCK_WRITE_ZEROES) &&
	       (req->durable || job->q->b.writethrough) && !job->q->b.no_flush;
}

static void job_put(struct q2_job *job)
{
	if (--job->pending)
		return;
	if (must_commit(job)) {
		job->committing = true;
		job->pending = 1;
		q2_commit(job->q, &job->wait);
		return;
	}
	job_end(job);
}

static int next_piece(struct q2_job *job)
{
	switch (job->req->op) {
	case BLOCK_READ:
		return q2_read_some(job);
	case BLOCK_WRITE:
		return q2_write_some(job, q2_left(job));
	default:
		return q2_zero_some(job);
	}
}

/* Start pieces until all are, or one has to wait, or enough are in flight. */
static void job_run(struct q2_job *job, int res)
{
	struct qcow2 *q = job->q;

	if (!res && job->req->op != BLOCK_READ && q2_left(job) && q->h.autoclear)
		res = clear_autoclear(q, &job->wait);
	while (!res && !job->res && q2_left(job)) {
		if (job->pending > Q2_MAX_PARTS) {
			job->throttled = true;
			return;
		}
		res = next_piece(job);
	}
	if (res == -EAGAIN)
		return;
	if (res < 0 && !job->res)
		job->res = res;
	job_put(job);
}

static void job_go(struct q2_wait *w, int res)
{
	struct q2_job *job = container_of(w, struct q2_job, wait);

	if (!job->committing) {
		job_run(job, res);
		return;
	}
	job->res = res;
	job_put(job);
}

void q2_part_done(struct q2_part *part, int res)
{
	struct q2_job *job = part->job;

	free(part->iov);
	if (res < 0 && !job->res)
		job->res = res;
	if (job->throttled && job->pending <= Q2_MAX_PARTS / 2) {
		job->throttled = false;
		job->pending--;
		job_run(job, 0);
	} else {
		job_put(job);
	}
}

static void q2_submit(struct block *b, struct block_req *req)
{
	struct qcow2 *q = q2_of(b);
	struct q2_job *job = malloc(sizeof(*job));

	if (!job) {
		block_finish_later(req, -ENOMEM);
		return;
	}
	*job = (struct q2_job){
		.q = q,
		.req = req,
		.seq = q->next_seq++,
		.wait.go = job_go,
		.pos = req->offset,
		.pending = 2, /* ours, and job_run()'s */
		.submitting = true,
	};
	if (req->op == BLOCK_FLUSH)
		req->len = 0;
	list_add_tail(&q->jobs, &job->link);
	job_run(job, 0);
	/* A commit ends later, whatever it comes to. */
	if (job->pending > 1 || must_commit(job))
		job->submitting = false;
	job_put(job);
}

void q2_read_inner(struct qcow2 *q, struct block_req *req)
{
	req->block = &q->b;
	req->rest = NULL;
	q->b.inflight++;
	q2_submit(&q->b, req);
}

/* ---- life ---- */

static void q2_attach(struct block *b)
{
	struct qcow2 *q = q2_of(b);

	block_attach(q->file, b->loop);
	if (q->backing)
		block_attach(q->backing, b->loop);
}

/* On the loop, again and again until there is nothing left to do. */
static void settle_step(struct qcow2 *q)
{
	struct q2_settling *s = q->settling;

	if (q->freer || s->busy)
		return;
	s->busy = true;
	q2_free_run(q);
	s->busy = false;
	if (q->freer)
		return;
	/* A batch that is left could not begin for want of memory: its clusters stay counted. */
	if (!s->res && (q2_is_dirty(q) || q->commit.running)) {
		s->busy = true;
		q2_commit(q, &s->wait);
		return;
	}
	q->settling = NULL;
	if (s->res < 0)
		log_error("disk '%s': cannot write its metadata: %s", q->b.path, strerror(-s->res));
	s->over(s);
}

static void settle_go(struct q2_wait *w, int res)
{
	struct q2_settling *s = container_of(w, struct q2_settling, wait);

	s->busy = false;
	s->res = res;
	settle_step(s->q);
}

void q2_freer_idle(struct qcow2 *q)
{
	if (q->settling)
		settle_step(q);
}

static void settle(struct qcow2 *q, struct q2_settling *s, void (*over)(struct q2_settling *s))
{
	*s = (struct q2_settling){ .q = q, .wait.go = settle_go, .over = over };
	q->settling = s;
	settle_step(q);
}

static void settled(struct q2_settling *s)
{
	struct block_req *req = s->q->settled;

	block_finish_later(req, s->res);
}

static void q2_settle(struct block *b, struct block_req *req)
{
	struct qcow2 *q = q2_of(b);

	q->settled = req;
	settle(q, &q->own_settling, settled);
}

/* For who waits, on whatever thread. */
struct q2_closing {
	struct q2_settling settling;
	struct qcow2 *q;
	struct loop_task begin;
	bool over;
	sem_t told;
};

static void closed(struct q2_settling *s)
{
	struct q2_closing *c = container_of(s, struct q2_closing, settling);

	c->over = true;
	sem_post(&c->told);
}

static void closing_begin(struct loop_task *task)
{
	struct q2_closing *c = container_of(task, struct q2_closing, begin);

	settle(c->q, &c->settling, closed);
}

static int settle_and_wait(struct qcow2 *q)
{
	struct q2_closing c = { .q = q, .begin.run = closing_begin };

	sem_init(&c.told, 0, 0);
	if (loop_is_mine(q->b.loop)) {
		closing_begin(&c.begin);
		while (!c.over)
			loop_run_once(q->b.loop, UINT64_MAX);
	} else {
		loop_post(q->b.loop, &c.begin);
		while (sem_wait(&c.told) < 0 && errno == EINTR)
			;
	}
	sem_destroy(&c.told);
	return c.settling.res;
}

static int q2_free(struct block *b)
{
	struct qcow2 *q = q2_of(b);
	int r = 0, file;

	/* The loop may be another thread's. */
	if (b->loop && !b->read_only)
		r = settle_and_wait(q);
	q2_free_done(q);
	q2_cache_done(q);
	q2_table_done(&q->l1);
	q2_table_done(&q->reftable);
	free(q->commit.frees.at);
	free(q->inflated);
	free(q->zeroes);
	block_close(q->backing);
	file = block_close(q->file);
	free(b->path);
	free(q);
	return r ? r : file;
}

/* Where there is no L2 table there is nothing. */
static uint64_t q2_hole(struct block *b, uint64_t pos)
{
	struct qcow2 *q = q2_of(b);
	unsigned bits = q->cluster_bits + qcow2_l2_bits(&q->h);
	uint64_t end = ((pos >> bits) + 1) << bits;

	if (q->backing || q->l1.entry[pos >> bits] & QCOW2_OFFSET)
		return 0;
	return MIN(end, b->size_bytes) - pos;
}

static int read_header(struct qcow2 *q, int fd, struct error *err)
{
	uint64_t file_bytes;
	int r = qcow2_image_header(fd, &q->h, &file_bytes, err);

	if (r < 0) {
		error_prefix(err, "disk '%s'", q->b.path);
		return r;
	}
	q->cluster_bits = q->h.cluster_bits;
	q->cluster_size = qcow2_cluster_size(&q->h);
	q->slice_size = MIN(q->cluster_size, (uint64_t)Q2_MAX_SLICE);
	q->file_end = align_up(file_bytes, q->cluster_size);
	return 0;
}

static int check_writable(const struct qcow2 *q, struct error *err)
{
	const char *why = NULL;

	if (q->h.incompatible & QCOW2_INCOMPAT_CORRUPT)
		why = "is marked as corrupt; read-only it can be used, with 'ro'";
	else if (qcow2_extended(&q->h))
		why = "has extended L2 entries, which can only be read: use 'ro'";
	else if (q->h.incompatible & QCOW2_INCOMPAT_DIRTY)
		why = "was not closed well and its refcounts are out of date: "
		      "mend it with 'wisp disk check --repair'";
	return why ? error_usage(err, -EINVAL, "disk '%s': %s", q->b.path, why) : 0;
}

static int q2_init(struct qcow2 *q, int fd, const struct block_config *config, struct error *err)
{
	int r = read_header(q, fd, err);

	if (!r && !config->read_only)
		r = check_writable(q, err);
	if (r < 0)
		return r;
	q->b.size_bytes = align_down(q->h.size_bytes, BLOCK_SECTOR);
	if (!q->b.size_bytes)
		return error_usage(err, -EINVAL, "disk '%s': has no size", q->b.path);
	q->zeroes = calloc(1, Q2_ZEROES);
	if (!q->zeroes)
		return error_set(err, -ENOMEM, "disk '%s': %m", q->b.path);
	q2_cache_init(q);
	r = q2_table_load(q, &q->l1, q->h.l1_offset, q->h.l1_entries, "L1 table", fd, err);
	if (!r)
		r = q2_table_load(q, &q->reftable, q->h.reftable_offset,
				  (uint64_t)q->h.reftable_clusters << q->cluster_bits >> 3,
				  "refcount table", fd, err);
	if (!r && !config->read_only)
		r = q2_reftable_check(q, err);
	return r;
}

/* Only a file that was named is opened: what the image says could be any file of the host's. */
static int open_backing(struct qcow2 *q, const struct block_config *config, struct error *err)
{
	int r;

	if (!*q->h.backing) {
		if (!config->backing)
			return 0;
		block_close_configs(config->backing);
		return error_usage(err, -EINVAL,
				   "disk '%s': has no backing file, but '%s' is given", q->b.path,
				   config->backing->path);
	}
	if (config->backing)
		return block_open(&q->backing, config->backing, err);
	r = error_usage(err, -EPERM,
			"disk '%s': names the backing file '%.100s', which was not allowed",
			q->b.path, q->h.backing);
	error_hint(err, "name it with 'backing=PATH', or allow whatever images name with "
			"'follow-backing'");
	return r;
}

/* Not what it has beneath, which nobody writes. */
static int q2_reload(struct block *b, int fd, struct error *err)
{
	struct qcow2 *q = q2_of(b);
	uint64_t size = b->size_bytes;
	int r;

	q2_cache_done(q);
	q2_table_done(&q->l1);
	q2_table_done(&q->reftable);
	q->l1 = q->reftable = (struct q2_table){ 0 };
	q->hint = 0;
	free(q->zeroes);
	q->zeroes = NULL;
	/* What is cached here of a file on a server may be old. */
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	r = q2_init(q, fd, &(struct block_config){ .read_only = b->read_only }, err);
	if (!r && b->size_bytes != size)
		r = error_set(err, -ESTALE, "disk '%s': is of another size now", b->path);
	return r;
}

static const struct block_ops q2_ops = {
	.hole = q2_hole,
	.submit = q2_submit,
	.attach = q2_attach,
	.settle = q2_settle,
	.reload = q2_reload,
	.free = q2_free,
};

int block_qcow2_create(struct block **ret_block, struct block *container, int fd,
		       const struct block_config *config, struct error *err)
{
	struct qcow2 *q = calloc(1, sizeof(*q));
	int r;

	if (!q) {
		block_close_configs(config->backing);
		return error_set(err, -ENOMEM, "disk '%s': %m", config->path);
	}
	q->b = (struct block){
		.ops = &q2_ops,
		.path = strdup(config->path),
		.logical_block = BLOCK_SECTOR,
		.physical_block = PAGE_SIZE,
		.read_only = config->read_only,
		.can_discard = !config->read_only,
		.can_write_zeroes = !config->read_only,
		.writethrough = config->cache == BLOCK_CACHE_WRITETHROUGH,
		.no_flush = config->cache == BLOCK_CACHE_UNSAFE,
	};
	list_init(&q->lru);
	list_init(&q->jobs);
	list_init(&q->allocs);
	list_init(&q->tables);
	list_init(&q->refs_gate.waiters);
	list_init(&q->header_gate.waiters);
	list_init(&q->batches);
	list_init(&q->commit.now);
	list_init(&q->commit.next);
	for (unsigned i = 0; i < ARRAY_SIZE(q->commit.write); i++)
		list_init(&q->commit.write[i]);
	r = q->b.path ? q2_init(q, fd, config, err) :
			error_set(err, -ENOMEM, "disk '%s': %m", config->path);
	if (!r)
		r = open_backing(q, config, err);
	else
		block_close_configs(config->backing);
	if (r < 0) {
		q2_free(&q->b);
		return r;
	}
	q->file = container;
	*ret_block = &q->b;
	return 0;
}
