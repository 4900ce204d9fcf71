/*
 * The modules of a kernel, as depmod has left them beside it: which files a
 * driver needs, and in which order.
 */
#ifndef WISP_VMM_MODULES_H
#define WISP_VMM_MODULES_H

#include <limits.h>

#include "vmm/core/error.h"

struct modules {
	char release[128]; /* "6.1.0-50-cloud-amd64" */
	char dir[PATH_MAX]; /* of modules.dep; empty: there is none for this kernel */
	char *dep; /* that file */
	size_t dep_len;
};

/* Which release the kernel image @path is: bzImage or an ELF file. */
int kernel_release(const char *path, char *release, size_t size, struct error *err);

/*
 * Find the modules of the kernel image @kernel: beside it as a kernel package
 * is unpacked, below the tree @root, or the host's own. It is no error when there
 * are none: drivers may be built in.
 */
int modules_find(struct modules *m, const char *kernel, const char *root, struct error *err);
void modules_done(struct modules *m);

/*
 * Call fn(arg, path) for each file that the driver @name needs and for its own,
 * in loading order; paths are relative to m->dir. 0 also when it is no
 * module; stops at the first -errno of fn().
 */
int modules_for(const struct modules *m, const char *name, int (*fn)(void *arg, const char *path),
		void *arg);

#endif
