/* SPDX-License-Identifier: Apache-2.0 */
/* A command in the guest, with the host as its terminal or its three streams. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "guests/agent/agent.h"

struct command {
	int sock;
	char *part; /* of the word that comes, or NULL */
	size_t part_len;
	char *argv[AGENT_MAX_WORDS + 1];
	unsigned argc;
	const char *directory;
	int has_terminal;
	struct winsize window;

	pid_t pid;
	int in, out, err;  /* our ends; -1: none, or done with. A terminal is both in and out */
	int child_signals; /* signalfd: it may have ended */
	char input[AGENT_WINDOW];
	size_t input_len;
	int input_ended;
};

/* ---- what to run ---- */

/* What came of a word before, and what is in @f. NULL and errno. */
static char *join(struct command *c, const struct agent_frame *f)
{
	char *s;

	errno = E2BIG;
	if (c->part_len + f->len >= AGENT_MAX_WORD)
		return NULL;
	s = realloc(c->part, c->part_len + f->len + 1);
	if (!s)
		return NULL;
	memcpy(s + c->part_len, f->data, f->len + 1);
	c->part_len = f->type == AGENT_PART ? c->part_len + f->len : 0;
	c->part = f->type == AGENT_PART ? s : NULL;
	return s;
}

static void read_window(struct winsize *w, const struct agent_frame *f)
{
	uint16_t size[2];

	if (f->len < sizeof(size))
		return;
	memcpy(size, f->data, sizeof(size));
	w->ws_row = le16toh(size[0]);
	w->ws_col = le16toh(size[1]);
}

/* Frames up to RUN. 0, or an errno. */
static int collect(struct command *c, struct agent_frame *f)
{
	for (;;) {
		char *s = NULL;

		if (f->type == AGENT_RUN)
			return c->argc ? 0 : EINVAL;
		if (f->type != AGENT_TERMINAL) {
			s = join(c, f);
			if (!s)
				return errno;
		}
		switch (f->type) {
		case AGENT_PART:
			break;
		case AGENT_ARG:
			if (c->argc == AGENT_MAX_WORDS)
				return E2BIG;
			c->argv[c->argc++] = s;
			break;
		case AGENT_VARIABLE:
			if (!strchr(s, '=') || putenv(s) != 0)
				return EINVAL;
			break;
		case AGENT_DIRECTORY:
			c->directory = s;
			break;
		case AGENT_TERMINAL:
			c->has_terminal = 1;
			read_window(&c->window, f);
			break;
		default:
			return EBADMSG;
		}
		if (agent_receive(c->sock, f) <= 0)
			return EPIPE;
	}
}

/* ---- running it ---- */

/* The child's side; returns only when it has failed. */
static void become(const struct command *c, const int fds[3])
{
	sigset_t none;

	setsid();
	if (c->has_terminal)
		ioctl(fds[0], TIOCSCTTY, 0);
	for (int i = 0; i < 3; i++)
		dup2(fds[i], i);
	for (int i = 1; i < NSIG; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (c->directory && chdir(c->directory) < 0)
		return;
	execvp(c->argv[0], c->argv);
}

/* @theirs: what the child gets as its streams. 0 or an errno. */
static int open_streams(struct command *c, int theirs[3])
{
	int in[2], out[2], err[2];

	if (c->has_terminal) {
		int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

		if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
			return errno;
		theirs[0] = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (theirs[0] < 0)
			return errno;
		theirs[1] = theirs[2] = theirs[0];
		ioctl(master, TIOCSWINSZ, &c->window);
		c->in = c->out = master;
		return 0;
	}
	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
		return errno;
	theirs[0] = in[0];
	theirs[1] = out[1];
	theirs[2] = err[1];
	c->in = in[1];
	c->out = out[0];
	c->err = err[0];
	return 0;
}

/* 0 or an errno, that of exec() too: it comes through a pipe that a successful one closes. */
static int start(struct command *c)
{
	int theirs[3] = { -1, -1, -1 }, tell[2] = { -1, -1 }, error = 0;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	c->child_signals = signalfd(-1, &set, SFD_CLOEXEC);
	error = open_streams(c, theirs);
	if (!error && (c->child_signals < 0 || pipe2(tell, O_CLOEXEC) < 0))
		error = errno;
	if (error)
		return error;
	c->pid = fork();
	if (c->pid < 0)
		return errno;
	if (c->pid == 0) {
		become(c, theirs);
		error = errno;
		(void)!write(tell[1], &error, sizeof(error));
		_exit(127);
	}
	close(tell[1]);
	for (int i = 0; i < (c->has_terminal ? 1 : 3); i++)
		close(theirs[i]);
	if (read(tell[0], &error, sizeof(error)) != sizeof(error))
		error = 0;
	close(tell[0]);
	fcntl(c->in, F_SETFL, O_NONBLOCK);
	fcntl(c->out, F_SETFL, O_NONBLOCK);
	if (c->err >= 0)
		fcntl(c->err, F_SETFL, O_NONBLOCK);
	return error;
}

/* ---- its streams ---- */

/* Pass on what there is, once. False: there is nothing now, or no more; then *@fd is -1. */
static int pass_output(struct command *c, int *fd, enum agent_type type)
{
	static char buf[AGENT_MAX_FRAME];
	ssize_t n = *fd < 0 ? 0 : read(*fd, buf, sizeof(buf));

	if (n > 0)
		return agent_send(c->sock, type, buf, n) == 0;
	/* A terminal whose last user is gone says EIO; it stays open for input. */
	if (*fd >= 0 && (n == 0 || (errno != EAGAIN && errno != EINTR))) {
		if (*fd != c->in)
			close(*fd);
		*fd = -1;
	}
	return 0;
}

static void pass_input(struct command *c)
{
	uint32_t taken;
	ssize_t n;

	if (c->in >= 0 && c->input_len) {
		n = write(c->in, c->input, c->input_len);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		/* Nobody reads it: the rest goes the same way. */
		if (n < 0)
			n = c->input_len;
		c->input_len -= n;
		memmove(c->input, c->input + n, c->input_len);
		taken = htole32(n);
		agent_send(c->sock, AGENT_TAKEN, &taken, sizeof(taken));
	}
	if (c->input_ended && !c->input_len && c->in >= 0 && !c->has_terminal) {
		close(c->in);
		c->in = -1;
	}
}

/* A frame from the host. 0, or -1: the host is gone or makes no sense. */
static int handle(struct command *c, struct agent_frame *f)
{
	int r = agent_receive(c->sock, f);

	if (r <= 0)
		return -1;
	switch (f->type) {
	case AGENT_INPUT:
		if (!f->len)
			c->input_ended = 1;
		if (f->len > sizeof(c->input) - c->input_len)
			return -1;
		memcpy(c->input + c->input_len, f->data, f->len);
		c->input_len += f->len;
		pass_input(c);
		return 0;
	case AGENT_SIGNAL:
		if (f->len == 1 && f->data[0] > 0)
			kill(-c->pid, f->data[0]);
		return 0;
	case AGENT_WINDOW_SIZE:
		read_window(&c->window, f);
		if (c->has_terminal)
			ioctl(c->in, TIOCSWINSZ, &c->window);
		return 0;
	default:
		return -1;
	}
}

static void send_end(struct command *c, int status)
{
	unsigned char end[2] = { 0, WEXITSTATUS(status) };

	/* What it has written before its end is there; what others write later is not its. */
	while (pass_output(c, &c->out, AGENT_OUTPUT))
		;
	while (pass_output(c, &c->err, AGENT_ERRORS))
		;
	if (WIFSIGNALED(status)) {
		end[0] = 1;
		end[1] = WTERMSIG(status);
	}
	agent_send(c->sock, AGENT_ENDED, end, sizeof(end));
}

/* 0 when it has ended, -1 when the host is gone or broke a rule. */
static int serve(struct command *c, struct agent_frame *f)
{
	struct signalfd_siginfo info;
	int status;

	for (;;) {
		struct pollfd p[5] = {
			{ c->sock, POLLIN, 0 },
			{ c->child_signals, POLLIN, 0 },
			{ c->out, POLLIN, 0 },
			{ c->err, POLLIN, 0 },
			{ c->input_len ? c->in : -1, POLLOUT, 0 },
		};

		if (poll(p, 5, -1) < 0)
			continue;
		if (p[0].revents && handle(c, f) < 0) {
			/* As when a terminal's line is cut. */
			kill(-c->pid, SIGHUP);
			kill(-c->pid, SIGCONT);
			return -1;
		}
		if (p[2].revents)
			pass_output(c, &c->out, AGENT_OUTPUT);
		if (p[3].revents)
			pass_output(c, &c->err, AGENT_ERRORS);
		if (p[4].revents)
			pass_input(c);
		if (p[1].revents && read(c->child_signals, &info, sizeof(info)) > 0 &&
		    waitpid(c->pid, &status, WNOHANG) == c->pid) {
			send_end(c, status);
			return 0;
		}
	}
}

void run_command(int sock, struct agent_frame *f)
{
	static struct command c;
	int error;

	signal(SIGPIPE, SIG_IGN);
	c.sock = sock;
	c.in = c.out = c.err = -1;
	error = collect(&c, f);
	if (!error)
		error = start(&c);
	if (error) {
		/* The child could not say which of both it was that failed. */
		if (c.directory && access(c.directory, X_OK) < 0)
			agent_send_failure(sock, AGENT_FAILED, error, "enter", c.directory);
		else
			agent_send_failure(sock, AGENT_FAILED, error, "run",
					   c.argc ? c.argv[0] : "nothing");
		return;
	}
	if (serve(&c, f) < 0)
		return;
	/* Read to the end, or what was sent last could be lost with what was not read. */
	shutdown(sock, SHUT_WR);
	while (agent_receive(sock, f) > 0)
		;
}
