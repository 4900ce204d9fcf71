/*
 * A split ring in guest memory of two ranges, with its driver's side in the test's hands, right or
 * wrong.
 *
 *	split_ring_start(f, 0);
 *	split_ring_set(&f->desc[3], RING_DATA, 16, 0, 0);
 *	split_ring_offer(f, 3);
 *	assert_int_equal(virtq_pop(&f->q, &f->c), 1);
 */
#ifndef WISP_TESTS_SPLIT_RING_H
#define WISP_TESTS_SPLIT_RING_H

#include <linux/virtio_ring.h>

#include "virtio/virtq.h"

#define RING_SIZE     8u
#define RING_RAM      0x20000ull
#define RING_BOUNDARY 0x10000ull /* between two ranges of RAM */
#define RING_DESC     0x1000ull
#define RING_AVAIL    0x2000ull
#define RING_USED     0x3000ull
#define RING_TABLE    0x4000ull
#define RING_DATA     0x8000ull
#define RING_MAX_IOV  16

#define RING_EVENT_IDX (1ull << VIRTIO_RING_F_EVENT_IDX)
#define RING_INDIRECT  (1ull << VIRTIO_RING_F_INDIRECT_DESC)

struct split_ring {
	struct guest_mem *mem;
	struct virtq q;
	struct vring_desc *desc, *table; /* as the driver sees them */
	struct vring_avail *avail;
	struct vring_used *used;
	struct iovec iov[RING_MAX_IOV];
	struct virtq_chain c;
};

/* Test fixtures: *@state becomes a struct split_ring, set up and not started. */
int split_ring_setup(void **state);
int split_ring_teardown(void **state);

#define split_ring_test(name)                                                                      \
	cmocka_unit_test_setup_teardown(name, split_ring_setup, split_ring_teardown)

/* Start it with @features and VERSION_1, which has to succeed (cmocka). */
void split_ring_start(struct split_ring *f, uint64_t features);

void split_ring_set(struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags,
		    uint16_t next);

/* Make the chain that begins at @head available. */
void split_ring_offer(struct split_ring *f, uint16_t head);

/* One readable descriptor of 64 bytes in slot @i, offered. */
void split_ring_offer_plain(struct split_ring *f, uint16_t i);

#endif
