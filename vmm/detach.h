/*
 * `run --detach`: the microVM's parent goes into the background, and whoever
 * started it is told when the guest runs, or why it does not.
 */
#ifndef WISP_VMM_DETACH_H
#define WISP_VMM_DETACH_H

#include "vmm/config/config.h"
#include "vmm/run_dir.h"

/*
 * Fork into the background, with a session of its own, its output in the run directory's log. The
 * terminal of @c becomes a socket there. In the background returns -1 (and in @ret_started_fd what
 * the monitor writes a byte to); in the foreground the exit status, when the guest runs or has
 * failed to. The run directory is the background's from then on.
 */
int detach(struct machine_config *c, struct run_dir *dir, int *ret_started_fd);

#endif
