/* Writes the seeds of fuzz_fs into the directory given: what guests ask of a share. */
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz_fs.h"
#include "tests/fuzz/seed.h"
#include "vmm/core/state.h"

struct seed {
	uint8_t data[4096];
	size_t len;
};

static void add(struct seed *s, uint8_t opcode, uint8_t node, uint8_t first, const void *body,
		size_t len, const char *text)
{
	size_t text_len = text ? strlen(text) + 1 : 0;
	struct fuzz_request q = { opcode, node, first, len + text_len };

	memcpy(s->data + s->len, &q, sizeof(q));
	s->len += sizeof(q);
	if (len)
		memcpy(s->data + s->len, body, len);
	if (text)
		memcpy(s->data + s->len + len, text, text_len);
	s->len += len + text_len;
}

/* Node 1 becomes the file "f", open as handle 0. */
static void create_file(struct seed *s)
{
	const struct fuse_create_in in = { .flags = O_RDWR, .mode = 0100644 };

	add(s, FUSE_CREATE, 0, 0, &in, sizeof(in), "f");
}

static void make_directory(struct seed *s, const char *name)
{
	const struct fuse_mkdir_in in = { .mode = 0755 };

	add(s, FUSE_MKDIR, 0, 0, &in, sizeof(in), name);
}

static bool files(const char *dir, struct seed *s)
{
	const struct fuse_getattr_in get = { 0 };
	const struct fuse_setattr_in set = { .valid = FATTR_SIZE | FATTR_MODE,
					     .size = 9,
					     .mode = 0600 };
	const struct fuse_fallocate_in room = { .length = 4096 };
	const struct fuse_lseek_in seek = { .whence = SEEK_DATA };
	const struct fuse_fsync_in sync = { 0 };
	const struct fuse_release_in release = { 0 };

	s->len = 0;
	create_file(s);
	add(s, FUSE_GETATTR, 1, 0, &get, sizeof(get), NULL);
	add(s, FUSE_SETATTR, 1, 0, &set, sizeof(set), NULL);
	add(s, FUSE_FALLOCATE, 1, FUZZ_FIRST_HANDLE, &room, sizeof(room), NULL);
	add(s, FUSE_LSEEK, 1, FUZZ_FIRST_HANDLE, &seek, sizeof(seek), NULL);
	add(s, FUSE_FSYNC, 1, FUZZ_FIRST_HANDLE, &sync, sizeof(sync), NULL);
	add(s, FUSE_RELEASE, 1, FUZZ_FIRST_HANDLE, &release, sizeof(release), NULL);
	add(s, FUSE_STATFS, 0, 0, NULL, 0, NULL);
	return seed_write(dir, "files", s->data, s->len);
}

static bool directories(const char *dir, struct seed *s)
{
	const struct fuse_open_in open = { .flags = O_RDONLY | O_DIRECTORY };
	const struct fuse_read_in read = { .size = 4096 };

	s->len = 0;
	create_file(s);
	make_directory(s, "d");
	add(s, FUSE_OPENDIR, 0, 0, &open, sizeof(open), NULL);
	add(s, FUSE_READDIR, 0, FUZZ_FIRST_HANDLE + 1, &read, sizeof(read), NULL);
	add(s, FUSE_READDIRPLUS, 0, FUZZ_FIRST_HANDLE + 1, &read, sizeof(read), NULL);
	add(s, FUSE_RMDIR, 0, 0, NULL, 0, "d");
	add(s, FUSE_UNLINK, 0, 0, NULL, 0, "f");
	return seed_write(dir, "directories", s->data, s->len);
}

/* Names that lead elsewhere, and what is not to be followed. */
static bool escapes(const char *dir, struct seed *s)
{
	const struct fuse_open_in open = { .flags = O_RDWR };
	const uint64_t node = 0;

	s->len = 0;
	add(s, FUSE_LOOKUP, 0, 0, NULL, 0, "..");
	add(s, FUSE_LOOKUP, 0, 0, NULL, 0, "../secret");
	add(s, FUSE_SYMLINK, 0, 0, "l", 2, "../secret");
	add(s, FUSE_READLINK, 1, 0, NULL, 0, NULL);
	add(s, FUSE_OPEN, 1, 0, &open, sizeof(open), NULL);
	make_directory(s, "d");
	add(s, FUSE_RENAME, 0, FUZZ_FIRST_NODE + 2, &node, sizeof(node), "l");
	add(s, FUSE_LINK, 0, FUZZ_FIRST_NODE + 1, &node, sizeof(node), "again");
	add(s, FUSE_LOOKUP, 2, 0, NULL, 0, "..");
	return seed_write(dir, "escapes", s->data, s->len);
}

static void forget(struct seed *s, uint8_t node)
{
	const struct fuse_forget_in in = { .nlookup = 1 };

	add(s, FUSE_FORGET, node, 0, &in, sizeof(in), NULL);
}

/* A directory is forgotten, the file in it is not, and takes its name by another of its own. */
static bool moves(const char *dir, struct seed *s)
{
	const struct fuse_link_in link = { 0 };
	const struct fuse_create_in create = { .flags = O_RDWR, .mode = 0100644 };
	struct {
		struct fuse_rename2_in in;
		char old[2];
	} exchange = { .in = { .flags = RENAME_EXCHANGE }, .old = "d" };

	s->len = 0;
	make_directory(s, "d");
	add(s, FUSE_CREATE, 1, 0, &create, sizeof(create), "f");
	add(s, FUSE_LINK, 0, FUZZ_FIRST_NODE + 2, &link, sizeof(link), "g");
	add(s, FUSE_LOOKUP, 1, 0, NULL, 0, "f");
	forget(s, 1);
	add(s, FUSE_RENAME2, 0, FUZZ_FIRST_NODE, &exchange, sizeof(exchange.in) + 2, "g");
	add(s, FUZZ_RELOAD, 0, 0, NULL, 0, NULL);
	add(s, FUSE_LOOKUP, 0, 0, NULL, 0, "g");
	add(s, FUSE_UNLINK, 0, 0, NULL, 0, "d");
	forget(s, 2);
	return seed_write(dir, "moves", s->data, s->len);
}

/* A state by another hand: one file system, a directory in the root, a handle of it. */
static bool saved(const char *dir, struct seed *s)
{
	const uint64_t root = 1, node = 2, handle = 1;
	struct state_writer w;
	bool ok;

	state_writer_init(&w);
	state_put_u32(&w, FUSE_KERNEL_MINOR_VERSION);
	state_put_u64(&w, 0);
	state_put_u16(&w, 1);
	state_put_u64(&w, 0);
	state_put_u32(&w, 1);
	state_put_u64(&w, node);
	state_put_u64(&w, root);
	state_put_u64(&w, 1); /* lookups */
	state_put_u16(&w, 0);
	state_put_u64(&w, 100); /* number, birth, type */
	state_put_u64(&w, 0);
	state_put_u32(&w, S_IFDIR);
	state_put_string(&w, "d");
	state_put_u32(&w, 1);
	state_put_u32(&w, 1);
	state_put_u64(&w, handle);
	state_put_u64(&w, node);
	state_put_u32(&w, O_RDWR);
	state_put_u8(&w, true);
	s->len = 0;
	make_directory(s, "d");
	add(s, FUZZ_RELOAD, 0, 0, w.buf, w.len, NULL);
	add(s, FUSE_LOOKUP, 0, 0, NULL, 0, "d");
	ok = !w.failed && seed_write(dir, "saved", s->data, s->len);
	state_writer_done(&w);
	return ok;
}

static bool attributes(const char *dir, struct seed *s)
{
	const struct {
		struct fuse_setxattr_in in;
		char name[7], value[5];
	} users = { { .size = 5 }, "user.x", "value" };
	const struct {
		struct fuse_setxattr_in in;
		char name[24];
		uint32_t version;
		struct {
			uint16_t tag, perm;
			uint32_t id;
		} entry[3]; /* the owner, the group, others: as a mode */
	} acl = {
		{ .size = 28, .setxattr_flags = FUSE_SETXATTR_ACL_KILL_SGID },
		"system.posix_acl_access", 2, { { 1, 7, -1 }, { 4, 5, -1 }, { 32, 5, -1 } },
	};
	const struct fuse_setattr_in mode = { .valid = FATTR_MODE, .mode = 02755 };
	const struct fuse_getxattr_in get = { .size = 100 };

	s->len = 0;
	create_file(s);
	add(s, FUSE_SETXATTR, 1, 0, &users, sizeof(users), NULL);
	add(s, FUSE_GETXATTR, 1, 0, &get, sizeof(get), "user.x");
	add(s, FUSE_LISTXATTR, 1, 0, &get, sizeof(get), NULL);
	add(s, FUSE_REMOVEXATTR, 1, 0, NULL, 0, "user.x");
	add(s, FUSE_SETATTR, 1, 0, &mode, sizeof(mode), NULL);
	add(s, FUSE_SETXATTR, 1, 0, &acl, sizeof(acl), NULL);
	add(s, FUSE_GETXATTR, 1, 0, &get, sizeof(get), acl.name);
	return seed_write(dir, "attributes", s->data, s->len);
}

int main(int argc, char **argv)
{
	static struct seed s;

	if (argc != 2)
		return 2;
	return !(files(argv[1], &s) && directories(argv[1], &s) && escapes(argv[1], &s) &&
		 moves(argv[1], &s) && saved(argv[1], &s) && attributes(argv[1], &s));
}
