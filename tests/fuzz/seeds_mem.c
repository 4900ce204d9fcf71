/*
 * Writes the seeds of fuzz_mem into the directory given: for each set of features requests of every
 * kind, all available, and a host that asks for more and less, pauses, saves and loads.
 */
#include <linux/virtio_mem.h>

#include "tests/fuzz/seed_ring.h"
#include "vmm/core/util.h"

#define AREA	 0x800u
#define DRIVER	 0x400u
#define REQUESTS 0x800u
#define ANSWERS	 0xa00u
#define MEMORY	 0xc00u /* what is not zero */
#define REGION	 0x100000000ull
#define BLOCK	 0x1000ull

static const struct {
	uint16_t type;
	uint64_t addr;
	uint16_t num;
} requests[] = {
	{ VIRTIO_MEM_REQ_PLUG, REGION, 8 },
	{ VIRTIO_MEM_REQ_STATE, REGION, 16 },
	{ VIRTIO_MEM_REQ_PLUG, REGION + 60 * BLOCK, 10 },
	{ VIRTIO_MEM_REQ_UNPLUG, REGION + 2 * BLOCK, 3 },
	{ VIRTIO_MEM_REQ_PLUG, REGION + 69 * BLOCK, 1 },
	{ VIRTIO_MEM_REQ_STATE, REGION + 64 * BLOCK, 6 },
	{ VIRTIO_MEM_REQ_UNPLUG, REGION + 69 * BLOCK, 2 },
	{ VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0 },
};

/* Kicks, turns, more and less asked for, a pause, saved and loaded, a reset; then 0. */
static const uint8_t operations[] = {
	1, 1, 2, 0, 7, 40, 2,	 0, 6, 1, 3, 0x40, 2, 0, 7,
	4, 4, 1, 2, 0, 3,  0x80, 2, 0, 5, 1, 2,	   0, 0,
};

static int save(const char *dir, unsigned features)
{
	uint8_t mem[MEMORY] __attribute__((aligned(16))) = { 0 };
	struct ring r = { .desc = mem, .avail = (void *)(mem + DRIVER), .packed = features & 1 };

	for (unsigned i = 0; i < ARRAY_SIZE(requests); i++) {
		uint32_t at = REQUESTS + i * 0x20, answer = ANSWERS + i * 0x10;
		struct segment s[2] = { { at, 24, false }, { answer, 10, true } };

		put_le16(mem + at, requests[i].type);
		put_le64(mem + at + 8, requests[i].addr);
		put_le16(mem + at + 16, requests[i].num);
		ring_add(&r, s, 2);
	}
	return ring_seed_write(dir, features, operations, sizeof(operations), mem, sizeof(mem));
}

int main(int argc, char **argv)
{
	return ring_seeds_main(argc, argv, 8, save);
}
