/* Verbs of the control socket that move a guest to another monitor: rows of control_verbs.c. */
#ifndef WISP_VMM_CONTROL_MIGRATE_H
#define WISP_VMM_CONTROL_MIGRATE_H

#include "vmm/control/control.h"

/*
 * {"do":"migrate","uuid":HEX,"level":N,"max_rounds":N,"bandwidth":N,"downtime_ms":N,
 * "converge":BOOL,"hand_off":BOOL,"copy_disks":BOOL,"streams":N,"postcopy":"off|auto|on",
 * "generation":of "disks"} with the stream's two ends (in, out), the journal, a pipe whose other
 * end the client holds: when that closes it is cancelled, and the connections of further streams.
 * Progress and reply: the members of struct migrate_report. After the reply the microVM ends.
 */
void control_verb_migrate(struct control_call *call);

/*
 * {"do":"migrate-resume"}, with a connection's two ends and a pipe as above: of a guest whose
 * memory had not all arrived when the connection was lost. Of the destination: goes on with it, and
 * replies at once. Of the source, also with "bandwidth":N: progress and reply as migrate's.
 */
void control_verb_migrate_resume(struct control_call *call);

/* {"do":"migrate-cancel"}: fails with EALREADY when there is none, or it is too late. */
void control_verb_migrate_cancel(struct control_call *call);

/*
 * {"do":"migrate-status"}: {"role":"source","uuid","report"} of the one at hand or the last, or
 * {"role":"destination","waits":BOOL}: for a word that the lost connection will not bring; else
 * {"role":"none"}. With "arrival":UUID, each time, of a microVM that came by a migration, and while
 * some of its memory is still to come with "missing_pages", "wanted_pages" (so far) and "cut_off".
 */
void control_verb_migrate_status(struct control_call *call);

/*
 * {"do":"migrate-settle","as":WORD}: "confirm" or "take-back" of the source's, "commit" of the
 * destination's; vmm/migrate/migrate.h says when.
 */
void control_verb_migrate_settle(struct control_call *call);

#endif
