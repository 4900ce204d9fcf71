/*
 * A FUSE client for tests of the file server: requests as a guest's kernel
 * would make them, and as none would. Each function makes one request and gives 0
 * or the -errno of the reply. One thread.
 */
#ifndef WISP_TESTS_FAKE_FUSE_H
#define WISP_TESTS_FAKE_FUSE_H

#include <linux/fuse.h>

#include "devices/fs.h"

struct fake_fuse {
	struct fs_server *s;
	char dir[64]; /* a temporary directory: the root */
	uint64_t unique;
	uint64_t in[FS_MAX_MESSAGE / 8], out[FS_MAX_MESSAGE / 8];
	size_t out_len; /* of what follows the reply's header */
	int fd;		/* that came with the last reply; the server's */
	bool no_reply;
};

/* Make the directory and serve it. INIT was said. */
void fake_fuse_init(struct fake_fuse *f, const struct fs_server_config *config);
/* Serve it with a new server; INIT is not said. */
void fake_fuse_restart(struct fake_fuse *f, const struct fs_server_config *config);
/* Removes the directory and what is in it. */
void fake_fuse_done(struct fake_fuse *f);

/* Any request: up to three pieces of arguments. The reply's body is in f->out, see fake_body(). */
int fake_request(struct fake_fuse *f, uint32_t opcode, uint64_t node, const void *a, size_t a_len,
		 const void *b, size_t b_len, const void *c, size_t c_len);
const void *fake_body(const struct fake_fuse *f);

int fake_say_init(struct fake_fuse *f);
int fake_lookup(struct fake_fuse *f, uint64_t dir, const char *name, uint64_t *ret_node);
int fake_forget(struct fake_fuse *f, uint64_t node, uint64_t count);
int fake_getattr(struct fake_fuse *f, uint64_t node, struct fuse_attr *ret_attr);
int fake_setattr(struct fake_fuse *f, uint64_t node, const struct fuse_setattr_in *in);
int fake_create(struct fake_fuse *f, uint64_t dir, const char *name, uint32_t flags,
		uint64_t *ret_node, uint64_t *ret_fh);
int fake_mkdir(struct fake_fuse *f, uint64_t dir, const char *name, uint64_t *ret_node);
int fake_mknod(struct fake_fuse *f, uint64_t dir, const char *name, uint32_t mode, uint32_t rdev);
int fake_symlink(struct fake_fuse *f, uint64_t dir, const char *name, const char *target,
		 uint64_t *ret_node);
int fake_link(struct fake_fuse *f, uint64_t node, uint64_t dir, const char *name);
int fake_unlink(struct fake_fuse *f, uint64_t dir, const char *name);
int fake_rmdir(struct fake_fuse *f, uint64_t dir, const char *name);
int fake_rename(struct fake_fuse *f, uint64_t dir, const char *name, uint64_t new_dir,
		const char *new_name, uint32_t flags);
/* Also opens directories. */
int fake_open(struct fake_fuse *f, uint64_t node, uint32_t flags, uint64_t *ret_fh);
int fake_opendir(struct fake_fuse *f, uint64_t node, uint64_t *ret_fh);
int fake_release(struct fake_fuse *f, uint64_t node, uint64_t fh);
int fake_readdir(struct fake_fuse *f, bool plus, uint64_t node, uint64_t fh, uint64_t offset,
		 uint32_t size);

/* A path below the temporary directory, good until the fourth call from now. */
const char *fake_path(struct fake_fuse *f, const char *name);
/* On the host: make a file that holds @text. */
void fake_host_file(struct fake_fuse *f, const char *name, const char *text);

#endif
