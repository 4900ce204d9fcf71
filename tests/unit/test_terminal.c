#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "devices/terminal.h"

/*
 * Each test is a process of its own, with a terminal of its own: settings are
 * those of the process. Returns the number of the check that failed, or 0.
 */
static int in_session(int (*test)(int tty))
{
	int master, status;
	pid_t pid = forkpty(&master, NULL, NULL, NULL);

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(test(STDIN_FILENO));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(master);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static bool is_cooked(int tty)
{
	struct termios t;

	return tcgetattr(tty, &t) == 0 && (t.c_lflag & ECHO) && (t.c_lflag & ICANON) &&
	       (t.c_lflag & ISIG) && (t.c_oflag & OPOST);
}

static bool is_raw(int tty)
{
	struct termios t;

	return tcgetattr(tty, &t) == 0 && !(t.c_lflag & (ECHO | ICANON | ISIG)) &&
	       !(t.c_oflag & OPOST) && !(t.c_iflag & IXON);
}

static int raw_and_back(int tty)
{
	terminal_save(tty);
	if (!is_cooked(tty))
		return 1;
	if (terminal_raw() < 0 || !is_raw(tty))
		return 2;
	terminal_restore();
	if (!is_cooked(tty))
		return 3;
	terminal_restore();
	return is_cooked(tty) ? 0 : 4;
}

static void raw_mode_is_undone_and_undoing_twice_is_harmless(void **state)
{
	assert_int_equal(in_session(raw_and_back), 0);
}

static int parent_restores(int tty)
{
	int status;
	pid_t pid;

	terminal_save(tty);
	pid = fork();
	if (pid == 0) {
		terminal_raw();
		raise(SIGKILL);
	}
	waitpid(pid, &status, 0);
	if (!WIFSIGNALED(status) || !is_raw(tty))
		return 1;
	terminal_restore();
	return is_cooked(tty) ? 0 : 2;
}

static void the_parent_restores_what_a_killed_child_left(void **state)
{
	assert_int_equal(in_session(parent_restores), 0);
}

static int background(int tty)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		setpgid(0, 0);
		if (!terminal_is_background(tty))
			_exit(2);
		terminal_save(tty);
		/* Stops nobody, changes nothing. */
		if (terminal_raw() < 0 || !is_cooked(tty))
			_exit(3);
		terminal_restore();
		_exit(is_cooked(tty) ? 0 : 4);
	}
	waitpid(pid, &status, WUNTRACED);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 5;
}

static void a_background_process_leaves_the_terminal_alone(void **state)
{
	assert_int_equal(in_session(background), 0);
}

/* In the foreground when it saved, in the background when it ends: back, and not stopped. */
static int sent_to_background(int tty)
{
	int status;
	pid_t pid = fork(), other;

	signal(SIGTTOU, SIG_IGN);
	if (pid == 0) {
		signal(SIGTTOU, SIG_DFL);
		terminal_save(tty);
		if (terminal_raw() < 0)
			_exit(1);
		/* As a shell does it: the terminal gets another group, ours stays. */
		other = fork();
		if (other == 0)
			pause();
		setpgid(other, other);
		tcsetpgrp(tty, other);
		kill(other, SIGKILL);
		if (!terminal_is_background(tty))
			_exit(2);
		terminal_restore();
		_exit(is_cooked(tty) ? 0 : 3);
	}
	waitpid(pid, &status, WUNTRACED);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 4;
}

static void restoring_from_the_background_stops_nobody(void **state)
{
	assert_int_equal(in_session(sent_to_background), 0);
}

static int no_terminal(int tty)
{
	int fd = open("/dev/null", O_RDWR);

	terminal_save(fd);
	if (terminal_raw() < 0 || terminal_is_background(fd))
		return 1;
	terminal_restore();
	return is_cooked(tty) ? 0 : 2;
}

static void what_is_no_terminal_is_left_alone(void **state)
{
	assert_int_equal(in_session(no_terminal), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(raw_mode_is_undone_and_undoing_twice_is_harmless),
		cmocka_unit_test(the_parent_restores_what_a_killed_child_left),
		cmocka_unit_test(a_background_process_leaves_the_terminal_alone),
		cmocka_unit_test(restoring_from_the_background_stops_nobody),
		cmocka_unit_test(what_is_no_terminal_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
