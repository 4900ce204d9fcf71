/* qcow2 images beside QEMU's tools: what is refused, what is kept, what is locked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/block_qcow2.h"
#include "devices/qcow2_format.h"
#include "devices/qcow2_image.h"
#include "tests/unit/patience.h"
#include "tests/unit/qcow2_tools.h"
#include "vmm/core/log.h"

#define CLUSTER (64 * KiB)

static void poke(const struct images *im, const char *name, uint64_t offset, const void *data,
		 size_t len)
{
	int fd = open(image_path(im, name), O_WRONLY);

	assert_int_equal(pwrite(fd, data, len, offset), len);
	close(fd);
}

static void poke32(const struct images *im, uint64_t offset, uint32_t value)
{
	uint8_t be[4];

	put_be32(be, value);
	poke(im, "x", offset, be, 4);
}

static void poke64(const struct images *im, uint64_t offset, uint64_t value)
{
	uint8_t be[8];

	put_be64(be, value);
	poke(im, "x", offset, be, 8);
}

static uint64_t peek64(const struct images *im, const char *name, uint64_t offset)
{
	int fd = open(image_path(im, name), O_RDONLY);
	uint8_t be[8];

	assert_int_equal(pread(fd, be, 8, offset), 8);
	close(fd);
	return get_be64(be);
}

static void fresh(const struct images *im, const char *options)
{
	must(im, "rm -f x; qemu-img create -q -f qcow2 %s x 64M", options);
}

static void headers_are_refused_with_the_reason(void **state)
{
	struct images *im = *state;
	static const struct {
		uint64_t offset;
		unsigned bytes;
		uint64_t value;
		const char *why;
	} bad[] = {
		{ 4, 4, 4, "qcow2 version 4 is not supported" },
		{ 20, 4, 8, "cluster size" },
		{ 20, 4, 22, "cluster size" },
		{ 24, 8, 1ull << 60, "size is out of range" },
		{ 24, 8, 1ull << 40, "L1 table is too small" },
		{ 24, 8, 0, "has no size" },
		{ 32, 4, 1, "encrypted" },
		{ 36, 4, 0x7fffffff, "L1 table is too large" },
		{ 40, 8, 1ull << 40, "L1 table is not inside the file" },
		{ 40, 8, 0x30001, "L1 table is not inside the file" },
		{ 40, 8, 0, "L1 table is not inside the file" },
		{ 48, 8, 1ull << 62, "refcount table is not inside the file" },
		{ 48, 8, 0x30000, "tables overlap" },
		{ 56, 4, 0, "refcount table's size" },
		{ 56, 4, 0x80000000, "refcount table's size" },
		{ 72, 8, 2, "marked as corrupt" },
		{ 72, 8, 4, "in another file" },
		{ 72, 8, 8, "compression type" },
		{ 72, 8, 1ull << 17, "needs qcow2 feature 17" },
		{ 96, 4, 7, "more than 64 bits" },
		{ 100, 4, 99, "header's length" },
		{ 100, 4, 0x10008, "header's length" },
		{ 8, 8, 0x8000000, "backing file's name is not in the first cluster" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		fresh(im, "");
		if (bad[i].offset == 8)
			poke32(im, 16, 100);
		if (bad[i].bytes == 4)
			poke32(im, bad[i].offset, bad[i].value);
		else
			poke64(im, bad[i].offset, bad[i].value);
		image_refused(im, "x", (struct block_config){ 0 }, bad[i].why);
	}
}

static void an_unknown_feature_is_called_by_its_name(void **state)
{
	struct images *im = *state;
	/* In the place of the first name that QEMU wrote. */
	static const uint8_t name[48] = "\x00\x15time travel";

	fresh(im, "");
	poke64(im, 72, 1ull << 21);
	poke(im, "x", 112 + 8, name, sizeof(name));
	image_refused(im, "x", (struct block_config){ 0 }, "time travel");
}

static void corrupt_tables_end_requests_not_the_monitor(void **state)
{
	struct images *im = *state;
	static const uint64_t entries[] = {
		0x8000000000000200ull, /* not a cluster's start */
		0x8000ff0000000000ull, /* far outside */
		0x8000000000030000ull, /* the L1 table */
		0xc000000000050000ull, /* compressed, and in place */
		0x4000000000000000ull, /* compressed, at the header */
		0x7fffffffffffffffull,
	};
	uint8_t *buf = malloc(CLUSTER);
	uint64_t l2;

	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++) {
		struct block *b;

		fresh(im, "");
		must(im, "qemu-io -c 'write 0 64k' x >/dev/null");
		l2 = peek64(im, "x", peek64(im, "x", 40)) & QCOW2_OFFSET;
		poke64(im, l2, entries[i]);
		b = image_open(im, "x", (struct block_config){ 0 });
		if (image_io(im, b, BLOCK_READ, buf, 0, 4096) != -EIO)
			fail_msg("%#llx is taken for an entry", (unsigned long long)entries[i]);
		/* Its neighbours are as good as before. */
		assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, CLUSTER, 4096), 0);
		assert_int_equal(image_io(im, b, BLOCK_READ, buf, CLUSTER, 4096), 0);
		block_close(b);
	}
	fresh(im, "");
	poke64(im, peek64(im, "x", 40), 0x8000000000000000ull | 1ull << 50);
	image_refused(im, "x", (struct block_config){ 0 }, "L1 table");
	free(buf);
}

/* Whoever overwrites or discards what a corrupt entry points to frees nothing of it. */
static void a_corrupt_entry_costs_neither_header_nor_tables(void **state)
{
	struct images *im = *state;
	static const uint64_t entries[] = {
		0x0000000000030000ull, /* the L1 table */
		0x8000000000010000ull, /* the refcount table */
		0x4000000000000000ull, /* compressed, at the header */
		0x400000000002fe00ull | 1ull << 54, /* compressed, into the L1 table */
	};
	uint8_t *buf = calloc(1, CLUSTER);
	uint64_t l2, table[3];

	for (unsigned i = 0; i < 2 * ARRAY_SIZE(entries); i++) {
		struct block *b;

		fresh(im, "");
		must(im, "qemu-io -c 'write 0 64k' x >/dev/null");
		table[0] = peek64(im, "x", 0);
		table[1] = peek64(im, "x", 0x10000);
		table[2] = peek64(im, "x", 0x30000);
		l2 = table[2] & QCOW2_OFFSET;
		poke64(im, l2, entries[i / 2]);
		b = image_open(im, "x", (struct block_config){ 0 });
		image_io(im, b, i % 2 ? BLOCK_DISCARD : BLOCK_WRITE, buf, 0, CLUSTER);
		image_flush(im, b);
		block_close(b);
		assert_int_equal(peek64(im, "x", 0), table[0]);
		assert_int_equal(peek64(im, "x", 0x10000), table[1]);
		assert_int_equal(peek64(im, "x", 0x30000), table[2]);
	}
	free(buf);
}

static void a_refcount_table_that_would_count_in_circles_is_refused(void **state)
{
	struct images *im = *state;
	struct block *b;

	fresh(im, "");
	poke64(im, 0x10000 + 5 * 8, 0x20000);
	image_refused(im, "x", (struct block_config){ 0 }, "two entries of its refcount table");
	/* The header is no block of refcounts. */
	poke64(im, 0x10000 + 5 * 8, QCOW2_COPIED);
	image_refused(im, "x", (struct block_config){ 0 }, "entry 5 of its refcount table");
	/* Who only reads needs no refcounts. */
	b = image_open(im, "x", (struct block_config){ .read_only = true });
	block_close(b);
}

static void a_check_mends_nothing_that_is_two_things_at_once(void **state)
{
	struct images *im = *state;
	struct qcow2_check found;
	struct error err = { 0 };
	int fd;

	/* Refcounts of 1 in 64 bits are also L2 entries of zeroes. */
	fresh(im, "-o refcount_bits=64");
	poke64(im, 0x30000, 0x8000000000020000ull);
	must(im, "cp x before");
	fd = open(image_path(im, "x"), O_RDWR);
	assert_int_equal(qcow2_image_check(fd, true, &found, &err), 0);
	close(fd);
	assert_true(found.errors > 0);
	assert_int_equal(found.mended, 0);
	must(im, "cmp x before");
}

static void backing_files_are_opened_only_when_allowed(void **state)
{
	struct images *im = *state;
	char path[160];
	struct block_chain_params p = { .path = path };
	struct block_config configs[BLOCK_MAX_CHAIN], top = { 0 };
	const char *named[1];
	struct block_chain c = { 0 };
	struct error err = { 0 };
	struct block *b;
	uint8_t buf[512];

	snprintf(path, sizeof(path), "%s", image_path(im, "x"));
	must(im, "head -c 1M /dev/zero | tr '\\0' b >base; "
		 "head -c 1M /dev/zero | tr '\\0' o >other");
	must(im, "qemu-img create -q -f qcow2 -b base -F raw mid && "
		 "qemu-img create -q -f qcow2 -b mid -F qcow2 x");
	image_refused(im, "x", top, "names the backing file 'mid'");

	p.fd = open(p.path, O_RDONLY);
	assert_int_equal(block_chain_open(&c, &p, &err), -EPERM);
	assert_non_null(strstr(err.hint, "follow-backing"));

	/* What the images say, relative to themselves. */
	p.follow = true;
	assert_int_equal(block_chain_open(&c, &p, &err), 0);
	assert_int_equal(c.num, 2);
	top.backing = block_chain_take(&c, configs, &top);
	b = image_open(im, "x", top);
	assert_int_equal(image_io(im, b, BLOCK_READ, buf, 4096, 512), 0);
	assert_int_equal(buf[0], 'b');
	block_close(b);
	block_chain_close(&c);

	/* What the command line says, whatever they name. */
	must(im, "qemu-img create -q -f qcow2 -b base -F raw x");
	p.follow = false;
	named[0] = image_path(im, "other");
	p.named = named;
	p.num_named = 1;
	assert_int_equal(block_chain_open(&c, &p, &err), 0);
	top.backing = block_chain_take(&c, configs, &top);
	b = image_open(im, "x", top);
	assert_int_equal(image_io(im, b, BLOCK_READ, buf, 4096, 512), 0);
	assert_int_equal(buf[0], 'o');
	block_close(b);
	block_chain_close(&c);

	/* A chain has an end. */
	must(im, "rm x; qemu-img create -q -f qcow2 -u -b w -F qcow2 x 1M && "
		 "qemu-img create -q -f qcow2 -u -b x -F qcow2 w 1M");
	close(p.fd);
	p.fd = open(p.path, O_RDONLY);
	p.follow = true;
	p.num_named = 0;
	assert_int_equal(block_chain_open(&c, &p, &err), -ELOOP);
	close(p.fd);
}

/* What is behind its end is zero for as long as it is open, as for QEMU; docs/security.md. */
/* Descriptors of a chain of two, given to an image that is refused for @why, are closed. */
static void assert_chain_is_closed(struct images *im, const char *name, int format,
				   const char *why)
{
	struct block_config under[2] = { { .path = "mid", .backing = &under[1] },
					 { .path = "base" } };

	for (unsigned i = 0; i < 2; i++)
		under[i].fd = open(image_path(im, "under"), O_RDONLY);
	image_refused(im, name, (struct block_config){ .backing = under, .format = format }, why);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(fcntl(under[i].fd, F_GETFD), -1);
}

static void what_lies_under_an_image_that_is_refused_is_closed(void **state)
{
	struct images *im = *state;

	must(im, "truncate -s 1M under; rm -f x; mkfifo pipe");
	assert_chain_is_closed(im, "missing", BLOCK_FORMAT_AUTO, "cannot open");
	assert_chain_is_closed(im, "pipe", BLOCK_FORMAT_AUTO, "is a pipe");
	assert_chain_is_closed(im, "under", BLOCK_FORMAT_QCOW2, "not a qcow2 image");
	fresh(im, "");
	assert_chain_is_closed(im, "x", BLOCK_FORMAT_AUTO, "has no backing file");
	poke64(im, 24, 0);
	assert_chain_is_closed(im, "x", BLOCK_FORMAT_AUTO, "has no size");
	/* Itself refused, with what lies under it. */
	must(im, "rm x under; qemu-img create -q -f qcow2 under 1M; "
		 "qemu-img create -q -f qcow2 -u -b under -F qcow2 x 1M");
	assert_chain_is_closed(im, "x", BLOCK_FORMAT_AUTO, "'mid': has no backing file");
}

static void a_backing_file_that_grows_is_as_long_as_it_was(void **state)
{
	struct images *im = *state;
	char path[160];
	struct block_chain_params p = { .path = path, .follow = true };
	struct block_config configs[BLOCK_MAX_CHAIN], top = { 0 };
	struct block_chain c = { 0 };
	struct error err = { 0 };
	uint8_t buf[1024];
	struct block *b;

	snprintf(path, sizeof(path), "%s", image_path(im, "x"));
	must(im, "head -c 65024 /dev/zero | tr '\\0' b >base; "
		 "qemu-img create -q -f qcow2 -b base -F raw x 1M");
	p.fd = open(path, O_RDONLY);
	assert_int_equal(block_chain_open(&c, &p, &err), 0);
	top.backing = block_chain_take(&c, configs, &top);
	b = image_open(im, "x", top);
	must(im, "head -c 1M /dev/zero | tr '\\0' s >>base");
	assert_int_equal(image_io(im, b, BLOCK_READ, buf, 64512, sizeof(buf)), 0);
	assert_int_equal(buf[511], 'b');
	assert_int_equal(buf[512], 0);
	assert_int_equal(buf[1023], 0);
	/* A cluster that becomes the image's own does not take the rest with it. */
	memset(buf, 'w', 512);
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 0, 512), 0);
	assert_int_equal(image_io(im, b, BLOCK_READ, buf, 64512, sizeof(buf)), 0);
	assert_int_equal(buf[512], 0);
	block_close(b);
	block_chain_close(&c);
	close(p.fd);
}

static void qemu_and_we_respect_each_others_locks(void **state)
{
	struct images *im = *state;
	struct block_config ro = { .read_only = true }, rw = { 0 };
	struct block *a, *b;

	fresh(im, "");
	must(im, "rm -f y; truncate -s 1M y");
	for (unsigned i = 0; i < 2; i++) {
		const char *name = i ? "x" : "y", *format = i ? "qcow2" : "raw";

		a = image_open(im, name, rw);
		image_refused(im, name, rw, "in use by another process");
		image_refused(im, name, ro, "in use by another process");
		/* Who reads a raw image leaves it to others to write. */
		if (i) {
			assert_int_not_equal(shell(im, "qemu-img info %s 2>err", name), 0);
			must(im, "grep -q 'Is another process using the image' err");
		}
		assert_int_not_equal(shell(im, "qemu-io -f %s -c 'write 0 512' %s 2>err", format,
					   name), 0);
		block_close(a);
		a = image_open(im, name, ro);
		b = image_open(im, name, ro);
		must(im, "qemu-img info -f %s %s >/dev/null", format, name);
		assert_int_not_equal(shell(im, "qemu-io -f %s -c 'write 0 512' %s 2>err", format,
					   name), 0);
		block_close(a);
		block_close(b);
		must(im, "qemu-io -f %s -c 'write 0 512' %s >/dev/null", format, name);
	}
	/*
	 * And the other way round. It has the image once it has read from it:
	 * to ask by opening the image here might keep qemu-io from it instead.
	 */
	must(im, "(stdbuf -oL qemu-io -c 'read 0 512' -c 'sleep 60000' x >out 2>&1 & "
		 "echo $! >qemu)");
	for (int i = 0; i < 1200 && shell(im, "grep -q '^read 512/512' out"); i++)
		must(im, "sleep 0.05");
	must(im, "grep -q '^read 512/512' out || { cat out >&2; false; }");
	image_refused(im, "x", rw, "in use by another process");
	image_refused(im, "x", ro, "in use by another process");
	shell(im, "kill $(cat qemu)");
}

static void a_guest_cannot_turn_its_raw_disk_into_another_format(void **state)
{
	struct images *im = *state;
	struct block_config config = { .format = BLOCK_FORMAT_AUTO };
	uint8_t buf[1024] = "QFI\xfb";
	struct block *b;

	must(im, "rm -f y; truncate -s 1M y");
	b = image_open(im, "y", config);
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 0, 512), -EPERM);
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 512, 512), 0);
	/* Anything else may be there, and arrives whole. */
	memset(buf, 'x', sizeof(buf));
	buf[1023] = 'y';
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 0, 1024), 0);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(image_io(im, b, BLOCK_READ, buf, 0, 1024), 0);
	assert_int_equal(buf[0], 'x');
	assert_int_equal(buf[1022], 'x');
	assert_int_equal(buf[1023], 'y');
	block_close(b);

	/* Who says raw has it so. */
	config.format = BLOCK_FORMAT_RAW;
	memcpy(buf, "QFI\xfb", 4);
	b = image_open(im, "y", config);
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 0, 512), 0);
	block_close(b);
}

static void discarding_gives_space_back(void **state)
{
	struct images *im = *state;
	uint8_t *buf = malloc(4 * MiB);
	struct stat before, after;
	struct block *b;
	struct qcow2 *q;

	fresh(im, "");
	memset(buf, 7, 4 * MiB);
	b = image_open(im, "x", (struct block_config){ 0 });
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 0, 4 * MiB), 0);
	assert_int_equal(image_flush(im, b), 0);
	assert_int_equal(stat(image_path(im, "x"), &before), 0);
	assert_int_equal(image_zero(im, b, 0, 4 * MiB, true), 0);
	assert_int_equal(image_flush(im, b), 0);
	/* Holes are punched behind the flush; then it is used again before the file grows. */
	q = container_of(b, struct qcow2, b);
	for (uint64_t end = patience();
	     (q->freer || !list_empty(&q->batches)) && !patience_ends(end);)
		loop_run_once(im->loop, NSEC_PER_MSEC);
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 32 * MiB, 2 * MiB), 0);
	block_close(b);
	assert_int_equal(stat(image_path(im, "x"), &after), 0);
	assert_true(after.st_size <= before.st_size);
	assert_true(after.st_blocks <= before.st_blocks / 2 + 1024);
	check_image(im, "x", false);
	free(buf);
}

/* Our descriptor of the image, which is the block's. */
static int image_fd(const struct images *im, const char *name)
{
	char path[64], to[256];

	for (int fd = 3; fd < 1024; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, to, sizeof(to) - 1);
		if (n < 0)
			continue;
		to[n] = '\0';
		if (!strcmp(to, image_path(im, name)))
			return fd;
	}
	fail_msg("no descriptor of '%s'", name);
	return -1;
}

struct settled {
	struct block_settling s;
	bool over;
	int res;
};

static void settled(struct block_settling *s, int res)
{
	struct settled *to = container_of(s, struct settled, s);

	to->over = true;
	to->res = res;
}

static int settle(const struct images *im, struct block *b)
{
	struct settled s = { .s.done = settled };

	block_settle(b, im->loop, &s.s);
	assert_false(s.over);
	for (uint64_t end = patience(); !s.over && !patience_ends(end);)
		loop_run_once(im->loop, NSEC_PER_MSEC);
	assert_true(s.over);
	return s.res;
}

/* Copies of the file are whole, closing it writes nothing more, and who has it open finds all. */
static void what_is_settled_is_all_in_the_file(void **state)
{
	struct images *im = *state;
	uint8_t *buf = malloc(4 * MiB);
	struct block *b, *other;
	int fd;

	fresh(im, "");
	/* It knows the image as it was, and nobody may ask it yet. */
	other = image_open(im, "x", (struct block_config){ .unlocked = true });
	fd = image_fd(im, "x");
	b = image_open(im, "x", (struct block_config){ 0 });
	assert_true(block_keeps_tables(b));
	memset(buf, 7, 4 * MiB);
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 0, 4 * MiB), 0);
	assert_int_equal(image_flush(im, b), 0);
	/* Clusters that are to be free, and others whose tables are in memory alone. */
	assert_int_equal(image_zero(im, b, 0, 2 * MiB, true), 0);
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 32 * MiB, 1 * MiB), 0);
	assert_int_equal(settle(im, b), 0);
	must(im, "cp x settled");
	check_image(im, "settled", false);
	assert_int_equal(settle(im, b), 0);
	assert_int_equal(block_reload(other, fd, NULL), 0);
	assert_int_equal(image_io(im, other, BLOCK_READ, buf, 32 * MiB, 1 * MiB), 0);
	assert_int_equal(buf[0], 7);
	assert_int_equal(buf[1 * MiB - 1], 7);
	assert_int_equal(image_io(im, other, BLOCK_READ, buf, 0, 4 * MiB), 0);
	assert_int_equal(buf[2 * MiB - 1], 0);
	assert_int_equal(buf[2 * MiB], 7);
	block_close(other);
	assert_int_equal(block_close(b), 0);
	must(im, "cmp x settled");
	free(buf);
}

/* All of the cache is dirty, and stays so since the file cannot be written. */
static void what_is_not_cached_is_read_while_nothing_can_be_committed(void **state)
{
	struct images *im = *state;
	uint8_t *buf = calloc(1, CLUSTER);
	uint64_t slice = 4096 / 8 * CLUSTER; /* what one maps */
	struct block *b;
	struct qcow2 *q;
	int fd, none, spare;

	must(im, "rm -f x; qemu-img create -q -f qcow2 -o preallocation=metadata x 2G");
	b = image_open(im, "x", (struct block_config){ 0 });
	q = container_of(b, struct qcow2, b);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(image_zero(im, b, i * slice, CLUSTER, true), 0);
	assert_true(q2_is_dirty(q));
	q->max_slices = q->num_slices;
	fd = image_fd(im, "x");
	spare = dup(fd);
	none = open(image_path(im, "x"), O_RDONLY);
	dup2(none, fd);
	assert_true(image_flush(im, b) < 0);
	for (unsigned i = 4; i < 40; i++)
		assert_int_equal(image_io(im, b, BLOCK_READ, buf, i * slice, CLUSTER), 0);
	assert_true(q->num_slices <= 2 * q->max_slices);

	/* It can again: nothing is lost, and the cache is as small as it was. */
	dup2(spare, fd);
	assert_int_equal(image_flush(im, b), 0);
	for (unsigned i = 4; i < 40; i++)
		assert_int_equal(image_io(im, b, BLOCK_READ, buf, i * slice, CLUSTER), 0);
	assert_true(q->num_slices <= q->max_slices);
	close(spare);
	close(none);
	block_close(b);
	check_image(im, "x", false);
	free(buf);
}

static void requests_across_the_end_of_tables_work(void **state)
{
	struct images *im = *state;
	uint64_t l2 = CLUSTER / 8 * CLUSTER; /* what one L2 table maps */
	uint8_t *buf = malloc(2 * CLUSTER), *back = malloc(2 * CLUSTER);
	struct block *b;

	must(im, "rm -f x; qemu-img create -q -f qcow2 x 2G");
	b = image_open(im, "x", (struct block_config){ 0 });
	for (size_t i = 0; i < 2 * CLUSTER; i++)
		buf[i] = i * 31 + (i >> 9);
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, l2 - CLUSTER, 2 * CLUSTER), 0);
	assert_int_equal(image_io(im, b, BLOCK_READ, back, l2 - CLUSTER, 2 * CLUSTER), 0);
	assert_memory_equal(buf, back, 2 * CLUSTER);
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 2 * GiB - 512, 512), 0);
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 2 * GiB - 512, 1024), -EIO);
	assert_int_equal(image_zero(im, b, 0, 2 * GiB, true), 0);
	assert_int_equal(image_io(im, b, BLOCK_READ, back, l2 - CLUSTER, 2 * CLUSTER), 0);
	for (size_t i = 0; i < 2 * CLUSTER; i++)
		assert_int_equal(back[i], 0);
	block_close(b);
	check_image(im, "x", false);
	free(buf);
	free(back);
}

static void extended_entries_are_read_not_written(void **state)
{
	struct images *im = *state;
	struct block_config ro = { .read_only = true };
	uint8_t *buf = malloc(MiB);
	struct block *b;
	FILE *f;

	fresh(im, "-o extended_l2=on,cluster_size=64k");
	must(im, "qemu-io -c 'write -P 1 3k 2k' -c 'write -P 2 65k 512' -c 'write -z 10k 4k' "
		 "-c 'write -P 3 200k 100k' -c 'discard 210k 8k' x >/dev/null");
	image_refused(im, "x", (struct block_config){ 0 }, "can only be read");
	must(im, "qemu-img convert -O raw x y && truncate -s 1M y");
	b = image_open(im, "x", ro);
	assert_int_equal(image_io(im, b, BLOCK_READ, buf, 0, MiB), 0);
	block_close(b);
	f = fopen(image_path(im, "z"), "w");
	assert_int_equal(fwrite(buf, 1, MiB, f), MiB);
	fclose(f);
	must(im, "cmp y z");
	free(buf);
}

static void what_others_know_of_the_content_is_taken_back(void **state)
{
	struct images *im = *state;
	uint8_t buf[512] = { 1 };
	struct block *b;

	fresh(im, "");
	must(im, "qemu-img bitmap --add x marks");
	assert_int_equal(peek64(im, "x", 88), 1);
	b = image_open(im, "x", (struct block_config){ 0 });
	assert_int_equal(image_io(im, b, BLOCK_READ, buf, 0, 512), 0);
	assert_int_equal(peek64(im, "x", 88), 1);
	assert_int_equal(image_io(im, b, BLOCK_WRITE, buf, 0, 512), 0);
	assert_int_equal(peek64(im, "x", 88), 0);
	block_close(b);
}

static int setup(void **state)
{
	return images_setup(state, LOOP_AUTO);
}

#define image_test(t) cmocka_unit_test_setup_teardown(t, setup, images_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		image_test(headers_are_refused_with_the_reason),
		image_test(an_unknown_feature_is_called_by_its_name),
		image_test(corrupt_tables_end_requests_not_the_monitor),
		image_test(a_corrupt_entry_costs_neither_header_nor_tables),
		image_test(a_refcount_table_that_would_count_in_circles_is_refused),
		image_test(a_check_mends_nothing_that_is_two_things_at_once),
		image_test(backing_files_are_opened_only_when_allowed),
		image_test(what_lies_under_an_image_that_is_refused_is_closed),
		image_test(a_backing_file_that_grows_is_as_long_as_it_was),
		image_test(qemu_and_we_respect_each_others_locks),
		image_test(a_guest_cannot_turn_its_raw_disk_into_another_format),
		image_test(what_is_settled_is_all_in_the_file),
		image_test(discarding_gives_space_back),
		image_test(what_is_not_cached_is_read_while_nothing_can_be_committed),
		image_test(requests_across_the_end_of_tables_work),
		image_test(extended_entries_are_read_not_written),
		image_test(what_others_know_of_the_content_is_taken_back),
	};

	/* What is complained of here is what is tested. */
	log_setup(open("/dev/null", O_WRONLY), LOG_ERROR);
	return cmocka_run_group_tests_name("qcow2", tests, NULL, NULL);
}
