/*
 * The disks of a guest that moves, when it is to have them there too (--copy-disks): which parts
 * of an image are to be sent, in records, and back into a file.
 *
 * The sender's half belongs to the thread that sends, while the guest writes. What is written
 * meanwhile the block layer notes (block_watch()); notes are taken before the image is read, so
 * what changes under our hands comes again in the next round. Holes are found by asking for them,
 * neither read nor sent; what became empty travels as a range.
 */
#ifndef WISP_VMM_MIGRATE_MIRROR_H
#define WISP_VMM_MIGRATE_MIRROR_H

#include "devices/block.h"
#include "vmm/config/config.h"
#include "vmm/migrate/migrate_wire.h"

#define MIGRATE_UNIT BLOCK_WATCH_UNIT

/* ---- out ---- */

struct migrate_mirror_disk {
	struct block *block; /* NULL: this one is not sent */
	int fd;		     /* what it is read from; may be O_DIRECT; borrowed */
	uint64_t bytes;
	const char *path;    /* for messages; borrowed */
	/* The mirror's: */
	uint64_t *todo; /* a bit for each unit that is to be sent */
	uint64_t seen_from, seen_to; /* bytes that are one hole, or one stretch of data, ... */
	bool seen_hole;		     /* ... as the file said in this round */
};

struct migrate_mirror {
	struct migrate_mirror_disk disk[CONFIG_MAX_DISKS];
	unsigned num; /* of disks, those that are not sent among them */
	bool first;   /* everything is to be sent, and the other side's files are empty */
	int level;    /* zstd's; 0: as it is */
	void *zstd;
	uint8_t *data, *record, *packed;

	uint64_t bytes_read, bytes_sent; /* @bytes_sent: of records */
	uint64_t bytes_full; /* of what was read, that was not empty */
	uint64_t looks; /* how often a file was asked for what is a hole */
	uint64_t empty_ns;   /* the time that records of nothing but what is empty took */
};

/* Begin to watch @disks; @level as for memory. The guest may run. */
int migrate_mirror_start(struct migrate_mirror *s, const struct migrate_mirror_disk *disks,
			 unsigned num, int level, struct error *err);

/* Watch no more. Harmless when it never began. */
void migrate_mirror_stop(struct migrate_mirror *s);

/* Add what changed since the last call to what is to be sent; how many bytes that is in all. */
uint64_t migrate_mirror_collect(struct migrate_mirror *s);

/* As migrate_memory_send(). */
int migrate_mirror_send(struct migrate_mirror *s, struct migrate_wire *w,
			int (*between)(void *arg, struct error *err), void *arg,
			struct error *err);

/* ---- in ---- */

struct migrate_mirror_file {
	int fd; /* empty, and as long as the disk; borrowed; -1: none comes for this disk */
	uint64_t bytes;
	const char *path; /* for messages; borrowed */
	uint64_t unsynced; /* bytes written that may not be on the medium yet */
};

struct migrate_mirror_sink {
	struct migrate_mirror_file file[CONFIG_MAX_DISKS];
	unsigned num;
	void *zstd;
	uint8_t *data;
};

/*
 * Without files, which are the caller's to fill in and to close. -ENOMEM with @err: there is
 * nothing to free then. Done also of one that is zeroed.
 */
int migrate_mirror_sink_init(struct migrate_mirror_sink *s, struct error *err);
void migrate_mirror_sink_done(struct migrate_mirror_sink *s);

/* Put a record of DISK, DISK_ZSTD or DISK_ZEROES where it belongs. -EBADMSG: it makes no sense. */
int migrate_mirror_sink_take(struct migrate_mirror_sink *s, const struct migrate_record *rec,
			     struct error *err);

/* All that was taken is on the medium. */
int migrate_mirror_sink_sync(struct migrate_mirror_sink *s, struct error *err);

#endif
