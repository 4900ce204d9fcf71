/* Directories: their entries, with and without what each one is. */
#include "devices/fs_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define BUFFER_BYTES (32 * KiB)
#define LEAST_BYTES  512ull /* holds one entry, whatever its name */
#define UNKNOWN	     UINT64_MAX

int fs_op_opendir(struct fs_call *c)
{
	const struct fuse_open_in *in = fs_take(c, sizeof(*in));
	struct fuse_open_out *out = fs_put(c, sizeof(*out));
	struct fs_node *n = fs_node_find(c->s, c->h->nodeid);
	struct fs_handle *h;
	int fd = -1, r;

	if (!in || !out)
		return -EINVAL;
	if (!n)
		return -ESTALE;
	if (!S_ISDIR(n->is.type))
		return -ENOTDIR;
	if (!fs_node_hollow(c->s, n)) {
		fd = fs_node_fd(c->s, n);
		if (fd < 0)
			return fd;
		fd = fs_open_beneath(fd, ".", O_RDONLY | O_DIRECTORY, 0);
		if (fd < 0)
			return fd;
	}
	r = fs_handle_add(c->s, n, fd, O_RDONLY, &h);
	if (r < 0)
		return r;
	out->fh = h->id;
	if (c->s->config.cache == FS_CACHE_ALWAYS)
		out->open_flags = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR;
	return 0;
}

/* Put one entry at the end of the reply. False: there is no room. */
static bool put_dirent(struct fs_call *c, const struct fs_node *dir, const struct dirent64 *d,
		       size_t name_len)
{
	struct fuse_dirent *out = fs_put(c, FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + name_len));

	if (!out)
		return false;
	out->ino = fs_mark_ino(d->d_ino, dir->dev_index);
	out->off = d->d_off;
	out->namelen = name_len;
	out->type = d->d_type;
	memcpy(out->name, d->d_name, name_len);
	return true;
}

static bool is_dots(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

static bool put_direntplus(struct fs_call *c, struct fs_node *dir, const struct dirent64 *d,
			   size_t name_len)
{
	size_t len = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + name_len);
	struct fuse_direntplus *out;
	struct fs_node *n;
	struct statx stx;

	/* Room first: an entry that is looked up is one that the guest must hear of. */
	out = fs_put(c, len);
	if (!out)
		return false;
	out->dirent.ino = fs_mark_ino(d->d_ino, dir->dev_index);
	out->dirent.off = d->d_off;
	out->dirent.namelen = name_len;
	out->dirent.type = d->d_type;
	memcpy(out->dirent.name, d->d_name, name_len);
	/* What is gone by now, or nobody may look at, is a name without a node. */
	if (!is_dots(d->d_name) && fs_node_lookup(c->s, dir, d->d_name, &n, &stx) == 0) {
		fs_fill_entry(c->s, n, &stx, &out->entry_out);
		out->dirent.ino = out->entry_out.attr.ino;
	}
	return true;
}

/* Entries of what the host gave, as far as there is room. False: it is full. */
static bool put_entries(struct fs_call *c, struct fs_handle *h, struct fs_node *dir, ssize_t bytes,
			bool plus)
{
	for (ssize_t at = 0; at < bytes;) {
		const struct dirent64 *d = (const struct dirent64 *)(c->s->buffer + at);
		size_t name_len = strlen(d->d_name);
		bool done = plus ? put_direntplus(c, dir, d, name_len) :
				   put_dirent(c, dir, d, name_len);

		if (!done) {
			h->position = UNKNOWN;
			return false;
		}
		h->position = d->d_off;
		at += d->d_reclen;
	}
	return true;
}

static int read_entries(struct fs_call *c, bool plus)
{
	const struct fuse_read_in *in = fs_take(c, sizeof(*in));
	struct fs_handle *h = in ? fs_handle_find(c->s, in->fh, true) : NULL;
	struct fs_node *dir = fs_node_find(c->s, c->h->nodeid);
	uint64_t want;
	ssize_t n;

	if (!in)
		return -EINVAL;
	if (!h || !dir || h->node_id != dir->id)
		return -EBADF;
	if (h->fd < 0)
		return 0;
	if (!c->s->buffer) {
		c->s->buffer = malloc(BUFFER_BYTES);
		if (!c->s->buffer)
			return -ENOMEM;
	}
	c->out_room = MIN(c->out_room, (size_t)in->size);
	if (h->position != in->offset && lseek(h->fd, (off_t)in->offset, SEEK_SET) < 0)
		return -errno;
	h->position = UNKNOWN;
	/* Entries grow by what we add to them, so a part of the room is a good measure. */
	want = MIN(plus ? c->out_room / 4 : c->out_room, BUFFER_BYTES);
	n = getdents64(h->fd, c->s->buffer, MAX(want, LEAST_BYTES));
	if (n < 0)
		return -errno;
	if (!put_entries(c, h, dir, n, plus) && !c->out_len)
		return -EINVAL; /* not even one fits */
	return 0;
}

int fs_op_readdir(struct fs_call *c)
{
	return read_entries(c, false);
}

int fs_op_readdirplus(struct fs_call *c)
{
	return read_entries(c, true);
}

int fs_op_fsyncdir(struct fs_call *c)
{
	const struct fuse_fsync_in *in = fs_take(c, sizeof(*in));
	struct fs_handle *h = in ? fs_handle_find(c->s, in->fh, true) : NULL;

	if (!in)
		return -EINVAL;
	if (!h)
		return -EBADF;
	if (h->fd < 0)
		return 0;
	return (in->fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(h->fd) : fsync(h->fd)) < 0 ?
		       -errno :
		       0;
}
