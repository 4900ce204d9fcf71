/*
 * The memory balloon as the host handles it. All of it on the device's loop,
 * but creation.
 */
#ifndef WISP_VIRTIO_BALLOON_H
#define WISP_VIRTIO_BALLOON_H

#include <linux/virtio_balloon.h>

#include "virtio/virtio.h"

struct virtio_balloon_params {
	uint64_t target_bytes; /* what the guest is asked to give up at first */
	bool deflate_on_oom;   /* the guest may take pages back when it has no others */
	bool reporting;	       /* it tells of its free pages by itself */
	bool hinting;	       /* it can be asked for them */
};

/* virtio 1.2, 5.5. */
int virtio_balloon_create(struct virtio_device **ret_dev, const struct virtio_params *common,
			  const struct virtio_balloon_params *balloon, struct error *err);

struct virtio_balloon_counters {
	uint64_t inflated, deflated, reported, hinted; /* pages, since the device was made */
	uint64_t hints; /* in how many pieces those came */
	uint64_t refused; /* that the host did not take, and the guest has still */
};

struct virtio_balloon_info {
	uint64_t target_bytes, actual_bytes;
	struct virtio_balloon_counters counters;
	uint16_t known; /* which of @stat the guest has told: 1 << VIRTIO_BALLOON_S_* */
	uint64_t stat[VIRTIO_BALLOON_S_NR];
	uint64_t told; /* how many times it has */
	uint32_t hint_command; /* the run it is asked for, or VIRTIO_BALLOON_CMD_ID_* */
	uint32_t hint_answer;  /* what it said of runs last, when @hint_answered */
	bool hint_answered;
};

/* Ask the guest for a balloon of @bytes. -ERANGE: more than there is. */
int virtio_balloon_set_target(struct virtio_device *dev, uint64_t bytes);

/* As of now, statistics as the guest last told them. */
void virtio_balloon_info(const struct virtio_device *dev, struct virtio_balloon_info *ret_info);

/*
 * Have the guest tell its statistics anew: "told" grows when it has. -ENODATA:
 * nobody there to ask, or being asked.
 */
int virtio_balloon_ask_stats(struct virtio_device *dev);

/*
 * Have the guest tell of all its free pages, which it should not use until the run is stopped:
 * by us when it has told of all, if @acknowledge. A guest that runs out of memory meanwhile may
 * use them, and lose what it has written there. A run that is not over yet ends.
 * -EOPNOTSUPP: made without hints; -ENOTCONN: there is no driver that knows them.
 */
int virtio_balloon_start_hints(struct virtio_device *dev, bool acknowledge);
int virtio_balloon_stop_hints(struct virtio_device *dev);
bool virtio_balloon_has_hints(const struct virtio_device *dev);

#endif
