/*
 * The monitor: the process that holds the guest. Forked by the parent
 * (vmm/launch.h) before the VM exists, since a VM belongs to the address space
 * that created it.
 */
#ifndef WISP_VMM_MONITOR_H
#define WISP_VMM_MONITOR_H

#include "vmm/hypervisor/kvm.h"
#include "vmm/machine/machine.h"
#include "vmm/nbd_dial.h"

/*
 * Signals that end a microVM in good order; the parent passes them on. SIGQUIT also has the
 * registers printed.
 */
#define MONITOR_END_SIGNALS { SIGTERM, SIGINT, SIGHUP, SIGQUIT }

/* What the parent made before the fork; the monitor owns its copies. */
struct monitor_params {
	const struct machine_config *config;
	const struct kvm_host *host;
	struct machine_files *files;
	const struct machine_image *image; /* a saved machine to go on with, or NULL */
	pid_t parent;		 /* whose child the monitor is */
	int kvm_fd;
	int broker_fd;		 /* the parent's end of files->vsock_broker, or -1 */
	struct nbd_dialer *dialer; /* the parent's, one for each disk */
	int control_fd;		 /* listening control socket; -1: none */
	int started_fd;		 /* gets a byte when the guest runs; -1: nobody waits for it */
	int keeper_fd;		 /* a clone's pipe, which breaks when its keeper is gone; or -1 */
	int signal_fd;		 /* signalfd of END_SIGNALS and SIGWINCH, which are blocked */
	int metrics_fd;		 /* where --metrics goes at the end; -1: nowhere */
	int core_fd;		 /* where a core of a guest that failed goes; -1: nowhere */
	uint64_t deadline_ns;	 /* when --timeout is over, on the monotonic clock; 0: never */
	bool locked_in;		 /* born in a sandbox that is locked already (vmm/saved/clone.h) */
	struct machine_end *end; /* shared with the parent: how it ended */
};

/* In a fresh process: into a sandbox, then monitor_serve(). */
int monitor_main(const struct monitor_params *params);

/* Create the machine, lock @sandbox, run, report. Returns the exit status. */
int monitor_serve(const struct monitor_params *params, struct sandbox *sandbox);

#endif
