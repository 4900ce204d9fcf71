/* Character devices over pipes and files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tests/unit/fake_port.h"
#include "tests/unit/loop_fixture.h"

/* Two pipes: what the test writes to to[1] is input, what it reads from from[0] is output. */
struct pipes {
	struct fake_port port;
	int to[2], from[2];
};

static void pipes_init(struct pipes *t)
{
	struct chardev_config config = { .kind = CHARDEV_FDS };

	assert_int_equal(pipe(t->to), 0);
	assert_int_equal(pipe(t->from), 0);
	config.in_fd = t->to[0];
	config.out_fd = t->from[1];
	fake_port_init(&t->port, &config);
}

static void pipes_done(struct pipes *t)
{
	fake_port_done(&t->port);
	close(t->to[0]);
	close(t->from[1]);
	if (t->to[1] >= 0)
		close(t->to[1]);
	if (t->from[0] >= 0)
		close(t->from[0]);
}

static void input_is_read_only_as_far_as_there_is_room(void **state)
{
	static struct pipes t;
	int left;

	pipes_init(&t);
	t.port.room = 3;
	assert_int_equal(write(t.to[1], "abcdef", 6), 6);
	fake_port_await(&t.port, t.port.num_got == 3);
	fake_port_settle(&t.port);
	assert_int_equal(t.port.num_got, 3);
	/* What comes now stays in the pipe. */
	assert_int_equal(write(t.to[1], "ghi", 3), 3);
	fake_port_settle(&t.port);
	left = 0;
	assert_int_equal(ioctl(t.to[0], FIONREAD, &left), 0);
	assert_int_equal(left, 3);

	t.port.room = SIZE_MAX;
	chardev_resume_input(t.port.c);
	fake_port_await(&t.port, t.port.num_got == 9);
	assert_memory_equal(t.port.got, "abcdefghi", 9);
	pipes_done(&t);
}

static void end_of_input_is_told_after_the_last_byte(void **state)
{
	static struct pipes t;

	pipes_init(&t);
	assert_true(chardev_is_open(t.port.c));
	assert_int_equal(write(t.to[1], "last", 4), 4);
	close(t.to[1]);
	t.to[1] = -1;
	fake_port_await(&t.port, t.port.closed == 1);
	assert_int_equal(t.port.num_got, 4); /* descriptors stand for no terminal: no Ctrl-D */
	assert_false(chardev_is_open(t.port.c));
	fake_port_settle(&t.port);
	assert_int_equal(t.port.closed, 1);

	/* Output goes on. */
	assert_int_equal(chardev_write(t.port.c, "x", 1), 1);
	fake_port_settle(&t.port);
	assert_int_equal(read(t.from[0], t.port.got, 8), 1);
	pipes_done(&t);
}

static void a_full_reader_holds_up_the_writer_and_loses_nothing(void **state)
{
	enum { TOTAL = 1 << 20 };
	static struct pipes t;
	uint8_t *out = malloc(TOTAL), *in = malloc(TOTAL);
	size_t n = 0;

	for (size_t i = 0; i < TOTAL; i++)
		out[i] = i * 2654435761u >> 13;
	pipes_init(&t);
	t.port.out = out;
	t.port.out_left = TOTAL;
	fake_port_pump(&t.port);
	fake_port_settle(&t.port);
	assert_true(t.port.out_left > 0); /* neither pipe nor ring has room for all */
	assert_int_equal(chardev_write(t.port.c, "x", 1), 0);
	while (n < TOTAL) {
		ssize_t r;

		fake_port_settle(&t.port);
		r = read(t.from[0], in + n, TOTAL - n);
		assert_true(r > 0);
		n += r;
	}
	assert_int_equal(t.port.out_left, 0);
	assert_true(t.port.writable > 0);
	assert_memory_equal(in, out, TOTAL);
	pipes_done(&t);
	free(out);
	free(in);
}

static void a_reader_that_goes_away_ends_the_back_pressure(void **state)
{
	static struct pipes t;
	static uint8_t big[1 << 18];

	signal(SIGPIPE, SIG_IGN);
	pipes_init(&t);
	t.port.out = big;
	t.port.out_left = sizeof(big);
	fake_port_pump(&t.port);
	fake_port_settle(&t.port);
	assert_true(t.port.out_left > 0);
	close(t.from[0]);
	t.from[0] = -1;
	fake_port_await(&t.port, t.port.out_left == 0);
	assert_int_equal(chardev_write(t.port.c, big, sizeof(big)), sizeof(big));
	pipes_done(&t);
}

static void a_reader_without_input_that_goes_away_closes_the_port(void **state)
{
	static uint8_t some[100];
	struct chardev_config config = { .kind = CHARDEV_FDS, .in_fd = -1 };
	static struct fake_port p;
	int ends[2];

	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	config.out_fd = ends[1];
	fake_port_init(&p, &config);
	assert_true(chardev_is_open(p.c));
	close(ends[0]);
	assert_int_equal(chardev_write(p.c, some, sizeof(some)), sizeof(some));
	fake_port_await(&p, p.closed == 1);
	assert_false(chardev_is_open(p.c));
	fake_port_done(&p);
	close(ends[1]);
}

static void flush_waits_for_what_the_port_still_has(void **state)
{
	static struct pipes t;
	static uint8_t big[100000], in[100000];
	size_t n = 0;
	ssize_t r;

	pipes_init(&t);
	fcntl(t.from[1], F_SETPIPE_SZ, 1 << 17);
	t.port.out = big;
	t.port.out_left = sizeof(big);
	fake_port_pump(&t.port);
	assert_true(t.port.out_left > 0);
	chardev_flush(t.port.c, 100 * NSEC_PER_SEC);
	assert_int_equal(t.port.out_left, 0);
	close(t.from[1]);
	while ((r = read(t.from[0], in + n, sizeof(in) - n)) > 0)
		n += r;
	assert_int_equal(n, sizeof(big));
	t.from[1] = dup(t.from[0]);
	pipes_done(&t);
}

static void flush_gives_up_on_a_reader_that_does_not_read(void **state)
{
	static struct pipes t;
	static uint8_t big[1 << 20];

	pipes_init(&t);
	t.port.out = big;
	t.port.out_left = sizeof(big);
	fake_port_pump(&t.port);
	chardev_flush(t.port.c, 20 * NSEC_PER_MSEC);
	/* And whoever waited may go on. */
	assert_int_equal(t.port.out_left, 0);
	pipes_done(&t);
}

static void freeing_with_output_under_way_touches_nothing_later(void **state)
{
	static struct pipes t;
	static uint8_t big[1 << 18];

	pipes_init(&t);
	chardev_write(t.port.c, big, sizeof(big));
	fake_port_settle(&t.port);
	chardev_write(t.port.c, big, sizeof(big));
	fake_port_settle(&t.port);
	t.port.writable = 0;
	fake_port_done(&t.port);
	close(t.to[0]);
	close(t.to[1]);
	close(t.from[0]);
	close(t.from[1]);
	assert_int_equal(t.port.writable, 0);
}

static void a_detached_port_is_called_no_more(void **state)
{
	static struct pipes t;

	pipes_init(&t);
	chardev_attach(t.port.c, &(struct chardev_user){ 0 });
	assert_int_equal(write(t.to[1], "abc", 3), 3);
	fake_port_settle(&t.port);
	assert_int_equal(t.port.num_got, 0);
	chardev_attach(t.port.c,
		       &(struct chardev_user){ .input = fake_port_input, .arg = &t.port });
	fake_port_await(&t.port, t.port.num_got == 3); /* it waited */
	pipes_done(&t);
}

static void a_file_is_truncated_and_written(void **state)
{
	char path[] = "/tmp/wisp-chardev-XXXXXX", buf[16];
	struct chardev_config config = { .kind = CHARDEV_FILE, .path = path };
	static struct fake_port p;
	int fd = mkstemp(path);

	assert_int_equal(write(fd, "old and longer", 14), 14);
	fake_port_init(&p, &config);
	assert_int_equal(chardev_write(p.c, "one ", 4), 4);
	fake_port_settle(&p);
	assert_int_equal(chardev_write(p.c, "two", 3), 3);
	chardev_flush(p.c, 100 * NSEC_PER_SEC);
	assert_int_equal(pread(fd, buf, sizeof(buf), 0), 7);
	assert_memory_equal(buf, "one two", 7);
	fake_port_done(&p);
	close(fd);
	unlink(path);
}

static void what_cannot_be_opened_is_an_error_that_names_it(void **state)
{
	struct chardev_config file = { .kind = CHARDEV_FILE, .path = "/nonexistent/x" };
	char longer[200];
	struct chardev_config sock = { .kind = CHARDEV_SOCKET, .path = longer };
	struct error err = { 0 };
	struct chardev *c;
	struct loop *loop;

	loop = loop_fixture_create(NULL);
	assert_int_equal(chardev_create(&c, &file, loop, &err), -ENOENT);
	assert_string_equal(err.msg,
			    "file '/nonexistent/x': cannot write: No such file or directory");
	assert_int_equal(err.kind, ERROR_USAGE);
	memset(longer, 'a', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(chardev_create(&c, &sock, loop, &err), -ENAMETOOLONG);
	loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(input_is_read_only_as_far_as_there_is_room),
		cmocka_unit_test(end_of_input_is_told_after_the_last_byte),
		cmocka_unit_test(a_full_reader_holds_up_the_writer_and_loses_nothing),
		cmocka_unit_test(a_reader_that_goes_away_ends_the_back_pressure),
		cmocka_unit_test(a_reader_without_input_that_goes_away_closes_the_port),
		cmocka_unit_test(flush_waits_for_what_the_port_still_has),
		cmocka_unit_test(flush_gives_up_on_a_reader_that_does_not_read),
		cmocka_unit_test(freeing_with_output_under_way_touches_nothing_later),
		cmocka_unit_test(a_detached_port_is_called_no_more),
		cmocka_unit_test(a_file_is_truncated_and_written),
		cmocka_unit_test(what_cannot_be_opened_is_an_error_that_names_it),
	};

	return loop_fixture_run("chardev", tests, ARRAY_SIZE(tests));
}
