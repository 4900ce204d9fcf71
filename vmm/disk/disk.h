/*
 * `wisp disk`: making, looking at, checking, converting and resizing disk
 * images, raw and qcow2. Runs in the caller's process and waits for its I/O.
 *
 * What is made has its name only when it is complete: a failure, a full file
 * system or a kill leaves what was there before, and at most a temporary file.
 */
#ifndef WISP_VMM_DISK_H
#define WISP_VMM_DISK_H

#include "vmm/config/config_parse.h"

struct disk_options {
	int format; /* BLOCK_FORMAT_*: of what is made or looked at */
	int source_format;
	char *backing, *cluster_size;
	uint64_t cluster_bytes; /* what --cluster-size says, or 0 */
	int backing_format;
	bool follow_backing;
	bool json, force, repair, shrink;
};

extern const struct config_item disk_options[];

/* The arguments behind "disk"; its exit status (struct cli_verb). */
int disk_main(int argc, char **argv);

/* ---- for the verb's parts; each returns 0 or -errno with the error filled in ---- */

/* A file that has another name until disk_new_commit(). */
struct disk_new {
	const char *path;
	char *temporary;
	bool unnamed; /* it gets that name at the end only: until then a kill leaves nothing */
	int fd;
	bool force;
};

/*
 * With @force a regular file of that name will be replaced, unless it is an image in use by then;
 * what is made has its owner and mode.
 */
int disk_new_open(struct disk_new *n, const char *path, bool force, struct error *err);
/* Durable, and called by its name. */
int disk_new_commit(struct disk_new *n, struct error *err);
/* After a commit this only closes. */
void disk_new_done(struct disk_new *n);

/* Is the new image at @path to be raw? By its name, when no format was asked for. */
bool disk_new_is_raw(const struct disk_options *o, const char *path);

/*
 * Copy what the image at @from holds, read by @o, into a new image at @to. Shows
 * progress on standard error when that is a terminal.
 */
int disk_convert(const struct disk_options *o, const char *from, const char *to,
		 struct error *err);

/*
 * Zero the disk of the qcow2 image @fd, open at @path, from @from to its end, and free what was
 * there. @o says which files beneath it may be opened; all of these must be.
 */
int disk_zero_end(int fd, const char *path, const struct disk_options *o, uint64_t from,
		  struct error *err);

/* The disk has grown, from @from on: what a longer one beneath would show there reads as zero. */
int disk_hide_beneath(int fd, const char *path, const struct disk_options *o, uint64_t from,
		      struct error *err);

#endif
