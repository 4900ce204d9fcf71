/* A disk whose NBD server goes, and comes back, or does not: we are the server and the dialer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/block_nbd_internal.h"
#include "devices/nbd.h"
#include "tests/unit/loop_fixture.h"
#include "tests/unit/nbd_peer.h"
#include "vmm/core/log.h"

#define LIMIT_S 30

struct fixture {
	struct loop *loop;
	struct clock clock;
	struct block *b;
	int server, dialer; /* our ends; -1: closed */
};

struct request {
	struct block_req req;
	struct iovec iov;
	uint8_t buf[512];
	unsigned calls;
	int res;
};

enum { READ, WRITE, FLUSH = 3 };

/* An export of 1 MiB that has flushes and no FUA, as the server tells it. */
static const uint8_t hello[] = "NBDMAGICIHAVEOPT\0\1"
			       "\0\3\350\211\4\125\145\251\0\0\0\7\0\0\0\3\0\0\0\14"
			       "\0\0\0\0\0\0\0\20\0\0\0\5"
			       "\0\3\350\211\4\125\145\251\0\0\0\7\0\0\0\1\0\0\0\0";

static const struct nbd_export same = {
	.size_bytes = 1 * MiB,
	.flags = 1 | NBD_FLUSH,
	.min_block = BLOCK_SECTOR,
	.preferred_block = PAGE_SIZE,
	.max_block = 32 * MiB,
};

static void record(struct block_req *req, int res)
{
	struct request *r = container_of(req, struct request, req);

	r->calls++;
	r->res = res;
}

static void submit(struct fixture *f, struct request *r, enum block_op op, bool durable)
{
	*r = (struct request){ .req = { .op = op, .durable = durable, .done = record } };
	r->iov = (struct iovec){ r->buf, sizeof(r->buf) };
	if (op != BLOCK_FLUSH) {
		r->req.len = sizeof(r->buf);
		r->req.iov = &r->iov;
		r->req.iovcnt = 1;
	}
	block_submit(f->b, &r->req);
}

static void turn(struct fixture *f)
{
	while (loop_run_once(f->loop, 10 * NSEC_PER_MSEC))
		;
}

static void later(struct fixture *f, unsigned seconds)
{
	turn(f);
	clock_advance(&f->clock, seconds * NSEC_PER_SEC);
	turn(f);
}

/* The next request that the server gets, with its data. */
static struct nbd_peer_head take(struct fixture *f)
{
	uint8_t data[512];
	struct nbd_peer_head h;

	turn(f);
	assert_int_equal(recv(f->server, &h, sizeof(h), MSG_DONTWAIT), sizeof(h));
	if (be16toh(h.type) == WRITE)
		assert_int_equal(recv(f->server, data, sizeof(data), MSG_DONTWAIT), 512);
	return h;
}

static void answer(struct fixture *f, const struct nbd_peer_head *h)
{
	uint8_t data[512] = { 7 };

	nbd_peer_reply(f->server, NBD_PEER_REPLY, 0, h->cookie);
	if (be16toh(h->type) == READ)
		assert_int_equal(write(f->server, data, sizeof(data)), sizeof(data));
	turn(f);
}

static void hang_up(struct fixture *f)
{
	close(f->server);
	f->server = -1;
	turn(f);
}

/* The number that the dialer was sent; 0: none. */
static uint32_t asked(struct fixture *f)
{
	uint32_t id;

	turn(f);
	return recv(f->dialer, &id, sizeof(id), MSG_DONTWAIT) == sizeof(id) ? id : 0;
}

/* As the parent's dialer would; @export NULL: nobody is there. */
static void dialed(struct fixture *f, uint32_t id, const struct nbd_export *export)
{
	struct nbd_dialed reply = { .id = id, .error = export ? 0 : ECONNREFUSED };
	struct iovec iov = { &reply, sizeof(reply) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	int pair[2] = { -1, -1 };

	if (export) {
		struct cmsghdr *c = &control.align;

		reply.export = *export;
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &pair[1], sizeof(int));
		if (f->server >= 0)
			close(f->server);
		f->server = pair[0];
	}
	assert_int_equal(sendmsg(f->dialer, &msg, 0), sizeof(reply));
	if (pair[1] >= 0)
		close(pair[1]);
	turn(f);
}

/* Is the server's end of a connection that was offered closed by the other side? */
static bool refused(struct fixture *f)
{
	char c;

	return recv(f->server, &c, 1, MSG_DONTWAIT) == 0;
}

static void requests_wait_for_a_server_that_comes_back(void **state)
{
	struct fixture *f = *state;
	struct request early, late;
	struct nbd_peer_head h;

	submit(f, &early, BLOCK_READ, false);
	take(f);
	hang_up(f);
	submit(f, &late, BLOCK_FLUSH, false);
	dialed(f, asked(f), &same);
	/* In the order in which they came. */
	h = take(f);
	assert_int_equal(be16toh(h.type), READ);
	answer(f, &h);
	assert_int_equal(early.calls, 1);
	assert_int_equal(early.res, 0);
	assert_int_equal(early.buf[0], 7);
	h = take(f);
	assert_int_equal(be16toh(h.type), FLUSH);
	answer(f, &h);
	assert_int_equal(late.calls, 1);
	assert_int_equal(late.res, 0);
}

static void a_durable_write_that_was_not_flushed_is_written_again(void **state)
{
	struct fixture *f = *state;
	struct request r;
	struct nbd_peer_head h;

	submit(f, &r, BLOCK_WRITE, true);
	h = take(f);
	answer(f, &h);
	h = take(f);
	assert_int_equal(be16toh(h.type), FLUSH);
	hang_up(f);
	dialed(f, asked(f), &same);
	h = take(f);
	assert_int_equal(be16toh(h.type), WRITE);
	answer(f, &h);
	assert_int_equal(r.calls, 0);
	h = take(f);
	assert_int_equal(be16toh(h.type), FLUSH);
	answer(f, &h);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, 0);
}

static void requests_fail_when_the_limit_is_over(void **state)
{
	struct fixture *f = *state;
	struct request r;

	submit(f, &r, BLOCK_READ, false);
	take(f);
	hang_up(f);
	/* Once a second, each time in vain. */
	for (unsigned i = 0; i < LIMIT_S; i++) {
		uint32_t id = asked(f);

		assert_int_equal(r.calls, 0);
		assert_int_not_equal(id, 0);
		assert_int_equal(asked(f), 0);
		dialed(f, id, NULL);
		later(f, 1);
	}
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, -EIO);
}

static void the_limit_holds_when_nobody_answers_at_all(void **state)
{
	struct fixture *f = *state;
	struct request r;

	submit(f, &r, BLOCK_READ, false);
	hang_up(f);
	assert_int_not_equal(asked(f), 0);
	later(f, LIMIT_S - 1);
	assert_int_equal(r.calls, 0);
	later(f, 1);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, -EIO);
}

static void a_server_that_takes_connections_and_drops_them_is_not_back(void **state)
{
	struct fixture *f = *state;
	struct request r;

	submit(f, &r, BLOCK_READ, false);
	hang_up(f);
	for (unsigned i = 0; i < LIMIT_S; i++) {
		assert_int_equal(r.calls, 0);
		dialed(f, asked(f), &same);
		take(f);
		hang_up(f);
		later(f, 1);
	}
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, -EIO);
}

static void a_server_given_up_has_one_chance_a_second(void **state)
{
	struct fixture *f = *state;
	struct request r;
	struct nbd_peer_head h;
	uint32_t id;

	submit(f, &r, BLOCK_READ, false);
	hang_up(f);
	dialed(f, asked(f), NULL);
	later(f, LIMIT_S);
	assert_int_equal(r.res, -EIO);
	submit(f, &r, BLOCK_READ, false);
	id = asked(f);
	assert_int_not_equal(id, 0);
	assert_int_equal(r.calls, 0);
	dialed(f, id, NULL);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, -EIO);
	/* At once this time: nobody is asked. */
	submit(f, &r, BLOCK_READ, false);
	assert_int_equal(asked(f), 0);
	assert_int_equal(r.res, -EIO);
	later(f, 1);
	submit(f, &r, BLOCK_READ, false);
	dialed(f, asked(f), &same);
	h = take(f);
	answer(f, &h);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, 0);
}

static void another_disk_is_not_taken_for_the_one_that_was(void **state)
{
	struct nbd_export other[3] = { same, same, same };
	struct fixture *f = *state;
	struct request r;
	struct nbd_peer_head h;

	other[0].size_bytes *= 2;
	other[1].flags |= NBD_READ_ONLY;
	other[2].min_block = 4096;
	submit(f, &r, BLOCK_READ, false);
	hang_up(f);
	for (unsigned i = 0; i < ARRAY_SIZE(other); i++) {
		dialed(f, asked(f), &other[i]);
		assert_true(refused(f));
		assert_int_equal(r.calls, 0);
		later(f, 1);
	}
	dialed(f, asked(f), &same);
	h = take(f);
	answer(f, &h);
	assert_int_equal(r.res, 0);
}

static void an_answer_to_another_question_is_dropped(void **state)
{
	struct fixture *f = *state;
	struct request r;
	struct nbd_peer_head h;
	uint32_t id;

	submit(f, &r, BLOCK_READ, false);
	hang_up(f);
	id = asked(f);
	dialed(f, id + 1, &same);
	assert_true(refused(f));
	dialed(f, id, &same);
	h = take(f);
	answer(f, &h);
	assert_int_equal(r.res, 0);
}

static void a_dialer_that_is_gone_ends_the_waiting(void **state)
{
	struct fixture *f = *state;
	struct request r;

	submit(f, &r, BLOCK_READ, false);
	take(f);
	close(f->dialer);
	f->dialer = -1;
	hang_up(f);
	later(f, LIMIT_S);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, -EIO);
}

/* ---- nobody waits ---- */

static void assert_served(struct fixture *f, struct request *r)
{
	struct nbd_peer_head h = take(f);

	answer(f, &h);
	assert_int_equal(r->calls, 1);
	assert_int_equal(r->res, 0);
}

static void in_a_hurry_requests_fail_between_two_questions(void **state)
{
	struct fixture *f = *state;
	struct request r;

	submit(f, &r, BLOCK_READ, false);
	hang_up(f);
	dialed(f, asked(f), NULL);
	assert_int_equal(r.calls, 0);
	block_hurry(f->b);
	turn(f);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, -EIO);
	/* The next one waits again. */
	submit(f, &r, BLOCK_READ, false);
	later(f, 1);
	assert_int_equal(r.calls, 0);
	dialed(f, asked(f), &same);
	assert_served(f, &r);
}

static void in_a_hurry_requests_fail_before_the_dialer_answers(void **state)
{
	struct fixture *f = *state;
	struct request r;
	uint32_t late;

	submit(f, &r, BLOCK_READ, false);
	hang_up(f);
	late = asked(f);
	block_hurry(f->b);
	turn(f);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, -EIO);
	submit(f, &r, BLOCK_READ, false);
	later(f, 1);
	dialed(f, late, &same);
	assert_true(refused(f));
	dialed(f, asked(f), &same);
	assert_served(f, &r);
}

static void in_a_hurry_what_a_server_works_on_is_completed(void **state)
{
	struct fixture *f = *state;
	struct request r;
	struct nbd_peer_head h;

	submit(f, &r, BLOCK_READ, false);
	h = take(f);
	block_hurry(f->b);
	turn(f);
	assert_int_equal(r.calls, 0);
	answer(f, &h);
	assert_int_equal(r.res, 0);

	/* But not if it goes away meanwhile. */
	submit(f, &r, BLOCK_READ, false);
	take(f);
	block_hurry(f->b);
	hang_up(f);
	assert_int_equal(asked(f), 0);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, -EIO);
}

static void in_a_hurry_a_server_that_is_not_back_for_sure_counts_as_gone(void **state)
{
	struct fixture *f = *state;
	struct request r;

	submit(f, &r, BLOCK_READ, false);
	hang_up(f);
	dialed(f, asked(f), &same);
	take(f);
	block_hurry(f->b);
	turn(f);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, -EIO);
	submit(f, &r, BLOCK_READ, false);
	later(f, 1);
	dialed(f, asked(f), &same);
	assert_served(f, &r);
}

/* ---- silence ---- */

/* It says no to a write of which it has read the head alone, and reads the rest afterwards. */
static void a_server_that_answers_before_it_has_read_all_is_not_silent_later(void **state)
{
	struct fixture *f = *state;
	void *large = calloc(1, MiB);
	struct request r;
	char data[4096];
	struct nbd_peer_head h;

	submit(f, &r, BLOCK_WRITE, false);
	/* More than a socket holds. */
	r.iov = (struct iovec){ large, MiB };
	r.req.len = MiB;
	turn(f);
	assert_int_equal(recv(f->server, &h, sizeof(h), MSG_DONTWAIT), sizeof(h));
	answer(f, &h);
	assert_int_equal(r.calls, 0);
	for (size_t left = MiB; left; turn(f)) {
		ssize_t n = recv(f->server, data, MIN(left, sizeof(data)), MSG_DONTWAIT);

		assert_true(n > 0);
		left -= n;
	}
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, 0);
	/* And nothing is in flight any more, which could outlive the disk. */
	assert_false(container_of(f->b, struct block_nbd, b)->in.busy);
	later(f, 2 * LIMIT_S);
	assert_int_equal(asked(f), 0);
	submit(f, &r, BLOCK_READ, false);
	assert_served(f, &r);
	free(large);
}

/* How long a server is silent before it counts as gone: while it owes @op, in seconds. */
static void assert_patience(struct fixture *f, enum block_op op, bool durable, unsigned seconds)
{
	struct nbd_export export = container_of(f->b, struct block_nbd, b)->export;
	struct nbd_peer_head h;
	struct request r;

	submit(f, &r, op, durable);
	h = take(f);
	later(f, seconds - 1);
	assert_int_equal(asked(f), 0);
	answer(f, &h);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, 0);

	submit(f, &r, op, durable);
	take(f);
	later(f, seconds + 1);
	dialed(f, asked(f), &export);
	assert_served(f, &r);
}

static void a_server_has_time_for_what_takes_long(void **state)
{
	struct fixture *f = *state;
	struct block_nbd *n = container_of(f->b, struct block_nbd, b);

	assert_patience(f, BLOCK_READ, false, 30);
	assert_patience(f, BLOCK_WRITE, false, 30);
	assert_patience(f, BLOCK_FLUSH, false, 600);
	assert_patience(f, BLOCK_READ, false, 30);
	n->export.flags |= NBD_FUA;
	assert_patience(f, BLOCK_WRITE, true, 600);
	assert_int_equal(n->at_work, 0);
}

/* Nobody waits ten minutes for a machine that ends. */
static void in_a_hurry_it_has_not(void **state)
{
	struct fixture *f = *state;
	struct request r;

	submit(f, &r, BLOCK_FLUSH, false);
	take(f);
	later(f, 60);
	assert_int_equal(r.calls, 0);
	block_hurry(f->b);
	later(f, 31);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, -EIO);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct block_config config = { .path = "nbd://127.0.0.1/", .reconnect_seconds = LIMIT_S };
	struct error err = { 0 };
	char drain[200];
	int pair[2];

	clock_init_virtual(&f->clock, 1000 * NSEC_PER_SEC, 0);
	f->loop = loop_fixture_create(&f->clock);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	f->server = pair[0];
	config.fd = pair[1];
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	f->dialer = pair[0];
	config.dialer = pair[1];
	assert_int_equal(write(f->server, hello, sizeof(hello) - 1), sizeof(hello) - 1);
	if (block_open(&f->b, &config, &err) < 0)
		fail_msg("%s", err.msg);
	block_attach(f->b, f->loop);
	assert_true(read(f->server, drain, sizeof(drain)) > 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	block_close(f->b);
	if (f->server >= 0)
		close(f->server);
	if (f->dialer >= 0)
		close(f->dialer);
	loop_free(f->loop);
	free(f);
	return 0;
}

#define redial_test(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		redial_test(requests_wait_for_a_server_that_comes_back),
		redial_test(a_durable_write_that_was_not_flushed_is_written_again),
		redial_test(requests_fail_when_the_limit_is_over),
		redial_test(the_limit_holds_when_nobody_answers_at_all),
		redial_test(a_server_that_takes_connections_and_drops_them_is_not_back),
		redial_test(a_server_given_up_has_one_chance_a_second),
		redial_test(another_disk_is_not_taken_for_the_one_that_was),
		redial_test(an_answer_to_another_question_is_dropped),
		redial_test(a_dialer_that_is_gone_ends_the_waiting),
		redial_test(in_a_hurry_requests_fail_between_two_questions),
		redial_test(in_a_hurry_requests_fail_before_the_dialer_answers),
		redial_test(in_a_hurry_what_a_server_works_on_is_completed),
		redial_test(in_a_hurry_a_server_that_is_not_back_for_sure_counts_as_gone),
		redial_test(a_server_that_answers_before_it_has_read_all_is_not_silent_later),
		redial_test(a_server_has_time_for_what_takes_long),
		redial_test(in_a_hurry_it_has_not),
	};

	/* What is said of servers that go is not for whoever runs this. */
	log_setup(open("/dev/null", O_WRONLY | O_CLOEXEC), LOG_ERROR);
	return loop_fixture_run("redial", tests, ARRAY_SIZE(tests));
}
