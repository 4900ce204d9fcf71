/*
 * The files beneath a disk image: found and opened before the monitor exists,
 * which opens nothing.
 *
 * What an image names as its backing file is the word of whoever made the image,
 * and a guest reads what is in there. So a file is opened because the command
 * line names it, or because it says that images may be followed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/block.h"
#include "devices/qcow2_image.h"

static int format_of(const struct qcow2_header *h, const char *path, struct error *err)
{
	if (!*h->backing_format)
		return BLOCK_FORMAT_AUTO;
	if (!strcmp(h->backing_format, "raw"))
		return BLOCK_FORMAT_RAW;
	if (!strcmp(h->backing_format, "qcow2"))
		return BLOCK_FORMAT_QCOW2;
	return error_usage(err, -ENOTSUP, "disk '%s': its backing file has format '%s', which is "
			   "not supported", path, h->backing_format);
}

/* The file that the image at @path names: relative to its own folder. */
static int resolve(const char *path, const char *name, char **ret, struct error *err)
{
	const char *slash = strrchr(path, '/'), *colon;
	int n;

	if (!strncmp(name, "file:", 5))
		name += 5;
	colon = strchr(name, ':');
	if (colon && !memchr(name, '/', colon - name))
		return error_usage(err, -ENOTSUP,
				   "disk '%s': its backing '%.100s' is not a file's name", path,
				   name);
	if (*name == '/' || !slash)
		n = asprintf(ret, "%s", name);
	else
		n = asprintf(ret, "%.*s/%s", (int)(slash - path), path, name);
	return n < 0 ? error_set(err, -ENOMEM, "disk '%s': %m", path) : 0;
}

static bool looks_like_qcow2(int fd)
{
	uint8_t head[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

	return pread(fd, head, sizeof(head), 0) >= 4 && get_be32(head) == QCOW2_MAGIC;
}

/* 1: @ret_h is the header of a qcow2 image with a backing file. 0: nothing beneath. */
static int look(int fd, const char *path, int format, struct qcow2_header *ret_h,
		struct error *err)
{
	uint64_t bytes;
	int r;

	if (format == BLOCK_FORMAT_RAW || (format == BLOCK_FORMAT_AUTO && !looks_like_qcow2(fd)))
		return 0;
	r = qcow2_image_header(fd, ret_h, &bytes, err);
	if (r < 0) {
		error_prefix(err, "disk '%s'", path);
		return r;
	}
	return *ret_h->backing != '\0';
}

static int refuse(const char *path, const char *name, struct error *err)
{
	error_usage(err, -EPERM,
		    "disk '%s': names the backing file '%.100s', which was not allowed", path,
		    name);
	error_hint(err, "allow it with 'backing=PATH', or all that images name with "
			"'follow-backing'; of 'wisp disk' these are options, --backing PATH");
	return -EPERM;
}

/* Open what is beneath the image that @h is the header of. */
static int descend(struct block_chain *c, const struct block_chain_params *p, const char *path,
		   const struct qcow2_header *h, struct error *err)
{
	struct block_chain_file *f = &c->file[c->num];
	int r;

	if (c->num == BLOCK_MAX_CHAIN)
		return error_usage(err, -ELOOP, "disk '%s': more than %d backing files", p->path,
				   BLOCK_MAX_CHAIN);
	r = format_of(h, path, err);
	if (r < 0)
		return r;
	*f = (struct block_chain_file){ .format = r, .fd = -1 };
	if (c->num < p->num_named) {
		f->path = strdup(p->named[c->num]);
		r = f->path ? 0 : error_set(err, -ENOMEM, "disk '%s': %m", path);
	} else if (p->follow) {
		r = resolve(path, h->backing, &f->path, err);
	} else {
		r = refuse(path, h->backing, err);
	}
	if (r < 0)
		return r;
	c->num++;
	/* Not blocking: a FIFO is to be refused, not waited for. */
	f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (f->fd < 0)
		return error_usage(err, -errno, "disk '%s': cannot open its backing file '%s': %m",
				   path, f->path);
	return 0;
}

int block_chain_open(struct block_chain *c, const struct block_chain_params *p, struct error *err)
{
	const char *path = p->path;
	int fd = p->fd, format = p->format;
	struct qcow2_header *h = malloc(sizeof(*h));
	int r;

	c->num = 0;
	if (!h)
		return error_set(err, -ENOMEM, "disk '%s': %m", path);
	while ((r = look(fd, path, format, h, err)) > 0) {
		r = descend(c, p, path, h, err);
		if (r < 0)
			break;
		fd = c->file[c->num - 1].fd;
		path = c->file[c->num - 1].path;
		format = c->file[c->num - 1].format;
	}
	free(h);
	if (!r && c->num < p->num_named)
		r = error_usage(err, -EINVAL, "disk '%s': has no backing file, but '%s' is given",
				path, p->named[c->num]);
	if (r < 0)
		block_chain_close(c);
	return r;
}

void block_chain_close(struct block_chain *c)
{
	for (unsigned i = 0; i < c->num; i++) {
		if (c->file[i].fd >= 0)
			close(c->file[i].fd);
		free(c->file[i].path);
	}
	c->num = 0;
}

bool block_chain_is_qcow2(const struct block_chain_file *f)
{
	return f->format == BLOCK_FORMAT_QCOW2 ||
	       (f->format == BLOCK_FORMAT_AUTO && looks_like_qcow2(f->fd));
}

const struct block_config *block_chain_take(struct block_chain *c, struct block_config *configs,
					    const struct block_config *top)
{
	for (unsigned i = 0; i < c->num; i++) {
		configs[i] = (struct block_config){
			.path = c->file[i].path,
			.fd = c->file[i].fd,
			.format = c->file[i].format,
			.read_only = true,
			.direct = top->direct,
			.backing = i + 1 < c->num ? &configs[i + 1] : NULL,
		};
		c->file[i].fd = -1;
	}
	return c->num ? configs : NULL;
}
