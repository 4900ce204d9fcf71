/*
 * What is to be done about a migration that a crash or a lost connection has left: a decision
 * over what was found of both sides, and nothing that acts. vmm/cli/cli_migrate_recover.c looks
 * and acts; docs/migration.md has the table.
 *
 * The guest may never run twice. So whatever is not certain is left alone: somebody who may be
 * there and does not answer, or who may yet hear from the other side.
 */
#ifndef WISP_VMM_MIGRATE_RECOVERY_H
#define WISP_VMM_MIGRATE_RECOVERY_H

#include "vmm/migrate/migrate_journal.h"

enum migrate_found {
	MIGRATE_SILENT, /* somebody may be there, and does not answer */
	MIGRATE_GONE,	/* nobody is, for certain */
	MIGRATE_BUSY,	/* it may yet hear from the other side */
	MIGRATE_WAITS,	/* for a word that will not come */
	MIGRATE_HOLDS,	/* the guest */
};

struct migrate_side {
	bool known; /* its journal is on this host, */
	struct migrate_journal journal; /* and was read after its monitor had answered */
	enum migrate_found found;
};

enum migrate_verdict {
	/* Left alone. */
	MIGRATE_ASK_AGAIN, /* later: one of the two may be there, or may yet hear of it */
	MIGRATE_UNDER_WAY,
	MIGRATE_ASK_THERE, /* on the other side's host, by a person */
	MIGRATE_GO_ON,	   /* runs there without all of its memory: a person connects both again */
	/* Settled, once that is done. */
	MIGRATE_RUN_THERE, /* the destination runs it; then decide again */
	MIGRATE_CONFIRM,   /* it ran there: the source ends */
	MIGRATE_TAKE_BACK, /* it never will there: the source goes on */
	MIGRATE_END_THERE, /* the destination has waited for nothing */
	MIGRATE_LOST,	   /* one has ended that held a part of it: the other one ends */
	MIGRATE_SETTLED,   /* there is nothing to do */
};

enum migrate_verdict migrate_decide(const struct migrate_side *src,
				    const struct migrate_side *dst);

/* Does its journal, where there is one, end with @phase? */
bool migrate_side_is(const struct migrate_side *side, const char *phase);

#endif
