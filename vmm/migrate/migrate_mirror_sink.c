/* Copies of disks at the side that gets them: records by somebody hostile, into files. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include "vmm/core/io.h"
#include "vmm/migrate/migrate_mirror_record.h"

/*
 * How much may wait to be on the medium. Not more: the source gives up one who takes no byte for
 * some seconds, and the last of it is waited for while the guest stands still.
 */
#define UNSYNCED_BYTES (32 * MiB)

int migrate_mirror_sink_init(struct migrate_mirror_sink *s, struct error *err)
{
	*s = (struct migrate_mirror_sink){
		.zstd = ZSTD_createDCtx(),
		.data = malloc(MIGRATE_DISK_UNITS * MIGRATE_UNIT),
	};
	if (s->zstd && s->data)
		return 0;
	migrate_mirror_sink_done(s);
	return error_set(err, -ENOMEM, "migration: %m");
}

void migrate_mirror_sink_done(struct migrate_mirror_sink *s)
{
	ZSTD_freeDCtx(s->zstd);
	free(s->data);
	*s = (struct migrate_mirror_sink){ 0 };
}

static int nonsense(struct error *err)
{
	return error_set(err, -EBADMSG, "migration: parts of a disk that make no sense");
}

/* A full disk is what is to be expected, and is told to the source in these words. */
static int unwritable(const struct migrate_mirror_file *f, int r, struct error *err)
{
	return error_set(err, r, "disk '%s': its copy cannot be written: %m", f->path);
}

static int sync_file(struct migrate_mirror_file *f, struct error *err)
{
	if (f->unsynced && fdatasync(f->fd) < 0)
		return unwritable(f, -errno, err);
	f->unsynced = 0;
	return 0;
}

static int write_some(struct migrate_mirror_file *f, const uint8_t *data, size_t len, uint64_t pos,
		      struct error *err)
{
	int r = io_write_at(f->fd, data, len, pos);

	if (r < 0)
		return unwritable(f, r, err);
	f->unsynced += len;
	return f->unsynced < UNSYNCED_BYTES ? 0 : sync_file(f, err);
}

static int write_zeroes(struct migrate_mirror_file *f, uint64_t pos, uint64_t len,
			struct error *err)
{
	static const uint8_t zeroes[MIGRATE_UNIT];
	int r = 0;

	f->unsynced++;
	if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)pos,
		      (off_t)len) == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return unwritable(f, -errno, err);
	/* Its file system has no holes. */
	while (len && !r) {
		size_t n = MIN(len, (uint64_t)sizeof(zeroes));

		r = write_some(f, zeroes, n, pos, err);
		pos += n;
		len -= n;
	}
	return r;
}

static size_t unit_bytes(const struct migrate_mirror_file *f, uint64_t unit)
{
	return MIN(MIGRATE_UNIT, f->bytes - unit * MIGRATE_UNIT);
}

/* The file that @rec is for, when it is one and @num units from its page on are inside; or NULL. */
static struct migrate_mirror_file *file_of(struct migrate_mirror_sink *s,
					   const struct migrate_record *rec, uint64_t num)
{
	uint32_t index = get_le32(rec->payload);

	if (index >= s->num || s->file[index].fd < 0 ||
	    !range_inside(rec->page, num, 0, migrate_units(s->file[index].bytes)))
		return NULL;
	return &s->file[index];
}

static int take_zeroes(struct migrate_mirror_sink *s, const struct migrate_record *rec,
		       struct error *err)
{
	struct migrate_mirror_file *f;
	uint64_t num, pos, end;

	if (rec->len != MIGRATE_ZEROES_BYTES)
		return nonsense(err);
	num = get_le64(rec->payload + 4);
	f = file_of(s, rec, num);
	if (!f || !num)
		return nonsense(err);
	pos = rec->page * MIGRATE_UNIT;
	end = rec->page + num == migrate_units(f->bytes) ? f->bytes : pos + num * MIGRATE_UNIT;
	return write_zeroes(f, pos, end - pos, err);
}

static int write_units(struct migrate_mirror_file *f, uint64_t first, uint16_t present,
		       uint16_t zero, const uint8_t *data, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < MIGRATE_DISK_UNITS && !r; i++) {
		uint64_t pos = (first + i) * MIGRATE_UNIT;
		size_t n;

		if (!((present | zero) >> i & 1))
			continue;
		n = unit_bytes(f, first + i);
		r = zero >> i & 1 ? write_zeroes(f, pos, n, err) :
				    write_some(f, data, n, pos, err);
		data += present >> i & 1 ? n : 0;
	}
	return r;
}

static int take_units(struct migrate_mirror_sink *s, const struct migrate_record *rec,
		      struct error *err)
{
	const uint8_t *data = rec->payload + MIGRATE_DISK_AT;
	struct migrate_mirror_file *f;
	uint16_t present, zero;
	size_t bytes = 0;

	if (rec->len < MIGRATE_DISK_AT)
		return nonsense(err);
	present = get_le16(rec->payload + 4);
	zero = get_le16(rec->payload + 6);
	if (!(present | zero) || (present & zero))
		return nonsense(err);
	f = file_of(s, rec, 32 - __builtin_clz(present | zero));
	if (!f)
		return nonsense(err);
	for (unsigned i = 0; i < MIGRATE_DISK_UNITS; i++)
		bytes += present >> i & 1 ? unit_bytes(f, rec->page + i) : 0;
	if (rec->type == MIGRATE_DISK_ZSTD) {
		if (ZSTD_decompressDCtx(s->zstd, s->data, bytes, data,
					rec->len - MIGRATE_DISK_AT) != bytes)
			return nonsense(err);
		data = s->data;
	} else if (rec->len != MIGRATE_DISK_AT + bytes) {
		return nonsense(err);
	}
	return write_units(f, rec->page, present, zero, data, err);
}

int migrate_mirror_sink_take(struct migrate_mirror_sink *s, const struct migrate_record *rec,
			     struct error *err)
{
	return rec->type == MIGRATE_DISK_ZEROES ? take_zeroes(s, rec, err) :
						  take_units(s, rec, err);
}

int migrate_mirror_sink_sync(struct migrate_mirror_sink *s, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < s->num && !r; i++)
		r = sync_file(&s->file[i], err);
	return r;
}
