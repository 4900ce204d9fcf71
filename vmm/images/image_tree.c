/*
 * The tree that layers are put over: its names, which lead nowhere else, and what its directories
 * are to be like in the end.
 *
 * Names are resolved by the kernel with the tree as the root (RESOLVE_IN_ROOT): links in it are
 * followed, as programs that made the layer did.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/images/image_internal.h"

/* A directory as a layer wants it. */
struct image_dir {
	char *name;
	dev_t dev; /* the one it was then */
	ino_t ino;
	mode_t mode;
	uint32_t uid, gid;
	int64_t mtime;
};

/* Of memory: a million directories and more, but not eight with names of 4 KiB. */
#define MAX_NOTES ((size_t)256 << 20)

void image_tree_init(struct image_tree *t, int fd)
{
	*t = (struct image_tree){
		.fd = fd,
		.owners = geteuid() == 0,
		.bytes_left = IMAGE_MAX_BYTES,
		.headers_left = IMAGE_MAX_HEADERS,
		.notes_left = MAX_NOTES,
	};
}

void image_tree_done(struct image_tree *t)
{
	for (size_t i = 0; i < t->num_dirs; i++)
		free(t->dir[i].name);
	free(t->dir);
}

/* ---- names ---- */

int image_tree_open(const struct image_tree *t, const char *name, int flags)
{
	struct open_how how = {
		.flags = (unsigned)flags | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	int fd = syscall(SYS_openat2, t->fd, *name ? name : ".", &how, sizeof(how));

	return fd < 0 ? -errno : fd;
}

int image_tree_make(const struct image_tree *t, const char *name)
{
	int above, fd = image_tree_open(t, name, O_PATH | O_DIRECTORY), r = 0;
	char part[PATH_MAX];
	size_t at = 0;

	if (fd != -ENOENT)
		return fd;
	/* The root is there: so at each turn there is what the next component goes into. */
	above = image_tree_open(t, "", O_PATH | O_DIRECTORY);
	while (above >= 0 && name[at]) {
		size_t start = at;

		at += strcspn(name + at, "/");
		snprintf(part, sizeof(part), "%.*s", (int)at, name);
		fd = image_tree_open(t, part, O_PATH | O_DIRECTORY);
		if (fd == -ENOENT) {
			/* No layer has said what it is like. */
			r = mkdirat(above, part + start, 0755) < 0 ? -errno : 0;
			fd = r < 0 ? r : image_tree_open(t, part, O_PATH | O_DIRECTORY);
		}
		close(above);
		above = fd;
		at += name[at] == '/';
	}
	return above;
}

/* ---- what files and directories are like ---- */

mode_t image_tree_mode(const struct image_tree *t, mode_t mode, mode_t at_least)
{
	return t->owners ? mode : (mode & 01777) | at_least;
}

static int set_metadata(const struct image_tree *t, int fd, mode_t mode, uint32_t uid, uint32_t gid,
			int64_t mtime)
{
	const struct timespec times[2] = { { .tv_sec = mtime }, { .tv_sec = mtime } };

	/* The owner first: giving away takes the set-user-id bit. */
	if ((t->owners && fchown(fd, uid, gid) < 0) || fchmod(fd, mode) < 0)
		return -errno;
	/* A time that the file system cannot hold is no reason to fail. */
	(void)futimens(fd, times);
	return 0;
}

int image_tree_describe(const struct image_tree *t, int fd, const struct tar_member *m)
{
	return set_metadata(t, fd, image_tree_mode(t, m->mode, 0400), m->uid, m->gid, m->mtime);
}

int image_tree_note(struct image_tree *t, int dir_fd, const char *base, const char *name,
		    const struct tar_member *m)
{
	struct image_dir d = { .mode = m->mode, .uid = m->uid, .gid = m->gid, .mtime = m->mtime };
	size_t cost = sizeof(d) + strlen(name) + 1;
	struct stat st;

	if (cost > t->notes_left)
		return -E2BIG;
	t->notes_left -= cost;
	if (fstatat(dir_fd, base, &st, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0)
		return -errno;
	d.dev = st.st_dev;
	d.ino = st.st_ino;
	if (t->num_dirs == t->room_dirs) {
		size_t room = t->room_dirs ? 2 * t->room_dirs : 64;
		void *p = reallocarray(t->dir, room, sizeof(t->dir[0]));

		if (!p)
			return -ENOMEM;
		t->dir = p;
		t->room_dirs = room;
	}
	d.name = strdup(name);
	if (!d.name)
		return -ENOMEM;
	t->dir[t->num_dirs++] = d;
	return 0;
}

/* Still what a layer has described? A higher one may have put something else in its place. */
static bool is_same(int fd, const struct image_dir *d)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_dev == d->dev && st.st_ino == d->ino;
}

int image_tree_finish(struct image_tree *t, struct error *err)
{
	for (size_t i = 0; i < t->num_dirs; i++) {
		const struct image_dir *d = &t->dir[i];
		int fd = image_tree_open(t, d->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW), r = 0;

		if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
			continue;
		if (fd < 0)
			r = fd;
		else if (is_same(fd, d))
			r = set_metadata(t, fd, image_tree_mode(t, d->mode, 0700), d->uid, d->gid,
					 d->mtime);
		if (fd >= 0)
			close(fd);
		if (r < 0)
			return error_set(err, r, "directory '%.200s': %m", d->name);
	}
	return 0;
}
