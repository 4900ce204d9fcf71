/*
 * Fuzz target (libFuzzer): the driver is hostile. The input is both the
 * contents of guest memory, rings included, and what happens to the queue:
 * chains are taken, put back and returned in any order while the driver
 * changes the memory. Whatever it does, segments lie in guest memory, numbers
 * stay within their bounds, and a broken queue stays broken.
 *
 * Input: one byte of features, one of the size, then operations of two bytes
 * until a zero, then memory.
 */
#include <stdlib.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "virtio/virtq.h"

#define RAM	 0x10000ull
#define BOUNDARY 0x8000ull
#define DESC	 0x0000ull
#define DRIVER	 0x1000ull
#define DEVICE	 0x2000ull
#define MAX_SIZE 64u
#define MAX_IOV	 20u
#define MAX_HELD (MAX_SIZE + 1)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct held {
	struct virtq_chain c;
	struct iovec iov[MAX_IOV];
};

static struct guest_mem *memory(void)
{
	static struct guest_mem *mem;
	const struct guest_mem_range ranges[2] = {
		{ .gpa = 0, .size = BOUNDARY },
		{ .gpa = BOUNDARY, .size = RAM - BOUNDARY },
	};

	if (!mem && guest_mem_create(&mem, GUEST_MEM_ANON, ranges, 2, NULL) < 0)
		abort();
	return mem;
}

static bool in_ram(const struct guest_mem *mem, const struct iovec *iov)
{
	return range_inside((uintptr_t)iov->iov_base, iov->iov_len, (uintptr_t)mem->map,
			    mem->map_size);
}

static void check_chain(const struct guest_mem *mem, const struct virtq *q, const struct held *h)
{
	const struct virtq_chain *c = &h->c;
	uint64_t out = 0, in = 0;
	unsigned i;

	if (!(c->num_out + c->num_in) || c->num_out + c->num_in > MAX_IOV)
		abort();
	for (i = 0; i < c->num_out + c->num_in; i++) {
		if (!in_ram(mem, &c->iov[i]))
			abort();
		*(i < c->num_out ? &out : &in) += c->iov[i].iov_len;
	}
	if (out != c->out_bytes || in != c->in_bytes || out + in > UINT32_MAX)
		abort();
	if (!c->num_desc || c->num_desc > q->size || q->inflight > q->size)
		abort();
	if (!q->packed && c->id >= q->size)
		abort();
}

struct run {
	struct guest_mem *mem;
	struct virtq q;
	struct held *held; /* popped, in order */
	unsigned num_held;
	bool pushed; /* one out of those held: then the others may not be put back */
};

static void pop(struct run *s)
{
	struct held *h = &s->held[s->num_held];
	int r;

	/* The queue itself must see to it that there are never more. */
	if (s->num_held >= MAX_HELD)
		abort();
	h->c.iov = h->iov;
	h->c.max_iov = MAX_IOV;
	r = virtq_pop(&s->q, &h->c);
	if (r > 0) {
		check_chain(s->mem, &s->q, h);
		if (!s->num_held++)
			s->pushed = false;
	} else if (r < 0 && (!s->q.broken || !s->q.why_broken)) {
		abort();
	}
}

static void push(struct run *s, unsigned which)
{
	uint8_t buf[100];
	struct held *h;

	if (!s->num_held)
		return;
	which %= s->num_held;
	h = &s->held[which];
	h->c.iov = h->iov;
	virtq_copy_out(&h->c, which, buf, sizeof(buf));
	virtq_push(&s->q, &h->c, virtq_copy_in(&h->c, which, buf, sizeof(buf)));
	memmove(h, h + 1, (--s->num_held - which) * sizeof(*h));
	s->pushed = true;
}

static void step(struct run *s, uint8_t op, uint8_t arg)
{
	bool broken = s->q.broken;

	switch (op % 8) {
	case 1:
	case 2:
		pop(s);
		break;
	case 3:
		push(s, arg);
		break;
	case 4:
		virtq_flush(&s->q);
		break;
	case 5:
		if (s->num_held && !s->pushed && !s->q.broken)
			virtq_unpop(&s->q, &s->held[--s->num_held].c);
		break;
	case 6:
		if (arg & 1)
			virtq_kicks_on(&s->q);
		else
			virtq_kicks_off(&s->q);
		break;
	default:
		/* The driver changes an index or a flag under our eyes. */
		s->mem->map[(arg & 1 ? DRIVER : DESC) + arg] += op;
	}
	if (broken && !s->q.broken)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct held held[MAX_HELD];
	struct run s = { .mem = memory(), .held = held };
	uint64_t features = 0;
	size_t i;

	if (size < 2)
		return 0;
	features |= (uint64_t)(data[0] & 1) << VIRTIO_F_RING_PACKED;
	features |= (uint64_t)(data[0] >> 1 & 1) << VIRTIO_RING_F_EVENT_IDX;
	features |= (uint64_t)(data[0] >> 2 & 1) << VIRTIO_RING_F_INDIRECT_DESC;
	virtq_init(&s.q, 0, MAX_SIZE);
	s.q.size = data[1] & 0x7f;
	s.q.ready = true;
	s.q.desc_gpa = DESC;
	s.q.driver_gpa = DRIVER;
	s.q.device_gpa = DEVICE;

	for (i = 2; i < size && data[i]; i += 2)
		;
	memset(s.mem->map, 0, RAM);
	if (i + 1 < size)
		memcpy(s.mem->map, data + i + 1, MIN(size - i - 1, (size_t)RAM));
	if (virtq_start(&s.q, s.mem, features) < 0)
		return 0;
	for (i = 2; i + 1 < size && data[i]; i += 2)
		step(&s, data[i], data[i + 1]);
	while (s.num_held)
		push(&s, 0);
	virtq_stop(&s.q);
	return 0;
}
