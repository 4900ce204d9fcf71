/*
 * Fuzz target (libFuzzer): the conversation of who receives a guest (migrate_receive.h) with a
 * source that is an enemy: records on several connections in any order, states that were changed,
 * and ends where nobody expects them. The machine has no processors that run.
 *
 * Whatever is sent, it comes to an end; the guest is ours only when the source, or a person, has
 * said so; and what the source hears is in order: READY, then PREPARED at most once, RUNNING only
 * if it is so, and words last.
 */
#include "tests/fuzz/fuzz_receive.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/config/config_state.h"
#include "vmm/hypervisor/hv_null.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/machine/machine_state.h"
#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_copies.h"

#define MEMORY	    (4 * MiB)
#define DISK_BYTES  (128 * KiB)
#define MAX_LANES   4
#define MAX_SECTION 64

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- a machine that could come, saved once ---- */

struct section {
	char name[48];
	uint32_t instance, version;
	size_t at, len;
};

static struct {
	uint8_t *bytes;
	size_t len;
	struct section section[MAX_SECTION];
	unsigned num;
} saved;

static struct state_writer kind; /* what HELLO says of it */

static int new_file(uint64_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, size) < 0)
		abort();
	return fd;
}

/* Sections as vmm/core/state.c writes them: a header of 80 bytes, see fuzz_state.c. */
static void find_sections(const struct state_writer *w)
{
	size_t at = 0;

	saved.bytes = malloc(w->len);
	saved.len = w->len;
	if (!saved.bytes)
		abort();
	memcpy(saved.bytes, w->buf, w->len);
	while (at + 80 <= w->len && saved.num < MAX_SECTION) {
		struct section *s = &saved.section[saved.num];

		s->version = get_le32(w->buf + at + 4);
		s->instance = get_le32(w->buf + at + 8);
		s->len = get_le64(w->buf + at + 16);
		s->at = at + 80;
		memcpy(s->name, w->buf + at + 32, sizeof(s->name) - 1);
		at = s->at + s->len;
		/* The last one is the writer's. */
		if (strcmp(s->name, "end") != 0)
			saved.num++;
	}
	if (at != w->len)
		abort();
}

/* What is this host's to say. */
static void add_host_side(struct machine_config *c)
{
	c->serial_present = true;
	c->console.kind = c->serial.kind = CHARDEV_NULL;
	c->loop = LOOP_EPOLL;
}

static void parse_config(struct machine_config *c)
{
	static const char *const args[] = { "--memory", "32M",	    "--disk", "/none",
					    "--kernel", "/none", "--net",  "none" };

	config_init(c);
	if (config_parse_run(c, ARRAY_SIZE(args), (char *const *)args, NULL) < 0)
		abort();
	c->memory_bytes = MEMORY;
	add_host_side(c);
}

static void set_flag(void *arg)
{
	*(bool *)arg = true;
}

static void save_one(void)
{
	struct machine_params params = { .layout_only = true };
	struct machine_config config;
	struct machine_files files;
	struct state_writer w;
	struct error err = { 0 };
	struct machine *m;
	bool paused = false;

	parse_config(&config);
	machine_files_init(&files);
	files.disk[0] = new_file(DISK_BYTES);
	params.config = &config;
	params.files = &files;
	if (hv_null_create(&params.hv) < 0 || machine_create(&m, &params, &err) < 0)
		abort();
	machine_pause(m, set_flag, &paused);
	while (!paused)
		loop_run_once(machine_loop(m), UINT64_MAX);
	state_writer_init(&w);
	if (machine_save(m, &w, &err) < 0)
		abort();
	find_sections(&w);
	state_writer_done(&w);
	state_writer_init(&kind);
	machine_save_kind(m, &kind);
	state_seal(&kind);
	machine_free(m);
	machine_files_close(&files);
	config_done(&config);
}

/* Its state with the changes in the input, and checksums that are right. */
static void change_state(const uint8_t *data, size_t size, struct state_writer *w)
{
	uint8_t *bytes = malloc(saved.len);

	if (!bytes)
		abort();
	memcpy(bytes, saved.bytes, saved.len);
	for (; size >= FUZZ_RECEIVE_CHANGE_BYTES; size -= FUZZ_RECEIVE_CHANGE_BYTES) {
		const struct section *s = &saved.section[data[0] % saved.num];

		if (s->len)
			bytes[s->at + get_le16(data + 1) % s->len] = data[3];
		data += FUZZ_RECEIVE_CHANGE_BYTES;
	}
	state_writer_init(w);
	for (unsigned i = 0; i < saved.num; i++) {
		const struct section *s = &saved.section[i];

		state_begin(w, s->name, s->instance, s->version);
		state_put_bytes(w, bytes + s->at, s->len);
		state_end(w);
	}
	state_seal(w);
	free(bytes);
}

/* ---- the source ---- */

struct run {
	uint8_t flags;
	unsigned lanes;
	struct migrate_wire there[MAX_LANES], here[MAX_LANES];
	bool commit_sent; /* somewhere in what was sent */
	struct machine_config config;
	struct machine_files files;
	struct state_set hello;
	struct migrate_arrival arrival;
	struct migrate_copies copies;
	struct machine *m;
	struct loop_timer look;
	bool by_hand; /* a person said that it is ours */
};

static void open_wires(struct migrate_wire *a, struct migrate_wire *b)
{
	int pair[2], large = 8 * MiB;
	struct error err = { 0 };

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large));
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large));
	if (migrate_wire_init(a, pair[0], pair[0], &err) < 0 ||
	    migrate_wire_init(b, pair[1], pair[1], &err) < 0)
		abort();
	a->patience_ms = b->patience_ms = 0;
}

static void send_record(struct run *r, const uint8_t *head, const uint8_t *payload, size_t len)
{
	struct migrate_wire *w = &r->there[(head[0] >> 6) % r->lanes];
	enum migrate_record_type type = 1 + (head[0] & 63) % (MIGRATE_NUM_TYPES - 1);
	uint64_t page = (uint64_t)((int64_t)(int8_t)head[1] * 64);
	struct state_writer state;
	struct error err = { 0 };

	r->commit_sent |= type == MIGRATE_COMMIT;
	if (type != MIGRATE_STATE || len % 2) {
		migrate_wire_send(w, type, page, payload, len, &err);
		return;
	}
	change_state(payload, len, &state);
	migrate_wire_send(w, type, (uint64_t)(int8_t)head[1], state.buf, state.len, &err);
	state_writer_done(&state);
}

static void send_all(struct run *r, const uint8_t *data, size_t size)
{
	if (r->flags & FUZZ_RECEIVE_RAW) {
		/* A COMMIT may be among them. */
		r->commit_sent = true;
		(void)!write(r->there[0].out, data, size);
		size = 0;
	}
	while (size >= FUZZ_RECEIVE_RECORD_BYTES) {
		size_t len = MIN((size_t)get_le16(data + 2), size - FUZZ_RECEIVE_RECORD_BYTES);

		send_record(r, data, data + FUZZ_RECEIVE_RECORD_BYTES, len);
		data += FUZZ_RECEIVE_RECORD_BYTES + len;
		size -= FUZZ_RECEIVE_RECORD_BYTES + len;
	}
	/* One of the others that ends is a failure. */
	for (unsigned i = 0; i < (r->flags & FUZZ_RECEIVE_CUT ? r->lanes : 1); i++)
		shutdown(r->there[i].out, SHUT_WR);
}

/* What the destination said, after the greeting: in order, and true. */
static void check_answers(struct run *r, bool ours)
{
	struct migrate_wire *w = &r->there[0];
	unsigned ready = 0, prepared = 0, running = 0;
	struct migrate_record rec;
	struct error err = { 0 };
	int got;

	if (migrate_wire_expect_greeting(w, 0, &err) < 0)
		abort();
	while ((got = migrate_wire_receive(w, &rec, 0, &err)) == 0) {
		if (running || (rec.type != MIGRATE_READY && !ready))
			abort();
		switch (rec.type) {
		case MIGRATE_READY:
			ready++;
			break;
		case MIGRATE_ROUND_DONE:
			if (prepared)
				abort();
			break;
		case MIGRATE_PREPARED:
			prepared++;
			break;
		case MIGRATE_RUNNING:
			running++;
			break;
		default:
			abort();
		}
	}
	/* Words, the end, or a record that did not fit into the socket. */
	if (ready > 1 || prepared > 1 || (running && !(ours && prepared)) ||
	    (ours && got == -ECONNABORTED))
		abort();
}

/* ---- the destination ---- */

/* Whoever waits for a person. */
static void look(struct loop_timer *t)
{
	struct run *r = container_of(t, struct run, look);
	struct error err = { 0 };

	if (!r->m->commit_by_hand) {
		loop_timer_set(r->m->loop, t, clock_monotonic_ns(r->m->clock) + NSEC_PER_MSEC);
		return;
	}
	r->by_hand = r->flags & FUZZ_RECEIVE_BY_HAND;
	if (!r->by_hand)
		machine_end(r->m, MACHINE_END_ASKED, 0, NULL);
	else if (migrate_commit_here(r->m, &err) < 0)
		abort();
}

static void arrange(struct run *r)
{
	struct migrate_arrival *a = &r->arrival;
	bool shared = r->flags & FUZZ_RECEIVE_SHARED;
	static char path[] = "disk";

	a->wire = &r->here[0];
	a->more = r->here + 1;
	a->journal = -1;
	a->way = shared ? MIGRATE_WRITTEN : MIGRATE_COPIED;
	a->hello.streams = r->lanes;
	a->hello.memory_bytes = MEMORY;
	a->hello.num_disks = 1;
	a->hello.disk_bytes[0] = DISK_BYTES - (r->flags & FUZZ_RECEIVE_OTHER ? 512 : 0);
	migrate_copies_init(&r->copies);
	if (!(r->flags & FUZZ_RECEIVE_COPIES))
		return;
	a->hello.disk_comes[0] = true;
	a->copies = &r->copies;
	r->copies.num = 1;
	/* There is no parent who would give it its name. */
	r->copies.copy[0].file = (struct late_file){ .fd = dup(r->files.disk[0]), .path = path };
	r->copies.copy[0].bytes = DISK_BYTES;
}

static void create_machine(struct run *r)
{
	struct machine_image image = { .state = &r->hello,
				       .arrival = &r->arrival,
				       .memory_fd = -1,
				       .clock = MACHINE_CLOCK_REALTIME,
				       .same_identity = true };
	struct machine_params params = { .config = &r->config,
					 .files = &r->files,
					 .image = &image };
	struct error err = { 0 };

	if (state_set_open(&r->hello, kind.buf, kind.len, &err) < 0 ||
	    machine_check_state(&r->hello, &err) < 0)
		abort();
	config_init(&r->config);
	if (config_load(&r->config, &r->hello, &err) < 0)
		abort();
	add_host_side(&r->config);
	if (r->flags & FUZZ_RECEIVE_SHARED)
		r->config.memory_backing = GUEST_MEM_SHARED;
	if (hv_null_create(&params.hv) < 0 || machine_create(&r->m, &params, &err) < 0)
		abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	/* As in the monitor: one who does not listen is an error, and no end of ours. */
	signal(SIGPIPE, SIG_IGN);
	log_setup(STDERR_FILENO, LOG_ERROR);
	save_one();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct run r;
	struct error err = { 0 };
	int result;

	if (size < 1)
		return 0;
	r = (struct run){ .flags = data[0], .lanes = 1 + (data[0] >> 4) % MAX_LANES };
	r.look.expired = look;
	machine_files_init(&r.files);
	r.files.disk[0] = new_file(DISK_BYTES);
	for (unsigned i = 0; i < r.lanes; i++)
		open_wires(&r.there[i], &r.here[i]);
	arrange(&r);
	create_machine(&r);
	send_all(&r, data + 1, size - 1);
	loop_timer_set(r.m->loop, &r.look, 0);
	result = migrate_receive(r.m, &r.arrival, NULL, &err);
	loop_timer_cancel(r.m->loop, &r.look);
	if (result == 0 ? !r.commit_sent && !r.by_hand : !*err.msg)
		abort();
	migrate_arrived(r.m, &r.arrival, result, &err);
	check_answers(&r, result == 0);
	machine_free(r.m);
	for (unsigned i = 0; i < r.lanes; i++)
		migrate_wire_done(&r.there[i]);
	machine_files_close(&r.files);
	state_set_close(&r.hello);
	config_done(&r.config);
	return 0;
}
