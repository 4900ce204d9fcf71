/*
 * Where a machine is asked whose loop may wait for a page that its source still has: then nobody
 * hears what comes to the control socket. A thread of its own, which touches no guest memory,
 * answers at the socket RUN_DIR_LATE of the run directory as the control socket would
 * (vmm/control/control.h), one request a connection: "migrate-resume" and "migrate-status".
 *
 * It belongs to the machine's post-copy (vmm/migrate/migrate_fill.h), and is there from the guest's
 * first byte on as long as that is; up to the commit all it says is that it is too early. Called on
 * the machine's thread, whose system calls its own has.
 */
#ifndef WISP_VMM_MIGRATE_DOOR_H
#define WISP_VMM_MIGRATE_DOOR_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "vmm/core/error.h"

struct migrate_fill;
struct sandbox;

struct migrate_door {
	int listener; /* whose it is from the start on; 0: there is none */

	/* The rest is its own. */
	_Atomic(struct migrate_fill *) fill; /* whose guest is ours; NULL: not yet */
	struct sandbox *sandbox;
	int stop_fd; /* readable: the thread is to end */
	uid_t user;
	pthread_t thread;
	bool threaded;
};

/* Answer, by a thread that @sandbox (may be NULL) filters. 0 where nobody can ask. */
int migrate_door_open(struct migrate_door *d, struct sandbox *sandbox, struct error *err);

/* The guest is ours: answer for @fill, which lives until migrate_door_close(). */
void migrate_door_answer(struct migrate_door *d, struct migrate_fill *fill);

/* Nobody is asked any more. Harmless when it was never opened, or without a listener. */
void migrate_door_close(struct migrate_door *d);

#endif
