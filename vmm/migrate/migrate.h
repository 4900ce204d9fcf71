/*
 * Live migration, as the monitors at both ends carry it out. docs/migration.md has the whole of
 * it: the stream, the hand-over in two phases, what is left when something fails.
 *
 * At most one of two machines may run, ever. Until the source has said COMMIT the guest is its, and
 * whatever fails lets it go on there; from then on it is the destination's, and the source stands
 * still for good unless it is told that the destination never ran it.
 */
#ifndef WISP_VMM_MIGRATE_H
#define WISP_VMM_MIGRATE_H

#include "vmm/core/error.h"
#include "vmm/core/state.h"
#include "vmm/machine/machine.h"
#include "vmm/migrate/migrate_wire.h"

struct block;
struct migrate_copies;
struct migrate_fill;
struct migrate_source;
struct x86_cpuid;

/* What both sides say of it to their journals; in this order. */
#define MIGRATE_PHASE_STARTED	"started"   /* both */
#define MIGRATE_PHASE_PREPARED	"prepared"  /* destination: could run at once */
#define MIGRATE_PHASE_COMMITTED "committed" /* source: it is not mine any more */
#define MIGRATE_PHASE_FILLING	"filling"   /* destination: runs, and has not all its memory */
#define MIGRATE_PHASE_SERVING	"serving"   /* source: heard so */
#define MIGRATE_PHASE_RUNNING	"running"   /* destination: runs, and needs nothing more */
#define MIGRATE_PHASE_GIVEN_UP	"given up"  /* destination: never ran, and never will */
#define MIGRATE_PHASE_CONFIRMED "confirmed" /* source: heard so */
#define MIGRATE_PHASE_RETURNED	"returned"  /* source: it is mine again */

/* ---- the machine that goes ---- */

/* When the guest is to run at its destination before all of its memory is there. */
enum migrate_postcopy {
	MIGRATE_NO_POSTCOPY,
	MIGRATE_POSTCOPY_AUTO, /* when rounds leave as much as they send */
	MIGRATE_POSTCOPY,      /* after the first round */
};

struct migrate_params {
	int in, out;	/* the stream; the source's from the call on, like @journal */
	int journal;
	int more[MIGRATE_MAX_STREAMS - 1]; /* further connections, for memory; the source's too */
	unsigned num_more;
	uint8_t uuid[MIGRATE_UUID_BYTES];
	unsigned level;	/* zstd's; 0: pages go as they are */
	unsigned max_rounds;
	uint64_t bandwidth; /* bytes a second; 0: no limit */
	uint64_t downtime_ns; /* pause for the last round when it would take no longer */
	bool converge; /* slow a guest down that changes memory faster than it can be sent */
	bool hand_off; /* to another monitor of this host: memory is not sent */
	bool copy_disks; /* those that are files here are sent too; not with @hand_off */
	enum migrate_postcopy postcopy; /* not with @hand_off */
};

enum migrate_phase {
	MIGRATE_STARTING,
	MIGRATE_ROUNDS,
	MIGRATE_PAUSED,	     /* guest stands still, nothing is decided */
	MIGRATE_COMMITTED,   /* the destination's, which has not confirmed it yet */
	MIGRATE_SERVING,     /* runs there, and the rest of its memory follows */
	MIGRATE_UNCONFIRMED, /* and the connection is gone */
	MIGRATE_CUT_OFF,     /* runs there, without some of its memory: the connection is gone */
	MIGRATE_CONFIRMED,
	MIGRATE_FAILED,	     /* the guest is here, and as it was */
};

struct migrate_report {
	enum migrate_phase phase;
	enum migrate_way way; /* that memory takes */
	unsigned rounds;
	unsigned streams; /* connections */
	uint64_t pages_sent, zero_pages;
	uint64_t page_bytes, state_bytes, bytes; /* sent: in records of pages, of state, all;
						  * @page_bytes: or written to its memory */
	uint64_t pending_pages; /* changed, and not sent yet */
	uint64_t disk_bytes; /* sent: in records of disks */
	uint64_t pending_disk_bytes;
	uint64_t bytes_per_second; /* in the last round */
	uint64_t dirty_bytes_per_second; /* what the guest changed meanwhile, sent or not */
	uint64_t expected_ns; /* that it would stand still, if what is pending were sent now */
	uint64_t total_ns;
	uint64_t blackout_ns; /* from the pause to the word that it runs */
	unsigned throttle;    /* how much of the guest's time is taken from it, in per cent */
	bool postcopy;	      /* it ran there before all of its memory was there */
	uint64_t late_pages;  /* that were still to come then */
	uint64_t wanted;      /* what somebody waited for, in pages */
	char refused[160];    /* why post-copy, which was asked for, cannot be had there, or "" */
};

/* In words, stable, for --json: "copying", "shared". Static. */
const char *migrate_phase_name(enum migrate_phase phase);
const char *migrate_way_name(enum migrate_way way);

struct migrate_watcher {
	/* On the loop, now and then. */
	void (*progress)(void *arg, const struct migrate_report *report);
	/* On the loop, once: 0, or why not with @err; see @report->phase for whose the guest is. */
	void (*done)(void *arg, int r, const struct error *err,
		     const struct migrate_report *report);
	void *arg;
};

/* Begin. On the loop; one at a time. Takes @params' descriptors whatever it returns. */
int migrate_start(struct machine *m, const struct migrate_params *params,
		  const struct migrate_watcher *watcher, struct error *err);

/* Give up, if it is not too late; done() follows. 0 or -EALREADY. On the loop. */
int migrate_cancel(struct machine *m);

/* What became of the one at hand, or of the last. False: there was none. On the loop. */
bool migrate_status(struct machine *m, struct migrate_report *ret, uint8_t *ret_uuid);

/*
 * One has begun and has not failed: what the other side was told of the devices must stay so. And:
 * the guest is the other side's, or nobody here knows better. On the loop.
 */
bool migrate_is_under_way(struct machine *m);
bool migrate_is_away(struct machine *m);

/*
 * Of a timer that would end the machine: is its guest away? Then it does not end, since its memory
 * may still be needed, and @t comes again in a second. On the loop.
 */
bool migrate_puts_off(struct machine *m, struct loop_timer *t);

/*
 * Of a machine that is UNCONFIRMED or CUT_OFF: it is known to run at its destination, and to need
 * nothing more of this one. End here. On the loop.
 */
int migrate_confirm(struct machine *m, struct error *err);

/*
 * Of a machine that is UNCONFIRMED: it is known never to have run there. Lock the disks again, and
 * go on. On the loop.
 */
int migrate_take_back(struct machine *m, struct error *err);

/*
 * Of a machine that is CUT_OFF, or UNCONFIRMED on the way to that: go on over another connection
 * with what the destination still needs. As migrate_start().
 */
int migrate_resume(struct machine *m, const struct migrate_params *params,
		   const struct migrate_watcher *watcher, struct error *err);

/* The machine ends: stop at once, and free. Outside of the loop. */
void migrate_source_free(struct machine *m);

/* ---- the machine that comes ---- */

/* What the source says of itself; from a HELLO. */
struct migrate_hello {
	uint8_t uuid[MIGRATE_UUID_BYTES];
	char name[64];
	uint64_t memory_bytes, populated_bytes;
	enum migrate_way way; /* that it asks for */
	unsigned num_disks;
	uint64_t disk_bytes[CONFIG_MAX_DISKS];
	bool disk_comes[CONFIG_MAX_DISKS]; /* with the guest, as a copy */
	unsigned streams; /* connections, the first among them */
	bool postcopy;	  /* some of its memory may come when it runs here, */
	bool late_streams; /* over all of them */
};

/* What a machine begins with that another one is to hand over. */
struct migrate_arrival {
	struct migrate_wire *wire; /* HELLO was received by it, with memory if SHARED */
	struct migrate_hello hello;
	enum migrate_way way; /* that memory takes */
	int journal;
	struct migrate_copies *copies; /* of disks that come along; NULL: none does */
	struct migrate_wire *more; /* @hello.streams - 1 further ones; each said whose it is */
	struct migrate_fill *fill; /* for @hello.postcopy (migrate_fill.h); NULL: not asked for */
};

/* Take HELLO's section of @state. -EBADMSG. */
int migrate_read_hello(struct state_set *state, struct migrate_hello *ret, struct error *err);

/*
 * Receive memory and state into @m, which is built and has not been started, up to the commit:
 * serves its loop meanwhile. After 0 the guest is ours: to be started. Otherwise it is not, and
 * the machine only to be freed. In either case, and when there is no machine (NULL) since it could
 * not be built, migrate_arrived() is told what came of it.
 */
int migrate_receive(struct machine *m, const struct migrate_arrival *arrival,
		    const struct x86_cpuid *host, struct error *err);
void migrate_arrived(struct machine *m, const struct migrate_arrival *arrival, int result,
		     const struct error *err);

/* Let go of the connections; each process that has them does. */
void migrate_arrival_close(const struct migrate_arrival *arrival);

/* Tell the source that nothing will come of it. */
void migrate_refuse(const struct migrate_arrival *arrival, const struct error *err);

/* Of a machine that waits for a COMMIT which the lost connection will not bring. On the loop. */
int migrate_commit_here(struct machine *m, struct error *err);

/* ---- both ---- */

/* Note @phase in @journal. -errno. */
int migrate_note(int journal, const char *phase);

/* Of disk @index, as its driver sees it. */
uint64_t migrate_disk_bytes(const struct machine *m, unsigned index);

/* Its image; NULL when it is no file and no block device here, but behind a server. */
struct block *migrate_disk_image(const struct machine *m, unsigned index);

/*
 * Another host sees what is on the medium, not what is in this one's cache. Those with a copy of
 * their own there (@copied: of each disk) do not matter. Any thread.
 */
int migrate_sync_disks(struct machine *m, const bool *copied, struct error *err);

/* Take the locks on the disks of @m, or let go of them. */
int migrate_lock_disks(struct machine *m, struct error *err);
void migrate_unlock_disks(struct machine *m);

#endif
