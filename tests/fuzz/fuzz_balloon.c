/*
 * Fuzz target (libFuzzer): a hostile driver of the memory balloon, and a host
 * that changes the target, asks for statistics, pauses. The input is guest
 * memory, rings in it, and what both do. Whatever they do, memory outside the
 * guest's is untouched, a pause ends with nothing in flight, and what a
 * sanitizer looks for does not happen.
 *
 * Input: one byte of features, operations of two bytes until a zero, memory.
 */
#include <stdlib.h>
#include <unistd.h>

#include "virtio/virtio_balloon.h"

#define RAM	   0x20000ull
#define BOUNDARY   0x10000ull
#define AREA	   0x800ull /* of each queue's rings */
#define DRIVER	   0x400ull
#define DEVICE	   0x600ull
#define QUEUE_SIZE 16
#define NUM_QUEUES 5u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
	struct guest_mem *mem;
	struct loop *loop;
	struct virtio_device *dev;
	uint64_t features;
};

static void start(struct run *r)
{
	const uint8_t begun = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	const uint8_t ready = begun | VIRTIO_CONFIG_S_FEATURES_OK;

	virtio_set_status(r->dev, begun, false);
	virtio_set_features(r->dev, 0, r->features);
	virtio_set_features(r->dev, 1, r->features >> 32);
	virtio_set_status(r->dev, ready, false);
	for (unsigned i = 0; i < NUM_QUEUES; i++) {
		struct virtq *q = virtio_queue(r->dev, i);

		q->size = QUEUE_SIZE;
		q->desc_gpa = i * AREA;
		q->driver_gpa = i * AREA + DRIVER;
		q->device_gpa = i * AREA + DEVICE;
		q->ready = true;
	}
	virtio_set_status(r->dev, ready | VIRTIO_CONFIG_S_DRIVER_OK, false);
}

static void is_drained(struct virtio_device *dev, void *arg)
{
	*(bool *)arg = true;
}

static void pause_device(struct run *r)
{
	bool done = false;

	virtio_pause(r->dev, is_drained, &done);
	while (!done)
		loop_run_once(r->loop, UINT64_MAX);
	for (unsigned i = 0; i < NUM_QUEUES; i++)
		if (!r->dev->needs_reset && r->dev->queue[i].inflight)
			abort();
}

static void step(struct run *r, uint8_t op, uint8_t arg)
{
	unsigned queue = arg % NUM_QUEUES;
	uint32_t value = arg * 0x01010101u;
	uint8_t *index;

	switch (op % 9) {
	case 1:
		virtio_kick(r->dev, queue);
		break;
	case 2:
		loop_run_once(r->loop, 0);
		break;
	case 3:
		/* More of what is in the ring. */
		index = r->mem->map + queue * AREA + DRIVER + 2;
		put_le16(index, get_le16(index) + (arg >> 4));
		virtio_kick(r->dev, queue);
		break;
	case 4:
		pause_device(r);
		virtio_resume(r->dev);
		break;
	case 5:
		virtio_set_status(r->dev, 0, false);
		start(r);
		break;
	case 6:
		virtio_config_write(r->dev, arg % 4 * 4, &value, 4);
		break;
	case 7:
		if (arg & 1)
			virtio_balloon_ask_stats(r->dev);
		else
			virtio_balloon_set_target(r->dev, (uint64_t)arg << PAGE_SHIFT);
		break;
	default:
		/* Under the device's eyes. */
		r->mem->map[0x2800 + arg * 8] ^= op;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct guest_mem_range ranges[2] = {
		{ .gpa = 0, .size = BOUNDARY },
		{ .gpa = BOUNDARY, .size = RAM - BOUNDARY },
	};
	const struct virtio_balloon_params balloon = { .deflate_on_oom = true, .reporting = true };
	struct virtio_params params = { .id = "balloon0" };
	struct loop_params loop = { .name = "fuzz" };
	struct run r = { 0 };
	size_t i;

	if (!size)
		return 0;
	log_setup(STDERR_FILENO, LOG_ERROR);
	if (guest_mem_create(&r.mem, data[0] & 0x80 ? GUEST_MEM_SHARED : GUEST_MEM_ANON, ranges, 2,
			     NULL) < 0 ||
	    loop_create(&r.loop, &loop, NULL) < 0)
		abort();
	params.mem = r.mem;
	params.loop = r.loop;
	if (virtio_balloon_create(&r.dev, &params, &balloon, NULL) < 0)
		abort();
	r.features = 1ull << VIRTIO_F_VERSION_1;
	r.features |= (uint64_t)(data[0] & 1) << VIRTIO_F_RING_PACKED;
	r.features |= (uint64_t)(data[0] >> 1 & 1) << VIRTIO_RING_F_EVENT_IDX;
	r.features |= (uint64_t)(data[0] >> 2 & 1) << VIRTIO_RING_F_INDIRECT_DESC;
	r.features |= (uint64_t)(data[0] >> 3 & 1) << VIRTIO_BALLOON_F_STATS_VQ;
	r.features |= (uint64_t)(data[0] >> 4 & 1) << VIRTIO_BALLOON_F_PAGE_POISON;
	r.features |= (uint64_t)(data[0] >> 5 & 1) << VIRTIO_BALLOON_F_REPORTING;

	for (i = 1; i < size && data[i]; i += 2)
		;
	if (i + 1 < size)
		memcpy(r.mem->map, data + i + 1, MIN(size - i - 1, (size_t)RAM));
	start(&r);
	for (i = 1; i + 1 < size && data[i]; i += 2)
		step(&r, data[i], data[i + 1]);
	pause_device(&r);
	virtio_free(r.dev);
	loop_free(r.loop);
	guest_mem_free(r.mem);
	return 0;
}
