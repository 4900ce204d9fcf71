/*
 * Death at any moment: a process that writes an image is killed, and QEMU must
 * then find the image sound or at worst leaking, with every write in it that was
 * flushed. Once by real signals; once by cutting the recorded sequence of writes
 * after each of them, as they would have reached the file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/block_internal.h"
#include "tests/unit/patience.h"
#include "tests/unit/qcow2_tools.h"
#include "vmm/core/log.h"

#define SIZE	(64 * MiB)
#define UNIT	(4 * KiB) /* what one write covers, with one number all over */
#define UNITS	(SIZE / UNIT)
#define DEPTH	16
#define ROUND	(1u << 20) /* numbers of one process */
#define ZEROING (1u << 31) /* a number's mark */

/*
 * Shared with the process that dies. A unit holds the number of the write that it
 * had last; zero is none, or a discard.
 */
struct promises {
	uint32_t flushed[UNITS]; /* this one or a later one is there */
	uint32_t zeroed[UNITS];	 /* the last zeroing that was begun: may be there or not */
	_Atomic uint32_t flushes;
};

struct writer {
	struct images *im;
	struct block *b;
	struct promises *p;
	uint32_t done[UNITS];
	struct slot {
		struct block_req req;
		struct iovec iov;
		uint8_t *buf;
		struct writer *w;
		uint64_t unit;
		uint32_t number;
		bool busy;
	} slot[DEPTH];
	unsigned seed;
	uint32_t number;
	uint32_t *at_flush;
};

static unsigned rnd(struct writer *w, unsigned below)
{
	w->seed = w->seed * 1103515245u + 12345u;
	return (w->seed >> 8) % below;
}

static void done(struct block_req *req, int res)
{
	struct slot *s = container_of(req, struct slot, req);
	struct writer *w = s->w;

	if (res)
		_exit(9);
	s->busy = false;
	if (req->op == BLOCK_FLUSH) {
		/* What had ended before it began. */
		memcpy(w->p->flushed, w->at_flush, sizeof(w->p->flushed));
		atomic_fetch_add(&w->p->flushes, 1);
	} else {
		w->done[s->unit] = s->number;
	}
}

static bool busy_with(const struct writer *w, uint64_t unit)
{
	for (unsigned i = 0; i < DEPTH; i++) {
		const struct slot *s = &w->slot[i];

		if (s->busy && (s->req.op == BLOCK_FLUSH || s->unit == unit))
			return true;
	}
	return false;
}

static struct slot *free_slot(struct writer *w)
{
	for (unsigned i = 0; i < DEPTH; i++)
		if (!w->slot[i].busy)
			return &w->slot[i];
	return NULL;
}

static void submit(struct writer *w, struct slot *s)
{
	uint64_t unit = rnd(w, 3) ? rnd(w, UNITS) : rnd(w, 64);

	s->w = w;
	s->req = (struct block_req){ .op = BLOCK_WRITE, .done = done };
	if (rnd(w, 12) == 0) {
		s->req.op = BLOCK_FLUSH;
		memcpy(w->at_flush, w->done, sizeof(w->done));
	} else {
		if (busy_with(w, unit))
			return;
		s->unit = unit;
		s->number = ++w->number;
		s->req.offset = unit * UNIT;
		s->req.len = UNIT;
		if (rnd(w, 5) == 0) {
			s->req.op = BLOCK_WRITE_ZEROES;
			s->req.may_unmap = true;
			s->number |= ZEROING;
			w->p->zeroed[unit] = s->number;
		}
		for (size_t i = 0; i < UNIT; i += 4)
			put_le32(s->buf + i, s->number);
		s->iov = (struct iovec){ s->buf, UNIT };
		s->req.iov = &s->iov;
		s->req.iovcnt = 1;
	}
	s->busy = true;
	block_submit(w->b, &s->req);
}

/* Writes until it is killed, or has done @limit requests. */
static void write_on(struct images *im, struct promises *p, unsigned seed, unsigned limit)
{
	struct loop_params params = { .name = "writer" };
	struct writer *w = calloc(1, sizeof(*w));

	w->im = im;
	w->p = p;
	w->seed = seed;
	w->number = ROUND * seed;
	w->at_flush = calloc(UNITS, sizeof(*w->at_flush));
	if (loop_create(&im->loop, &params, NULL) < 0)
		_exit(8);
	memcpy(w->done, p->flushed, sizeof(w->done));
	for (unsigned i = 0; i < DEPTH; i++)
		w->slot[i].buf = malloc(UNIT);
	w->b = image_open(im, "x", (struct block_config){ 0 });
	while (!limit || w->number < ROUND * seed + limit) {
		struct slot *s = free_slot(w);
		bool flushing = false;

		for (unsigned i = 0; i < DEPTH; i++)
			flushing |= w->slot[i].busy && w->slot[i].req.op == BLOCK_FLUSH;
		if (s && !flushing)
			submit(w, s);
		loop_run_once(im->loop, !s || flushing ? NSEC_PER_SEC : 0);
	}
	_exit(0);
}

/* May @seen be there, when @last is what was flushed and @zeroed the last zeroing begun? */
static bool may_be(uint32_t seen, uint32_t last, uint32_t zeroed)
{
	if (!seen)
		return !last || last & ZEROING || (zeroed & ~ZEROING) > last;
	return seen >= (last & ~ZEROING);
}

/* Each unit has what was flushed, or what was started later. */
static void check_promises(struct images *im, const struct promises *p)
{
	struct block *b = image_open(im, "x", (struct block_config){ .read_only = true });
	uint8_t *disk = malloc(SIZE);

	assert_int_equal(image_io(im, b, BLOCK_READ, disk, 0, SIZE), 0);
	block_close(b);
	for (uint64_t u = 0; u < UNITS; u++) {
		uint32_t seen = get_le32(disk + u * UNIT), last = p->flushed[u];

		for (size_t i = 4; i < UNIT; i += 4)
			if (get_le32(disk + u * UNIT + i) != seen)
				fail_msg("unit %llu is torn", (unsigned long long)u);
		if (!may_be(seen, last, p->zeroed[u]))
			fail_msg("unit %llu has %#x, but %#x was flushed", (unsigned long long)u,
				 seen, last);
	}
	free(disk);
}

static void after_death(struct images *im, const struct promises *p)
{
	/* A ring ends a little later than its process, and the lock with it. */
	for (uint64_t end = patience();
	     shell(im, "qemu-img info x >/dev/null 2>&1") && !patience_ends(end);)
		usleep(10000);
	check_image(im, "x", true);
	check_promises(im, p);
}

static void a_killed_writer_leaves_a_sound_image_with_what_was_flushed(void **state)
{
	const char *rounds = getenv("QCOW2_KILLS");
	unsigned n = rounds ? strtoul(rounds, NULL, 10) : 8;
	struct images *im = *state;
	struct promises *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	must(im, "qemu-img create -q -f qcow2 x 64M");
	for (unsigned i = 1; i <= n; i++) {
		struct loop *loop = im->loop;
		uint32_t before = p->flushes;
		pid_t pid = fork();
		int status;

		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			write_on(im, p, i, 0);
		}
		im->loop = loop;
		/* At some moment after some flushes. */
		while (p->flushes < before + 1 + i * 7 % 23 && waitpid(pid, &status, WNOHANG) == 0)
			usleep(200);
		usleep(i * 37 % 1000);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status));
		after_death(im, p);
	}
	munmap(p, sizeof(*p));
}

/* ---- cutting the sequence of writes ---- */

enum { MAX_LOG = 4096 };

/* A container that remembers in which order its file changed. */
struct recorder {
	struct block b;
	struct block *file;
	struct entry {
		enum block_op op;
		uint64_t offset, len;
		uint8_t *data;
	} log[MAX_LOG];
	unsigned num;
	int failure; /* of all that would change it, from now on */
};

struct recorded {
	struct block_req inner;
	struct block_req *outer;
	struct recorder *r;
	struct entry entry;
};

static void recorded_done(struct block_req *req, int res)
{
	struct recorded *d = container_of(req, struct recorded, inner);
	struct block_req *outer = d->outer;

	assert_int_equal(res, 0);
	assert_true(d->r->num < MAX_LOG);
	if (d->entry.op != BLOCK_READ)
		d->r->log[d->r->num++] = d->entry;
	free(d);
	block_finish(outer, res);
}

static void recorder_submit(struct block *b, struct block_req *req)
{
	struct recorder *r = container_of(b, struct recorder, b);
	struct recorded *d;
	uint8_t *to;

	if (r->failure && req->op != BLOCK_READ) {
		block_finish_later(req, r->failure);
		return;
	}
	d = calloc(1, sizeof(*d));
	d->inner = *req;
	d->inner.done = recorded_done;
	d->outer = req;
	d->r = r;
	d->entry = (struct entry){ .op = req->op, .offset = req->offset, .len = req->len };
	if (req->op == BLOCK_WRITE) {
		to = d->entry.data = malloc(req->len);
		for (unsigned i = 0; i < req->iovcnt; i++) {
			memcpy(to, req->iov[i].iov_base, req->iov[i].iov_len);
			to += req->iov[i].iov_len;
		}
	}
	block_submit(r->file, &d->inner);
}

static void recorder_attach(struct block *b)
{
	block_attach(container_of(b, struct recorder, b)->file, b->loop);
}

static int recorder_free(struct block *b)
{
	struct recorder *r = container_of(b, struct recorder, b);
	int res = block_close(r->file);

	r->file = NULL;
	return res;
}

static const struct block_ops recorder_ops = {
	.submit = recorder_submit,
	.attach = recorder_attach,
	.free = recorder_free,
};

static struct block *open_recorded(struct images *im, struct recorder *r)
{
	struct block_config config = { .path = image_path(im, "x"), .container = true,
				       .format = BLOCK_FORMAT_RAW };
	struct error err = { 0 };
	struct block *b;

	config.fd = open(config.path, O_RDWR);
	assert_int_equal(block_open(&r->file, &config, &err), 0);
	r->b.ops = &recorder_ops;
	r->b.size_bytes = r->file->size_bytes;
	if (block_qcow2_create(&b, &r->b, config.fd, &config, &err) < 0)
		fail_msg("%s", err.msg);
	block_attach(b, im->loop);
	return b;
}

static void replay(int fd, const struct entry *e)
{
	if (e->op == BLOCK_WRITE)
		assert_int_equal(pwrite(fd, e->data, e->len, e->offset), e->len);
	else if (e->op == BLOCK_DISCARD || e->op == BLOCK_WRITE_ZEROES)
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, e->offset, e->len);
}

/*
 * The image as it is when the process dies after entry @end; or, with @power, when
 * the power fails then: of what came behind the last sync any part may be missing.
 */
static void cut(struct images *im, const struct recorder *r, unsigned end, bool power,
		unsigned seed)
{
	unsigned synced = end;
	int fd;

	while (power && synced && r->log[synced - 1].op != BLOCK_FLUSH)
		synced--;
	must(im, "cp start cut");
	fd = open(image_path(im, "cut"), O_RDWR);
	for (unsigned i = 0; i < end; i++) {
		seed = seed * 1103515245u + 12345u;
		if (i < synced || !power || seed >> 16 & 1)
			replay(fd, &r->log[i]);
	}
	close(fd);
	check_image(im, "cut", true);
}

static int one(struct images *im, struct block *b, unsigned *seed)
{
	static uint8_t buf[300 * KiB];
	uint64_t offset, len;

	*seed = *seed * 1103515245u + 12345u;
	offset = align_down((*seed >> 4) % (SIZE - sizeof(buf)), BLOCK_SECTOR);
	len = align_up(1 + (*seed >> 9) % (sizeof(buf) - 1), BLOCK_SECTOR);
	memset(buf, *seed >> 16 | 1, sizeof(buf));
	switch ((*seed >> 20) % 8) {
	case 0:
		return image_flush(im, b);
	case 1:
		return image_zero(im, b, align_down(offset, 64 * KiB), 4 * MiB, true);
	case 2:
		return image_zero(im, b, offset, len, false);
	default:
		return image_io(im, b, BLOCK_WRITE, buf, offset, len);
	}
}

static void cut_kind(struct images *im, const char *options, const char *before)
{
	struct recorder *r = calloc(1, sizeof(*r));
	struct block *b;
	unsigned seed = 5, step;

	must(im, "rm -f x; qemu-img create -q -f qcow2 %s x 64M", options);
	must(im, "%s", before);
	must(im, "cp x start");
	b = open_recorded(im, r);
	for (unsigned i = 0; i < 60; i++) {
		if (one(im, b, &seed) == -EIO)
			continue; /* out of the disk */
	}
	block_close(b);
	check_image(im, "x", false);
	/* Many places, spread over all of it. */
	step = r->num / 25 + 1;
	for (unsigned end = 1; end <= r->num; end += step)
		cut(im, r, end, false, 0);
	for (unsigned end = r->num % step + 1; end <= r->num; end += step)
		cut(im, r, end, true, end);
	for (unsigned i = 0; i < r->num; i++)
		free(r->log[i].data);
	free(r);
}

static void who_closes_learns_what_could_not_be_written(void **state)
{
	struct recorder *r = calloc(1, sizeof(*r));
	struct images *im = *state;
	uint8_t buf[4 * KiB] = { 1 };
	struct block *b;

	must(im, "rm -f x; qemu-img create -q -f qcow2 x 64M");
	b = open_recorded(im, r);
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 0, sizeof(buf)), 0);
	r->failure = -ENOSPC;
	assert_int_equal(block_close(b), -ENOSPC);
	check_image(im, "x", true);
	for (unsigned i = 0; i < r->num; i++)
		free(r->log[i].data);
	free(r);
}

static void the_file_is_sound_after_every_write(void **state)
{
	cut_kind(*state, "", "true");
	/* Refcount blocks and their table grow early. */
	cut_kind(*state, "-o cluster_size=512,refcount_bits=64", "true");
	cut_kind(*state, "", "qemu-io -c 'write 0 20M' x >/dev/null && qemu-img snapshot -c s x");
	cut_kind(*state, "", "rm x; seq 6000000 | head -c 20M >raw; truncate -s 64M raw; "
			     "qemu-img convert -c -O qcow2 raw x");
}

static int setup(void **state)
{
	return images_setup(state, LOOP_AUTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			a_killed_writer_leaves_a_sound_image_with_what_was_flushed, setup,
			images_teardown),
		cmocka_unit_test_setup_teardown(who_closes_learns_what_could_not_be_written, setup,
						images_teardown),
		cmocka_unit_test_setup_teardown(the_file_is_sound_after_every_write, setup,
						images_teardown),
	};

	log_setup(STDERR_FILENO, LOG_ERROR);
	return cmocka_run_group_tests_name("qcow2 and death", tests, NULL, NULL);
}
