/*
 * Fuzz target (libFuzzer): a hostile driver of memory that comes and goes, and a host that asks for
 * more and less of it, pauses, saves and loads. The input is guest memory, the ring in it,
 * and what both do. Whatever they do, no more is plugged than was ever asked for, what is saved is
 * what is loaded, and a pause ends with nothing in flight.
 */
#include "tests/fuzz/fuzz_device.h"
#include "virtio/virtio_mem.h"

#define RAM    0x10000ull
#define BLOCK  0x1000ull
#define REGION (70 * BLOCK) /* behind it: a word of blocks, and some of the next */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
	struct fuzz_device d;
	uint64_t most; /* that was ever asked for */
};

static struct virtio_mem_info info(const struct run *r)
{
	struct virtio_mem_info i;

	virtio_mem_info(r->d.dev, &i);
	if (i.plugged_bytes > r->most || i.plugged_bytes % BLOCK)
		abort();
	return i;
}

static void request(struct run *r, uint64_t bytes)
{
	if (virtio_mem_request(r->d.dev, bytes) == 0)
		r->most = MAX(r->most, bytes);
}

/* Saved and loaded, its host is told the same of it. */
static void reload(struct run *r)
{
	struct virtio_mem_info before, after;

	fuzz_device_pause(&r->d);
	before = info(r);
	fuzz_device_reload(&r->d);
	after = info(r);
	if (after.plugged_bytes != before.plugged_bytes ||
	    after.requested_bytes != before.requested_bytes)
		abort();
	virtio_resume(r->d.dev);
}

static void step(struct run *r, uint8_t op, uint8_t arg)
{
	unsigned which = op % (FUZZ_OWN + 1);

	switch (which) {
	case 0:
		/* Under the device's eyes. */
		r->d.mem->map[0x800 + arg * 8] ^= op;
		break;
	case FUZZ_OWN:
		request(r, arg & 0x80 ? arg * 0x111ull : arg * BLOCK);
		break;
	case FUZZ_RELOAD:
		reload(r);
		break;
	default:
		fuzz_device_step(&r->d, which, arg);
	}
	info(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct guest_mem_range ranges[2] = {
		{ .gpa = 0, .size = RAM },
		{ .gpa = 4 * GiB, .size = REGION, .is_later = true },
	};
	const struct virtio_mem_params mem = {
		.gpa = 4 * GiB,
		.region_bytes = REGION,
		.block_bytes = BLOCK,
		.requested_bytes = 16 * BLOCK,
	};
	struct virtio_params params = { .id = "mem0" };
	struct run r = { .d = { .num_queues = 1 }, .most = mem.requested_bytes };

	if (!size)
		return 0;
	fuzz_device_memory(&r.d, data[0] & 0x80, ranges, 2);
	params.mem = r.d.mem;
	params.loop = r.d.loop;
	if (virtio_mem_create(&r.d.dev, &params, &mem, NULL) < 0)
		abort();
	r.d.features = fuzz_ring_features(data[0]);
	fuzz_fill_memory(r.d.mem, RAM, data, size);
	fuzz_device_start(&r.d);
	for (size_t i = 1; i + 1 < size && data[i]; i += 2)
		step(&r, data[i], data[i + 1]);
	fuzz_device_pause(&r.d);
	info(&r);
	virtio_free(r.d.dev);
	guest_mem_free(r.d.mem);
	return 0;
}
