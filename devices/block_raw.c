/*
 * Raw images: the guest's byte n is the file's byte n. Transfers go straight
 * between the file and the request's buffers.
 *
 * Direct I/O wants aligned memory, offsets and lengths, and a guest may send
 * others (firmware does). Those go through a second, buffered descriptor of the
 * same file: the page cache does the read-modify-write, and the kernel keeps it
 * coherent with direct transfers.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/block_internal.h"
#include "vmm/core/iov.h"
#include "vmm/core/log.h"

#define ZEROES_BYTES (64 * KiB)

/* Where a request stands; it only moves forward. */
enum stage {
	STAGE_START,
	STAGE_ALLOCATE,	 /* punch a hole or zero the range by fallocate */
	STAGE_ZERO_RANGE, /* the same without unmapping, after the hole was refused */
	STAGE_TRANSFER,	 /* read, write, or write zeroes by hand */
	STAGE_SYNC,
};

struct block_raw {
	struct block b;
	int fd;
	int buffered_fd; /* direct I/O: for what is not aligned; else -1 */
	uint32_t align_memory, align_offset;
	bool unsynced; /* written since the last sync */
	bool container; /* no end */
	pthread_mutex_t length_lock; /* the origin's: the file is as long as size_bytes says */
	/* Found out by trying; asked once. */
	bool no_punch, no_zero_range;
};

static struct block_raw *raw_of(struct block_req *req)
{
	return container_of(req->block, struct block_raw, b);
}

/* ---- transfers ---- */

static bool is_aligned(const struct block_raw *raw, const struct iovec *iov, unsigned iovcnt,
		       uint64_t offset)
{
	uint64_t memory = offset & (raw->align_offset - 1) ? 1 : 0;
	uint64_t length = 0;

	for (unsigned i = 0; i < iovcnt; i++) {
		memory |= (uintptr_t)iov[i].iov_base & (raw->align_memory - 1);
		length |= iov[i].iov_len & (raw->align_offset - 1);
	}
	return !memory && !length;
}

static void transfer(struct block_req *req, const struct iovec *iov, unsigned iovcnt)
{
	struct block_raw *raw = raw_of(req);
	uint64_t offset = req->offset + req->progress;
	int fd = raw->fd;

	if (raw->buffered_fd >= 0 && !is_aligned(raw, iov, iovcnt, offset))
		fd = raw->buffered_fd;
	req->stage = STAGE_TRANSFER;
	if (req->op == BLOCK_READ)
		loop_readv(raw->b.loop, &req->io, fd, iov, iovcnt, offset);
	else
		loop_writev(raw->b.loop, &req->io, fd, iov, iovcnt, offset);
}

/* Go on after a transfer that ended early; the request's own iovecs stay as they are. */
static int transfer_rest(struct block_req *req)
{
	if (!req->rest) {
		req->rest = malloc(req->iovcnt * sizeof(*req->rest));
		if (!req->rest)
			return -ENOMEM;
	}
	transfer(req, req->rest,
		 iov_slice(req->iov, req->iovcnt, req->progress, req->len - req->progress,
			   req->rest));
	return 0;
}

/* What is behind the file's end, of a file that has none. */
static void zero_rest(struct block_req *req)
{
	uint64_t skip = req->progress;

	for (unsigned i = 0; i < req->iovcnt; i++) {
		size_t n = MIN(skip, (uint64_t)req->iov[i].iov_len);

		memset((uint8_t *)req->iov[i].iov_base + n, 0, req->iov[i].iov_len - n);
		skip -= n;
	}
}

/* The slow way, for files and devices that cannot zero a range by themselves. */
static void write_zeroes(struct block_req *req)
{
	static const uint8_t zeroes[ZEROES_BYTES] __attribute__((aligned(4096)));
	struct block_raw *raw = raw_of(req);
	uint64_t offset = req->offset + req->progress;
	struct iovec iov = {
		.iov_base = (void *)zeroes,
		.iov_len = MIN(req->len - req->progress, (uint64_t)sizeof(zeroes)),
	};
	int fd = raw->fd;

	if (raw->buffered_fd >= 0 && !is_aligned(raw, &iov, 1, offset))
		fd = raw->buffered_fd;
	req->stage = STAGE_TRANSFER;
	loop_write(raw->b.loop, &req->io, fd, zeroes, iov.iov_len, offset);
}

static void go_on(struct block_req *req)
{
	int r = 0;

	if (req->op == BLOCK_WRITE_ZEROES)
		write_zeroes(req);
	else
		r = transfer_rest(req);
	if (r < 0)
		block_finish(req, r);
}

static void allocate(struct block_req *req)
{
	struct block_raw *raw = raw_of(req);
	bool punch = req->op == BLOCK_DISCARD || (req->may_unmap && req->stage == STAGE_START);
	int mode = FALLOC_FL_KEEP_SIZE;

	if (punch && !raw->no_punch) {
		req->stage = STAGE_ALLOCATE;
		mode |= FALLOC_FL_PUNCH_HOLE;
	} else if (req->op == BLOCK_WRITE_ZEROES && !raw->no_zero_range) {
		req->stage = STAGE_ZERO_RANGE;
		mode |= FALLOC_FL_ZERO_RANGE;
	} else if (req->op == BLOCK_WRITE_ZEROES) {
		write_zeroes(req);
		return;
	} else {
		/* A discard is only advice; what cannot be taken is no error. */
		block_finish_later(req, 0);
		return;
	}
	loop_fallocate(raw->b.loop, &req->io, raw->fd, mode, req->offset, req->len);
}

static void sync_file(struct block_req *req)
{
	struct block_raw *raw = raw_of(req);

	req->stage = STAGE_SYNC;
	/* Before the sync, so that a write which overtakes it is remembered. */
	raw->unsynced = false;
	loop_fsync(raw->b.loop, &req->io, raw->fd, true);
}

/* ---- completions ---- */

static void written(struct block_req *req)
{
	struct block_raw *raw = raw_of(req);

	raw->unsynced = true;
	if ((req->durable || raw->b.writethrough) && !raw->b.no_flush)
		sync_file(req);
	else
		block_finish(req, 0);
}

static void allocated(struct block_req *req, int res)
{
	struct block_raw *raw = raw_of(req);
	/* EINVAL: a block device whose sectors are larger than the range's alignment. */
	bool refused = res == -EOPNOTSUPP || res == -ENOSYS || res == -EINVAL;

	if (!refused) {
		if (res < 0)
			block_finish(req, res);
		else
			written(req);
		return;
	}
	if (res != -EINVAL) {
		if (req->stage == STAGE_ALLOCATE)
			raw->no_punch = true;
		else
			raw->no_zero_range = true;
	}
	if (req->op == BLOCK_DISCARD)
		block_finish(req, 0);
	else if (req->stage == STAGE_ALLOCATE)
		allocate(req);
	else
		write_zeroes(req);
}

static void transferred(struct block_req *req, int res)
{
	if (res == -EINTR) {
		go_on(req);
		return;
	}
	if (!res && raw_of(req)->container && req->op == BLOCK_READ) {
		zero_rest(req);
		block_finish(req, 0);
		return;
	}
	/* Nothing where there was a sector: the file was cut short under us. */
	if (res <= 0) {
		block_finish(req, res ? res : -EIO);
		return;
	}
	req->progress += res;
	if (req->progress < req->len)
		go_on(req);
	else if (req->op == BLOCK_READ)
		block_finish(req, 0);
	else
		written(req);
}

/* Has the image been made shorter since @req was checked? */
static bool is_behind_end(const struct block_req *req)
{
	return req->offset + req->len > block_size(req->block);
}

/* A write that was in flight then has made the file long again: a later start would show that. */
static void cut_back(struct block_req *req)
{
	struct block_raw *raw = raw_of(req);
	struct stat st;

	raw->unsynced = true;
	if (raw->b.origin)
		raw = container_of(raw->b.origin, struct block_raw, b);
	/* A device is as long as it is. */
	if (fstat(raw->fd, &st) == 0 && !S_ISREG(st.st_mode))
		return;
	pthread_mutex_lock(&raw->length_lock);
	if (ftruncate(raw->fd, (off_t)block_size(&raw->b)) < 0)
		log_warn("disk '%s': what was written behind its new end stays: %m", raw->b.path);
	pthread_mutex_unlock(&raw->length_lock);
}

static void raw_done(struct loop_op *op, int res)
{
	struct block_req *req = container_of(op, struct block_req, io);

	if (req->stage != STAGE_SYNC && is_behind_end(req)) {
		if (req->op == BLOCK_WRITE || req->op == BLOCK_WRITE_ZEROES)
			cut_back(req);
		block_finish(req, -EIO);
		return;
	}
	switch (req->stage) {
	case STAGE_TRANSFER:
		transferred(req, res);
		break;
	case STAGE_SYNC:
		if (res < 0)
			raw_of(req)->unsynced = true;
		block_finish(req, MIN(res, 0));
		break;
	default:
		allocated(req, res);
	}
}

static void raw_submit(struct block *b, struct block_req *req)
{
	req->io.done = raw_done;
	switch (req->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		transfer(req, req->iov, req->iovcnt);
		break;
	case BLOCK_FLUSH:
		sync_file(req);
		break;
	case BLOCK_DISCARD:
	case BLOCK_WRITE_ZEROES:
		allocate(req);
		break;
	}
}

/* ---- life ---- */

static int raw_free(struct block *b)
{
	struct block_raw *raw = container_of(b, struct block_raw, b);
	int r = 0;

	if (raw->unsynced && !b->no_flush && fdatasync(raw->fd) < 0)
		r = -errno;
	if (b->origin) {
		/* The descriptors and the name are the origin's. */
		free(raw);
		return r;
	}
	pthread_mutex_destroy(&raw->length_lock);
	if (raw->buffered_fd >= 0)
		close(raw->buffered_fd);
	if (raw->fd >= 0) {
		block_unlock(raw->fd);
		close(raw->fd);
	}
	free(b->path);
	free(raw);
	return r;
}

/* All state of a raw image is the kernel's: any number of loops may use its descriptors. */
static int raw_share(struct block *b, struct block **ret_handle)
{
	struct block_raw *raw = malloc(sizeof(*raw));

	if (!raw)
		return -ENOMEM;
	*raw = *container_of(b, struct block_raw, b);
	raw->b.inflight = 0;
	raw->b.finish = (struct loop_task){ 0 };
	raw->unsynced = false;
	*ret_handle = &raw->b;
	return 0;
}

static int set_length(struct block_raw *raw, uint64_t bytes)
{
	uint64_t was = raw->b.size_bytes;
	int r;

	pthread_mutex_lock(&raw->length_lock);
	/* Shorter first: a write that ends after the file was cut must see that it was. */
	__atomic_store_n(&raw->b.size_bytes, MIN(bytes, was), __ATOMIC_RELAXED);
	r = ftruncate(raw->fd, (off_t)bytes) < 0 ? -errno : 0;
	__atomic_store_n(&raw->b.size_bytes, r ? was : bytes, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&raw->length_lock);
	return r;
}

static int raw_resize(struct block *b, uint64_t bytes)
{
	struct block_raw *raw = container_of(b, struct block_raw, b);
	struct stat st;
	uint64_t size;

	if (fstat(raw->fd, &st) < 0)
		return -errno;
	if (S_ISREG(st.st_mode)) {
		/* A new length is metadata that a later fdatasync() takes along. */
		raw->unsynced = true;
		return set_length(raw, bytes);
	}
	/* A device has the size it has; whoever changed it tells us, up to how far we may go. */
	if (ioctl(raw->fd, BLKGETSIZE64, &size) < 0)
		return -errno;
	return bytes <= size ? 0 : -ENOSPC;
}

/* What direct I/O asks for, and the descriptor for what does not comply. */
static int set_up_direct(struct block_raw *raw, struct error *err)
{
	char self[32];
	struct statx st;

	raw->align_memory = raw->align_offset = raw->b.logical_block;
	if (statx(raw->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 &&
	    (st.stx_mask & STATX_DIOALIGN) && is_power_of_two(st.stx_dio_mem_align) &&
	    is_power_of_two(st.stx_dio_offset_align)) {
		raw->align_memory = st.stx_dio_mem_align;
		raw->align_offset = st.stx_dio_offset_align;
	} else if (raw->b.logical_block == BLOCK_SECTOR) {
		/* A file on a kernel that cannot tell: assume the largest in use. */
		raw->align_memory = raw->align_offset = PAGE_SIZE;
	}
	/* The path may name another file by now. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", raw->fd);
	raw->buffered_fd = open(self, (raw->b.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (raw->buffered_fd < 0)
		return error_usage(err, -errno, "disk '%s': cannot open for buffered I/O: %m",
				   raw->b.path);
	return 0;
}

static uint64_t raw_hole(struct block *b, uint64_t pos)
{
	off_t data = lseek(container_of(b, struct block_raw, b)->fd, (off_t)pos, SEEK_DATA);

	if (data >= 0)
		return align_down((uint64_t)data - pos, BLOCK_SECTOR);
	return errno == ENXIO ? block_size(b) - pos : 0;
}

static const struct block_ops raw_ops = {
	.hole = raw_hole,
	.submit = raw_submit,
	.share = raw_share,
	.resize = raw_resize,
	.free = raw_free,
};

int block_raw_create(struct block **ret_block, const struct block_file *file,
		     const struct block_config *config, struct error *err)
{
	struct block_raw *raw = calloc(1, sizeof(*raw));
	int r;

	if (!raw)
		return error_set(err, -ENOMEM, "disk '%s': %m", file->path);
	raw->b = (struct block){
		.ops = &raw_ops,
		.path = strdup(file->path),
		.size_bytes = file->size_bytes,
		.logical_block = file->logical_block,
		.physical_block = file->physical_block,
		.read_only = config->read_only,
		.can_discard = !config->read_only,
		.can_write_zeroes = !config->read_only,
		.writethrough = config->cache == BLOCK_CACHE_WRITETHROUGH,
		.no_flush = config->cache == BLOCK_CACHE_UNSAFE,
	};
	pthread_mutex_init(&raw->length_lock, NULL);
	raw->fd = file->fd;
	raw->buffered_fd = -1;
	raw->container = config->container;
	if (raw->container)
		raw->b.size_bytes = align_down(INT64_MAX, BLOCK_SECTOR);
	if (!raw->b.path)
		r = error_set(err, -ENOMEM, "disk '%s': %m", file->path);
	else
		r = config->direct ? set_up_direct(raw, err) : 0;
	if (r < 0) {
		raw->fd = -1; /* still the caller's */
		raw_free(&raw->b);
		return r;
	}
	*ret_block = &raw->b;
	return 0;
}
