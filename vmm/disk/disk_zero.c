/*
 * What a disk of another size would show that its owner never put there: what is cut off is zeroed
 * first, so that it does not come back; and where a disk grows over a file beneath it that is
 * longer, that file stays hidden, as it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "devices/qcow2_format.h"
#include "devices/qcow2_image.h"
#include "vmm/disk/disk.h"

struct zeroing {
	struct block_req req;
	bool over;
	int res;
};

static void zeroed(struct block_req *req, int res)
{
	struct zeroing *z = container_of(req, struct zeroing, req);

	z->over = true;
	z->res = res;
}

static int zero(struct loop *loop, struct block *b, uint64_t from, uint64_t to, bool may_unmap)
{
	struct zeroing z = {
		.req = {
			.op = BLOCK_WRITE_ZEROES,
			.may_unmap = may_unmap,
			.offset = from,
			.len = to - from,
			.done = zeroed,
		},
	};

	block_submit(b, &z.req);
	while (!z.over)
		loop_run_once(loop, UINT64_MAX);
	return z.res;
}

static int open_chain(struct block_chain *chain, int fd, const char *path,
		      const struct disk_options *o, struct error *err)
{
	const char *const named[] = { o->backing };
	const struct block_chain_params params = {
		.path = path,
		.fd = fd,
		.format = BLOCK_FORMAT_QCOW2,
		.named = named,
		.num_named = o->backing ? 1 : 0,
		.follow = o->follow_backing,
	};
	int r = block_chain_open(chain, &params, err);

	if (r == -EPERM)
		error_hint(err, "a disk's end may show what lies beneath: allow a look there with "
				"--backing PATH or --follow-backing on");
	return r;
}

/* The size of the disk that is right beneath; 0: none is. */
static int beneath_bytes(const struct block_chain *chain, uint64_t *ret_bytes, struct error *err)
{
	const struct block_chain_file *f = chain->file;
	struct qcow2_header h;
	uint64_t file_bytes;
	off_t end;
	int r;

	*ret_bytes = 0;
	if (!chain->num)
		return 0;
	end = lseek(f->fd, 0, SEEK_END);
	if (end < 0)
		return error_usage(err, -errno, "'%s': cannot read: %m", f->path);
	*ret_bytes = end;
	if (f->format == BLOCK_FORMAT_RAW || !block_chain_is_qcow2(f))
		return 0;
	r = qcow2_image_header(f->fd, &h, &file_bytes, err);
	if (r < 0)
		error_prefix(err, "'%s'", f->path);
	else
		*ret_bytes = h.size_bytes;
	return r;
}

/* Zero from @from to the end; or with @hide only as far as something beneath would show there. */
static int zero_end(int fd, const char *path, const struct disk_options *o, uint64_t from,
		    bool hide, struct error *err)
{
	struct loop_params params = { .name = "resize" };
	struct block_config config = { .path = path, .format = BLOCK_FORMAT_QCOW2 };
	struct block_config beneath[BLOCK_MAX_CHAIN];
	struct block_chain chain = { 0 };
	struct loop *loop = NULL;
	struct block *b = NULL;
	uint64_t shown = 0, to;
	int closed, r = open_chain(&chain, fd, path, o, err);

	if (!r)
		r = beneath_bytes(&chain, &shown, err);
	if (r < 0 || (hide && shown <= from))
		goto out;
	r = loop_create(&loop, &params, err);
	if (r < 0)
		goto out;
	config.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	config.backing = block_chain_take(&chain, beneath, &config);
	r = block_open(&b, &config, err);
	if (r < 0)
		goto out;
	block_attach(b, loop);
	to = hide ? MIN(shown, block_size(b)) : block_size(b);
	/* To unmap would be to show what is beneath, where an image cannot say otherwise. */
	r = zero(loop, b, from, to, !hide);
	closed = block_close(b);
	r = r ? r : closed;
	if (r < 0)
		error_usage(err, r, "'%s': its end cannot be zeroed: %m", path);
out:
	if (loop)
		loop_free(loop);
	block_chain_close(&chain);
	return r;
}

int disk_zero_end(int fd, const char *path, const struct disk_options *o, uint64_t from,
		  struct error *err)
{
	return zero_end(fd, path, o, from, false, err);
}

int disk_hide_beneath(int fd, const char *path, const struct disk_options *o, uint64_t from,
		      struct error *err)
{
	return zero_end(fd, path, o, from, true, err);
}
