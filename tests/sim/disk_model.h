/*
 * What a disk may hold, as its driver knows it: every sector is full of one number. A write
 * that failed, or that a reset cut off, may or may not have happened, so a sector can have several
 * numbers until it is read.
 */
#ifndef WISP_TESTS_DISK_MODEL_H
#define WISP_TESTS_DISK_MODEL_H

#include "vmm/core/util.h"

#define DISK_SECTORS 64u
#define DISK_SECTOR  512u
#define DISK_MAYBE   8u

struct disk_model {
	struct disk_sector {
		uint64_t maybe[DISK_MAYBE];
		unsigned num;	  /* of these; 0: anything */
		unsigned readers; /* requests in flight */
		bool writer;
	} sector[DISK_SECTORS];
};

/* All sectors hold 0. */
void disk_model_init(struct disk_model *m);

/* May a driver that keeps order itself ask for this now? Then begin it. */
bool disk_model_begin(struct disk_model *m, unsigned first, unsigned num, bool write);

/* It was not asked for after all. */
void disk_model_cancel(struct disk_model *m, unsigned first, unsigned num, bool write);

/* It ended: a write of @value that was done for certain, or perhaps. */
void disk_model_end_write(struct disk_model *m, unsigned first, unsigned num, uint64_t value,
			  bool certain);

/* It ended; with @data, sectors came back. False when they cannot be what the disk held. */
bool disk_model_end_read(struct disk_model *m, unsigned first, unsigned num, const void *data);

#endif
