#include "firmware/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Code and data of the least that is of use as a kernel of Linux are more. */
#define MIN_LINUX (4 * MiB)

const char *fw_kernel_name(const struct fw_kernel *k)
{
	return k->path ? k->path : "(in memory)";
}

int fw_pread_full(int fd, void *dst, uint64_t len, uint64_t offset)
{
	uint8_t *p = dst;

	while (len) {
		ssize_t n = pread(fd, p, len, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		p += n;
		len -= n;
		offset += n;
	}
	return 0;
}

int fw_kernel_read(const struct fw_kernel *k, uint64_t offset, void *dst, uint64_t len,
		   struct error *err)
{
	int r;

	if (!range_inside(offset, len, 0, k->file_size))
		return error_usage(err, -ENODATA, "kernel '%s': truncated", fw_kernel_name(k));
	if (k->fd < 0) {
		memcpy(dst, k->data + offset, len);
		return 0;
	}
	r = fw_pread_full(k->fd, dst, len, offset);
	if (r == -ENODATA)
		return error_usage(err, r, "kernel '%s': the file shrank while it was read",
				   fw_kernel_name(k));
	return r < 0 ? error_usage(err, r, "kernel '%s': cannot read: %m", fw_kernel_name(k)) : 0;
}

static int parse(struct fw_kernel *k, const uint8_t *head, uint64_t len, struct error *err)
{
	if (fw_elf_probe(head, len))
		return fw_elf_parse(k, head, len, err);
	if (fw_bzimage_probe(head, len))
		return fw_bzimage_parse(k, head, len, err);
	error_usage(err, -ENOEXEC, "kernel '%s': neither a bzImage nor an ELF file",
		    fw_kernel_name(k));
	error_hint(err, "give a Linux vmlinuz or vmlinux, or an ELF file with a PVH entry");
	return -ENOEXEC;
}

int fw_kernel_open(struct fw_kernel **ret_kernel, const char *path, int fd, struct error *err)
{
	uint8_t head[FW_HEAD_BYTES];
	struct fw_kernel *k;
	struct stat st;
	uint64_t len;
	int r;

	k = calloc(1, sizeof(*k));
	if (k)
		k->path = strdup(path);
	if (!k || !k->path) {
		r = error_set(err, -ENOMEM, "kernel '%s': %m", path);
		goto fail;
	}
	k->fd = fd;
	if (fstat(fd, &st) < 0) {
		r = error_usage(err, -errno, "kernel '%s': cannot stat: %m", path);
		goto fail;
	}
	if (!S_ISREG(st.st_mode)) {
		r = error_usage(err, -EINVAL, "kernel '%s': not a regular file", path);
		goto fail;
	}
	k->file_size = st.st_size;
	len = MIN(k->file_size, (uint64_t)sizeof(head));
	r = fw_kernel_read(k, 0, head, len, err);
	if (!r)
		r = parse(k, head, len, err);
	if (r < 0)
		goto fail;
	*ret_kernel = k;
	return 0;

fail:
	if (k)
		k->fd = -1; /* still the caller's */
	fw_kernel_free(k);
	return r;
}

int fw_kernel_parse(struct fw_kernel *k, const uint8_t *data, uint64_t len, struct error *err)
{
	memset(k, 0, sizeof(*k));
	k->fd = -1;
	k->data = data;
	k->file_size = len;
	return parse(k, data, MIN(len, (uint64_t)FW_HEAD_BYTES), err);
}

bool fw_kernel_is_linux(const struct fw_kernel *k)
{
	uint64_t loaded = 0;

	/* Nobody else writes that format. An ELF file does not say whose it is. */
	if (k->kind == FW_KERNEL_BZIMAGE)
		return true;
	for (unsigned i = 0; i < k->num_segments; i++)
		loaded += k->segment[i].file_size;
	return loaded >= MIN_LINUX;
}

void fw_kernel_free(struct fw_kernel *k)
{
	if (!k)
		return;
	if (k->fd >= 0)
		close(k->fd);
	free(k->path);
	free(k);
}
