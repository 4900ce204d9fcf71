/*
 * Writes the seeds of fuzz_pmem into the directory given: for each kind of ring flushes as Linux
 * asks for them, in pieces, and ones that are none, all available, and a host that limits, pauses
 * and saves.
 */
#include "tests/fuzz/seed_ring.h"
#include "vmm/core/util.h"

#define DRIVER 0x400u
#define DATA   0x1000u
#define MEMORY 0x1100u

/* Kicks, turns of the loop, more requests, a pause, its registers, limits, a save, a reset; 0. */
static const uint8_t operations[] = {
	1, 0, 2, 0, 2, 0, 3, 0x20, 2, 0, 4, 0, 7, 0, 7, 0xc8, 8, 1, 3, 0x30, 2, 0,
	2, 0, 6, 0, 8, 0, 1, 0, 2, 0, 9, 4, 3, 0x10, 5, 0, 1, 0, 2, 0, 0,
};

static int save(const char *dir, unsigned features)
{
	uint8_t mem[MEMORY] __attribute__((aligned(16))) = { 0 };
	struct ring r = { .desc = mem, .avail = (void *)(mem + DRIVER), .packed = features & 1 };
	const struct segment requests[][3] = {
		{ { DATA, 4, false }, { DATA + 0x40, 4, true } },
		{ { DATA, 2, false }, { DATA + 2, 2, false }, { DATA + 0x44, 4, true } },
		{ { DATA + 8, 4, false }, { DATA + 0x48, 4, true } }, /* no flush */
		{ { DATA, 4, false }, { DATA + 0x4c, 3, true } },     /* no room for an answer */
		{ { DATA, 4, false }, { 0x7ffffff0, 4, true } },
	};

	put_le32(mem + DATA + 8, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(requests); i++)
		ring_add(&r, requests[i], requests[i][2].len ? 3 : 2);
	return ring_seed_write(dir, features, operations, sizeof(operations), mem, sizeof(mem));
}

int main(int argc, char **argv)
{
	return ring_seeds_main(argc, argv, 16, save);
}
