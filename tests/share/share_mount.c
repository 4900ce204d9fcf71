/*
 * share_mount DIR MOUNTPOINT [never|auto|always] [writeback|acl]
 *
 * A shared directory as a guest would see it, mounted on this host by its own FUSE: the server in
 * its process, the monitor's client and the loop are those of a microVM, /dev/fuse is in the place
 * of the ring. So suites for file systems (pjdfstest, fsx, fsstress) run against it as fast as this
 * host is, without a guest. Needs root; runs until it is unmounted.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

#include "devices/fs_client.h"
#include "vmm/config/config.h"
#include "vmm/core/log.h"
#include "vmm/share.h"

/* FUSE's largest write, and what comes before its data. */
#define BUF_BYTES (1 * MiB + 64 * KiB)
/* Replies without data of files are shorter. */
#define REPLY_BYTES (64 * KiB)
/* Requests to take before others have their turn. */
#define BATCH 64

struct share_mount {
	struct loop *loop;
	struct fs_client *client;
	int fuse_fd;
	struct loop_op readable;
	struct list idle; /* requests to use again */
};

struct request {
	struct fs_request req;
	struct share_mount *mount;
	struct list link;
	struct iovec out, in, scratch[4];
	uint8_t *asked, *reply; /* BUF_BYTES each */
};

static struct request *get_request(struct share_mount *m)
{
	struct request *r;

	if (!list_empty(&m->idle)) {
		r = list_entry(m->idle.next, struct request, link);
		list_del(&r->link);
		return r;
	}
	r = calloc(1, sizeof(*r));
	if (r) {
		r->mount = m;
		r->asked = aligned_alloc(PAGE_SIZE, BUF_BYTES);
		r->reply = aligned_alloc(PAGE_SIZE, BUF_BYTES);
	}
	if (!r || !r->asked || !r->reply) {
		fprintf(stderr, "share_mount: no memory\n");
		exit(1);
	}
	return r;
}

static void request_done(struct fs_request *req, uint32_t bytes)
{
	struct request *r = container_of(req, struct request, req);
	const struct fuse_in_header *asked = (const void *)r->asked;

	/* ENOENT: whoever asked was interrupted, and waits no more. */
	if (bytes && write(r->mount->fuse_fd, r->reply, bytes) < 0 && errno != ENOENT)
		fprintf(stderr, "share_mount: the reply to operation %u is refused: %m\n",
			asked->opcode);
	list_add_tail(&r->mount->idle, &r->link);
}

/* On a ring the driver says how much room there is for the reply. */
static uint32_t reply_room(const struct fuse_in_header *asked)
{
	const struct fuse_read_in *in = (const void *)(asked + 1);

	switch (asked->opcode) {
	case FUSE_READ:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
		return MIN(sizeof(struct fuse_out_header) + in->size, BUF_BYTES);
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
		return 0;
	default:
		return REPLY_BYTES;
	}
}

static void submit(struct share_mount *m, struct request *r, size_t len)
{
	uint32_t room = reply_room((const void *)r->asked);

	r->out = (struct iovec){ r->asked, len };
	r->in = (struct iovec){ r->reply, room };
	r->req = (struct fs_request){
		.out = &r->out,
		.num_out = 1,
		.out_bytes = len,
		.in = &r->in,
		.num_in = room ? 1 : 0,
		.in_bytes = room,
		.scratch = r->scratch,
		.done = request_done,
	};
	fs_client_submit(m->client, &r->req);
}

static void take_requests(struct loop_op *op, int res)
{
	struct share_mount *m = container_of(op, struct share_mount, readable);

	for (unsigned i = 0; i < BATCH; i++) {
		struct request *r = get_request(m);
		ssize_t n = read(m->fuse_fd, r->asked, BUF_BYTES);

		if (n > 0) {
			submit(m, r, n);
			continue;
		}
		list_add_tail(&m->idle, &r->link);
		/* ENOENT: what it was to read was taken back. */
		if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOENT))
			break;
		loop_stop(m->loop); /* unmounted */
		return;
	}
	loop_poll(m->loop, &m->readable, m->fuse_fd, POLLIN);
}

static int mount_fuse(struct share_mount *m, const char *from, const char *where, struct error *err)
{
	char options[160];

	m->fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (m->fuse_fd < 0)
		return error_set(err, -errno, "/dev/fuse: %m");
	/* As virtio-fs mounts are. */
	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
		 m->fuse_fd);
	if (mount(from, where, "fuse.wisp", 0, options) < 0)
		return error_set(err, -errno, "'%s': cannot mount: %m", where);
	return 0;
}

int main(int argc, char **argv)
{
	static const char *const cache[] = {
		[FS_CACHE_AUTO] = "auto",
		[FS_CACHE_NEVER] = "never",
		[FS_CACHE_ALWAYS] = "always",
	};
	struct config_share config = { .tag = "share", .id = "share", .xattr = true };
	struct loop_params params = { 0 };
	struct share_mount m = { 0 };
	struct share share = { 0 };
	struct error err = { 0 };
	int socket, r;

	if (argc < 3) {
		fprintf(stderr, "share_mount DIR MOUNTPOINT [never|auto|always] [writeback|acl]\n");
		return 2;
	}
	config.path = argv[1];
	for (unsigned i = 0; i < ARRAY_SIZE(cache); i++)
		if (argc > 3 && !strcmp(argv[3], cache[i]))
			config.cache = i;
	config.writeback = argc > 4 && !strcmp(argv[4], "writeback");
	config.acl = argc > 4 && !strcmp(argv[4], "acl");
	log_setup(STDERR_FILENO, LOG_WARN);
	list_init(&m.idle);
	r = share_start(&share, &config, &socket, &err);
	if (!r)
		r = loop_create(&m.loop, &params, &err);
	if (!r)
		r = fs_client_create(&m.client, socket, m.loop, "share", &err);
	if (!r)
		r = mount_fuse(&m, argv[1], argv[2], &err);
	if (r < 0) {
		error_print(&err);
		return 1;
	}
	fs_client_start(m.client);
	m.readable.done = take_requests;
	loop_poll(m.loop, &m.readable, m.fuse_fd, POLLIN);
	loop_run(m.loop);
	/* What is left ends with us. */
	return 0;
}
