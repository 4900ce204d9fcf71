/* wisp exec: a command in a running guest, with our streams or our terminal. */
#include "vmm/cli/cli_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/terminal.h"
#include "vmm/cli/cli.h"
#include "vmm/control/agent_client.h"

#define MEMBER(m) offsetof(struct exec_options, m)

#define MAX_VARIABLES 256
#define WAIT_SECONDS  10

/* So many signals to end it, and nothing from the guest since the first: it listens no more. */
#define SIGNALS_TO_LEAVE 3

/* What waits to be sent: one piece of input, and frames of a few bytes. */
#define MAX_SMALL 4u
#define OUT_BYTES (AGENT_HEADER + AGENT_MAX_FRAME + 32 * (AGENT_HEADER + MAX_SMALL))

struct exec_options {
	char *run_dir, *directory;
	bool terminal;
	unsigned wait_seconds;
	const char *variable[MAX_VARIABLES];
	unsigned num_variables;
};

static int add_variable(struct config_parse *p, const char *value, void *target)
{
	struct exec_options *o = target;

	if (!strchr(value, '=') || *value == '=')
		return config_fail(p, "'%s' is not VARIABLE=VALUE", value);
	if (o->num_variables == MAX_VARIABLES)
		return config_fail(p, "more than %d variables", MAX_VARIABLES);
	o->variable[o->num_variables++] = value;
	return 0;
}

const struct config_item exec_options[] = {
	{ "-t", NULL, "Give the command a terminal, joined to this one", CONFIG_FLAG,
	  MEMBER(terminal) },
	{ "-e", "VARIABLE=VALUE", "Set a variable of its environment. May be repeated",
	  CONFIG_CUSTOM, .repeat = true, .parse = add_variable },
	{ "-w", "DIRECTORY", "Where in the guest it starts (/)", CONFIG_STRING, MEMBER(directory) },
	{ "--wait", "SECONDS", "How long the guest may take to be ready (10)", CONFIG_NUMBER,
	  MEMBER(wait_seconds), 0, 86400 },
	{ "--run-dir", "DIR", "Where running microVMs have their directories (as for run)",
	  CONFIG_STRING, MEMBER(run_dir) },
	{ 0 },
};

/* Where the command's output goes. */
struct output {
	int fd;
	size_t most; /* when it is ready, it takes so much without waiting */
};

/*
 * A command that runs. The guest may stop in the middle of anything it says or takes, and so may
 * who reads our output; so nothing here waits for one thing alone: who is at this end can always
 * leave.
 */
struct exec {
	int sock;
	int signals; /* signalfd */
	bool terminal;
	bool input_ended;
	size_t under_way; /* bytes of input that the guest has not taken */
	unsigned insisted; /* signals to end it, since the guest was last heard */
	int status;	  /* once it has ended */
	char out[OUT_BYTES];
	size_t out_len;
	struct agent_partial partial;
	struct agent_frame frame;
	struct output output, errors;
	struct output *waits; /* has yet to take what is in @frame, from @written on; or NULL */
	size_t written;
};

/* ---- to the guest ---- */

static void window_size(uint8_t size[MAX_SMALL])
{
	struct winsize w = { .ws_row = 24, .ws_col = 80 };

	ioctl(STDIN_FILENO, TIOCGWINSZ, &w);
	put_le16(size, w.ws_row);
	put_le16(size + 2, w.ws_col);
}

static int send_string(int sock, enum agent_type type, const char *s)
{
	size_t left = strlen(s);
	int r = 0;

	for (; left > AGENT_MAX_FRAME && !r; s += AGENT_MAX_FRAME, left -= AGENT_MAX_FRAME)
		r = agent_send(sock, AGENT_PART, s, AGENT_MAX_FRAME);
	return r ? r : agent_send(sock, type, s, left);
}

/* What the guest would have no room for. */
static int check_words(const struct exec_options *o, const char *const *args, unsigned num,
		       struct error *err)
{
	if (num > AGENT_MAX_WORDS)
		return error_usage(err, -E2BIG, "exec: %u arguments, where %u is the most", num - 1,
				   AGENT_MAX_WORDS - 1);
	for (unsigned i = 0; i < num; i++)
		if (strlen(args[i]) >= AGENT_MAX_WORD)
			return error_usage(err, -E2BIG, "exec: argument %u is longer than %u bytes",
					   i, AGENT_MAX_WORD - 1);
	for (unsigned i = 0; i < o->num_variables; i++)
		if (strlen(o->variable[i]) >= AGENT_MAX_WORD)
			return error_usage(err, -E2BIG, "exec: -e %.40s... is longer than %u bytes",
					   o->variable[i], AGENT_MAX_WORD - 1);
	return 0;
}

static int send_command(const struct exec_options *o, int sock, const char *const *args,
			unsigned num)
{
	const char *term = getenv("TERM");
	uint8_t size[MAX_SMALL];
	char text[256];
	int r = 0;

	window_size(size);

	if (o->terminal && term) {
		snprintf(text, sizeof(text), "TERM=%s", term);
		r = send_string(sock, AGENT_VARIABLE, text);
	}
	for (unsigned i = 0; i < o->num_variables && !r; i++)
		r = send_string(sock, AGENT_VARIABLE, o->variable[i]);
	for (unsigned i = 0; i < num && !r; i++)
		r = send_string(sock, AGENT_ARG, args[i]);
	if (!r && o->directory)
		r = send_string(sock, AGENT_DIRECTORY, o->directory);
	if (!r && o->terminal)
		r = agent_send(sock, AGENT_TERMINAL, size, sizeof(size));
	return r ? r : agent_send(sock, AGENT_RUN, NULL, 0);
}

/* Send what waits, as far as it goes. */
static void flush(struct exec *e)
{
	ssize_t n = e->out_len ? send(e->sock, e->out, e->out_len, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

	/* An end is noticed where we receive. */
	if (n <= 0)
		return;
	e->out_len -= n;
	memmove(e->out, e->out + n, e->out_len);
}

/* A frame of a few bytes. Who has left so many lying there misses nothing by one more. */
static void send_small(struct exec *e, enum agent_type type, const void *data, size_t len)
{
	if (sizeof(e->out) - e->out_len >= AGENT_HEADER + MAX_SMALL)
		e->out_len += agent_pack(e->out + e->out_len, type, data, len);
	flush(e);
}

/* Room for input that the guest will certainly take. */
static size_t window(const struct exec *e)
{
	return AGENT_WINDOW - e->under_way;
}

/* Only when nothing waits to be sent. */
static void pass_input(struct exec *e)
{
	char buf[AGENT_MAX_FRAME];
	ssize_t n = read(STDIN_FILENO, buf, MIN(sizeof(buf), window(e)));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		e->input_ended = true;
		n = 0;
	}
	e->under_way += n;
	e->out_len = agent_pack(e->out, AGENT_INPUT, buf, n);
	flush(e);
}

/* 0, or -ECANCELED: whoever sends them has had enough. */
static int pass_signal(struct exec *e, struct error *err)
{
	struct signalfd_siginfo info;
	uint8_t number, size[MAX_SMALL];

	if (read(e->signals, &info, sizeof(info)) != sizeof(info))
		return 0;
	if (info.ssi_signo == SIGWINCH) {
		window_size(size);
		if (e->terminal)
			send_small(e, AGENT_WINDOW_SIZE, size, sizeof(size));
		return 0;
	}
	number = info.ssi_signo;
	send_small(e, AGENT_SIGNAL, &number, 1);
	/* To some programs the hang-up says to read their files again. */
	if (number == SIGUSR1 || number == SIGUSR2 || number == SIGHUP ||
	    ++e->insisted < SIGNALS_TO_LEAVE)
		return 0;
	e->status = 128 + number;
	return error_set(err, -ECANCELED,
			 "exec: left: %d signals, and nothing from the guest since the first",
			 SIGNALS_TO_LEAVE);
}

/* ---- from the guest ---- */

/*
 * Those that may keep us waiting are opened once more: whoever else has them, as the shell its
 * terminal, would not expect them to be without blocking all of a sudden.
 */
static void open_output(struct output *o, int fd)
{
	char path[32];
	struct stat st;

	*o = (struct output){ fd, SIZE_MAX };
	if (fstat(fd, &st) < 0 || S_ISREG(st.st_mode))
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode))
		o->fd = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	/* Sockets, and what is not ours to open. */
	if (o->fd < 0 || o->fd == fd)
		*o = (struct output){ fd, PIPE_BUF };
}

/* What there is room for. 0 also when there is none. */
static int write_some(struct exec *e, struct error *err)
{
	size_t len = MIN(e->frame.len - e->written, e->waits->most);
	ssize_t n = write(e->waits->fd, e->frame.data + e->written, len);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	/* As any program behind which the pipe is closed ("| head"): without a word. */
	if (n < 0 && errno == EPIPE) {
		e->status = 128 + SIGPIPE;
		return -EPIPE;
	}
	if (n < 0)
		return error_set(err, -errno, "exec: cannot write: %m");
	e->written += n;
	if (e->written >= e->frame.len)
		e->waits = NULL;
	return 0;
}

/* Returns 1 when the command has ended, 0 to go on, -errno. */
static int handle(struct exec *e, const struct agent_frame *f, struct error *err)
{
	int r;

	switch (f->type) {
	case AGENT_OUTPUT:
	case AGENT_ERRORS:
		e->waits = f->type == AGENT_OUTPUT ? &e->output : &e->errors;
		e->written = 0;
		/* The others may have no room. */
		return e->waits->most == SIZE_MAX ? write_some(e, err) : 0;
	case AGENT_TAKEN:
		if (f->len != 4 || get_le32(f->data) > e->under_way)
			break;
		e->under_way -= get_le32(f->data);
		return 0;
	case AGENT_ENDED:
		if (f->len != 2)
			break;
		e->status = f->data[0] ? 128 + (uint8_t)f->data[1] : (uint8_t)f->data[1];
		return 1;
	case AGENT_FAILED:
		r = agent_failure(f, "exec", err);
		/* As shells have it. */
		e->status = r == -ENOENT ? 127 : 126;
		return r;
	}
	return error_set(err, -EBADMSG, "exec: the guest's agent makes no sense");
}

/* What there is of frames. Returns as handle(). */
static int receive(struct exec *e, struct error *err)
{
	int r = agent_receive_some(e->sock, &e->partial, &e->frame);

	if (r == -EAGAIN)
		return 0;
	if (r <= 0)
		return error_set(err, -ECONNRESET, "exec: the connection to the guest is lost");
	e->insisted = 0;
	return handle(e, &e->frame, err);
}

/* From the guest, when all it said before is written; and to it. */
static int serve_guest(struct exec *e, short revents, struct error *err)
{
	int r = revents & ~POLLOUT && !e->waits ? receive(e, err) : 0;

	if (!r && revents & POLLOUT)
		flush(e);
	/* It has left. That is noticed in its turn, and nothing can be sent. */
	if (!r && e->waits && revents & (POLLHUP | POLLERR))
		e->out_len = 0;
	return r;
}

static int serve(struct exec *e, struct error *err)
{
	int r = 0;

	open_output(&e->output, STDOUT_FILENO);
	open_output(&e->errors, STDERR_FILENO);
	while (!r) {
		bool more = !e->input_ended && window(e) && !e->out_len;
		short guest = (e->waits ? 0 : POLLIN) | (e->out_len ? POLLOUT : 0);
		struct pollfd p[4] = {
			{ .fd = guest ? e->sock : -1, .events = guest },
			{ .fd = e->signals, .events = POLLIN },
			{ .fd = more ? STDIN_FILENO : -1, .events = POLLIN },
			{ .fd = e->waits ? e->waits->fd : -1, .events = POLLOUT },
		};

		if (poll(p, ARRAY_SIZE(p), -1) < 0 && errno != EINTR)
			return error_set(err, -errno, "exec: %m");
		if (e->waits && p[3].revents)
			r = write_some(e, err);
		if (!r)
			r = serve_guest(e, p[0].revents, err);
		if (!r && p[1].revents)
			r = pass_signal(e, err);
		if (!r && p[2].revents && !e->out_len)
			pass_input(e);
	}
	return r;
}

static int open_signals(bool terminal)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGWINCH);
	/* From a terminal of its own these come as characters. */
	if (!terminal) {
		sigaddset(&set, SIGINT);
		sigaddset(&set, SIGQUIT);
	}
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static int run(const struct exec_options *o, const char *const *args, unsigned num, struct exec *e,
	       struct error *err)
{
	int r = check_words(o, args + 1, num - 1, err);

	if (r < 0)
		return r;
	e->sock = agent_connect(o->run_dir, args[0], o->wait_seconds, err);
	if (e->sock < 0)
		return e->sock;
	e->terminal = o->terminal;
	signal(SIGPIPE, SIG_IGN);
	/* Until the command is all there, a signal ends us as it would any program. */
	r = send_command(o, e->sock, args + 1, num - 1);
	if (!r)
		e->signals = open_signals(o->terminal);
	if (r < 0 || e->signals < 0)
		return error_set(err, r < 0 ? r : -errno, "exec: %m");
	if (o->terminal && isatty(STDIN_FILENO)) {
		terminal_save(STDIN_FILENO);
		terminal_raw();
	}
	r = serve(e, err);
	terminal_restore();
	return r;
}

int exec_main(int argc, char **argv)
{
	struct exec_options o = { .wait_seconds = WAIT_SECONDS };
	struct exec e = { .sock = -1, .signals = -1 };
	const char **args = calloc(argc + 1, sizeof(*args));
	struct error err = { 0 };
	int n = 1, r;

	r = args ? 0 : error_set(&err, -ENOMEM, "exec: %m");
	if (args)
		n = r = config_parse_verb("exec", exec_options, &o, argc, argv, args, argc, &err);
	if (n == 0)
		r = error_usage(&err, -EINVAL, "exec: which microVM? ('wisp ls' lists them)");
	else if (n == 1 && args)
		r = error_usage(&err, -EINVAL, "exec: which command?");
	if (r >= 0 && args)
		r = run(&o, args, n, &e, &err);
	if (r < 0 && err.code)
		error_print(&err);
	free(args);
	free(o.run_dir);
	free(o.directory);
	return r == 1 || e.status ? e.status : error_status(&err);
}
