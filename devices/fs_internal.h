/*
 * What the files of the FUSE server share: nodes (fs_node.c), handles
 * (fs_handle.c), a request on its way through (fs_server.c), and the
 * operations, by subject (fs_attr.c, fs_name.c, fs_open.c, fs_dir.c, fs_xattr.c).
 */
#ifndef WISP_DEVICES_FS_INTERNAL_H
#define WISP_DEVICES_FS_INTERNAL_H

#include <linux/fuse.h>
#include <sys/stat.h>

#include "devices/fs.h"
#include "vmm/core/state.h"

#define FS_NAME_MAX 255

/* What a file is: enough to tell whether a name still leads to the same one. */
struct fs_identity {
	uint64_t dev, ino;
	uint64_t btime_ns; /* a number that is used again has another time of birth; 0: unknown */
	uint32_t type;	   /* S_IFMT part of the mode */
};

/* A file that the guest knows by number. */
struct fs_node {
	uint64_t id; /* what the guest calls it */
	struct fs_node *hash_next;
	struct list link; /* of the descriptors that may be closed, the least used first */
	struct fs_node *parent; /* where it was last seen; NULL: it is the root or has no name */
	char *name;
	struct fs_node *walk; /* the next one down, while a walk goes on */
	uint64_t lookups;     /* that the guest has not taken back */
	uint32_t children;    /* nodes whose parent this is */
	int fd;		      /* O_PATH, or -1 */
	uint16_t dev_index;   /* of its file system in fs_server.dev */
	bool hashed;
	struct fs_identity is;
};

/* A file system among those below the root. */
struct fs_dev {
	uint64_t dev;
	bool hollow; /* an interface of the host's kernel: shown as empty */
	bool checked; /* whether it is one */
};

#define FS_MAX_DEVS 1024

/* An open file or directory. */
struct fs_handle {
	uint64_t id; /* 0: free */
	uint64_t node_id;
	int fd; /* -1: a hollow directory */
	uint32_t flags; /* it was opened with */
	bool is_dir;
	uint64_t position; /* of the directory's descriptor; UINT64_MAX: not known */
	uint32_t next_free;
};

struct fs_server {
	struct fs_server_config config;
	struct fs_node *root;

	struct fs_node **node; /* by the lower half of the id, less one */
	uint32_t *generation;  /* upper half; counts who had the place before */
	uint32_t num_nodes, room_nodes, free_node; /* free places are a list in generation[] */
	uint32_t *next_free_node;
	struct fs_node **hash;
	uint32_t hash_size, hash_count;
	struct list open; /* nodes whose descriptor may be closed */
	unsigned num_open, max_open;

	struct fs_dev dev[FS_MAX_DEVS];
	unsigned num_devs;

	struct fs_handle *handle;
	uint32_t num_handles, room_handles, free_handle, used_handles;
	uint32_t handle_generation;

	bool privileged; /* may give files away */
	uint8_t *buffer; /* of one directory read */
	uint32_t minor;	 /* of the protocol; 0: not initialised */
	uint64_t features;
	bool writeback; /* this driver gathers writes; @config's is whether one may */
};

/* ---- a request (fs_server.c) ---- */

struct fs_call {
	struct fs_server *s;
	const struct fuse_in_header *h;
	const uint8_t *in; /* what is left of the arguments */
	size_t in_left;
	uint8_t *out; /* the reply, behind its header */
	size_t out_room, out_len;
	int fd; /* to pass on, or -1 */
	mode_t umask; /* the server's, while the caller's is in force */
};

/* The next @len bytes of the arguments, or NULL. */
const void *fs_take(struct fs_call *c, size_t len);
/*
 * The next argument as the name of a file: 0, -EINVAL for what is no name (empty, ".", "..", one
 * with a slash, one without an end), or -ENAMETOOLONG.
 */
int fs_take_name(struct fs_call *c, const char **ret_name);
/* Room for @len bytes, zeroed, at the end of the reply, or NULL. */
void *fs_put(struct fs_call *c, size_t len);

/*
 * Whoever makes a file in the guest is to own it, where we may give files away. @mask: the caller's
 * umask, which counts here if the driver leaves it to us (FUSE_DONT_MASK): in a directory with a
 * default ACL it counts for nothing.
 */
void fs_become_caller(struct fs_call *c, uint32_t mask);
void fs_become_server(const struct fs_call *c);
/*
 * Around what changes a file's contents: who does that takes its set-user-ID and set-group-ID bits
 * away, as an ordinary user would, whatever we may do otherwise. So do the writes of the monitor,
 * which has no privileges.
 */
void fs_change_contents(const struct fs_call *c, bool begins);

/* ---- nodes (fs_node.c) ---- */

int fs_nodes_init(struct fs_server *s);
void fs_nodes_done(struct fs_server *s);
/* Forget everything but the root. */
void fs_nodes_clear(struct fs_server *s);

/* NULL: there is no such node (any more). */
struct fs_node *fs_node_find(struct fs_server *s, uint64_t id);

/* As above, also one that the guest does not know: what is below it needs it. */
struct fs_node *fs_node_by_place(struct fs_server *s, uint64_t id);

/* A descriptor (O_PATH) of @n, the node's; or -errno, -ESTALE when it is not where it was. */
int fs_node_fd(struct fs_server *s, struct fs_node *n);
int fs_stat_fd(int fd, struct statx *ret_stx);
int fs_node_stat(struct fs_server *s, struct fs_node *n, struct statx *ret_stx);
bool fs_node_hollow(struct fs_server *s, struct fs_node *n);

/*
 * The node of what @name in @dir is, made if there is none yet; one more lookup.
 * @ret_stx may be NULL.
 */
int fs_node_lookup(struct fs_server *s, struct fs_node *dir, const char *name,
		   struct fs_node **ret_n, struct statx *ret_stx);
/* The guest takes back @count lookups. */
void fs_node_forget(struct fs_server *s, struct fs_node *n, uint64_t count);

/* @n is now @name in @dir; NULL: it has no name any more. */
int fs_node_place(struct fs_server *s, struct fs_node *n, struct fs_node *dir, const char *name);
/* @name in @dir is about to go: keep hold of the file behind it, if the guest knows it. */
struct fs_node *fs_node_before_removal(struct fs_server *s, struct fs_node *dir, const char *name);
/* And it went. */
void fs_node_removed(struct fs_server *s, struct fs_node *n, const struct fs_node *dir,
		     const char *name);

bool fs_node_is(const struct fs_node *n, const struct statx *stx);
/* Open one component beneath @dir_fd; follows nothing. */
int fs_open_beneath(int dir_fd, const char *name, int flags, mode_t mode);
/* "/proc/self/fd/N": the only paths there are, none of a guest's making. */
#define FS_FD_PATH 32
const char *fs_fd_path(char *buf, int fd);
/* Close descriptors that are over the limit. After each request. */
void fs_nodes_trim(struct fs_server *s);

/* ---- handles (fs_handle.c) ---- */

/* Takes @fd, also when it fails. */
int fs_handle_add(struct fs_server *s, struct fs_node *n, int fd, uint32_t flags,
		  struct fs_handle **ret_h);
struct fs_handle *fs_handle_find(struct fs_server *s, uint64_t id, bool is_dir);
void fs_handle_remove(struct fs_server *s, struct fs_handle *h);
void fs_handles_clear(struct fs_server *s);

/* ---- what is saved (fs_state.c) ---- */

/* Nodes and handles, as sections of their own. */
void fs_server_save(struct fs_server *s, struct state_writer *w);
/*
 * Find all of it again. -ESTALE with @err naming the file when one that is open is gone or another
 * one; other nodes that are gone are merely stale.
 */
int fs_server_load(struct fs_server *s, const void *state, size_t len, struct error *err);
/* Call fn() for every open file that has data; stops at its first -errno. */
int fs_server_open_files(struct fs_server *s, int (*fn)(void *arg, uint64_t id, int fd), void *arg);

/* A node at the place that its number says; -EINVAL when that is taken or no number. */
int fs_node_restore(struct fs_server *s, uint64_t id, const struct fs_identity *is,
		    unsigned dev_index, uint64_t lookups, struct fs_node **ret_n);
int fs_handle_restore(struct fs_server *s, const struct fs_handle *from);

/* ---- attributes (fs_attr.c) ---- */

/*
 * The guest sees one file system where the host has several, and takes equal
 * numbers for hard links: those of others than the root's get a mark at the top.
 */
uint64_t fs_mark_ino(uint64_t ino, uint16_t dev_index);
void fs_fill_entry(const struct fs_server *s, const struct fs_node *n, const struct statx *stx,
		   struct fuse_entry_out *entry);
/* How long things may be believed, in seconds. */
uint64_t fs_valid_seconds(const struct fs_server *s);
/* Look up what an operation has just made, and answer with it. */
int fs_reply_entry(struct fs_call *c, struct fs_node *dir, const char *name);

/* ---- operations: 0, or -errno ---- */

int fs_op_getattr(struct fs_call *c);
int fs_op_setattr(struct fs_call *c);
int fs_op_statfs(struct fs_call *c);
int fs_op_readlink(struct fs_call *c);

int fs_op_lookup(struct fs_call *c);
int fs_op_mknod(struct fs_call *c);
int fs_op_mkdir(struct fs_call *c);
int fs_op_symlink(struct fs_call *c);
int fs_op_link(struct fs_call *c);
int fs_op_unlink(struct fs_call *c);
int fs_op_rmdir(struct fs_call *c);
int fs_op_rename(struct fs_call *c);
int fs_op_rename2(struct fs_call *c);

int fs_op_open(struct fs_call *c);
int fs_op_create(struct fs_call *c);
int fs_op_release(struct fs_call *c);
int fs_op_lseek(struct fs_call *c);
int fs_op_copy_file_range(struct fs_call *c);
int fs_op_syncfs(struct fs_call *c);
/* Open @n itself for @flags; follows nothing. -EROFS: not for writing, in this tree. */
int fs_open_node(struct fs_server *s, struct fs_node *n, uint32_t flags);

int fs_op_opendir(struct fs_call *c);
int fs_op_readdir(struct fs_call *c);
int fs_op_readdirplus(struct fs_call *c);
int fs_op_releasedir(struct fs_call *c);
int fs_op_fsyncdir(struct fs_call *c);

int fs_op_getxattr(struct fs_call *c);
int fs_op_listxattr(struct fs_call *c);
int fs_op_setxattr(struct fs_call *c);
int fs_op_removexattr(struct fs_call *c);

#endif
