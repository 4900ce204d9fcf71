/*
 * Fuzz target (libFuzzer): the stream of a migration that an enemy sends. The first byte of the
 * input chooses how the rest is taken: as bytes of the stream, as records whose headers and
 * checksums are made good as an enemy would, as the sections of a HELLO, or as the records of a
 * destination that runs its guest already. Whatever comes is
 * refused with a reason, or ends up where it belongs, in memory or on a disk that gets no longer.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_memory.h"
#include "vmm/migrate/migrate_mirror.h"
#include "vmm/migrate/migrate_serve.h"
#include "vmm/migrate/migrate_wire.h"

#define RAM_BYTES (3 * MiB + 5 * PAGE_SIZE)
/* The second disk is not one that comes. */
#define DISK_BYTES (5 * MIGRATE_UNIT + 512)
#define NUM_DISKS  3

/* A record in the input: type, page (a signed byte times 64), length of the payload. */
#define RECORD_BYTES 4

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void open_wires(struct migrate_wire *a, struct migrate_wire *b)
{
	int pair[2], large = 8 * MiB;
	struct error err = { 0 };

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large));
	if (migrate_wire_init(a, pair[0], pair[0], &err) < 0 ||
	    migrate_wire_init(b, pair[1], pair[1], &err) < 0)
		abort();
	a->patience_ms = b->patience_ms = 0;
}

#define RAM_PAGES (RAM_BYTES / PAGE_SIZE)

struct sinks {
	struct guest_mem *mem;
	struct migrate_sink memory;
	uint64_t missing[RAM_PAGES / 64 + 1];
	struct migrate_mirror_sink disks;
};

/* Made once, and empty at the start of each run: most of what a run would cost otherwise. */
static struct sinks sinks;

static void open_sinks(struct sinks *s)
{
	const struct guest_mem_range range = { .size = RAM_BYTES };
	struct error err = { 0 };

	if (guest_mem_create(&s->mem, GUEST_MEM_ANON, &range, 1, &err) < 0 ||
	    migrate_sink_init(&s->memory, s->mem, &err) < 0 ||
	    migrate_mirror_sink_init(&s->disks, &err) < 0)
		abort();
	s->disks.num = NUM_DISKS;
	for (unsigned i = 0; i < NUM_DISKS; i++) {
		int fd = i == 1 ? -1 : memfd_create("disk", MFD_CLOEXEC);

		if (fd >= 0 && ftruncate(fd, DISK_BYTES) < 0)
			abort();
		s->disks.file[i] = (struct migrate_mirror_file){
			.fd = fd,
			.bytes = DISK_BYTES,
			.path = "disk",
		};
	}
}

/* What a run has left there is gone; nothing made a disk longer. */
static void empty_sinks(struct sinks *s)
{
	for (unsigned i = 0; i < NUM_DISKS; i++) {
		struct migrate_mirror_file *f = &s->disks.file[i];

		if (f->fd < 0)
			continue;
		if (lseek(f->fd, 0, SEEK_END) != DISK_BYTES)
			abort();
		if (f->unsynced && (ftruncate(f->fd, 0) < 0 || ftruncate(f->fd, DISK_BYTES) < 0))
			abort();
		f->unsynced = 0;
	}
	if (madvise(s->mem->map, RAM_BYTES, MADV_DONTNEED) < 0)
		abort();
	s->memory.pages_received = 0;
	memset(s->missing, 0, sizeof(s->missing));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	/* As in the monitor: one who does not listen is an error, and no end of ours. */
	signal(SIGPIPE, SIG_IGN);
	open_sinks(&sinks);
	return 0;
}

static void take_in(struct migrate_wire *w)
{
	struct migrate_record rec;
	struct error err = { 0 };

	while (migrate_wire_receive(w, &rec, 0, &err) == 0) {
		if (rec.type == MIGRATE_PAGES || rec.type == MIGRATE_PAGES_ZSTD)
			migrate_sink_take(&sinks.memory, &rec, &err);
		else if (rec.type >= MIGRATE_DISK && rec.type <= MIGRATE_DISK_ZEROES)
			migrate_mirror_sink_take(&sinks.disks, &rec, &err);
		else if (rec.type == MIGRATE_MISSING)
			migrate_missing_take(&rec, sinks.missing, RAM_PAGES, &err);
	}
	if (sinks.missing[RAM_PAGES / 64] >> (RAM_PAGES % 64))
		abort();
}

static int never_hold(void *arg)
{
	return 0;
}

/* The source's half, with what a destination has sent to @b. */
static void serve(struct migrate_wire *b, bool resumes)
{
	struct migrate_memory memory;
	struct migrate_serve s = { .memory = &memory, .wire = b, .hold_back = never_hold };
	struct error err = { 0 };

	if (migrate_memory_start_still(&memory, sinks.mem, 0, &err) < 0 ||
	    migrate_serve_init(&s, &err) < 0)
		abort();
	if (!resumes || migrate_serve_resume(&s, 0, &err) == 0)
		migrate_serve_until(&s, MIGRATE_WHOLE, 0, &err);
	if (s.left > RAM_PAGES)
		abort();
	migrate_serve_done(&s);
	migrate_memory_stop(&memory);
}

/* Each is taken in at once, unless @b is NULL. */
static void send_records(struct migrate_wire *a, struct migrate_wire *b, const uint8_t *data,
			 size_t size)
{
	struct error err = { 0 };

	while (size >= RECORD_BYTES) {
		enum migrate_record_type type = 1 + data[0] % (MIGRATE_NUM_TYPES - 1);
		uint64_t page = (uint64_t)((int64_t)(int8_t)data[1] * 64);
		size_t len = MIN((size_t)get_le16(data + 2), size - RECORD_BYTES);

		/* Types with an upper bound below this are tried too. */
		if (migrate_wire_send(a, type, page, data + RECORD_BYTES, len, &err) < 0)
			break;
		if (b)
			take_in(b);
		data += RECORD_BYTES + len;
		size -= RECORD_BYTES + len;
	}
}

static void try_hello(const uint8_t *data, size_t size)
{
	struct migrate_hello hello;
	struct state_writer w;
	struct state_set set = { 0 };
	struct error err = { 0 };

	state_writer_init(&w);
	state_begin(&w, "migrate", 0, 1 + size % MIGRATE_VERSION);
	state_put_bytes(&w, data, size);
	state_end(&w);
	state_seal(&w);
	if (state_set_open(&set, w.buf, w.len, &err) == 0 &&
	    migrate_read_hello(&set, &hello, &err) == 0 &&
	    (hello.num_disks > CONFIG_MAX_DISKS || hello.way > MIGRATE_WRITTEN ||
	     hello.streams < 1 || hello.streams > MIGRATE_MAX_STREAMS ||
	     hello.populated_bytes > hello.memory_bytes))
		abort();
	state_set_close(&set);
	state_writer_done(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct migrate_wire a, b;

	if (size < 1)
		return 0;
	if (data[0] % 4 == 2) {
		try_hello(data + 1, size - 1);
		return 0;
	}
	open_wires(&a, &b);
	if (data[0] % 4 == 1) {
		send_records(&a, &b, data + 1, size - 1);
	} else if (data[0] % 4 == 3) {
		/* What it would get it need not read. */
		shutdown(a.in, SHUT_RD);
		send_records(&a, NULL, data + 1, size - 1);
		serve(&b, data[0] & 4);
	} else if (write(a.out, data + 1, size - 1) == (ssize_t)(size - 1)) {
		shutdown(a.out, SHUT_WR);
		take_in(&b);
	}
	migrate_wire_done(&a);
	migrate_wire_done(&b);
	empty_sinks(&sinks);
	return 0;
}
