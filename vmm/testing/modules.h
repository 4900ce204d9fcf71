/*
 * The modules of a kernel, as depmod has left them beside it: which files a
 * driver needs, and in which order.
 *
 * Some are in trees that may have been made by an enemy: their names are looked up beneath the
 * tree, whatever links there are, and only regular files are opened.
 */
#ifndef WISP_VMM_MODULES_H
#define WISP_VMM_MODULES_H

#include <limits.h>

#include "vmm/core/error.h"

struct modules {
	char release[128];  /* "6.1.0-50-cloud-amd64" */
	char dir[PATH_MAX]; /* of modules.dep, for messages; empty: there is none for this kernel */
	char *dep;	    /* that file */
	size_t dep_len;
	int fd;		  /* the directory that nothing leads out of, */
	char below[160];  /* where they are in it, */
	uint64_t resolve; /* and what links mean there: RESOLVE_* */
};

/* Which release the kernel image @path is: bzImage or an ELF file. */
int kernel_release(const char *path, char *release, size_t size, struct error *err);

/*
 * Find the modules of the kernel image @kernel: beside it as a kernel package
 * is unpacked, below the tree @root (NULL: in no tree), or the host's own. It is no
 * error when there are none: drivers may be built in. modules_done() in either case.
 */
int modules_find(struct modules *m, const char *kernel, const char *root, struct error *err);
void modules_done(struct modules *m);
/* A descriptor of the file @path of them, whose size goes to @ret_size; or -errno. */
int modules_open(const struct modules *m, const char *path, uint64_t *ret_size);

/*
 * Call fn(arg, path) for each file that the driver @name needs and for its own,
 * in loading order; paths are for modules_open(). 0 also when it is no
 * module; stops at the first -errno of fn().
 */
int modules_for(const struct modules *m, const char *name, int (*fn)(void *arg, const char *path),
		void *arg);

#endif
