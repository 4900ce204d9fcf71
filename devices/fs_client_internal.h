/* What the files of the client of a shared directory share: fs_client.c and fs_client_state.c. */
#ifndef WISP_DEVICES_FS_CLIENT_INTERNAL_H
#define WISP_DEVICES_FS_CLIENT_INTERNAL_H

#include "devices/fs_client.h"
#include "devices/fs_wire.h"
#include "vmm/core/fds.h"
#include "vmm/core/log.h"

/* A file that the guest has open; operations under way hold it too. */
struct fs_file {
	uint64_t id;
	int fd;
	unsigned refs;
};

struct fs_client {
	struct loop *loop;
	int socket;
	const char *name;
	bool gone; /* the server */

	struct fs_file **file; /* by the lower half of the id, less one */
	uint32_t room_files, num_files, max_files;

	/* Files that the server has to close, and has no room to be told of yet. */
	uint64_t *unheard;
	size_t num_unheard, room_unheard;
	struct log_limit complaints;

	struct fs_request *slot[FS_CLIENT_MAX_REQUESTS]; /* passed on, unanswered */
	uint32_t free_slot[FS_CLIENT_MAX_REQUESTS];
	unsigned num_free;

	struct loop_op op; /* what waits for a message */
	bool listening;
	struct msghdr msg;
	struct iovec iov;
	FDS_SPACE(1) control;
	void *buffer; /* FS_WIRE_MAX */

	void (*stopped)(void *arg);
	void *stopped_arg;
};

/* 0, or -errno and @fd is still the caller's. */
int fs_client_add_file(struct fs_client *c, uint64_t id, int fd);
void fs_client_forget_files(struct fs_client *c);

/*
 * Tell the server of one of the files that it has to close (@flags: MSG_DONTWAIT or 0), which it
 * answers. 1, 0 when there are none, or -errno.
 */
int fs_client_release_one(struct fs_client *c, int flags);

#endif
