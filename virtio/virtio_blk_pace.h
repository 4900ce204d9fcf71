/*
 * When a disk's queue gains by not being served at once.
 *
 * Where the queue's thread and the vCPU share a processor, each doorbell puts the thread in the
 * vCPU's place: a driver that has 32 requests to give is stopped after every one of them, for a
 * doorbell, two switches and an interrupt each. A thread that waits until the vCPU sleeps finds all
 * 32. A driver that gives one at a time only loses by it, since it has gone to sleep before it is
 * answered. From the ring the two look alike, so it is tried: for a few doorbells the queue is
 * patient, and stays so while each brings clearly more than before.
 *
 * No system calls, no time: doorbells and chains are all it counts. The queue's loop.
 */
#ifndef WISP_VIRTIO_BLK_PACE_H
#define WISP_VIRTIO_BLK_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define BLK_PACE_FIRST	 256  /* doorbells before it is tried; and again when it no longer pays */
#define BLK_PACE_TRIAL	 4    /* doorbells that a trial takes: each may have to wait a while */
#define BLK_PACE_WINDOW	 64   /* doorbells that are judged together after that */
#define BLK_PACE_WINDOWS 256  /* of these, until it has to be shown again */
#define BLK_PACE_LONGEST 4096 /* doorbells between trials that all fail */

/* So long without a doorbell, and a queue is not patient any more: blk_pace_quiet(). */
#define BLK_PACE_QUIET_NS (100 * NSEC_PER_MSEC)

struct blk_pace {
	bool patient;
	uint32_t kicks, chains; /* of the period that goes on */
	uint32_t length;	/* of it, in doorbells */
	uint32_t windows;	/* judged since the trial, it too */
	uint32_t interval;	/* doorbells until the next trial */
	uint32_t before_kicks, before_chains; /* when it was served at once */
};

/* A queue that starts: served at once. */
void blk_pace_init(struct blk_pace *p);

/* A doorbell brought @chains. Returns whether the queue should be patient from now on. */
bool blk_pace_kicked(struct blk_pace *p, unsigned chains);

/* Nothing has come for a while: served at once from now on, until the next trial. */
void blk_pace_quiet(struct blk_pace *p);

#endif
