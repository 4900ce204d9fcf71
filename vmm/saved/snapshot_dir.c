/* A snapshot that is there: opened and checked, as if an enemy had made it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/saved/packed_format.h"
#include "vmm/saved/snapshot.h"
#include "vmm/saved/snapshot_pages.h"

/* Thousands of devices fit, or which pages of 1 TiB changed; a longer one is neither file. */
#define MAX_FILE_BYTES (64 * MiB)

/* What is written is read again: the section around an index's entries is no longer than that. */
_Static_assert(PACKED_INDEX_MAX + 64 * KiB <= MAX_FILE_BYTES, "an index is a file that is read");

static int open_part(const struct snapshot *s, const char *path, const char *name,
		     struct error *err)
{
	int fd = openat(s->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	return fd >= 0 ? fd : error_usage(err, -errno, "snapshot '%s': %s: %m", path, name);
}

/* It names files of ours that its guest then reads and writes: we must have written that. */
static int check_owner(const struct snapshot *s, const char *path, struct error *err)
{
	struct stat st;

	if (fstat(s->dir_fd, &st) < 0)
		return error_usage(err, -errno, "snapshot '%s': %m", path);
	if ((st.st_uid == geteuid() || st.st_uid == 0) && !(st.st_mode & (S_IWGRP | S_IWOTH)))
		return 0;
	error_usage(err, -EPERM, "snapshot '%s': others than you can write it", path);
	error_hint(err, "it decides which of your files its guest may write; 'chmod go-w' and "
			"'chown' say that you have looked at it");
	return -EPERM;
}

int snapshot_read_file(const struct snapshot *s, const char *path, const char *name,
		       uint8_t **ret_buf, size_t *ret_len, struct error *err)
{
	int fd = open_part(s, path, name, err), r = 0;
	uint8_t *buf = NULL;
	size_t len = 0;
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > (off_t)MAX_FILE_BYTES)
		r = -EBADMSG;
	if (!r) {
		buf = malloc(st.st_size);
		if (!buf)
			r = -ENOMEM;
	}
	while (!r && len < (size_t)st.st_size) {
		ssize_t n = read(fd, buf + len, st.st_size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			r = n < 0 ? -errno : -EBADMSG;
		else
			len += n;
	}
	close(fd);
	if (r < 0) {
		free(buf);
		return error_usage(err, r, "snapshot '%s': %s cannot be read: %m", path, name);
	}
	*ret_buf = buf;
	*ret_len = len;
	return 0;
}

/* There may be others one day. */
static int check_compression(const struct snapshot *s, const char *path, struct error *err)
{
	const json_t *memory = json_object_get(s->manifest, "memory");
	const char *how = json_string_value(json_object_get(memory, "compression"));

	if (how && !strcmp(how, "zstd"))
		return 0;
	return error_usage(err, -EBADMSG,
			   "snapshot '%s': its memory is compressed in a way ('%s') that this "
			   "version does not read",
			   path, how ? how : "");
}

static int read_manifest(struct snapshot *s, const char *path, struct error *err)
{
	uint8_t *text = NULL;
	const json_t *base;
	json_int_t format;
	bool packed;
	json_error_t why;
	size_t len = 0;
	int r = snapshot_read_file(s, path, SNAPSHOT_MANIFEST, &text, &len, err);

	if (r == -ENOENT)
		error_usage(err, r, "snapshot '%s': is none, or was never finished", path);
	if (r < 0)
		return r;
	/* Not json_loadfd(): it makes a system call for each byte. */
	s->manifest = json_loadb((const char *)text, len, JSON_REJECT_DUPLICATES, &why);
	free(text);
	if (!s->manifest)
		return error_usage(err, -EBADMSG,
				   "snapshot '%s': " SNAPSHOT_MANIFEST ": line %d: %s", path,
				   why.line, why.text);
	format = json_integer_value(json_object_get(s->manifest, "format"));
	packed = format == SNAPSHOT_FORMAT_PACKED;
	if (format != SNAPSHOT_FORMAT && format != SNAPSHOT_FORMAT_DIFF && !packed)
		return error_usage(err, -EBADMSG,
				   "snapshot '%s': of a format that this version does not read",
				   path);
	base = json_object_get(s->manifest, "base");
	s->id = json_string_value(json_object_get(s->manifest, "id"));
	s->base = json_string_value(json_object_get(base, "id"));
	if ((!packed && (format == SNAPSHOT_FORMAT_DIFF) != (s->base != NULL)) ||
	    (s->base && !*s->base) || (base && !s->base))
		return error_usage(err, -EBADMSG,
				   "snapshot '%s': " SNAPSHOT_MANIFEST
				   ": what it builds on makes no sense",
				   path);
	return packed ? check_compression(s, path, err) : 0;
}

static int read_state(struct snapshot *s, const char *path, struct error *err)
{
	int r = snapshot_read_file(s, path, SNAPSHOT_STATE, &s->buf, &s->len, err);

	return r ? r : state_set_open(&s->state, s->buf, s->len, err);
}

/* Which pages of its memory count; there must be one bit for each that the file has room for. */
static int read_pages(struct snapshot *s, const char *path, struct error *err)
{
	uint64_t bytes = 0;
	uint8_t *buf = NULL;
	size_t len = 0;
	int r;

	if (!s->base)
		return 0;
	r = snapshot_read_file(s, path, SNAPSHOT_PAGES, &buf, &len, err);
	if (!r)
		r = snapshot_memory_bytes(s, &bytes, err);
	if (!r)
		r = snapshot_pages_read(buf, len, bytes >> PAGE_SHIFT, &s->pages, err);
	free(buf);
	if (r == -EBADMSG)
		error_prefix(err, "snapshot '%s'", path);
	return r;
}

static int open_packed(struct snapshot *s, const char *path, struct error *err)
{
	uint8_t *buf = NULL;
	size_t len = 0;
	int fd = open_part(s, path, SNAPSHOT_FRAMES, err), r;

	if (fd < 0)
		return fd;
	r = snapshot_read_file(s, path, SNAPSHOT_INDEX, &buf, &len, err);
	if (r < 0) {
		close(fd);
		return r;
	}
	r = packed_memory_open(&s->packed, fd, buf, len, err);
	if (r < 0)
		error_prefix(err, "snapshot '%s'", path);
	free(buf);
	return r;
}

static int open_memory(struct snapshot *s, const char *path, struct error *err)
{
	json_int_t format = json_integer_value(json_object_get(s->manifest, "format"));

	if (format == SNAPSHOT_FORMAT_PACKED)
		return open_packed(s, path, err);
	s->memory_fd = open_part(s, path, SNAPSHOT_MEMORY, err);
	return MIN(s->memory_fd, 0);
}

int snapshot_open_manifest(struct snapshot *s, const char *path, struct error *err)
{
	int r;

	*s = (struct snapshot){
		.path = strdup(path), .dir_fd = -1, .memory_fd = -1, .packed.fd = -1
	};
	if (!s->path)
		return error_set(err, -ENOMEM, "snapshot '%s': %m", path);
	s->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->dir_fd < 0)
		return error_usage(err, -errno, "snapshot '%s': cannot open: %m", path);
	r = check_owner(s, path, err);
	return r ? r : read_manifest(s, path, err);
}

int snapshot_open(struct snapshot *s, const char *path, struct error *err)
{
	int r = snapshot_open_manifest(s, path, err);

	if (!r)
		r = read_state(s, path, err);
	if (!r)
		r = open_memory(s, path, err);
	if (!r)
		r = read_pages(s, path, err);
	if (r < 0 && err->kind == ERROR_OTHER)
		err->kind = ERROR_USAGE;
	return r;
}

void snapshot_close(struct snapshot *s)
{
	state_set_close(&s->state);
	free(s->buf);
	free(s->pages);
	free(s->path);
	json_decref(s->manifest);
	if (s->dir_fd >= 0)
		close(s->dir_fd);
	if (s->memory_fd >= 0)
		close(s->memory_fd);
	packed_memory_close(&s->packed);
	*s = (struct snapshot){ .dir_fd = -1, .memory_fd = -1, .packed.fd = -1 };
}

int snapshot_memory_bytes(const struct snapshot *s, uint64_t *ret_bytes, struct error *err)
{
	struct stat st;

	if (snapshot_is_packed(s)) {
		*ret_bytes = s->packed.bytes;
		return 0;
	}
	if (fstat(s->memory_fd, &st) < 0)
		return error_usage(err, -errno, "saved memory: %m");
	if (!S_ISREG(st.st_mode))
		return error_usage(err, -EBADMSG, "saved memory: no regular file");
	*ret_bytes = (uint64_t)st.st_size;
	return 0;
}

int snapshot_check_memory(const struct snapshot *s, uint64_t bytes, struct error *err)
{
	uint64_t has;
	int r = snapshot_memory_bytes(s, &has, err);

	if (!r && has != bytes)
		r = error_usage(err, -EBADMSG,
				"saved memory: a file of %llu bytes for RAM of %llu bytes",
				(unsigned long long)has, (unsigned long long)bytes);
	return r;
}

/*
 * @fd, a file without a name, for reading alone, or -errno; @fd itself is closed. Monitors of
 * several guests have it, and none of them may write what is still the others' memory.
 */
static int only_for_reading(int fd)
{
	char self[40];
	int again;

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	again = open(self, O_RDONLY | O_CLOEXEC);
	if (again < 0)
		again = -errno;
	close(fd);
	return again;
}

int snapshot_unpack(struct snapshot *s, struct error *err)
{
	/* Beside what is in it. */
	char *name = NULL;
	int fd = asprintf(&name, "%s/" SNAPSHOT_MEMORY, s->path) < 0
			 ? -ENOMEM
			 : snapshot_nameless_file(name);
	int r = MIN(fd, 0);

	if (!r)
		r = packed_memory_expand(&s->packed, fd);
	free(name);
	if (!r)
		r = fd = only_for_reading(fd);
	else if (fd >= 0)
		close(fd);
	if (r < 0)
		return error_usage(err, r, "snapshot '%s': its memory cannot be unpacked: %m",
				   s->path);
	packed_memory_close(&s->packed);
	s->memory_fd = fd;
	return 0;
}

int snapshot_unpack_as(struct snapshot *s, const struct snapshot *other, struct error *err)
{
	int fd;

	if (!s->id || !other->id || strcmp(s->id, other->id) || snapshot_is_packed(other))
		return error_usage(err, -ESTALE, "snapshot '%s': it is another one now", s->path);
	fd = fcntl(other->memory_fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return error_set(err, -errno, "snapshot '%s': its memory: %m", s->path);
	packed_memory_close(&s->packed);
	s->memory_fd = fd;
	return 0;
}
