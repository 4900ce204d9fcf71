/*
 * A layer put over a tree, as the OCI image specification has it ("Image Layer Filesystem
 * Changeset").
 *
 * Names are resolved by the kernel with the tree as the root (RESOLVE_IN_ROOT): links in the
 * tree are followed, as programs that made the layer did, but can lead nowhere else. Whiteouts are
 * about lower layers only, wherever they stand in theirs: so a layer is read for them first.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/images/image_internal.h"

#define WHITEOUT      ".wh."
#define WHITEOUT_META ".wh..wh."
#define OPAQUE	      ".wh..wh..opq"

#define MAX_DEPTH   1000
#define MAX_MEMBERS (8u << 20)

/* Directories as layers want them. */
struct image_dir {
	char *name;
	mode_t mode;
	uint32_t uid, gid;
	int64_t mtime;
};

void image_tree_init(struct image_tree *t, int fd)
{
	*t = (struct image_tree){ .fd = fd, .owners = geteuid() == 0 };
}

void image_tree_done(struct image_tree *t)
{
	for (size_t i = 0; i < t->num_dirs; i++)
		free(t->dir[i].name);
	free(t->dir);
}

/* ---- names ---- */

static int open_inside(const struct image_tree *t, const char *name, int flags)
{
	struct open_how how = {
		.flags = (unsigned)flags | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	int fd = syscall(SYS_openat2, t->fd, *name ? name : ".", &how, sizeof(how));

	return fd < 0 ? -errno : fd;
}

/* The last component of @name; what is before it is left in @name. "" for the root. */
static const char *split(char *name)
{
	char *slash = strrchr(name, '/');
	char *base = slash ? slash + 1 : name;

	if (!slash) {
		/* Room for the end of an empty string in front of it. */
		memmove(name + 1, name, strlen(name) + 1);
		base = name + 1;
		slash = name;
	}
	*slash = '\0';
	return base;
}

/* The directory @name, made with all above it where it is missing. */
static int make_directory(const struct image_tree *t, const char *name)
{
	char part[PATH_MAX + 1];
	const char *base;
	int fd = open_inside(t, name, O_PATH | O_DIRECTORY), above, r;

	if (fd != -ENOENT || !*name)
		return fd;
	snprintf(part, sizeof(part), "%s", name);
	base = split(part);
	above = make_directory(t, part);
	if (above < 0)
		return above;
	r = mkdirat(above, base, 0700) < 0 ? -errno : 0;
	close(above);
	return r < 0 ? r : open_inside(t, name, O_PATH | O_DIRECTORY);
}

static int remove_below(int fd, unsigned depth);

static int remove_at(int dir_fd, const char *name, unsigned depth)
{
	int fd, r;

	if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (depth == MAX_DEPTH)
		return -ELOOP;
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = remove_below(fd, depth + 1);
	if (!r && unlinkat(dir_fd, name, AT_REMOVEDIR) < 0)
		r = -errno;
	return r;
}

/* Everything in the directory @fd, which is closed. */
static int remove_below(int fd, unsigned depth)
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
			r = remove_at(dirfd(dir), d->d_name, depth);
	closedir(dir);
	return r;
}

int image_remove_tree(int dir_fd, const char *name)
{
	return remove_at(dir_fd, name, 0);
}

/* ---- whiteouts ---- */

static int apply_whiteout(const struct image_tree *t, const char *dir, const char *base)
{
	const char *target = base + strlen(WHITEOUT);
	int fd, r;

	if (!strcmp(base, OPAQUE)) {
		fd = open_inside(t, dir, O_RDONLY | O_DIRECTORY);
		return fd == -ENOENT ? 0 : fd < 0 ? fd : remove_below(fd, 0);
	}
	if (!strncmp(base, WHITEOUT_META, strlen(WHITEOUT_META)))
		return 0; /* what aufs kept for itself */
	if (!*target || !strcmp(target, ".") || !strcmp(target, ".."))
		return -EBADMSG;
	fd = open_inside(t, dir, O_PATH | O_DIRECTORY);
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	r = remove_at(fd, target, 0);
	close(fd);
	return r;
}

/* ---- members ---- */

static int note_directory(struct image_tree *t, const char *name, const struct tar_member *m)
{
	if (t->num_dirs == t->room_dirs) {
		size_t room = t->room_dirs ? 2 * t->room_dirs : 64;
		void *p = reallocarray(t->dir, room, sizeof(t->dir[0]));

		if (!p)
			return -ENOMEM;
		t->dir = p;
		t->room_dirs = room;
	}
	t->dir[t->num_dirs] = (struct image_dir){
		.name = strdup(name),
		.mode = m->mode,
		.uid = m->uid,
		.gid = m->gid,
		.mtime = m->mtime,
	};
	if (!t->dir[t->num_dirs].name)
		return -ENOMEM;
	t->num_dirs++;
	return 0;
}

/*
 * Where we may not give files away all are ours: then bits that lend the owner's rights would
 * lend the wrong ones, and what we cannot read the guest could not either.
 */
static mode_t mode_for(const struct image_tree *t, mode_t mode, mode_t at_least)
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

static int put_file(const struct image_tree *t, int dir_fd, const char *base, struct tar *tar,
		    const struct tar_member *m, struct error *err)
{
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	uint8_t buf[64 * KiB];
	int fd = openat(dir_fd, base, flags, 0600), r = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	while (!r && (n = tar_read(tar, buf, sizeof(buf), err)) != 0) {
		if (n < 0)
			r = (int)n;
		for (ssize_t at = 0, w; at < n; at += w) {
			w = write(fd, buf + at, n - at);
			if (w <= 0) {
				r = w < 0 ? -errno : -EIO;
				break;
			}
		}
	}
	if (!r)
		r = set_metadata(t, fd, mode_for(t, m->mode, 0400), m->uid, m->gid, m->mtime);
	close(fd);
	return r;
}

static int put_hard_link(const struct image_tree *t, int dir_fd, const char *base,
			 const struct tar_member *m, struct error *err)
{
	char target[PATH_MAX + 1];
	const char *target_base;
	int fd, r;

	snprintf(target, sizeof(target), "%s", m->link);
	if (tar_clean_name(target) < 0 || !*target)
		return error_set(err, -EBADMSG, "a hard link that leads to '%.100s'", m->link);
	target_base = split(target);
	fd = open_inside(t, target, O_PATH | O_DIRECTORY);
	if (fd < 0)
		return fd;
	r = linkat(fd, target_base, dir_fd, base, 0) < 0 ? -errno : 0;
	close(fd);
	return r;
}

static int put_symlink(const struct image_tree *t, int dir_fd, const char *base,
		       const struct tar_member *m)
{
	const struct timespec times[2] = { { .tv_sec = m->mtime }, { .tv_sec = m->mtime } };

	if (!*m->link)
		return -EBADMSG;
	if (symlinkat(m->link, dir_fd, base) < 0 ||
	    (t->owners && fchownat(dir_fd, base, m->uid, m->gid, AT_SYMLINK_NOFOLLOW) < 0))
		return -errno;
	(void)utimensat(dir_fd, base, times, AT_SYMLINK_NOFOLLOW);
	return 0;
}

static int put_fifo(const struct image_tree *t, int dir_fd, const char *base,
		    const struct tar_member *m)
{
	if (mkfifoat(dir_fd, base, 0600) < 0 ||
	    (t->owners && fchownat(dir_fd, base, m->uid, m->gid, AT_SYMLINK_NOFOLLOW) < 0) ||
	    fchmodat(dir_fd, base, mode_for(t, m->mode, 0600), 0) < 0)
		return -errno;
	return 0;
}

/* @name in @dir_fd is to become @m: away with what is there, but for a directory under another. */
static int make_way(int dir_fd, const char *base, const struct tar_member *m, bool *ret_there)
{
	struct stat st;

	*ret_there = false;
	if (fstatat(dir_fd, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	*ret_there = m->kind == TAR_DIRECTORY && S_ISDIR(st.st_mode);
	return *ret_there ? 0 : remove_at(dir_fd, base, 0);
}

/* @m, whose name is @base in @dir, which is all of @name. */
static int put_member(struct image_tree *t, const char *dir, const char *base, struct tar *tar,
		      const struct tar_member *m, struct error *err)
{
	char name[2 * PATH_MAX];
	bool there;
	int fd, r;

	if (m->kind == TAR_DEVICE) {
		/* The guest has its own, and nobody is to open the host's. */
		t->skipped++;
		return 0;
	}
	fd = make_directory(t, dir);
	if (fd < 0)
		return fd;
	r = make_way(fd, base, m, &there);
	if (r < 0)
		goto out;
	switch (m->kind) {
	case TAR_FILE:
		r = put_file(t, fd, base, tar, m, err);
		break;
	case TAR_HARD_LINK:
		r = put_hard_link(t, fd, base, m, err);
		break;
	case TAR_SYMLINK:
		r = put_symlink(t, fd, base, m);
		break;
	case TAR_FIFO:
		r = put_fifo(t, fd, base, m);
		break;
	default:
		snprintf(name, sizeof(name), "%s/%s", dir, base);
		r = there || mkdirat(fd, base, 0700) == 0 ? note_directory(t, name, m) : -errno;
	}
out:
	close(fd);
	return r;
}

/* ---- layers ---- */

static int take_member(struct image_tree *t, struct tar *tar, struct tar_member *m, bool whiteouts,
		       struct error *err)
{
	char dir[PATH_MAX + 1];
	const char *base;
	bool is_whiteout;

	snprintf(dir, sizeof(dir), "%s", m->name);
	if (tar_clean_name(dir) < 0)
		return -EXDEV;
	if (!*dir)
		return whiteouts || m->kind != TAR_DIRECTORY ? 0 : note_directory(t, "", m);
	base = split(dir);
	is_whiteout = !strncmp(base, WHITEOUT, strlen(WHITEOUT));
	if (is_whiteout != whiteouts)
		return 0;
	return whiteouts ? apply_whiteout(t, dir, base) : put_member(t, dir, base, tar, m, err);
}

/* Read a layer through, for its whiteouts or for the others; compare what it is in the end. */
static int pass(struct image_tree *t, const struct image_blob *blob, const char *label,
		const char *diff_id, bool whiteouts, struct error *err)
{
	struct tar_member *m = malloc(sizeof(*m));
	struct image_stream *s = NULL;
	char digest[IMAGE_HEX];
	struct tar tar;
	uint32_t count = 0;
	int r;

	if (!m)
		return error_set(err, -ENOMEM, "%s: %m", label);
	r = image_stream_open(&s, blob, label, err);
	if (r < 0)
		goto out;
	image_stream_hash(s);
	tar_init(&tar, s);
	while ((r = tar_next(&tar, m, err)) > 0) {
		struct error why = { 0 };

		r = count++ == MAX_MEMBERS ? -E2BIG : take_member(t, &tar, m, whiteouts, &why);
		if (r == -EXDEV)
			error_set(err, r, "%s: '%.150s' leads out of the tree", label, m->name);
		else if (r < 0 && *why.msg)
			error_set(err, r, "%s: '%.100s': %.150s", label, m->name, why.msg);
		else if (r < 0)
			error_set(err, r, "%s: '%.150s': %m", label, m->name);
		if (r < 0)
			goto out;
	}
	if (r < 0)
		goto out;
	r = image_stream_digest(s, digest, err);
	if (!r && strcmp(digest, diff_id) != 0)
		r = error_set(err, -EBADMSG, "%s: its content is not what the image says: %.16s...",
			      label, digest);
out:
	image_stream_close(s);
	free(m);
	return r;
}

int image_tree_add(struct image_tree *t, const struct image_blob *blob, const char *name,
		   const char *diff_id, bool lowest, struct error *err)
{
	char label[64];
	int r = 0;

	snprintf(label, sizeof(label), "layer %.40s", name);
	if (!lowest)
		r = pass(t, blob, label, diff_id, true, err);
	return r < 0 ? r : pass(t, blob, label, diff_id, false, err);
}

int image_tree_finish(struct image_tree *t, struct error *err)
{
	for (size_t i = 0; i < t->num_dirs; i++) {
		const struct image_dir *d = &t->dir[i];
		int fd = open_inside(t, d->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW), r;

		/* A higher layer may have taken it away. */
		if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
			continue;
		r = fd < 0 ? fd :
			     set_metadata(t, fd, mode_for(t, d->mode, 0700), d->uid, d->gid,
					  d->mtime);
		if (fd >= 0)
			close(fd);
		if (r < 0)
			return error_set(err, r, "directory '%.200s': %m", d->name);
	}
	return 0;
}
