/*
 * Memory that comes and goes while the guest runs (virtio-mem), as the host handles it. All of it
 * on the device's loop, but creation.
 */
#ifndef WISP_VIRTIO_MEM_H
#define WISP_VIRTIO_MEM_H

#include "virtio/virtio.h"

#define VIRTIO_MEM_MIN_BLOCK (2 * MiB) /* what Linux can give back of its huge pages */

/* Where one may begin: Linux adds memory in units of 128 MiB to 2 GiB, by how much there is. */
#define VIRTIO_MEM_ALIGN (2 * GiB)

/*
 * A region of guest memory, which is there already (a range of params->mem that is_later), in
 * blocks of a power of two, all unplugged. Sizes are multiples of a block.
 */
struct virtio_mem_params {
	uint64_t gpa, region_bytes;
	uint64_t block_bytes;
	uint64_t requested_bytes; /* of it, to begin with */
	uint64_t turn_bytes; /* so much is given back before others have their turn; 0: as usual */
};

/* Virtio 1.2, 5.15. */
int virtio_mem_create(struct virtio_device **ret_dev, const struct virtio_params *common,
		      const struct virtio_mem_params *mem, struct error *err);

struct virtio_mem_counters {
	uint64_t plugs, unplugs, unplug_alls, states; /* requests that were carried out */
	uint64_t plugged_bytes, unplugged_bytes;      /* by all of them */
	uint64_t plugs_refused, unplugs_refused, states_refused;
};

struct virtio_mem_info {
	uint64_t region_bytes, block_bytes;
	uint64_t requested_bytes; /* what the guest is asked to have */
	uint64_t plugged_bytes;	  /* what it has */
	bool active;		  /* it has a driver */
	struct virtio_mem_counters counters;
};

/* As it is now. On the device's loop. */
void virtio_mem_info(const struct virtio_device *dev, struct virtio_mem_info *ret_info);

/* Set a bit in @pages for each page that is plugged; the region's first has number @first. */
void virtio_mem_mark_plugged(const struct virtio_device *dev, uint64_t *pages, uint64_t first);

/*
 * Ask the guest to plug, or to unplug, until it has @bytes of the region; it does so as it can.
 * -EINVAL: no multiple of a block; -ERANGE: more than there is.
 */
int virtio_mem_request(struct virtio_device *dev, uint64_t bytes);

#endif
