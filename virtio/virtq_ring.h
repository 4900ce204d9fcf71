/*
 * Between virtq.c and the two ring layouts: what virtq_split.c and
 * virtq_packed.c provide, and the access to shared memory that they have in
 * common. Not for devices.
 *
 * The driver runs while we look. Fields that one side writes and the other
 * polls are accessed by one atomic load or store of their width; everything
 * else is copied once and used from the copy.
 */
#ifndef WISP_VIRTIO_VIRTQ_RING_H
#define WISP_VIRTIO_VIRTQ_RING_H

#include <errno.h>
#include <linux/virtio_ring.h>

#include "virtio/virtq.h"

/* One segment of a chain, whichever ring it came from; the host's own copy. */
struct virtq_segment {
	uint64_t gpa;
	uint32_t len;
	uint16_t flags; /* VRING_DESC_F_NEXT, _WRITE, _INDIRECT: the same in both rings */
};

/* Append one direct segment to @c, after checking it. 0 or -EBADMSG. */
int virtq_add_segment(struct virtq *q, struct virtq_chain *c, const struct virtq_segment *s);

/*
 * The indirect table that @s points to: its host address and its number of
 * entries, or NULL with @q broken. Virtio 1.2, 2.7.5.3 and 2.8.7.
 */
const uint8_t *virtq_indirect_table(struct virtq *q, const struct virtq_segment *s,
				    unsigned *ret_entries);

int virtq_split_pop(struct virtq *q, struct virtq_chain *c);
void virtq_split_push(struct virtq *q, uint16_t id, uint32_t written);
bool virtq_split_flush(struct virtq *q);
void virtq_split_kicks(struct virtq *q, bool on);
bool virtq_split_has_work(struct virtq *q);

int virtq_packed_pop(struct virtq *q, struct virtq_chain *c);
void virtq_packed_unpop(struct virtq *q, uint16_t num_desc);
void virtq_packed_push(struct virtq *q, uint16_t id, uint16_t num_desc, uint32_t written);
bool virtq_packed_flush(struct virtq *q);
void virtq_packed_kicks(struct virtq *q, bool on);
bool virtq_packed_has_work(struct virtq *q);

/* Copy out of shared memory exactly once: the compiler may not read @src again later. */
static inline void virtq_copy_once(void *dst, const void *src, size_t len)
{
	memcpy(dst, src, len);
	__asm__ volatile("" : : "r"(dst) : "memory");
}

static inline uint16_t virtq_load16(const uint16_t *p, int order)
{
	return le16toh(__atomic_load_n(p, order));
}

static inline void virtq_store16(uint16_t *p, uint16_t v, int order)
{
	__atomic_store_n(p, htole16(v), order);
}

/* Did the index move past @event between @old and @new? Virtio 1.2, 2.7.10, modulo 2^16. */
static inline bool virtq_crossed(uint16_t event, uint16_t new_index, uint16_t old_index)
{
	return (uint16_t)(new_index - event - 1) < (uint16_t)(new_index - old_index);
}

#endif
