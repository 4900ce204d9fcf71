/*
 * An archive as Linux unpacks it into its initial file system: the "newc"
 * format of cpio, written to a file in memory. Fails once and stays failed. One
 * thread.
 */
#ifndef WISP_VMM_CPIO_H
#define WISP_VMM_CPIO_H

#include <sys/types.h>

#include "vmm/core/util.h"

struct cpio {
	int fd; /* a memfd; the caller takes it */
	unsigned next_ino;
	uint64_t size;
	int failed; /* -errno */
};

/* An empty one. -errno, with nothing to close. */
int cpio_init(struct cpio *c);
/* Paths have no leading slash; a directory comes before what is in it. */
void cpio_add_dir(struct cpio *c, const char *path);
void cpio_add_file(struct cpio *c, const char *path, mode_t mode, const void *data, size_t len);
/* The whole of the file @fd. */
void cpio_add_copy(struct cpio *c, const char *path, mode_t mode, int fd);
/* Returns the descriptor, or -errno. */
int cpio_end(struct cpio *c);

#endif
