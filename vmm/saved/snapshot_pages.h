/*
 * Sets of pages of RAM as sections: a bit for each, in the order of `memory`. The file `pages` of a
 * differential snapshot is one, of which pages its `memory` has; what is not in it is as the base
 * has it. docs/snapshot.md.
 */
#ifndef WISP_VMM_SNAPSHOT_PAGES_H
#define WISP_VMM_SNAPSHOT_PAGES_H

#include "vmm/core/state.h"

/* @pages: a bit for each of @num pages. Failures stay in @w. */
void snapshot_pages_write(struct state_writer *w, const uint64_t *pages, uint64_t num);

/* The bitmap in @buf, for free(), when it is one of @num pages; else -EBADMSG with @err. */
int snapshot_pages_read(const uint8_t *buf, size_t len, uint64_t num, uint64_t **ret_pages,
			struct error *err);

/* One of several in a file: as a section of this name. */
void snapshot_pages_put(struct state_writer *w, const char *section, const uint64_t *pages,
			uint64_t num);
int snapshot_pages_take(struct state_set *set, const char *section, uint64_t num,
			uint64_t **ret_pages, struct error *err);

#endif
