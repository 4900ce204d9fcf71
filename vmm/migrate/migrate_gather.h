/*
 * Further connections of a guest that comes (--streams): who else connects where the first came
 * from, until there are as many as its HELLO said. Each has to name the migration, which nobody
 * but its source knows by then; others are turned away. In the verb's process.
 */
#ifndef WISP_VMM_MIGRATE_GATHER_H
#define WISP_VMM_MIGRATE_GATHER_H

#include "vmm/migrate/migrate_address.h"
#include "vmm/migrate/migrate_wire.h"

/* Who may be waiting to be heard; whoever comes then has to wait for the kernel. */
#define MIGRATE_GATHER_MAX (2 * MIGRATE_MAX_STREAMS)

struct migrate_gather {
	struct migrate_listener listener; /* to be closed by migrate_gather_done() */
	int fd[MIGRATE_GATHER_MAX];
	unsigned num;
	unsigned patience_ms; /* for each who is waited for */
};

/*
 * Let others connect until @fd, the first connection, has something to say. Its source may be busy
 * with the encryption of the next.
 */
int migrate_gather_until(struct migrate_gather *g, int fd, struct error *err);

/* Find streams 1 to @num of the migration @uuid: @wires, in order, which become the caller's. */
int migrate_gather_streams(struct migrate_gather *g, const uint8_t *uuid, unsigned num,
			   struct migrate_wire *wires, struct error *err);

/* Nobody else is waited for. */
void migrate_gather_done(struct migrate_gather *g);

#endif
