/* The control socket: a machine over the fake hypervisor, and clients of every kind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/patience.h"
#include "vmm/control/control.h"
#include "vmm/control/control_client.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/run_dir.h"

struct served {
	struct machine_config config;
	struct machine *machine;
	struct control *control;
	struct run_dir dir;
	char root[64];
};

static void create(struct served *s)
{
	struct machine_params params = { .config = &s->config };
	struct fake_hv_params hv = { 0 };
	struct machine_files files;
	struct error err = { 0 };
	struct fake_elf elf;

	memset(s, 0, sizeof(*s));
	config_init(&s->config);
	s->config.memory_bytes = 64 * MiB;
	s->config.console.kind = CHARDEV_NULL;
	s->config.kernel = strdup("fake");
	s->config.name = strdup("box");
	machine_files_init(&files);
	fake_elf(&elf, true);
	assert_int_equal(fw_kernel_open(&files.kernel, "fake",
					fake_file(elf.image, sizeof(elf.image)), &err),
			 0);
	params.hv = fake_hv_create(&hv);
	params.files = &files;
	if (machine_create(&s->machine, &params, &err) < 0)
		fail_msg("%s", err.msg);
	machine_files_close(&files);

	snprintf(s->root, sizeof(s->root), "/tmp/wisp-test-XXXXXX");
	assert_non_null(mkdtemp(s->root));
	s->dir.listen_fd = -1;
	if (run_dir_create(&s->dir, s->root, "box", &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(control_create(&s->control, s->machine, dup(s->dir.listen_fd), &err), 0);
	assert_int_equal(machine_start(s->machine, &err), 0);
}

static void destroy(struct served *s)
{
	struct machine_end end = { 0 };

	machine_end(s->machine, MACHINE_END_ASKED, 0, NULL);
	machine_run(s->machine, &end);
	control_free(s->control, &end);
	machine_free(s->machine);
	config_done(&s->config);
	run_dir_remove(&s->dir);
	rmdir(s->root);
}

static int client(struct served *s)
{
	struct error err = { 0 };
	int sock = control_connect(s->dir.path, &err);

	assert_true(sock >= 0);
	return sock;
}

/* Let the machine's loop turn until the client has an answer; NULL: it was hung up on. */
static json_t *answer(struct served *s, int sock, int *fds, unsigned *num_fds)
{
	static char buf[CONTROL_MAX_MESSAGE];
	unsigned none = 0;
	json_t *o;

	for (uint64_t end = patience(); !patience_ends(end);) {
		ssize_t n = control_receive(sock, buf, sizeof(buf), fds, fds ? 8 : 0,
					    num_fds ? num_fds : &none, MSG_DONTWAIT);

		if (n == 0 || n == -ECONNRESET)
			return NULL;
		if (n > 0) {
			o = json_loadb(buf, n, 0, NULL);
			assert_non_null(o);
			return o;
		}
		loop_run_once(machine_loop(s->machine), NSEC_PER_MSEC);
	}
	fail_msg("no answer");
	return NULL;
}

static json_t *ask_bytes(struct served *s, int sock, const void *p, size_t len)
{
	assert_int_equal(control_send(sock, p, len, NULL, 0, 0), len);
	return answer(s, sock, NULL, NULL);
}

static json_t *ask(struct served *s, int sock, const char *text)
{
	return ask_bytes(s, sock, text, strlen(text));
}

static void expect_ok(json_t *reply)
{
	assert_true(json_is_true(json_object_get(reply, "ok")));
	json_decref(reply);
}

static void expect_error(json_t *reply, int code)
{
	assert_non_null(reply);
	assert_non_null(json_string_value(json_object_get(reply, "error")));
	assert_int_equal(json_integer_value(json_object_get(reply, "errno")), code);
	json_decref(reply);
}

static void expect_state(json_t *reply, const char *state)
{
	assert_string_equal(json_string_value(json_object_get(reply, "state")), state);
	expect_ok(reply);
}

static void expect_event(struct served *s, int sock, const char *event)
{
	json_t *o = answer(s, sock, NULL, NULL);

	assert_string_equal(json_string_value(json_object_get(json_object_get(o, "progress"),
							      "event")),
			    event);
	json_decref(o);
}

static void listener_is_told_what_happens(void **state)
{
	static const char request[] = "{\"do\":\"events\"}";
	struct served s;
	int sock, listener;

	create(&s);
	sock = client(&s);
	listener = client(&s);
	control_send(listener, request, strlen(request), NULL, 0, 0);
	expect_event(&s, listener, "running");
	expect_state(ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
	expect_event(&s, listener, "paused");
	expect_state(ask(&s, sock, "{\"do\":\"resume\"}"), "running");
	expect_event(&s, listener, "running");
	/* It asks nothing else. */
	expect_error(ask(&s, listener, "{\"do\":\"info\"}"), ECANCELED);
	close(listener);
	close(sock);
	destroy(&s);
}

static void listener_that_reads_late_hears_the_last(void **state)
{
	static const char request[] = "{\"do\":\"events\"}";
	char text[100] = "", last[100] = "";
	unsigned num = 0;
	struct served s;
	int sock, listener;

	create(&s);
	sock = client(&s);
	listener = client(&s);
	control_send(listener, request, strlen(request), NULL, 0, 0);
	expect_event(&s, listener, "running");
	/* More than a socket holds. */
	for (unsigned i = 0; i < 3000; i++)
		s.machine->changed_fn(s.machine->changed_arg);
	expect_state(ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
	for (unsigned quiet = 0; quiet < 20; quiet++) {
		loop_run_once(machine_loop(s.machine), NSEC_PER_MSEC);
		while (recv(listener, text, sizeof(text) - 1, MSG_DONTWAIT) > 0) {
			memcpy(last, text, sizeof(last));
			quiet = 0;
			num++;
		}
	}
	assert_true(num < 3000);
	assert_non_null(strstr(last, "\"paused\""));
	/* From now on all of them again. */
	expect_state(ask(&s, sock, "{\"do\":\"resume\"}"), "running");
	expect_event(&s, listener, "running");
	expect_state(ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
	expect_event(&s, listener, "paused");
	/* And its end is seen while it has no room. */
	for (unsigned i = 0; i < 3000; i++)
		s.machine->changed_fn(s.machine->changed_arg);
	close(listener);
	close(sock);
	destroy(&s);
}

/* Its room is back, and before the loop has seen that something else has happened. */
static void listener_that_was_told_before_its_turn_goes_on_listening(void **state)
{
	static const char request[] = "{\"do\":\"events\"}";
	struct served s;
	char text[100];
	int sock, listener;

	create(&s);
	sock = client(&s);
	listener = client(&s);
	control_send(listener, request, strlen(request), NULL, 0, 0);
	expect_event(&s, listener, "running");
	for (unsigned i = 0; i < 3000; i++)
		s.machine->changed_fn(s.machine->changed_arg);
	/* It waits for room, and for nothing else. */
	for (unsigned i = 0; i < 5; i++)
		loop_run_once(machine_loop(s.machine), NSEC_PER_MSEC);
	while (recv(listener, text, sizeof(text), MSG_DONTWAIT) > 0)
		;
	s.machine->changed_fn(s.machine->changed_arg);
	expect_event(&s, listener, "running");
	for (unsigned i = 0; i < 5; i++)
		loop_run_once(machine_loop(s.machine), NSEC_PER_MSEC);
	expect_state(ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
	expect_event(&s, listener, "paused");
	close(listener);
	close(sock);
	destroy(&s);
}

/* A monitor that has used up its descriptors, and gets some back later. */
static void clients_are_served_once_there_are_descriptors_again(void **state)
{
	struct rlimit limit, none;
	struct served s;
	int sock, next;

	create(&s);
	sock = client(&s);
	getrlimit(RLIMIT_NOFILE, &limit);
	none = limit;
	next = dup(sock);
	close(next);
	none.rlim_cur = next;
	setrlimit(RLIMIT_NOFILE, &none);
	for (int i = 0; i < 20; i++)
		loop_run_once(machine_loop(s.machine), NSEC_PER_MSEC);
	setrlimit(RLIMIT_NOFILE, &limit);
	expect_state(ask(&s, sock, "{\"do\":\"info\"}"), "running");
	close(sock);
	destroy(&s);
}

/* Its disk's file is part of the answer, of which there is all or none. */
static void answer_without_room_for_its_files_says_so(void **state)
{
	struct rlimit limit, none;
	struct config_disk disk = { .id = "root", .path = "/root.img" };
	struct served s;
	int sock, next;

	create(&s);
	sock = client(&s);
	expect_ok(ask(&s, sock, "{\"do\":\"info\"}"));
	s.config.num_disks = 1;
	s.config.disk[0] = disk;
	s.machine->disk_fd[0] = STDIN_FILENO;
	getrlimit(RLIMIT_NOFILE, &limit);
	none = limit;
	next = dup(sock);
	close(next);
	none.rlim_cur = next;
	setrlimit(RLIMIT_NOFILE, &none);
	expect_error(ask(&s, sock, "{\"do\":\"disks\"}"), EMFILE);
	setrlimit(RLIMIT_NOFILE, &limit);
	expect_ok(ask(&s, sock, "{\"do\":\"disks\"}"));
	s.config.num_disks = 0;
	close(sock);
	destroy(&s);
}

/* More of them than there are connections at once. */
static void listeners_that_leave_take_no_room(void **state)
{
	static const char request[] = "{\"do\":\"events\"}";
	struct served s;
	int sock;

	create(&s);
	for (unsigned i = 0; i < 100; i++) {
		sock = client(&s);
		control_send(sock, request, strlen(request), NULL, 0, 0);
		expect_event(&s, sock, "running");
		close(sock);
		loop_run_once(machine_loop(s.machine), NSEC_PER_MSEC);
	}
	sock = client(&s);
	expect_state(ask(&s, sock, "{\"do\":\"info\"}"), "running");
	close(sock);
	destroy(&s);
}

static void info_tells_what_ls_shows(void **state)
{
	struct served s;
	json_t *reply;
	int sock;

	create(&s);
	sock = client(&s);
	reply = ask(&s, sock, "{\"do\":\"info\"}");
	assert_string_equal(json_string_value(json_object_get(reply, "id")), "box");
	assert_int_equal(json_integer_value(json_object_get(reply, "memory")), 64 * MiB);
	assert_int_equal(json_integer_value(json_object_get(reply, "pid")), getpid());
	expect_state(reply, "running");
	reply = ask(&s, sock, "{\"do\":\"stat\"}");
	assert_true(json_is_object(
		json_object_get(json_object_get(reply, "counters"), "exits")));
	expect_ok(reply);
	close(sock);
	destroy(&s);
}

static void pause_and_resume_are_states_that_last(void **state)
{
	struct served s;
	int sock;

	create(&s);
	sock = client(&s);
	for (unsigned i = 0; i < 3; i++) {
		expect_state(ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
		expect_state(ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
		expect_state(ask(&s, sock, "{\"do\":\"info\"}"), "paused");
		expect_state(ask(&s, sock, "{\"do\":\"resume\"}"), "running");
		expect_state(ask(&s, sock, "{\"do\":\"resume\"}"), "running");
		expect_state(ask(&s, sock, "{\"do\":\"info\"}"), "running");
	}
	close(sock);
	destroy(&s);
}

/* By that its client knows with which status to end. */
static void request_that_is_at_fault_is_told_so(void **state)
{
	struct served s;
	json_t *reply;
	int sock;

	create(&s);
	sock = client(&s);
	reply = ask(&s, sock, "{\"do\":\"unplug\",\"device\":\"nope\"}");
	assert_true(json_is_true(json_object_get(reply, "usage")));
	expect_error(reply, ENOENT);
	reply = ask(&s, sock, "{\"do\":\"reset\"}");
	assert_null(json_object_get(reply, "usage"));
	expect_error(reply, ENOENT);
	close(sock);
	destroy(&s);
}

/* What it was made from is only known to be in memory while nothing moves. */
static void changes_are_counted_from_a_pause_only(void **state)
{
	struct served s;
	int sock;

	create(&s);
	sock = client(&s);
	expect_error(ask(&s, sock, "{\"do\":\"track\",\"id\":\"one\"}"), EBUSY);
	expect_state(ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
	for (unsigned i = 0; i < 2; i++)
		expect_ok(ask(&s, sock, "{\"do\":\"track\",\"id\":\"one\",\"path\":\"/one\"}"));
	/* It is the base already. */
	expect_error(ask(&s, sock, "{\"do\":\"snapshot-kept\",\"id\":\"one\"}"), ESTALE);
	expect_error(ask(&s, sock, "{\"do\":\"track\",\"id\":7}"), EINVAL);
	close(sock);
	destroy(&s);
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

	create(&s);
	sock = client(&s);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		expect_error(ask(&s, sock, bad[i].text), bad[i].code);
		expect_state(ask(&s, sock, "{\"do\":\"info\"}"), "running");
	}
	expect_state(ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
	expect_error(ask(&s, sock, bad[0].text), bad[0].code);
	expect_state(ask(&s, sock, "{\"do\":\"info\"}"), "paused");
	close(sock);
	destroy(&s);
}

static void requests_of_one_client_are_answered_in_order(void **state)
{
	struct served s;
	int sock;

	create(&s);
	sock = client(&s);
	assert_true(control_send(sock, "{\"do\":\"pause\"}", 14, NULL, 0, 0) > 0);
	assert_true(control_send(sock, "{\"do\":\"info\"}", 13, NULL, 0, 0) > 0);
	assert_true(control_send(sock, "{\"do\":\"resume\"}", 15, NULL, 0, 0) > 0);
	expect_state(answer(&s, sock, NULL, NULL), "paused");
	expect_state(answer(&s, sock, NULL, NULL), "paused");
	expect_state(answer(&s, sock, NULL, NULL), "running");
	close(sock);
	destroy(&s);
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

	create(&s);
	sock = client(&s);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		expect_error(ask(&s, sock, bad[i].text), bad[i].code);
		expect_ok(ask(&s, sock, "{\"do\":\"info\"}"));
	}
	close(sock);
	destroy(&s);
}

static void nesting_without_end_is_refused(void **state)
{
	static char deep[100000];
	struct served s;
	int sock;

	create(&s);
	sock = client(&s);
	memset(deep, '[', sizeof(deep));
	expect_error(ask_bytes(&s, sock, deep, sizeof(deep)), EBADMSG);
	close(sock);
	destroy(&s);
}

static void messages_longer_than_the_bound_are_refused_whole(void **state)
{
	char *big = malloc(CONTROL_MAX_MESSAGE + 1);
	struct served s;
	int sock;

	create(&s);
	sock = client(&s);
	memset(big, ' ', CONTROL_MAX_MESSAGE + 1);
	memcpy(big, "{\"do\":\"kill\"}", 13);
	expect_error(ask_bytes(&s, sock, big, CONTROL_MAX_MESSAGE + 1), EMSGSIZE);
	expect_ok(ask(&s, sock, "{\"do\":\"info\"}"));
	memcpy(big, "{\"do\":\"info\"}", 13);
	expect_ok(ask_bytes(&s, sock, big, CONTROL_MAX_MESSAGE));
	close(sock);
	free(big);
	destroy(&s);
}

static unsigned open_descriptors(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1000; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void descriptors_nobody_asked_for_are_closed(void **state)
{
	int fds[CONTROL_MAX_FDS];
	struct served s;
	unsigned before;
	int sock;

	create(&s);
	sock = client(&s);
	for (unsigned i = 0; i < CONTROL_MAX_FDS; i++)
		fds[i] = STDERR_FILENO;
	expect_ok(ask(&s, sock, "{\"do\":\"info\"}"));
	before = open_descriptors();
	assert_true(control_send(sock, "{\"do\":\"info\"}", 13, fds, CONTROL_MAX_FDS, 0) > 0);
	expect_ok(answer(&s, sock, NULL, NULL));
	assert_true(control_send(sock, "nonsense", 8, fds, CONTROL_MAX_FDS, 0) > 0);
	expect_error(answer(&s, sock, NULL, NULL), EBADMSG);
	assert_int_equal(open_descriptors(), before);
	close(sock);
	destroy(&s);
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

	create(&s);
	sock = client(&s);
	expect_ok(ask(&s, sock, "{\"do\":\"info\"}"));
	control.align.cmsg_level = SOL_SOCKET;
	control.align.cmsg_type = SCM_RIGHTS;
	control.align.cmsg_len = CMSG_LEN((CONTROL_MAX_FDS + 1) * sizeof(int));
	before = open_descriptors();
	assert_int_equal(sendmsg(sock, &msg, 0), 13);
	expect_error(answer(&s, sock, NULL, NULL), EMSGSIZE);
	assert_int_equal(open_descriptors(), before);
	close(sock);
	destroy(&s);
}

static void connections_are_bounded_and_freed_places_taken(void **state)
{
	int sock[40], refused = 0;
	struct served s;

	create(&s);
	for (unsigned i = 0; i < ARRAY_SIZE(sock); i++) {
		json_t *reply;

		sock[i] = client(&s);
		/* The one that is refused may find the socket closed when it writes. */
		control_send(sock[i], "{\"do\":\"info\"}", 13, NULL, 0, 0);
		reply = answer(&s, sock[i], NULL, NULL);
		if (json_object_get(reply, "error")) {
			refused++;
			expect_error(reply, EBUSY);
		} else {
			expect_ok(reply);
		}
	}
	assert_int_equal(refused, 8);
	for (unsigned i = 0; i < ARRAY_SIZE(sock); i++)
		close(sock[i]);
	for (unsigned i = 0; i < 200; i++)
		loop_run_once(machine_loop(s.machine), NSEC_PER_MSEC / 10);
	sock[0] = client(&s);
	expect_ok(ask(&s, sock[0], "{\"do\":\"info\"}"));
	close(sock[0]);
	destroy(&s);
}

static void client_that_leaves_before_its_answer_harms_nobody(void **state)
{
	struct served s;
	int sock, other;

	create(&s);
	other = client(&s);
	for (unsigned i = 0; i < 50; i++) {
		sock = client(&s);
		assert_true(control_send(sock, i % 2 ? "{\"do\":\"pause\"}" : "{\"do\":\"stat\"}",
					 i % 2 ? 14 : 13, NULL, 0, 0) > 0);
		close(sock);
		/* Several at once, but no more than wait for accept(). */
		for (unsigned k = 0; i % 5 == 0 && k < 20; k++)
			loop_run_once(machine_loop(s.machine), NSEC_PER_MSEC / 10);
	}
	expect_ok(ask(&s, other, "{\"do\":\"info\"}"));
	close(other);
	destroy(&s);
}

static void client_that_never_reads_only_waits_for_itself(void **state)
{
	struct served s;
	int deaf, other;

	create(&s);
	deaf = client(&s);
	other = client(&s);
	fcntl(deaf, F_SETFL, O_NONBLOCK);
	/* Until neither direction has room any more. */
	for (unsigned i = 0; i < 3000; i++) {
		control_send(deaf, "{\"do\":\"stat\"}", 13, NULL, 0, MSG_DONTWAIT);
		loop_run_once(machine_loop(s.machine), 0);
	}
	expect_ok(ask(&s, other, "{\"do\":\"info\"}"));
	close(deaf);
	expect_ok(ask(&s, other, "{\"do\":\"info\"}"));
	close(other);
	destroy(&s);
}

static void who_waits_for_the_end_is_told_how_it_came(void **state)
{
	struct machine_end end = { 0 };
	struct served s;
	json_t *reply;
	int sock;

	create(&s);
	sock = client(&s);
	assert_true(control_send(sock, "{\"do\":\"kill\"}", 13, NULL, 0, 0) > 0);
	machine_run(s.machine, &end);
	assert_int_equal(end.reason, MACHINE_END_SIGNAL);
	assert_int_equal(end.status, 137);
	control_free(s.control, &end);
	s.control = NULL;
	reply = answer(&s, sock, NULL, NULL);
	assert_string_equal(json_string_value(json_object_get(reply, "end")), "signal");
	assert_int_equal(json_integer_value(json_object_get(reply, "status")), 137);
	expect_ok(reply);
	close(sock);
	machine_free(s.machine);
	config_done(&s.config);
	run_dir_remove(&s.dir);
	rmdir(s.root);
}

static void stop_forces_a_guest_that_ignores_the_button(void **state)
{
	struct machine_end end = { 0 };
	struct served s;
	int sock;

	create(&s);
	sock = client(&s);
	assert_true(control_send(sock, "{\"do\":\"stop\",\"timeout\":0}", 25, NULL, 0, 0) > 0);
	machine_run(s.machine, &end);
	assert_int_equal(end.status, 143);
	control_free(s.control, &end);
	expect_ok(answer(&s, sock, NULL, NULL));
	close(sock);
	machine_free(s.machine);
	config_done(&s.config);
	run_dir_remove(&s.dir);
	rmdir(s.root);
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

	create(&s);
	a.path = s.dir.path;
	assert_int_equal(pthread_create(&thread, NULL, ask_wrong, &a), 0);
	while (!a.done)
		loop_run_once(machine_loop(s.machine), NSEC_PER_MSEC);
	pthread_join(thread, NULL);
	assert_int_equal(a.result, -EOPNOTSUPP);
	assert_non_null(strstr(a.err.msg, "nonsense"));
	destroy(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(info_tells_what_ls_shows),
		cmocka_unit_test(listener_is_told_what_happens),
		cmocka_unit_test(listener_that_reads_late_hears_the_last),
		cmocka_unit_test(listener_that_was_told_before_its_turn_goes_on_listening),
		cmocka_unit_test(listeners_that_leave_take_no_room),
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
		cmocka_unit_test(connections_are_bounded_and_freed_places_taken),
		cmocka_unit_test(client_that_leaves_before_its_answer_harms_nobody),
		cmocka_unit_test(client_that_never_reads_only_waits_for_itself),
		cmocka_unit_test(clients_are_served_once_there_are_descriptors_again),
		cmocka_unit_test(answer_without_room_for_its_files_says_so),
		cmocka_unit_test(who_waits_for_the_end_is_told_how_it_came),
		cmocka_unit_test(stop_forces_a_guest_that_ignores_the_button),
		cmocka_unit_test(client_passes_on_the_monitors_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
