/*
 * What a guest writes to an image, kept apart from it in a file of its own, so that the image can
 * become again what it was at a moment: of a reset point.
 *
 * The file has two halves, each as long as the image: what was written since the moment, and below
 * it what was written before. Which sectors are where is in two bitmaps in memory, so a write needs
 * nothing of the image, and to go back is to forget one of the halves. The image itself is not
 * written any more; with its last handle the overlay is gone.
 *
 * Nothing may be in flight in any of these calls, and no handle of the image may be closed or made
 * at the same time: on the thread that has paused the machine. They wait for their I/O.
 */
#ifndef WISP_DEVICES_BLOCK_OVERLAY_H
#define WISP_DEVICES_BLOCK_OVERLAY_H

#include "devices/block.h"

/*
 * From now on what is written to @b, which is no handle by block_share(), goes to @fd: an empty
 * regular file, the overlay's own on success only. Such an image cannot be resized. -errno.
 */
int block_overlay_create(struct block *b, int fd);
bool block_has_overlay(const struct block *b);

/* The image as it is now is what it goes back to. After a failure it goes back nowhere. -errno. */
int block_overlay_keep(struct block *b);

/* The image is as it was then. -errno: it is as it was before the call. */
int block_overlay_go_back(struct block *b);

/* Nothing was written yet: it is an image without one again. */
void block_overlay_remove(struct block *b);

#endif
