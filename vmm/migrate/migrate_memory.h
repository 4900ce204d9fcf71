/*
 * Guest memory in a migration: which pages are to be sent, in windows, and back.
 *
 * The sender's half belongs to the thread that sends, while the guest runs. A page that changed
 * is found in the hypervisor's log or, when the monitor wrote it, in the bitmap of
 * guest_mem. Both are cleared before the page is read, so what changes meanwhile
 * comes again in the next round. Over several connections (migrate_streams.h) each has a thread and
 * a lane; those take windows one by one until none is left.
 */
#ifndef WISP_VMM_MIGRATE_MEMORY_H
#define WISP_VMM_MIGRATE_MEMORY_H

#include "vmm/core/dirty_log.h"
#include "vmm/migrate/migrate_wire.h"

struct page_faults;

/* What one thread packs records in. */
struct migrate_lane {
	void *zstd;
	uint8_t *window, *packed; /* a record, plain and compressed */
};

struct migrate_memory {
	struct guest_mem *mem;
	struct hv *hv;
	uint64_t *todo[GUEST_MEM_MAX_RANGES]; /* a bit for each page that is still to be sent */
	bool logging;
	bool first;	/* everything is to be sent, and the other side's memory is empty */
	int level;	/* zstd's; 0: pages are sent as they are */
	struct migrate_lane lane[MIGRATE_MAX_STREAMS];
	unsigned num_lanes;
	int target_fd;	/* the other side's memory, when pages are written there; else -1 */

	_Atomic uint64_t next_window; /* of all ranges in turn: nobody has taken it yet */
	_Atomic uint64_t pages_sent, zero_pages;
	_Atomic uint64_t page_bytes; /* of records as sent, or of pages written */
};

/* Begin to watch, to send with @lanes of them. The guest may run. */
int migrate_memory_start(struct migrate_memory *s, struct guest_mem *mem, struct hv *hv, int level,
			 unsigned lanes, struct error *err);

/*
 * From now on write pages to the other side's memory, which is the file @fd, in place of sending
 * them. @fd is borrowed, up to migrate_memory_stop(). -EBADMSG when it cannot be that.
 */
int migrate_memory_write_to(struct migrate_memory *s, int fd, struct error *err);

/* Watch no more. Harmless when it never began. */
void migrate_memory_stop(struct migrate_memory *s);

/* Add what changed since the last call to what is to be sent. Returns how many pages that are. */
int migrate_memory_collect(struct migrate_memory *s, uint64_t *ret_pages, struct error *err);

/*
 * Send all that is to be sent; between() is called after each window (NULL: nobody), and
 * ends it by returning non-zero.
 */
int migrate_memory_send(struct migrate_memory *s, struct migrate_wire *w,
			int (*between)(void *arg, struct error *err), void *arg,
			struct error *err);

/*
 * The same by several threads: each sends its share over a connection and by a lane of its own,
 * between begin and end. Then nothing is left to be sent, if all have returned 0.
 */
void migrate_memory_begin(struct migrate_memory *s);
int migrate_memory_send_share(struct migrate_memory *s, unsigned lane, struct migrate_wire *w,
			      int (*between)(void *arg, struct error *err), void *arg,
			      struct error *err);
void migrate_memory_end(struct migrate_memory *s);

/*
 * Let the @num pages from @page of RAM on, at most a window's, be sent of which @wanted has a bit,
 * by @lane: whatever was sent of them before. The guest stands still.
 */
int migrate_memory_send_pages(struct migrate_memory *s, unsigned lane, struct migrate_wire *w,
			      uint64_t page, unsigned num, const uint64_t *wanted,
			      struct error *err);

/*
 * Or what is to be sent into @pages, a bitmap of all RAM, as if it had been sent: what changes from
 * here on is collected anew.
 */
int migrate_memory_take(struct migrate_memory *s, uint64_t *pages, struct error *err);

/* As migrate_memory_start(), of a guest that will not change any more: nothing is watched. */
int migrate_memory_start_still(struct migrate_memory *s, struct guest_mem *mem, int level,
			       struct error *err);

/* Windows of which something is to be sent. */
uint64_t migrate_memory_windows(const struct migrate_memory *s);

/* Pages that hold something, as far as the host knows: what a first round would send at most. */
uint64_t migrate_memory_populated(struct guest_mem *mem);

/* The receiver's half. */
struct migrate_sink {
	struct guest_mem *mem;
	struct page_faults *faults; /* pages go there, which are missing; NULL: into memory */
	void *zstd;
	uint8_t *pages; /* of one window */
	uint64_t pages_received;
};

/*
 * For @mem, which is borrowed; @faults is the caller's to set before the first record. -ENOMEM with
 * @err: there is nothing to free then. Done also of one that is zeroed.
 */
int migrate_sink_init(struct migrate_sink *s, struct guest_mem *mem, struct error *err);
void migrate_sink_done(struct migrate_sink *s);

/* Put a record of PAGES or PAGES_ZSTD into memory. -EBADMSG: it makes no sense. */
int migrate_sink_take(struct migrate_sink *s, const struct migrate_record *rec,
		      struct error *err);

#endif
