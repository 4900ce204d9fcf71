#include "devices/qcow2_format.h"

#include <errno.h>
#include <zlib.h>
#include <zstd.h>

/* Header extensions. */
#define EXT_END		   0u
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_FEATURE_NAMES  0x6803f857u
#define EXT_BITMAPS	   0x23852875u
#define FEATURE_NAME	   48u /* type, bit, 46 bytes of name */

#define KNOWN_INCOMPAT                                                                             \
	(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_COMPRESSION |              \
	 QCOW2_INCOMPAT_EXTENDED_L2)

/* 8 MiB of compressed history: more than any cluster has. */
#define ZSTD_WINDOW_LOG 23

static const struct {
	uint8_t type, bit;
	const char *name;
} feature_names[] = {
	{ 0, 0, "dirty bit" },
	{ 0, 1, "corrupt bit" },
	{ 0, 2, "external data file" },
	{ 0, 3, "compression type" },
	{ 0, 4, "extended L2 entries" },
	{ 1, 0, "lazy refcounts" },
	{ 2, 0, "bitmaps" },
	{ 2, 1, "raw external data" },
};

/* ---- reading a header ---- */

static int broken(struct error *err, const char *what)
{
	return error_usage(err, -EINVAL, "corrupt qcow2 header: %s", what);
}

uint64_t qcow2_peek_cluster_size(const uint8_t *data, size_t len)
{
	uint32_t bits;

	if (len < QCOW2_V2_HEADER || get_be32(data) != QCOW2_MAGIC)
		return 0;
	bits = get_be32(data + 20);
	if (bits < QCOW2_MIN_CLUSTER_BITS || bits > QCOW2_MAX_CLUSTER_BITS)
		return 0;
	return 1ull << bits;
}

/* The name that the file has for incompatible feature @bit, into @buf. */
static void feature_name(const uint8_t *names, size_t len, unsigned bit, char *buf, size_t size)
{
	for (; len >= FEATURE_NAME; names += FEATURE_NAME, len -= FEATURE_NAME) {
		if (names[0] != 0 || names[1] != bit)
			continue;
		memcpy(buf, names + 2, MIN(size - 1, (size_t)FEATURE_NAME - 2));
		buf[MIN(size - 1, (size_t)FEATURE_NAME - 2)] = '\0';
		/* For a terminal, from a stranger. */
		for (char *s = buf; *s; s++)
			if (*s < ' ' || *s > '~')
				*s = '?';
		return;
	}
}

static int check_features(const struct qcow2_header *h, const uint8_t *names, size_t names_len,
			  struct error *err)
{
	uint64_t unknown = h->incompatible & ~KNOWN_INCOMPAT;
	char name[FEATURE_NAME] = "no name given";
	unsigned bit;

	if (!unknown)
		return 0;
	bit = __builtin_ctzll(unknown);
	if (bit == 2)
		return error_usage(err, -ENOTSUP,
				   "its data is in another file, which is not supported");
	feature_name(names, names_len, bit, name, sizeof(name));
	return error_usage(err, -ENOTSUP, "needs qcow2 feature %u (%s), which is not supported",
			   bit, name);
}

/* Walk the extensions between @at and @end. */
static int parse_extensions(struct qcow2_header *h, const uint8_t *data, size_t at, size_t end,
			    const uint8_t **ret_names, size_t *ret_names_len, struct error *err)
{
	while (end - at >= 8) {
		uint32_t type = get_be32(data + at);
		uint32_t len = get_be32(data + at + 4);

		at += 8;
		if (type == EXT_END)
			return 0;
		if (len > end - at)
			return broken(err, "an extension is longer than its place");
		if (type == EXT_BACKING_FORMAT) {
			if (len >= sizeof(h->backing_format))
				return broken(err, "the backing file's format is not one");
			memcpy(h->backing_format, data + at, len);
			h->backing_format[len] = '\0';
		} else if (type == EXT_FEATURE_NAMES) {
			*ret_names = data + at;
			*ret_names_len = len;
		} else if (type == EXT_BITMAPS) {
			h->bitmaps = true;
		}
		if (align_up(len, 8) > end - at)
			return 0;
		at += align_up(len, 8);
	}
	return 0;
}

static int parse_backing(struct qcow2_header *h, const uint8_t *data, size_t len,
			 uint64_t *ret_offset, struct error *err)
{
	uint64_t offset = get_be64(data + 8);
	uint32_t n = get_be32(data + 16);

	*ret_offset = offset;
	if (!offset)
		return 0;
	if (n > QCOW2_MAX_NAME || !range_inside(offset, n, QCOW2_V2_HEADER, len - QCOW2_V2_HEADER))
		return broken(err, "the backing file's name is not in the first cluster");
	memcpy(h->backing, data + offset, n);
	if (memchr(h->backing, 0, n))
		return broken(err, "the backing file's name is not a name");
	return 0;
}

/* @bytes at @offset hold a table: aligned, behind the header, and inside the file. */
static bool table_fits(const struct qcow2_header *h, uint64_t offset, uint64_t bytes,
		       uint64_t file_bytes)
{
	uint64_t cluster = qcow2_cluster_size(h);

	return !(offset & (cluster - 1)) && offset >= cluster &&
	       range_inside(offset, bytes, 0, file_bytes);
}

static int check_tables(const struct qcow2_header *h, uint64_t file_bytes, struct error *err)
{
	uint64_t l1 = h->l1_entries * 8ull;
	uint64_t reftable = (uint64_t)h->reftable_clusters << h->cluster_bits;

	if (h->size_bytes > QCOW2_MAX_SIZE)
		return broken(err, "the size is out of range");
	if (l1 > QCOW2_MAX_L1_BYTES)
		return broken(err, "the L1 table is too large");
	if (h->l1_entries < qcow2_l1_needed(h, h->size_bytes))
		return broken(err, "the L1 table is too small for the disk's size");
	if (l1 && !table_fits(h, h->l1_offset, l1, file_bytes))
		return broken(err, "the L1 table is not inside the file");
	if (!reftable || reftable > QCOW2_MAX_REFTABLE)
		return broken(err, "the refcount table's size is out of range");
	if (!table_fits(h, h->reftable_offset, reftable, align_up(file_bytes, 1ull << 21)))
		return broken(err, "the refcount table is not inside the file");
	if (l1 && ranges_overlap(h->l1_offset, l1, h->reftable_offset, reftable))
		return broken(err, "its tables overlap");
	return 0;
}

static int parse_v3(struct qcow2_header *h, const uint8_t *data, size_t len, struct error *err)
{
	h->incompatible = get_be64(data + QCOW2_AT_INCOMPATIBLE);
	h->compatible = get_be64(data + 80);
	h->autoclear = get_be64(data + QCOW2_AT_AUTOCLEAR);
	h->refcount_order = get_be32(data + 96);
	h->header_len = get_be32(data + 100);
	if (h->refcount_order > 6)
		return broken(err, "refcounts of more than 64 bits");
	if (h->header_len < QCOW2_V3_HEADER || h->header_len > len || h->header_len % 8)
		return broken(err, "the header's length is out of range");
	if (h->header_len > QCOW2_V3_HEADER)
		h->compression = data[QCOW2_V3_HEADER];
	return 0;
}

static int check_v3(const struct qcow2_header *h, struct error *err)
{
	if (h->compression > QCOW2_ZSTD)
		return error_usage(err, -ENOTSUP, "compression type %u is not supported",
				   h->compression);
	if (!!(h->incompatible & QCOW2_INCOMPAT_COMPRESSION) != (h->compression != QCOW2_ZLIB))
		return broken(err, "the compression type and its feature bit disagree");
	if (qcow2_extended(h) && h->cluster_bits < 14)
		return broken(err, "clusters too small for extended L2 entries");
	return 0;
}

int qcow2_header_parse(struct qcow2_header *ret_h, const uint8_t *data, size_t len,
		       uint64_t file_bytes, struct error *err)
{
	struct qcow2_header h = { 0 };
	const uint8_t *names = NULL;
	size_t names_len = 0;
	uint64_t backing;
	int r;

	if (len < QCOW2_V2_HEADER || get_be32(data) != QCOW2_MAGIC)
		return error_usage(err, -EINVAL, "not a qcow2 image");
	h.version = get_be32(data + 4);
	if (h.version != 2 && h.version != 3)
		return error_usage(err, -ENOTSUP, "qcow2 version %u is not supported", h.version);
	h.cluster_bits = get_be32(data + 20);
	if (h.cluster_bits < QCOW2_MIN_CLUSTER_BITS || h.cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return broken(err, "the cluster size is out of range");
	len = MIN(len, (size_t)qcow2_cluster_size(&h));
	h.size_bytes = get_be64(data + QCOW2_AT_SIZE);
	h.l1_entries = get_be32(data + QCOW2_AT_L1);
	h.l1_offset = get_be64(data + QCOW2_AT_L1 + 4);
	h.reftable_offset = get_be64(data + QCOW2_AT_REFTABLE);
	h.reftable_clusters = get_be32(data + QCOW2_AT_REFTABLE + 8);
	h.num_snapshots = get_be32(data + 60);
	h.snapshots_offset = get_be64(data + 64);
	h.refcount_order = 4;
	h.header_len = QCOW2_V2_HEADER;
	if (get_be32(data + 32))
		return error_usage(err, -ENOTSUP, "encrypted images are not supported");
	r = parse_backing(&h, data, len, &backing, err);
	if (!r && h.version == 3)
		r = len < QCOW2_V3_HEADER ? broken(err, "too short") : parse_v3(&h, data, len, err);
	if (r < 0)
		return r;
	/* The name follows the extensions where there is one. */
	if (backing && backing < h.header_len)
		return broken(err, "the backing file's name is inside the header");
	r = parse_extensions(&h, data, h.header_len, backing ? backing : len, &names, &names_len,
			     err);
	if (!r)
		r = check_features(&h, names, names_len, err);
	if (!r)
		r = check_v3(&h, err);
	if (!r)
		r = check_tables(&h, file_bytes, err);
	if (!r)
		*ret_h = h;
	return r;
}

/* ---- writing a header ---- */

static size_t put_feature_names(uint8_t *at)
{
	size_t len = ARRAY_SIZE(feature_names) * FEATURE_NAME;

	put_be32(at, EXT_FEATURE_NAMES);
	put_be32(at + 4, len);
	for (unsigned i = 0; i < ARRAY_SIZE(feature_names); i++) {
		uint8_t *f = at + 8 + i * FEATURE_NAME;

		f[0] = feature_names[i].type;
		f[1] = feature_names[i].bit;
		memcpy(f + 2, feature_names[i].name, strlen(feature_names[i].name));
	}
	return 8 + len;
}

int qcow2_header_write(const struct qcow2_header *h, uint8_t *data)
{
	size_t name_len = strlen(h->backing), format_len = strlen(h->backing_format);
	size_t names_len = 8 + ARRAY_SIZE(feature_names) * FEATURE_NAME;
	size_t at = h->version == 2 ? QCOW2_V2_HEADER : QCOW2_V3_HEADER + 8;
	size_t room = qcow2_cluster_size(h);

	put_be32(data, QCOW2_MAGIC);
	put_be32(data + 4, h->version);
	put_be32(data + 20, h->cluster_bits);
	put_be64(data + QCOW2_AT_SIZE, h->size_bytes);
	put_be32(data + QCOW2_AT_L1, h->l1_entries);
	put_be64(data + QCOW2_AT_L1 + 4, h->l1_offset);
	put_be64(data + QCOW2_AT_REFTABLE, h->reftable_offset);
	put_be32(data + QCOW2_AT_REFTABLE + 8, h->reftable_clusters);
	if (h->version == 3) {
		put_be64(data + QCOW2_AT_INCOMPATIBLE, h->incompatible);
		put_be64(data + 80, h->compatible);
		put_be64(data + QCOW2_AT_AUTOCLEAR, h->autoclear);
		put_be32(data + 96, h->refcount_order);
		put_be32(data + 100, at);
		data[QCOW2_V3_HEADER] = h->compression;
	}
	/* The format's extension, the end's, the name. */
	if (at + 8 + align_up(format_len, 8) + 8 + name_len > room)
		return -ENAMETOOLONG;
	if (name_len) {
		put_be32(data + at, EXT_BACKING_FORMAT);
		put_be32(data + at + 4, format_len);
		memcpy(data + at + 8, h->backing_format, format_len);
		at += 8 + align_up(format_len, 8);
	}
	/* Only for people; small clusters have no room. */
	if (h->version == 3 && at + names_len + 8 + name_len <= room)
		at += put_feature_names(data + at);
	at += 8; /* EXT_END: zeroes */
	if (name_len) {
		put_be64(data + 8, at);
		put_be32(data + 16, name_len);
		memcpy(data + at, h->backing, name_len);
	}
	return 0;
}

/* ---- table entries ---- */

void qcow2_entry_decode(const struct qcow2_header *h, uint64_t entry, struct qcow2_extent *ret_e)
{
	unsigned size_at = 62 - (h->cluster_bits - 8); /* of a compressed cluster's size */
	struct qcow2_extent *e = ret_e;

	*e = (struct qcow2_extent){ .copied = entry & QCOW2_COPIED };
	if (entry & QCOW2_COMPRESSED) {
		e->kind = e->copied ? QCOW2_BROKEN : QCOW2_DEFLATED;
		e->host = entry & ((1ull << size_at) - 1);
		/* In sectors, beyond the one that it begins in. */
		e->bytes = ((entry & (QCOW2_COMPRESSED - 1)) >> size_at) * 512 + 512 -
			   (e->host & 511);
		return;
	}
	e->host = entry & QCOW2_OFFSET;
	/* Extended entries have bits in place of the zero flag. */
	if (entry & QCOW2_ZERO && h->version == 3 && !qcow2_extended(h))
		e->kind = e->host ? QCOW2_ZEROES_HELD : QCOW2_ZEROES;
	else
		e->kind = e->host ? QCOW2_DATA : QCOW2_UNALLOCATED;
	if (e->host & (qcow2_cluster_size(h) - 1))
		e->kind = QCOW2_BROKEN;
}

enum qcow2_kind qcow2_subcluster_kind(const struct qcow2_extent *e, uint64_t bitmap, unsigned n)
{
	bool held = bitmap >> n & 1, zero = bitmap >> (32 + n) & 1;

	if (e->kind != QCOW2_DATA && e->kind != QCOW2_UNALLOCATED)
		return e->kind;
	if (held && (zero || e->kind == QCOW2_UNALLOCATED))
		return QCOW2_BROKEN;
	if (zero)
		return QCOW2_ZEROES;
	return held ? QCOW2_DATA : QCOW2_UNALLOCATED;
}

uint64_t qcow2_table_offset(const struct qcow2_header *h, uint64_t entry)
{
	uint64_t offset = entry & QCOW2_OFFSET;

	if ((entry & ~(QCOW2_OFFSET | QCOW2_COPIED)) || offset & (qcow2_cluster_size(h) - 1))
		return UINT64_MAX;
	return offset;
}

uint64_t qcow2_refcount_max(unsigned order)
{
	return order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;
}

uint64_t qcow2_refcount_get(const uint8_t *block, unsigned order, unsigned index)
{
	switch (order) {
	case 3:
		return block[index];
	case 4:
		return get_be16(block + 2ull * index);
	case 5:
		return get_be32(block + 4ull * index);
	case 6:
		return get_be64(block + 8ull * index);
	default:
		/* Several in a byte, the first in its low bits. */
		index <<= order;
		return block[index / 8] >> (index % 8) & qcow2_refcount_max(order);
	}
}

void qcow2_refcount_set(uint8_t *block, unsigned order, unsigned index, uint64_t value)
{
	unsigned mask;

	switch (order) {
	case 3:
		block[index] = value;
		break;
	case 4:
		put_be16(block + 2ull * index, value);
		break;
	case 5:
		put_be32(block + 4ull * index, value);
		break;
	case 6:
		put_be64(block + 8ull * index, value);
		break;
	default:
		index <<= order;
		mask = qcow2_refcount_max(order) << (index % 8);
		block[index / 8] = (block[index / 8] & ~mask) | value << (index % 8);
	}
}

/* ---- compressed clusters ---- */

static int inflate_cluster(uint8_t *out, size_t len, const uint8_t *in, size_t in_len)
{
	z_stream z = {
		.next_in = (uint8_t *)in,
		.avail_in = in_len,
		.next_out = out,
		.avail_out = len,
	};
	int r;

	/* A bare deflate stream with a history of 4 KiB. */
	if (inflateInit2(&z, -12) != Z_OK)
		return -ENOMEM;
	r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (r == Z_STREAM_END || r == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

static int unzstd_cluster(uint8_t *out, size_t len, const uint8_t *in, size_t in_len)
{
	ZSTD_DCtx *z = ZSTD_createDCtx();
	ZSTD_outBuffer o = { out, len, 0 };
	ZSTD_inBuffer i = { in, in_len, 0 };
	size_t r = 1;

	if (!z)
		return -ENOMEM;
	ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG);
	while (o.pos < o.size && !ZSTD_isError(r)) {
		size_t before = i.pos + o.pos;

		r = ZSTD_decompressStream(z, &o, &i);
		if (i.pos + o.pos == before)
			break;
	}
	ZSTD_freeDCtx(z);
	return o.pos == o.size ? 0 : -EIO;
}

int qcow2_decompress(enum qcow2_compression how, uint8_t *out, size_t len, const uint8_t *in,
		     size_t in_len)
{
	return how == QCOW2_ZSTD ? unzstd_cluster(out, len, in, in_len) :
				   inflate_cluster(out, len, in, in_len);
}
