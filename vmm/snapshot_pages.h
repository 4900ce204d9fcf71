/*
 * The file `pages` of a differential snapshot: which pages of RAM its `memory` has, as one sealed
 * section. What is not in it is as the base has it. docs/snapshot.md.
 */
#ifndef WISP_VMM_SNAPSHOT_PAGES_H
#define WISP_VMM_SNAPSHOT_PAGES_H

#include "vmm/core/state.h"

/* @pages: a bit for each of @num pages. Failures stay in @w. */
void snapshot_pages_write(struct state_writer *w, const uint64_t *pages, uint64_t num);

/* The bitmap in @buf, for free(), when it is one of @num pages; else -EBADMSG with @err. */
int snapshot_pages_read(const uint8_t *buf, size_t len, uint64_t num, uint64_t **ret_pages,
			struct error *err);

#endif
