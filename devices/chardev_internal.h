/*
 * Between chardev.c, which moves bytes, and chardev_open.c, which knows where
 * they come from and go to. Nobody else includes it.
 */
#ifndef WISP_DEVICES_CHARDEV_INTERNAL_H
#define WISP_DEVICES_CHARDEV_INTERNAL_H

#include "devices/chardev.h"

struct chardev_ends {
	const char *name; /* of the kind, for the log */
	int in_fd, out_fd; /* -1: none. Of a socket both are the peer, none at first */
	int listen_fd;	   /* a socket's, else -1 */
	bool owns_out;
	bool terminal; /* input is one */
	bool stands_for_terminal; /* input is standard input, from a pipe or a file */
	char *path;    /* of the socket, removed with it */
};

int chardev_open_ends(struct chardev_ends *ret_ends, const struct chardev_config *config,
		      struct error *err);
void chardev_close_ends(struct chardev_ends *e);

#endif
