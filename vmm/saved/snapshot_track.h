/*
 * Which pages changed since the last snapshot, so that the next one need only have those.
 *
 * A snapshot is taken under an ID of its taker's. It becomes the base that changes are counted from
 * when its taker says that it is safe on disk; until then, or when that is never said, they are
 * counted from the one before. So whatever becomes of a snapshot, the next one lacks nothing.
 *
 * On the loop. The machine owns it (m->track); what it takes from the logs a migration would miss,
 * so that one ends it.
 */
#ifndef WISP_VMM_SNAPSHOT_TRACK_H
#define WISP_VMM_SNAPSHOT_TRACK_H

#include "vmm/core/dirty_log.h"
#include "vmm/core/error.h"

struct snapshot_track;

/* What changes are counted from: borrowed. */
struct snapshot_base {
	const char *id;
	const char *path; /* where its taker put it */
};

/* Watch @mem from now on, while the guest is paused. Nothing is a base yet. */
int snapshot_track_create(struct snapshot_track **ret_track, struct guest_mem *mem, struct hv *hv,
			  struct error *err);

/*
 * As if the paused @mem had been taken as @id, at @path, and kept, which it was loaded from and has
 * not run since. What the monitor wrote since guest_mem_track_dirty(), in the course of the
 * load, counts as changed.
 */
int snapshot_track_loaded(struct snapshot_track **ret_track, struct guest_mem *mem, struct hv *hv,
			  const char *id, const char *path, struct error *err);

/* Watch no more. Accepts NULL. */
void snapshot_track_free(struct snapshot_track *track);

/*
 * A snapshot @id is being taken of the paused guest. After a failure nothing is known any more, and
 * only snapshot_track_free() is left.
 */
int snapshot_track_take(struct snapshot_track *track, const char *id, struct error *err);

/* False when nothing is a base. */
bool snapshot_track_base(const struct snapshot_track *track, struct snapshot_base *ret_base);

/*
 * What changed from the base to the latest snapshot_track_take(), as guest_mem_save_pages() takes
 * it. Borrowed.
 */
const uint64_t *snapshot_track_changed(const struct snapshot_track *track);

/* All of the memory of @id was written; nothing happens when another was taken after it. */
void snapshot_track_written(struct snapshot_track *track, const char *id);

/*
 * @id is safe, at @path: from now on the base. -ESTALE when another was taken after it, and -EBUSY
 * before snapshot_track_written(): whoever says so cannot know.
 */
int snapshot_track_keep(struct snapshot_track *track, const char *id, const char *path);

#endif
