/*
 * Writes the seeds of fuzz_virtio_blk into the directory given: for each ring
 * layout one request of each kind, all available, and a driver that kicks,
 * pauses and resets.
 */
#include <linux/virtio_blk.h>

#include "tests/fuzz/seed_ring.h"
#include "vmm/core/util.h"

#define DESC	0x0000u
#define DRIVER	0x0400u
#define REQUEST 0x1000u /* headers, then ranges, then statuses */
#define DATA	0x2000u
#define MEMORY	0x1400u /* what is not zero */
#define QUEUE_SIZE 16

/* kick, run, pause, more of them, run, cache off, saved and loaded, reset, run; then 0. */
static const uint8_t operations[] = { 1, 0, 2, 0, 4, 0, 3, 0x20, 2, 0, 7, 0,
				      6, 0, 5, 0, 1, 0, 2, 0, 8, 9, 0 };

static const uint32_t types[] = {
	VIRTIO_BLK_T_IN,     VIRTIO_BLK_T_OUT,	   VIRTIO_BLK_T_FLUSH,
	VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES,
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

static int save(const char *dir, unsigned features)
{
	uint8_t mem[MEMORY] __attribute__((aligned(16))) = { 0 };
	struct ring r = {
		.desc = mem + DESC,
		.avail = (void *)(mem + DRIVER),
		.packed = features & 1,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		struct segment s[3];
		unsigned n = make_request(mem, i, s);

		/* What is left over when the ring is used up stays away. */
		if (r.num + n > QUEUE_SIZE)
			break;
		ring_add(&r, s, n);
	}
	return ring_seed_write(dir, features, operations, sizeof(operations), mem, sizeof(mem));
}

int main(int argc, char **argv)
{
	return ring_seeds_main(argc, argv, 32, save);
}
