/*
 * The monitor's half of a shared directory: passes a guest's FUSE requests on
 * to the server (devices/fs.h) in its process, and moves the data of open
 * files itself, between the guest's buffers and the files, by descriptors that the
 * server gave it. Nothing here knows a path.
 *
 * A client belongs to its loop.
 */
#ifndef WISP_DEVICES_FS_CLIENT_H
#define WISP_DEVICES_FS_CLIENT_H

#include <linux/fuse.h>

#include "devices/fs.h"
#include "vmm/core/loop.h"
#include "vmm/core/state.h"

struct fs_client;

/* A request; embedded in the caller's, which keeps the buffers until done(). */
struct fs_request {
	const struct iovec *out; /* what the guest asks */
	unsigned num_out;
	uint64_t out_bytes;
	const struct iovec *in; /* where the reply goes */
	unsigned num_in;
	uint64_t in_bytes;
	/* Room for two segments more than both have together. */
	struct iovec *scratch;
	/* @bytes of the reply are in place, or none is due. Never from within the submission. */
	void (*done)(struct fs_request *req, uint32_t bytes);

	/* The client's own. */
	struct fs_client *client;
	struct loop_op op;
	struct loop_task finish;
	struct fuse_in_header header; /* as it was read, once */
	struct fs_file *file;
	struct msghdr msg;
	uint32_t wire[2];
	uint32_t slot, result;
	bool sending, answered;
};

/* No more requests than this may be outstanding. */
#define FS_CLIENT_MAX_REQUESTS 512

/* @socket leads to the server, and is the client's, also when this fails. */
int fs_client_create(struct fs_client **ret_c, int socket, struct loop *loop, const char *name,
		     struct error *err);
/* Stopped; ends the server. NULL is fine. */
void fs_client_free(struct fs_client *c);

/* Listen to the server, from now on; or stop that: stopped(arg) then, from the loop. */
void fs_client_start(struct fs_client *c);
void fs_client_stop(struct fs_client *c, void (*stopped)(void *arg), void *arg);

/*
 * Carry out what @req says in its segments, which are the guest's memory and not believed: what
 * makes no sense is answered with an error of FUSE's. @req stays as it is until its done(), which
 * the loop calls, never this, has how many bytes were answered. On the loop, started.
 */
void fs_client_submit(struct fs_client *c, struct fs_request *req);

/*
 * What the guest knows and has open, as fields of the section that is open; and
 * the same found again, by the new client's server. Stopped.
 */
void fs_client_save(struct fs_client *c, struct state_writer *w);
int fs_client_load(struct fs_client *c, struct state_reader *r);

#endif
