/*
 * Writes the seeds of fuzz_balloon into the directory given: for each set of
 * features page numbers, free ranges and statistics, all available, and a host
 * that asks and pauses.
 */
#include <linux/virtio_balloon.h>

#include "tests/fuzz/seed_ring.h"
#include "vmm/core/util.h"

#define AREA	0x800u
#define DRIVER	0x400u
#define DATA	0x2800u
#define MEMORY	0x3000u /* what is not zero */
#define ENTRIES 8

/* Kicks of each queue, turns of the loop, a question, targets, a pause, a save, a reset; 0. */
static const uint8_t operations[] = {
	1, 0, 1, 1, 1, 2, 1, 3, 2,  0, 2, 0, 8, 1, 2, 0, 3, 18, 2, 0, 8, 16, 7,
	5, 4, 0, 2, 0, 7, 7, 3, 19, 2, 0, 9, 3, 6, 0, 2, 0, 5,	0, 2, 0, 0,
};

/* Queues 0 and 1 take page numbers, 2 statistics (or ranges), the others ranges. */
static struct segment entry(uint8_t *mem, unsigned queue, unsigned i)
{
	struct virtio_balloon_stat stat = { .tag = i, .val = 4096 };
	uint32_t at = DATA + queue * 0x100 + i * 0x20;

	if (queue >= 3)
		return (struct segment){ 0x8000 + i * 0x2000, 0x2000, true };
	if (queue == 2) {
		memcpy(mem + at, &stat, sizeof(stat));
		return (struct segment){ at, sizeof(stat), false };
	}
	for (unsigned k = 0; k < 8; k++)
		put_le32(mem + at + k * 4, 4 + (i + k) % 28);
	return (struct segment){ at, 32, false };
}

static void put_queue(uint8_t *mem, unsigned queue, bool packed)
{
	struct ring r = {
		.desc = mem + queue * AREA,
		.avail = (void *)(mem + queue * AREA + DRIVER),
		.packed = packed,
	};

	for (unsigned i = 0; i < ENTRIES; i++) {
		struct segment s = entry(mem, queue, i);

		ring_add(&r, &s, 1);
	}
}

/* Of the sets of features every third is enough; those with reporting have shared memory too. */
static int save(const char *dir, unsigned nth)
{
	uint8_t mem[MEMORY] __attribute__((aligned(16))) = { 0 };
	unsigned features = 3 * nth | (3 * nth & 0x20 ? 0x80 : 0);

	for (unsigned queue = 0; queue < 5; queue++)
		put_queue(mem, queue, features & 1);
	return ring_seed_write(dir, features, operations, sizeof(operations), mem, sizeof(mem));
}

int main(int argc, char **argv)
{
	return ring_seeds_main(argc, argv, 22, save);
}
