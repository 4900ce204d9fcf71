/*
 * Random requests, many in flight, against a qcow2 image and a model of it in
 * memory: what is read must be what the model has, and afterwards QEMU must find
 * the image sound and its content equal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/qcow2_tools.h"
#include "vmm/core/log.h"

#define MAX_LEN	  (160 * KiB)
#define DEPTH	  24
#define OPS	  1500

struct kind {
	const char *name;
	const char *create;  /* options of qemu-img create, without the size */
	const char *backing; /* makes "base", or NULL */
	const char *after;   /* to do with the new image */
	uint64_t size;
	struct block_config base;
	bool has_base;
	bool no_zero; /* version 2 with a backing file: a discard changes nothing */
};

struct model {
	struct images *im;
	struct block *b;
	uint8_t *disk;
	uint64_t size;
	unsigned seed;
	struct slot {
		struct block_req req;
		struct iovec iov[3];
		uint8_t *buf;
		struct model *m;
		bool busy;
	} slot[DEPTH];
	unsigned busy;
	bool no_zero;
};

static unsigned rnd(struct model *m, unsigned below)
{
	m->seed = m->seed * 1103515245u + 12345u;
	return (m->seed >> 8) % below;
}

static void done(struct block_req *req, int res)
{
	struct slot *s = container_of(req, struct slot, req);
	struct model *m = s->m;

	if (res)
		fail_msg("operation %d at %llu+%llu: %d", req->op,
			 (unsigned long long)req->offset, (unsigned long long)req->len, res);
	if (req->op == BLOCK_READ && memcmp(s->buf, m->disk + req->offset, req->len) != 0) {
		uint64_t i = 0;

		while (s->buf[i] == m->disk[req->offset + i])
			i++;
		fail_msg("read %llu+%llu: byte %llu is %#x, not %#x",
			 (unsigned long long)req->offset, (unsigned long long)req->len,
			 (unsigned long long)(req->offset + i), s->buf[i],
			 m->disk[req->offset + i]);
	}
	s->busy = false;
	m->busy--;
}

/* Requests in flight share clusters but no sector: what they leave is then known. */
static bool is_free(const struct model *m, uint64_t offset, uint64_t len)
{
	for (unsigned i = 0; i < DEPTH; i++) {
		const struct slot *s = &m->slot[i];

		if (s->busy && s->req.len && ranges_overlap(s->req.offset, s->req.len, offset, len))
			return false;
	}
	return true;
}

static struct slot *free_slot(struct model *m)
{
	for (;;) {
		for (unsigned i = 0; i < DEPTH; i++)
			if (!m->slot[i].busy)
				return &m->slot[i];
		loop_run_once(m->im->loop, NSEC_PER_SEC);
	}
}

static void apply(struct model *m, struct slot *s)
{
	uint64_t offset = s->req.offset, len = s->req.len;

	switch (s->req.op) {
	case BLOCK_WRITE:
		for (uint64_t i = 0; i < len; i++)
			s->buf[i] = m->seed + i * 3 + (i >> 9);
		memcpy(m->disk + offset, s->buf, len);
		break;
	case BLOCK_WRITE_ZEROES:
		memset(m->disk + offset, 0, len);
		break;
	default:
		break;
	}
}

static void step(struct model *m)
{
	static const enum block_op ops[] = { BLOCK_READ, BLOCK_READ, BLOCK_WRITE, BLOCK_WRITE,
					     BLOCK_WRITE, BLOCK_WRITE_ZEROES };
	struct slot *s = free_slot(m);
	uint64_t sectors = m->size / BLOCK_SECTOR, first, n;
	unsigned pick = rnd(m, 100);

	s->m = m;
	s->req = (struct block_req){ .op = ops[pick % ARRAY_SIZE(ops)], .done = done };
	if (pick == 99) {
		s->req.op = BLOCK_FLUSH;
	} else {
		first = rnd(m, sectors);
		n = 1 + rnd(m, pick % 3 ? 40 : MAX_LEN / BLOCK_SECTOR);
		/* Whole clusters now and then. */
		if (pick % 4 == 0) {
			first = align_down(first, 128);
			n = align_up(n, 128);
		}
		n = MIN(n, sectors - first);
		n = MIN(n, MAX_LEN / BLOCK_SECTOR);
		s->req.offset = first * BLOCK_SECTOR;
		s->req.len = n * BLOCK_SECTOR;
		if (!is_free(m, s->req.offset, s->req.len)) {
			loop_run_once(m->im->loop, 0);
			return;
		}
	}
	s->req.may_unmap = pick & 1;
	s->req.durable = pick % 16 == 0;
	apply(m, s);
	s->iov[0] = (struct iovec){ s->buf, MIN(s->req.len, 700ull) };
	s->iov[1] = (struct iovec){ s->buf + s->iov[0].iov_len, s->req.len - s->iov[0].iov_len };
	s->req.iov = s->iov;
	s->req.iovcnt = s->iov[1].iov_len ? 2 : 1;
	s->busy = true;
	m->busy++;
	block_submit(m->b, &s->req);
	if (rnd(m, 3) == 0)
		loop_run_once(m->im->loop, 0);
}

static void drain(struct model *m)
{
	while (m->busy)
		loop_run_once(m->im->loop, NSEC_PER_SEC);
}

/* A discard's content is anybody's guess in general; here, over whole clusters, zeroes. */
static void discard(struct model *m)
{
	uint64_t cluster = 2 * MiB, offset = align_down(rnd(m, m->size), cluster);
	uint64_t len = MIN(cluster, m->size - offset);
	struct slot *s;

	drain(m);
	s = free_slot(m);
	s->m = m;
	s->req = (struct block_req){ .op = BLOCK_DISCARD, .offset = offset, .len = len,
				     .done = done };
	if (!m->no_zero)
		memset(m->disk + offset, 0, len);
	s->busy = true;
	m->busy++;
	block_submit(m->b, &s->req);
	drain(m);
}

/* What QEMU reads from the image, as the model's start. */
static void load(struct model *m, const char *name)
{
	int fd;

	must(m->im, "qemu-img convert -f qcow2 -O raw %s start.raw", name);
	fd = open(image_path(m->im, "start.raw"), O_RDONLY);
	assert_int_equal(pread(fd, m->disk, m->size, 0), m->size);
	close(fd);
}

static void store(struct model *m, const char *name)
{
	int fd = open(image_path(m->im, name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(pwrite(fd, m->disk, m->size, 0), m->size);
	close(fd);
}

static void run_kind(struct images *im, const struct kind *k, unsigned seed)
{
	struct block_config base = k->base, config = { .backing = k->has_base ? &base : NULL };
	struct model *m = calloc(1, sizeof(*m));
	char path[160];

	if (k->backing)
		must(im, "%s", k->backing);
	must(im, "rm -f x.qcow2; qemu-img create -q -f qcow2 %s x.qcow2 %llu", k->create,
	     (unsigned long long)k->size);
	if (k->after)
		must(im, "%s", k->after);
	snprintf(path, sizeof(path), "%s", image_path(im, "base"));
	base.path = path;
	base.fd = -1;
	base.read_only = true;
	*m = (struct model){ .im = im, .size = k->size, .seed = seed, .no_zero = k->no_zero };
	m->disk = calloc(1, k->size);
	load(m, "x.qcow2");
	for (unsigned i = 0; i < DEPTH; i++)
		m->slot[i].buf = malloc(MAX_LEN);
	/* Twice, so that the second begins with what the first left. */
	for (unsigned round = 0; round < 2; round++) {
		m->b = image_open(im, "x.qcow2", config);
		for (unsigned i = 0; i < OPS; i++) {
			step(m);
			if (i % 300 == 299)
				discard(m);
		}
		drain(m);
		block_close(m->b);
		check_image(im, "x.qcow2", false);
		store(m, "model.raw");
		must(im, "qemu-img compare -q -f qcow2 -F raw x.qcow2 model.raw");
	}
	for (unsigned i = 0; i < DEPTH; i++)
		free(m->slot[i].buf);
	free(m->disk);
	free(m);
}

static const struct kind kinds[] = {
	{ "plain", "", .size = 24 * MiB },
	{ "odd size", "", .size = 9 * MiB + 13 * 512 },
	{ "version 2", "-o compat=0.10", .size = 16 * MiB },
	{ "small clusters", "-o cluster_size=512", .size = 6 * MiB },
	{ "small clusters, wide counts", "-o cluster_size=512,refcount_bits=64", .size = 6 * MiB },
	{ "single-bit counts", "-o refcount_bits=1,cluster_size=4k", .size = 16 * MiB },
	{ "large clusters", "-o cluster_size=2M", .size = 24 * MiB },
	{ "lazy counts", "-o lazy_refcounts=on", .size = 16 * MiB },
	{ "preallocated", "-o preallocation=metadata", .size = 16 * MiB },
	{ "over raw", "-b base -F raw",
	  "head -c 7654400 /dev/urandom >base", .size = 12 * MiB,
	  .base = { .format = BLOCK_FORMAT_RAW }, .has_base = true },
	{ "version 2 over raw", "-b base -F raw -o compat=0.10",
	  "head -c 7654400 /dev/urandom >base", .size = 12 * MiB,
	  .base = { .format = BLOCK_FORMAT_RAW }, .has_base = true, .no_zero = true },
	{ "over compressed", "-b base -F qcow2",
	  "(seq 1500000; head -c 1M /dev/urandom) >b.raw; "
	  "qemu-img convert -c -O qcow2 b.raw base", .size = 12 * MiB,
	  .base = { .format = BLOCK_FORMAT_AUTO }, .has_base = true },
	{ "with a snapshot", "", .size = 12 * MiB,
	  .after = "qemu-io -c 'write -P 7 0 9M' x.qcow2 >/dev/null && "
		   "qemu-img snapshot -c one x.qcow2 && "
		   "qemu-io -c 'write -P 9 1M 3M' x.qcow2 >/dev/null" },
	{ "compressed", "", .size = 12 * MiB,
	  .after = "seq 1900000 | head -c 12M >c.raw; rm x.qcow2; "
		   "qemu-img convert -c -O qcow2 c.raw x.qcow2" },
	{ "compressed by zstd", "", .size = 12 * MiB,
	  .after = "seq 1900000 | head -c 12M >c.raw; rm x.qcow2; "
		   "qemu-img convert -c -O qcow2 -o compression_type=zstd c.raw x.qcow2" },
	{ 0 },
};

static void what_is_written_is_what_is_read(void **state)
{
	struct images *im = *state;
	unsigned seed = 20;

	for (const struct kind *k = kinds; k->name; k++) {
		/* All of them with one loop; some with the other. */
		if (loop_backend(im->loop) == LOOP_EPOLL && (k - kinds) % 4)
			continue;
		print_message("  %s\n", k->name);
		run_kind(im, k, seed++);
	}
}

static int setup_epoll(void **state)
{
	return images_setup(state, LOOP_EPOLL);
}

static int setup_auto(void **state)
{
	return images_setup(state, LOOP_AUTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "what_is_written_is_what_is_read (epoll)", what_is_written_is_what_is_read,
		  setup_epoll, images_teardown, NULL },
		{ "what_is_written_is_what_is_read (io_uring)", what_is_written_is_what_is_read,
		  setup_auto, images_teardown, NULL },
	};

	log_setup(STDERR_FILENO, LOG_ERROR);
	return cmocka_run_group_tests_name("qcow2 against a model", tests, NULL, NULL);
}
