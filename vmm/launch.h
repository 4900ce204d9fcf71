/*
 * The parent of a microVM: opens what the configuration names, starts the
 * helpers, forks the monitor and waits for it.
 *
 * The monitor opens nothing by itself; the parent stays small and puts the
 * terminal back whatever happens to the monitor.
 */
#ifndef WISP_VMM_LAUNCH_H
#define WISP_VMM_LAUNCH_H

#include "vmm/config.h"

/* Run @config to its end; the process's exit status. Prints its own errors. */
int launch_run(struct machine_config *config);

/* Print the machine as it would be built. */
int launch_dry_run(struct machine_config *config);

#endif
