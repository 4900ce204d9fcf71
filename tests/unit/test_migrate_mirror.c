/* Copies of disks on their way through the stream of a migration, and what becomes of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/block_result.h"
#include "tests/unit/wire_pair.h"
#include "vmm/migrate/migrate_copies.h"
#include "vmm/migrate/migrate_mirror.h"

/* Two records and a bit, and a last unit that is short. */
#define UNITS (2 * MIGRATE_DISK_UNITS + 3)
#define BYTES ((UNITS - 1) * MIGRATE_UNIT + 512)

/* A disk with a driver at the one end, and a file at the other. */
struct fixture {
	char path[64];
	struct loop *loop;
	struct block *block;
	int from, to;
	struct migrate_mirror mirror;
	struct migrate_mirror_sink sink;
	struct migrate_wire a, b;
	unsigned records, zeroes; /* that were sent last */
};

static int setup(void **state)
{
	struct loop_params params = { .backend = LOOP_EPOLL, .name = "test" };
	struct fixture *f = calloc(1, sizeof(*f));
	struct block_config config = { .path = f->path, .format = BLOCK_FORMAT_RAW };
	struct error err = { 0 };

	strcpy(f->path, "/var/tmp/wisp-mirror-XXXXXX");
	f->from = mkostemp(f->path, O_CLOEXEC);
	assert_true(f->from >= 0);
	assert_int_equal(ftruncate(f->from, BYTES), 0);
	config.fd = fcntl(f->from, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(loop_create(&f->loop, &params, NULL), 0);
	assert_int_equal(block_open(&f->block, &config, &err), 0);
	block_attach(f->block, f->loop);
	f->to = memfd_create("copy", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->to, BYTES), 0);
	assert_int_equal(migrate_mirror_sink_init(&f->sink, &err), 0);
	/* The first does not come: its number is not to be taken for another's. */
	f->sink.num = 2;
	f->sink.file[0].fd = -1;
	f->sink.file[1] =
		(struct migrate_mirror_file){ .fd = f->to, .bytes = BYTES, .path = "copy" };
	wire_pair(&f->a, &f->b);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	migrate_mirror_stop(&f->mirror);
	migrate_mirror_sink_done(&f->sink);
	migrate_wire_done(&f->a);
	migrate_wire_done(&f->b);
	block_close(f->block);
	loop_free(f->loop);
	close(f->from);
	close(f->to);
	unlink(f->path);
	free(f);
	return 0;
}

static void start(struct fixture *f, int level)
{
	const struct migrate_mirror_disk disks[] = {
		{ 0 },
		{ .block = f->block, .fd = f->from, .bytes = BYTES, .path = f->path },
	};
	struct error err = { 0 };

	assert_int_equal(migrate_mirror_start(&f->mirror, disks, 2, level, &err), 0);
}

static int send_one(void *arg, struct error *err)
{
	struct fixture *f = arg;
	struct migrate_record rec;
	int pending = 1;

	/* At most one came since the last time: what says nothing is not sent. */
	while (pending && recv(f->b.in, &pending, 1, MSG_PEEK | MSG_DONTWAIT) == 1) {
		assert_int_equal(migrate_wire_receive(&f->b, &rec, 1000, err), 0);
		f->records++;
		f->zeroes += rec.type == MIGRATE_DISK_ZEROES;
		if (migrate_mirror_sink_take(&f->sink, &rec, err) < 0)
			fail_msg("%s", err->msg);
	}
	return 0;
}

static void send_round(struct fixture *f)
{
	struct error err = { 0 };

	f->records = f->zeroes = 0;
	if (migrate_mirror_send(&f->mirror, &f->a, send_one, f, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(migrate_mirror_sink_sync(&f->sink, &err), 0);
}

static void assert_same(struct fixture *f)
{
	uint8_t *a = malloc(BYTES), *b = malloc(BYTES);

	assert_int_equal(pread(f->from, a, BYTES, 0), BYTES);
	assert_int_equal(pread(f->to, b, BYTES, 0), BYTES);
	assert_memory_equal(a, b, BYTES);
	free(a);
	free(b);
}

/* As a guest does. */
static void change(struct fixture *f, enum block_op op, uint64_t unit, uint64_t units, uint8_t byte)
{
	uint8_t data[512];
	struct iovec iov = { data, sizeof(data) };
	struct block_req req = {
		.op = op,
		.offset = unit * MIGRATE_UNIT,
		.len = op == BLOCK_WRITE ? sizeof(data) : units * MIGRATE_UNIT,
		.iov = &iov,
		.iovcnt = 1,
		.may_unmap = true,
	};

	memset(data, byte, sizeof(data));
	assert_int_equal(block_do(f->loop, f->block, req), 0);
}

static void only_what_is_there_is_read_and_sent(void **state)
{
	struct fixture *f = *state;

	change(f, BLOCK_WRITE, 1, 1, 'a');
	change(f, BLOCK_WRITE, UNITS - 1, 1, 'z');
	start(f, 0);
	send_round(f);
	assert_same(f);
	assert_int_equal(f->records, 2);
	assert_int_equal(f->mirror.bytes_read, MIGRATE_UNIT + 512);
	assert_int_equal(migrate_mirror_collect(&f->mirror), 0);
}

static void each_stretch_is_looked_for_once(void **state)
{
	struct fixture *f = *state;

	/* Of more than a record, between holes. */
	for (unsigned i = 1; i < UNITS - 2; i++)
		for (unsigned k = 0; k < MIGRATE_UNIT / 512; k += 8)
			assert_int_equal(pwrite(f->from, "data", 4, i * MIGRATE_UNIT + k * 512), 4);
	/* Compressed, a record is no more than a socket holds for an ordinary user. */
	start(f, 1);
	send_round(f);
	assert_same(f);
	assert_int_equal(f->mirror.looks, 3);
	/* What was a hole may be none in the next round. */
	change(f, BLOCK_WRITE, 0, 1, 'a');
	migrate_mirror_collect(&f->mirror);
	send_round(f);
	assert_same(f);
	assert_int_equal(f->mirror.looks, 4);
}

/* The other side must not take one who reads gigabytes of zeroes for dead. */
static void zeroes_that_are_read_are_told_of(void **state)
{
	struct fixture *f = *state;

	change(f, BLOCK_WRITE, 0, 1, 0);
	start(f, 0);
	send_round(f);
	assert_same(f);
	assert_int_equal(f->records, 1);
}

/* How fast they are read says nothing about the link. */
static void what_is_empty_does_not_count_as_sent(void **state)
{
	struct fixture *f = *state;
	uint64_t empty_ns;

	change(f, BLOCK_WRITE, 0, 1, 0);
	change(f, BLOCK_WRITE, 20, 1, 'a');
	start(f, 0);
	send_round(f);
	assert_int_equal(f->mirror.bytes_read, 2 * MIGRATE_UNIT);
	assert_int_equal(f->mirror.bytes_full, MIGRATE_UNIT);
	empty_ns = f->mirror.empty_ns;
	assert_true(empty_ns > 0);
	/* And what is not, does. */
	change(f, BLOCK_WRITE, 20, 1, 'b');
	migrate_mirror_collect(&f->mirror);
	send_round(f);
	assert_int_equal(f->mirror.bytes_full, 2 * MIGRATE_UNIT);
	assert_int_equal(f->mirror.empty_ns, empty_ns);
}

static void what_is_written_meanwhile_comes_again(void **state)
{
	struct fixture *f = *state;

	change(f, BLOCK_WRITE, 20, 1, 'a');
	start(f, 0);
	send_round(f);
	change(f, BLOCK_WRITE, 20, 1, 'b');
	change(f, BLOCK_WRITE, 3, 1, 'c');
	assert_int_equal(migrate_mirror_collect(&f->mirror), 2 * MIGRATE_UNIT);
	send_round(f);
	assert_same(f);
	assert_int_equal(f->records, 2);
	send_round(f);
	assert_int_equal(f->records, 0);
}

static void what_became_empty_becomes_so_there(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < UNITS; i++)
		change(f, BLOCK_WRITE, i, 1, 'a' + i % 20);
	start(f, 0);
	send_round(f);
	assert_same(f);
	change(f, BLOCK_WRITE_ZEROES, 2, 25, 0);
	/* And one of zeroes that were written. */
	change(f, BLOCK_WRITE, UNITS - 1, 1, 0);
	assert_int_equal(migrate_mirror_collect(&f->mirror), 26 * MIGRATE_UNIT);
	send_round(f);
	assert_same(f);
	assert_true(f->zeroes <= 1);
}

static void compressed_disks_are_the_same_and_fewer_bytes(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < UNITS; i++)
		change(f, BLOCK_WRITE, i, 1, 'a' + i % 20);
	start(f, 1);
	send_round(f);
	assert_same(f);
	assert_true(f->mirror.bytes_sent < f->mirror.bytes_read / 10);
}

static void nothing_is_noted_when_nobody_copies(void **state)
{
	struct fixture *f = *state;
	uint64_t units[1] = { 0 };

	change(f, BLOCK_WRITE, 1, 1, 'a');
	block_watch_collect(f->block, units, UNITS);
	assert_int_equal(units[0], 0);
	assert_int_equal(block_watch(f->block), 0);
	change(f, BLOCK_WRITE, 2, 1, 'a');
	block_watch_collect(f->block, units, UNITS);
	assert_int_equal(units[0], 1 << 2);
	block_unwatch(f->block);
	change(f, BLOCK_WRITE, 3, 1, 'a');
	units[0] = 0;
	block_watch_collect(f->block, units, UNITS);
	assert_int_equal(units[0], 0);
	/* Again, and what was before is not looked at. */
	assert_int_equal(block_watch(f->block), 0);
	change(f, BLOCK_WRITE, 4, 1, 'a');
	block_watch_collect(f->block, units, UNITS);
	assert_int_equal(units[0], 1 << 4);
}

/* ---- what an enemy may send ---- */

struct bad {
	enum migrate_record_type type;
	uint64_t page;
	uint32_t disk;
	uint16_t present, zero;
	size_t data; /* bytes behind the header */
};

static int take(struct fixture *f, const struct bad *bad, struct error *err)
{
	uint8_t payload[8 + 2 * MIGRATE_UNIT] = { 0 };
	struct migrate_record rec = {
		.type = bad->type,
		.page = bad->page,
		.payload = payload,
		.len = 8 + bad->data,
	};

	put_le32(payload, bad->disk);
	put_le16(payload + 4, bad->present);
	put_le16(payload + 6, bad->zero);
	return migrate_mirror_sink_take(&f->sink, &rec, err);
}

static void parts_that_make_no_sense_are_refused(void **state)
{
	static const struct bad refused[] = {
		{ MIGRATE_DISK, 0, 0, 1, 0, MIGRATE_UNIT },	     /* does not come */
		{ MIGRATE_DISK, 0, 2, 1, 0, MIGRATE_UNIT },	     /* is none */
		{ MIGRATE_DISK, 0, UINT32_MAX, 1, 0, MIGRATE_UNIT },
		{ MIGRATE_DISK, 0, 1, 0, 0, 0 },		     /* says nothing */
		{ MIGRATE_DISK, 0, 1, 1, 1, MIGRATE_UNIT },	     /* is empty and is not */
		{ MIGRATE_DISK, 0, 1, 1, 0, MIGRATE_UNIT - 1 },
		{ MIGRATE_DISK, 0, 1, 1, 0, MIGRATE_UNIT + 1 },
		{ MIGRATE_DISK, UNITS - 1, 1, 1, 0, MIGRATE_UNIT },  /* past the end */
		{ MIGRATE_DISK, UNITS - 1, 1, 2, 0, 512 },
		{ MIGRATE_DISK, UNITS - 1, 1, 0, 2, 0 },
		{ MIGRATE_DISK, UNITS, 1, 0, 1, 0 },
		{ MIGRATE_DISK, UINT64_MAX, 1, 0, 1, 0 },
		{ MIGRATE_DISK_ZSTD, 0, 1, 1, 0, 100 },		     /* nothing compressed */
		{ MIGRATE_DISK_ZEROES, 0, 1, 0, 0, 4 },		     /* no units */
		{ MIGRATE_DISK_ZEROES, 1, 1, UNITS, 0, 4 },	     /* one too many */
		{ MIGRATE_DISK_ZEROES, UINT64_MAX, 1, 2, 0, 4 },
		{ MIGRATE_DISK_ZEROES, 0, 1, 1, 0, 5 },
	};
	const struct bad last = { MIGRATE_DISK, UNITS - 1, 1, 1, 0, 512 };
	const struct bad all = { MIGRATE_DISK_ZEROES, 0, 1, UNITS, 0, 4 };
	struct fixture *f = *state;
	struct error err = { 0 };
	struct stat st;

	for (unsigned i = 0; i < ARRAY_SIZE(refused); i++)
		if (take(f, &refused[i], &err) != -EBADMSG)
			fail_msg("record %u", i);
	assert_int_equal(take(f, &last, &err), 0);
	assert_int_equal(take(f, &all, &err), 0);
	assert_int_equal(fstat(f->to, &st), 0);
	assert_int_equal(st.st_size, BYTES);
}

static void a_disk_that_is_full_is_told_by_name(void **state)
{
	struct fixture *f = *state;
	const struct bad good = { MIGRATE_DISK, 0, 1, 1, 0, MIGRATE_UNIT };
	struct error err = { 0 };
	int full = open("/dev/full", O_RDWR | O_CLOEXEC);

	assert_true(full >= 0);
	f->sink.file[1].fd = full;
	assert_int_equal(take(f, &good, &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "'copy'"));
	assert_non_null(strstr(err.msg, "No space left"));
	close(full);
}

/* ---- files ---- */

struct place {
	char dir[64], path[128];
	struct machine_config config;
	struct migrate_hello hello;
	struct migrate_copies copies;
};

static struct place *make_place(void)
{
	struct place *p = calloc(1, sizeof(*p));

	strcpy(p->dir, "/var/tmp/wisp-copies-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/disk", p->dir);
	config_init(&p->config);
	p->config.num_disks = p->hello.num_disks = 1;
	p->config.disk[0].path = strdup(p->path);
	p->config.disk[0].id = strdup("disk0");
	p->hello.disk_comes[0] = true;
	p->hello.disk_bytes[0] = BYTES;
	migrate_copies_init(&p->copies);
	return p;
}

/* Only when nothing but the file that is kept is left, the directory can go. */
static void remove_place(struct place *p)
{
	unlink(p->path);
	assert_int_equal(rmdir(p->dir), 0);
	config_done(&p->config);
	free(p);
}

struct asked {
	struct migrate_copies *copies;
	struct loop_task task;
};

static void answer_as_parent(struct loop_task *task)
{
	migrate_copies_serve(container_of(task, struct asked, task)->copies);
}

/*
 * As the monitor's request and the parent's answer, in one process: whoever waits for the one
 * serves the loop that brings the other.
 */
static int publish(struct migrate_copies *c, struct error *err)
{
	const struct loop_params params = { .backend = LOOP_EPOLL };
	struct asked asked = { .copies = c, .task.run = answer_as_parent };
	struct error ignored = { 0 };
	struct loop *loop;
	int r;

	assert_int_equal(migrate_copies_listen(c, &ignored), 0);
	/* There is nobody who waits for SIGIO. */
	assert_int_equal(fcntl(c->parents, F_SETFL, 0), 0);
	assert_int_equal(loop_create(&loop, &params, &ignored), 0);
	loop_post(loop, &asked.task);
	r = migrate_copies_publish(c, loop, err);
	loop_free(loop);
	return r;
}

static void a_copy_has_a_name_when_it_is_complete(void **state)
{
	struct place *p = make_place();
	struct error err = { 0 };
	struct stat st;

	assert_int_equal(migrate_copies_create(&p->copies, &p->config, &p->hello, &err), 0);
	assert_int_equal(access(p->path, F_OK), -1);
	assert_int_equal(publish(&p->copies, &err), 0);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_size, BYTES);
	assert_int_equal(st.st_mode & 0777, 0600);
	migrate_copies_end(&p->copies, true);
	assert_int_equal(access(p->path, F_OK), 0);
	remove_place(p);
}

static void what_was_not_to_be_is_taken_away(void **state)
{
	struct place *p = make_place();
	struct error err = { 0 };

	assert_int_equal(migrate_copies_create(&p->copies, &p->config, &p->hello, &err), 0);
	assert_int_equal(publish(&p->copies, &err), 0);
	migrate_copies_end(&p->copies, false);
	assert_int_equal(access(p->path, F_OK), -1);
	/* And without ever having had a name. */
	migrate_copies_init(&p->copies);
	assert_int_equal(migrate_copies_create(&p->copies, &p->config, &p->hello, &err), 0);
	migrate_copies_end(&p->copies, false);
	remove_place(p);
}

static void a_parent_that_is_gone_is_not_waited_for(void **state)
{
	const struct loop_params params = { .backend = LOOP_EPOLL };
	struct place *p = make_place();
	struct error err = { 0 };
	struct loop *loop;

	assert_int_equal(migrate_copies_create(&p->copies, &p->config, &p->hello, &err), 0);
	assert_int_equal(migrate_copies_listen(&p->copies, &err), 0);
	close(p->copies.parents);
	p->copies.parents = -1;
	assert_int_equal(loop_create(&loop, &params, &err), 0);
	assert_int_equal(migrate_copies_publish(&p->copies, loop, &err), -EPIPE);
	loop_free(loop);
	migrate_copies_end(&p->copies, false);
	remove_place(p);
}

static void nothing_is_written_over(void **state)
{
	struct place *p = make_place();
	struct error err = { 0 };
	int fd;

	assert_int_equal(migrate_copies_create(&p->copies, &p->config, &p->hello, &err), 0);
	/* It came meanwhile. */
	fd = open(p->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, "mine", 4), 4);
	close(fd);
	assert_int_equal(publish(&p->copies, &err), -EEXIST);
	migrate_copies_end(&p->copies, false);
	assert_int_equal(access(p->path, F_OK), 0);
	/* It is there from the start. */
	migrate_copies_init(&p->copies);
	assert_int_equal(migrate_copies_create(&p->copies, &p->config, &p->hello, &err), -EEXIST);
	assert_non_null(strstr(err.msg, p->path));
	migrate_copies_end(&p->copies, false);
	remove_place(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define WITH_DISK(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
		WITH_DISK(only_what_is_there_is_read_and_sent),
		WITH_DISK(each_stretch_is_looked_for_once),
		WITH_DISK(zeroes_that_are_read_are_told_of),
		WITH_DISK(what_is_empty_does_not_count_as_sent),
		WITH_DISK(what_is_written_meanwhile_comes_again),
		WITH_DISK(what_became_empty_becomes_so_there),
		WITH_DISK(compressed_disks_are_the_same_and_fewer_bytes),
		WITH_DISK(nothing_is_noted_when_nobody_copies),
		WITH_DISK(parts_that_make_no_sense_are_refused),
		WITH_DISK(a_disk_that_is_full_is_told_by_name),
#undef WITH_DISK
		cmocka_unit_test(a_copy_has_a_name_when_it_is_complete),
		cmocka_unit_test(what_was_not_to_be_is_taken_away),
		cmocka_unit_test(a_parent_that_is_gone_is_not_waited_for),
		cmocka_unit_test(nothing_is_written_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
