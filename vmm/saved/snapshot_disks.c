/* Disks of snapshots: copies as they were at that moment, and how others are recognised. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/saved/held_signals.h"
#include "vmm/saved/snapshot.h"

/* So much at a time: the kernel would copy 2 GiB before it looks at a signal. */
#define COPY_BYTES (64 * MiB)

/* ---- copies ---- */

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
			size_t some = MIN((uint64_t)(hole - at), COPY_BYTES);
			ssize_t n;

			if (held_signals_came())
				return -EINTR;
			n = copy_file_range(from, &in, to, &out, some, 0);

			if (n < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == EINVAL))
				n = copy_by_hand(from, at, to, some);
			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return n < 0 ? -errno : -EIO;
			at += n;
		}
	}
	return 0;
}

int snapshot_copy_file(int from, int to, bool *ret_copied)
{
	struct stat st;

	if (fstat(from, &st) < 0)
		return -errno;
	/* All others say that they are empty. */
	if (!S_ISREG(st.st_mode))
		return -ENOTSUP;
	*ret_copied = ioctl(to, FICLONE, from) < 0;
	return *ret_copied ? copy_data(from, to, st.st_size) : 0;
}

int snapshot_draft_disk(struct snapshot_draft *d, int disk_fd, const char *path, const char *name,
			bool *ret_copied, struct error *err)
{
	int to = openat(d->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = to < 0 ? -errno : snapshot_copy_file(disk_fd, to, ret_copied);

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

int snapshot_nameless_file(const char *path)
{
	char *dir = strdup(path), *slash = dir ? strrchr(dir, '/') : NULL;
	int fd = -1;

	if (slash)
		slash[slash == dir ? 1 : 0] = '\0';
	if (dir)
		fd = open_nameless(slash ? dir : ".");
	free(dir);
	/* A directory that is not ours, or cannot have such files. */
	if (fd < 0)
		fd = open_nameless("/var/tmp");
	return fd < 0 ? -errno : fd;
}

int snapshot_private_disk(int disk_fd, const char *path, bool direct, bool *ret_copied)
{
	int to = snapshot_nameless_file(path);
	int r = to < 0 ? to : snapshot_copy_file(disk_fd, to, ret_copied);

	if (!r && direct && fcntl(to, F_SETFL, O_DIRECT) < 0)
		r = -errno;
	if (r < 0 && to >= 0)
		close(to);
	return r < 0 ? r : to;
}

/* ---- those of a snapshot that is there ---- */

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

int snapshot_open_copy(const struct snapshot *s, const char *name, struct error *err)
{
	struct stat st;
	int fd;

	if (strchr(name, '/'))
		return error_usage(err, -EBADMSG, "disk: its copy is called '%s'", name);
	/* Whatever has that name, a pipe for instance, is not waited for. */
	fd = openat(s->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return error_usage(err, -errno, "disk: the snapshot's copy '%s': %m", name);
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		return fd;
	close(fd);
	return error_usage(err, -EBADMSG, "disk: the snapshot's copy '%s': no regular file", name);
}

static int private_copy(const struct snapshot *s, const char *name, const struct config_disk *d,
			struct error *err)
{
	int from = snapshot_open_copy(s, name, err), r;
	bool copied;

	if (from < 0)
		return from;
	r = snapshot_private_disk(from, d->path, d->direct, &copied);
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
