/*
 * What the formats of disk images share among themselves and with block.c;
 * nobody else includes it. Setting up runs on the thread that opens the image,
 * the rest on the block's loop.
 */
#ifndef WISP_DEVICES_BLOCK_INTERNAL_H
#define WISP_DEVICES_BLOCK_INTERNAL_H

#include "devices/block.h"

/*
 * Lock an open image against users that it cannot be shared with: two readers
 * agree, a writer agrees with nobody. Held until the descriptor's last copy is
 * closed, or block_unlock(). -EBUSY when another process is in the way.
 */
int block_lock(const struct block_file *f, bool read_only, struct error *err);

/* By hand: file systems with locks of their own (FUSE) may keep one past the close. */
void block_unlock(int fd);

#endif
