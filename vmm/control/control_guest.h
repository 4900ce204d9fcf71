/* What can be asked of the guest's side of a running machine; rows of the table of verbs. */
#ifndef WISP_VMM_CONTROL_GUEST_H
#define WISP_VMM_CONTROL_GUEST_H

#include "vmm/control/control.h"

/*
 * {"do":"balloon","target":BYTES,"refresh":true}: both may be missing. Answers with target, actual
 * and counters in bytes, the guest's statistics as it last told them, and how often it has;
 * refresh has it tell them anew.
 */
void control_balloon(struct control_call *call);

/*
 * {"do":"memory","requested":BYTES,"active":true}: how much of --memory-hotplug the guest is to
 * have, which may be missing; active: only if it has a driver now. Answers with total, block,
 * requested and plugged in bytes, and whether there is a driver.
 */
void control_memory(struct control_call *call);

/*
 * {"do":"connect","port":N} and a stream socket: it is connected to the guest's port, and
 * its peer hears "OK PORT\n", or the end.
 */
void control_connect_guest(struct control_call *call);

/*
 * {"do":"serve","id":NET} and a SEQPACKET socket: the service at its other end has the address
 * that --net NET,service=ADDRESS set aside.
 */
void control_serve_net(struct control_call *call);

#endif
