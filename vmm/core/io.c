#include "vmm/core/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

int io_read_at(int fd, void *buf, size_t len, uint64_t offset)
{
	uint8_t *p = buf;

	while (len) {
		ssize_t n = pread(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		len -= n;
		offset += n;
	}
	return 0;
}

int io_write_at(int fd, const void *buf, size_t len, uint64_t offset)
{
	const uint8_t *p = buf;

	while (len) {
		struct iovec iov = { (void *)p, len };
		/* As pwrite() but for its name: one call fewer that threads must be allowed. */
		ssize_t n = pwritev2(fd, &iov, 1, (off_t)offset, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		len -= n;
		offset += n;
	}
	return 0;
}

int io_write(int fd, const void *buf, size_t len)
{
	const uint8_t *p = buf;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		len -= n;
	}
	return 0;
}

/* Offset -1: where the file is, or a stream. */
ssize_t io_readv(int fd, const struct iovec *iov, size_t num)
{
	return preadv2(fd, iov, (int)num, -1, 0);
}

ssize_t io_writev(int fd, const struct iovec *iov, size_t num)
{
	return pwritev2(fd, iov, (int)num, -1, 0);
}

int io_sync_parent(const char *path)
{
	char *above = strdup(path), *slash = above ? strrchr(above, '/') : NULL;
	int fd, r = 0;

	if (!above)
		return -ENOMEM;
	if (slash)
		slash[slash == above ? 1 : 0] = '\0';
	fd = open(slash ? above : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* One that may be written and not read cannot be synced by us, and is in time. */
	if (fd < 0 ? errno != EACCES : fsync(fd) < 0 && errno != EINVAL)
		r = -errno;
	if (fd >= 0)
		close(fd);
	free(above);
	return r;
}

static int unix_address(struct sockaddr_un *addr, const char *path)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(addr->sun_path))
		return -ENAMETOOLONG;
	/* Else it would be a name that is in no file system, which whoever likes can use. */
	if (!*path)
		return -ENOENT;
	memcpy(addr->sun_path, path, strlen(path) + 1);
	return 0;
}

int io_connect(const char *path, int type)
{
	struct sockaddr_un addr;
	int fd, r = unix_address(&addr, path);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

int io_listen(const char *path, int type, mode_t mode, int backlog)
{
	struct sockaddr_un addr;
	int fd, r = unix_address(&addr, path);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0) {
		if ((!mode || chmod(path, mode) == 0) && listen(fd, backlog) == 0)
			return fd;
		r = -errno;
		unlink(path);
	} else {
		r = -errno;
	}
	close(fd);
	return r;
}

bool io_remove_dead_socket(const char *path, int type)
{
	struct stat st;
	int fd;

	/* A call of any other file is refused too. */
	if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	fd = io_connect(path, type | SOCK_NONBLOCK);
	if (fd >= 0)
		close(fd);
	return fd == -ECONNREFUSED && unlink(path) == 0;
}
