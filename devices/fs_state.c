/*
 * What the guest knows and has open, saved and found again.
 *
 * Nodes are written so that a parent comes before its children. Loading walks
 * down to each by its name, and compares: in the tree that a snapshot was taken with, or
 * that a migrated guest's is shared with, files are the same ones. The number of the
 * root's file system may have changed meanwhile, those of others below it not.
 */
#include "devices/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define VERSION 1

/* ---- saving ---- */

static void put_node(struct state_writer *w, const struct fs_node *n)
{
	state_put_u64(w, n->id);
	state_put_u64(w, n->parent ? n->parent->id : 0);
	state_put_u64(w, n->lookups);
	state_put_u16(w, n->dev_index);
	state_put_u64(w, n->is.ino);
	state_put_u64(w, n->is.btime_ns);
	state_put_u32(w, n->is.type);
	state_put_string(w, n->name ? n->name : "");
}

/* @n after all above it that is not written yet; walk marks the way back down. */
static void put_with_parents(struct state_writer *w, struct fs_node *n, uint8_t *written)
{
	struct fs_node *top = n;

	while (top->parent && !written[(uint32_t)top->parent->id - 1]) {
		top->parent->walk = top;
		top = top->parent;
	}
	for (;; top = top->walk) {
		if (!written[(uint32_t)top->id - 1]) {
			written[(uint32_t)top->id - 1] = 1;
			put_node(w, top);
		}
		if (top == n)
			return;
	}
}

void fs_server_save(struct fs_server *s, struct state_writer *w)
{
	uint8_t *written = calloc(s->num_nodes, 1);
	uint32_t count = 0;

	if (!written) {
		w->failed = -ENOMEM;
		return;
	}
	state_begin(w, "fs", 0, VERSION);
	state_put_u32(w, s->minor);
	state_put_u64(w, s->features);
	state_put_u16(w, s->num_devs);
	for (unsigned i = 0; i < s->num_devs; i++)
		state_put_u64(w, s->dev[i].dev);
	for (uint32_t i = 0; i < s->num_nodes; i++)
		count += s->node[i] != NULL;
	state_put_u32(w, count);
	for (uint32_t i = 0; i < s->num_nodes; i++)
		if (s->node[i])
			put_with_parents(w, s->node[i], written);
	free(written);
	state_put_u32(w, s->handle_generation);
	state_put_u32(w, s->used_handles);
	for (uint32_t i = 0; i < s->num_handles; i++) {
		const struct fs_handle *h = &s->handle[i];

		if (!h->id)
			continue;
		state_put_u64(w, h->id);
		state_put_u64(w, h->node_id);
		state_put_u32(w, h->flags);
		state_put_u8(w, h->is_dir);
	}
	state_end(w);
}

/* ---- loading ---- */

static int load_node(struct fs_server *s, struct state_reader *r)
{
	uint64_t id = state_get_u64(r), parent_id = state_get_u64(r), lookups = state_get_u64(r);
	uint16_t dev_index = state_get_u16(r);
	struct fs_identity is = {
		.ino = state_get_u64(r),
		.btime_ns = state_get_u64(r),
		.type = state_get_u32(r),
	};
	char name[FS_NAME_MAX + 1];
	struct fs_node *n, *parent;
	int fail;

	state_get_string(r, name, sizeof(name));
	if (r->failed)
		return r->failed;
	if (id == s->root->id) {
		if (is.ino != s->root->is.ino || is.btime_ns != s->root->is.btime_ns)
			return -ESTALE;
		return 0;
	}
	if (dev_index >= s->num_devs)
		return state_reader_fail(r, "file system %u", dev_index);
	is.dev = s->dev[dev_index].dev;
	fail = fs_node_restore(s, id, &is, dev_index, lookups, &n);
	if (fail == -ENOMEM)
		return fail;
	if (fail < 0)
		return state_reader_fail(r, "file number 0x%llx", (unsigned long long)id);
	if (!*name)
		return 0; /* it had none: stale */
	if (strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
		return state_reader_fail(r, "file name '%s'", name);
	parent = fs_node_by_place(s, parent_id);
	if (!parent || !S_ISDIR(parent->is.type))
		return state_reader_fail(r, "'%s' is in no directory", name);
	return fs_node_place(s, n, parent, name);
}

/* "dir/file", as far as it fits. */
static void path_of(const struct fs_node *n, char *buf, size_t size)
{
	size_t at = size - 1;

	buf[at] = '\0';
	for (; n && n->name; n = n->parent) {
		size_t len = strlen(n->name);

		if (len + 1 > at)
			break;
		if (buf[at])
			buf[--at] = '/';
		at -= len;
		memcpy(buf + at, n->name, len);
	}
	memmove(buf, buf + at, size - at);
}

static int load_handle(struct fs_server *s, struct state_reader *r, struct error *err)
{
	struct fs_handle h = { .fd = -1 };
	struct fs_node *n;
	char path[200];
	int fail;

	h.id = state_get_u64(r);
	h.node_id = state_get_u64(r);
	h.flags = state_get_u32(r);
	h.is_dir = state_get_bool(r);
	if (r->failed)
		return r->failed;
	n = fs_node_find(s, h.node_id);
	if (!n || h.is_dir != (bool)S_ISDIR(n->is.type))
		return state_reader_fail(r, "an open file without a node");
	h.position = UINT64_MAX;
	if (h.is_dir && !fs_node_hollow(s, n)) {
		fail = fs_node_fd(s, n);
		h.fd = fail < 0 ? fail :
				  fs_open_beneath(fail, ".", O_RDONLY | O_DIRECTORY, 0);
	} else if (!h.is_dir) {
		h.fd = fs_open_node(s, n, h.flags & ~(uint32_t)O_TRUNC);
	}
	if (h.fd < 0 && !(h.is_dir && fs_node_hollow(s, n))) {
		path_of(n, path, sizeof(path));
		return error_set(err, h.fd, "'%s', which the guest has open, cannot be had: %m",
				 n->name ? path : "(a removed file)");
	}
	fail = fs_handle_restore(s, &h);
	if (fail == -EINVAL)
		return state_reader_fail(r, "open file 0x%llx", (unsigned long long)h.id);
	return fail;
}

static int load_all(struct fs_server *s, struct state_reader *r, struct error *err)
{
	uint32_t count;
	int fail;

	s->minor = state_get_u32(r);
	s->features = state_get_u64(r);
	s->writeback = s->features & FUSE_WRITEBACK_CACHE;
	count = state_get_u16(r);
	if (!count || count > FS_MAX_DEVS)
		return error_set(err, -EBADMSG, "%u file systems", count);
	/* The first is the root's, whatever its number is today. */
	for (uint32_t i = 0; i < count; i++) {
		uint64_t dev = state_get_u64(r);

		if (i)
			s->dev[i] = (struct fs_dev){ .dev = dev };
	}
	s->num_devs = count;
	count = state_get_u32(r);
	for (uint32_t i = 0; i < count && !r->failed; i++) {
		fail = load_node(s, r);
		if (fail == -ESTALE)
			return error_set(err, fail, "the directory itself is another one");
		if (fail < 0 && !r->failed)
			return error_set(err, fail, "its files: %m");
	}
	s->handle_generation = state_get_u32(r);
	count = state_get_u32(r);
	for (uint32_t i = 0; i < count && !r->failed; i++) {
		fail = load_handle(s, r, err);
		if (fail < 0 && !r->failed)
			return fail;
	}
	return state_reader_end(r, err);
}

int fs_server_load(struct fs_server *s, const void *state, size_t len, struct error *err)
{
	struct state_reader r;
	size_t pos = 0;
	int fail = state_next(state, len, &pos, &r, err);

	if (fail < 0)
		return fail;
	if (!fail || strcmp(r.name, "fs") || r.version != VERSION || pos != len)
		return error_set(err, -EBADMSG, "saved state: not that of a shared directory");
	fs_handles_clear(s);
	fs_nodes_clear(s);
	fail = load_all(s, &r, err);
	if (fail < 0) {
		fs_handles_clear(s);
		fs_nodes_clear(s);
	}
	return fail;
}

int fs_server_open_files(struct fs_server *s, int (*fn)(void *arg, uint64_t id, int fd), void *arg)
{
	int r = 0;

	for (uint32_t i = 0; i < s->num_handles && !r; i++)
		if (s->handle[i].id && !s->handle[i].is_dir)
			r = fn(arg, s->handle[i].id, s->handle[i].fd);
	return r;
}
