/*
 * Writes the seeds of fuzz_vsock into the directory given: for both ring
 * layouts receive buffers, one packet of each kind on two connections, and a
 * host that connects, talks and leaves.
 */
#include <linux/virtio_vsock.h>

#include "tests/fuzz/seed_ring.h"
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
	2,  0, 10, 0, 2, 0, 5, 0,  1, 1,  2,	 0, 3, 17, 2, 0,  0,
};

static const uint16_t ops[] = {
	VIRTIO_VSOCK_OP_REQUEST,       VIRTIO_VSOCK_OP_RW,
	VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST,
	VIRTIO_VSOCK_OP_RW,	       VIRTIO_VSOCK_OP_SHUTDOWN,
	VIRTIO_VSOCK_OP_RESPONSE,      VIRTIO_VSOCK_OP_RST,
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
	struct ring r = {
		.desc = mem + queue * AREA,
		.avail = (void *)(mem + queue * AREA + DRIVER),
		.packed = packed,
	};
	unsigned num = queue == 2 ? 8 : ENTRIES;

	for (unsigned i = 0; i < num; i++) {
		struct segment s = entry(mem, queue, i);

		ring_add(&r, &s, 1);
	}
}

static int save(const char *dir, unsigned features)
{
	uint8_t mem[MEMORY] __attribute__((aligned(16))) = { 0 };

	for (unsigned queue = 0; queue < 3; queue++)
		put_queue(mem, queue, features & 1);
	return ring_seed_write(dir, features, operations, sizeof(operations), mem, sizeof(mem));
}

int main(int argc, char **argv)
{
	return ring_seeds_main(argc, argv, 8, save);
}
