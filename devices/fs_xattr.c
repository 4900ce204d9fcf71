/* Extended attributes. */
#include "devices/fs_internal.h"

#include <errno.h>
#include <stdio.h>
#include <sys/xattr.h>

#define NAME_MAX_XATTR 255

#define ACL_PREFIX "system.posix_acl_"

/* Where the node that the request is about can be found, for calls that only know paths. */
static int take_path(struct fs_call *c, char *path, bool changes)
{
	struct fs_node *n = fs_node_find(c->s, c->h->nodeid);
	int fd;

	if (!n)
		return -ESTALE;
	if (changes && fs_node_hollow(c->s, n))
		return -EROFS;
	fd = fs_node_fd(c->s, n);
	if (fd < 0)
		return fd;
	fs_fd_path(path, fd);
	return 0;
}

static int take_xattr_name(struct fs_call *c, const char **ret_name)
{
	const char *name = (const char *)c->in;
	size_t len = strnlen(name, c->in_left);

	if (!len || len == c->in_left)
		return -EINVAL;
	if (len > NAME_MAX_XATTR)
		return -ERANGE;
	fs_take(c, len + 1);
	*ret_name = name;
	return 0;
}

/* Whether the guest goes by what @name is. */
static bool is_acl(const struct fs_call *c, const char *name)
{
	return c->s->features & FUSE_POSIX_ACL && !strncmp(name, ACL_PREFIX, strlen(ACL_PREFIX));
}

static bool is_users(const char *name)
{
	return !strncmp(name, "user.", 5);
}

/* What the guest's @name is called here, maybe in @buf; NULL: too long to be there. */
static const char *kept_name(const struct fs_call *c, const char *name,
			     char buf[NAME_MAX_XATTR + 1])
{
	if (!c->s->config.kept_xattr || is_users(name))
		return name;
	if (snprintf(buf, NAME_MAX_XATTR + 1, FS_KEPT_XATTR "%s", name) > NAME_MAX_XATTR)
		return NULL;
	return buf;
}

/* In the list of @len bytes at @names, give guests' names back and leave out the host's. */
static ssize_t rename_kept(char *names, ssize_t len)
{
	const size_t prefix = strlen(FS_KEPT_XATTR);
	char *to = names;

	for (char *p = names, *next; p < names + len; p = next) {
		const char *name = strncmp(p, FS_KEPT_XATTR, prefix) ? p : p + prefix;
		size_t size = strlen(name) + 1;

		next = p + strlen(p) + 1;
		if (!is_users(p))
			continue;
		memmove(to, name, size);
		to += size;
	}
	return to - names;
}

/* The reply to a question for @asked bytes, of which there are @n, already in place. */
static int reply_size(struct fs_call *c, uint32_t asked, ssize_t n)
{
	struct fuse_getxattr_out *out;

	if (n < 0)
		return -errno;
	if (asked) {
		c->out_len = n;
		return 0;
	}
	out = fs_put(c, sizeof(*out));
	if (!out)
		return -EINVAL;
	out->size = n;
	return 0;
}

int fs_op_getxattr(struct fs_call *c)
{
	const struct fuse_getxattr_in *in = fs_take(c, sizeof(*in));
	char path[FS_FD_PATH], buf[NAME_MAX_XATTR + 1];
	const char *name;
	bool acl;
	ssize_t n;
	int r;

	if (c->s->config.no_xattr)
		return -ENOSYS;
	if (!in)
		return -EINVAL;
	r = take_xattr_name(c, &name);
	if (!r)
		r = take_path(c, path, false);
	if (r < 0)
		return r;
	acl = is_acl(c, name);
	name = kept_name(c, name, buf);
	if (!name)
		return -ENODATA;
	n = getxattr(path, name, in->size ? c->out : NULL, MIN((size_t)in->size, c->out_room));
	/* What keeps no ACLs has none: a guest that checks permissions takes all else for a no. */
	if (n < 0 && errno == EOPNOTSUPP && acl)
		return -ENODATA;
	return reply_size(c, in->size, n);
}

int fs_op_listxattr(struct fs_call *c)
{
	const struct fuse_getxattr_in *in = fs_take(c, sizeof(*in));
	char path[FS_FD_PATH];
	ssize_t n;
	int r;

	if (c->s->config.no_xattr)
		return -ENOSYS;
	if (!in)
		return -EINVAL;
	r = take_path(c, path, false);
	if (r < 0)
		return r;
	if (c->s->config.kept_xattr) {
		/* How long it becomes is known when it is here. */
		n = listxattr(path, (char *)c->out, c->out_room);
		if (n < 0)
			return -errno;
		n = rename_kept((char *)c->out, n);
		return in->size && (size_t)n > in->size ? -ERANGE : reply_size(c, in->size, n);
	}
	return reply_size(c, in->size,
			  listxattr(path, in->size ? (char *)c->out : NULL,
				    MIN((size_t)in->size, c->out_room)));
}

/*
 * Whom the guest's kernel denies the set-group-ID bit loses it with a new ACL, as with a chmod:
 * here nobody knows the caller's groups, and root would be let keep it.
 */
static int take_set_group_id_away(struct fs_call *c, const char *path)
{
	struct statx stx;
	int r = fs_node_stat(c->s, fs_node_find(c->s, c->h->nodeid), &stx);

	if (r < 0 || !(stx.stx_mode & S_ISGID))
		return r;
	return chmod(path, stx.stx_mode & 07777 & ~S_ISGID) < 0 ? -errno : 0;
}

int fs_op_setxattr(struct fs_call *c)
{
	const bool is_long = c->s->features & FUSE_SETXATTR_EXT;
	const struct fuse_setxattr_in *in = fs_take(c, is_long ? sizeof(*in) :
								 FUSE_COMPAT_SETXATTR_IN_SIZE);
	char path[FS_FD_PATH];
	const void *value;
	const char *name;
	int r;

	if (c->s->config.no_xattr)
		return -ENOSYS;
	if (!in)
		return -EINVAL;
	r = take_xattr_name(c, &name);
	if (r < 0)
		return r;
	value = fs_take(c, in->size);
	if (!value)
		return -EINVAL;
	r = take_path(c, path, true);
	if (r < 0)
		return r;
	if (setxattr(path, name, value, in->size, (int)in->flags) < 0)
		return -errno;
	if (is_long && in->setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID &&
	    !strcmp(name, ACL_PREFIX "access"))
		return take_set_group_id_away(c, path);
	return 0;
}

int fs_op_removexattr(struct fs_call *c)
{
	char path[FS_FD_PATH];
	const char *name;
	int r;

	if (c->s->config.no_xattr)
		return -ENOSYS;
	r = take_xattr_name(c, &name);
	if (!r)
		r = take_path(c, path, true);
	if (r < 0)
		return r;
	return removexattr(path, name) < 0 ? -errno : 0;
}
