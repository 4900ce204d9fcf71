/* A server in its process: messages of the socket, one after the other. */
#include "devices/fs_wire.h"

#include <errno.h>
#include <stdlib.h>

#include "devices/fs_internal.h"
#include "vmm/core/log.h"

struct serve {
	struct fs_server *s;
	int socket;
	void *in, *out; /* FS_MAX_MESSAGE each */
	uint8_t *state; /* gathered until it is complete */
	size_t state_len;
};

static int serve_fuse(struct serve *v, const struct fs_wire *head, size_t len)
{
	int fd;
	size_t n = fs_server_handle(v->s, v->in, len, v->out, FS_MAX_MESSAGE, &fd);

	return n ? fs_wire_send(v->socket, head, v->out, n, fd, 0) : 0;
}

static int serve_save(struct serve *v, const struct fs_wire *head)
{
	struct state_writer w;
	size_t at = 0, len;
	int r;

	state_writer_init(&w);
	fs_server_save(v->s, &w);
	r = w.failed;
	do {
		len = MIN(w.len - at, (size_t)FS_MAX_MESSAGE);
		if (!r)
			r = fs_wire_send(v->socket, head, w.buf + at, len, -1, 0);
		at += len;
	} while (!r && len);
	state_writer_done(&w);
	return r;
}

static int send_file(void *arg, uint64_t id, int fd)
{
	const struct fs_wire head = { .kind = FS_WIRE_FILE };
	struct serve *v = arg;

	return fs_wire_send(v->socket, &head, &id, sizeof(id), fd, 0);
}

static int serve_load(struct serve *v, size_t len)
{
	const struct fs_wire end = { .kind = FS_WIRE_FILE };
	struct fs_wire head = { .kind = FS_WIRE_LOADED };
	struct error err = { 0 };
	uint8_t *p;
	int r;

	if (len) {
		p = realloc(v->state, v->state_len + len);
		if (!p)
			return -ENOMEM;
		memcpy(p + v->state_len, v->in, len);
		v->state = p;
		v->state_len += len;
		return 0;
	}
	r = fs_server_load(v->s, v->state, v->state_len, &err);
	free(v->state);
	v->state = NULL;
	v->state_len = 0;
	head.slot = -r;
	r = fs_wire_send(v->socket, &head, err.msg, strlen(err.msg) + 1, -1, 0);
	if (!r && !head.slot)
		r = fs_server_open_files(v->s, send_file, v);
	if (!r && !head.slot)
		r = fs_wire_send(v->socket, &end, NULL, 0, -1, 0);
	return r;
}

void fs_server_serve(struct fs_server *s, int socket)
{
	struct serve v = {
		.s = s,
		.socket = socket,
		.in = malloc(FS_MAX_MESSAGE),
		.out = malloc(FS_MAX_MESSAGE),
	};
	struct fs_wire head;
	size_t len;
	int r = v.in && v.out ? 0 : -ENOMEM;

	while (!r) {
		r = fs_wire_receive(socket, &head, v.in, FS_MAX_MESSAGE, &len, NULL);
		if (r <= 0)
			break;
		if (head.kind == FS_WIRE_FUSE)
			r = serve_fuse(&v, &head, len);
		else if (head.kind == FS_WIRE_SAVE)
			r = serve_save(&v, &head);
		else if (head.kind == FS_WIRE_LOAD)
			r = serve_load(&v, len);
		else
			r = -EBADMSG;
	}
	/* A client that went away is how it ends; the rest is worth a word. */
	if (r < 0 && r != -EPIPE && r != -ECONNRESET)
		log_warn("shared directory: the server ends: %s", strerror(-r));
	free(v.state);
	free(v.in);
	free(v.out);
}
