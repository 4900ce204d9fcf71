/*
 * Writes the seeds of fuzz_virtq into the directory given: a well-made ring of
 * each layout, with and without an indirect table, and the operations that
 * take, put back and return its chains.
 */
#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <string.h>

#include "vmm/core/util.h"

#define DESC	0x0000u
#define DRIVER	0x1000u
#define DEVICE	0x2000u
#define TABLE	0x3000u
#define DATA	0x4000u
#define MEMORY	0x3400u /* what is not zero */
#define ENTRIES 8u

/* pop, pop, unpop, pop, kicks off, push, flush, pop, kicks on, pop, push, flush; then 0. */
static const uint8_t operations[] = { 1, 0, 1, 0, 5, 0, 1, 0, 6, 0, 3, 1, 4, 0,
				      2, 0, 6, 1, 2, 0, 3, 0, 4, 0, 0 };

static void put_split(uint8_t *mem, bool indirect)
{
	struct vring_avail *avail = (void *)(mem + DRIVER);
	struct vring_desc *d = (void *)(mem + DESC);
	struct vring_desc *t = (void *)(mem + TABLE);
	unsigned i;

	for (i = 0; i < ENTRIES; i += 2) {
		d[i] = (struct vring_desc){ DATA + i * 64, 40, VRING_DESC_F_NEXT, i + 1 };
		d[i + 1] = (struct vring_desc){ 0x7ff0, 64, VRING_DESC_F_WRITE, 0 };
		avail->ring[i / 2] = i;
	}
	if (indirect) {
		t[0] = (struct vring_desc){ DATA, 40, VRING_DESC_F_NEXT, 1 };
		t[1] = (struct vring_desc){ DATA + 100, 40, VRING_DESC_F_WRITE, 0 };
		d[1] = (struct vring_desc){ TABLE, 32, VRING_DESC_F_INDIRECT, 0 };
	}
	avail->idx = ENTRIES / 2;
	avail->ring[ENTRIES] = 1; /* event index */
}

static void put_packed(uint8_t *mem, bool indirect)
{
	struct vring_packed_desc_event *event = (void *)(mem + DRIVER);
	struct vring_packed_desc *d = (void *)(mem + DESC);
	struct vring_packed_desc *t = (void *)(mem + TABLE);
	const uint16_t avail = 1u << VRING_PACKED_DESC_F_AVAIL;
	unsigned i;

	for (i = 0; i < ENTRIES; i += 2) {
		d[i] = (struct vring_packed_desc){ DATA + i * 64, 40, i / 2,
						   avail | VRING_DESC_F_NEXT };
		d[i + 1] = (struct vring_packed_desc){ 0x7ff0, 64, i / 2,
						       avail | VRING_DESC_F_WRITE };
	}
	if (indirect) {
		t[0] = (struct vring_packed_desc){ .addr = DATA, .len = 40 };
		t[1] = (struct vring_packed_desc){ DATA + 100, 40, 0, VRING_DESC_F_WRITE };
		d[0] = (struct vring_packed_desc){ TABLE, 32, 9, avail | VRING_DESC_F_INDIRECT };
	}
	*event = (struct vring_packed_desc_event){ 2 | 1u << 15, VRING_PACKED_EVENT_FLAG_DESC };
}

static int save(const char *dir, unsigned features)
{
	uint8_t mem[MEMORY] __attribute__((aligned(16))) = { 0 };
	const uint8_t head[2] = { features, ENTRIES };
	char path[512];
	bool ok;
	FILE *f;

	if (features & 1)
		put_packed(mem, features & 4);
	else
		put_split(mem, features & 4);
	snprintf(path, sizeof(path), "%s/ring-%u", dir, features);
	f = fopen(path, "w");
	if (!f) {
		perror(path);
		return -errno;
	}
	ok = fwrite(head, sizeof(head), 1, f) == 1 &&
	     fwrite(operations, sizeof(operations), 1, f) == 1 &&
	     fwrite(mem, sizeof(mem), 1, f) == 1;
	return fclose(f) || !ok ? -EIO : 0;
}

int main(int argc, char **argv)
{
	unsigned features;

	if (argc != 2) {
		fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
		return 2;
	}
	for (features = 0; features < 8; features++) {
		if (save(argv[1], features) < 0)
			return 1;
	}
	return 0;
}
