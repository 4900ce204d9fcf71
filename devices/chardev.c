#include "devices/chardev.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#define OUT_BYTES  (64 * KiB)
#define IN_BYTES   4096u
#define ESCAPE	   1 /* Ctrl-A */
#define END_OF_TEXT 4 /* Ctrl-D: what a terminal's user types where a pipe just ends */

struct chardev {
	enum chardev_kind kind;
	struct loop *loop;
	struct chardev_user user;
	int in_fd, out_fd; /* -1: none now */
	int listen_fd;
	bool owns_fds;
	bool terminal; /* escapes are looked for */
	char *path;    /* of the socket, to be removed */

	/* Output: a ring that starts again at 0 whenever it runs empty, to touch few pages. */
	uint8_t *out;
	size_t out_head, out_len;
	struct loop_op write_op;
	bool writing;
	bool writer_waits; /* chardev_write() took less than it was given */

	/* Input: what was read and has not found room yet. */
	uint8_t in[IN_BYTES];
	size_t in_pos, in_len;
	struct loop_op poll_op;
	bool polling;
	bool escaped; /* the last byte was the escape key */
	bool ended;   /* end of input seen */

	struct loop_op accept_op;
	bool accepting;

	void (*on_escape)(void *arg, char key);
	void *escape_arg;
};

static void feed_input(struct chardev *c);
static void start_writing(struct chardev *c);

/* ---- connections of a socket ---- */

static void watch_listener(struct chardev *c)
{
	if (c->listen_fd < 0 || c->accepting || c->in_fd >= 0)
		return;
	c->accepting = true;
	loop_poll(c->loop, &c->accept_op, c->listen_fd, POLLIN);
}

static void connection_came(struct loop_op *op, int res)
{
	struct chardev *c = container_of(op, struct chardev, accept_op);
	int fd;

	c->accepting = false;
	if (res < 0)
		return;
	fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		watch_listener(c);
		return;
	}
	c->in_fd = c->out_fd = fd;
	c->ended = false;
	if (c->user.opened)
		c->user.opened(c->user.arg, true);
	feed_input(c);
}

/* The peer went; whoever comes next starts afresh. */
static void disconnect(struct chardev *c)
{
	if (c->listen_fd < 0 || c->in_fd < 0 || c->polling || c->writing)
		return;
	close(c->in_fd);
	c->in_fd = c->out_fd = -1;
	c->in_pos = c->in_len = c->out_len = c->out_head = 0;
	if (c->user.opened)
		c->user.opened(c->user.arg, false);
	if (c->writer_waits && c->user.writable) {
		c->writer_waits = false;
		c->user.writable(c->user.arg);
	}
	watch_listener(c);
}

/* ---- input ---- */

/* Take the escape sequences out of what was typed. Returns the bytes left. */
static size_t strip_escapes(struct chardev *c, uint8_t *p, size_t len)
{
	size_t kept = 0;

	for (size_t i = 0; i < len; i++) {
		uint8_t key = p[i];

		if (!c->escaped && key == ESCAPE) {
			c->escaped = true;
			continue;
		}
		if (c->escaped && key != ESCAPE) {
			c->escaped = false;
			if (c->on_escape)
				c->on_escape(c->escape_arg, key);
			continue;
		}
		c->escaped = false;
		p[kept++] = key;
	}
	return kept;
}

static void poll_input(struct chardev *c)
{
	if (c->in_fd < 0 || c->polling || c->ended)
		return;
	c->polling = true;
	loop_poll(c->loop, &c->poll_op, c->in_fd, POLLIN);
}

/* Hand on what is there, then ask for more, as far as the user has room. */
static void feed_input(struct chardev *c)
{
	while (c->in_len && c->user.input) {
		size_t room = c->user.room ? c->user.room(c->user.arg) : c->in_len;
		size_t n = MIN(room, c->in_len);

		if (!n)
			break;
		c->in_len -= n;
		c->in_pos += n;
		c->user.input(c->user.arg, c->in + c->in_pos - n, n);
	}
	/* A terminal is read even when there is no room: the escape keys must always work. */
	if (!c->in_len || (c->terminal && c->in_pos + c->in_len < IN_BYTES))
		poll_input(c);
}

static void input_ended(struct chardev *c)
{
	c->ended = true;
	if (c->listen_fd >= 0) {
		disconnect(c);
		return;
	}
	if (c->kind == CHARDEV_STDIO && !c->terminal) {
		if (!c->in_len)
			c->in_pos = 0;
		if (c->in_pos + c->in_len < IN_BYTES)
			c->in[c->in_pos + c->in_len++] = END_OF_TEXT;
		feed_input(c);
	}
}

static void input_ready(struct loop_op *op, int res)
{
	struct chardev *c = container_of(op, struct chardev, poll_op);
	size_t end;
	ssize_t n;

	c->polling = false;
	if (res < 0 || c->in_fd < 0)
		return;
	if (!c->in_len)
		c->in_pos = 0;
	end = c->in_pos + c->in_len;
	n = read(c->in_fd, c->in + end, IN_BYTES - end);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		poll_input(c);
		return;
	}
	if (n <= 0) {
		input_ended(c);
		return;
	}
	c->in_len += c->terminal ? strip_escapes(c, c->in + end, n) : (size_t)n;
	feed_input(c);
}

void chardev_resume_input(struct chardev *c)
{
	feed_input(c);
}

/* ---- output ---- */

static void written(struct loop_op *op, int res)
{
	struct chardev *c = container_of(op, struct chardev, write_op);

	c->writing = false;
	if (res < 0 && res != -EAGAIN && res != -EINTR) {
		/* Nobody reads any more: output goes nowhere, and the guest must not wait for it. */
		c->out_len = c->out_head = 0;
		if (c->listen_fd >= 0)
			c->ended = true;
		else if (res != -ECANCELED)
			c->out_fd = -1;
	} else if (res > 0) {
		c->out_head = (c->out_head + res) % OUT_BYTES;
		c->out_len -= res;
		if (!c->out_len)
			c->out_head = 0;
	}
	if (c->ended && c->listen_fd >= 0)
		disconnect(c);
	start_writing(c);
	if (c->writer_waits && c->out_len < OUT_BYTES / 2) {
		c->writer_waits = false;
		if (c->user.writable)
			c->user.writable(c->user.arg);
	}
}

static void start_writing(struct chardev *c)
{
	size_t n = MIN(c->out_len, OUT_BYTES - c->out_head);

	if (c->writing || !n || c->out_fd < 0)
		return;
	c->writing = true;
	loop_write(c->loop, &c->write_op, c->out_fd, c->out + c->out_head, n, UINT64_MAX);
}

size_t chardev_write(struct chardev *c, const void *p, size_t len)
{
	size_t tail, first, n;

	if (c->out_fd < 0)
		return len;
	if (!c->out) {
		c->out = malloc(OUT_BYTES);
		if (!c->out)
			return 0;
	}
	n = MIN(len, OUT_BYTES - c->out_len);
	tail = (c->out_head + c->out_len) % OUT_BYTES;
	first = MIN(n, OUT_BYTES - tail);
	memcpy(c->out + tail, p, first);
	memcpy(c->out, (const uint8_t *)p + first, n - first);
	c->out_len += n;
	if (n < len)
		c->writer_waits = true;
	start_writing(c);
	return n;
}

void chardev_flush(struct chardev *c, uint64_t timeout_ns)
{
	const struct clock *clock = loop_clock(c->loop);
	uint64_t deadline = clock_monotonic_ns(clock) + timeout_ns;

	while (c->writing || (c->out_len && c->out_fd >= 0)) {
		uint64_t now = clock_monotonic_ns(clock);

		if (now >= deadline)
			break;
		start_writing(c);
		loop_run_once(c->loop, deadline - now);
	}
	if (c->writing)
		loop_cancel(c->loop, &c->write_op);
	while (c->writing)
		loop_run_once(c->loop, UINT64_MAX);
}

/* ---- life ---- */

static int open_socket(struct chardev *c, const char *path, struct error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(addr.sun_path))
		return error_usage(err, -ENAMETOOLONG, "socket '%s': the path is too long", path);
	strcpy(addr.sun_path, path);
	c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->listen_fd < 0)
		return error_set(err, -errno, "socket '%s': %m", path);
	if (bind(c->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return error_usage(err, -errno, "socket '%s': cannot bind: %m", path);
	c->path = strdup(path);
	if (listen(c->listen_fd, 1) < 0)
		return error_set(err, -errno, "socket '%s': cannot listen: %m", path);
	c->owns_fds = true;
	watch_listener(c);
	return 0;
}

static int open_end(struct chardev *c, const struct chardev_config *config, struct error *err)
{
	switch (config->kind) {
	case CHARDEV_NULL:
		return 0;
	case CHARDEV_STDIO:
		c->in_fd = STDIN_FILENO;
		c->out_fd = STDOUT_FILENO;
		c->terminal = isatty(STDIN_FILENO);
		return 0;
	case CHARDEV_FDS:
		c->in_fd = config->in_fd;
		c->out_fd = config->out_fd;
		return 0;
	case CHARDEV_FILE:
		c->out_fd = open(config->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY,
				 0666);
		c->owns_fds = true;
		return c->out_fd < 0 ? error_usage(err, -errno, "file '%s': cannot write: %m",
						   config->path) :
				       0;
	case CHARDEV_SOCKET:
		return open_socket(c, config->path, err);
	}
	return -EINVAL;
}

int chardev_create(struct chardev **ret_c, const struct chardev_config *config, struct loop *loop,
		   struct error *err)
{
	struct chardev *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return error_set(err, -ENOMEM, "character device: %m");
	c->kind = config->kind;
	c->loop = loop;
	c->in_fd = c->out_fd = c->listen_fd = -1;
	c->write_op.done = written;
	c->poll_op.done = input_ready;
	c->accept_op.done = connection_came;
	r = open_end(c, config, err);
	if (r < 0) {
		chardev_free(c);
		return r;
	}
	*ret_c = c;
	return 0;
}

void chardev_free(struct chardev *c)
{
	if (!c)
		return;
	if (c->polling)
		loop_cancel(c->loop, &c->poll_op);
	if (c->accepting)
		loop_cancel(c->loop, &c->accept_op);
	if (c->writing)
		loop_cancel(c->loop, &c->write_op);
	while (c->polling || c->accepting || c->writing)
		loop_run_once(c->loop, UINT64_MAX);
	if (c->owns_fds) {
		if (c->in_fd >= 0)
			close(c->in_fd);
		if (c->out_fd >= 0 && c->out_fd != c->in_fd)
			close(c->out_fd);
	}
	if (c->listen_fd >= 0)
		close(c->listen_fd);
	if (c->path)
		unlink(c->path);
	free(c->path);
	free(c->out);
	free(c);
}

void chardev_attach(struct chardev *c, const struct chardev_user *user)
{
	c->user = *user;
	poll_input(c);
}

void chardev_size(struct chardev *c, uint16_t *ret_columns, uint16_t *ret_rows)
{
	struct winsize size = { 0 };

	if (c->terminal)
		ioctl(c->in_fd, TIOCGWINSZ, &size);
	*ret_columns = size.ws_col;
	*ret_rows = size.ws_row;
}

void chardev_on_escape(struct chardev *c, void (*fn)(void *arg, char key), void *arg)
{
	c->on_escape = fn;
	c->escape_arg = arg;
}

void chardev_window_changed(struct chardev *c)
{
	uint16_t columns, rows;

	chardev_size(c, &columns, &rows);
	if (c->user.resized && columns && rows)
		c->user.resized(c->user.arg, columns, rows);
}
