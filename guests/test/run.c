/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command: with pipes for its standard files, which are passed on from and
 * to the ports byte by byte, since a port is no pipe to a program that looks.
 */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define SYSLOG_CONSOLE_LEVEL 8 /* syslog(2) */
#define BEAT_MS		     1000
#define CHUNK		     32768 /* what a port takes at once */
#define NOT_FOUND	     127
#define NOT_EXECUTED	     126

static int status_port = -1;

/* ---- the child ---- */

/* As shells have it, by errno. */
static int status_of_failure(void)
{
	return errno == ENOENT || errno == ENOTDIR ? NOT_FOUND : NOT_EXECUTED;
}

static void be_ordinary(const struct plan *p)
{
	const struct sched_param none = { 0 };
	sigset_t all;

	sched_setscheduler(0, SCHED_OTHER, &none);
	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	setsid();
	if (p->gid || p->uid) {
		setgroups(0, NULL);
		if (setgid(p->gid) < 0 || setuid(p->uid) < 0)
			_exit(NOT_EXECUTED);
	}
	if (chdir(p->cwd) == 0)
		return;
	dprintf(STDERR_FILENO, "wisp-init: cannot enter '%s': %s\n", p->cwd, strerror(errno));
	/* One that merely came along, and is not in this tree, keeps no command from running. */
	if (p->cwd_is_asked_for)
		_exit(status_of_failure());
}

static void become_command(const struct plan *p, const int *end)
{
	if (p->tty) {
		int fd = open("/dev/hvc0", O_RDWR);

		for (int i = 0; i < 3; i++)
			dup2(fd, i);
	} else {
		for (int i = 0; i < 3; i++)
			dup2(end[i], i);
	}
	be_ordinary(p);
	if (p->tty)
		ioctl(STDIN_FILENO, TIOCSCTTY, 0);
	/* It is looked for in the command's own PATH. */
	environ = (char **)p->env;
	execvp(p->arg[0], p->arg);
	dprintf(STDERR_FILENO, "wisp-init: cannot run '%s': %s\n", p->arg[0], strerror(errno));
	_exit(status_of_failure());
}

/* ---- passing on ---- */

/* Once a second: that we live is to be seen whatever we wait for. */
static void beat(void)
{
	static struct timespec last;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if ((now.tv_sec - last.tv_sec) * 1000 + (now.tv_nsec - last.tv_nsec) / 1000000 < BEAT_MS)
		return;
	last = now;
	(void)!write(status_port, "beat\n", 5);
}

/* However slow the reader is; when it has gone, the rest is for nobody. */
static void write_all(int fd, const char *p, ssize_t n)
{
	while (n > 0) {
		ssize_t done = write(fd, p, n);

		if (done < 0 && errno == EAGAIN) {
			struct pollfd wait = { .fd = fd, .events = POLLOUT };

			poll(&wait, 1, BEAT_MS);
			beat();
			if (wait.revents & (POLLHUP | POLLERR))
				return;
			continue;
		}
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return;
		p += done;
		n -= done;
	}
}

/* From the pipe @from to the port @to. False: there is nothing more to come. */
static int pass_output(int from, int to)
{
	static char buf[CHUNK];
	ssize_t n = read(from, buf, sizeof(buf));

	if (n > 0)
		write_all(to, buf, n);
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* Input waits in @pending until the command reads: it need not ever do so. */
struct input {
	char buf[CHUNK];
	ssize_t len, done;
};

static int pass_input(struct input *in, int from, int to)
{
	if (in->done == in->len) {
		in->len = read(from, in->buf, sizeof(in->buf));
		in->done = 0;
		if (in->len <= 0) {
			int again = in->len < 0 && (errno == EAGAIN || errno == EINTR);

			in->len = 0;
			return again;
		}
	}
	while (in->done < in->len) {
		ssize_t n = write(to, in->buf + in->done, in->len - in->done);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		in->done += n;
	}
	return 1;
}

static void close_end(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Reap what has ended; nonzero when the command is among it. */
static int reap(pid_t command, int *ret_status)
{
	int status, ended = 0;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != command)
			continue;
		*ret_status = status;
		ended = 1;
	}
	return ended;
}

/* Until the command has ended and all it said is passed on. Returns its wait status. */
static int attend(pid_t command, const int *port, int *ours, int signals)
{
	static struct input in;
	int status = 0, ended = 0;

	while (!ended) {
		int full = in.done < in.len;
		struct pollfd p[] = {
			{ .fd = signals, .events = POLLIN },
			{ .fd = ours[1], .events = POLLIN },
			{ .fd = ours[2], .events = POLLIN },
			{ .fd = full || ours[0] < 0 ? -1 : port[PORT_STDIN], .events = POLLIN },
			{ .fd = full ? ours[0] : -1, .events = POLLOUT },
			/* Nobody reads any more: whoever writes is to learn of it. */
			{ .fd = ours[1] < 0 ? -1 : port[PORT_STDOUT] },
			{ .fd = ours[2] < 0 ? -1 : port[PORT_STDERR] },
		};
		struct signalfd_siginfo info;

		poll(p, 7, BEAT_MS);
		beat();
		if (p[1].revents && !pass_output(ours[1], port[PORT_STDOUT]))
			close_end(&ours[1]);
		if (p[2].revents && !pass_output(ours[2], port[PORT_STDERR]))
			close_end(&ours[2]);
		if ((p[3].revents || p[4].revents) && !pass_input(&in, port[PORT_STDIN], ours[0]))
			close_end(&ours[0]);
		for (int i = 1; i < 3; i++)
			if (p[4 + i].revents & POLLHUP)
				close_end(&ours[i]);
		if (p[0].revents && read(signals, &info, sizeof(info)) > 0)
			ended = reap(command, &status);
	}
	/* What is in the pipes; others may hold them open for ever. */
	for (int i = 1; i < 3; i++) {
		struct pollfd left = { .fd = ours[i], .events = POLLIN };

		while (ours[i] >= 0 && poll(&left, 1, 0) > 0 &&
		       pass_output(ours[i], port[i == 1 ? PORT_STDOUT : PORT_STDERR]))
			;
	}
	return status;
}

void run(const struct plan *plan, int *port)
{
	const struct sched_param urgent = { .sched_priority = 50 };
	int theirs[3] = { -1, -1, -1 }, ours[3] = { -1, -1, -1 };
	int status, signals;
	sigset_t chld;
	pid_t pid;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	signals = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
	/* Whatever the command does with the processor, that we live is to be seen. */
	sched_setscheduler(0, SCHED_RR, &urgent);
	for (int i = 0; i < 3 && !plan->tty; i++) {
		int ends[2];

		if (pipe2(ends, O_CLOEXEC) < 0)
			die("pipe: %s", strerror(errno));
		theirs[i] = ends[i == 0 ? 0 : 1];
		ours[i] = ends[i == 0 ? 1 : 0];
		fcntl(ours[i], F_SETFL, O_NONBLOCK);
	}
	if (plan->loglevel)
		klogctl(SYSLOG_CONSOLE_LEVEL, NULL, plan->loglevel);
	status_port = port[PORT_STATUS];
	(void)!write(status_port, "ready\n", 6);
	/* Only now: until then a guest may take our place, and all input is to be there for it. */
	if (!plan->tty && port[PORT_STDIN] < 0)
		port[PORT_STDIN] = open_port("wisp.stdin", O_RDONLY);
	if (!plan->tty && port[PORT_STDIN] < 0)
		die("the port 'wisp.stdin': %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (pid == 0)
		become_command(plan, theirs);
	for (int i = 0; i < 3; i++)
		close_end(&theirs[i]);
	status = attend(pid, port, ours, signals);
	dprintf(port[PORT_STATUS], "%s %d\n", WIFSIGNALED(status) ? "signal" : "exit",
		WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}
