#include "devices/fs_client.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "devices/fs_client_internal.h"
#include "vmm/core/iov.h"

/* Descriptors of the monitor's that a guest's open files may not have. */
#define SPARE_FDS 256

/* ---- open files ---- */

static void file_put(struct fs_file *f)
{
	if (--f->refs)
		return;
	close(f->fd);
	free(f);
}

static uint32_t place_of(uint64_t id)
{
	return (uint32_t)id - 1;
}

static struct fs_file *file_find(const struct fs_client *c, uint64_t id)
{
	uint32_t place = place_of(id);

	if (place >= c->room_files || !c->file[place] || c->file[place]->id != id)
		return NULL;
	return c->file[place];
}

static void file_forget(struct fs_client *c, uint64_t id)
{
	struct fs_file *f = file_find(c, id);

	if (!f)
		return;
	c->file[place_of(id)] = NULL;
	c->num_files--;
	file_put(f);
}

void fs_client_forget_files(struct fs_client *c)
{
	for (uint32_t i = 0; i < c->room_files; i++)
		if (c->file[i])
			file_forget(c, c->file[i]->id);
	/* The server forgets all of them, too. */
	c->num_unheard = 0;
}

/* The server's id says where; it uses low places first, so the table stays small. */
int fs_client_add_file(struct fs_client *c, uint64_t id, int fd)
{
	uint32_t place = place_of(id), room = c->room_files ? c->room_files : 16;
	struct fs_file *f, **table;

	if (c->num_files >= c->max_files || place >= c->max_files)
		return -ENFILE;
	while (room <= place)
		room *= 2;
	if (room > c->room_files) {
		table = reallocarray(c->file, room, sizeof(table[0]));
		if (!table)
			return -ENOMEM;
		memset(table + c->room_files, 0, (room - c->room_files) * sizeof(table[0]));
		c->file = table;
		c->room_files = room;
	}
	f = malloc(sizeof(*f));
	if (!f)
		return -ENOMEM;
	*f = (struct fs_file){ .id = id, .fd = fd, .refs = 1 };
	/* The server gave the place away again: what was there is closed. */
	if (c->file[place])
		file_forget(c, c->file[place]->id);
	c->file[place] = f;
	c->num_files++;
	return 0;
}

/* ---- gathering and scattering ---- */

static size_t gather(const struct fs_request *req, uint64_t skip, void *to, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < req->num_out && done < len; i++) {
		const struct iovec *v = &req->out[i];
		size_t n;

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		n = MIN(v->iov_len - skip, len - done);
		memcpy((uint8_t *)to + done, (uint8_t *)v->iov_base + skip, n);
		done += n;
		skip = 0;
	}
	return done;
}

static size_t scatter(struct fs_request *req, uint64_t skip, const void *from, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < req->num_in && done < len; i++) {
		const struct iovec *v = &req->in[i];
		size_t n;

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		n = MIN(v->iov_len - skip, len - done);
		memcpy((uint8_t *)v->iov_base + skip, (const uint8_t *)from + done, n);
		done += n;
		skip = 0;
	}
	return done;
}

/* ---- the end of a request ---- */

static void finish_later(struct loop_task *task)
{
	struct fs_request *req = container_of(task, struct fs_request, finish);

	req->done(req, req->result);
}

static void end_with(struct fs_request *req, uint32_t bytes)
{
	req->result = bytes;
	loop_defer(req->client->loop, &req->finish);
}

static bool wants_reply(const struct fs_request *req)
{
	return req->header.opcode != FUSE_FORGET && req->header.opcode != FUSE_BATCH_FORGET &&
	       req->header.opcode != FUSE_INTERRUPT;
}

/* Put a reply into the guest's buffers: @error (0 or -errno), and @len bytes that follow. */
static uint32_t put_reply(struct fs_request *req, int error, const void *body, size_t len)
{
	struct fuse_out_header head = {
		.len = sizeof(head) + len,
		.error = error,
		.unique = req->header.unique,
	};

	if (!wants_reply(req))
		return 0;
	/* A guest that left no room for it gets nothing: it is its own fault. */
	if (scatter(req, 0, &head, sizeof(head)) < sizeof(head))
		return 0;
	return sizeof(head) + scatter(req, sizeof(head), body, len);
}

static void end_reply(struct fs_request *req, int error, const void *body, size_t len)
{
	end_with(req, put_reply(req, error, body, len));
}

/* ---- data: between the guest's pages and the file ---- */

/* The file that @id stands for, held until data_end(); NULL: answered. */
static struct fs_file *take_file(struct fs_request *req, uint64_t id)
{
	struct fs_file *f = file_find(req->client, id);

	if (!f) {
		end_reply(req, -EBADF, NULL, 0);
		return NULL;
	}
	f->refs++;
	req->file = f;
	return f;
}

static void data_end(struct fs_request *req)
{
	file_put(req->file);
	req->file = NULL;
}

static void read_done(struct loop_op *op, int res)
{
	struct fs_request *req = container_of(op, struct fs_request, op);
	struct fuse_out_header head = { .unique = req->header.unique };

	data_end(req);
	if (res < 0) {
		end_reply(req, res, NULL, 0);
		return;
	}
	/* The data is behind it already. */
	head.len = sizeof(head) + res;
	scatter(req, 0, &head, sizeof(head));
	end_with(req, head.len);
}

static void do_read(struct fs_request *req)
{
	struct fuse_read_in in;
	struct fs_file *f;
	unsigned n;

	if (gather(req, sizeof(req->header), &in, sizeof(in)) < sizeof(in) ||
	    req->in_bytes < sizeof(struct fuse_out_header) ||
	    in.offset > (uint64_t)INT64_MAX - in.size) {
		end_reply(req, -EINVAL, NULL, 0);
		return;
	}
	f = take_file(req, in.fh);
	if (!f)
		return;
	n = iov_slice(req->in, req->num_in, sizeof(struct fuse_out_header), in.size, req->scratch);
	req->op.done = read_done;
	loop_readv(req->client->loop, &req->op, f->fd, req->scratch, n, in.offset);
}

static void write_done(struct loop_op *op, int res)
{
	struct fs_request *req = container_of(op, struct fs_request, op);
	struct fuse_write_out out = { .size = MAX(res, 0) };

	data_end(req);
	end_reply(req, MIN(res, 0), &out, res < 0 ? 0 : sizeof(out));
}

static void do_write(struct fs_request *req)
{
	const uint64_t before = sizeof(req->header) + sizeof(struct fuse_write_in);
	struct fuse_write_in in;
	struct fs_file *f;
	unsigned n;

	if (gather(req, sizeof(req->header), &in, sizeof(in)) < sizeof(in) ||
	    in.size > req->out_bytes - before || in.offset > (uint64_t)INT64_MAX - in.size) {
		end_reply(req, -EINVAL, NULL, 0);
		return;
	}
	f = take_file(req, in.fh);
	if (!f)
		return;
	n = iov_slice(req->out, req->num_out, before, in.size, req->scratch);
	req->op.done = write_done;
	loop_writev(req->client->loop, &req->op, f->fd, req->scratch, n, in.offset);
}

static void plain_done(struct loop_op *op, int res)
{
	struct fs_request *req = container_of(op, struct fs_request, op);

	data_end(req);
	end_reply(req, MIN(res, 0), NULL, 0);
}

static void do_fsync(struct fs_request *req)
{
	struct fuse_fsync_in in;
	struct fs_file *f;

	if (gather(req, sizeof(req->header), &in, sizeof(in)) < sizeof(in)) {
		end_reply(req, -EINVAL, NULL, 0);
		return;
	}
	f = take_file(req, in.fh);
	if (!f)
		return;
	req->op.done = plain_done;
	loop_fsync(req->client->loop, &req->op, f->fd, in.fsync_flags & FUSE_FSYNC_FDATASYNC);
}

static void do_fallocate(struct fs_request *req)
{
	struct fuse_fallocate_in in;
	struct fs_file *f;

	if (gather(req, sizeof(req->header), &in, sizeof(in)) < sizeof(in) ||
	    in.offset > INT64_MAX || in.length > INT64_MAX - in.offset) {
		end_reply(req, -EINVAL, NULL, 0);
		return;
	}
	if (in.mode & ~(uint32_t)(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE |
				  FALLOC_FL_ZERO_RANGE)) {
		end_reply(req, -EOPNOTSUPP, NULL, 0);
		return;
	}
	f = take_file(req, in.fh);
	if (!f)
		return;
	req->op.done = plain_done;
	loop_fallocate(req->client->loop, &req->op, f->fd, (int)in.mode, in.offset, in.length);
}

/* ---- all else: the server's ---- */

static void slot_free(struct fs_client *c, struct fs_request *req)
{
	c->slot[req->slot] = NULL;
	c->free_slot[c->num_free++] = req->slot;
}

static void fail_all(struct fs_client *c, int error)
{
	for (unsigned i = 0; i < FS_CLIENT_MAX_REQUESTS; i++) {
		struct fs_request *req = c->slot[i];

		/* One that is still being sent ends when that does. */
		if (!req || req->sending)
			continue;
		slot_free(c, req);
		end_reply(req, error, NULL, 0);
	}
}

static void server_gone(struct fs_client *c, int res)
{
	if (!c->gone)
		log_error("'%s': the server of the shared directory is gone%s%s", c->name,
			  res < 0 ? ": " : "", res < 0 ? strerror(-res) : "");
	c->gone = true;
	fail_all(c, -EIO);
}

static void sent(struct loop_op *op, int res)
{
	struct fs_request *req = container_of(op, struct fs_request, op);
	struct fs_client *c = req->client;

	req->sending = false;
	if (res < 0)
		server_gone(c, res);
	/* server_gone() ended it with the others, or its reply was quicker than this news. */
	if (c->slot[req->slot] != req)
		return;
	if (req->answered || !wants_reply(req)) {
		slot_free(c, req);
		end_with(req, req->answered ? req->result : 0);
	} else if (c->gone) {
		slot_free(c, req);
		end_reply(req, -EIO, NULL, 0);
	}
}

static void pass_on(struct fs_request *req)
{
	struct fs_client *c = req->client;
	struct iovec *iov = req->scratch;
	uint64_t body = req->header.len - sizeof(req->header);
	unsigned n;

	if (c->gone) {
		end_reply(req, -EIO, NULL, 0);
		return;
	}
	if (req->header.len > FS_MAX_MESSAGE || !c->num_free) {
		end_reply(req, -EINVAL, NULL, 0);
		return;
	}
	/* Files that are about to close are ours no more; the server decides who had them. */
	if (req->header.opcode == FUSE_RELEASE) {
		struct fuse_release_in in;

		if (gather(req, sizeof(req->header), &in, sizeof(in)) == sizeof(in))
			file_forget(c, in.fh);
	} else if (req->header.opcode == FUSE_INIT || req->header.opcode == FUSE_DESTROY) {
		fs_client_forget_files(c);
	}
	req->slot = c->free_slot[--c->num_free];
	c->slot[req->slot] = req;
	req->wire[0] = FS_WIRE_FUSE;
	req->wire[1] = req->slot;
	/* The header as it was read: the guest must not change it under way. */
	iov[0] = (struct iovec){ req->wire, sizeof(req->wire) };
	iov[1] = (struct iovec){ &req->header, sizeof(req->header) };
	n = iov_slice(req->out, req->num_out, sizeof(req->header), body, iov + 2);
	req->msg = (struct msghdr){ .msg_iov = iov, .msg_iovlen = n + 2 };
	req->op.done = sent;
	req->sending = true;
	req->answered = false;
	loop_sendmsg(c->loop, &req->op, c->socket, &req->msg, MSG_NOSIGNAL);
}

int fs_client_release_one(struct fs_client *c, int flags)
{
	struct {
		struct fuse_in_header head;
		struct fuse_release_in in;
	} msg = { .head = { .len = sizeof(msg), .opcode = FUSE_RELEASE } };
	const struct fs_wire wire = { .kind = FS_WIRE_FUSE, .slot = FS_CLIENT_MAX_REQUESTS };
	int r;

	if (!c->num_unheard || c->gone)
		return 0;
	msg.in.fh = c->unheard[c->num_unheard - 1];
	r = fs_wire_send(c->socket, &wire, &msg, sizeof(msg), -1, flags);
	if (r < 0)
		return r;
	c->num_unheard--;
	return 1;
}

/* As many as it has room for. */
static void release_some(struct fs_client *c)
{
	while (fs_client_release_one(c, MSG_DONTWAIT) > 0)
		;
}

/* Have the server close a file that the guest will not hear of. */
static void release_unheard(struct fs_client *c, uint64_t id)
{
	size_t room = c->room_unheard ? 2 * c->room_unheard : 16;
	uint64_t *larger;

	if (c->num_unheard == c->room_unheard) {
		larger = reallocarray(c->unheard, room, sizeof(larger[0]));
		if (!larger) {
			log_limited(&c->complaints, LOG_WARN,
				    "'%s': no memory to have the server close a file", c->name);
			return;
		}
		c->unheard = larger;
		c->room_unheard = room;
	}
	c->unheard[c->num_unheard++] = id;
	release_some(c);
}

/* The reply to an open: keep the descriptor by the file's id. 0, or -errno. */
static int keep_file(struct fs_client *c, const struct fs_request *req, const uint8_t *body,
		     size_t len, int fd)
{
	size_t at = req->header.opcode == FUSE_CREATE ? sizeof(struct fuse_entry_out) : 0;
	struct fuse_open_out out;
	int r;

	if ((req->header.opcode != FUSE_OPEN && req->header.opcode != FUSE_CREATE) ||
	    len < at + sizeof(out)) {
		if (fd >= 0)
			close(fd);
		return 0;
	}
	memcpy(&out, body + at, sizeof(out));
	r = fd < 0 ? -ENFILE : fs_client_add_file(c, out.fh, fd);
	if (r < 0) {
		if (fd >= 0)
			close(fd);
		release_unheard(c, out.fh);
	}
	return r;
}

static void reply_arrived(struct fs_client *c, size_t len, int fd)
{
	const struct fs_wire *wire = c->buffer;
	const struct fuse_out_header *head = (const struct fuse_out_header *)(wire + 1);
	struct fs_request *req;
	int r;

	if (len < sizeof(*wire) + sizeof(*head) || wire->slot >= FS_CLIENT_MAX_REQUESTS ||
	    !c->slot[wire->slot] || head->len != len - sizeof(*wire)) {
		if (fd >= 0)
			close(fd);
		return;
	}
	req = c->slot[wire->slot];
	len -= sizeof(*wire) + sizeof(*head);
	r = head->error;
	if (r == 0)
		r = keep_file(c, req, (const uint8_t *)(head + 1), len, fd);
	else if (fd >= 0)
		close(fd);
	req->result = put_reply(req, r, head + 1, r ? 0 : len);
	if (req->sending) {
		req->answered = true; /* sent() goes on */
		return;
	}
	slot_free(c, req);
	end_with(req, req->result);
}

static void listen_on(struct fs_client *c);

static void received(struct loop_op *op, int res)
{
	struct fs_client *c = container_of(op, struct fs_client, op);

	c->listening = false;
	if (res > 0) {
		reply_arrived(c, res, fds_take_one(&c->msg));
		/* It has read what it answers: there may be room. */
		release_some(c);
	} else if (res != -ECANCELED || !c->stopped) {
		server_gone(c, res);
	}
	if (c->stopped) {
		void (*fn)(void *arg) = c->stopped;

		c->stopped = NULL;
		fn(c->stopped_arg);
	} else {
		listen_on(c);
	}
}

static void listen_on(struct fs_client *c)
{
	if (c->gone)
		return;
	c->iov = (struct iovec){ c->buffer, FS_WIRE_MAX };
	c->msg = (struct msghdr){
		.msg_iov = &c->iov,
		.msg_iovlen = 1,
		.msg_control = &c->control,
		.msg_controllen = sizeof(c->control),
	};
	c->op.done = received;
	c->listening = true;
	loop_recvmsg(c->loop, &c->op, c->socket, &c->msg, MSG_CMSG_CLOEXEC);
}

/* ---- the outside ---- */

void fs_client_submit(struct fs_client *c, struct fs_request *req)
{
	req->client = c;
	req->finish = (struct loop_task){ .run = finish_later };
	req->header = (struct fuse_in_header){ 0 };
	if (gather(req, 0, &req->header, sizeof(req->header)) < sizeof(req->header)) {
		end_with(req, 0);
		return;
	}
	if (req->header.len < sizeof(req->header) || req->header.len > req->out_bytes) {
		end_reply(req, -EINVAL, NULL, 0);
		return;
	}
	switch (req->header.opcode) {
	case FUSE_READ:
		do_read(req);
		break;
	case FUSE_WRITE:
		do_write(req);
		break;
	case FUSE_FSYNC:
		do_fsync(req);
		break;
	case FUSE_FALLOCATE:
		do_fallocate(req);
		break;
	default:
		pass_on(req);
	}
}

void fs_client_start(struct fs_client *c)
{
	if (!c->listening)
		listen_on(c);
}

void fs_client_stop(struct fs_client *c, void (*stopped)(void *arg), void *arg)
{
	if (!c->listening) {
		stopped(arg);
		return;
	}
	c->stopped = stopped;
	c->stopped_arg = arg;
	loop_cancel(c->loop, &c->op);
}

int fs_client_create(struct fs_client **ret_c, int socket, struct loop *loop, const char *name,
		     struct error *err)
{
	struct fs_client *c = calloc(1, sizeof(*c));
	struct rlimit limit = { .rlim_cur = 1024 };

	if (c)
		c->buffer = malloc(FS_WIRE_MAX);
	if (!c || !c->buffer) {
		free(c);
		close(socket);
		return error_set(err, -ENOMEM, "shared directory '%s': %m", name);
	}
	getrlimit(RLIMIT_NOFILE, &limit);
	c->max_files = limit.rlim_cur > 2 * SPARE_FDS ?
			       MIN(limit.rlim_cur, (rlim_t)1 << 20) - SPARE_FDS :
			       SPARE_FDS;
	c->socket = socket;
	c->loop = loop;
	c->name = name;
	while (c->num_free < FS_CLIENT_MAX_REQUESTS) {
		c->free_slot[c->num_free] = FS_CLIENT_MAX_REQUESTS - 1 - c->num_free;
		c->num_free++;
	}
	*ret_c = c;
	return 0;
}

static void set_flag(void *arg)
{
	*(bool *)arg = true;
}

void fs_client_free(struct fs_client *c)
{
	bool stopped = false;

	if (!c)
		return;
	fs_client_stop(c, set_flag, &stopped);
	while (!stopped)
		loop_run_once(c->loop, UINT64_MAX);
	fs_client_forget_files(c);
	close(c->socket);
	free(c->file);
	free(c->unheard);
	free(c->buffer);
	free(c);
}
