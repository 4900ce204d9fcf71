/* The control socket: what is asked, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/made_machine.h"
#include "tests/unit/num_fds.h"
#include "tests/unit/served.h"
#include "vmm/control/control_client.h"

#define RESUME_PATIENCE_S 30

static void info_tells_what_ls_shows(void **state)
{
	struct served s;
	json_t *reply;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	reply = served_ask(&s, sock, "{\"do\":\"info\"}");
	assert_string_equal(json_string_value(json_object_get(reply, "id")), "box");
	assert_int_equal(json_integer_value(json_object_get(reply, "memory")), 64 * MiB);
	assert_int_equal(json_integer_value(json_object_get(reply, "pid")), getpid());
	expect_state(reply, "running");
	reply = served_ask(&s, sock, "{\"do\":\"stat\"}");
	assert_true(json_is_object(json_object_get(json_object_get(reply, "counters"), "exits")));
	expect_ok(reply);
	close(sock);
	served_destroy(&s);
}

static void pause_and_resume_are_states_that_last(void **state)
{
	struct served s;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	for (unsigned i = 0; i < 3; i++) {
		expect_state(served_ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
		expect_state(served_ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
		expect_state(served_ask(&s, sock, "{\"do\":\"info\"}"), "paused");
		expect_state(served_ask(&s, sock, "{\"do\":\"resume\"}"), "running");
		expect_state(served_ask(&s, sock, "{\"do\":\"resume\"}"), "running");
		expect_state(served_ask(&s, sock, "{\"do\":\"info\"}"), "running");
	}
	close(sock);
	served_destroy(&s);
}

/* By that its client knows with which status to end. */
static void request_that_is_at_fault_is_told_so(void **state)
{
	struct served s;
	json_t *reply;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	reply = served_ask(&s, sock, "{\"do\":\"unplug\",\"device\":\"nope\"}");
	assert_true(json_is_true(json_object_get(reply, "usage")));
	expect_error(reply, ENOENT);
	reply = served_ask(&s, sock, "{\"do\":\"reset\"}");
	assert_null(json_object_get(reply, "usage"));
	expect_error(reply, ENOENT);
	close(sock);
	served_destroy(&s);
}

/* What it was made from is only known to be in memory while nothing moves. */
static void changes_are_counted_from_a_pause_only(void **state)
{
	struct served s;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	expect_error(served_ask(&s, sock, "{\"do\":\"track\",\"id\":\"one\"}"), EBUSY);
	expect_state(served_ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
	for (unsigned i = 0; i < 2; i++)
		expect_ok(served_ask(&s, sock,
				     "{\"do\":\"track\",\"id\":\"one\",\"path\":\"/one\"}"));
	/* It is the base already. */
	expect_error(served_ask(&s, sock, "{\"do\":\"snapshot-kept\",\"id\":\"one\"}"), ESTALE);
	expect_error(served_ask(&s, sock, "{\"do\":\"track\",\"id\":7}"), EINVAL);
	close(sock);
	served_destroy(&s);
}

/* Whatever is wrong with a reset, the guest goes on as it was. */
static void reset_that_makes_no_sense_changes_nothing(void **state)
{
	static const struct {
		const char *text;
		int code;
	} bad[] = {
		{ "{\"do\":\"reset\"}", ENOENT }, /* there is no point */
		{ "{\"do\":\"reset\",\"set\":true}", EBADF },
		{ "{\"do\":\"reset\",\"set\":1}", EINVAL },
		{ "{\"do\":\"reset\",\"identical\":\"yes\"}", EINVAL },
		{ "{\"do\":\"reset\",\"keep\":7}", EINVAL },
		{ "{\"do\":\"reset\",\"keep\":[4096]}", EINVAL },
		{ "{\"do\":\"reset\",\"keep\":[[4096]]}", EINVAL },
		{ "{\"do\":\"reset\",\"keep\":[[-4096,4096]]}", EINVAL },
		{ "{\"do\":\"reset\",\"keep\":[[4096,-1]]}", EINVAL },
	};
	struct served s;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		expect_error(served_ask(&s, sock, bad[i].text), bad[i].code);
		expect_state(served_ask(&s, sock, "{\"do\":\"info\"}"), "running");
	}
	expect_state(served_ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
	expect_error(served_ask(&s, sock, bad[0].text), bad[0].code);
	expect_state(served_ask(&s, sock, "{\"do\":\"info\"}"), "paused");
	close(sock);
	served_destroy(&s);
}

static void requests_of_one_client_are_answered_in_order(void **state)
{
	struct served s;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	assert_true(control_send(sock, "{\"do\":\"pause\"}", 14, NULL, 0, 0) > 0);
	assert_true(control_send(sock, "{\"do\":\"info\"}", 13, NULL, 0, 0) > 0);
	assert_true(control_send(sock, "{\"do\":\"resume\"}", 15, NULL, 0, 0) > 0);
	expect_state(served_answer(&s, sock), "paused");
	expect_state(served_answer(&s, sock), "paused");
	expect_state(served_answer(&s, sock), "running");
	close(sock);
	served_destroy(&s);
}

static void malformed_requests_are_refused_and_the_next_one_is_served(void **state)
{
	static const struct {
		const char *text;
		int code;
	} bad[] = {
		{ "{", EBADMSG },
		{ "[]", EBADMSG },
		{ "null", EBADMSG },
		{ "\"do\"", EBADMSG },
		{ "{\"do\":\"info\",\"do\":\"kill\"}", EBADMSG },
		{ "{\"do\":\"info\"} trailing", EBADMSG },
		{ "\xff\xfe", EBADMSG },
		{ "{\"do\":\"\xff\"}", EBADMSG },
		{ "{}", EOPNOTSUPP },
		{ "{\"do\":7}", EOPNOTSUPP },
		{ "{\"do\":null}", EOPNOTSUPP },
		{ "{\"do\":\"no-such-verb\"}", EOPNOTSUPP },
		{ "{\"do\":\"\"}", EOPNOTSUPP },
		{ "{\"do\":\"stop\",\"timeout\":-1}", EINVAL },
		{ "{\"do\":\"stop\",\"timeout\":1e9}", EINVAL },
		{ "{\"do\":\"stop\",\"timeout\":99999999999}", EINVAL },
		{ "{\"do\":\"stop\",\"timeout\":\"1\"}", EINVAL },
	};
	struct served s;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		expect_error(served_ask(&s, sock, bad[i].text), bad[i].code);
		expect_ok(served_ask(&s, sock, "{\"do\":\"info\"}"));
	}
	close(sock);
	served_destroy(&s);
}

static void nesting_without_end_is_refused(void **state)
{
	static char deep[100000];
	struct served s;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	memset(deep, '[', sizeof(deep));
	expect_error(served_ask_bytes(&s, sock, deep, sizeof(deep)), EBADMSG);
	close(sock);
	served_destroy(&s);
}

static void messages_longer_than_the_bound_are_refused_whole(void **state)
{
	char *big = malloc(CONTROL_MAX_MESSAGE + 1);
	struct served s;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	memset(big, ' ', CONTROL_MAX_MESSAGE + 1);
	memcpy(big, "{\"do\":\"kill\"}", 13);
	expect_error(served_ask_bytes(&s, sock, big, CONTROL_MAX_MESSAGE + 1), EMSGSIZE);
	expect_ok(served_ask(&s, sock, "{\"do\":\"info\"}"));
	memcpy(big, "{\"do\":\"info\"}", 13);
	expect_ok(served_ask_bytes(&s, sock, big, CONTROL_MAX_MESSAGE));
	close(sock);
	free(big);
	served_destroy(&s);
}

static void descriptors_nobody_asked_for_are_closed(void **state)
{
	int fds[CONTROL_MAX_FDS];
	struct served s;
	unsigned before;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	for (unsigned i = 0; i < CONTROL_MAX_FDS; i++)
		fds[i] = STDERR_FILENO;
	expect_ok(served_ask(&s, sock, "{\"do\":\"info\"}"));
	before = num_fds();
	assert_true(control_send(sock, "{\"do\":\"info\"}", 13, fds, CONTROL_MAX_FDS, 0) > 0);
	expect_ok(served_answer(&s, sock));
	assert_true(control_send(sock, "nonsense", 8, fds, CONTROL_MAX_FDS, 0) > 0);
	expect_error(served_answer(&s, sock), EBADMSG);
	assert_int_equal(num_fds(), before);
	close(sock);
	served_destroy(&s);
}

/* More than fit into the buffer for them: some are lost, so the whole request is. */
static void too_many_descriptors_are_refused(void **state)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE((CONTROL_MAX_FDS + 1) * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (char[]){ "{\"do\":\"info\"}" }, .iov_len = 13 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct served s;
	unsigned before;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	expect_ok(served_ask(&s, sock, "{\"do\":\"info\"}"));
	control.align.cmsg_level = SOL_SOCKET;
	control.align.cmsg_type = SCM_RIGHTS;
	control.align.cmsg_len = CMSG_LEN((CONTROL_MAX_FDS + 1) * sizeof(int));
	before = num_fds();
	assert_int_equal(sendmsg(sock, &msg, 0), 13);
	expect_error(served_answer(&s, sock), EMSGSIZE);
	assert_int_equal(num_fds(), before);
	close(sock);
	served_destroy(&s);
}

static void who_waits_for_the_end_is_told_how_it_came(void **state)
{
	struct machine_end end = { 0 };
	struct served s;
	json_t *reply;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	assert_true(control_send(sock, "{\"do\":\"kill\"}", 13, NULL, 0, 0) > 0);
	machine_run(s.machine, &end);
	assert_int_equal(end.reason, MACHINE_END_SIGNAL);
	assert_int_equal(end.status, 137);
	control_free(s.control, &end);
	reply = served_answer(&s, sock);
	assert_string_equal(json_string_value(json_object_get(reply, "end")), "signal");
	assert_int_equal(json_integer_value(json_object_get(reply, "status")), 137);
	expect_ok(reply);
	close(sock);
	served_free(&s);
}

static void stop_forces_a_guest_that_ignores_the_button(void **state)
{
	struct machine_end end = { 0 };
	struct served s;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	assert_true(control_send(sock, "{\"do\":\"stop\",\"timeout\":0}", 25, NULL, 0, 0) > 0);
	machine_run(s.machine, &end);
	assert_int_equal(end.status, 143);
	control_free(s.control, &end);
	expect_ok(served_answer(&s, sock));
	close(sock);
	served_free(&s);
}

/* Stands for a client whose request comes while the vCPUs are on their way out. */
struct resuming {
	struct loop_task task;
	struct machine *machine;
};

static void resume(struct loop_task *task)
{
	struct resuming *r = container_of(task, struct resuming, task);

	assert_true(r->machine->winding_down);
	machine_resume(r->machine);
}

static void machine_that_ends_is_not_resumed(void **state)
{
	struct resuming r = { .task.run = resume };
	struct machine_end how = { 0 };
	struct served s;

	served_create(&s);
	made_pause(s.machine);
	machine_end(s.machine, MACHINE_END_PANIC, 1, NULL);
	r.machine = s.machine;
	loop_post(machine_loop(s.machine), &r.task);
	/* Whose vCPUs have gone back waits for them for ever. */
	alarm(RESUME_PATIENCE_S);
	machine_run(s.machine, &how);
	alarm(0);
	assert_true(machine_is_paused(s.machine));
	control_free(s.control, &how);
	served_free(&s);
}

struct asker {
	const char *path;
	int result;
	struct error err;
	_Atomic bool done;
};

static void *ask_wrong(void *arg)
{
	struct asker *a = arg;
	int sock = control_connect(a->path, &a->err);

	a->result = control_ask(sock, json_pack("{s:s}", "do", "nonsense"), NULL, 0, NULL, &a->err);
	close(sock);
	a->done = true;
	return NULL;
}

static void client_passes_on_the_monitors_words(void **state)
{
	struct served s;
	struct asker a = { 0 };
	pthread_t thread;

	served_create(&s);
	a.path = s.dir.path;
	assert_int_equal(pthread_create(&thread, NULL, ask_wrong, &a), 0);
	while (!a.done)
		loop_run_once(machine_loop(s.machine), NSEC_PER_MSEC);
	pthread_join(thread, NULL);
	assert_int_equal(a.result, -EOPNOTSUPP);
	assert_non_null(strstr(a.err.msg, "nonsense"));
	served_destroy(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(info_tells_what_ls_shows),
		cmocka_unit_test(pause_and_resume_are_states_that_last),
		cmocka_unit_test(request_that_is_at_fault_is_told_so),
		cmocka_unit_test(changes_are_counted_from_a_pause_only),
		cmocka_unit_test(reset_that_makes_no_sense_changes_nothing),
		cmocka_unit_test(requests_of_one_client_are_answered_in_order),
		cmocka_unit_test(malformed_requests_are_refused_and_the_next_one_is_served),
		cmocka_unit_test(nesting_without_end_is_refused),
		cmocka_unit_test(messages_longer_than_the_bound_are_refused_whole),
		cmocka_unit_test(descriptors_nobody_asked_for_are_closed),
		cmocka_unit_test(too_many_descriptors_are_refused),
		cmocka_unit_test(who_waits_for_the_end_is_told_how_it_came),
		cmocka_unit_test(stop_forces_a_guest_that_ignores_the_button),
		cmocka_unit_test(machine_that_ends_is_not_resumed),
		cmocka_unit_test(client_passes_on_the_monitors_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
