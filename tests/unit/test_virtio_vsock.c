/* Connections through a vsock device: how they come, how far they are filled, how they end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/fake_vsock.h"
#include "virtio/virtio_devices.h"

/* ---- connections ---- */

static void host_connects_and_bytes_go_both_ways(void **state)
{
	struct virtio_vsock_hdr h;
	char text[FAKE_VSOCK_PAGE] = "";
	struct fake_vsock f;
	uint32_t port;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_host(&f, 52, &port);
	assert_int_equal(write(fd, "ping", 4), 4);
	assert_true(fake_vsock_receive(&f, &h, text));
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(h.buf_alloc, FAKE_VSOCK_BUFFER);
	assert_memory_equal(text, "ping", 4);
	fake_vsock_send_data(&f, 52, port, "pong", 4);
	assert_int_equal(read(fd, text, sizeof(text)), 4);
	assert_memory_equal(text, "pong", 4);
	close(fd);
	fake_vsock_end(&f);
}

static void guest_connects_to_the_socket_of_the_port(void **state)
{
	char text[8] = "";
	struct fake_vsock f;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_guest(&f, 9000);
	fake_vsock_send_data(&f, 9000, 1234, "hello", 5);
	assert_int_equal(read(fd, text, sizeof(text)), 5);
	assert_string_equal(text, "hello");
	/* A port where nobody listens. */
	fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9001, 99);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	close(fd);
	fake_vsock_end(&f);
}

static void device_serves_a_port_of_its_own(void **state)
{
	struct virtio_vsock_hdr h;
	char text[FAKE_VSOCK_PAGE];
	struct fake_vsock f;

	fake_vsock_begin(&f);
	for (unsigned i = 0; i < 2; i++) {
		fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9000 + i, FAKE_VSOCK_NOTICE_PORT);
		fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RESPONSE);
		assert_true(fake_vsock_receive(&f, &h, text));
		assert_int_equal(h.op, VIRTIO_VSOCK_OP_RW);
		assert_int_equal(h.dst_port, 9000 + i);
		assert_int_equal(h.len, 8);
		assert_memory_equal(text, i ? "notice 2" : "notice 1", 8);
	}
	/* What is said there is taken for as long as one likes; not each byte's credit is told. */
	for (unsigned i = 0; i < 4 * FAKE_VSOCK_BUFFER / FAKE_VSOCK_PAGE; i++)
		fake_vsock_send_data(&f, 9000, FAKE_VSOCK_NOTICE_PORT, text, sizeof(text));
	while (fake_vsock_receive(&f, &h, NULL))
		assert_int_equal(h.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	assert_in_range(h.fwd_cnt, 4 * FAKE_VSOCK_BUFFER - FAKE_VSOCK_GUEST_BUF,
			4 * FAKE_VSOCK_BUFFER);
	/* It ends when the guest wants it to, and with a new identity. */
	fake_vsock_send_shutdown(&f, 9000, FAKE_VSOCK_NOTICE_PORT,
				 VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	f.d.dev->ops->identity_changed(f.d.dev);
	fake_vsock_send_data(&f, 9001, FAKE_VSOCK_NOTICE_PORT, "x", 1);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	fake_vsock_end(&f);
}

/* As far as its credit goes, and the rest when there is more. */
static void notice_waits_for_credit(void **state)
{
	struct virtio_vsock_hdr h =
		fake_vsock_packet(VIRTIO_VSOCK_OP_REQUEST, 9000, FAKE_VSOCK_NOTICE_PORT);
	char text[FAKE_VSOCK_PAGE];
	struct fake_vsock f;

	fake_vsock_begin(&f);
	h.buf_alloc = 3;
	fake_vsock_send_packet(&f, &h, NULL, 0);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RESPONSE);
	assert_true(fake_vsock_receive(&f, &h, text));
	assert_int_equal(h.len, 3);
	assert_memory_equal(text, "not", 3);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	fake_vsock_expect_silence(&f);
	h = fake_vsock_packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 9000, FAKE_VSOCK_NOTICE_PORT);
	h.buf_alloc = 100;
	fake_vsock_send_packet(&f, &h, NULL, 0);
	assert_true(fake_vsock_receive(&f, &h, text));
	assert_int_equal(h.len, 5);
	assert_memory_equal(text, "ice 1", 5);
	fake_vsock_expect_silence(&f);
	fake_vsock_end(&f);
}

static void many_open_at_once(void **state)
{
	struct fake_vsock f;

	fake_vsock_begin(&f);
	/* More than the broker is asked at a time. */
	for (unsigned i = 0; i < 30; i++)
		fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9000 + i, 1234);
	for (unsigned i = 0; i < 30; i++) {
		fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RESPONSE);
		close(accept4(f.listen_fd, NULL, NULL, SOCK_CLOEXEC));
	}
	fake_vsock_end(&f);
}

static void hello_is_read_piece_by_piece_and_no_further(void **state)
{
	struct virtio_vsock_hdr h;
	char text[FAKE_VSOCK_PAGE] = "";
	struct fake_vsock f;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_dial(f.path);
	assert_int_equal(write(fd, "CONN", 4), 4);
	fake_vsock_settle(&f);
	assert_int_equal(write(fd, "ECT 77\nearly", 12), 12);
	shutdown(fd, SHUT_WR);
	h = fake_vsock_expect(&f, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(h.dst_port, 77);
	fake_vsock_expect_silence(&f);
	fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_RESPONSE, 77, h.src_port);
	assert_true(fake_vsock_receive(&f, &h, text));
	assert_int_equal(h.len, 5);
	assert_memory_equal(text, "early", 5);
	close(fd);
	fake_vsock_end(&f);
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
	struct fake_vsock f;

	fake_vsock_begin(&f);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		int fd = fake_vsock_dial(f.path);

		assert_int_equal(write(fd, bad[i], strlen(bad[i])), strlen(bad[i]));
		fake_vsock_settle(&f);
		assert_true(fake_vsock_at_end(fd) || errno == ECONNRESET);
		close(fd);
	}
	fake_vsock_expect_silence(&f);
	fake_vsock_end(&f);
}

static void refusal_of_the_guest_ends_the_hosts_attempt(void **state)
{
	struct virtio_vsock_hdr h;
	struct fake_vsock f;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_dial(f.path);
	assert_int_equal(write(fd, "CONNECT 5\n", 10), 10);
	h = fake_vsock_expect(&f, VIRTIO_VSOCK_OP_REQUEST);
	fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_RST, 5, h.src_port);
	fake_vsock_settle(&f);
	assert_true(fake_vsock_at_end(fd));
	close(fd);
	/* And a host that does not wait for the answer. */
	fd = fake_vsock_dial(f.path);
	assert_int_equal(write(fd, "CONNECT 5\n", 10), 10);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_REQUEST);
	close(fd);
	clock_advance(&f.vm.clock, 2 * NSEC_PER_SEC);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	fake_vsock_end(&f);
}

static void guest_that_never_answers_ends_the_hosts_attempt(void **state)
{
	struct virtio_vsock_hdr h;
	struct fake_vsock f;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_dial(f.path);
	assert_int_equal(write(fd, "CONNECT 5\n", 10), 10);
	h = fake_vsock_expect(&f, VIRTIO_VSOCK_OP_REQUEST);
	clock_advance(&f.vm.clock, 8 * NSEC_PER_SEC);
	fake_vsock_settle(&f);
	assert_false(fake_vsock_at_end(fd));
	/* While it is paused it cannot answer. */
	virtio_pause(f.d.dev, NULL, NULL);
	for (unsigned i = 0; i < 60; i++) {
		clock_advance(&f.vm.clock, NSEC_PER_SEC);
		fake_vsock_settle(&f);
	}
	assert_false(fake_vsock_at_end(fd));
	virtio_resume(f.d.dev);
	clock_advance(&f.vm.clock, 8 * NSEC_PER_SEC);
	fake_vsock_settle(&f);
	assert_false(fake_vsock_at_end(fd));
	clock_advance(&f.vm.clock, 3 * NSEC_PER_SEC);
	fake_vsock_settle(&f);
	assert_true(fake_vsock_at_end(fd));
	assert_int_equal(fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST).src_port, h.src_port);
	close(fd);
	fake_vsock_end(&f);
}

/* Nor one that has no buffer to be asked in; it is not told of what it never heard of. */
static void guest_that_cannot_be_asked_ends_the_hosts_attempt(void **state)
{
	struct fake_vsock f;
	int fd;

	fake_vsock_begin_with(&f, LOOP_AUTO, &(struct fake_driver_config){ .packed = true });
	fd = fake_vsock_dial(f.path);
	assert_int_equal(write(fd, "CONNECT 5\n", 10), 10);
	fake_vsock_settle(&f);
	clock_advance(&f.vm.clock, 11 * NSEC_PER_SEC);
	fake_vsock_settle(&f);
	assert_true(fake_vsock_at_end(fd));
	fake_vsock_add_buffer(&f);
	fake_kick(&f.d, FAKE_VSOCK_RX);
	fake_vsock_settle(&f);
	fake_vsock_expect_silence(&f);
	close(fd);
	fake_vsock_end(&f);
}

static void connection_limit_is_kept(void **state)
{
	struct fake_vsock f;
	int fd[600];

	fake_vsock_begin(&f);
	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
		struct sockaddr_un addr = { .sun_family = AF_UNIX };

		/* Those over the limit wait in the queue, of 128, or are refused there. */
		memcpy(addr.sun_path, f.path, strlen(f.path));
		fd[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		(void)!connect(fd[i], (struct sockaddr *)&addr, sizeof(addr));
		loop_run_once(f.vm.loop, 0);
	}
	fake_vsock_settle(&f);
	fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9000, 1234);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++)
		close(fd[i]);
	for (int i = 0; i < 800; i++)
		loop_run_once(f.vm.loop, 0);
	close(fake_vsock_open_from_guest(&f, 9001));
	fake_vsock_end(&f);
}

static void socket_may_be_handed_over_instead(void **state)
{
	struct virtio_vsock_hdr h;
	char text[FAKE_VSOCK_PAGE] = "";
	struct fake_vsock f;
	int pair[2];

	fake_vsock_begin(&f);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(virtio_vsock_connect(f.d.dev, pair[1], 1024), 0);
	assert_int_equal(write(pair[0], "at once", 7), 7);
	h = fake_vsock_expect(&f, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(h.dst_port, 1024);
	fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_RESPONSE, 1024, h.src_port);
	assert_true(fake_vsock_receive(&f, &h, text));
	assert_memory_equal(text, "at once", 7);
	assert_true(read(pair[0], text, sizeof(text)) > 0);
	assert_memory_equal(text, "OK ", 3);
	close(pair[0]);
	/* Nobody there to accept. */
	fake_reset(&f.d);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(virtio_vsock_connect(f.d.dev, pair[1], 1024), -ENOTCONN);
	assert_true(fake_vsock_at_end(pair[0]));
	close(pair[0]);
	fake_vsock_end(&f);
}

/* ---- credit ---- */

static void slow_guest_is_never_sent_more_than_it_has_room_for(void **state)
{
	static uint8_t sent[4 * FAKE_VSOCK_GUEST_BUF], got[FAKE_VSOCK_PAGE];
	struct virtio_vsock_hdr h;
	uint32_t port, received = 0, at = 0;
	struct fake_vsock f;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_host(&f, 52, &port);
	for (unsigned i = 0; i < sizeof(sent); i++)
		sent[i] = i * 7 + (i >> 8);
	while (received < sizeof(sent)) {
		ssize_t n = write(fd, sent + at, sizeof(sent) - at);

		at += n > 0 ? n : 0;
		while (fake_vsock_receive(&f, &h, got)) {
			if (h.op == VIRTIO_VSOCK_OP_CREDIT_REQUEST)
				continue;
			assert_int_equal(h.op, VIRTIO_VSOCK_OP_RW);
			assert_memory_equal(got, sent + received, h.len);
			received += h.len;
			assert_true(received - f.forwarded <= FAKE_VSOCK_GUEST_BUF);
		}
		/* It has read half of what came. */
		assert_true(received > f.forwarded);
		f.forwarded += (received - f.forwarded + 1) / 2;
		fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 52, port);
	}
	close(fd);
	fake_vsock_end(&f);
}

static void slow_host_stops_the_guest_and_nothing_is_lost(void **state)
{
	static uint8_t block[0x4000], got[0x4000];
	uint32_t sent = 0, received = 0, forwarded = 0, most = 0;
	struct virtio_vsock_hdr h;
	struct fake_vsock f;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_guest(&f, 9000);
	while (received < 4 * MiB) {
		/* As long as there is credit. */
		while (sent < 4 * MiB && sent - forwarded + sizeof(block) <= FAKE_VSOCK_BUFFER) {
			for (unsigned i = 0; i < sizeof(block); i++)
				block[i] = (sent + i) * 13 + ((sent + i) >> 12);
			fake_vsock_send_data(&f, 9000, 1234, block, sizeof(block));
			sent += sizeof(block);
			while (fake_vsock_receive(&f, &h, NULL)) {
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
		while (fake_vsock_receive(&f, &h, NULL))
			forwarded = h.fwd_cnt;
	}
	/* What the socket holds, and what one connection may. */
	assert_true(most > FAKE_VSOCK_BUFFER && most < 1 * MiB);
	close(fd);
	fake_vsock_end(&f);
}

static void guest_that_ignores_its_credit_is_reset(void **state)
{
	static uint8_t block[0x10000];
	struct virtio_vsock_hdr h = { 0 };
	struct fake_vsock f;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_guest(&f, 9000);
	for (int i = 0; i < 64 && h.op != VIRTIO_VSOCK_OP_RST; i++) {
		fake_vsock_send_data(&f, 9000, 1234, block, sizeof(block));
		fake_vsock_receive(&f, &h, NULL);
	}
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_RST);
	close(fd);
	fake_vsock_end(&f);
}

/* ---- the end ---- */

static void half_closed_connection_still_carries_the_other_way(void **state)
{
	struct virtio_vsock_hdr h;
	char text[8] = "";
	struct fake_vsock f;
	uint32_t port;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_host(&f, 52, &port);
	assert_int_equal(write(fd, "all", 3), 3);
	shutdown(fd, SHUT_WR);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RW);
	h = fake_vsock_expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	fake_vsock_send_data(&f, 52, port, "answer", 6);
	assert_int_equal(read(fd, text, sizeof(text)), 6);
	fake_vsock_send_shutdown(&f, 52, port,
				 VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	assert_true(fake_vsock_at_end(fd));
	close(fd);
	fake_vsock_end(&f);
}

static void closed_host_socket_is_told_with_its_last_bytes_first(void **state)
{
	struct virtio_vsock_hdr h;
	struct fake_vsock f;
	uint32_t port;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_host(&f, 52, &port);
	assert_int_equal(write(fd, "last", 4), 4);
	close(fd);
	h = fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(h.len, 4);
	h = fake_vsock_expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_RST, 52, port);
	fake_vsock_expect_silence(&f);
	fake_vsock_end(&f);
}

static void host_that_is_gone_after_half_closing_is_noticed(void **state)
{
	struct virtio_vsock_hdr h;
	struct fake_vsock f;
	uint32_t port;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_host(&f, 52, &port);
	shutdown(fd, SHUT_WR);
	h = fake_vsock_expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	fake_vsock_expect_silence(&f);
	close(fd);
	clock_advance(&f.vm.clock, 2 * NSEC_PER_SEC);
	h = fake_vsock_expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	fake_vsock_end(&f);
}

static void guest_closing_with_bytes_under_way_loses_none(void **state)
{
	static uint8_t block[0x8000];
	struct virtio_vsock_hdr h;
	uint64_t sent = 0, received = 0;
	uint32_t forwarded = 0;
	struct fake_vsock f;
	ssize_t n;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_guest(&f, 9000);
	while (sent - forwarded + sizeof(block) <= FAKE_VSOCK_BUFFER) {
		fake_vsock_send_data(&f, 9000, 1234, block, sizeof(block));
		sent += sizeof(block);
		while (fake_vsock_receive(&f, &h, NULL))
			forwarded = h.fwd_cnt;
	}
	fake_vsock_send_shutdown(&f, 9000, 1234,
				 VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	/* The port may be used again while the old bytes still go out. */
	close(fake_vsock_open_from_guest(&f, 9000));
	/* A host that has ended its half is waited for in another way. */
	shutdown(fd, SHUT_WR);
	while ((n = read(fd, block, sizeof(block))) != 0) {
		if (n > 0)
			received += n;
		clock_advance(&f.vm.clock, 10 * NSEC_PER_MSEC);
		fake_vsock_settle(&f);
	}
	assert_int_equal(received, sent);
	close(fd);
	fake_vsock_end(&f);
}

/* ---- state ---- */

static void driver_reset_ends_connections(void **state)
{
	struct fake_vsock f;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_guest(&f, 9000);
	fake_reset(&f.d);
	fake_vsock_settle(&f);
	assert_true(fake_vsock_at_end(fd));
	close(fd);
	fake_vsock_end(&f);
}

static void pause_keeps_connections(void **state)
{
	struct fake_vsock f;
	char text[8] = "";
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_guest(&f, 9000);
	virtio_pause(f.d.dev, NULL, NULL);
	assert_int_equal(write(fd, "late", 4), 4);
	fake_vsock_settle(&f);
	fake_vsock_expect_silence(&f);
	virtio_resume(f.d.dev);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RW);
	fake_vsock_send_data(&f, 9000, 1234, "fine", 4);
	assert_int_equal(read(fd, text, sizeof(text)), 4);
	close(fd);
	fake_vsock_end(&f);
}

static void changed_identity_resets_all_and_says_so(void **state)
{
	struct fake_used used;
	struct fake_buf buf;
	struct fake_vsock f;
	uint32_t event;
	int fd;

	fake_vsock_begin(&f);
	fd = fake_vsock_open_from_guest(&f, 9000);
	f.d.dev->ops->identity_changed(f.d.dev);
	fake_vsock_settle(&f);
	assert_true(fake_vsock_at_end(fd));
	/* The event waits for a buffer. */
	buf = (struct fake_buf){ fake_alloc(&f.vm, 8, 8), 8, true };
	fake_add(&f.d, FAKE_VSOCK_EVENT, &buf, 1);
	memset(fake_ptr(&f.vm, buf.gpa, 8), 0xff, 8);
	fake_kick(&f.d, FAKE_VSOCK_EVENT);
	assert_true(fake_wait_used(&f.d, FAKE_VSOCK_EVENT, &used));
	memcpy(&event, fake_ptr(&f.vm, buf.gpa, 4), 4);
	assert_int_equal(used.len, 4);
	assert_int_equal(event, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	close(fd);
	fake_vsock_end(&f);
}

static void lost_broker_refuses_the_guest_alone(void **state)
{
	struct fake_vsock f;
	uint32_t port;

	fake_vsock_begin(&f);
	shutdown(f.broker_fd, SHUT_RDWR);
	fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9000, 1234);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	fake_vsock_send_op(&f, VIRTIO_VSOCK_OP_REQUEST, 9001, 1234);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_RST);
	close(fake_vsock_open_from_host(&f, 52, &port));
	fake_vsock_end(&f);
}

static void works_without_io_uring_and_with_split_rings(void **state)
{
	struct virtio_vsock_hdr h;
	char text[FAKE_VSOCK_PAGE];
	struct fake_vsock f;
	uint32_t port;
	int fd;

	fake_vsock_begin_with(&f, LOOP_EPOLL,
			      &(struct fake_driver_config){ .transport = FAKE_PCI,
							    .event_idx = true });
	for (int i = 0; i < FAKE_VSOCK_RX_PAGES; i++)
		fake_vsock_add_buffer(&f);
	fake_kick(&f.d, FAKE_VSOCK_RX);
	fd = fake_vsock_open_from_host(&f, 52, &port);
	for (int i = 0; i < 40; i++) {
		assert_int_equal(write(fd, "ping", 4), 4);
		assert_true(fake_vsock_receive(&f, &h, text));
		assert_int_equal(h.len, 4);
		f.forwarded += 4;
		fake_vsock_send_data(&f, 52, port, "pong", 4);
		assert_int_equal(read(fd, text, sizeof(text)), 4);
	}
	close(fd);
	fake_vsock_expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN);
	close(fake_vsock_open_from_guest(&f, 9000));
	fake_vsock_end(&f);
}

static void configuration_shows_the_context_id(void **state)
{
	struct fake_vsock f;
	uint64_t cid = 0;

	fake_vsock_begin(&f);
	fake_config_read(&f.d, 0, &cid, 8);
	assert_int_equal(cid, FAKE_VSOCK_CID);
	fake_vsock_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(host_connects_and_bytes_go_both_ways),
		cmocka_unit_test(guest_connects_to_the_socket_of_the_port),
		cmocka_unit_test(device_serves_a_port_of_its_own),
		cmocka_unit_test(notice_waits_for_credit),
		cmocka_unit_test(many_open_at_once),
		cmocka_unit_test(socket_may_be_handed_over_instead),
		cmocka_unit_test(hello_is_read_piece_by_piece_and_no_further),
		cmocka_unit_test(bad_hello_is_hung_up_on),
		cmocka_unit_test(refusal_of_the_guest_ends_the_hosts_attempt),
		cmocka_unit_test(guest_that_never_answers_ends_the_hosts_attempt),
		cmocka_unit_test(guest_that_cannot_be_asked_ends_the_hosts_attempt),
		cmocka_unit_test(connection_limit_is_kept),
		cmocka_unit_test(slow_guest_is_never_sent_more_than_it_has_room_for),
		cmocka_unit_test(slow_host_stops_the_guest_and_nothing_is_lost),
		cmocka_unit_test(guest_that_ignores_its_credit_is_reset),
		cmocka_unit_test(half_closed_connection_still_carries_the_other_way),
		cmocka_unit_test(closed_host_socket_is_told_with_its_last_bytes_first),
		cmocka_unit_test(host_that_is_gone_after_half_closing_is_noticed),
		cmocka_unit_test(guest_closing_with_bytes_under_way_loses_none),
		cmocka_unit_test(driver_reset_ends_connections),
		cmocka_unit_test(pause_keeps_connections),
		cmocka_unit_test(changed_identity_resets_all_and_says_so),
		cmocka_unit_test(lost_broker_refuses_the_guest_alone),
		cmocka_unit_test(works_without_io_uring_and_with_split_rings),
		cmocka_unit_test(configuration_shows_the_context_id),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
