/*
 * Disks behind an NBD server: the transmission phase. Requests of a round leave in one
 * message, are answered in any order, and data goes straight between socket and guest pages.
 * One that is larger than the server takes goes in pieces, one after the other.
 *
 * A connection that breaks, lies or is silent for too long is lost: what was in flight is asked
 * again of the next one (block_nbd_redial.c), or fails. The server is trusted with the disk's
 * contents and with nothing else.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/block_nbd_internal.h"
#include "vmm/core/iov.h"

#define REQUEST_MAGIC 0x25609513u
#define REPLY_MAGIC   0x67446698u

#define MAX_SEGMENTS (NBD_MAX_IOV - 1)
#define SILENCE_NS   (30 * NSEC_PER_SEC)
#define WORK_NS	     (600 * NSEC_PER_SEC) /* while it owes what may take long */

#define MAX_LENGTH align_down(UINT32_MAX, PAGE_SIZE) /* of what carries no data */

enum command { CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_WRITE_ZEROES = 6 };
enum command_flag { FLAG_FUA = 1, FLAG_NO_HOLE = 2 };

enum stage { STAGE_START, STAGE_SYNC };

static struct block_nbd *nbd_of(struct block *b)
{
	return container_of(b, struct block_nbd, b);
}

/* ---- streams ---- */

static void stream_clear(struct nbd_stream *s)
{
	s->at = s->iov;
	s->num = 0;
}

static void stream_add(struct nbd_stream *s, void *base, size_t len)
{
	s->iov[s->num++] = (struct iovec){ base, len };
}

/* @len bytes of the request's buffers from @from on. */
static void stream_add_data(struct nbd_stream *s, const struct block_req *req, uint64_t from,
			    uint64_t len)
{
	s->num += iov_slice(req->iov, req->iovcnt, from, len, s->iov + s->num);
}

/* @bytes are done. True when nothing is left. */
static bool stream_advance(struct nbd_stream *s, size_t bytes)
{
	s->num = iov_advance(&s->at, s->num, bytes);
	return !s->num;
}

static void stream_go(struct block_nbd *n, struct nbd_stream *s)
{
	s->msg = (struct msghdr){ .msg_iov = s->at, .msg_iovlen = s->num };
	s->busy = true;
	if (s == &n->out)
		loop_sendmsg(n->b.loop, &s->op, n->fd, &s->msg, MSG_NOSIGNAL);
	else
		loop_recvmsg(n->b.loop, &s->op, n->fd, &s->msg, 0);
}

/*
 * A server may be busy for minutes with making durable all that it has, or with zeroes for a
 * device that cannot make them. One that is gone meanwhile is found out by the connection.
 */
void nbd_heard(struct block_nbd *n)
{
	uint64_t limit = n->at_work && !n->redial.hurried ? WORK_NS : SILENCE_NS;

	if (n->busy)
		loop_timer_set(n->b.loop, &n->silence,
			       clock_monotonic_ns(loop_clock(n->b.loop)) + limit);
	else
		loop_timer_cancel(n->b.loop, &n->silence);
}

/* ---- requests out ---- */

static uint16_t command_of(const struct block_req *req)
{
	if (req->stage == STAGE_SYNC)
		return CMD_FLUSH;
	switch (req->op) {
	case BLOCK_READ:
		return CMD_READ;
	case BLOCK_WRITE:
		return CMD_WRITE;
	case BLOCK_DISCARD:
		return CMD_TRIM;
	case BLOCK_WRITE_ZEROES:
		return CMD_WRITE_ZEROES;
	case BLOCK_FLUSH:
		break;
	}
	return CMD_FLUSH;
}

static bool has_data(const struct block_req *req)
{
	return req->op == BLOCK_READ || req->op == BLOCK_WRITE;
}

static bool must_last(const struct block_nbd *n, const struct block_req *req)
{
	return (req->op == BLOCK_WRITE || req->op == BLOCK_WRITE_ZEROES) && !n->b.no_flush &&
	       (req->durable || n->b.writethrough);
}

static void fill_slot(struct block_nbd *n, struct nbd_slot *s, struct block_req *req)
{
	uint64_t most = has_data(req) ? n->export.max_block : MAX_LENGTH;
	uint16_t command = command_of(req), flags = 0;

	s->req = req;
	s->leaving = true;
	s->answered = false;
	s->len = command == CMD_FLUSH ? 0 : MIN(req->len - req->progress, most);
	if (command != CMD_FLUSH && must_last(n, req) && n->export.flags & NBD_FUA)
		flags |= FLAG_FUA;
	if (command == CMD_WRITE_ZEROES && !req->may_unmap)
		flags |= FLAG_NO_HOLE;
	s->long_work = flags & FLAG_FUA || (command != CMD_READ && command != CMD_WRITE);
	s->head = (struct nbd_request_head){
		.magic = htobe32(REQUEST_MAGIC),
		.flags = htobe16(flags),
		.type = htobe16(command),
		.cookie = htobe64((uint64_t)s->turn << 32 | (s - n->slot)),
		.offset = htobe64(s->len ? req->offset + req->progress : 0),
		.len = htobe32(s->len),
	};
	n->busy++;
	n->owed++;
	n->at_work += s->long_work;
	stream_add(&n->out, &s->head, sizeof(s->head));
	if (command == CMD_WRITE)
		stream_add_data(&n->out, req, req->progress, s->len);
}

static void read_reply(struct block_nbd *n)
{
	n->reading = NULL;
	stream_clear(&n->in);
	stream_add(&n->in, &n->reply, sizeof(n->reply));
	stream_go(n, &n->in);
}

/* As much of what waits as one message holds. */
static void send_waiting(struct loop_task *task)
{
	struct block_nbd *n = container_of(task, struct block_nbd, send);

	if (n->out.busy || n->link != NBD_UP)
		return;
	stream_clear(&n->out);
	for (unsigned i = 0; i < NBD_SLOTS && !list_empty(&n->waiting); i++) {
		struct block_req *req = list_entry(n->waiting.next, struct block_req, link);

		if (n->slot[i].req)
			continue;
		if (n->out.num + 1 + req->iovcnt > NBD_MAX_IOV)
			break;
		list_del(&req->link);
		fill_slot(n, &n->slot[i], req);
	}
	if (!n->out.num)
		return;
	stream_go(n, &n->out);
	if (!n->in.busy)
		read_reply(n);
	nbd_heard(n);
}

/* ---- answers ---- */

static bool lacks_sync(const struct block_nbd *n, const struct block_req *req)
{
	return req->stage == STAGE_START && must_last(n, req) && !(n->export.flags & NBD_FUA);
}

/* A piece is over, and its buffers are ours again. */
static void piece_done(struct block_nbd *n, struct nbd_slot *s)
{
	struct block_req *req = s->req;
	int res = s->res;

	s->req = NULL;
	s->turn++;
	n->busy--;
	/* A discard is only advice; what cannot be taken is no error. */
	if (req->op == BLOCK_DISCARD && (res == -EOPNOTSUPP || res == -EINVAL))
		res = 0;
	req->progress += s->len;
	if (!res && (req->progress < req->len || lacks_sync(n, req))) {
		if (req->progress >= req->len)
			req->stage = STAGE_SYNC;
		/* In front of all others. */
		list_add_tail(n->waiting.next, &req->link);
	} else {
		block_finish(req, res);
	}
	/* It is a slot for others. */
	if (!list_empty(&n->waiting))
		loop_defer(n->b.loop, &n->send);
}

static void answered(struct block_nbd *n, struct nbd_slot *s, int res)
{
	n->owed--;
	n->at_work -= s->long_work;
	s->answered = true;
	s->res = res;
	/* Else its buffers, and those behind it in the message, are still being sent. */
	if (!s->leaving)
		piece_done(n, s);
}

static void sent(struct loop_op *op, int res)
{
	struct block_nbd *n = container_of(op, struct block_nbd, out.op);

	n->out.busy = false;
	if (n->link != NBD_UP || (res <= 0 && res != -EINTR)) {
		nbd_lost(n, res < 0 ? strerror(-res) : "it takes nothing");
		return;
	}
	if (!stream_advance(&n->out, MAX(res, 0))) {
		stream_go(n, &n->out);
		return;
	}
	for (unsigned i = 0; i < NBD_SLOTS; i++) {
		struct nbd_slot *s = &n->slot[i];

		if (!s->req || !s->leaving)
			continue;
		s->leaving = false;
		if (s->answered)
			piece_done(n, s);
	}
	if (!list_empty(&n->waiting))
		loop_defer(n->b.loop, &n->send);
	/* It may have answered all of it before it had read all of it. */
	nbd_heard(n);
}

/* The protocol's errors have the numbers that Linux has. */
static int error_of(uint32_t e)
{
	switch (e) {
	case 0:
		return 0;
	case EPERM:
	case ENOMEM:
	case EINVAL:
	case ENOSPC:
	case EOVERFLOW:
	case EOPNOTSUPP:
	case ESHUTDOWN:
		return -(int)e;
	default:
		return -EIO;
	}
}

/* The head of a reply is complete. False: the server has lied. */
static bool take_head(struct block_nbd *n)
{
	uint64_t cookie = be64toh(n->reply.cookie);
	uint32_t index = (uint32_t)cookie;
	int res = error_of(be32toh(n->reply.error));
	struct nbd_slot *s = index < NBD_SLOTS ? &n->slot[index] : NULL;

	if (be32toh(n->reply.magic) != REPLY_MAGIC || !s || !s->req || s->answered ||
	    s->turn != cookie >> 32)
		return false;
	nbd_proven(n);
	if (!res && s->req->op == BLOCK_READ) {
		n->reading = s;
		stream_clear(&n->in);
		stream_add_data(&n->in, s->req, s->req->progress, s->len);
		return true;
	}
	answered(n, s, res);
	return true;
}

static void received(struct loop_op *op, int res)
{
	struct block_nbd *n = container_of(op, struct block_nbd, in.op);

	n->in.busy = false;
	if (n->link != NBD_UP || (res <= 0 && res != -EINTR)) {
		nbd_lost(n, res < 0 ? strerror(-res) : "it has closed the connection");
		return;
	}
	if (!stream_advance(&n->in, MAX(res, 0))) {
		stream_go(n, &n->in);
		return;
	}
	if (n->reading) {
		answered(n, n->reading, 0);
		n->reading = NULL;
	} else if (!take_head(n)) {
		nbd_lost(n, "its answer is malformed");
		return;
	} else if (n->reading) {
		stream_go(n, &n->in);
		return;
	}
	/* No longer than that: what outlives all requests could outlive the disk. */
	if (n->owed)
		read_reply(n);
	nbd_heard(n);
}

/* ---- between connections ---- */

void nbd_fail_all(struct block_nbd *n)
{
	struct list all;

	/* Whoever is told may ask again at once. */
	list_init(&all);
	list_move_all(&all, &n->waiting);
	while (!list_empty(&all)) {
		struct block_req *req = list_entry(all.next, struct block_req, link);

		list_del(&req->link);
		block_finish(req, -EIO);
	}
}

/*
 * What was under way begins anew, in its old place before all others: also what is durable
 * only after a flush that the old server has not answered.
 */
void nbd_take_back(struct block_nbd *n)
{
	for (unsigned i = NBD_SLOTS; i-- > 0;) {
		struct nbd_slot *s = &n->slot[i];

		if (!s->req)
			continue;
		s->req->progress = 0;
		s->req->stage = STAGE_START;
		list_add_tail(n->waiting.next, &s->req->link);
		s->req = NULL;
		s->turn++;
	}
	n->busy = 0;
	n->owed = 0;
	n->at_work = 0;
	n->reading = NULL;
}

void nbd_connected(struct block_nbd *n, int fd)
{
	n->fd = fd;
	n->link = NBD_UP;
	loop_defer(n->b.loop, &n->send);
}

static void silent(struct loop_timer *t)
{
	nbd_lost(container_of(t, struct block_nbd, silence), "it says nothing");
}

/* ---- the block ---- */

static void nbd_submit(struct block *b, struct block_req *req)
{
	struct block_nbd *n = nbd_of(b);
	static const uint16_t needs[] = {
		[BLOCK_FLUSH] = NBD_FLUSH,
		[BLOCK_DISCARD] = NBD_TRIM,
		[BLOCK_WRITE_ZEROES] = NBD_WRITE_ZEROES,
	};
	bool can = (n->export.flags & needs[req->op]) == needs[req->op];

	if (!can || (has_data(req) && req->iovcnt > MAX_SEGMENTS)) {
		block_finish_later(req, can ? -EINVAL : -EOPNOTSUPP);
		return;
	}
	n->redial.hurried = false;
	if (n->link != NBD_UP && !nbd_may_wait(n)) {
		block_finish_later(req, -EIO);
		return;
	}
	list_add_tail(&n->waiting, &req->link);
	loop_defer(b->loop, &n->send);
}

static void hurry(struct block *b)
{
	nbd_hurry(nbd_of(b));
}

static int nbd_free(struct block *b)
{
	struct block_nbd *n = nbd_of(b);

	if (b->loop)
		loop_timer_cancel(b->loop, &n->silence);
	nbd_redial_done(n);
	if (n->fd >= 0)
		close(n->fd);
	free(b->path);
	free(n);
	return 0;
}

static const struct block_ops nbd_ops = {
	.submit = nbd_submit,
	.hurry = hurry,
	.free = nbd_free,
};

static int check_access(const struct nbd_export *e, const struct block_config *config,
			struct error *err)
{
	if (!config->read_only && e->flags & NBD_READ_ONLY) {
		error_usage(err, -EROFS, "disk '%s': its server lets nobody write", config->path);
		error_hint(err, "ro makes it a read-only disk");
		return -EROFS;
	}
	if (config->format == BLOCK_FORMAT_QCOW2)
		return error_usage(err, -EOPNOTSUPP,
				   "disk '%s': format=qcow2: a server shows what is in an image, "
				   "not the image",
				   config->path);
	return 0;
}

int block_nbd_create(struct block **ret_block, int fd, const struct block_config *config,
		     struct error *err)
{
	struct block_nbd *n = calloc(1, sizeof(*n));
	struct nbd_export e;
	int r;

	if (!n)
		return error_set(err, -ENOMEM, "disk '%s': %m", config->path);
	r = nbd_negotiate(fd, config->path, &e, err);
	if (!r)
		r = check_access(&e, config, err);
	if (r < 0) {
		free(n);
		return r;
	}
	n->fd = fd;
	n->export = e;
	n->b = (struct block){
		.ops = &nbd_ops,
		.path = strdup(config->path),
		.size_bytes = align_down(e.size_bytes, BLOCK_SECTOR),
		.logical_block = e.min_block,
		.physical_block = e.preferred_block,
		.read_only = config->read_only,
		.can_discard = !config->read_only && e.flags & NBD_TRIM,
		.can_write_zeroes = !config->read_only && e.flags & NBD_WRITE_ZEROES,
		.writethrough = config->cache == BLOCK_CACHE_WRITETHROUGH,
		/* A server without flushes has nothing that could be lost. */
		.no_flush = config->cache == BLOCK_CACHE_UNSAFE || !(e.flags & NBD_FLUSH),
	};
	if (!n->b.path) {
		free(n);
		return error_set(err, -ENOMEM, "disk '%s': %m", config->path);
	}
	list_init(&n->waiting);
	n->send.run = send_waiting;
	n->silence.expired = silent;
	n->out.op.done = sent;
	n->in.op.done = received;
	nbd_redial_init(n, config->dialer, config->reconnect_seconds);
	*ret_block = &n->b;
	return 0;
}
