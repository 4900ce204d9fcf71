/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's parts to each other. */
#ifndef WISP_GUESTS_AGENT_AGENT_H
#define WISP_GUESTS_AGENT_AGENT_H

#include <sys/socket.h>

#include "vmm/control/agent_wire.h"

/* As linux/vm_sockets.h has it, which not every C library finds. */
struct vm_address {
	sa_family_t family;
	unsigned short reserved;
	unsigned port, cid;
	unsigned char zero[4];
};

#define FAMILY_VSOCK 40

/* Collect a command from @f on, run it, and be its standard streams until it has ended. */
void run_command(int sock, struct agent_frame *f);

/*
 * Ask the host who we are, and act upon it: the files and the hook that agent.c tells of. Returns a
 * socket that has something to read (an error, most likely) when it is time to ask again, or -1:
 * this host does not say, now or ever.
 */
int ask_identity(void);

#endif
