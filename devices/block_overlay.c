#include "devices/block_overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/block_internal.h"
#include "vmm/core/iov.h"

#define COPY_BYTES (64 * KiB)
#define SPAN_ALIGN (1 * MiB) /* no block of the file belongs to both halves */

/* Where a sector is: the halves of the file in their order, or beneath them. */
enum layer { LAYER_FRESH, LAYER_KEPT, NUM_LAYERS, LAYER_IMAGE = NUM_LAYERS };

struct block_overlay {
	struct block *file; /* on the image's loop; other handles have handles of it */
	int fd;		    /* the same, for what waits */
	uint64_t span;	    /* of one half, bytes */
	uint64_t map_bytes;
	/* A bit for each sector; set when a write is over, by any loop of the image. */
	_Atomic uint64_t *map[NUM_LAYERS];
};

/* A request in pieces, of which one is under way at a time. */
struct overlaid {
	struct block_req inner;
	struct block_req *outer;
	uint64_t done; /* bytes */
	struct iovec iov[];
};

static struct block *image_of(struct block *b)
{
	return b->origin ? b->origin : b;
}

/* ---- the bitmaps ---- */

static enum layer layer_of(const struct block_overlay *o, uint64_t sector)
{
	for (unsigned i = 0; i < NUM_LAYERS; i++)
		if (atomic_load_explicit(&o->map[i][sector / 64], memory_order_relaxed) &
		    (1ull << (sector % 64)))
			return i;
	return LAYER_IMAGE;
}

/* How many of the @len bytes at @offset are in one place, @ret_layer. */
static uint64_t run_at(const struct block_overlay *o, uint64_t offset, uint64_t len,
		       enum layer *ret_layer)
{
	uint64_t first = offset / BLOCK_SECTOR, end = (offset + len) / BLOCK_SECTOR, at = first;

	*ret_layer = layer_of(o, first);
	do
		at++;
	while (at < end && layer_of(o, at) == *ret_layer);
	return (at - first) * BLOCK_SECTOR;
}

static void mark(struct block_overlay *o, enum layer layer, uint64_t offset, uint64_t len)
{
	uint64_t end = (offset + len) / BLOCK_SECTOR;

	for (uint64_t at = offset / BLOCK_SECTOR; at < end; at++)
		atomic_fetch_or_explicit(&o->map[layer][at / 64], 1ull << (at % 64),
					 memory_order_relaxed);
}

/* Pages of it that nobody has touched take no memory, and need not be cleared. */
static int clear_map(struct block_overlay *o, enum layer layer)
{
	return madvise((void *)o->map[layer], o->map_bytes, MADV_DONTNEED) < 0 ? -errno : 0;
}

/* ---- requests ---- */

static void submit_piece(struct overlaid *x);

static void end(struct overlaid *x, int res)
{
	struct block_req *outer = x->outer;

	free(x);
	block_finish(outer, res);
}

static void piece_done(struct block_req *req, int res)
{
	struct overlaid *x = container_of(req, struct overlaid, inner);
	struct block_req *outer = x->outer;

	if (res < 0) {
		end(x, res);
		return;
	}
	x->done += req->len;
	if (outer->op != BLOCK_READ)
		mark(image_of(outer->block)->overlay, LAYER_FRESH, outer->offset, outer->len);
	if (x->done == outer->len)
		end(x, 0);
	else
		submit_piece(x);
}

/* The segments of the piece: of @x->inner.len bytes, after those that are done. */
static void slice(struct overlaid *x)
{
	x->inner.iov = x->iov;
	x->inner.iovcnt = iov_slice(x->outer->iov, x->outer->iovcnt, x->done, x->inner.len, x->iov);
}

/* This handle's own handle of the file. */
static struct block *file_of(struct block *b)
{
	struct block_overlay *o = image_of(b)->overlay;

	if (!b->origin)
		return o->file;
	if (!b->overlay_file && block_share(&b->overlay_file, o->file, b->loop) < 0)
		b->overlay_file = NULL;
	return b->overlay_file;
}

static void submit_piece(struct overlaid *x)
{
	struct block *b = x->outer->block, *file = file_of(b);
	const struct block_overlay *o = image_of(b)->overlay;
	enum layer layer = LAYER_FRESH;
	uint64_t left = x->outer->len - x->done;

	x->inner = (struct block_req){
		.op = x->outer->op,
		.may_unmap = true,
		.offset = x->outer->offset + x->done,
		.len = left,
		.done = piece_done,
	};
	if (x->inner.op == BLOCK_READ)
		x->inner.len = run_at(o, x->inner.offset, left, &layer);
	if (x->inner.op != BLOCK_WRITE_ZEROES)
		slice(x);
	if (layer == LAYER_IMAGE) {
		x->inner.block = b;
		b->inflight++;
		b->ops->submit(b, &x->inner);
		return;
	}
	x->inner.offset += layer * o->span;
	if (file) {
		block_submit(file, &x->inner);
		return;
	}
	block_finish_later(x->outer, -ENOMEM);
	free(x);
}

void block_overlay_submit(struct block *b, struct block_req *req)
{
	const struct block_overlay *o = image_of(b)->overlay;
	enum layer layer;
	struct overlaid *x;

	/* Advice, which would cost room here. */
	if (req->op == BLOCK_DISCARD) {
		block_finish_later(req, 0);
		return;
	}
	/* The overlay is gone with the guest: only what was written before is to be durable. */
	if (req->op == BLOCK_FLUSH ||
	    (req->op == BLOCK_READ && run_at(o, req->offset, req->len, &layer) == req->len &&
	     layer == LAYER_IMAGE)) {
		b->ops->submit(b, req);
		return;
	}
	x = malloc(sizeof(*x) + (req->iovcnt + 1) * sizeof(x->iov[0]));
	if (!x) {
		block_finish_later(req, -ENOMEM);
		return;
	}
	x->outer = req;
	x->done = 0;
	submit_piece(x);
}

/* ---- life ---- */

void block_overlay_free(struct block_overlay *o)
{
	if (!o)
		return;
	for (unsigned i = 0; i < NUM_LAYERS; i++)
		if (o->map[i])
			munmap((void *)o->map[i], o->map_bytes);
	block_close(o->file);
	free(o);
}

static int make_maps(struct block_overlay *o, uint64_t size)
{
	o->map_bytes = align_up((size / BLOCK_SECTOR + 7) / 8, PAGE_SIZE);
	for (unsigned i = 0; i < NUM_LAYERS; i++) {
		void *map = mmap(NULL, o->map_bytes, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (map == MAP_FAILED)
			return -errno;
		/* Bits are few and far between. */
		madvise(map, o->map_bytes, MADV_NOHUGEPAGE);
		o->map[i] = map;
	}
	return 0;
}

int block_overlay_create(struct block *b, int fd)
{
	const struct block_config config = { .container = true, .cache = BLOCK_CACHE_UNSAFE };
	const struct block_file file = {
		.fd = fd,
		.path = b->path,
		.logical_block = BLOCK_SECTOR,
		.physical_block = PAGE_SIZE,
	};
	struct block_overlay *o;
	struct stat st;
	int r;

	if (b->overlay || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size)
		return -EINVAL;
	o = calloc(1, sizeof(*o));
	if (!o)
		return -ENOMEM;
	o->fd = fd;
	o->span = align_up(block_size(b), SPAN_ALIGN);
	r = make_maps(o, block_size(b));
	if (!r)
		r = block_raw_create(&o->file, &file, &config, NULL);
	if (r < 0) {
		block_overlay_free(o);
		return r;
	}
	block_attach(o->file, b->loop);
	b->overlay = o;
	return 0;
}

bool block_has_overlay(const struct block *b)
{
	return b->overlay;
}

void block_overlay_remove(struct block *b)
{
	block_overlay_free(b->overlay);
	b->overlay = NULL;
}

/* Of @len bytes at @offset the fresh half's become the other's. */
static int keep_run(struct block_overlay *o, uint64_t offset, uint64_t len, uint8_t *buf)
{
	for (uint64_t at = 0; at < len;) {
		ssize_t n = pread(o->fd, buf, MIN(len - at, (uint64_t)COPY_BYTES),
				  (off_t)(offset + at));

		if (n < 0)
			return -errno;
		/* Behind the file's end are zeroes. */
		if (!n) {
			n = (ssize_t)MIN(len - at, (uint64_t)COPY_BYTES);
			memset(buf, 0, n);
		}
		n = pwrite(o->fd, buf, n, (off_t)(o->span + offset + at));
		if (n <= 0)
			return n ? -errno : -EIO;
		at += n;
	}
	mark(o, LAYER_KEPT, offset, len);
	return 0;
}

int block_overlay_keep(struct block *b)
{
	struct block_overlay *o = b->overlay;
	uint64_t size = block_size(b), at = 0, len;
	uint8_t *buf = malloc(COPY_BYTES);
	int r = buf ? 0 : -ENOMEM;

	while (!r && at < size) {
		enum layer layer;

		/* By whole words of the map first: most of a disk was never written. */
		if (!(at % (64 * BLOCK_SECTOR)) &&
		    !atomic_load(&o->map[LAYER_FRESH][at / BLOCK_SECTOR / 64])) {
			at += 64 * BLOCK_SECTOR;
			continue;
		}
		len = MIN(size - at, (uint64_t)64 * BLOCK_SECTOR - at % (64 * BLOCK_SECTOR));
		len = run_at(o, at, len, &layer);
		if (layer == LAYER_FRESH)
			r = keep_run(o, at, len, buf);
		at += len;
	}
	free(buf);
	return r ? r : block_overlay_go_back(b);
}

int block_overlay_go_back(struct block *b)
{
	struct block_overlay *o = b->overlay;
	int r = clear_map(o, LAYER_FRESH);

	/* Only room is lost where it cannot be given back. */
	if (!r)
		(void)!fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
				 (off_t)o->span);
	return r;
}
