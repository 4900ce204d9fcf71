/*
 * The memory balloon (virtio 1.2, 5.5): pages that the guest gives up go back to
 * the host, by inflating on request, by free page reporting on its own, and by
 * hints when it is asked for them (virtio_balloon_hint.c).
 *
 * All end in guest_mem_discard(): afterwards the page reads as zero. Nothing
 * is done at deflation: the host gives the page back when it is touched.
 */
#include "virtio/virtio_balloon.h"

#include <errno.h>
#include <stdlib.h>

#include "virtio/virtio_balloon_internal.h"

#define QUEUE_SIZE 128
#define MAX_PAGES  4096u /* in one chain; Linux sends 256, Windows 1024 */

static struct virtio_balloon *balloon_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_balloon, dev);
}

int balloon_dropped(struct virtio_balloon *b, int r, uint64_t pages, uint64_t *counter)
{
	if (r == -EFAULT)
		return r;
	if (r < 0)
		log_limited(&b->dev.limit, LOG_WARN, "%s '%s': the host keeps %llu pages: %s",
			    b->dev.ops->name, b->dev.id, (unsigned long long)pages, strerror(-r));
	*(r < 0 ? &b->counters.refused : counter) += pages;
	return 0;
}

/* ---- pages by number ---- */

/* A run of pages that follow each other, to be dropped in one go. */
struct run {
	uint64_t first, num;
};

static int drop_run(struct virtio_balloon *b, const struct run *run)
{
	int r;

	if (!run->num)
		return 0;
	r = guest_mem_discard(b->dev.mem, run->first << PAGE_SHIFT, run->num << PAGE_SHIFT);
	return balloon_dropped(b, r, run->num, &b->counters.inflated);
}

/* Linux hands them out downwards as often as upwards. */
static bool extend(struct run *run, uint64_t page)
{
	if (run->num && page == run->first + run->num) {
		run->num++;
		return true;
	}
	if (run->num && page + 1 == run->first) {
		run->first--;
		run->num++;
		return true;
	}
	return false;
}

static int inflate(struct virtio_balloon *b, const struct virtq_chain *chain)
{
	uint64_t num = chain->out_bytes / sizeof(uint32_t);
	struct run run = { 0 };
	uint32_t numbers[64];

	if (num > MAX_PAGES)
		return -E2BIG;
	for (uint64_t at = 0; at < num; at += ARRAY_SIZE(numbers)) {
		size_t n = virtq_copy_out(chain, at * sizeof(uint32_t), numbers, sizeof(numbers)) /
			   sizeof(uint32_t);

		for (size_t i = 0; i < n; i++) {
			uint64_t page = le32toh(numbers[i]);
			int r;

			/* Read-only memory and holes are none of the guest's to give. */
			if (!guest_mem_ptr(b->dev.mem, page << PAGE_SHIFT, PAGE_SIZE))
				return -EFAULT;
			if (extend(&run, page))
				continue;
			r = drop_run(b, &run);
			if (r < 0)
				return r;
			run = (struct run){ page, 1 };
		}
	}
	return drop_run(b, &run);
}

static void take_pages(struct virtio_balloon *b, unsigned queue)
{
	struct iovec iov[16];
	struct virtq_chain chain = { .iov = iov, .max_iov = ARRAY_SIZE(iov) };
	unsigned left = CHAINS_A_TURN;

	while (left && virtio_pop(&b->dev, queue, &chain) > 0) {
		int r = 0;

		if (queue == QUEUE_INFLATE)
			r = inflate(b, &chain);
		else
			b->counters.deflated += chain.out_bytes / sizeof(uint32_t);
		if (r < 0) {
			virtio_fail(&b->dev, "inflate: %s", strerror(-r));
			break;
		}
		virtq_push(&b->dev.queue[queue], &chain, 0);
		left--;
	}
	if (!left)
		virtio_kick_again(&b->dev, queue);
	virtio_notify(&b->dev, queue);
}

/* ---- free page reporting: ranges of memory ---- */

bool balloon_may_drop(const struct virtio_balloon *b)
{
	return !virtio_has(&b->dev, VIRTIO_BALLOON_F_PAGE_POISON) || !atomic_load(&b->poison);
}

static void take_reports(struct virtio_balloon *b, unsigned queue)
{
	struct iovec iov[VIRTQ_MAX_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .max_iov = ARRAY_SIZE(iov) };
	unsigned left = CHAINS_A_TURN;

	while (left && virtio_pop(&b->dev, queue, &chain) > 0) {
		const struct iovec *in = chain.iov + chain.num_out;

		for (unsigned i = 0; i < chain.num_in && balloon_may_drop(b); i++) {
			int r = guest_mem_discard_host(b->dev.mem, in[i].iov_base, in[i].iov_len);

			if (balloon_dropped(b, r, in[i].iov_len >> PAGE_SHIFT,
					    &b->counters.reported) < 0) {
				virtio_fail(&b->dev, "free pages: %s", strerror(-r));
				break;
			}
		}
		virtq_push(&b->dev.queue[queue], &chain, 0);
		left--;
	}
	if (!left)
		virtio_kick_again(&b->dev, queue);
	virtio_notify(&b->dev, queue);
}

/* ---- statistics ---- */

static void read_stats(struct virtio_balloon *b)
{
	struct virtio_balloon_stat s;

	b->stats_known = 0;
	b->stats_told++;
	for (size_t at = 0; at < sizeof(s) * 2 * VIRTIO_BALLOON_S_NR &&
			    virtq_copy_out(&b->stats_chain, at, &s, sizeof(s)) == sizeof(s);
	     at += sizeof(s)) {
		uint16_t tag = le16toh(s.tag);

		/* Those of later versions are nothing to us. */
		if (tag >= VIRTIO_BALLOON_S_NR)
			continue;
		b->stat[tag] = le64toh(s.val);
		b->stats_known |= 1u << tag;
	}
}

/* Give the buffer back: the driver fills it anew. */
static void ask_driver(struct virtio_balloon *b)
{
	if (!b->stats_held)
		return;
	b->stats_held = false;
	virtq_push(&b->dev.queue[QUEUE_THIRD], &b->stats_chain, 0);
	virtio_notify(&b->dev, QUEUE_THIRD);
}

static void take_stats(struct virtio_balloon *b)
{
	unsigned left = QUEUE_SIZE;

	while (left--) {
		/* A second one while there is one: the first goes back as it is. */
		if (b->stats_held) {
			if (!virtq_kicks_on(&b->dev.queue[QUEUE_THIRD]))
				break;
			ask_driver(b);
		}
		if (virtio_pop(&b->dev, QUEUE_THIRD, &b->stats_chain) <= 0)
			break;
		b->stats_held = true;
		read_stats(b);
	}
}

/* ---- the device ---- */

static void balloon_kick(struct virtio_device *dev, unsigned queue)
{
	struct virtio_balloon *b = balloon_of(dev);

	unsigned next = QUEUE_THIRD;

	if (queue <= QUEUE_DEFLATE)
		take_pages(b, queue);
	else if (virtio_has(dev, VIRTIO_BALLOON_F_STATS_VQ) && queue == next++)
		take_stats(b);
	else if (virtio_has(dev, VIRTIO_BALLOON_F_FREE_PAGE_HINT) && queue == next)
		balloon_take_hints(b, queue);
	else if (virtio_has(dev, VIRTIO_BALLOON_F_REPORTING))
		take_reports(b, queue);
}

static int balloon_start(struct virtio_device *dev)
{
	return 0;
}

static void balloon_stop(struct virtio_device *dev)
{
	struct virtio_balloon *b = balloon_of(dev);

	if (b->stats_held)
		virtq_unpop(&dev->queue[QUEUE_THIRD], &b->stats_chain);
	b->stats_held = false;
	virtio_stopped(dev);
}

/* A driver that comes anew has nothing in its balloon. The target stays: it is the host's. */
static void balloon_reset(struct virtio_device *dev)
{
	struct virtio_balloon *b = balloon_of(dev);

	b->actual = b->poison = 0;
	b->stats_known = 0;
	balloon_reset_hints(b);
}

static struct virtio_balloon_config config_of(const struct virtio_balloon *b)
{
	return (struct virtio_balloon_config){
		.num_pages = htole32(b->target),
		.actual = htole32(b->actual),
		.free_page_hint_cmd_id = htole32(b->hint_command),
		.poison_val = htole32(b->poison),
	};
}

static void balloon_config_read(struct virtio_device *dev, unsigned offset, void *data,
				unsigned len)
{
	struct virtio_balloon_config config = config_of(balloon_of(dev));

	memcpy(data, (uint8_t *)&config + offset, len);
}

static void balloon_config_write(struct virtio_device *dev, unsigned offset, const void *data,
				 unsigned len)
{
	struct virtio_balloon *b = balloon_of(dev);
	struct virtio_balloon_config config = config_of(b);

	memcpy((uint8_t *)&config + offset, data, len);
	/* The rest is not the driver's to write. */
	b->actual = le32toh(config.actual);
	b->poison = le32toh(config.poison_val);
}

static void balloon_save(struct virtio_device *dev, struct state_writer *w)
{
	struct virtio_balloon *b = balloon_of(dev);

	state_put_u32(w, b->target);
	state_put_u32(w, b->actual);
	state_put_u32(w, b->poison);
	if (virtio_has(dev, VIRTIO_BALLOON_F_FREE_PAGE_HINT))
		balloon_save_hints(b, w);
}

static int balloon_load(struct virtio_device *dev, struct state_reader *r)
{
	struct virtio_balloon *b = balloon_of(dev);
	uint32_t target = state_get_u32(r);

	b->actual = state_get_u32(r);
	b->poison = state_get_u32(r);
	if (target > guest_mem_first_size(dev->mem) >> PAGE_SHIFT)
		return state_reader_fail(r, "a balloon of %u pages", target);
	b->target = target;
	if (virtio_has(dev, VIRTIO_BALLOON_F_FREE_PAGE_HINT))
		balloon_load_hints(b, r);
	return r->failed;
}

static void balloon_counters(const struct virtio_device *dev,
			     void (*show)(void *arg, const char *name, uint64_t value), void *arg)
{
	struct virtio_balloon_info info;

	virtio_balloon_info(dev, &info);
	show(arg, "target_bytes", info.target_bytes);
	show(arg, "actual_bytes", info.actual_bytes);
	show(arg, "inflated_pages", info.counters.inflated);
	show(arg, "deflated_pages", info.counters.deflated);
	show(arg, "reported_pages", info.counters.reported);
	show(arg, "hints", info.counters.hints);
	show(arg, "hinted_pages", info.counters.hinted);
	show(arg, "refused_pages", info.counters.refused);
}

static void balloon_free(struct virtio_device *dev)
{
	virtio_done(dev);
	free(dev);
}

static const struct virtio_ops balloon_ops = {
	.name = "virtio-balloon",
	.id = VIRTIO_ID_BALLOON,
	.pci_class = 0xff0000,
	.config_size = sizeof(struct virtio_balloon_config),
	.start = balloon_start,
	.stop = balloon_stop,
	.reset = balloon_reset,
	.kick = balloon_kick,
	.config_read = balloon_config_read,
	.config_write = balloon_config_write,
	.save = balloon_save,
	.load = balloon_load,
	.identity_changed = balloon_moved,
	.counters = balloon_counters,
	.free = balloon_free,
};

int virtio_balloon_create(struct virtio_device **ret_dev, const struct virtio_params *common,
			  const struct virtio_balloon_params *balloon, struct error *err)
{
	static const uint16_t sizes[NUM_QUEUES] = { QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE,
						    QUEUE_SIZE };
	struct virtio_params params = *common;
	struct virtio_balloon *b;
	int r;

	params.num_queues = NUM_QUEUES;
	params.queue_sizes = sizes;
	params.features = 1ull << VIRTIO_BALLOON_F_STATS_VQ | 1ull << VIRTIO_BALLOON_F_PAGE_POISON;
	if (balloon->deflate_on_oom)
		params.features |= 1ull << VIRTIO_BALLOON_F_DEFLATE_ON_OOM;
	if (balloon->reporting)
		params.features |= 1ull << VIRTIO_BALLOON_F_REPORTING;
	if (balloon->hinting)
		params.features |= 1ull << VIRTIO_BALLOON_F_FREE_PAGE_HINT;
	b = calloc(1, sizeof(*b));
	if (!b)
		return error_set(err, -ENOMEM, "virtio-balloon '%s': %m", common->id);
	r = virtio_init(&b->dev, &balloon_ops, &params, err);
	if (r < 0) {
		free(b);
		return r;
	}
	b->target = balloon->target_bytes >> PAGE_SHIFT;
	b->stats_chain =
		(struct virtq_chain){ .iov = b->stats_iov, .max_iov = ARRAY_SIZE(b->stats_iov) };
	*ret_dev = &b->dev;
	return 0;
}

/* ---- for the host ---- */

int virtio_balloon_set_target(struct virtio_device *dev, uint64_t bytes)
{
	if (bytes > guest_mem_first_size(dev->mem))
		return -ERANGE;
	balloon_of(dev)->target = bytes >> PAGE_SHIFT;
	virtio_config_changed(dev);
	return 0;
}

int virtio_balloon_ask_stats(struct virtio_device *dev)
{
	struct virtio_balloon *b = balloon_of(dev);

	if (!dev->running || !b->stats_held)
		return -ENODATA;
	ask_driver(b);
	return 0;
}

void virtio_balloon_info(const struct virtio_device *dev, struct virtio_balloon_info *ret_info)
{
	const struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);

	*ret_info = (struct virtio_balloon_info){
		.target_bytes = (uint64_t)b->target << PAGE_SHIFT,
		.actual_bytes = (uint64_t)b->actual << PAGE_SHIFT,
		.counters = b->counters,
		.hint_command = b->hint_command,
		.hint_answer = b->hint_answer,
		.hint_answered = b->hint_answered,
		.known = b->stats_known,
		.told = b->stats_told,
	};
	memcpy(ret_info->stat, b->stat, sizeof(b->stat));
}
