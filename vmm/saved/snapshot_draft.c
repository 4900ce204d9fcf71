/* A snapshot that is being made: under another name until all of it is on disk. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/core/io.h"
#include "vmm/saved/snapshot.h"

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

static int make_id(char *id, struct error *err)
{
	uint8_t random[(SNAPSHOT_ID_SIZE - 1) / 2];

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return error_set(err, -errno, "snapshot: random numbers: %m");
	for (unsigned i = 0; i < sizeof(random); i++)
		snprintf(id + 2 * i, 3, "%02x", random[i]);
	return 0;
}

static bool is_ours(const char *name)
{
	static const char *const ours[] = {
		".",		 "..",	       SNAPSHOT_MANIFEST,	     SNAPSHOT_STATE,
		SNAPSHOT_MEMORY, SNAPSHOT_FRAMES, SNAPSHOT_INDEX,	     SNAPSHOT_PAGES,
		SNAPSHOT_PREFETCH, (SNAPSHOT_PREFETCH ".partial"), SNAPSHOT_LOG,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(ours); i++)
		if (!strcmp(name, ours[i]))
			return true;
	return !strncmp(name, SNAPSHOT_DISK, strlen(SNAPSHOT_DISK));
}

/* What is replaced is removed with all that is in it: nothing but what a snapshot has. */
static int check_files(const char *path, struct error *err)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	int r = 0;

	if (!dir)
		return error_usage(err, -errno, "snapshot '%s': %m", path);
	while (!r && (e = readdir(dir)))
		if (!is_ours(e->d_name)) {
			r = error_usage(err, -ENOTEMPTY,
					"snapshot '%s': has '%s' in it, which is no part of one",
					path, e->d_name);
			error_hint(err, "an earlier snapshot is removed with its directory");
		}
	closedir(dir);
	return r;
}

/* Nothing is there yet, or a snapshot that may be replaced. */
static int check_target(const char *path, bool diff, struct error *err)
{
	struct stat st;
	char *manifest;
	int r = 0;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : error_usage(err, -errno, "snapshot '%s': %m", path);
	if (diff)
		return error_usage(err, -EEXIST,
				   "snapshot '%s': is there, and a differential one replaces none",
				   path);
	if (asprintf(&manifest, "%s/" SNAPSHOT_MANIFEST, path) < 0)
		return error_set(err, -ENOMEM, "snapshot '%s': %m", path);
	if (!S_ISDIR(st.st_mode) || access(manifest, F_OK) < 0)
		r = error_usage(err, -EEXIST, "snapshot '%s': is there and no snapshot", path);
	free(manifest);
	return r ? r : check_files(path, err);
}

/* The frames into @to, the index beside them. */
static int pack(struct snapshot_draft *d, int to, uint64_t *ret_bytes)
{
	struct state_writer index;
	struct stat st;
	int fd = -1, r = fstat(d->memory_fd, &st) < 0 ? -errno : 0;

	state_writer_init(&index);
	if (!r)
		r = packed_memory_write(d->memory_fd, st.st_size, to, &index);
	if (!r) {
		fd = openat(d->dir_fd, SNAPSHOT_INDEX, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
			    0600);
		r = fd < 0 ? -errno : io_write(fd, index.buf, index.len);
	}
	if (!r && fstat(to, &st) < 0)
		r = -errno;
	if (!r)
		*ret_bytes = st.st_size + index.len;
	state_writer_done(&index);
	if (fd >= 0)
		close(fd);
	return r;
}

int snapshot_draft_pack(struct snapshot_draft *d, uint64_t *ret_bytes, struct error *err)
{
	int to = openat(d->dir_fd, SNAPSHOT_FRAMES, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = to < 0 ? -errno : pack(d, to, ret_bytes);

	if (!r && unlinkat(d->dir_fd, SNAPSHOT_MEMORY, 0) < 0)
		r = -errno;
	if (to >= 0)
		close(to);
	if (r < 0)
		return error_set(err, r, "snapshot '%s': cannot be compressed: %m", d->path);
	d->packed = true;
	return 0;
}

int snapshot_draft_begin(struct snapshot_draft *d, const char *path, bool diff, struct error *err)
{
	size_t len = strlen(path);
	int r;

	*d = (struct snapshot_draft){
		.dir_fd = -1, .state_fd = -1, .memory_fd = -1, .pages_fd = -1
	};
	while (len > 1 && path[len - 1] == '/')
		len--;
	d->path = strndup(path, len);
	if (!d->path || asprintf(&d->temporary, "%s.partial-XXXXXX", d->path) < 0) {
		d->temporary = NULL;
		return error_set(err, -ENOMEM, "snapshot '%s': %m", path);
	}
	r = check_target(d->path, diff, err);
	if (!r)
		r = make_id(d->id, err);
	if (r < 0)
		return r;
	if (!mkdtemp(d->temporary))
		return error_usage(err, -errno, "snapshot '%s': cannot be made: %m", path);
	d->dir_fd = open(d->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->dir_fd >= 0)
		d->state_fd = openat(d->dir_fd, SNAPSHOT_STATE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->state_fd >= 0)
		d->memory_fd =
			openat(d->dir_fd, SNAPSHOT_MEMORY, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->memory_fd >= 0 && diff)
		d->pages_fd = openat(d->dir_fd, SNAPSHOT_PAGES, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->memory_fd < 0 || (diff && d->pages_fd < 0))
		return error_set(err, -errno, "snapshot '%s': cannot be made: %m", path);
	return 0;
}

static int write_manifest(struct snapshot_draft *d, const json_t *manifest)
{
	int fd =
		openat(d->dir_fd, SNAPSHOT_MANIFEST, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
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

/* What it is: differential, with the file that says of which pages, or complete without it. */
static int settle_format(struct snapshot_draft *d, json_t *manifest)
{
	bool diff = json_object_get(manifest, "base") != NULL;
	int format = d->packed ? SNAPSHOT_FORMAT_PACKED
		     : diff    ? SNAPSHOT_FORMAT_DIFF
			       : SNAPSHOT_FORMAT;

	if (diff && d->pages_fd < 0)
		return -EINVAL;
	if (!diff && d->pages_fd >= 0 && unlinkat(d->dir_fd, SNAPSHOT_PAGES, 0) < 0)
		return -errno;
	if (json_object_set_new(manifest, "id", json_string(d->id)) < 0 ||
	    json_object_set_new(manifest, "format", json_integer(format)) < 0)
		return -ENOMEM;
	if (!d->packed)
		json_object_del(manifest, "memory");
	else if (json_object_set_new(manifest, "memory",
				     json_pack("{s:s, s:I}", "compression", "zstd", "chunk_bytes",
					       (json_int_t)PACKED_CHUNK)) < 0)
		return -ENOMEM;
	return 0;
}

/* What is in all files of it so far, copies of disks too, on the disk. */
static int sync_files(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;

	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (!r && (errno = 0, e = readdir(dir))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		fd = openat(dir_fd, e->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		if (fd < 0 || fsync(fd) < 0)
			r = -errno;
		if (fd >= 0)
			close(fd);
	}
	if (!r && errno)
		r = -errno;
	closedir(dir);
	return r;
}

static int cannot_be_named(const struct snapshot_draft *d, int r, struct error *err)
{
	return error_set(err, r, "snapshot '%s': cannot be named: %m", d->path);
}

/*
 * Where renames have no flags (NFS and other network file systems): in two steps where there is an
 * earlier snapshot, which is beside its name between them. What was made meanwhile is not replaced:
 * a directory takes the place of an empty one alone.
 */
static int rename_plainly(struct snapshot_draft *d, struct error *err)
{
	char *aside;
	int r;

	if (rename(d->temporary, d->path) == 0) {
		free(d->temporary);
		d->temporary = NULL;
		return 0;
	}
	if (errno != EEXIST && errno != ENOTEMPTY)
		return cannot_be_named(d, -errno, err);
	r = check_target(d->path, d->pages_fd >= 0, err);
	if (r < 0)
		return r;
	if (asprintf(&aside, "%s-earlier", d->temporary) < 0)
		return cannot_be_named(d, -ENOMEM, err);
	r = rename(d->path, aside) < 0 ? -errno : 0;
	if (!r && rename(d->temporary, d->path) < 0) {
		r = -errno;
		rename(aside, d->path);
	}
	if (r < 0) {
		free(aside);
		return cannot_be_named(d, r, err);
	}
	free(d->temporary);
	d->temporary = aside;
	return 0;
}

/* The temporary name becomes the earlier snapshot's, if there is one. */
static int give_name(struct snapshot_draft *d, struct error *err)
{
	int r;

	if (renameat2(AT_FDCWD, d->temporary, AT_FDCWD, d->path, RENAME_NOREPLACE) == 0) {
		free(d->temporary);
		d->temporary = NULL;
		return 0;
	}
	r = -errno;
	if (r == -EEXIST) {
		/* Not what was there at the begin, perhaps. */
		r = check_target(d->path, d->pages_fd >= 0, err);
		if (r < 0)
			return r;
		if (renameat2(AT_FDCWD, d->temporary, AT_FDCWD, d->path, RENAME_EXCHANGE) < 0)
			r = -errno;
	} else if (r == -EINVAL || r == -ENOSYS) {
		r = rename_plainly(d, err);
		if (r < 0 || !d->temporary)
			return r;
	}
	if (r < 0)
		return cannot_be_named(d, r, err);
	close(d->dir_fd);
	d->dir_fd = open(d->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return 0;
}

int snapshot_draft_commit(struct snapshot_draft *d, json_t *manifest, struct error *err)
{
	int r = settle_format(d, manifest);

	if (!r)
		r = sync_files(d->dir_fd);
	if (!r)
		r = write_manifest(d, manifest);
	if (!r && fsync(d->dir_fd) < 0)
		r = -errno;
	if (r < 0)
		return error_set(err, r, "snapshot '%s': cannot be written: %m", d->path);
	/* In one step: somebody always finds the old one or the new one under this name. */
	r = give_name(d, err);
	if (r < 0)
		return r;
	io_sync_parent(d->path);
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
	if (d->pages_fd >= 0)
		close(d->pages_fd);
	free(d->path);
	free(d->temporary);
	*d = (struct snapshot_draft){
		.dir_fd = -1, .state_fd = -1, .memory_fd = -1, .pages_fd = -1
	};
}

int snapshot_remove(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	empty_directory(fd);
	close(fd);
	return rmdir(path) < 0 && errno != ENOENT ? -errno : 0;
}
