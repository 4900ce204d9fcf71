/* Verbs of the control socket that take a machine's state: rows of control_verbs.c. */
#ifndef WISP_VMM_CONTROL_SNAPSHOT_H
#define WISP_VMM_CONTROL_SNAPSHOT_H

#include "vmm/control.h"

/*
 * {"do":"disks"}: {"disks":[{"id", "path", "read_only", "direct", "raw"}],
 * "args":[...], "directory"},
 * with a descriptor of each disk, and the options that the machine was made of.
 */
void control_verb_disks(struct control_call *call);

/*
 * {"do":"snapshot","stay_paused":BOOL} with a pipe (see the .c) and two empty files, for the state
 * and for RAM. Progress, when it is paused: {"wisp", "machine":{...}, "devices":[...]}.
 * Reply: {"pause_us", "fork_us", "memory_bytes", "stored_bytes", "state_bytes"}.
 */
void control_verb_snapshot(struct control_call *call);

/* {"do":"clone"} with a pipe and a nursery's socket (vmm/clone.h). Reply: {"pause_us", "fork_us"}.
 */
void control_verb_clone(struct control_call *call);

/* {"do":"end"}: the microVM ends in good order with status 0, whatever its guest is at. */
void control_verb_end(struct control_call *call);

#endif
