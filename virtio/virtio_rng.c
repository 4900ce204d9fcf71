/*
 * The entropy device (virtio 1.2, 5.4): every buffer is filled by getrandom(2), as often as the
 * rate limit lets it.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "virtio/virtio_devices.h"

#define QUEUE_SIZE   8 /* one request at a time is what drivers have */
#define MAX_SEGMENTS 16
#define MAX_BYTES    4096u /* of one buffer; a device may fill less than it is given */

struct rng {
	struct virtio_device dev;
	struct rate_limiter limiter;
	struct loop_timer limited; /* the next buffer may be filled then */
};

static struct rng *rng_of(struct virtio_device *dev)
{
	return container_of(dev, struct rng, dev);
}

static size_t fill(const struct virtq_chain *c)
{
	const struct iovec *iov = c->iov + c->num_out;
	size_t done = 0;
	unsigned i;

	for (i = 0; i < c->num_in && done < MAX_BYTES; i++) {
		size_t want = MIN(iov[i].iov_len, MAX_BYTES - done);
		ssize_t n = getrandom(iov[i].iov_base, want, GRND_NONBLOCK);

		if (n > 0)
			done += n;
		/* Short at a signal, or none while the host itself still gathers entropy. */
		if (n < (ssize_t)want)
			break;
	}
	return done;
}

/* True when the rate limit has us wait: the timer goes on. */
static bool must_wait(struct rng *rng, struct virtq *q, uint64_t *ret_now_ns)
{
	return rate_limited(&rng->limiter) && virtq_has_work(q) &&
	       rate_limiter_holds(&rng->limiter, rng->dev.loop, &rng->limited, ret_now_ns);
}

static void rng_kick(struct virtio_device *dev, unsigned queue)
{
	struct rng *rng = rng_of(dev);
	struct iovec iov[MAX_SEGMENTS];
	struct virtq_chain c = { .iov = iov, .max_iov = MAX_SEGMENTS };
	struct virtq *q = &dev->queue[queue];
	unsigned left = q->size;
	uint64_t now_ns = 0;
	bool waits = false;
	int r = 0;

	while (left && !(waits = must_wait(rng, q, &now_ns)) && (r = virtq_pop(q, &c)) > 0) {
		size_t len = fill(&c);

		rate_limiter_take(&rng->limiter, now_ns, 1, len);
		virtq_push(q, &c, len);
		left--;
	}
	if (r < 0)
		virtio_fail(dev, "queue %u: %s", queue, q->why_broken);
	else if (!waits && virtq_kicks_on(q))
		virtio_kick_again(dev, queue);
	virtio_notify(dev, queue);
}

static void limit_over(struct loop_timer *t)
{
	struct rng *rng = container_of(t, struct rng, limited);

	if (!rng->dev.needs_reset)
		rng_kick(&rng->dev, 0);
}

static int rng_start(struct virtio_device *dev)
{
	return 0;
}

static void rng_stop(struct virtio_device *dev)
{
	loop_timer_cancel(dev->loop, &rng_of(dev)->limited);
	virtio_stopped(dev);
}

static void rng_free(struct virtio_device *dev)
{
	struct rng *rng = rng_of(dev);

	rate_limiter_done(&rng->limiter);
	virtio_done(dev);
	free(rng);
}

void virtio_rng_limit(struct virtio_device *dev, const struct rate_limits *limits)
{
	rate_limiter_set(&rng_of(dev)->limiter, limits, clock_monotonic_ns(loop_clock(dev->loop)));
}

void virtio_rng_limits(struct virtio_device *dev, struct rate_limits *ret_limits)
{
	rate_limiter_get(&rng_of(dev)->limiter, ret_limits);
}

static const struct virtio_ops rng_ops = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.pci_class = 0xff0000,
	.start = rng_start,
	.stop = rng_stop,
	.kick = rng_kick,
	.free = rng_free,
};

int virtio_rng_create(struct virtio_device **ret_dev, const struct virtio_params *common,
		      struct error *err)
{
	static const uint16_t sizes[1] = { QUEUE_SIZE };
	struct virtio_params params = *common;
	struct rng *rng = calloc(1, sizeof(*rng));
	int r;

	if (!rng)
		return error_set(err, -ENOMEM, "virtio-rng '%s': %m", common->id);
	params.num_queues = 1;
	params.queue_sizes = sizes;
	r = virtio_init(&rng->dev, &rng_ops, &params, err);
	if (r < 0) {
		free(rng);
		return r;
	}
	rate_limiter_init(&rng->limiter, &(struct rate_limits){ 0 }, 0);
	rng->limited.expired = limit_over;
	*ret_dev = &rng->dev;
	return 0;
}
