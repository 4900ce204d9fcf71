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
 * Opens @config->backing when the image has a backing file; closes it otherwise.
 */
int block_qcow2_create(struct block **ret_block, struct block *container, int fd,
		       const struct block_config *config, struct error *err);

/* The descriptors that @config and all beneath it came with, and that nobody took. Accepts NULL. */
void block_close_configs(const struct block_config *config);

/* A disk behind the NBD server at the socket @fd, which the block owns on success only. */
int block_nbd_create(struct block **ret_block, int fd, const struct block_config *config,
		     struct error *err);

/* @req, checked, to whatever holds the image's bytes: its overlay, or the format. */
void block_dispatch(struct block *b, struct block_req *req);

/* block_overlay.c: a request to an image that has one. And the image is closed; accepts NULL. */
void block_overlay_submit(struct block *b, struct block_req *req);
void block_overlay_free(struct block_overlay *o);

/* A write to the first bytes of an image whose format was found by looking at them. */
void block_guard_submit(struct block *b, struct block_req *req);

/* block_watch.c: @req is over. Any of the image's loops. And the image is closed. */
void block_watch_note(const struct block_req *req);
void block_watch_free(struct block_watch *w);

#endif
