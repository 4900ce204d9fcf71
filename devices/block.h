/*
 * A disk's host side: byte-addressed requests against raw files (and, beside
 * it, other formats), completed on the loop they were submitted on.
 *
 * A block belongs to one loop. Requests belong to the block from submission
 * until done(). Bounds are the caller's to check against block_size(); the
 * back end checks again and answers -EIO rather than touch what is outside.
 */
#ifndef WISP_DEVICES_BLOCK_H
#define WISP_DEVICES_BLOCK_H

#include "vmm/core/loop.h"

struct block;

enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH, /* all writes completed so far are durable */
	BLOCK_DISCARD,
	BLOCK_WRITE_ZEROES,
};

struct block_req {
	enum block_op op;
	bool may_unmap; /* WRITE_ZEROES */
	uint64_t offset; /* bytes */
	uint64_t len;	 /* bytes; for READ and WRITE the sum of the iovecs */
	struct iovec *iov; /* may be changed by the back end while it works on short transfers */
	unsigned iovcnt;
	void (*done)(struct block_req *req, int res); /* 0 or -errno */

	/* The back end's own. */
	struct block *block;
	struct loop_op io;
	uint64_t progress;
	void *priv[2];
};

struct block_ops {
	void (*submit)(struct block *b, struct block_req *req);
	/* Grow or shrink to @bytes; completes through done(arg, res). May be NULL. */
	int (*resize)(struct block *b, uint64_t bytes);
	void (*free)(struct block *b);
};

struct block {
	const struct block_ops *ops;
	struct loop *loop;
	char *path; /* for messages */
	uint64_t size_bytes;
	uint32_t logical_block;	 /* 512 or what O_DIRECT asks for */
	uint32_t physical_block;
	bool read_only;
	bool can_discard, can_write_zeroes;
	bool writethrough; /* every write is durable when it completes */
	bool no_flush;	   /* cache=unsafe: flushes succeed at once */
	unsigned inflight;
};

struct block_config {
	const char *path;
	int fd; /* already open (the block owns it then), or -1: open @path */
	enum { BLOCK_FORMAT_AUTO, BLOCK_FORMAT_RAW, BLOCK_FORMAT_QCOW2 } format;
	enum { BLOCK_CACHE_WRITEBACK, BLOCK_CACHE_WRITETHROUGH, BLOCK_CACHE_UNSAFE } cache;
	bool read_only;
	bool direct;
};

/*
 * Open a disk image and lock it (OFD lock on the whole file: shared when
 * read-only) so that two monitors cannot write one image. Errors name the
 * file. The block is bound to a loop by block_attach().
 */
int block_open(struct block **ret_block, const struct block_config *config, struct error *err);
void block_attach(struct block *b, struct loop *loop);

/* Nothing may be in flight. Durable before it returns unless cache=unsafe. */
void block_close(struct block *b);

/* Queue @req; done() comes later, never from within. */
void block_submit(struct block *b, struct block_req *req);

static inline uint64_t block_size(const struct block *b)
{
	return b->size_bytes;
}

#endif
