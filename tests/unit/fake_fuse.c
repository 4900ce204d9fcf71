#include "tests/unit/fake_fuse.h"

#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

int fake_request(struct fake_fuse *f, uint32_t opcode, uint64_t node, const void *a, size_t a_len,
		 const void *b, size_t b_len, const void *c, size_t c_len)
{
	struct fuse_in_header *h = (struct fuse_in_header *)f->in;
	const struct fuse_out_header *out = (const struct fuse_out_header *)f->out;
	uint8_t *p = (uint8_t *)(h + 1);
	size_t n;

	assert_true(sizeof(*h) + a_len + b_len + c_len <= sizeof(f->in));
	*h = (struct fuse_in_header){
		.len = sizeof(*h) + a_len + b_len + c_len,
		.opcode = opcode,
		.unique = ++f->unique,
		.nodeid = node,
		.uid = getuid(),
		.gid = getgid(),
	};
	if (a_len)
		memcpy(p, a, a_len);
	if (b_len)
		memcpy(p + a_len, b, b_len);
	if (c_len)
		memcpy(p + a_len + b_len, c, c_len);
	n = fs_server_handle(f->s, f->in, h->len, f->out, sizeof(f->out), &f->fd);
	f->no_reply = !n;
	if (!n)
		return 0;
	assert_int_equal(out->len, n);
	assert_true(out->unique == f->unique);
	assert_true(out->error <= 0 && out->error > -4096);
	f->out_len = n - sizeof(*out);
	return out->error;
}

const void *fake_body(const struct fake_fuse *f)
{
	return (const uint8_t *)f->out + sizeof(struct fuse_out_header);
}

int fake_say_init(struct fake_fuse *f)
{
	struct fuse_init_in in = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = 131072,
		.flags = ~0u,
	};

	return fake_request(f, FUSE_INIT, 0, &in, sizeof(in), NULL, 0, NULL, 0);
}

void fake_fuse_restart(struct fake_fuse *f, const struct fs_server_config *config)
{
	struct fs_server_config c = *config;

	fs_server_free(f->s);
	c.root_fd = open(f->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(c.root_fd >= 0);
	assert_int_equal(fs_server_create(&f->s, &c, NULL), 0);
}

void fake_fuse_init(struct fake_fuse *f, const struct fs_server_config *config)
{
	memset(f, 0, sizeof(*f));
	snprintf(f->dir, sizeof(f->dir), "/tmp/wisp-test-fs.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	fake_fuse_restart(f, config);
	assert_int_equal(fake_say_init(f), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)remove(path);
	return 0;
}

void fake_fuse_done(struct fake_fuse *f)
{
	fs_server_free(f->s);
	nftw(f->dir, remove_one, 64, FTW_DEPTH | FTW_PHYS);
}

static int take_entry(struct fake_fuse *f, int r, uint64_t *ret_node)
{
	if (!r && ret_node)
		*ret_node = ((const struct fuse_entry_out *)fake_body(f))->nodeid;
	return r;
}

int fake_lookup(struct fake_fuse *f, uint64_t dir, const char *name, uint64_t *ret_node)
{
	return take_entry(f, fake_request(f, FUSE_LOOKUP, dir, name, strlen(name) + 1, NULL, 0,
					  NULL, 0), ret_node);
}

int fake_forget(struct fake_fuse *f, uint64_t node, uint64_t count)
{
	struct fuse_forget_in in = { .nlookup = count };

	return fake_request(f, FUSE_FORGET, node, &in, sizeof(in), NULL, 0, NULL, 0);
}

int fake_getattr(struct fake_fuse *f, uint64_t node, struct fuse_attr *ret_attr)
{
	struct fuse_getattr_in in = { 0 };
	int r = fake_request(f, FUSE_GETATTR, node, &in, sizeof(in), NULL, 0, NULL, 0);

	if (!r && ret_attr)
		*ret_attr = ((const struct fuse_attr_out *)fake_body(f))->attr;
	return r;
}

int fake_setattr(struct fake_fuse *f, uint64_t node, const struct fuse_setattr_in *in)
{
	return fake_request(f, FUSE_SETATTR, node, in, sizeof(*in), NULL, 0, NULL, 0);
}

int fake_create(struct fake_fuse *f, uint64_t dir, const char *name, uint32_t flags,
		uint64_t *ret_node, uint64_t *ret_fh)
{
	struct fuse_create_in in = { .flags = flags | O_CREAT, .mode = S_IFREG | 0644 };
	int r = fake_request(f, FUSE_CREATE, dir, &in, sizeof(in), name, strlen(name) + 1, NULL, 0);
	const struct fuse_entry_out *entry = fake_body(f);

	if (!r && ret_node)
		*ret_node = entry->nodeid;
	if (!r && ret_fh)
		*ret_fh = ((const struct fuse_open_out *)(entry + 1))->fh;
	return r;
}

int fake_mkdir(struct fake_fuse *f, uint64_t dir, const char *name, uint64_t *ret_node)
{
	struct fuse_mkdir_in in = { .mode = 0755 };

	return take_entry(f, fake_request(f, FUSE_MKDIR, dir, &in, sizeof(in), name,
					  strlen(name) + 1, NULL, 0), ret_node);
}

int fake_mknod(struct fake_fuse *f, uint64_t dir, const char *name, uint32_t mode, uint32_t rdev)
{
	struct fuse_mknod_in in = { .mode = mode, .rdev = rdev };

	return fake_request(f, FUSE_MKNOD, dir, &in, sizeof(in), name, strlen(name) + 1, NULL, 0);
}

int fake_symlink(struct fake_fuse *f, uint64_t dir, const char *name, const char *target,
		 uint64_t *ret_node)
{
	return take_entry(f, fake_request(f, FUSE_SYMLINK, dir, name, strlen(name) + 1, target,
					  strlen(target) + 1, NULL, 0), ret_node);
}

int fake_link(struct fake_fuse *f, uint64_t node, uint64_t dir, const char *name)
{
	struct fuse_link_in in = { .oldnodeid = node };

	return fake_request(f, FUSE_LINK, dir, &in, sizeof(in), name, strlen(name) + 1, NULL, 0);
}

int fake_unlink(struct fake_fuse *f, uint64_t dir, const char *name)
{
	return fake_request(f, FUSE_UNLINK, dir, name, strlen(name) + 1, NULL, 0, NULL, 0);
}

int fake_rmdir(struct fake_fuse *f, uint64_t dir, const char *name)
{
	return fake_request(f, FUSE_RMDIR, dir, name, strlen(name) + 1, NULL, 0, NULL, 0);
}

int fake_rename(struct fake_fuse *f, uint64_t dir, const char *name, uint64_t new_dir,
		const char *new_name, uint32_t flags)
{
	struct fuse_rename2_in in = { .newdir = new_dir, .flags = flags };

	return fake_request(f, FUSE_RENAME2, dir, &in, sizeof(in), name, strlen(name) + 1,
			    new_name, strlen(new_name) + 1);
}

static int open_as(struct fake_fuse *f, uint32_t opcode, uint64_t node, uint32_t flags,
		   uint64_t *ret_fh)
{
	struct fuse_open_in in = { .flags = flags };
	int r = fake_request(f, opcode, node, &in, sizeof(in), NULL, 0, NULL, 0);

	if (!r && ret_fh)
		*ret_fh = ((const struct fuse_open_out *)fake_body(f))->fh;
	return r;
}

int fake_open(struct fake_fuse *f, uint64_t node, uint32_t flags, uint64_t *ret_fh)
{
	return open_as(f, FUSE_OPEN, node, flags, ret_fh);
}

int fake_opendir(struct fake_fuse *f, uint64_t node, uint64_t *ret_fh)
{
	return open_as(f, FUSE_OPENDIR, node, 0, ret_fh);
}

int fake_release(struct fake_fuse *f, uint64_t node, uint64_t fh)
{
	struct fuse_release_in in = { .fh = fh };

	return fake_request(f, FUSE_RELEASE, node, &in, sizeof(in), NULL, 0, NULL, 0);
}

int fake_readdir(struct fake_fuse *f, bool plus, uint64_t node, uint64_t fh, uint64_t offset,
		 uint32_t size)
{
	struct fuse_read_in in = { .fh = fh, .offset = offset, .size = size };

	return fake_request(f, plus ? FUSE_READDIRPLUS : FUSE_READDIR, node, &in, sizeof(in), NULL,
			    0, NULL, 0);
}

const char *fake_path(struct fake_fuse *f, const char *name)
{
	static char path[4][400];
	static unsigned next;
	char *p = path[next++ % 4];

	snprintf(p, sizeof(path[0]), "%s/%s", f->dir, name);
	return p;
}

void fake_host_file(struct fake_fuse *f, const char *name, const char *text)
{
	int fd = open(fake_path(f, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}
