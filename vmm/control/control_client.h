/*
 * The client's end of a microVM's control socket (vmm/control/control.h): for the verbs
 * of `wisp` and for helpers. Blocking; no threads of its own.
 */
#ifndef WISP_VMM_CONTROL_CLIENT_H
#define WISP_VMM_CONTROL_CLIENT_H

#include <jansson.h>
#include <sys/types.h>

#include "vmm/core/error.h"

/*
 * Connect to the microVM @id: its name, or with a slash in it the path of its run directory.
 * Returns a descriptor for the caller to close.
 */
int control_connect(const char *id, struct error *err);

/* As control_connect(), for a microVM under --run-dir @run_dir; NULL: the default. */
int control_connect_in(const char *run_dir, const char *id, struct error *err);

/*
 * As control_connect_in(), for those who would wait for an answer as long as it takes: -EBUSY, with
 * what lets it go on, when the microVM's monitor is stopped by a signal. Nothing is asked then.
 */
int control_connect_awake(const char *run_dir, const char *id, struct error *err);

/* The process that listens at the other end of @sock: the microVM's parent; 0 when not known. */
pid_t control_peer(int sock);

/*
 * Where a guest that runs here, and may wait for memory that its source still has, is asked: what
 * migrate_door.h answers, and at once; nobody is waited for longer than half a minute. -ENOENT when
 * there is no such guest.
 */
int control_connect_late(const char *run_dir, const char *id, struct error *err);

/*
 * Send @request (taken over) with copies of @fds and wait for the reply. 0 with the reply, which
 * the caller releases (@ret_reply may be NULL), or -errno with the monitor's own words in @err.
 */
int control_ask(int sock, json_t *request, const int *fds, unsigned num_fds, json_t **ret_reply,
		struct error *err);

/* What only some need. */
struct control_extra {
	void (*progress)(void *arg, const json_t *progress);
	void *arg;
	int *fds; /* descriptors that came with the reply, for the caller to close */
	unsigned max_fds, num_fds;
	int give_up_fd; /* readable: nobody waits for the answer any more, -EINTR; -1: none */
};

/*
 * As control_ask(); @extra->progress is called on this thread for each message that comes before
 * the reply. -EINTR: given up without one.
 */
int control_ask_extra(int sock, json_t *request, const int *fds, unsigned num_fds,
		      json_t **ret_reply, struct control_extra *extra, struct error *err);

/*
 * One datagram with descriptors: both ends' framing. control_receive() returns its length, 0
 * when the peer is gone, -EMSGSIZE when it was longer than @size; descriptors are CLOEXEC, those
 * that do not fit into @max_fds are closed.
 */
ssize_t control_send(int sock, const void *data, size_t len, const int *fds, unsigned num_fds,
		     int flags);
ssize_t control_receive(int sock, void *data, size_t size, int *fds, unsigned max_fds,
			unsigned *ret_num_fds, int flags);

#endif
