/*
 * A qcow2 image in use, as its parts share it: block_qcow2.c (life,
 * requests), _read.c, _write.c, _zero.c, _table.c (mapping), _refs.c (allocation),
 * _free.c, _cache.c and _commit.c. Nobody else includes it. All of it belongs
 * to the block's loop and nothing waits: whatever is not in memory is asked
 * for, and the asking function returns -EAGAIN. Its struct q2_wait is called
 * when there is news, and starts over. So functions that return -EAGAIN have
 * changed nothing but caches, and between two calls of them there is no lock
 * to hold: the loop's thread is alone.
 *
 * Order of writes. L2 tables and refcounts change in memory, and reach the file
 * by a commit (_commit.c): a copy of all that is dirty at one moment, refcounts
 * first, then what refers to them. Data is in its clusters before the L2 entry
 * changes in memory. A cluster that lost its last reference is free only when a
 * commit has written the table that no longer has it. So at whatever write the
 * process dies, the tables in the file refer only to clusters that are counted
 * and filled, and at worst some are counted that nobody refers to.
 */
#ifndef WISP_DEVICES_BLOCK_QCOW2_H
#define WISP_DEVICES_BLOCK_QCOW2_H

#include "devices/block_internal.h"
#include "devices/qcow2_format.h"
#include "vmm/core/log.h"

#define Q2_HASH	      256u
#define Q2_MAX_SLICE  4096u
#define Q2_ZEROES     (64 * KiB)
#define Q2_MAX_PARTS  64u /* of one request, in flight */

/* ---- waiting ---- */

struct q2_wait {
	struct list link;
	/* @res: 0: try again; -errno: what was waited for failed. */
	void (*go)(struct q2_wait *w, int res);
};

/* Call all of @waiters; those that wait again are not called twice. */
void q2_wake(struct list *waiters, int res);

/* ---- cache of L2 tables and refcount blocks, in slices of a page ---- */

enum q2_slice_kind { Q2_REFS, Q2_MAP };

struct q2_slice {
	struct list hash, lru;
	struct list dirty_link; /* in qcow2.dirty[kind] */
	uint64_t offset;	/* in the file */
	enum q2_slice_kind kind;
	bool loading, dirty;
	bool writing; /* the commit that runs has its content */
	struct qcow2 *q;
	struct list waiters;
	struct block_req req;
	struct iovec iov;
	uint8_t *data;
};

/* A table that is in memory as a whole: L1, or the refcount table. */
struct q2_table {
	uint64_t offset; /* in the file */
	uint64_t entries;
	uint64_t *entry;   /* in the host's byte order */
	uint8_t *dirty;	   /* a byte for each piece of a slice's size */
	bool any_dirty;
};

/* Host clusters to be freed. */
struct q2_range {
	uint64_t cluster, count;
};

struct q2_ranges {
	struct q2_range *at;
	size_t num, room;
};

/* Those that one commit has made free, and the last request that may still read them. */
struct q2_batch {
	struct list link;
	struct q2_ranges ranges;
	uint64_t seq;
};

/* ---- requests ---- */

struct q2_job;

/* A piece of a request that is under way. */
struct q2_part {
	struct block_req req;
	struct q2_job *job;
	struct iovec *iov; /* its own, or NULL */
};

struct q2_job {
	struct qcow2 *q;
	struct block_req *req;
	struct list link; /* qcow2.jobs, by age */
	uint64_t seq;
	struct q2_wait wait;
	uint64_t pos;	  /* what is in front of it has been started */
	unsigned pending; /* parts, and 1 while more may be started */
	bool submitting;  /* done() must not be called yet */
	bool throttled;
	bool committing;
	int res;
};

/* A write to clusters that have no place yet; none other touches them until it ends. */
struct q2_alloc {
	struct q2_part part; /* the write itself */
	struct list link;    /* qcow2.allocs */
	struct list waiters;
	struct q2_wait wait;
	uint64_t first, count; /* guest clusters */
	uint64_t host;
	bool reuse; /* the clusters were held already */
	struct block_req fill[2]; /* reads of what goes in front and behind */
	struct iovec fill_iov[2];
	uint64_t fill_len[2]; /* 0: the cluster is new and zero there */
	unsigned filling;
	int res;
};

/* Something that only one may do at a time. */
struct q2_gate {
	bool busy;
	struct list waiters;
};

/* Leaving nothing dirty, and nothing counted that is free. */
struct q2_settling {
	struct qcow2 *q;
	struct q2_wait wait;
	bool busy; /* a commit is under way, or somebody is in settle_step() */
	int res;
	void (*over)(struct q2_settling *s); /* its last touch */
};

struct q2_commit {
	bool running;
	bool failed; /* the last one has */
	unsigned step;
	unsigned pending;
	int res;
	struct list write[3]; /* struct q2_write, by step */
	struct block_req sync;
	struct list now, next; /* who waits for this one, and for the one behind it */
	struct q2_ranges frees;
};

struct qcow2 {
	struct block b;
	struct block *file;    /* the container */
	struct block *backing; /* or NULL */
	struct qcow2_header h;
	unsigned cluster_bits;
	uint64_t cluster_size;
	uint32_t slice_size;
	uint64_t file_end; /* nothing was ever written behind it; whole clusters */
	uint64_t hint;	   /* all host clusters in front of it are in use */

	struct q2_table l1, reftable;
	struct list hash[Q2_HASH];
	struct list lru; /* the first is the one to go */
	struct list dirty[2];
	unsigned num_slices, max_slices;
	struct list room_waiters;

	struct list jobs;
	uint64_t next_seq;
	struct list allocs;
	struct list tables; /* L2 tables being made */
	struct q2_gate refs_gate;
	struct q2_gate header_gate;
	struct block_req header_req;
	struct iovec header_iov;
	struct q2_commit commit;

	struct q2_ranges frees; /* no reference in memory any more */
	struct list batches;	/* nor in the file */
	struct q2_freer *freer; /* works on the first batch, or NULL */
	struct q2_settling *settling;	 /* the one under way, or NULL */
	struct q2_settling own_settling; /* block_settle()'s */
	struct block_req *settled;

	/* The cluster that was decompressed last. */
	uint64_t inflated_host;
	uint8_t *inflated;

	struct log_limit complaints;
	uint8_t *zeroes; /* Q2_ZEROES bytes */
};

static inline struct qcow2 *q2_of(struct block *b)
{
	return container_of(b, struct qcow2, b);
}

/* ---- _cache.c ---- */

void q2_cache_init(struct qcow2 *q);
void q2_cache_done(struct qcow2 *q);

/* The slice at @offset, a multiple of the slice size; valid until the caller returns. */
int q2_slice_get(struct qcow2 *q, uint64_t offset, enum q2_slice_kind kind, struct q2_wait *w,
		 struct q2_slice **ret_s);
void q2_slice_dirty(struct q2_slice *s);

/* A commit has ended: there may be room for slices that are waited for. */
void q2_cache_committed(struct qcow2 *q, int res);

/* Forget what was cached of a cluster that has been given a new meaning. Not dirty, not loading. */
void q2_cache_drop(struct qcow2 *q, uint64_t offset, uint64_t len);

/* ---- _table.c ---- */

int q2_table_load(struct qcow2 *q, struct q2_table *t, uint64_t offset, uint64_t entries,
		  const char *what, int fd, struct error *err);
/*
 * Before anything is written: each block of refcounts is one block's alone. The search for free
 * clusters relies on it, since a file ends somewhere and one block a thousand times does not.
 */
int q2_reftable_check(struct qcow2 *q, struct error *err);
void q2_table_set(struct qcow2 *q, struct q2_table *t, uint64_t index, uint64_t value);
void q2_table_done(struct q2_table *t);

/* An L2 table's slice that has a guest offset, and where in it. */
struct q2_spot {
	struct q2_slice *slice; /* NULL: there is no table */
	unsigned index;		/* of the entry, in the slice */
	unsigned entries;	/* in the slice */
};

/* For reading. */
int q2_spot_find(struct qcow2 *q, uint64_t pos, struct q2_wait *w, struct q2_spot *ret);
/* For changing: makes a table where there is none of our own. */
int q2_spot_make(struct qcow2 *q, uint64_t pos, struct q2_wait *w, struct q2_spot *ret);

uint64_t q2_spot_entry(const struct qcow2 *q, const struct q2_spot *spot, unsigned index);
void q2_spot_set(struct qcow2 *q, const struct q2_spot *spot, unsigned index, uint64_t entry);

/* What guest bytes from @pos on are, and of how many up to @len that is true. */
int q2_map(struct qcow2 *q, uint64_t pos, uint64_t len, struct q2_wait *w,
	   struct qcow2_extent *ret_e, uint64_t *ret_len);

/* Is a data cluster's place one that data may be in? Complains, and returns false. */
bool q2_place_is_sane(struct qcow2 *q, uint64_t host, uint64_t len);

/* ---- _refs.c ---- */

/*
 * Up to @want free host clusters in a row, counted as used from now on; all of
 * them in front of file_end, or all behind (@ret_fresh: their bytes are zero).
 */
int q2_clusters_get(struct qcow2 *q, uint64_t want, struct q2_wait *w, uint64_t *ret_host,
		    uint64_t *ret_count, bool *ret_fresh);

/* The slice with the refcount of @cluster, and its index in there. */
int q2_refcount_find(struct qcow2 *q, uint64_t cluster, struct q2_wait *w,
		     struct q2_slice **ret_s, unsigned *ret_index);

/* Write zeroes to a cluster of the file, so that it can become a table: @req->done says when. */
int q2_zero_cluster(struct qcow2 *q, struct block_req *req, uint64_t host);

/* ---- _free.c ---- */

/* @count clusters have lost a reference in memory: count it once that is true in the file too. */
void q2_free_clusters(struct qcow2 *q, uint64_t cluster, uint64_t count);
/* The same for what an L2 entry referred to, unless that is no place for data. */
void q2_free_entry(struct qcow2 *q, uint64_t entry);
/* A commit has ended well: these can go when no request from before is left. */
void q2_free_committed(struct qcow2 *q, struct q2_ranges *ranges);
/* Look whether there is something to do now. */
void q2_free_run(struct qcow2 *q);
/* Forget those that could not be freed: they stay counted. */
void q2_free_done(struct qcow2 *q);
void q2_ranges_move(struct q2_ranges *to, struct q2_ranges *from);

/* ---- _commit.c ---- */

/* Call @w when all that is dirty now is in the file, durably where the cache mode says so. */
void q2_commit(struct qcow2 *q, struct q2_wait *w);
bool q2_is_dirty(const struct qcow2 *q);

/* ---- block_qcow2.c: for the parts of requests ---- */

/* No clusters are being freed any more. */
void q2_freer_idle(struct qcow2 *q);

/*
 * A part of @job's request: @len guest bytes from @pos on, with room for
 * @around segments more in front and behind. It counts as pending from now on.
 */
int q2_part_init(struct q2_part *part, struct q2_job *job, uint64_t pos, uint64_t len,
		 unsigned around);
/* @part, which is the caller's to free, has ended; so may have the job. */
void q2_part_done(struct q2_part *part, int res);
/* Start a part of its own at @offset of @target: 0 or -errno. */
int q2_part_submit(struct q2_job *job, struct block *target, uint64_t pos, uint64_t len,
		   uint64_t offset);
/* Copy @src, or zeroes when it is NULL, to the request's buffers for @pos. */
void q2_fill(struct q2_job *job, uint64_t pos, const uint8_t *src, uint64_t len);
/* As block_submit(), for a read of the block's own: up to the end of the last cluster. */
void q2_read_inner(struct qcow2 *q, struct block_req *req);

static inline uint64_t q2_left(const struct q2_job *job)
{
	return job->req->offset + job->req->len - job->pos;
}

/*
 * ---- _read.c, _write.c, _zero.c: start the next piece of a request ----
 *
 * Moves job->pos; 0, or -errno, or -EAGAIN with job->wait queued somewhere.
 */

int q2_read_some(struct q2_job *job);
/* Of no more than @len bytes; zeroes when the request is none to write data. */
int q2_write_some(struct q2_job *job, uint64_t len);
int q2_zero_some(struct q2_job *job);
/* Guest clusters from @first on, up to @count, that no allocation has. */
uint64_t q2_until_alloc(struct qcow2 *q, uint64_t first, uint64_t count);
/* When an allocation has @cluster, wait for its end: -EAGAIN; else 0. */
int q2_await_alloc(struct qcow2 *q, uint64_t cluster, struct q2_wait *w);
/* Does what @e says of the cluster at @pos read as zeroes? */
bool q2_reads_zero(const struct qcow2 *q, const struct qcow2_extent *e, uint64_t pos);
int q2_is_broken(struct qcow2 *q, uint64_t pos);

#endif
