#include "devices/chardev.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "devices/chardev_internal.h"
#include "devices/terminal.h"
#include "vmm/core/log.h"

#define OUT_BYTES (64 * KiB)
#define IN_BYTES  4096u
#define LEFT_BYTES (64 * KiB) /* kept of what a peer has said before it left */
#define CTRL_A	  1
#define CTRL_D	  4

/* How often to look for what nothing reports: the terminal is ours again, a peer has gone, ... */
#define LATER_NS NSEC_PER_SEC

#define POLL_NOTHING (-1)
#define POLL_HANGUP  0

struct chardev {
	struct loop *loop;
	struct chardev_user user;
	struct chardev_ends end;

	/* A ring that starts again at 0 whenever it runs empty, to touch few pages. */
	uint8_t *out;
	size_t out_head, out_len;
	struct iovec out_iov[2];
	struct msghdr out_msg;
	struct loop_op write_op;
	bool writing;
	bool writer_waits; /* chardev_write() took less than it was given */
	bool discard;	   /* output goes nowhere any more */

	/* What was read and has not found room yet. */
	uint8_t *in;
	size_t in_pos, in_len;
	struct loop_op poll_op;
	int polling;		 /* events asked for, or POLL_NOTHING */
	struct loop_timer later; /* until then nothing is polled for */
	bool any_input;
	bool escaped; /* the last byte was Ctrl-A */
	bool ended;   /* end of input seen */

	struct loop_op accept_op;
	bool accepting;
	bool gone; /* the socket's peer is: close when nothing is in flight */
	bool closing;
	struct log_limit complaints;

	void (*on_escape)(void *arg, char key);
	void *escape_arg;
};

static void update_poll(struct chardev *c);
static void feed_input(struct chardev *c);

static void tell_open(struct chardev *c)
{
	if (c->user.opened)
		c->user.opened(c->user.arg, chardev_is_open(c));
}

/* Whoever waits for room may go on: there is some, or output is dropped. */
static void wake_writer(struct chardev *c)
{
	if (!c->writer_waits)
		return;
	c->writer_waits = false;
	if (c->user.writable)
		c->user.writable(c->user.arg);
}

static void look_later(struct chardev *c)
{
	loop_timer_set(c->loop, &c->later, clock_monotonic_ns(loop_clock(c->loop)) + LATER_NS);
}

/* ---- a socket's peers, one after the other ---- */

static void watch_listener(struct chardev *c)
{
	if (c->end.listen_fd < 0 || c->accepting || c->closing)
		return;
	c->accepting = true;
	loop_accept(c->loop, &c->accept_op, c->end.listen_fd);
}

static void accepted(struct loop_op *op, int res)
{
	struct chardev *c = container_of(op, struct chardev, accept_op);

	c->accepting = false;
	if (res == -ECANCELED)
		return;
	if (res == -ECONNABORTED) {
		watch_listener(c);
		return;
	}
	if (res < 0) {
		/* For want of descriptors, say: there may be some later, and it waits. */
		log_limited(&c->complaints, LOG_WARN, "%s '%s': cannot accept: %s", c->end.name,
			    c->end.path ? c->end.path : "", strerror(-res));
		look_later(c);
		return;
	}
	c->end.in_fd = c->end.out_fd = res;
	c->ended = false;
	tell_open(c);
	update_poll(c);
}

/*
 * Who pipes a line to the socket is gone before a guest that takes a few bytes at a time has heard
 * it: what has not found room yet waits here, and what was not read yet with it.
 */
static void keep_unread(struct chardev *c)
{
	uint8_t *larger;
	ssize_t n;

	/* Of a port that reads nothing ahead, what was not taken goes with who said it. */
	if (c->user.no_read_ahead)
		c->in_len = 0;
	if (c->user.no_read_ahead || !c->user.input)
		return;
	memmove(c->in, c->in + c->in_pos, c->in_len);
	c->in_pos = 0;
	larger = realloc(c->in, IN_BYTES + LEFT_BYTES);
	if (!larger)
		return;
	c->in = larger;
	do {
		/* It may be there and only not listen any more: it is not waited for. */
		n = recv(c->end.in_fd, c->in + c->in_len, IN_BYTES + LEFT_BYTES - c->in_len,
			 MSG_DONTWAIT);
		c->in_len += MAX(n, (ssize_t)0);
	} while (n > 0);
}

static void drop_peer(struct chardev *c)
{
	c->gone = true;
	if (c->polling != POLL_NOTHING)
		loop_cancel(c->loop, &c->poll_op);
	if (c->writing)
		loop_cancel(c->loop, &c->write_op);
	if (c->polling != POLL_NOTHING || c->writing)
		return; /* and once more when they have ended */
	loop_timer_cancel(c->loop, &c->later);
	keep_unread(c);
	close(c->end.in_fd);
	c->end.in_fd = c->end.out_fd = -1;
	c->out_len = c->out_head = 0;
	c->gone = false;
	tell_open(c);
	wake_writer(c);
	watch_listener(c);
	feed_input(c);
}

/* ---- input ---- */

/* Take the escapes out of what was typed. Returns the bytes left. */
static size_t take_escapes(struct chardev *c, uint8_t *p, size_t len)
{
	size_t kept = 0;

	for (size_t i = 0; i < len; i++) {
		bool escaped = c->escaped;

		c->escaped = !escaped && p[i] == CTRL_A;
		if (c->escaped)
			continue;
		if (!escaped || p[i] == CTRL_A)
			p[kept++] = p[i];
		else if (p[i] == 'b' && c->user.send_break)
			c->user.send_break(c->user.arg);
		else if (c->on_escape)
			c->on_escape(c->escape_arg, p[i]);
	}
	return kept;
}

/* Hand on as much as there is room for. */
static void feed_input(struct chardev *c)
{
	while (c->in_len && c->user.input) {
		size_t room = c->user.room ? c->user.room(c->user.arg) : c->in_len;
		size_t n = MIN(room, c->in_len);
		uint8_t *p = c->in + c->in_pos;

		if (!n)
			break;
		c->in_len -= n;
		c->in_pos += n;
		c->user.input(c->user.arg, p, n);
	}
	update_poll(c);
}

/* Which events to ask for now. */
static int wanted_events(const struct chardev *c)
{
	/* A terminal is read ahead, so that the escapes work while the guest does not read. */
	bool space = !c->in_len || (c->end.terminal && c->in_len < IN_BYTES);

	if (c->user.no_read_ahead && c->user.room && !c->end.terminal)
		space = space && c->user.room(c->user.arg);
	if (c->end.in_fd < 0 || c->later.armed || c->closing)
		return POLL_NOTHING;
	if (c->user.input && space && !c->ended)
		return POLLIN;
	return c->end.listen_fd >= 0 ? POLL_HANGUP : POLL_NOTHING;
}

static void update_poll(struct chardev *c)
{
	int events = wanted_events(c);

	if (events == c->polling)
		return;
	if (c->polling != POLL_NOTHING) {
		/* Its end asks again. */
		loop_cancel(c->loop, &c->poll_op);
		return;
	}
	c->polling = events;
	loop_poll(c->loop, &c->poll_op, c->end.in_fd, events);
}

static void read_input(struct chardev *c)
{
	size_t end;
	ssize_t n;

	if (c->end.terminal && terminal_is_background(c->end.in_fd)) {
		/* What is typed is for somebody else, and reading it would stop us. */
		look_later(c);
		return;
	}
	memmove(c->in, c->in + c->in_pos, c->in_len);
	c->in_pos = 0;
	end = c->in_len;
	n = read(c->end.in_fd, c->in + end, IN_BYTES - end);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		c->any_input = true;
		c->in_len += c->end.terminal ? take_escapes(c, c->in + end, n) : (size_t)n;
		return;
	}
	c->ended = true;
	/* Who typed has done so: what reads in the guest should end as it would here. */
	if (c->end.stands_for_terminal && c->any_input)
		c->in[c->in_len++] = CTRL_D;
	/* A peer that has said all may still listen; its end comes as a hangup. */
	if (c->end.listen_fd < 0)
		tell_open(c);
}

static void polled(struct loop_op *op, int res)
{
	struct chardev *c = container_of(op, struct chardev, poll_op);

	c->polling = POLL_NOTHING;
	if (c->gone) {
		drop_peer(c);
		return;
	}
	if (res == -ECANCELED) {
		update_poll(c);
		return;
	}
	if (c->end.listen_fd >= 0 && (res < 0 || !(res & POLLIN))) {
		/* io_uring reports also a peer that has said all, and would do so at once again. */
		if (res >= 0 && !(res & (POLLHUP | POLLERR | POLLNVAL)))
			look_later(c);
		else
			drop_peer(c);
		return;
	}
	/* Of a pipe a hangup alone means that reading gives the end of input. */
	if (wanted_events(c) == POLLIN)
		read_input(c);
	feed_input(c);
}

static void look_again(struct loop_timer *t)
{
	struct chardev *c = container_of(t, struct chardev, later);

	if (c->end.in_fd < 0)
		watch_listener(c);
	update_poll(c);
}

void chardev_resume_input(struct chardev *c)
{
	if (!c->gone)
		feed_input(c);
}

/* ---- output ---- */

static void start_writing(struct chardev *c)
{
	size_t first = MIN(c->out_len, OUT_BYTES - c->out_head);
	unsigned n = first < c->out_len ? 2 : 1;

	if (c->writing || !c->out_len || c->discard || c->gone)
		return;
	c->out_iov[0] = (struct iovec){ c->out + c->out_head, first };
	c->out_iov[1] = (struct iovec){ c->out, c->out_len - first };
	c->writing = true;
	if (c->end.listen_fd >= 0) {
		c->out_msg = (struct msghdr){ .msg_iov = c->out_iov, .msg_iovlen = n };
		loop_sendmsg(c->loop, &c->write_op, c->end.out_fd, &c->out_msg, MSG_NOSIGNAL);
	} else {
		loop_writev(c->loop, &c->write_op, c->end.out_fd, c->out_iov, n, UINT64_MAX);
	}
}

/* Nobody takes output any more, and the guest must not wait for it. */
static void discard_output(struct chardev *c)
{
	c->discard = true;
	c->out_len = c->out_head = 0;
	wake_writer(c);
}

static void written(struct loop_op *op, int res)
{
	struct chardev *c = container_of(op, struct chardev, write_op);

	c->writing = false;
	if (c->gone) {
		drop_peer(c);
		return;
	}
	if (res < 0) {
		if (c->end.listen_fd >= 0) {
			drop_peer(c);
			return;
		}
		if (!c->discard && res != -EPIPE)
			log_warn("%s: cannot write, output is dropped: %s", c->end.name,
				 strerror(-res));
		discard_output(c);
		/* Who only reads, and does no more, is gone: the guest may stop as well. */
		if (c->end.in_fd < 0)
			tell_open(c);
		return;
	}
	c->out_len -= MIN((size_t)res, c->out_len);
	c->out_head = c->out_len ? (c->out_head + res) % OUT_BYTES : 0;
	start_writing(c);
	/* Not at the first free byte: each wakeup should be worth it. */
	if (c->out_len <= OUT_BYTES / 2)
		wake_writer(c);
}

size_t chardev_write(struct chardev *c, const void *p, size_t len)
{
	size_t tail, first, n;

	if (c->end.out_fd < 0 || c->discard || c->gone)
		return len;
	if (!c->out) {
		c->out = malloc(OUT_BYTES);
		if (!c->out) {
			log_warn("%s: no memory, output is dropped", c->end.name);
			c->discard = true;
			return len;
		}
	}
	n = MIN(len, OUT_BYTES - c->out_len);
	tail = (c->out_head + c->out_len) % OUT_BYTES;
	first = MIN(n, OUT_BYTES - tail);
	memcpy(c->out + tail, p, first);
	memcpy(c->out, (const uint8_t *)p + first, n - first);
	c->out_len += n;
	c->writer_waits |= n < len;
	start_writing(c);
	return n;
}

static void finish_operations(struct chardev *c)
{
	if (c->polling != POLL_NOTHING)
		loop_cancel(c->loop, &c->poll_op);
	if (c->accepting)
		loop_cancel(c->loop, &c->accept_op);
	if (c->writing)
		loop_cancel(c->loop, &c->write_op);
	while (c->polling != POLL_NOTHING || c->accepting || c->writing)
		loop_run_once(c->loop, UINT64_MAX);
}

void chardev_flush(struct chardev *c, uint64_t timeout_ns)
{
	const struct clock *clock = loop_clock(c->loop);
	uint64_t now = clock_monotonic_ns(clock), deadline = now + timeout_ns;

	/* The user may have more that it has yet to write. */
	loop_run_once(c->loop, 0);
	while (c->writing && now < deadline) {
		loop_run_once(c->loop, deadline - now);
		now = clock_monotonic_ns(clock);
	}
	if (!c->writing)
		return;
	discard_output(c);
	loop_cancel(c->loop, &c->write_op);
	while (c->writing)
		loop_run_once(c->loop, UINT64_MAX);
}

/* ---- life ---- */

int chardev_create(struct chardev **ret_c, const struct chardev_config *config, struct loop *loop,
		   struct error *err)
{
	struct chardev *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return error_set(err, -ENOMEM, "character device: %m");
	c->in = malloc(IN_BYTES);
	if (!c->in) {
		free(c);
		return error_set(err, -ENOMEM, "character device: %m");
	}
	c->loop = loop;
	c->polling = POLL_NOTHING;
	c->write_op.done = written;
	c->poll_op.done = polled;
	c->accept_op.done = accepted;
	c->later.expired = look_again;
	r = chardev_open_ends(&c->end, config, err);
	if (r < 0) {
		free(c->in);
		free(c);
		return r;
	}
	watch_listener(c);
	*ret_c = c;
	return 0;
}

void chardev_free(struct chardev *c)
{
	if (!c)
		return;
	c->user = (struct chardev_user){ 0 };
	c->closing = c->discard = true;
	loop_timer_cancel(c->loop, &c->later);
	finish_operations(c);
	chardev_close_ends(&c->end);
	free(c->out);
	free(c->in);
	free(c);
}

void chardev_attach(struct chardev *c, const struct chardev_user *user)
{
	c->user = *user;
	update_poll(c);
}

bool chardev_is_open(const struct chardev *c)
{
	if (c->end.listen_fd >= 0)
		return c->end.in_fd >= 0;
	return !c->ended && !(c->discard && c->end.in_fd < 0);
}

void chardev_size(struct chardev *c, uint16_t *ret_columns, uint16_t *ret_rows)
{
	struct winsize size = { 0 };

	if (c->end.terminal)
		ioctl(c->end.in_fd, TIOCGWINSZ, &size);
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
