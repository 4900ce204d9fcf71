/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small virtio driver (1.2, without legacy) over PCI and MMIO, with split and packed rings:
 * one request at a time, but all that is on the ring can be seen and spoilt by the caller.
 */
#ifndef BARE_VIRTIO_H
#define BARE_VIRTIO_H

#include "bare.h"

#define VIRTIO_NET     1
#define VIRTIO_BLK     2
#define VIRTIO_CONSOLE 3
#define VIRTIO_RNG     4
#define VIRTIO_BALLOON 5
#define VIRTIO_PMEM    27

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER	   2
#define STATUS_DRIVER_OK   4
#define STATUS_FEATURES_OK 8
#define STATUS_NEEDS_RESET 64
#define STATUS_FAILED	   128

#define F_INDIRECT   (1ul << 28)
#define F_EVENT_IDX  (1ul << 29)
#define F_VERSION_1  (1ul << 32)
#define F_PACKED     (1ul << 34)

#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4
#define DESC_AVAIL    (1 << 7)
#define DESC_USED     (1 << 15)

struct vdev {
	u32 id; /* what kind of device */
	bool pci;
	u32 bdf, gsi;
	u64 base; /* the registers, or PCI's common configuration */
	u64 notify, isr, config;
	u32 notify_multiplier;
	u64 msix; /* the table, or 0 */
	u32 num_vectors;
	u64 features; /* negotiated */
	char name[32];
};

struct desc {
	u64 addr;
	u32 len;
	u16 flags; /* packed: id */
	u16 next;  /* packed: flags */
};

struct vq {
	struct vdev *dev;
	u32 index, size;
	bool packed;
	struct desc *desc;
	u16 *avail; /* flags, idx, ring[size], used_event; packed: off_wrap, flags */
	u16 *used;  /* flags, idx, {id, len}[size], avail_event; packed: off_wrap, flags */
	struct desc *table; /* for indirect requests */
	u16 next;	    /* free running (split), or place in the ring (packed) */
	u16 seen;	    /* the same of used entries */
	bool wrap, seen_wrap;
	u32 chain; /* descriptors that the request in flight takes on the ring */
	u8 vector;
};

struct buffer {
	void *data;
	u32 len;
	bool in; /* the device writes */
};

#define MAX_VDEVS 40
/* All virtio devices of the machine. */
u32 virtio_find(struct vdev *devs, u32 max);
/* The first of @n that is of kind @id, or NULL. */
struct vdev *virtio_first(struct vdev *devs, u32 n, u32 id);

u8 virtio_status(struct vdev *d);
void virtio_set_status(struct vdev *d, u8 status);
/* False when the device does not come out of it. */
bool virtio_reset(struct vdev *d);
u64 virtio_offered(struct vdev *d);
/* Reset, then up to FEATURES_OK with what is offered of @want. False when the device says no. */
bool virtio_begin(struct vdev *d, u64 want);
void virtio_write_features(struct vdev *d, u64 features);
u32 virtio_queue_max(struct vdev *d, u32 index);
/*
 * Make a ring of @size (or less, if the device has less) and give it to the device, with an
 * interrupt.
 */
bool virtio_queue(struct vdev *d, struct vq *q, u32 index, u32 size);
/* The raw step: these addresses, whatever they are. */
void virtio_queue_set(struct vdev *d, u32 index, u32 size, u64 desc, u64 driver, u64 device,
		      bool ready);
void virtio_ready(struct vdev *d);
/* From reset to ready, with its first queue, of 8 and of the layout that ring= says. */
bool virtio_start(struct vdev *d, struct vq *q);
void virtio_kick(struct vdev *d, u32 index);

u8 virtio_config8(struct vdev *d, u32 at);
u32 virtio_config32(struct vdev *d, u32 at);
u64 virtio_config64(struct vdev *d, u32 at);

/* Put a request on the ring and kick; by a table of its own when indirect is negotiated. */
void vq_send(struct vq *q, const struct buffer *b, u32 n);
/* Whether it is done; *ret_len of what the device wrote. Waits some seconds. */
bool vq_wait(struct vq *q, u32 *ret_len);
/* Whether random bytes come through the queue of an entropy source. */
bool vq_random(struct vq *q);

#endif
