/*
 * Writes the seeds of fuzz_virtio_blk into the directory given: for each ring
 * layout one request of each kind, all available, and a driver that kicks,
 * pauses and resets.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <string.h>

#include "vmm/core/util.h"

#define DESC	0x0000u
#define DRIVER	0x0400u
#define REQUEST 0x1000u /* headers, then ranges, then statuses */
#define DATA	0x2000u
#define MEMORY	0x1400u /* what is not zero */

/* kick, run, pause, more of them, run, cache off, reset, run; then 0. */
static const uint8_t operations[] = { 1, 0, 2, 0, 4, 0, 3, 2, 2, 0, 6, 0,
				      5, 0, 1, 0, 2, 0, 7, 9, 0 };

static const uint32_t types[] = {
	VIRTIO_BLK_T_IN,     VIRTIO_BLK_T_OUT,	   VIRTIO_BLK_T_FLUSH,
	VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES,
};

struct segment {
	uint32_t addr, len;
	bool writable;
};

/* The segments of request @i: header, mostly data, status. Returns how many. */
static unsigned make_request(uint8_t *mem, unsigned i, struct segment *s)
{
	struct virtio_blk_outhdr h = { .type = types[i], .sector = i };
	struct virtio_blk_discard_write_zeroes range = { .sector = 8, .num_sectors = 3 };
	uint32_t at = REQUEST + i * 64;
	unsigned n = 1;

	memcpy(mem + at, &h, sizeof(h));
	memcpy(mem + at + 16, &range, sizeof(range));
	s[0] = (struct segment){ at, sizeof(h), false };
	switch (types[i]) {
	case VIRTIO_BLK_T_IN:
		s[n++] = (struct segment){ DATA, 1024, true };
		break;
	case VIRTIO_BLK_T_OUT:
		s[n++] = (struct segment){ DATA, 1024, false };
		break;
	case VIRTIO_BLK_T_GET_ID:
		s[n++] = (struct segment){ DATA, 20, true };
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		s[n++] = (struct segment){ at + 16, sizeof(range), false };
		break;
	}
	s[n++] = (struct segment){ at + 48, 1, true };
	return n;
}

static void put_split(uint8_t *mem)
{
	struct vring_avail *avail = (void *)(mem + DRIVER);
	struct vring_desc *d = (void *)(mem + DESC);
	struct segment s[3];
	unsigned at = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		unsigned n = make_request(mem, i, s);

		/* The ring has 16; what is left over when they are used up stays away. */
		if (at + n > 16)
			return;
		avail->ring[avail->idx++] = at;
		for (unsigned j = 0; j < n; j++, at++)
			d[at] = (struct vring_desc){
				s[j].addr, s[j].len,
				(s[j].writable ? VRING_DESC_F_WRITE : 0) |
					(j + 1 < n ? VRING_DESC_F_NEXT : 0),
				at + 1
			};
	}
}

static void put_packed(uint8_t *mem)
{
	struct vring_packed_desc *d = (void *)(mem + DESC);
	struct segment s[3];
	unsigned at = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		unsigned n = make_request(mem, i, s);

		if (at + n > 16)
			return;
		for (unsigned j = 0; j < n; j++, at++)
			d[at] = (struct vring_packed_desc){
				s[j].addr, s[j].len, i,
				1u << VRING_PACKED_DESC_F_AVAIL |
					(s[j].writable ? VRING_DESC_F_WRITE : 0) |
					(j + 1 < n ? VRING_DESC_F_NEXT : 0)
			};
	}
}

static int save(const char *dir, unsigned features)
{
	uint8_t mem[MEMORY] __attribute__((aligned(16))) = { 0 };
	char path[4096];
	FILE *out;
	bool ok;

	if (features & 1)
		put_packed(mem);
	else
		put_split(mem);
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
		fputs("usage: seeds_virtio_blk DIRECTORY\n", stderr);
		return 2;
	}
	for (unsigned features = 0; features < 32; features++) {
		int r = save(argv[1], features);

		if (r < 0) {
			fprintf(stderr, "%s: %s\n", argv[1], strerror(-r));
			return 1;
		}
	}
	return 0;
}
