/*
 * All of a buffer, in or out of a file, where read and write may move a part or be
 * interrupted; they block. And names in the file system: of files that are to last, and where
 * somebody listened. Any thread.
 */
#ifndef WISP_CORE_IO_H
#define WISP_CORE_IO_H

#include <sys/uio.h>

#include "vmm/core/util.h"

/* 0, or -errno; -EIO when the file ends before @len bytes. @buf is then partly filled. */
int io_read_at(int fd, void *buf, size_t len, uint64_t offset);

/* 0, or -errno; what was written until then stays. The second writes where the file is. */
int io_write_at(int fd, const void *buf, size_t len, uint64_t offset);
int io_write(int fd, const void *buf, size_t len);

/*
 * readv() and writev(), by preadv2() and pwritev2(): a locked thread needs those anyway, and so is
 * allowed two system calls fewer. A part may be moved; -1 and errno.
 */
ssize_t io_readv(int fd, const struct iovec *iov, size_t num);
ssize_t io_writev(int fd, const struct iovec *iov, size_t num);

/*
 * That there is a file of this name, or of this name no more, on the disk: the directory that @path
 * is in. 0, also where the file system knows of no such thing, or -errno.
 */
int io_sync_parent(const char *path);

/*
 * A UNIX socket of @type (SOCK_STREAM, or with SOCK_NONBLOCK, ...), connected to the one at @path;
 * or one that listens there, in a new file of @mode (0: as the umask has it). Close-on-exec, the
 * caller's. Or -errno: -ENAMETOOLONG for a path that no socket can have, and -EADDRINUSE where
 * there is a file already, see io_remove_dead_socket().
 */
int io_connect(const char *path, int type);
int io_listen(const char *path, int type, mode_t mode, int backlog);

/*
 * Remove the UNIX socket at @path at which nobody answers a call of @type (SOCK_STREAM, ...) any
 * more: somebody who was killed has left it. True when it was one. Nothing else is ever removed.
 */
bool io_remove_dead_socket(const char *path, int type);

#endif
