/* The connections of the socket device: ports, credit, bytes both ways, and their end. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/virtio_vsock_internal.h"

/* How often to look for ends that nothing reports, and for room in sockets that nothing reports. */
#define SWEEP_NS NSEC_PER_SEC
#define RETRY_NS (5 * NSEC_PER_MSEC)

static void socket_readable(struct loop_op *op, int res);
static void socket_writable(struct loop_op *op, int res);

/* ---- names ---- */

static struct list *bucket_of(struct virtio_vsock *vs, uint32_t guest_port, uint32_t host_port)
{
	/* A multiplier that mixes the low bits of both upwards (Knuth's golden ratio). */
	uint32_t mixed = (guest_port ^ (host_port << 16 | host_port >> 16)) * 0x9e3779b1u;

	return &vs->bucket[mixed >> 16 & (VSOCK_BUCKETS - 1)];
}

struct vsock_conn *vsock_conn_find(struct virtio_vsock *vs, uint32_t guest_port, uint32_t host_port)
{
	struct list *pos, *bucket = bucket_of(vs, guest_port, host_port);

	list_for_each (pos, bucket) {
		struct vsock_conn *c = list_entry(pos, struct vsock_conn, bucket);

		if (c->guest_port == guest_port && c->host_port == host_port)
			return c;
	}
	return NULL;
}

void vsock_conn_name(struct vsock_conn *c, uint32_t guest_port, uint32_t host_port)
{
	c->guest_port = guest_port;
	c->host_port = host_port;
	list_add_tail(bucket_of(c->vs, guest_port, host_port), &c->bucket);
}

/* ---- life ---- */

struct vsock_conn *vsock_conn_create(struct virtio_vsock *vs, enum vsock_state state, int fd)
{
	struct vsock_conn *c;

	if (vs->num_conns == VSOCK_MAX_CONNS || vs->closing)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->vs = vs;
	c->state = state;
	c->fd = fd;
	c->readable.done = socket_readable;
	c->writable.done = socket_writable;
	list_init(&c->bucket);
	list_init(&c->ready);
	list_add_tail(&vs->conns, &c->link);
	vs->num_conns++;
	return c;
}

void vsock_reap(struct loop_task *task)
{
	struct virtio_vsock *vs = container_of(task, struct virtio_vsock, reaper);
	struct list *pos, *next;

	list_for_each_safe (pos, next, &vs->conns) {
		struct vsock_conn *c = list_entry(pos, struct vsock_conn, link);

		if (c->state != VSOCK_DEAD || c->to_send || c->polling_in || c->polling_out)
			continue;
		if (c->fd >= 0)
			close(c->fd);
		free(c->buf);
		free(c->notice);
		list_del(&c->bucket);
		list_del(&c->ready);
		list_del(&c->link);
		free(c);
		vs->num_conns--;
	}
	/* There is room for another one now. */
	vsock_host_listen(vs);
}

/* Nothing refers to @c any more, as far as is known here: have that looked at. */
static void schedule_reaper(struct vsock_conn *c)
{
	loop_defer(c->vs->dev.loop, &c->vs->reaper);
}

/* The socket's end: what waits on it comes back soon, and then it is closed. */
static void kill(struct vsock_conn *c)
{
	c->state = VSOCK_DEAD;
	list_del(&c->bucket);
	if (c->fd >= 0)
		shutdown(c->fd, SHUT_RDWR);
	if (c->polling_in)
		loop_cancel(c->vs->dev.loop, &c->readable);
	if (c->polling_out)
		loop_cancel(c->vs->dev.loop, &c->writable);
	schedule_reaper(c);
}

void vsock_conn_close(struct vsock_conn *c)
{
	c->to_send = 0;
	list_del(&c->ready);
	if (c->state == VSOCK_DEAD)
		schedule_reaper(c);
	else
		kill(c);
}

void vsock_conn_reset(struct vsock_conn *c)
{
	if (c->state == VSOCK_DEAD)
		return;
	kill(c);
	c->to_send = VSOCK_SEND_RST;
	vsock_conn_wake(c);
}

static uint64_t now_ns(const struct virtio_vsock *vs)
{
	return clock_monotonic_ns(loop_clock(vs->dev.loop));
}

void vsock_conn_requested(struct vsock_conn *c)
{
	c->state = VSOCK_REQUESTED;
	c->answer_by_ns = now_ns(c->vs) + VSOCK_ANSWER_NS;
	c->to_send |= VSOCK_SEND_REQUEST;
}

void vsock_conn_open(struct vsock_conn *c)
{
	c->state = VSOCK_OPEN;
	vsock_conn_wake(c);
}

/* ---- what to wait for ---- */

/* Bytes that the guest has room for. A driver that counts wrong has room for none. */
static uint32_t credit(const struct vsock_conn *c)
{
	uint32_t under_way = c->sent - c->peer_forwarded;

	return under_way < c->peer_buffer ? c->peer_buffer - under_way : 0;
}

static bool wants_input(const struct vsock_conn *c)
{
	switch (c->state) {
	case VSOCK_HELLO:
		return true;
	case VSOCK_OPEN:
		return !c->host_done && !c->guest_deaf && credit(c);
	default:
		return false;
	}
}

/*
 * Of a socket whose input is not wanted, the end still is: nobody is there any more.
 * io_uring cannot wait for that: to it half an end is one. So it is looked for now and then.
 */
static bool wants_end(const struct vsock_conn *c)
{
	if (c->state == VSOCK_REQUESTED)
		return true;
	return c->state == VSOCK_OPEN && (c->host_done || c->guest_deaf) && !c->host_deaf;
}

static void sweep_in(struct virtio_vsock *vs, uint64_t ns)
{
	uint64_t deadline = now_ns(vs) + ns;

	if (!vs->sweep.armed || vs->sweep.deadline_ns > deadline)
		loop_timer_set(vs->dev.loop, &vs->sweep, deadline);
}

void vsock_conn_wake(struct vsock_conn *c)
{
	struct loop *loop = c->vs->dev.loop;

	if (!c->polling_in && !c->has_input && !c->notice && wants_input(c)) {
		c->polling_in = true;
		loop_poll(loop, &c->readable, c->fd, POLLIN);
	}
	if (wants_end(c))
		sweep_in(c->vs, SWEEP_NS);
	if (c->buf_len && !c->polling_out && c->state != VSOCK_DEAD) {
		if (c->blind) {
			sweep_in(c->vs, RETRY_NS);
		} else {
			c->polling_out = true;
			loop_poll(loop, &c->writable, c->fd, POLLOUT);
		}
	}
	/* Once is enough to ask: the driver answers when there is room. */
	if (c->state == VSOCK_OPEN && c->has_input && !c->guest_deaf && !credit(c) &&
	    !c->asked_credit) {
		c->asked_credit = true;
		c->to_send |= VSOCK_SEND_CREDIT_REQUEST;
	}
	if ((c->to_send || (c->has_input && c->state == VSOCK_OPEN && wants_input(c))) &&
	    list_empty(&c->ready))
		list_add_tail(&c->vs->ready, &c->ready);
}

/* ---- from the guest to the host ---- */

/* The guest may send again once it knows; it need not know of every byte. */
static void tell_credit(struct vsock_conn *c)
{
	if (c->state == VSOCK_OPEN && c->told != c->forwarded &&
	    VSOCK_BUFFER - (c->received - c->told) < VSOCK_MAX_PACKET)
		c->to_send |= VSOCK_SEND_CREDIT_UPDATE;
}

static void forwarded(struct vsock_conn *c, uint32_t bytes)
{
	c->forwarded += bytes;
	tell_credit(c);
}

/* All that the guest has sent is passed on: what follows from its having ended? */
static void output_done(struct vsock_conn *c)
{
	free(c->buf);
	c->buf = NULL;
	c->buf_start = c->buf_len = 0;
	if (c->state == VSOCK_LINGERING)
		kill(c);
	else if (c->guest_done)
		shutdown(c->fd, SHUT_WR);
}

/* The host reads no more. What it may have written is still worth delivering. */
static void host_is_deaf(struct vsock_conn *c)
{
	c->host_deaf = true;
	forwarded(c, c->buf_len);
	c->buf_len = 0;
	if (c->state == VSOCK_OPEN)
		c->to_send |= VSOCK_SEND_SHUTDOWN;
	output_done(c);
}

/* Returns how much of @iov the socket took. */
static size_t send_some(struct vsock_conn *c, struct iovec *iov, unsigned num)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = num };
	ssize_t n;

	do
		n = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	if (errno != EAGAIN)
		host_is_deaf(c);
	return 0;
}

static void flush(struct vsock_conn *c)
{
	while (c->buf_len) {
		uint32_t part = MIN(c->buf_len, VSOCK_BUFFER - c->buf_start);
		struct iovec iov = { c->buf + c->buf_start, part };
		size_t n = send_some(c, &iov, 1);

		if (!n)
			return; /* not now, or never: then nothing is left */
		c->buf_start = (c->buf_start + n) % VSOCK_BUFFER;
		c->buf_len -= n;
		forwarded(c, n);
	}
	output_done(c);
}

/* Keep @len bytes of @chain from @offset: they fit, since the guest had credit for them. */
static int keep(struct vsock_conn *c, const struct virtq_chain *chain, size_t offset, size_t len)
{
	if (!c->buf)
		c->buf = malloc(VSOCK_BUFFER);
	if (!c->buf)
		return -ENOMEM;
	while (len) {
		uint32_t end = (c->buf_start + c->buf_len) % VSOCK_BUFFER;
		size_t part = MIN(len, (size_t)(VSOCK_BUFFER - end));

		virtq_copy_out(chain, offset, c->buf + end, part);
		c->buf_len += part;
		offset += part;
		len -= part;
	}
	return 0;
}

/* The part [offset, offset + len) of @from, as iovecs in @to, which has room for as many. */
static unsigned slice(const struct iovec *from, unsigned num, size_t offset, size_t len,
		      struct iovec *to)
{
	unsigned n = 0;

	for (unsigned i = 0; i < num && len; i++) {
		size_t part;

		if (offset >= from[i].iov_len) {
			offset -= from[i].iov_len;
			continue;
		}
		part = MIN(from[i].iov_len - offset, len);
		to[n++] = (struct iovec){ (uint8_t *)from[i].iov_base + offset, part };
		len -= part;
		offset = 0;
	}
	return n;
}

/* 0, or -errno: the guest has broken a rule, or there is no memory. */
static int take_data(struct vsock_conn *c, uint32_t len, const struct virtq_chain *chain)
{
	struct iovec iov[VIRTQ_MAX_SEGMENTS];
	size_t sent = 0;

	if (c->state != VSOCK_OPEN || c->guest_done || len > chain->out_bytes - VSOCK_HEADER ||
	    len > VSOCK_BUFFER - (c->received - c->forwarded))
		return -EBADMSG;
	if (!len)
		return 0;
	c->received += len;
	if (c->host_deaf) {
		forwarded(c, len);
		return 0;
	}
	if (!c->buf_len) {
		sent = send_some(c, iov, slice(chain->iov, chain->num_out, VSOCK_HEADER, len, iov));
		forwarded(c, sent);
		if (c->host_deaf) {
			forwarded(c, len - sent);
			return 0;
		}
	}
	return sent < len ? keep(c, chain, VSOCK_HEADER + sent, len - sent) : 0;
}

static void socket_writable(struct loop_op *op, int res)
{
	struct vsock_conn *c = container_of(op, struct vsock_conn, writable);

	c->polling_out = false;
	if (c->state == VSOCK_DEAD) {
		schedule_reaper(c);
		return;
	}
	if (c->buf_len)
		flush(c);
	/* io_uring reports a host that has ended its half, again and again, and not only room. */
	c->blind = c->buf_len && res >= 0 && !(res & POLLOUT);
	vsock_conn_wake(c);
	vsock_pump(c->vs);
}

/* ---- from the host to the guest ---- */

static void socket_readable(struct loop_op *op, int res)
{
	struct vsock_conn *c = container_of(op, struct vsock_conn, readable);

	c->polling_in = false;
	if (c->state == VSOCK_DEAD) {
		schedule_reaper(c);
		return;
	}
	if (c->state == VSOCK_HELLO)
		vsock_host_hello(c);
	else if (wants_input(c))
		c->has_input = true;
	vsock_conn_wake(c);
	vsock_pump(c->vs);
}

/* Is nobody at the other end, neither to read nor to write? */
static bool has_hung_up(const struct vsock_conn *c)
{
	struct pollfd p = { .fd = c->fd };

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR));
}

/* The host is gone, or the guest is silent: a driver that hangs never answers. */
static void sweep_requested(struct vsock_conn *c)
{
	/* One that stands still has its time when it goes on. */
	if (!vsock_is_running(c->vs))
		c->answer_by_ns = now_ns(c->vs) + VSOCK_ANSWER_NS;
	if (now_ns(c->vs) < c->answer_by_ns && !has_hung_up(c))
		return;
	/* What it was never asked it need not be told of. */
	if (c->to_send & VSOCK_SEND_REQUEST)
		vsock_conn_close(c);
	else
		vsock_conn_reset(c);
}

void vsock_sweep(struct loop_timer *t)
{
	struct virtio_vsock *vs = container_of(t, struct virtio_vsock, sweep);
	struct list *pos;

	list_for_each (pos, &vs->conns) {
		struct vsock_conn *c = list_entry(pos, struct vsock_conn, link);

		if (c->state == VSOCK_REQUESTED)
			sweep_requested(c);
		else if (wants_end(c) && has_hung_up(c))
			host_is_deaf(c);
		if (c->blind && c->buf_len)
			flush(c);
		vsock_conn_wake(c);
	}
	vsock_pump(vs);
}

/* The host has sent all. Has it also stopped to listen? */
static void input_done(struct vsock_conn *c)
{
	c->has_input = false;
	c->host_done = true;
	c->to_send |= VSOCK_SEND_SHUTDOWN;
	if (!c->host_deaf && has_hung_up(c))
		host_is_deaf(c);
}

static size_t read_notice(struct vsock_conn *c, const struct virtq_chain *chain, size_t max)
{
	size_t n = MIN(max, (size_t)c->notice_len);

	n = virtq_copy_in(chain, VSOCK_HEADER, c->notice + c->notice_start, n);
	c->notice_start += n;
	c->notice_len -= n;
	c->has_input = c->notice_len;
	c->sent += n;
	return n;
}

/* Returns how many bytes were put behind the header in @chain. */
static size_t read_input(struct vsock_conn *c, const struct virtq_chain *chain)
{
	size_t max = MIN(chain->in_bytes - VSOCK_HEADER, (uint64_t)VSOCK_MAX_PACKET);
	struct iovec iov[VIRTQ_MAX_SEGMENTS];
	struct msghdr msg = { .msg_iov = iov };
	ssize_t n;

	max = MIN(max, (size_t)credit(c));
	if (c->notice)
		return read_notice(c, chain, max);
	msg.msg_iovlen = slice(chain->iov + chain->num_out, chain->num_in, VSOCK_HEADER, max, iov);
	do
		n = recvmsg(c->fd, &msg, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		/* Less than asked for: most likely all there was, and a poll finds out. */
		c->has_input = (size_t)n == max;
		c->sent += n;
		return n;
	}
	if (n == 0)
		input_done(c);
	else if (errno == EAGAIN)
		c->has_input = false;
	else
		vsock_conn_reset(c);
	return 0;
}

static size_t put_header(struct vsock_conn *c, const struct virtq_chain *chain, uint16_t op,
			 uint32_t len, uint32_t flags)
{
	struct virtio_vsock_hdr h = {
		.src_cid = htole64(VSOCK_HOST_CID),
		.dst_cid = htole64(c->vs->cid),
		.src_port = htole32(c->host_port),
		.dst_port = htole32(c->guest_port),
		.len = htole32(len),
		.type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
		.op = htole16(op),
		.flags = htole32(flags),
		.buf_alloc = htole32(VSOCK_BUFFER),
		.fwd_cnt = htole32(c->forwarded),
	};

	/* Whatever it is, it tells of the credit. */
	c->told = c->forwarded;
	c->to_send &= ~VSOCK_SEND_CREDIT_UPDATE;
	return virtq_copy_in(chain, 0, &h, sizeof(h)) + len;
}

static size_t put_control(struct vsock_conn *c, const struct virtq_chain *chain)
{
	unsigned what = c->to_send & -(unsigned)c->to_send;
	uint32_t flags;

	c->to_send &= ~what;
	switch (what) {
	case VSOCK_SEND_RST:
		schedule_reaper(c);
		return put_header(c, chain, VIRTIO_VSOCK_OP_RST, 0, 0);
	case VSOCK_SEND_REQUEST:
		return put_header(c, chain, VIRTIO_VSOCK_OP_REQUEST, 0, 0);
	case VSOCK_SEND_RESPONSE:
		return put_header(c, chain, VIRTIO_VSOCK_OP_RESPONSE, 0, 0);
	case VSOCK_SEND_CREDIT_UPDATE:
		return put_header(c, chain, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0);
	case VSOCK_SEND_CREDIT_REQUEST:
		return put_header(c, chain, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 0, 0);
	default:
		flags = (c->host_done ? VIRTIO_VSOCK_SHUTDOWN_SEND : 0) |
			(c->host_deaf ? VIRTIO_VSOCK_SHUTDOWN_RCV : 0);
		return put_header(c, chain, VIRTIO_VSOCK_OP_SHUTDOWN, 0, flags);
	}
}

size_t vsock_conn_fill(struct vsock_conn *c, const struct virtq_chain *chain)
{
	size_t n;

	if (!c->to_send && c->has_input && c->state == VSOCK_OPEN && wants_input(c)) {
		n = read_input(c, chain);
		if (n)
			return put_header(c, chain, VIRTIO_VSOCK_OP_RW, n, 0);
	}
	return c->to_send ? put_control(c, chain) : 0;
}

/* ---- packets ---- */

static void guest_shutdown(struct vsock_conn *c, uint32_t flags)
{
	/* As with TCP the host is not told of deaf ears alone: it would look like half an end. */
	if (flags & VIRTIO_VSOCK_SHUTDOWN_RCV)
		c->guest_deaf = true;
	if (flags & VIRTIO_VSOCK_SHUTDOWN_SEND && !c->guest_done) {
		c->guest_done = true;
		if (!c->buf_len)
			shutdown(c->fd, SHUT_WR);
	}
	if (!c->guest_deaf || !c->guest_done)
		return;
	/* The guest wants to hear an RST and may then use its port again. */
	if (!c->buf_len) {
		vsock_conn_reset(c);
		return;
	}
	list_del(&c->bucket);
	c->state = VSOCK_LINGERING;
	c->to_send = VSOCK_SEND_RST;
}

static int receive(struct vsock_conn *c, const struct virtio_vsock_hdr *h,
		   const struct virtq_chain *chain)
{
	switch (le16toh(h->op)) {
	case VIRTIO_VSOCK_OP_RESPONSE:
		if (c->state != VSOCK_REQUESTED || c->to_send & VSOCK_SEND_REQUEST)
			return -EBADMSG;
		vsock_host_answer(c);
		return 0;
	case VIRTIO_VSOCK_OP_RST:
		vsock_conn_close(c);
		return 0;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		if (c->state != VSOCK_OPEN)
			return -EBADMSG;
		guest_shutdown(c, le32toh(h->flags));
		return 0;
	case VIRTIO_VSOCK_OP_RW:
		return take_data(c, le32toh(h->len), chain);
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		return 0;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		if (c->state != VSOCK_OPEN)
			return -EBADMSG;
		c->to_send |= VSOCK_SEND_CREDIT_UPDATE;
		return 0;
	default:
		return -EBADMSG;
	}
}

void vsock_conn_receive(struct vsock_conn *c, const struct virtio_vsock_hdr *h,
			const struct virtq_chain *chain)
{
	c->peer_buffer = le32toh(h->buf_alloc);
	c->peer_forwarded = le32toh(h->fwd_cnt);
	if (credit(c))
		c->asked_credit = false;
	if (receive(c, h, chain) < 0)
		vsock_conn_reset(c);
	vsock_conn_wake(c);
}
