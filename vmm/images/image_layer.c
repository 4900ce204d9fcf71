/*
 * A layer put over a tree, as the OCI image specification has it ("Image Layer Filesystem
 * Changeset").
 *
 * Whiteouts are about lower layers only, wherever they stand in theirs: so a layer is read for them
 * first.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/core/io.h"
#include "vmm/images/image_internal.h"

#define WHITEOUT      ".wh."
#define WHITEOUT_META ".wh..wh."
#define OPAQUE	      ".wh..wh..opq"

/* More than any tool nests its files: each one that is missing costs a look-up of its own. */
#define MAX_COMPONENTS 128

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

/* ---- whiteouts ---- */

/* Below a directory that is none in lower layers, or not there, is nothing to hide. */
static bool is_nothing(int r)
{
	return r == -ENOENT || r == -ENOTDIR || r == -ELOOP;
}

static int apply_whiteout(const struct image_tree *t, const char *dir, const char *base)
{
	const char *target = base + strlen(WHITEOUT);
	int fd, r;

	if (!strcmp(base, OPAQUE)) {
		/* What a link leads to has another name, which this layer did not hide. */
		fd = image_tree_open(t, dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
		r = fd < 0 ? fd : image_remove_below(fd);
	} else if (!strncmp(base, WHITEOUT_META, strlen(WHITEOUT_META))) {
		return 0; /* what aufs kept for itself */
	} else if (!*target || !strcmp(target, ".") || !strcmp(target, "..")) {
		return -EBADMSG;
	} else {
		fd = image_tree_open(t, dir, O_PATH | O_DIRECTORY);
		r = fd < 0 ? fd : image_remove_tree(fd, target);
	}
	if (fd < 0)
		return is_nothing(fd) ? 0 : fd;
	close(fd);
	return r;
}

/* ---- members ---- */

static int put_file(struct image_tree *t, int dir_fd, const char *base, struct tar *tar,
		    const struct tar_member *m, struct error *err)
{
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	uint8_t buf[64 * KiB];
	int fd = openat(dir_fd, base, flags, 0600), r = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	while (!r && (n = tar_read(tar, buf, sizeof(buf), err)) != 0)
		r = n < 0 ? (int)n : io_write(fd, buf, n);
	if (!r) {
		/* While we may write it. */
		image_tree_set_xattrs(t, fd, m);
		r = image_tree_describe(t, fd, m);
	}
	close(fd);
	return r;
}

static int put_directory(struct image_tree *t, int dir_fd, const char *base, const char *name,
			 bool there, const struct tar_member *m)
{
	int fd;

	if (!there && mkdirat(dir_fd, base, 0700) < 0)
		return -errno;
	fd = openat(dir_fd, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	image_tree_set_xattrs(t, fd, m);
	close(fd);
	return image_tree_note(t, dir_fd, base, name, m);
}

/* The directory that the target of the hard link @m is in; its name there is left in @target. */
static int open_target(const struct image_tree *t, const struct tar_member *m,
		       char target[PATH_MAX + 1], const char **ret_base, struct error *err)
{
	snprintf(target, PATH_MAX + 1, "%s", m->link);
	if (tar_clean_name(target) < 0 || !*target)
		return error_set(err, -EBADMSG, "a hard link that leads to '%.100s'", m->link);
	*ret_base = split(target);
	return image_tree_open(t, target, O_PATH | O_DIRECTORY);
}

static int put_hard_link(const struct image_tree *t, int dir_fd, const char *base,
			 const struct tar_member *m, struct error *err)
{
	char target[PATH_MAX + 1];
	struct stat from, to;
	const char *name;
	int fd = open_target(t, m, target, &name, err), r = 0;

	if (fd < 0)
		return fd;
	if (fstatat(fd, name, &from, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	/* One of a file to itself is there already: making way for it would take the file away. */
	else if (fstatat(dir_fd, base, &to, AT_SYMLINK_NOFOLLOW) == 0 && from.st_dev == to.st_dev &&
		 from.st_ino == to.st_ino)
		goto out;
	if (!r)
		r = image_remove_tree(dir_fd, base);
	if (!r && linkat(fd, name, dir_fd, base, 0) < 0)
		r = -errno;
out:
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
	    fchmodat(dir_fd, base, image_tree_mode(t, m->mode, 0600), 0) < 0)
		return -errno;
	return 0;
}

/*
 * @base in @dir_fd is to become @m: away with what is there, but for a directory under another.
 * Hard links see to it themselves.
 */
static int make_way(int dir_fd, const char *base, const struct tar_member *m, bool *ret_there)
{
	struct stat st;

	*ret_there = false;
	if (m->kind == TAR_HARD_LINK)
		return 0;
	if (fstatat(dir_fd, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	*ret_there = m->kind == TAR_DIRECTORY && S_ISDIR(st.st_mode);
	return *ret_there ? 0 : image_remove_tree(dir_fd, base);
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
	fd = image_tree_make(t, dir);
	if (fd < 0)
		return fd;
	/* Of these no file system has them for the user; hard links have what their file has. */
	if ((m->kind == TAR_SYMLINK || m->kind == TAR_FIFO) && m->xattrs_len)
		t->xattrs_lost++;
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
		r = put_directory(t, fd, base, name, there, m);
	}
out:
	close(fd);
	return r;
}

/* ---- layers ---- */

static unsigned count_components(const char *name)
{
	unsigned n = *name != '\0';

	while (*name)
		n += *name++ == '/';
	return n;
}

static int take_member(struct image_tree *t, struct tar *tar, struct tar_member *m, bool whiteouts,
		       struct error *err)
{
	char dir[PATH_MAX + 1];
	const char *base;
	bool is_whiteout;

	snprintf(dir, sizeof(dir), "%s", m->name);
	if (tar_clean_name(dir) < 0)
		return -EXDEV;
	if (count_components(dir) > MAX_COMPONENTS)
		return error_set(err, -ENAMETOOLONG, "more than %d directories deep",
				 MAX_COMPONENTS);
	if (!*dir && m->kind == TAR_DIRECTORY && !whiteouts) {
		image_tree_set_xattrs(t, t->fd, m);
		return image_tree_note(t, t->fd, "", "", m);
	}
	if (!*dir)
		return 0;
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
	int r;

	if (!m)
		return error_set(err, -ENOMEM, "%s: %m", label);
	r = image_stream_open(&s, blob, label, err);
	if (r < 0)
		goto out;
	image_stream_hash(s);
	image_stream_limit(s, t->bytes_left);
	tar_init(&tar, s, t->headers_left);
	while ((r = tar_next(&tar, m, err)) > 0) {
		struct error why = { 0 };

		r = take_member(t, &tar, m, whiteouts, &why);
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
	/* Read twice, it counts once. */
	if (!r && !whiteouts) {
		t->bytes_left -= image_stream_position(s);
		t->headers_left = tar.headers_left;
	}
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
