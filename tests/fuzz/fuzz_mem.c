/*
 * Fuzz target (libFuzzer): a hostile driver of memory that comes and goes, and a host that asks for
 * more and less of it, pauses, saves and loads. The input is guest memory, the ring in it,
 * and what both do. Whatever they do, no more is plugged than was ever asked for, what is saved is
 * what is loaded, a pause ends with nothing in flight, devices reach what is plugged and nothing
 * else, and the hypervisor has the slots in which something is plugged and no others.
 */
#include "tests/fuzz/fuzz_device.h"
#include "virtio/virtio_mem.h"
#include "vmm/core/guest_mem_later.h"

#define RAM    0x10000ull
#define BLOCK  0x1000ull
#define REGION (70 * BLOCK) /* behind it: a word of blocks, and some of the next */

#define REGION_GPA (4 * GiB)
#define SLOT	   (8 * BLOCK)
#define NUM_SLOTS  ((REGION + SLOT - 1) / SLOT)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
	struct fuzz_device d;
	struct hv hv;
	bool there[NUM_SLOTS]; /* as the hypervisor was told */
	uint64_t most;	       /* that was ever asked for */
};

static int mem_set(struct hv *hv, unsigned slot, uint64_t gpa, uint64_t size, void *host,
		   unsigned flags)
{
	struct run *r = container_of(hv, struct run, hv);
	unsigned i = slot - GUEST_MEM_LATER_FIRST_SLOT;

	if (i >= NUM_SLOTS || gpa != REGION_GPA + i * SLOT || r->there[i] == (size != 0) || flags ||
	    (size && size != MIN(SLOT, REGION - i * SLOT)) ||
	    host != r->d.mem->map + RAM + i * SLOT)
		abort();
	r->there[i] = size;
	return 0;
}

static const struct hv_ops hv_ops = { .mem_set = mem_set };

/* How much is in the reach of devices, which is to be in that of the guest too. */
static uint64_t reached(const struct run *r)
{
	bool wanted[NUM_SLOTS] = { false };
	uint64_t bytes = 0;

	for (uint64_t at = 0; at < REGION; at += BLOCK) {
		if (!guest_mem_find(r->d.mem, REGION_GPA + at, BLOCK))
			continue;
		wanted[at / SLOT] = true;
		bytes += BLOCK;
	}
	if (memcmp(wanted, r->there, sizeof(wanted)))
		abort();
	return bytes;
}

static struct virtio_mem_info info(const struct run *r)
{
	struct virtio_mem_info i;

	virtio_mem_info(r->d.dev, &i);
	if (i.plugged_bytes > r->most || i.plugged_bytes != reached(r))
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
		{ .gpa = REGION_GPA, .size = REGION, .is_later = true },
	};
	const struct virtio_mem_params mem = {
		.gpa = REGION_GPA,
		.region_bytes = REGION,
		.block_bytes = BLOCK,
		.requested_bytes = 16 * BLOCK,
	};
	struct virtio_params params = { .id = "mem0" };
	struct run r = {
		.d = { .num_queues = 1 },
		.hv = { .ops = &hv_ops },
		.most = mem.requested_bytes,
	};

	if (!size)
		return 0;
	fuzz_device_memory(&r.d, data[0] & 0x80, ranges, 2);
	if (guest_mem_later_create(r.d.mem, &r.hv, BLOCK, SLOT) < 0)
		abort();
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
