/* Attributes: what a file is like, and making it otherwise. */
#include "devices/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/vfs.h>
#include <unistd.h>

#define ALWAYS_SECONDS 86400

uint64_t fs_valid_seconds(const struct fs_server *s)
{
	switch (s->config.cache) {
	case FS_CACHE_AUTO:
		return 1;
	case FS_CACHE_NEVER:
		return 0;
	case FS_CACHE_ALWAYS:
		break;
	}
	return ALWAYS_SECONDS;
}

/* As the kernel puts a device number into 32 bits. */
static uint32_t encode_dev(uint32_t major, uint32_t minor)
{
	return (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
}

uint64_t fs_mark_ino(uint64_t ino, uint16_t dev_index)
{
	return ino ^ (uint64_t)dev_index << 48;
}

static void fill_attr(const struct fs_server *s, const struct fs_node *n, const struct statx *stx,
		      struct fuse_attr *attr)
{
	*attr = (struct fuse_attr){
		.ino = fs_mark_ino(stx->stx_ino, n->dev_index),
		.size = stx->stx_size,
		.blocks = stx->stx_blocks,
		.atime = stx->stx_atime.tv_sec,
		.mtime = stx->stx_mtime.tv_sec,
		.ctime = stx->stx_ctime.tv_sec,
		.atimensec = stx->stx_atime.tv_nsec,
		.mtimensec = stx->stx_mtime.tv_nsec,
		.ctimensec = stx->stx_ctime.tv_nsec,
		.mode = stx->stx_mode,
		.nlink = stx->stx_nlink,
		.uid = stx->stx_uid,
		.gid = stx->stx_gid,
		.rdev = encode_dev(stx->stx_rdev_major, stx->stx_rdev_minor),
		.blksize = stx->stx_blksize,
	};
}

void fs_fill_entry(const struct fs_server *s, const struct fs_node *n, const struct statx *stx,
		   struct fuse_entry_out *entry)
{
	*entry = (struct fuse_entry_out){
		.nodeid = n->id,
		.entry_valid = fs_valid_seconds(s),
		.attr_valid = fs_valid_seconds(s),
	};
	fill_attr(s, n, stx, &entry->attr);
}

/* Of an open file, whose name may be gone and with it the way to @n; else NULL. */
static struct fs_handle *handle_of(struct fs_server *s, const struct fs_node *n, uint64_t fh)
{
	struct fs_handle *h = fs_handle_find(s, fh, false);

	return h && h->node_id == n->id ? h : NULL;
}

/* @h: how it is open, or NULL. */
static int reply_attr(struct fs_call *c, struct fs_node *n, const struct fs_handle *h)
{
	struct fuse_attr_out *out = fs_put(c, sizeof(*out));
	struct statx stx;
	int r;

	if (!out)
		return -EINVAL;
	r = h ? fs_stat_fd(h->fd, &stx) : fs_node_stat(c->s, n, &stx);
	if (r < 0)
		return r;
	out->attr_valid = fs_valid_seconds(c->s);
	fill_attr(c->s, n, &stx, &out->attr);
	return 0;
}

int fs_op_getattr(struct fs_call *c)
{
	const struct fuse_getattr_in *in = fs_take(c, sizeof(*in));
	struct fs_node *n = fs_node_find(c->s, c->h->nodeid);

	if (!n)
		return -ESTALE;
	return reply_attr(c, n, in && in->getattr_flags & FUSE_GETATTR_FH ?
					handle_of(c->s, n, in->fh) : NULL);
}

/* ---- setattr ---- */

static int set_mode(struct fs_server *s, struct fs_node *n, mode_t mode)
{
	int fd = fs_node_fd(s, n);
	char path[FS_FD_PATH];

	if (fd < 0)
		return fd;
	if (S_ISLNK(n->is.type))
		return -EOPNOTSUPP;
	return chmod(fs_fd_path(path, fd), mode & 07777) < 0 ? -errno : 0;
}

static int set_owner(struct fs_server *s, struct fs_node *n, const struct fuse_setattr_in *in)
{
	uid_t uid = in->valid & FATTR_UID ? in->uid : (uid_t)-1;
	gid_t gid = in->valid & FATTR_GID ? in->gid : (gid_t)-1;
	int fd = fs_node_fd(s, n);

	if (fd < 0)
		return fd;
	return fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int set_size(struct fs_server *s, struct fs_node *n, const struct fuse_setattr_in *in)
{
	struct fs_handle *h;
	int fd, r;

	if (!S_ISREG(n->is.type))
		return -EINVAL;
	if (in->size > INT64_MAX)
		return -EFBIG;
	if (in->valid & FATTR_FH) {
		h = handle_of(s, n, in->fh);
		if (!h)
			return -EBADF;
		return ftruncate(h->fd, in->size) < 0 ? -errno : 0;
	}
	fd = fs_open_node(s, n, O_WRONLY);
	if (fd < 0)
		return fd;
	r = ftruncate(fd, in->size) < 0 ? -errno : 0;
	close(fd);
	return r;
}

static struct timespec new_time(uint32_t valid, uint32_t set, uint32_t now, uint64_t sec,
				uint32_t nsec)
{
	if (valid & now)
		return (struct timespec){ .tv_nsec = UTIME_NOW };
	if (!(valid & set))
		return (struct timespec){ .tv_nsec = UTIME_OMIT };
	/* A guest's nanoseconds must not read as one of the two words above. */
	return (struct timespec){ .tv_sec = sec, .tv_nsec = MIN(nsec, 999999999u) };
}

static int set_times(struct fs_server *s, struct fs_node *n, const struct fuse_setattr_in *in)
{
	struct timespec t[2] = {
		new_time(in->valid, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
		new_time(in->valid, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec),
	};
	int fd = fs_node_fd(s, n);

	if (fd < 0)
		return fd;
	return utimensat(fd, "", t, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

int fs_op_setattr(struct fs_call *c)
{
	const struct fuse_setattr_in *in = fs_take(c, sizeof(*in));
	struct fs_node *n = fs_node_find(c->s, c->h->nodeid);
	int r = 0;

	if (!in)
		return -EINVAL;
	if (!n)
		return -ESTALE;
	/* Who may do what with an interface of the kernel is the host's affair. */
	if (fs_node_hollow(c->s, n))
		return -EROFS;
	/* The owner first: changing it takes set-user-ID bits away, which a mode may bring. */
	if (in->valid & (FATTR_UID | FATTR_GID))
		r = set_owner(c->s, n, in);
	if (!r && in->valid & FATTR_MODE)
		r = set_mode(c->s, n, in->mode);
	if (!r && in->valid & FATTR_SIZE) {
		fs_change_contents(c, true);
		r = set_size(c->s, n, in);
		fs_change_contents(c, false);
	}
	if (!r && in->valid & (FATTR_ATIME | FATTR_ATIME_NOW | FATTR_MTIME | FATTR_MTIME_NOW))
		r = set_times(c->s, n, in);
	if (r < 0)
		return r;
	return reply_attr(c, n, in->valid & FATTR_FH ? handle_of(c->s, n, in->fh) : NULL);
}

/* ---- of the whole, and of links ---- */

int fs_op_statfs(struct fs_call *c)
{
	struct fs_node *n = fs_node_find(c->s, c->h->nodeid);
	struct fuse_statfs_out *out = fs_put(c, sizeof(*out));
	struct statfs st;
	int fd;

	if (!out)
		return -EINVAL;
	if (!n)
		return -ESTALE;
	fd = fs_node_fd(c->s, n);
	if (fd < 0)
		return fd;
	if (fstatfs(fd, &st) < 0)
		return -errno;
	out->st = (struct fuse_kstatfs){
		.blocks = st.f_blocks,
		.bfree = st.f_bfree,
		.bavail = st.f_bavail,
		.files = st.f_files,
		.ffree = st.f_ffree,
		.bsize = st.f_bsize,
		.namelen = FS_NAME_MAX,
		.frsize = st.f_frsize,
	};
	return 0;
}

int fs_op_readlink(struct fs_call *c)
{
	struct fs_node *n = fs_node_find(c->s, c->h->nodeid);
	ssize_t len;
	int fd;

	if (!n)
		return -ESTALE;
	if (!S_ISLNK(n->is.type))
		return -EINVAL;
	fd = fs_node_fd(c->s, n);
	if (fd < 0)
		return fd;
	len = readlinkat(fd, "", (char *)c->out, c->out_room);
	if (len < 0)
		return -errno;
	c->out_len = len;
	return 0;
}
