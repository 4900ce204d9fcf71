/*
 * How the monitor gets the socket for a connection that its guest opens.
 *
 * By Firecracker's convention the guest's connection to port N of the host ends
 * at the UNIX socket PATH_N. The monitor opens no paths (it may sit in an empty
 * root): it asks its parent, over a SEQPACKET socket, and gets a connected
 * socket by SCM_RIGHTS or an error. What can be reached that way is PATH_N for
 * any N and nothing else, whatever the monitor says.
 */
#ifndef WISP_DEVICES_VSOCK_BROKER_H
#define WISP_DEVICES_VSOCK_BROKER_H

#include "vmm/core/error.h"
#include "vmm/core/util.h"

/* "_" and a number of 32 bits follow the path. */
#define VSOCK_SUFFIX_BYTES 11

struct vsock_open_request {
	uint32_t id; /* comes back in the reply */
	uint32_t port;
};

/* With a descriptor when @error is 0. */
struct vsock_open_reply {
	uint32_t id;
	int32_t error; /* errno */
};

/*
 * Answer requests that wait in @fd, for sockets beside @path. Never blocks, and
 * ends also for a side that asks without end: up to VSOCK_MAX_REQUESTS. Returns 0
 * when all were answered, 1 when there may be more, or -EPIPE when the other side
 * is gone.
 */
#define VSOCK_MAX_REQUESTS 64
int vsock_broker_serve(int fd, const char *path);

/*
 * Listen at @path with @suffix (less than VSOCK_SUFFIX_BYTES long) behind it, over what a monitor
 * that was killed has left there. Returns the socket or -errno.
 */
int vsock_listen(const char *path, const char *suffix, struct error *err);

#endif
