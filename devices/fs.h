/*
 * A directory of the host, served as a FUSE file system (Linux's protocol 7.28
 * and later, as virtio-fs carries it).
 *
 * The server is the half that knows paths. It lives in a process of its own,
 * with nothing but the shared directory and a socket: the monitor passes a guest's
 * requests on (devices/fs_client.h), and gets back replies and, for each file
 * that the guest opens, a descriptor by which the monitor then moves data
 * straight between guest memory and file.
 *
 * Containment. The guest names files by number (nodes) and by single names;
 * every name is one component, and is looked up relative to a directory
 * descriptor, beneath it, with no symbolic or magic link ever followed: links
 * are read and given to the guest, which follows them in its own tree. Nodes
 * whose descriptors were closed to stay within bounds are found again by their
 * names and compared with what they were; what differs is stale. File systems that
 * are doors into the host's kernel (proc, sysfs and the like) show as empty
 * directories, and only regular files and directories are ever opened.
 *
 * A server belongs to one thread.
 */
#ifndef WISP_DEVICES_FS_H
#define WISP_DEVICES_FS_H

#include "vmm/core/error.h"

struct fs_server;

/* How long the guest may believe what it was told. */
enum fs_cache {
	FS_CACHE_AUTO,	 /* a second; contents are checked at open */
	FS_CACHE_NEVER,
	FS_CACHE_ALWAYS, /* for trees that nobody else changes */
};

/* How names of extended attributes begin that a tree has for guests, and not for this host. */
#define FS_KEPT_XATTR "user.wisp."

struct fs_server_config {
	int root_fd; /* the directory, O_PATH; the server's from a successful create on */
	enum fs_cache cache;
	bool read_only;
	bool writeback; /* let the guest gather writes */
	bool no_xattr;	/* say that there are none: saves a round trip for each lookup of one */
	bool acl;	/* let the guest go by POSIX ACLs, where its driver knows all that takes */
	bool kept_xattr; /* those that are not the user's are kept as FS_KEPT_XATTR "NAME" */
	unsigned max_open; /* descriptors kept for nodes and handles; 0: by RLIMIT_NOFILE */
};

/* 0, or -errno with @err: then the directory is still the caller's. One thread from here on. */
int fs_server_create(struct fs_server **ret_s, const struct fs_server_config *config,
		     struct error *err);
/* Closes all that the guest has open, and the directory. NULL is fine. */
void fs_server_free(struct fs_server *s);

/* No message is longer, either way; data of files does not pass here. */
#define FS_MAX_MESSAGE (96u * 1024)

/*
 * Answer the FUSE request of @len bytes at @in, which does not change
 * meanwhile and is aligned to 8 bytes. Returns the length of the reply put at @out
 * (at most @size; struct fuse_out_header first), or 0 when there is none to send.
 * @ret_fd: a descriptor for the file that was opened, to pass on, or -1;
 * it stays the server's.
 */
size_t fs_server_handle(struct fs_server *s, const void *in, size_t len, void *out, size_t size,
			int *ret_fd);

/* Serve the client at the other end of the SEQPACKET @socket until it closes it. */
void fs_server_serve(struct fs_server *s, int socket);

#endif
