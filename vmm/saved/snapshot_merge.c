/* One complete snapshot out of a chain. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/core/guest_mem.h"
#include "vmm/core/io.h"
#include "vmm/saved/snapshot_chain.h"

/* Pages that are copied at once. */
#define BATCH 256u

/* ---- memory ---- */

/* @num pages of @buf to page @at: those that are zero as holes, where the file can have some. */
static int put_pages(int to, const uint8_t *buf, uint64_t at, unsigned num)
{
	const uint8_t *end = buf + num * PAGE_SIZE;
	uint64_t offset = at * PAGE_SIZE;
	size_t len;
	bool zero;
	int r = 0;

	for (; buf < end && !r; buf += len, offset += len) {
		len = PAGE_SIZE * guest_mem_alike(buf, (end - buf) / PAGE_SIZE, &zero);
		if (!zero || fallocate(to, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				       (off_t)offset, (off_t)len) < 0)
			r = io_write_at(to, buf, len, offset);
	}
	return r;
}

static int read_pages(const struct snapshot *s, struct packed_reader *reader, uint8_t *buf,
		      uint64_t at, unsigned num)
{
	if (snapshot_is_packed(s))
		return packed_memory_read(&s->packed, reader, buf, num * PAGE_SIZE,
					  at * PAGE_SIZE);
	return io_read_at(s->memory_fd, buf, num * PAGE_SIZE, at * PAGE_SIZE);
}

static int lay_over(int to, const struct snapshot *s, uint64_t num, struct packed_reader *reader,
		    uint8_t *buf)
{
	uint64_t at = 0, end;

	while ((at = guest_mem_next_run(s->pages, num, at, &end)) < num) {
		unsigned some = MIN(end - at, (uint64_t)BATCH);
		int r = read_pages(s, reader, buf, at, some);

		if (!r)
			r = put_pages(to, buf, at, some);
		if (r < 0)
			return r;
		at += some;
	}
	return 0;
}

static int join_memory(const struct snapshot_chain *c, int to)
{
	const struct snapshot *first = &c->link[0];
	uint8_t *buf = malloc(BATCH * PAGE_SIZE);
	struct packed_reader reader;
	struct stat st;
	bool copied;
	int r = packed_reader_init(&reader);

	if (!buf)
		r = -ENOMEM;
	if (!r)
		r = snapshot_is_packed(first)
			    ? packed_memory_expand(&first->packed, to)
			    : snapshot_copy_file(first->memory_fd, to, &copied);
	if (!r && fstat(to, &st) < 0)
		r = -errno;
	for (unsigned i = 1; i < c->num && !r; i++)
		r = lay_over(to, &c->link[i], (uint64_t)st.st_size >> PAGE_SHIFT, &reader, buf);
	packed_reader_done(&reader);
	free(buf);
	return r;
}

/* ---- the rest is the newest one's ---- */

/* Snapshots never change their copies of disks, so two can have one file. */
static int take_disk(struct snapshot_draft *d, const struct snapshot *s, const char *name,
		     struct error *err)
{
	int fd = snapshot_open_copy(s, name, err), r = 0;
	bool copied;

	if (fd < 0)
		return fd;
	if (linkat(s->dir_fd, name, d->dir_fd, name, 0) < 0)
		r = snapshot_draft_disk(d, fd, name, name, &copied, err);
	close(fd);
	return r;
}

static int take_disks(struct snapshot_draft *d, const struct snapshot *s, struct error *err)
{
	json_t *disks = json_object_get(s->manifest, "disks"), *disk;
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		const char *copy = json_string_value(json_object_get(disk, "copy"));
		int r = copy ? take_disk(d, s, copy, err) : 0;

		if (r < 0)
			return r;
	}
	return 0;
}

static json_t *make_manifest(const struct snapshot *s)
{
	json_t *manifest = json_deep_copy(s->manifest);

	json_object_del(manifest, "base");
	/* Of the newest one alone, if at all. */
	json_object_del(json_object_get(manifest, "taken"), "compressed_bytes");
	return manifest;
}

/* Its pages are the merged one's. One that cannot be had is for the next restore to record. */
static int take_working_set(const struct snapshot_draft *d, const struct snapshot *s)
{
	struct error ignored = { 0 };
	uint8_t *buf = NULL;
	size_t len;
	int fd, r;

	if (snapshot_read_file(s, d->path, SNAPSHOT_PREFETCH, &buf, &len, &ignored) < 0)
		return 0;
	fd = openat(d->dir_fd, SNAPSHOT_PREFETCH, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	r = fd < 0 ? -errno : io_write(fd, buf, len);
	if (fd >= 0)
		close(fd);
	free(buf);
	return r;
}

static int fill(struct snapshot_draft *d, struct snapshot_chain *c, struct error *err)
{
	const struct snapshot *s = snapshot_chain_last(c);
	int r = join_memory(c, d->memory_fd);

	if (!r)
		r = io_write_at(d->state_fd, s->buf, s->len, 0);
	if (!r)
		r = take_working_set(d, s);
	if (r < 0)
		return error_set(err, r, "snapshot '%s': cannot be written: %m", d->path);
	return take_disks(d, s, err);
}

int snapshot_chain_merge(struct snapshot_chain *c, const char *path, bool packed,
			 struct error *err)
{
	const struct snapshot *s = snapshot_chain_last(c);
	json_t *manifest = make_manifest(s);
	struct snapshot_draft d;
	uint64_t bytes = 0;
	int r = snapshot_draft_begin(&d, path, false, err);

	if (!r)
		r = snapshot_memory_bytes(s, &bytes, err);
	if (!r && packed && !packed_memory_fits(bytes))
		r = error_usage(err, -EFBIG,
				"snapshot '%s': more than 336 GiB of memory are not compressed",
				path);
	if (!r)
		r = snapshot_chain_check_replaced(c, path, err);
	if (!r && !manifest)
		r = error_set(err, -ENOMEM, "manifest: %m");
	if (!r)
		r = fill(&d, c, err);
	if (!r && packed) {
		r = snapshot_draft_pack(&d, &bytes, err);
		json_object_set_new(json_object_get(manifest, "taken"), "compressed_bytes",
				    json_integer((json_int_t)bytes));
	}
	if (!r) {
		/* It is the same in another form: what builds on that goes on to build on this. */
		snprintf(d.id, sizeof(d.id), "%s", s->id ? s->id : d.id);
		r = snapshot_draft_commit(&d, manifest, err);
	}
	snapshot_draft_end(&d);
	json_decref(manifest);
	return r;
}
