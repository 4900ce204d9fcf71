/*
 * Post-copy, the source's half: a guest that stands still here for good runs at its destination,
 * and its pages follow. Those that somebody waits for there come first, then those that were
 * changed last, then the rest; each once.
 *
 * Over several connections the further ones carry what nobody waits for, by their own threads,
 * from when the guest runs there; the first is for what somebody does, and for all that is said.
 *
 * Belongs to the thread that sends. Memory stays as it is until the destination has said that it
 * needs nothing more: when the connection is lost, another one goes on from what it says.
 */
#ifndef WISP_VMM_MIGRATE_SERVE_H
#define WISP_VMM_MIGRATE_SERVE_H

#include <pthread.h>

#include "vmm/migrate/migrate_streams.h"

struct migrate_serve {
	struct migrate_memory *memory; /* sends, and counts */
	struct migrate_wire *wire;
	struct migrate_streams *streams; /* for the background, besides @wire; or NULL */
	/* How many milliseconds to send nothing that nobody waits for. Any of the threads. */
	int (*hold_back)(void *arg);
	void (*progress)(void *arg); /* now and then, on our thread; or NULL */
	void *arg;

	/* The rest is its own. */
	uint64_t num;	 /* pages of RAM */
	uint64_t wants;	 /* pages that were asked for over this connection */
	bool pushing;	 /* by @streams */

	pthread_mutex_t lock;
	/* Under the lock: */
	uint64_t *todo;	 /* a bit for each page that is still to be sent */
	uint64_t *front; /* those of them that were changed last */
	uint64_t left;	 /* bits in @todo */
	uint64_t at;	 /* where the background is */
	bool front_done;

	bool runs_there; /* a new connection's destination has said what it needs */
};

/* What comes before its own is set, the rest is zero. */
int migrate_serve_init(struct migrate_serve *s, struct error *err);
void migrate_serve_done(struct migrate_serve *s); /* harmless where it was never begun */

/* What is to be sent, @memory says; @hot: changed in the last moments, so needed again soon. */
int migrate_serve_take(struct migrate_serve *s, bool hot, struct error *err);

/* Tell the destination which pages those are: it has none of them, or an old one. */
int migrate_serve_announce(struct migrate_serve *s, struct error *err);

/*
 * Of a new connection: be told by the destination what it still needs, up to RESUMED. -EBADMSG when
 * that makes no sense.
 */
int migrate_serve_resume(struct migrate_serve *s, int wait_ms, struct error *err);

/*
 * Serve until a record of @type comes, at most @wait_ms; or, with WHOLE, as long as there is
 * something to send, and say then that it was all. Errors as migrate_wire_receive()'s: of whichever
 * connection fails first, and none of them is of use then.
 */
int migrate_serve_until(struct migrate_serve *s, enum migrate_record_type type, int wait_ms,
			struct error *err);

/*
 * MISSING records: of @missing, a bitmap of @num pages, and into it. Empty stretches are not sent.
 * -EBADMSG for pages that there are not.
 */
int migrate_missing_send(struct migrate_wire *w, const uint64_t *missing, uint64_t num,
			 struct error *err);
int migrate_missing_take(const struct migrate_record *rec, uint64_t *missing, uint64_t num,
			 struct error *err);

#endif
