/* What a request to the block device asks for, and its answer: virtio 1.2, 5.2.6. */
#include <errno.h>
#include <stdlib.h>

#include "virtio/virtio_blk_internal.h"
#include "vmm/core/iov.h"

#define MAX_KEPT 32

/* ---- requests ---- */

struct blk_request *blk_request_get(struct blk_queue *q, const struct virtq_chain *chain)
{
	unsigned n = chain->num_out + chain->num_in;
	unsigned room = MAX(n, (unsigned)BLK_SMALL_IOV);
	struct blk_request *req;

	if (room == BLK_SMALL_IOV && !list_empty(&q->kept)) {
		req = list_entry(q->kept.next, struct blk_request, link);
		list_del(&req->link);
		q->num_kept--;
	} else {
		req = malloc(sizeof(*req) + room * sizeof(req->iov[0]));
		if (!req)
			return NULL;
	}
	req->queue = q;
	req->room = room;
	req->chain = *chain;
	req->chain.iov = req->iov;
	memcpy(req->iov, chain->iov, n * sizeof(req->iov[0]));
	q->inflight++;
	return req;
}

void blk_request_put(struct blk_request *req)
{
	struct blk_queue *q = req->queue;

	q->inflight--;
	if (req->room == BLK_SMALL_IOV && q->num_kept < MAX_KEPT) {
		list_add_tail(&q->kept, &req->link);
		q->num_kept++;
	} else {
		free(req);
	}
}

/* Answer with @status, after @data bytes were put into the data part. */
static void answer(struct blk_request *req, uint8_t status, uint32_t data)
{
	struct blk_queue *q = req->queue;

	*req->status = status;
	/* The status byte belongs to the chain again, which virtq_push() marks as dirty. */
	req->status_iov->iov_len++;
	guest_mem_mark_dirty_host(q->blk->dev.mem, req->status, 1);
	virtq_push(q->ring, &req->chain, data + 1);
	/* One notification for all that complete in this round. */
	loop_defer(q->loop, &q->notify);
	blk_request_put(req);
}

/* What the driver may not have, whatever the host could do. */
static void refuse(struct blk_request *req, uint8_t status)
{
	counter_add(&req->queue->counters.refused, 1);
	answer(req, status, 0);
}

static void count_done(struct blk_counters *c, const struct block_req *io)
{
	switch (io->op) {
	case BLOCK_READ:
		counter_add(&c->reads, 1);
		counter_add(&c->read_bytes, io->len);
		break;
	case BLOCK_WRITE:
		counter_add(&c->writes, 1);
		counter_add(&c->written_bytes, io->len);
		break;
	case BLOCK_FLUSH:
		counter_add(&c->flushes, 1);
		break;
	case BLOCK_DISCARD:
		counter_add(&c->discards, 1);
		break;
	case BLOCK_WRITE_ZEROES:
		counter_add(&c->zeroes, 1);
		break;
	}
}

static void io_done(struct block_req *io, int res)
{
	struct blk_request *req = container_of(io, struct blk_request, io);
	struct blk_queue *q = req->queue;
	/* A read that failed may have changed part of the buffer. */
	uint32_t data = io->op == BLOCK_READ ? io->len : 0;
	uint8_t status = VIRTIO_BLK_S_OK;

	if (res < 0) {
		status = res == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
		counter_add(&q->counters.errors, 1);
	} else {
		count_done(&q->counters, io);
	}
	answer(req, status, data);
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
	io->durable = durable_writes(req->queue->blk);
	io->done = io_done;
	block_submit(req->queue->block, io);
}

/* ---- what a request asks for ---- */

static bool in_capacity(const struct blk_request *req, uint64_t sector, uint64_t len)
{
	uint64_t capacity = block_size(req->queue->block) / BLOCK_SECTOR;

	return range_inside(sector, len / BLOCK_SECTOR, 0, capacity);
}

/* Skip the first @bytes of the readable part, where the header was. */
static const struct iovec *skip_out(struct virtq_chain *c, size_t bytes, unsigned *ret_num)
{
	struct iovec *iov = c->iov;

	*ret_num = iov_advance(&iov, c->num_out, bytes);
	return iov;
}

uint64_t blk_request_bytes(const struct blk_request *req)
{
	switch (req->type) {
	case VIRTIO_BLK_T_IN:
		return req->chain.in_bytes - 1;
	case VIRTIO_BLK_T_OUT:
		return req->chain.out_bytes - sizeof(struct virtio_blk_outhdr);
	default:
		return 0;
	}
}

static void transfer(struct blk_request *req, bool write)
{
	struct virtq_chain *c = &req->chain;
	uint64_t len = blk_request_bytes(req);
	const struct iovec *iov;
	unsigned n;

	if (len % BLOCK_SECTOR || !in_capacity(req, req->sector, len) ||
	    (write && req->queue->block->read_only)) {
		refuse(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (write) {
		iov = skip_out(c, sizeof(struct virtio_blk_outhdr), &n);
	} else {
		/* The status byte's segment is the last, and empty when it held nothing else. */
		iov = c->iov + c->num_out;
		n = c->num_in - (req->status_iov->iov_len == 0);
	}
	req->io.iov = iov;
	req->io.iovcnt = n;
	submit(req, write ? BLOCK_WRITE : BLOCK_READ, req->sector, len);
}

static void get_id(struct blk_request *req)
{
	size_t room = MIN(req->chain.in_bytes - 1, (uint64_t)VIRTIO_BLK_ID_BYTES);
	uint32_t n = virtq_copy_in(&req->chain, 0, req->queue->blk->serial, room);

	answer(req, VIRTIO_BLK_S_OK, n);
}

/* Discard and write zeroes: one range, 5.2.6.2. */
static void change_range(struct blk_request *req)
{
	bool discard = req->type == VIRTIO_BLK_T_DISCARD;
	const struct virtio_device *dev = &req->queue->blk->dev;
	struct virtio_blk_discard_write_zeroes range;
	uint64_t sector, len;
	uint32_t flags;

	if (!virtio_has(dev, discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES)) {
		refuse(req, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	if (req->chain.out_bytes != sizeof(struct virtio_blk_outhdr) + sizeof(range)) {
		refuse(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	virtq_copy_out(&req->chain, sizeof(struct virtio_blk_outhdr), &range, sizeof(range));
	sector = le64toh(range.sector);
	len = (uint64_t)le32toh(range.num_sectors) * BLOCK_SECTOR;
	flags = le32toh(range.flags);

	/* Unmap is the only flag, and one of write zeroes alone. */
	if (flags & ~(discard ? 0u : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)) {
		refuse(req, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	if (req->queue->block->read_only || len / BLOCK_SECTOR > BLK_MAX_RANGE_SECTORS ||
	    !in_capacity(req, sector, len)) {
		refuse(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	req->io.may_unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	submit(req, discard ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES, sector, len);
}

int blk_request_parse(struct blk_request *req)
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

void blk_request_begin(struct blk_request *req)
{
	/* Those of the request before, or of whoever had this memory. */
	req->io.iov = NULL;
	req->io.iovcnt = 0;
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
		refuse(req, VIRTIO_BLK_S_UNSUPP);
	}
}
