/*
 * All microVMs of a user at once, asked over their control sockets: what `wisp ls`, `wisp
 * top`, `wisp stat --prometheus` and `wisp run --admit` know of them.
 *
 * Each is a JSON object as the request "info" answers it, with
 *   "used": {"cpu_ms", "guest_ms", "resident", "processes", "threads"}   of all its processes
 *   "counters": {...}                                            as "stat" answers, when asked for
 * One that does not answer has only "id" and "state":"unresponsive".
 *
 * Blocking, no threads, no state.
 */
#ifndef WISP_VMM_FLEET_H
#define WISP_VMM_FLEET_H

#include <jansson.h>

#include "vmm/cli/usage.h"
#include "vmm/core/error.h"

struct fleet_query {
	const char *run_dir; /* --run-dir; NULL: the default */
	bool counters;
	unsigned patience_ms; /* with one that does not answer; 0: 3 seconds */
};

/*
 * An array of them in order of names, for the caller to release. Removes what dead ones left.
 */
int fleet_list(const struct fleet_query *query, json_t **ret_machines, struct error *err);

/* The one that @sock leads to (vmm/control/control_client.h). */
int fleet_ask(int sock, bool counters, json_t **ret_machine, struct error *err);

/* What they are promised, and use, together. */
struct fleet_sum {
	unsigned machines, unresponsive;
	unsigned cpus;
	uint64_t memory_bytes, resident_bytes;
	uint64_t reserved_bytes; /* promised, and not taken yet */
};

/* Of an array as fleet_list() returns; one that does not answer counts as a machine of nothing. */
void fleet_sum(const json_t *machines, struct fleet_sum *ret_sum);

/* Members of their objects, 0 or "" when missing; @name may be "used.resident". */
uint64_t fleet_number(const json_t *machine, const char *name);
const char *fleet_text(const json_t *machine, const char *name);

#endif
