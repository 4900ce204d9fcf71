/* The control socket: clients of every kind, many at once, and those that only listen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/num_fds.h"
#include "tests/unit/served.h"
#include "vmm/control/control_client.h"

static void listener_is_told_what_happens(void **state)
{
	static const char request[] = "{\"do\":\"events\"}";
	struct served s;
	int sock, listener;

	served_create(&s);
	sock = served_client(&s);
	listener = served_client(&s);
	control_send(listener, request, strlen(request), NULL, 0, 0);
	expect_event(&s, listener, "running");
	expect_state(served_ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
	expect_event(&s, listener, "paused");
	expect_state(served_ask(&s, sock, "{\"do\":\"resume\"}"), "running");
	expect_event(&s, listener, "running");
	/* It asks nothing else. */
	expect_error(served_ask(&s, listener, "{\"do\":\"info\"}"), ECANCELED);
	close(listener);
	close(sock);
	served_destroy(&s);
}

static void listener_that_reads_late_hears_the_last(void **state)
{
	static const char request[] = "{\"do\":\"events\"}";
	char text[100] = "", last[100] = "";
	unsigned num = 0;
	struct served s;
	int sock, listener;

	served_create(&s);
	sock = served_client(&s);
	listener = served_client(&s);
	control_send(listener, request, strlen(request), NULL, 0, 0);
	expect_event(&s, listener, "running");
	/* More than a socket holds. */
	for (unsigned i = 0; i < 3000; i++)
		s.machine->changed_fn(s.machine->changed_arg);
	expect_state(served_ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
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
	expect_state(served_ask(&s, sock, "{\"do\":\"resume\"}"), "running");
	expect_event(&s, listener, "running");
	expect_state(served_ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
	expect_event(&s, listener, "paused");
	/* And its end is seen while it has no room. */
	for (unsigned i = 0; i < 3000; i++)
		s.machine->changed_fn(s.machine->changed_arg);
	close(listener);
	close(sock);
	served_destroy(&s);
}

/* Its room is back, and before the loop has seen that something else has happened. */
static void listener_that_was_told_before_its_turn_goes_on_listening(void **state)
{
	static const char request[] = "{\"do\":\"events\"}";
	struct served s;
	char text[100];
	int sock, listener;

	served_create(&s);
	sock = served_client(&s);
	listener = served_client(&s);
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
	expect_state(served_ask(&s, sock, "{\"do\":\"pause\"}"), "paused");
	expect_event(&s, listener, "paused");
	close(listener);
	close(sock);
	served_destroy(&s);
}

/* A monitor that has used up its descriptors, and gets some back later. */
static void clients_are_served_once_there_are_descriptors_again(void **state)
{
	struct rlimit before;
	struct served s;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	no_fds_left(&before);
	for (int i = 0; i < 20; i++)
		loop_run_once(machine_loop(s.machine), NSEC_PER_MSEC);
	setrlimit(RLIMIT_NOFILE, &before);
	expect_state(served_ask(&s, sock, "{\"do\":\"info\"}"), "running");
	close(sock);
	served_destroy(&s);
}

/* Its disk's file is part of the answer, of which there is all or none. */
static void answer_without_room_for_its_files_says_so(void **state)
{
	struct rlimit before;
	struct config_disk disk = { .id = "root", .path = "/root.img" };
	struct served s;
	int sock;

	served_create(&s);
	sock = served_client(&s);
	expect_ok(served_ask(&s, sock, "{\"do\":\"info\"}"));
	s.config.num_disks = 1;
	s.config.disk[0] = disk;
	s.machine->disk_fd[0] = STDIN_FILENO;
	no_fds_left(&before);
	expect_error(served_ask(&s, sock, "{\"do\":\"disks\"}"), EMFILE);
	setrlimit(RLIMIT_NOFILE, &before);
	expect_ok(served_ask(&s, sock, "{\"do\":\"disks\"}"));
	s.config.num_disks = 0;
	close(sock);
	served_destroy(&s);
}

/* More of them than there are connections at once. */
static void listeners_that_leave_take_no_room(void **state)
{
	static const char request[] = "{\"do\":\"events\"}";
	struct served s;
	int sock;

	served_create(&s);
	for (unsigned i = 0; i < 100; i++) {
		sock = served_client(&s);
		control_send(sock, request, strlen(request), NULL, 0, 0);
		expect_event(&s, sock, "running");
		close(sock);
		loop_run_once(machine_loop(s.machine), NSEC_PER_MSEC);
	}
	sock = served_client(&s);
	expect_state(served_ask(&s, sock, "{\"do\":\"info\"}"), "running");
	close(sock);
	served_destroy(&s);
}

static void connections_are_bounded_and_freed_places_taken(void **state)
{
	int sock[40], refused = 0;
	struct served s;

	served_create(&s);
	for (unsigned i = 0; i < ARRAY_SIZE(sock); i++) {
		json_t *reply;

		sock[i] = served_client(&s);
		/* The one that is refused may find the socket closed when it writes. */
		control_send(sock[i], "{\"do\":\"info\"}", 13, NULL, 0, 0);
		reply = served_answer(&s, sock[i]);
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
	sock[0] = served_client(&s);
	expect_ok(served_ask(&s, sock[0], "{\"do\":\"info\"}"));
	close(sock[0]);
	served_destroy(&s);
}

static void client_that_leaves_before_its_answer_harms_nobody(void **state)
{
	struct served s;
	int sock, other;

	served_create(&s);
	other = served_client(&s);
	for (unsigned i = 0; i < 50; i++) {
		sock = served_client(&s);
		assert_true(control_send(sock, i % 2 ? "{\"do\":\"pause\"}" : "{\"do\":\"stat\"}",
					 i % 2 ? 14 : 13, NULL, 0, 0) > 0);
		close(sock);
		/* Several at once, but no more than wait for accept(). */
		for (unsigned k = 0; i % 5 == 0 && k < 20; k++)
			loop_run_once(machine_loop(s.machine), NSEC_PER_MSEC / 10);
	}
	expect_ok(served_ask(&s, other, "{\"do\":\"info\"}"));
	close(other);
	served_destroy(&s);
}

static void client_that_never_reads_only_waits_for_itself(void **state)
{
	struct served s;
	int deaf, other;

	served_create(&s);
	deaf = served_client(&s);
	other = served_client(&s);
	fcntl(deaf, F_SETFL, O_NONBLOCK);
	/* Until neither direction has room any more. */
	for (unsigned i = 0; i < 3000; i++) {
		control_send(deaf, "{\"do\":\"stat\"}", 13, NULL, 0, MSG_DONTWAIT);
		loop_run_once(machine_loop(s.machine), 0);
	}
	expect_ok(served_ask(&s, other, "{\"do\":\"info\"}"));
	close(deaf);
	expect_ok(served_ask(&s, other, "{\"do\":\"info\"}"));
	close(other);
	served_destroy(&s);
}

/* A child by our name, as monitors are to their parents, which is stopped. */
static pid_t stopped_child(void)
{
	pid_t child = fork();

	if (child == 0) {
		raise(SIGSTOP);
		for (;;)
			pause();
	}
	assert_int_equal(waitpid(child, NULL, WUNTRACED), child);
	return child;
}

static void stopped_monitor_is_told_of_and_not_asked(void **state)
{
	struct error err = { 0 };
	struct served s;
	char text[64];
	pid_t child;
	int sock;

	served_create(&s);
	child = stopped_child();
	assert_int_equal(control_connect_awake(s.root, "box", &err), -EBUSY);
	snprintf(text, sizeof(text), "'box' cannot answer: its process %d is stopped", child);
	assert_non_null(strstr(err.msg, text));
	snprintf(text, sizeof(text), "'kill -CONT %d'", child);
	assert_non_null(strstr(err.hint, text));
	/* A helper, which goes by another name, is not what would answer. */
	prctl(PR_SET_NAME, "another");
	sock = control_connect_awake(s.root, "box", &err);
	assert_true(sock >= 0);
	close(sock);
	/* A clone's monitor is no child of who listens. */
	run_dir_note_monitor(&s.dir, child);
	assert_int_equal(control_connect_awake(s.root, "box", &err), -EBUSY);
	kill(child, SIGCONT);
	assert_int_equal(waitpid(child, NULL, WCONTINUED), child);
	sock = control_connect_awake(s.root, "box", &err);
	assert_true(sock >= 0);
	close(sock);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	served_destroy(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(listener_is_told_what_happens),
		cmocka_unit_test(listener_that_reads_late_hears_the_last),
		cmocka_unit_test(listener_that_was_told_before_its_turn_goes_on_listening),
		cmocka_unit_test(listeners_that_leave_take_no_room),
		cmocka_unit_test(connections_are_bounded_and_freed_places_taken),
		cmocka_unit_test(client_that_leaves_before_its_answer_harms_nobody),
		cmocka_unit_test(client_that_never_reads_only_waits_for_itself),
		cmocka_unit_test(stopped_monitor_is_told_of_and_not_asked),
		cmocka_unit_test(clients_are_served_once_there_are_descriptors_again),
		cmocka_unit_test(answer_without_room_for_its_files_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
