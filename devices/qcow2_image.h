/*
 * qcow2 files as a whole, for the command line and for setting up: read what
 * the header says, make a new image, check and mend one. All of it waits for
 * its I/O, so none of it is for a loop. Descriptors are borrowed. Errors do not
 * name the file: the caller does, by error_prefix().
 */
#ifndef WISP_DEVICES_QCOW2_IMAGE_H
#define WISP_DEVICES_QCOW2_IMAGE_H

#include "devices/qcow2_format.h"

/* Read and check the header. -EINVAL when @fd is no qcow2 image. @ret_bytes: the file's length. */
int qcow2_image_header(int fd, struct qcow2_header *ret_h, uint64_t *ret_bytes, struct error *err);

struct qcow2_create_params {
	uint64_t size_bytes;	    /* of the disk; rounded up to whole sectors */
	uint64_t cluster_size;	    /* 0: 64 KiB */
	const char *backing;	    /* by a path relative to the image's own folder, or NULL */
	const char *backing_format; /* "raw" or "qcow2", with @backing */
};

/* Make an empty image of the file @fd, whose content is lost. Not synced. */
int qcow2_image_create(int fd, const struct qcow2_create_params *params, struct error *err);

/*
 * Give the disk another size, a multiple of 512 bytes, durably. Smaller: what is cut off is
 * freed. Refused for images with snapshots, which have a size too, and such as need a check.
 */
int qcow2_image_resize(int fd, uint64_t bytes, struct error *err);

struct qcow2_check {
	uint64_t clusters;   /* in the file */
	uint64_t allocated;  /* data clusters of the disk as it is now */
	uint64_t compressed; /* of these */
	uint64_t leaks;	     /* counted more often than used: only space is lost */
	uint64_t errors;     /* counted less often than used, or an entry that cannot be */
	uint64_t mended;     /* of both */
	uint64_t end_bytes;  /* where the last used cluster ends */
	char first_error[120]; /* the first of them, or empty */
};

/*
 * Compare what the tables refer to with the refcounts. With @repair, and where
 * no entry is broken, write the refcounts anew and take the marks "dirty" and
 * "corrupt" away. Returns 0 when the check could be made, whatever it found.
 */
int qcow2_image_check(int fd, bool repair, struct qcow2_check *ret, struct error *err);

#endif
