/* Verbs of the control socket that take a machine's state: rows of control_verbs.c. */
#ifndef WISP_VMM_CONTROL_SNAPSHOT_H
#define WISP_VMM_CONTROL_SNAPSHOT_H

#include "vmm/control/control.h"

/*
 * {"do":"disks"}: {"disks":[{"id", "path", "read_only", "direct", "raw"}],
 * "args":[...], "directory", "generation"},
 * with a descriptor of each disk, and the options that the machine was made of.
 */
void control_verb_disks(struct control_call *call);

/*
 * Whoever keeps disks, or has looked at them, says by "generation" which answer he goes by: is it
 * still true? No device comes or goes while @call, of a verb that is @alone, is at hand. False: it
 * is answered, by ESTALE. Who says nothing goes by none.
 */
bool control_knows_devices(struct control_call *call);

/*
 * {"do":"snapshot","stay_paused":BOOL,"diff":BOOL,"track":BOOL,"id":ID,"generation":of "disks"}
 * with a pipe (see the .c) and two empty files, for the state and for RAM; a third one gets which
 * pages are in that (vmm/saved/snapshot_pages.h).
 *
 * With "diff" RAM is only what changed since the last snapshot that was kept, when changes have
 * been watched; else it is complete, and they are watched from now on. "track" alone does the
 * latter with a complete one. A snapshot with an ID is kept when "snapshot-kept" says so, one
 * without when it is written. When it gets no third file, pages that changed are data in the second
 * one, also those that are zero, and all others holes.
 *
 * With "stay_paused" the guest stands still after the answer, too, until "resume" or "end", or
 * until this client has left.
 *
 * Progress, when it is paused: {"wisp", "machine":{...}, "devices":[...]}, and when only changes
 * are to come "base":{"id", "path"}: what they are counted from.
 * Reply: {"pause_us", "fork_us", "memory_bytes", "stored_bytes", "state_bytes", "diff":is it one,
 * "tracked":may the next be one, "was_paused", "runs": see "end"}.
 */
void control_verb_snapshot(struct control_call *call);

/*
 * {"do":"snapshot-kept","id":ID,"path":PATH}: that snapshot is safe there, and a base from now on.
 * ESTALE: another was taken meanwhile, or changes are not watched any more.
 */
void control_verb_snapshot_kept(struct control_call *call);

/*
 * {"do":"track","id":ID,"path":PATH}: changes are watched from now on, and counted from that
 * snapshot, which the paused machine has just been made from. EBUSY: it runs.
 */
void control_verb_track(struct control_call *call);

/*
 * {"do":"clone","generation":of "disks"} with a pipe and a nursery's socket (saved/clone.h). Reply:
 * {"pause_us", "fork_us"}.
 */
void control_verb_clone(struct control_call *call);

/*
 * {"do":"end","runs":of "snapshot"}: the microVM ends in good order with status 0, whatever its
 * guest is at. ESTALE: it is not what was saved any more, as somebody had it go on ("stop",
 * "resume"), and goes on as it is. Who says nothing means the guest as it is.
 */
void control_verb_end(struct control_call *call);

#endif
