/* The verb of the control socket that takes a machine back: a row of control_verbs.c. */
#ifndef WISP_VMM_CONTROL_RESET_H
#define WISP_VMM_CONTROL_RESET_H

#include "vmm/control/control.h"

/*
 * {"do":"reset","set":true} with an empty memfd that cannot shrink, and an empty file for each disk
 * that the guest may write: the present moment becomes the point to go back to
 * (vmm/saved/reset_point.h). Reply: {"pages":that hold something, "us"}.
 *
 * {"do":"reset","keep":[[ADDRESS,BYTES],...],"identical":BOOL,"realtime":BOOL}: back to it. Reply:
 * {"pages":that were brought back, "runs":in how many pieces, "us"}. ENOENT: there is no point.
 *
 * "us" is how long the guest stood still. One that was paused stays so.
 */
void control_verb_reset(struct control_call *call);

#endif
