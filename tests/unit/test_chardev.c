#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "devices/chardev.h"
#include "tests/unit/patience.h"

/* Every test runs on both back ends of the loop. */
static enum loop_backend backend;

/* A port above, and what it has seen. */
struct port {
	struct loop *loop;
	struct chardev *c;
	size_t room; /* left; SIZE_MAX: without end */
	uint8_t got[1 << 16];
	size_t num_got;
	unsigned writable, opened, closed, resized, breaks;
	uint16_t columns, rows;
	char key;
	/* Output that is yet to be written, by writable(). */
	const uint8_t *out;
	size_t out_left;
};

static size_t room(void *arg)
{
	struct port *p = arg;

	return p->room;
}

static void input(void *arg, const uint8_t *bytes, size_t len)
{
	struct port *p = arg;

	assert_true(len > 0 && len <= p->room);
	if (p->room != SIZE_MAX)
		p->room -= len;
	assert_true(p->num_got + len <= sizeof(p->got));
	memcpy(p->got + p->num_got, bytes, len);
	p->num_got += len;
}

static void pump(struct port *p)
{
	size_t n = chardev_write(p->c, p->out, p->out_left);

	p->out += n;
	p->out_left -= n;
}

static void writable(void *arg)
{
	struct port *p = arg;

	p->writable++;
	if (p->out_left)
		pump(p);
}

static void opened(void *arg, bool open)
{
	struct port *p = arg;

	if (open)
		p->opened++;
	else
		p->closed++;
}

static void resized(void *arg, uint16_t columns, uint16_t rows)
{
	struct port *p = arg;

	p->resized++;
	p->columns = columns;
	p->rows = rows;
}

static void send_break(void *arg)
{
	((struct port *)arg)->breaks++;
}

static void on_escape(void *arg, char key)
{
	((struct port *)arg)->key = key;
}

static void port_init(struct port *p, const struct chardev_config *config)
{
	struct loop_params params = { .backend = backend, .name = "test" };
	struct error err = { 0 };

	memset(p, 0, sizeof(*p));
	p->room = SIZE_MAX;
	assert_int_equal(loop_create(&p->loop, &params, NULL), 0);
	if (chardev_create(&p->c, config, p->loop, &err) < 0)
		fail_msg("%s", err.msg);
	chardev_on_escape(p->c, on_escape, p);
	chardev_attach(p->c, &(struct chardev_user){ room, input, writable, opened, resized,
						     send_break, p });
}

static void port_done(struct port *p)
{
	chardev_free(p->c);
	loop_free(p->loop);
}

static void settle(struct port *p)
{
	while (loop_run_once(p->loop, 5 * NSEC_PER_MSEC))
		;
}

/* Turn the loop until @cond. */
#define AWAIT(p, cond)                                                                             \
	do {                                                                                       \
		for (uint64_t _end = patience(); !(cond) && !patience_ends(_end);)                 \
			loop_run_once((p)->loop, 10 * NSEC_PER_MSEC);                              \
		assert_true(cond);                                                                 \
	} while (0)

/* Two pipes: what the test writes to to[1] is input, what it reads from from[0] is output. */
struct pipes {
	struct port port;
	int to[2], from[2];
};

static void pipes_init(struct pipes *t)
{
	struct chardev_config config = { .kind = CHARDEV_FDS };

	assert_int_equal(pipe(t->to), 0);
	assert_int_equal(pipe(t->from), 0);
	config.in_fd = t->to[0];
	config.out_fd = t->from[1];
	port_init(&t->port, &config);
}

static void pipes_done(struct pipes *t)
{
	port_done(&t->port);
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
	AWAIT(&t.port, t.port.num_got == 3);
	settle(&t.port);
	assert_int_equal(t.port.num_got, 3);
	/* What comes now stays in the pipe. */
	assert_int_equal(write(t.to[1], "ghi", 3), 3);
	settle(&t.port);
	left = 0;
	assert_int_equal(ioctl(t.to[0], FIONREAD, &left), 0);
	assert_int_equal(left, 3);

	t.port.room = SIZE_MAX;
	chardev_resume_input(t.port.c);
	AWAIT(&t.port, t.port.num_got == 9);
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
	AWAIT(&t.port, t.port.closed == 1);
	assert_int_equal(t.port.num_got, 4); /* descriptors stand for no terminal: no Ctrl-D */
	assert_false(chardev_is_open(t.port.c));
	settle(&t.port);
	assert_int_equal(t.port.closed, 1);

	/* Output goes on. */
	assert_int_equal(chardev_write(t.port.c, "x", 1), 1);
	settle(&t.port);
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
	pump(&t.port);
	settle(&t.port);
	assert_true(t.port.out_left > 0); /* neither pipe nor ring has room for all */
	assert_int_equal(chardev_write(t.port.c, "x", 1), 0);
	while (n < TOTAL) {
		ssize_t r;

		settle(&t.port);
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
	pump(&t.port);
	settle(&t.port);
	assert_true(t.port.out_left > 0);
	close(t.from[0]);
	t.from[0] = -1;
	AWAIT(&t.port, t.port.out_left == 0);
	assert_int_equal(chardev_write(t.port.c, big, sizeof(big)), sizeof(big));
	pipes_done(&t);
}

static void a_reader_without_input_that_goes_away_closes_the_port(void **state)
{
	static uint8_t some[100];
	struct chardev_config config = { .kind = CHARDEV_FDS, .in_fd = -1 };
	static struct port p;
	int ends[2];

	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	config.out_fd = ends[1];
	port_init(&p, &config);
	assert_true(chardev_is_open(p.c));
	close(ends[0]);
	assert_int_equal(chardev_write(p.c, some, sizeof(some)), sizeof(some));
	AWAIT(&p, p.closed == 1);
	assert_false(chardev_is_open(p.c));
	port_done(&p);
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
	pump(&t.port);
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
	pump(&t.port);
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
	settle(&t.port);
	chardev_write(t.port.c, big, sizeof(big));
	settle(&t.port);
	t.port.writable = 0;
	port_done(&t.port);
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
	settle(&t.port);
	assert_int_equal(t.port.num_got, 0);
	chardev_attach(t.port.c, &(struct chardev_user){ .input = input, .arg = &t.port });
	AWAIT(&t.port, t.port.num_got == 3); /* it waited */
	pipes_done(&t);
}

static void a_file_is_truncated_and_written(void **state)
{
	char path[] = "/tmp/wisp-chardev-XXXXXX", buf[16];
	struct chardev_config config = { .kind = CHARDEV_FILE, .path = path };
	static struct port p;
	int fd = mkstemp(path);

	assert_int_equal(write(fd, "old and longer", 14), 14);
	port_init(&p, &config);
	assert_int_equal(chardev_write(p.c, "one ", 4), 4);
	settle(&p);
	assert_int_equal(chardev_write(p.c, "two", 3), 3);
	chardev_flush(p.c, 100 * NSEC_PER_SEC);
	assert_int_equal(pread(fd, buf, sizeof(buf), 0), 7);
	assert_memory_equal(buf, "one two", 7);
	port_done(&p);
	close(fd);
	unlink(path);
}

static void what_cannot_be_opened_is_an_error_that_names_it(void **state)
{
	struct chardev_config file = { .kind = CHARDEV_FILE, .path = "/nonexistent/x" };
	char longer[200];
	struct chardev_config sock = { .kind = CHARDEV_SOCKET, .path = longer };
	struct loop_params params = { .backend = backend };
	struct error err = { 0 };
	struct chardev *c;
	struct loop *loop;

	assert_int_equal(loop_create(&loop, &params, NULL), 0);
	assert_int_equal(chardev_create(&c, &file, loop, &err), -ENOENT);
	assert_string_equal(err.msg,
			    "file '/nonexistent/x': cannot write: No such file or directory");
	assert_int_equal(err.kind, ERROR_USAGE);
	memset(longer, 'a', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(chardev_create(&c, &sock, loop, &err), -ENAMETOOLONG);
	loop_free(loop);
}

/* ---- sockets ---- */

static void socket_path(char *path, size_t size)
{
	snprintf(path, size, "/tmp/wisp-chardev-%d.sock", getpid());
}

static int dial(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(addr.sun_path, path);
	assert_int_equal(connect(fd, (void *)&addr, sizeof(addr)), 0);
	return fd;
}

static void clients_come_and_go(void **state)
{
	struct chardev_config config = { .kind = CHARDEV_SOCKET };
	static struct port p;
	char path[64], buf[8];
	int fd;

	socket_path(path, sizeof(path));
	config.path = path;
	port_init(&p, &config);
	assert_false(chardev_is_open(p.c));
	/* Nobody there: dropped, and no reason to wait. */
	assert_int_equal(chardev_write(p.c, "lost", 4), 4);

	for (unsigned i = 1; i <= 3; i++) {
		fd = dial(path);
		AWAIT(&p, p.opened == i);
		assert_true(chardev_is_open(p.c));
		assert_int_equal(write(fd, "in", 2), 2);
		AWAIT(&p, p.num_got == 2 * i);
		assert_int_equal(chardev_write(p.c, "out", 3), 3);
		settle(&p);
		assert_int_equal(read(fd, buf, sizeof(buf)), 3);
		close(fd);
		AWAIT(&p, p.closed == i);
		assert_false(chardev_is_open(p.c));
	}
	port_done(&p);
	assert_int_equal(access(path, F_OK), -1);
}

static void a_client_that_said_all_still_hears_the_answer(void **state)
{
	struct chardev_config config = { .kind = CHARDEV_SOCKET };
	static struct port p;
	char path[64], buf[8];
	int fd;

	socket_path(path, sizeof(path));
	config.path = path;
	port_init(&p, &config);
	fd = dial(path);
	assert_int_equal(write(fd, "?", 1), 1);
	shutdown(fd, SHUT_WR);
	AWAIT(&p, p.num_got == 1);
	settle(&p);
	assert_int_equal(p.closed, 0);
	assert_int_equal(chardev_write(p.c, "answer", 6), 6);
	settle(&p);
	assert_int_equal(read(fd, buf, sizeof(buf)), 6);
	close(fd);
	AWAIT(&p, p.closed == 1);
	port_done(&p);
}

static void a_client_that_leaves_unread_input_is_noticed(void **state)
{
	struct chardev_config config = { .kind = CHARDEV_SOCKET };
	static struct port p;
	char path[64];
	int fd;

	socket_path(path, sizeof(path));
	config.path = path;
	port_init(&p, &config);
	p.room = 0;
	fd = dial(path);
	assert_int_equal(write(fd, "never read", 10), 10);
	AWAIT(&p, p.opened == 1);
	settle(&p);
	close(fd);
	AWAIT(&p, p.closed == 1);

	/* The next one starts afresh. */
	p.room = SIZE_MAX;
	fd = dial(path);
	assert_int_equal(write(fd, "b", 1), 1);
	AWAIT(&p, p.num_got == 1);
	assert_int_equal(p.got[0], 'b');
	/* One that goes with output under way does not hold up the guest. */
	p.out_left = sizeof(p.got);
	p.out = p.got;
	for (int i = 0; i < 10 && !p.out_left; i++) {
		p.out = p.got;
		p.out_left = sizeof(p.got);
		pump(&p);
	}
	pump(&p);
	settle(&p);
	close(fd);
	AWAIT(&p, p.closed == 2);
	if (p.out_left)
		pump(&p);
	assert_int_equal(p.out_left, 0);
	port_done(&p);
}

static void a_stale_socket_is_replaced_and_a_live_one_is_not(void **state)
{
	struct chardev_config config = { .kind = CHARDEV_SOCKET };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int stale = socket(AF_UNIX, SOCK_STREAM, 0);
	struct error err = { 0 };
	static struct port p;
	struct chardev *other;
	char path[64];

	socket_path(path, sizeof(path));
	strcpy(addr.sun_path, path);
	assert_int_equal(bind(stale, (void *)&addr, sizeof(addr)), 0);
	close(stale);
	config.path = path;
	port_init(&p, &config);
	assert_int_equal(chardev_create(&other, &config, p.loop, &err), -EADDRINUSE);
	assert_int_equal(err.kind, ERROR_USAGE);
	close(dial(path)); /* still there */
	port_done(&p);
}

static void what_is_no_socket_stays(void **state)
{
	char path[] = "/tmp/wisp-chardev-XXXXXX";
	struct chardev_config config = { .kind = CHARDEV_SOCKET, .path = path };
	struct loop_params params = { .backend = backend };
	struct error err = { 0 };
	struct chardev *c;
	struct loop *loop;
	struct stat st;
	int fd = mkstemp(path);

	assert_int_equal(write(fd, "precious", 8), 8);
	close(fd);
	assert_int_equal(loop_create(&loop, &params, NULL), 0);
	assert_int_equal(chardev_create(&c, &config, loop, &err), -EADDRINUSE);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 8);
	loop_free(loop);
	unlink(path);
}

/* A process that has used up its descriptors, and gets some back later. */
static void a_client_is_taken_once_there_are_descriptors_again(void **state)
{
	struct chardev_config config = { .kind = CHARDEV_SOCKET };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), next;
	struct rlimit limit, none;
	static struct port p;
	char path[64];

	socket_path(path, sizeof(path));
	strcpy(addr.sun_path, path);
	config.path = path;
	port_init(&p, &config);
	next = dup(fd);
	close(next);
	getrlimit(RLIMIT_NOFILE, &limit);
	none = limit;
	none.rlim_cur = next;
	setrlimit(RLIMIT_NOFILE, &none);
	assert_int_equal(connect(fd, (void *)&addr, sizeof(addr)), 0);
	for (int i = 0; i < 20; i++)
		loop_run_once(p.loop, NSEC_PER_MSEC);
	setrlimit(RLIMIT_NOFILE, &limit);
	assert_int_equal(p.opened, 0);
	AWAIT(&p, p.opened == 1);
	close(fd);
	AWAIT(&p, p.closed == 1);
	port_done(&p);
}

/* ---- terminals, by a pty in the place of standard input and output ---- */

struct tty {
	struct port port;
	int master, saved[2];
};

static void tty_init(struct tty *t)
{
	struct chardev_config config = { .kind = CHARDEV_STDIO };
	struct termios raw;
	int slave;

	assert_int_equal(openpty(&t->master, &slave, NULL, NULL, NULL), 0);
	assert_int_equal(tcgetattr(slave, &raw), 0);
	cfmakeraw(&raw);
	assert_int_equal(tcsetattr(slave, TCSANOW, &raw), 0);
	fflush(stdout);
	t->saved[0] = dup(0);
	t->saved[1] = dup(1);
	dup2(slave, 0);
	dup2(slave, 1);
	close(slave);
	port_init(&t->port, &config);
}

static void tty_done(struct tty *t)
{
	port_done(&t->port);
	dup2(t->saved[0], 0);
	dup2(t->saved[1], 1);
	close(t->saved[0]);
	close(t->saved[1]);
	close(t->master);
}

static void escapes_are_taken_out_of_what_is_typed(void **state)
{
	static struct tty t;
	char key;
	unsigned breaks;

	tty_init(&t);
	assert_int_equal(write(t.master, "a\001xb\001", 5), 5);
	AWAIT(&t.port, t.port.num_got == 2);
	key = t.port.key;
	/* Twice sends one, also when they come apart; b is a break. */
	assert_int_equal(write(t.master, "\001c\001bd", 5), 5);
	AWAIT(&t.port, t.port.num_got == 5);
	breaks = t.port.breaks;
	tty_done(&t);
	assert_memory_equal(t.port.got, "ab\001cd", 5);
	assert_int_equal(key, 'x');
	assert_int_equal(t.port.key, 'x');
	assert_int_equal(breaks, 1);
}

static void escapes_work_while_the_guest_does_not_read(void **state)
{
	static struct tty t;

	tty_init(&t);
	t.port.room = 0;
	assert_int_equal(write(t.master, "typed ahead", 11), 11);
	settle(&t.port);
	assert_int_equal(write(t.master, "\001x", 2), 2);
	AWAIT(&t.port, t.port.key == 'x');
	t.port.room = SIZE_MAX;
	chardev_resume_input(t.port.c);
	tty_done(&t);
	assert_int_equal(t.port.num_got, 11);
	assert_memory_equal(t.port.got, "typed ahead", 11);
}

static void the_size_is_the_terminals(void **state)
{
	struct winsize size = { .ws_col = 132, .ws_row = 43 };
	static struct tty t;
	uint16_t columns, rows;

	tty_init(&t);
	assert_int_equal(ioctl(t.master, TIOCSWINSZ, &size), 0);
	chardev_size(t.port.c, &columns, &rows);
	chardev_window_changed(t.port.c);
	tty_done(&t);
	assert_int_equal(columns, 132);
	assert_int_equal(rows, 43);
	assert_int_equal(t.port.resized, 1);
	assert_int_equal(t.port.columns, 132);
	assert_int_equal(t.port.rows, 43);
}

static void the_shared_terminal_is_never_made_nonblocking(void **state)
{
	static struct tty t;
	static uint8_t big[1 << 18];
	int flags;
	size_t n = 0;

	tty_init(&t);
	t.port.out = memset(big, 'x', sizeof(big));
	t.port.out_left = sizeof(big);
	pump(&t.port);
	settle(&t.port); /* and a terminal that nobody reads does not block the loop */
	flags = fcntl(1, F_GETFL);
	for (int i = 0; i < 20000 && n < sizeof(big); i++) {
		static uint8_t in[4096];
		ssize_t r;

		loop_run_once(t.port.loop, 0);
		fcntl(t.master, F_SETFL, O_NONBLOCK);
		r = read(t.master, in, sizeof(in));
		if (r > 0)
			n += r;
		else
			loop_run_once(t.port.loop, NSEC_PER_MSEC);
	}
	tty_done(&t);
	assert_false(flags & O_NONBLOCK);
	assert_int_equal(n, sizeof(big));
}

static void piped_input_ends_as_if_typed(void **state)
{
	struct chardev_config config = { .kind = CHARDEV_STDIO };
	int saved = dup(0), fds[2];
	static struct port p;

	for (int i = 0; i < 2; i++) {
		assert_int_equal(pipe(fds), 0);
		dup2(fds[0], 0);
		close(fds[0]);
		if (i == 0)
			assert_int_equal(write(fds[1], "ls\n", 3), 3);
		close(fds[1]);
		port_init(&p, &config);
		AWAIT(&p, p.closed == 1);
		settle(&p);
		port_done(&p);
		dup2(saved, 0);
		/* Nothing at all is nobody who typed. */
		assert_int_equal(p.num_got, i == 0 ? 4 : 0);
		if (i == 0)
			assert_memory_equal(p.got, "ls\n\004", 4);
	}
	close(saved);
}

static int run(enum loop_backend which)
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
		cmocka_unit_test(clients_come_and_go),
		cmocka_unit_test(a_client_that_said_all_still_hears_the_answer),
		cmocka_unit_test(a_client_that_leaves_unread_input_is_noticed),
		cmocka_unit_test(a_stale_socket_is_replaced_and_a_live_one_is_not),
		cmocka_unit_test(what_is_no_socket_stays),
		cmocka_unit_test(a_client_is_taken_once_there_are_descriptors_again),
		cmocka_unit_test(escapes_are_taken_out_of_what_is_typed),
		cmocka_unit_test(escapes_work_while_the_guest_does_not_read),
		cmocka_unit_test(the_size_is_the_terminals),
		cmocka_unit_test(the_shared_terminal_is_never_made_nonblocking),
		cmocka_unit_test(piped_input_ends_as_if_typed),
	};

	backend = which;
	return cmocka_run_group_tests_name(which == LOOP_EPOLL ? "chardev (epoll)" :
								 "chardev (io_uring)",
					   tests, NULL, NULL);
}

int main(void)
{
	struct loop_params params = { .backend = LOOP_URING };
	int failed = run(LOOP_EPOLL);
	struct loop *loop;

	if (loop_create(&loop, &params, NULL) < 0)
		return failed;
	loop_free(loop);
	return failed + run(LOOP_URING);
}
