/* The stream of a migration: its records, who calls, and how either end goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/wire_pair.h"
#include "vmm/core/io.h"
#include "vmm/migrate/migrate_address.h"
#include "vmm/migrate/migrate_wire.h"

struct ends {
	struct migrate_wire a, b;
};

static void open_ends(struct ends *e)
{
	wire_pair(&e->a, &e->b);
	e->a.patience_ms = e->b.patience_ms = 20;
}

static void close_ends(struct ends *e)
{
	migrate_wire_done(&e->a);
	migrate_wire_done(&e->b);
}

static void records_arrive_as_they_were_sent(void **state)
{
	struct migrate_record rec;
	struct error err = { 0 };
	struct ends e;

	open_ends(&e);
	assert_int_equal(migrate_wire_greet(&e.a, &err), 0);
	assert_int_equal(migrate_wire_send(&e.a, MIGRATE_HELLO, 0, "hello", 5, &err), 0);
	assert_int_equal(migrate_wire_send(&e.a, MIGRATE_ROUND, 77, NULL, 0, &err), 0);
	assert_int_equal(migrate_wire_expect_greeting(&e.b, 20, &err), 0);
	assert_int_equal(migrate_wire_expect(&e.b, MIGRATE_HELLO, &rec, 20, &err), 0);
	assert_int_equal(rec.len, 5);
	assert_memory_equal(rec.payload, "hello", 5);
	assert_int_equal(migrate_wire_receive(&e.b, &rec, 20, &err), 0);
	assert_int_equal(rec.type, MIGRATE_ROUND);
	assert_int_equal(rec.page, 77);
	assert_int_equal(rec.len, 0);
	assert_int_equal(e.a.bytes_out, e.b.bytes_in);
	close_ends(&e);
}

/* The bytes of one record; returns how many. */
static size_t catch_record(enum migrate_record_type type, const char *payload, uint8_t *buf,
			   size_t size)
{
	struct error err = { 0 };
	struct ends e;
	ssize_t n;

	open_ends(&e);
	assert_int_equal(migrate_wire_send(&e.a, type, 3, payload, strlen(payload), &err), 0);
	n = read(e.b.in, buf, size);
	assert_true(n > 0);
	close_ends(&e);
	return n;
}

static int receive_bytes(const uint8_t *bytes, size_t len, bool hang_up, struct error *err)
{
	struct migrate_record rec;
	struct ends e;
	int r;

	open_ends(&e);
	assert_int_equal(write(e.a.out, bytes, len), len);
	if (hang_up)
		shutdown(e.a.out, SHUT_WR);
	r = migrate_wire_receive(&e.b, &rec, 20, err);
	close_ends(&e);
	return r;
}

static void a_wrong_bit_anywhere_is_refused(void **state)
{
	uint8_t buf[64];
	size_t len = catch_record(MIGRATE_STATE, "sections", buf, sizeof(buf));
	struct error err = { 0 };

	assert_int_equal(receive_bytes(buf, len, true, &err), 0);
	for (size_t bit = 0; bit < len * 8; bit++) {
		int r;

		buf[bit / 8] ^= 1 << (bit % 8);
		r = receive_bytes(buf, len, true, &err);
		/* One that makes it longer is cut off, then. */
		if (r != -EBADMSG && r != -ECONNRESET)
			fail_msg("bit %zu: %d", bit, r);
		buf[bit / 8] ^= 1 << (bit % 8);
	}
}

static void a_stream_that_ends_is_no_completion(void **state)
{
	uint8_t buf[64];
	size_t len = catch_record(MIGRATE_STATE, "sections", buf, sizeof(buf));
	struct error err = { 0 };

	for (size_t n = 0; n < len; n++)
		assert_int_equal(receive_bytes(buf, n, true, &err), -ECONNRESET);
}

static void a_peer_that_stalls_is_given_up(void **state)
{
	uint8_t buf[64];
	size_t len = catch_record(MIGRATE_STATE, "sections", buf, sizeof(buf));
	struct error err = { 0 };
	struct ends e;
	int r = 0;

	assert_int_equal(receive_bytes(buf, len - 1, false, &err), -ETIMEDOUT);
	assert_int_equal(receive_bytes(buf, 0, false, &err), -ETIMEDOUT);
	/* And one that does not read. */
	open_ends(&e);
	for (unsigned i = 0; i < 100 && !r; i++) {
		static uint8_t pages[MIGRATE_MAX_WINDOW];

		r = migrate_wire_send(&e.a, MIGRATE_PAGES, 0, pages, sizeof(pages), &err);
	}
	assert_int_equal(r, -ETIMEDOUT);
	close_ends(&e);
}

static void records_out_of_turn_are_refused(void **state)
{
	uint8_t buf[128];
	size_t len = catch_record(MIGRATE_ROUND, "", buf, sizeof(buf));
	struct migrate_record rec;
	struct error err = { 0 };
	struct ends e;

	open_ends(&e);
	assert_int_equal(write(e.a.out, buf, len), len);
	assert_int_equal(write(e.a.out, buf, len), len);
	assert_int_equal(migrate_wire_receive(&e.b, &rec, 20, &err), 0);
	assert_int_equal(migrate_wire_receive(&e.b, &rec, 20, &err), -EBADMSG);
	close_ends(&e);
	open_ends(&e);
	assert_int_equal(migrate_wire_send(&e.a, MIGRATE_COMMIT, 0, NULL, 0, &err), 0);
	assert_int_equal(migrate_wire_expect(&e.b, MIGRATE_READY, &rec, 20, &err), -EBADMSG);
	close_ends(&e);
}

static void too_long_a_record_is_refused_unread(void **state)
{
	uint8_t header[32] = { 0 };
	struct error err = { 0 };

	put_le32(header, MIGRATE_ROUND);
	put_le32(header + 4, 1);
	assert_int_equal(receive_bytes(header, sizeof(header), false, &err), -EBADMSG);
	put_le32(header, MIGRATE_STATE);
	put_le32(header + 4, MIGRATE_MAX_PAYLOAD + 1);
	assert_int_equal(receive_bytes(header, sizeof(header), false, &err), -EBADMSG);
	put_le32(header, MIGRATE_NUM_TYPES);
	put_le32(header + 4, 0);
	assert_int_equal(receive_bytes(header, sizeof(header), false, &err), -EBADMSG);
}

static void a_header_alone_gets_little_memory(void **state)
{
	uint8_t bytes[100] = { 0 };
	struct migrate_record rec;
	struct error err = { 0 };
	struct ends e;

	put_le32(bytes, MIGRATE_STATE);
	put_le32(bytes + 4, MIGRATE_MAX_PAYLOAD);
	open_ends(&e);
	assert_int_equal(write(e.a.out, bytes, sizeof(bytes)), sizeof(bytes));
	assert_int_equal(migrate_wire_receive(&e.b, &rec, 20, &err), -ETIMEDOUT);
	assert_true(e.b.buf_size <= MiB);
	close_ends(&e);
}

/*
 * Neither a power of two nor the first one that needs so much. By way of a file: what a socket
 * holds is for an ordinary user too little.
 */
static void records_of_any_length_arrive_whole(void **state)
{
	static const size_t lengths[] = { 3, 1000, 700 * KiB + 1, 3 * MiB - 5, 300 * KiB };
	uint8_t *payload = malloc(3 * MiB);
	int file = memfd_create("stream", MFD_CLOEXEC);
	struct migrate_record rec;
	struct error err = { 0 };
	struct ends e;

	for (size_t i = 0; i < 3 * MiB; i++)
		payload[i] = i * 2654435761u >> 24;
	assert_int_equal(migrate_wire_init(&e.a, file, file, &err), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++)
		assert_int_equal(migrate_wire_send(&e.a, MIGRATE_STATE, i, payload + i, lengths[i],
						   &err),
				 0);
	assert_int_equal(lseek(file, 0, SEEK_SET), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		assert_int_equal(migrate_wire_receive(&e.a, &rec, 20, &err), 0);
		assert_int_equal(rec.len, lengths[i]);
		assert_memory_equal(rec.payload, payload + i, lengths[i]);
		assert_true(e.a.buf_size <= 3 * MiB);
	}
	migrate_wire_done(&e.a);
	free(payload);
}

static void the_peers_last_words_reach_a_terminal_harmlessly(void **state)
{
	struct migrate_record rec;
	struct error err = { 0 }, why = { 0 };
	struct ends e;

	open_ends(&e);
	error_set(&why, -EINVAL, "no\033[2Jdisk\n");
	migrate_wire_give_up(&e.a, &why);
	assert_int_equal(migrate_wire_receive(&e.b, &rec, 20, &err), -ECONNABORTED);
	assert_string_equal(err.msg, "the other side: no?[2Jdisk?");
	close_ends(&e);
}

static void why_a_peer_hung_up_is_heard_while_sending(void **state)
{
	struct error err = { 0 }, why = { .msg = "disk full" };
	struct ends e;

	signal(SIGPIPE, SIG_IGN);
	open_ends(&e);
	assert_int_equal(migrate_wire_send(&e.b, MIGRATE_ROUND_DONE, 1, NULL, 0, &err), 0);
	migrate_wire_give_up(&e.b, &why);
	migrate_wire_done(&e.b);
	assert_int_equal(migrate_wire_send(&e.a, MIGRATE_ROUND, 2, NULL, 0, &err), -EPIPE);
	assert_int_equal(migrate_wire_last_words(&e.a, -EPIPE, &err), -ECONNABORTED);
	assert_non_null(strstr(err.msg, "disk full"));
	/* Once, and then he has said nothing more. */
	error_set(&err, -EPIPE, "lost");
	assert_int_equal(migrate_wire_last_words(&e.a, -EPIPE, &err), -EPIPE);
	assert_string_equal(err.msg, "lost");
	close_ends(&e);
}

static void a_cancelled_wait_ends_at_once(void **state)
{
	struct migrate_record rec;
	struct error err = { 0 };
	struct ends e;

	open_ends(&e);
	e.b.wake_fd = eventfd(1, EFD_CLOEXEC);
	assert_int_equal(migrate_wire_receive(&e.b, &rec, -1, &err), -ECANCELED);
	close(e.b.wake_fd);
	close_ends(&e);
}

static void another_protocol_is_told_from_ours(void **state)
{
	struct error err = { 0 };
	struct ends e;

	open_ends(&e);
	assert_int_equal(write(e.a.out, "GET / HTTP/1.1\r\n", 16), 16);
	assert_int_equal(migrate_wire_expect_greeting(&e.b, 20, &err), -EPROTONOSUPPORT);
	close_ends(&e);
}

static void descriptors_arrive_where_they_are_wanted(void **state)
{
	struct migrate_record rec;
	struct error err = { 0 };
	struct stat sent, came;
	int fd = memfd_create("test", MFD_CLOEXEC);
	struct ends e;

	open_ends(&e);
	assert_true(migrate_wire_is_local(&e.a));
	assert_int_equal(migrate_wire_send_fd(&e.a, MIGRATE_HELLO, 0, "one", 3, fd, &err), 0);
	assert_int_equal(migrate_wire_send_fd(&e.a, MIGRATE_HELLO, 0, "two", 3, fd, &err), 0);
	assert_int_equal(migrate_wire_send_fd(&e.a, MIGRATE_HELLO, 0, "three", 5, fd, &err), 0);
	assert_int_equal(migrate_wire_receive(&e.b, &rec, 20, &err), 0);
	assert_int_equal(e.b.fd, -1);
	e.b.wants_fd = true;
	assert_int_equal(migrate_wire_receive(&e.b, &rec, 20, &err), 0);
	assert_memory_equal(rec.payload, "two", 3);
	assert_int_equal(fstat(fd, &sent), 0);
	assert_int_equal(fstat(e.b.fd, &came), 0);
	assert_int_equal(sent.st_ino, came.st_ino);
	/* One is enough, and what comes with it is as whole as ever. */
	assert_int_equal(migrate_wire_receive(&e.b, &rec, 20, &err), 0);
	assert_memory_equal(rec.payload, "three", 5);
	close(fd);
	close_ends(&e);
}

/* Somebody who calls at @path until he is answered, for 10 s at most. */
static pid_t start_caller(const char *path)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	for (int i = 0; i < 1000; i++) {
		if (io_connect(path, SOCK_STREAM) >= 0)
			_exit(0);
		usleep(10000);
	}
	_exit(1);
}

static void a_socket_that_a_dead_one_left_is_no_hindrance(void **state)
{
	char dir[] = "/tmp/wisp-test-XXXXXX", address[64];
	const char *path = address + strlen("unix:");
	struct migrate_listener l = { .fd = -1 };
	struct error err = { 0 };
	int in, out, status, fd;
	pid_t pid;

	assert_non_null(mkdtemp(dir));
	snprintf(address, sizeof(address), "unix:%s/rx", dir);
	fd = io_listen(path, SOCK_STREAM | SOCK_NONBLOCK, 0, 1);
	/* One that lives stays, and hears nothing of it. */
	assert_int_equal(migrate_address_await(address, NULL, &l, &in, &out, &err), -EADDRINUSE);
	migrate_listener_close(&l);
	assert_int_equal(accept(fd, NULL, NULL), -1);
	assert_int_equal(access(path, F_OK), 0);
	close(fd);
	pid = start_caller(path);
	assert_int_equal(migrate_address_await(address, NULL, &l, &in, &out, &err), 0);
	close(in);
	migrate_listener_close(&l);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(rmdir(dir), 0);
}

static void descriptors_do_not_travel_through_pipes(void **state)
{
	struct migrate_wire w;
	struct error err = { 0 };
	int pair[2];

	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	assert_int_equal(migrate_wire_init(&w, pair[0], pair[1], &err), 0);
	assert_false(migrate_wire_is_local(&w));
	assert_int_equal(migrate_wire_send_fd(&w, MIGRATE_HELLO, 0, "x", 1, 0, &err), -ENOTSOCK);
	assert_int_equal(w.bytes_out, 0);
	/* Wanted, and none can come. */
	w.wants_fd = true;
	assert_int_equal(migrate_wire_send(&w, MIGRATE_HELLO, 0, "y", 1, &err), 0);
	migrate_wire_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_arrive_as_they_were_sent),
		cmocka_unit_test(a_wrong_bit_anywhere_is_refused),
		cmocka_unit_test(a_stream_that_ends_is_no_completion),
		cmocka_unit_test(a_peer_that_stalls_is_given_up),
		cmocka_unit_test(records_out_of_turn_are_refused),
		cmocka_unit_test(too_long_a_record_is_refused_unread),
		cmocka_unit_test(a_header_alone_gets_little_memory),
		cmocka_unit_test(records_of_any_length_arrive_whole),
		cmocka_unit_test(the_peers_last_words_reach_a_terminal_harmlessly),
		cmocka_unit_test(why_a_peer_hung_up_is_heard_while_sending),
		cmocka_unit_test(a_cancelled_wait_ends_at_once),
		cmocka_unit_test(another_protocol_is_told_from_ours),
		cmocka_unit_test(descriptors_arrive_where_they_are_wanted),
		cmocka_unit_test(a_socket_that_a_dead_one_left_is_no_hindrance),
		cmocka_unit_test(descriptors_do_not_travel_through_pipes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
