/*
 * Checking an image: count what the tables refer to, compare with what the
 * refcounts say, and on demand make the refcounts true.
 *
 * Everything is read from a file that anybody may have made: a table that lies
 * elsewhere than in the file is an error found, not followed.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/qcow2_image.h"
#include "vmm/core/io.h"

#define MAX_CLUSTERS  (1ull << 30)
#define MAX_SNAPSHOTS 65536u
#define SNAPSHOT_FIX  40u /* bytes of a snapshot's entry in front of what varies */

struct checker {
	int fd;
	struct qcow2_header h;
	uint64_t file_bytes, cluster;
	uint64_t num; /* clusters */
	uint32_t *used;	     /* references found, for each cluster */
	uint64_t *reftable;
	uint64_t blocks; /* its entries */
	bool repair, broken;
	struct qcow2_check *found;
	struct error *err;
};

static void complain(struct checker *k, const char *fmt, ...) __printf(2, 3);

static void complain(struct checker *k, const char *fmt, ...)
{
	va_list ap;

	if (k->found->errors++)
		return;
	va_start(ap, fmt);
	vsnprintf(k->found->first_error, sizeof(k->found->first_error), fmt, ap);
	va_end(ap);
}

/* ---- the file ---- */

static int read_at(struct checker *k, void *buf, size_t len, uint64_t offset)
{
	uint8_t *at = buf;

	while (len) {
		ssize_t n = pread(k->fd, at, len, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_usage(k->err, -errno, "cannot read at %llu: %m",
					   (unsigned long long)offset);
		/* Behind the end there are zeroes. */
		if (!n) {
			memset(at, 0, len);
			break;
		}
		at += n;
		offset += n;
		len -= n;
	}
	return 0;
}

static int write_at(struct checker *k, const void *buf, size_t len, uint64_t offset)
{
	int r = io_write_at(k->fd, buf, len, offset);

	return r < 0 ? error_usage(k->err, r, "cannot write at %llu: %m",
				   (unsigned long long)offset)
		     : 0;
}

static int sync_file(struct checker *k)
{
	return fdatasync(k->fd) < 0 ? error_usage(k->err, -errno, "cannot sync: %m") : 0;
}

/* Count a reference to all clusters that @len bytes at @offset touch. False: they are not there. */
static bool use(struct checker *k, uint64_t offset, uint64_t len, const char *what)
{
	uint64_t first = offset >> k->h.cluster_bits;
	uint64_t last = (offset + len - 1) >> k->h.cluster_bits;

	if (!len)
		return true;
	if (offset + len < offset || last >= k->num) {
		complain(k, "%s at %#llx is outside the file", what, (unsigned long long)offset);
		k->broken = true;
		return false;
	}
	for (uint64_t c = first; c <= last; c++)
		k->used[c] += k->used[c] < UINT32_MAX;
	return true;
}

/* ---- the mapping ---- */

static unsigned entry_size(const struct checker *k)
{
	return qcow2_extended(&k->h) ? 16 : 8;
}

static void use_entry(struct checker *k, uint64_t entry, bool active)
{
	struct qcow2_extent e;
	uint64_t to_end;

	qcow2_entry_decode(&k->h, entry, &e);
	switch (e.kind) {
	case QCOW2_DATA:
	case QCOW2_ZEROES_HELD:
		k->found->allocated += active;
		use(k, e.host, k->cluster, "a cluster");
		break;
	case QCOW2_DEFLATED:
		k->found->allocated += active;
		k->found->compressed += active;
		/* Its size is in sectors, and the last one need not be filled. */
		to_end = e.host < k->file_bytes ? k->file_bytes - e.host : e.bytes;
		use(k, e.host, MIN((uint64_t)e.bytes, to_end), "a compressed cluster");
		break;
	case QCOW2_BROKEN:
		complain(k, "L2 entry %#llx", (unsigned long long)entry);
		k->broken = true;
		break;
	default:
		break;
	}
}

static int use_table(struct checker *k, uint64_t offset, bool active, uint8_t *buf)
{
	int r;

	if (!use(k, offset, k->cluster, "an L2 table"))
		return 0;
	r = read_at(k, buf, k->cluster, offset);
	for (uint64_t i = 0; !r && i < k->cluster; i += entry_size(k))
		use_entry(k, get_be64(buf + i), active);
	return r;
}

static int use_l1(struct checker *k, uint64_t offset, uint64_t entries, bool active)
{
	uint8_t *l1, *table;
	int r = 0;

	if (!use(k, offset, entries * 8, "an L1 table"))
		return 0;
	l1 = malloc(entries * 8 + 1);
	table = malloc(k->cluster);
	if (!l1 || !table)
		r = error_set(k->err, -ENOMEM, "%m");
	if (!r)
		r = read_at(k, l1, entries * 8, offset);
	for (uint64_t i = 0; !r && i < entries; i++) {
		uint64_t at = qcow2_table_offset(&k->h, get_be64(l1 + i * 8));

		if (at == UINT64_MAX) {
			complain(k, "L1 entry %llu", (unsigned long long)i);
			k->broken = true;
		} else if (at) {
			r = use_table(k, at, active, table);
		}
	}
	free(l1);
	free(table);
	return r;
}

static int use_snapshots(struct checker *k)
{
	uint64_t at = k->h.snapshots_offset;
	uint8_t s[SNAPSHOT_FIX];
	int r = 0;

	if (k->h.num_snapshots > MAX_SNAPSHOTS)
		return error_usage(k->err, -EINVAL, "%u snapshots are too many",
				   k->h.num_snapshots);
	for (unsigned i = 0; !r && i < k->h.num_snapshots; i++) {
		uint64_t entries;

		r = read_at(k, s, sizeof(s), at);
		if (r < 0)
			break;
		entries = get_be32(s + 8);
		if (entries * 8 > QCOW2_MAX_L1_BYTES) {
			complain(k, "snapshot %u has too large a table", i);
			k->broken = true;
			break;
		}
		r = use_l1(k, get_be64(s), entries, false);
		at += align_up(SNAPSHOT_FIX + (uint64_t)get_be32(s + 36) + get_be16(s + 12) +
				       get_be16(s + 14),
			       8);
	}
	use(k, k->h.snapshots_offset, at - k->h.snapshots_offset, "the list of snapshots");
	return r;
}

/* ---- refcounts ---- */

static int load_reftable(struct checker *k)
{
	uint64_t bytes = (uint64_t)k->h.reftable_clusters << k->h.cluster_bits;
	int r;

	k->blocks = bytes / 8;
	k->reftable = malloc(bytes);
	if (!k->reftable)
		return error_set(k->err, -ENOMEM, "%m");
	r = read_at(k, k->reftable, bytes, k->h.reftable_offset);
	if (r < 0)
		return r;
	use(k, k->h.reftable_offset, bytes, "the refcount table");
	for (uint64_t i = 0; i < k->blocks; i++) {
		uint64_t at = be64toh(k->reftable[i]);

		if (at && (at & (k->cluster - 1) || !use(k, at, k->cluster, "a refcount block"))) {
			complain(k, "refcount table entry %#llx", (unsigned long long)at);
			k->broken = true;
			at = 0;
		}
		k->reftable[i] = at;
	}
	return 0;
}

/* Compare one cluster; true: its count has to change. */
static bool compare(struct checker *k, uint64_t c, uint64_t count, uint64_t used)
{
	if (count == used)
		return false;
	if (count > used)
		k->found->leaks++;
	else
		complain(k, "cluster at %#llx has %llu references, but %llu are counted",
			 (unsigned long long)(c << k->h.cluster_bits), (unsigned long long)used,
			 (unsigned long long)count);
	return true;
}

static int compare_block(struct checker *k, uint64_t index, uint8_t *buf)
{
	uint64_t per = 1ull << qcow2_refblock_bits(&k->h), wrong = 0;
	uint64_t at = k->reftable[index];
	int r = at ? read_at(k, buf, k->cluster, at) : 0;

	if (r < 0)
		return r;
	/* To mend it would be to write over somebody's data, or over another table. */
	if (at && k->used[at >> k->h.cluster_bits] > 1) {
		complain(k, "the refcount block at %#llx is something else too",
			 (unsigned long long)at);
		k->broken = true;
	}
	if (!at)
		memset(buf, 0, k->cluster);
	for (uint64_t i = 0; i < per; i++) {
		uint64_t c = index * per + i, used = c < k->num ? k->used[c] : 0;

		if (!compare(k, c, qcow2_refcount_get(buf, k->h.refcount_order, i), used))
			continue;
		wrong++;
		if (used > qcow2_refcount_max(k->h.refcount_order))
			k->broken = true;
		else
			qcow2_refcount_set(buf, k->h.refcount_order, i, used);
	}
	if (!wrong || !k->repair || k->broken)
		return 0;
	if (!at) {
		complain(k, "refcount block %llu is missing", (unsigned long long)index);
		k->broken = true;
		return 0;
	}
	k->found->mended += wrong;
	return write_at(k, buf, k->cluster, at);
}

static int compare_all(struct checker *k)
{
	uint64_t per = 1ull << qcow2_refblock_bits(&k->h);
	uint64_t need = (k->num + per - 1) / per;
	uint8_t *buf = malloc(k->cluster);
	int r = buf ? 0 : error_set(k->err, -ENOMEM, "%m");

	for (uint64_t i = 0; !r && i < k->blocks; i++) {
		if (k->reftable[i] || i < need)
			r = compare_block(k, i, buf);
	}
	/* What no table reaches. */
	for (uint64_t c = k->blocks * per; !r && c < k->num; c++) {
		if (compare(k, c, 0, k->used[c]))
			k->broken = true;
	}
	free(buf);
	return r;
}

/* ---- the mark "only reference" ---- */

/* Entry @entry as it should be, whose cluster is at @host. */
static uint64_t marked(const struct checker *k, uint64_t entry, uint64_t host)
{
	bool only = k->used[host >> k->h.cluster_bits] == 1;

	return only ? entry | QCOW2_COPIED : entry & ~QCOW2_COPIED;
}

static uint64_t fix_mark(struct checker *k, uint64_t entry, uint64_t host)
{
	uint64_t right;

	/* Tables are read a second time here, and others may write to the file. */
	if (host >> k->h.cluster_bits >= k->num) {
		complain(k, "entry %#llx was another one before", (unsigned long long)entry);
		k->broken = true;
		return entry;
	}
	right = marked(k, entry, host);
	if (right == entry)
		return entry;
	/* With it a shared cluster is written in place; without it one is copied too often. */
	if (entry & QCOW2_COPIED)
		complain(k, "entry %#llx says that it is the only reference",
			 (unsigned long long)entry);
	if (k->repair)
		k->found->mended++;
	return right;
}

static int fix_table(struct checker *k, uint64_t at, uint8_t *buf)
{
	struct qcow2_extent e;
	bool changed = false;
	int r = read_at(k, buf, k->cluster, at);

	for (uint64_t i = 0; !r && i < k->cluster; i += entry_size(k)) {
		uint64_t old = get_be64(buf + i), entry;

		qcow2_entry_decode(&k->h, old, &e);
		if (e.kind != QCOW2_DATA && e.kind != QCOW2_ZEROES_HELD)
			continue;
		entry = fix_mark(k, old, e.host);
		changed |= entry != old;
		put_be64(buf + i, entry);
	}
	return r || !changed || !k->repair ? r : write_at(k, buf, k->cluster, at);
}

static int fix_marks(struct checker *k)
{
	uint8_t *buf = malloc(k->cluster), be[8];
	int r = buf ? 0 : error_set(k->err, -ENOMEM, "%m");

	for (uint64_t i = 0; !r && i < k->h.l1_entries; i++) {
		uint64_t entry, old, where = k->h.l1_offset + i * 8;

		r = read_at(k, be, 8, where);
		old = get_be64(be);
		if (r < 0 || !(old & QCOW2_OFFSET))
			continue;
		entry = fix_mark(k, old, old & QCOW2_OFFSET);
		r = fix_table(k, old & QCOW2_OFFSET, buf);
		put_be64(be, entry);
		if (!r && entry != old && k->repair)
			r = write_at(k, be, 8, where);
	}
	free(buf);
	return r;
}

/* ---- all of it ---- */

static int clear_marks(struct checker *k)
{
	uint8_t be[8];
	int r = sync_file(k);

	if (r < 0 || k->h.version < 3)
		return r;
	put_be64(be, k->h.incompatible & ~(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT));
	r = write_at(k, be, 8, QCOW2_AT_INCOMPATIBLE);
	return r ? r : sync_file(k);
}

static int check(struct checker *k)
{
	int r;

	use(k, 0, 1, "the header");
	r = use_l1(k, k->h.l1_offset, k->h.l1_entries, true);
	if (!r)
		r = use_snapshots(k);
	if (!r)
		r = load_reftable(k);
	if (!r)
		r = compare_all(k);
	if (!r && !k->broken)
		r = fix_marks(k);
	for (uint64_t c = 0; c < k->num; c++) {
		if (k->used[c])
			k->found->end_bytes = (c + 1) << k->h.cluster_bits;
	}
	if (!r && k->repair && !k->broken)
		r = clear_marks(k);
	return r;
}

int qcow2_image_check(int fd, bool repair, struct qcow2_check *ret, struct error *err)
{
	struct checker k = { .fd = fd, .repair = repair, .found = ret, .err = err };
	int r = qcow2_image_header(fd, &k.h, &k.file_bytes, err);

	if (r < 0)
		return r;
	*ret = (struct qcow2_check){ 0 };
	k.cluster = qcow2_cluster_size(&k.h);
	k.num = (k.file_bytes + k.cluster - 1) >> k.h.cluster_bits;
	ret->clusters = k.num;
	if (k.h.bitmaps)
		return error_usage(err, -ENOTSUP,
				   "has bitmaps, whose clusters this check does not know");
	if (k.num > MAX_CLUSTERS)
		return error_usage(err, -EFBIG, "%llu clusters are too many to check",
				   (unsigned long long)k.num);
	k.used = calloc(k.num, sizeof(*k.used));
	r = k.used ? check(&k) : error_set(err, -ENOMEM, "%m");
	free(k.used);
	free(k.reftable);
	return r;
}
