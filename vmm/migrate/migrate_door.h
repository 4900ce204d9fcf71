/*
 * Where a machine is asked whose loop may wait for a page that its source still has: then nobody
 * hears what comes to the control socket. A thread of its own, which touches no guest memory,
 * answers at the socket RUN_DIR_LATE of the run directory as the control socket would
 * (vmm/control/control.h), one request a connection: "migrate-resume" and "migrate-status".
 *
 * It belongs to the machine's post-copy (vmm/migrate/migrate_fill.h), and answers from the
 * commit on as long as that is there; before, whoever connects waits. Opened on the machine's
 * thread, whose system calls it has.
 */
#ifndef WISP_VMM_MIGRATE_DOOR_H
#define WISP_VMM_MIGRATE_DOOR_H

#include <pthread.h>
#include <sys/types.h>

#include "vmm/core/error.h"

struct migrate_fill;

struct migrate_door {
	int listener; /* whose it is from the start on; 0: there is none */

	/* The rest is its own. */
	struct migrate_fill *fill;
	int stop_fd;
	uid_t user;
	pthread_t thread;
	bool threaded;
};

/* Answer for @fill, until @stop_fd, which is borrowed, is readable. 0 where nobody can ask. */
int migrate_door_open(struct migrate_door *d, struct migrate_fill *fill, int stop_fd,
		      struct error *err);

/* @stop_fd is readable, or it was never opened: be gone. Harmless without a listener. */
void migrate_door_close(struct migrate_door *d);

#endif
