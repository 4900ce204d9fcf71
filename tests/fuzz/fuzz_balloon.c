/*
 * Fuzz target (libFuzzer): a hostile driver of the memory balloon, and a host
 * that changes the target, asks for statistics, pauses. The input is guest
 * memory, rings in it, and what both do. Whatever they do, memory outside the
 * guest's is untouched, a pause ends with nothing in flight, and what a
 * sanitizer looks for does not happen.
 */
#include "tests/fuzz/fuzz_device.h"
#include "virtio/virtio_balloon.h"

#define RAM	   0x20000ull
#define BOUNDARY   0x10000ull
#define NUM_QUEUES 5u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void host_asks(struct virtio_device *dev, uint8_t arg)
{
	if (arg & 1)
		virtio_balloon_ask_stats(dev);
	else
		virtio_balloon_set_target(dev, (uint64_t)arg << PAGE_SHIFT);
	if (arg & 2)
		virtio_balloon_start_hints(dev, arg & 4);
}

static void step(struct fuzz_device *d, uint8_t op, uint8_t arg)
{
	unsigned which = op % (FUZZ_OWN + 2);
	uint32_t value = arg * 0x01010101u;

	switch (which) {
	case 0:
		/* Under the device's eyes. */
		d->mem->map[0x2800 + arg * 8] ^= op;
		break;
	case FUZZ_OWN:
		virtio_config_write(d->dev, arg % 4 * 4, &value, 4);
		break;
	case FUZZ_OWN + 1:
		host_asks(d->dev, arg);
		break;
	default:
		fuzz_device_step(d, which, arg);
	}
}

static uint64_t features_of(uint8_t bits)
{
	return fuzz_ring_features(bits) | (uint64_t)(bits >> 3 & 1) << VIRTIO_BALLOON_F_STATS_VQ |
	       (uint64_t)(bits >> 4 & 1) << VIRTIO_BALLOON_F_PAGE_POISON |
	       (uint64_t)(bits >> 5 & 1) << VIRTIO_BALLOON_F_REPORTING |
	       (uint64_t)(bits >> 6 & 1) << VIRTIO_BALLOON_F_FREE_PAGE_HINT;
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
	struct fuzz_device d = { .num_queues = NUM_QUEUES };

	if (!size)
		return 0;
	fuzz_device_memory(&d, data[0] & 0x80, ranges, 2);
	params.mem = d.mem;
	params.loop = d.loop;
	if (virtio_balloon_create(&d.dev, &params, &balloon, NULL) < 0)
		abort();
	d.features = features_of(data[0]);
	fuzz_fill_memory(d.mem, RAM, data, size);
	fuzz_device_start(&d);
	for (size_t i = 1; i + 1 < size && data[i]; i += 2)
		step(&d, data[i], data[i + 1]);
	fuzz_device_pause(&d);
	virtio_free(d.dev);
	guest_mem_free(d.mem);
	return 0;
}
