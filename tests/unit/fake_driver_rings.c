/* What fake_driver.h's driver does with its rings: buffers in, doorbells, used ones out. */
#include "tests/unit/fake_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/patience.h"

#define AVAIL_BIT (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED_BIT  (1u << VRING_PACKED_DESC_F_USED)

/* ---- the split ring ---- */

static struct vring_desc *descs(struct fake_driver *d, const struct fake_queue *q)
{
	return fake_ptr(d->vm, q->desc, q->size * sizeof(struct vring_desc));
}

static struct vring_avail *avail_ring(struct fake_driver *d, const struct fake_queue *q)
{
	return fake_ptr(d->vm, q->driver, 6 + 2 * q->size);
}

static struct vring_used *used_ring(struct fake_driver *d, const struct fake_queue *q)
{
	return fake_ptr(d->vm, q->device, 6 + 8 * q->size);
}

/*
 * Chains take neighbouring descriptors where there are free ones in a row: as
 * good as any other order, and easy to give back.
 */
static int find_run(const struct fake_queue *q, unsigned num)
{
	bool busy[VIRTQ_MAX_SIZE] = { false };
	unsigned i, run = 0;

	for (i = 0; i < q->size; i++) {
		unsigned k;

		for (k = 0; k < q->slots[i]; k++)
			busy[i + k] = true;
	}
	for (i = 0; i < q->size; i++) {
		run = busy[i] ? 0 : run + 1;
		if (run == num)
			return i + 1 - num;
	}
	return -1;
}

static int add_split(struct fake_driver *d, struct fake_queue *q, const struct vring_desc *chain,
		     unsigned num)
{
	struct vring_avail *avail = avail_ring(d, q);
	int head = find_run(q, num);
	unsigned i;

	if (head < 0)
		return -1;
	for (i = 0; i < num; i++) {
		struct vring_desc *e = &descs(d, q)[head + i];

		*e = chain[i];
		if (i + 1 < num) {
			e->flags |= VRING_DESC_F_NEXT;
			e->next = head + i + 1;
		}
	}
	q->slots[head] = num;
	avail->ring[q->next % q->size] = head;
	/* Release: the device may look at the entry once it sees the index. */
	__atomic_store_n(&avail->idx, ++q->next, __ATOMIC_SEQ_CST);
	return head;
}

static bool take_split(struct fake_driver *d, struct fake_queue *q, struct fake_used *used)
{
	struct vring_used *ring = used_ring(d, q);
	const struct vring_used_elem *e = &ring->ring[q->last_used % q->size];

	if (__atomic_load_n(&ring->idx, __ATOMIC_SEQ_CST) == q->last_used)
		return false;
	used->id = e->id;
	used->len = e->len;
	q->last_used++;
	return true;
}

static bool wants_kick_split(struct fake_driver *d, struct fake_queue *q)
{
	struct vring_used *ring = used_ring(d, q);
	uint16_t event = __atomic_load_n((uint16_t *)&ring->ring[q->size], __ATOMIC_SEQ_CST);
	uint16_t old = q->kicked;

	q->kicked = q->next;
	if (d->config.event_idx)
		return vring_need_event(event, q->next, old);
	return !(__atomic_load_n(&ring->flags, __ATOMIC_SEQ_CST) & VRING_USED_F_NO_NOTIFY);
}

/* ---- the packed ring ---- */

static int add_packed(struct fake_driver *d, struct fake_queue *q, const struct vring_desc *chain,
		      unsigned num)
{
	struct vring_packed_desc *ring = (struct vring_packed_desc *)descs(d, q);
	uint16_t head_flags = 0, head = q->next;
	unsigned i, id;

	for (id = 0; id < q->size && q->slots[id]; id++)
		;
	if (id == q->size || num > q->num_free)
		return -1;
	for (i = 0; i < num; i++) {
		struct vring_packed_desc *e = &ring[q->next];
		uint16_t flags = chain[i].flags | (q->wrap ? AVAIL_BIT : USED_BIT) |
				 (i + 1 < num ? VRING_DESC_F_NEXT : 0);

		e->addr = chain[i].addr;
		e->len = chain[i].len;
		e->id = id;
		if (i)
			e->flags = flags;
		else
			head_flags = flags;
		if (++q->next == q->size) {
			q->next = 0;
			q->wrap = !q->wrap;
		}
	}
	q->slots[id] = num;
	q->num_free -= num;
	q->pending += num;
	/* Release: the whole chain is there once its first slot is available. */
	__atomic_store_n(&ring[head].flags, head_flags, __ATOMIC_SEQ_CST);
	return id;
}

static bool take_packed(struct fake_driver *d, struct fake_queue *q, struct fake_used *used)
{
	struct vring_packed_desc *e = (struct vring_packed_desc *)descs(d, q) + q->last_used;
	uint16_t flags = __atomic_load_n(&e->flags, __ATOMIC_SEQ_CST);
	unsigned slots;

	if (!!(flags & AVAIL_BIT) != q->used_wrap || !!(flags & USED_BIT) != q->used_wrap)
		return false;
	used->id = e->id;
	used->len = e->len;
	assert_true(used->id < q->size);
	slots = q->slots[used->id];
	q->num_free += slots;
	q->last_used += slots;
	if (q->last_used >= q->size) {
		q->last_used -= q->size;
		q->used_wrap = !q->used_wrap;
	}
	return true;
}

static bool wants_kick_packed(struct fake_driver *d, struct fake_queue *q)
{
	uint32_t wish = __atomic_load_n((uint32_t *)used_ring(d, q), __ATOMIC_SEQ_CST);
	uint16_t event = wish & 0x7fff, mode = wish >> 16, old = q->next - q->pending;

	q->pending = 0;
	if (mode != VRING_PACKED_EVENT_FLAG_DESC)
		return mode != VRING_PACKED_EVENT_FLAG_DISABLE;
	if (!!(wish & 0x8000) != q->wrap)
		event -= q->size;
	return vring_need_event(event, q->next, old);
}

/* ---- both ---- */

static int add(struct fake_driver *d, unsigned queue, const struct vring_desc *chain, unsigned num)
{
	struct fake_queue *q = &d->queue[queue];

	return d->config.packed ? add_packed(d, q, chain, num) : add_split(d, q, chain, num);
}

int fake_add_table(struct fake_driver *d, unsigned queue, uint64_t table, uint32_t len)
{
	struct vring_desc desc = { .addr = table, .len = len, .flags = VRING_DESC_F_INDIRECT };

	return add(d, queue, &desc, 1);
}

int fake_add(struct fake_driver *d, unsigned queue, const struct fake_buf *bufs, unsigned num)
{
	struct vring_desc chain[VIRTQ_MAX_SIZE];
	unsigned i;

	assert_true(num && num <= ARRAY_SIZE(chain));
	for (i = 0; i < num; i++) {
		chain[i] = (struct vring_desc){
			.addr = bufs[i].gpa,
			.len = bufs[i].len,
			.flags = bufs[i].writable ? VRING_DESC_F_WRITE : 0,
		};
	}
	if (d->config.indirect && num > 1) {
		uint64_t table = fake_alloc(d->vm, num * sizeof(*chain), 16);

		for (i = 0; !d->config.packed && i + 1 < num; i++) {
			chain[i].flags |= VRING_DESC_F_NEXT;
			chain[i].next = i + 1;
		}
		if (d->config.packed) {
			struct vring_packed_desc *e = fake_ptr(d->vm, table, num * sizeof(*e));

			for (i = 0; i < num; i++) {
				e[i].addr = chain[i].addr;
				e[i].len = chain[i].len;
				e[i].flags = chain[i].flags;
			}
		} else {
			memcpy(fake_ptr(d->vm, table, num * sizeof(*chain)), chain,
			       num * sizeof(*chain));
		}
		return fake_add_table(d, queue, table, num * sizeof(*chain));
	}
	return add(d, queue, chain, num);
}

bool fake_kick(struct fake_driver *d, unsigned queue)
{
	struct fake_queue *q = &d->queue[queue];
	bool wanted = d->config.packed ? wants_kick_packed(d, q) : wants_kick_split(d, q);

	if (wanted)
		fake_write(d->vm, q->doorbell, queue, d->mmio ? 4 : 2);
	return wanted;
}

bool fake_take_used(struct fake_driver *d, unsigned queue, struct fake_used *used)
{
	struct fake_queue *q = &d->queue[queue];

	if (!(d->config.packed ? take_packed(d, q, used) : take_split(d, q, used)))
		return false;
	/* A device that returns what it was not given has no place in a test. */
	assert_true(used->id < q->size && q->slots[used->id]);
	q->slots[used->id] = 0;
	if (q->interrupts_on)
		fake_interrupts_on(d, queue);
	return true;
}

unsigned fake_take_all(struct fake_driver *d, unsigned queue)
{
	struct fake_used used;
	unsigned n = 0;

	fake_run(d->vm);
	while (fake_take_used(d, queue, &used))
		n++;
	return n;
}

unsigned fake_take_for(struct fake_driver *d, unsigned queue, unsigned milliseconds)
{
	unsigned n = 0;

	while (milliseconds--) {
		clock_advance(&d->vm->clock, NSEC_PER_MSEC);
		n += fake_take_all(d, queue);
	}
	return n;
}

bool fake_wait_used(struct fake_driver *d, unsigned queue, struct fake_used *used)
{
	uint64_t end = patience();

	while (!fake_take_used(d, queue, used)) {
		if (patience_ends(end))
			return false;
		loop_run_once(d->vm->loop, FAKE_TURN_NS);
	}
	return true;
}

/* ---- whether it wants interrupts ---- */

static void set_event(struct fake_driver *d, struct fake_queue *q, bool on)
{
	struct vring_avail *avail = avail_ring(d, q);
	uint32_t wish = VRING_PACKED_EVENT_FLAG_DISABLE << 16;

	q->interrupts_on = on;
	if (d->config.packed) {
		if (on && d->config.event_idx)
			wish = VRING_PACKED_EVENT_FLAG_DESC << 16 | q->last_used |
			       (uint32_t)q->used_wrap << 15;
		else if (on)
			wish = VRING_PACKED_EVENT_FLAG_ENABLE << 16;
		__atomic_store_n((uint32_t *)avail, wish, __ATOMIC_SEQ_CST);
	} else if (d->config.event_idx) {
		/* One behind is as far away as an event can be. */
		__atomic_store_n(&avail->ring[q->size], q->last_used - !on, __ATOMIC_SEQ_CST);
	} else {
		__atomic_store_n(&avail->flags, on ? 0 : VRING_AVAIL_F_NO_INTERRUPT,
				 __ATOMIC_SEQ_CST);
	}
}

void fake_interrupts_off(struct fake_driver *d, unsigned queue)
{
	set_event(d, &d->queue[queue], false);
}

void fake_interrupts_on(struct fake_driver *d, unsigned queue)
{
	set_event(d, &d->queue[queue], true);
}
