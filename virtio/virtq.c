#include "virtio/virtq.h"

#include <linux/virtio_config.h>

#include "virtio/virtq_ring.h"

void virtq_init(struct virtq *q, uint16_t index, uint16_t max_size)
{
	memset(q, 0, sizeof(*q));
	q->index = index;
	q->max_size = max_size;
	virtq_reset(q);
}

void virtq_reset(struct virtq *q)
{
	*q = (struct virtq){
		.index = q->index,
		.max_size = q->max_size,
		.size = q->max_size,
		/* Both wrap counters start at 1: Virtio 1.2, 2.8.1. */
		.avail_wrap = true,
		.used_wrap = true,
		.stats = q->stats,
	};
}

int virtq_break(struct virtq *q, const char *why)
{
	/* The first reason is the one worth telling. */
	if (!q->broken) {
		q->broken = true;
		q->why_broken = why;
		counter_add(&q->stats.errors, 1);
	}
	return -EBADMSG;
}

/* ---- start and stop ---- */

/* Virtio 1.2, 2.7 and 2.8: the alignment of the three areas is that of their fields. */
static void *map_area(struct virtq *q, uint64_t gpa, uint64_t len, uint64_t align)
{
	struct iovec iov;

	if (gpa & (align - 1))
		return NULL;
	/* Writable even where we only read: a ring in a ROM makes no sense in any case. */
	if (guest_mem_iov(q->mem, gpa, len, true, &iov, 1) != 1)
		return NULL;
	return iov.iov_base;
}

int virtq_start(struct virtq *q, struct guest_mem *mem, uint64_t features)
{
	uint64_t size = q->size;

	q->packed = features & (1ull << VIRTIO_F_RING_PACKED);
	q->event_idx = features & (1ull << VIRTIO_RING_F_EVENT_IDX);
	q->indirect = features & (1ull << VIRTIO_RING_F_INDIRECT_DESC);
	q->mem = mem;

	if (!size || size > q->max_size || (!q->packed && !is_power_of_two(size))) {
		virtq_break(q, "queue size not allowed");
		return -EINVAL;
	}
	/* Never in one of ours; but it may have been loaded before the driver chose its size. */
	if (q->packed && (q->next_avail >= size || q->next_used >= size)) {
		virtq_break(q, "position past the end of the ring");
		return -EINVAL;
	}
	q->desc = map_area(q, q->desc_gpa, size * sizeof(struct vring_desc), 16);
	if (q->packed) {
		q->driver = map_area(q, q->driver_gpa, sizeof(struct vring_packed_desc_event), 4);
		q->device = map_area(q, q->device_gpa, sizeof(struct vring_packed_desc_event), 4);
	} else {
		/* Each ends with the other side's event index, there or not used. */
		q->driver = map_area(q, q->driver_gpa, 6 + 2 * size, 2);
		q->device = map_area(q, q->device_gpa, 6 + 8 * size, 4);
	}
	if (!q->desc || !q->driver || !q->device) {
		virtq_break(q, "ring address is misaligned or not RAM");
		return -EINVAL;
	}

	q->avail_seen = q->next_avail;
	q->signalled_valid = false;
	q->used_pending = false;
	q->inflight = 0;
	q->started = true;
	virtq_kicks_on(q);
	return 0;
}

void virtq_continue(struct virtq *q, uint16_t position)
{
	q->next_avail = q->next_used = q->avail_seen = position;
	q->signalled_valid = false;
	virtq_kicks_on(q);
}

void virtq_stop(struct virtq *q)
{
	if (q->started && q->used_pending)
		virtq_flush(q);
	q->started = false;
	q->desc = q->driver = q->device = NULL;
}

/* ---- chains ---- */

int virtq_add_segment(struct virtq *q, struct virtq_chain *c, const struct virtq_segment *s)
{
	bool writable = s->flags & VRING_DESC_F_WRITE;
	unsigned used = c->num_out + c->num_in;
	int n;

	if (!s->len)
		return virtq_break(q, "descriptor of length 0");
	/* Virtio 1.2, 2.7.4.2: all readable ones come first. */
	if (!writable && c->num_in)
		return virtq_break(q, "readable descriptor after a writable one");
	/* Virtio 1.2, 2.7.5.2: no chain of 4 GiB or more; lengths in the used ring have 32 bits. */
	if (c->out_bytes + c->in_bytes + s->len > UINT32_MAX)
		return virtq_break(q, "chain longer than 4 GiB");

	n = guest_mem_iov(q->mem, s->gpa, s->len, writable, c->iov + used, c->max_iov - used);
	if (n == -E2BIG)
		return virtq_break(q, "chain has too many segments");
	if (n <= 0)
		return virtq_break(q, "descriptor does not lie in RAM");
	if (writable) {
		c->num_in += n;
		c->in_bytes += s->len;
	} else {
		c->num_out += n;
		c->out_bytes += s->len;
	}
	return 0;
}

const uint8_t *virtq_indirect_table(struct virtq *q, const struct virtq_segment *s,
				    unsigned *ret_entries)
{
	const uint8_t *table;

	if (!q->indirect) {
		virtq_break(q, "indirect descriptor without the feature");
		return NULL;
	}
	if (s->flags & VRING_DESC_F_NEXT) {
		virtq_break(q, "indirect descriptor with a next one");
		return NULL;
	}
	if (!s->len || s->len % sizeof(struct vring_desc)) {
		virtq_break(q, "indirect table is not a multiple of 16 bytes");
		return NULL;
	}
	/* A table across two ranges is refused: no driver allocates across a hole. */
	table = guest_mem_ptr(q->mem, s->gpa, s->len);
	if (!table) {
		virtq_break(q, "indirect table does not lie in RAM");
		return NULL;
	}
	*ret_entries = s->len / sizeof(struct vring_desc);
	return table;
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
	int r;

	if (q->broken || !q->started)
		return q->broken ? -EBADMSG : 0;

	c->num_out = c->num_in = 0;
	c->out_bytes = c->in_bytes = 0;
	r = q->packed ? virtq_packed_pop(q, c) : virtq_split_pop(q, c);
	if (r > 0) {
		counter_add(&q->stats.chains, 1);
		counter_add(&q->stats.out_bytes, c->out_bytes);
	}
	return r;
}

void virtq_unpop(struct virtq *q, const struct virtq_chain *c)
{
	if (q->packed)
		virtq_packed_unpop(q, c->num_desc);
	else
		q->next_avail--;
	q->inflight -= c->num_desc;
	counter_add(&q->stats.chains, -1);
	counter_add(&q->stats.out_bytes, -(uint64_t)c->out_bytes);
}

void virtq_push(struct virtq *q, const struct virtq_chain *c, uint32_t written)
{
	const struct iovec *iov = c->iov + c->num_out;
	uint64_t left = MIN((uint64_t)written, c->in_bytes);
	unsigned i;

	for (i = 0; i < c->num_in && left; i++) {
		uint64_t n = MIN(left, (uint64_t)iov[i].iov_len);

		guest_mem_mark_dirty_host(q->mem, iov[i].iov_base, n);
		left -= n;
	}
	virtq_push_id(q, c->id, c->num_desc, written);
}

void virtq_push_id(struct virtq *q, uint16_t id, uint16_t num_desc, uint32_t written)
{
	if (!q->started)
		return;
	counter_add(&q->stats.in_bytes, written);
	if (q->packed)
		virtq_packed_push(q, id, num_desc, written);
	else
		virtq_split_push(q, id, written);
	q->inflight -= num_desc;
	q->used_pending = true;
}

bool virtq_flush(struct virtq *q)
{
	bool wanted;

	if (!q->started || !q->used_pending)
		return false;
	wanted = q->packed ? virtq_packed_flush(q) : virtq_split_flush(q);
	q->used_pending = false;
	if (wanted)
		counter_add(&q->stats.interrupts, 1);
	else
		counter_add(&q->stats.suppressed, 1);
	return wanted;
}

void virtq_kicks_off(struct virtq *q)
{
	if (!q->started)
		return;
	if (q->packed)
		virtq_packed_kicks(q, false);
	else
		virtq_split_kicks(q, false);
}

bool virtq_kicks_on(struct virtq *q)
{
	if (!q->started)
		return false;
	if (q->packed)
		virtq_packed_kicks(q, true);
	else
		virtq_split_kicks(q, true);
	return virtq_has_work(q);
}

bool virtq_has_work(struct virtq *q)
{
	if (!q->started || q->broken)
		return false;
	return q->packed ? virtq_packed_has_work(q) : virtq_split_has_work(q);
}

/* ---- state ---- */

void virtq_save(const struct virtq *q, struct state_writer *w)
{
	state_put_u16(w, q->size);
	state_put_u8(w, q->ready);
	state_put_u8(w, q->broken);
	state_put_u64(w, q->desc_gpa);
	state_put_u64(w, q->driver_gpa);
	state_put_u64(w, q->device_gpa);
	state_put_u16(w, q->next_avail);
	state_put_u16(w, q->next_used);
	state_put_u8(w, q->avail_wrap);
	state_put_u8(w, q->used_wrap);
}

int virtq_load(struct virtq *q, struct state_reader *r, bool packed)
{
	bool broken;

	virtq_reset(q);
	q->size = state_get_u16(r);
	q->ready = state_get_u8(r);
	broken = state_get_u8(r);
	q->desc_gpa = state_get_u64(r);
	q->driver_gpa = state_get_u64(r);
	q->device_gpa = state_get_u64(r);
	q->next_avail = state_get_u16(r);
	q->next_used = state_get_u16(r);
	q->avail_wrap = state_get_u8(r);
	q->used_wrap = state_get_u8(r);

	if (r->failed)
		return r->failed;
	if (q->size > q->max_size)
		return state_reader_fail(r, "queue %u: size %u", q->index, q->size);
	if (packed && q->ready && (q->next_avail >= q->size || q->next_used >= q->size))
		return state_reader_fail(r, "queue %u: position past its end", q->index);
	/* Saved when drained: all that was taken has been returned, unless the device gave up. */
	if (broken)
		virtq_break(q, "it was malformed when it was saved");
	else if (q->next_avail != q->next_used || (packed && q->avail_wrap != q->used_wrap))
		return state_reader_fail(r, "queue %u: chains in flight", q->index);
	return 0;
}

/* ---- copying ---- */

/* Copy between @buf and the @num segments at @iov, from byte @offset of them. */
static size_t copy_segments(const struct iovec *iov, unsigned num, size_t offset, uint8_t *buf,
			    size_t len, bool to_guest)
{
	size_t done = 0;
	unsigned i;

	for (i = 0; i < num && done < len; i++) {
		size_t n;
		uint8_t *p;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		p = (uint8_t *)iov[i].iov_base + offset;
		n = MIN(iov[i].iov_len - offset, len - done);
		if (to_guest)
			memcpy(p, buf + done, n);
		else
			virtq_copy_once(buf + done, p, n);
		done += n;
		offset = 0;
	}
	return done;
}

size_t virtq_copy_out(const struct virtq_chain *c, size_t offset, void *dst, size_t len)
{
	return copy_segments(c->iov, c->num_out, offset, dst, len, false);
}

size_t virtq_copy_in(const struct virtq_chain *c, size_t offset, const void *src, size_t len)
{
	/* copy_segments() only reads the buffer when it copies to the guest. */
	return copy_segments(c->iov + c->num_out, c->num_in, offset, (uint8_t *)(uintptr_t)src,
			     len, true);
}
