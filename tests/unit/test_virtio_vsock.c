#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_vsock.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/vsock_broker.h"
#include "tests/unit/fake_driver.h"
#include "virtio/virtio_devices.h"

enum { RX, TX, EVENT };

#define CID	  7u
#define HOST	  2u
#define PAGE	  4096u
#define HEADER	  sizeof(struct virtio_vsock_hdr)
#define BUFFER	  0x20000u /* of one connection, in the device */
#define GUEST_BUF 0x10000u /* what the driver here promises to keep */
#define RX_PAGES  16

struct fixture {
	struct fake_vm vm;
	struct fake_driver d;
	char path[64], port_path[80];
	int listen_fd,
		broker_fd; /* ours of both: the host's listener for port 1234, the broker's end */
	uint64_t rx[VIRTQ_MAX_SIZE]; /* receive buffers by id */
	uint64_t tx;		     /* one packet at a time */
	uint32_t forwarded;	     /* of what came, as told in our headers */
};

/* ---- the host ---- */

static int listen_at(const char *path)
{
	struct error err = { 0 };
	int fd = vsock_listen(path, &err);

	assert_true(fd >= 0);
	return fd;
}

static int connect_to(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

/* ---- life ---- */

static struct virtio_device *device(struct fixture *f)
{
	struct virtio_params params = fake_vm_params(&f->vm, "vsock0");
	struct virtio_device *dev;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	f->broker_fd = pair[0];
	assert_int_equal(virtio_vsock_create(&dev, &params, CID, listen_at(f->path), pair[1], NULL),
			 0);
	return dev;
}

static void begin_with(struct fixture *f, enum loop_backend backend,
		       const struct fake_driver_config *config)
{
	memset(f, 0, sizeof(*f));
	snprintf(f->path, sizeof(f->path), "/tmp/wisp-test-vsock-%d", getpid());
	snprintf(f->port_path, sizeof(f->port_path), "%s_1234", f->path);
	unlink(f->path);
	unlink(f->port_path);
	f->listen_fd = listen_at(f->port_path);
	fake_vm_init(&f->vm, backend);
	fake_driver_init(&f->d, &f->vm, device(f), config);
	f->tx = fake_alloc(&f->vm, HEADER + 0x11000, 16);
}

static void add_rx(struct fixture *f)
{
	struct fake_buf buf = { fake_alloc(&f->vm, PAGE, 16), PAGE, true };
	int id = fake_add(&f->d, RX, &buf, 1);

	assert_true(id >= 0);
	f->rx[id] = buf.gpa;
}

static void begin(struct fixture *f)
{
	begin_with(f, LOOP_AUTO, &(struct fake_driver_config){ .packed = true });
	for (int i = 0; i < RX_PAGES; i++)
		add_rx(f);
	fake_kick(&f->d, RX);
}

static void end(struct fixture *f)
{
	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
	close(f->listen_fd);
	close(f->broker_fd);
	unlink(f->path);
	unlink(f->port_path);
}

/* Turn the loop, and be the broker, until there is nothing more to do. */
static void settle(struct fixture *f)
{
	for (int i = 0; i < 6; i++) {
		loop_run_once(f->vm.loop, NSEC_PER_MSEC);
		fake_run(&f->vm);
		vsock_broker_serve(f->broker_fd, f->path);
	}
}

/* ---- the driver ---- */

static struct virtio_vsock_hdr packet(uint16_t op, uint32_t guest_port, uint32_t host_port)
{
	return (struct virtio_vsock_hdr){
		.src_cid = CID,
		.dst_cid = HOST,
		.src_port = guest_port,
		.dst_port = host_port,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.buf_alloc = GUEST_BUF,
	};
}

static void send_raw(struct fixture *f, const struct virtio_vsock_hdr *h, const void *data,
		     uint32_t len)
{
	struct fake_buf bufs[2] = { { f->tx, HEADER, false }, { f->tx + HEADER, len, false } };
	struct fake_used used;

	memcpy(fake_ptr(&f->vm, f->tx, HEADER), h, HEADER);
	if (len)
		memcpy(fake_ptr(&f->vm, f->tx + HEADER, len), data, len);
	assert_true(fake_add(&f->d, TX, bufs, len ? 2 : 1) >= 0);
	fake_kick(&f->d, TX);
	assert_true(fake_wait_used(&f->d, TX, &used));
}

static void send_op(struct fixture *f, uint16_t op, uint32_t guest_port, uint32_t host_port)
{
	struct virtio_vsock_hdr h = packet(op, guest_port, host_port);

	h.fwd_cnt = f->forwarded;
	send_raw(f, &h, NULL, 0);
}

static void send_data(struct fixture *f, uint32_t guest_port, uint32_t host_port, const void *data,
		      uint32_t len)
{
	struct virtio_vsock_hdr h = packet(VIRTIO_VSOCK_OP_RW, guest_port, host_port);

	h.len = len;
	h.fwd_cnt = f->forwarded;
	send_raw(f, &h, data, len);
}

static void send_shutdown(struct fixture *f, uint32_t guest_port, uint32_t host_port,
			  uint32_t flags)
{
	struct virtio_vsock_hdr h = packet(VIRTIO_VSOCK_OP_SHUTDOWN, guest_port, host_port);

	h.flags = flags;
	h.fwd_cnt = f->forwarded;
	send_raw(f, &h, NULL, 0);
}

/* The next packet for the guest; its buffer goes back to the ring. False: there is none. */
static bool receive(struct fixture *f, struct virtio_vsock_hdr *h, void *data)
{
	struct fake_used used;
	struct fake_buf buf;
	uint8_t *p;
	int id;

	settle(f);
	if (!fake_take_used(&f->d, RX, &used))
		return false;
	buf = (struct fake_buf){ f->rx[used.id], PAGE, true };
	p = fake_ptr(&f->vm, buf.gpa, PAGE);
	memcpy(h, p, HEADER);
	assert_int_equal(used.len, HEADER + h->len);
	assert_int_equal(h->src_cid, HOST);
	assert_int_equal(h->dst_cid, CID);
	if (data)
		memcpy(data, p + HEADER, h->len);
	id = fake_add(&f->d, RX, &buf, 1);
	assert_true(id >= 0);
	f->rx[id] = buf.gpa;
	fake_kick(&f->d, RX);
	return true;
}

static struct virtio_vsock_hdr expect(struct fixture *f, uint16_t op)
{
	struct virtio_vsock_hdr h;

	assert_true(receive(f, &h, NULL));
	assert_int_equal(h.op, op);
	return h;
}

static void expect_silence(struct fixture *f)
{
	struct virtio_vsock_hdr h;

	assert_false(receive(f, &h, NULL));
}

/* A connection by the guest, from @port; returns the host's end of it. */
static int open_from_guest(struct fixture *f, uint32_t port)
{
	int fd;

	send_op(f, VIRTIO_VSOCK_OP_REQUEST, port, 1234);
	expect(f, VIRTIO_VSOCK_OP_RESPONSE);
	fd = accept4(f->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* One by the host, to @port of the guest; @ret_port is the device's. */
static int open_from_host(struct fixture *f, uint32_t port, uint32_t *ret_port)
{
	char hello[32], answer[32] = "", expected[32];
	int fd = connect_to(f->path);
	struct virtio_vsock_hdr h;

	snprintf(hello, sizeof(hello), "CONNECT %u\n", port);
	assert_int_equal(write(fd, hello, strlen(hello)), strlen(hello));
	h = expect(f, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(h.dst_port, port);
	*ret_port = h.src_port;
	send_op(f, VIRTIO_VSOCK_OP_RESPONSE, port, h.src_port);
	settle(f);
	snprintf(expected, sizeof(expected), "OK %u\n", h.src_port);
	assert_true(read(fd, answer, sizeof(answer) - 1) > 0);
	assert_string_equal(answer, expected);
	return fd;
}

static bool at_end(int fd)
{
	char c;

	return read(fd, &c, 1) == 0;
}

/* ---- connections ---- */

static void host_connects_and_bytes_go_both_ways(void **state)
{
	struct virtio_vsock_hdr h;
	char text[PAGE] = "";
	struct fixture f;
	uint32_t port;
	int fd;

	begin(&f);
	fd = open_from_host(&f, 52, &port);
	assert_int_equal(write(fd, "ping", 4), 4);
	assert_true(receive(&f, &h, text));
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(h.buf_alloc, BUFFER);
	assert_memory_equal(text, "ping", 4);
	send_data(&f, 52, port, "pong", 4);
	assert_int_equal(read(fd, text, sizeof(text)), 4);
	assert_memory_equal(text, "pong", 4);
	close(fd);
	end(&f);
}

static void guest_connects_to_the_socket_of_the_port(void **state)
{
	char text[8] = "";
	struct fixture f;
	int fd;

	begin(&f);
	fd = open_from_guest(&f, 9000);
	send_data(&f, 9000, 1234, "hello", 5);
	assert_int_equal(read(fd, text, sizeof(text)), 5);
	assert_string_equal(text, "hello");
	/* A port where nobody listens. */
	send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9001, 99);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	close(fd);
	end(&f);
}

static void many_open_at_once(void **state)
{
	struct fixture f;

	begin(&f);
	/* More than the broker is asked at a time. */
	for (unsigned i = 0; i < 30; i++)
		send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9000 + i, 1234);
	for (unsigned i = 0; i < 30; i++) {
		expect(&f, VIRTIO_VSOCK_OP_RESPONSE);
		close(accept4(f.listen_fd, NULL, NULL, SOCK_CLOEXEC));
	}
	end(&f);
}

static void hello_is_read_piece_by_piece_and_no_further(void **state)
{
	struct virtio_vsock_hdr h;
	char text[PAGE] = "";
	struct fixture f;
	int fd;

	begin(&f);
	fd = connect_to(f.path);
	assert_int_equal(write(fd, "CONN", 4), 4);
	settle(&f);
	assert_int_equal(write(fd, "ECT 77\nearly", 12), 12);
	shutdown(fd, SHUT_WR);
	h = expect(&f, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(h.dst_port, 77);
	expect_silence(&f);
	send_op(&f, VIRTIO_VSOCK_OP_RESPONSE, 77, h.src_port);
	assert_true(receive(&f, &h, text));
	assert_int_equal(h.len, 5);
	assert_memory_equal(text, "early", 5);
	close(fd);
	end(&f);
}

static void bad_hello_is_hung_up_on(void **state)
{
	static const char *const bad[] = {
		"GET / HTTP/1.1\r\n",
		"CONNECT \n",
		"CONNECT 12x\n",
		"CONNECT 4294967296\n",
		"CONNECT -1\n",
		"connect 5\n",
		"CONNECT 00000000000000000000000000000000000001\n",
	};
	struct fixture f;

	begin(&f);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		int fd = connect_to(f.path);

		assert_int_equal(write(fd, bad[i], strlen(bad[i])), strlen(bad[i]));
		settle(&f);
		assert_true(at_end(fd) || errno == ECONNRESET);
		close(fd);
	}
	expect_silence(&f);
	end(&f);
}

static void refusal_of_the_guest_ends_the_hosts_attempt(void **state)
{
	struct virtio_vsock_hdr h;
	struct fixture f;
	int fd;

	begin(&f);
	fd = connect_to(f.path);
	assert_int_equal(write(fd, "CONNECT 5\n", 10), 10);
	h = expect(&f, VIRTIO_VSOCK_OP_REQUEST);
	send_op(&f, VIRTIO_VSOCK_OP_RST, 5, h.src_port);
	settle(&f);
	assert_true(at_end(fd));
	close(fd);
	/* And a host that does not wait for the answer. */
	fd = connect_to(f.path);
	assert_int_equal(write(fd, "CONNECT 5\n", 10), 10);
	expect(&f, VIRTIO_VSOCK_OP_REQUEST);
	close(fd);
	clock_advance(&f.vm.clock, 2 * NSEC_PER_SEC);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	end(&f);
}

static void connection_limit_is_kept(void **state)
{
	struct fixture f;
	int fd[600];

	begin(&f);
	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
		struct sockaddr_un addr = { .sun_family = AF_UNIX };

		/* Those over the limit wait in the queue, of 128, or are refused there. */
		memcpy(addr.sun_path, f.path, strlen(f.path));
		fd[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		(void)!connect(fd[i], (struct sockaddr *)&addr, sizeof(addr));
		loop_run_once(f.vm.loop, 0);
	}
	settle(&f);
	send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9000, 1234);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++)
		close(fd[i]);
	for (int i = 0; i < 800; i++)
		loop_run_once(f.vm.loop, 0);
	close(open_from_guest(&f, 9001));
	end(&f);
}

static void socket_may_be_handed_over_instead(void **state)
{
	struct virtio_vsock_hdr h;
	char text[PAGE] = "";
	struct fixture f;
	int pair[2];

	begin(&f);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(virtio_vsock_connect(f.d.dev, pair[1], 1024), 0);
	assert_int_equal(write(pair[0], "at once", 7), 7);
	h = expect(&f, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(h.dst_port, 1024);
	send_op(&f, VIRTIO_VSOCK_OP_RESPONSE, 1024, h.src_port);
	assert_true(receive(&f, &h, text));
	assert_memory_equal(text, "at once", 7);
	assert_true(read(pair[0], text, sizeof(text)) > 0);
	assert_memory_equal(text, "OK ", 3);
	close(pair[0]);
	/* Nobody there to accept. */
	fake_reset(&f.d);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(virtio_vsock_connect(f.d.dev, pair[1], 1024), -ENOTCONN);
	assert_true(at_end(pair[0]));
	close(pair[0]);
	end(&f);
}

/* ---- credit ---- */

static void slow_guest_is_never_sent_more_than_it_has_room_for(void **state)
{
	static uint8_t sent[4 * GUEST_BUF], got[PAGE];
	struct virtio_vsock_hdr h;
	uint32_t port, received = 0, at = 0;
	struct fixture f;
	int fd;

	begin(&f);
	fd = open_from_host(&f, 52, &port);
	for (unsigned i = 0; i < sizeof(sent); i++)
		sent[i] = i * 7 + (i >> 8);
	while (received < sizeof(sent)) {
		ssize_t n = write(fd, sent + at, sizeof(sent) - at);

		at += n > 0 ? n : 0;
		while (receive(&f, &h, got)) {
			if (h.op == VIRTIO_VSOCK_OP_CREDIT_REQUEST)
				continue;
			assert_int_equal(h.op, VIRTIO_VSOCK_OP_RW);
			assert_memory_equal(got, sent + received, h.len);
			received += h.len;
			assert_true(received - f.forwarded <= GUEST_BUF);
		}
		/* It has read half of what came. */
		assert_true(received > f.forwarded);
		f.forwarded += (received - f.forwarded + 1) / 2;
		send_op(&f, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 52, port);
	}
	close(fd);
	end(&f);
}

static void slow_host_stops_the_guest_and_nothing_is_lost(void **state)
{
	static uint8_t block[0x4000], got[0x4000];
	uint32_t sent = 0, received = 0, forwarded = 0, most = 0;
	struct virtio_vsock_hdr h;
	struct fixture f;
	int fd;

	begin(&f);
	fd = open_from_guest(&f, 9000);
	while (received < 4 * MiB) {
		/* As long as there is credit. */
		while (sent < 4 * MiB && sent - forwarded + sizeof(block) <= BUFFER) {
			for (unsigned i = 0; i < sizeof(block); i++)
				block[i] = (sent + i) * 13 + ((sent + i) >> 12);
			send_data(&f, 9000, 1234, block, sizeof(block));
			sent += sizeof(block);
			while (receive(&f, &h, NULL)) {
				assert_int_equal(h.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
				forwarded = h.fwd_cnt;
			}
		}
		most = MAX(most, sent - received);
		for (int i = 0; i < 5; i++) {
			ssize_t n = read(fd, got, 4000);

			for (ssize_t k = 0; k < n; k++, received++)
				assert_int_equal(got[k],
						 (uint8_t)(received * 13 + (received >> 12)));
		}
		while (receive(&f, &h, NULL))
			forwarded = h.fwd_cnt;
	}
	/* What the socket holds, and what one connection may. */
	assert_true(most > BUFFER && most < 1 * MiB);
	close(fd);
	end(&f);
}

static void guest_that_ignores_its_credit_is_reset(void **state)
{
	static uint8_t block[0x10000];
	struct virtio_vsock_hdr h = { 0 };
	struct fixture f;
	int fd;

	begin(&f);
	fd = open_from_guest(&f, 9000);
	for (int i = 0; i < 64 && h.op != VIRTIO_VSOCK_OP_RST; i++) {
		send_data(&f, 9000, 1234, block, sizeof(block));
		receive(&f, &h, NULL);
	}
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_RST);
	close(fd);
	end(&f);
}

/* ---- the end ---- */

static void half_closed_connection_still_carries_the_other_way(void **state)
{
	struct virtio_vsock_hdr h;
	char text[8] = "";
	struct fixture f;
	uint32_t port;
	int fd;

	begin(&f);
	fd = open_from_host(&f, 52, &port);
	assert_int_equal(write(fd, "all", 3), 3);
	shutdown(fd, SHUT_WR);
	expect(&f, VIRTIO_VSOCK_OP_RW);
	h = expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	send_data(&f, 52, port, "answer", 6);
	assert_int_equal(read(fd, text, sizeof(text)), 6);
	send_shutdown(&f, 52, port, VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	assert_true(at_end(fd));
	close(fd);
	end(&f);
}

static void closed_host_socket_is_told_with_its_last_bytes_first(void **state)
{
	struct virtio_vsock_hdr h;
	struct fixture f;
	uint32_t port;
	int fd;

	begin(&f);
	fd = open_from_host(&f, 52, &port);
	assert_int_equal(write(fd, "last", 4), 4);
	close(fd);
	h = expect(&f, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(h.len, 4);
	h = expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	send_op(&f, VIRTIO_VSOCK_OP_RST, 52, port);
	expect_silence(&f);
	end(&f);
}

static void host_that_is_gone_after_half_closing_is_noticed(void **state)
{
	struct virtio_vsock_hdr h;
	struct fixture f;
	uint32_t port;
	int fd;

	begin(&f);
	fd = open_from_host(&f, 52, &port);
	shutdown(fd, SHUT_WR);
	h = expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	expect_silence(&f);
	close(fd);
	clock_advance(&f.vm.clock, 2 * NSEC_PER_SEC);
	h = expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	end(&f);
}

static void guest_closing_with_bytes_under_way_loses_none(void **state)
{
	static uint8_t block[0x8000];
	struct virtio_vsock_hdr h;
	uint64_t sent = 0, received = 0;
	uint32_t forwarded = 0;
	struct fixture f;
	ssize_t n;
	int fd;

	begin(&f);
	fd = open_from_guest(&f, 9000);
	while (sent - forwarded + sizeof(block) <= BUFFER) {
		send_data(&f, 9000, 1234, block, sizeof(block));
		sent += sizeof(block);
		while (receive(&f, &h, NULL))
			forwarded = h.fwd_cnt;
	}
	send_shutdown(&f, 9000, 1234, VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	/* The port may be used again while the old bytes still go out. */
	close(open_from_guest(&f, 9000));
	/* A host that has ended its half is waited for in another way. */
	shutdown(fd, SHUT_WR);
	while ((n = read(fd, block, sizeof(block))) != 0) {
		if (n > 0)
			received += n;
		clock_advance(&f.vm.clock, 10 * NSEC_PER_MSEC);
		settle(&f);
	}
	assert_int_equal(received, sent);
	close(fd);
	end(&f);
}

/* ---- packets that make no sense ---- */

static void nonsense_is_answered_by_a_reset(void **state)
{
	struct virtio_vsock_hdr h;
	struct fixture f;
	int fd;

	begin(&f);
	/* Of no connection. */
	send_data(&f, 1, 2, "x", 1);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	send_op(&f, VIRTIO_VSOCK_OP_RESPONSE, 1, 2);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	send_op(&f, VIRTIO_VSOCK_OP_RST, 1, 2);
	expect_silence(&f);
	/* Of another type, or operation. */
	h = packet(VIRTIO_VSOCK_OP_REQUEST, 1, 1234);
	h.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	send_raw(&f, &h, NULL, 0);
	h = expect(&f, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(h.type, VIRTIO_VSOCK_TYPE_SEQPACKET);
	fd = open_from_guest(&f, 9000);
	send_op(&f, 99, 9000, 1234);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	assert_true(at_end(fd));
	close(fd);
	/* A port pair that is in use. */
	fd = open_from_guest(&f, 9000);
	send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9000, 1234);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	close(fd);
	end(&f);
}

static void length_beyond_the_packet_is_a_reset(void **state)
{
	struct virtio_vsock_hdr h;
	struct fixture f;
	int fd;

	begin(&f);
	fd = open_from_guest(&f, 9000);
	h = packet(VIRTIO_VSOCK_OP_RW, 9000, 1234);
	h.len = 5;
	send_raw(&f, &h, "four", 4);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	assert_true(at_end(fd));
	close(fd);
	end(&f);
}

static void packet_for_another_address_is_refused(void **state)
{
	struct virtio_vsock_hdr h;
	struct fake_used used;
	struct fixture f;

	begin(&f);
	h = packet(VIRTIO_VSOCK_OP_REQUEST, 9000, 1234);
	h.dst_cid = 99;
	send_raw(&f, &h, NULL, 0);
	settle(&f);
	assert_true(fake_take_used(&f.d, RX, &used));
	memcpy(&h, fake_ptr(&f.vm, f.rx[used.id], HEADER), HEADER);
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(h.src_cid, 99);
	h = packet(VIRTIO_VSOCK_OP_REQUEST, 9000, 1234);
	h.src_cid = 3;
	send_raw(&f, &h, NULL, 0);
	assert_int_equal(accept4(f.listen_fd, NULL, NULL, SOCK_NONBLOCK), -1);
	end(&f);
}

static void short_packet_fails_the_device(void **state)
{
	struct fake_buf buf;
	struct fixture f;

	begin(&f);
	buf = (struct fake_buf){ f.tx, HEADER - 1, false };
	fake_add(&f.d, TX, &buf, 1);
	fake_kick(&f.d, TX);
	settle(&f);
	assert_true(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	fake_driver_probe(&f.d);
	assert_false(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	end(&f);
}

static void tiny_receive_buffer_fails_the_device(void **state)
{
	struct fake_buf buf;
	struct fixture f;

	begin_with(&f, LOOP_AUTO, &(struct fake_driver_config){ 0 });
	buf = (struct fake_buf){ fake_alloc(&f.vm, HEADER, 8), HEADER, true };
	fake_add(&f.d, RX, &buf, 1);
	fake_kick(&f.d, RX);
	send_op(&f, VIRTIO_VSOCK_OP_RESPONSE, 1, 2);
	settle(&f);
	assert_true(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	end(&f);
}

static void flood_without_receive_buffers_is_held_up(void **state)
{
	struct virtio_vsock_hdr h = packet(VIRTIO_VSOCK_OP_RESPONSE, 1, 2);
	struct fake_buf buf;
	struct fake_used used;
	struct fixture f;
	unsigned sent = 0, taken = 0, resets = 0;

	begin_with(&f, LOOP_AUTO, &(struct fake_driver_config){ 0 });
	memcpy(fake_ptr(&f.vm, f.tx, HEADER), &h, HEADER);
	buf = (struct fake_buf){ f.tx, HEADER, false };
	while (fake_add(&f.d, TX, &buf, 1) >= 0)
		sent++;
	fake_kick(&f.d, TX);
	settle(&f);
	while (fake_take_used(&f.d, TX, &used))
		taken++;
	assert_true(taken > 0 && taken < sent);
	/* With buffers there it goes on, and every packet has its answer. */
	for (int i = 0; i < RX_PAGES; i++)
		add_rx(&f);
	fake_kick(&f.d, RX);
	while (receive(&f, &h, NULL)) {
		assert_int_equal(h.op, VIRTIO_VSOCK_OP_RST);
		resets++;
	}
	assert_int_equal(resets, sent);
	end(&f);
}

/* ---- state ---- */

static void driver_reset_ends_connections(void **state)
{
	struct fixture f;
	int fd;

	begin(&f);
	fd = open_from_guest(&f, 9000);
	fake_reset(&f.d);
	settle(&f);
	assert_true(at_end(fd));
	close(fd);
	end(&f);
}

static void pause_keeps_connections(void **state)
{
	struct fixture f;
	char text[8] = "";
	int fd;

	begin(&f);
	fd = open_from_guest(&f, 9000);
	virtio_pause(f.d.dev, NULL, NULL);
	assert_int_equal(write(fd, "late", 4), 4);
	settle(&f);
	expect_silence(&f);
	virtio_resume(f.d.dev);
	expect(&f, VIRTIO_VSOCK_OP_RW);
	send_data(&f, 9000, 1234, "fine", 4);
	assert_int_equal(read(fd, text, sizeof(text)), 4);
	close(fd);
	end(&f);
}

static void changed_identity_resets_all_and_says_so(void **state)
{
	struct fake_used used;
	struct fake_buf buf;
	struct fixture f;
	uint32_t event;
	int fd;

	begin(&f);
	fd = open_from_guest(&f, 9000);
	f.d.dev->ops->identity_changed(f.d.dev);
	settle(&f);
	assert_true(at_end(fd));
	/* The event waits for a buffer. */
	buf = (struct fake_buf){ fake_alloc(&f.vm, 8, 8), 8, true };
	fake_add(&f.d, EVENT, &buf, 1);
	memset(fake_ptr(&f.vm, buf.gpa, 8), 0xff, 8);
	fake_kick(&f.d, EVENT);
	assert_true(fake_wait_used(&f.d, EVENT, &used));
	memcpy(&event, fake_ptr(&f.vm, buf.gpa, 4), 4);
	assert_int_equal(used.len, 4);
	assert_int_equal(event, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	close(fd);
	end(&f);
}

static void lost_broker_refuses_the_guest_alone(void **state)
{
	struct fixture f;
	uint32_t port;

	begin(&f);
	shutdown(f.broker_fd, SHUT_RDWR);
	send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9000, 1234);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9001, 1234);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	close(open_from_host(&f, 52, &port));
	end(&f);
}

static void works_without_io_uring_and_with_split_rings(void **state)
{
	struct virtio_vsock_hdr h;
	char text[PAGE];
	struct fixture f;
	uint32_t port;
	int fd;

	begin_with(&f, LOOP_EPOLL,
		   &(struct fake_driver_config){ .transport = FAKE_PCI, .event_idx = true });
	for (int i = 0; i < RX_PAGES; i++)
		add_rx(&f);
	fake_kick(&f.d, RX);
	fd = open_from_host(&f, 52, &port);
	for (int i = 0; i < 40; i++) {
		assert_int_equal(write(fd, "ping", 4), 4);
		assert_true(receive(&f, &h, text));
		assert_int_equal(h.len, 4);
		f.forwarded += 4;
		send_data(&f, 52, port, "pong", 4);
		assert_int_equal(read(fd, text, sizeof(text)), 4);
	}
	close(fd);
	expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN);
	close(open_from_guest(&f, 9000));
	end(&f);
}

static void configuration_shows_the_context_id(void **state)
{
	struct fixture f;
	uint64_t cid = 0;

	begin(&f);
	fake_config_read(&f.d, 0, &cid, 8);
	assert_int_equal(cid, CID);
	end(&f);
}

static void loaded_state_is_checked(void **state)
{
	struct state_writer w;
	struct state_reader r;
	struct fixture f;
	size_t pos = 0;

	begin(&f);
	virtio_pause(f.d.dev, NULL, NULL);
	state_writer_init(&w);
	state_begin(&w, "vsock", 0, 1);
	f.d.dev->ops->save(f.d.dev, &w);
	state_end(&w);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
	assert_int_equal(f.d.dev->ops->load(f.d.dev, &r), 0);
	assert_int_equal(state_reader_end(&r, NULL), 0);
	state_writer_done(&w);

	state_writer_init(&w);
	state_begin(&w, "vsock", 0, 1);
	state_put_u64(&w, 2); /* the host's own */
	state_put_u32(&w, 0);
	state_end(&w);
	pos = 0;
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
	assert_int_equal(f.d.dev->ops->load(f.d.dev, &r), -EBADMSG);
	state_writer_done(&w);
	virtio_resume(f.d.dev);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(host_connects_and_bytes_go_both_ways),
		cmocka_unit_test(guest_connects_to_the_socket_of_the_port),
		cmocka_unit_test(many_open_at_once),
		cmocka_unit_test(socket_may_be_handed_over_instead),
		cmocka_unit_test(hello_is_read_piece_by_piece_and_no_further),
		cmocka_unit_test(bad_hello_is_hung_up_on),
		cmocka_unit_test(refusal_of_the_guest_ends_the_hosts_attempt),
		cmocka_unit_test(connection_limit_is_kept),
		cmocka_unit_test(slow_guest_is_never_sent_more_than_it_has_room_for),
		cmocka_unit_test(slow_host_stops_the_guest_and_nothing_is_lost),
		cmocka_unit_test(guest_that_ignores_its_credit_is_reset),
		cmocka_unit_test(half_closed_connection_still_carries_the_other_way),
		cmocka_unit_test(closed_host_socket_is_told_with_its_last_bytes_first),
		cmocka_unit_test(host_that_is_gone_after_half_closing_is_noticed),
		cmocka_unit_test(guest_closing_with_bytes_under_way_loses_none),
		cmocka_unit_test(nonsense_is_answered_by_a_reset),
		cmocka_unit_test(length_beyond_the_packet_is_a_reset),
		cmocka_unit_test(packet_for_another_address_is_refused),
		cmocka_unit_test(short_packet_fails_the_device),
		cmocka_unit_test(tiny_receive_buffer_fails_the_device),
		cmocka_unit_test(flood_without_receive_buffers_is_held_up),
		cmocka_unit_test(driver_reset_ends_connections),
		cmocka_unit_test(pause_keeps_connections),
		cmocka_unit_test(changed_identity_resets_all_and_says_so),
		cmocka_unit_test(lost_broker_refuses_the_guest_alone),
		cmocka_unit_test(works_without_io_uring_and_with_split_rings),
		cmocka_unit_test(configuration_shows_the_context_id),
		cmocka_unit_test(loaded_state_is_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
