/* Files: opening and creating them; what moves their data has a descriptor of its own. */
#include "devices/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* What a guest may ask of us; all else concerns its side alone. */
#define OPEN_FLAGS (O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC)

/* Of one request: the next ones wait behind it. */
#define MAX_COPY (16 * MiB)

static int host_flags(const struct fs_server *s, uint32_t flags)
{
	int f = (int)(flags & OPEN_FLAGS);

	if (s->writeback) {
		/* The guest fills pages up by reading, and knows where the end is. */
		if ((f & O_ACCMODE) == O_WRONLY)
			f = (f & ~O_ACCMODE) | O_RDWR;
		f &= ~O_APPEND;
	}
	/* What is no regular file in the end must not keep us waiting, nor become our terminal. */
	return f | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
}

static bool wants_write(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
}

/* A regular file, and the one it was: then it need not be told to never wait. */
static int check_opened(const struct fs_node *n, int fd, int flags)
{
	struct statx stx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &stx) < 0)
		return -errno;
	if (!fs_node_is(n, &stx))
		return -ESTALE;
	/* io_uring would take O_NONBLOCK at its word where pages are not in memory. */
	return fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ? -errno : 0;
}

int fs_open_node(struct fs_server *s, struct fs_node *n, uint32_t flags)
{
	char path[FS_FD_PATH];
	int fd;

	/* Whoever asks: the guest, or a saved state. */
	if (s->config.read_only && wants_write(flags))
		return -EROFS;
	/* Devices, pipes and sockets are the guest's own; on the host nobody touches them. */
	if (!S_ISREG(n->is.type))
		return S_ISDIR(n->is.type) ? -EISDIR : -ENXIO;
	/*
	 * Never by its name: what the host has put there meanwhile may be a pipe or a device, for
	 * which being opened is an event. What is reached without opening it is compared first.
	 */
	fd = fs_node_fd(s, n);
	if (fd < 0)
		return fd;
	/* Only a saved state knows of files there; to open some is an event as well. */
	if (fs_node_hollow(s, n))
		return -ENXIO;
	fd = open(fs_fd_path(path, fd), host_flags(s, flags) & ~O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

/* As the guest asks for it: maybe emptied thereby. */
static int open_for_guest(struct fs_call *c, struct fs_node *n, uint32_t flags)
{
	int fd;

	if (!(flags & O_TRUNC))
		return fs_open_node(c->s, n, flags);
	fs_change_contents(c, true);
	fd = fs_open_node(c->s, n, flags);
	fs_change_contents(c, false);
	return fd;
}

static int reply_open(struct fs_call *c, struct fs_node *n, int fd, uint32_t flags)
{
	struct fuse_open_out *out = fs_put(c, sizeof(*out));
	struct fs_handle *h;
	int r;

	if (!out) {
		close(fd);
		return -EINVAL;
	}
	r = fs_handle_add(c->s, n, fd, flags, &h);
	if (r < 0)
		return r;
	out->fh = h->id;
	if (c->s->config.cache == FS_CACHE_ALWAYS)
		out->open_flags = FOPEN_KEEP_CACHE;
	else if (c->s->config.cache == FS_CACHE_NEVER)
		out->open_flags = FOPEN_DIRECT_IO;
	c->fd = fd;
	return 0;
}

int fs_op_open(struct fs_call *c)
{
	const struct fuse_open_in *in = fs_take(c, sizeof(*in));
	struct fs_node *n = fs_node_find(c->s, c->h->nodeid);
	int fd;

	if (!in)
		return -EINVAL;
	if (!n)
		return -ESTALE;
	fd = open_for_guest(c, n, in->flags);
	return fd < 0 ? fd : reply_open(c, n, fd, in->flags);
}

int fs_op_create(struct fs_call *c)
{
	const struct fuse_create_in *in = fs_take(c, sizeof(*in));
	struct fs_node *dir, *n;
	const char *name;
	int dir_fd, fd, flags, r;

	if (!in)
		return -EINVAL;
	r = fs_take_name(c, &name);
	if (r < 0)
		return r;
	dir = fs_node_find(c->s, c->h->nodeid);
	if (!dir)
		return -ESTALE;
	if (!S_ISDIR(dir->is.type))
		return -ENOTDIR;
	if (fs_node_hollow(c->s, dir))
		return -EROFS;
	dir_fd = fs_node_fd(c->s, dir);
	if (dir_fd < 0)
		return dir_fd;
	/* Only what is new is opened by its name: what is there may be anything. */
	fs_become_caller(c, in->umask);
	flags = (host_flags(c->s, in->flags) & ~O_TRUNC) | O_CREAT | O_EXCL;
	fd = fs_open_beneath(dir_fd, name, flags, in->mode);
	fs_become_server(c);
	if (fd < 0 && (fd != -EEXIST || in->flags & O_EXCL))
		return fd;
	r = fs_reply_entry(c, dir, name);
	if (!r) {
		n = fs_node_find(c->s, ((struct fuse_entry_out *)c->out)->nodeid);
		if (fd < 0)
			r = fd = open_for_guest(c, n, in->flags);
		else
			r = check_opened(n, fd, flags);
		if (r >= 0) {
			r = reply_open(c, n, fd, in->flags);
			fd = -1;
		}
		if (r < 0)
			fs_node_forget(c->s, n, 1);
	}
	if (r < 0 && fd >= 0)
		close(fd);
	return r < 0 ? r : 0;
}

static int release(struct fs_call *c, bool is_dir)
{
	const struct fuse_release_in *in = fs_take(c, sizeof(*in));
	struct fs_handle *h = in ? fs_handle_find(c->s, in->fh, is_dir) : NULL;

	if (!in)
		return -EINVAL;
	if (!h)
		return -EBADF;
	fs_handle_remove(c->s, h);
	return 0;
}

int fs_op_release(struct fs_call *c)
{
	return release(c, false);
}

int fs_op_releasedir(struct fs_call *c)
{
	return release(c, true);
}

int fs_op_lseek(struct fs_call *c)
{
	const struct fuse_lseek_in *in = fs_take(c, sizeof(*in));
	struct fuse_lseek_out *out = fs_put(c, sizeof(*out));
	struct fs_handle *h = in ? fs_handle_find(c->s, in->fh, false) : NULL;
	off_t at;

	if (!in || !out)
		return -EINVAL;
	if (!h)
		return -EBADF;
	/* The others are the guest's own business: it has the position. */
	if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE)
		return -EINVAL;
	at = lseek(h->fd, (off_t)in->offset, (int)in->whence);
	if (at < 0)
		return -errno;
	out->offset = at;
	return 0;
}

int fs_op_copy_file_range(struct fs_call *c)
{
	const struct fuse_copy_file_range_in *in = fs_take(c, sizeof(*in));
	struct fuse_write_out *out = fs_put(c, sizeof(*out));
	struct fs_handle *from, *to;
	off_t from_at, to_at;
	ssize_t n;

	if (!in || !out || in->flags)
		return -EINVAL;
	from = fs_handle_find(c->s, in->fh_in, false);
	to = fs_handle_find(c->s, in->fh_out, false);
	if (!from || !to)
		return -EBADF;
	from_at = (off_t)in->off_in;
	to_at = (off_t)in->off_out;
	fs_change_contents(c, true);
	n = copy_file_range(from->fd, &from_at, to->fd, &to_at, MIN(in->len, MAX_COPY), 0);
	if (n < 0)
		n = -errno;
	fs_change_contents(c, false);
	if (n < 0)
		return (int)n;
	out->size = n;
	return 0;
}

int fs_op_syncfs(struct fs_call *c)
{
	int fd = fs_open_beneath(c->s->root->fd, ".", O_RDONLY | O_DIRECTORY, 0);
	int r;

	if (fd < 0)
		return fd;
	r = syncfs(fd) < 0 ? -errno : 0;
	close(fd);
	return r;
}
