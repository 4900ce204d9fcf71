/*
 * What a migration leaves behind for whoever has to settle it after a crash: a small file on each
 * side, RUNDIR/.migrations/UUID.ROLE, of lines that are only ever added.
 *
 * The verb's process opens it with its user's rights; the monitor only writes to the descriptor
 * (migrate_note()). It goes when there is nothing left to settle.
 *
 * Who made it has it locked, by the descriptor that the verb and the monitors share: so one that is
 * not held is of nobody any more, whatever microVM may have the name by now.
 */
#ifndef WISP_VMM_MIGRATE_JOURNAL_H
#define WISP_VMM_MIGRATE_JOURNAL_H

#include <limits.h>

#include "vmm/migrate/migrate.h"

/* As text, with its end. */
#define MIGRATE_UUID_TEXT (2 * MIGRATE_UUID_BYTES + 1)

/*
 * MIGRATE_UUID_BYTES at @uuid as MIGRATE_UUID_TEXT of lower-case hexadecimal digits at @text, and
 * back: -EINVAL, with @uuid partly written, for anything else. A new one is random: -EIO.
 */
void migrate_uuid_print(const uint8_t *uuid, char *text);
int migrate_uuid_parse(const char *text, uint8_t *uuid);
int migrate_uuid_new(uint8_t *uuid);

enum migrate_role { MIGRATE_SOURCE, MIGRATE_DESTINATION };

struct migrate_journal {
	char path[PATH_MAX];
	char uuid[MIGRATE_UUID_TEXT];
	enum migrate_role role;
	char id[64];	/* of the microVM on this side */
	char peer[256]; /* where the other side is, as the user called it */
	char phase[16]; /* the last that was noted, or "started" */
	bool held;	/* somebody who could write to it was there when it was read */
	int fd;		/* of one that is being written; else -1 */
};

/* Make the one of @j's uuid, role, id and peer, under the run directory @root (NULL: default). */
int migrate_journal_create(struct migrate_journal *j, const char *root, struct error *err);

/* Close it, and leave the file to --recover. */
void migrate_journal_leave(struct migrate_journal *j);

/* Close it, and remove the file. */
void migrate_journal_remove(struct migrate_journal *j);

/*
 * What became of the guest is known: remove both sides' of @uuid under @root (NULL: default). But
 * that of a destination which runs it stays as long as it does.
 */
void migrate_journal_forget(const char *root, const char *uuid);

/* All that are there, in no order, until fn() returns non-zero. */
int migrate_journal_for_each(const char *root,
			     int (*fn)(void *arg, const struct migrate_journal *j), void *arg,
			     struct error *err);

/* Read that of @uuid and @role into @ret; -ENOENT. */
int migrate_journal_read(const char *root, const char *uuid, enum migrate_role role,
			 struct migrate_journal *ret);

#endif
