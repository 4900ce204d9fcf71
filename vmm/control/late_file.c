#include "vmm/control/late_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/block.h"
#include "vmm/core/io.h"

/* "DIR/.NAME.PID": beside the name to be, so that a rename can do the rest. */
static char *temporary_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	int dir = slash ? (int)(slash - path) + 1 : 0;
	char *name;

	if (asprintf(&name, "%.*s.%s.%d", dir, path, path + dir, getpid()) < 0)
		return NULL;
	return name;
}

static int open_unnamed(const char *path)
{
	char *copy = strdup(path);
	int fd;

	if (!copy)
		return -1;
	fd = open(dirname(copy), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	free(copy);
	return fd;
}

int late_file_open(struct late_file *f, const char *option, const char *path, struct error *err)
{
	struct stat st;
	int r;

	*f = (struct late_file){ .fd = -1 };
	/* A rename would put a file in the place of /dev/null, or fail when all is done. */
	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return error_usage(err, -EINVAL, "%s '%s': is not a regular file", option, path);
	if (block_path_in_use(path))
		return error_usage(err, -EBUSY, "%s: '%s' is a disk in use by another process",
				   option, path);
	f->path = strdup(path);
	f->fd = open_unnamed(path);
	/* Some file systems have no files without a name. */
	if (f->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) {
		f->temporary = temporary_name(path);
		if (f->temporary)
			f->fd = open(f->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	}
	if (f->fd >= 0 && f->path)
		return 0;
	r = error_usage(err, -errno, "%s '%s': cannot create: %m", option, path);
	late_file_close(f);
	return r;
}

int late_file_keep(struct late_file *f, struct error *err)
{
	char from[32];
	int r = 0;

	if (!f->temporary) {
		f->temporary = temporary_name(f->path);
		snprintf(from, sizeof(from), "/proc/self/fd/%d", f->fd);
		if (!f->temporary ||
		    linkat(AT_FDCWD, from, AT_FDCWD, f->temporary, AT_SYMLINK_FOLLOW) < 0)
			r = -errno;
	}
	if (!r && (fsync(f->fd) < 0 || rename(f->temporary, f->path) < 0))
		r = -errno;
	if (r < 0)
		return error_set(err, r, "'%s': cannot be kept: %m", f->path);
	free(f->temporary);
	f->temporary = NULL;
	return 0;
}

int late_file_keep_new(struct late_file *f)
{
	char from[32];
	int r = 0;

	snprintf(from, sizeof(from), "/proc/self/fd/%d", f->fd);
	if (fsync(f->fd) < 0 || linkat(AT_FDCWD, f->temporary ? f->temporary : from, AT_FDCWD,
				       f->path, AT_SYMLINK_FOLLOW) < 0)
		return -errno;
	r = io_sync_parent(f->path);
	if (r < 0)
		unlink(f->path);
	return r;
}

void late_file_close(struct late_file *f)
{
	if (f->temporary)
		unlink(f->temporary);
	free(f->temporary);
	free(f->path);
	if (f->fd >= 0)
		close(f->fd);
	*f = (struct late_file){ .fd = -1 };
}
