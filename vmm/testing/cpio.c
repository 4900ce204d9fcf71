#include "vmm/testing/cpio.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALIGN 4u

static void put(struct cpio *c, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len && !c->failed) {
		ssize_t n = write(c->fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			c->failed = -errno;
			return;
		}
		p += n;
		len -= n;
		c->size += n;
	}
}

static void put_padding(struct cpio *c)
{
	static const uint8_t zeroes[ALIGN];

	put(c, zeroes, align_up(c->size, ALIGN) - c->size);
}

/* Documentation/driver-api/early-userspace/buffer-format.rst: 13 fields of eight hex digits. */
static void put_header(struct cpio *c, const char *path, mode_t mode, uint64_t len)
{
	char head[6 + 13 * 8 + 1];

	if (len > UINT32_MAX && !c->failed)
		c->failed = -EFBIG;
	snprintf(head, sizeof(head), "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		 c->next_ino++, mode, 0, 0, S_ISDIR(mode) ? 2 : 1, 0, (uint32_t)len, 0, 0, 0, 0,
		 (uint32_t)strlen(path) + 1, 0);
	put(c, head, sizeof(head) - 1);
	put(c, path, strlen(path) + 1);
	put_padding(c);
}

int cpio_init(struct cpio *c)
{
	*c = (struct cpio){ .next_ino = 1 };
	c->fd = memfd_create("initramfs", MFD_CLOEXEC);
	return c->fd < 0 ? -errno : 0;
}

void cpio_add_dir(struct cpio *c, const char *path)
{
	put_header(c, path, S_IFDIR | 0755, 0);
}

void cpio_add_file(struct cpio *c, const char *path, mode_t mode, const void *data, size_t len)
{
	put_header(c, path, S_IFREG | mode, len);
	put(c, data, len);
	put_padding(c);
}

void cpio_add_copy(struct cpio *c, const char *path, mode_t mode, int fd)
{
	struct stat st;
	off_t at = 0;

	if (fstat(fd, &st) < 0) {
		c->failed = c->failed ? c->failed : -errno;
		return;
	}
	put_header(c, path, S_IFREG | mode, st.st_size);
	while (at < st.st_size && !c->failed) {
		ssize_t n = sendfile(c->fd, fd, &at, st.st_size - at);

		if (n < 0 && errno == EINTR)
			continue;
		/* 0: it shrank meanwhile. */
		if (n <= 0)
			c->failed = n < 0 ? -errno : -ENODATA;
		else
			c->size += n;
	}
	put_padding(c);
}

int cpio_end(struct cpio *c)
{
	put_header(c, "TRAILER!!!", 0, 0);
	if (!c->failed)
		return c->fd;
	close(c->fd);
	return c->failed;
}
