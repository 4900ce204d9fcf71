/*
 * Guest memory over several connections at once (--streams): one processor packs and sums up less
 * than a fast link takes.
 *
 * The first connection is the migration itself: all that is decided, the disks and the state go
 * over it, and a share of memory. Each further one carries windows of memory, by a thread of its
 * own at either end, and ends its part of a round with ROUND, which is answered there. The source
 * sends nothing of the next round, and no STATE, before all have answered: a page that comes
 * twice comes in order, whichever way it takes.
 *
 * Of a guest that runs at its destination before all of its memory is there they carry what nobody
 * waits for yet (migrate_serve.h), so that the first is free for what somebody does.
 */
#ifndef WISP_VMM_MIGRATE_STREAMS_H
#define WISP_VMM_MIGRATE_STREAMS_H

#include <pthread.h>

#include "vmm/migrate/migrate_memory.h"

/* ---- out ---- */

struct migrate_stream {
	struct migrate_streams *all;
	struct migrate_wire wire;
	unsigned lane; /* its number, from 1 */
	uint64_t counted; /* of what it has sent, in the sum over all */
	pthread_t thread;
	bool threaded;
	int result;
	struct error err;
};

struct migrate_streams {
	struct migrate_stream stream[MIGRATE_MAX_STREAMS - 1];
	unsigned num; /* besides the first */

	/* Of the round at hand. */
	struct migrate_memory *memory;
	int (*between)(void *arg, struct error *err);
	int (*step)(void *arg, unsigned lane, struct migrate_wire *w, struct error *err);
	void *arg;
	_Atomic unsigned culprit; /* the stream that failed first, or NOBODY */
	_Atomic unsigned pushing; /* who has not come to the end of a push */
	int stop_fd; /* readable: a push is to stop at once */
	int over_fd; /* readable: it has come to its end, or failed; -1: there are no streams */

	_Atomic uint64_t bytes_out; /* over all of them */
};

/* @fds become ours, also on failure. @wake_fd as in struct migrate_wire. */
int migrate_streams_init(struct migrate_streams *s, const int *fds, unsigned num, int wake_fd,
			 struct error *err);
void migrate_streams_done(struct migrate_streams *s);

/* Say on each to which migration it belongs. */
int migrate_streams_introduce(struct migrate_streams *s, const uint8_t *uuid, struct error *err);

/*
 * As migrate_memory_send(), over @first and over as many of these as there is work for; returns
 * when those have said that all of it is in memory. @first_between is called on our thread,
 * @between on each of theirs, with an @err of its own.
 */
int migrate_streams_send(struct migrate_streams *s, struct migrate_memory *memory,
			 struct migrate_wire *first,
			 int (*first_between)(void *arg, struct error *err),
			 int (*between)(void *arg, struct error *err), void *arg,
			 struct error *err);

/*
 * In the background, each on a thread of its own: call @step() with its lane and wire as long as
 * that returns 1, and hear then (0) that all it has sent is in memory. Returns how many do so,
 * which may be none. @s->over_fd becomes readable when all have come to their end or one has
 * failed; migrate_streams_pushed() is to be called in any case.
 */
unsigned migrate_streams_push(struct migrate_streams *s,
			      int (*step)(void *arg, unsigned lane, struct migrate_wire *w,
					  struct error *err),
			      void *arg);

/* In a step: sleep, unless it is to stop (-ECANCELED). */
int migrate_streams_rest(struct migrate_streams *s, int wait_ms, struct error *err);

/* The end of a push, which is awaited, unless @stop: 0, or what failed first. */
int migrate_streams_pushed(struct migrate_streams *s, bool stop, struct error *err);

/* ---- in ---- */

struct migrate_stream_sink {
	struct migrate_streams_sink *all;
	struct migrate_wire *wire;
	struct migrate_sink sink;
	pthread_t thread;
	bool threaded;
	bool in_round; /* pages came, and their ROUND did not */
	int result;
	struct error err;
};

struct migrate_streams_sink {
	struct migrate_stream_sink stream[MIGRATE_MAX_STREAMS - 1];
	unsigned num;
	struct sandbox *sandbox;
	int stop_fd, failed_fd;
	_Atomic bool stop;
	_Atomic unsigned culprit;
};

/*
 * Begin to receive into @mem, or with @faults what of it is missing, over @wires, which are
 * borrowed, by threads that are locked into @sandbox (NULL: as we are). When one fails, @failed_fd,
 * an eventfd, is written to.
 */
int migrate_streams_receive(struct migrate_streams_sink *s, struct migrate_wire *wires,
			    unsigned num, struct guest_mem *mem, struct page_faults *faults,
			    struct sandbox *sandbox, int failed_fd, struct error *err);

/*
 * No more is to come: end the threads. Fails with why the first of them failed, or -EBADMSG when
 * one was within a round. Harmless when nothing had begun.
 */
int migrate_streams_end(struct migrate_streams_sink *s, struct error *err);

#endif
