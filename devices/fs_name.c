/* Names: looking up, making, moving and removing them. */
#include "devices/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <unistd.h>

/* The directory that a request is about: its descriptor, or -errno. */
static int take_dir(struct fs_call *c, uint64_t id, struct fs_node **ret_dir)
{
	struct fs_node *dir = fs_node_find(c->s, id);

	if (!dir)
		return -ESTALE;
	if (!S_ISDIR(dir->is.type))
		return -ENOTDIR;
	if (fs_node_hollow(c->s, dir))
		return -EROFS;
	*ret_dir = dir;
	return fs_node_fd(c->s, dir);
}

/* The name that comes next in the request, and a descriptor of the directory that it is for. */
static int take_place(struct fs_call *c, const char **ret_name, struct fs_node **ret_dir)
{
	int r = fs_take_name(c, ret_name);

	return r < 0 ? r : take_dir(c, c->h->nodeid, ret_dir);
}

int fs_reply_entry(struct fs_call *c, struct fs_node *dir, const char *name)
{
	struct fuse_entry_out *out = fs_put(c, sizeof(*out));
	struct fs_node *n;
	struct statx stx;
	int r;

	if (!out)
		return -EINVAL;
	r = fs_node_lookup(c->s, dir, name, &n, &stx);
	if (r < 0)
		return r;
	fs_fill_entry(c->s, n, &stx, out);
	return 0;
}

int fs_op_lookup(struct fs_call *c)
{
	struct fs_node *dir = fs_node_find(c->s, c->h->nodeid);
	const char *name;
	int r = fs_take_name(c, &name);

	if (r < 0)
		return r;
	if (!dir)
		return -ESTALE;
	if (!S_ISDIR(dir->is.type))
		return -ENOTDIR;
	r = fs_reply_entry(c, dir, name);
	/* Where nobody else makes files, what is not there may be remembered too: node 0. */
	if (r == -ENOENT && c->s->config.cache == FS_CACHE_ALWAYS) {
		struct fuse_entry_out *out = (struct fuse_entry_out *)c->out;

		out->entry_valid = fs_valid_seconds(c->s);
		return 0;
	}
	return r;
}

/* ---- making ---- */

int fs_op_mknod(struct fs_call *c)
{
	const struct fuse_mknod_in *in = fs_take(c, sizeof(*in));
	struct fs_node *dir;
	const char *name;
	int fd, r;

	if (!in)
		return -EINVAL;
	fd = take_place(c, &name, &dir);
	if (fd < 0)
		return fd;
	switch (in->mode & S_IFMT) {
	case 0:
	case S_IFREG:
	case S_IFIFO:
	case S_IFSOCK:
		break;
	case S_IFCHR:
		/* An overlay's mark for what was removed. */
		if (!in->rdev)
			break;
		/* fall through */
	default:
		/* A device of the host's is nothing for a guest to make, whoever we run as. */
		return -EPERM;
	}
	fs_become_caller(c, in->umask);
	r = mknodat(fd, name, in->mode & (S_IFMT | 07777), 0) < 0 ? -errno : 0;
	fs_become_server(c);
	return r < 0 ? r : fs_reply_entry(c, dir, name);
}

int fs_op_mkdir(struct fs_call *c)
{
	const struct fuse_mkdir_in *in = fs_take(c, sizeof(*in));
	struct fs_node *dir;
	const char *name;
	int fd, r;

	if (!in)
		return -EINVAL;
	fd = take_place(c, &name, &dir);
	if (fd < 0)
		return fd;
	fs_become_caller(c, in->umask);
	r = mkdirat(fd, name, in->mode & 07777) < 0 ? -errno : 0;
	fs_become_server(c);
	return r < 0 ? r : fs_reply_entry(c, dir, name);
}

int fs_op_symlink(struct fs_call *c)
{
	struct fs_node *dir;
	const char *name, *target;
	size_t len;
	int fd, r = fs_take_name(c, &name);

	if (r < 0)
		return r;
	/* Where it points is for the guest to follow; nobody here does. */
	target = (const char *)c->in;
	len = strnlen(target, c->in_left);
	if (len == c->in_left)
		return -EINVAL;
	if (!len)
		return -ENOENT;
	fd = take_dir(c, c->h->nodeid, &dir);
	if (fd < 0)
		return fd;
	fs_become_caller(c, 0);
	r = symlinkat(target, fd, name) < 0 ? -errno : 0;
	fs_become_server(c);
	return r < 0 ? r : fs_reply_entry(c, dir, name);
}

int fs_op_link(struct fs_call *c)
{
	const struct fuse_link_in *in = fs_take(c, sizeof(*in));
	char path[FS_FD_PATH];
	struct fs_node *dir, *n;
	const char *name;
	int fd, from, r;

	if (!in)
		return -EINVAL;
	r = fs_take_name(c, &name);
	if (r < 0)
		return r;
	n = fs_node_find(c->s, in->oldnodeid);
	if (!n)
		return -ESTALE;
	if (S_ISDIR(n->is.type))
		return -EPERM;
	from = fs_node_fd(c->s, n);
	if (from < 0)
		return from;
	fd = take_dir(c, c->h->nodeid, &dir);
	if (fd < 0)
		return fd;
	/* Follows our descriptor's magic link, and not a symbolic link behind it. */
	if (linkat(AT_FDCWD, fs_fd_path(path, from), fd, name, AT_SYMLINK_FOLLOW) < 0)
		return -errno;
	return fs_reply_entry(c, dir, name);
}

/* ---- removing ---- */

static int remove_name(struct fs_call *c, int flags)
{
	struct fs_node *dir, *n;
	const char *name;
	int fd = take_place(c, &name, &dir);

	if (fd < 0)
		return fd;
	n = fs_node_before_removal(c->s, dir, name);
	if (unlinkat(fd, name, flags) < 0)
		return -errno;
	fs_node_removed(c->s, n, dir, name);
	return 0;
}

int fs_op_unlink(struct fs_call *c)
{
	return remove_name(c, 0);
}

int fs_op_rmdir(struct fs_call *c)
{
	return remove_name(c, AT_REMOVEDIR);
}

/* ---- moving ---- */

/* Tell the nodes what a move has done to their names. */
static void names_moved(struct fs_server *s, struct fs_node *moved, struct fs_node *target,
			struct fs_node *from, const char *old, struct fs_node *to,
			const char *new, bool exchanged)
{
	if (moved && moved == target)
		return; /* two names of one file: nothing happens */
	/* A directory that the guest has forgotten may be there for the other one alone. */
	if (moved)
		moved->lookups++;
	if (exchanged) {
		if (target)
			(void)fs_node_place(s, target, from, old);
	} else {
		fs_node_removed(s, target, to, new);
	}
	/* One that was seen last under another of its names keeps that. */
	if (moved && (!moved->parent || (moved->parent == from && !strcmp(moved->name, old))))
		(void)fs_node_place(s, moved, to, new);
	if (moved)
		fs_node_forget(s, moved, 1);
}

static int rename_names(struct fs_call *c, uint64_t new_dir, uint32_t flags)
{
	struct fs_node *from, *to, *moved, *target;
	const char *old, *new = NULL;
	int from_fd, to_fd, r;

	if (flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT))
		return -EINVAL;
	r = fs_take_name(c, &old);
	if (!r)
		r = fs_take_name(c, &new);
	if (r < 0)
		return r;
	from_fd = take_dir(c, c->h->nodeid, &from);
	if (from_fd < 0)
		return from_fd;
	to_fd = take_dir(c, new_dir, &to);
	if (to_fd < 0)
		return to_fd;
	/* Both, for what moves may be replaced under another name at the same time. */
	moved = fs_node_before_removal(c->s, from, old);
	target = fs_node_before_removal(c->s, to, new);
	if (renameat2(from_fd, old, to_fd, new, flags) < 0)
		return -errno;
	names_moved(c->s, moved, target, from, old, to, new, flags & RENAME_EXCHANGE);
	return 0;
}

int fs_op_rename(struct fs_call *c)
{
	const struct fuse_rename_in *in = fs_take(c, sizeof(*in));

	return in ? rename_names(c, in->newdir, 0) : -EINVAL;
}

int fs_op_rename2(struct fs_call *c)
{
	const struct fuse_rename2_in *in = fs_take(c, sizeof(*in));

	return in ? rename_names(c, in->newdir, in->flags) : -EINVAL;
}
