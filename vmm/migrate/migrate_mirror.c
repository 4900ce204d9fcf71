/*
 * A record of DISK has up to MIGRATE_DISK_UNITS units of MIGRATE_UNIT bytes, the last of a disk may
 * be shorter: the disk (u32), a bit for each unit that follows (u16), one for each that is
 * empty (u16), the units. DISK_ZEROES is a range of empty ones: the disk (u32), how many (u64).
 */
#include "vmm/migrate/migrate_mirror.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include "vmm/core/clock.h"
#include "vmm/core/guest_mem.h"
#include "vmm/core/io.h"
#include "vmm/migrate/migrate_mirror_record.h"

/* What direct I/O may want of offsets, lengths and memory. */
#define ALIGNMENT PAGE_SIZE

static bool has_bit(const uint64_t *words, uint64_t i)
{
	return words[i / 64] >> (i % 64) & 1;
}

static void clear_bits(uint64_t *words, uint64_t first, uint64_t num)
{
	for (uint64_t i = first; i < first + num; i++)
		words[i / 64] &= ~(1ull << (i % 64));
}

/* ---- what is to be sent ---- */

static int watch_disk(struct migrate_mirror_disk *d)
{
	uint64_t units = migrate_units(d->bytes);

	d->todo = calloc((units + 63) / 64, sizeof(uint64_t));
	if (!d->todo)
		return -ENOMEM;
	for (uint64_t i = 0; i < units; i++)
		d->todo[i / 64] |= 1ull << (i % 64);
	return block_watch(d->block);
}

int migrate_mirror_start(struct migrate_mirror *s, const struct migrate_mirror_disk *disks,
			 unsigned num, int level, struct error *err)
{
	int r;

	*s = (struct migrate_mirror){ .num = num, .first = true, .level = level };
	s->data = aligned_alloc(ALIGNMENT, MIGRATE_DISK_UNITS * MIGRATE_UNIT);
	s->record = malloc(MIGRATE_MAX_DISK);
	s->packed = level ? malloc(MIGRATE_MAX_DISK) : NULL;
	s->zstd = level ? ZSTD_createCCtx() : NULL;
	r = !s->data || !s->record || (level && (!s->packed || !s->zstd)) ? -ENOMEM : 0;
	for (unsigned i = 0; i < num; i++) {
		s->disk[i] = disks[i];
		s->disk[i].todo = NULL;
		if (!r && disks[i].block)
			r = watch_disk(&s->disk[i]);
	}
	return r < 0 ? error_set(err, r, "migration: copies of disks: %m") : 0;
}

void migrate_mirror_stop(struct migrate_mirror *s)
{
	for (unsigned i = 0; i < s->num; i++) {
		if (s->disk[i].block)
			block_unwatch(s->disk[i].block);
		free(s->disk[i].todo);
	}
	ZSTD_freeCCtx(s->zstd);
	free(s->data);
	free(s->record);
	free(s->packed);
	*s = (struct migrate_mirror){
		.bytes_read = s->bytes_read,
		.bytes_sent = s->bytes_sent,
		.bytes_full = s->bytes_full,
		.looks = s->looks,
		.empty_ns = s->empty_ns,
	};
}

uint64_t migrate_mirror_collect(struct migrate_mirror *s)
{
	uint64_t units = 0;

	for (unsigned i = 0; i < s->num; i++) {
		struct migrate_mirror_disk *d = &s->disk[i];
		uint64_t num = migrate_units(d->bytes);

		if (!d->block)
			continue;
		block_watch_collect(d->block, d->todo, num);
		for (uint64_t k = 0; k < (num + 63) / 64; k++)
			units += __builtin_popcountll(d->todo[k]);
	}
	return units * MIGRATE_UNIT;
}

/* ---- out ---- */

/*
 * Is there a hole at @pos, and up to where? Each stretch is asked for once a round: where the guest
 * writes meanwhile, that is noted and comes in the next. Where nobody can tell there is none.
 */
static void look(struct migrate_mirror *s, struct migrate_mirror_disk *d, uint64_t pos)
{
	off_t end;

	if (pos >= d->seen_from && pos < d->seen_to)
		return;
	s->looks++;
	end = lseek(d->fd, (off_t)pos, SEEK_DATA);
	d->seen_hole = end < 0 ? errno == ENXIO : end > (off_t)pos;
	if (end == (off_t)pos)
		end = lseek(d->fd, (off_t)pos, SEEK_HOLE);
	d->seen_from = pos;
	d->seen_to = end > (off_t)pos ? MIN((uint64_t)end, d->bytes) : d->bytes;
}

/* How many of @num units from @first on are a hole. */
static uint64_t hole_at(struct migrate_mirror *s, struct migrate_mirror_disk *d, uint64_t first,
			uint64_t num)
{
	uint64_t pos = first * MIGRATE_UNIT;

	look(s, d, pos);
	if (!d->seen_hole)
		return 0;
	return d->seen_to == d->bytes ? num : MIN((d->seen_to - pos) / MIGRATE_UNIT, num);
}

/* The same of units with something in them, after hole_at(); the last may be so in part. */
static uint64_t data_at(const struct migrate_mirror_disk *d, uint64_t first, uint64_t num)
{
	/* A hole that is smaller than a unit. */
	if (d->seen_hole)
		return num;
	return MIN(migrate_units(d->seen_to - first * MIGRATE_UNIT), num);
}

/* All of @len bytes from @pos on, also by direct I/O, which wants whole blocks. */
static int read_units(struct migrate_mirror *s, const struct migrate_mirror_disk *d, uint64_t pos,
		      size_t len, struct error *err)
{
	size_t room = align_up(len, ALIGNMENT), done = 0;

	while (done < len) {
		ssize_t n = pread(d->fd, s->data + done, room - done, (off_t)(pos + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return error_set(err, n ? -errno : -EIO, "disk '%s': cannot be read: %m",
					 d->path);
		done += n;
	}
	s->bytes_read += len;
	return 0;
}

static bool is_zero(const uint8_t *data, size_t len)
{
	return !data[0] && !memcmp(data, data + 1, len - 1);
}

static int send_record(struct migrate_mirror *s, struct migrate_wire *w, uint64_t first,
		       size_t len, struct error *err)
{
	size_t room = len - MIGRATE_DISK_AT, packed = 0;

	if (s->level && room)
		packed = ZSTD_compressCCtx(s->zstd, s->packed + MIGRATE_DISK_AT, room - 1,
					   s->record + MIGRATE_DISK_AT, room, s->level);
	/* No gain, then. */
	if (packed == 0 || ZSTD_isError(packed))
		return migrate_wire_send(w, MIGRATE_DISK, first, s->record, len, err);
	memcpy(s->packed, s->record, MIGRATE_DISK_AT);
	return migrate_wire_send(w, MIGRATE_DISK_ZSTD, first, s->packed, MIGRATE_DISK_AT + packed,
				 err);
}

/* @num units, not more than a record has. */
static int send_data(struct migrate_mirror *s, struct migrate_wire *w, unsigned index,
		     uint64_t first, unsigned num, struct error *err)
{
	const struct migrate_mirror_disk *d = &s->disk[index];
	uint64_t pos = first * MIGRATE_UNIT;
	size_t bytes = MIN(num * MIGRATE_UNIT, d->bytes - pos), len = MIGRATE_DISK_AT;
	uint16_t present = 0, zero = 0;
	int r = read_units(s, d, pos, bytes, err);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < num; i++) {
		const uint8_t *unit = s->data + i * MIGRATE_UNIT;
		size_t n = MIN(MIGRATE_UNIT, bytes - i * MIGRATE_UNIT);

		if (is_zero(unit, n)) {
			zero |= 1u << i;
			continue;
		}
		present |= 1u << i;
		memcpy(s->record + len, unit, n);
		len += n;
	}
	s->bytes_full += len - MIGRATE_DISK_AT;
	/* What is there is empty anyway; but who reads gigabytes of zeroes is to be heard of. */
	if (s->first && present)
		zero = 0;
	if (!present && !zero)
		return 0;
	put_le32(s->record, index);
	put_le16(s->record + 4, present);
	put_le16(s->record + 6, zero);
	return send_record(s, w, first, len, err);
}

static int send_hole(struct migrate_mirror *s, struct migrate_wire *w, unsigned index,
		     uint64_t first, uint64_t num, struct error *err)
{
	uint8_t payload[MIGRATE_ZEROES_BYTES];

	if (s->first)
		return 0;
	put_le32(payload, index);
	put_le64(payload + 4, num);
	return migrate_wire_send(w, MIGRATE_DISK_ZEROES, first, payload, sizeof(payload), err);
}

/* Units from @first on that are all to be sent: a hole, or what a record has. Returns how many. */
static int send_some(struct migrate_mirror *s, struct migrate_wire *w, unsigned index,
		     uint64_t first, uint64_t num, uint64_t *ret_num, struct error *err)
{
	struct migrate_mirror_disk *d = &s->disk[index];
	uint64_t before = w->bytes_out, hole = hole_at(s, d, first, num);
	uint64_t before_ns = clock_monotonic_ns(NULL), full = s->bytes_full;
	int r;

	*ret_num = hole ? hole : data_at(d, first, MIN(num, (uint64_t)MIGRATE_DISK_UNITS));
	r = hole ? send_hole(s, w, index, first, hole, err) :
		   send_data(s, w, index, first, *ret_num, err);
	clear_bits(d->todo, first, *ret_num);
	s->bytes_sent += w->bytes_out - before;
	if (s->bytes_full == full)
		s->empty_ns += clock_monotonic_ns(NULL) - before_ns;
	return r;
}

static int send_disk(struct migrate_mirror *s, struct migrate_wire *w, unsigned index,
		     int (*between)(void *arg, struct error *err), void *arg, struct error *err)
{
	struct migrate_mirror_disk *d = &s->disk[index];
	uint64_t units = migrate_units(d->bytes), at = 0, end = 0;

	d->seen_from = d->seen_to = 0;
	while (at < units) {
		uint64_t num;
		int r;

		if (at % 64 == 0 && !d->todo[at / 64]) {
			at += 64;
			continue;
		}
		if (!has_bit(d->todo, at)) {
			at++;
			continue;
		}
		for (end = MAX(end, at); end < units && has_bit(d->todo, end);)
			end++;
		r = send_some(s, w, index, at, end - at, &num, err);
		if (!r && between)
			r = between(arg, err);
		if (r < 0)
			return r;
		at += num;
	}
	return 0;
}

int migrate_mirror_send(struct migrate_mirror *s, struct migrate_wire *w,
			int (*between)(void *arg, struct error *err), void *arg,
			struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < s->num && !r; i++)
		if (s->disk[i].block)
			r = send_disk(s, w, i, between, arg, err);
	s->first = false;
	return r;
}
