/*
 * The working set of a restored guest: which pages of RAM it touched in one run, so that later ones
 * have them from the start, in one pass, in place of a fault for each. It is a guess that costs
 * nothing when it is wrong but the memory of pages that were written.
 */
#ifndef WISP_VMM_WORKING_SET_H
#define WISP_VMM_WORKING_SET_H

#include "vmm/core/guest_mem.h"

struct working_set {
	uint64_t *touched; /* a bit for each page, in the order of guest_mem_save() */
	uint64_t *written; /* those of them that were written */
};

/* What working_set_record() reads: to be opened while there is a /proc. -errno. */
int working_set_open_map(void);

/* Write to @fd what the guest in this process has touched of @mem so far. -errno. */
int working_set_record(const struct guest_mem *mem, int map_fd, int fd);

/* What that wrote: @buf, for RAM of @pages pages. -EBADMSG with @err when it is something else. */
int working_set_read(struct working_set *set, const uint8_t *buf, size_t len, uint64_t pages,
		     struct error *err);
void working_set_done(struct working_set *set);

/* Have these pages of @mem mapped and, those that will be written, copied. Before the guest runs.
 */
void working_set_bring_in(const struct working_set *set, struct guest_mem *mem);

#endif
