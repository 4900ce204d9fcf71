/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's parts to each other. */
#ifndef WISP_GUESTS_AGENT_AGENT_H
#define WISP_GUESTS_AGENT_AGENT_H

#include "vmm/control/agent_wire.h"

/* Collect a command from @f on, run it, and be its standard streams until it has ended. */
void run_command(int sock, struct agent_frame *f);

#endif
