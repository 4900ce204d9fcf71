/* Opening an image, whatever its format, and what requests of all formats have in common. */
#include "devices/block.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/block_internal.h"
#include "devices/nbd.h"
#include "vmm/core/log.h"

#define PROBE_BYTES 4096u /* aligned and long enough for direct I/O on any device */

static const uint8_t qcow2_magic[4] = { 'Q', 'F', 'I', 0xfb };

/* ---- opening ---- */

static int open_fd(const struct block_config *config, struct error *err)
{
	/* Not blocking: a FIFO is to be refused, not waited for. */
	int flags = (config->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	int fd = config->fd;

	if (fd < 0 && nbd_is_uri(config->path) && nbd_wants_tls(config->path))
		return error_usage(err, -EOPNOTSUPP, "disk '%s': TLS is for the disks of microVMs",
				   config->path);
	if (fd < 0 && nbd_is_uri(config->path))
		return nbd_connect(config->path, NULL, err);
	if (fd < 0)
		fd = open(config->path, flags);
	if (fd < 0)
		return error_usage(err, -errno, "disk '%s': cannot open: %m", config->path);
	return fd;
}

static const char *kind_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return "a directory";
	case S_IFIFO:
		return "a pipe";
	case S_IFSOCK:
		return "a socket";
	case S_IFCHR:
		return "a character device";
	default:
		return "neither a file nor a block device";
	}
}

static int measure_device(struct block_file *f, struct error *err)
{
	int logical;
	unsigned physical;

	if (ioctl(f->fd, BLKGETSIZE64, &f->size_bytes) < 0 ||
	    ioctl(f->fd, BLKSSZGET, &logical) < 0 || ioctl(f->fd, BLKPBSZGET, &physical) < 0)
		return error_usage(err, -errno, "disk '%s': cannot ask the device its size: %m",
				   f->path);
	f->logical_block = logical;
	f->physical_block = physical;
	return 0;
}

static int measure(struct block_file *f, struct error *err)
{
	struct stat st;
	int r;

	if (fstat(f->fd, &st) < 0)
		return error_usage(err, -errno, "disk '%s': %m", f->path);
	if (S_ISBLK(st.st_mode)) {
		r = measure_device(f, err);
		if (r < 0)
			return r;
	} else if (S_ISREG(st.st_mode)) {
		f->size_bytes = st.st_size;
		f->logical_block = BLOCK_SECTOR;
		/* What the page cache and nearly all file systems work in. */
		f->physical_block = PAGE_SIZE;
	} else {
		return error_usage(err, -EINVAL, "disk '%s': is %s, not a disk image", f->path,
				   kind_name(st.st_mode));
	}
	return 0;
}

/*
 * The operation's own flags in place of those of open(2): left non-blocking, a
 * file system without asynchronous reads would answer EAGAIN.
 */
static int set_flags(const struct block_file *f, bool direct, struct error *err)
{
	int r;

	if (fcntl(f->fd, F_SETFL, direct ? O_DIRECT : 0) == 0)
		return 0;
	r = error_usage(err, -errno, "disk '%s': direct I/O: %m", f->path);
	if (r == -EINVAL)
		error_hint(err, "its file system has no direct I/O; leave 'direct' out");
	return r;
}

static int is_qcow2(const struct block_file *f, bool *ret_yes, struct error *err)
{
	uint8_t head[PROBE_BYTES] __attribute__((aligned(PROBE_BYTES)));
	ssize_t n = pread(f->fd, head, sizeof(head), 0);

	if (n < 0)
		return error_usage(err, -errno, "disk '%s': cannot read: %m", f->path);
	*ret_yes = (size_t)n >= sizeof(qcow2_magic) &&
		   memcmp(head, qcow2_magic, sizeof(qcow2_magic)) == 0;
	return 0;
}

static int open_raw(struct block **ret_block, struct block_file *f,
		    const struct block_config *config, struct error *err)
{
	if (f->size_bytes < BLOCK_SECTOR)
		return error_usage(err, -EINVAL, "disk '%s': %llu bytes are less than a sector",
				   f->path, (unsigned long long)f->size_bytes);
	if (f->size_bytes % BLOCK_SECTOR)
		log_warn("disk '%s': the last %u bytes do not fill a sector and are not shown",
			 f->path, (unsigned)(f->size_bytes % BLOCK_SECTOR));
	f->size_bytes = align_down(f->size_bytes, BLOCK_SECTOR);
	return block_raw_create(ret_block, f, config, err);
}

static int open_qcow2(struct block **ret_block, struct block_file *f,
		      const struct block_config *config, struct error *err)
{
	struct block_config under = *config;
	struct block *container;
	int r;

	under.container = true;
	/* Durability is the format's business: it knows when. */
	if (under.cache == BLOCK_CACHE_WRITETHROUGH)
		under.cache = BLOCK_CACHE_WRITEBACK;
	r = block_raw_create(&container, f, &under, err);
	if (r < 0) {
		block_close_configs(config->backing);
		return r;
	}
	r = block_qcow2_create(ret_block, container, f->fd, config, err);
	if (r < 0) {
		/* The descriptor is the container's, and the caller closes it too. */
		f->fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
		block_close(container);
	}
	return r;
}

void block_close_configs(const struct block_config *config)
{
	for (; config; config = config->backing) {
		if (config->fd >= 0)
			close(config->fd);
	}
}

/* A file of any kind, as the format that it has. The backing file is taken over, or closed. */
static int open_file(struct block **ret_block, struct block_file *f,
		     const struct block_config *config, bool *ret_qcow2, struct error *err)
{
	bool qcow2 = config->format == BLOCK_FORMAT_QCOW2;
	int r = measure(f, err);

	/* Formats read their tables at once, which need not be aligned. */
	if (!r)
		r = set_flags(f, false, err);
	if (!r && !config->unlocked)
		r = block_file_lock(f, config->read_only, err);
	if (!r && config->format == BLOCK_FORMAT_AUTO)
		r = is_qcow2(f, &qcow2, err);
	*ret_qcow2 = qcow2;
	if (!r && qcow2)
		return open_qcow2(ret_block, f, config, err);
	if (!r)
		r = open_raw(ret_block, f, config, err);
	block_close_configs(config->backing);
	return r;
}

int block_open(struct block **ret_block, const struct block_config *config, struct error *err)
{
	struct block_file f = { .fd = open_fd(config, err), .path = config->path };
	struct block *b = NULL;
	bool qcow2;
	int r;

	if (f.fd < 0 || nbd_is_uri(config->path))
		block_close_configs(config->backing);
	if (f.fd < 0)
		return f.fd;
	if (nbd_is_uri(config->path)) {
		r = block_nbd_create(ret_block, f.fd, config, err);
		if (r < 0)
			close(f.fd);
		return r;
	}
	r = open_file(&b, &f, config, &qcow2, err);
	if (r || !b) {
		close(f.fd);
		return r;
	}
	if (config->direct)
		r = set_flags(&f, true, err);
	if (r < 0) {
		block_close(b);
		return r;
	}
	b->guarded = config->format == BLOCK_FORMAT_AUTO && !qcow2;
	*ret_block = b;
	return 0;
}

/* ---- requests ---- */

static void deliver_finished(struct loop_task *task)
{
	struct block *b = container_of(task, struct block, finish);

	while (!list_empty(&b->finished)) {
		struct block_req *req = list_entry(b->finished.next, struct block_req, link);

		list_del(&req->link);
		block_finish(req, req->res);
	}
}

void block_attach(struct block *b, struct loop *loop)
{
	b->loop = loop;
	list_init(&b->finished);
	b->finish.run = deliver_finished;
	if (b->ops->attach)
		b->ops->attach(b);
}

bool block_can_share(const struct block *b)
{
	return b->ops->share;
}

int block_share(struct block **ret_block, struct block *origin, struct loop *loop)
{
	int r = origin->ops->share ? origin->ops->share(origin, ret_block) : -EOPNOTSUPP;

	if (r < 0)
		return r;
	(*ret_block)->origin = origin;
	block_attach(*ret_block, loop);
	return 0;
}

int block_resize(struct block *b, uint64_t bytes)
{
	int r;

	if (!b->ops->resize)
		return -EOPNOTSUPP;
	if (b->read_only)
		return -EROFS;
	if (bytes < BLOCK_SECTOR || bytes % BLOCK_SECTOR)
		return -EINVAL;
	if (b->overlay)
		return -EBUSY;
	r = b->ops->resize(b, bytes);
	if (!r)
		__atomic_store_n(&b->size_bytes, bytes, __ATOMIC_RELAXED);
	return r;
}

void block_hurry(struct block *b)
{
	if (b->ops->hurry)
		b->ops->hurry(b);
}

bool block_keeps_tables(const struct block *b)
{
	return b->ops->settle && !b->read_only;
}

int block_reload(struct block *b, int fd, struct error *err)
{
	return block_keeps_tables(b) ? b->ops->reload(b, fd, err) : 0;
}

static void settle_go(struct loop_task *task)
{
	struct block_settling *s = container_of(task, struct block_settling, go);
	struct block *b = s->req.block;

	b->inflight++;
	if (block_keeps_tables(b))
		b->ops->settle(b, &s->req);
	else
		block_finish_later(&s->req, 0);
}

static void settle_back(struct loop_task *task)
{
	struct block_settling *s = container_of(task, struct block_settling, back);

	s->done(s, s->res);
}

static void settled(struct block_req *req, int res)
{
	struct block_settling *s = container_of(req, struct block_settling, req);

	s->res = res;
	loop_post(s->home, &s->back);
}

void block_settle(struct block *b, struct loop *home, struct block_settling *s)
{
	s->home = home;
	s->go = (struct loop_task){ .run = settle_go };
	s->back = (struct loop_task){ .run = settle_back };
	s->req = (struct block_req){ .op = BLOCK_FLUSH, .block = b, .done = settled };
	loop_post(b->loop, &s->go);
}

uint64_t block_hole(struct block *b, uint64_t pos)
{
	return b->ops->hole && !b->overlay && pos < block_size(b) ? b->ops->hole(b, pos) : 0;
}

int block_close(struct block *b)
{
	struct block_watch *watch;
	int r;

	if (!b)
		return 0;
	watch = b->origin ? NULL : b->watch;
	block_close(b->overlay_file);
	if (!b->origin)
		block_overlay_free(b->overlay);
	r = b->ops->free(b);
	block_watch_free(watch);
	return r;
}

void block_finish(struct block_req *req, int res)
{
	free(req->rest);
	req->rest = NULL;
	req->block->inflight--;
	if (req->op != BLOCK_READ && req->op != BLOCK_FLUSH)
		block_watch_note(req);
	/* The last touch: done() may free the request, and the block with it. */
	req->done(req, res);
}

void block_finish_later(struct block_req *req, int res)
{
	req->res = res;
	list_add_tail(&req->block->finished, &req->link);
	loop_defer(req->block->loop, &req->block->finish);
}

static int check(const struct block *b, const struct block_req *req)
{
	if (req->op == BLOCK_FLUSH)
		return 0;
	if (req->op != BLOCK_READ && b->read_only)
		return -EROFS;
	return range_inside(req->offset, req->len, 0, block_size(b)) ? 0 : -EIO;
}

void block_dispatch(struct block *b, struct block_req *req)
{
	if ((b->origin ? b->origin : b)->overlay)
		block_overlay_submit(b, req);
	else
		b->ops->submit(b, req);
}

void block_submit(struct block *b, struct block_req *req)
{
	int r = check(b, req);

	req->block = b;
	req->rest = NULL;
	req->progress = 0;
	req->stage = 0;
	b->inflight++;
	if (r < 0 || (req->op == BLOCK_FLUSH ? b->no_flush || b->read_only : !req->len))
		block_finish_later(req, r);
	else if (b->guarded && req->op == BLOCK_WRITE && req->offset < sizeof(qcow2_magic))
		block_guard_submit(b, req);
	else
		block_dispatch(b, req);
}
