/*
 * Writes the seeds of fuzz_balloon into the directory given: for each set of
 * features page numbers, free ranges and statistics, all available, and a host
 * that asks and pauses.
 */
#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <string.h>

#include "vmm/core/util.h"

#define AREA	0x800u
#define DRIVER	0x400u
#define DATA	0x2800u
#define MEMORY	0x3000u /* what is not zero */
#define ENTRIES 8

/* Kicks of each queue, turns of the loop, a question, a target, a pause, a reset; then 0. */
static const uint8_t operations[] = {
	1, 0, 1, 1, 1, 2, 1, 3, 2, 0, 2, 0, 7, 1, 2, 0, 3, 18, 2, 0, 7, 16,
	6, 5, 4, 0, 2, 0, 6, 7, 3, 19, 2, 0, 8, 3, 5, 0, 2,  0, 0,
};

struct segment {
	uint32_t addr, len;
	bool writable;
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
	struct vring_avail *avail = (void *)(mem + queue * AREA + DRIVER);
	struct vring_desc *d = (void *)(mem + queue * AREA);
	struct vring_packed_desc *p = (void *)(mem + queue * AREA);

	for (unsigned i = 0; i < ENTRIES; i++) {
		struct segment s = entry(mem, queue, i);
		uint16_t flags = s.writable ? VRING_DESC_F_WRITE : 0;

		if (packed) {
			flags |= 1u << VRING_PACKED_DESC_F_AVAIL;
			p[i] = (struct vring_packed_desc){ s.addr, s.len, i, flags };
		} else {
			d[i] = (struct vring_desc){ s.addr, s.len, flags, 0 };
			avail->ring[avail->idx++] = i;
		}
	}
}

static int save(const char *dir, unsigned features)
{
	uint8_t mem[MEMORY] __attribute__((aligned(16))) = { 0 };
	char path[4096];
	FILE *out;
	bool ok;

	for (unsigned queue = 0; queue < 5; queue++)
		put_queue(mem, queue, features & 1);
	snprintf(path, sizeof(path), "%s/features-%02x", dir, features);
	out = fopen(path, "we");
	if (!out)
		return -errno;
	ok = fputc(features, out) != EOF &&
	     fwrite(operations, sizeof(operations), 1, out) == 1 &&
	     fwrite(mem, sizeof(mem), 1, out) == 1;
	return fclose(out) == 0 && ok ? 0 : -EIO;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fputs("usage: seeds_balloon DIRECTORY\n", stderr);
		return 2;
	}
	for (unsigned features = 0; features < 0x40; features += 3) {
		int r = save(argv[1], features | (features & 0x20 ? 0x80 : 0));

		if (r < 0) {
			fprintf(stderr, "%s: %s\n", argv[1], strerror(-r));
			return 1;
		}
	}
	return 0;
}
