#include "vmm/migrate/migrate_fill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "vmm/core/log.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/migrate/migrate_serve.h"

/* How long a source may pause between two records: up to the commit, and when it serves. */
#define LOAD_MS 60000
#define LINK_MS 20000

/* How long one may take to say which guest it serves, over another connection. */
#define RESUME_MS 10000

/* ---- sending, by whom it may be ---- */

static int send_record(struct migrate_fill *f, enum migrate_record_type type, uint64_t page,
		       struct error *err)
{
	int r = 0;

	pthread_mutex_lock(&f->out_lock);
	/* Where it is cut off there is nobody to hear it, nor before the greeting. */
	if (f->introduced)
		r = migrate_wire_send(&f->wire, type, page, NULL, 0, err);
	pthread_mutex_unlock(&f->out_lock);
	return r;
}

/* ---- the fault thread ---- */

static int wanted(void *ctx, struct page_faults *faults, uint64_t offset)
{
	struct migrate_fill *f = ctx;
	uint64_t page = offset >> PAGE_SHIFT;
	struct error ignored;

	pthread_mutex_lock(&f->out_lock);
	f->asked[page / 64] |= 1ull << (page % 64);
	pthread_mutex_unlock(&f->out_lock);
	/* If that fails the other thread will find so, too, and ask again when it can. */
	send_record(f, MIGRATE_WANT, page, &ignored);
	return 0;
}

static void ended(void *ctx, int r)
{
	if (r == 0)
		return;
	/* Who waits for a page would do so for ever, the loop perhaps. */
	log_error("migration: pages cannot be had any more, and the guest cannot go on: %s",
		  strerror(-r));
	_exit(MACHINE_STATUS_INTERNAL);
}

static const struct page_source source = { .wanted = wanted, .ended = ended };

static int filter(void *arg)
{
	struct migrate_fill *f = arg;

	return f->sandbox ? sandbox_filter(f->sandbox, SANDBOX_THREAD_FAULT) : 0;
}

/* ---- the receiving thread ---- */

static uint64_t count_missing(struct migrate_fill *f)
{
	struct page_faults_counts counts;

	page_faults_count(f->faults, &counts);
	return counts.missing;
}

/* Not before: what a lost one of them means, only the first can say. */
static int start_streams(struct migrate_fill *f, struct error *err)
{
	return !f->num_more ? 0 :
			      migrate_streams_receive(&f->streams, f->more, f->num_more, f->m->mem,
						      f->faults, NULL, f->wake_fd, err);
}

/* What is left of them, when nothing more is to come: @r, or why one of them failed by it. */
static int end_streams(struct migrate_fill *f, int r, struct error *err)
{
	struct error why = { 0 };
	int streams = migrate_streams_end(&f->streams, &why);
	eventfd_t ignored;

	for (unsigned i = 0; i < f->num_more; i++)
		migrate_wire_done(&f->more[i]);
	f->num_more = 0;
	if (r != -ECANCELED || streams == 0)
		return r;
	/* It has woken us, as who wants us to end does. */
	pthread_mutex_lock(&f->lock);
	if (!f->quit)
		eventfd_read(f->wake_fd, &ignored);
	pthread_mutex_unlock(&f->lock);
	*err = why;
	return streams;
}

static int committed(struct migrate_fill *f, struct error *err)
{
	int r = 0;

	pthread_mutex_lock(&f->lock);
	if (f->state != MIGRATE_FILL_PREPARED)
		r = error_set(err, -EBADMSG, "migration: a COMMIT out of place");
	else
		f->state = MIGRATE_FILL_COMMITTED;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	return r ? r : start_streams(f, err);
}

static enum migrate_fill_state state_of(struct migrate_fill *f)
{
	enum migrate_fill_state state;

	pthread_mutex_lock(&f->lock);
	state = f->state;
	pthread_mutex_unlock(&f->lock);
	return state;
}

/* Over another connection all may be there before the machine has begun to run. */
static bool comes_to_run(struct migrate_fill *f)
{
	bool runs;

	pthread_mutex_lock(&f->lock);
	while (f->state == MIGRATE_FILL_COMMITTED && f->was_cut && !f->quit)
		pthread_cond_wait(&f->changed, &f->lock);
	runs = f->state == MIGRATE_FILL_RUNNING;
	pthread_mutex_unlock(&f->lock);
	return runs;
}

/* The source says that it has sent all. 1: it has, and was told so. */
static int all_sent(struct migrate_fill *f, struct error *err)
{
	if (count_missing(f) || !comes_to_run(f))
		return error_set(err, -EBADMSG, "migration: the other side says that it has sent "
						"all, and some is missing");
	migrate_note(f->journal, MIGRATE_PHASE_RUNNING);
	/* If it does not arrive: the journal says so, too. */
	send_record(f, MIGRATE_WHOLE, 0, err);
	return 1;
}

static int take(struct migrate_fill *f, const struct migrate_record *rec, struct error *err)
{
	switch (rec->type) {
	case MIGRATE_PAGES:
	case MIGRATE_PAGES_ZSTD:
		return migrate_sink_take(&f->sink, rec, err);
	case MIGRATE_COMMIT:
		return committed(f, err);
	case MIGRATE_SENT:
		return all_sent(f, err);
	default:
		return error_set(err, -EBADMSG, "migration: a record out of place");
	}
}

/* Nothing has come over the first connection for a while: has it over the others? */
static bool others_bring(struct migrate_fill *f, uint64_t *missing)
{
	uint64_t before = *missing;

	*missing = count_missing(f);
	return f->streams.num && *missing != before;
}

/* Receive until all is there (0) or something is wrong. */
static int receive_all(struct migrate_fill *f, struct error *err)
{
	uint64_t missing = count_missing(f);
	struct migrate_record rec;
	int r;

	do {
		bool ours = state_of(f) >= MIGRATE_FILL_COMMITTED;

		r = migrate_wire_await(&f->wire, ours ? LINK_MS : LOAD_MS, err);
		if (r > 0)
			r = migrate_wire_receive(&f->wire, &rec, (int)f->wire.patience_ms, err);
		/* Whoever is ready waits for the word as long as it takes. */
		else if (r == 0 && state_of(f) == MIGRATE_FILL_PREPARED)
			continue;
		else if (r == 0 && others_bring(f, &missing))
			continue;
		else if (r == 0)
			r = error_set(err, -ETIMEDOUT, "migration: the other side is silent");
		if (!r)
			r = take(f, &rec, err);
	} while (!r);
	return end_streams(f, MIN(r, 0), err);
}

/*
 * The connection is of no use any more, by @r. False: it never was ours, and is over; what waits
 * for pages goes on without them, in a machine that will be freed.
 */
static bool cut_off(struct migrate_fill *f, int r, const struct error *err)
{
	bool ours;

	pthread_mutex_lock(&f->lock);
	/* A source that changed its mind says so; or our own machine is to end. */
	if (f->state == MIGRATE_FILL_LOADING ||
	    (f->state == MIGRATE_FILL_PREPARED && (r == -ECONNABORTED || r == -ECANCELED)))
		f->state = MIGRATE_FILL_FAILED;
	ours = f->state != MIGRATE_FILL_FAILED;
	f->result = r;
	f->err = *err;
	f->is_cut = f->was_cut = ours;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	pthread_mutex_lock(&f->out_lock);
	f->introduced &= !ours;
	if (ours)
		migrate_wire_done(&f->wire);
	pthread_mutex_unlock(&f->out_lock);
	if (ours)
		loop_post(f->m->loop, &f->cut);
	else
		page_faults_release(f->faults);
	return ours;
}

/* Wait for another connection, or that none is needed; false: we are to end. */
static bool await_next(struct migrate_fill *f)
{
	struct migrate_wire next;
	bool quit;

	pthread_mutex_lock(&f->lock);
	while (f->next.in < 0 && !f->quit &&
	       (f->state != MIGRATE_FILL_RUNNING || count_missing(f)))
		pthread_cond_wait(&f->changed, &f->lock);
	next = f->next;
	f->next = (struct migrate_wire){ .in = -1, .out = -1, .fd = -1 };
	quit = f->quit;
	pthread_mutex_unlock(&f->lock);
	pthread_mutex_lock(&f->out_lock);
	f->wire = next;
	f->wire.wake_fd = f->wake_fd;
	pthread_mutex_unlock(&f->out_lock);
	return !quit;
}

/* What is still missing, and what of it somebody waits for. The lock of what is sent is held. */
static int say_what_is_missing(struct migrate_fill *f, struct error *err)
{
	uint64_t words = guest_mem_bitmap_words(f->num << PAGE_SHIFT), at = 0, end;
	int r;

	for (uint64_t page = 0; page < f->num; page++)
		if (page_faults_has(f->faults, page << PAGE_SHIFT))
			f->missing[page / 64] &= ~(1ull << (page % 64));
	r = migrate_missing_send(&f->wire, f->missing, f->num, err);
	if (!r)
		r = migrate_wire_send(&f->wire, MIGRATE_RESUMED, 0, NULL, 0, err);
	for (uint64_t i = 0; i < words; i++)
		f->asked[i] &= f->missing[i];
	while (!r && (at = guest_mem_next_run(f->asked, f->num, at, &end)) < f->num)
		r = migrate_wire_send(&f->wire, MIGRATE_WANT, at++, NULL, 0, err);
	return r;
}

/* Cut off no more. */
static void goes_on(struct migrate_fill *f)
{
	pthread_mutex_lock(&f->lock);
	f->is_cut = false;
	/* One that came while this one was greeted would be a dead one at the next cut. */
	migrate_wire_done(&f->next);
	pthread_mutex_unlock(&f->lock);
	loop_post(f->m->loop, &f->cut);
}

/* The other end of the new connection: is it our source? Then it is told what we need. */
static int go_on(struct migrate_fill *f, struct error *err)
{
	struct migrate_record rec;
	int r = migrate_wire_expect_greeting(&f->wire, RESUME_MS, err);

	if (!r)
		r = migrate_wire_expect(&f->wire, MIGRATE_RESUME, &rec, RESUME_MS, err);
	if (!r && (rec.len != MIGRATE_UUID_BYTES || memcmp(rec.payload, f->uuid, rec.len) != 0))
		r = error_set(err, -EBADMSG, "migration: a connection for another guest");
	if (r < 0)
		return r;
	/* Whoever wants a page meanwhile is asked for again with the others. */
	pthread_mutex_lock(&f->out_lock);
	r = migrate_wire_greet(&f->wire, err);
	if (!r)
		r = say_what_is_missing(f, err);
	f->introduced = !r;
	pthread_mutex_unlock(&f->out_lock);
	if (r < 0)
		return r;
	goes_on(f);
	return 0;
}

static bool is_to_quit(struct migrate_fill *f)
{
	bool quit;

	pthread_mutex_lock(&f->lock);
	quit = f->quit;
	pthread_mutex_unlock(&f->lock);
	return quit;
}

/* The connection is lost, but there is nothing that we would need it for. */
static bool is_whole(struct migrate_fill *f)
{
	if (state_of(f) != MIGRATE_FILL_RUNNING || count_missing(f))
		return false;
	migrate_note(f->journal, MIGRATE_PHASE_RUNNING);
	return true;
}

static void *run(void *arg)
{
	struct migrate_fill *f = arg;
	struct error err = { 0 };
	int r;

	/* Made by a thread of the migration, so its filter is ours. */
	prctl(PR_SET_NAME, "migrate late");
	r = receive_all(f, &err);
	while (r < 0) {
		if (is_to_quit(f))
			return NULL;
		if (is_whole(f))
			break;
		if (!cut_off(f, r, &err) || !await_next(f))
			return NULL;
		/* All was there before the machine ran. */
		if (is_whole(f)) {
			goes_on(f);
			break;
		}
		r = go_on(f, &err);
		if (!r)
			r = receive_all(f, &err);
	}
	pthread_mutex_lock(&f->lock);
	f->state = MIGRATE_FILL_WHOLE;
	pthread_mutex_unlock(&f->lock);
	loop_post(f->m->loop, &f->over);
	return NULL;
}

/* ---- the loop's ---- */

static bool is_ours(const struct migrate_fill_report *r)
{
	return r->state == MIGRATE_FILL_COMMITTED || r->state == MIGRATE_FILL_RUNNING;
}

/* It was cut off, or goes on. */
static void cut(struct loop_task *task)
{
	struct migrate_fill *f = container_of(task, struct migrate_fill, cut);
	struct migrate_fill_report report = migrate_fill_report(f);
	struct error why;

	if (!is_ours(&report))
		return;
	/* The next connection may be cut off by now. */
	pthread_mutex_lock(&f->lock);
	why = f->err;
	pthread_mutex_unlock(&f->lock);
	if (report.is_cut && f->m->winding_down)
		migrate_fill_end(f, MACHINE_STATUS_INTERNAL);
	if (report.is_cut)
		log_warn("'%s': %s; it waits here for %llu MiB of its memory, which its source "
			 "still has: 'wisp receive --resume' and 'wisp migrate --resume' go on",
			 f->m->config->name, why.msg, (report.missing << PAGE_SHIFT) / MiB);
	else
		log_warn("'%s': its memory comes again, and it goes on", f->m->config->name);
	/* A debugger holds vCPUs itself. */
	if (!f->m->gdb)
		vcpu_set_hold(&f->m->vcpus, report.is_cut);
}

/* All is there: ordinary memory from now on. */
static void over(struct loop_task *task)
{
	struct migrate_fill *f = container_of(task, struct migrate_fill, over);

	log_debug("all of the guest's memory is there");
	/* It may have come faster than cut() was run. */
	if (f->was_cut && !f->m->gdb)
		vcpu_set_hold(&f->m->vcpus, false);
	migrate_fill_stop(f);
}

/* ---- beginning ---- */

/*
 * What is here of pages that changed since is of no use. No huge pages meanwhile: the kernel would
 * make one of what is there and zeroes. Before somebody is told of pages that go.
 */
static int drop(struct migrate_fill *f, struct guest_mem *mem, struct error *err)
{
	uint64_t at = 0, end;

	madvise(mem->map, mem->map_size, MADV_NOHUGEPAGE);
	while ((at = guest_mem_next_run(f->missing, f->num, at, &end)) < f->num) {
		if (madvise(mem->map + (at << PAGE_SHIFT), (end - at) << PAGE_SHIFT,
			    MADV_DONTNEED) < 0)
			return error_set(err, -errno, "migration: pages that changed: %m");
		at = end;
	}
	return 0;
}

static int start_faults(struct migrate_fill *f, struct guest_mem *mem, struct error *err)
{
	uint64_t words = guest_mem_bitmap_words(mem->map_size);
	uint64_t *there = calloc(words, sizeof(*there));
	struct page_faults_params params = {
		.mem = mem,
		.fd = f->fd,
		.there = there,
		.source = &source,
		.ctx = f,
		.begins = filter,
		.begins_arg = f,
	};
	int r = there ? 0 : error_set(err, -ENOMEM, "migration: %m");

	for (uint64_t i = 0; i < words && there; i++)
		there[i] = ~f->missing[i];
	if (!r)
		r = page_faults_start(&f->faults, &params, err);
	if (!r)
		f->fd = -1;
	free(there);
	return r;
}

static int start_thread(struct migrate_fill *f, struct error *err)
{
	int r = pthread_create(&f->thread, NULL, run, f);

	f->threaded = r == 0;
	return r ? error_set(err, -r, "migration: a thread for pages: %m") : 0;
}

int migrate_fill_start(struct migrate_fill *f, struct machine *m, struct migrate_wire *wire,
		       int journal, const uint8_t *uuid, struct error *err)
{
	int r = migrate_fill_expect(f, m, NULL, err);

	f->m = m;
	f->journal = journal;
	memcpy(f->uuid, uuid, sizeof(f->uuid));
	f->cut.run = cut;
	f->over.run = over;
	f->next = (struct migrate_wire){ .in = -1, .out = -1, .fd = -1 };
	pthread_mutex_init(&f->out_lock, NULL);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	f->wire = *wire;
	*wire = (struct migrate_wire){ .in = -1, .out = -1, .fd = -1 };
	f->introduced = true;
	f->state = MIGRATE_FILL_LOADING;
	f->asked = calloc(guest_mem_bitmap_words(guest_mem_size(m->mem)), sizeof(*f->asked));
	if (!r && !f->asked)
		r = error_set(err, -ENOMEM, "migration: %m");
	f->wake_fd = fcntl(f->wire.wake_fd, F_DUPFD_CLOEXEC, 0);
	if (!r && f->wake_fd < 0)
		r = error_set(err, -errno, "migration: what stops its thread: %m");
	f->wire.wake_fd = f->wake_fd;
	if (!r)
		r = migrate_sink_init(&f->sink, m->mem, err);
	if (!r)
		r = drop(f, m->mem, err);
	if (!r)
		r = start_faults(f, m->mem, err);
	f->sink.faults = f->faults;
	return r ? r : start_thread(f, err);
}

/* ---- the commit ---- */

int migrate_fill_check(struct migrate_fill *f, struct error *err)
{
	int r = 0;

	pthread_mutex_lock(&f->lock);
	if (f->state == MIGRATE_FILL_FAILED) {
		r = f->result;
		*err = f->err;
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

int migrate_fill_await_commit(struct migrate_fill *f, struct error *err)
{
	int r;

	pthread_mutex_lock(&f->lock);
	if (f->state == MIGRATE_FILL_LOADING)
		f->state = MIGRATE_FILL_PREPARED;
	pthread_mutex_unlock(&f->lock);
	r = send_record(f, MIGRATE_PREPARED, 0, err);
	pthread_mutex_lock(&f->lock);
	while (!r && f->state == MIGRATE_FILL_PREPARED && !f->is_cut && !f->quit)
		pthread_cond_wait(&f->changed, &f->lock);
	if (f->state == MIGRATE_FILL_FAILED) {
		r = f->result;
		*err = f->err;
	} else if (!r && f->quit) {
		r = error_set(err, -ECANCELED, "migration: cancelled");
	} else if (!r && f->state == MIGRATE_FILL_PREPARED) {
		r = -EINPROGRESS;
		*err = f->err;
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

void migrate_fill_commit(struct migrate_fill *f)
{
	bool is_cut;

	pthread_mutex_lock(&f->lock);
	if (f->state == MIGRATE_FILL_PREPARED)
		f->state = MIGRATE_FILL_COMMITTED;
	is_cut = f->is_cut;
	pthread_mutex_unlock(&f->lock);
	/* Not before: that it waits for memory would not be true. */
	migrate_door_answer(&f->door, f);
	if (is_cut)
		loop_post(f->m->loop, &f->cut);
}

void migrate_fill_run(struct migrate_fill *f)
{
	struct error err = { 0 };
	bool was_cut;

	/* Before it is sent, for the answer comes to the other thread. */
	pthread_mutex_lock(&f->lock);
	f->state = MIGRATE_FILL_RUNNING;
	was_cut = f->was_cut;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	/* Over another connection that goes without saying. */
	if (!was_cut && send_record(f, MIGRATE_RUNNING, 0, &err) < 0)
		log_info("%s; the guest runs all the same", err.msg);
}

/* ---- while it runs, and the end ---- */

struct migrate_fill_report migrate_fill_report(struct migrate_fill *f)
{
	struct migrate_fill_report report = { 0 };
	struct page_faults_counts counts;

	if (!migrate_fill_is_on(f))
		return report;
	pthread_mutex_lock(&f->lock);
	report.state = f->state;
	report.is_cut = f->is_cut;
	pthread_mutex_unlock(&f->lock);
	if (f->faults) {
		page_faults_count(f->faults, &counts);
		report.missing = counts.missing;
		report.wanted = counts.wanted;
	}
	return report;
}

int migrate_fill_resume(struct migrate_fill *f, int in, int out, struct error *err)
{
	struct migrate_fill_report report = migrate_fill_report(f);
	struct migrate_wire wire;
	int r;

	if (!is_ours(&report) || !report.is_cut) {
		close(in);
		if (out != in)
			close(out);
		return error_set(err, -EINVAL, "this microVM does not wait for memory that its "
					       "source still has");
	}
	r = migrate_wire_init(&wire, in, out, err);
	if (r < 0) {
		migrate_wire_done(&wire);
		return r;
	}
	pthread_mutex_lock(&f->lock);
	migrate_wire_done(&f->next);
	f->next = wire;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	return 0;
}

void migrate_fill_end(struct migrate_fill *f, int status)
{
	struct migrate_fill_report report = migrate_fill_report(f);

	if (!is_ours(&report) || !report.is_cut || !report.missing)
		return;
	/* Who waits for a page cannot be woken, to go on with zeroes: to a disk, perhaps. */
	log_error("'%s': ended with %llu MiB of its memory still at its source: the guest is lost",
		  f->m->config->name, (report.missing << PAGE_SHIFT) / MiB);
	_exit(status);
}

static void quit(struct migrate_fill *f)
{
	pthread_mutex_lock(&f->lock);
	f->quit = true;
	eventfd_write(f->wake_fd, 1);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	if (f->threaded)
		pthread_join(f->thread, NULL);
	f->threaded = false;
	migrate_door_close(&f->door);
}

static void finish(struct migrate_fill *f)
{
	loop_unpost(f->m->loop, &f->cut);
	loop_unpost(f->m->loop, &f->over);
	page_faults_free(f->faults);
	guest_mem_advise(f->m->mem);
	migrate_sink_done(&f->sink);
	migrate_wire_done(&f->wire);
	migrate_wire_done(&f->next);
	for (unsigned i = 0; i < f->num_more; i++)
		migrate_wire_done(&f->more[i]);
	if (f->wake_fd >= 0)
		close(f->wake_fd);
	free(f->asked);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	pthread_mutex_destroy(&f->out_lock);
	if (f->m->fill == f)
		f->m->fill = NULL;
}

void migrate_fill_abandon(struct migrate_fill *f, struct migrate_wire *wire)
{
	if (!migrate_fill_is_on(f))
		return;
	quit(f);
	*wire = f->wire;
	wire->wake_fd = -1;
	f->wire = (struct migrate_wire){ .in = -1, .out = -1, .fd = -1 };
	migrate_fill_stop(f);
}

void migrate_fill_stop(struct migrate_fill *f)
{
	struct error ignored;

	if (!f)
		return;
	if (migrate_fill_is_on(f)) {
		quit(f);
		f->wire.wake_fd = -1;
		/* The guest has ended: its source may, too. */
		if (f->state == MIGRATE_FILL_RUNNING && !f->is_cut) {
			migrate_note(f->journal, MIGRATE_PHASE_RUNNING);
			send_record(f, MIGRATE_WHOLE, 0, &ignored);
		}
		finish(f);
	}
	migrate_door_close(&f->door);
	if (f->fd >= 0)
		close(f->fd);
	free(f->missing);
	*f = (struct migrate_fill){ .fd = -1 };
}
