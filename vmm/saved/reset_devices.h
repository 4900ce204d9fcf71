/*
 * What a reset does for devices beside loading their sections: disks that the guest may write get
 * overlays, and who is at the other end of user networking is told.
 *
 * On the loop of a paused machine.
 */
#ifndef WISP_VMM_RESET_DEVICES_H
#define WISP_VMM_RESET_DEVICES_H

#include "vmm/machine/machine.h"

/* Disks of @c that the guest may write: each needs a file for its point. */
unsigned reset_devices_files(const struct machine_config *c);

/*
 * The disks of @m as they are now are what they go back to. @fds: for each that the guest may
 * write, in their order, an empty regular file, taken over and set to -1 where it is used. After a
 * failure an earlier point is none any more, and some of the disks may have overlays that are of no
 * use. -errno with @err.
 */
int reset_devices_set(struct machine *m, int *fds, struct error *err);

/* Disks of @m that have one: a bit for each, by its place in the configuration. */
uint32_t reset_devices_overlaid(const struct machine *m);

/*
 * The machine has not run since reset_devices_set(), and no point comes of that: what it writes is
 * to be in the disks' files again, but for those of @overlaid, which had overlays before.
 */
void reset_devices_unset(struct machine *m, uint32_t overlaid);

/*
 * Disks are as they were, and connections of user networking are gone. A network whose helper does
 * not answer loses its link. -errno with @err: some disks went back, others did not.
 */
int reset_devices_go_back(struct machine *m, struct error *err);

/* Why @m has no state that its disks' files alone say: it has had a point. NULL: they do. */
const char *reset_devices_forbid_copy(const struct machine *m);

#endif
