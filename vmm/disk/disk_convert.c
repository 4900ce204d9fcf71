/*
 * Copying one image to another: a few large reads and writes in flight on a
 * loop of its own. Zeroes are not written, wherever they come from.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/qcow2_image.h"
#include "vmm/disk/disk.h"

#define CHUNK	(1 * MiB)
#define GRAIN	(64 * KiB) /* zeroes of this size and alignment are left out */
#define DEPTH	8
#define WRITES	(CHUNK / GRAIN)

struct copy;
struct chunk;

struct part {
	struct block_req req;
	struct iovec iov;
	struct chunk *chunk;
};

/* A chunk on its way: read, then its parts that are not zero written. */
struct chunk {
	struct copy *copy;
	struct block_req read;
	struct iovec iov;
	uint8_t *buf;
	struct part write[WRITES];
	unsigned pending;
	bool busy;
};

struct copy {
	struct loop *loop;
	struct block *from, *to;
	uint64_t next, size;
	int res;
	bool reading_failed;
	struct chunk chunk[DEPTH];
};

static bool is_zero(const uint8_t *p, size_t len)
{
	return !*p && memcmp(p, p + 1, len - 1) == 0;
}

static void chunk_put(struct chunk *c)
{
	if (!--c->pending)
		c->busy = false;
}

static void write_done(struct block_req *req, int res)
{
	struct chunk *c = container_of(req, struct part, req)->chunk;

	if (res < 0 && !c->copy->res)
		c->copy->res = res;
	chunk_put(c);
}

static void read_done(struct block_req *req, int res)
{
	struct chunk *c = container_of(req, struct chunk, read);
	unsigned n = 0;

	if (res < 0 && !c->copy->res) {
		c->copy->res = res;
		c->copy->reading_failed = true;
	}
	for (uint64_t at = 0, end; !c->copy->res && at < req->len; at = end) {
		end = MIN(at + GRAIN, req->len);
		if (is_zero(c->buf + at, end - at))
			continue;
		while (end < req->len &&
		       !is_zero(c->buf + end, MIN((uint64_t)GRAIN, req->len - end)))
			end = MIN(end + GRAIN, req->len);
		c->write[n].chunk = c;
		c->write[n].iov = (struct iovec){ c->buf + at, end - at };
		c->write[n].req = (struct block_req){
			.op = BLOCK_WRITE,
			.offset = req->offset + at,
			.len = end - at,
			.iov = &c->write[n].iov,
			.iovcnt = 1,
			.done = write_done,
		};
		c->pending++;
		block_submit(c->copy->to, &c->write[n++].req);
	}
	chunk_put(c);
}

static void start_chunk(struct copy *copy, struct chunk *c)
{
	uint64_t len = MIN(CHUNK, copy->size - copy->next);

	c->iov = (struct iovec){ c->buf, len };
	c->read = (struct block_req){
		.op = BLOCK_READ,
		.offset = copy->next,
		.len = len,
		.iov = &c->iov,
		.iovcnt = 1,
		.done = read_done,
	};
	c->busy = true;
	c->pending = 1;
	copy->next += len;
	block_submit(copy->from, &c->read);
}

static bool is_busy(const struct copy *copy)
{
	for (unsigned i = 0; i < DEPTH; i++)
		if (copy->chunk[i].busy)
			return true;
	return false;
}

static void show_progress(const struct copy *copy, unsigned *shown)
{
	unsigned percent = copy->size ? copy->next * 100 / copy->size : 100;

	if (percent == *shown || !isatty(STDERR_FILENO))
		return;
	*shown = percent;
	fprintf(stderr, "\r%3u%%%s", percent, percent == 100 ? "\n" : "");
}

static int copy_all(struct copy *copy)
{
	unsigned shown = 101;

	do {
		for (unsigned i = 0; i < DEPTH; i++) {
			if (copy->chunk[i].busy || copy->res)
				continue;
			copy->next += block_hole(copy->from, copy->next);
			copy->next = MIN(copy->next, copy->size);
			if (copy->next < copy->size)
				start_chunk(copy, &copy->chunk[i]);
		}
		show_progress(copy, &shown);
		if (is_busy(copy))
			loop_run_once(copy->loop, UINT64_MAX);
	} while (is_busy(copy) || (!copy->res && copy->next < copy->size));
	return copy->res;
}

static int open_source(const struct disk_options *o, const char *path, struct block **ret_block,
		       struct error *err)
{
	const char *named[] = { o->backing };
	struct block_chain_params params = {
		.path = path,
		.format = o->source_format,
		.named = named,
		.num_named = o->backing ? 1 : 0,
		.follow = o->follow_backing,
	};
	struct block_config beneath[BLOCK_MAX_CHAIN];
	struct block_config config = {
		.path = path,
		.format = o->source_format,
		.read_only = true,
	};
	struct block_chain chain = { 0 };
	int r;

	config.fd = params.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (config.fd < 0)
		return error_usage(err, -errno, "'%s': cannot open: %m", path);
	r = block_chain_open(&chain, &params, err);
	if (r < 0) {
		close(config.fd);
		return r;
	}
	config.backing = block_chain_take(&chain, beneath, &config);
	r = block_open(ret_block, &config, err);
	block_chain_close(&chain);
	return r;
}

static int open_target(const struct disk_options *o, const struct disk_new *n, uint64_t size,
		       struct block **ret_block, struct error *err)
{
	struct qcow2_create_params params = {
		.size_bytes = size,
		.cluster_size = o->cluster_bytes,
	};
	struct block_config config = {
		.path = n->path,
		.format = disk_new_is_raw(o, n->path) ? BLOCK_FORMAT_RAW : BLOCK_FORMAT_QCOW2,
		/* Made durable at the end, as a whole. */
		.cache = BLOCK_CACHE_UNSAFE,
	};
	int r;

	if (config.format == BLOCK_FORMAT_RAW)
		r = ftruncate(n->fd, size) < 0 ?
			    error_usage(err, -errno, "'%s': %m", n->path) : 0;
	else
		r = qcow2_image_create(n->fd, &params, err);
	if (r < 0 && config.format != BLOCK_FORMAT_RAW)
		error_prefix(err, "'%s'", n->path);
	if (r < 0)
		return r;
	config.fd = fcntl(n->fd, F_DUPFD_CLOEXEC, 0);
	return block_open(ret_block, &config, err);
}

static int prepare(struct copy *copy, struct error *err)
{
	struct loop_params params = { .name = "convert" };
	int r = loop_create(&copy->loop, &params, err);

	for (unsigned i = 0; i < DEPTH && !r; i++) {
		copy->chunk[i].copy = copy;
		copy->chunk[i].buf = aligned_alloc(PAGE_SIZE, CHUNK);
		if (!copy->chunk[i].buf)
			r = error_set(err, -ENOMEM, "%m");
	}
	return r;
}

int disk_convert(const struct disk_options *o, const char *from, const char *to,
		 struct error *err)
{
	struct copy *copy = calloc(1, sizeof(*copy));
	struct disk_new n = { .fd = -1 };
	int r, closed;

	if (!copy)
		return error_set(err, -ENOMEM, "'%s': %m", to);
	r = prepare(copy, err);
	/* The target first: an image may be converted in its place, and would be in use by us. */
	if (!r)
		r = disk_new_open(&n, to, o->force, err);
	if (!r)
		r = open_source(o, from, &copy->from, err);
	if (!r) {
		block_attach(copy->from, copy->loop);
		copy->size = block_size(copy->from);
		r = open_target(o, &n, copy->size, &copy->to, err);
	}
	if (!r) {
		block_attach(copy->to, copy->loop);
		r = copy_all(copy);
		if (r < 0)
			error_usage(err, r, "'%s': cannot %s: %m", copy->reading_failed ? from : to,
				    copy->reading_failed ? "read" : "write");
	}
	/* Its tables are written when it is closed. */
	closed = block_close(copy->to);
	if (!r && closed < 0)
		r = error_usage(err, closed, "'%s': cannot write: %m", to);
	block_close(copy->from);
	loop_free(copy->loop);
	for (unsigned i = 0; i < DEPTH; i++)
		free(copy->chunk[i].buf);
	free(copy);
	if (!r)
		r = disk_new_commit(&n, err);
	disk_new_done(&n);
	return r;
}
