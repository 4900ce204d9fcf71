/*
 * {"do":"snapshot"}, {"do":"clone"} and what goes with them, from the monitor's side.
 *
 * The machine is paused, its state is taken into memory, and this process is
 * forked. In the copy nothing moves any more: it writes state and RAM out, or becomes
 * whatever is made from them (vmm/saved/clone.h), while the guest goes on here. So the
 * pause does not grow with the size of RAM.
 *
 * Between the pause and the fork the client gets its turn, to keep the disks
 * as they are at that moment: it is told by a progress message, and says that it is done by a
 * byte in the pipe that it sent along. An end of file there means that it failed.
 */
#include "vmm/control/control_snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/config/config_state.h"
#include "vmm/control/control_copy.h"
#include "vmm/core/io.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/machine/machine_state.h"
#include "vmm/monitor.h"
#include "vmm/sandbox/maker.h"
#include "vmm/saved/clone.h"
#include "vmm/saved/demand.h"
#include "vmm/saved/reset_devices.h"
#include "vmm/saved/reset_point.h"
#include "vmm/saved/snapshot_pages.h"
#include "vmm/saved/snapshot_track.h"

#define MAX_ID 64

/* What the writing copy reports when it is done. */
struct written {
	int r;
	struct guest_mem_saved memory;
	uint64_t state_bytes;
};

struct taking {
	struct control_call *call;
	struct machine *m;
	int state_fd, memory_fd; /* a snapshot's files */
	int pages_fd;		 /* which pages are in @memory_fd, when not all; or -1 */
	bool diff;		 /* only what changed is wanted */
	bool track;		 /* and of later ones too: what changes is to be known */
	const uint64_t *changed; /* what did, the track's; NULL: all is to be written */
	char id[MAX_ID + 1];	 /* or "": nobody will say that it is safe */
	int nursery_fd;		 /* a clone's, see vmm/saved/clone.h; else -1 */
	int go_fd;		 /* the client's turn is over */
	int done_fd;		 /* the writing copy's report */
	pid_t copy;
	bool stay_paused, was_paused;
	bool shared; /* RAM is, so that the guest stands still until it is written */
	uint64_t start_ns, pause_ns, fork_ns;
	uint64_t runs; /* the machine's, when it was saved */
	bool holding; /* it stays paused for us, whoever resumes it */
	struct state_writer state;
	struct loop_op go, done;
	struct loop_op *awaited; /* one of them; NULL: it waits for the pause */
	struct machine_settling settling;
	bool settles;		 /* and is not to be awaited, nor called off */
	bool ended;		 /* the machine did: whatever comes, nothing new begins */
};

static void close_if_open(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void free_taking(struct taking *t)
{
	close_if_open(&t->state_fd);
	close_if_open(&t->memory_fd);
	close_if_open(&t->pages_fd);
	close_if_open(&t->nursery_fd);
	close_if_open(&t->go_fd);
	close_if_open(&t->done_fd);
	state_writer_done(&t->state);
	free(t);
}

static void let_go(struct taking *t)
{
	if (t->holding)
		machine_release(t->m);
	t->holding = false;
}

static void go_on(struct taking *t)
{
	let_go(t);
	if (t->was_paused || !machine_is_paused(t->m))
		return;
	machine_resume(t->m);
	t->pause_ns = clock_monotonic_ns(NULL) - t->start_ns;
}

static void fail(struct taking *t, const struct error *err)
{
	go_on(t);
	control_fail_error(t->call, err);
	free_taking(t);
}

/* The machine has ended, and with it all that goes on. */
static void fail_ended(struct taking *t)
{
	let_go(t);
	control_fail_ended(t->call);
	free_taking(t);
}

static void cancel(void *arg)
{
	struct taking *t = arg;

	t->ended = true;
	if (t->awaited)
		loop_cancel(t->m->loop, t->awaited);
	else if (!t->settles)
		fail_ended(t);
}

static void await(struct taking *t, struct loop_op *op, int fd, short events)
{
	t->awaited = op;
	loop_poll(t->m->loop, op, fd, events);
}

/* ---- the copy ---- */

/* Without a file to tell which pages there are, holes have to. */
static int write_changed(const struct taking *t, struct guest_mem_saved *ret_saved)
{
	const struct guest_mem *mem = t->m->mem;
	struct state_writer w;
	int r = guest_mem_save_pages(t->m->mem, t->memory_fd, t->changed, t->pages_fd < 0,
				     ret_saved);

	if (r < 0 || t->pages_fd < 0)
		return r;
	state_writer_init(&w);
	snapshot_pages_write(&w, t->changed, mem->map_size >> PAGE_SHIFT);
	r = w.failed ? w.failed : io_write_at(t->pages_fd, w.buf, w.len, 0);
	state_writer_done(&w);
	return r;
}

static _Noreturn void write_copy(const struct taking *t, int report_fd)
{
	struct written w = { .state_bytes = t->state.len };

	control_copy_begin(t->call);
	w.r = t->changed ? write_changed(t, &w.memory)
			 : guest_mem_save(t->m->mem, t->memory_fd, &w.memory);
	if (!w.r)
		w.r = io_write_at(t->state_fd, t->state.buf, t->state.len, 0);
	_exit(write(report_fd, &w, sizeof(w)) != sizeof(w));
}

/* It has closed all its files, and so given its memory back: it is gone in a moment. */
static void reap(struct taking *t)
{
	maker_reap(t->m->maker, t->copy);
}

static void copy_done(struct loop_op *op, int res)
{
	struct taking *t = container_of(op, struct taking, done);
	struct written w;
	struct error err = { 0 };

	/* It writes on, and is gone when the monitor is: nobody waits for either. */
	if (t->ended && res < 0) {
		fail_ended(t);
		return;
	}
	if (read(t->done_fd, &w, sizeof(w)) != sizeof(w))
		w.r = -ECHILD;
	reap(t);
	if (w.r < 0) {
		error_set(&err, w.r, w.r == -ECHILD ? "the process that wrote memory was killed"
						    : "memory cannot be written: %m");
		fail(t, &err);
		return;
	}
	if (t->shared && !t->stay_paused)
		go_on(t);
	let_go(t);
	if (t->m->track) {
		snapshot_track_written(t->m->track, t->id);
		/* Who gave it no ID has nothing more to say of it. */
		if (!*t->id)
			snapshot_track_keep(t->m->track, t->id, "");
	}
	/* The client may be gone by now, or killed before it says what becomes of the guest. */
	if (t->stay_paused && !t->was_paused)
		control_keep_paused(t->call);
	control_reply(t->call, json_pack("{s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:I}",
					 "pause_us",
					 (json_int_t)(t->pause_ns / 1000), "fork_us",
					 (json_int_t)(t->fork_ns / 1000), "memory_bytes",
					 (json_int_t)w.memory.size, "stored_bytes",
					 (json_int_t)(w.memory.pages * PAGE_SIZE), "state_bytes",
					 (json_int_t)w.state_bytes, "diff", t->changed != NULL,
					 "tracked", t->m->track != NULL, "was_paused",
					 t->was_paused, "runs", (json_int_t)t->runs));
	free_taking(t);
}

static void be_copy(void *arg, int report_fd)
{
	const struct taking *t = arg;

	if (t->nursery_fd >= 0)
		clone_nursery(t->m, &t->state, t->nursery_fd, report_fd);
	write_copy(t, report_fd);
}

static int fork_copy(struct taking *t)
{
	uint64_t before = clock_monotonic_ns(NULL);

	t->copy = maker_fork(t->m->maker, be_copy, t, &t->done_fd);
	t->fork_ns = clock_monotonic_ns(NULL) - before;
	return t->copy < 0 ? t->copy : 0;
}

/* The nursery ends with the client's end of its socket; its parent only has to notice. */
static void nursery_ended(struct loop_op *op, int res)
{
	struct taking *t = container_of(op, struct taking, done);

	reap(t);
	t->m->forks.alive--;
	free_taking(t);
}

static void take(struct taking *t)
{
	struct error err = { 0 };
	int r = fork_copy(t);

	if (r < 0) {
		error_set(&err, r, "cannot fork: %m");
		fail(t, &err);
		return;
	}
	/* Memory that is mapped shared changes in the copy too. */
	if (!t->stay_paused && !t->shared)
		go_on(t);
	t->done.done = copy_done;
	if (t->nursery_fd >= 0) {
		close_if_open(&t->nursery_fd);
		t->done.done = nursery_ended;
		t->m->forks.alive++;
		t->m->forks.taken++;
		t->m->forks.pause_ns += t->pause_ns;
		t->m->forks.fork_ns += t->fork_ns;
		control_reply(t->call,
			      json_pack("{s:I, s:I}", "pause_us", (json_int_t)(t->pause_ns / 1000),
					"fork_us", (json_int_t)(t->fork_ns / 1000)));
		t->call = NULL;
	}
	/* The end of file, not the report: whoever has only written that may take long to end. */
	await(t, &t->done, t->done_fd, POLLHUP);
}

/* ---- up to it ---- */

static void client_done(struct loop_op *op, int res)
{
	struct taking *t = container_of(op, struct taking, go);
	struct error err = { 0 };
	char byte;

	if (t->ended) {
		fail_ended(t);
		return;
	}
	if (res >= 0 && read(t->go_fd, &byte, 1) == 1) {
		take(t);
		return;
	}
	error_set(&err, -ECANCELED, "given up: the disks could not be kept");
	fail(t, &err);
}

/*
 * What the manifest says of the machine, and what it builds on; or, of a complete one, the latest
 * of those that build on one another, none of which it should replace.
 */
static json_t *describe(const struct taking *t)
{
	const struct machine *m = t->m;
	const struct machine_config *c = m->config;
	json_t *devices = json_array(), *latest = NULL;
	struct snapshot_base base;

	if (m->track && snapshot_track_base(m->track, &base))
		latest = json_pack("{s:s, s:s}", "id", base.id, "path", base.path);

	for (unsigned i = 0; i < m->num_virtio; i++)
		json_array_append_new(devices, json_string(m->virtio[i].dev->id));
	return json_pack("{s:s, s:{s:s, s:i, s:I, s:s, s:s}, s:o, s:o*}", "wisp", WISP_VERSION,
			 "machine", "name", c->name, "cpus", c->cpus, "memory_bytes",
			 (json_int_t)config_memory_total(c), "cpu", x86_cpu_model_name(c->cpu),
			 "transport", c->transport == CONFIG_PCI ? "pci" : "mmio", "devices",
			 devices, t->changed ? "base" : "latest", latest);
}

/* From the first that is to be tracked on every snapshot is a base for the next. */
static int track(struct taking *t, struct error *err)
{
	struct machine *m = t->m;
	struct snapshot_base base;
	int r = 0;

	if (t->track && !m->track) {
		reset_point_lose_logs(m->point);
		r = snapshot_track_create(&m->track, m->mem, m->hv, err);
	}
	if (r < 0 || !m->track)
		return r;
	r = snapshot_track_take(m->track, t->id, err);
	if (r < 0) {
		snapshot_track_free(m->track);
		m->track = NULL;
	} else if (t->diff && snapshot_track_base(m->track, &base)) {
		t->changed = snapshot_track_changed(m->track);
	}
	return r;
}

/* Where memory that is still to come comes from, if that is a process that brings all of it. */
static struct demand *handler_of(const struct machine *m)
{
	const struct machine_image *image = m->monitor ? m->monitor->image : NULL;
	struct demand *d = image ? image->demand : NULL;

	return d && d->handed_over ? d : NULL;
}

/* In a copy of this process pages that are still to come would read as zero. */
static int make_whole(struct machine *m, struct error *err)
{
	struct demand *d = handler_of(m);
	uint64_t *pages = NULL;
	int r = d ? machine_plugged_pages(m, &pages) : 0;

	if (d && !r)
		r = demand_take_back(d, pages);
	free(pages);
	return r < 0 ? error_set(err, r, "the guest's memory cannot be had: %m") : 0;
}

/* It stands still, and so do its disks. */
static void save(struct taking *t)
{
	struct error err = { 0 };
	int r = make_whole(t->m, &err);

	if (!r)
		r = machine_save(t->m, &t->state, &err);
	if (!r && t->nursery_fd < 0)
		r = track(t, &err);
	if (r < 0) {
		fail(t, &err);
		return;
	}
	t->runs = t->m->runs;
	/* Its client does nothing before it is told, and so would both wait for ever. */
	if (!control_progress(t->call, describe(t))) {
		error_set(&err, -ENOMEM, "the client cannot be told that the guest is paused");
		fail(t, &err);
		return;
	}
	t->go.done = client_done;
	await(t, &t->go, t->go_fd, POLLIN);
}

static void disks_settled(struct machine_settling *s)
{
	struct taking *t = container_of(s, struct taking, settling);

	t->settles = false;
	if (t->ended)
		fail_ended(t);
	else if (s->err.code)
		fail(t, &s->err);
	else
		save(t);
}

static void paused(void *arg)
{
	struct taking *t = arg;

	machine_hold(t->m);
	t->holding = true;
	/* The client is to find them in their files. */
	t->settling.done = disks_settled;
	t->settles = machine_settle_disks(t->m, &t->settling);
	if (!t->settles)
		save(t);
}

static struct taking *new_taking(struct control_call *call)
{
	struct machine *m = control_machine(call);
	struct taking *t = calloc(1, sizeof(*t));

	if (!t) {
		control_fail(call, -ENOMEM, "no memory");
		return NULL;
	}
	*t = (struct taking){
		.call = call,
		.m = m,
		.state_fd = -1,
		.memory_fd = -1,
		.pages_fd = -1,
		.nursery_fd = -1,
		.done_fd = -1,
		.go_fd = control_take_fd(call, 0),
		.was_paused = machine_is_paused(m),
		.shared = m->config->memory_backing == GUEST_MEM_SHARED,
		.start_ns = clock_monotonic_ns(NULL),
	};
	state_writer_init(&t->state);
	control_on_end(call, cancel, t);
	return t;
}

/* Why a guest with files for memory cannot be copied: they are no part of it. NULL: it can. */
static const char *pmem_forbids(const struct machine_config *c, bool clone)
{
	for (unsigned i = 0; i < c->num_pmems; i++) {
		if (clone)
			return "a guest with persistent memory (--pmem) cannot be cloned";
		if (!c->pmem[i].read_only)
			return "a guest with persistent memory that it may write (--pmem) cannot "
			       "be saved: the file goes on changing; with --pmem PATH,ro it can";
	}
	return NULL;
}

static void begin(struct taking *t)
{
	const char *why = pmem_forbids(t->m->config, t->nursery_fd >= 0);
	struct error err = { 0 };

	if (!why)
		why = reset_devices_forbid_copy(t->m);
	if (why) {
		control_fail(t->call, -ENOTSUP, "%s", why);
		free_taking(t);
		return;
	}
	/* A clone reads its configuration from nowhere. */
	if (t->nursery_fd < 0 && config_check_saved(t->m->config, &err) < 0) {
		control_fail_error(t->call, &err);
		free_taking(t);
		return;
	}
	if (!guest_mem_is_whole(t->m->mem) && !handler_of(t->m)) {
		control_fail(t->call, -EBUSY,
			     "some of the guest's memory is still to come: try again later");
		free_taking(t);
		return;
	}
	/* The files of wisp test's command are nobody's once it has ended. */
	if (t->m->num_ports && !t->m->config->idle_ports) {
		control_fail(t->call, -ENOTSUP,
			     "a guest of wisp test can be neither saved nor cloned");
		free_taking(t);
		return;
	}
	if (t->was_paused)
		paused(t);
	else
		machine_pause(t->m, paused, t);
}

bool control_knows_devices(struct control_call *call)
{
	uint64_t now = control_machine(call)->generation, known;

	if (control_arg_number(call, "generation", now, INT64_MAX, &known) < 0)
		return false;
	if (known != now)
		control_fail(call, -ESTALE, "a device came or went meanwhile: try again");
	return known == now;
}

static void lacks_files(struct taking *t)
{
	control_fail(t->call, -EBADF, "the request came without its files");
	free_taking(t);
}

void control_verb_snapshot(struct control_call *call)
{
	struct taking *t;
	const char *id;
	bool stay, diff, track;

	if (control_arg_bool(call, "stay_paused", false, &stay) < 0 ||
	    control_arg_bool(call, "diff", false, &diff) < 0 ||
	    control_arg_bool(call, "track", diff, &track) < 0 ||
	    control_arg_string(call, "id", "", &id) < 0)
		return;
	if (strlen(id) > MAX_ID) {
		control_fail(call, -EINVAL, "an ID of more than %d characters", MAX_ID);
		return;
	}
	if (!control_knows_devices(call))
		return;
	t = new_taking(call);
	if (!t)
		return;
	t->stay_paused = stay;
	t->diff = diff;
	t->track = track || diff;
	memcpy(t->id, id, strlen(id) + 1);
	t->state_fd = control_take_fd(call, 1);
	t->memory_fd = control_take_fd(call, 2);
	t->pages_fd = control_take_fd(call, 3);
	if (t->go_fd < 0 || t->state_fd < 0 || t->memory_fd < 0)
		lacks_files(t);
	else
		begin(t);
}

void control_verb_track(struct control_call *call)
{
	struct machine *m = control_machine(call);
	struct error err = { 0 };
	const char *id, *path;

	if (control_arg_string(call, "id", "", &id) < 0 ||
	    control_arg_string(call, "path", "", &path) < 0)
		return;
	if (!machine_is_paused(m)) {
		control_fail(call, -EBUSY, "what changes can be watched from a pause on only");
		return;
	}
	snapshot_track_free(m->track);
	m->track = NULL;
	reset_point_lose_logs(m->point);
	if (snapshot_track_loaded(&m->track, m->mem, m->hv, id, path, &err) < 0) {
		control_fail_error(call, &err);
		return;
	}
	control_reply(call, NULL);
}

void control_verb_snapshot_kept(struct control_call *call)
{
	struct machine *m = control_machine(call);
	const char *id, *path;
	int r;

	if (control_arg_string(call, "id", "", &id) < 0 ||
	    control_arg_string(call, "path", "", &path) < 0)
		return;
	r = m->track ? snapshot_track_keep(m->track, id, path) : -ESTALE;
	if (r < 0)
		control_fail(call, r, r == -EBUSY ? "the snapshot is still being written"
						  : "the snapshot is not the latest one");
	else
		control_reply(call, NULL);
}

void control_verb_clone(struct control_call *call)
{
	struct machine *m = control_machine(call);
	struct taking *t;

	if (!control_knows_devices(call))
		return;
	if (m->config->memory_backing != GUEST_MEM_ANON) {
		control_fail(call, -ENOTSUP,
			     "a guest with --hugepages or --memory-backend shared cannot be "
			     "cloned: its memory cannot be shared copy-on-write");
		return;
	}
	t = new_taking(call);
	if (!t)
		return;
	t->nursery_fd = control_take_fd(call, 1);
	if (t->go_fd < 0 || t->nursery_fd < 0)
		lacks_files(t);
	else
		begin(t);
}

static json_t *describe_disk(const struct machine_config *c, const struct config_disk *d)
{
	return json_pack("{s:s, s:s, s:b, s:b, s:b}", "id", d->id, "path", d->path, "read_only",
			 d->read_only, "direct", d->direct, "raw", d->format == BLOCK_FORMAT_RAW);
}

void control_verb_disks(struct control_call *call)
{
	struct machine *m = control_machine(call);
	const struct machine_config *c = m->config;
	json_t *disks = json_array(), *args = json_array();

	for (unsigned i = 0; i < c->num_disks; i++)
		json_array_append_new(disks, describe_disk(c, &c->disk[i]));
	for (unsigned i = 0; i < c->num_args; i++)
		json_array_append_new(args, json_string(c->args[i]));
	control_reply_fds(call,
			  json_pack("{s:o, s:o, s:s, s:I}", "disks", disks, "args", args,
				    "directory", c->args_dir ? c->args_dir : "/", "generation",
				    (json_int_t)m->generation),
			  m->disk_fd, c->num_disks);
}

void control_verb_end(struct control_call *call)
{
	struct machine *m = control_machine(call);
	uint64_t runs;

	if (control_arg_number(call, "runs", m->runs, INT64_MAX, &runs) < 0)
		return;
	if (runs != m->runs) {
		control_fail(call, -ESTALE, "it has gone on, or a disk was resized, since it was "
					    "saved: it was not ended");
		return;
	}
	control_reply_at_end(call);
	machine_end(m, MACHINE_END_ASKED, 0, NULL);
}
