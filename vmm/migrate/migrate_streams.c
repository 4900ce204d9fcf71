#include "vmm/migrate/migrate_streams.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/core/log.h"
#include "vmm/migrate/migrate_thread.h"

#define NOBODY UINT_MAX

/* What it takes to be worth the wake-up of one more thread, and an answer to wait for. */
#define WINDOWS_EACH 4u

/* The rest of memory is what a stream may have to wait for: the first one has the patience. */
#define FOR_EVER (-1)

/* Of several that fail because one did, that one says why. */
static void blame(_Atomic unsigned *culprit, unsigned index)
{
	unsigned nobody = NOBODY;

	atomic_compare_exchange_strong(culprit, &nobody, index);
}

/* ---- out ---- */

int migrate_streams_init(struct migrate_streams *s, const int *fds, unsigned num, int wake_fd,
			 struct error *err)
{
	int r = 0;

	*s = (struct migrate_streams){ .num = num, .stop_fd = -1, .over_fd = -1 };
	for (unsigned i = 0; i < num; i++) {
		struct error ignored;
		int init = migrate_wire_init(&s->stream[i].wire, fds[i], fds[i],
					     r ? &ignored : err);

		r = r ? r : init;
		s->stream[i].all = s;
		s->stream[i].lane = i + 1;
		s->stream[i].wire.wake_fd = wake_fd;
	}
	if (r < 0 || !num)
		return r;
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->over_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return s->stop_fd < 0 || s->over_fd < 0 ?
		       error_set(err, -errno, "migration: its streams: %m") :
		       0;
}

void migrate_streams_done(struct migrate_streams *s)
{
	for (unsigned i = 0; i < s->num; i++)
		migrate_wire_done(&s->stream[i].wire);
	if (s->num && s->stop_fd >= 0)
		close(s->stop_fd);
	if (s->num && s->over_fd >= 0)
		close(s->over_fd);
	s->num = 0;
}

/* By who uses the stream: take over what it has sent. */
static void count(struct migrate_stream *stream)
{
	stream->all->bytes_out += stream->wire.bytes_out - stream->counted;
	stream->counted = stream->wire.bytes_out;
}

int migrate_streams_introduce(struct migrate_streams *s, const uint8_t *uuid, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < s->num && !r; i++) {
		struct migrate_wire *w = &s->stream[i].wire;

		r = migrate_wire_greet(w, err);
		if (!r)
			r = migrate_wire_send(w, MIGRATE_STREAM, s->stream[i].lane, uuid,
					      MIGRATE_UUID_BYTES, err);
		count(&s->stream[i]);
	}
	return r;
}

/* When another one has failed, the round is over. */
static int check_others(struct migrate_streams *s, struct error *err)
{
	if (s->culprit == NOBODY)
		return 0;
	return error_set(err, -ECANCELED, "migration: another stream failed");
}

struct first {
	struct migrate_streams *all;
	int (*between)(void *arg, struct error *err);
};

static int between_first(void *arg, struct error *err)
{
	const struct first *first = arg;
	int r = check_others(first->all, err);

	return r || !first->between ? r : first->between(first->all->arg, err);
}

static int between_others(void *arg, struct error *err)
{
	struct migrate_stream *stream = arg;
	struct migrate_streams *s = stream->all;
	int r = check_others(s, err);

	count(stream);
	return r || !s->between ? r : s->between(s->arg, err);
}

/*
 * Hear that all of it is in memory. What all connections have under way shares one link, and the
 * answer comes behind it: each waits for all of it.
 */
static int end_share(struct migrate_stream *stream, struct error *err)
{
	struct migrate_wire *w = &stream->wire;
	int patience_ms = (int)(w->patience_ms * (stream->all->num + 1));
	struct migrate_record rec;
	int r = migrate_wire_send(w, MIGRATE_ROUND, 0, NULL, 0, err);

	return r ? r : migrate_wire_expect(w, MIGRATE_ROUND_DONE, &rec, patience_ms, err);
}

static int send_share(struct migrate_stream *stream, struct error *err)
{
	int r = migrate_memory_send_share(stream->all->memory, stream->lane, &stream->wire,
					  between_others, stream, err);

	return r ? r : end_share(stream, err);
}

static void *send_thread(void *arg)
{
	struct migrate_stream *stream = arg;

	stream->result = send_share(stream, &stream->err);
	count(stream);
	if (stream->result < 0)
		blame(&stream->all->culprit, stream->lane);
	return NULL;
}

static int start_thread(struct migrate_stream *stream, void *(*run)(void *), struct error *err)
{
	int r = pthread_create(&stream->thread, NULL, run, stream);

	stream->threaded = r == 0;
	return r ? error_set(err, -r, "migration: a thread for a stream: %m") : 0;
}

/* Returns @r, or what the stream failed with that was the first to. */
static int join_all(struct migrate_streams *s, int r, struct error *err)
{
	for (unsigned i = 0; i < s->num; i++) {
		if (s->stream[i].threaded)
			pthread_join(s->stream[i].thread, NULL);
		s->stream[i].threaded = false;
	}
	if (s->culprit != NOBODY && s->culprit > 0) {
		const struct migrate_stream *stream = &s->stream[s->culprit - 1];

		*err = stream->err;
		r = stream->result;
	}
	return r;
}

int migrate_streams_send(struct migrate_streams *s, struct migrate_memory *memory,
			 struct migrate_wire *first,
			 int (*first_between)(void *arg, struct error *err),
			 int (*between)(void *arg, struct error *err), void *arg,
			 struct error *err)
{
	struct first ours = { .all = s, .between = first_between };
	uint64_t useful = s->num ? migrate_memory_windows(memory) / WINDOWS_EACH : 0;
	int r = 0;

	s->memory = memory;
	s->between = between;
	s->arg = arg;
	s->culprit = NOBODY;
	migrate_memory_begin(memory);
	for (unsigned i = 0; i < MIN(s->num, useful) && !r; i++)
		r = start_thread(&s->stream[i], send_thread, err);
	if (!r)
		r = migrate_memory_send_share(memory, 0, first, between_first, &ours, err);
	if (r < 0)
		blame(&s->culprit, 0);
	r = join_all(s, r, err);
	if (!r)
		migrate_memory_end(memory);
	return r;
}

/* ---- out, in the background ---- */

static int push(struct migrate_stream *stream, struct error *err)
{
	struct migrate_streams *s = stream->all;
	int r;

	do {
		r = check_others(s, err);
		if (!r)
			r = s->step(s->arg, stream->lane, &stream->wire, err);
		count(stream);
	} while (r > 0);
	return r ? r : end_share(stream, err);
}

static void tell(int fd)
{
	if (eventfd_write(fd, 1) < 0)
		log_warn("migration: its streams cannot be told: %m");
}

/* One that has its share in memory; or that failed, as all will then. */
static void push_ends(struct migrate_streams *s, bool failed)
{
	if (failed)
		tell(s->stop_fd);
	if (--s->pushing == 0 || failed)
		tell(s->over_fd);
}

static void *push_thread(void *arg)
{
	struct migrate_stream *stream = arg;

	stream->result = push(stream, &stream->err);
	count(stream);
	if (stream->result < 0)
		blame(&stream->all->culprit, stream->lane);
	push_ends(stream->all, stream->result < 0);
	return NULL;
}

unsigned migrate_streams_push(struct migrate_streams *s,
			      int (*step)(void *arg, unsigned lane, struct migrate_wire *w,
					  struct error *err),
			      void *arg)
{
	struct error err = { 0 };
	unsigned num = 0;

	s->step = step;
	s->arg = arg;
	s->culprit = NOBODY;
	/* We are one until all have been started: none of them is the last before. */
	s->pushing = 1;
	for (unsigned i = 0; i < s->num; i++) {
		s->stream[i].wire.wake_fd = s->stop_fd;
		s->pushing++;
		if (start_thread(&s->stream[i], push_thread, &err) == 0) {
			num++;
			continue;
		}
		log_warn("%s; the others do without", err.msg);
		s->pushing--;
	}
	if (num)
		push_ends(s, false);
	return num;
}

int migrate_streams_rest(struct migrate_streams *s, int wait_ms, struct error *err)
{
	struct pollfd p = { .fd = s->stop_fd, .events = POLLIN };

	if (poll(&p, 1, wait_ms) > 0)
		return error_set(err, -ECANCELED, "migration: cancelled");
	return 0;
}

int migrate_streams_pushed(struct migrate_streams *s, bool stop, struct error *err)
{
	if (stop) {
		blame(&s->culprit, 0);
		tell(s->stop_fd);
	}
	return join_all(s, 0, err);
}

/* ---- in ---- */

static int take(struct migrate_stream_sink *stream, const struct migrate_record *rec,
		struct error *err)
{
	if (rec->type != MIGRATE_ROUND) {
		stream->in_round = true;
		return migrate_sink_take(&stream->sink, rec, err);
	}
	/* Before the answer: who has it may end us. */
	stream->in_round = false;
	return migrate_wire_send(stream->wire, MIGRATE_ROUND_DONE, rec->page, NULL, 0, err);
}

/* Until it is told to stop: also by a source that never lets us wait. */
static int receive(struct migrate_stream_sink *stream, struct error *err)
{
	struct migrate_record rec;
	int r = 0;

	while (!r && !stream->all->stop) {
		r = migrate_wire_receive(stream->wire, &rec, FOR_EVER, err);
		if (!r)
			r = take(stream, &rec, err);
	}
	return r == -ECANCELED && stream->all->stop ? 0 : r;
}

static void *receive_thread(void *arg)
{
	struct migrate_stream_sink *stream = arg;
	struct migrate_streams_sink *s = stream->all;
	int r = migrate_thread_begins(s->sandbox, "migrate in", &stream->err);

	stream->result = r ? r : receive(stream, &stream->err);
	if (stream->result == 0)
		return NULL;
	blame(&s->culprit, (unsigned)(stream - s->stream));
	if (eventfd_write(s->failed_fd, 1) < 0)
		log_warn("migration: a stream failed, which cannot be told: %m");
	return NULL;
}

static int start_sink(struct migrate_streams_sink *s, unsigned i, struct migrate_wire *wire,
		      struct guest_mem *mem, struct page_faults *faults, struct error *err)
{
	struct migrate_stream_sink *stream = &s->stream[i];
	int r;

	stream->all = s;
	stream->wire = wire;
	wire->wake_fd = s->stop_fd;
	wire->accepts = 1u << MIGRATE_PAGES | 1u << MIGRATE_PAGES_ZSTD | 1u << MIGRATE_ROUND;
	r = migrate_sink_init(&stream->sink, mem, err);
	if (r < 0)
		return r;
	stream->sink.faults = faults;
	r = pthread_create(&stream->thread, NULL, receive_thread, stream);
	stream->threaded = r == 0;
	if (r)
		migrate_sink_done(&stream->sink);
	return r ? error_set(err, -r, "migration: a thread for a stream: %m") : 0;
}

int migrate_streams_receive(struct migrate_streams_sink *s, struct migrate_wire *wires,
			    unsigned num, struct guest_mem *mem, struct page_faults *faults,
			    struct sandbox *sandbox, int failed_fd, struct error *err)
{
	int r = 0;

	*s = (struct migrate_streams_sink){
		.sandbox = sandbox, .failed_fd = failed_fd, .culprit = NOBODY
	};
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->stop_fd < 0)
		return error_set(err, -errno, "migration: %m");
	for (unsigned i = 0; i < num && !r; i++) {
		r = start_sink(s, i, &wires[i], mem, faults, err);
		s->num += !r;
	}
	if (r < 0)
		migrate_streams_end(s, &(struct error){ 0 });
	return r;
}

int migrate_streams_end(struct migrate_streams_sink *s, struct error *err)
{
	int r = 0;

	s->stop = true;
	if (s->num && eventfd_write(s->stop_fd, 1) < 0)
		log_warn("migration: its streams cannot be stopped: %m");
	for (unsigned i = 0; i < s->num; i++) {
		pthread_join(s->stream[i].thread, NULL);
		s->stream[i].wire->wake_fd = -1;
		migrate_sink_done(&s->stream[i].sink);
		if (!r && s->stream[i].in_round)
			r = error_set(err, -EBADMSG,
				      "migration: the stream is corrupt: an end within a round");
	}
	if (s->num && s->culprit != NOBODY) {
		*err = s->stream[s->culprit].err;
		r = s->stream[s->culprit].result;
	}
	if (s->stop_fd > 0)
		close(s->stop_fd);
	*s = (struct migrate_streams_sink){ .stop_fd = -1 };
	return r;
}
