#include "tests/unit/split_ring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_config.h>
#include <stdlib.h>

int split_ring_setup(void **state)
{
	const struct guest_mem_range ranges[2] = {
		{ .gpa = 0, .size = RING_BOUNDARY },
		{ .gpa = RING_BOUNDARY, .size = RING_RAM - RING_BOUNDARY },
	};
	struct split_ring *f = calloc(1, sizeof(*f));

	assert_int_equal(guest_mem_create(&f->mem, GUEST_MEM_ANON, ranges, 2, NULL), 0);
	f->desc = guest_mem_ptr(f->mem, RING_DESC, RING_SIZE * sizeof(*f->desc));
	f->avail = guest_mem_ptr(f->mem, RING_AVAIL, 64);
	f->used = guest_mem_ptr(f->mem, RING_USED, 128);
	f->table = guest_mem_ptr(f->mem, RING_TABLE, 4096);
	f->c.iov = f->iov;
	f->c.max_iov = RING_MAX_IOV;
	virtq_init(&f->q, 0, 256);
	f->q.size = RING_SIZE;
	f->q.ready = true;
	f->q.desc_gpa = RING_DESC;
	f->q.driver_gpa = RING_AVAIL;
	f->q.device_gpa = RING_USED;
	*state = f;
	return 0;
}

int split_ring_teardown(void **state)
{
	struct split_ring *f = *state;

	guest_mem_free(f->mem);
	free(f);
	return 0;
}

void split_ring_start(struct split_ring *f, uint64_t features)
{
	assert_int_equal(virtq_start(&f->q, f->mem, features | 1ull << VIRTIO_F_VERSION_1), 0);
}

void split_ring_set(struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags,
		    uint16_t next)
{
	*d = (struct vring_desc){ .addr = addr, .len = len, .flags = flags, .next = next };
}

void split_ring_offer(struct split_ring *f, uint16_t head)
{
	f->avail->ring[f->avail->idx % RING_SIZE] = head;
	f->avail->idx++;
}

void split_ring_offer_plain(struct split_ring *f, uint16_t i)
{
	split_ring_set(&f->desc[i], RING_DATA + i * 64, 64, 0, 0);
	split_ring_offer(f, i);
}
