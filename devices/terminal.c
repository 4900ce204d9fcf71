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
static volatile sig_atomic_t is_raw;

void terminal_save(int fd)
{
	/* In the background the terminal is somebody else's. */
	if (tcgetattr(fd, &saved) == 0 && tcgetpgrp(fd) == getpgrp())
		terminal_fd = fd;
}

/* From a background process group, setting a terminal stops the process: never that. */
static int set_attributes(int when, const struct termios *t)
{
	sigset_t ttou, old;
	int r;

	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	sigprocmask(SIG_BLOCK, &ttou, &old);
	r = tcsetattr(terminal_fd, when, t) < 0 ? -errno : 0;
	sigprocmask(SIG_SETMASK, &old, NULL);
	return r;
}

int terminal_raw(void)
{
	struct termios raw = saved;
	int r;

	if (terminal_fd < 0)
		return 0;
	cfmakeraw(&raw);
	r = set_attributes(TCSANOW, &raw);
	is_raw = r == 0;
	return r;
}

void terminal_restore(void)
{
	/* The parent restores what the monitor, its child, made raw: so not only when is_raw. */
	if (terminal_fd >= 0)
		set_attributes(TCSADRAIN, &saved);
	is_raw = 0;
}

bool terminal_is_raw(void)
{
	return is_raw;
}
