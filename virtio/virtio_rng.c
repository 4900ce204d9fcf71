/* The entropy device (virtio 1.2, 5.4): every buffer is filled by getrandom(2). */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "virtio/virtio_devices.h"

#define QUEUE_SIZE   8 /* one request at a time is what drivers have */
#define MAX_SEGMENTS 16
#define MAX_BYTES    4096u /* of one buffer; a device may fill less than it is given */

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

static void rng_kick(struct virtio_device *dev, unsigned queue)
{
	struct iovec iov[MAX_SEGMENTS];
	struct virtq_chain c = { .iov = iov, .max_iov = MAX_SEGMENTS };
	struct virtq *q = &dev->queue[queue];
	unsigned left = q->size;
	int r = 0;

	while (left && (r = virtq_pop(q, &c)) > 0) {
		virtq_push(q, &c, fill(&c));
		left--;
	}
	if (r < 0)
		virtio_fail(dev, "queue %u: %s", queue, q->why_broken);
	else if (virtq_kicks_on(q))
		virtio_kick_again(dev, queue);
	virtio_notify(dev, queue);
}

static int rng_start(struct virtio_device *dev)
{
	return 0;
}

static void rng_stop(struct virtio_device *dev)
{
	virtio_stopped(dev);
}

static void rng_free(struct virtio_device *dev)
{
	virtio_done(dev);
	free(dev);
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
	struct virtio_device *dev = calloc(1, sizeof(*dev));
	int r;

	if (!dev)
		return error_set(err, -ENOMEM, "virtio-rng '%s': %m", common->id);
	params.num_queues = 1;
	params.queue_sizes = sizes;
	r = virtio_init(dev, &rng_ops, &params, err);
	if (r < 0) {
		free(dev);
		return r;
	}
	*ret_dev = dev;
	return 0;
}
