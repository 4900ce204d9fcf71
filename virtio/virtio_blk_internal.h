/*
 * The parts of the block device to each other: virtio_blk.c has the device, its
 * queues and its configuration space, virtio_blk_request.c what a request asks for.
 *
 * A queue and all that hangs on it belong to the queue's loop. What the queues
 * share is read-only, atomic, or has a lock of its own (the rate limit).
 */
#ifndef WISP_VIRTIO_BLK_INTERNAL_H
#define WISP_VIRTIO_BLK_INTERNAL_H

#include <linux/virtio_blk.h>

#include "virtio/virtio_blk_pace.h"
#include "virtio/virtio_devices.h"

#define BLK_SMALL_IOV 18 /* segments of a request that is kept: 64 KiB of single pages */

/* Per request; bounds how long one can take where zeroes are written by hand. */
#define BLK_MAX_RANGE_SECTORS (2 * GiB / BLOCK_SECTOR)

struct virtio_blk;

/* Written by the queue's loop with counter_add(), read by anyone with counter_get(). */
struct blk_counters {
	uint64_t reads, writes, flushes, discards, zeroes; /* that succeeded */
	uint64_t read_bytes, written_bytes;
	uint64_t errors;  /* the host could not do it */
	uint64_t refused; /* the driver may not have it, or it makes no sense */
	uint64_t batches; /* rounds in which any completed: one notification each */
	uint64_t waits;	  /* for the rate limit */
};

struct blk_queue {
	struct virtio_blk *blk;
	unsigned index;
	struct loop *loop;
	struct block *block; /* this queue's handle of the image */
	struct virtq *ring;
	unsigned inflight;
	bool stopping;
	struct list kept; /* requests for reuse */
	unsigned num_kept;
	struct loop_task notify;   /* once for all that complete in a round */
	struct loop_timer limited; /* the rate limit lets the next one go then */
	struct blk_pace pace;
	bool patient; /* as the loop knows */
	uint32_t kicks, kicks_seen; /* by @quiet, which goes on while the queue is patient */
	struct loop_timer quiet;
	struct blk_counters counters;
	struct iovec iov[VIRTQ_MAX_SEGMENTS]; /* where a chain is popped to */
};

struct virtio_blk {
	struct virtio_device dev;
	struct block *block; /* the image itself; queues may have further handles of it */
	char serial[VIRTIO_BLK_ID_BYTES];
	_Atomic bool write_cache; /* the driver may turn it off */
	struct rate_limiter limiter;
	struct blk_queue queue[];
};

/*
 * A request is allocated with the segments it has and kept for the next one
 * when it is small, so that an idle disk holds little memory and a busy one
 * does not allocate.
 */
struct blk_request {
	struct block_req io;
	struct blk_queue *queue;
	struct list link;
	struct virtq_chain chain;
	uint16_t room;	 /* entries of iov[] */
	uint32_t type;
	uint8_t *status; /* in guest memory: the chain's last byte */
	struct iovec *status_iov;
	uint64_t sector;
	struct iovec iov[];
};

/* A request for the chain that was popped to the queue's iovecs; NULL without memory. */
struct blk_request *blk_request_get(struct blk_queue *q, const struct virtq_chain *chain);
void blk_request_put(struct blk_request *req);

/* 0, or -EBADMSG for a chain that has no header or no room for an answer. */
int blk_request_parse(struct blk_request *req);

/* Bytes of data that go either way, for the rate limit. */
uint64_t blk_request_bytes(const struct blk_request *req);

/* Carry it out; it ends by blk_request_put(), possibly at once. */
void blk_request_begin(struct blk_request *req);

#endif
