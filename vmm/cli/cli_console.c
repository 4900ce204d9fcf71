/* `wisp console`: the terminal of a microVM that runs in the background. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/terminal.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/cli_control.h"
#include "vmm/control/control_client.h"
#include "vmm/run_dir.h"

#define CTRL_A 1

enum outcome { ATTACHED, DETACHED, END_ASKED, CLOSED };

struct attached {
	int sock;
	bool escaped; /* the last byte was Ctrl-A */
	bool input_ended;
};

static bool write_all(int fd, const char *p, size_t len)
{
	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= n;
	}
	return true;
}

/* Send what was typed, without the escapes. */
static enum outcome take_input(struct attached *a)
{
	char in[512], out[512];
	ssize_t n = read(STDIN_FILENO, in, sizeof(in));
	size_t len = 0;

	if (n <= 0) {
		/* A script that has said all may still want to read. */
		a->input_ended = true;
		shutdown(a->sock, SHUT_WR);
		return ATTACHED;
	}
	for (ssize_t i = 0; i < n; i++) {
		bool escaped = a->escaped;

		a->escaped = !escaped && in[i] == CTRL_A;
		if (a->escaped)
			continue;
		if (escaped && in[i] == 'd')
			return DETACHED;
		if (escaped && in[i] == 'x')
			return END_ASKED;
		if (!escaped || in[i] == CTRL_A)
			out[len++] = in[i];
	}
	return write_all(a->sock, out, len) ? ATTACHED : CLOSED;
}

static enum outcome take_output(struct attached *a)
{
	char buf[4096];
	ssize_t n = read(a->sock, buf, sizeof(buf));

	if (n <= 0 || !write_all(STDOUT_FILENO, buf, n))
		return CLOSED;
	return ATTACHED;
}

/* The signals that would leave the terminal raw, as a descriptor. */
static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static enum outcome attend(int sock, int signals)
{
	struct attached a = { .sock = sock };
	enum outcome now = ATTACHED;

	while (now == ATTACHED) {
		struct pollfd p[] = {
			{ .fd = sock, .events = POLLIN },
			{ .fd = a.input_ended ? -1 : STDIN_FILENO, .events = POLLIN },
			{ .fd = signals, .events = POLLIN },
		};

		if (poll(p, ARRAY_SIZE(p), -1) < 0)
			continue;
		if (p[2].revents)
			now = DETACHED;
		else if (p[0].revents)
			now = take_output(&a);
		if (now == ATTACHED && p[1].revents)
			now = take_input(&a);
	}
	return now;
}

int console_main(int argc, char **argv)
{
	struct control_options o = { 0 };
	struct error err = { 0 };
	const char *id = NULL;
	int control, sock = -1, signals, r;
	enum outcome how;

	control = r = control_open("console", control_plain_options, &o, argc, argv, &id, &err);
	if (control >= 0) {
		sock = r = run_dir_connect(o.run_dir, id, RUN_DIR_CONSOLE, SOCK_STREAM, &err);
		if (r < 0)
			error_hint(&err,
				   "only one started with --detach and a console has it here");
	}
	if (r >= 0) {
		terminal_save(STDIN_FILENO);
		signals = open_signals();
		terminal_raw();
		how = attend(sock, signals);
		terminal_restore();
		r = 0;
		if (how == END_ASKED)
			r = control_end_machine(control, json_pack("{s:s}", "do", "kill"), 0, NULL,
						&err);
		else if (how == DETACHED)
			fprintf(stderr, "\r\nwisp: detached from '%s'\n", id);
	}
	if (sock >= 0)
		close(sock);
	if (control >= 0)
		close(control);
	control_options_done(&o);
	if (r < 0)
		error_print(&err);
	return r < 0 ? error_status(&err) : 0;
}
