/*
 * Snapshots that build on one another: the first is complete, each of the others has what changed
 * since the one before it. In the process of the verb.
 */
#ifndef WISP_VMM_SNAPSHOT_CHAIN_H
#define WISP_VMM_SNAPSHOT_CHAIN_H

#include "vmm/saved/snapshot.h"

/* Longer ones would better have been merged. */
#define SNAPSHOT_MAX_LINKS 64

struct snapshot_chain {
	struct snapshot link[SNAPSHOT_MAX_LINKS]; /* the newest last */
	unsigned num;
};

/*
 * Open the snapshot at @path, and all that it builds on: each where it was when the next one was
 * taken, else beside that. Refuses what is missing, is another one now, or has RAM of another size.
 */
int snapshot_chain_open(struct snapshot_chain *c, const char *path, struct error *err);

/* One more, which must build on the last one. */
int snapshot_chain_append(struct snapshot_chain *c, const char *path, struct error *err);

/* Accepts what could not be opened. */
void snapshot_chain_close(struct snapshot_chain *c);

/* The newest. */
static inline struct snapshot *snapshot_chain_last(struct snapshot_chain *c)
{
	return &c->link[c->num - 1];
}

/*
 * Make a complete snapshot at @path of the newest one, which may be there itself: then it is
 * exchanged for it in one step, and keeps its ID. The others stay as they are. With @packed its
 * memory is compressed, else it is not, whatever theirs is.
 */
int snapshot_chain_merge(struct snapshot_chain *c, const char *path, bool packed,
			 struct error *err);

/*
 * -EEXIST with @err when @path, by whatever name, is one of them that others build on: all but the
 * newest.
 */
int snapshot_chain_check_replaced(const struct snapshot_chain *c, const char *path,
				  struct error *err);

/* Is the memory of one of them compressed? */
bool snapshot_chain_is_packed(const struct snapshot_chain *c);

#endif
