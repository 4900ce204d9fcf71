#include "vmm/debug/gdb.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/debug/gdb_internal.h"

/* How long to wait with another client after one could not be accepted. */
#define LISTEN_AGAIN_NS NSEC_PER_SEC

/* ---- the address ---- */

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_un un;
};

static int parse_tcp(const char *text, union address *a, socklen_t *ret_len)
{
	const char *colon = strrchr(text, ':'), *port = colon ? colon + 1 : text;
	char host[INET6_ADDRSTRLEN] = "127.0.0.1";
	unsigned long n;
	char *end;

	if (colon && (colon == text || (size_t)(colon - text) >= sizeof(host)))
		return -EINVAL;
	if (colon) {
		memcpy(host, text, colon - text);
		host[colon - text] = '\0';
	}
	n = strtoul(port, &end, 10);
	if (*port < '0' || *port > '9' || *end || n == 0 || n > 65535)
		return -EINVAL;
	if (inet_pton(AF_INET, host, &a->v4.sin_addr) == 1) {
		a->v4.sin_family = AF_INET;
		a->v4.sin_port = htons(n);
		*ret_len = sizeof(a->v4);
		return 0;
	}
	if (inet_pton(AF_INET6, host, &a->v6.sin6_addr) == 1) {
		a->v6.sin6_family = AF_INET6;
		a->v6.sin6_port = htons(n);
		*ret_len = sizeof(a->v6);
		return 0;
	}
	return -EINVAL;
}

static int parse_where(const char *where, union address *a, socklen_t *ret_len)
{
	memset(a, 0, sizeof(*a));
	if (strncmp(where, "tcp:", 4) == 0)
		return parse_tcp(where + 4, a, ret_len);
	if (strncmp(where, "unix:", 5) != 0 || !where[5] ||
	    strlen(where + 5) >= sizeof(a->un.sun_path))
		return -EINVAL;
	a->un.sun_family = AF_UNIX;
	snprintf(a->un.sun_path, sizeof(a->un.sun_path), "%s", where + 5);
	*ret_len = sizeof(a->un);
	return 0;
}

int gdb_check_where(const char *where, struct error *err)
{
	union address a;
	socklen_t len;

	if (parse_where(where, &a, &len) < 0)
		return error_usage(err, -EINVAL,
				   "--gdb '%s': not tcp:PORT, tcp:ADDRESS:PORT or unix:PATH",
				   where);
	return 0;
}

int gdb_listen(const char *where, struct error *err)
{
	union address a;
	socklen_t len;
	int fd, one = 1, r;

	if (parse_where(where, &a, &len) < 0)
		return gdb_check_where(where, err);
	fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && a.any.sa_family != AF_UNIX) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		/* Small packets, each waited for; connections inherit it. */
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	}
	if (fd < 0 || bind(fd, &a.any, len) < 0 || listen(fd, 1) < 0) {
		r = error_usage(err, -errno, "--gdb '%s': cannot listen: %m", where);
		if (fd >= 0)
			close(fd);
		return r;
	}
	return fd;
}

void gdb_unlisten(const char *where)
{
	if (strncmp(where, "unix:", 5) == 0)
		unlink(where + 5);
}

/* ---- replies ---- */

void gdb_say(struct gdb *g, const char *fmt, ...)
{
	size_t room = GDB_PACKET_MAX - MIN(g->reply_len, (size_t)GDB_PACKET_MAX);
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(g->reply + g->reply_len, room, fmt, ap);
	va_end(ap);
	if (n > 0 && room)
		g->reply_len += MIN((size_t)n, room - 1);
}

void gdb_add_hex(struct gdb *g, const void *bytes, size_t len)
{
	static const char digit[] = "0123456789abcdef";
	const uint8_t *p = bytes;

	for (size_t i = 0; i < len && g->reply_len + 2 < GDB_PACKET_MAX; i++) {
		g->reply[g->reply_len++] = digit[p[i] >> 4];
		g->reply[g->reply_len++] = digit[p[i] & 15];
	}
}

/* Replies are short and asked for one at a time: a client whose socket is full has gone mad. */
static void send_all(struct gdb *g, const char *p, size_t len)
{
	while (len && g->fd >= 0) {
		ssize_t n = send(g->fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			/* The receive that is outstanding ends now, and so does the session. */
			shutdown(g->fd, SHUT_RDWR);
			return;
		}
		p += n;
		len -= n;
	}
}

static bool is_special(char c)
{
	return c == '$' || c == '#' || c == '}' || c == '*';
}

void gdb_send(struct gdb *g)
{
	char frame[2 * GDB_PACKET_MAX + 8];
	uint8_t sum = 0;
	size_t n = 0;

	frame[n++] = '$';
	for (size_t i = 0; i < g->reply_len; i++) {
		char c = g->reply[i];

		if (is_special(c)) {
			frame[n++] = '}';
			sum += '}';
			c ^= 0x20;
		}
		frame[n++] = c;
		sum += c;
	}
	n += snprintf(frame + n, 4, "#%02x", sum);
	g->reply_len = 0;
	send_all(g, frame, n);
}

/* ---- requests ---- */

/* Undo escapes in place. Returns the new length. */
static size_t unescape(char *p, size_t len)
{
	size_t out = 0;

	for (size_t i = 0; i < len; i++)
		p[out++] = p[i] == '}' && i + 1 < len ? p[++i] ^ 0x20 : p[i];
	return out;
}

/* A whole packet starts at @p; @end is its '#'. */
static void take_packet(struct gdb *g, char *p, size_t end)
{
	char packet[2 * GDB_PACKET_MAX];
	unsigned given = 0;
	uint8_t sum = 0;
	size_t len = end - 1;
	char digits[3] = { p[end + 1], p[end + 2], '\0' };

	for (size_t i = 1; i < end; i++)
		sum += p[i];
	if (sscanf(digits, "%2x", &given) != 1 || (!g->no_ack && given != sum)) {
		send_all(g, "-", 1);
		return;
	}
	if (!g->no_ack)
		send_all(g, "+", 1);
	memcpy(packet, p + 1, len);
	len = unescape(packet, len);
	packet[len] = '\0';
	gdb_packet(g, packet, len);
}

/* Bytes of the packet at the input's start: 0 when more must come; -1 when none can. */
static ssize_t packet_at_start(const struct gdb *g)
{
	const char *end = memchr(g->input, '#', g->input_len);

	if (!end)
		return g->input_len < sizeof(g->input) ? 0 : -1;
	return (size_t)(end - g->input) + 3 <= g->input_len ? end - g->input + 3 : 0;
}

void gdb_packets(struct gdb *g)
{
	while (g->input_len && g->fd >= 0) {
		ssize_t n = 1;

		if (g->input[0] == '\x03') {
			/* Ctrl-C; also while it stops, and without an answer when it has. */
			gdb_stop(g);
		} else if (g->input[0] == '$') {
			if (g->state == GDB_STOPPING)
				return;
			n = packet_at_start(g);
			if (n == 0)
				return;
			if (n > 0 && g->state == GDB_RUNNING) {
				/* All-stop: nothing may be asked of a target that runs. */
				gdb_stop(g);
				return;
			}
			if (n > 0)
				take_packet(g, g->input, n - 3);
			else
				n = (ssize_t)g->input_len;
		}
		/* Else an acknowledgement, or noise. */
		g->input_len -= n;
		memmove(g->input, g->input + n, g->input_len);
	}
}

/* ---- the connection ---- */

static void watch_client(struct gdb *g);
static void watch_listener(struct gdb *g);

static void client_ready(struct loop_op *op, int res)
{
	struct gdb *g = container_of(op, struct gdb, client);
	/* Room is always left: what fills the buffer and is no packet is thrown away. */
	size_t room = sizeof(g->input) - g->input_len;
	ssize_t n;

	if (res == -ECANCELED)
		return;
	if (!room)
		room = sizeof(g->input), g->input_len = 0;
	n = recv(g->fd, g->input + g->input_len, room, MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		close(g->fd);
		g->fd = -1;
		log_info("gdb: the debugger has gone");
		gdb_release(g);
		watch_listener(g);
		return;
	}
	if (n > 0) {
		g->input_len += n;
		gdb_packets(g);
	}
	watch_client(g);
}

static void watch_client(struct gdb *g)
{
	loop_poll(g->m->loop, &g->client, g->fd, POLLIN);
}

static void listen_again(struct loop_timer *t)
{
	watch_listener(container_of(t, struct gdb, listen_again));
}

static void listener_ready(struct loop_op *op, int res)
{
	struct gdb *g = container_of(op, struct gdb, listener);

	if (res == -ECANCELED)
		return;
	g->fd = accept4(g->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (g->fd < 0) {
		/* One that has left, or no descriptor for it: that passes, and it waits. */
		loop_timer_set(g->m->loop, &g->listen_again,
			       clock_monotonic_ns(loop_clock(g->m->loop)) + LISTEN_AGAIN_NS);
		return;
	}
	/* Held since its start, it has nothing of an earlier client's. */
	g->fresh = g->state != GDB_STOPPED;
	g->no_ack = false;
	g->input_len = g->reply_len = 0;
	g->thread = g->reported = 0;
	g->step_thread = GDB_ALL_THREADS;
	g->stop_reply_due = false;
	g->physical = false;
	log_info("gdb: a debugger is connected");
	gdb_stop(g);
	watch_client(g);
}

static void watch_listener(struct gdb *g)
{
	loop_poll(g->m->loop, &g->listener, g->listen_fd, POLLIN);
}

const char *gdb_target_name(const char *where)
{
	return strncmp(where, "unix:", 5) == 0 ? where + 5 : where;
}

const char *gdb_target(const struct gdb *g)
{
	return g->where ? gdb_target_name(g->where) : NULL;
}

int gdb_create(struct gdb **ret_gdb, struct machine *m, int fd, const char *where,
	       struct error *err)
{
	struct gdb *g;

	if (!m->hv->ops->vcpu_debug)
		return error_set(err, -ENOTSUP, "--gdb: this hypervisor cannot debug guests");
	g = calloc(1, sizeof(*g));
	if (g) {
		g->stop = calloc(m->vcpus.num, sizeof(*g->stop));
		g->stepping = calloc(m->vcpus.num, sizeof(*g->stepping));
		g->where = where ? strdup(where) : NULL;
	}
	if (!g || !g->stop || !g->stepping || (where && !g->where)) {
		if (g) {
			free(g->where);
			free(g->stop);
			free(g->stepping);
		}
		free(g);
		return error_set(err, -ENOMEM, "--gdb: %m");
	}
	g->m = m;
	g->fd = -1;
	g->listen_fd = fd;
	g->listener.done = listener_ready;
	g->listen_again.expired = listen_again;
	g->client.done = client_ready;
	g->stop_task.run = gdb_stop_posted;
	watch_listener(g);
	*ret_gdb = g;
	return 0;
}

void gdb_ended(struct gdb *g, int status)
{
	if (!g || g->fd < 0)
		return;
	gdb_say(g, "W%02x", status & 0xff);
	gdb_send(g);
}

void gdb_hold(struct gdb *g)
{
	g->state = GDB_STOPPED;
}

void gdb_free(struct gdb *g)
{
	if (!g)
		return;
	if (g->fd >= 0)
		close(g->fd);
	close(g->listen_fd);
	free(g->stop);
	free(g->stepping);
	free(g->where);
	free(g);
}
