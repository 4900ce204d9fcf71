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

#include "tests/fuzz/fuzz_device.h"
#include "virtio/virtio_balloon.h"

#define RAM	   0x20000ull
#define BOUNDARY   0x10000ull
#define NUM_QUEUES 5u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
	struct guest_mem *mem;
	struct loop *loop;
	struct virtio_device *dev;
	uint64_t features;
};

static void pause_device(struct run *r)
{
	fuzz_device_pause(r->dev, r->loop);
	for (unsigned i = 0; i < NUM_QUEUES; i++)
		if (!r->dev->needs_reset && r->dev->queue[i].inflight)
			abort();
}

static void step(struct run *r, uint8_t op, uint8_t arg)
{
	unsigned queue = arg % NUM_QUEUES;
	uint32_t value = arg * 0x01010101u;

	switch (op % 9) {
	case 1:
		virtio_kick(r->dev, queue);
		break;
	case 2:
		loop_run_once(r->loop, 0);
		break;
	case 3:
		fuzz_device_offer(r->dev, r->mem, queue, arg >> 4);
		break;
	case 4:
		pause_device(r);
		virtio_resume(r->dev);
		break;
	case 5:
		virtio_set_status(r->dev, 0, false);
		fuzz_device_start(r->dev, NUM_QUEUES, r->features);
		break;
	case 6:
		virtio_config_write(r->dev, arg % 4 * 4, &value, 4);
		break;
	case 7:
		if (arg & 1)
			virtio_balloon_ask_stats(r->dev);
		else
			virtio_balloon_set_target(r->dev, (uint64_t)arg << PAGE_SHIFT);
		if (arg & 2)
			virtio_balloon_start_hints(r->dev, arg & 4);
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
	const struct virtio_balloon_params balloon = { .deflate_on_oom = true,
						       .reporting = true,
						       .hinting = true };
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
	r.features = fuzz_ring_features(data[0]);
	r.features |= (uint64_t)(data[0] >> 3 & 1) << VIRTIO_BALLOON_F_STATS_VQ;
	r.features |= (uint64_t)(data[0] >> 4 & 1) << VIRTIO_BALLOON_F_PAGE_POISON;
	r.features |= (uint64_t)(data[0] >> 5 & 1) << VIRTIO_BALLOON_F_REPORTING;
	r.features |= (uint64_t)(data[0] >> 6 & 1) << VIRTIO_BALLOON_F_FREE_PAGE_HINT;

	fuzz_fill_memory(r.mem, RAM, data, size);
	fuzz_device_start(r.dev, NUM_QUEUES, r.features);
	for (i = 1; i + 1 < size && data[i]; i += 2)
		step(&r, data[i], data[i + 1]);
	pause_device(&r);
	virtio_free(r.dev);
	loop_free(r.loop);
	guest_mem_free(r.mem);
	return 0;
}
