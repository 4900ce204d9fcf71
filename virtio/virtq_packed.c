/* The packed ring: one ring of descriptors that both sides write. Virtio 1.2, 2.8. */
#include "virtio/virtq_ring.h"

#define AVAIL_BIT (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED_BIT  (1u << VRING_PACKED_DESC_F_USED)

/* Move a ring position by @slots, which are at most a whole ring. */
static void advance(const struct virtq *q, uint16_t *pos, bool *wrap, unsigned slots)
{
	unsigned next = *pos + slots;

	if (next >= q->size) {
		next -= q->size;
		*wrap = !*wrap;
	}
	*pos = next;
}

static void mark_desc(struct virtq *q, unsigned pos)
{
	guest_mem_mark_dirty(q->mem, q->desc_gpa + pos * sizeof(struct vring_packed_desc),
			     sizeof(struct vring_packed_desc));
}

/* A descriptor is available when its AVAIL bit is our wrap counter and USED is not. */
static bool is_avail(const struct virtq *q, uint16_t flags)
{
	return !!(flags & AVAIL_BIT) == q->avail_wrap && !!(flags & USED_BIT) != q->avail_wrap;
}

bool virtq_packed_has_work(struct virtq *q)
{
	const struct vring_packed_desc *ring = q->desc;

	/* Sequentially consistent with the store in virtq_packed_kicks(), as in the split ring. */
	return is_avail(q, virtq_load16(&ring[q->next_avail].flags, __ATOMIC_SEQ_CST));
}

/* All entries of an indirect table, in order; only WRITE means something there (2.8.7). */
static int walk_table(struct virtq *q, struct virtq_chain *c, const struct virtq_segment *s)
{
	unsigned i, entries;
	const uint8_t *table = virtq_indirect_table(q, s, &entries);

	if (!table)
		return -EBADMSG;
	for (i = 0; i < entries; i++) {
		struct vring_packed_desc d;
		struct virtq_segment in;
		int r;

		virtq_copy_once(&d, table + i * sizeof(d), sizeof(d));
		in.gpa = le64toh(d.addr);
		in.len = le32toh(d.len);
		in.flags = le16toh(d.flags) & VRING_DESC_F_WRITE;
		r = virtq_add_segment(q, c, &in);
		if (r < 0)
			return r;
	}
	return 0;
}

int virtq_packed_pop(struct virtq *q, struct virtq_chain *c)
{
	const struct vring_packed_desc *ring = q->desc;
	uint16_t pos = q->next_avail, flags;
	bool wrap = q->avail_wrap;
	unsigned slots = 0;
	int r;

	/* Acquire: the rest of the chain was written before the flags of its first slot. */
	flags = virtq_load16(&ring[pos].flags, __ATOMIC_ACQUIRE);
	if (!is_avail(q, flags))
		return 0;

	for (;;) {
		struct vring_packed_desc d;
		struct virtq_segment s;

		/* Slots in flight are still the driver's promise: it cannot reuse them. */
		if (q->inflight + slots >= q->size)
			return virtq_break(q, "chain loops or more chains than slots");
		virtq_copy_once(&d, &ring[pos], sizeof(d));
		s.gpa = le64toh(d.addr);
		s.len = le32toh(d.len);
		/* Those of the first slot were read already, and once only. */
		s.flags = slots ? le16toh(d.flags) : flags;
		slots++;
		advance(q, &pos, &wrap, 1);

		if (s.flags & VRING_DESC_F_INDIRECT)
			r = walk_table(q, c, &s);
		else
			r = virtq_add_segment(q, c, &s);
		if (r < 0)
			return r;
		if (!(s.flags & VRING_DESC_F_NEXT)) {
			/* The buffer id is that of the last slot. */
			c->id = le16toh(d.id);
			break;
		}
	}
	c->num_desc = slots;
	q->next_avail = pos;
	q->avail_wrap = wrap;
	q->inflight += slots;
	return 1;
}

void virtq_packed_unpop(struct virtq *q, uint16_t num_desc)
{
	if (q->next_avail < num_desc) {
		q->next_avail += q->size;
		q->avail_wrap = !q->avail_wrap;
	}
	q->next_avail -= num_desc;
}

void virtq_packed_push(struct virtq *q, uint16_t id, uint16_t num_desc, uint32_t written)
{
	struct vring_packed_desc *d = (struct vring_packed_desc *)q->desc + q->next_used;
	bool lap = q->used_wrap;
	uint16_t flags = lap ? AVAIL_BIT | USED_BIT : 0;

	/* The driver looks at the length only when WRITE says that it means something. */
	if (written)
		flags |= VRING_DESC_F_WRITE;
	d->id = htole16(id);
	d->len = htole32(written);
	/*
	 * The driver takes used slots in order, so it sees nothing of a batch before
	 * the flags of its first slot, which virtq_packed_flush() writes.
	 */
	if (q->used_pending) {
		virtq_store16(&d->flags, flags, __ATOMIC_RELAXED);
		mark_desc(q, q->next_used);
	} else {
		q->batch_head = q->next_used;
		q->batch_flags = flags;
	}

	advance(q, &q->next_used, &q->used_wrap, num_desc);
	/* Keep the two comparable: a position before the wrap is negative now. */
	if (q->used_wrap != lap)
		q->signalled_used -= q->size;
}

bool virtq_packed_flush(struct virtq *q)
{
	struct vring_packed_desc *head = (struct vring_packed_desc *)q->desc + q->batch_head;
	uint16_t old = q->signalled_used, event, mode;
	bool valid = q->signalled_valid;
	uint32_t wish;

	/*
	 * Publish the batch: after everything else in it (release), and before we look
	 * whether the driver wants an interrupt (sequentially consistent): it stores
	 * its wish and then checks the ring once more.
	 */
	virtq_store16(&head->flags, q->batch_flags, __ATOMIC_SEQ_CST);
	mark_desc(q, q->batch_head);

	q->signalled_used = q->next_used;
	q->signalled_valid = true;
	/* Offset and flags in one load, so that they belong together. */
	wish = le32toh(__atomic_load_n((uint32_t *)q->driver, __ATOMIC_SEQ_CST));
	mode = wish >> 16;
	if (mode == VRING_PACKED_EVENT_FLAG_DISABLE)
		return false;
	if (mode != VRING_PACKED_EVENT_FLAG_DESC || !q->event_idx || !valid)
		return true;

	event = wish & 0x7fff;
	/* Of the lap before ours: negative, as signalled_used is. */
	if (!!(wish & (1u << VRING_PACKED_EVENT_F_WRAP_CTR)) != q->used_wrap)
		event -= q->size;
	return virtq_crossed(event, q->next_used, old);
}

void virtq_packed_kicks(struct virtq *q, bool on)
{
	uint32_t wish;

	if (!on)
		wish = (uint32_t)VRING_PACKED_EVENT_FLAG_DISABLE << 16;
	else if (q->event_idx)
		wish = (uint32_t)VRING_PACKED_EVENT_FLAG_DESC << 16 | q->next_avail |
		       (uint32_t)q->avail_wrap << VRING_PACKED_EVENT_F_WRAP_CTR;
	else
		wish = (uint32_t)VRING_PACKED_EVENT_FLAG_ENABLE << 16;
	/* Both fields in one store; before the look at the ring that follows: see has_work(). */
	__atomic_store_n((uint32_t *)q->device, htole32(wish), __ATOMIC_SEQ_CST);
	guest_mem_mark_dirty(q->mem, q->device_gpa, sizeof(wish));
}
