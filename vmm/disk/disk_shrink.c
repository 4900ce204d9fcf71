/* What is cut off a disk is zeroed first: its clusters are free, and it does not come back. */
#include <errno.h>
#include <fcntl.h>

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

int disk_zero_end(int fd, const char *path, uint64_t from, struct error *err)
{
	struct loop_params params = { .name = "resize" };
	struct block_config config = { .path = path, .format = BLOCK_FORMAT_QCOW2 };
	struct zeroing z = { .req.op = BLOCK_WRITE_ZEROES };
	struct block *b;
	struct loop *loop;
	int r = loop_create(&loop, &params, err);

	if (r < 0)
		return r;
	config.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	r = block_open(&b, &config, err);
	if (r < 0) {
		loop_free(loop);
		return r;
	}
	block_attach(b, loop);
	z.req.may_unmap = true;
	z.req.offset = from;
	z.req.len = block_size(b) - from;
	z.req.done = zeroed;
	block_submit(b, &z.req);
	while (!z.over)
		loop_run_once(loop, UINT64_MAX);
	block_close(b);
	loop_free(loop);
	return z.res < 0 ? error_usage(err, z.res, "'%s': cannot be cut: %m", path) : 0;
}
