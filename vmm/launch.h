/*
 * The parent of a microVM: opens what the configuration names, starts the
 * helpers, forks the monitor and waits for it.
 *
 * The monitor opens nothing by itself; the parent stays small and puts the
 * terminal back whatever happens to the monitor.
 */
#ifndef WISP_VMM_LAUNCH_H
#define WISP_VMM_LAUNCH_H

#include "vmm/machine/machine.h"

struct machine_image;

/* Run @config to its end; the process's exit status. Prints its own errors. */
int launch_run(struct machine_config *config);

/* What a machine has beyond its configuration; all borrowed. */
struct launch_ends {
	int initrd; /* in place of the one that the configuration names; -1: none */
	int serial_out; /* where the serial port ends; -1: as configured */
	struct machine_port port[MACHINE_MAX_PORTS];
	unsigned num_ports;
	const struct machine_image *image; /* a saved machine to begin with, or NULL */
	const char *run_id; /* where it is found for now, by a name that is not its own; or NULL */
	const int *tap_fds; /* of each network: its tap, for the first life, which owns it; or -1 */
	const unsigned *tap_offloads; /* of each of these, see net_tap_adopt() */
	bool listens_later; /* another one of it still does, and is to end */
	const int *disk_fds; /* of each disk: open already, or -1; NULL: none is */
	bool unplugged; /* networks on taps and switches end nowhere: another machine has them */
	struct error *why;   /* filled when it cannot be started; or NULL */
};

/* A page that outlives the processes that share it, for launch_machine(). NULL with @err filled. */
struct machine_end *launch_share_end(struct error *err);

/* As launch_run(), with @ends (NULL: none); how it ended is in @end too. */
int launch_machine(struct machine_config *config, const struct launch_ends *ends,
		   struct machine_end *end);

/* launch_run() with @ends. */
int launch_run_with(struct machine_config *config, const struct launch_ends *ends);

/*
 * A machine that began with listens_later listens at --vsock's path with this behind it, so that
 * nothing is missed, and at no port of the host. The path is given to it, and forwards are added,
 * by whoever knows that the other one has ended (vmm/cli/cli_upgrade.c).
 */
#define LAUNCH_LATER_SUFFIX ".upgrade"

/* Let the log go where --log-file says, for the life of the process. */
int launch_open_log(const struct machine_config *config, struct error *err);

/* Print the machine as it would be built. */
int launch_dry_run(struct machine_config *config);

#endif
