#include "devices/net_switch.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <unistd.h>

#include "devices/net_offload.h"
#include "devices/net_switch_table.h"
#include "devices/net_tso.h"
#include "vmm/core/log.h"

/* Frames taken from one port before the others have their turn. */
#define BURST 32

/* How long a port that reads nothing is waited for, once, before its frames are dropped. */
#define FULL_WAIT_NS (100 * NSEC_PER_MSEC)

/* Frames that a port may send to all in a turn: each is as much work as there are ports. */
#define FLOOD_BURST 8

/* What is asked for in the socket's buffers: some long frames. The host may allow less. */
#define BUFFER_BYTES (1 * MiB)

/* How long to wait when there is no descriptor for another connection. */
#define ACCEPT_AGAIN_NS NSEC_PER_SEC

struct counters {
	uint64_t rx_frames, rx_bytes; /* from the port */
	uint64_t tx_frames, tx_bytes;
	uint64_t dropped; /* for the port: it was full */
	uint64_t refused; /* of the port: malformed, tagged */
};

struct port {
	struct net_switch *sw;
	int fd; /* -1: this place is free */
	unsigned index;
	char name[NET_SWITCH_PORT_NAME];
	unsigned vlan;
	bool joined; /* a port; before, a connection that has said nothing */
	bool uplink; /* takes everything, and is told what we do when it starts */
	bool told;
	uint32_t takes; /* NET_HELLO_*: frames as they are on a wire, and these */
	bool closing;
	bool full; /* did not catch up: not waited for */
	struct counters count;

	struct loop_op readable, writable;
	bool reading, writing; /* these are outstanding */
	bool busy;	       /* its messages are being looked at */

	/* A frame of this port that @waits_for has no room for; nothing is read meanwhile. */
	struct port *waits_for;
	size_t held_len;
	uint8_t *held; /* with its header */
	struct loop_timer waited;
};

struct net_switch {
	struct loop *loop;
	int listen_fd;
	struct loop_op accept;
	struct loop_timer accept_again;
	bool accepting;
	bool closing;
	struct port *port[NET_SWITCH_MAX_PORTS];
	unsigned num_ports; /* places used so far, free ones among them */
	unsigned addresses[NET_SWITCH_MAX_PORTS];
	struct net_switch_table table;
	struct virtio_net_hdr_v1 hdr; /* of the frame at hand */
	uint8_t frame[NET_MAX_FRAME];
};

static void read_more(struct port *p);

static void put_header(struct virtio_net_hdr_v1 *hdr)
{
	*hdr = (struct virtio_net_hdr_v1){ .num_buffers = htole16(1) };
}

/* ---- ports that end ---- */

/* The last of its operations is over: give the place back. */
static void free_port(struct port *p)
{
	struct net_switch *sw = p->sw;

	if (p->reading || p->writing || p->busy)
		return;
	close(p->fd);
	sw->port[p->index] = NULL;
	free(p->held);
	free(p);
}

static void stop_waiting(struct port *p)
{
	if (!p->waits_for)
		return;
	p->waits_for = NULL;
	loop_timer_cancel(p->sw->loop, &p->waited);
}

static void close_port(struct port *p)
{
	struct net_switch *sw = p->sw;

	if (p->closing)
		return;
	p->closing = true;
	if (p->joined)
		log_info("port '%s' left", p->name);
	net_switch_forget(&sw->table, p->index);
	stop_waiting(p);
	for (unsigned i = 0; i < sw->num_ports; i++) {
		struct port *other = sw->port[i];

		if (other && other->waits_for == p) {
			stop_waiting(other);
			read_more(other);
		}
	}
	if (p->reading)
		loop_cancel(sw->loop, &p->readable);
	if (p->writing)
		loop_cancel(sw->loop, &p->writable);
	free_port(p);
}

/* ---- frames to a port ---- */

static int send_message(struct port *to, const struct iovec *iov, unsigned n)
{
	struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };
	ssize_t len;

	if (to->uplink && !to->told) {
		/* Whatever a port does not take, we cut. */
		struct net_hello hello = { htole32(NET_HELLO_MAGIC),
					   htole32(NET_HELLO_CSUM | NET_HELLO_TSO4 |
						   NET_HELLO_TSO6) };

		to->told = send(to->fd, &hello, sizeof(hello), MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
	}
	do
		len = sendmsg(to->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (len < 0 && errno == EINTR);
	if (len < 0)
		return -errno;
	to->full = false;
	to->count.tx_frames++;
	to->count.tx_bytes += len - NET_VNET_HDR;
	return 0;
}

static void emit_segment(void *arg, uint8_t *segment, size_t len)
{
	struct virtio_net_hdr_v1 hdr;
	struct iovec iov[2] = { { &hdr, sizeof(hdr) }, { segment, len } };
	struct port *to = arg;

	put_header(&hdr);
	/* Cut, they cannot wait: lost as on a wire. */
	if (send_message(to, iov, 2) < 0)
		to->count.dropped++;
}

static bool takes_segments(const struct port *to, uint8_t gso_type)
{
	uint32_t ecn = gso_type & VIRTIO_NET_HDR_GSO_ECN ? NET_HELLO_ECN : 0;

	switch (gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return (to->takes & (NET_HELLO_TSO4 | ecn)) == (NET_HELLO_TSO4 | ecn);
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return (to->takes & (NET_HELLO_TSO6 | ecn)) == (NET_HELLO_TSO6 | ecn);
	default:
		return false;
	}
}

/*
 * Pass the frame at hand (@len bytes) on: 0, or -EAGAIN when @to is full. What
 * @to does not take is done here; a checksum filled in stays so for the next port.
 */
static int send_to(struct net_switch *sw, struct port *to, size_t len)
{
	struct iovec iov[2] = { { &sw->hdr, sizeof(sw->hdr) }, { sw->frame, len } };
	int r;

	if (sw->hdr.gso_type != VIRTIO_NET_HDR_GSO_NONE && !takes_segments(to, sw->hdr.gso_type)) {
		/* Cutting overwrites the frame: the last use of it, but for floods, of broadcasts.
		 */
		if (net_tso_cut(sw->frame, len, &sw->hdr, emit_segment, to) < 0)
			to->count.dropped++;
		return 0;
	}
	if ((sw->hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && !(to->takes & NET_HELLO_CSUM)) {
		if (net_fill_checksum(sw->frame, len, &sw->hdr) < 0)
			return 0;
		put_header(&sw->hdr);
	}
	r = send_message(to, iov, 2);
	if (r < 0 && r != -EAGAIN)
		close_port(to);
	return r == -EAGAIN ? r : 0;
}

/* ---- waiting for one that is full ---- */

static void is_writable(struct loop_op *op, int res)
{
	struct port *to = container_of(op, struct port, writable);
	struct net_switch *sw = to->sw;

	to->writing = false;
	if (to->closing) {
		free_port(to);
		return;
	}
	for (unsigned i = 0; i < sw->num_ports && !to->closing; i++) {
		struct port *p = sw->port[i];

		if (!p || p->waits_for != to)
			continue;
		if (send_message(to, &(struct iovec){ p->held, p->held_len }, 1) == -EAGAIN) {
			to->writing = true;
			loop_poll(sw->loop, &to->writable, to->fd, POLLOUT);
			return;
		}
		stop_waiting(p);
		read_more(p);
	}
}

/* It had its chance; those that wait for it lose a frame and go on. */
static void waited_enough(struct loop_timer *t)
{
	struct port *p = container_of(t, struct port, waited);

	p->waits_for->full = true;
	p->waits_for->count.dropped++;
	p->waits_for = NULL;
	read_more(p);
}

static void wait_for(struct port *p, struct port *to, size_t len)
{
	struct net_switch *sw = p->sw;

	if (!p->held)
		p->held = malloc(NET_VNET_HDR + NET_MAX_FRAME);
	if (!p->held || to->full) {
		to->count.dropped++;
		return;
	}
	memcpy(p->held, &sw->hdr, NET_VNET_HDR);
	memcpy(p->held + NET_VNET_HDR, sw->frame, len);
	p->held_len = NET_VNET_HDR + len;
	p->waits_for = to;
	loop_timer_set(sw->loop, &p->waited,
		       clock_monotonic_ns(loop_clock(sw->loop)) + FULL_WAIT_NS);
	if (to->writing)
		return;
	to->writing = true;
	loop_poll(sw->loop, &to->writable, to->fd, POLLOUT);
}

/* ---- frames from a port ---- */

/* Only what a guest may ask for; the rest of the header is for nobody. */
static bool header_ok(const struct port *p, struct virtio_net_hdr_v1 *hdr, size_t len)
{
	size_t start = le16toh(hdr->csum_start), at = start + le16toh(hdr->csum_offset);
	bool v4 = hdr->gso_type == VIRTIO_NET_HDR_GSO_TCPV4;

	hdr->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM | (p->uplink ? VIRTIO_NET_HDR_F_DATA_VALID : 0);
	hdr->num_buffers = htole16(1);
	if ((hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && (start > len || at + 2 > len))
		return false;
	if (hdr->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return true;
	return (v4 || hdr->gso_type == VIRTIO_NET_HDR_GSO_TCPV6) && hdr->gso_size &&
	       (hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
}

static bool is_tagged(const uint8_t *frame)
{
	return frame[12] == 0x81 && frame[13] == 0x00;
}

/* To all others of its VLAN. A port that is full just does not get it. */
static void flood(struct port *from, size_t len)
{
	struct net_switch *sw = from->sw;

	for (unsigned i = 0; i < sw->num_ports; i++) {
		struct port *to = sw->port[i];

		if (!to || to == from || !to->joined || to->closing || to->vlan != from->vlan)
			continue;
		/* A segment for nobody in particular is not worth cutting for each. */
		if (sw->hdr.gso_type && !takes_segments(to, sw->hdr.gso_type))
			to->count.dropped++;
		else if (send_to(sw, to, len) == -EAGAIN)
			to->count.dropped++;
	}
}

/* True when it went to all. */
static bool forward(struct port *from, size_t len)
{
	struct net_switch *sw = from->sw;
	uint64_t now = clock_monotonic_ns(loop_clock(sw->loop));
	const uint8_t *to_addr = sw->frame, *from_addr = sw->frame + 6;
	int to;

	if (!header_ok(from, &sw->hdr, len) || is_tagged(sw->frame) || (from_addr[0] & 1)) {
		from->count.refused++;
		return false;
	}
	from->count.rx_frames++;
	from->count.rx_bytes += len;
	net_switch_learn(&sw->table, from->vlan, from_addr, from->index, now);
	to = to_addr[0] & 1 ? -1 : net_switch_find(&sw->table, from->vlan, to_addr, now);
	if (to < 0) {
		flood(from, len);
		return true;
	}
	if (to != (int)from->index && send_to(sw, sw->port[to], len) == -EAGAIN)
		wait_for(from, sw->port[to], len);
	return false;
}

static void take_hello(struct port *p, const void *message)
{
	struct net_hello hello;

	memcpy(&hello, message, sizeof(hello));
	if (le32toh(hello.magic) == NET_HELLO_MAGIC && !p->uplink)
		p->takes = le32toh(hello.takes);
}

static bool name_ok(const char *name)
{
	size_t len = strnlen(name, NET_SWITCH_PORT_NAME);

	return len > 0 && len < NET_SWITCH_PORT_NAME &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
		       len;
}

static void answer_report(struct port *p, bool json)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (out) {
		net_switch_print(p->sw, out, json);
		fclose(out);
	}
	if (text)
		send(p->fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	free(text);
}

/* The first message of a connection. False: it is done with. */
static bool take_join(struct port *p, const struct net_switch_join *join, size_t len)
{
	unsigned wish = le16toh(join->wish), vlan = le16toh(join->vlan);
	uint32_t answer = 0;

	if (len != sizeof(*join) || le32toh(join->magic) != NET_SWITCH_MAGIC)
		return false;
	if (wish == NET_SWITCH_TEXT || wish == NET_SWITCH_JSON) {
		answer_report(p, wish == NET_SWITCH_JSON);
		return false;
	}
	if (wish != NET_SWITCH_JOIN || vlan < 1 || vlan > NET_SWITCH_MAX_VLAN ||
	    !name_ok(join->name))
		answer = htole32(EINVAL);
	if (send(p->fd, &answer, sizeof(answer), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 || answer)
		return false;
	memcpy(p->name, join->name, sizeof(p->name));
	p->vlan = vlan;
	p->joined = true;
	log_info("port '%s' joined VLAN %u", p->name, vlan);
	return true;
}

/* One message of @p: false when there was none, or it is enough for now. */
static bool take_message(struct port *p, unsigned *floods)
{
	struct net_switch *sw = p->sw;
	struct iovec iov[2] = {
		{ &sw->hdr, sizeof(sw->hdr) },
		{ sw->frame, sizeof(sw->frame) },
	};
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	struct net_switch_join join;
	ssize_t len;

	if (!p->joined) {
		iov[0] = (struct iovec){ &join, sizeof(join) };
		msg.msg_iovlen = 1;
	}
	len = recvmsg(p->fd, &msg, MSG_DONTWAIT);
	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (len <= 0 || (!p->joined && !take_join(p, &join, len))) {
		close_port(p);
		return false;
	}
	if (!p->vlan || msg.msg_iovlen == 1)
		return true;
	if (len == sizeof(struct net_hello))
		take_hello(p, &sw->hdr);
	else if (len < (ssize_t)(NET_VNET_HDR + NET_ETH_HDR) || (msg.msg_flags & MSG_TRUNC))
		p->count.refused++;
	else if (forward(p, len - NET_VNET_HDR) && ++*floods == FLOOD_BURST)
		return false;
	return true;
}

static void is_readable(struct loop_op *op, int res)
{
	struct port *p = container_of(op, struct port, readable);
	unsigned floods = 0;

	p->reading = false;
	if (p->closing) {
		free_port(p);
		return;
	}
	p->busy = true;
	for (unsigned i = 0; i < BURST && !p->closing && !p->waits_for; i++) {
		if (!take_message(p, &floods))
			break;
	}
	p->busy = false;
	if (p->closing)
		free_port(p);
	else
		read_more(p);
}

static void read_more(struct port *p)
{
	if (p->closing || p->reading || p->busy || p->waits_for)
		return;
	p->reading = true;
	loop_poll(p->sw->loop, &p->readable, p->fd, POLLIN);
}

/* ---- connections ---- */

static struct port *add_port(struct net_switch *sw, int fd)
{
	int buffer = BUFFER_BYTES;
	struct port *p = NULL;
	unsigned i = 0;

	while (i < NET_SWITCH_MAX_PORTS && sw->port[i])
		i++;
	errno = ENOSPC;
	if (i < NET_SWITCH_MAX_PORTS)
		p = calloc(1, sizeof(*p));
	if (!p) {
		close(fd);
		return NULL;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
	p->sw = sw;
	p->fd = fd;
	p->index = i;
	p->readable.done = is_readable;
	p->writable.done = is_writable;
	p->waited.expired = waited_enough;
	sw->port[i] = p;
	sw->num_ports = MAX(sw->num_ports, i + 1);
	read_more(p);
	return p;
}

int net_switch_add(struct net_switch *sw, int fd, const char *name, unsigned vlan)
{
	struct port *p = add_port(sw, fd);

	if (!p)
		return -errno;
	strncpy(p->name, name, sizeof(p->name) - 1);
	p->vlan = vlan;
	p->joined = true;
	return 0;
}

int net_switch_add_uplink(struct net_switch *sw, int fd, const char *name, unsigned vlan)
{
	int r = net_switch_add(sw, fd, name, vlan);

	for (unsigned i = 0; i < sw->num_ports && !r; i++) {
		if (!sw->port[i] || sw->port[i]->fd != fd)
			continue;
		sw->port[i]->uplink = true;
		sw->port[i]->takes = NET_HELLO_CSUM | NET_HELLO_TSO4 | NET_HELLO_TSO6;
	}
	return r;
}

/* Whoever may connect is of our user; others are turned away should the path be open to them. */
static bool peer_ok(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 &&
	       (cred.uid == geteuid() || cred.uid == 0);
}

static void listen_on(struct net_switch *sw)
{
	sw->accepting = true;
	loop_accept(sw->loop, &sw->accept, sw->listen_fd);
}

static void accept_again(struct loop_timer *t)
{
	listen_on(container_of(t, struct net_switch, accept_again));
}

static void accepted(struct loop_op *op, int res)
{
	struct net_switch *sw = container_of(op, struct net_switch, accept);

	sw->accepting = false;
	if (res >= 0 && (sw->closing || !peer_ok(res)))
		close(res);
	else if (res >= 0 && !add_port(sw, res))
		log_warn("a connection was refused: %m");
	if (sw->closing || res == -ECANCELED)
		return;
	if (res >= 0 || res == -ECONNABORTED || res == -EINTR)
		listen_on(sw);
	else /* No descriptor or memory is left: that passes, and the client waits. */
		loop_timer_set(sw->loop, &sw->accept_again,
			       clock_monotonic_ns(loop_clock(sw->loop)) + ACCEPT_AGAIN_NS);
}

void net_switch_listen(struct net_switch *sw, int fd)
{
	sw->listen_fd = fd;
	sw->accept.done = accepted;
	sw->accept_again.expired = accept_again;
	listen_on(sw);
}

/* ---- report ---- */

void net_switch_print(const struct net_switch *sw, FILE *out, bool json)
{
	const char *comma = "";

	if (json)
		fputs("{\"ports\":[", out);
	else
		fprintf(out, "%-20s %5s %9s %12s %16s %12s %16s %10s %8s\n", "PORT", "VLAN",
			"ADDRESSES", "RX-FRAMES", "RX-BYTES", "TX-FRAMES", "TX-BYTES", "DROPPED",
			"REFUSED");
	for (unsigned i = 0; i < sw->num_ports; i++) {
		const struct port *p = sw->port[i];
		const struct counters *c = p ? &p->count : NULL;

		if (!p || !p->joined || p->closing)
			continue;
		fprintf(out,
			json ? "%s{\"name\":\"%s\",\"vlan\":%u,\"addresses\":%u,\"rx_frames\":%lu,"
			       "\"rx_bytes\":%lu,\"tx_frames\":%lu,\"tx_bytes\":%lu,\"dropped\":%"
			       "lu,"
			       "\"refused\":%lu}"
			     : "%s%-20s %5u %9u %12lu %16lu %12lu %16lu %10lu %8lu\n",
			comma, p->name, p->vlan, sw->addresses[i], c->rx_frames, c->rx_bytes,
			c->tx_frames, c->tx_bytes, c->dropped, c->refused);
		comma = json ? "," : "";
	}
	if (json)
		fputs("]}\n", out);
}

/* ---- life ---- */

int net_switch_create(struct net_switch **ret_sw, struct loop *loop, struct error *err)
{
	struct net_switch *sw = calloc(1, sizeof(*sw));

	if (!sw)
		return error_set(err, -ENOMEM, "switch: %m");
	sw->loop = loop;
	sw->listen_fd = -1;
	sw->table.num = sw->addresses;
	sw->table.max_per_port = NET_SWITCH_PORT_ADDRS;
	sw->table.max_age_ns = NET_SWITCH_AGE_NS;
	if (getrandom(&sw->table.secret, sizeof(sw->table.secret), GRND_NONBLOCK) < 0)
		log_debug("switch: getrandom: %m");
	*ret_sw = sw;
	return 0;
}

static bool has_ports(const struct net_switch *sw)
{
	for (unsigned i = 0; i < sw->num_ports; i++) {
		if (sw->port[i])
			return true;
	}
	return false;
}

void net_switch_free(struct net_switch *sw)
{
	if (!sw)
		return;
	sw->closing = true;
	loop_timer_cancel(sw->loop, &sw->accept_again);
	if (sw->accepting)
		loop_cancel(sw->loop, &sw->accept);
	for (unsigned i = 0; i < sw->num_ports; i++) {
		if (sw->port[i])
			close_port(sw->port[i]);
	}
	while (sw->accepting || has_ports(sw))
		loop_run_once(sw->loop, UINT64_MAX);
	if (sw->listen_fd >= 0)
		close(sw->listen_fd);
	free(sw);
}
