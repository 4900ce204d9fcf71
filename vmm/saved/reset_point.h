/*
 * A moment in a machine's life that it can go back to, in the same process, again and again: a
 * fresh sandbox for every request, a fuzzer's next case.
 *
 * Of memory the point holds all that was populated then, once: in a file that RAM is a private
 * mapping of. Pages that were written since are known by the dirty logs, and dropped; so the time
 * is that of their number, whatever the size of RAM. What is written to disks since goes to
 * overlays, which are emptied. All else is in sections, which are loaded into the devices and
 * processors that are there, as a restore does it.
 *
 * The point of a restored guest is its start, for nothing: its memory is a mapping already, of the
 * snapshot's. Any other guest, and one with disks that it may write, has one from reset_point_set()
 * on.
 *
 * On the loop. The machine owns it (m->point).
 */
#ifndef WISP_VMM_RESET_POINT_H
#define WISP_VMM_RESET_POINT_H

#include "vmm/machine/machine_state.h"

struct reset_point;

/* Guest physical memory that a reset leaves as it is; page multiples. */
struct reset_kept {
	uint64_t gpa, size;
};

struct reset_params {
	enum machine_clock clock;
	bool identical; /* no new generation ID: to the guest nothing ever happened */
	const struct reset_kept *kept;
	unsigned num_kept;
};

struct reset_result {
	uint64_t pages, runs; /* that were brought back, and in how many pieces */
};

/*
 * The paused @m as it is now becomes its point, in place of an earlier one, which may be gone also
 * when this fails. @fd is an empty memfd that cannot shrink, borrowed; @disk_fds those of
 * reset_devices_set(). @ret_pages: of memory that hold something. -ENOTSUP with @err where
 * something about @m cannot be taken back.
 */
int reset_point_set(struct machine *m, int fd, int *disk_fds, uint64_t *ret_pages,
		    struct error *err);

/* The point of @m, that of its start where there is one; NULL with @err. */
struct reset_point *reset_point_of(struct machine *m, struct error *err);

/*
 * The paused @m is as it was at @point. On a failure it is as it was before; or, where one comes
 * too late for that, it has been told to end.
 */
int reset_point_go_back(struct reset_point *point, const struct reset_params *params,
			struct reset_result *ret, struct error *err);

/*
 * Somebody else reads the dirty logs from now on: what changed since @point is not known any more,
 * and the next time all pages are brought back. Accepts NULL.
 */
void reset_point_lose_logs(struct reset_point *point);

/* The machine is about to be freed. Accepts NULL. */
void reset_point_free(struct reset_point *point);

#endif
