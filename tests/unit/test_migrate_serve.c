/* The source of a guest that runs elsewhere before all of its memory is there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/wire_pair.h"
#include "vmm/migrate/migrate_serve.h"

/* What is answered at once is not waited for so long. */
#define LONG_MS 60000

static void open_wires(struct migrate_wire *a, struct migrate_wire *b)
{
	wire_pair(a, b);
	a->patience_ms = b->patience_ms = 100;
}

/* ---- which pages are missing ---- */

/* More than one record's worth, and the last word is not full. */
#define MANY_PAGES (MIGRATE_MAX_MISSING * 8 * 2 + 70)
#define MANY_WORDS (MANY_PAGES / 64 + 1)

static void what_is_missing_arrives(void **state)
{
	static uint64_t sent[MANY_WORDS], came[MANY_WORDS];
	struct migrate_wire a, b;
	struct migrate_record rec;
	struct error err = { 0 };

	open_wires(&a, &b);
	sent[0] = 5;
	sent[MANY_WORDS - 1] = 1ull << 5;
	assert_int_equal(migrate_missing_send(&a, sent, MANY_PAGES, &err), 0);
	/* Of what nothing is missing nothing is said. */
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(migrate_wire_expect(&b, MIGRATE_MISSING, &rec, 100, &err), 0);
		assert_int_equal(migrate_missing_take(&rec, came, MANY_PAGES, &err), 0);
	}
	assert_int_equal(migrate_wire_await(&b, 0, &err), 0);
	assert_memory_equal(sent, came, sizeof(sent));
	migrate_wire_done(&a);
	migrate_wire_done(&b);
}

static int take(uint64_t page, const uint8_t *bits, uint32_t len, uint64_t num)
{
	struct migrate_record rec = { .page = page, .len = len, .payload = (uint8_t *)bits };
	uint64_t missing[4] = { 0 };
	struct error err = { 0 };

	return migrate_missing_take(&rec, missing, num, &err);
}

static void missing_pages_that_make_no_sense_are_refused(void **state)
{
	uint8_t bits[32] = { [7] = 0x80 };

	assert_int_equal(take(0, bits, 32, 256), 0);
	assert_int_equal(take(192, bits, 8, 256), 0);
	assert_int_equal(take(0, bits, 0, 256), -EBADMSG);
	assert_int_equal(take(0, bits, 7, 256), -EBADMSG);
	assert_int_equal(take(1, bits, 8, 256), -EBADMSG);
	assert_int_equal(take(256, bits, 8, 256), -EBADMSG);
	assert_int_equal(take(192, bits, 16, 256), -EBADMSG);
	assert_int_equal(take(~63ull, bits, 8, 256), -EBADMSG);
	/* Page 63 of a machine that has 63. */
	assert_int_equal(take(0, bits, 8, 63), -EBADMSG);
}

/* ---- the source's half ---- */

#define RAM_PAGES 640u
#define MAX_LANES 3u

struct serving {
	struct guest_mem *mem;
	struct hv *hv;
	struct migrate_memory memory;
	struct migrate_serve serve;
	struct migrate_wire a, b;
	unsigned order[RAM_PAGES]; /* when each page came, from 1 */
	unsigned came;
};

static int never_hold(void *arg)
{
	return 0;
}

static void change(struct serving *x, uint64_t page)
{
	x->mem->map[page * PAGE_SIZE] = 1 + page % 255;
	guest_mem_mark_dirty(x->mem, page * PAGE_SIZE, 1);
}

/* A guest whose every page was sent once; @hot of what changed since was so last. */
static void begin_serving(struct serving *x, const uint64_t *changed, unsigned num,
			  const uint64_t *hot, unsigned num_hot)
{
	const struct guest_mem_range range = { .size = RAM_PAGES * PAGE_SIZE };
	struct fake_hv_params hv = { 0 };
	struct error err = { 0 };
	uint64_t pages;

	*x = (struct serving){ 0 };
	open_wires(&x->a, &x->b);
	assert_int_equal(guest_mem_create(&x->mem, GUEST_MEM_ANON, &range, 1, &err), 0);
	x->hv = fake_hv_create(&hv);
	assert_int_equal(migrate_memory_start(&x->memory, x->mem, x->hv, 0, MAX_LANES, &err), 0);
	assert_int_equal(migrate_memory_send(&x->memory, &x->a, NULL, NULL, &err), 0);
	x->serve = (struct migrate_serve){
		.memory = &x->memory,
		.wire = &x->a,
		.hold_back = never_hold,
	};
	assert_int_equal(migrate_serve_init(&x->serve, &err), 0);
	for (unsigned i = 0; i < num; i++)
		change(x, changed[i]);
	assert_int_equal(migrate_memory_collect(&x->memory, &pages, &err), 0);
	assert_int_equal(migrate_serve_take(&x->serve, false, &err), 0);
	for (unsigned i = 0; i < num_hot; i++)
		change(x, hot[i]);
	assert_int_equal(migrate_memory_collect(&x->memory, &pages, &err), 0);
	assert_int_equal(migrate_serve_take(&x->serve, true, &err), 0);
}

static void end_serving(struct serving *x)
{
	migrate_serve_done(&x->serve);
	migrate_memory_stop(&x->memory);
	migrate_wire_done(&x->a);
	migrate_wire_done(&x->b);
	x->hv->ops->free(x->hv);
	guest_mem_free(x->mem);
}

/* All that was sent; none twice. True at SENT. */
static bool take_pages(struct serving *x)
{
	struct migrate_record rec = { 0 };
	struct error err = { 0 };

	while (migrate_wire_await(&x->b, 0, &err) > 0) {
		assert_int_equal(migrate_wire_receive(&x->b, &rec, 0, &err), 0);
		if (rec.type == MIGRATE_SENT)
			return true;
		assert_int_equal(rec.type, MIGRATE_PAGES);
		for (unsigned i = 0; i < 64; i++) {
			if (!(get_le64(rec.payload) >> i & 1))
				continue;
			assert_int_equal(x->order[rec.page + i], 0);
			x->order[rec.page + i] = ++x->came;
		}
	}
	return false;
}

static void who_waits_is_served_first_and_then_what_changed_last(void **state)
{
	const uint64_t changed[] = { 3, 70, 400, 401, 639 }, hot[] = { 500, 70 };
	struct serving x;
	struct error err = { 0 };

	begin_serving(&x, changed, ARRAY_SIZE(changed), hot, ARRAY_SIZE(hot));
	assert_int_equal(x.serve.left, 6);
	/* One that is there to be had with those around it, one that was sent, and the end. */
	assert_int_equal(migrate_wire_send(&x.b, MIGRATE_WANT, 401, NULL, 0, &err), 0);
	assert_int_equal(migrate_wire_send(&x.b, MIGRATE_WANT, 401, NULL, 0, &err), 0);
	assert_int_equal(migrate_wire_send(&x.b, MIGRATE_WANT, 9, NULL, 0, &err), 0);
	assert_int_equal(migrate_serve_until(&x.serve, MIGRATE_WHOLE, 50, &err), -ETIMEDOUT);
	assert_true(take_pages(&x));
	assert_int_equal(x.came, 6);
	assert_int_equal(x.order[400], 1);
	assert_int_equal(x.order[401], 2);
	assert_int_equal(x.order[3], 3);
	assert_int_equal(x.order[70], 4);
	assert_int_equal(x.order[500], 5);
	assert_int_equal(x.order[639], 6);
	end_serving(&x);
}

static void nothing_is_said_to_be_all_before_it_is_asked_for(void **state)
{
	const uint64_t changed[] = { 3 };
	struct serving x;
	struct error err = { 0 };

	begin_serving(&x, changed, 1, NULL, 0);
	assert_int_equal(migrate_wire_send(&x.b, MIGRATE_RUNNING, 0, NULL, 0, &err), 0);
	assert_int_equal(migrate_serve_until(&x.serve, MIGRATE_RUNNING, LONG_MS, &err), 0);
	assert_false(take_pages(&x));
	assert_int_equal(migrate_wire_send(&x.b, MIGRATE_WHOLE, 0, NULL, 0, &err), 0);
	assert_int_equal(migrate_serve_until(&x.serve, MIGRATE_WHOLE, LONG_MS, &err), 0);
	end_serving(&x);
}

static void a_destination_that_makes_no_sense_is_refused(void **state)
{
	const enum migrate_record_type wrong[] = { MIGRATE_READY, MIGRATE_PAGES, MIGRATE_MISSING };
	struct serving x;
	struct error err = { 0 };

	begin_serving(&x, NULL, 0, NULL, 0);
	assert_int_equal(migrate_wire_send(&x.b, MIGRATE_WANT, RAM_PAGES, NULL, 0, &err), 0);
	assert_int_equal(migrate_serve_until(&x.serve, MIGRATE_WHOLE, LONG_MS, &err), -EBADMSG);
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_int_equal(migrate_wire_send(&x.b, wrong[i], 0, NULL, 0, &err), 0);
		assert_int_equal(migrate_serve_until(&x.serve, MIGRATE_WHOLE, LONG_MS, &err),
				 -EBADMSG);
	}
	/* One who asks for ever, a few times at once: an ordinary user's socket holds no more. */
	for (unsigned i = 0; i < RAM_PAGES; i++) {
		assert_int_equal(migrate_wire_send(&x.b, MIGRATE_WANT, 1, NULL, 0, &err), 0);
		if (i % 128 == 127)
			assert_int_equal(migrate_serve_until(&x.serve, MIGRATE_RUNNING, 20, &err),
					 -ETIMEDOUT);
	}
	assert_int_equal(migrate_wire_send(&x.b, MIGRATE_WANT, 1, NULL, 0, &err), 0);
	assert_int_equal(migrate_serve_until(&x.serve, MIGRATE_WHOLE, LONG_MS, &err), -EBADMSG);
	/* And one who says nothing, or hangs up. */
	assert_int_equal(migrate_serve_until(&x.serve, MIGRATE_RUNNING, 20, &err), -ETIMEDOUT);
	migrate_wire_done(&x.b);
	assert_int_equal(migrate_serve_until(&x.serve, MIGRATE_RUNNING, LONG_MS, &err),
			 -ECONNRESET);
	assert_int_equal(migrate_serve_until(&x.serve, MIGRATE_WHOLE, LONG_MS, &err), -EPIPE);
	end_serving(&x);
}

static void another_connection_goes_on_with_what_is_missing(void **state)
{
	const uint64_t missing[RAM_PAGES / 64] = { [1] = 3, [9] = 1ull << 63 };
	struct serving x;
	struct error err = { 0 };

	begin_serving(&x, NULL, 0, NULL, 0);
	change(&x, 64);
	change(&x, 639);
	assert_int_equal(migrate_missing_send(&x.b, missing, RAM_PAGES, &err), 0);
	assert_int_equal(migrate_wire_send(&x.b, MIGRATE_RESUMED, 0, NULL, 0, &err), 0);
	assert_int_equal(migrate_wire_send(&x.b, MIGRATE_WANT, 639, NULL, 0, &err), 0);
	assert_int_equal(migrate_serve_resume(&x.serve, 50, &err), 0);
	assert_int_equal(x.serve.left, 3);
	assert_int_equal(migrate_serve_until(&x.serve, MIGRATE_WHOLE, 20, &err), -ETIMEDOUT);
	assert_true(take_pages(&x));
	/* Page 65 was never touched: it comes as one that is empty. */
	assert_int_equal(x.came, 2);
	assert_int_equal(x.order[639], 1);
	assert_int_equal(migrate_wire_send(&x.b, MIGRATE_WANT, 0, NULL, 0, &err), 0);
	assert_int_equal(migrate_serve_resume(&x.serve, 50, &err), -EBADMSG);
	end_serving(&x);
}

/* ---- and over several connections ---- */

#define NUM_MORE 2u

struct crowd {
	struct serving serving;
	struct migrate_streams streams;
	struct migrate_wire there[NUM_MORE];
	pthread_t thread[NUM_MORE];
	_Atomic unsigned times[RAM_PAGES]; /* how often each page came */
	_Atomic bool lose; /* hang up at the next record */
};

struct end {
	struct crowd *crowd;
	struct migrate_wire *wire;
};

static void *take_stream(void *arg)
{
	struct end *e = arg;
	struct migrate_record rec;
	struct error err = { 0 };

	while (migrate_wire_receive(e->wire, &rec, LONG_MS, &err) == 0) {
		if (e->crowd->lose)
			break;
		if (rec.type == MIGRATE_ROUND) {
			migrate_wire_send(e->wire, MIGRATE_ROUND_DONE, rec.page, NULL, 0, &err);
			continue;
		}
		for (unsigned i = 0; i < 64; i++)
			if (get_le64(rec.payload) >> i & 1)
				e->crowd->times[rec.page + i]++;
	}
	shutdown(e->wire->in, SHUT_RDWR);
	return NULL;
}

/* A guest whose every page changed since it was sent, and the two connections besides the first. */
static void begin_crowd(struct crowd *c, struct end *ends)
{
	uint64_t changed[RAM_PAGES];
	struct error err = { 0 };
	int fds[NUM_MORE], pair[2];

	for (unsigned i = 0; i < RAM_PAGES; i++)
		changed[i] = i;
	*c = (struct crowd){ 0 };
	begin_serving(&c->serving, changed, RAM_PAGES, NULL, 0);
	for (unsigned i = 0; i < NUM_MORE; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
		fds[i] = pair[0];
		assert_int_equal(migrate_wire_init(&c->there[i], pair[1], pair[1], &err), 0);
	}
	assert_int_equal(migrate_streams_init(&c->streams, fds, NUM_MORE, -1, &err), 0);
	c->serving.serve.streams = &c->streams;
	for (unsigned i = 0; i < NUM_MORE; i++) {
		ends[i] = (struct end){ c, &c->there[i] };
		assert_int_equal(pthread_create(&c->thread[i], NULL, take_stream, &ends[i]), 0);
	}
}

static void end_crowd(struct crowd *c)
{
	migrate_streams_done(&c->streams);
	for (unsigned i = 0; i < NUM_MORE; i++) {
		pthread_join(c->thread[i], NULL);
		migrate_wire_done(&c->there[i]);
	}
	end_serving(&c->serving);
}

static void the_first_connection_is_for_who_waits(void **state)
{
	struct end ends[NUM_MORE];
	struct crowd c;
	struct error err = { 0 };

	begin_crowd(&c, ends);
	/* It stands there when they begin: whoever comes first has these sixteen. */
	assert_int_equal(migrate_wire_send(&c.serving.b, MIGRATE_WANT, 639, NULL, 0, &err), 0);
	assert_int_equal(migrate_serve_until(&c.serving.serve, MIGRATE_WHOLE, 50, &err),
			 -ETIMEDOUT);
	assert_true(take_pages(&c.serving));
	assert_true(c.serving.came <= 16);
	for (unsigned i = 0; i < RAM_PAGES; i++)
		assert_int_equal(c.times[i] + (c.serving.order[i] != 0), 1);
	assert_true(c.streams.bytes_out > (RAM_PAGES - 16) * PAGE_SIZE);
	end_crowd(&c);
}

static void nothing_is_pushed_over_others_before_it_runs_there(void **state)
{
	struct end ends[NUM_MORE];
	struct crowd c;
	struct error err = { 0 };

	begin_crowd(&c, ends);
	assert_int_equal(migrate_wire_send(&c.serving.b, MIGRATE_WANT, 3, NULL, 0, &err), 0);
	assert_int_equal(migrate_wire_send(&c.serving.b, MIGRATE_RUNNING, 0, NULL, 0, &err), 0);
	assert_int_equal(migrate_serve_until(&c.serving.serve, MIGRATE_RUNNING, LONG_MS, &err), 0);
	assert_false(take_pages(&c.serving));
	assert_int_equal(c.serving.came, 16);
	assert_int_equal(c.streams.bytes_out, 0);
	end_crowd(&c);
}

/* It does not say that it was all. */
static void a_lost_connection_among_several_loses_all(void **state)
{
	struct end ends[NUM_MORE];
	struct crowd c;
	struct error err = { 0 };
	int r;

	begin_crowd(&c, ends);
	c.lose = true;
	r = migrate_serve_until(&c.serving.serve, MIGRATE_WHOLE, LONG_MS, &err);
	assert_true(r == -EPIPE || r == -ECONNRESET);
	assert_non_null(strstr(err.msg, "migration: "));
	assert_false(take_pages(&c.serving));
	end_crowd(&c);
}

static void a_lost_first_connection_ends_the_others_at_once(void **state)
{
	struct end ends[NUM_MORE];
	struct crowd c;
	struct error err = { 0 };

	begin_crowd(&c, ends);
	shutdown(c.serving.b.in, SHUT_RDWR);
	assert_int_equal(migrate_serve_until(&c.serving.serve, MIGRATE_WHOLE, LONG_MS, &err),
			 -ECONNRESET);
	assert_false(c.serving.serve.pushing);
	end_crowd(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_missing_arrives),
		cmocka_unit_test(missing_pages_that_make_no_sense_are_refused),
		cmocka_unit_test(who_waits_is_served_first_and_then_what_changed_last),
		cmocka_unit_test(nothing_is_said_to_be_all_before_it_is_asked_for),
		cmocka_unit_test(a_destination_that_makes_no_sense_is_refused),
		cmocka_unit_test(another_connection_goes_on_with_what_is_missing),
		cmocka_unit_test(the_first_connection_is_for_who_waits),
		cmocka_unit_test(nothing_is_pushed_over_others_before_it_runs_there),
		cmocka_unit_test(a_lost_connection_among_several_loses_all),
		cmocka_unit_test(a_lost_first_connection_ends_the_others_at_once),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
