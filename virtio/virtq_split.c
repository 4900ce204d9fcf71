/* The split ring: descriptor table, available ring, used ring. Virtio 1.2, 2.7. */
#include "virtio/virtq_ring.h"

/* The event indices lie behind the entries: ours (to write) after the used ring. */
static uint16_t *used_event(const struct virtq *q)
{
	struct vring_avail *avail = q->driver;

	return &avail->ring[q->size];
}

static uint16_t *avail_event(const struct virtq *q)
{
	struct vring_used *used = q->device;

	return (uint16_t *)&used->ring[q->size];
}

static void mark_used_ring(struct virtq *q, const void *field, size_t len)
{
	uint64_t offset = (const uint8_t *)field - (const uint8_t *)q->device;

	guest_mem_mark_dirty(q->mem, q->device_gpa + offset, len);
}

static void read_desc(const void *p, struct virtq_segment *s, uint16_t *ret_next)
{
	struct vring_desc d;

	virtq_copy_once(&d, p, sizeof(d));
	s->gpa = le64toh(d.addr);
	s->len = le32toh(d.len);
	s->flags = le16toh(d.flags);
	*ret_next = le16toh(d.next);
}

/*
 * Follow a chain from descriptor @i of @table. It may end in one indirect
 * descriptor, after which it goes on in that table; the number of steps is
 * bounded, so a loop ends as a chain that is too long.
 */
static int walk(struct virtq *q, struct virtq_chain *c, const uint8_t *table, unsigned entries,
		uint16_t i)
{
	unsigned steps, limit = entries;
	bool in_table = false;
	struct virtq_segment s;
	uint16_t next;
	int r;

	for (steps = 0; steps < limit; steps++) {
		if (i >= entries)
			return virtq_break(q, "next descriptor past the end of its table");
		read_desc(table + i * sizeof(struct vring_desc), &s, &next);

		if (s.flags & VRING_DESC_F_INDIRECT) {
			if (in_table)
				return virtq_break(q, "indirect descriptor in an indirect table");
			table = virtq_indirect_table(q, &s, &entries);
			if (!table)
				return -EBADMSG;
			in_table = true;
			limit = steps + 1 + MIN(entries, (unsigned)VIRTQ_MAX_SEGMENTS);
			i = 0;
			continue;
		}
		r = virtq_add_segment(q, c, &s);
		if (r < 0)
			return r;
		if (!(s.flags & VRING_DESC_F_NEXT))
			return 1;
		i = next;
	}
	return virtq_break(q, "chain loops or is too long");
}

int virtq_split_pop(struct virtq *q, struct virtq_chain *c)
{
	struct vring_avail *avail = q->driver;
	uint16_t head;
	int r;

	if (q->next_avail == q->avail_seen && !virtq_split_has_work(q))
		return q->broken ? -EBADMSG : 0;
	if (q->inflight >= q->size)
		return virtq_break(q, "more chains than descriptors");

	head = virtq_load16(&avail->ring[q->next_avail & (q->size - 1)], __ATOMIC_RELAXED);
	if (head >= q->size)
		return virtq_break(q, "head past the end of the descriptor table");
	r = walk(q, c, q->desc, q->size, head);
	if (r < 0)
		return r;
	c->id = head;
	c->num_desc = 1;
	q->next_avail++;
	q->inflight++;
	return 1;
}

bool virtq_split_has_work(struct virtq *q)
{
	const struct vring_avail *avail = q->driver;

	/*
	 * Acquire: entries and descriptors were written before the index that covers
	 * them. Sequentially consistent, because after virtq_kicks_on() this load must
	 * not pass the store of our event index: the driver stores its index and then
	 * loads ours, and one of the two has to see the other.
	 */
	q->avail_seen = virtq_load16(&avail->idx, __ATOMIC_SEQ_CST);
	if ((uint16_t)(q->avail_seen - q->next_avail) > q->size) {
		virtq_break(q, "available index jumps");
		q->avail_seen = q->next_avail;
	}
	return q->avail_seen != q->next_avail;
}

void virtq_split_push(struct virtq *q, uint16_t id, uint32_t written)
{
	struct vring_used *used = q->device;
	struct vring_used_elem *e = &used->ring[q->next_used & (q->size - 1)];

	e->id = htole32(id);
	e->len = htole32(written);
	mark_used_ring(q, e, sizeof(*e));
	q->next_used++;
}

bool virtq_split_flush(struct virtq *q)
{
	struct vring_avail *avail = q->driver;
	struct vring_used *used = q->device;
	uint16_t old = q->signalled_used;
	bool valid = q->signalled_valid;

	/*
	 * Publish the index after the entries it covers (release), and before we look
	 * whether the driver wants an interrupt (sequentially consistent with the loads
	 * below): it stores its wish and then checks the index once more.
	 */
	virtq_store16(&used->idx, q->next_used, __ATOMIC_SEQ_CST);
	mark_used_ring(q, &used->idx, sizeof(used->idx));

	if (!q->event_idx)
		return !(virtq_load16(&avail->flags, __ATOMIC_SEQ_CST) &
			 VRING_AVAIL_F_NO_INTERRUPT);
	q->signalled_used = q->next_used;
	q->signalled_valid = true;
	return !valid ||
	       virtq_crossed(virtq_load16(used_event(q), __ATOMIC_SEQ_CST), q->next_used, old);
}

void virtq_split_kicks(struct virtq *q, bool on)
{
	struct vring_used *used = q->device;
	uint16_t *field = &used->flags;
	uint16_t value = on ? 0 : VRING_USED_F_NO_NOTIFY;

	if (q->event_idx) {
		/* An event index that falls behind is a wish for silence. */
		if (!on)
			return;
		field = avail_event(q);
		value = q->next_avail;
	}
	/* Before the look at the available index that follows: see has_work(). */
	virtq_store16(field, value, __ATOMIC_SEQ_CST);
	mark_used_ring(q, field, sizeof(*field));
}
