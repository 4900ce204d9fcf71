/*
 * The file system device (virtio 1.2, 5.11): FUSE requests of a guest, for the
 * client of a shared directory (devices/fs_client.h). Queue 0 is for what must
 * not wait behind others: forgetting, and interrupting.
 */
#include <errno.h>
#include <linux/virtio_fs.h>
#include <stdlib.h>

#include "devices/fs_client.h"
#include "virtio/virtio_devices.h"

#define QUEUE_HIPRIO	  0
#define QUEUE_REQUEST	  1
#define NUM_QUEUES	  2
#define HIPRIO_QUEUE_SIZE 64
/* A driver splits what it transfers at the size of its ring. */
#define REQUEST_QUEUE_SIZE 256
#define SMALL_IOV	  8 /* segments of a request that is kept for the next one */
#define MAX_KEPT	  16

struct virtio_fs {
	struct virtio_device dev;
	struct fs_client *client;
	char tag[sizeof(((struct virtio_fs_config *)0)->tag)];
	unsigned inflight;
	struct list kept;
	unsigned num_kept;
	struct loop_task notify;
	uint64_t used; /* queues with completions that @notify has to tell */
	struct iovec iov[VIRTQ_MAX_SEGMENTS]; /* where a chain is popped to */
};

struct fs_chain {
	struct fs_request req;
	struct virtio_fs *fs;
	struct list link;
	struct virtq_chain chain;
	uint16_t queue;
	uint16_t room; /* entries of iov[] for the chain; SCRATCH() more follow */
	struct iovec iov[];
};

/* The client puts two segments of its own in front. */
#define SCRATCH(room) ((room) + 4u)

static struct virtio_fs *fs_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_fs, dev);
}

static struct fs_chain *chain_get(struct virtio_fs *fs, unsigned queue,
				  const struct virtq_chain *chain)
{
	unsigned n = chain->num_out + chain->num_in;
	unsigned room = MAX(n, (unsigned)SMALL_IOV);
	struct fs_chain *x;

	if (room == SMALL_IOV && !list_empty(&fs->kept)) {
		x = list_entry(fs->kept.next, struct fs_chain, link);
		list_del(&x->link);
		fs->num_kept--;
	} else {
		x = malloc(sizeof(*x) + (room + SCRATCH(room)) * sizeof(x->iov[0]));
		if (!x)
			return NULL;
	}
	x->fs = fs;
	x->queue = queue;
	x->room = room;
	x->chain = *chain;
	x->chain.iov = x->iov;
	memcpy(x->iov, chain->iov, n * sizeof(x->iov[0]));
	fs->inflight++;
	return x;
}

static void chain_put(struct fs_chain *x)
{
	struct virtio_fs *fs = x->fs;

	fs->inflight--;
	if (x->room == SMALL_IOV && fs->num_kept < MAX_KEPT) {
		list_add_tail(&fs->kept, &x->link);
		fs->num_kept++;
	} else {
		free(x);
	}
}

static void client_stopped(void *arg)
{
	virtio_stopped(arg);
}

static void request_done(struct fs_request *req, uint32_t bytes)
{
	struct fs_chain *x = container_of(req, struct fs_chain, req);
	struct virtio_fs *fs = x->fs;

	virtq_push(&fs->dev.queue[x->queue], &x->chain, bytes);
	/* One notification for all that complete in this round. */
	fs->used |= 1ull << x->queue;
	loop_defer(fs->dev.loop, &fs->notify);
	chain_put(x);
	if (fs->dev.stopping && !fs->inflight)
		fs_client_stop(fs->client, client_stopped, &fs->dev);
}

static void submit(struct fs_chain *x)
{
	x->req.out = x->iov;
	x->req.num_out = x->chain.num_out;
	x->req.out_bytes = x->chain.out_bytes;
	x->req.in = x->iov + x->chain.num_out;
	x->req.num_in = x->chain.num_in;
	x->req.in_bytes = x->chain.in_bytes;
	x->req.scratch = x->iov + x->room;
	x->req.done = request_done;
	fs_client_submit(x->fs->client, &x->req);
}

/* 1, 0 when there is none, or -errno after which the device has failed. */
static int take_one(struct virtio_fs *fs, unsigned queue)
{
	struct virtq_chain chain = { .iov = fs->iov, .max_iov = ARRAY_SIZE(fs->iov) };
	struct virtq *q = &fs->dev.queue[queue];
	struct fs_chain *x;
	int r = virtq_pop(q, &chain);

	if (r < 0)
		virtio_fail(&fs->dev, "queue %u: %s", queue, q->why_broken);
	if (r <= 0)
		return r;
	x = chain_get(fs, queue, &chain);
	if (!x) {
		virtio_fail(&fs->dev, "queue %u: no memory for a request", queue);
		return -ENOMEM;
	}
	submit(x);
	return 1;
}

static void fs_kick(struct virtio_device *dev, unsigned queue)
{
	struct virtq *q = &dev->queue[queue];
	unsigned budget = q->size;
	int r;

	do {
		virtq_kicks_off(q);
		while ((r = take_one(fs_of(dev), queue)) > 0) {
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
	struct virtio_fs *fs = container_of(task, struct virtio_fs, notify);
	uint64_t used = fs->used;

	fs->used = 0;
	for (unsigned i = 0; i < fs->dev.num_queues; i++) {
		if (used & (1ull << i))
			virtio_notify(&fs->dev, i);
	}
}

static int fs_start(struct virtio_device *dev)
{
	fs_client_start(fs_of(dev)->client);
	return 0;
}

static void fs_stop(struct virtio_device *dev)
{
	struct virtio_fs *fs = fs_of(dev);

	/* Otherwise the last completion goes on. */
	if (!fs->inflight)
		fs_client_stop(fs->client, client_stopped, dev);
}

static void fs_reset(struct virtio_device *dev)
{
	/* What the driver knew goes when it, or the next one, says INIT. */
	fs_of(dev)->used = 0;
}

static void fs_config_read(struct virtio_device *dev, unsigned offset, void *data, unsigned len)
{
	struct virtio_fs_config c = { .num_request_queues = htole32(NUM_QUEUES - QUEUE_REQUEST) };

	memcpy(c.tag, fs_of(dev)->tag, sizeof(c.tag));
	memcpy(data, (const uint8_t *)&c + offset, len);
}

static void fs_save(struct virtio_device *dev, struct state_writer *w)
{
	fs_client_save(fs_of(dev)->client, w);
}

static int fs_load(struct virtio_device *dev, struct state_reader *r)
{
	return fs_client_load(fs_of(dev)->client, r);
}

static void fs_free(struct virtio_device *dev)
{
	struct virtio_fs *fs = fs_of(dev);

	fs_client_free(fs->client);
	/* The last completions may have left a notification to do. */
	while (fs->notify.queued)
		loop_run_once(dev->loop, 0);
	while (!list_empty(&fs->kept)) {
		struct fs_chain *x = list_entry(fs->kept.next, struct fs_chain, link);

		list_del(&x->link);
		free(x);
	}
	virtio_done(dev);
	free(fs);
}

static const struct virtio_ops fs_ops = {
	.name = "virtio-fs",
	.id = VIRTIO_ID_FS,
	.pci_class = 0x018000, /* mass storage, other */
	.config_size = sizeof(struct virtio_fs_config),
	.start = fs_start,
	.stop = fs_stop,
	.reset = fs_reset,
	.kick = fs_kick,
	.config_read = fs_config_read,
	.save = fs_save,
	.load = fs_load,
	.free = fs_free,
};

int virtio_fs_create(struct virtio_device **ret_dev, const struct virtio_params *common,
		     struct fs_client *client, const char *tag, struct error *err)
{
	static const uint16_t sizes[NUM_QUEUES] = {
		[QUEUE_HIPRIO] = HIPRIO_QUEUE_SIZE,
		[QUEUE_REQUEST] = REQUEST_QUEUE_SIZE,
	};
	struct virtio_params params = *common;
	struct virtio_fs *fs;
	int r;

	if (!*tag || strlen(tag) > sizeof(fs->tag))
		return error_usage(err, -EINVAL, "virtio-fs '%s': tag '%s' is not 1 to %zu bytes",
				   common->id, tag, sizeof(fs->tag));
	fs = calloc(1, sizeof(*fs));
	if (!fs)
		return error_set(err, -ENOMEM, "virtio-fs '%s': %m", common->id);
	params.num_queues = NUM_QUEUES;
	params.queue_sizes = sizes;
	r = virtio_init(&fs->dev, &fs_ops, &params, err);
	if (r < 0) {
		free(fs);
		return r;
	}
	fs->client = client;
	fs->notify.run = notify;
	list_init(&fs->kept);
	/* Padded with zeroes, and without an end when it fills the field. */
	memcpy(fs->tag, tag, strlen(tag));
	*ret_dev = &fs->dev;
	return 0;
}
