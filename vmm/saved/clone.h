/*
 * Live forks: monitors made out of a forked copy of one, whose guest stood still.
 *
 * The copy, the nursery, has the guest's memory copy-on-write and its state in sections; it never
 * runs a guest itself. For each request on its socket (SOCK_SEQPACKET) it forks once more, and that
 * child builds a VM of its own over the memory and goes on with it, in the sandbox that it was born
 * in. The nursery ends when the socket does; its children do not.
 *
 * A request is {"name":ID,"paused":BOOL,"beneath":[[FORMAT...]...]} (to stand still until it is
 * resumed; for each disk BLOCK_FORMAT_* of its backing files, from the top down), with descriptors
 * in this order: listening control socket, a pipe that gets the exit status as one int and is
 * closed at the end (and breaks when the keeper at its other end is gone, which ends the clone),
 * log; listening console and serial sockets, where the machine has these; each disk's with its
 * backing files' behind it; each network's socket; each share's; a listening socket for vsock,
 * where it has that. The reply is {"ok":true,"pid":PID}, the child's, or {"error":TEXT}: what came
 * of it the child tells itself.
 */
#ifndef WISP_VMM_CLONE_H
#define WISP_VMM_CLONE_H

#include "vmm/core/state.h"
#include "vmm/machine/machine.h"

/*
 * In the fresh child of a fork: @m is the machine that was paused then, @state what was saved of
 * it. Touches nothing that it shares with the parent but memory. @life_fd is open here as long as
 * the nursery lives, and in none of its children.
 */
_Noreturn void clone_nursery(struct machine *m, const struct state_writer *state, int sock,
			     int life_fd);

#endif
