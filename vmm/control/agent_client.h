/* A connection to the agent in a running guest, for `wisp exec` and `wisp cp`. No threads. */
#ifndef WISP_VMM_AGENT_CLIENT_H
#define WISP_VMM_AGENT_CLIENT_H

#include "vmm/control/agent_wire.h"
#include "vmm/core/error.h"

/*
 * Connect to the agent of the microVM @id under @run_dir (NULL: the default), which may take up
 * to @wait_seconds to be there; one that says nothing, as in a guest that is paused, is waited for
 * as long, or 15 seconds where that is more. A stream socket for the caller to close, or -errno.
 */
int agent_connect(const char *run_dir, const char *id, unsigned wait_seconds, struct error *err);

/* The FAILED in @f as an error; @prefix says what for. Returns its negative errno. */
int agent_failure(const struct agent_frame *f, const char *prefix, struct error *err);

#endif
