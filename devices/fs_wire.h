/*
 * What passes between the client and the server of a shared directory: one
 * message of a SEQPACKET socket each, two words and what belongs to them. A reply
 * carries the slot of its request; the descriptor of an opened file rides along.
 */
#ifndef WISP_DEVICES_FS_WIRE_H
#define WISP_DEVICES_FS_WIRE_H

#include "devices/fs.h"

enum fs_wire_kind {
	/* A FUSE request, and its reply. */
	FS_WIRE_FUSE,
	/* Asks for the state: pieces of it come back, an empty one last. */
	FS_WIRE_SAVE,
	/* Pieces of a state, an empty one last; the answer is FS_WIRE_LOADED. */
	FS_WIRE_LOAD,
	/* In place of the slot, 0 or an errno; then its text. */
	FS_WIRE_LOADED,
	/* After LOADED: an open file's id (u64), with its descriptor. An empty one last. */
	FS_WIRE_FILE,
};

struct fs_wire {
	uint32_t kind;
	uint32_t slot;
};

#define FS_WIRE_MAX (sizeof(struct fs_wire) + FS_MAX_MESSAGE)

/*
 * Send a message, with @fd unless it is -1 (@flags: MSG_DONTWAIT or 0), or wait for one. -errno;
 * receiving gives 1, or 0 at the end, and @ret_fd (-1: none came along), which may be NULL.
 */
int fs_wire_send(int socket, const struct fs_wire *head, const void *body, size_t len, int fd,
		 int flags);
int fs_wire_receive(int socket, struct fs_wire *ret_head, void *body, size_t size, size_t *ret_len,
		    int *ret_fd);

#endif
