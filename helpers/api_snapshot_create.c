/*
 * Snapshots in Firecracker's manner, created: a file with the state, and one with RAM from its
 * first byte to its last, both under names that the client chose. Disks are only named, and are as
 * the guest left them.
 *
 * A differential snapshot has the pages that changed since the last one. As in Firecracker, they
 * are written over a memory file that is there already, which is complete then; without one the
 * file has holes for all other pages. Changes must be counted from a snapshot that was taken here:
 * else the snapshot becomes a complete one.
 *
 * What is answered to is on the disk: each file before it has its name, and the name too; and what
 * the guest wrote to its disks until then. A file that is written over has another name meanwhile,
 * so that nobody takes a half for the whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "helpers/api.h"
#include "helpers/api_snapshot_file.h"
#include "vmm/config/config.h"
#include "vmm/control/control_client.h"
#include "vmm/core/io.h"
#include "vmm/saved/snapshot_pages.h"

#define MERGE_PAGES 256 /* at once */

/* A file that gets its name when it is complete. */
struct draft {
	const char *what; /* in errors */
	const char *path;
	char partial[PATH_MAX];
	int fd; /* -1: there is none */
	bool nameless; /* @partial names another file, see set_aside() */
};

struct taking {
	struct api *api;
	struct draft state, memory;
	char id[sizeof(((struct api *)0)->snapshot_base)];
	uint64_t ram_bytes;
	bool diff;	 /* only what changed is wanted */
	int merge_fd;	 /* the memory file that it is to be written over; or -1 */
	int sections_fd; /* where the monitor leaves the state, in memory */
	int pages_fd;	 /* and which pages it wrote, with @merge_fd */
	int go[2];	 /* a pipe: the monitor waits at its other end for a byte */
	bool foreign;	 /* changes are counted from a snapshot of somebody else's */
	json_t *disks;	 /* what the monitor says of them */
	int disk_fd[CONFIG_MAX_DISKS];
	unsigned num_disks;
	struct error why; /* the disks are not safe, or none */
};

static void close_if_open(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/*
 * What keeps a file from having the name @path, 0 or an errno: found out before anything is
 * written, else one of two files would be new. No device or pipe is replaced by a file.
 */
static int cannot_have(const char *path)
{
	size_t len = strlen(path);
	struct stat st;

	if (!len)
		return ENOENT;
	if (stat(path, &st) < 0)
		return path[len - 1] == '/' ? EISDIR : 0;
	return S_ISDIR(st.st_mode) ? EISDIR : S_ISREG(st.st_mode) ? 0 : EINVAL;
}

/* Guests that run from an earlier file of that name keep it. */
static int open_draft(struct draft *d, const char *what, const char *path, struct error *err)
{
	int error = cannot_have(path);

	d->what = what;
	d->path = path;
	if (!error && (size_t)snprintf(d->partial, sizeof(d->partial), "%s.partial-XXXXXX", path) >=
			      sizeof(d->partial))
		error = ENAMETOOLONG;
	if (!error) {
		d->fd = mkostemp(d->partial, O_CLOEXEC);
		error = d->fd < 0 ? errno : 0;
	}
	if (!error)
		return 0;
	return error_set(err, -error,
			 "Cannot perform open on the %s backing file: %s (os error %d)", what,
			 strerror(error), error);
}

static int cannot_write(const struct draft *d, int r, struct error *err)
{
	return error_set(err, r, "Cannot perform write on the %s backing file: %m", d->what);
}

/* What is at @partial is complete, and on the disk but for its name. */
static int give_name(const struct draft *d, struct error *err)
{
	int r;

	if (rename(d->partial, d->path) < 0)
		return error_set(err, -errno, "Cannot rename '%s': %m", d->partial);
	r = io_sync_parent(d->path);
	return r < 0 ? cannot_write(d, r, err) : 0;
}

static int name_draft(struct draft *d, struct error *err)
{
	int r = fsync(d->fd) < 0 ? cannot_write(d, -errno, err) : give_name(d, err);

	if (!r)
		close_if_open(&d->fd);
	return r;
}

static void drop_draft(struct draft *d)
{
	if (d->fd >= 0 && !d->nameless)
		unlink(d->partial);
	close_if_open(&d->fd);
}

/* ---- what is asked of the monitor ---- */

/*
 * Its memory knows of no write that may still be lost; and who loads it takes disks as they are.
 * Whatever their drives have for a cache, as in Firecracker.
 */
static int sync_disks(struct taking *t)
{
	const json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(t->disks, "disks"), i, disk)
	{
		if (i < t->num_disks && !json_is_true(json_object_get(disk, "read_only")) &&
		    fsync(t->disk_fd[i]) < 0)
			return error_set(&t->why, -errno,
					 "Cannot perform flush on the backing file of drive %s: %m",
					 json_string_value(json_object_get(disk, "id")) ?: "");
	}
	return 0;
}

/*
 * The guest's files are not kept by the moment that it stands still, so it may go on; unless the
 * changes are others than ours. Without a byte the monitor takes no snapshot.
 */
static void let_go_on(void *arg, const json_t *progress)
{
	struct taking *t = arg;
	const json_t *base = json_object_get(progress, "base");
	const char *id = json_string_value(json_object_get(base, "id"));

	if (base && (!id || !*id || strcmp(id, t->api->snapshot_base) != 0))
		t->foreign = true;
	else if (sync_disks(t) == 0 && t->go[1] >= 0 && write(t->go[1], "", 1) != 1)
		api_log(t->api, "Warn", "The microVM does not wait for its snapshot.");
	close_if_open(&t->go[1]);
}

static int ask_once(struct taking *t, bool diff, json_t **ret_reply, struct error *err)
{
	struct control_extra extra = { .progress = let_go_on, .arg = t, .give_up_fd = -1 };
	bool tracked = json_is_true(json_object_get(t->api->machine, "track_dirty_pages"));
	int fds[4], r;

	if (pipe2(t->go, O_CLOEXEC) < 0)
		return error_set(err, -errno, "pipe: %m");
	fds[0] = t->go[0];
	fds[1] = t->sections_fd;
	fds[2] = t->memory.fd;
	fds[3] = t->pages_fd;
	r = control_ask_extra(t->api->control,
			      json_pack("{s:s, s:b, s:b, s:s, s:O*}", "do", "snapshot", "diff",
					diff, "track", tracked || t->diff, "id", t->id,
					"generation", json_object_get(t->disks, "generation")),
			      fds, t->pages_fd >= 0 ? 4 : 3, ret_reply, &extra, err);
	close_if_open(&t->go[0]);
	close_if_open(&t->go[1]);
	return r;
}

static int ask(struct taking *t, json_t **ret_reply, struct error *err)
{
	struct error why = { 0 };
	int r = api_disks(t->api, &t->disks, t->disk_fd, &t->num_disks, &why);

	if (!r)
		r = ask_once(t, t->diff, ret_reply, &why);
	if (r < 0 && t->foreign)
		r = ask_once(t, false, ret_reply, &why);
	/* What went wrong here is the reason; what the monitor made of it is not. */
	if (r < 0)
		*err = t->why.code ? t->why : why;
	return r;
}

/* It is safe, so the next one may build on it. If nobody says so that builds on an earlier one. */
static void tell_kept(struct taking *t)
{
	struct error err = { 0 };

	if (control_ask(t->api->control,
			json_pack("{s:s, s:s, s:s}", "do", "snapshot-kept", "id", t->id, "path",
				  t->state.path),
			NULL, 0, NULL, &err) == 0)
		memcpy(t->api->snapshot_base, t->id, sizeof(t->id));
	else
		api_log(t->api, "Warn", "The next snapshot builds on an earlier one: %s", err.msg);
}

/* ---- the files ---- */

static json_t *or_null(json_t *o)
{
	return o ? json_incref(o) : json_null();
}

static char *resources_text(const struct api *api)
{
	json_t *o = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "machine",
			      or_null(api->machine), "boot", or_null(api->boot), "drives",
			      or_null(api->drives), "nets", or_null(api->nets), "pmems",
			      or_null(api->pmems), "vsock", or_null(api->vsock), "entropy",
			      or_null(api->entropy), "balloon", or_null(api->balloon), "memory",
			      or_null(api->memory), "serial", or_null(api->serial), "mmds_config",
			      or_null(api->mmds_config));
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;

	json_decref(o);
	return text;
}

/* Header, resources, and the sections that the monitor has left. */
static int write_state(const struct taking *t, struct error *err)
{
	struct api_snapshot_header h = { .version = API_SNAPSHOT_VERSION };
	char *text = resources_text(t->api);
	void *state = MAP_FAILED;
	struct stat st;
	int r = 0;

	memcpy(h.magic, API_SNAPSHOT_MAGIC, sizeof(h.magic));
	if (text && fstat(t->sections_fd, &st) == 0 && st.st_size > 0 &&
	    st.st_size <= API_MAX_STATE)
		state = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, t->sections_fd, 0);
	if (state == MAP_FAILED) {
		r = error_set(err, -EIO, "no state");
	} else {
		h.resources = htole32(strlen(text));
		h.state = htole32(st.st_size);
		r = io_write(t->state.fd, &h, sizeof(h));
		if (!r)
			r = io_write(t->state.fd, text, strlen(text));
		if (!r)
			r = io_write(t->state.fd, state, st.st_size);
		if (r < 0)
			cannot_write(&t->state, r, err);
		munmap(state, st.st_size);
	}
	free(text);
	return r;
}

/* The set of pages that the monitor wrote, for free(). */
static int read_pages(const struct taking *t, uint64_t **ret_pages, struct error *err)
{
	struct stat st;
	uint8_t *buf;
	int r = fstat(t->pages_fd, &st) < 0 ? -errno : 0;

	if (r < 0)
		return error_set(err, r, "changed pages: %m");
	buf = malloc(MAX(st.st_size, (off_t)1));
	r = buf ? io_read_at(t->pages_fd, buf, st.st_size, 0) : -ENOMEM;
	if (r < 0)
		error_set(err, r, "changed pages: %m");
	else
		r = snapshot_pages_read(buf, st.st_size, t->ram_bytes >> PAGE_SHIFT, ret_pages,
					err);
	free(buf);
	return r;
}

/* How many pages in a row from @first on are in the set, up to MERGE_PAGES and to @end. */
static uint64_t run_of_pages(const uint64_t *pages, uint64_t first, uint64_t end)
{
	uint64_t n = 0;

	end = MIN(end, first + MERGE_PAGES);
	while (first + n < end && pages[(first + n) / 64] >> (first + n) % 64 & 1)
		n++;
	return n;
}

/* Room for all @pages before any is written, as far as the file system promises that. */
static int reserve(const struct taking *t, const uint64_t *pages)
{
	uint64_t end = t->ram_bytes >> PAGE_SHIFT, n;
	int r = 0;

	for (uint64_t page = 0; page < end && !r; page += MAX(n, (uint64_t)1)) {
		n = run_of_pages(pages, page, end);
		if (n && fallocate(t->merge_fd, 0, page * PAGE_SIZE, n * PAGE_SIZE) < 0)
			r = -errno;
	}
	return r == -EOPNOTSUPP || r == -ENOSYS ? 0 : r;
}

/* All @pages of the draft, through @buf of MERGE_PAGES. What is not in the set stays. */
static int write_pages(const struct taking *t, const uint64_t *pages, uint8_t *buf)
{
	uint64_t end = t->ram_bytes >> PAGE_SHIFT, n;
	int r = 0;

	for (uint64_t page = 0; page < end && !r; page += MAX(n, (uint64_t)1)) {
		n = run_of_pages(pages, page, end);
		if (n)
			r = io_read_at(t->memory.fd, buf, n * PAGE_SIZE, page * PAGE_SIZE);
		if (n && !r)
			r = io_write_at(t->merge_fd, buf, n * PAGE_SIZE, page * PAGE_SIZE);
	}
	if (!r && fsync(t->merge_fd) < 0)
		r = -errno;
	return r;
}

/*
 * The earlier file takes the draft's name until it is complete again: whoever is killed in between
 * leaves no file that an earlier state seems to belong to. False where that cannot be (it is a
 * mount point, or somebody else's among files of many): it is written over where it is.
 */
static bool set_aside(struct draft *d)
{
	d->nameless = rename(d->path, d->partial) == 0;
	if (d->nameless)
		io_sync_parent(d->path);
	return d->nameless;
}

static int write_over(struct taking *t, const uint64_t *pages, uint8_t *buf, struct error *err)
{
	struct draft *d = &t->memory;
	int r = reserve(t, pages);
	bool aside;

	if (r < 0)
		return cannot_write(d, r, err);
	aside = set_aside(d);
	r = write_pages(t, pages, buf);
	/* The next one is complete: there is nothing left that changes could be added to. */
	if (r < 0)
		t->api->snapshot_base[0] = '\0';
	if (r < 0)
		return error_set(err, r,
				 "Cannot perform write on the memory backing file: %m; '%s', which "
				 "is neither the earlier memory nor this one, is of no use",
				 aside ? d->partial : d->path);
	return aside ? give_name(d, err) : 0;
}

/* Write what changed over the memory file. */
static int merge(struct taking *t, struct error *err)
{
	uint8_t *buf = malloc(MERGE_PAGES * PAGE_SIZE);
	uint64_t *pages = NULL;
	int r = buf ? read_pages(t, &pages, err) : error_set(err, -ENOMEM, "merge: %m");

	if (!r && pages)
		r = write_over(t, pages, buf, err);
	free(pages);
	free(buf);
	return r;
}

/* ---- the whole ---- */

/* The file that is there already, when it may be an earlier snapshot's of this machine. */
static int open_earlier(const struct taking *t, const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0 ||
	    (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == t->ram_bytes))
		return fd;
	close(fd);
	return -1;
}

/* Where the name of @path stands: its directory, and how long the part before the name is. */
static size_t directory_of(const char *path, struct stat *ret)
{
	const char *slash = strrchr(path, '/');
	size_t len = slash ? (size_t)(slash - path) + 1 : 0;
	char *dir = len ? strndup(path, len) : strdup(".");

	if (!dir || stat(dir, ret) < 0)
		*ret = (struct stat){ 0 };
	free(dir);
	return len;
}

static bool same_name(const char *a, const char *b)
{
	struct stat in_a, in_b;
	size_t skip_a = directory_of(a, &in_a), skip_b = directory_of(b, &in_b);

	return !strcmp(a + skip_a, b + skip_b) && in_a.st_dev == in_b.st_dev &&
	       in_a.st_ino == in_b.st_ino;
}

static int open_files(struct taking *t, const char *state_path, const char *memory_path,
		      struct error *err)
{
	int r;

	if (same_name(state_path, memory_path))
		return error_set(err, -EINVAL,
				 "Cannot save the microVM state: snapshot_path and mem_file_path "
				 "are the same file");
	r = open_draft(&t->state, "snapshot", state_path, err);

	if (!r)
		r = open_draft(&t->memory, "memory", memory_path, err);
	if (r < 0)
		return r;
	if (t->diff)
		t->merge_fd = open_earlier(t, memory_path);
	if (t->merge_fd >= 0)
		t->pages_fd = memfd_create("pages", MFD_CLOEXEC);
	t->sections_fd = memfd_create("state", MFD_CLOEXEC);
	if (t->sections_fd < 0 || (t->merge_fd >= 0 && t->pages_fd < 0))
		return error_set(err, -errno, "Cannot save the microVM state: %m");
	return 0;
}

static int take(struct taking *t, struct error *err)
{
	json_t *reply = NULL;
	int r = ask(t, &reply, err);

	if (!r)
		r = write_state(t, err);
	if (!r && t->merge_fd >= 0 && json_is_true(json_object_get(reply, "diff")))
		r = merge(t, err);
	else if (!r)
		r = name_draft(&t->memory, err);
	if (!r)
		r = name_draft(&t->state, err);
	if (!r && json_is_true(json_object_get(reply, "tracked")))
		tell_kept(t);
	json_decref(reply);
	return r;
}

static int create(struct api *api, const json_t *body, struct error *err)
{
	const char *type = json_string_value(json_object_get(body, "snapshot_type"));
	struct taking *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return error_set(err, -ENOMEM, "snapshot: %m");
	t->api = api;
	t->diff = type && !strcmp(type, "Diff");
	/* Of a machine that was loaded they are what its snapshot said. */
	t->ram_bytes = json_integer_value(json_object_get(api->machine, "mem_size_mib"));
	t->ram_bytes += json_integer_value(json_object_get(api->memory, "total_size_mib"));
	t->ram_bytes *= MiB;
	t->state.fd = t->memory.fd = t->merge_fd = t->sections_fd = t->pages_fd = -1;
	t->go[0] = t->go[1] = -1;
	snprintf(t->id, sizeof(t->id), "api-%d-%u", getpid(), ++api->snapshots);
	r = open_files(t, json_string_value(json_object_get(body, "snapshot_path")),
		       json_string_value(json_object_get(body, "mem_file_path")), err);
	if (!r)
		r = take(t, err);
	drop_draft(&t->state);
	drop_draft(&t->memory);
	close_if_open(&t->merge_fd);
	close_if_open(&t->sections_fd);
	close_if_open(&t->pages_fd);
	while (t->num_disks)
		close(t->disk_fd[--t->num_disks]);
	json_decref(t->disks);
	free(t);
	return r;
}

API_HANDLER(create_snapshot)
{
	struct error err = { 0 };

	if (api->state != API_PAUSED)
		api_fault(answer, "Create snapshot error: Cannot save the microVM state: Operation "
				  "not allowed: save/restore unavailable while running");
	else if (create(api, body, &err) < 0)
		api_fault(answer, "Create snapshot error: %s", err.msg);
	else
		api_no_content(answer);
}
