#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/snapshot.h"

#define MANIFEST "manifest.json"
#define STATE	 "state"
#define MEMORY	 "memory"

/* Thousands of devices fit; a longer one is no state file. */
#define MAX_STATE_BYTES (64 * MiB)

/* ---- copies of disks ---- */

/* Through our own hands, where the kernel does not copy between two file systems. */
static ssize_t copy_by_hand(int from, off_t at, int to, size_t size)
{
	static const size_t most = 128 * KiB;
	size_t len = MIN(size, most);
	void *buf = aligned_alloc(PAGE_SIZE, most);
	ssize_t n = buf ? pread(from, buf, len, at) : -1;

	if (n > 0)
		n = pwrite(to, buf, n, at);
	free(buf);
	return n;
}

static int copy_data(int from, int to, off_t size)
{
	off_t at = 0, hole;

	if (ftruncate(to, size) < 0)
		return -errno;
	while (at < size) {
		at = lseek(from, at, SEEK_DATA);
		if (at < 0)
			return errno == ENXIO ? 0 : -errno;
		hole = lseek(from, at, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		while (at < hole) {
			off_t in = at, out = at;
			ssize_t n = copy_file_range(from, &in, to, &out, hole - at, 0);

			if (n < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == EINVAL))
				n = copy_by_hand(from, at, to, hole - at);
			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return n < 0 ? -errno : -EIO;
			at += n;
		}
	}
	return 0;
}

static int clone_or_copy(int from, int to, bool *ret_copied)
{
	struct stat st;

	*ret_copied = ioctl(to, FICLONE, from) < 0;
	if (!*ret_copied)
		return 0;
	if (fstat(from, &st) < 0)
		return -errno;
	return copy_data(from, to, st.st_size);
}

int snapshot_draft_disk(struct snapshot_draft *d, int disk_fd, const char *path, const char *name,
			bool *ret_copied, struct error *err)
{
	int to = openat(d->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = to < 0 ? -errno : clone_or_copy(disk_fd, to, ret_copied);

	if (!r && fsync(to) < 0)
		r = -errno;
	if (to >= 0)
		close(to);
	return r < 0 ? error_set(err, r, "disk '%s': cannot be copied into the snapshot: %m", path)
		     : 0;
}

int snapshot_disk_stamp(int disk_fd, json_t **ret_stamp, struct error *err)
{
	struct stat st;

	if (fstat(disk_fd, &st) < 0)
		return error_usage(err, -errno, "disk: %m");
	*ret_stamp = json_pack("{s:I, s:I}", "size_bytes", (json_int_t)st.st_size, "modified_ns",
			       (json_int_t)st.st_mtim.tv_sec * (json_int_t)NSEC_PER_SEC +
				       st.st_mtim.tv_nsec);
	return *ret_stamp ? 0 : error_set(err, -ENOMEM, "manifest: %m");
}

/* A file without a name in @dir, also where the file system cannot make it so from the start. */
static int open_nameless(const char *dir)
{
	int fd = open(dir, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	char *name;

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return fd;
	if (asprintf(&name, "%s/.wisp-XXXXXX", dir) < 0)
		return -1;
	fd = mkostemp(name, O_CLOEXEC);
	if (fd >= 0)
		unlink(name);
	free(name);
	return fd;
}

int snapshot_private_disk(int disk_fd, const char *path, bool direct, bool *ret_copied)
{
	char *dir = strdup(path), *slash = dir ? strrchr(dir, '/') : NULL;
	int to = -1, r;

	if (slash)
		slash[slash == dir ? 1 : 0] = '\0';
	if (dir)
		to = open_nameless(slash ? dir : ".");
	free(dir);
	/* A directory that is not ours, or cannot have such files. */
	if (to < 0)
		to = open_nameless("/var/tmp");
	r = to < 0 ? -errno : clone_or_copy(disk_fd, to, ret_copied);
	if (!r && direct && fcntl(to, F_SETFL, O_DIRECT) < 0)
		r = -errno;
	if (r < 0 && to >= 0)
		close(to);
	return r < 0 ? r : to;
}

/* ---- a draft ---- */

/* Everything in a directory that is ours; there are no directories in it. */
static void empty_directory(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((e = readdir(dir)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			unlinkat(dir_fd, e->d_name, 0);
	closedir(dir);
}

/* Nothing is there yet, or a snapshot that may be replaced. */
static int check_target(const char *path, struct error *err)
{
	struct stat st;
	char *manifest;
	int r = 0;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : error_usage(err, -errno, "snapshot '%s': %m", path);
	if (asprintf(&manifest, "%s/" MANIFEST, path) < 0)
		return error_set(err, -ENOMEM, "snapshot '%s': %m", path);
	if (!S_ISDIR(st.st_mode) || access(manifest, F_OK) < 0)
		r = error_usage(err, -EEXIST, "snapshot '%s': is there and no snapshot", path);
	free(manifest);
	return r;
}

int snapshot_draft_begin(struct snapshot_draft *d, const char *path, struct error *err)
{
	size_t len = strlen(path);
	int r;

	*d = (struct snapshot_draft){ .dir_fd = -1, .state_fd = -1, .memory_fd = -1 };
	while (len > 1 && path[len - 1] == '/')
		len--;
	d->path = strndup(path, len);
	if (!d->path || asprintf(&d->temporary, "%s.partial-XXXXXX", d->path) < 0) {
		d->temporary = NULL;
		return error_set(err, -ENOMEM, "snapshot '%s': %m", path);
	}
	r = check_target(d->path, err);
	if (r < 0)
		return r;
	if (!mkdtemp(d->temporary))
		return error_usage(err, -errno, "snapshot '%s': cannot be made: %m", path);
	d->dir_fd = open(d->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->dir_fd >= 0)
		d->state_fd = openat(d->dir_fd, STATE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->state_fd >= 0)
		d->memory_fd = openat(d->dir_fd, MEMORY, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->memory_fd < 0)
		return error_set(err, -errno, "snapshot '%s': cannot be made: %m", path);
	return 0;
}

static int write_manifest(struct snapshot_draft *d, const json_t *manifest)
{
	int fd = openat(d->dir_fd, MANIFEST, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = fd < 0 ? -errno : 0;
	/* Not json_dumpfd(): it overlooks that some of its writes fail, as on a full disk. */
	char *text = json_dumps(manifest, JSON_INDENT(2));
	ssize_t len = text ? (ssize_t)strlen(text) : 0, n;

	if (!r && !text)
		r = -ENOMEM;
	if (!r) {
		n = write(fd, text, len);
		if (n != len)
			r = n < 0 ? -errno : -ENOSPC;
	}
	free(text);
	if (!r && (write(fd, "\n", 1) != 1 || fsync(fd) < 0))
		r = -errno;
	if (fd >= 0)
		close(fd);
	return r;
}

/* The name, and what the directory above knows of it, on the disk too. */
static void sync_parent(const char *path)
{
	char *above = strdup(path), *slash = above ? strrchr(above, '/') : NULL;
	int fd;

	if (slash)
		slash[slash == above ? 1 : 0] = '\0';
	fd = open(slash ? above : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
	free(above);
}

int snapshot_draft_commit(struct snapshot_draft *d, const json_t *manifest, struct error *err)
{
	int r = 0;

	if (fsync(d->state_fd) < 0 || fsync(d->memory_fd) < 0)
		r = -errno;
	if (!r)
		r = write_manifest(d, manifest);
	if (!r && fsync(d->dir_fd) < 0)
		r = -errno;
	if (r < 0)
		return error_set(err, r, "snapshot '%s': cannot be written: %m", d->path);
	/* In one step: somebody always finds the old one or the new one under this name. */
	if (renameat2(AT_FDCWD, d->temporary, AT_FDCWD, d->path, RENAME_NOREPLACE) == 0) {
		free(d->temporary);
		d->temporary = NULL;
	} else if (errno != EEXIST ||
		   renameat2(AT_FDCWD, d->temporary, AT_FDCWD, d->path, RENAME_EXCHANGE) < 0) {
		return error_set(err, -errno, "snapshot '%s': cannot be named: %m", d->path);
	} else {
		/* The temporary name is the earlier snapshot's now, and it goes. */
		close(d->dir_fd);
		d->dir_fd = open(d->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	sync_parent(d->path);
	return 0;
}

void snapshot_draft_end(struct snapshot_draft *d)
{
	if (d->temporary && d->dir_fd >= 0) {
		empty_directory(d->dir_fd);
		rmdir(d->temporary);
	}
	if (d->dir_fd >= 0)
		close(d->dir_fd);
	if (d->state_fd >= 0)
		close(d->state_fd);
	if (d->memory_fd >= 0)
		close(d->memory_fd);
	free(d->path);
	free(d->temporary);
	*d = (struct snapshot_draft){ .dir_fd = -1, .state_fd = -1, .memory_fd = -1 };
}

/* ---- one that is there ---- */

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

static int read_manifest(struct snapshot *s, const char *path, struct error *err)
{
	int fd = open_part(s, path, MANIFEST, err);
	json_error_t why;

	if (fd < 0) {
		if (fd == -ENOENT)
			error_usage(err, fd, "snapshot '%s': is none, or was never finished", path);
		return fd;
	}
	s->manifest = json_loadfd(fd, JSON_REJECT_DUPLICATES, &why);
	close(fd);
	if (!s->manifest)
		return error_usage(err, -EBADMSG, "snapshot '%s': " MANIFEST ": line %d: %s", path,
				   why.line, why.text);
	if (json_integer_value(json_object_get(s->manifest, "format")) != SNAPSHOT_FORMAT)
		return error_usage(err, -EBADMSG,
				   "snapshot '%s': of a format that this version does not read",
				   path);
	return 0;
}

static int read_state(struct snapshot *s, const char *path, struct error *err)
{
	int fd = open_part(s, path, STATE, err), r = 0;
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > (off_t)MAX_STATE_BYTES)
		r = -EBADMSG;
	if (!r) {
		s->buf = malloc(st.st_size);
		if (!s->buf)
			r = -ENOMEM;
	}
	while (!r && s->len < (size_t)st.st_size) {
		ssize_t n = read(fd, s->buf + s->len, st.st_size - s->len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			r = n < 0 ? -errno : -EBADMSG;
		else
			s->len += n;
	}
	close(fd);
	if (r < 0)
		return error_usage(err, r, "snapshot '%s': " STATE " cannot be read: %m", path);
	return state_set_open(&s->state, s->buf, s->len, err);
}

int snapshot_open(struct snapshot *s, const char *path, struct error *err)
{
	int r;

	*s = (struct snapshot){ .dir_fd = -1, .memory_fd = -1 };
	s->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->dir_fd < 0)
		return error_usage(err, -errno, "snapshot '%s': cannot open: %m", path);
	r = check_owner(s, path, err);
	if (!r)
		r = read_manifest(s, path, err);
	if (!r)
		r = read_state(s, path, err);
	if (!r) {
		s->memory_fd = open_part(s, path, MEMORY, err);
		r = MIN(s->memory_fd, 0);
	}
	if (r < 0 && err->kind == ERROR_OTHER)
		err->kind = ERROR_USAGE;
	return r;
}

void snapshot_close(struct snapshot *s)
{
	state_set_close(&s->state);
	free(s->buf);
	json_decref(s->manifest);
	if (s->dir_fd >= 0)
		close(s->dir_fd);
	if (s->memory_fd >= 0)
		close(s->memory_fd);
	*s = (struct snapshot){ .dir_fd = -1, .memory_fd = -1 };
}

int snapshot_check_memory(const struct snapshot *s, uint64_t bytes, struct error *err)
{
	struct stat st;

	if (fstat(s->memory_fd, &st) < 0)
		return error_usage(err, -errno, "saved memory: %m");
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != bytes)
		return error_usage(err, -EBADMSG,
				   "saved memory: a file of %lld bytes for RAM of %llu bytes",
				   (long long)st.st_size, (unsigned long long)bytes);
	return 0;
}

/* ---- its disks ---- */

static const json_t *find_disk(const struct snapshot *s, const char *id)
{
	json_t *disks = json_object_get(s->manifest, "disks"), *disk;
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		const char *is = json_string_value(json_object_get(disk, "id"));

		if (is && !strcmp(is, id))
			return disk;
	}
	return NULL;
}

static int private_copy(const struct snapshot *s, const char *name, const struct config_disk *d,
			struct error *err)
{
	int from = openat(s->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	bool copied;
	int r = from < 0 ? -errno : snapshot_private_disk(from, d->path, d->direct, &copied);

	if (from >= 0)
		close(from);
	return r < 0 ? error_usage(err, r, "disk '%s': the snapshot's copy of it: %m", d->id) : r;
}

static int check_stamp(const json_t *disk, const struct config_disk *d, bool allow_changed,
		       struct error *err)
{
	int fd = open(d->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), r;
	json_t *now = NULL;
	bool same;

	if (fd < 0)
		return error_usage(err, -errno, "disk '%s': cannot open: %m", d->path);
	r = snapshot_disk_stamp(fd, &now, err);
	close(fd);
	if (r < 0)
		return r;
	same = json_equal(json_object_get(disk, "stamp"), now);
	json_decref(now);
	if (same || allow_changed)
		return 0;
	error_usage(err, -ESTALE, "disk '%s' (%s): has changed since the snapshot was taken",
		    d->path, d->id);
	error_hint(err, "the guest's memory holds parts of the old one: only --changed-disks "
			"goes on with it");
	return -ESTALE;
}

int snapshot_disks(const struct snapshot *s, const struct machine_config *c, bool allow_changed,
		   uint32_t given, int *disk_fds, struct error *err)
{
	for (unsigned i = 0; i < c->num_disks; i++) {
		const struct config_disk *d = &c->disk[i];
		const json_t *disk = find_disk(s, d->id);
		const char *copy = json_string_value(json_object_get(disk, "copy"));
		int r;

		if (!disk)
			return error_usage(err, -EBADMSG,
					   "disk '%s': the snapshot's manifest does not name it",
					   d->id);
		if (copy && strchr(copy, '/'))
			return error_usage(err, -EBADMSG, "disk '%s': its copy is called '%s'",
					   d->id, copy);
		if (given & 1u << i)
			continue;
		if (copy)
			r = disk_fds[i] = private_copy(s, copy, d, err);
		else
			r = check_stamp(disk, d, allow_changed, err);
		if (r < 0)
			return r;
	}
	return 0;
}
