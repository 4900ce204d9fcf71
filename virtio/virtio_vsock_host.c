/*
 * The host's end of the socket device: Firecracker's convention over UNIX
 * sockets. A program on the host connects to PATH, says "CONNECT port\n" and
 * hears "OK port\n" once the guest has accepted; the guest's connections to
 * port N end at PATH_N, which the parent opens (devices/vsock_broker.h). One
 * port is the device's own, and ends at no socket.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/virtio_vsock_internal.h"

/* Ports of ours for what comes from the host: above those that anyone listens on. */
#define FIRST_PORT (1u << 30)
#define NUM_PORTS  (1u << 30)

/*
 * Answers that may be outstanding: a UNIX socket queues ten messages at least
 * (net.unix.max_dgram_qlen), so none of these is ever dropped.
 */
#define MAX_ASKED 8

/* How long to wait when there is no descriptor for another connection. */
#define RETRY_NS NSEC_PER_SEC

/* ---- from the host ---- */

static void accepted(struct loop_op *op, int res)
{
	struct virtio_vsock *vs = container_of(op, struct virtio_vsock, accept);
	struct vsock_conn *c;

	vs->accepting = false;
	if (res < 0) {
		if (!vs->closing && res != -ECANCELED)
			loop_timer_set(vs->dev.loop, &vs->retry,
				       clock_monotonic_ns(loop_clock(vs->dev.loop)) + RETRY_NS);
		return;
	}
	c = vsock_conn_create(vs, VSOCK_HELLO, res);
	if (c)
		vsock_conn_wake(c);
	else
		close(res);
	vsock_host_listen(vs);
}

static void listen_again(struct loop_timer *t)
{
	vsock_host_listen(container_of(t, struct virtio_vsock, retry));
}

static uint32_t free_port(struct virtio_vsock *vs, uint32_t guest_port)
{
	uint32_t port;

	do
		port = FIRST_PORT + vs->next_port++ % NUM_PORTS;
	while (vsock_conn_find(vs, guest_port, port));
	return port;
}

/* "CONNECT 1234" without its end of line. False: it is something else. */
static bool parse_hello(const char *line, uint32_t *ret_port)
{
	static const char word[] = "CONNECT ";
	uint64_t port = 0;
	const char *p = line + sizeof(word) - 1;

	if (strncmp(line, word, sizeof(word) - 1) != 0 || !*p)
		return false;
	for (; *p; p++) {
		if (*p < '0' || *p > '9')
			return false;
		port = port * 10 + (*p - '0');
		if (port > UINT32_MAX)
			return false;
	}
	*ret_port = port;
	return true;
}

void vsock_host_request(struct vsock_conn *c, uint32_t port)
{
	vsock_conn_name(c, port, free_port(c->vs, port));
	vsock_conn_requested(c);
}

void vsock_host_hello(struct vsock_conn *c)
{
	char text[sizeof(c->line)], *end;
	uint32_t port;
	size_t room = sizeof(c->line) - 1 - c->line_len, take;
	ssize_t n = recv(c->fd, text, room, MSG_DONTWAIT | MSG_PEEK);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	end = n > 0 ? memchr(text, '\n', n) : NULL;
	/* Gone, or a line that does not end. */
	if (n <= 0 || (!end && (size_t)n == room)) {
		vsock_conn_close(c);
		return;
	}
	/* What follows the line is the guest's and stays in the socket. */
	take = end ? (size_t)(end - text) + 1 : (size_t)n;
	if (recv(c->fd, c->line + c->line_len, take, MSG_DONTWAIT) != (ssize_t)take) {
		vsock_conn_close(c);
		return;
	}
	c->line_len += take;
	if (!end)
		return;
	c->line[c->line_len - 1] = '\0';
	if (parse_hello(c->line, &port) && vsock_has_guest(c->vs))
		vsock_host_request(c, port);
	else
		vsock_conn_close(c);
}

void vsock_host_answer(struct vsock_conn *c)
{
	char text[24];
	int len = snprintf(text, sizeof(text), "OK %u\n", c->host_port);

	/* The first bytes into a new socket: they fit, or nobody is there. */
	if (send(c->fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL) != len) {
		vsock_conn_reset(c);
		return;
	}
	vsock_conn_open(c);
}

/* ---- from the guest ---- */

static void listen_to_broker(struct virtio_vsock *vs);

/* The connection that waits for the answer @id; 0: the first that has not been asked for yet. */
static struct vsock_conn *find_opening(struct virtio_vsock *vs, uint32_t id)
{
	struct list *pos;

	list_for_each (pos, &vs->conns) {
		struct vsock_conn *c = list_entry(pos, struct vsock_conn, link);

		if (c->state == VSOCK_OPENING && c->open_id == id)
			return c;
	}
	return NULL;
}

/* Nobody opens sockets for us any more. */
static void lose_broker(struct virtio_vsock *vs)
{
	struct list *pos;

	close(vs->broker_fd);
	vs->broker_fd = -1;
	list_for_each (pos, &vs->conns) {
		struct vsock_conn *c = list_entry(pos, struct vsock_conn, link);

		if (c->state == VSOCK_OPENING)
			vsock_conn_reset(c);
	}
}

/* Returns false when the broker is gone. */
static bool ask_broker(struct virtio_vsock *vs)
{
	struct vsock_open_request ask;
	struct vsock_conn *c;

	while (vs->asked < MAX_ASKED && (c = find_opening(vs, 0))) {
		if (++vs->last_id == 0)
			++vs->last_id;
		c->open_id = vs->last_id;
		ask = (struct vsock_open_request){ .id = c->open_id, .port = c->host_port };
		if (send(vs->broker_fd, &ask, sizeof(ask), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			return false;
		vs->asked++;
	}
	return true;
}

static void broker_replied(struct loop_op *op, int res)
{
	struct virtio_vsock *vs = container_of(op, struct virtio_vsock, reply);
	int fd = res > 0 ? fds_take_one(&vs->reply_msg) : -1;
	struct vsock_conn *c = NULL;

	vs->listening_to_broker = false;
	/* The guest may have changed its mind meanwhile. */
	if (res == sizeof(vs->reply_buf) && vs->reply_buf.id && !vs->closing)
		c = find_opening(vs, vs->reply_buf.id);
	if (c && fd >= 0) {
		c->fd = fd;
		c->to_send |= VSOCK_SEND_RESPONSE;
		vsock_conn_open(c);
	} else {
		if (c)
			vsock_conn_reset(c);
		if (fd >= 0)
			close(fd);
	}
	if (vs->closing)
		return;
	if (res > 0)
		vs->asked--;
	if ((res > 0 || res == -EINTR) && ask_broker(vs))
		listen_to_broker(vs);
	else
		lose_broker(vs);
	vsock_pump(vs);
}

static void listen_to_broker(struct virtio_vsock *vs)
{
	vs->reply_iov = (struct iovec){ &vs->reply_buf, sizeof(vs->reply_buf) };
	vs->reply_msg = (struct msghdr){
		.msg_iov = &vs->reply_iov,
		.msg_iovlen = 1,
		.msg_control = &vs->reply_control,
		.msg_controllen = sizeof(vs->reply_control),
	};
	vs->reply.done = broker_replied;
	vs->listening_to_broker = true;
	loop_recvmsg(vs->dev.loop, &vs->reply, vs->broker_fd, &vs->reply_msg, MSG_CMSG_CLOEXEC);
}

/* It sends the notice, and what it is sent goes nowhere. */
static void open_notice(struct vsock_conn *c)
{
	const struct virtio_vsock_notice *n = &c->vs->notice;

	c->notice = malloc(VIRTIO_VSOCK_NOTICE_BYTES);
	if (!c->notice) {
		vsock_conn_reset(c);
		return;
	}
	c->notice_len = n->write(n->ctx, c->notice, VIRTIO_VSOCK_NOTICE_BYTES);
	c->has_input = c->notice_len;
	c->host_deaf = true;
	c->to_send |= VSOCK_SEND_RESPONSE;
	vsock_conn_open(c);
}

void vsock_host_open(struct vsock_conn *c)
{
	struct virtio_vsock *vs = c->vs;

	if (vs->notice.write && c->host_port == vs->notice.port) {
		open_notice(c);
	} else if (vs->broker_fd < 0) {
		vsock_conn_reset(c);
	} else if (!ask_broker(vs)) {
		/* It is noticed there, where nothing is outstanding. */
		if (vs->listening_to_broker)
			loop_cancel(vs->dev.loop, &vs->reply);
		else
			lose_broker(vs);
	} else if (!vs->listening_to_broker) {
		listen_to_broker(vs);
	}
}

/* ---- life ---- */

void vsock_host_listen(struct virtio_vsock *vs)
{
	if (vs->listen_fd < 0 || vs->accepting || vs->closing || vs->num_conns == VSOCK_MAX_CONNS)
		return;
	vs->accept.done = accepted;
	vs->retry.expired = listen_again;
	vs->accepting = true;
	loop_accept(vs->dev.loop, &vs->accept, vs->listen_fd);
}

bool vsock_host_close(struct virtio_vsock *vs)
{
	loop_timer_cancel(vs->dev.loop, &vs->retry);
	if (vs->accepting)
		loop_cancel(vs->dev.loop, &vs->accept);
	if (vs->listening_to_broker)
		loop_cancel(vs->dev.loop, &vs->reply);
	return !vs->accepting && !vs->listening_to_broker;
}
