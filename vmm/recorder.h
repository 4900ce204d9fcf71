/* `wisp run --rewind`: the process that keeps moments of the guest (vmm/cli/cli_rewind.h). */
#ifndef WISP_VMM_RECORDER_H
#define WISP_VMM_RECORDER_H

#include "vmm/config/config.h"

/*
 * Can moments of such a microVM be kept, as far as its disks go? Before anything is made: -ENOTSUP,
 * kind USAGE, with the disk and the reason.
 */
int recorder_check(const struct machine_config *c, struct error *err);

/*
 * Start it for a microVM whose control socket listens, when @c asks for one: a `wisp rewind
 * --record` in the background, which ends when it has nothing more to keep. No thread may run yet.
 * -errno.
 */
int recorder_start(const struct machine_config *c, struct error *err);

#endif
