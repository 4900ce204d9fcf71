/*
 * The last moments of a microVM, as `wisp rewind` keeps them: forks of it that sleep
 * (vmm/cli/cli_fork.h). An old one goes when a new one is there, not before: while none can be
 * taken, those that there are stay. Belongs to the recorder's process.
 */
#ifndef WISP_VMM_CLI_MOMENTS_H
#define WISP_VMM_CLI_MOMENTS_H

#include "vmm/cli/cli_fork.h"

struct moment {
	struct cli_fork fork;
	uint64_t at_ns; /* when it was taken, by the monotonic clock */
	json_int_t pause_us, fork_us;
};

struct moments {
	struct moment *slot; /* keep + 1: the last one is that of a moment that is being taken */
	unsigned keep;
	unsigned first, num; /* those that are there: from @first on, the oldest first */
};

/* Room for @keep of them, 1 or more. -ENOMEM. */
int moments_init(struct moments *m, unsigned keep);

/* Let go of all. Harmless before the init, when @m is all zero. */
void moments_done(struct moments *m);

/*
 * The free slot, for a moment to be taken into. What is there is the caller's to fill and, unless
 * it is kept, to undo; it is not among the others before moments_keep(), which lets go of the
 * oldest one when there are more than wanted then.
 */
struct moment *moments_free_slot(const struct moments *m);
void moments_keep(struct moments *m);

/* The @i-th of those that there are, the latest first. */
struct moment *moments_latest(const struct moments *m, unsigned i);

#endif
