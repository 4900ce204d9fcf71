#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/loop_fixture.h"

static void nonblocking(int fd)
{
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
}

/* ---- operations ---- */

static void completes_only_within_run(void **state)
{
	struct loop *loop = *state;
	struct loop_result r = LOOP_RESULT, w = LOOP_RESULT;
	char buf[8] = "";
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	loop_write(loop, &w.op, fds[1], "hello", 6, UINT64_MAX);
	loop_read(loop, &r.op, fds[0], buf, sizeof(buf), UINT64_MAX);
	assert_int_equal(w.calls + r.calls, 0);
	assert_int_equal(loop_fixture_await(loop, &r), 6);
	assert_int_equal(loop_fixture_await(loop, &w), 6);
	assert_string_equal(buf, "hello");
	assert_int_equal(loop_run_once(loop, 0), 0);
	close(fds[0]);
	close(fds[1]);
}

/* A read waits for data whether or not the descriptor is O_NONBLOCK. */
static void reads_wait_for(struct loop *loop, bool nonblock)
{
	struct loop_result r = LOOP_RESULT, w = LOOP_RESULT;
	char buf[4];
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	if (nonblock)
		nonblocking(fds[0]);
	loop_read(loop, &r.op, fds[0], buf, 4, UINT64_MAX);
	for (int i = 0; i < 5; i++)
		loop_run_once(loop, NSEC_PER_MSEC);
	assert_int_equal(r.calls, 0);
	loop_write(loop, &w.op, fds[1], "abc", 4, UINT64_MAX);
	assert_int_equal(loop_fixture_await(loop, &r), 4);
	assert_int_equal(loop_fixture_await(loop, &w), 4);
	assert_string_equal(buf, "abc");

	/* The end of the stream is a result too. */
	r.calls = 0;
	loop_read(loop, &r.op, fds[0], buf, 4, UINT64_MAX);
	loop_run_once(loop, 0);
	close(fds[1]);
	assert_int_equal(loop_fixture_await(loop, &r), 0);
	close(fds[0]);
}

static void reads_wait_for_data(void **state)
{
	reads_wait_for(*state, false);
	reads_wait_for(*state, true);
}

static void writes_wait_for_room(void **state)
{
	struct loop *loop = *state;
	struct loop_result w = LOOP_RESULT;
	static char big[65536];
	int fds[2];
	ssize_t n;

	assert_int_equal(pipe(fds), 0);
	nonblocking(fds[1]);
	while ((n = write(fds[1], big, sizeof(big))) > 0)
		;
	loop_write(loop, &w.op, fds[1], "x", 1, UINT64_MAX);
	for (int i = 0; i < 5; i++)
		loop_run_once(loop, NSEC_PER_MSEC);
	assert_int_equal(w.calls, 0);
	assert_true(read(fds[0], big, sizeof(big)) > 0);
	assert_int_equal(loop_fixture_await(loop, &w), 1);
	close(fds[0]);
	close(fds[1]);
}

static void files_are_read_and_written_at_offsets(void **state)
{
	struct loop *loop = *state;
	struct loop_result r[4] = { LOOP_RESULT, LOOP_RESULT, LOOP_RESULT, LOOP_RESULT };
	char a[3] = "", b[5] = "";
	struct iovec in[2] = { { (void *)"abc", 3 }, { (void *)"defg", 4 } };
	struct iovec out[2] = { { a, 2 }, { b, 4 } };
	char path[] = "/tmp/wisp-loop-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	loop_writev(loop, &r[0].op, fd, in, 2, 10000);
	assert_int_equal(loop_fixture_await(loop, &r[0]), 7);
	loop_readv(loop, &r[1].op, fd, out, 2, 10001);
	assert_int_equal(loop_fixture_await(loop, &r[1]), 6);
	assert_string_equal(a, "bc");
	assert_string_equal(b, "defg");
	loop_fsync(loop, &r[2].op, fd, true);
	loop_fallocate(loop, &r[3].op, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10000, 3);
	assert_int_equal(loop_fixture_await(loop, &r[2]), 0);
	assert_int_equal(loop_fixture_await(loop, &r[3]), 0);
	r[0].calls = 0;
	loop_read(loop, &r[0].op, fd, b, 4, 10001);
	assert_int_equal(loop_fixture_await(loop, &r[0]), 4);
	assert_memory_equal(b, "\0\0de", 4);
	/* The end of the file is a short read, then none. */
	r[0].calls = 0;
	loop_read(loop, &r[0].op, fd, b, 4, 10007);
	assert_int_equal(loop_fixture_await(loop, &r[0]), 0);
	close(fd);
}

static void files_without_readiness_work_as_streams(void **state)
{
	struct loop *loop = *state;
	struct loop_result r = LOOP_RESULT, p = LOOP_RESULT;
	char buf[4];
	int fd = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_RDWR);
	int file = memfd_create("test", 0);

	loop_read(loop, &r.op, fd, buf, 4, UINT64_MAX);
	assert_int_equal(loop_fixture_await(loop, &r), 4);
	r.calls = 0;
	loop_write(loop, &r.op, file, "line", 4, UINT64_MAX);
	assert_int_equal(loop_fixture_await(loop, &r), 4);
	assert_int_equal(lseek(file, 0, SEEK_CUR), 4);
	r.calls = 0;
	loop_write(loop, &r.op, null, "x", 1, UINT64_MAX);
	assert_int_equal(loop_fixture_await(loop, &r), 1);
	loop_poll(loop, &p.op, file, POLLIN);
	assert_int_equal(loop_fixture_await(loop, &p), POLLIN);
	close(file);
	close(null);
	close(fd);
}

static void errors_are_results(void **state)
{
	struct loop *loop = *state;
	struct loop_result r = LOOP_RESULT;
	char buf[4];
	int fds[2];

	loop_read(loop, &r.op, 999, buf, 4, UINT64_MAX);
	assert_int_equal(loop_fixture_await(loop, &r), -EBADF);
	r.calls = 0;
	loop_fsync(loop, &r.op, -1, false);
	assert_int_equal(loop_fixture_await(loop, &r), -EBADF);
	assert_int_equal(pipe(fds), 0);
	r.calls = 0;
	loop_read(loop, &r.op, fds[1], buf, 4, UINT64_MAX); /* the writing end */
	assert_int_equal(loop_fixture_await(loop, &r), -EBADF);
	close(fds[0]);
	close(fds[1]);
}

static void sockets_accept_send_and_receive(void **state)
{
	struct loop *loop = *state;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct loop_result accepted = LOOP_RESULT, sent = LOOP_RESULT, received = LOOP_RESULT;
	struct iovec out = { (void *)"frame", 6 };
	char buf[16];
	struct iovec in = { buf, sizeof(buf) };
	struct msghdr out_msg = { .msg_iov = &out, .msg_iovlen = 1 };
	struct msghdr in_msg = { .msg_iov = &in, .msg_iovlen = 1 };
	socklen_t len = sizeof(addr);
	int listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	int client = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	int server;

	/* An abstract name of the kernel's choice. */
	assert_int_equal(bind(listener, (void *)&addr, sizeof(sa_family_t)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (void *)&addr, &len), 0);
	loop_accept(loop, &accepted.op, listener);
	loop_run_once(loop, 0);
	assert_int_equal(connect(client, (void *)&addr, len), 0);
	server = loop_fixture_await(loop, &accepted);
	assert_true(server >= 0);
	assert_int_equal(fcntl(server, F_GETFD), FD_CLOEXEC);

	loop_recvmsg(loop, &received.op, server, &in_msg, MSG_DONTWAIT);
	assert_int_equal(loop_fixture_await(loop, &received), -EAGAIN);
	received.calls = 0;
	loop_recvmsg(loop, &received.op, server, &in_msg, 0);
	loop_run_once(loop, 0);
	loop_sendmsg(loop, &sent.op, client, &out_msg, 0);
	assert_int_equal(loop_fixture_await(loop, &received), 6);
	assert_int_equal(loop_fixture_await(loop, &sent), 6);
	assert_string_equal(buf, "frame");

	/* A peer that is gone is an error and not a signal. */
	close(server);
	sent.calls = 0;
	loop_sendmsg(loop, &sent.op, client, &out_msg, 0);
	assert_int_equal(loop_fixture_await(loop, &sent), -EPIPE);
	close(client);
	close(listener);
}

/* What a thread's system calls do not have, its ring does not have either. */
static void a_ring_without_accept_refuses_it(void **state)
{
	struct loop_params params = {
		.backend = loop_fixture_backend(),
		.name = "test",
		.no_accept = true,
	};
	struct loop_result accepted = LOOP_RESULT, polled = LOOP_RESULT;
	struct error err = { 0 };
	struct loop *loop;
	int fds[2];

	if (loop_fixture_backend() == LOOP_EPOLL)
		skip();
	assert_int_equal(loop_create(&loop, &params, &err), 0);
	assert_int_equal(pipe(fds), 0);
	loop_accept(loop, &accepted.op, fds[0]);
	assert_int_equal(loop_fixture_await(loop, &accepted), -EACCES);
	loop_poll(loop, &polled.op, fds[1], POLLOUT);
	assert_int_equal(loop_fixture_await(loop, &polled), POLLOUT);
	loop_free(loop);
	close(fds[0]);
	close(fds[1]);
}

static void poll_reports_once(void **state)
{
	struct loop *loop = *state;
	struct loop_result p = LOOP_RESULT;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	loop_poll(loop, &p.op, fds[0], POLLIN);
	loop_run_once(loop, NSEC_PER_MSEC);
	assert_int_equal(p.calls, 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_true(loop_fixture_await(loop, &p) & POLLIN);
	assert_int_equal(write(fds[1], "x", 1), 1);
	for (int i = 0; i < 3; i++)
		loop_run_once(loop, NSEC_PER_MSEC);
	assert_int_equal(p.calls, 1);

	/* Ready already, and then the other end gone. */
	p.calls = 0;
	loop_poll(loop, &p.op, fds[0], POLLIN);
	assert_true(loop_fixture_await(loop, &p) & POLLIN);
	close(fds[1]);
	p.calls = 0;
	loop_poll(loop, &p.op, fds[0], 0);
	assert_true(loop_fixture_await(loop, &p) & POLLHUP);
	close(fds[0]);
}

static void more_operations_than_the_ring_has_room_for(void **state)
{
	enum { MANY = 500 };
	struct loop *loop = *state;
	struct loop_result *r = calloc(MANY, sizeof(*r));
	static char buf[MANY];
	int fds[2], done = 0;

	assert_int_equal(pipe(fds), 0);
	for (int i = 0; i < MANY; i++) {
		r[i].op.done = loop_fixture_record;
		loop_read(loop, &r[i].op, fds[0], &buf[i], 1, UINT64_MAX);
	}
	loop_run_once(loop, 0);
	assert_int_equal(write(fds[1], memset(buf, 'x', MANY), MANY), MANY);
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(loop_fixture_await(loop, &r[i]), 1);
		done++;
	}
	assert_int_equal(done, MANY);
	free(r);
	close(fds[0]);
	close(fds[1]);
}

struct chain {
	struct loop *loop;
	struct loop_op op;
	int fd, left;
	char byte;
};

static void chain_on(struct loop_op *op, int res)
{
	struct chain *c = container_of(op, struct chain, op);

	assert_int_equal(res, 1);
	if (--c->left)
		loop_read(c->loop, &c->op, c->fd, &c->byte, 1, UINT64_MAX);
}

static void an_operation_is_submitted_again_from_done(void **state)
{
	struct chain c = { .loop = *state, .op.done = chain_on, .left = 100 };

	c.fd = open("/dev/zero", O_RDONLY);
	loop_read(c.loop, &c.op, c.fd, &c.byte, 1, UINT64_MAX);
	while (c.left)
		loop_run_once(c.loop, UINT64_MAX);
	close(c.fd);
}

static void a_descriptor_may_be_closed_and_used_again(void **state)
{
	struct loop *loop = *state;
	char buf[1];

	for (int i = 0; i < 3; i++) {
		struct loop_result r = LOOP_RESULT;
		int fds[2];

		assert_int_equal(pipe(fds), 0);
		loop_read(loop, &r.op, fds[0], buf, 1, UINT64_MAX);
		loop_run_once(loop, 0);
		assert_int_equal(write(fds[1], "x", 1), 1);
		assert_int_equal(loop_fixture_await(loop, &r), 1);
		close(fds[0]);
		close(fds[1]);
	}
}

/* ---- cancelling ---- */

static void cancel_ends_what_waits_and_what_is_queued(void **state)
{
	struct loop *loop = *state;
	struct loop_result waiting = LOOP_RESULT, queued = LOOP_RESULT, polling = LOOP_RESULT;
	struct loop_result nonblock = LOOP_RESULT;
	char buf[4][1];
	int fds[2], other[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(pipe(other), 0);
	nonblocking(other[0]);
	loop_read(loop, &waiting.op, fds[0], buf[0], 1, UINT64_MAX);
	loop_read(loop, &nonblock.op, other[0], buf[1], 1, UINT64_MAX);
	loop_poll(loop, &polling.op, fds[0], POLLIN);
	for (int i = 0; i < 3; i++)
		loop_run_once(loop, 0);
	loop_read(loop, &queued.op, fds[0], buf[2], 1, UINT64_MAX);
	loop_cancel(loop, &queued.op);
	loop_cancel(loop, &waiting.op);
	loop_cancel(loop, &waiting.op);
	loop_cancel(loop, &polling.op);
	loop_cancel(loop, &nonblock.op);
	assert_int_equal(queued.calls + waiting.calls + polling.calls + nonblock.calls, 0);
	assert_int_equal(loop_fixture_await(loop, &queued), -ECANCELED);
	assert_int_equal(loop_fixture_await(loop, &waiting), -ECANCELED);
	assert_int_equal(loop_fixture_await(loop, &polling), -ECANCELED);
	assert_int_equal(loop_fixture_await(loop, &nonblock), -ECANCELED);

	/* Nothing of it is left: the byte is for whoever reads next. */
	assert_int_equal(write(fds[1], "x", 1), 1);
	loop_run_once(loop, 0);
	waiting.calls = 0;
	loop_read(loop, &waiting.op, fds[0], buf[0], 1, UINT64_MAX);
	assert_int_equal(loop_fixture_await(loop, &waiting), 1);
	loop_cancel(loop, &waiting.op); /* idle: no effect */
	for (int i = 0; i < 2; i++) {
		close(fds[i]);
		close(other[i]);
	}
}

static void free_drops_what_still_waits(void **state)
{
	struct loop *loop = loop_fixture_create(NULL);
	struct loop_result r = LOOP_RESULT, p = LOOP_RESULT;
	struct loop_timer t = { 0 };
	char buf[1] = "-";
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	loop_read(loop, &r.op, fds[0], buf, 1, UINT64_MAX);
	loop_poll(loop, &p.op, fds[0], POLLIN);
	loop_timer_set(loop, &t, UINT64_MAX);
	loop_run_once(loop, 0);
	loop_free(loop);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_int_equal(buf[0], '-');
	assert_int_equal(r.calls + p.calls, 0);
	close(fds[0]);
	close(fds[1]);
	loop_free(NULL);
}

/* ---- a workload: many files and threads at once ---- */

struct worker_io {
	struct loop *loop;
	struct loop_op op;
	int fd, left;
	uint64_t value;
	bool writing;
};

static void io_done(struct loop_op *op, int res)
{
	struct worker_io *io = container_of(op, struct worker_io, op);
	uint64_t offset = io->left * 8ull;

	assert_int_equal(res, 8);
	if (io->writing) {
		io->writing = false;
		io->value = 0;
		loop_read(io->loop, op, io->fd, &io->value, 8, offset);
		return;
	}
	assert_int_equal(io->value, offset);
	if (--io->left == 0)
		return;
	offset = io->value = io->left * 8ull;
	io->writing = true;
	loop_write(io->loop, op, io->fd, &io->value, 8, offset);
}

static void parallel_file_io_keeps_its_data_apart(void **state)
{
	struct worker_io io[8];
	bool busy = true;

	for (int i = 0; i < 8; i++) {
		io[i] = (struct worker_io){ .loop = *state, .op.done = io_done, .left = 50 };
		io[i].fd = memfd_create("test", 0);
		io[i].value = io[i].left * 8ull;
		io[i].writing = true;
		loop_write(io[i].loop, &io[i].op, io[i].fd, &io[i].value, 8, io[i].value);
	}
	while (busy) {
		loop_run_once(*state, UINT64_MAX);
		busy = false;
		for (int i = 0; i < 8; i++)
			busy |= io[i].left != 0;
	}
	for (int i = 0; i < 8; i++)
		close(io[i].fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		loop_test(completes_only_within_run),
		loop_test(reads_wait_for_data),
		loop_test(writes_wait_for_room),
		loop_test(files_are_read_and_written_at_offsets),
		loop_test(files_without_readiness_work_as_streams),
		loop_test(errors_are_results),
		loop_test(sockets_accept_send_and_receive),
		cmocka_unit_test(a_ring_without_accept_refuses_it),
		loop_test(poll_reports_once),
		loop_test(more_operations_than_the_ring_has_room_for),
		loop_test(an_operation_is_submitted_again_from_done),
		loop_test(a_descriptor_may_be_closed_and_used_again),
		loop_test(cancel_ends_what_waits_and_what_is_queued),
		cmocka_unit_test(free_drops_what_still_waits),
		loop_test(parallel_file_io_keeps_its_data_apart),
	};

	return loop_fixture_run("loop", tests, ARRAY_SIZE(tests));
}
