/*
 * Between migrate_source.c, which is the loop's side of a machine that goes, and migrate_send.c,
 * which is the thread's: the thread sends, so that the loop goes on serving the guest, and what
 * only the loop may do (pause, save, resume) it asks the loop for and waits.
 */
#ifndef WISP_VMM_MIGRATE_SOURCE_H
#define WISP_VMM_MIGRATE_SOURCE_H

#include <pthread.h>

#include "vmm/core/loop.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_memory.h"
#include "vmm/migrate/migrate_mirror.h"
#include "vmm/migrate/migrate_serve.h"
#include "vmm/migrate/migrate_streams.h"

struct migrate_source {
	struct machine *m;
	struct migrate_params params;
	struct migrate_watcher watcher;
	struct migrate_wire wire;
	struct migrate_streams streams; /* besides @wire */
	struct migrate_memory memory;
	struct migrate_mirror mirror;
	struct migrate_serve serve; /* once @late */
	pthread_t thread;
	bool threaded; /* @thread is to be joined */
	int wake_fd;
	uint64_t start_ns, pause_ns, shown_ns;
	struct state_writer state;
	bool was_paused; /* before we came, so it stays */
	bool held;	 /* the loop's: paused by us, and nobody else resumes it */
	uint64_t disk_bytes[CONFIG_MAX_DISKS];
	bool copied[CONFIG_MAX_DISKS]; /* which of them are sent */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under the lock. */
	bool cancelled, abandoned;
	struct machine_settling settling;
	bool saved; /* the loop has paused and saved, with @result and @err */
	int result;
	struct error err;
	struct migrate_report report;

	uint64_t pages_per_second; /* the thread's: in the last round */
	uint64_t watched_ns; /* the thread's: since when changes are collected */
	bool can_be_late; /* the thread's: READY granted post-copy */
	bool late;	  /* the thread's: it was chosen */

	struct loop_task pause, show, slow, finish;
	struct loop_timer throttle; /* the next change between standing still and running */
	bool holding;		    /* the loop's: it stands still */
};

/* The thread; @source is a struct migrate_source. */
void *migrate_source_run(void *source);

/* The same for one that was cut off, over its new connection. */
void *migrate_source_run_again(void *source);

/*
 * migrate_late.c, the thread's, of post-copy. Choose it: what was to be sent comes later. Say what
 * that is, with the guest standing still. Receive a record of @type while pages are wanted. Then
 * all of the rest.
 */
int migrate_late_begin(struct migrate_source *s, struct error *err);
int migrate_late_announce(struct migrate_source *s, struct error *err);
int migrate_late_expect(struct migrate_source *s, enum migrate_record_type type, int wait_ms,
			struct error *err);
int migrate_late_rest(struct migrate_source *s, struct error *err);

/* The same for one that was cut off, over its new connection, from its beginning on. */
int migrate_late_again(struct migrate_source *s, struct error *err);

/* What is known of it so far. Any thread. */
struct migrate_report migrate_source_report(struct migrate_source *s);
void migrate_source_set_phase(struct migrate_source *s, enum migrate_phase phase);

/* The thread's: take its counters over, and have them shown now and then; @now: in any case. */
void migrate_source_update(struct migrate_source *s, bool now);

/* The thread's: have the guest paused and its state saved, and wait for that. */
int migrate_source_pause(struct migrate_source *s, struct error *err);

#endif
