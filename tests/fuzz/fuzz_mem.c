/*
 * Fuzz target (libFuzzer): a hostile driver of memory that comes and goes, and a host that asks for
 * more and less of it, pauses, saves and loads. The input is guest memory, the ring in it,
 * and what both do. Whatever they do, no more is plugged than was ever asked for, what is saved is
 * what is loaded, and a pause ends with nothing in flight.
 *
 * Input: one byte of features, operations of two bytes until a zero, memory.
 */
#include <stdlib.h>
#include <unistd.h>

#include "tests/fuzz/fuzz_device.h"
#include "virtio/virtio_mem.h"

#define RAM    0x10000ull
#define BLOCK  0x1000ull
#define REGION (70 * BLOCK) /* behind it: a word of blocks, and some of the next */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
	struct guest_mem *mem;
	struct loop *loop;
	struct virtio_device *dev;
	uint64_t features;
	uint64_t most; /* that was ever asked for */
};

static struct virtio_mem_info info(const struct run *r)
{
	struct virtio_mem_info i;

	virtio_mem_info(r->dev, &i);
	if (i.plugged_bytes > r->most || i.plugged_bytes % BLOCK)
		abort();
	return i;
}

static void pause_device(struct run *r)
{
	fuzz_device_pause(r->dev, r->loop);
	if (!r->dev->needs_reset && r->dev->queue[0].inflight)
		abort();
}

static void request(struct run *r, uint64_t bytes)
{
	if (virtio_mem_request(r->dev, bytes) == 0)
		r->most = MAX(r->most, bytes);
}

/* What is saved is loaded again, and is then what it was. */
static void save_and_load(struct run *r)
{
	struct virtio_mem_info before, after;
	struct state_reader reader;
	struct state_writer w;
	size_t pos = 0;

	pause_device(r);
	before = info(r);
	state_writer_init(&w);
	state_begin(&w, "mem0", 0, 1);
	r->dev->ops->save(r->dev, &w);
	state_end(&w);
	if (state_next(w.buf, w.len, &pos, &reader, NULL) != 1 ||
	    r->dev->ops->load(r->dev, &reader) < 0 || state_reader_end(&reader, NULL) < 0)
		abort();
	state_writer_done(&w);
	after = info(r);
	if (after.plugged_bytes != before.plugged_bytes ||
	    after.requested_bytes != before.requested_bytes)
		abort();
	virtio_resume(r->dev);
}

static void step(struct run *r, uint8_t op, uint8_t arg)
{
	switch (op % 8) {
	case 1:
		virtio_kick(r->dev, 0);
		break;
	case 2:
		loop_run_once(r->loop, 0);
		break;
	case 3:
		fuzz_device_offer(r->dev, r->mem, 0, arg & 15);
		break;
	case 4:
		pause_device(r);
		virtio_resume(r->dev);
		break;
	case 5:
		virtio_set_status(r->dev, 0, false);
		fuzz_device_start(r->dev, 1, r->features);
		break;
	case 6:
		request(r, arg & 0x80 ? arg * 0x111ull : arg * BLOCK);
		break;
	case 7:
		save_and_load(r);
		break;
	default:
		/* Under the device's eyes. */
		r->mem->map[0x800 + arg * 8] ^= op;
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
		.gpa = 4 * GiB, .region_bytes = REGION, .block_bytes = BLOCK,
		.requested_bytes = 16 * BLOCK,
	};
	struct virtio_params params = { .id = "mem0" };
	struct loop_params loop = { .name = "fuzz" };
	struct run r = { .most = mem.requested_bytes };

	if (!size)
		return 0;
	log_setup(STDERR_FILENO, LOG_ERROR);
	if (guest_mem_create(&r.mem, data[0] & 0x80 ? GUEST_MEM_SHARED : GUEST_MEM_ANON, ranges, 2,
			     NULL) < 0 ||
	    loop_create(&r.loop, &loop, NULL) < 0)
		abort();
	params.mem = r.mem;
	params.loop = r.loop;
	if (virtio_mem_create(&r.dev, &params, &mem, NULL) < 0)
		abort();
	r.features = fuzz_ring_features(data[0]);
	fuzz_fill_memory(r.mem, RAM, data, size);
	fuzz_device_start(r.dev, 1, r.features);
	for (size_t i = 1; i + 1 < size && data[i]; i += 2)
		step(&r, data[i], data[i + 1]);
	pause_device(&r);
	info(&r);
	virtio_free(r.dev);
	loop_free(r.loop);
	guest_mem_free(r.mem);
	return 0;
}
