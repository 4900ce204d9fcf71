/*
 * Fuzz target (libFuzzer): the client of NBD disks, and a hostile server. The first byte chooses
 * how the disk is opened, and who says hello. With RAW set all that follows is what the server
 * says, from its first word on. Else it has said hello properly, and what follows are steps:
 * requests of the guest's, answers right and wrong, connections that go and come, time that passes.
 *
 * Whatever the server does, what the client sends stays well-formed, and each request ends once.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/nbd.h"
#include "vmm/core/log.h"

#define RAW	      0x80u
#define REQUESTS      16u
#define MAX_LEN	      4096u
#define DISK_BYTES    MiB
#define MAX_STEPS     512u
#define MAX_UNREAD    (REQUESTS * (MAX_LEN + sizeof(struct head)))
#define LIMIT_S	      30
#define REQUEST_MAGIC 0x25609513u
#define REPLY_MAGIC   0x67446698u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum step { SUBMIT, ANSWER, LIE, HANG_UP, DIAL, WAIT, HURRY, READ, NUM_STEPS };

struct head {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t len;
} __attribute__((packed));

struct request {
	struct block_req req;
	struct iovec iov[2];
	uint8_t *buf;
	bool pending;
};

struct run {
	const uint8_t *data;
	size_t size;
	struct clock clock;
	struct loop *loop;
	struct block *b;
	struct nbd_export export;
	int server, dialer; /* -1: closed */
	struct request request[REQUESTS];
	struct head asked[REQUESTS]; /* by the client, and not answered yet */
	unsigned num_asked;
	uint8_t unread[MAX_UNREAD];
	size_t num_unread;
};

/* An export of DISK_BYTES that can do everything, as a server says it. */
static const uint8_t hello[] = "NBDMAGICIHAVEOPT\0\1"
			       "\0\3\350\211\4\125\145\251\0\0\0\7\0\0\0\3\0\0\0\14"
			       "\0\0\0\0\0\0\0\20\0\0\0\155"
			       "\0\3\350\211\4\125\145\251\0\0\0\7\0\0\0\1\0\0\0\0";

static uint8_t next(struct run *r)
{
	if (!r->size)
		return 0;
	r->size--;
	return *r->data++;
}

static void turn(struct run *r)
{
	for (unsigned i = 0; i < 64 && loop_run_once(r->loop, 0); i++)
		;
}

static void ended(struct block_req *req, int res)
{
	struct request *q = container_of(req, struct request, req);

	if (!q->pending || res > 0)
		abort();
	q->pending = false;
	free(q->buf);
	q->buf = NULL;
}

static void submit(struct run *r)
{
	static const enum block_op ops[] = { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD,
					     BLOCK_WRITE_ZEROES };
	uint8_t how = next(r);
	struct request *q = &r->request[how % REQUESTS];
	uint32_t len = (1u + next(r) % (MAX_LEN / BLOCK_SECTOR)) * BLOCK_SECTOR, part;

	if (q->pending)
		return;
	*q = (struct request){ .req = { .op = ops[next(r) % ARRAY_SIZE(ops)], .done = ended } };
	q->req.durable = how & 0x40;
	q->req.may_unmap = how & 0x80;
	q->req.offset = next(r) * (uint64_t)BLOCK_SECTOR;
	q->req.len = q->req.op == BLOCK_FLUSH ? 0 : len;
	/* Of its own, so that a sanitizer sees its end. */
	q->buf = calloc(1, len);
	if (!q->buf)
		abort();
	part = next(r);
	q->iov[0] = (struct iovec){ q->buf, part };
	q->iov[1] = (struct iovec){ q->buf + part, len - part };
	q->req.iov = q->iov;
	q->req.iovcnt = 2;
	q->pending = true;
	block_submit(r->b, &q->req);
}

/* ---- the server ---- */

static void forget(struct run *r)
{
	r->num_asked = 0;
	r->num_unread = 0;
}

/* Take the requests that are there: this client makes no mistakes. */
static void read_requests(struct run *r)
{
	size_t at = 0;
	ssize_t n;

	if (r->server < 0)
		return;
	n = recv(r->server, r->unread + r->num_unread, sizeof(r->unread) - r->num_unread,
		 MSG_DONTWAIT);
	r->num_unread += MAX(n, 0);
	while (r->num_unread - at >= sizeof(struct head)) {
		struct head h;
		size_t data;

		memcpy(&h, r->unread + at, sizeof(h));
		data = be16toh(h.type) == 1 ? be32toh(h.len) : 0;
		if (be32toh(h.magic) != REQUEST_MAGIC || data > MAX_LEN ||
		    be64toh(h.offset) + be32toh(h.len) > DISK_BYTES)
			abort();
		/* Some may have been answered by a lie that was the truth. */
		if (r->num_asked == REQUESTS)
			r->num_asked = 0;
		if (r->num_unread - at < sizeof(h) + data)
			break;
		r->asked[r->num_asked++] = h;
		at += sizeof(h) + data;
	}
	memmove(r->unread, r->unread + at, r->num_unread - at);
	r->num_unread -= at;
}

static void say(struct run *r, const void *data, size_t len)
{
	if (r->server >= 0)
		(void)!send(r->server, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Any of those that wait, with data if that goes with it, perhaps not all of it. */
static void answer(struct run *r)
{
	uint8_t which = next(r), error = next(r), data[MAX_LEN] = { 0 };
	uint32_t reply[4] = { htobe32(REPLY_MAGIC), htobe32(error) };
	struct head *h;

	if (!r->num_asked)
		return;
	h = &r->asked[which % r->num_asked];
	memcpy(&reply[2], &h->cookie, sizeof(h->cookie));
	say(r, reply, sizeof(reply));
	if (!error && be16toh(h->type) == 0)
		say(r, data, which & 0x80 ? next(r) : be32toh(h->len));
	*h = r->asked[--r->num_asked];
}

/* The input's own words. */
static void lie(struct run *r)
{
	size_t len = MIN((size_t)next(r), r->size);

	say(r, r->data, len);
	r->data += len;
	r->size -= len;
}

static void hang_up(struct run *r)
{
	if (r->server >= 0)
		close(r->server);
	r->server = -1;
	forget(r);
}

/* The dialer's answer to what it was asked last, or to something else. */
static void dial(struct run *r)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .align = { .cmsg_len = CMSG_LEN(sizeof(int)),
				 .cmsg_level = SOL_SOCKET,
				 .cmsg_type = SCM_RIGHTS } };
	uint8_t how = next(r);
	struct nbd_dialed reply = { .export = r->export, .error = how & 1 ? ECONNREFUSED : 0 };
	struct iovec iov = { &reply, how & 2 ? next(r) % sizeof(reply) : sizeof(reply) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	int pair[2];

	if (r->dialer < 0)
		return;
	while (recv(r->dialer, &reply.id, sizeof(reply.id), MSG_DONTWAIT) > 0)
		;
	reply.id += how >> 7;
	reply.export.size_bytes += how & 4 ? BLOCK_SECTOR : 0;
	if (how & 8) {
		(void)!sendmsg(r->dialer, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		return;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	msg.msg_control = &control;
	msg.msg_controllen = sizeof(control);
	memcpy(CMSG_DATA(&control.align), &pair[1], sizeof(int));
	(void)!sendmsg(r->dialer, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	close(pair[1]);
	hang_up(r);
	r->server = pair[0];
}

static void step(struct run *r)
{
	switch ((enum step)(next(r) % NUM_STEPS)) {
	case SUBMIT:
		submit(r);
		return; /* with those that follow */
	case ANSWER:
		answer(r);
		break;
	case LIE:
		lie(r);
		break;
	case HANG_UP:
		hang_up(r);
		break;
	case DIAL:
		dial(r);
		break;
	case WAIT:
		clock_advance(&r->clock, next(r) * NSEC_PER_SEC / 4);
		break;
	case HURRY:
		block_hurry(r->b);
		break;
	case READ:
	case NUM_STEPS:
		break;
	}
	turn(r);
	read_requests(r);
}

/* ---- one run ---- */

static bool open_disk(struct run *r, uint8_t how)
{
	struct block_config config = { .path = "nbd://127.0.0.1/", .reconnect_seconds = LIMIT_S };
	struct error err = { 0 };
	uint8_t greeting[64];
	int pair[2], r2;

	config.read_only = how & 1;
	config.cache = (how >> 1) % 3;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	r->server = pair[0];
	config.fd = pair[1];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	r->dialer = pair[0];
	config.dialer = pair[1];
	if (how & RAW)
		say(r, r->data, r->size);
	else
		say(r, hello, sizeof(hello) - 1);
	/* Nobody waits for what it does not say. */
	if (how & RAW)
		shutdown(r->server, SHUT_WR);
	r2 = block_open(&r->b, &config, &err);
	if (r2 < 0) {
		if (!err.msg[0])
			abort();
		close(config.dialer);
		return false;
	}
	/* The flags, and the option with a name that is empty. */
	if (recv(r->server, greeting, 4 + 16 + 4 + 4, MSG_DONTWAIT) != 4 + 16 + 4 + 4)
		abort();
	r->export = (struct nbd_export){ .size_bytes = DISK_BYTES,
					 .flags = 0x6d,
					 .min_block = BLOCK_SECTOR,
					 .preferred_block = PAGE_SIZE,
					 .max_block = 32 * MiB };
	block_attach(r->b, r->loop);
	return true;
}

/* Nobody is there any more: without a server and without a dialer nothing waits. */
static void finish(struct run *r)
{
	hang_up(r);
	close(r->dialer);
	r->dialer = -1;
	for (unsigned i = 0; i < 4; i++) {
		turn(r);
		clock_advance(&r->clock, 2 * LIMIT_S * NSEC_PER_SEC);
	}
	turn(r);
	for (unsigned i = 0; i < REQUESTS; i++) {
		if (r->request[i].pending)
			abort();
	}
	block_close(r->b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool quiet;
	struct run *r = calloc(1, sizeof(*r));
	struct loop_params params = { .backend = LOOP_EPOLL, .name = "fuzz", .clock = &r->clock };
	uint8_t how;

	if (!r)
		abort();
	if (!quiet)
		log_setup(open("/dev/null", O_WRONLY | O_CLOEXEC), LOG_ERROR);
	quiet = true;
	r->data = data;
	r->size = size;
	clock_init_virtual(&r->clock, 1000 * NSEC_PER_SEC, 0);
	if (loop_create(&r->loop, &params, NULL) < 0)
		abort();
	how = next(r);
	if (open_disk(r, how)) {
		/* A raw one that has agreed answers to a few requests with what it has said. */
		for (unsigned i = 0; i < (how & RAW ? 8 : MAX_STEPS) && r->size; i++) {
			if (how & RAW)
				submit(r);
			else
				step(r);
		}
		turn(r);
		finish(r);
	} else {
		close(r->server);
		close(r->dialer);
	}
	loop_free(r->loop);
	free(r);
	return 0;
}
