/*
 * What the formats of disk images share among themselves and with block.c;
 * nobody else includes it. Setting up runs on the thread that opens the image,
 * the rest on the block's loop.
 */
#ifndef WISP_DEVICES_BLOCK_INTERNAL_H
#define WISP_DEVICES_BLOCK_INTERNAL_H

#include "devices/block.h"

/*
 * A qcow2 image over @container, which the block owns on success only. @fd is
 * the container's, for reading what must be known at once; not in direct mode yet.
 * Opens @config->backing when the image has a backing file.
 */
int block_qcow2_create(struct block **ret_block, struct block *container, int fd,
		       const struct block_config *config, struct error *err);

/*
 * Lock an open image against users that it cannot be shared with: two readers
 * agree, a writer agrees with nobody. Held until the descriptor's last copy is
 * closed, or block_unlock(). -EBUSY when another process is in the way.
 */
int block_lock(const struct block_file *f, bool read_only, struct error *err);

/* By hand: file systems with locks of their own (FUSE) may keep one past the close. */
void block_unlock(int fd);

/* A write to the first bytes of an image whose format was found by looking at them. */
void block_guard_submit(struct block *b, struct block_req *req);

#endif
