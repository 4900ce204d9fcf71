/*
 * A virtqueue as the device sees it: split and packed rings behind one interface.
 *
 * The control side (transport, under the device's lock) fills in size and
 * addresses while the queue is stopped. From virtq_start() to virtq_stop() the
 * queue belongs to its loop alone, without a lock. The driver is hostile and
 * changes the ring while we look: each descriptor is read once, copied, then
 * checked; a bad one makes virtq_pop() fail for good until a reset.
 * Virtio 1.2, 2.6 to 2.8.
 */
#ifndef WISP_VIRTIO_VIRTQ_H
#define WISP_VIRTIO_VIRTQ_H

#include <sys/uio.h>

#include "vmm/core/guest_mem.h"
#include "vmm/core/state.h"

/* Segments of one chain, both directions together; a driver that needs more is refused. */
#define VIRTQ_MAX_SEGMENTS 260
#define VIRTQ_MAX_SIZE	   1024

/*
 * One descriptor chain. The iovec array belongs to whoever pops (a request
 * embeds or allocates it); the host pointers stay valid until virtq_push().
 */
struct virtq_chain {
	struct iovec *iov;    /* num_out readable ones, then num_in writable ones */
	unsigned max_iov;     /* room in @iov */
	unsigned num_out, num_in;
	uint64_t out_bytes, in_bytes;
	uint16_t id;	      /* head index or buffer id: what goes back in the used ring */
	uint16_t num_desc;    /* ring slots it took (packed; 1 in a split ring) */
};

struct virtq_stats {
	uint64_t kicks, chains, interrupts, suppressed, errors;
	uint64_t out_bytes, in_bytes; /* in the chains: from the driver, and written for it */
};

struct virtq {
	/* Set by the control side while stopped. */
	uint16_t index;
	uint16_t max_size;
	uint16_t size;
	bool ready; /* queue_enable / QueueReady */
	uint64_t desc_gpa;   /* descriptor table; packed: descriptor ring */
	uint64_t driver_gpa; /* available ring; packed: driver event suppression */
	uint64_t device_gpa; /* used ring; packed: device event suppression */

	/* The loop's own from start to stop. */
	struct guest_mem *mem;
	bool started, broken;
	bool packed, event_idx, indirect;
	void *desc, *driver, *device; /* host addresses of the three areas */
	uint16_t next_avail;	      /* split: index; packed: position */
	uint16_t next_used;
	uint16_t avail_seen;	    /* split: the driver's index as last read */
	bool avail_wrap, used_wrap; /* packed */
	uint16_t signalled_used; /* next_used at the last interrupt decision */
	bool signalled_valid;
	bool used_pending;    /* pushed since the last virtq_flush() */
	uint16_t batch_head;  /* packed: first slot pushed since then, and its flags: */
	uint16_t batch_flags; /* written last, they show the whole batch */
	uint16_t inflight; /* popped and not pushed: chains, of the packed ring slots */
	struct virtq_stats stats;
	const char *why_broken;
};

void virtq_init(struct virtq *q, uint16_t index, uint16_t max_size);

/* Back to the state after a device reset; the queue is stopped. Keeps index and max_size. */
void virtq_reset(struct virtq *q);

/*
 * Map the rings and start at the positions that are set (0 after reset, saved
 * ones after a restore). @features are the negotiated ones. -EINVAL with
 * why_broken set when size or an address is not what the specification allows,
 * or not RAM.
 */
int virtq_start(struct virtq *q, struct guest_mem *mem, uint64_t features);
void virtq_stop(struct virtq *q);

/*
 * Somebody else has served the split ring of @q since virtq_start(): go on at @position, with
 * nothing in flight. Or set it for whoever starts it next, when it is to be stopped.
 */
void virtq_continue(struct virtq *q, uint16_t position);

/* Refuse everything from @q until a reset; returns -EBADMSG. @why is a constant. */
int virtq_break(struct virtq *q, const char *why);

/*
 * Take the next available chain from @q.
 *
 * Fills @c with host iovecs; they stay valid until virtq_push(). Returns 1, 0
 * when the ring is empty, or -EBADMSG when it is malformed (the queue is broken
 * from then on; the caller marks the device with virtio_fail()). Virtio 1.2,
 * 2.7.13 and 2.8.14.
 */
int virtq_pop(struct virtq *q, struct virtq_chain *c);

/*
 * Put back the chain last popped, as if it had not been (network receive, rate
 * limits). Several go back in the reverse order, and none of those popped
 * after them may have been pushed.
 */
void virtq_unpop(struct virtq *q, const struct virtq_chain *c);

/*
 * Return @c with @written bytes put into its writable part. Marks those bytes
 * dirty. The driver may not see it before virtq_flush().
 */
void virtq_push(struct virtq *q, const struct virtq_chain *c, uint32_t written);

/* As virtq_push() for a chain whose iovecs are gone: id, slots and length are all that is known. */
void virtq_push_id(struct virtq *q, uint16_t id, uint16_t num_desc, uint32_t written);

/*
 * Publish everything pushed and decide: true when the driver wants an
 * interrupt for it. Once per batch.
 */
bool virtq_flush(struct virtq *q);

/* Ask the driver not to kick while we drain. Advisory. */
void virtq_kicks_off(struct virtq *q);

/*
 * Ask for kicks again. True when chains arrived meanwhile: the caller must pop
 * again, or they wait for ever.
 */
bool virtq_kicks_on(struct virtq *q);

/* Is a chain available now? Does not take it. */
bool virtq_has_work(struct virtq *q);

/*
 * Ring position and configuration of a stopped (or drained) queue, as fields of
 * the section that is open. Loading checks every value; -EBADMSG through
 * state_reader_fail(). @packed: what the device negotiated.
 */
void virtq_save(const struct virtq *q, struct state_writer *w);
int virtq_load(struct virtq *q, struct state_reader *r, bool packed);

/*
 * Gather from the readable part, scatter into the writable part, from byte
 * @offset of that part. Returns the bytes copied, less than @len at its end.
 */
size_t virtq_copy_out(const struct virtq_chain *c, size_t offset, void *dst, size_t len);
size_t virtq_copy_in(const struct virtq_chain *c, size_t offset, const void *src, size_t len);

#endif
