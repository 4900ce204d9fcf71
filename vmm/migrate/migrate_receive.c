/*
 * The side that gets a guest. A thread receives, while the loop serves the control socket; the
 * state is loaded on the loop's thread, where the machine was built. Until the commit this machine
 * has no lock on a disk and writes nothing but its memory, and copies of disks that nobody can
 * see yet.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "virtio/virtio_devices.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/machine/machine_state.h"
#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_copies.h"
#include "vmm/migrate/migrate_fill.h"
#include "vmm/migrate/migrate_memory.h"
#include "vmm/migrate/migrate_mirror.h"
#include "vmm/migrate/migrate_streams.h"
#include "vmm/migrate/migrate_thread.h"

/* How long the source may pause between two records: it waits for its disks, or is limited. */
#define RECORD_MS 60000

struct receiver {
	struct machine *m;
	const struct migrate_arrival *arrival;
	const struct x86_cpuid *host;
	struct migrate_wire *wire;
	struct migrate_sink sink;
	struct migrate_streams_sink streams; /* besides @wire */
	struct migrate_mirror_sink disks;
	pthread_t thread;
	int wake_fd;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool loaded;   /* under the lock: the loop has loaded the state, with @load_result */
	int load_result;
	bool by_hand;  /* the loop's: the commit came by the control socket */

	uint8_t *state; /* STATE's sections */
	size_t state_len;
	bool stay_paused;
	bool late; /* the thread's: some pages come when the guest runs */

	struct loop_task load, over;
	bool is_over; /* the loop's: the thread has ended, with @result and @err */
	int result;
	struct error err;
};

int migrate_read_hello(struct state_set *state, struct migrate_hello *ret, struct error *err)
{
	struct migrate_hello hello = { 0 };
	struct state_reader r;
	int ret_r = state_set_take(state, "migrate", 0, MIGRATE_VERSION, &r, err);

	if (ret_r < 0)
		return ret_r;
	state_get_bytes(&r, hello.uuid, sizeof(hello.uuid));
	state_get_string(&r, hello.name, sizeof(hello.name));
	hello.memory_bytes = state_get_u64(&r);
	hello.populated_bytes = state_get_u64(&r);
	hello.num_disks = state_get_u32(&r);
	if (hello.num_disks > CONFIG_MAX_DISKS)
		state_reader_fail(&r, "%u disks", hello.num_disks);
	for (unsigned i = 0; i < hello.num_disks && !r.failed; i++)
		hello.disk_bytes[i] = state_get_u64(&r);
	if (r.version > 1)
		hello.way = state_get_u8(&r);
	if (hello.way > MIGRATE_WRITTEN)
		state_reader_fail(&r, "way %u of memory", hello.way);
	for (unsigned i = 0; i < hello.num_disks && r.version > 2 && !r.failed; i++)
		hello.disk_comes[i] = state_get_u8(&r);
	hello.streams = r.version > 3 ? state_get_u8(&r) : 1;
	if (hello.streams < 1 || hello.streams > MIGRATE_MAX_STREAMS)
		state_reader_fail(&r, "%u streams", hello.streams);
	hello.postcopy = r.version > 4 && state_get_bool(&r);
	hello.late_streams = r.version > 5 && state_get_bool(&r);
	if (!r.failed && hello.populated_bytes > hello.memory_bytes)
		state_reader_fail(&r, "more memory in use than there is");
	ret_r = state_reader_end(&r, err);
	if (!ret_r)
		*ret = hello;
	return ret_r;
}

/*
 * An image that both sides have open and the guest writes, with parts of it in the memory of
 * whoever that is, the source until now: NULL where disk @i is none.
 */
static struct block *image_of_tables(const struct receiver *rx, unsigned i)
{
	struct block *image = migrate_disk_image(rx->m, i);

	if (!image || rx->arrival->hello.disk_comes[i] || !block_keeps_tables(image))
		return NULL;
	return image;
}

static int check_tables(const struct receiver *rx, unsigned i, struct error *err)
{
	const struct config_disk *d = &rx->m->config->disk[i];

	if (!d->direct || !image_of_tables(rx, i))
		return 0;
	return error_set(err, -ENOTSUP,
			 "disk '%s': of format qcow2 and with direct I/O here, which cannot be "
			 "written by a guest that moves",
			 d->path);
}

/* What we read of them at first is old. The source has written all before it sent its state. */
static int reload_disks(const struct receiver *rx, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < rx->m->config->num_disks && !r; i++) {
		struct block *image = image_of_tables(rx, i);

		if (image)
			r = block_reload(image, rx->m->disk_fd[i], err);
	}
	return r;
}

static int check_disks(const struct receiver *rx, struct error *err)
{
	const struct migrate_hello *hello = &rx->arrival->hello;
	const struct machine_config *c = rx->m->config;

	if (hello->num_disks != c->num_disks)
		return error_set(err, -EINVAL, "%u disks there, %u here", hello->num_disks,
				 c->num_disks);
	for (unsigned i = 0; i < c->num_disks; i++) {
		uint64_t bytes = migrate_disk_bytes(rx->m, i);
		int r = check_tables(rx, i, err);

		if (r < 0)
			return r;
		if (bytes != hello->disk_bytes[i])
			return error_set(err, -EINVAL,
					 "disk '%s': %llu bytes here, %llu bytes there",
					 c->disk[i].path, (unsigned long long)bytes,
					 (unsigned long long)hello->disk_bytes[i]);
	}
	return 0;
}

/* ---- what the loop does ---- */

static int load_state(struct receiver *rx, struct error *err)
{
	struct machine_image image = {
		.memory_fd = -1,
		.clock = MACHINE_CLOCK_REALTIME,
		.same_identity = true,
	};
	struct state_set set = { 0 };
	struct state_reader config;
	int r = state_set_open(&set, rx->state, rx->state_len, err);

	image.state = &set;
	if (!r)
		r = machine_check_state(&set, err);
	/* We are built by the one in HELLO; what is not as it says will not load. */
	if (!r)
		r = state_set_take(&set, "machine/config", 0, UINT32_MAX, &config, err);
	if (!r)
		r = reload_disks(rx, err);
	if (!r)
		r = machine_load(rx->m, &image, rx->host, err);
	state_set_close(&set);
	return r;
}

static void load(struct loop_task *task)
{
	struct receiver *rx = container_of(task, struct receiver, load);
	int r = load_state(rx, &rx->err);

	pthread_mutex_lock(&rx->lock);
	rx->loaded = true;
	rx->load_result = r;
	pthread_cond_broadcast(&rx->changed);
	pthread_mutex_unlock(&rx->lock);
}

static void over(struct loop_task *task)
{
	container_of(task, struct receiver, over)->is_over = true;
}

/* ---- the thread ---- */

static int load_on_loop(struct receiver *rx, struct error *err)
{
	int r;

	loop_post(rx->m->loop, &rx->load);
	pthread_mutex_lock(&rx->lock);
	while (!rx->loaded)
		pthread_cond_wait(&rx->changed, &rx->lock);
	r = rx->load_result;
	if (r < 0)
		*err = rx->err;
	pthread_mutex_unlock(&rx->lock);
	return r;
}

/* May pages come when the guest runs here? */
static bool can_be_late(const struct receiver *rx, struct error *err)
{
	return rx->arrival->way == MIGRATE_COPIED &&
	       migrate_fill_can(rx->arrival->fill, rx->m, err);
}

/* Which pages those are: nothing but more of that and the state comes before they do. */
static int take_missing(struct receiver *rx, const struct migrate_record *rec, struct error *err)
{
	if (!can_be_late(rx, &(struct error){ 0 }))
		return error_set(err, -EBADMSG, "migration: missing pages, which is not agreed");
	rx->late = true;
	return migrate_fill_expect(rx->arrival->fill, rx->m, rec, err);
}

static int take_state(struct receiver *rx, const struct migrate_record *rec, struct error *err)
{
	bool late = rec->page & MIGRATE_STATE_POSTCOPY;

	if ((rec->page & ~(uint64_t)(MIGRATE_STATE_PAUSED | MIGRATE_STATE_POSTCOPY)) ||
	    (late ? !can_be_late(rx, &(struct error){ 0 }) : rx->late))
		return error_set(err, -EBADMSG, "migration: a STATE that makes no sense");
	rx->late = late;
	rx->stay_paused = rec->page & MIGRATE_STATE_PAUSED;
	rx->state = malloc(MAX(rec->len, 1u));
	if (!rx->state)
		return error_set(err, -ENOMEM, "migration: %m");
	memcpy(rx->state, rec->payload, rec->len);
	rx->state_len = rec->len;
	return 0;
}

/* What was sent of disks is on the medium before the source hears that it arrived. */
static int end_round(struct receiver *rx, uint64_t round, struct error *err)
{
	int r = migrate_mirror_sink_sync(&rx->disks, err);

	return r ? r : migrate_wire_send(rx->wire, MIGRATE_ROUND_DONE, round, NULL, 0, err);
}

/* Everything up to STATE over the first stream. */
static int receive_first(struct receiver *rx, struct error *err)
{
	struct migrate_record rec;

	for (;;) {
		int r = migrate_wire_receive(rx->wire, &rec, RECORD_MS, err);

		if (!r && rx->late && rec.type != MIGRATE_MISSING && rec.type != MIGRATE_STATE)
			r = error_set(err, -EBADMSG, "migration: a record out of place");
		if (r < 0)
			return r;
		switch (rec.type) {
		case MIGRATE_PAGES:
		case MIGRATE_PAGES_ZSTD:
			r = migrate_sink_take(&rx->sink, &rec, err);
			break;
		case MIGRATE_DISK:
		case MIGRATE_DISK_ZSTD:
		case MIGRATE_DISK_ZEROES:
			r = migrate_mirror_sink_take(&rx->disks, &rec, err);
			break;
		case MIGRATE_ROUND:
			r = end_round(rx, rec.page, err);
			break;
		case MIGRATE_MISSING:
			r = take_missing(rx, &rec, err);
			break;
		case MIGRATE_STATE:
			return take_state(rx, &rec, err);
		default:
			r = error_set(err, -EBADMSG, "migration: a record out of place");
			break;
		}
		if (r < 0)
			return r;
	}
}

/* Everything up to STATE, when the source has been told that all of memory is here. */
static int receive_memory(struct receiver *rx, struct error *err)
{
	struct error why = { 0 };
	int r = receive_first(rx, err), streams = migrate_streams_end(&rx->streams, &why);

	/* A stream that failed has woken us. */
	if (streams < 0 && (!r || r == -ECANCELED)) {
		*err = why;
		r = streams;
	}
	return r;
}

/*
 * Ready to run, and waiting for the word. A source that changed its mind says so. When the
 * connection is lost nobody here can know which it was: then we wait for somebody who does.
 */
static int await_commit(struct receiver *rx, struct error *err)
{
	struct migrate_record rec;
	int r = migrate_note(rx->arrival->journal, MIGRATE_PHASE_PREPARED);

	if (r < 0)
		return error_set(err, r, "migration: the journal cannot be written: %m");
	if (rx->late) {
		r = migrate_fill_await_commit(rx->arrival->fill, err);
	} else {
		r = migrate_wire_send(rx->wire, MIGRATE_PREPARED, 0, NULL, 0, err);
		/* A source that was not told all of this does not commit. */
		if (r < 0)
			return r;
		r = migrate_wire_expect(rx->wire, MIGRATE_COMMIT, &rec, -1, err);
	}
	if (rx->late && r != -EINPROGRESS)
		return r;
	if (!r || r == -ECONNABORTED || r == -ECANCELED)
		return r;
	log_warn("%s; whether the guest was handed over is not known here. "
		 "'wisp migrate --recover' on both hosts settles it",
		 err->msg);
	return -EINPROGRESS;
}

/* READY: which way memory takes, and whether, or why not, some of it may come late. */
static int say_ready(struct receiver *rx, struct error *err)
{
	enum migrate_way way = rx->arrival->way;
	struct error why = { 0 };
	bool late = can_be_late(rx, &why);

	return migrate_wire_send_fd(rx->wire, MIGRATE_READY,
				    way | (late ? MIGRATE_READY_POSTCOPY : 0), why.msg,
				    MIN(strlen(why.msg), (size_t)MIGRATE_MAX_TEXT),
				    way == MIGRATE_WRITTEN ? rx->m->mem->fd : -1, err);
}

/* The state into the machine; what it needs of memory comes, where that comes late. */
static int load_machine(struct receiver *rx, struct error *err)
{
	const struct migrate_arrival *arrival = rx->arrival;
	struct migrate_fill *fill = arrival->fill;
	int r = 0, failed;

	if (rx->late && arrival->hello.late_streams)
		migrate_fill_take_streams(fill, arrival->more, arrival->hello.streams - 1);
	if (rx->late)
		r = migrate_fill_start(fill, rx->m, rx->wire, arrival->journal,
				       arrival->hello.uuid, err);
	if (!r)
		r = load_on_loop(rx, err);
	failed = rx->late && migrate_fill_is_on(fill) ? migrate_fill_check(fill, err) : 0;
	return failed ? failed : r;
}

static int receive(struct receiver *rx, struct error *err)
{
	int r = migrate_wire_greet(rx->wire, err);

	if (!r)
		r = say_ready(rx, err);
	if (!r)
		r = receive_memory(rx, err);
	if (!r)
		r = load_machine(rx, err);
	if (!r)
		r = migrate_mirror_sink_sync(&rx->disks, err);
	return r ? r : await_commit(rx, err);
}

static void *run(void *arg)
{
	struct receiver *rx = arg;
	struct error err = { 0 };
	int r = migrate_thread_begins(rx->m->vcpus.sandbox, "migrate in", &err);

	rx->result = r ? r : receive(rx, &err);
	rx->err = err;
	loop_post(rx->m->loop, &rx->over);
	return NULL;
}

/* ---- the machine's side ---- */

/* Serve the loop until the thread is over and, where only a person can tell, was told. */
static int await(struct receiver *rx, struct error *err)
{
	struct machine *m = rx->m;

	while (!rx->is_over && !atomic_load(&m->ended))
		loop_run_once(m->loop, UINT64_MAX);
	if (!rx->is_over) {
		/* It may be waiting for us to load, or for the other side. */
		if (eventfd_write(rx->wake_fd, 1) < 0)
			log_warn("migration: cannot be stopped: %m");
		while (!rx->is_over)
			loop_run_once(m->loop, UINT64_MAX);
	}
	pthread_join(rx->thread, NULL);
	m->commit_by_hand = rx->result == -EINPROGRESS;
	while (m->commit_by_hand && !atomic_load(&m->ended))
		loop_run_once(m->loop, UINT64_MAX);
	if (atomic_load(&m->ended))
		return error_set(err, -ECANCELED, "ended before the guest was handed over");
	if (rx->result != -EINPROGRESS)
		*err = rx->err;
	return rx->result == -EINPROGRESS ? 0 : rx->result;
}

static int start(struct receiver *rx, struct error *err)
{
	int r = migrate_sink_init(&rx->sink, rx->m->mem, err);

	if (!r)
		r = migrate_mirror_sink_init(&rx->disks, err);
	if (r < 0)
		return r;
	if (rx->arrival->copies)
		migrate_copies_receive(rx->arrival->copies, &rx->disks);
	rx->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (rx->wake_fd < 0)
		return error_set(err, -errno, "migration: %m");
	rx->wire->wake_fd = rx->wake_fd;
	r = migrate_streams_receive(&rx->streams, rx->arrival->more,
				    rx->arrival->hello.streams - 1, rx->m->mem, NULL,
				    rx->m->vcpus.sandbox, rx->wake_fd, err);
	if (r < 0)
		return r;
	r = pthread_create(&rx->thread, NULL, run, rx);
	if (!r)
		return 0;
	migrate_streams_end(&rx->streams, err);
	return error_set(err, -r, "migration: its thread: %m");
}

/* Not by a thread of the migration, which may not be spoken to by anybody else. */
static void open_door(struct migrate_fill *fill)
{
	struct error err = { 0 };

	if (migrate_door_open(&fill->door, fill->sandbox, &err) < 0)
		log_warn("%s; nobody is heard while memory is waited for", err.msg);
}

/* Ours, with what is still to come, or not. */
static void end_late(struct receiver *rx, int r)
{
	struct migrate_fill *fill = rx->arrival->fill;

	if (r < 0)
		migrate_fill_abandon(fill, rx->wire);
	if (r < 0 || !rx->late)
		migrate_fill_stop(fill);
	if (r < 0 || !rx->late)
		return;
	rx->m->fill = fill;
	migrate_fill_commit(fill);
}

int migrate_receive(struct machine *m, const struct migrate_arrival *arrival,
		    const struct x86_cpuid *host, struct error *err)
{
	struct receiver rx = {
		.m = m,
		.arrival = arrival,
		.host = host,
		.wire = arrival->wire,
		.wake_fd = -1,
		.load.run = load,
		.over.run = over,
	};
	int r = check_disks(&rx, err);

	pthread_mutex_init(&rx.lock, NULL);
	pthread_cond_init(&rx.changed, NULL);
	if (!r && arrival->fill)
		open_door(arrival->fill);
	if (!r)
		r = start(&rx, err);
	if (!r)
		r = await(&rx, err);
	/* The source let go of them before it committed. */
	if (!r)
		r = migrate_lock_disks(m, err);
	/* From here on others can see them. */
	if (!r && arrival->copies)
		r = migrate_copies_publish(arrival->copies, m->loop, err);
	if (!r) {
		r = migrate_note(arrival->journal,
				 rx.late ? MIGRATE_PHASE_FILLING : MIGRATE_PHASE_RUNNING);
		if (r < 0)
			error_set(err, r, "migration: the journal cannot be written: %m");
	}
	/* It is ours now, whatever happens; what comes next may wait for pages of its memory. */
	rx.wire->wake_fd = -1;
	if (arrival->fill)
		end_late(&rx, r);
	/* This host's counter is not the one that it knew. */
	if (!r && machine_time_jumped(m) < 0)
		log_warn("migration: the guest cannot be told that its time may have jumped");
	/* Who ended before the first record has not done it; else there are none. */
	migrate_streams_end(&rx.streams, &(struct error){ 0 });
	if (rx.wake_fd >= 0)
		close(rx.wake_fd);
	migrate_sink_done(&rx.sink);
	migrate_mirror_sink_done(&rx.disks);
	free(rx.state);
	pthread_cond_destroy(&rx.changed);
	pthread_mutex_destroy(&rx.lock);
	m->arriving = r < 0;
	m->arrives_paused = rx.stay_paused;
	return r;
}

int migrate_commit_here(struct machine *m, struct error *err)
{
	if (!m->commit_by_hand)
		return error_set(err, -EINVAL, "this microVM does not wait to be told that it was "
					       "handed over");
	m->commit_by_hand = false;
	return 0;
}

void migrate_arrived(struct machine *m, const struct migrate_arrival *arrival, int result,
		     const struct error *err)
{
	struct error lost = { 0 };

	/* The source may want its locks back as soon as it hears of it. */
	if (result < 0 && m)
		migrate_unlock_disks(m);
	if (result < 0 && arrival->fill)
		migrate_fill_abandon(arrival->fill, arrival->wire);
	if (result < 0)
		migrate_note(arrival->journal, MIGRATE_PHASE_GIVEN_UP);
	if (result < 0)
		migrate_refuse(arrival, err);
	else if (migrate_fill_is_on(arrival->fill))
		migrate_fill_run(arrival->fill);
	else if (migrate_wire_send(arrival->wire, MIGRATE_RUNNING, 0, NULL, 0, &lost) < 0)
		log_info("%s; the guest runs all the same", lost.msg);
	fdatasync(arrival->journal);
	if (arrival->copies)
		migrate_copies_close(arrival->copies);
	migrate_arrival_close(arrival);
}

void migrate_arrival_close(const struct migrate_arrival *arrival)
{
	migrate_wire_done(arrival->wire);
	for (unsigned i = 0; arrival->more && i + 1 < arrival->hello.streams; i++)
		migrate_wire_done(&arrival->more[i]);
}

void migrate_refuse(const struct migrate_arrival *arrival, const struct error *err)
{
	struct error ignored;

	/* Before the first record there is the greeting. */
	if (arrival->wire->next_out == 0)
		migrate_wire_greet(arrival->wire, &ignored);
	migrate_wire_give_up(arrival->wire, err);
}
