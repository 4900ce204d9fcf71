/*
 * Writes the seeds of fuzz_vsock into the directory given: for both ring
 * layouts receive buffers, one packet of each kind on two connections, and a
 * host that connects, talks and leaves.
 */
#include <errno.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <string.h>

#include "vmm/core/util.h"

#define AREA	0x800u
#define DRIVER	0x400u
#define PACKETS 0x1800u
#define DATA	0x4000u
#define MEMORY	0x2000u /* what is not zero */
#define ENTRIES 16

/*
 * The host connects (9 0) and talks (9 16), the broker answers (9 48), what the guest
 * opened is accepted (9 9); kicks, turns of the loop, and ends; then 0.
 */
static const uint8_t operations[] = {
	1,  1, 2, 0,  9, 48, 2,	 0, 9, 9,  9, 0,  2,  0, 1, 1, 2, 0, 9, 16,  2, 0, 9, 25,
	19, 24, 2, 0, 1, 0,  2,	 0, 4, 0,  9, 33, 2,  0, 7, 200, 2, 0, 9, 41, 2, 0, 6, 0,
	2,  0, 5, 0,  1, 1,  2,	 0, 3, 17, 2, 0,  0,
};

static const uint16_t ops[] = {
	VIRTIO_VSOCK_OP_REQUEST,       VIRTIO_VSOCK_OP_RW,
	VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST,
	VIRTIO_VSOCK_OP_RW,	       VIRTIO_VSOCK_OP_SHUTDOWN,
	VIRTIO_VSOCK_OP_RESPONSE,      VIRTIO_VSOCK_OP_RST,
};

struct segment {
	uint32_t addr, len;
	bool writable;
};

/* Entry @i of queue @queue: a page to receive into, a packet, or room for an event. */
static struct segment entry(uint8_t *mem, unsigned queue, unsigned i)
{
	struct virtio_vsock_hdr h = {
		.src_cid = 3,
		.dst_cid = 2,
		.src_port = 100 + i / ARRAY_SIZE(ops),
		.len = ops[i % ARRAY_SIZE(ops)] == VIRTIO_VSOCK_OP_RW ? 40 : 0,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = ops[i % ARRAY_SIZE(ops)],
		.flags = i % 4,
		.buf_alloc = 0x10000,
	};
	uint32_t at = PACKETS + i * 0x60;

	if (queue == 0)
		return (struct segment){ DATA + i * 0x800, 0x800, true };
	if (queue == 2)
		return (struct segment){ 0x3000 + i * 8, 8, true };
	memcpy(mem + at, &h, sizeof(h));
	return (struct segment){ at, sizeof(h) + h.len, false };
}

static void put_queue(uint8_t *mem, unsigned queue, bool packed)
{
	struct vring_avail *avail = (void *)(mem + queue * AREA + DRIVER);
	struct vring_desc *d = (void *)(mem + queue * AREA);
	struct vring_packed_desc *p = (void *)(mem + queue * AREA);
	unsigned num = queue == 2 ? 8 : ENTRIES;

	for (unsigned i = 0; i < num; i++) {
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

	for (unsigned queue = 0; queue < 3; queue++)
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
		fputs("usage: seeds_vsock DIRECTORY\n", stderr);
		return 2;
	}
	for (unsigned features = 0; features < 8; features++) {
		int r = save(argv[1], features);

		if (r < 0) {
			fprintf(stderr, "%s: %s\n", argv[1], strerror(-r));
			return 1;
		}
	}
	return 0;
}
