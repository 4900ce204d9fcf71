/*
 * The block device (virtio 1.2, 5.2): reads, writes, flushes, discards and
 * zeroes against a struct block, straight from and into guest memory.
 */
#include <errno.h>
#include <stdlib.h>

#include "virtio/virtio_blk_internal.h"

#define QUEUE_SIZE 256
#define SEG_MAX	   254 /* with header and status a chain of QUEUE_SIZE */

static struct virtio_blk *blk_of(const struct virtio_device *dev)
{
	return container_of(dev, struct virtio_blk, dev);
}

/* ---- queues ---- */

/* Take one chain: 1, 0 when there is none, or -errno after which the device has failed. */
static int take_one(struct blk_queue *q, uint64_t now_ns)
{
	struct virtq_chain chain = { .iov = q->iov, .max_iov = ARRAY_SIZE(q->iov) };
	struct virtio_device *dev = &q->blk->dev;
	struct blk_request *req;
	int r = virtq_pop(q->ring, &chain);

	if (r < 0)
		virtio_fail(dev, "queue %u: %s", q->index, q->ring->why_broken);
	if (r <= 0)
		return r;
	req = blk_request_get(q, &chain);
	if (!req) {
		virtio_fail(dev, "queue %u: no memory for a request", q->index);
		return -ENOMEM;
	}
	if (blk_request_parse(req) < 0) {
		blk_request_put(req);
		virtio_fail(dev, "queue %u: a request without header or status", q->index);
		return -EBADMSG;
	}
	rate_limiter_take(&q->blk->limiter, now_ns, 1, blk_request_bytes(req));
	blk_request_begin(req);
	return 1;
}

/* True when the rate limit has us wait: the timer goes on, and kicks stay off until then. */
static bool must_wait(struct blk_queue *q, uint64_t *ret_now_ns)
{
	struct rate_limiter *l = &q->blk->limiter;

	if (!rate_limited(l) || !virtq_has_work(q->ring) ||
	    !rate_limiter_holds(l, q->loop, &q->limited, ret_now_ns))
		return false;
	counter_add(&q->counters.waits, 1);
	return true;
}

/* Returns how many chains were taken. */
static unsigned serve(struct blk_queue *q)
{
	unsigned taken = 0;
	uint64_t now_ns = 0;
	int r;

	do {
		virtq_kicks_off(q->ring);
		do {
			if (must_wait(q, &now_ns))
				return taken;
			r = take_one(q, now_ns);
			/* A driver that adds as fast as we take must not hold the loop for ever. */
			if (r > 0 && ++taken == q->ring->size) {
				virtio_kick_again(&q->blk->dev, q->index);
				return taken;
			}
		} while (r > 0);
	} while (r == 0 && virtq_kicks_on(q->ring));
	return taken;
}

static void watch_for_quiet(struct blk_queue *q)
{
	q->kicks_seen = q->kicks;
	loop_timer_set(q->loop, &q->quiet,
		       clock_monotonic_ns(loop_clock(q->loop)) + BLK_PACE_QUIET_NS);
}

static void set_patient(struct blk_queue *q, bool patient)
{
	if (q->patient == patient)
		return;
	q->patient = patient;
	loop_patience(q->loop, patient);
	if (patient)
		watch_for_quiet(q);
	else
		loop_timer_cancel(q->loop, &q->quiet);
}

/* A disk that nobody reads any more has its thread wait for nothing. */
static void quiet(struct loop_timer *t)
{
	struct blk_queue *q = container_of(t, struct blk_queue, quiet);

	if (q->kicks != q->kicks_seen) {
		watch_for_quiet(q);
		return;
	}
	blk_pace_quiet(&q->pace);
	set_patient(q, false);
}

static void blk_kick(struct virtio_device *dev, unsigned queue)
{
	struct blk_queue *q = &blk_of(dev)->queue[queue];

	q->kicks++;
	if (q->patient)
		virtq_kicks_off(q->ring);
	set_patient(q, blk_pace_kicked(&q->pace, serve(q)));
}

static void limit_over(struct loop_timer *t)
{
	struct blk_queue *q = container_of(t, struct blk_queue, limited);

	if (!q->blk->dev.needs_reset)
		serve(q);
}

/* A queue that stops has stopped when nothing is in flight, and nothing is left to be told. */
static void check_stopped(struct blk_queue *q)
{
	if (!q->stopping || q->inflight || q->notify.queued)
		return;
	q->stopping = false;
	virtio_queue_stopped(&q->blk->dev, q->index);
}

/* After every round with completions, so also after the last. */
static void notify(struct loop_task *task)
{
	struct blk_queue *q = container_of(task, struct blk_queue, notify);

	counter_add(&q->counters.batches, 1);
	virtio_notify(&q->blk->dev, q->index);
	check_stopped(q);
}

static int blk_start(struct virtio_device *dev)
{
	return 0;
}

static void blk_stop_queue(struct virtio_device *dev, unsigned queue)
{
	struct blk_queue *q = &blk_of(dev)->queue[queue];

	loop_timer_cancel(q->loop, &q->limited);
	blk_pace_init(&q->pace);
	set_patient(q, false);
	q->stopping = true;
	check_stopped(q);
}

static void blk_hurry(struct virtio_device *dev, unsigned queue)
{
	block_hurry(blk_of(dev)->queue[queue].block);
}

static void blk_reset(struct virtio_device *dev)
{
	struct virtio_blk *blk = blk_of(dev);

	blk->write_cache = !blk->block->writethrough;
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
	c->max_discard_sectors = htole32(BLK_MAX_RANGE_SECTORS);
	c->max_discard_seg = htole32(1);
	c->discard_sector_alignment = htole32(b->physical_block / BLOCK_SECTOR);
	c->max_write_zeroes_sectors = htole32(BLK_MAX_RANGE_SECTORS);
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

/* ---- run-time changes ---- */

struct resize {
	struct block *block;
	uint64_t size_bytes;
};

/* loop_call to the image's loop. */
static int resize(void *arg)
{
	struct resize *r = arg;

	return block_resize(r->block, r->size_bytes);
}

int virtio_blk_resize(struct virtio_device *dev, uint64_t size_bytes)
{
	struct resize arg = { .block = blk_of(dev)->block, .size_bytes = size_bytes };
	int r = loop_call(arg.block->loop, resize, &arg);

	if (!r)
		virtio_config_changed(dev);
	return r;
}

void virtio_blk_limit(struct virtio_device *dev, const struct rate_limits *limits)
{
	rate_limiter_set(&blk_of(dev)->limiter, limits,
			 clock_monotonic_ns(loop_clock(dev->loop)));
}

void virtio_blk_limits(struct virtio_device *dev, struct rate_limits *ret_limits)
{
	rate_limiter_get(&blk_of(dev)->limiter, ret_limits);
}

uint64_t virtio_blk_size(const struct virtio_device *dev)
{
	return block_size(blk_of(dev)->block);
}

struct block *virtio_blk_image(const struct virtio_device *dev)
{
	return blk_of(dev)->block;
}

static void blk_counters(const struct virtio_device *dev,
			 void (*show)(void *arg, const char *name, uint64_t value), void *arg)
{
	static const struct {
		const char *name;
		size_t offset;
	} shown[] = {
#define COUNTER(c) { #c, offsetof(struct blk_counters, c) }
		COUNTER(reads),	     COUNTER(writes),	     COUNTER(flushes), COUNTER(discards),
		COUNTER(zeroes),     COUNTER(read_bytes), COUNTER(written_bytes),
		COUNTER(errors),     COUNTER(refused),    COUNTER(batches), COUNTER(waits),
#undef COUNTER
	};
	const struct virtio_blk *blk = blk_of(dev);

	for (unsigned n = 0; n < ARRAY_SIZE(shown); n++) {
		uint64_t sum = 0;

		for (unsigned i = 0; i < dev->num_queues; i++) {
			const char *c = (const char *)&blk->queue[i].counters;

			sum += counter_get((const uint64_t *)(c + shown[n].offset));
		}
		show(arg, shown[n].name, sum);
	}
}

/* ---- life ---- */

static void done_queue(struct blk_queue *q)
{
	while (!list_empty(&q->kept)) {
		struct blk_request *req = list_entry(q->kept.next, struct blk_request, link);

		list_del(&req->link);
		free(req);
	}
	if (q->block != q->blk->block)
		block_close(q->block);
}

static void blk_free(struct virtio_device *dev)
{
	struct virtio_blk *blk = blk_of(dev);

	for (unsigned i = 0; i < dev->num_queues; i++)
		done_queue(&blk->queue[i]);
	block_close(blk->block);
	rate_limiter_done(&blk->limiter);
	virtio_done(dev);
	free(blk);
}

static const struct virtio_ops blk_ops = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.pci_class = 0x018000, /* mass storage, other */
	.config_size = offsetof(struct virtio_blk_config, max_secure_erase_sectors),
	.start = blk_start,
	.stop_queue = blk_stop_queue,
	.hurry = blk_hurry,
	.reset = blk_reset,
	.kick = blk_kick,
	.config_read = blk_config_read,
	.config_write = blk_config_write,
	.save = blk_save,
	.load = blk_load,
	.counters = blk_counters,
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

static int init_queue(struct virtio_blk *blk, unsigned i)
{
	struct blk_queue *q = &blk->queue[i];

	q->blk = blk;
	q->index = i;
	q->loop = virtio_queue_loop(&blk->dev, i);
	q->ring = &blk->dev.queue[i];
	q->notify.run = notify;
	q->limited.expired = limit_over;
	q->quiet.expired = quiet;
	list_init(&q->kept);
	blk_pace_init(&q->pace);
	q->block = blk->block;
	return q->loop == blk->block->loop ? 0 : block_share(&q->block, blk->block, q->loop);
}

int virtio_blk_create(struct virtio_device **ret_dev, const struct virtio_params *common,
		      struct block *block, const char *serial, struct error *err)
{
	uint16_t sizes[VIRTIO_MAX_QUEUES];
	struct virtio_params params = *common;
	unsigned i, n = MAX(common->num_queues, 1u);
	struct virtio_blk *blk = calloc(1, sizeof(*blk) + n * sizeof(blk->queue[0]));
	int r;

	if (!blk)
		return error_set(err, -ENOMEM, "virtio-blk '%s': %m", common->id);
	params.num_queues = n;
	params.features = features(block, n);
	params.queue_sizes = sizes;
	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		sizes[i] = QUEUE_SIZE;
	r = virtio_init(&blk->dev, &blk_ops, &params, err);
	if (r < 0)
		goto fail;
	blk->block = block;
	blk->write_cache = !block->writethrough;
	rate_limiter_init(&blk->limiter, &(struct rate_limits){ 0 }, 0);
	/* Not a string: zeroes fill what is left, and a serial of 20 bytes has no end. */
	if (serial)
		memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
	for (i = 0; i < n && !r; i++)
		r = init_queue(blk, i);
	if (r < 0) {
		error_set(err, r, "virtio-blk '%s': queue %u: %m", common->id, i - 1);
		goto undo;
	}
	*ret_dev = &blk->dev;
	return 0;

undo:
	for (i = 0; i < n; i++) {
		if (blk->queue[i].block && blk->queue[i].block != block)
			block_close(blk->queue[i].block);
	}
	rate_limiter_done(&blk->limiter);
	virtio_done(&blk->dev);
fail:
	free(blk);
	return r;
}
