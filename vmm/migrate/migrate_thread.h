/*
 * How the threads of a migration begin. Whoever speaks with another monitor reads what an enemy
 * may have written, so that is all such a thread may do.
 */
#ifndef WISP_VMM_MIGRATE_THREAD_H
#define WISP_VMM_MIGRATE_THREAD_H

#include "vmm/core/error.h"

struct sandbox;

/*
 * First of all on a thread that sends or receives: it and those that it makes are called @name, for
 * those who look with top (15 bytes), and have the system calls of a migration's threads from
 * now on. Without @sandbox (may be NULL) only the name.
 */
int migrate_thread_begins(struct sandbox *sandbox, const char *name, struct error *err);

#endif
