/*
 * The qcow2 format, versions 2 and 3, as it lies in a file: the header, table
 * entries, refcounts. Pure functions over bytes that an enemy may have written:
 * no state, no I/O, any thread. All numbers on disk are big-endian.
 *
 * A file is made of clusters. The guest's cluster n is found through a table of
 * two levels (L1, L2); how many users each host cluster has, through another
 * (refcount table, refcount blocks). QEMU's docs/interop/qcow2 is the reference.
 */
#ifndef WISP_DEVICES_QCOW2_FORMAT_H
#define WISP_DEVICES_QCOW2_FORMAT_H

#include "vmm/core/error.h"
#include "vmm/core/util.h"

#define QCOW2_MAGIC	       0x514649fbu
#define QCOW2_V2_HEADER	       72u
#define QCOW2_V3_HEADER	       104u
#define QCOW2_MAX_NAME	       1023u
#define QCOW2_MIN_CLUSTER_BITS 9u
#define QCOW2_MAX_CLUSTER_BITS 21u
#define QCOW2_MAX_L1_BYTES     (32 * MiB)
#define QCOW2_MAX_REFTABLE     (8 * MiB)
#define QCOW2_MAX_SIZE	       (1ull << 56)

/* Where fields that are rewritten in place lie. */
#define QCOW2_AT_SIZE	      24u
#define QCOW2_AT_L1	      36u /* entries (4 bytes), offset (8 bytes) */
#define QCOW2_AT_REFTABLE     48u /* offset (8 bytes), clusters (4 bytes) */
#define QCOW2_AT_INCOMPATIBLE 72u
#define QCOW2_AT_AUTOCLEAR    88u

#define QCOW2_INCOMPAT_DIRTY	   (1ull << 0) /* refcounts may be wrong */
#define QCOW2_INCOMPAT_CORRUPT	   (1ull << 1)
#define QCOW2_INCOMPAT_EXTERNAL	   (1ull << 2)
#define QCOW2_INCOMPAT_COMPRESSION (1ull << 3) /* not zlib */
#define QCOW2_INCOMPAT_EXTENDED_L2 (1ull << 4)
#define QCOW2_COMPAT_LAZY	   (1ull << 0)

enum qcow2_compression { QCOW2_ZLIB, QCOW2_ZSTD };

struct qcow2_header {
	unsigned version;
	unsigned cluster_bits;
	unsigned refcount_order; /* a refcount has 1 << this bits */
	unsigned header_len;
	uint64_t size_bytes; /* what the guest sees, as written; may not fill a sector */
	uint64_t l1_offset;
	uint32_t l1_entries;
	uint32_t num_snapshots;
	uint64_t snapshots_offset;
	uint64_t reftable_offset;
	uint32_t reftable_clusters;
	uint64_t incompatible, compatible, autoclear;
	enum qcow2_compression compression;
	bool bitmaps; /* of what has changed; not understood, and no longer true once written */
	char backing[QCOW2_MAX_NAME + 1]; /* as named in the file, or empty */
	char backing_format[16];	  /* "raw", "qcow2"; empty when the file does not say */
};

static inline uint64_t qcow2_cluster_size(const struct qcow2_header *h)
{
	return 1ull << h->cluster_bits;
}

/* Extended L2 entries have a bitmap of 32 subclusters beside each. */
static inline bool qcow2_extended(const struct qcow2_header *h)
{
	return h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
}

/* How many bits of a guest's cluster number index an L2 table. */
static inline unsigned qcow2_l2_bits(const struct qcow2_header *h)
{
	return h->cluster_bits - (qcow2_extended(h) ? 4 : 3);
}

/* The same for host clusters and refcount blocks. */
static inline unsigned qcow2_refblock_bits(const struct qcow2_header *h)
{
	return h->cluster_bits + 3 - h->refcount_order;
}

/* L1 entries that @bytes of guest disk need. */
static inline uint64_t qcow2_l1_needed(const struct qcow2_header *h, uint64_t bytes)
{
	unsigned bits = h->cluster_bits + qcow2_l2_bits(h);

	return (bytes + (1ull << bits) - 1) >> bits;
}

/*
 * Understand the header in the @len bytes at @data, the file's start: the whole
 * first cluster, or the whole file when that is shorter. Refused with the
 * reason: what is not qcow2, contradicts itself, points outside the format's
 * limits, or uses a feature that is unknown (by its name, where the file has one).
 * Tables are checked against @file_bytes. The error does not name the file.
 */
int qcow2_header_parse(struct qcow2_header *ret_h, const uint8_t *data, size_t len,
		       uint64_t file_bytes, struct error *err);

/* The cluster size in the first bytes of a header, or 0 when these are not qcow2's. */
uint64_t qcow2_peek_cluster_size(const uint8_t *data, size_t len);

/*
 * Write a header and its extensions to @data, a cluster of zeroes. -ENAMETOOLONG when the
 * backing file's name does not fit.
 */
int qcow2_header_write(const struct qcow2_header *h, uint8_t *data);

/* ---- table entries ---- */

#define QCOW2_COPIED	 (1ull << 63) /* the only reference: may be written in place */
#define QCOW2_COMPRESSED (1ull << 62)
#define QCOW2_ZERO	 1ull
#define QCOW2_OFFSET	 0x00fffffffffffe00ull

enum qcow2_kind {
	QCOW2_UNALLOCATED, /* what the backing file has, else zeroes */
	QCOW2_ZEROES,	   /* zeroes, no cluster of its own */
	QCOW2_ZEROES_HELD, /* zeroes, though there is a cluster */
	QCOW2_DATA,
	QCOW2_DEFLATED, /* compressed */
	QCOW2_BROKEN,
};

/* A stretch of guest disk of one kind. */
struct qcow2_extent {
	enum qcow2_kind kind;
	bool copied;
	uint64_t host; /* DATA, ZEROES_HELD: of the cluster's start; DEFLATED: of the first byte */
	uint32_t bytes; /* DEFLATED: how many, in the file */
};

/* What a standard L2 entry, or with extended ones its first half, says. */
void qcow2_entry_decode(const struct qcow2_header *h, uint64_t entry, struct qcow2_extent *ret_e);

/* Of an extended entry: what subcluster @n is, in place of @e->kind. */
enum qcow2_kind qcow2_subcluster_kind(const struct qcow2_extent *e, uint64_t bitmap, unsigned n);

/* The offset in an L1 or refcount table entry; 0: none; UINT64_MAX: malformed. */
uint64_t qcow2_table_offset(const struct qcow2_header *h, uint64_t entry);

/* Refcount @index of those at @block. */
uint64_t qcow2_refcount_get(const uint8_t *block, unsigned order, unsigned index);
void qcow2_refcount_set(uint8_t *block, unsigned order, unsigned index, uint64_t value);
uint64_t qcow2_refcount_max(unsigned order);

/* Decompress to all of the @len bytes at @out; what follows in @in is ignored. 0 or -EIO. */
int qcow2_decompress(enum qcow2_compression how, uint8_t *out, size_t len, const uint8_t *in,
		     size_t in_len);

/* ---- big-endian numbers ---- */

static inline uint16_t get_be16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return be16toh(v);
}

static inline uint32_t get_be32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static inline uint64_t get_be64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static inline void put_be16(void *p, uint16_t v)
{
	v = htobe16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void put_be32(void *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void put_be64(void *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

#endif
