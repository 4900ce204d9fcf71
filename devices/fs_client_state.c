/* Saving and loading, of which the server does the most: it knows the files. */
#include "devices/fs_client_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define PIECE	  (64 * KiB)
#define MAX_STATE (1 * GiB)

/*
 * The next message that is no reply to a request: of the files that the guest did not hear of there
 * may be some left, which nobody listens for any more. As fs_wire_receive().
 */
static int receive(struct fs_client *c, struct fs_wire *ret_head, size_t size, size_t *ret_len)
{
	int r;

	do
		r = fs_wire_receive(c->socket, ret_head, c->buffer, size, ret_len, NULL);
	while (r > 0 && ret_head->kind == FS_WIRE_FUSE);
	return r;
}

/* An answer is read for each, so that neither side waits for the other to make room. */
static int release_all(struct fs_client *c)
{
	struct fs_wire head;
	size_t len;
	int r;

	while ((r = fs_client_release_one(c, 0)) > 0) {
		r = fs_wire_receive(c->socket, &head, c->buffer, FS_MAX_MESSAGE, &len, NULL);
		if (r <= 0)
			return r < 0 ? r : -EIO;
	}
	return r;
}

void fs_client_save(struct fs_client *c, struct state_writer *w)
{
	const struct fs_wire ask = { .kind = FS_WIRE_SAVE };
	size_t at = w->len, len = 0;
	uint64_t total = 0;
	struct fs_wire head = { 0 };
	int r = c->gone ? -EIO : release_all(c);

	if (!r)
		r = fs_wire_send(c->socket, &ask, NULL, 0, -1, 0);
	/* The length is known at the end, and put in then. */
	state_put_u64(w, 0);
	while (!r) {
		r = receive(c, &head, FS_MAX_MESSAGE, &len);
		if (r <= 0 || head.kind != FS_WIRE_SAVE || !len)
			break;
		state_put_bytes(w, c->buffer, len);
		total += len;
		r = 0;
	}
	if (r <= 0 || head.kind != FS_WIRE_SAVE || len) {
		log_error("'%s': the shared directory's state cannot be had", c->name);
		w->failed = w->failed ? w->failed : -EIO;
	}
	if (!w->failed)
		put_le64(w->buf + at, total);
}

static int receive_files(struct fs_client *c)
{
	struct fs_wire head = { 0 };
	size_t len;
	int fd, r;

	for (;;) {
		r = fs_wire_receive(c->socket, &head, c->buffer, FS_MAX_MESSAGE, &len, &fd);
		if (r <= 0)
			return r < 0 ? r : -EIO;
		if (head.kind == FS_WIRE_FILE && !len)
			return 0;
		r = -EBADMSG;
		if (head.kind == FS_WIRE_FILE && len == sizeof(uint64_t) && fd >= 0)
			r = fs_client_add_file(c, get_le64(c->buffer), fd);
		if (r < 0) {
			if (fd >= 0)
				close(fd);
			return r;
		}
	}
}

int fs_client_load(struct fs_client *c, struct state_reader *r)
{
	const struct fs_wire piece = { .kind = FS_WIRE_LOAD };
	uint64_t left = state_get_u64(r);
	struct fs_wire head = { 0 };
	size_t len;
	int fail = 0;

	if (left > MAX_STATE)
		return state_reader_fail(r, "%llu bytes of state", (unsigned long long)left);
	while (!fail && !r->failed) {
		len = MIN(left, PIECE);
		state_get_bytes(r, c->buffer, len);
		fail = fs_wire_send(c->socket, &piece, c->buffer, len, -1, 0);
		left -= len;
		if (!len)
			break;
	}
	if (r->failed)
		return r->failed;
	if (!fail)
		fail = receive(c, &head, FS_MAX_MESSAGE - 1, &len);
	if (fail <= 0 || head.kind != FS_WIRE_LOADED)
		return state_reader_fail(r, "the server of '%s' gives no answer", c->name);
	/* It has closed what was open; of a machine that goes back there may be such. */
	fs_client_forget_files(c);
	if (head.slot) {
		((char *)c->buffer)[len] = '\0';
		return state_reader_fail(r, "shared directory '%s': %s", c->name,
					 (const char *)c->buffer);
	}
	fail = receive_files(c);
	return fail < 0 ? state_reader_fail(r, "open files of '%s': %s", c->name, strerror(-fail)) :
			  0;
}
