#include "devices/terminal.h"

#include <errno.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

/*
 * One terminal, so one of each. Written before any handler could run, then only
 * read by terminal_restore(), which a signal handler may call.
 */
static struct termios saved;
static int terminal_fd = -1;
static pid_t own_group; /* from terminal_raw() on: a confined monitor cannot ask; or 0 */
static enum { NOT_ASKED, IS_NONE, IS_ONE } known[STDERR_FILENO + 1];

void terminal_learn(int fd)
{
	known[fd] = isatty(fd) ? IS_ONE : IS_NONE;
}

bool terminal_is(int fd)
{
	return known[fd] == NOT_ASKED ? isatty(fd) : known[fd] == IS_ONE;
}

bool terminal_is_background(int fd)
{
	pid_t group = tcgetpgrp(fd);

	/* Not our controlling terminal, or a group of another PID namespace: nobody stops us. */
	return group > 0 && group != (own_group ? own_group : getpgrp());
}

void terminal_save(int fd)
{
	bool is = tcgetattr(fd, &saved) == 0;

	if (fd <= STDERR_FILENO)
		known[fd] = is ? IS_ONE : IS_NONE;
	if (is && !terminal_is_background(fd))
		terminal_fd = fd;
}

/* From a background process group, setting a terminal stops the process: never that. */
static int set_attributes(const struct termios *t)
{
	sigset_t ttou, old;
	int r;

	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &ttou, &old);
	/* Now, without waiting for output to drain: nobody may be reading the other end. */
	r = tcsetattr(terminal_fd, TCSANOW, t) < 0 ? -errno : 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

int terminal_raw(void)
{
	struct termios raw = saved;

	if (terminal_is(STDIN_FILENO))
		own_group = getpgrp();
	if (terminal_fd < 0)
		return 0;
	cfmakeraw(&raw);
	return set_attributes(&raw);
}

void terminal_restore(void)
{
	/* The parent restores what the monitor, its child, made raw. */
	if (terminal_fd >= 0)
		set_attributes(&saved);
}
