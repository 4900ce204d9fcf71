/*
 * The block device (virtio 1.2, 5.2): reads, writes, flushes, discards and
 * zeroes against a struct block, straight from and into guest memory.
 *
 * A request is allocated with the segments it has and kept for the next one
 * when it is small, so that an idle disk holds little memory and a busy one
 * does not allocate.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>

#include "virtio/virtio_devices.h"

#define QUEUE_SIZE   256
#define SEG_MAX	     254 /* with header and status a chain of QUEUE_SIZE */
#define SMALL_IOV    18	 /* segments of a request that is kept: 64 KiB of single pages */
#define MAX_KEPT     32

/* Per request; bounds how long one can take where zeroes are written by hand. */
#define MAX_RANGE_SECTORS (2 * GiB / BLOCK_SECTOR)

struct virtio_blk {
	struct virtio_device dev;
	struct block *block;
	char serial[VIRTIO_BLK_ID_BYTES];
	_Atomic bool write_cache; /* the driver may turn it off; see durable_writes() */
	unsigned inflight;
	struct list kept; /* requests for reuse */
	unsigned num_kept;
	struct loop_task notify;
	uint64_t used; /* queues with completions that @notify has to tell */
	struct iovec iov[VIRTQ_MAX_SEGMENTS]; /* where a chain is popped to */
};

struct blk_request {
	struct block_req io;
	struct virtio_blk *blk;
	struct list link;
	struct virtq_chain chain;
	uint16_t queue;
	uint16_t room;	 /* entries of iov[] */
	uint32_t type;
	uint8_t *status; /* in guest memory: the chain's last byte */
	struct iovec *status_iov;
	uint64_t sector;
	struct iovec iov[];
};

static struct virtio_blk *blk_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_blk, dev);
}

/* ---- requests ---- */

/* A request for the chain that was popped to the device's iovecs. */
static struct blk_request *request_get(struct virtio_blk *blk, unsigned queue,
				       const struct virtq_chain *chain)
{
	unsigned n = chain->num_out + chain->num_in;
	unsigned room = MAX(n, (unsigned)SMALL_IOV);
	struct blk_request *req;

	if (room == SMALL_IOV && !list_empty(&blk->kept)) {
		req = list_entry(blk->kept.next, struct blk_request, link);
		list_del(&req->link);
		blk->num_kept--;
	} else {
		req = malloc(sizeof(*req) + room * sizeof(req->iov[0]));
		if (!req)
			return NULL;
	}
	req->blk = blk;
	req->queue = queue;
	req->room = room;
	req->chain = *chain;
	req->chain.iov = req->iov;
	memcpy(req->iov, chain->iov, n * sizeof(req->iov[0]));
	blk->inflight++;
	return req;
}

static void request_put(struct blk_request *req)
{
	struct virtio_blk *blk = req->blk;

	blk->inflight--;
	if (req->room == SMALL_IOV && blk->num_kept < MAX_KEPT) {
		list_add_tail(&blk->kept, &req->link);
		blk->num_kept++;
	} else {
		free(req);
	}
}

/* Answer with @status, after @data bytes were put into the data part. */
static void request_end(struct blk_request *req, uint8_t status, uint32_t data)
{
	struct virtio_blk *blk = req->blk;

	*req->status = status;
	/* The status byte belongs to the chain again, which virtq_push() marks as dirty. */
	req->status_iov->iov_len++;
	guest_mem_mark_dirty_host(blk->dev.mem, req->status, 1);
	virtq_push(&blk->dev.queue[req->queue], &req->chain, data + 1);
	/* One notification for all that complete in this round. */
	blk->used |= 1ull << req->queue;
	loop_defer(blk->dev.loop, &blk->notify);
	request_put(req);
}

static void io_done(struct block_req *io, int res)
{
	struct blk_request *req = container_of(io, struct blk_request, io);
	struct virtio_blk *blk = req->blk;
	/* A read that failed may have changed part of the buffer. */
	uint32_t data = io->op == BLOCK_READ ? io->len : 0;
	uint8_t status = VIRTIO_BLK_S_OK;

	if (res == -EOPNOTSUPP)
		status = VIRTIO_BLK_S_UNSUPP;
	else if (res < 0)
		status = VIRTIO_BLK_S_IOERR;
	request_end(req, status, data);
	if (blk->dev.stopping && !blk->inflight)
		virtio_stopped(&blk->dev);
}

/* A driver that cannot flush, or turned the cache off, relies on every write: 5.2.5.2. */
static bool durable_writes(const struct virtio_blk *blk)
{
	return !virtio_has(&blk->dev, VIRTIO_BLK_F_FLUSH) || !blk->write_cache;
}

static void submit(struct blk_request *req, enum block_op op, uint64_t sector, uint64_t len)
{
	struct block_req *io = &req->io;

	io->op = op;
	io->offset = sector * BLOCK_SECTOR;
	io->len = len;
	io->durable = durable_writes(req->blk);
	io->done = io_done;
	block_submit(req->blk->block, io);
}

/* ---- what a request asks for ---- */

static bool in_capacity(const struct virtio_blk *blk, uint64_t sector, uint64_t len)
{
	return range_inside(sector, len / BLOCK_SECTOR, 0, block_size(blk->block) / BLOCK_SECTOR);
}

/* Skip the first @bytes of the readable part, where the header was. */
static const struct iovec *skip_out(struct virtq_chain *c, size_t bytes, unsigned *ret_num)
{
	unsigned i = 0;

	while (i < c->num_out && bytes >= c->iov[i].iov_len)
		bytes -= c->iov[i++].iov_len;
	if (bytes) {
		c->iov[i].iov_base = (uint8_t *)c->iov[i].iov_base + bytes;
		c->iov[i].iov_len -= bytes;
	}
	*ret_num = c->num_out - i;
	return c->iov + i;
}

static void transfer(struct blk_request *req, bool write)
{
	struct virtq_chain *c = &req->chain;
	const struct iovec *iov;
	uint64_t len;
	unsigned n;

	if (write) {
		iov = skip_out(c, sizeof(struct virtio_blk_outhdr), &n);
		len = c->out_bytes - sizeof(struct virtio_blk_outhdr);
	} else {
		/* The status byte's segment is the last, and empty when it held nothing else. */
		iov = c->iov + c->num_out;
		n = c->num_in - (req->status_iov->iov_len == 0);
		len = c->in_bytes - 1;
	}
	if (len % BLOCK_SECTOR || !in_capacity(req->blk, req->sector, len) ||
	    (write && req->blk->block->read_only)) {
		request_end(req, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	req->io.iov = iov;
	req->io.iovcnt = n;
	submit(req, write ? BLOCK_WRITE : BLOCK_READ, req->sector, len);
}

static void get_id(struct blk_request *req)
{
	size_t room = MIN(req->chain.in_bytes - 1, (uint64_t)VIRTIO_BLK_ID_BYTES);
	uint32_t n = virtq_copy_in(&req->chain, 0, req->blk->serial, room);

	request_end(req, VIRTIO_BLK_S_OK, n);
}

/* Discard and write zeroes: one range, 5.2.6.2. */
static void change_range(struct blk_request *req)
{
	bool discard = req->type == VIRTIO_BLK_T_DISCARD;
	const struct block *b = req->blk->block;
	struct virtio_blk_discard_write_zeroes range;
	uint64_t sector, len;
	uint32_t flags;

	if (!virtio_has(&req->blk->dev,
			discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES)) {
		request_end(req, VIRTIO_BLK_S_UNSUPP, 0);
		return;
	}
	if (req->chain.out_bytes != sizeof(struct virtio_blk_outhdr) + sizeof(range)) {
		request_end(req, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	virtq_copy_out(&req->chain, sizeof(struct virtio_blk_outhdr), &range, sizeof(range));
	sector = le64toh(range.sector);
	len = (uint64_t)le32toh(range.num_sectors) * BLOCK_SECTOR;
	flags = le32toh(range.flags);

	/* Unmap is the only flag, and one of write zeroes alone. */
	if (flags & ~(discard ? 0u : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)) {
		request_end(req, VIRTIO_BLK_S_UNSUPP, 0);
		return;
	}
	if (b->read_only || len / BLOCK_SECTOR > MAX_RANGE_SECTORS ||
	    !in_capacity(req->blk, sector, len)) {
		request_end(req, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	req->io.may_unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	submit(req, discard ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES, sector, len);
}

/* 0, or -EBADMSG for a chain that has no room for an answer. */
static int request_parse(struct blk_request *req)
{
	struct virtq_chain *c = &req->chain;
	struct virtio_blk_outhdr header;

	/* Drivers frame it as they like (2.7.4.3): the header is the first 16 bytes. */
	if (!c->in_bytes ||
	    virtq_copy_out(c, 0, &header, sizeof(header)) < sizeof(header))
		return -EBADMSG;
	req->type = le32toh(header.type);
	req->sector = le64toh(header.sector);
	req->status_iov = &c->iov[c->num_out + c->num_in - 1];
	req->status_iov->iov_len--;
	req->status = (uint8_t *)req->status_iov->iov_base + req->status_iov->iov_len;
	return 0;
}

static void request_begin(struct blk_request *req)
{
	switch (req->type) {
	case VIRTIO_BLK_T_IN:
		transfer(req, false);
		break;
	case VIRTIO_BLK_T_OUT:
		transfer(req, true);
		break;
	case VIRTIO_BLK_T_FLUSH:
		submit(req, BLOCK_FLUSH, 0, 0);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(req);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		change_range(req);
		break;
	default:
		request_end(req, VIRTIO_BLK_S_UNSUPP, 0);
	}
}

/* ---- queues ---- */

/* Take one chain: 1, 0 when there is none, or -errno after which the device has failed. */
static int take_one(struct virtio_blk *blk, unsigned queue)
{
	struct virtq_chain chain = { .iov = blk->iov, .max_iov = ARRAY_SIZE(blk->iov) };
	struct virtq *q = &blk->dev.queue[queue];
	struct blk_request *req;
	int r = virtq_pop(q, &chain);

	if (r < 0)
		virtio_fail(&blk->dev, "queue %u: %s", queue, q->why_broken);
	if (r <= 0)
		return r;
	req = request_get(blk, queue, &chain);
	if (!req) {
		virtio_fail(&blk->dev, "queue %u: no memory for a request", queue);
		return -ENOMEM;
	}
	if (request_parse(req) < 0) {
		request_put(req);
		virtio_fail(&blk->dev, "queue %u: a request without header or status", queue);
		return -EBADMSG;
	}
	request_begin(req);
	return 1;
}

static void blk_kick(struct virtio_device *dev, unsigned queue)
{
	struct virtq *q = &dev->queue[queue];
	unsigned budget = q->size;
	int r;

	do {
		virtq_kicks_off(q);
		while ((r = take_one(blk_of(dev), queue)) > 0) {
			/* A driver that adds as fast as we take must not hold the loop for ever. */
			if (!--budget) {
				virtio_kick_again(dev, queue);
				return;
			}
		}
	} while (r == 0 && virtq_kicks_on(q));
}

static void notify(struct loop_task *task)
{
	struct virtio_blk *blk = container_of(task, struct virtio_blk, notify);
	uint64_t used = blk->used;

	blk->used = 0;
	for (unsigned i = 0; i < blk->dev.num_queues; i++) {
		if (used & (1ull << i))
			virtio_notify(&blk->dev, i);
	}
}

static int blk_start(struct virtio_device *dev)
{
	return 0;
}

static void blk_stop(struct virtio_device *dev)
{
	/* Otherwise the last completion says so. */
	if (!blk_of(dev)->inflight)
		virtio_stopped(dev);
}

static void blk_reset(struct virtio_device *dev)
{
	struct virtio_blk *blk = blk_of(dev);

	blk->write_cache = !blk->block->writethrough;
	blk->used = 0;
}

/* ---- configuration space, 5.2.4 ---- */

static void fill_config(const struct virtio_blk *blk, struct virtio_blk_config *c)
{
	const struct block *b = blk->block;

	memset(c, 0, sizeof(*c));
	c->capacity = htole64(block_size(b) / BLOCK_SECTOR);
	c->seg_max = htole32(SEG_MAX);
	c->blk_size = htole32(b->logical_block);
	c->physical_block_exp = __builtin_ctz(MAX(b->physical_block / b->logical_block, 1u));
	c->min_io_size = htole16(1u << c->physical_block_exp);
	c->wce = blk->write_cache;
	c->num_queues = htole16(blk->dev.num_queues);
	c->max_discard_sectors = htole32(MAX_RANGE_SECTORS);
	c->max_discard_seg = htole32(1);
	c->discard_sector_alignment = htole32(b->physical_block / BLOCK_SECTOR);
	c->max_write_zeroes_sectors = htole32(MAX_RANGE_SECTORS);
	c->max_write_zeroes_seg = htole32(1);
	c->write_zeroes_may_unmap = 1;
}

static void blk_config_read(struct virtio_device *dev, unsigned offset, void *data, unsigned len)
{
	struct virtio_blk_config c;

	fill_config(blk_of(dev), &c);
	memcpy(data, (const uint8_t *)&c + offset, len);
}

static void blk_config_write(struct virtio_device *dev, unsigned offset, const void *data,
			     unsigned len)
{
	struct virtio_blk *blk = blk_of(dev);

	/* The only writable field. Off is always safe; on only where the host has it on. */
	if (offset == offsetof(struct virtio_blk_config, wce) && len == 1 &&
	    virtio_has(dev, VIRTIO_BLK_F_CONFIG_WCE))
		blk->write_cache = *(const uint8_t *)data && !blk->block->writethrough;
}

/* ---- state ---- */

static void blk_save(struct virtio_device *dev, struct state_writer *w)
{
	struct virtio_blk *blk = blk_of(dev);

	state_put_u64(w, block_size(blk->block));
	state_put_u8(w, blk->write_cache);
}

static int blk_load(struct virtio_device *dev, struct state_reader *r)
{
	struct virtio_blk *blk = blk_of(dev);
	uint64_t size = state_get_u64(r);
	bool write_cache = state_get_u8(r);

	if (r->failed)
		return r->failed;
	if (size != block_size(blk->block))
		return state_reader_fail(r, "a disk of %llu bytes, but '%s' has %llu",
					 (unsigned long long)size, blk->block->path,
					 (unsigned long long)block_size(blk->block));
	blk->write_cache = write_cache && !blk->block->writethrough;
	return 0;
}

/* ---- life ---- */

static void blk_free(struct virtio_device *dev)
{
	struct virtio_blk *blk = blk_of(dev);

	/* The last completions may have left a notification to do. */
	while (blk->notify.queued)
		loop_run_once(dev->loop, 0);
	while (!list_empty(&blk->kept)) {
		struct blk_request *req = list_entry(blk->kept.next, struct blk_request, link);

		list_del(&req->link);
		free(req);
	}
	block_close(blk->block);
	virtio_done(dev);
	free(blk);
}

static const struct virtio_ops blk_ops = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.pci_class = 0x018000, /* mass storage, other */
	.config_size = offsetof(struct virtio_blk_config, max_secure_erase_sectors),
	.start = blk_start,
	.stop = blk_stop,
	.reset = blk_reset,
	.kick = blk_kick,
	.config_read = blk_config_read,
	.config_write = blk_config_write,
	.save = blk_save,
	.load = blk_load,
	.free = blk_free,
};

static uint64_t features(const struct block *b, unsigned num_queues)
{
	uint64_t f = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE |
		     1ull << VIRTIO_BLK_F_TOPOLOGY | 1ull << VIRTIO_BLK_F_FLUSH |
		     1ull << VIRTIO_BLK_F_CONFIG_WCE;

	if (b->read_only)
		f |= 1ull << VIRTIO_BLK_F_RO;
	if (b->can_discard)
		f |= 1ull << VIRTIO_BLK_F_DISCARD;
	if (b->can_write_zeroes)
		f |= 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	if (num_queues > 1)
		f |= 1ull << VIRTIO_BLK_F_MQ;
	return f;
}

int virtio_blk_create(struct virtio_device **ret_dev, const struct virtio_params *common,
		      struct block *block, const char *serial, struct error *err)
{
	uint16_t sizes[VIRTIO_MAX_QUEUES];
	struct virtio_params params = *common;
	struct virtio_blk *blk = calloc(1, sizeof(*blk));
	int r;

	if (!blk)
		return error_set(err, -ENOMEM, "virtio-blk '%s': %m", common->id);
	params.num_queues = MAX(common->num_queues, 1u);
	params.features = features(block, params.num_queues);
	params.queue_sizes = sizes;
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
		sizes[i] = QUEUE_SIZE;
	r = virtio_init(&blk->dev, &blk_ops, &params, err);
	if (r < 0) {
		free(blk);
		return r;
	}
	blk->block = block;
	blk->write_cache = !block->writethrough;
	blk->notify.run = notify;
	list_init(&blk->kept);
	/* Not a string: zeroes fill what is left, and a serial of 20 bytes has no end. */
	if (serial)
		memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
	*ret_dev = &blk->dev;
	return 0;
}
