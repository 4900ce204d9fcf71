/*
 * The monitor: the process that holds the guest. Forked by the parent
 * (vmm/launch.h) before the VM exists, since a VM belongs to the address space
 * that created it.
 */
#ifndef WISP_VMM_MONITOR_H
#define WISP_VMM_MONITOR_H

#include "vmm/machine.h"

/* Signals that end a microVM in good order; the parent passes them on. */
#define MONITOR_END_SIGNALS { SIGTERM, SIGINT, SIGHUP }

/*
 * Create the machine, run it, report. Signals of the parent's mask are blocked
 * and arrive by signalfd. @end (shared with the parent) says how it ended.
 * Returns the exit status.
 */
int monitor_main(const struct machine_config *config, int kvm_fd, struct machine_files *files,
		 struct machine_end *end);

#endif
