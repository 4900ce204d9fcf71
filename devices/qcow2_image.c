#include "devices/qcow2_image.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALIGN		4096u /* of buffers: the file may be open for direct I/O */
#define DEFAULT_CLUSTER (64 * KiB)

/* ---- the header ---- */

int qcow2_image_header(int fd, struct qcow2_header *ret_h, uint64_t *ret_bytes, struct error *err)
{
	off_t end = lseek(fd, 0, SEEK_END);
	size_t len = ALIGN;
	int r;

	if (end < 0)
		return error_usage(err, -errno, "cannot tell its length: %m");
	/* Once for the cluster size, then the whole first cluster. */
	for (;;) {
		uint8_t *data = aligned_alloc(ALIGN, len);
		uint64_t cluster;
		ssize_t n;

		if (!data)
			return error_set(err, -ENOMEM, "%m");
		n = pread(fd, data, len, 0);
		if (n < 0) {
			r = error_usage(err, -errno, "cannot read: %m");
			free(data);
			return r;
		}
		cluster = qcow2_peek_cluster_size(data, n);
		if (cluster <= len) {
			r = qcow2_header_parse(ret_h, data, n, end, err);
			free(data);
			*ret_bytes = end;
			return r;
		}
		free(data);
		len = cluster;
	}
}

/* ---- a new image ---- */

/* Header, refcount table, refcount blocks, L1 table: each in whole clusters, in this order. */
struct layout {
	struct qcow2_header h;
	uint64_t table_clusters, blocks, l1_clusters;
};

static uint64_t clusters_for(const struct qcow2_header *h, uint64_t bytes)
{
	return (bytes + qcow2_cluster_size(h) - 1) >> h->cluster_bits;
}

static void lay_out(struct layout *l)
{
	unsigned bits = qcow2_refblock_bits(&l->h);
	uint64_t total, blocks = 0;

	l->h.l1_entries = qcow2_l1_needed(&l->h, l->h.size_bytes);
	l->l1_clusters = clusters_for(&l->h, l->h.l1_entries * 8ull);
	/* Blocks count themselves too: as many as do not change it any more. */
	do {
		l->blocks = MAX(blocks, 1ull);
		l->table_clusters = clusters_for(&l->h, l->blocks * 8);
		total = 1 + l->table_clusters + l->blocks + l->l1_clusters;
		blocks = (total + (1ull << bits) - 1) >> bits;
	} while (blocks > l->blocks);
	l->h.reftable_offset = qcow2_cluster_size(&l->h);
	l->h.reftable_clusters = l->table_clusters;
	l->h.l1_offset = (1 + l->table_clusters + l->blocks) << l->h.cluster_bits;
}

static void put_counts(const struct layout *l, uint8_t *at)
{
	uint64_t total = 1 + l->table_clusters + l->blocks + l->l1_clusters;
	uint8_t *blocks = at + (l->table_clusters << l->h.cluster_bits);

	for (uint64_t i = 0; i < l->blocks; i++)
		put_be64(at + i * 8, (1 + l->table_clusters + i) << l->h.cluster_bits);
	/* The blocks lie in a row, so one index reaches through all of them. */
	for (uint64_t c = 0; c < total; c++)
		qcow2_refcount_set(blocks, l->h.refcount_order, c, 1);
}

static int write_all(int fd, const uint8_t *buf, size_t len, uint64_t offset, struct error *err)
{
	while (len) {
		ssize_t n = pwrite(fd, buf, len, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return error_usage(err, n ? -errno : -EIO, "cannot write: %m");
		buf += n;
		len -= n;
		offset += n;
	}
	return 0;
}

static int check_params(const struct qcow2_create_params *p, struct error *err)
{
	uint64_t cluster = p->cluster_size ? p->cluster_size : DEFAULT_CLUSTER;

	if (!is_power_of_two(cluster) || cluster < 1u << QCOW2_MIN_CLUSTER_BITS ||
	    cluster > 1u << QCOW2_MAX_CLUSTER_BITS)
		return error_usage(err, -EINVAL,
				   "clusters of %llu bytes: allowed are powers of 2 from 512 to 2M",
				   (unsigned long long)cluster);
	if (!p->size_bytes)
		return error_usage(err, -EINVAL, "a disk needs a size");
	if (p->backing && strlen(p->backing) > QCOW2_MAX_NAME)
		return error_usage(err, -ENAMETOOLONG, "the backing file's name is longer than %u",
				   QCOW2_MAX_NAME);
	return 0;
}

int qcow2_image_create(int fd, const struct qcow2_create_params *p, struct error *err)
{
	uint64_t cluster = p->cluster_size ? p->cluster_size : DEFAULT_CLUSTER;
	struct layout l = {
		.h = {
			.version = 3,
			.cluster_bits = __builtin_ctzll(cluster),
			.refcount_order = 4,
		},
	};
	uint8_t *buf;
	size_t len;
	int r = check_params(p, err);

	if (r < 0)
		return r;
	l.h.size_bytes = align_up(p->size_bytes, 512);
	if (p->size_bytes > QCOW2_MAX_SIZE ||
	    qcow2_l1_needed(&l.h, l.h.size_bytes) * 8 > QCOW2_MAX_L1_BYTES)
		return error_usage(err, -EFBIG, "too large for clusters of %llu bytes",
				   (unsigned long long)cluster);
	if (p->backing) {
		strncpy(l.h.backing, p->backing, QCOW2_MAX_NAME);
		strncpy(l.h.backing_format, p->backing_format, sizeof(l.h.backing_format) - 1);
	}
	lay_out(&l);
	len = (1 + l.table_clusters + l.blocks) << l.h.cluster_bits;
	buf = calloc(1, len);
	if (!buf)
		return error_set(err, -ENOMEM, "%m");
	put_counts(&l, buf + cluster);
	r = qcow2_header_write(&l.h, buf);
	if (r < 0)
		error_usage(err, r, "the backing file's name does not fit a cluster of %llu bytes",
			    (unsigned long long)cluster);
	/* Everything before the header: until that is there it is no image. */
	if (!r && ftruncate(fd, 0) < 0)
		r = error_usage(err, -errno, "cannot be emptied: %m");
	if (!r && ftruncate(fd, l.h.l1_offset + (l.l1_clusters << l.h.cluster_bits)) < 0)
		r = error_usage(err, -errno, "cannot be made %llu bytes long: %m",
				(unsigned long long)l.h.l1_offset);
	if (!r)
		r = write_all(fd, buf + cluster, len - cluster, cluster, err);
	if (!r)
		r = write_all(fd, buf, cluster, 0, err);
	free(buf);
	return r;
}

/* ---- another size ---- */

static int check_resizable(const struct qcow2_header *h, uint64_t bytes, struct error *err)
{
	uint64_t room = clusters_for(h, h->l1_entries * 8ull) << h->cluster_bits >> 3;
	const char *why = NULL;

	if (h->num_snapshots)
		why = "has snapshots, whose size would not change";
	else if (h->bitmaps)
		why = "has bitmaps, which would not grow with it";
	else if (h->incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT))
		why = "needs a check first: wisp disk check --repair";
	else if (bytes > QCOW2_MAX_SIZE || qcow2_l1_needed(h, bytes) > room)
		why = "has no room for tables of that size: convert it to raw, resize that, "
		      "convert it back";
	return why ? error_usage(err, -ENOTSUP, "%s", why) : 0;
}

int qcow2_image_resize(int fd, uint64_t bytes, struct error *err)
{
	struct qcow2_header h;
	uint64_t file_bytes, entries;
	uint8_t be[8], *zeroes;
	int r = qcow2_image_header(fd, &h, &file_bytes, err);

	if (!r)
		r = check_resizable(&h, bytes, err);
	if (r < 0)
		return r;
	entries = qcow2_l1_needed(&h, bytes);
	if (entries > h.l1_entries) {
		/* The rest of the table's last cluster, which nobody has promised to be zero. */
		zeroes = calloc(entries - h.l1_entries, 8);
		if (!zeroes)
			return error_set(err, -ENOMEM, "%m");
		r = write_all(fd, zeroes, (entries - h.l1_entries) * 8,
			      h.l1_offset + h.l1_entries * 8ull, err);
		free(zeroes);
		put_be32(be, entries);
		if (!r)
			r = fdatasync(fd) < 0 ? error_usage(err, -errno, "cannot sync: %m") : 0;
		if (!r)
			r = write_all(fd, be, 4, QCOW2_AT_L1, err);
	}
	put_be64(be, bytes);
	if (!r)
		r = write_all(fd, be, 8, QCOW2_AT_SIZE, err);
	if (!r && fdatasync(fd) < 0)
		r = error_usage(err, -errno, "cannot sync: %m");
	return r;
}
