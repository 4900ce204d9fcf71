/*
 * Helpers: executables of the same tree that carry what the monitor must not
 * have, started by the parent and tied to it by a socket.
 *
 * A helper gets its end of the socket and a status pipe as descriptors, writes
 * one line, "ready" or the reason why not, to the pipe, and ends at the socket's EOF.
 *
 * One that nobody on the host can reach is only started by the guest's first frame: loading
 * its libraries is more work than all that the monitor does before the guest runs.
 */
#ifndef WISP_VMM_HELPER_H
#define WISP_VMM_HELPER_H

#include <sys/types.h>

#include "vmm/config/config.h"
#include "vmm/run_dir.h"

/* Zero-initialised: not running. */
struct helper {
	pid_t pid;
	int status_fd; /* -1: starts late, says nothing */
	char name[16]; /* the network's id, for messages */
	bool no_sandbox; /* it does not lock itself in */
	bool stays;	 /* over the guest's reboots, with its forwards; set before it is started */
	int monitor_fd;	 /* of one that stays and runs: a copy of the monitor's end */
	const struct run_dir *dir; /* where it listens for changes to its network; NULL: nowhere */
};

/* That socket's name, with the network's id. */
#define HELPER_SOCKET "forward.%s"

/*
 * Ask the helper of the network @id of a running microVM to add ("add") or end ("remove") a
 * forward. The helper and not the monitor is asked: what a guest may have taken over opens no
 * ports of the host. @run_dir and @machine as for run_dir_connect().
 */
int helper_forward(const char *run_dir, const char *machine, const char *id, const char *action,
		   const struct config_forward *f, struct error *err);

/*
 * Those that there are, also for who has to have them elsewhere: into @buf each, as @f below is
 * printed, behind a newline. 0; -EMSGSIZE when they do not fit, or another -errno; a helper of an
 * older wisp cannot say.
 */
int helper_list_forwards(const char *run_dir, const char *machine, const char *id, char *buf,
			 size_t size, struct error *err);

#define HELPER_FORWARD_TEXT 96

/* @f as wisp-net takes it: "tcp:127.0.0.1:8080-:80". HELPER_FORWARD_TEXT bytes always do. */
void helper_print_forward(char *buf, size_t size, const struct config_forward *f);

/* Become the helper @name, with the arguments @argv. Returns only when it cannot: -errno. */
int helper_exec(const char *name, char *const *argv, struct error *err);
/* Where the executable @name of ours is: beside this one, or where it was installed. */
int helper_find(const char *name, char *path, size_t size, struct error *err);

/*
 * Start user networking for @net; @ret_fd is the monitor's end (vmm: devices/net.h). One that
 * stayed from the guest's last life goes on with the new one, if it still runs.
 */
int helper_start_net(struct helper *h, const struct config_net *net, int *ret_fd,
		     struct error *err);

/*
 * Wait for "ready"; otherwise the helper's own words become the error, kind USAGE. One that does
 * not run is not waited for.
 */
int helper_await_ready(struct helper *h, struct error *err);

/*
 * A child of ours has ended: was it this one, by a signal or with a failure? That is told, by its
 * network's name, since the guest only sees nothing come any more. It is reaped then.
 */
void helper_mourn(struct helper *h);

/* Reap it; its socket's other end is closed, so it has ended or is about to. */
void helper_stop(struct helper *h);

#endif
