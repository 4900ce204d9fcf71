/* New files: complete before they have their name. */
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
#include "vmm/disk/disk.h"

/* Of one image and process number, left by those that were killed at the last moment. */
#define MAX_DRAFTS 100

/* Is the image that is to be replaced in use? Who may not read it cannot know, and goes on. */
static int refuse_in_use(const char *path, struct error *err)
{
	struct block_file file = { .path = path };
	int r;

	file.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (file.fd < 0)
		return 0;
	r = block_file_lock(&file, false, err);
	close(file.fd);
	return r;
}

/* As any other new file's, and not as a secret's; or as that of the one which it replaces, @old. */
static void set_mode(const struct disk_new *n, const struct stat *old)
{
	mode_t mask;

	if (old) {
		/* Not for everybody; it is ours, then. */
		(void)!fchown(n->fd, old->st_uid, old->st_gid);
		fchmod(n->fd, old->st_mode & 0777);
		return;
	}
	mask = umask(0);
	umask(mask);
	fchmod(n->fd, 0666 & ~mask);
}

/* Without a name where the file system can do that. */
static int open_draft(struct disk_new *n)
{
	char *copy = strdup(n->path);

	if (!copy)
		return -ENOMEM;
	n->fd = open(dirname(copy), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	free(copy);
	n->unnamed = n->fd >= 0;
	if (n->unnamed)
		return 0;
	if (asprintf(&n->temporary, "%s.XXXXXX", n->path) < 0) {
		n->temporary = NULL;
		return -ENOMEM;
	}
	n->fd = mkostemp(n->temporary, O_CLOEXEC);
	return n->fd < 0 ? -errno : 0;
}

/*
 * One beside the name that it is to have, for the step to that one. Another process of this number,
 * killed or of another container, may have left its own there.
 */
static int name_draft(struct disk_new *n)
{
	char from[32];
	int r = -EEXIST;

	snprintf(from, sizeof(from), "/proc/self/fd/%d", n->fd);
	for (unsigned i = 0; i < MAX_DRAFTS && r == -EEXIST; i++) {
		if (asprintf(&n->temporary, "%s.%d-%u-partial", n->path, getpid(), i) < 0) {
			n->temporary = NULL;
			return -ENOMEM;
		}
		if (linkat(AT_FDCWD, from, AT_FDCWD, n->temporary, AT_SYMLINK_FOLLOW) == 0)
			return 0;
		r = -errno;
		/* Not ours to remove, then. */
		free(n->temporary);
		n->temporary = NULL;
	}
	return r;
}

int disk_new_open(struct disk_new *n, const char *path, bool force, struct error *err)
{
	struct stat st;
	bool is_there = lstat(path, &st) == 0;
	int r;

	*n = (struct disk_new){ .path = path, .fd = -1, .force = force };
	if (is_there && (!force || !S_ISREG(st.st_mode))) {
		r = error_usage(err, -EEXIST, "'%s': %s", path,
				S_ISREG(st.st_mode) ? "exists already" :
						      "exists, and is not a regular file");
		if (S_ISREG(st.st_mode))
			error_hint(err, "--force replaces it");
		return r;
	}
	r = force ? refuse_in_use(path, err) : 0;
	if (r < 0)
		return r;
	r = open_draft(n);
	if (r == -ENOMEM)
		return error_set(err, r, "'%s': %m", path);
	if (r < 0) {
		r = error_usage(err, -errno, "'%s': cannot be made: %m", path);
		free(n->temporary);
		n->temporary = NULL;
		return r;
	}
	set_mode(n, is_there ? &st : NULL);
	return 0;
}

/* It may have been long: somebody may have made such a file meanwhile, or use the one there is. */
static int give_name(const struct disk_new *n, struct error *err)
{
	int r = n->force ? refuse_in_use(n->path, err) : 0;

	if (r < 0)
		return r;
	if (!n->force &&
	    renameat2(AT_FDCWD, n->temporary, AT_FDCWD, n->path, RENAME_NOREPLACE) == 0)
		return 0;
	/* Not every file system knows of that flag. */
	if (!n->force && errno != EINVAL && errno != ENOSYS)
		return error_usage(err, -errno, "'%s': cannot be named: %m", n->path);
	if (rename(n->temporary, n->path) < 0)
		return error_usage(err, -errno, "'%s': cannot be named: %m", n->path);
	return 0;
}

int disk_new_commit(struct disk_new *n, struct error *err)
{
	int r;

	if (fsync(n->fd) < 0)
		return error_usage(err, -errno, "'%s': %m", n->path);
	r = n->unnamed ? name_draft(n) : 0;
	if (r < 0)
		return error_usage(err, r, "'%s': cannot be named: %m", n->path);
	r = give_name(n, err);
	if (r < 0)
		return r;
	io_sync_parent(n->path);
	free(n->temporary);
	n->temporary = NULL;
	return 0;
}

void disk_new_done(struct disk_new *n)
{
	if (n->temporary)
		unlink(n->temporary);
	free(n->temporary);
	n->temporary = NULL;
	if (n->fd >= 0)
		close(n->fd);
	n->fd = -1;
}
