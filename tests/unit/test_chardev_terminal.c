/* Character devices over a terminal: a pty in the place of standard input and output. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pty.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "tests/unit/fake_port.h"
#include "tests/unit/loop_fixture.h"

struct tty {
	struct fake_port port;
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
	fake_port_init(&t->port, &config);
}

static void tty_done(struct tty *t)
{
	fake_port_done(&t->port);
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
	fake_port_await(&t.port, t.port.num_got == 2);
	key = t.port.key;
	/* Twice sends one, also when they come apart; b is a break. */
	assert_int_equal(write(t.master, "\001c\001bd", 5), 5);
	fake_port_await(&t.port, t.port.num_got == 5);
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
	fake_port_settle(&t.port);
	assert_int_equal(write(t.master, "\001x", 2), 2);
	fake_port_await(&t.port, t.port.key == 'x');
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
	fake_port_pump(&t.port);
	fake_port_settle(&t.port); /* and a terminal that nobody reads does not block the loop */
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
	static struct fake_port p;

	for (int i = 0; i < 2; i++) {
		assert_int_equal(pipe(fds), 0);
		dup2(fds[0], 0);
		close(fds[0]);
		if (i == 0)
			assert_int_equal(write(fds[1], "ls\n", 3), 3);
		close(fds[1]);
		fake_port_init(&p, &config);
		fake_port_await(&p, p.closed == 1);
		fake_port_settle(&p);
		fake_port_done(&p);
		dup2(saved, 0);
		/* Nothing at all is nobody who typed. */
		assert_int_equal(p.num_got, i == 0 ? 4 : 0);
		if (i == 0)
			assert_memory_equal(p.got, "ls\n\004", 4);
	}
	close(saved);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(escapes_are_taken_out_of_what_is_typed),
		cmocka_unit_test(escapes_work_while_the_guest_does_not_read),
		cmocka_unit_test(the_size_is_the_terminals),
		cmocka_unit_test(the_shared_terminal_is_never_made_nonblocking),
		cmocka_unit_test(piped_input_ends_as_if_typed),
	};

	return loop_fixture_run("chardev_terminal", tests, ARRAY_SIZE(tests));
}
