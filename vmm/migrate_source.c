/*
 * The side that gives its guest away. A thread sends, so that the loop goes on serving the guest;
 * what only the loop may do (pause, save, resume) it asks the loop for and waits.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/machine_internal.h"
#include "vmm/machine_state.h"
#include "vmm/migrate.h"
#include "vmm/migrate_memory.h"
#include "vmm/snapshot_track.h"

/* How long the other side may take to build a machine, to load its state, to run it. */
#define BUILD_MS   60000
#define PREPARE_MS 30000
#define RUN_MS	   30000

#define PROGRESS_NS (500 * NSEC_PER_MSEC)

/* What a hand-over costs beside the pages, for the guess of how long the guest will stand still. */
#define HAND_OVER_NS (10 * NSEC_PER_MSEC)

/* A guest that is slowed down stands still for a part of each of these. */
#define THROTTLE_PERIOD_NS (20 * NSEC_PER_MSEC)
#define THROTTLE_FIRST	   30 /* per cent */
#define THROTTLE_STEP	   15
#define THROTTLE_MOST	   97u

struct migrate_source {
	struct machine *m;
	struct migrate_params params;
	struct migrate_watcher watcher;
	struct migrate_wire wire;
	struct migrate_memory memory;
	pthread_t thread;
	bool threaded;	 /* @thread is to be joined */
	int wake_fd;
	uint64_t start_ns, pause_ns, shown_ns;
	struct state_writer state;
	bool was_paused; /* before we came, so it stays */
	uint64_t disk_bytes[CONFIG_MAX_DISKS];

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under the lock. */
	bool cancelled, abandoned;
	bool saved; /* the loop has paused and saved, with @result and @err */
	int result;
	struct error err;
	struct migrate_report report;

	uint64_t pages_per_second; /* the thread's: in the last round */

	struct loop_task pause, show, slow, finish;
	struct loop_timer throttle; /* the next change between standing still and running */
	bool holding;		    /* the loop's: it stands still */
};

const char *migrate_phase_name(enum migrate_phase phase)
{
	static const char *const names[] = {
		[MIGRATE_STARTING] = "starting",   [MIGRATE_ROUNDS] = "copying",
		[MIGRATE_PAUSED] = "handing over", [MIGRATE_COMMITTED] = "committed",
		[MIGRATE_UNCONFIRMED] = "unconfirmed", [MIGRATE_CONFIRMED] = "confirmed",
		[MIGRATE_FAILED] = "failed",
	};

	return names[phase];
}

const char *migrate_way_name(enum migrate_way way)
{
	static const char *const names[] = {
		[MIGRATE_COPIED] = "copied",
		[MIGRATE_SHARED] = "shared",
		[MIGRATE_WRITTEN] = "written",
	};

	return names[way];
}

int migrate_note(int journal, const char *phase)
{
	char line[32];
	int len = snprintf(line, sizeof(line), "%s\n", phase);
	ssize_t n;

	if (journal < 0)
		return 0;
	n = write(journal, line, len);
	return n < 0 ? -errno : n == len ? 0 : -ENOSPC;
}

/* ---- the report ---- */

static void set_phase(struct migrate_source *s, enum migrate_phase phase)
{
	pthread_mutex_lock(&s->lock);
	s->report.phase = phase;
	pthread_mutex_unlock(&s->lock);
}

/* Take the counters over, and show them now and then; @now: in any case. */
static void update(struct migrate_source *s, bool now)
{
	uint64_t now_ns = clock_monotonic_ns(NULL);

	pthread_mutex_lock(&s->lock);
	s->report.pages_sent = s->memory.pages_sent;
	s->report.zero_pages = s->memory.zero_pages;
	s->report.page_bytes = s->memory.page_bytes;
	s->report.bytes = s->wire.bytes_out;
	s->report.total_ns = now_ns - s->start_ns;
	pthread_mutex_unlock(&s->lock);
	if (!now && now_ns - s->shown_ns < PROGRESS_NS)
		return;
	s->shown_ns = now_ns;
	loop_post(s->m->loop, &s->show);
}

static struct migrate_report report_now(struct migrate_source *s)
{
	struct migrate_report report;

	pthread_mutex_lock(&s->lock);
	report = s->report;
	pthread_mutex_unlock(&s->lock);
	return report;
}

static void show(struct loop_task *task)
{
	struct migrate_source *s = container_of(task, struct migrate_source, show);
	struct migrate_report report = report_now(s);

	if (s->watcher.progress && report.phase < MIGRATE_UNCONFIRMED)
		s->watcher.progress(s->watcher.arg, &report);
}

/* ---- what the loop does for us ---- */

static void throttle_over(struct migrate_source *s)
{
	loop_timer_cancel(s->m->loop, &s->throttle);
	if (s->holding)
		vcpu_set_hold(&s->m->vcpus, false);
	s->holding = false;
}

static void throttle_next(struct loop_timer *t)
{
	struct migrate_source *s = container_of(t, struct migrate_source, throttle);
	unsigned percent = report_now(s).throttle;

	s->holding = !s->holding;
	vcpu_set_hold(&s->m->vcpus, s->holding);
	loop_timer_set(s->m->loop, t,
		       clock_monotonic_ns(s->m->clock) +
			       THROTTLE_PERIOD_NS * (s->holding ? percent : 100 - percent) / 100);
}

static void slow_down(struct loop_task *task)
{
	struct migrate_source *s = container_of(task, struct migrate_source, slow);

	/* A debugger holds vCPUs itself. */
	if (!s->throttle.armed && !s->saved && !s->m->gdb && !machine_is_paused(s->m))
		throttle_next(&s->throttle);
}

static void saved(struct migrate_source *s, int r)
{
	pthread_mutex_lock(&s->lock);
	s->saved = true;
	s->result = r;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static void now_paused(void *arg)
{
	struct migrate_source *s = arg;

	throttle_over(s);
	saved(s, machine_save(s->m, &s->state, &s->err));
}

static void pause_and_save(struct loop_task *task)
{
	struct migrate_source *s = container_of(task, struct migrate_source, pause);

	if (machine_is_paused(s->m))
		now_paused(s);
	else
		machine_pause(s->m, now_paused, s);
}

static int ask_for_pause(struct migrate_source *s, struct error *err)
{
	int r;

	s->pause_ns = clock_monotonic_ns(NULL);
	loop_post(s->m->loop, &s->pause);
	pthread_mutex_lock(&s->lock);
	while (!s->saved && !s->abandoned)
		pthread_cond_wait(&s->changed, &s->lock);
	r = s->saved ? s->result : error_set(&s->err, -ECANCELED, "migration: the guest ended");
	*err = s->err;
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* ---- the thread ---- */

/* What we ask for. */
static enum migrate_way wanted_way(const struct migrate_source *s)
{
	if (!s->params.hand_off)
		return MIGRATE_COPIED;
	return s->m->mem->backing == GUEST_MEM_SHARED ? MIGRATE_SHARED : MIGRATE_WRITTEN;
}

static int save_hello(struct migrate_source *s, struct state_writer *w, struct error *err)
{
	const struct machine_config *c = s->m->config;
	enum migrate_way way = wanted_way(s);

	machine_save_kind(s->m, w);
	/* What an older wisp can do, it is asked for in its own words. */
	state_begin(w, "migrate", 0, way == MIGRATE_COPIED ? 1 : MIGRATE_VERSION);
	state_put_bytes(w, s->params.uuid, MIGRATE_UUID_BYTES);
	state_put_string(w, c->name);
	state_put_u64(w, c->memory_bytes);
	state_put_u64(w, migrate_memory_populated(s->m->mem) * PAGE_SIZE);
	state_put_u32(w, c->num_disks);
	for (unsigned i = 0; i < c->num_disks; i++)
		state_put_u64(w, s->disk_bytes[i]);
	if (way != MIGRATE_COPIED)
		state_put_u8(w, way);
	state_end(w);
	state_seal(w);
	return w->failed ? error_set(err, w->failed, "migration: %m") : 0;
}

/* The way that READY grants: the one asked for, or over the stream after all. */
static int take_way(struct migrate_source *s, uint64_t granted, struct error *err)
{
	if (granted != MIGRATE_COPIED && granted != wanted_way(s))
		return error_set(err, -EBADMSG, "migration: a READY that makes no sense");
	/* Between us there may be somebody who forwards bytes only. */
	if (granted == MIGRATE_WRITTEN && s->wire.fd < 0)
		granted = MIGRATE_COPIED;
	pthread_mutex_lock(&s->lock);
	s->report.way = granted;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int introduce(struct migrate_source *s, struct error *err)
{
	int memory_fd = wanted_way(s) == MIGRATE_SHARED ? s->m->mem->fd : -1;
	struct migrate_record rec;
	struct state_writer w;
	int r;

	state_writer_init(&w);
	r = save_hello(s, &w, err);
	if (!r)
		r = migrate_wire_greet(&s->wire, err);
	if (!r)
		r = migrate_wire_send_fd(&s->wire, MIGRATE_HELLO, 0, w.buf, w.len, memory_fd, err);
	state_writer_done(&w);
	if (!r)
		r = migrate_wire_expect_greeting(&s->wire, BUILD_MS, err);
	s->wire.wants_fd = wanted_way(s) == MIGRATE_WRITTEN;
	if (!r)
		r = migrate_wire_expect(&s->wire, MIGRATE_READY, &rec, BUILD_MS, err);
	s->wire.wants_fd = false;
	return r ? r : take_way(s, rec.page, err);
}

/* Sleep, unless we are to stop. */
static int rest(struct migrate_source *s, uint64_t ns, struct error *err)
{
	struct pollfd p = { .fd = s->wake_fd, .events = POLLIN };

	if (poll(&p, 1, (int)(ns / NSEC_PER_MSEC)) > 0)
		return error_set(err, -ECANCELED, "migration: cancelled");
	return 0;
}

/* After each window: keep to the bandwidth. */
static int between_windows(void *arg, struct error *err)
{
	struct migrate_source *s = arg;
	uint64_t due_ns, now_ns;

	update(s, false);
	if (!s->params.bandwidth || report_now(s).phase != MIGRATE_ROUNDS)
		return rest(s, 0, err);
	now_ns = clock_monotonic_ns(NULL);
	due_ns = s->start_ns +
		 (uint64_t)((__uint128_t)s->wire.bytes_out * NSEC_PER_SEC / s->params.bandwidth);
	return rest(s, due_ns > now_ns ? due_ns - now_ns : 0, err);
}

/* One round, up to the word that all of it has arrived. */
static int copy_round(struct migrate_source *s, uint64_t *ret_pages, struct error *err)
{
	uint64_t before_ns = clock_monotonic_ns(NULL), bytes = s->memory.page_bytes, ns;
	uint64_t pages = s->memory.pages_sent;
	struct migrate_record rec;
	int r = migrate_memory_send(&s->memory, &s->wire, between_windows, s, err);

	if (!r)
		r = migrate_wire_send(&s->wire, MIGRATE_ROUND, s->report.rounds, NULL, 0, err);
	if (!r)
		r = migrate_wire_expect(&s->wire, MIGRATE_ROUND_DONE, &rec,
					(int)s->wire.patience_ms, err);
	if (r < 0)
		return r;
	ns = MAX(clock_monotonic_ns(NULL) - before_ns, 1u);
	bytes = s->memory.page_bytes - bytes;
	pages = s->memory.pages_sent - pages;
	pthread_mutex_lock(&s->lock);
	s->report.rounds++;
	/* A round of next to nothing says nothing about the link. */
	if (bytes > MiB || !s->report.bytes_per_second) {
		s->report.bytes_per_second = (uint64_t)((__uint128_t)bytes * NSEC_PER_SEC / ns);
		s->pages_per_second = MAX(pages * NSEC_PER_SEC / ns, 1u);
	}
	pthread_mutex_unlock(&s->lock);
	*ret_pages = pages;
	return 0;
}

/* How long the guest would stand still if the rest were sent now. */
static uint64_t expected_ns(const struct migrate_source *s, uint64_t pending)
{
	return HAND_OVER_NS + pending * NSEC_PER_SEC / s->pages_per_second;
}

/*
 * A round that leaves more than half of what it sent will be followed by many more: take more of
 * the guest's time.
 */
static void converge(struct migrate_source *s, uint64_t sent, uint64_t pending)
{
	if (!s->params.converge || pending <= sent / 2)
		return;
	pthread_mutex_lock(&s->lock);
	if (!s->report.throttle)
		s->report.throttle = THROTTLE_FIRST;
	else
		s->report.throttle = MIN(s->report.throttle + THROTTLE_STEP, THROTTLE_MOST);
	pthread_mutex_unlock(&s->lock);
	loop_post(s->m->loop, &s->slow);
}

/* Copy until the rest is small, or will not get smaller. */
static int copy_rounds(struct migrate_source *s, struct error *err)
{
	uint64_t sent, pending;
	unsigned rounds;

	for (;;) {
		int r = copy_round(s, &sent, err);

		if (!r)
			r = migrate_memory_collect(&s->memory, &pending, err);
		if (r < 0)
			return r;
		pthread_mutex_lock(&s->lock);
		s->report.pending_pages = pending;
		rounds = s->report.rounds;
		pthread_mutex_unlock(&s->lock);
		update(s, true);
		if (expected_ns(s, pending) <= s->params.downtime_ns ||
		    rounds >= s->params.max_rounds)
			return 0;
		/* The first is of all there is, and says nothing about how fast it changes. */
		if (rounds > 1)
			converge(s, sent, pending);
	}
}

/* All but what changes until the guest stands still. */
static int copy_memory(struct migrate_source *s, struct error *err)
{
	int r = migrate_memory_start(&s->memory, s->m->mem, s->m->hv, s->params.level, err);

	if (!r && s->report.way == MIGRATE_WRITTEN)
		r = migrate_memory_write_to(&s->memory, s->wire.fd, err);
	return r ? r : copy_rounds(s, err);
}

/* Two monitors of one host see the same page cache: nothing needs to be on the medium. */
static int sync_disks(struct migrate_source *s, struct error *err)
{
	return s->report.way == MIGRATE_COPIED ? migrate_sync_disks(s->m, err) : 0;
}

/* With the guest standing still: the rest of it, up to the word that it could run there. */
static int send_rest(struct migrate_source *s, struct error *err)
{
	struct migrate_record rec;
	uint64_t pending;
	int r = 0;

	if (s->report.way != MIGRATE_SHARED) {
		r = migrate_memory_collect(&s->memory, &pending, err);
		if (!r)
			r = migrate_memory_send(&s->memory, &s->wire, between_windows, s, err);
	}
	if (!r)
		r = sync_disks(s, err);
	if (!r)
		r = migrate_wire_send(&s->wire, MIGRATE_STATE, s->was_paused, s->state.buf,
				      s->state.len, err);
	if (!r)
		r = migrate_wire_expect(&s->wire, MIGRATE_PREPARED, &rec, PREPARE_MS, err);
	return r;
}

/*
 * The point of no return. The journal first: whoever reads it after a crash must not find a guest
 * that was given away and does not say so.
 */
static int commit(struct migrate_source *s, struct error *err)
{
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (s->cancelled)
		r = error_set(err, -ECANCELED, "migration: cancelled");
	else if ((r = migrate_note(s->params.journal, MIGRATE_PHASE_COMMITTED)) < 0)
		error_set(err, r, "migration: the journal cannot be written: %m");
	else
		s->report.phase = MIGRATE_COMMITTED;
	pthread_mutex_unlock(&s->lock);
	if (r < 0)
		return r;
	migrate_unlock_disks(s->m);
	return 0;
}

/* After the commit: 0 it runs there, -ECONNABORTED it says that it never will, else who knows. */
static int hand_over(struct migrate_source *s, struct error *err)
{
	struct migrate_record rec;
	int r;

	/* Where it cannot be sent there may still be a last word to be read. */
	migrate_wire_send(&s->wire, MIGRATE_COMMIT, 0, NULL, 0, err);
	r = migrate_wire_expect(&s->wire, MIGRATE_RUNNING, &rec, RUN_MS, err);
	if (r == -ECONNABORTED && migrate_lock_disks(s->m, NULL) == 0) {
		migrate_note(s->params.journal, MIGRATE_PHASE_RETURNED);
		set_phase(s, MIGRATE_FAILED);
		return r;
	}
	if (r < 0) {
		set_phase(s, MIGRATE_UNCONFIRMED);
		return r;
	}
	s->report.blackout_ns = clock_monotonic_ns(NULL) - s->pause_ns;
	migrate_note(s->params.journal, MIGRATE_PHASE_CONFIRMED);
	set_phase(s, MIGRATE_CONFIRMED);
	return 0;
}

static int go(struct migrate_source *s, struct error *err)
{
	int r = introduce(s, err);

	set_phase(s, MIGRATE_ROUNDS);
	if (!r && s->report.way != MIGRATE_SHARED)
		r = copy_memory(s, err);
	/* What is written until the pause is little then. */
	if (!r)
		r = sync_disks(s, err);
	if (!r)
		r = ask_for_pause(s, err);
	if (r < 0)
		return r;
	set_phase(s, MIGRATE_PAUSED);
	pthread_mutex_lock(&s->lock);
	s->report.state_bytes = s->state.len;
	pthread_mutex_unlock(&s->lock);
	r = send_rest(s, err);
	if (!r)
		r = commit(s, err);
	return r ? r : hand_over(s, err);
}

static void *run(void *arg)
{
	struct migrate_source *s = arg;
	struct error err = { 0 };
	int r = go(s, &err);

	if (r < 0 && report_now(s).phase < MIGRATE_COMMITTED) {
		set_phase(s, MIGRATE_FAILED);
		migrate_wire_give_up(&s->wire, &err);
	}
	update(s, false);
	migrate_memory_stop(&s->memory);
	fdatasync(s->params.journal);
	pthread_mutex_lock(&s->lock);
	s->result = r;
	s->err = err;
	pthread_mutex_unlock(&s->lock);
	loop_post(s->m->loop, &s->finish);
	return NULL;
}

/* ---- the loop's side ---- */

static void join(struct migrate_source *s)
{
	if (s->threaded)
		pthread_join(s->thread, NULL);
	s->threaded = false;
	migrate_wire_done(&s->wire);
}

static void finish(struct loop_task *task)
{
	struct migrate_source *s = container_of(task, struct migrate_source, finish);
	struct migrate_report report;

	join(s);
	throttle_over(s);
	report = report_now(s);
	if (report.phase == MIGRATE_FAILED && !s->was_paused && machine_is_paused(s->m))
		machine_resume(s->m);
	s->m->guest_gone = report.phase != MIGRATE_FAILED;
	s->watcher.done(s->watcher.arg, s->result, &s->err, &report);
	s->watcher = (struct migrate_watcher){ 0 };
}

static void free_source(struct migrate_source *s)
{
	migrate_wire_done(&s->wire);
	if (s->wake_fd >= 0)
		close(s->wake_fd);
	if (s->params.journal >= 0)
		close(s->params.journal);
	state_writer_done(&s->state);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static int prepare(struct migrate_source *s, struct machine *m, struct error *err)
{
	int r = migrate_wire_init(&s->wire, s->params.in, s->params.out, err);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < m->config->num_disks; i++)
		s->disk_bytes[i] = migrate_disk_bytes(m, i);
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->wire.wake_fd = s->wake_fd;
	if (s->wake_fd < 0)
		return error_set(err, -errno, "migration: %m");
	r = pthread_create(&s->thread, NULL, run, s);
	s->threaded = r == 0;
	return r ? error_set(err, -r, "migration: its thread: %m") : 0;
}

int migrate_start(struct machine *m, const struct migrate_params *params,
		  const struct migrate_watcher *watcher, struct error *err)
{
	struct migrate_source *s = calloc(1, sizeof(*s));
	int r;

	if (!s) {
		close(params->in);
		if (params->out != params->in)
			close(params->out);
		close(params->journal);
		return error_set(err, -ENOMEM, "migration: %m");
	}
	*s = (struct migrate_source){
		.m = m,
		.params = *params,
		.watcher = *watcher,
		.wire = { .in = -1, .out = -1, .fd = -1 },
		.wake_fd = -1,
		.start_ns = clock_monotonic_ns(NULL),
		.was_paused = machine_is_paused(m),
		.pause.run = pause_and_save,
		.show.run = show,
		.slow.run = slow_down,
		.throttle.expired = throttle_next,
		.finish.run = finish,
	};
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	state_writer_init(&s->state);
	if (m->migration)
		free_source(m->migration);
	m->migration = NULL;
	/* The logs are ours now: the next differential snapshot will be a complete one. */
	snapshot_track_free(m->track);
	m->track = NULL;
	r = prepare(s, m, err);
	if (r < 0)
		free_source(s);
	else
		m->migration = s;
	return r;
}

int migrate_cancel(struct machine *m)
{
	struct migrate_source *s = m->migration;
	int r = -EALREADY;

	if (!s || !s->threaded)
		return r;
	pthread_mutex_lock(&s->lock);
	if (s->report.phase < MIGRATE_COMMITTED) {
		s->cancelled = true;
		r = eventfd_write(s->wake_fd, 1) < 0 ? -errno : 0;
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

bool migrate_status(struct machine *m, struct migrate_report *ret, uint8_t *ret_uuid)
{
	struct migrate_source *s = m->migration;

	if (!s)
		return false;
	*ret = report_now(s);
	memcpy(ret_uuid, s->params.uuid, MIGRATE_UUID_BYTES);
	return true;
}

static int check_unconfirmed(struct machine *m, struct error *err)
{
	if (m->migration && report_now(m->migration).phase == MIGRATE_UNCONFIRMED)
		return 0;
	return error_set(err, -EINVAL, "this microVM is not one that was handed over and "
				       "not heard of");
}

int migrate_confirm(struct machine *m, struct error *err)
{
	int r = check_unconfirmed(m, err);

	if (r < 0)
		return r;
	migrate_note(m->migration->params.journal, MIGRATE_PHASE_CONFIRMED);
	set_phase(m->migration, MIGRATE_CONFIRMED);
	return 0;
}

int migrate_take_back(struct machine *m, struct error *err)
{
	struct migrate_source *s = m->migration;
	int r = check_unconfirmed(m, err);

	if (!r)
		r = migrate_lock_disks(m, err);
	if (!r) {
		r = migrate_note(s->params.journal, MIGRATE_PHASE_RETURNED);
		if (r < 0) {
			migrate_unlock_disks(m);
			error_set(err, r, "migration: the journal cannot be written: %m");
		}
	}
	if (r < 0)
		return r;
	set_phase(s, MIGRATE_FAILED);
	m->guest_gone = false;
	if (!s->was_paused)
		machine_resume(m);
	return 0;
}

void migrate_source_free(struct machine *m)
{
	struct migrate_source *s = m->migration;

	m->migration = NULL;
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->abandoned = s->cancelled = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (s->wake_fd >= 0 && eventfd_write(s->wake_fd, 1) < 0)
		log_warn("migration: cannot be stopped: %m");
	join(s);
	loop_unpost(m->loop, &s->pause);
	loop_unpost(m->loop, &s->show);
	loop_unpost(m->loop, &s->slow);
	throttle_over(s);
	loop_unpost(m->loop, &s->finish);
	free_source(s);
}
