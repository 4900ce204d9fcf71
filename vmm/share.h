/*
 * The process that serves a shared directory (devices/fs.h): forked by the
 * parent before the monitor exists, in no namespace of its own, since files
 * are to show their true owners. It keeps the directory, its end of a
 * socket and standard error, and nothing else; Landlock holds it to the directory, and root's
 * privileges are cut down to those about owners and permissions of files.
 */
#ifndef WISP_VMM_SHARE_H
#define WISP_VMM_SHARE_H

#include <sys/types.h>

#include "vmm/config/config.h"

/* Zero-initialised: not running. */
struct share {
	pid_t pid;
	bool no_filter; /* it may make all system calls */
};

/*
 * Start serving @config; @ret_socket is the monitor's end. Raises this
 * process's limit of open files, which the monitor inherits: every file that the guest
 * opens is one of its own. A root that is a container image (images/image.h) is unpacked first if
 * need be, and is read-only.
 */
int share_start(struct share *s, const struct config_share *config, int *ret_socket,
		struct error *err);

/* As helper_mourn(), of the share that @config is. */
void share_mourn(struct share *s, const struct config_share *config);

/* Reap it. The monitor's end of the socket is closed, so it has ended or is about to. */
void share_stop(struct share *s);

#endif
