/*
 * Persistent memory (virtio 1.2, 5.19): a file of the host's as memory of the guest's, beside its
 * RAM. What it writes there is in the host's page cache at once, without an exit; the one
 * request that there is makes it durable.
 *
 * The file is memory of the guest's alone. It is no part of guest_mem, so no buffer that a driver
 * names can lie in it and the monitor never reads or writes it: when somebody truncates
 * the file, that is between him and the guest, whose access the hypervisor reports, and no
 * SIGBUS of ours.
 */
#include <errno.h>
#include <linux/virtio_pmem.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virtio/virtio_devices.h"

#define QUEUE_SIZE   64
#define MAX_SEGMENTS 8 /* a request has two; a driver may cut them into pieces */

/* Linux's driver makes an error of any other number than 0. */
#define ANSWER_DONE   0u
#define ANSWER_FAILED UINT32_MAX

/* A flush that waits for the file. */
struct request {
	struct virtq_chain chain;
	struct iovec iov[MAX_SEGMENTS];
};

struct pmem {
	struct virtio_device dev;
	int fd;
	uint64_t file_bytes;
	struct virtio_pmem_area area;

	struct rate_limiter limiter;
	struct loop_timer limited; /* the next flush may go then */
	struct loop_op sync;
	struct request request[QUEUE_SIZE]; /* those that @sync is for */
	unsigned num_requests;		    /* not 0: it is under way */
	bool stopping;
	uint64_t flushes, failed, throttled; /* the loop writes, any thread reads */
};

static struct pmem *pmem_of(const struct virtio_device *dev)
{
	return container_of(dev, struct pmem, dev);
}

/* ---- requests ---- */

static void answer(struct pmem *pmem, const struct virtq_chain *c, uint32_t ret)
{
	uint8_t le[4];

	put_le32(le, ret);
	virtq_push(&pmem->dev.queue[0], c, virtq_copy_in(c, 0, le, sizeof(le)));
}

static bool is_flush(const struct virtq_chain *c)
{
	uint8_t type[4];

	return virtq_copy_out(c, 0, type, sizeof(type)) == sizeof(type) &&
	       get_le32(type) == VIRTIO_PMEM_REQ_TYPE_FLUSH && c->in_bytes >= sizeof(type);
}

/* True when the rate limit has us wait: the timer goes on. Else the flush to come is spent. */
static bool must_wait(struct pmem *pmem)
{
	uint64_t now_ns = 0;

	if (!rate_limited(&pmem->limiter) || !virtq_has_work(&pmem->dev.queue[0]))
		return false;
	if (rate_limiter_holds(&pmem->limiter, pmem->dev.loop, &pmem->limited, &now_ns)) {
		counter_add(&pmem->throttled, 1);
		return true;
	}
	/* However many requests it answers, and however much of the file is dirty. */
	rate_limiter_take(&pmem->limiter, now_ns, 1, pmem->file_bytes);
	return false;
}

/* Gather what is there: one flush of the file answers all requests that came before it. */
static int gather(struct pmem *pmem)
{
	struct virtq *q = &pmem->dev.queue[0];
	unsigned left = q->size;
	int r = 0;

	while (left-- && pmem->num_requests < QUEUE_SIZE) {
		struct request *req = &pmem->request[pmem->num_requests];

		req->chain = (struct virtq_chain){ .iov = req->iov, .max_iov = MAX_SEGMENTS };
		r = virtq_pop(q, &req->chain);
		if (r <= 0)
			break;
		if (is_flush(&req->chain)) {
			pmem->num_requests++;
		} else {
			counter_add(&pmem->failed, 1);
			answer(pmem, &req->chain, ANSWER_FAILED);
		}
	}
	return r;
}

static void pmem_kick(struct virtio_device *dev, unsigned queue)
{
	struct pmem *pmem = pmem_of(dev);
	struct virtq *q = &dev->queue[queue];
	int r;

	/* What comes during a flush may have been written after it began: it waits for the next. */
	if (pmem->num_requests || pmem->stopping || must_wait(pmem))
		return;
	r = gather(pmem);
	if (pmem->num_requests)
		loop_fsync(dev->loop, &pmem->sync, pmem->fd, true);
	if (r < 0)
		virtio_fail(dev, "queue %u: %s", queue, q->why_broken);
	else if (!pmem->num_requests && virtq_kicks_on(q))
		virtio_kick_again(dev, queue);
	virtio_notify(dev, queue);
}

static void synced(struct loop_op *op, int res)
{
	struct pmem *pmem = container_of(op, struct pmem, sync);
	struct virtio_device *dev = &pmem->dev;

	if (res < 0)
		log_limited(&dev->limit, LOG_ERROR, "%s: cannot be flushed: %s", dev->id,
			    strerror(-res));
	counter_add(res < 0 ? &pmem->failed : &pmem->flushes, pmem->num_requests);
	for (unsigned i = 0; i < pmem->num_requests; i++)
		answer(pmem, &pmem->request[i].chain, res < 0 ? ANSWER_FAILED : ANSWER_DONE);
	pmem->num_requests = 0;
	virtio_notify(dev, 0);
	if (pmem->stopping)
		virtio_stopped(dev);
	else if (!dev->needs_reset)
		pmem_kick(dev, 0);
}

static void limit_over(struct loop_timer *t)
{
	struct pmem *pmem = container_of(t, struct pmem, limited);

	if (!pmem->dev.needs_reset)
		pmem_kick(&pmem->dev, 0);
}

/* ---- life ---- */

static int pmem_start(struct virtio_device *dev)
{
	pmem_of(dev)->stopping = false;
	return 0;
}

static void pmem_stop(struct virtio_device *dev)
{
	struct pmem *pmem = pmem_of(dev);

	pmem->stopping = true;
	loop_timer_cancel(dev->loop, &pmem->limited);
	if (!pmem->num_requests)
		virtio_stopped(dev);
}

static void pmem_config_read(struct virtio_device *dev, unsigned offset, void *data, unsigned len)
{
	const struct virtio_pmem_area *area = &pmem_of(dev)->area;
	uint8_t config[sizeof(struct virtio_pmem_config)];

	put_le64(config, area->gpa);
	put_le64(config + 8, area->size);
	memcpy(data, config + offset, len);
}

static void pmem_save(struct virtio_device *dev, struct state_writer *w)
{
	const struct pmem *pmem = pmem_of(dev);

	state_put_u64(w, pmem->area.gpa);
	state_put_u64(w, pmem->file_bytes);
}

/* The guest's file system trusts that the same file is where it was. */
static int pmem_load(struct virtio_device *dev, struct state_reader *r)
{
	const struct pmem *pmem = pmem_of(dev);
	uint64_t gpa = state_get_u64(r), bytes = state_get_u64(r);

	if (gpa != pmem->area.gpa)
		return state_reader_fail(r, "persistent memory at 0x%llx",
					 (unsigned long long)gpa);
	if (bytes != pmem->file_bytes)
		return state_reader_fail(r, "persistent memory of %llu bytes, its file has %llu",
					 (unsigned long long)bytes,
					 (unsigned long long)pmem->file_bytes);
	return r->failed;
}

static void pmem_counters(const struct virtio_device *dev,
			  void (*show)(void *arg, const char *name, uint64_t value), void *arg)
{
	const struct pmem *pmem = pmem_of(dev);

	show(arg, "flushes", counter_get(&pmem->flushes));
	show(arg, "failed", counter_get(&pmem->failed));
	show(arg, "throttled", counter_get(&pmem->throttled));
}

static void pmem_free(struct virtio_device *dev)
{
	struct pmem *pmem = pmem_of(dev);

	munmap(pmem->area.host, pmem->area.size);
	close(pmem->fd);
	rate_limiter_done(&pmem->limiter);
	virtio_done(dev);
	free(pmem);
}

static const struct virtio_ops pmem_ops = {
	.name = "virtio-pmem",
	.id = VIRTIO_ID_PMEM,
	.pci_class = 0xff0000,
	.config_size = sizeof(struct virtio_pmem_config),
	.start = pmem_start,
	.stop = pmem_stop,
	.kick = pmem_kick,
	.config_read = pmem_config_read,
	.save = pmem_save,
	.load = pmem_load,
	.counters = pmem_counters,
	.free = pmem_free,
};

/* ---- creation ---- */

static int file_size(int fd, uint64_t *ret_bytes)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	/* Of a device nobody says here how large it is. */
	if (!S_ISREG(st.st_mode) || !st.st_size)
		return -EINVAL;
	*ret_bytes = st.st_size;
	return 0;
}

/*
 * The file from its first byte to its last, and behind it up to the next 2 MiB zeroed
 * pages that the guest may use and nobody keeps: its memory comes in such units.
 */
static int map_file(struct pmem *pmem, bool read_only)
{
	int prot = PROT_READ | (read_only ? 0 : PROT_WRITE);
	uint64_t size = align_up(pmem->file_bytes, VIRTIO_PMEM_ALIGN);
	uint8_t *host;
	int r;

	/* Aligned, so that huge pages of the page cache can be huge pages of the guest's. */
	host = mmap(NULL, size + VIRTIO_PMEM_ALIGN, prot,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (host == MAP_FAILED)
		return -errno;
	pmem->area.host = (uint8_t *)align_up((uintptr_t)host, VIRTIO_PMEM_ALIGN);
	if (pmem->area.host > host)
		munmap(host, pmem->area.host - host);
	munmap(pmem->area.host + size, host + VIRTIO_PMEM_ALIGN - pmem->area.host);
	pmem->area.size = size;
	if (mmap(pmem->area.host, align_up(pmem->file_bytes, PAGE_SIZE), prot,
		 MAP_SHARED | MAP_FIXED | MAP_NORESERVE, pmem->fd, 0) == MAP_FAILED) {
		r = -errno;
		munmap(pmem->area.host, size);
		return r;
	}
	/* A core of ours is no copy of somebody's files. */
	madvise(pmem->area.host, size, MADV_DONTDUMP);
	return 0;
}

int virtio_pmem_create(struct virtio_device **ret_dev, const struct virtio_params *common, int fd,
		       uint64_t gpa, bool read_only, struct error *err)
{
	static const uint16_t sizes[1] = { QUEUE_SIZE };
	struct virtio_params params = *common;
	struct pmem *pmem = calloc(1, sizeof(*pmem));
	int r;

	if (!pmem)
		return error_set(err, -ENOMEM, "virtio-pmem '%s': %m", common->id);
	pmem->fd = fd;
	pmem->area.gpa = gpa;
	r = file_size(fd, &pmem->file_bytes);
	if (r < 0) {
		free(pmem);
		return r == -EINVAL ? error_usage(err, r, "it is empty, or no regular file") :
				      error_set(err, r, "%m");
	}
	r = map_file(pmem, read_only);
	if (r < 0) {
		free(pmem);
		return error_usage(err, r, "cannot be mapped: %m");
	}
	params.num_queues = 1;
	params.queue_sizes = sizes;
	r = virtio_init(&pmem->dev, &pmem_ops, &params, err);
	if (r < 0) {
		munmap(pmem->area.host, pmem->area.size);
		free(pmem);
		return r;
	}
	rate_limiter_init(&pmem->limiter, &(struct rate_limits){ 0 }, 0);
	pmem->limited.expired = limit_over;
	pmem->sync.done = synced;
	*ret_dev = &pmem->dev;
	return 0;
}

/* ---- for the host ---- */

void virtio_pmem_area(const struct virtio_device *dev, struct virtio_pmem_area *ret_area)
{
	*ret_area = pmem_of(dev)->area;
}

void virtio_pmem_limit(struct virtio_device *dev, const struct rate_limits *limits)
{
	rate_limiter_set(&pmem_of(dev)->limiter, limits, clock_monotonic_ns(loop_clock(dev->loop)));
}

void virtio_pmem_limits(struct virtio_device *dev, struct rate_limits *ret_limits)
{
	rate_limiter_get(&pmem_of(dev)->limiter, ret_limits);
}
