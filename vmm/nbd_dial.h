/*
 * Connections to NBD servers, made by the parent: it may look up names and open sockets, which the
 * monitor may not. The first one is handed over with the other files of a machine; a later
 * one, when that is lost, on demand (devices/nbd.h: struct nbd_dialed).
 */
#ifndef WISP_VMM_NBD_DIAL_H
#define WISP_VMM_NBD_DIAL_H

#include <sys/types.h>

#include "vmm/config/config.h"

/*
 * Connect to the server of @uri, whose host may be a name. Returns the socket, or the end of a
 * pair that leads to it through TLS where @uri wants that; or -errno.
 */
int nbd_dial(const char *uri, struct error *err);

/* Who dials for one disk, in the parent. */
struct nbd_dialer {
	int fd;	   /* requests come here, by SIGIO; -1: none */
	pid_t pid; /* of the process that dials right now; 0: none */
	const char *uri; /* borrowed */
};

/* @ret_monitors is the monitor's end. */
int nbd_dialer_open(struct nbd_dialer *d, const char *uri, int *ret_monitors, struct error *err);

/*
 * Begin what has been asked for. Called after each SIGIO and SIGCHLD: a process dials, so that a
 * server that keeps it waiting keeps nobody else. One at a time, and one a second at the most.
 */
void nbd_dialer_serve(struct nbd_dialer *d);

/* Harmless on one that was never opened, if its fd is -1. */
void nbd_dialer_close(struct nbd_dialer *d);

#endif
