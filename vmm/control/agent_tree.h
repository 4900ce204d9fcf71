/*
 * Files and directories as frames (vmm/control/agent_wire.h): the same code sends and
 * receives at both ends. Linked into the agent, so it needs nothing but the C
 * library.
 *
 * The sender is not trusted: a name is one component, nothing is written
 * through a symbolic link, of a mode only what @mode_mask allows is set, and what the
 * tree itself is called is the receiver's to say.
 */
#ifndef WISP_VMM_AGENT_TREE_H
#define WISP_VMM_AGENT_TREE_H

#include <limits.h>
#include <sys/types.h>

#include "vmm/control/agent_wire.h"

/* Where and why it went wrong. To be zeroed but for the caller's. */
struct agent_tree_error {
	const char *what; /* "open", "write", ... */
	char path[256];
	unsigned num_left_out; /* of a tree, by its sender */
	/*
	 * The caller's, or NULL: called with each of those. @f says so, the sender's word; or it is
	 * NULL, and @err has it, with errno.
	 */
	void (*left_out)(struct agent_tree_error *err, const struct agent_frame *f);
};

/* The last component of @path, "root" where that is none: what a sender calls it. */
void agent_tree_name(const char *path, char name[NAME_MAX + 1]);

/*
 * Send what is at @path, under the last component of it. What cannot be read in a directory, and
 * what is neither file, link nor directory, is left out, and said to be. 0 or -errno with
 * @err; then the connection can still carry a FAILED. -EPIPE and the like with
 * err->what NULL: it is the connection that failed.
 */
int agent_tree_send(int fd, const char *path, struct agent_tree_error *err);

/*
 * Receive a tree to @path, or into it when that is a directory, up to DONE. In there it is
 * called @name whatever the sender calls it; NULL: as the sender does, who is then believed
 * to replace nothing that it should not. Of a file that does not come whole nothing stays, unless
 * it was there before. *@frame is where each frame comes to. Returns 0, or
 * -errno with @err as above; -ECANCELED: the sender has failed, and its last word is in *@frame.
 */
int agent_tree_receive(int fd, const char *path, const char *name, mode_t mode_mask,
		       struct agent_frame *frame, struct agent_tree_error *err);

#endif
