/*
 * Memory that comes and goes while the guest runs (virtio 1.2, 5.15): a region of guest memory
 * behind its RAM, in blocks, of which the guest has as many as the host asks it to have.
 *
 * The region is mapped from the start, and nothing of it is taken from the host until somebody
 * touches it; what is unplugged goes back, and reads as zero when it is plugged again. So all that
 * works on guest memory (snapshots, forks, dirty logs, migration) works on this too, and the
 * device's own state is no more than which blocks are plugged. What of it is in reach of the guest
 * and of other devices is guest_mem_later.h's business.
 */
#include "virtio/virtio_mem.h"

#include <errno.h>
#include <linux/virtio_mem.h>
#include <stdlib.h>

#include "vmm/core/guest_mem_later.h"

#define QUEUE_SIZE    64
#define MAX_SEGMENTS  8

/* Giving back a large range takes a while, and others wait: then no more of them in one turn. */
#define CHAINS_A_TURN 16
#define BYTES_A_TURN  (64 * MiB) /* if the caller has no opinion */

#define REQUEST_BYTES  sizeof(struct virtio_mem_req)
#define RESPONSE_BYTES sizeof(struct virtio_mem_resp)

struct mem {
	struct virtio_device dev;
	uint64_t gpa, region_bytes, block_bytes, turn_bytes;
	_Atomic uint64_t requested_bytes, plugged_bytes; /* the loop writes, vCPUs read */
	uint64_t num_blocks, *plugged;			 /* a bit each */
	struct virtio_mem_counters counters; /* the loop writes, any thread reads */
};

static struct mem *mem_of(const struct virtio_device *dev)
{
	return container_of(dev, struct mem, dev);
}

/* ---- blocks ---- */

struct blocks {
	uint64_t first, num;
};

static bool is_plugged(const struct mem *m, uint64_t block)
{
	return m->plugged[block / 64] >> block % 64 & 1;
}

/* How many of them. */
static uint64_t count(const struct mem *m, const struct blocks *b)
{
	uint64_t n = 0;

	for (uint64_t i = b->first; i < b->first + b->num; i++)
		n += is_plugged(m, i);
	return n;
}

static void set(struct mem *m, const struct blocks *b, bool plugged)
{
	uint64_t bytes = b->num * m->block_bytes;

	for (uint64_t i = b->first; i < b->first + b->num; i++) {
		if (plugged)
			m->plugged[i / 64] |= 1ull << i % 64;
		else
			m->plugged[i / 64] &= ~(1ull << i % 64);
	}
	if (plugged)
		m->plugged_bytes += bytes;
	else
		m->plugged_bytes -= bytes;
	counter_add(plugged ? &m->counters.plugged_bytes : &m->counters.unplugged_bytes, bytes);
}

/* Give them back, all of which are plugged. */
static int drop(struct mem *m, const struct blocks *b)
{
	int r = guest_mem_unplug(m->dev.mem, m->gpa + b->first * m->block_bytes,
				 b->num * m->block_bytes);

	if (!r)
		set(m, b, false);
	else
		log_limited(&m->dev.limit, LOG_ERROR, "%s: memory cannot be given back: %s",
			    m->dev.id, strerror(-r));
	return r;
}

/* In reach from now on, none of which is plugged. */
static int add(struct mem *m, const struct blocks *b)
{
	int r = guest_mem_plug(m->dev.mem, m->gpa + b->first * m->block_bytes,
			       b->num * m->block_bytes);

	if (!r)
		set(m, b, true);
	else
		log_limited(&m->dev.limit, LOG_ERROR, "%s: memory cannot be given to the guest: %s",
			    m->dev.id, strerror(-r));
	return r;
}

/* ---- requests ---- */

/* Which blocks @request is about; false: they are none of ours. */
static bool parse_range(const struct mem *m, const uint8_t *request, struct blocks *ret)
{
	uint64_t addr = get_le64(request + 8), num = get_le16(request + 16);

	if (!num || addr < m->gpa || (addr - m->gpa) % m->block_bytes ||
	    !range_inside(addr, num * m->block_bytes, m->gpa, m->region_bytes))
		return false;
	*ret = (struct blocks){ (addr - m->gpa) / m->block_bytes, num };
	return true;
}

static uint16_t plug(struct mem *m, const uint8_t *request)
{
	uint16_t answer = VIRTIO_MEM_RESP_ACK;
	struct blocks b;

	if (!parse_range(m, request, &b) || count(m, &b))
		answer = VIRTIO_MEM_RESP_ERROR;
	else if (m->plugged_bytes + b.num * m->block_bytes > m->requested_bytes)
		answer = VIRTIO_MEM_RESP_NACK;
	else if (add(m, &b) < 0)
		answer = VIRTIO_MEM_RESP_BUSY;
	counter_add(answer ? &m->counters.plugs_refused : &m->counters.plugs, 1);
	return answer;
}

static uint16_t unplug(struct mem *m, const uint8_t *request)
{
	uint16_t answer = VIRTIO_MEM_RESP_ACK;
	struct blocks b;

	if (!parse_range(m, request, &b) || count(m, &b) != b.num)
		answer = VIRTIO_MEM_RESP_ERROR;
	else if (drop(m, &b) < 0)
		answer = VIRTIO_MEM_RESP_BUSY;
	counter_add(answer ? &m->counters.unplugs_refused : &m->counters.unplugs, 1);
	return answer;
}

static uint16_t unplug_all(struct mem *m)
{
	struct blocks run = { 0 };

	for (uint64_t i = 0; i < m->num_blocks; i = run.first + run.num + 1) {
		run = (struct blocks){ i, 0 };
		while (run.first + run.num < m->num_blocks &&
		       is_plugged(m, run.first + run.num))
			run.num++;
		if (run.num && drop(m, &run) < 0) {
			counter_add(&m->counters.unplugs_refused, 1);
			return VIRTIO_MEM_RESP_BUSY;
		}
	}
	counter_add(&m->counters.unplug_alls, 1);
	return VIRTIO_MEM_RESP_ACK;
}

static uint16_t state(struct mem *m, const uint8_t *request, uint16_t *ret_state)
{
	struct blocks b;
	uint64_t n;

	if (!parse_range(m, request, &b)) {
		counter_add(&m->counters.states_refused, 1);
		return VIRTIO_MEM_RESP_ERROR;
	}
	n = count(m, &b);
	*ret_state = !n		  ? VIRTIO_MEM_STATE_UNPLUGGED :
		     n == b.num ? VIRTIO_MEM_STATE_PLUGGED :
				  VIRTIO_MEM_STATE_MIXED;
	counter_add(&m->counters.states, 1);
	return VIRTIO_MEM_RESP_ACK;
}

static void carry_out(struct mem *m, const struct virtq_chain *c, const uint8_t *request)
{
	uint8_t response[RESPONSE_BYTES] = { 0 };
	uint16_t answer, of_blocks = 0;

	switch (get_le16(request)) {
	case VIRTIO_MEM_REQ_PLUG:
		answer = plug(m, request);
		break;
	case VIRTIO_MEM_REQ_UNPLUG:
		answer = unplug(m, request);
		break;
	case VIRTIO_MEM_REQ_UNPLUG_ALL:
		answer = unplug_all(m);
		break;
	case VIRTIO_MEM_REQ_STATE:
		answer = state(m, request, &of_blocks);
		break;
	default:
		answer = VIRTIO_MEM_RESP_ERROR;
	}
	put_le16(response, answer);
	put_le16(response + 8, of_blocks);
	virtq_push(&m->dev.queue[0], c, virtq_copy_in(c, 0, response, sizeof(response)));
}

static void mem_kick(struct virtio_device *dev, unsigned queue)
{
	struct virtq *q = &dev->queue[queue];
	struct iovec iov[MAX_SEGMENTS];
	struct virtq_chain c = { .iov = iov, .max_iov = MAX_SEGMENTS };
	const struct mem *m = mem_of(dev);
	uint64_t enough = m->counters.unplugged_bytes + m->turn_bytes;
	unsigned left = CHAINS_A_TURN;
	uint8_t request[REQUEST_BYTES];
	int r = 0;

	while (left && (r = virtq_pop(q, &c)) > 0) {
		if (virtq_copy_out(&c, 0, request, sizeof(request)) < sizeof(request) ||
		    c.in_bytes < RESPONSE_BYTES) {
			virtio_fail(dev, "a request of %llu bytes, with room for %llu",
				    (unsigned long long)c.out_bytes,
				    (unsigned long long)c.in_bytes);
			break;
		}
		carry_out(mem_of(dev), &c, request);
		left = m->counters.unplugged_bytes < enough ? left - 1 : 0;
	}
	if (r < 0)
		virtio_fail(dev, "queue %u: %s", queue, q->why_broken);
	else if (!left || (!r && virtq_kicks_on(q)))
		virtio_kick_again(dev, queue);
	virtio_notify(dev, queue);
}

/* ---- life ---- */

static int mem_start(struct virtio_device *dev)
{
	return 0;
}

static void mem_stop(struct virtio_device *dev)
{
	virtio_stopped(dev);
}

/* No reset: what is plugged stays so whatever becomes of the driver. */

static void mem_config_read(struct virtio_device *dev, unsigned offset, void *data, unsigned len)
{
	const struct mem *m = mem_of(dev);
	uint8_t config[sizeof(struct virtio_mem_config)] = { 0 };

	put_le64(config + offsetof(struct virtio_mem_config, block_size), m->block_bytes);
	put_le64(config + offsetof(struct virtio_mem_config, addr), m->gpa);
	put_le64(config + offsetof(struct virtio_mem_config, region_size), m->region_bytes);
	put_le64(config + offsetof(struct virtio_mem_config, usable_region_size), m->region_bytes);
	put_le64(config + offsetof(struct virtio_mem_config, plugged_size), m->plugged_bytes);
	put_le64(config + offsetof(struct virtio_mem_config, requested_size), m->requested_bytes);
	memcpy(data, config + offset, len);
}

static size_t words_of(const struct mem *m)
{
	return (m->num_blocks + 63) / 64;
}

static void mem_save(struct virtio_device *dev, struct state_writer *w)
{
	const struct mem *m = mem_of(dev);

	state_put_u64(w, m->gpa);
	state_put_u64(w, m->region_bytes);
	state_put_u64(w, m->block_bytes);
	state_put_u64(w, m->requested_bytes);
	for (size_t i = 0; i < words_of(m); i++)
		state_put_u64(w, m->plugged[i]);
}

static int mem_load(struct virtio_device *dev, struct state_reader *r)
{
	struct mem *m = mem_of(dev);
	uint64_t gpa = state_get_u64(r), region = state_get_u64(r), block = state_get_u64(r);
	uint64_t requested = state_get_u64(r), num = 0;
	unsigned tail = m->num_blocks % 64;

	if (gpa != m->gpa || region != m->region_bytes || block != m->block_bytes)
		return state_reader_fail(r, "memory of 0x%llx bytes at 0x%llx in blocks of 0x%llx",
					 (unsigned long long)region, (unsigned long long)gpa,
					 (unsigned long long)block);
	if (requested > region || requested % block)
		return state_reader_fail(r, "0x%llx bytes of memory requested",
					 (unsigned long long)requested);
	for (size_t i = 0; i < words_of(m); i++) {
		m->plugged[i] = state_get_u64(r);
		num += (uint64_t)__builtin_popcountll(m->plugged[i]);
	}
	if (tail && m->plugged[words_of(m) - 1] >> tail)
		return state_reader_fail(r, "memory plugged behind its end");
	m->requested_bytes = requested;
	m->plugged_bytes = num * block;
	return r->failed ? r->failed : guest_mem_plug_exactly(m->dev.mem, m->plugged);
}

static void mem_counters(const struct virtio_device *dev,
			 void (*show)(void *arg, const char *name, uint64_t value), void *arg)
{
	const struct mem *m = mem_of(dev);
	const struct virtio_mem_counters *c = &m->counters;

	show(arg, "requested_bytes", m->requested_bytes);
	show(arg, "plugged_bytes", m->plugged_bytes);
	show(arg, "plugs", counter_get(&c->plugs));
	show(arg, "plugs_bytes", counter_get(&c->plugged_bytes));
	show(arg, "plugs_refused", counter_get(&c->plugs_refused));
	show(arg, "unplugs", counter_get(&c->unplugs));
	show(arg, "unplugs_bytes", counter_get(&c->unplugged_bytes));
	show(arg, "unplugs_refused", counter_get(&c->unplugs_refused));
	show(arg, "unplug_alls", counter_get(&c->unplug_alls));
	show(arg, "states", counter_get(&c->states));
	show(arg, "states_refused", counter_get(&c->states_refused));
}

static void mem_free(struct virtio_device *dev)
{
	struct mem *m = mem_of(dev);

	free(m->plugged);
	virtio_done(dev);
	free(m);
}

static const struct virtio_ops mem_ops = {
	.name = "virtio-mem",
	.id = VIRTIO_ID_MEM,
	.pci_class = 0xff0000,
	.config_size = sizeof(struct virtio_mem_config),
	.start = mem_start,
	.stop = mem_stop,
	.kick = mem_kick,
	.config_read = mem_config_read,
	.save = mem_save,
	.load = mem_load,
	.counters = mem_counters,
	.free = mem_free,
};

int virtio_mem_create(struct virtio_device **ret_dev, const struct virtio_params *common,
		      const struct virtio_mem_params *mem, struct error *err)
{
	static const uint16_t sizes[1] = { QUEUE_SIZE };
	struct virtio_params params = *common;
	struct mem *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return error_set(err, -ENOMEM, "virtio-mem '%s': %m", common->id);
	m->gpa = mem->gpa;
	m->region_bytes = mem->region_bytes;
	m->block_bytes = mem->block_bytes;
	m->requested_bytes = mem->requested_bytes;
	m->turn_bytes = mem->turn_bytes ? mem->turn_bytes : BYTES_A_TURN;
	m->num_blocks = mem->region_bytes / mem->block_bytes;
	m->plugged = calloc(words_of(m), sizeof(*m->plugged));
	params.num_queues = 1;
	params.queue_sizes = sizes;
	/* Such a driver does not look into memory that is not plugged, where there is nothing. */
	params.features = 1ull << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE;
	r = m->plugged ? virtio_init(&m->dev, &mem_ops, &params, err) :
			 error_set(err, -ENOMEM, "virtio-mem '%s': %m", common->id);
	if (r < 0) {
		free(m->plugged);
		free(m);
		return r;
	}
	*ret_dev = &m->dev;
	return 0;
}

/* ---- for the host ---- */

void virtio_mem_info(const struct virtio_device *dev, struct virtio_mem_info *ret_info)
{
	const struct mem *m = mem_of(dev);

	*ret_info = (struct virtio_mem_info){
		.region_bytes = m->region_bytes,
		.block_bytes = m->block_bytes,
		.requested_bytes = m->requested_bytes,
		.plugged_bytes = m->plugged_bytes,
		.active = atomic_load(&dev->status) & VIRTIO_CONFIG_S_DRIVER_OK,
		.counters = m->counters,
	};
}

void virtio_mem_mark_plugged(const struct virtio_device *dev, uint64_t *pages, uint64_t first)
{
	const struct mem *m = mem_of(dev);
	uint64_t num = m->block_bytes >> PAGE_SHIFT;

	for (uint64_t i = 0; i < m->num_blocks; i++)
		for (uint64_t k = 0; k < num && is_plugged(m, i); k++)
			pages[(first + i * num + k) / 64] |= 1ull << (first + i * num + k) % 64;
}

int virtio_mem_request(struct virtio_device *dev, uint64_t bytes)
{
	struct mem *m = mem_of(dev);

	if (bytes % m->block_bytes)
		return -EINVAL;
	if (bytes > m->region_bytes)
		return -ERANGE;
	m->requested_bytes = bytes;
	virtio_config_changed(dev);
	return 0;
}
