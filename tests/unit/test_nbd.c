/*
 * Disks of NBD servers: nbdkit where it is installed, and a server that this test plays, with
 * whatever answers it likes.
 */
#include "devices/nbd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/block_result.h"
#include "tests/unit/loop_fixture.h"
#include "tests/unit/nbd_peer.h"
#include "vmm/core/log.h"

#define SIZE (8 * MiB)
#define URI  "nbd+unix:///?socket=peer"

struct fixture {
	struct loop *loop;
	char dir[64], socket[96], uri[160];
	pid_t server;
	int peer; /* our end, when we are the server */
};

struct request {
	struct block_result r;
	struct iovec iov[3];
};

/* Of three parts, none of which is a sector. */
static void fill_request(struct request *r, enum block_op op, void *buf, uint64_t offset,
			 uint64_t len)
{
	*r = (struct request){ .r.req = { .op = op,
					       .offset = offset,
					       .done = block_result_record } };
	r->r.req.len = op == BLOCK_FLUSH ? 0 : len;
	if (!buf)
		return;
	r->iov[0] = (struct iovec){ buf, 100 };
	r->iov[1] = (struct iovec){ (uint8_t *)buf + 100, 33 };
	r->iov[2] = (struct iovec){ (uint8_t *)buf + 133, len - 133 };
	r->r.req.iov = r->iov;
	r->r.req.iovcnt = 3;
}

static int do_op(struct fixture *f, struct block *b, enum block_op op, void *buf, uint64_t offset,
		 uint64_t len)
{
	struct request r;

	fill_request(&r, op, buf, offset, len);
	block_submit(b, &r.r.req);
	assert_int_equal(r.r.calls, 0);
	return block_result_await(f->loop, &r.r);
}

/* ---- with nbdkit ---- */

static bool have_nbdkit(void)
{
	return system("command -v nbdkit >/dev/null") == 0;
}

static void start_server(struct fixture *f, const char *args)
{
	char line[400];
	FILE *pid;

	if (!have_nbdkit())
		skip();
	snprintf(line, sizeof(line), "nbdkit -U %s -P %s/pid %s 2>/dev/null", f->socket, f->dir,
		 args);
	assert_int_equal(system(line), 0);
	snprintf(line, sizeof(line), "%s/pid", f->dir);
	/* It goes into the background first, and then writes this. */
	for (int i = 0; i < 12000 && f->server <= 0; i++) {
		pid = fopen(line, "r");
		if (!pid || fscanf(pid, "%d\n", &f->server) != 1)
			usleep(10000);
		if (pid)
			fclose(pid);
	}
	assert_true(f->server > 0);
}

static void stop_server(struct fixture *f)
{
	if (f->server > 0)
		kill(f->server, SIGKILL);
	f->server = 0;
}

static struct block *open_disk(struct fixture *f, struct block_config config)
{
	struct error err = { 0 };
	struct block *b = NULL;

	config.path = f->uri;
	config.fd = -1;
	if (block_open(&b, &config, &err) < 0)
		fail_msg("%s", err.msg);
	block_attach(b, f->loop);
	return b;
}

static void reads_back_what_it_wrote(void **state)
{
	uint8_t *data = malloc(SIZE), *seen = malloc(SIZE);
	struct fixture *f = *state;
	struct block *b;

	start_server(f, "memory 8M");
	b = open_disk(f, (struct block_config){ 0 });
	assert_int_equal(block_size(b), SIZE);
	assert_true(b->can_discard && b->can_write_zeroes);
	for (size_t i = 0; i < SIZE; i++)
		data[i] = (i * 7 + i / 512) | 1;
	assert_int_equal(do_op(f, b, BLOCK_WRITE, data, 0, SIZE), 0);
	assert_int_equal(do_op(f, b, BLOCK_READ, seen, 0, SIZE), 0);
	assert_memory_equal(seen, data, SIZE);
	assert_int_equal(do_op(f, b, BLOCK_WRITE_ZEROES, NULL, 512, 4096), 0);
	assert_int_equal(do_op(f, b, BLOCK_DISCARD, NULL, 1 * MiB, 1 * MiB), 0);
	assert_int_equal(do_op(f, b, BLOCK_FLUSH, NULL, 0, 0), 0);
	memset(data + 512, 0, 4096);
	assert_int_equal(do_op(f, b, BLOCK_READ, seen, 0, 1 * MiB), 0);
	assert_memory_equal(seen, data, 1 * MiB);
	assert_int_equal(do_op(f, b, BLOCK_READ, seen, SIZE - 512, 1024), -EIO);
	block_close(b);
	free(data);
	free(seen);
}

static void many_requests_at_once_each_get_their_own(void **state)
{
	struct request *r = calloc(300, sizeof(*r));
	uint8_t *data = malloc(SIZE), *seen = calloc(1, SIZE);
	struct fixture *f = *state;
	struct block *b;

	start_server(f, "-t 8 memory 8M");
	b = open_disk(f, (struct block_config){ .cache = BLOCK_CACHE_WRITETHROUGH });
	for (size_t i = 0; i < SIZE; i++)
		data[i] = i / 4096 + i;
	for (int write = 1; write >= 0; write--) {
		for (unsigned i = 0; i < 300; i++) {
			fill_request(&r[i], write ? BLOCK_WRITE : BLOCK_READ,
				     (write ? data : seen) + i * 8192, i * 8192, 8192);
			block_submit(b, &r[i].r.req);
		}
		for (unsigned i = 0; i < 300; i++)
			assert_int_equal(block_result_await(f->loop, &r[i].r), 0);
	}
	assert_memory_equal(seen, data, 300 * 8192);
	block_close(b);
	free(data);
	free(seen);
	free(r);
}

static void what_is_too_large_goes_in_pieces(void **state)
{
	uint8_t *data = malloc(1 * MiB), *seen = malloc(1 * MiB);
	struct fixture *f = *state;
	struct block *b;

	start_server(f, "--filter=blocksize-policy memory 8M blocksize-minimum=4K "
			"blocksize-preferred=4K blocksize-maximum=64K "
			"blocksize-error-policy=error");
	b = open_disk(f, (struct block_config){ 0 });
	assert_int_equal(b->logical_block, 4096);
	for (size_t i = 0; i < MiB; i++)
		data[i] = i / 999;
	assert_int_equal(do_op(f, b, BLOCK_WRITE, data, 4096, 1 * MiB), 0);
	assert_int_equal(do_op(f, b, BLOCK_READ, seen, 4096, 1 * MiB), 0);
	assert_memory_equal(seen, data, 1 * MiB);
	block_close(b);
	free(data);
	free(seen);
}

static void errors_of_the_server_reach_the_guest(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[4096] = { 1 };
	struct block *b;

	start_server(f, "--filter=error memory 8M error=ENOSPC error-pwrite-rate=100%");
	b = open_disk(f, (struct block_config){ 0 });
	assert_int_equal(do_op(f, b, BLOCK_WRITE, buf, 0, 4096), -ENOSPC);
	assert_int_equal(do_op(f, b, BLOCK_READ, buf, 0, 4096), 0);
	block_close(b);
}

static void a_server_that_dies_fails_requests_and_nothing_else(void **state)
{
	struct request r[20];
	struct fixture *f = *state;
	static uint8_t buf[4096];
	struct block *b;

	start_server(f, "--filter=delay memory 8M rdelay=20");
	b = open_disk(f, (struct block_config){ 0 });
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++) {
		fill_request(&r[i], BLOCK_READ, buf, 0, 4096);
		block_submit(b, &r[i].r.req);
	}
	loop_run_once(f->loop, NSEC_PER_SEC / 10);
	stop_server(f);
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++)
		assert_int_equal(block_result_await(f->loop, &r[i].r), -EIO);
	assert_int_equal(do_op(f, b, BLOCK_READ, buf, 0, 4096), -EIO);
	block_close(b);
}

static void what_may_not_be_written_is_only_opened_read_only(void **state)
{
	struct fixture *f = *state;
	struct block_config config = { .path = f->uri, .fd = -1 };
	struct error err = { 0 };
	struct block *b = NULL;

	start_server(f, "-r memory 8M");
	assert_int_equal(block_open(&b, &config, &err), -EROFS);
	assert_non_null(strstr(err.msg, "lets nobody write"));
	b = open_disk(f, (struct block_config){ .read_only = true });
	assert_int_equal(do_op(f, b, BLOCK_DISCARD, NULL, 0, 4096), -EROFS);
	block_close(b);
}

static void a_missing_export_is_named(void **state)
{
	struct fixture *f = *state;
	struct block_config config = { .path = f->uri, .fd = -1 };
	struct error err = { 0 };
	struct block *b = NULL;

	assert_int_equal(block_open(&b, &config, &err), -ENOENT);
	start_server(f, "--filter=exportname memory 8M exportname-strict=true exportname=a%20b");
	assert_true(block_open(&b, &config, &err) < 0);
	assert_non_null(strstr(err.msg, "no such export"));
}

/* ---- a server of our own ---- */

#define HELLO  "NBDMAGICIHAVEOPT\0\1"
#define ANSWER "\0\3\350\211\4\125\145\251\0\0\0\7"

static struct block *open_ours(struct fixture *f, const void *answers, size_t len,
			       struct error *err)
{
	struct block_config config = { .path = URI };
	struct block *b = NULL;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	config.fd = pair[0];
	f->peer = pair[1];
	assert_int_equal(write(f->peer, HELLO, 18), 18);
	assert_int_equal(write(f->peer, answers, len), len);
	if (!len)
		shutdown(f->peer, SHUT_WR);
	if (block_open(&b, &config, err) < 0)
		return NULL;
	block_attach(b, f->loop);
	return b;
}

/* An export of 1 MiB that has flushes (and no FUA), trims and zeroes. */
#define GOOD                                                                                       \
	ANSWER "\0\0\0\3\0\0\0\14\0\0\0\0\0\0\0\20\0\0\0\145" ANSWER "\0\0\0\1\0\0\0\0"

static struct block *open_good(struct fixture *f)
{
	struct error err = { 0 };
	struct block *b = open_ours(f, GOOD, sizeof(GOOD) - 1, &err);
	char drain[200];

	if (!b)
		fail_msg("%s", err.msg);
	assert_true(read(f->peer, drain, sizeof(drain)) > 0);
	return b;
}

static void a_server_that_lies_at_first_is_refused(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		const char *why;
	} cases[] = {
#define CASE(bytes, why) { bytes, sizeof(bytes) - 1, why }
		CASE("", "does not answer"),
		CASE("\0\3\350\211\4\125\145\252\0\0\0\7\0\0\0\1\0\0\0\0", "malformed"),
		CASE(ANSWER "\0\0\0\3\377\377\377\377", "malformed"),
		CASE(ANSWER "\0\0\0\1\0\0\0\0", "does not tell its size"),
		CASE(ANSWER "\0\0\0\3\0\0\0\1\0", "too short"),
		CASE(ANSWER "\0\0\0\3\0\0\0\14\0\0\377\377\377\377\377\377\377\377\0\1" ANSWER
			    "\0\0\0\1\0\0\0\0",
		     "makes no disk"),
		CASE(ANSWER "\200\0\0\5\0\0\0\3a\33b", "wants TLS (nbds in place of nbd): a?b"),
		CASE(GOOD, NULL),
	};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error err = { 0 };
		struct block *b = open_ours(f, cases[i].bytes, cases[i].len, &err);

		assert_int_equal(!b, cases[i].why != NULL);
		if (!b && !strstr(err.msg, cases[i].why))
			fail_msg("%u: '%s' does not say '%s'", i, err.msg, cases[i].why);
		block_close(b);
		close(f->peer);
	}
}

static void take(struct fixture *f, void *buf, size_t len)
{
	for (int i = 0; i < 10; i++)
		loop_run_once(f->loop, NSEC_PER_MSEC);
	assert_int_equal(recv(f->peer, buf, len, MSG_WAITALL | MSG_DONTWAIT), len);
}

static void a_durable_write_is_flushed_when_the_server_knows_no_better(void **state)
{
	struct fixture *f = *state;
	struct block *b = open_good(f);
	uint8_t buf[512] = { 5 }, seen[512];
	struct request r;
	struct nbd_peer_head h;

	fill_request(&r, BLOCK_WRITE, buf, 1024, 512);
	r.r.req.durable = true;
	block_submit(b, &r.r.req);
	take(f, &h, sizeof(h));
	assert_int_equal(be16toh(h.type), 1);
	assert_int_equal(be64toh(h.offset), 1024);
	take(f, seen, sizeof(seen));
	assert_memory_equal(seen, buf, 512);
	nbd_peer_reply(f->peer, NBD_PEER_REPLY, 0, h.cookie);
	take(f, &h, sizeof(h));
	assert_int_equal(be16toh(h.type), 3);
	assert_int_equal(r.r.calls, 0);
	nbd_peer_reply(f->peer, NBD_PEER_REPLY, 0, h.cookie);
	assert_int_equal(block_result_await(f->loop, &r.r), 0);
	block_close(b);
	close(f->peer);
}

/* Each kind of lie ends the connection: what was asked for fails, once, and nothing hangs. */
static void a_server_that_lies_later_is_given_up(void **state)
{
	struct fixture *f = *state;

	for (unsigned lie = 0; lie < 4; lie++) {
		struct block *b = open_good(f);
		uint8_t buf[1024] = { 0 };
		struct request r[2];
		struct nbd_peer_head h[2];

		for (unsigned i = 0; i < 2; i++) {
			fill_request(&r[i], BLOCK_READ, buf + i * 512, 0, 512);
			block_submit(b, &r[i].r.req);
		}
		take(f, h, sizeof(h));
		if (lie == 0)
			nbd_peer_reply(f->peer, 0x67446699, 0, h[0].cookie);
		else if (lie == 1)
			nbd_peer_reply(f->peer, NBD_PEER_REPLY, 0, htobe64(99));
		else if (lie == 2)
			nbd_peer_reply(f->peer, NBD_PEER_REPLY, 0, htobe64(1ull << 40));
		else
			/* Answered, with an error, twice. */
			for (unsigned i = 0; i < 2; i++)
				nbd_peer_reply(f->peer, NBD_PEER_REPLY, EIO, h[0].cookie);
		for (unsigned i = 0; i < 2; i++)
			assert_int_equal(block_result_await(f->loop, &r[i].r), -EIO);
		assert_int_equal(do_op(f, b, BLOCK_FLUSH, NULL, 0, 0), -EIO);
		block_close(b);
		close(f->peer);
	}
}

/* ---- URIs ---- */

static void uris_are_understood_or_refused_with_the_reason(void **state)
{
	static const char *const good[] = {
		"nbd://127.0.0.1/", "nbd://127.0.0.1:10810/disk", "nbd://[::1]:99/a%2Fb",
		"nbd://localhost", "nbd://server/disk", "nbd://a-b.example:1/",
		"nbd+unix:///?socket=/tmp/x", "nbd+unix:///a?socket=/tmp/%41",
		"nbds://server/disk?tls-certificates=/pki",
		"nbds://[::1]:99/a?tls-hostname=x.example&tls-certificates=/pki",
		"nbds+unix:///?socket=/tmp/x&tls-certificates=/pki",
	};
	static const char *const bad[][2] = {
		{ "nbd://-x/disk", "neither an IP address nor a name" },
		{ "nbd://1.2.3.4.5/", "neither an IP address nor a name" },
		{ "nbd://a,b/", "neither an IP address nor a name" },
		{ "nbd://127.0.0.1:0/", "is not nbd://" },
		{ "nbd://127.0.0.1:65536/", "is not nbd://" },
		{ "nbd://[::1/", "is not nbd://" },
		{ "nbd://127.0.0.1/%zz", "malformed" },
		{ "nbd+unix:///disk", "is not nbd+unix:///" },
		{ "nbd+unix:///?socket=", "is empty" },
		{ "nbd+unix:///?socket=/%00", "malformed" },
		{ "nbd://127.0.0.1/?tls-certificates=/pki", "'tls-certificates' is unknown" },
		{ "nbd+unix:///?socket=/x&sockets=/y", "'sockets' is unknown" },
		{ "nbds://127.0.0.1/", "names no certificates" },
		{ "nbds://127.0.0.1/?tls-certificates=", "names no certificates" },
		{ "nbds://127.0.0.1/?tls-certificates=/pki&tls-hostname=-x", "no name of a host" },
		{ "nbds://127.0.0.1/?tls-certificates=/pki&socket=/x", "'socket' is unknown" },
		{ "nbds+unix:///?tls-certificates=/pki", "is not nbds+unix:///" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(nbd_check_uri(good[i], NULL), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct error err = { 0 };

		assert_true(nbd_is_uri(bad[i][0]));
		assert_true(nbd_check_uri(bad[i][0], &err) < 0);
		if (!strstr(err.msg, bad[i][1]))
			fail_msg("'%s' does not say '%s'", err.msg, bad[i][1]);
	}
	assert_false(nbd_is_uri("nbd"));
	assert_false(nbd_is_uri("/tmp/nbd://"));
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->loop = loop_fixture_create(NULL);
	snprintf(f->dir, sizeof(f->dir), "/tmp/wisp-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->socket, sizeof(f->socket), "%s/sock", f->dir);
	snprintf(f->uri, sizeof(f->uri), "nbd+unix:///?socket=%s", f->socket);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char path[96];

	stop_server(f);
	unlink(f->socket);
	snprintf(path, sizeof(path), "%s/pid", f->dir);
	unlink(path);
	rmdir(f->dir);
	loop_free(f->loop);
	free(f);
	return 0;
}

#define nbd_test(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		nbd_test(reads_back_what_it_wrote),
		nbd_test(many_requests_at_once_each_get_their_own),
		nbd_test(what_is_too_large_goes_in_pieces),
		nbd_test(errors_of_the_server_reach_the_guest),
		nbd_test(a_server_that_dies_fails_requests_and_nothing_else),
		nbd_test(what_may_not_be_written_is_only_opened_read_only),
		nbd_test(a_missing_export_is_named),
		nbd_test(a_server_that_lies_at_first_is_refused),
		nbd_test(a_durable_write_is_flushed_when_the_server_knows_no_better),
		nbd_test(a_server_that_lies_later_is_given_up),
		nbd_test(uris_are_understood_or_refused_with_the_reason),
	};

	/* What is said of servers that die is not for whoever runs this. */
	log_setup(open("/dev/null", O_WRONLY | O_CLOEXEC), LOG_ERROR);
	return loop_fixture_run("nbd", tests, ARRAY_SIZE(tests));
}
