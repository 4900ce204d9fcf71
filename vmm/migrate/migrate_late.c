/* The thread of a migration's source, when the guest is to run before all its memory is there. */
#include <errno.h>

#include "vmm/core/clock.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/migrate/migrate_source.h"

/* How long the destination may take to say that it has all, when it was sent. */
#define WHOLE_MS 30000

/* How long it may take to say what it needs, when another connection has been made. */
#define RESUME_MS 10000

/* Before each step of the background, on whichever thread: how long to keep to the bandwidth. */
static int hold_back(void *arg)
{
	const struct migrate_source *s = arg;
	uint64_t due_ns, now_ns;

	if (!s->params.bandwidth)
		return 0;
	now_ns = clock_monotonic_ns(NULL);
	due_ns = s->start_ns + (uint64_t)((__uint128_t)s->memory.page_bytes * NSEC_PER_SEC /
					  s->params.bandwidth);
	return due_ns > now_ns ? (int)MIN((due_ns - now_ns) / NSEC_PER_MSEC, 1000u) : 0;
}

static void progress(void *arg)
{
	migrate_source_update(arg, false);
}

static int begin(struct migrate_source *s, struct error *err)
{
	s->late = true;
	s->serve = (struct migrate_serve){
		.memory = &s->memory,
		.wire = &s->wire,
		.streams = s->streams.num ? &s->streams : NULL,
		.hold_back = hold_back,
		.progress = progress,
		.arg = s,
	};
	return migrate_serve_init(&s->serve, err);
}

int migrate_late_begin(struct migrate_source *s, struct error *err)
{
	int r = begin(s, err);

	return r ? r : migrate_serve_take(&s->serve, false, err);
}

int migrate_late_announce(struct migrate_source *s, struct error *err)
{
	/* What changed since migrate_late_begin(), which is not long ago, is what will be used. */
	int r = migrate_serve_take(&s->serve, true, err);

	pthread_mutex_lock(&s->lock);
	s->report.postcopy = true;
	s->report.late_pages = s->serve.left;
	pthread_mutex_unlock(&s->lock);
	return r ? r : migrate_serve_announce(&s->serve, err);
}

static void count(struct migrate_source *s, uint64_t wants_before)
{
	pthread_mutex_lock(&s->lock);
	s->report.wanted += s->serve.wants - wants_before;
	s->report.pending_pages = s->serve.left;
	pthread_mutex_unlock(&s->lock);
}

int migrate_late_expect(struct migrate_source *s, enum migrate_record_type type, int wait_ms,
			struct error *err)
{
	uint64_t wants = s->serve.wants;
	int r = migrate_serve_until(&s->serve, type, wait_ms, err);

	count(s, wants);
	return r;
}

int migrate_late_rest(struct migrate_source *s, struct error *err)
{
	int r = 0;

	migrate_note(s->params.journal, MIGRATE_PHASE_SERVING);
	migrate_source_set_phase(s, MIGRATE_SERVING);
	r = migrate_late_expect(s, MIGRATE_WHOLE, WHOLE_MS, err);
	if (r < 0) {
		migrate_source_set_phase(s, MIGRATE_CUT_OFF);
		return r;
	}
	migrate_note(s->params.journal, MIGRATE_PHASE_CONFIRMED);
	migrate_source_set_phase(s, MIGRATE_CONFIRMED);
	return 0;
}

int migrate_late_again(struct migrate_source *s, struct error *err)
{
	int r = migrate_memory_start_still(&s->memory, s->m->mem, (int)s->params.level, err);

	if (!r)
		r = begin(s, err);
	if (!r)
		r = migrate_wire_greet(&s->wire, err);
	if (!r)
		r = migrate_wire_send(&s->wire, MIGRATE_RESUME, 0, s->params.uuid,
				      MIGRATE_UUID_BYTES, err);
	if (!r)
		r = migrate_wire_expect_greeting(&s->wire, RESUME_MS, err);
	if (!r)
		r = migrate_serve_resume(&s->serve, RESUME_MS, err);
	/* Whoever has said nothing of it has not shown that the guest ever ran there. */
	if (r < 0 && s->serve.runs_there)
		migrate_source_set_phase(s, MIGRATE_CUT_OFF);
	return r ? r : migrate_late_rest(s, err);
}
