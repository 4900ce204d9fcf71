#include "vmm/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

/* A console that has no terminal any more can be attached to. */
static int move_console(struct machine_config *c, const struct run_dir *dir, struct error *err)
{
	struct config_char *terminal = NULL;

	if (c->console_present && c->console.kind == CHARDEV_STDIO)
		terminal = &c->console;
	else if (c->serial_present && c->serial.kind == CHARDEV_STDIO)
		terminal = &c->serial;
	if (!terminal)
		return 0;
	terminal->path = run_dir_file(dir, RUN_DIR_CONSOLE);
	if (!terminal->path)
		return error_set(err, -ENOMEM, "console: %m");
	terminal->kind = CHARDEV_SOCKET;
	return 0;
}

static int open_log(const struct run_dir *dir, struct error *err)
{
	char *path = run_dir_file(dir, RUN_DIR_LOG);
	int fd = path ? open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;

	free(path);
	return fd < 0 ? error_set(err, -errno, "--detach: log: %m") : fd;
}

/* What the background said before it failed. */
static void show(int log_fd)
{
	char buf[4096];
	ssize_t n;

	if (lseek(log_fd, 0, SEEK_SET) != 0)
		return;
	while ((n = read(log_fd, buf, sizeof(buf))) > 0)
		fwrite(buf, 1, n, stderr);
}

static const int end_signals[] = { SIGINT, SIGTERM, SIGHUP };

/* From before there is a background on: none of them ends the foreground alone. */
static void hold_signals(sigset_t *before)
{
	sigset_t held;

	sigemptyset(&held);
	for (unsigned i = 0; i < ARRAY_SIZE(end_signals); i++)
		sigaddset(&held, end_signals[i]);
	sigprocmask(SIG_BLOCK, &held, before);
}

/* A descriptor of those of them that would end us, but for their being held; or -1. */
static int open_signals(const sigset_t *before)
{
	sigset_t heeded;

	sigemptyset(&heeded);
	for (unsigned i = 0; i < ARRAY_SIZE(end_signals); i++) {
		int number = end_signals[i];
		struct sigaction now;

		/* Whoever had us ignore it, or hold it, knows why. */
		if (sigaction(number, NULL, &now) == 0 && now.sa_handler != SIG_IGN &&
		    !sigismember(before, number))
			sigaddset(&heeded, number);
	}
	return signalfd(-1, &heeded, SFD_CLOEXEC);
}

/*
 * Wait until there is something to read, or somebody wants us to end: then which signal it was.
 * @before: the signals that were held before ours were.
 */
static int await_byte(int fd, const sigset_t *before)
{
	int signals = open_signals(before);
	struct pollfd p[] = { { .fd = fd, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
	struct signalfd_siginfo told = { 0 };

	while (poll(p, ARRAY_SIZE(p), -1) < 0 && errno == EINTR)
		;
	if (p[1].revents && read(signals, &told, sizeof(told)) != sizeof(told))
		told.ssi_signo = 0;
	if (signals >= 0)
		close(signals);
	return (int)told.ssi_signo;
}

/*
 * The foreground: wait until it runs, or for its end. One whose start was broken off, before
 * anybody was told its name, does not run on.
 */
static int await_start(const struct machine_config *c, pid_t background, int started_fd, int log_fd,
		       const sigset_t *before)
{
	char byte;
	ssize_t n;
	int status, signal = await_byte(started_fd, before);

	if (signal) {
		kill(background, SIGTERM);
		while (waitpid(background, &status, 0) < 0 && errno == EINTR)
			;
		return 128 + signal;
	}
	do
		n = read(started_fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n == 1) {
		printf(c->json ? "{\"id\":\"%s\"}\n" : "%s\n", c->name);
		return fflush(stdout) ? 1 : 0;
	}
	while (waitpid(background, &status, 0) < 0 && errno == EINTR)
		;
	show(log_fd);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}

static void enter_background(int log_fd)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	dup2(null, STDIN_FILENO);
	dup2(log_fd, STDOUT_FILENO);
	dup2(log_fd, STDERR_FILENO);
	close(null);
	close(log_fd);
}

int detach(struct machine_config *c, struct run_dir *dir, int *ret_started_fd)
{
	struct error err = { 0 };
	int log_fd = -1, started[2];
	pid_t background = -1;
	sigset_t mask;
	int r = move_console(c, dir, &err);

	if (!r)
		log_fd = r = open_log(dir, &err);
	if (r >= 0 && pipe2(started, O_CLOEXEC) < 0)
		r = error_set(&err, -errno, "--detach: %m");
	if (r >= 0) {
		hold_signals(&mask);
		background = fork();
		if (background < 0)
			r = error_set(&err, -errno, "--detach: cannot fork: %m");
	}
	if (r < 0) {
		error_print(&err);
		run_dir_remove(dir);
		return error_status(&err);
	}
	if (background > 0) {
		close(started[1]);
		return await_start(c, background, started[0], log_fd, &mask);
	}
	sigprocmask(SIG_SETMASK, &mask, NULL);
	close(started[0]);
	enter_background(log_fd);
	run_dir_inherit(dir);
	*ret_started_fd = started[1];
	return -1;
}
