/*
 * Copies of disks that come with a guest (`wisp migrate --copy-disks`), as files of the host that
 * gets them. Until the guest is handed over they have no name: whatever ends before leaves nothing
 * behind. Then the parent names them, since the monitor sees no paths, and before the guest runs;
 * what was not to be is taken away again.
 *
 * Made by `wisp receive`, whose process becomes the parent; the monitor has its own copy of it all
 * by the fork. Each function says whose it is.
 */
#ifndef WISP_VMM_MIGRATE_COPIES_H
#define WISP_VMM_MIGRATE_COPIES_H

#include "vmm/control/late_file.h"
#include "vmm/core/loop.h"
#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_mirror.h"

struct migrate_copy {
	struct late_file file; /* what comes is written to it; fd -1: this disk does not come */
	int disk_fd; /* the same file, for the machine, whose disk may be read-only or direct */
	uint64_t bytes;
	bool published;
};

struct migrate_copies {
	struct migrate_copy copy[CONFIG_MAX_DISKS];
	unsigned num;
	int parents, monitors; /* ends of a socket pair, or -1 */
};

/* ---- receive's and the parent's ---- */

/* Zeroed, with no descriptor. */
void migrate_copies_init(struct migrate_copies *c);

/*
 * Files for those disks of @config that come, says @hello: empty, and as long as they are there.
 * -EEXIST when something has the name of one already: nothing is ever written over.
 */
int migrate_copies_create(struct migrate_copies *c, const struct machine_config *config,
			  const struct migrate_hello *hello, struct error *err);

/* Before the fork: be asked by SIGIO. Then answer; never waits for the monitor. */
int migrate_copies_listen(struct migrate_copies *c, struct error *err);
void migrate_copies_serve(struct migrate_copies *c);

/* When all is over: @keep them, or take away what has its name already. */
void migrate_copies_end(struct migrate_copies *c, bool keep);

/* ---- the monitor's ---- */

/* After the fork. */
void migrate_copies_in_monitor(struct migrate_copies *c);

/* Where @sink puts what comes. */
void migrate_copies_receive(const struct migrate_copies *c, struct migrate_mirror_sink *sink);

/* The guest is ours: have them named, all or none, durably. Serves @loop until that is so. */
int migrate_copies_publish(struct migrate_copies *c, struct loop *loop, struct error *err);

/* Nothing comes any more. */
void migrate_copies_close(struct migrate_copies *c);

#endif
