/*
 * Trees of any depth, removed. Links that an image brings let it make them deeper than a stack, the
 * number of descriptors or the length of a path allow.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "vmm/images/image_internal.h"

/* How far down the walk goes, with a descriptor for each level. */
#define MAX_DEPTH 128

struct removal {
	int top;	/* the directory that is being emptied */
	unsigned moved; /* how many names were tried there */
	bool again;	/* there is something new in it */
};

static int remove_below(struct removal *rm, int fd, unsigned depth);

/* What is too deep for the walk is not when it is at the top: then the next one takes it. */
static int move_up(struct removal *rm, int dir_fd, const char *name)
{
	char to[32];

	do {
		snprintf(to, sizeof(to), ".deep-%u", rm->moved++);
		if (renameat(dir_fd, name, rm->top, to) == 0) {
			rm->again = true;
			return 0;
		}
		/* The image may have such names as well. */
	} while (errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR);
	return -errno;
}

/* 1 when it is a directory, which is still there. */
static int remove_file(int dir_fd, const char *name)
{
	if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	/* POSIX has directories be EPERM. */
	return errno == EISDIR || errno == EPERM ? 1 : -errno;
}

static int remove_at(struct removal *rm, int dir_fd, const char *name, unsigned depth)
{
	int r = remove_file(dir_fd, name), fd;

	if (r <= 0)
		return r;
	if (depth == MAX_DEPTH)
		return move_up(rm, dir_fd, name);
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = remove_below(rm, fd, depth + 1);
	if (!r && unlinkat(dir_fd, name, AT_REMOVEDIR) < 0)
		r = -errno;
	return r;
}

/* Everything in the directory @fd, which is closed. */
static int remove_below(struct removal *rm, int fd, unsigned depth)
{
	const struct dirent *d;
	DIR *dir = fdopendir(fd);
	int r = 0;

	if (!dir) {
		close(fd);
		return -ENOMEM;
	}
	while (!r && (d = readdir(dir)))
		if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
			r = remove_at(rm, dirfd(dir), d->d_name, depth);
	closedir(dir);
	return r;
}

int image_remove_below(int dir_fd)
{
	struct removal rm = { .top = dir_fd };
	int fd, r = 0;

	do {
		rm.again = false;
		/* One of its own, that reads from the beginning. */
		fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		r = fd < 0 ? -errno : remove_below(&rm, fd, 0);
	} while (!r && rm.again);
	return r;
}

int image_remove_tree(int dir_fd, const char *name)
{
	int r = remove_file(dir_fd, name), fd;

	if (r <= 0)
		return r;
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = image_remove_below(fd);
	close(fd);
	if (!r && unlinkat(dir_fd, name, AT_REMOVEDIR) < 0)
		r = -errno;
	return r;
}
