/*
 * A disk's host side: byte-addressed requests against raw files (and, beside
 * it, other formats), completed on the loop they were submitted on.
 *
 * A block belongs to one loop; block_share() gives another handle of the same
 * image to another loop. Requests belong to the block from submission
 * until done(). Bounds are the caller's to check against block_size(); the
 * back end checks again and answers -EIO rather than touch what is outside.
 */
#ifndef WISP_DEVICES_BLOCK_H
#define WISP_DEVICES_BLOCK_H

#include "vmm/core/loop.h"

#define BLOCK_SECTOR 512u

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
	bool may_unmap;	 /* WRITE_ZEROES */
	bool durable;	 /* WRITE, WRITE_ZEROES: on the medium before done() */
	uint64_t offset; /* bytes */
	uint64_t len;	 /* bytes; for READ and WRITE the sum of the iovecs */
	/* READ, WRITE: stays valid and unchanged until done(). Of others NULL and 0. */
	const struct iovec *iov;
	unsigned iovcnt;
	void (*done)(struct block_req *req, int res); /* 0 or -errno */

	/* The block's own. */
	struct block *block;
	struct loop_op io;
	struct list link;
	struct iovec *rest; /* what a short transfer left over, or NULL */
	uint64_t progress;
	uint8_t stage;
	int res;
};

struct block_ops {
	/* In bounds, permitted, not empty. Ends with block_finish() or block_finish_later(). */
	void (*submit)(struct block *b, struct block_req *req);
	/* The block was given its loop: pass it on to blocks beneath. May be NULL. */
	void (*attach)(struct block *b);
	/* Another handle of the same image, for another loop. NULL: all must use this one. */
	int (*share)(struct block *b, struct block **ret_handle);
	/* See block_hole(). May be NULL. */
	uint64_t (*hole)(struct block *b, uint64_t pos);
	/* Grow or shrink to @bytes; 0 or -errno. May be NULL. */
	int (*resize)(struct block *b, uint64_t bytes);
	/* See block_hurry(). May be NULL: no request waits for what may never come. */
	void (*hurry)(struct block *b);
	/* See block_settle(): @req is only to be ended. NULL: nothing of the image is in memory. */
	void (*settle)(struct block *b, struct block_req *req);
	/* See block_reload(). NULL with @settle. */
	int (*reload)(struct block *b, int fd, struct error *err);
	/* See block_close(). */
	int (*free)(struct block *b);
};

struct block {
	const struct block_ops *ops;
	struct loop *loop;
	char *path; /* for messages */
	struct block *origin; /* of a handle by block_share(); else NULL */
	uint64_t size_bytes; /* a multiple of BLOCK_SECTOR; ask block_size() */
	uint32_t logical_block;	 /* the smallest unit a driver should use: 512 for files */
	uint32_t physical_block; /* the unit that costs no read-modify-write */
	bool read_only;
	bool can_discard, can_write_zeroes;
	bool writethrough; /* every write is durable when it completes */
	bool no_flush;	   /* cache=unsafe: flushes succeed at once */
	bool guarded, guard_told; /* a raw image by probing: see block_guard.c */
	unsigned inflight;
	struct block_watch *watch; /* see block_watch(); NULL: never asked for. Not of handles */
	struct block_overlay *overlay; /* takes what is written (block_overlay.h). Not of handles */
	struct block *overlay_file;    /* a handle's own handle of its file; or NULL */

	/* Requests that are over without having waited for anything. */
	struct list finished;
	struct loop_task finish;
};

struct block_config {
	const char *path;
	int fd; /* already open (the block owns it then, also on failure), or -1: open @path */
	enum { BLOCK_FORMAT_AUTO, BLOCK_FORMAT_RAW, BLOCK_FORMAT_QCOW2 } format;
	enum { BLOCK_CACHE_WRITEBACK, BLOCK_CACHE_WRITETHROUGH, BLOCK_CACHE_UNSAFE } cache;
	bool read_only;
	bool direct;
	bool unlocked; /* by its own user later, with block_file_lock() */
	/*
	 * Of a disk behind a server: who connects to it again when the connection is lost
	 * (devices/nbd.h; the block's own like @fd), and how long requests wait for that. Without
	 * seconds there is nobody, and they fail at once.
	 */
	int dialer;
	unsigned reconnect_seconds;
	/* The file under a format: grows when written behind its end, and is zero there. */
	bool container;
	/*
	 * What lies under this image; without it, one that names a backing file is refused. Its
	 * descriptors are the block's as well.
	 */
	const struct block_config *backing;
};

/*
 * Open a disk image and lock it (as QEMU's tools do: many readers or one writer)
 * so that two monitors cannot write one image. Errors name the file. The block
 * is bound to a loop by block_attach().
 */
int block_open(struct block **ret_block, const struct block_config *config, struct error *err);
void block_attach(struct block *b, struct loop *loop);

/*
 * A further handle of @origin's image, attached to @loop; closed before @origin is.
 * -EOPNOTSUPP for formats that keep state of their own: those are served by one loop.
 */
int block_share(struct block **ret_block, struct block *origin, struct loop *loop);
bool block_can_share(const struct block *b);

/*
 * Make the image @bytes long. Requests in flight past a new end fail, by any handle, and the file
 * is that long when the last of them is over. On the loop of @b, which is no handle by
 * block_share(). -EOPNOTSUPP, -EROFS, -EINVAL (not whole sectors), -EBUSY (it has an overlay), or
 * why not.
 */
int block_resize(struct block *b, uint64_t bytes);

/*
 * Whoever asked has lost interest: a request that waits for a server that is gone fails now, and
 * so does one whose server goes before it has answered. What is being worked on is completed.
 * Until the next request. On the loop of @b.
 */
void block_hurry(struct block *b);

/* Room for a block_settle() that is under way, and what it came to. */
struct block_settling {
	void (*done)(struct block_settling *s, int res); /* 0 or -errno */

	/* The block's own. */
	struct loop *home;
	struct loop_task go, back;
	struct block_req req;
	int res;
};

/* Is a part of the image, which may be written, in memory? */
bool block_keeps_tables(const struct block *b);

/*
 * Have all of the image be in its file, for whoever copies that: tables that its format keeps in
 * memory are written, clusters that could be free are. Such a file is what it would be closed,
 * until the next request. Nothing may be in flight, and nothing be submitted before s->done() is
 * called, by @home's thread. Any thread. An error says that it is as after a crash.
 */
void block_settle(struct block *b, struct loop *home, struct block_settling *s);

/*
 * Another one has written the image since it was opened, and has settled: read again what is kept
 * in memory, by the file's descriptor @fd, not open for direct I/O. Nothing was ever submitted, and
 * nobody runs the loop of @b. -errno with @err: it can only be closed, which leaves it alone.
 */
int block_reload(struct block *b, int fd, struct error *err);

/*
 * How many bytes from @pos on are known to be zeroes, without reading them. It may ask the
 * kernel, so it is for tools.
 */
uint64_t block_hole(struct block *b, uint64_t pos);

/* ---- what is written, for whoever copies an image that is in use ---- */

/* Writes are noted by units of so many bytes. */
#define BLOCK_WATCH_UNIT (64 * KiB)

/*
 * Note from now on what is written, by any handle of the image @b (which is none itself). A write
 * is noted when it is over and before its done(): so whoever collects and then reads what was noted
 * has it, or will find it noted the next time. Any thread, but one at a time. -ENOMEM.
 */
int block_watch(struct block *b);
void block_unwatch(struct block *b);

/* Add what was noted since the last call to the bits of @units, the first @num_units of them. */
void block_watch_collect(struct block *b, uint64_t *units, uint64_t num_units);

/* ---- files beneath an image ---- */

#define BLOCK_MAX_CHAIN 16

/* Backing files from the image down, opened; what is not open has descriptor -1. */
struct block_chain {
	unsigned num;
	struct block_chain_file {
		char *path;
		int fd;
		int format; /* BLOCK_FORMAT_* */
	} file[BLOCK_MAX_CHAIN];
};

struct block_chain_params {
	const char *path; /* the image on top, */
	int fd;		  /* open, and borrowed */
	int format;
	const char *const *named; /* what may be opened, from the top down, whatever images say */
	unsigned num_named;
	bool follow; /* beyond these, open what images name */
};

/*
 * Open all files beneath an image, which itself may be of any format. Where an
 * image names a backing file and neither @named nor @follow allows it, that is
 * an error. Waits for its I/O; meant for the process that may open files.
 */
int block_chain_open(struct block_chain *c, const struct block_chain_params *p, struct error *err);
void block_chain_close(struct block_chain *c);

/* By its format, or where nobody said which it has by a look into it. */
bool block_chain_is_qcow2(const struct block_chain_file *f);

/*
 * Fill @configs (BLOCK_MAX_CHAIN of them) for block_open(), as the backing of an image
 * opened by @top: returns that, or NULL. They have the descriptors, and borrow the paths.
 */
const struct block_config *block_chain_take(struct block_chain *c, struct block_config *configs,
					    const struct block_config *top);

/*
 * Nothing may be in flight. Durable before it returns unless cache=unsafe. -errno when what an
 * image writes last, its tables, could not be written: it is as after a crash then. It is closed in
 * any case. Accepts NULL.
 */
int block_close(struct block *b);

/* Queue @req; done() comes later, never from within. */
void block_submit(struct block *b, struct block_req *req);

/* Any thread: it changes at most between one request and the next. */
static inline uint64_t block_size(const struct block *b)
{
	return __atomic_load_n(b->origin ? &b->origin->size_bytes : &b->size_bytes,
			       __ATOMIC_RELAXED);
}

/* ---- for formats ---- */

/* An image file that has been opened, locked and found to be of a usable kind. */
struct block_file {
	int fd;
	const char *path;
	uint64_t size_bytes;
	uint32_t logical_block, physical_block;
};

/*
 * Lock an open image against users that it cannot be shared with: two readers
 * agree, a writer agrees with nobody. Held until the descriptor's last copy is
 * closed, or unlocked by a format. -EBUSY when another process is in the way.
 */
int block_file_lock(const struct block_file *f, bool read_only, struct error *err);

/* Is the file at @path an image that somebody has locked, to read or to write it? */
bool block_path_in_use(const char *path);

/* By hand: file systems with locks of their own (FUSE) may keep one past the close. */
void block_unlock(int fd);

/* A raw image. @file->fd is the block's own on success only. */
int block_raw_create(struct block **ret_block, const struct block_file *file,
		     const struct block_config *config, struct error *err);

/* End @req: from a completion, and from within submit(). */
void block_finish(struct block_req *req, int res);
void block_finish_later(struct block_req *req, int res);

#endif
