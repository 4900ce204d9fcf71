/*
 * Fuzz target (libFuzzer): a qcow2 image that an enemy made, opened, used and mended. The last 32
 * bytes of the input say what is read, written and discarded, 4 bytes each; the rest is the file.
 * What must hold: nothing that a sanitizer looks for, everything comes to an end, and nothing makes
 * the file grow without bounds.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices/block.h"
#include "devices/qcow2_image.h"
#include "vmm/core/log.h"

#define SCRIPT	  32u
#define MAX_IMAGE (256 * KiB)
#define MAX_BYTES (16 * KiB)
#define MAX_TURNS 20000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
	struct block_req req;
	struct iovec iov;
	uint8_t buf[MAX_BYTES];
	bool done;
};

static void request_done(struct block_req *req, int res)
{
	container_of(req, struct run, req)->done = true;
}

static int make_file(const uint8_t *data, size_t size)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	return fd;
}

/* One request: which, how long and where. */
static void request(struct run *r, struct block *b, struct loop *loop, const uint8_t *what)
{
	uint64_t sectors = block_size(b) / BLOCK_SECTOR, first;
	unsigned turns = 0;

	if (!sectors)
		return;
	first = (uint64_t)get_le16(what + 2) * (sectors / 65536 + 1) % sectors;
	r->done = false;
	r->req = (struct block_req){
		.op = what[0] % (BLOCK_WRITE_ZEROES + 1),
		.may_unmap = what[0] & 64,
		.durable = what[0] & 128,
		.offset = first * BLOCK_SECTOR,
		.len = MIN((what[1] % (MAX_BYTES / BLOCK_SECTOR) + 1ull), sectors - first) *
		       BLOCK_SECTOR,
		.iov = &r->iov,
		.iovcnt = 1,
		.done = request_done,
	};
	if (r->req.op == BLOCK_FLUSH)
		r->req.offset = r->req.len = 0;
	r->iov = (struct iovec){ r->buf, r->req.len };
	block_submit(b, &r->req);
	while (!r->done && ++turns < MAX_TURNS)
		loop_run_once(loop, NSEC_PER_MSEC);
	if (!r->done)
		abort(); /* a request never ends */
}

static void use(int fd, const uint8_t *script)
{
	struct block_config config = { .path = "image",
				       .fd = dup(fd),
				       .format = BLOCK_FORMAT_QCOW2 };
	struct loop_params params = { .backend = LOOP_EPOLL, .name = "fuzz" };
	static struct run r;
	struct error err = { 0 };
	struct loop *loop;
	struct block *b;

	if (block_open(&b, &config, &err) < 0)
		return;
	if (loop_create(&loop, &params, &err) < 0)
		abort();
	block_attach(b, loop);
	for (unsigned i = 0; i + 4 <= SCRIPT; i += 4)
		request(&r, b, loop, script + i);
	block_close(b);
	loop_free(loop);
}

static void check(int fd, bool repair)
{
	struct qcow2_check found = { 0 };
	struct error err = { 0 };

	qcow2_image_check(fd, repair, &found, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qcow2_header header;
	struct error err = { 0 };
	uint64_t bytes;
	off_t end;
	int fd;

	if (size <= SCRIPT || size > MAX_IMAGE)
		return 0;
	log_setup(-1, LOG_ERROR);
	fd = make_file(data, size - SCRIPT);
	if (qcow2_image_header(fd, &header, &bytes, &err) == 0) {
		check(fd, false);
		use(fd, data + size - SCRIPT);
		check(fd, true);
		use(fd, data + size - SCRIPT);
		end = lseek(fd, 0, SEEK_END);
		/* Clusters of 2 MiB, one for each that was written, and tables for them. */
		if (end > (off_t)(256 * MiB))
			abort();
	}
	close(fd);
	return 0;
}
