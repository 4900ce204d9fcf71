/*
 * A file for what there is to say at an end (--metrics, --save-config): looked for early, so that
 * one that cannot be written is known before a guest runs, and of a report that could not be
 * written (the disk is full) there is nothing, but what was there before. For the parent, which may
 * look at paths. What is no regular file (a pipe, /dev/stdout), is somebody else's, or has a name
 * that no other file can have (a mount point) is written to as it is: of that nothing stays.
 */
#ifndef WISP_VMM_REPORT_FILE_H
#define WISP_VMM_REPORT_FILE_H

#include "vmm/control/late_file.h"

struct report_file {
	int fd; /* to write to, from its beginning; -1: none */
	struct late_file late;
};

#define REPORT_FILE_NONE { .fd = -1, .late = { .fd = -1 } }

/* Begin the file that @option calls @path. -errno with @err, a usage error that names both. */
int report_file_open(struct report_file *f, const char *option, const char *path,
		     struct error *err);

/* All is written: it takes the place of what was there. -errno with @err. Then it is closed. */
int report_file_keep(struct report_file *f, struct error *err);

/* Close, and forget what was not kept. Harmless when it is none, or repeated. */
void report_file_close(struct report_file *f);

#endif
