/* `wisp run --rewind`: the process that keeps moments of the guest (vmm/cli/cli_rewind.h). */
#ifndef WISP_VMM_RECORDER_H
#define WISP_VMM_RECORDER_H

#include "vmm/config/config.h"

/*
 * Start it for a microVM whose control socket listens, when @c asks for one: a `wisp rewind
 * --record` in the background, which ends when it has nothing more to keep. No thread may run yet.
 * -errno.
 */
int recorder_start(const struct machine_config *c, struct error *err);

#endif
