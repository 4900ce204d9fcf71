/*
 * A file that gets its name when it is complete: until then, and if nothing comes
 * of it, its directory is as it was. For the parent, which may look at paths.
 */
#ifndef WISP_VMM_LATE_FILE_H
#define WISP_VMM_LATE_FILE_H

#include "vmm/core/error.h"

struct late_file {
	int fd;		  /* to write to; -1: none */
	char *path;	  /* the name to be */
	char *temporary;  /* the name meanwhile, where a file must have one; or NULL */
};

/* Begin a file to be called @path, readable by its owner alone. @option names it in errors. */
int late_file_open(struct late_file *f, const char *option, const char *path, struct error *err);

/* It is complete: give it its name, in place of what had that name before. */
int late_file_keep(struct late_file *f, struct error *err);

/*
 * The same, but -EEXIST when something has that name: it stays. The name is on the medium when this
 * returns. 0 or -errno.
 */
int late_file_keep_new(struct late_file *f);

/* Close, and forget what was not kept. Harmless when zeroed with fd -1, or repeated. */
void late_file_close(struct late_file *f);

#endif
