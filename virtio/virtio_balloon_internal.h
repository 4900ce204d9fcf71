/*
 * Between virtio_balloon.c, the device, and virtio_balloon_hint.c, its hints. Nobody else
 * includes it.
 */
#ifndef WISP_VIRTIO_BALLOON_INTERNAL_H
#define WISP_VIRTIO_BALLOON_INTERNAL_H

#include "virtio/virtio_balloon.h"

/*
 * After inflation and deflation come the queues of those features that were
 * negotiated, without gaps (that is how Linux counts, and all that follow it).
 */
enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_THIRD, NUM_QUEUES = 5 };

#define CHAINS_A_TURN 16 /* each can take a millisecond */

struct virtio_balloon {
	struct virtio_device dev;
	_Atomic uint32_t target, actual; /* pages; vCPUs read the one and write the other */
	_Atomic uint32_t poison;
	struct virtio_balloon_counters counters;

	/* The driver's buffer for statistics, popped and not pushed: pushing it asks for them. */
	struct virtq_chain stats_chain;
	struct iovec stats_iov[4];
	bool stats_held;
	uint64_t stat[VIRTIO_BALLOON_S_NR];
	uint16_t stats_known; /* a bit for each */
	uint64_t stats_told;  /* how many times */

	/* Free page hints; the guest's driver reads what is asked for on its vCPU. */
	_Atomic uint32_t hint_command; /* number of a run, or VIRTIO_BALLOON_CMD_ID_* */
	uint32_t hint_last;	       /* the number of the last run */
	uint32_t hint_answer;	       /* what the driver said last, once it did */
	bool hint_answered;
	bool hint_acknowledge; /* let it have its pages again when it has told of all */
};

/*
 * What came of giving @pages back, @r: counted in @counter, or the driver's fault (-EFAULT). What
 * the host does not take (huge pages before Linux 5.18, no room for another mapping) loses nothing.
 */
int balloon_dropped(struct virtio_balloon *b, int r, uint64_t pages, uint64_t *counter);

/*
 * A guest that poisons its free pages looks whether they still are: those may
 * not become zero (virtio 1.2, 5.5.6.7.1).
 */
bool balloon_may_drop(const struct virtio_balloon *b);

/* ---- virtio_balloon_hint.c ---- */

void balloon_take_hints(struct virtio_balloon *b, unsigned queue);
void balloon_reset_hints(struct virtio_balloon *b);
void balloon_save_hints(const struct virtio_balloon *b, struct state_writer *w);
void balloon_load_hints(struct virtio_balloon *b, struct state_reader *r);
/* It goes on elsewhere, or from an earlier moment: whatever run there was is over. */
void balloon_moved(struct virtio_device *dev);

#endif
