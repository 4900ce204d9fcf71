/*
 * The thread of a migration's source: says what machine it is, sends memory round by round while
 * the guest runs, has it paused, sends the rest, and hands it over.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "devices/net_tap.h"
#include "virtio/virtio_devices.h"
#include "vmm/core/log.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/machine/machine_state.h"
#include "vmm/migrate/migrate_source.h"
#include "vmm/migrate/migrate_thread.h"

/* How long the other side may take to build a machine, to load its state, to run it. */
#define BUILD_MS   60000
#define PREPARE_MS 30000
#define RUN_MS	   30000

/* The same to have what it was sent of disks on its medium, at the end of a round. */
#define SYNC_MS 60000

/* What a hand-over costs beside the pages, for the guess of how long the guest will stand still. */
#define HAND_OVER_NS (10 * NSEC_PER_MSEC)

/* Rounds that left more than half of what they sent, before a guest goes without its memory. */
#define STALLS_MOST 2

/* How much of its time is taken from a guest that is to be slowed down, in per cent. */
#define THROTTLE_FIRST 30
#define THROTTLE_STEP  15
#define THROTTLE_MOST  97u

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
	unsigned version = way == MIGRATE_COPIED ? 1 : 2;

	for (unsigned i = 0; i < c->num_disks; i++)
		if (s->copied[i])
			version = 3;
	if (s->streams.num)
		version = 4;
	if (s->params.postcopy)
		version = s->streams.num ? 6 : 5;
	machine_save_kind(s->m, w);
	/* What an older wisp can do, it is asked for in its own words. */
	state_begin(w, "migrate", 0, version);
	state_put_bytes(w, s->params.uuid, MIGRATE_UUID_BYTES);
	state_put_string(w, c->name);
	state_put_u64(w, config_memory_total(c));
	state_put_u64(w, migrate_memory_populated(s->m->mem) * PAGE_SIZE);
	state_put_u32(w, c->num_disks);
	for (unsigned i = 0; i < c->num_disks; i++)
		state_put_u64(w, s->disk_bytes[i]);
	if (version > 1)
		state_put_u8(w, way);
	for (unsigned i = 0; i < c->num_disks && version > 2; i++)
		state_put_u8(w, s->copied[i]);
	if (version > 3)
		state_put_u8(w, 1 + s->streams.num);
	if (version > 4)
		state_put_u8(w, 1);
	if (version > 5)
		state_put_u8(w, 1);
	state_end(w);
	state_seal(w);
	return w->failed ? error_set(err, w->failed, "migration: %m") : 0;
}

/* Post-copy, if READY grants what was asked for; else it says why not. */
static void take_postcopy(struct migrate_source *s, const struct migrate_record *rec)
{
	char why[MIGRATE_MAX_TEXT + 1];

	if (!s->params.postcopy)
		return;
	s->can_be_late = rec->page & MIGRATE_READY_POSTCOPY;
	if (s->can_be_late)
		return;
	migrate_wire_text(rec, why);
	pthread_mutex_lock(&s->lock);
	snprintf(s->report.refused, sizeof(s->report.refused), "%.150s",
		 *why ? why : "the other side does not say why");
	pthread_mutex_unlock(&s->lock);
	log_warn("migration: no post-copy, memory is sent before the guest runs there: %s",
		 s->report.refused);
}

/* The way that READY grants: the one asked for, or over the stream after all. */
static int take_way(struct migrate_source *s, uint64_t granted, struct error *err)
{
	if (s->params.postcopy)
		granted &= ~(uint64_t)MIGRATE_READY_POSTCOPY;
	if (granted != MIGRATE_COPIED && granted != wanted_way(s))
		return error_set(err, -EBADMSG, "migration: a READY that makes no sense");
	/* Between us there may be somebody who forwards bytes only. */
	if (granted == MIGRATE_WRITTEN && s->wire.fd < 0)
		granted = MIGRATE_COPIED;
	/* Pages can be missing in memory of the destination's own. */
	s->can_be_late &= granted == MIGRATE_COPIED;
	pthread_mutex_lock(&s->lock);
	s->report.way = granted;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/*
 * A tap of one queue is open once, so whoever takes over on this host gets our descriptor. Its
 * frames are for who runs the guest: the other one reads none before, nor tries what it can do,
 * which would turn off what our guest uses.
 */
static int hand_over_taps(struct migrate_source *s, struct error *err)
{
	const struct machine_config *c = s->m->config;
	int r = 0;

	if (!s->params.hand_off || !migrate_wire_carries_fds(&s->wire))
		return 0;
	for (unsigned i = 0; i < c->num_nets && !r; i++) {
		const struct config_net *net = &c->net[i];
		struct virtio_device *dev = machine_virtio(s->m, VIRTIO_ID_NET, net->id);
		struct net *end = dev ? virtio_net_end(dev) : NULL;
		int fd = end ? net_tap_fd(end) : -1;

		if (fd >= 0 && net->tap_name && net->queues <= 1)
			r = migrate_wire_send_fd(&s->wire, MIGRATE_TAP,
						 net_tap_offload_flags(&end->takes), net->tap_name,
						 strlen(net->tap_name), fd, err);
	}
	return r;
}

static int introduce(struct migrate_source *s, struct error *err)
{
	int memory_fd = wanted_way(s) == MIGRATE_SHARED ? s->m->mem->fd : -1;
	struct migrate_record rec;
	struct state_writer w;
	struct error why = { 0 };
	int r, streams = 0;

	state_writer_init(&w);
	r = save_hello(s, &w, err);
	if (!r)
		r = migrate_wire_greet(&s->wire, err);
	if (!r)
		r = hand_over_taps(s, err);
	if (!r)
		r = migrate_wire_send_fd(&s->wire, MIGRATE_HELLO, 0, w.buf, w.len, memory_fd, err);
	state_writer_done(&w);
	if (!r)
		streams = migrate_streams_introduce(&s->streams, s->params.uuid, &why);
	if (!r)
		r = migrate_wire_expect_greeting(&s->wire, BUILD_MS, err);
	s->wire.wants_fd = wanted_way(s) == MIGRATE_WRITTEN;
	if (!r)
		r = migrate_wire_expect(&s->wire, MIGRATE_READY, &rec, BUILD_MS, err);
	s->wire.wants_fd = false;
	/* One who hangs up on our streams has said why on the first. */
	if (!r && streams < 0) {
		*err = why;
		r = streams;
	}
	if (r)
		return r;
	take_postcopy(s, &rec);
	return take_way(s, rec.page, err);
}

/* Sleep, unless we are to stop. */
static int rest(struct migrate_source *s, uint64_t ns, struct error *err)
{
	struct pollfd p = { .fd = s->wake_fd, .events = POLLIN };

	if (poll(&p, 1, (int)(ns / NSEC_PER_MSEC)) > 0)
		return error_set(err, -ECANCELED, "migration: cancelled");
	return 0;
}

/* What was sent so far, of memory and disks, and how many pages that would be. */
static uint64_t bytes_so_far(const struct migrate_source *s)
{
	return s->memory.page_bytes + s->mirror.bytes_sent;
}

static uint64_t pages_so_far(const struct migrate_source *s)
{
	return s->memory.pages_sent + s->mirror.bytes_full / PAGE_SIZE;
}

/* After each window, on the thread of whichever stream: keep all of them to the bandwidth. */
static int keep_to_bandwidth(void *arg, struct error *err)
{
	struct migrate_source *s = arg;
	uint64_t due_ns, now_ns;

	if (!s->params.bandwidth || migrate_source_report(s).phase != MIGRATE_ROUNDS)
		return rest(s, 0, err);
	now_ns = clock_monotonic_ns(NULL);
	due_ns = s->start_ns +
		 (uint64_t)((__uint128_t)bytes_so_far(s) * NSEC_PER_SEC / s->params.bandwidth);
	return rest(s, due_ns > now_ns ? due_ns - now_ns : 0, err);
}

/* The same on the first one's, which also shows how far we are. */
static int between_windows(void *arg, struct error *err)
{
	migrate_source_update(arg, false);
	return keep_to_bandwidth(arg, err);
}

/* Disks first: they take longer, and what of memory changes meanwhile need not be sent twice. */
static int send_changes(struct migrate_source *s, struct error *err)
{
	int r = migrate_mirror_send(&s->mirror, &s->wire, between_windows, s, err);

	return r ? r :
		   migrate_streams_send(&s->streams, &s->memory, &s->wire, between_windows,
					keep_to_bandwidth, s, err);
}

/* One round, up to the word that all of it has arrived. */
static int copy_round(struct migrate_source *s, uint64_t *ret_pages, struct error *err)
{
	uint64_t before_ns = clock_monotonic_ns(NULL), bytes = bytes_so_far(s), ns;
	uint64_t pages = pages_so_far(s), empty_ns = s->mirror.empty_ns;
	/* As migrate_streams.h's: what all have under way shares one link. */
	int patience_ms = (int)(s->wire.patience_ms * (s->streams.num + 1));
	struct migrate_record rec;
	int r = send_changes(s, err);

	if (!r)
		r = migrate_wire_send(&s->wire, MIGRATE_ROUND, s->report.rounds, NULL, 0, err);
	if (!r)
		r = migrate_wire_expect(&s->wire, MIGRATE_ROUND_DONE, &rec,
					s->mirror.num ? SYNC_MS : patience_ms, err);
	if (r < 0)
		return r;
	/* To read what is empty says nothing about the link. */
	empty_ns = s->mirror.empty_ns - empty_ns;
	ns = MAX(clock_monotonic_ns(NULL) - before_ns - empty_ns, 1u);
	bytes = bytes_so_far(s) - bytes;
	pages = pages_so_far(s) - pages;
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

/* What changed since it was sent, in pages. */
static int collect(struct migrate_source *s, uint64_t *ret_pending, struct error *err)
{
	uint64_t disks = migrate_mirror_collect(&s->mirror), pages;
	int r = migrate_memory_collect(&s->memory, &pages, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&s->lock);
	s->report.pending_pages = pages;
	s->report.pending_disk_bytes = disks;
	pthread_mutex_unlock(&s->lock);
	*ret_pending = pages + disks / PAGE_SIZE;
	return 0;
}

/* After a round, of which @pending pages are left: how fast they come, and what they would cost. */
static void guess(struct migrate_source *s, uint64_t pending)
{
	uint64_t now_ns = clock_monotonic_ns(NULL), ns = MAX(now_ns - s->watched_ns, 1u);

	s->watched_ns = now_ns;
	pthread_mutex_lock(&s->lock);
	s->report.dirty_bytes_per_second =
		(uint64_t)((__uint128_t)pending * PAGE_SIZE * NSEC_PER_SEC / ns);
	s->report.expected_ns = expected_ns(s, pending);
	pthread_mutex_unlock(&s->lock);
}

/*
 * After a round: is what it left to come when the guest runs there? @stalls counts rounds that left
 * more than half of what they sent.
 */
static bool is_late(const struct migrate_source *s, unsigned rounds, unsigned stalls)
{
	if (!s->can_be_late)
		return false;
	return s->params.postcopy == MIGRATE_POSTCOPY || stalls >= STALLS_MOST ||
	       rounds >= s->params.max_rounds;
}

/* Copy until the rest is small, or will not get smaller. */
static int copy_rounds(struct migrate_source *s, struct error *err)
{
	unsigned rounds, stalls = 0;
	uint64_t sent, pending;

	for (;;) {
		int r = copy_round(s, &sent, err);

		if (!r)
			r = collect(s, &pending, err);
		if (r)
			return r;
		guess(s, pending);
		rounds = migrate_source_report(s).rounds;
		migrate_source_update(s, true);
		/* The first is of all there is, and says nothing about how fast it changes. */
		stalls += rounds > 1 && pending > sent / 2;
		s->late = is_late(s, rounds, stalls);
		if (s->late && s->params.postcopy == MIGRATE_POSTCOPY)
			return 0;
		if (expected_ns(s, pending) <= s->params.downtime_ns) {
			s->late = false;
			return 0;
		}
		if (s->late || rounds >= s->params.max_rounds)
			return 0;
		if (rounds > 1 && !s->can_be_late)
			converge(s, sent, pending);
	}
}

static int watch_disks(struct migrate_source *s, struct error *err)
{
	struct migrate_mirror_disk disks[CONFIG_MAX_DISKS] = { 0 };
	unsigned num = s->m->config->num_disks;

	if (!s->params.copy_disks)
		return 0;
	for (unsigned i = 0; i < num; i++)
		if (s->copied[i])
			disks[i] = (struct migrate_mirror_disk){
				.block = migrate_disk_image(s->m, i),
				.fd = s->m->disk_fd[i],
				.bytes = s->disk_bytes[i],
				.path = s->m->config->disk[i].path,
			};
	return migrate_mirror_start(&s->mirror, disks, num, (int)s->params.level, err);
}

/* All but what changes until the guest stands still. */
static int copy_machine(struct migrate_source *s, struct error *err)
{
	int r = migrate_memory_start(&s->memory, s->m->mem, s->m->hv, s->params.level,
				     1 + s->streams.num, err);

	s->watched_ns = clock_monotonic_ns(NULL);
	if (!r && s->report.way == MIGRATE_WRITTEN)
		r = migrate_memory_write_to(&s->memory, s->wire.fd, err);
	if (!r)
		r = watch_disks(s, err);
	return r ? r : copy_rounds(s, err);
}

/* Two monitors of one host see the same page cache: nothing needs to be on the medium. */
static int sync_disks(struct migrate_source *s, struct error *err)
{
	return s->report.way == MIGRATE_COPIED ? migrate_sync_disks(s->m, s->copied, err) : 0;
}

/* Of disks what changed; of memory which pages come later. */
static int send_late_changes(struct migrate_source *s, struct error *err)
{
	int r = migrate_mirror_send(&s->mirror, &s->wire, between_windows, s, err);

	return r ? r : migrate_late_announce(s, err);
}

/* The destination's next word, while what it wants of memory is sent. */
static int expect(struct migrate_source *s, enum migrate_record_type type, int wait_ms,
		  struct error *err)
{
	struct migrate_record rec;

	return s->late ? migrate_late_expect(s, type, wait_ms, err) :
			 migrate_wire_expect(&s->wire, type, &rec, wait_ms, err);
}

/* With the guest standing still: the rest of it, up to the word that it could run there. */
static int send_rest(struct migrate_source *s, struct error *err)
{
	unsigned flags = (s->was_paused ? MIGRATE_STATE_PAUSED : 0) |
			 (s->late ? MIGRATE_STATE_POSTCOPY : 0);
	uint64_t pending;
	int r = 0;

	if (s->report.way != MIGRATE_SHARED)
		r = collect(s, &pending, err);
	if (!r && s->late)
		r = send_late_changes(s, err);
	else if (!r && s->report.way != MIGRATE_SHARED)
		r = send_changes(s, err);
	if (!r)
		r = sync_disks(s, err);
	if (!r)
		r = migrate_wire_send(&s->wire, MIGRATE_STATE, flags, s->state.buf, s->state.len,
				      err);
	return r ? r : expect(s, MIGRATE_PREPARED, PREPARE_MS, err);
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
	/* By itself, on the way to the pause: what was saved is a guest that has powered off. */
	else if (atomic_load(&s->m->ended))
		r = error_set(err, -ECANCELED, "migration: the guest ended");
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
	int r;

	/* Where it cannot be sent there may still be a last word to be read. */
	migrate_wire_send(&s->wire, MIGRATE_COMMIT, 0, NULL, 0, err);
	r = expect(s, MIGRATE_RUNNING, RUN_MS, err);
	if (s->late && (r == -EPIPE || r == -ECONNRESET))
		r = migrate_wire_last_words(&s->wire, r, err);
	if (r == -ECONNABORTED && migrate_lock_disks(s->m, NULL) == 0) {
		migrate_note(s->params.journal, MIGRATE_PHASE_RETURNED);
		migrate_source_set_phase(s, MIGRATE_FAILED);
		return r;
	}
	if (r < 0) {
		migrate_source_set_phase(s, MIGRATE_UNCONFIRMED);
		return r;
	}
	s->report.blackout_ns = clock_monotonic_ns(NULL) - s->pause_ns;
	if (s->late)
		return migrate_late_rest(s, err);
	migrate_note(s->params.journal, MIGRATE_PHASE_CONFIRMED);
	migrate_source_set_phase(s, MIGRATE_CONFIRMED);
	return 0;
}

static int go(struct migrate_source *s, struct error *err)
{
	int r = introduce(s, err);

	migrate_source_set_phase(s, MIGRATE_ROUNDS);
	if (!r && s->report.way != MIGRATE_SHARED)
		r = copy_machine(s, err);
	if (!r && s->late)
		r = migrate_late_begin(s, err);
	/* What is written until the pause is little then. */
	if (!r)
		r = sync_disks(s, err);
	if (!r)
		r = migrate_source_pause(s, err);
	if (r < 0)
		return r;
	migrate_source_set_phase(s, MIGRATE_PAUSED);
	pthread_mutex_lock(&s->lock);
	s->report.state_bytes = s->state.len;
	pthread_mutex_unlock(&s->lock);
	r = send_rest(s, err);
	if (!r)
		r = commit(s, err);
	return r ? r : hand_over(s, err);
}

/* The thread's last: what came of it. */
static void end(struct migrate_source *s, int r, const struct error *err)
{
	migrate_source_update(s, false);
	migrate_serve_done(&s->serve);
	migrate_memory_stop(&s->memory);
	migrate_mirror_stop(&s->mirror);
	fdatasync(s->params.journal);
	pthread_mutex_lock(&s->lock);
	s->result = r;
	s->err = *err;
	pthread_mutex_unlock(&s->lock);
	loop_post(s->m->loop, &s->finish);
}

void *migrate_source_run(void *arg)
{
	struct migrate_source *s = arg;
	struct error err = { 0 };
	int r = migrate_thread_begins(s->m->vcpus.sandbox, "migrate out", &err);

	r = r ? r : go(s, &err);
	if (r < 0 && migrate_source_report(s).phase < MIGRATE_COMMITTED) {
		if (r == -EPIPE || r == -ECONNRESET)
			r = migrate_wire_last_words(&s->wire, r, &err);
		migrate_source_set_phase(s, MIGRATE_FAILED);
		migrate_wire_give_up(&s->wire, &err);
	}
	end(s, r, &err);
	return NULL;
}

void *migrate_source_run_again(void *arg)
{
	struct migrate_source *s = arg;
	struct error err = { 0 };
	int r = migrate_thread_begins(s->m->vcpus.sandbox, "migrate out", &err);

	r = r ? r : migrate_late_again(s, &err);
	end(s, r, &err);
	return NULL;
}
