/* The loop's side of a machine that gives its guest away; migrate_send.c is the thread's. */
#include "vmm/migrate/migrate_source.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/machine/machine_internal.h"
#include "vmm/machine/machine_state.h"
#include "vmm/sandbox/maker.h"
#include "vmm/saved/reset_point.h"
#include "vmm/saved/snapshot_track.h"

#define PROGRESS_NS (500 * NSEC_PER_MSEC)

/* A guest that is slowed down stands still for a part of each of these. */
#define THROTTLE_PERIOD_NS (20 * NSEC_PER_MSEC)

const char *migrate_phase_name(enum migrate_phase phase)
{
	static const char *const names[] = {
		[MIGRATE_STARTING] = "starting",       [MIGRATE_ROUNDS] = "copying",
		[MIGRATE_PAUSED] = "handing over",     [MIGRATE_COMMITTED] = "committed",
		[MIGRATE_SERVING] = "serving",	       [MIGRATE_UNCONFIRMED] = "unconfirmed",
		[MIGRATE_CUT_OFF] = "cut off",	       [MIGRATE_CONFIRMED] = "confirmed",
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

void migrate_source_set_phase(struct migrate_source *s, enum migrate_phase phase)
{
	pthread_mutex_lock(&s->lock);
	s->report.phase = phase;
	pthread_mutex_unlock(&s->lock);
}

/* Take the counters over, and show them now and then; @now: in any case. */
void migrate_source_update(struct migrate_source *s, bool now)
{
	uint64_t now_ns = clock_monotonic_ns(NULL);

	pthread_mutex_lock(&s->lock);
	s->report.pages_sent = s->memory.pages_sent;
	s->report.zero_pages = s->memory.zero_pages;
	s->report.page_bytes = s->memory.page_bytes;
	s->report.disk_bytes = s->mirror.bytes_sent;
	s->report.bytes = s->wire.bytes_out + s->streams.bytes_out;
	s->report.total_ns = now_ns - s->start_ns;
	pthread_mutex_unlock(&s->lock);
	if (!now && now_ns - s->shown_ns < PROGRESS_NS)
		return;
	s->shown_ns = now_ns;
	loop_post(s->m->loop, &s->show);
}

struct migrate_report migrate_source_report(struct migrate_source *s)
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
	struct migrate_report report = migrate_source_report(s);

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
	unsigned percent = migrate_source_report(s).throttle;

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

static void disks_settled(struct machine_settling *d)
{
	struct migrate_source *s = container_of(d, struct migrate_source, settling);

	if (d->err.code) {
		s->err = d->err;
		saved(s, d->err.code);
	} else {
		saved(s, machine_save(s->m, &s->state, &s->err));
	}
}

static void now_paused(void *arg)
{
	struct migrate_source *s = arg;

	throttle_over(s);
	/* Until it is known whose the guest is: what is asked of it must not let it run. */
	machine_hold(s->m);
	s->held = true;
	/* The destination reads what we have of its disks in memory in their files. */
	s->settling.done = disks_settled;
	if (!machine_settle_disks(s->m, &s->settling))
		disks_settled(&s->settling);
}

static void pause_and_save(struct loop_task *task)
{
	struct migrate_source *s = container_of(task, struct migrate_source, pause);

	if (machine_is_paused(s->m))
		now_paused(s);
	else
		machine_pause(s->m, now_paused, s);
}

int migrate_source_pause(struct migrate_source *s, struct error *err)
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

/* ---- from the begin to the end ---- */

static void join(struct migrate_source *s)
{
	if (s->threaded)
		pthread_join(s->thread, NULL);
	s->threaded = false;
	migrate_wire_done(&s->wire);
	migrate_streams_done(&s->streams);
}

/* The guest stays here: as it was, and as it was asked to be meanwhile. */
static void go_on_here(struct migrate_source *s)
{
	if (!s->held)
		return;
	s->held = false;
	if (!s->was_paused)
		machine_resume(s->m);
	machine_release(s->m);
}

static void finish(struct loop_task *task)
{
	struct migrate_source *s = container_of(task, struct migrate_source, finish);
	struct migrate_report report;

	join(s);
	throttle_over(s);
	report = migrate_source_report(s);
	if (report.phase == MIGRATE_FAILED)
		go_on_here(s);
	s->watcher.done(s->watcher.arg, s->result, &s->err, &report);
	s->watcher = (struct migrate_watcher){ 0 };
}

static void free_source(struct migrate_source *s)
{
	migrate_wire_done(&s->wire);
	migrate_streams_done(&s->streams);
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
	const struct migrate_params *p = &s->params;
	struct error ignored;
	int r = migrate_wire_init(&s->wire, p->in, p->out, err), streams;

	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	streams = migrate_streams_init(&s->streams, p->more, p->num_more, s->wake_fd,
				       r ? &ignored : err);
	if (r < 0 || streams < 0)
		return r ? r : streams;
	s->report.streams = 1 + p->num_more;
	for (unsigned i = 0; i < m->config->num_disks; i++) {
		s->disk_bytes[i] = migrate_disk_bytes(m, i);
		s->copied[i] = s->params.copy_disks && migrate_disk_image(m, i);
	}
	s->wire.wake_fd = s->wake_fd;
	if (s->wake_fd < 0)
		return error_set(err, -errno, "migration: %m");
	/* Before the logs begin: they know what this process writes, and nobody else. */
	for (unsigned i = 0; i < m->num_virtio; i++)
		virtio_serve_here(m->virtio[i].dev);
	r = maker_thread(m->maker, &s->thread, NULL, migrate_source_run, s);
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
		for (unsigned i = 0; i < params->num_more; i++)
			close(params->more[i]);
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
	reset_point_lose_logs(m->point);
	r = prepare(s, m, err);
	if (r < 0)
		free_source(s);
	else
		m->migration = s;
	return r;
}

static int start_again(struct migrate_source *s, const struct migrate_params *p, struct error *err)
{
	int r = migrate_wire_init(&s->wire, p->in, p->out, err);

	s->wire.wake_fd = s->wake_fd;
	if (!r) {
		r = maker_thread(s->m->maker, &s->thread, NULL, migrate_source_run_again, s);
		s->threaded = r == 0;
		if (r)
			r = error_set(err, -r, "migration: its thread: %m");
	}
	if (r < 0)
		migrate_wire_done(&s->wire);
	return r;
}

int migrate_resume(struct machine *m, const struct migrate_params *params,
		   const struct migrate_watcher *watcher, struct error *err)
{
	struct migrate_source *s = m->migration;
	enum migrate_phase phase = s ? migrate_source_report(s).phase : MIGRATE_STARTING;
	int r;

	if (!s || s->threaded ||
	    (phase != MIGRATE_CUT_OFF &&
	     (phase != MIGRATE_UNCONFIRMED || !migrate_source_report(s).postcopy))) {
		close(params->in);
		if (params->out != params->in)
			close(params->out);
		return error_set(err, -EINVAL, "this microVM is not one that runs elsewhere and "
					       "has some of its memory still here");
	}
	s->watcher = *watcher;
	s->params.bandwidth = params->bandwidth;
	s->start_ns = clock_monotonic_ns(NULL);
	r = start_again(s, params, err);
	if (r < 0)
		s->watcher = (struct migrate_watcher){ 0 };
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

bool migrate_is_under_way(struct machine *m)
{
	return m->migration && migrate_source_report(m->migration).phase != MIGRATE_FAILED;
}

bool migrate_is_away(struct machine *m)
{
	enum migrate_phase phase = m->migration ? migrate_source_report(m->migration).phase :
						  MIGRATE_STARTING;

	return phase >= MIGRATE_COMMITTED && phase != MIGRATE_FAILED;
}

bool migrate_puts_off(struct machine *m, struct loop_timer *t)
{
	if (!migrate_is_away(m))
		return false;
	loop_timer_set(m->loop, t, clock_monotonic_ns(m->clock) + NSEC_PER_SEC);
	return true;
}

bool migrate_status(struct machine *m, struct migrate_report *ret, uint8_t *ret_uuid)
{
	struct migrate_source *s = m->migration;

	if (!s)
		return false;
	*ret = migrate_source_report(s);
	memcpy(ret_uuid, s->params.uuid, MIGRATE_UUID_BYTES);
	return true;
}

static int check_unconfirmed(struct machine *m, bool confirm, struct error *err)
{
	struct migrate_source *s = m->migration;
	enum migrate_phase phase = s ? migrate_source_report(s).phase : MIGRATE_STARTING;

	if (s && s->threaded && phase >= MIGRATE_COMMITTED)
		return error_set(err, -EBUSY, "this microVM is talking to its destination");
	if (phase == MIGRATE_UNCONFIRMED || (confirm && phase == MIGRATE_CUT_OFF))
		return 0;
	if (phase == MIGRATE_CUT_OFF)
		return error_set(err, -EINVAL, "this microVM was handed over and has run "
					       "elsewhere since");
	return error_set(err, -EINVAL,
			 "this microVM is not one that was handed over and "
			 "not heard of");
}

int migrate_confirm(struct machine *m, struct error *err)
{
	int r = check_unconfirmed(m, true, err);

	if (r < 0)
		return r;
	migrate_note(m->migration->params.journal, MIGRATE_PHASE_CONFIRMED);
	migrate_source_set_phase(m->migration, MIGRATE_CONFIRMED);
	return 0;
}

int migrate_take_back(struct machine *m, struct error *err)
{
	struct migrate_source *s = m->migration;
	int r = check_unconfirmed(m, false, err);

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
	migrate_source_set_phase(s, MIGRATE_FAILED);
	go_on_here(s);
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
	while (s->settling.pending)
		loop_run_once(m->loop, UINT64_MAX);
	loop_unpost(m->loop, &s->pause);
	loop_unpost(m->loop, &s->show);
	loop_unpost(m->loop, &s->slow);
	throttle_over(s);
	loop_unpost(m->loop, &s->finish);
	free_source(s);
}
