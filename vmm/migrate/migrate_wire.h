/*
 * The stream of a live migration: records with a type, a length that the type
 * bounds, a number that counts up, and a checksum; docs/migration.md lists them.
 *
 * Whoever is at the other end is hostile: a record is checked before it is looked at, nothing is
 * allocated by what it says, and a peer that stalls is given up. An end belongs to one thread at a
 * time, or its two directions to one each.
 */
#ifndef WISP_VMM_MIGRATE_WIRE_H
#define WISP_VMM_MIGRATE_WIRE_H

#include "vmm/core/error.h"
#include "vmm/core/util.h"

/* What comes first in every stream, in either direction. */
#define MIGRATE_MAGIC	"WISPMIG1"
#define MIGRATE_VERSION 6

/* A migration's name, in both journals. */
#define MIGRATE_UUID_BYTES 16

/* The most connections of one migration. */
#define MIGRATE_MAX_STREAMS 16u

/* What becomes of guest memory: HELLO's section asks for it, READY's page grants it. */
enum migrate_way {
	MIGRATE_COPIED,	 /* it goes over the stream */
	MIGRATE_SHARED,	 /* the source's is the destination's too, by the descriptor with HELLO */
	MIGRATE_WRITTEN, /* the source writes into the destination's, by the one with READY */
};

/* A window of guest memory: what one PAGES record is about. */
#define MIGRATE_WINDOW_PAGES 512u
#define MIGRATE_WINDOW_WORDS (MIGRATE_WINDOW_PAGES / 64)

enum migrate_record_type {
	/* the source's */
	MIGRATE_HELLO = 1,  /* sections: what machine it is; nothing more is sent before READY */
	MIGRATE_PAGES,	    /* at a window: two bitmaps, then the pages in the first */
	MIGRATE_PAGES_ZSTD, /* the same, the pages compressed */
	MIGRATE_ROUND,	    /* all of a round was sent */
	MIGRATE_STATE,	    /* sections: all but memory; the guest stands still */
	MIGRATE_COMMIT,	    /* the guest is yours */
	/* the destination's */
	MIGRATE_READY,	    /* built, and all that can be checked before is checked */
	MIGRATE_ROUND_DONE, /* all of it is in memory */
	MIGRATE_PREPARED,   /* could run at once */
	MIGRATE_RUNNING,    /* does */
	/* either's */
	MIGRATE_GIVEN_UP, /* text: why; nothing comes after it */
	/* the source's again: of disks that are copied */
	MIGRATE_DISK,	     /* at a unit of a disk: which, those that follow, the units */
	MIGRATE_DISK_ZSTD,   /* the same, the units compressed */
	MIGRATE_DISK_ZEROES, /* from a unit on: which disk, how many units are empty */
	MIGRATE_STREAM,	     /* first on each further connection: whose it is */
	/* of post-copy (migrate_serve.h the source's half, migrate_fill.h the other) */
	MIGRATE_MISSING, /* at a page: a bit for each from there on that is still to come */
	MIGRATE_WANT,	 /* the destination's: somebody waits for this page */
	MIGRATE_SENT,	 /* the source's: every page that was missing was sent */
	MIGRATE_WHOLE,	 /* the destination's: it needs nothing more */
	MIGRATE_RESUME,	 /* the source's, first on a new connection: which migration goes on */
	MIGRATE_RESUMED, /* the destination's: MISSING has told all that it still needs */
	/* of a hand-off, before HELLO */
	MIGRATE_TAP, /* the source's, at its offloads: a tap's name; its descriptor comes along */
	MIGRATE_NUM_TYPES
};

/* What a DISK record has at most: units of 64 KiB behind their header. */
#define MIGRATE_DISK_UNITS 16u
#define MIGRATE_MAX_DISK   (8 + MIGRATE_DISK_UNITS * 64 * KiB)

/* What a MISSING record has at most, in bytes: the pages of 1 GiB. */
#define MIGRATE_MAX_MISSING (32 * KiB)

/* READY's page: the way, and whether the source may send pages when the guest runs already. */
#define MIGRATE_READY_POSTCOPY (1u << 8)

/* What a TAP record has at most. */
#define MIGRATE_MAX_TAP 15u

/* STATE's page. */
#define MIGRATE_STATE_PAUSED   (1u << 0) /* the guest is to stay paused */
#define MIGRATE_STATE_POSTCOPY (1u << 1) /* what MISSING told of comes when it runs */

/* The most that any record holds. */
#define MIGRATE_MAX_PAYLOAD (64 * MiB)
#define MIGRATE_MAX_WINDOW  (2 * MIGRATE_WINDOW_WORDS * 8 + MIGRATE_WINDOW_PAGES * PAGE_SIZE)
#define MIGRATE_MAX_TEXT    480

struct migrate_record {
	enum migrate_record_type type;
	uint32_t len;  /* of the payload */
	uint64_t page; /* PAGES, MISSING: the first page; WANT: the page; DISK: the first unit;
			* ROUND, ROUND_DONE: its number; STREAM: which; STATE:
			* MIGRATE_STATE_*; READY: enum migrate_way and MIGRATE_READY_*;
			* TAP: TUN_F_* of linux/if_tun.h, 0: not known */
	uint8_t *payload; /* in the wire's buffer, until the next one is received */
};

struct migrate_wire {
	int in, out;	 /* the same for a socket; owned */
	int wake_fd;	 /* readable: stop at once with -ECANCELED; borrowed, or -1 */
	bool wants_fd;	 /* a descriptor may come with what is received */
	int fd;		 /* the one that came; owned; -1: none did */
	unsigned patience_ms; /* a peer that moves no byte for so long is given up */
	uint32_t accepts; /* a bit for each type of record that may come; 0: any */
	uint32_t next_in, next_out;
	uint64_t bytes_in, bytes_out;
	uint8_t *buf; /* received payloads */
	size_t buf_size;
};

/* @in and @out become the wire's, also on failure, and non-blocking. */
int migrate_wire_init(struct migrate_wire *w, int in, int out, struct error *err);
void migrate_wire_done(struct migrate_wire *w);

/* Send MIGRATE_MAGIC, or receive and compare it. */
int migrate_wire_greet(struct migrate_wire *w, struct error *err);
int migrate_wire_expect_greeting(struct migrate_wire *w, int wait_ms, struct error *err);

/* Send one record; returns when the kernel has all of it. -ETIMEDOUT, -ECANCELED, -EPIPE. */
int migrate_wire_send(struct migrate_wire *w, enum migrate_record_type type, uint64_t page,
		      const void *payload, size_t len, struct error *err);

/*
 * The same with descriptor @fd beside it, over a UNIX socket; what forwards a stream drops it, so
 * whether it arrived the other side has to say. Over anything else -ENOTSOCK, nothing sent.
 */
int migrate_wire_send_fd(struct migrate_wire *w, enum migrate_record_type type, uint64_t page,
			 const void *payload, size_t len, int fd, struct error *err);

/* Whether descriptors can travel with what is sent; and both ways, over one socket. */
bool migrate_wire_carries_fds(const struct migrate_wire *w);
bool migrate_wire_is_local(const struct migrate_wire *w);

/* Say why it ends here, if the peer still listens; @err is what happened. */
void migrate_wire_give_up(struct migrate_wire *w, const struct error *err);

/*
 * The connection was lost by @r, as @err says; but the peer may have said why before it hung up,
 * while we were sending. Then -ECONNABORTED with its words in @err, else @r and nothing is changed.
 */
int migrate_wire_last_words(struct migrate_wire *w, int r, struct error *err);

/*
 * Receive the next record, waiting @wait_ms for its begin (-1: for ever). GIVEN_UP becomes
 * -ECONNABORTED with the peer's words in @err; the end of the stream -ECONNRESET: it is
 * never taken for a completion.
 */
int migrate_wire_receive(struct migrate_wire *w, struct migrate_record *ret, int wait_ms,
			 struct error *err);

/* Is there anything to be received within @wait_ms? 1, 0, or -ECANCELED. */
int migrate_wire_await(struct migrate_wire *w, int wait_ms, struct error *err);

/* The same, and 2 when there is not but @fd (-1: none) is readable. */
int migrate_wire_await_or(struct migrate_wire *w, int fd, int wait_ms, struct error *err);

/* The text of @rec, as far as a terminal may see it. */
void migrate_wire_text(const struct migrate_record *rec, char text[MIGRATE_MAX_TEXT + 1]);

/* Is @rec, which came, of @type? -EBADMSG with both in @err. */
int migrate_wire_check(const struct migrate_record *rec, enum migrate_record_type type,
		       struct error *err);

/* As migrate_wire_receive(); anything but @type is -EBADMSG. */
int migrate_wire_expect(struct migrate_wire *w, enum migrate_record_type type,
			struct migrate_record *ret, int wait_ms, struct error *err);

#endif
