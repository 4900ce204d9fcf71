/* Guests that run at their destination before all of their memory is there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/patience.h"
#include "tests/unit/wire_pair.h"
#include "vmm/config/config_state.h"
#include "vmm/control/control_client.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/machine/machine_state.h"
#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_fill.h"
#include "vmm/migrate/migrate_serve.h"

#define RAM_PAGES 640u
#define NUM_MORE  2u

static void open_wires(struct migrate_wire *a, struct migrate_wire *b)
{
	wire_pair(a, b);
	a->patience_ms = b->patience_ms = 100;
}

/* ---- the destination's half ---- */

/* The connection is the caller's again, to say so. */
static void what_cannot_be_begun_says_why(void **state)
{
	const struct guest_mem_range range = { .size = RAM_PAGES * PAGE_SIZE };
	const uint8_t uuid[MIGRATE_UUID_BYTES] = { 0 };
	struct migrate_fill fill = { .fd = -1 };
	const struct loop_params params = { .backend = LOOP_EPOLL };
	struct migrate_wire a, b;
	struct machine m = { 0 };
	struct error err = { 0 };

	open_wires(&a, &b);
	assert_int_equal(loop_create(&m.loop, &params, &err), 0);
	assert_int_equal(guest_mem_create(&m.mem, GUEST_MEM_ANON, &range, 1, &err), 0);
	/* Nothing there would stop its thread; and what failed before is not what is said. */
	b.wake_fd = -1;
	errno = 0;
	assert_int_equal(migrate_fill_start(&fill, &m, &b, -1, uuid, &err), -EBADF);
	assert_non_null(strstr(err.msg, "Bad file descriptor"));
	migrate_fill_abandon(&fill, &b);
	assert_int_equal(migrate_wire_send(&b, MIGRATE_GIVEN_UP, 0, NULL, 0, &err), 0);
	guest_mem_free(m.mem);
	loop_free(m.loop);
	migrate_wire_done(&a);
	migrate_wire_done(&b);
}

/* ---- two machines ---- */

#define GUEST_PAGES 512u
#define GUEST_GPA   (8 * MiB)

struct moving {
	struct machine *from, *to;
	struct machine_config from_config, to_config;
	struct hv *from_hv;
	_Atomic uint64_t writes; /* of the guest's, at its source */
	int sock[2];
	int more[NUM_MORE][2];
	unsigned num_more;
	pthread_t thread;
	_Atomic bool over; /* its source: what came of it is here: */
	int result;
	struct migrate_report report;
	struct error err;
};

/* Writes page after page, again and again. */
static enum fake_step write_pages(void *arg, unsigned vcpu, struct hv_exit *exit)
{
	struct moving *x = arg;
	uint64_t n = ++x->writes;

	assert_int_equal(fake_hv_write(x->from_hv, GUEST_GPA + n % GUEST_PAGES * PAGE_SIZE, &n,
				       sizeof(n)),
			 0);
	return FAKE_STEP_GO_ON;
}

static void create_source(struct moving *x)
{
	const char *args[] = { "--memory", "32M",     "--serial", "none", "--console", "none",
			       "--net",	   "none",    "--kernel", "fake", "--name",    "first",
			       /* One that may be served by one thread after another. */
			       "--loop",   "epoll" };
	struct fake_hv_params hv = { .guest = write_pages, .arg = x };
	struct machine_params params = { .config = &x->from_config };
	struct machine_files files;
	struct error err = { 0 };
	static struct fake_elf elf;

	config_init(&x->from_config);
	if (config_parse_run(&x->from_config, ARRAY_SIZE(args), (char *const *)args, &err) < 0 ||
	    config_validate(&x->from_config, &err) < 0)
		fail_msg("%s", err.msg);
	machine_files_init(&files);
	fake_elf(&elf, true);
	assert_int_equal(fw_kernel_open(&files.kernel, "fake",
					fake_file(elf.image, sizeof(elf.image)), &err),
			 0);
	x->from_hv = params.hv = fake_hv_create(&hv);
	params.files = &files;
	if (machine_create(&x->from, &params, &err) < 0)
		fail_msg("%s", err.msg);
	machine_files_close(&files);
}

/* A round is over, and the guest runs: it writes once more, however seldom it has its turn. */
static void write_after_a_round(void *arg, const struct migrate_report *report)
{
	struct moving *x = arg;
	uint64_t last = UINT64_MAX;

	if (!machine_is_paused(x->from))
		assert_int_equal(fake_hv_write(x->from_hv, GUEST_GPA, &last, sizeof(last)), 0);
}

static void gone(void *arg, int r, const struct error *err, const struct migrate_report *report)
{
	struct moving *x = arg;

	x->result = r;
	x->report = *report;
	x->err = *err;
	x->over = true;
}

/* The source's thread, with its loop. */
static struct migrate_watcher watch(struct moving *x)
{
	return (struct migrate_watcher){
		.progress = write_after_a_round,
		.done = gone,
		.arg = x,
	};
}

static void *await_end(struct moving *x)
{
	for (uint64_t end = patience(); !x->over && !patience_ends(end);)
		loop_run_once(x->from->loop, 10 * NSEC_PER_MSEC);
	assert_true(x->over);
	return NULL;
}

static void *run_source(void *arg)
{
	struct moving *x = arg;
	const struct migrate_watcher watcher = watch(x);
	struct migrate_params params = {
		.in = x->sock[0],
		.out = x->sock[0],
		.journal = -1,
		.uuid = "0123456789abcde",
		.max_rounds = 30,
		.downtime_ns = 100 * NSEC_PER_MSEC,
		.postcopy = MIGRATE_POSTCOPY,
		.num_more = x->num_more,
	};
	struct error err = { 0 };

	for (unsigned i = 0; i < x->num_more; i++)
		params.more[i] = x->more[i][0];
	assert_int_equal(machine_start(x->from, &err), 0);
	while (x->writes < 2 * GUEST_PAGES)
		loop_run_once(x->from->loop, NSEC_PER_MSEC);
	assert_int_equal(migrate_start(x->from, &params, &watcher, &err), 0);
	return await_end(x);
}

/* One that was cut off, over its new connection. */
static void *resume_source(void *arg)
{
	struct moving *x = arg;
	const struct migrate_watcher watcher = watch(x);
	const struct migrate_params params = { .in = x->sock[0], .out = x->sock[0] };
	struct error err = { 0 };

	if (migrate_resume(x->from, &params, &watcher, &err) < 0)
		fail_msg("%s", err.msg);
	return await_end(x);
}

struct arriving {
	struct migrate_wire wire, more[NUM_MORE];
	struct migrate_arrival arrival;
	struct migrate_fill fill;
	struct state_set state;
	uint8_t *hello;
};

static void gather_streams(struct moving *x, struct arriving *a)
{
	struct migrate_record rec;
	struct error err = { 0 };

	assert_int_equal(a->arrival.hello.streams, 1 + x->num_more);
	assert_int_equal(a->arrival.hello.late_streams, x->num_more > 0);
	for (unsigned i = 0; i < x->num_more; i++) {
		struct migrate_wire *w = &a->more[i];

		assert_int_equal(migrate_wire_init(w, x->more[i][1], x->more[i][1], &err), 0);
		assert_int_equal(migrate_wire_expect_greeting(w, 10000, &err), 0);
		assert_int_equal(migrate_wire_expect(w, MIGRATE_STREAM, &rec, 10000, &err), 0);
	}
	a->arrival.more = a->more;
}

/* The destination, as far as the verb and the monitor bring it. */
static void create_destination(struct moving *x, struct arriving *a)
{
	struct machine_params params = { .config = &x->to_config };
	struct machine_image image = { .state = &a->state,
				       .memory_fd = -1,
				       .clock = MACHINE_CLOCK_REALTIME,
				       .same_identity = true };
	struct fake_hv_params hv = { 0 };
	struct machine_files files;
	struct migrate_record rec;
	struct error err = { 0 };

	assert_int_equal(migrate_wire_init(&a->wire, x->sock[1], x->sock[1], &err), 0);
	assert_int_equal(migrate_wire_expect_greeting(&a->wire, 10000, &err), 0);
	assert_int_equal(migrate_wire_expect(&a->wire, MIGRATE_HELLO, &rec, 10000, &err), 0);
	a->hello = malloc(rec.len);
	assert_non_null(a->hello);
	memcpy(a->hello, rec.payload, rec.len);
	assert_int_equal(state_set_open(&a->state, a->hello, rec.len, &err), 0);
	assert_int_equal(machine_check_state(&a->state, &err), 0);
	assert_int_equal(migrate_read_hello(&a->state, &a->arrival.hello, &err), 0);
	assert_true(a->arrival.hello.postcopy);
	gather_streams(x, a);
	a->arrival.wire = &a->wire;
	a->arrival.journal = -1;
	a->arrival.fill = &a->fill;
	image.arrival = &a->arrival;
	config_init(&x->to_config);
	assert_int_equal(config_load(&x->to_config, &a->state, &err), 0);
	assert_int_equal(config_validate(&x->to_config, &err), 0);
	machine_files_init(&files);
	params.hv = fake_hv_create(&hv);
	params.files = &files;
	params.image = &image;
	if (machine_create(&x->to, &params, &err) < 0)
		fail_msg("%s", err.msg);
	machine_files_close(&files);
}

/* Over @more besides the first. The destination is asked at @door, its own then; 0: nowhere. */
static void begin_moving_with(struct moving *x, struct arriving *a, unsigned more, int door)
{
	struct error err = { 0 };

	*x = (struct moving){ .num_more = more };
	*a = (struct arriving){ .fill.door.listener = door };
	migrate_fill_open(&a->fill);
	if (a->fill.fd < 0) {
		print_message("[          ] %s\n", a->fill.refused.msg);
		skip();
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, x->sock), 0);
	for (unsigned i = 0; i < more; i++)
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, x->more[i]),
				 0);
	create_source(x);
	assert_int_equal(pthread_create(&x->thread, NULL, run_source, x), 0);
	create_destination(x, a);
	if (migrate_receive(x->to, &a->arrival, NULL, &err) < 0)
		fail_msg("%s", err.msg);
}

static void begin_moving(struct moving *x, struct arriving *a)
{
	begin_moving_with(x, a, 0, 0);
}

static void end_moving(struct moving *x, struct arriving *a)
{
	struct machine_end end;

	machine_end(x->from, MACHINE_END_MIGRATED, 0, NULL);
	machine_run(x->from, &end);
	machine_end(x->to, MACHINE_END_ASKED, 0, NULL);
	machine_run(x->to, &end);
	machine_free(x->from);
	machine_free(x->to);
	config_done(&x->from_config);
	config_done(&x->to_config);
	state_set_close(&a->state);
	free(a->hello);
}

static void run_destination(struct moving *x, struct arriving *a)
{
	struct error err = { 0 };

	assert_int_equal(machine_start(x->to, &err), 0);
	migrate_arrived(x->to, &a->arrival, 0, &err);
}

static void check_memory(struct moving *x)
{
	assert_memory_equal(x->from->mem->map + GUEST_GPA, x->to->mem->map + GUEST_GPA,
			    GUEST_PAGES * PAGE_SIZE);
}

/* All of it comes, and its source hears so. */
static void becomes_whole(struct moving *x)
{
	/* Whoever looks waits for what is not there. */
	check_memory(x);
	for (uint64_t end = patience(); x->to->fill && !patience_ends(end);)
		loop_run_once(x->to->loop, 10 * NSEC_PER_MSEC);
	assert_null(x->to->fill);
	assert_true(guest_mem_is_whole(x->to->mem));
	pthread_join(x->thread, NULL);
	if (x->result < 0)
		fail_msg("%s", x->err.msg);
	assert_int_equal(x->report.phase, MIGRATE_CONFIRMED);
	assert_true(x->report.postcopy);
	assert_true(x->report.late_pages > 0);
	/* To hand it over takes something, however little is left. */
	assert_true(x->report.expected_ns >= NSEC_PER_MSEC);
	check_memory(x);
}

static void a_guest_runs_before_all_of_its_memory_is_there(void **state)
{
	struct arriving a;
	struct moving x;

	begin_moving(&x, &a);
	run_destination(&x, &a);
	becomes_whole(&x);
	end_moving(&x, &a);
}

static void its_memory_comes_over_several_connections(void **state)
{
	struct arriving a;
	struct moving x;

	begin_moving_with(&x, &a, NUM_MORE, 0);
	run_destination(&x, &a);
	becomes_whole(&x);
	assert_int_equal(x.report.streams, 1 + NUM_MORE);
	end_moving(&x, &a);
}

/* One of them is enough to be cut off; another connection alone is enough to go on. */
static void one_that_loses_any_of_them_waits_and_goes_on(void **state)
{
	struct arriving a;
	struct moving x;
	struct error err = { 0 };

	begin_moving_with(&x, &a, NUM_MORE, 0);
	shutdown(x.more[NUM_MORE - 1][1], SHUT_RDWR);
	for (uint64_t end = patience(); !patience_ends(end);)
		if (migrate_fill_report(&a.fill).is_cut)
			break;
	assert_true(migrate_fill_report(&a.fill).is_cut);
	run_destination(&x, &a);
	pthread_join(x.thread, NULL);
	assert_true(x.result < 0);
	assert_int_not_equal(x.report.phase, MIGRATE_FAILED);
	assert_true(migrate_fill_report(&a.fill).missing > 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, x.sock), 0);
	x.over = false;
	assert_int_equal(migrate_fill_resume(&a.fill, x.sock[1], x.sock[1], &err), 0);
	assert_int_equal(pthread_create(&x.thread, NULL, resume_source, &x), 0);
	becomes_whole(&x);
	end_moving(&x, &a);
}

/* One request to the machine's door, which its loop has no part in: the answer. */
static json_t *knock(const struct sockaddr_un *where, const char *request, const int *fds,
		     unsigned num)
{
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	char answer[1024];
	unsigned ignored;
	json_t *reply;
	ssize_t n;

	assert_int_equal(connect(sock, (const void *)where, sizeof(*where)), 0);
	assert_int_equal(control_send(sock, request, strlen(request), fds, num, 0),
			 strlen(request));
	n = control_receive(sock, answer, sizeof(answer), NULL, 0, &ignored, 0);
	assert_true(n > 0);
	reply = json_loadb(answer, n, 0, NULL);
	assert_non_null(reply);
	close(sock);
	return reply;
}

static void expect_refusal(const struct sockaddr_un *where, const char *request, const int *fds,
			   unsigned num, int error)
{
	json_t *reply = knock(where, request, fds, num);

	assert_non_null(json_object_get(reply, "error"));
	assert_int_equal(json_integer_value(json_object_get(reply, "errno")), error);
	json_decref(reply);
}

static int listen_at(struct sockaddr_un *where)
{
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	*where = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(where->sun_path + 1, sizeof(where->sun_path) - 1, "test-door-%d", getpid());
	assert_int_equal(bind(sock, (void *)where, sizeof(*where)), 0);
	assert_int_equal(listen(sock, 8), 0);
	return sock;
}

static void who_is_asked_before_the_guest_was_handed_over_says_so_at_once(void **state)
{
	struct migrate_door door = { 0 };
	struct sockaddr_un where;
	struct error err = { 0 };
	int fds[3];

	door.listener = listen_at(&where);
	assert_int_equal(migrate_door_open(&door, NULL, &err), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = dup(0);
	expect_refusal(&where, "{\"do\":\"migrate-resume\"}", fds, 3, EAGAIN);
	expect_refusal(&where, "{\"do\":\"migrate-status\"}", NULL, 0, EAGAIN);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	/* Nobody has to say to its thread that it is over. */
	migrate_door_close(&door);
	migrate_door_close(&door);
}

static void who_may_wait_for_memory_is_asked_beside_its_loop(void **state)
{
	struct sockaddr_un where;
	struct arriving a;
	struct moving x;
	json_t *reply;
	int fds[3], sock;

	sock = listen_at(&where);
	begin_moving_with(&x, &a, 0, sock);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* Nobody serves the loop. */
	reply = knock(&where, "{\"do\":\"migrate-status\"}", NULL, 0);
	assert_string_equal(json_string_value(json_object_get(reply, "role")), "none");
	assert_non_null(json_object_get(reply, "arrival"));
	assert_true(json_is_integer(json_object_get(reply, "missing_pages")));
	assert_true(json_is_false(json_object_get(reply, "cut_off")));
	json_decref(reply);
	expect_refusal(&where, "{\"do\":\"migrate-resume\"}", fds, 1, EBADF);
	/* It is not cut off. */
	expect_refusal(&where, "{\"do\":\"migrate-resume\"}", fds, 3, EINVAL);
	expect_refusal(&where, "{\"do\":\"kill\"}", NULL, 0, ENOSYS);
	expect_refusal(&where, "[]", fds, 3, ENOSYS);
	expect_refusal(&where, "{", NULL, 0, ENOSYS);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	run_destination(&x, &a);
	check_memory(&x);
	for (uint64_t end = patience(); x.to->fill && !patience_ends(end);)
		loop_run_once(x.to->loop, 10 * NSEC_PER_MSEC);
	assert_null(x.to->fill);
	/* Nothing is late any more, and nobody there. */
	sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(sock, (void *)&where, sizeof(where)), -1);
	close(sock);
	pthread_join(x.thread, NULL);
	end_moving(&x, &a);
}

/* A destination that cannot run after all says so, and the source has its guest back. */
static void a_guest_that_cannot_run_there_comes_back(void **state)
{
	struct error why = { .msg = "no thread to be had" };
	uint64_t writes;
	struct arriving a;
	struct moving x;

	begin_moving(&x, &a);
	migrate_arrived(x.to, &a.arrival, -EAGAIN, &why);
	pthread_join(x.thread, NULL);
	assert_int_equal(x.report.phase, MIGRATE_FAILED);
	assert_non_null(strstr(x.err.msg, "no thread to be had"));
	writes = x.writes;
	for (uint64_t end = patience(); x.writes == writes && !patience_ends(end);)
		loop_run_once(x.from->loop, NSEC_PER_MSEC);
	assert_true(x.writes > writes);
	end_moving(&x, &a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_cannot_be_begun_says_why),
		cmocka_unit_test(a_guest_runs_before_all_of_its_memory_is_there),
		cmocka_unit_test(its_memory_comes_over_several_connections),
		cmocka_unit_test(one_that_loses_any_of_them_waits_and_goes_on),
		cmocka_unit_test(who_is_asked_before_the_guest_was_handed_over_says_so_at_once),
		cmocka_unit_test(who_may_wait_for_memory_is_asked_beside_its_loop),
		cmocka_unit_test(a_guest_that_cannot_run_there_comes_back),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
