/*
 * Post-copy, the destination's half: the guest runs here, and pages that its source still has come
 * when they are touched (vmm/core/page_faults.h), or before.
 *
 * A thread receives from then on; the fault thread asks for pages and touches neither guest memory
 * nor a loop. Up to the commit whatever fails is a failed migration. From then on the guest is
 * here: when the connection is lost it stands still, who touches a page that is missing waits, and
 * migrate_fill_resume() goes on over another one. It never runs with pages that did not come: a
 * process that has to end then ends at once.
 *
 * One is the caller's who receives the guest, zero at first, and lives as long as the machine. All
 * of it on the machine's thread, unless it says otherwise.
 */
#ifndef WISP_VMM_MIGRATE_FILL_H
#define WISP_VMM_MIGRATE_FILL_H

#include <pthread.h>

#include "vmm/core/loop.h"
#include "vmm/core/page_faults.h"
#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_door.h"
#include "vmm/migrate/migrate_streams.h"
#include "vmm/sandbox/sandbox.h"

struct run_dir;

enum migrate_fill_state {
	MIGRATE_FILL_NONE,     /* not begun: all of memory comes first */
	MIGRATE_FILL_LOADING,  /* not ours yet */
	MIGRATE_FILL_PREPARED, /* nor now, but it may be for the source */
	MIGRATE_FILL_COMMITTED, /* ours */
	MIGRATE_FILL_RUNNING,  /* and the source knows */
	MIGRATE_FILL_WHOLE,    /* and nothing is missing any more */
	MIGRATE_FILL_FAILED,   /* not ours, and never will be */
};

struct migrate_fill {
	int fd; /* of page_faults_open(), until it is theirs; -1 */
	struct error refused; /* why there is none */
	struct sandbox *sandbox; /* NULL: threads are not filtered */
	struct migrate_door door; /* its listener, if somebody may ask */

	/* The rest is its own. */
	struct machine *m;
	int journal;
	uint8_t uuid[MIGRATE_UUID_BYTES];
	uint64_t num;	   /* pages of RAM */
	uint64_t *missing; /* as MISSING said, and as the source is told again */
	struct page_faults *faults;
	struct migrate_sink sink;
	int wake_fd; /* readable: the receiving thread is to stop */
	pthread_t thread;
	bool threaded;
	struct loop_task cut, over;

	pthread_mutex_t out_lock; /* of what is sent: also by the fault thread */
	struct migrate_wire wire; /* received from by the thread, sent to under @out_lock */
	struct migrate_wire more[MIGRATE_MAX_STREAMS - 1]; /* the first's, not a next one's */
	unsigned num_more;
	struct migrate_streams_sink streams; /* over @more, the thread's, from the commit on */
	bool introduced; /* under @out_lock: the other end of @wire expects records */
	uint64_t *asked; /* under @out_lock: pages that somebody waits for */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under the lock: */
	enum migrate_fill_state state;
	int result; /* FAILED by that, or the connection of a PREPARED one is gone by that */
	struct error err;
	bool is_cut, was_cut, quit;
	struct migrate_wire next; /* the connection to go on with; in < 0: none */
};

/*
 * Before the process is locked in, by itself: no parent can do this. That it cannot be had is no
 * failure: @f says so, and memory comes before the guest runs.
 */
void migrate_fill_open(struct migrate_fill *f);

/*
 * Of the process that starts the monitor: @f is asked in @dir when its loop cannot be, from the
 * fork on by the monitor alone. NULL is fine.
 */
void migrate_fill_listen(struct migrate_fill *f, const struct run_dir *dir);
void migrate_fill_in_parent(struct migrate_fill *f);

/* May pages of @m, which is built, come late? Else @err says why not. NULL is fine: no. */
bool migrate_fill_can(const struct migrate_fill *f, const struct machine *m, struct error *err);

/* A record of MISSING. -EBADMSG. The receiving thread's, before the start. */
int migrate_fill_expect(struct migrate_fill *f, const struct machine *m,
			const struct migrate_record *rec, struct error *err);

/*
 * Some of it comes over the @num connections @wires, too, which are ours then, up to the first cut:
 * a further connection goes on alone. Before the start.
 */
void migrate_fill_take_streams(struct migrate_fill *f, struct migrate_wire *wires, unsigned num);

/*
 * All were told of: drop what there is of them here, and have them come from now on. @wire becomes
 * ours, up to migrate_fill_abandon(); its wake_fd counts for us, too. On the thread that has
 * received so far; the loop, which is to load the state, may run.
 */
int migrate_fill_start(struct migrate_fill *f, struct machine *m, struct migrate_wire *wire,
		       int journal, const uint8_t *uuid, struct error *err);

/*
 * Say PREPARED, and wait for COMMIT: 0, or -EINPROGRESS when nobody can know whether there was one,
 * or -errno. The same thread.
 */
int migrate_fill_await_commit(struct migrate_fill *f, struct error *err);

/* Why it failed, if it did before the commit: what was loaded meanwhile is of no use. */
int migrate_fill_check(struct migrate_fill *f, struct error *err);

/* It is ours, whoever said so. Then it runs: tell the source. */
void migrate_fill_commit(struct migrate_fill *f);
void migrate_fill_run(struct migrate_fill *f);

/* It will never run here: stop, and let @wire be the connection again, if any, to say so. */
void migrate_fill_abandon(struct migrate_fill *f, struct migrate_wire *wire);

/* Has it begun? NULL is fine. When the receiving thread does no more. */
static inline bool migrate_fill_is_on(const struct migrate_fill *f)
{
	return f && f->m;
}

/* How far it is. */
struct migrate_fill_report {
	enum migrate_fill_state state;
	bool is_cut;
	uint64_t missing, wanted; /* pages */
};

/* All zero before it begins; NULL is fine. Any thread. */
struct migrate_fill_report migrate_fill_report(struct migrate_fill *f);

/*
 * Of one that is cut off: go on over @in and @out, which are taken in any case. Its source is to be
 * at the other end, which it has to show; if not it is cut off again. Any thread.
 */
int migrate_fill_resume(struct migrate_fill *f, int in, int out, struct error *err);

/* The machine is about to end: ends the process with @status if pages are missing for good. */
void migrate_fill_end(struct migrate_fill *f, int status);

/* Nobody uses guest memory any more, or all of it is there. Harmless at any time; NULL is fine. */
void migrate_fill_stop(struct migrate_fill *f);

#endif
