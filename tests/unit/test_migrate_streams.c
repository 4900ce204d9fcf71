/* Guest memory over several connections at once, and who may be one of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "vmm/migrate/migrate_gather.h"
#include "vmm/migrate/migrate_streams.h"

/* Enough windows for all threads, and a part of one. */
#define RAM_BYTES (39 * MiB + 5 * PAGE_SIZE)
#define NUM_MORE  3u

/* For what is to happen: only a test that fails waits so long. */
#define PATIENCE_MS 60000

/* ---- memory ---- */

struct moving {
	struct guest_mem *from, *to;
	struct hv *hv;
	struct migrate_memory memory;
	struct migrate_wire first, first_there, there[NUM_MORE];
	struct migrate_streams out;
	struct migrate_streams_sink in;
	struct migrate_sink sink; /* of the first */
	pthread_t thread;	  /* which takes that in */
	int failed_fd;
};

static struct guest_mem *create_memory(void)
{
	const struct guest_mem_range range = { .size = RAM_BYTES };
	struct guest_mem *mem;
	struct error err = { 0 };

	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, &range, 1, &err), 0);
	/* Pages, not huge ones: what is touched is what is there. */
	madvise(mem->map, mem->map_size, MADV_NOHUGEPAGE);
	return mem;
}

static void connect_wires(struct migrate_wire *a, int *ret_fd, struct migrate_wire *b)
{
	struct error err = { 0 };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	if (a)
		assert_int_equal(migrate_wire_init(a, pair[0], pair[0], &err), 0);
	else
		*ret_fd = pair[0];
	assert_int_equal(migrate_wire_init(b, pair[1], pair[1], &err), 0);
	b->patience_ms = PATIENCE_MS;
}

/* What comes over the first connection, until it is closed. */
static void *take_first(void *arg)
{
	struct moving *m = arg;
	struct migrate_record rec;
	struct error err = { 0 };
	struct migrate_wire *w = &m->first_there;
	int r = 0;

	while (!r && migrate_wire_receive(w, &rec, -1, &err) == 0)
		r = rec.type == MIGRATE_ROUND ?
			    migrate_wire_send(w, MIGRATE_ROUND_DONE, 0, NULL, 0, &err) :
			    migrate_sink_take(&m->sink, &rec, &err);
	return NULL;
}

static void begin(struct moving *m)
{
	struct fake_hv_params hv = { 0 };
	struct error err = { 0 };
	struct guest_mem_range *r;
	int fds[NUM_MORE];

	*m = (struct moving){ .failed_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	m->from = create_memory();
	m->to = create_memory();
	m->hv = fake_hv_create(&hv);
	r = &m->from->range[0];
	assert_int_equal(m->hv->ops->mem_set(m->hv, 0, r->gpa, r->size, r->host, 0), 0);
	connect_wires(&m->first, NULL, &m->first_there);
	for (unsigned i = 0; i < NUM_MORE; i++)
		connect_wires(NULL, &fds[i], &m->there[i]);
	m->first.patience_ms = PATIENCE_MS;
	assert_int_equal(migrate_streams_init(&m->out, fds, NUM_MORE, -1, &err), 0);
	for (unsigned i = 0; i < NUM_MORE; i++)
		m->out.stream[i].wire.patience_ms = PATIENCE_MS;
	assert_int_equal(migrate_memory_start(&m->memory, m->from, m->hv, 1, 1 + NUM_MORE, &err),
			 0);
	assert_int_equal(migrate_sink_init(&m->sink, m->to, &err), 0);
	assert_int_equal(pthread_create(&m->thread, NULL, take_first, m), 0);
	assert_int_equal(migrate_streams_receive(&m->in, m->there, NUM_MORE, m->to, NULL, NULL,
						 m->failed_fd, &err), 0);
}

static void end(struct moving *m)
{
	struct error err = { 0 };

	migrate_streams_end(&m->in, &err);
	migrate_streams_done(&m->out);
	migrate_wire_done(&m->first);
	pthread_join(m->thread, NULL);
	migrate_wire_done(&m->first_there);
	for (unsigned i = 0; i < NUM_MORE; i++)
		migrate_wire_done(&m->there[i]);
	migrate_memory_stop(&m->memory);
	migrate_sink_done(&m->sink);
	guest_mem_free(m->from);
	guest_mem_free(m->to);
	m->hv->ops->free(m->hv);
	close(m->failed_fd);
}

/* Pages of all windows, that cannot be taken for one another. */
static void fill(struct moving *m)
{
	for (uint64_t page = 0; page < m->from->map_size / PAGE_SIZE; page += 3) {
		uint64_t *p = (uint64_t *)(m->from->map + page * PAGE_SIZE);

		for (unsigned i = 0; i < PAGE_SIZE / sizeof(*p); i++)
			p[i] = page * 0x9e3779b97f4a7c15ull + (uint64_t)i * i;
	}
}

typedef int between_fn(void *arg, struct error *err);

/* A round, up to the word that all of it has arrived. */
static int try_round(struct moving *m, between_fn *between, void *arg, struct error *err)
{
	struct migrate_record rec;
	int r = migrate_streams_send(&m->out, &m->memory, &m->first, between, between, arg, err);

	if (!r)
		r = migrate_wire_send(&m->first, MIGRATE_ROUND, 0, NULL, 0, err);
	return r ? r : migrate_wire_expect(&m->first, MIGRATE_ROUND_DONE, &rec, PATIENCE_MS, err);
}

static void send_round(struct moving *m, between_fn *between, void *arg)
{
	struct error err = { 0 };
	uint64_t pages;

	if (try_round(m, between, arg, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(migrate_memory_collect(&m->memory, &pages, &err), 0);
}

static void assert_same(struct moving *m)
{
	assert_memory_equal(m->from->map, m->to->map, m->from->map_size);
}

static _Thread_local bool has_met;

/* After its first window each thread waits for the others: all of them get some. */
static int meet(void *arg, struct error *err)
{
	if (!has_met)
		pthread_barrier_wait(arg);
	has_met = true;
	return 0;
}

static void memory_arrives_whole_whichever_way_it_takes(void **state)
{
	pthread_barrier_t all;
	struct moving m;
	struct error err = { 0 };
	uint64_t bytes = 0;

	begin(&m);
	fill(&m);
	has_met = false;
	pthread_barrier_init(&all, NULL, 1 + NUM_MORE);
	send_round(&m, meet, &all);
	assert_same(&m);
	assert_int_equal(m.memory.pages_sent, (RAM_BYTES / PAGE_SIZE + 2) / 3);
	for (unsigned i = 0; i < NUM_MORE; i++) {
		assert_true(m.out.stream[i].wire.bytes_out > PAGE_SIZE);
		bytes += m.out.stream[i].wire.bytes_out;
	}
	assert_int_equal(m.out.bytes_out, bytes);
	if (migrate_streams_end(&m.in, &err) < 0)
		fail_msg("%s", err.msg);
	pthread_barrier_destroy(&all);
	end(&m);
}

static void what_changes_again_and_again_arrives_as_it_is_last(void **state)
{
	struct moving m;
	uint64_t random = 1;

	begin(&m);
	fill(&m);
	for (uint64_t round = 1; round <= 30; round++) {
		for (unsigned i = 0; i < 400; i++) {
			random = random * 6364136223846793005ull + 1442695040888963407ull;
			assert_int_equal(guest_mem_write(m.from,
							 (random >> 33) % (RAM_BYTES - 8),
							 &round, sizeof(round)), 0);
		}
		send_round(&m, NULL, NULL);
	}
	send_round(&m, NULL, NULL);
	assert_same(&m);
	end(&m);
}

static void a_little_goes_over_the_first_alone(void **state)
{
	struct moving m;
	uint64_t before;

	begin(&m);
	send_round(&m, NULL, NULL);
	send_round(&m, NULL, NULL);
	before = m.out.bytes_out;
	assert_int_equal(guest_mem_write(m.from, 20 * MiB, "x", 1), 0);
	send_round(&m, NULL, NULL);
	send_round(&m, NULL, NULL);
	assert_same(&m);
	assert_int_equal(m.out.bytes_out, before);
	end(&m);
}

static void await_failure(struct moving *m)
{
	struct pollfd p = { .fd = m->failed_fd, .events = POLLIN };

	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
}

static void a_lost_stream_ends_it_for_all(void **state)
{
	struct moving m;
	struct error err = { 0 };
	int r;

	begin(&m);
	fill(&m);
	shutdown(m.there[1].in, SHUT_RDWR);
	await_failure(&m);
	r = try_round(&m, NULL, NULL, &err);
	assert_true(r == -EPIPE || r == -ECONNRESET);
	assert_non_null(strstr(err.msg, "lost"));
	assert_int_equal(migrate_streams_end(&m.in, &err), -ECONNRESET);
	assert_non_null(strstr(err.msg, "hung up without a word"));
	end(&m);
}

/* Longer than one connection alone would wait, and far from what all of them do. */
#define SLOW_PATIENCE_MS 2000
#define SLOW_ANSWER_S	 4

struct slow_answers {
	int from, to;
};

static void *pass_on_slowly(void *arg)
{
	const struct slow_answers *s = arg;
	struct pollfd p = { .fd = s->from, .events = POLLIN };
	char buf[4096];
	ssize_t n;

	while (poll(&p, 1, -1) > 0 && (n = read(s->from, buf, sizeof(buf))) > 0) {
		sleep(SLOW_ANSWER_S);
		if (write(s->to, buf, n) != n)
			break;
	}
	close(s->from);
	return NULL;
}

static void many_streams_wait_for_what_all_have_under_way(void **state)
{
	struct moving m;
	struct migrate_wire *slow;
	struct slow_answers answers;
	pthread_t thread;
	int pair[2];

	begin(&m);
	fill(&m);
	slow = &m.out.stream[0].wire;
	slow->patience_ms = SLOW_PATIENCE_MS;
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	answers = (struct slow_answers){ fcntl(slow->in, F_DUPFD_CLOEXEC, 3), pair[1] };
	slow->in = pair[0];
	assert_int_equal(pthread_create(&thread, NULL, pass_on_slowly, &answers), 0);
	send_round(&m, NULL, NULL);
	assert_same(&m);
	end(&m);
	pthread_join(thread, NULL);
	close(pair[1]);
}

static int refuse(void *arg, struct error *err)
{
	return error_set(err, -EINTR, "not now");
}

static void who_stops_one_stops_all(void **state)
{
	struct moving m;
	struct error err = { 0 };

	begin(&m);
	fill(&m);
	assert_int_equal(try_round(&m, refuse, NULL, &err), -EINTR);
	assert_string_equal(err.msg, "not now");
	end(&m);
}

/* ---- a hostile source ---- */

/* A record of @type at @page over the second stream. */
static void say(struct moving *m, enum migrate_record_type type, uint64_t page, size_t len)
{
	static const uint8_t payload[128 + PAGE_SIZE] = { 1 };
	struct error err = { 0 };

	assert_int_equal(migrate_wire_send(&m->out.stream[1].wire, type, page, payload, len, &err),
			 0);
}

/* What was said is refused by the words @why. */
static void assert_refused(struct moving *m, const char *why)
{
	struct error err = { 0 };

	await_failure(m);
	assert_int_equal(migrate_streams_end(&m->in, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, why));
	end(m);
}

static void streams_carry_memory_and_nothing_else(void **state)
{
	struct moving m;

	for (unsigned type = MIGRATE_HELLO; type < MIGRATE_NUM_TYPES; type++) {
		if (type == MIGRATE_PAGES || type == MIGRATE_PAGES_ZSTD || type == MIGRATE_ROUND ||
		    type == MIGRATE_GIVEN_UP)
			continue;
		begin(&m);
		say(&m, type, 0, 0);
		assert_refused(&m, "does not belong there");
	}
	begin(&m);
	say(&m, MIGRATE_PAGES, UINT64_MAX, 128 + PAGE_SIZE);
	assert_refused(&m, "pages that make no sense");
}

/* The other side has read all that was sent to it, and will look at all of it. */
static void await_read(struct moving *m)
{
	const struct timespec moment = { .tv_nsec = 1000000 };
	int left = 1;

	for (unsigned i = 0; i < PATIENCE_MS && left; i++) {
		nanosleep(&moment, NULL);
		assert_int_equal(ioctl(m->out.stream[1].wire.out, SIOCOUTQ, &left), 0);
	}
	assert_int_equal(left, 0);
}

static void an_end_within_a_round_is_refused(void **state)
{
	struct moving m;
	struct error err = { 0 };

	begin(&m);
	say(&m, MIGRATE_PAGES, 0, 128 + PAGE_SIZE);
	await_read(&m);
	assert_int_equal(migrate_streams_end(&m.in, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "within a round"));
	end(&m);
}

/* Until it is hung up on. */
static void *flood(void *arg)
{
	static const uint8_t payload[128 + PAGE_SIZE] = { 1 };
	struct error err = { 0 };

	while (migrate_wire_send(arg, MIGRATE_PAGES, 0, payload, sizeof(payload), &err) == 0)
		;
	return NULL;
}

static void a_source_that_never_ends_is_stopped(void **state)
{
	struct moving m;
	struct error err = { 0 };
	pthread_t thread;

	begin(&m);
	assert_int_equal(pthread_create(&thread, NULL, flood, &m.out.stream[1].wire), 0);
	assert_in_range(-migrate_streams_end(&m.in, &err), 0, EBADMSG);
	shutdown(m.there[1].in, SHUT_RDWR);
	pthread_join(thread, NULL);
	end(&m);
}

/* ---- who may be a stream ---- */

static const uint8_t uuid[MIGRATE_UUID_BYTES] = { 1, 2, 3 }, other[MIGRATE_UUID_BYTES] = { 4 };

struct door {
	struct migrate_gather gather;
	struct migrate_wire wires[NUM_MORE];
	char dir[32];
	int fd[64]; /* of those who have connected */
	unsigned num;
};

static void open_door(struct door *d)
{
	struct migrate_listener *l = &d->gather.listener;
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	*d = (struct door){ .dir = "/tmp/test_streams.XXXXXX", .gather.patience_ms = 20 };
	assert_non_null(mkdtemp(d->dir));
	snprintf(l->path, sizeof(l->path), "%s/sock", d->dir);
	memcpy(un.sun_path, l->path, sizeof(l->path));
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(l->fd, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_int_equal(listen(l->fd, ARRAY_SIZE(d->fd)), 0);
	for (unsigned i = 0; i < NUM_MORE; i++)
		d->wires[i].in = d->wires[i].out = d->wires[i].fd = -1;
}

/* Nobody can connect any more, and nothing is left of where they could. */
static void close_door(struct door *d)
{
	migrate_gather_done(&d->gather);
	for (unsigned i = 0; i < NUM_MORE; i++)
		migrate_wire_done(&d->wires[i]);
	for (unsigned i = 0; i < d->num; i++)
		close(d->fd[i]);
	assert_int_equal(rmdir(d->dir), 0);
}

static int knock(struct door *d)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(un.sun_path, d->gather.listener.path, sizeof(un.sun_path));
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	d->fd[d->num++] = fd;
	return fd;
}

static void knock_as(struct door *d, const uint8_t *whose, uint64_t index)
{
	struct migrate_wire w;
	struct error err = { 0 };
	int fd = knock(d);

	assert_int_equal(migrate_wire_init(&w, fd, fd, &err), 0);
	assert_int_equal(migrate_wire_greet(&w, &err), 0);
	assert_int_equal(migrate_wire_send(&w, MIGRATE_STREAM, index, whose, sizeof(uuid), &err),
			 0);
	free(w.buf);
}

static int gather(struct door *d, unsigned num, struct error *err)
{
	return migrate_gather_streams(&d->gather, uuid, num, d->wires, err);
}

static void streams_are_found_among_strangers(void **state)
{
	struct error err = { 0 };
	struct door d;

	open_door(&d);
	assert_int_equal(write(knock(&d), "GET / HTTP/1.1\r\n", 16), 16);
	knock_as(&d, uuid, 2);
	knock_as(&d, other, 1);
	knock(&d); /* and says nothing */
	knock_as(&d, uuid, 0);
	knock_as(&d, uuid, 4);
	knock_as(&d, uuid, UINT64_MAX);
	knock_as(&d, uuid, 2);
	knock_as(&d, uuid, 1);
	knock_as(&d, uuid, 3);
	assert_int_equal(gather(&d, 3, &err), 0);
	/* Each is the one that said so: the second was the first to come. */
	for (unsigned i = 0; i < 3; i++) {
		static const unsigned who[] = { 8, 1, 9 };
		char c;

		assert_int_equal(write(d.fd[who[i]], "x", 1), 1);
		assert_int_equal(read(d.wires[i].in, &c, 1), 1);
	}
	close_door(&d);
}

static void streams_that_do_not_come_are_given_up(void **state)
{
	struct error err = { 0 };
	struct door d;

	open_door(&d);
	knock_as(&d, uuid, 1);
	assert_int_equal(gather(&d, 2, &err), -ETIMEDOUT);
	close_door(&d);
	/* Over one pipe there are none. */
	migrate_gather_done(&d.gather);
	assert_int_equal(gather(&d, 1, &err), -EBADMSG);
	assert_int_equal(gather(&d, 0, &err), 0);
}

static void a_crowd_at_the_door_is_left_standing(void **state)
{
	struct error err = { 0 };
	struct door d;
	int pair[2];

	open_door(&d);
	assert_int_equal(pipe(pair), 0);
	for (unsigned i = 0; i < 40; i++)
		knock(&d);
	assert_int_equal(migrate_gather_until(&d.gather, pair[0], &err), -ETIMEDOUT);
	assert_int_equal(d.gather.num, MIGRATE_GATHER_MAX);
	assert_int_equal(write(pair[1], "x", 1), 1);
	assert_int_equal(migrate_gather_until(&d.gather, pair[0], &err), 0);
	close(pair[0]);
	close(pair[1]);
	close_door(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_arrives_whole_whichever_way_it_takes),
		cmocka_unit_test(what_changes_again_and_again_arrives_as_it_is_last),
		cmocka_unit_test(a_little_goes_over_the_first_alone),
		cmocka_unit_test(a_lost_stream_ends_it_for_all),
		cmocka_unit_test(many_streams_wait_for_what_all_have_under_way),
		cmocka_unit_test(who_stops_one_stops_all),
		cmocka_unit_test(streams_carry_memory_and_nothing_else),
		cmocka_unit_test(an_end_within_a_round_is_refused),
		cmocka_unit_test(a_source_that_never_ends_is_stopped),
		cmocka_unit_test(streams_are_found_among_strangers),
		cmocka_unit_test(streams_that_do_not_come_are_given_up),
		cmocka_unit_test(a_crowd_at_the_door_is_left_standing),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
