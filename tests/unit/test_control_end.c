/* The end of a machine, or of its client, while something that this asked for is under way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "devices/block.h"
#include "tests/unit/made_machine.h"
#include "tests/unit/num_fds.h"
#include "tests/unit/patience.h"
#include "virtio/virtio_devices.h"
#include "vmm/control/control.h"
#include "vmm/control/control_client.h"
#include "vmm/run_dir.h"

struct served {
	struct made made;
	struct control *control;
	struct run_dir dir;
	char root[64];
	int sock; /* a client */
	unsigned descriptors;
};

/* Of the copy that a test holds up in its first moment; shared with it. */
static pid_t *copy;
static bool copies_go_on; /* none is held up */
static const struct served *copies_stop_at; /* or only at the memory of this; NULL: at once */

static void stop_for_good(int signal)
{
	*copy = getpid();
	for (;;)
		pause();
}

static void copy_begins(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (copies_go_on)
		return;
	if (copies_stop_at) {
		struct guest_mem *mem = copies_stop_at->made.machine->mem;

		/* No client's end is in a monitor. */
		close(copies_stop_at->sock);
		signal(SIGSEGV, stop_for_good);
		mprotect(mem->map, mem->map_size, PROT_NONE);
		return;
	}
	*copy = getpid();
	for (;;)
		pause();
}

static void turn(struct served *s)
{
	loop_run_once(machine_loop(s->made.machine), NSEC_PER_MSEC);
}

static json_t *answer(struct served *s)
{
	static char buf[CONTROL_MAX_MESSAGE];
	unsigned none = 0;

	for (uint64_t end = patience(); !patience_ends(end); turn(s)) {
		ssize_t n = control_receive(s->sock, buf, sizeof(buf), NULL, 0, &none,
					    MSG_DONTWAIT);

		if (n > 0)
			return json_loadb(buf, n, 0, NULL);
	}
	fail_msg("no answer");
	return NULL;
}

/* A machine that is paused, and a client. */
static void create(struct served *s)
{
	struct error err = { 0 };

	memset(s, 0, sizeof(*s));
	made_first(&s->made, "pci");
	snprintf(s->root, sizeof(s->root), "/tmp/wisp-test-XXXXXX");
	assert_non_null(mkdtemp(s->root));
	s->dir.listen_fd = -1;
	if (run_dir_create(&s->dir, s->root, "box", &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(control_create(&s->control, s->made.machine, dup(s->dir.listen_fd), &err),
			 0);
	s->sock = control_connect(s->dir.path, &err);
	assert_true(s->sock >= 0);
	control_send(s->sock, "{\"do\":\"info\"}", 13, NULL, 0, 0);
	json_decref(answer(s));
	s->descriptors = num_fds();
}

static void ask(struct served *s, const char *text, const int *fds, unsigned num_fds)
{
	assert_int_equal(control_send(s->sock, text, strlen(text), fds, num_fds, 0), strlen(text));
}

/*
 * The machine ends as if it had panicked, and with it all requests: this client's with one answer,
 * behind which nothing is left but the control socket's own two descriptors, which are closed.
 */
static void end(struct served *s)
{
	struct machine_end how = { 0 };
	json_t *o;

	machine_end(s->made.machine, MACHINE_END_PANIC, 1, NULL);
	machine_run(s->made.machine, &how);
	control_free(s->control, &how);
	assert_int_equal(num_fds(), s->descriptors - 2);
	o = answer(s);
	assert_int_equal(json_integer_value(json_object_get(o, "errno")), ECANCELED);
	assert_string_equal(json_string_value(json_object_get(o, "error")),
			    "the microVM ended (panic)");
	json_decref(o);
}

/* What happens while a core is written and devices are freed reaches no request any more. */
static void free_after(struct served *s)
{
	for (unsigned i = 0; i < 5; i++)
		turn(s);
	close(s->sock);
	made_free(&s->made);
	run_dir_remove(&s->dir);
	rmdir(s->root);
}

/* Its files, of which the test keeps only the writing end of the client's pipe. */
static int ask_snapshot_as(struct served *s, const char *request)
{
	int go[2], fds[3];
	json_t *o;

	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	fds[0] = go[0];
	fds[1] = made_file(0);
	fds[2] = made_file(0);
	ask(s, request, fds, 3);
	for (unsigned i = 0; i < 3; i++)
		close(fds[i]);
	o = answer(s);
	assert_non_null(json_object_get(o, "progress"));
	json_decref(o);
	s->descriptors++;
	return go[1];
}

static int ask_snapshot(struct served *s)
{
	return ask_snapshot_as(s, "{\"do\":\"snapshot\"}");
}

static void snapshot_whose_client_has_its_turn_ends_with_the_machine(void **state)
{
	struct served s;
	int go;

	create(&s);
	go = ask_snapshot(&s);
	end(&s);
	close(go);
	free_after(&s);
}

static void await_copy(struct served *s)
{
	for (uint64_t end = patience(); !*copy; turn(s))
		assert_false(patience_ends(end));
}

static void copy_ends(void)
{
	kill(*copy, SIGKILL);
	*copy = 0;
}

static void snapshot_that_is_being_written_ends_with_the_machine(void **state)
{
	struct served s;
	int go;

	create(&s);
	go = ask_snapshot(&s);
	assert_int_equal(write(go, "", 1), 1);
	await_copy(&s);
	end(&s);
	copy_ends();
	close(go);
	free_after(&s);
}

/* The kernel's own choice, for want of memory. */
static void copy_that_was_killed_is_said_to_be(void **state)
{
	struct served s;
	json_t *o;
	int go, fd = made_file(0);

	create(&s);
	go = ask_snapshot(&s);
	assert_int_equal(write(go, "", 1), 1);
	await_copy(&s);
	copy_ends();
	o = answer(&s);
	assert_string_equal(json_string_value(json_object_get(o, "error")),
			    "the process that wrote memory was killed");
	json_decref(o);
	ask(&s, "{\"do\":\"core\"}", &fd, 1);
	await_copy(&s);
	copy_ends();
	o = answer(&s);
	assert_string_equal(json_string_value(json_object_get(o, "error")),
			    "core: the process that wrote it was killed");
	json_decref(o);
	control_free(s.control, &(struct machine_end){ 0 });
	close(fd);
	close(go);
	free_after(&s);
}

static void core_that_is_being_written_ends_with_the_machine(void **state)
{
	struct served s;
	int fd = made_file(0);

	create(&s);
	ask(&s, "{\"do\":\"core\"}", &fd, 1);
	await_copy(&s);
	close(fd);
	s.descriptors--;
	end(&s);
	copy_ends();
	free_after(&s);
}

static void unplugging_that_waits_for_the_guest_ends_with_the_machine(void **state)
{
	struct served s;

	create(&s);
	virtio_set_status(s.made.machine->virtio[0].dev, VIRTIO_CONFIG_S_ACKNOWLEDGE, true);
	ask(&s, "{\"do\":\"unplug\",\"device\":\"root\",\"patience\":1}", NULL, 0);
	for (uint64_t end = patience(); !s.made.machine->plugging; turn(&s))
		assert_false(patience_ends(end));
	/* The driver's doorbell is new. */
	s.descriptors = num_fds();
	end(&s);
	clock_advance(&s.made.clock, 2 * NSEC_PER_SEC);
	free_after(&s);
}

/* ---- a guest that stands still for its client ---- */

#define STAY "{\"do\":\"snapshot\",\"stay_paused\":true}"

static void create_running(struct served *s)
{
	struct error err = { 0 };

	copies_go_on = true;
	create(s);
	assert_int_equal(machine_start(s->made.machine, &err), 0);
	machine_resume(s->made.machine);
}

static void expect_ok(struct served *s)
{
	json_t *o = answer(s);

	assert_true(json_is_true(json_object_get(o, "ok")));
	json_decref(o);
}

static void snapshot_is_taken(struct served *s)
{
	int go = ask_snapshot_as(s, STAY);

	assert_int_equal(write(go, "", 1), 1);
	close(go);
	expect_ok(s);
	assert_true(machine_is_paused(s->made.machine));
}

/* The same, and what its end is to say. */
static json_int_t runs_of_snapshot(struct served *s)
{
	int go = ask_snapshot_as(s, STAY);
	json_int_t runs;
	json_t *o;

	assert_int_equal(write(go, "", 1), 1);
	close(go);
	o = answer(s);
	assert_true(json_is_integer(json_object_get(o, "runs")));
	runs = json_integer_value(json_object_get(o, "runs"));
	json_decref(o);
	return runs;
}

static void ask_end(struct served *s, json_int_t runs)
{
	char text[64];

	snprintf(text, sizeof(text), "{\"do\":\"end\",\"runs\":%lld}", (long long)runs);
	ask(s, text, NULL, 0);
}

static void expect_errno(struct served *s, int number)
{
	json_t *o = answer(s);

	assert_int_equal(json_integer_value(json_object_get(o, "errno")), number);
	json_decref(o);
}

/* Another client is in its place, and served: that it has left has been seen. */
static void client_leaves(struct served *s)
{
	struct error err = { 0 };

	close(s->sock);
	for (unsigned i = 0; i < 5; i++)
		turn(s);
	s->sock = control_connect(s->dir.path, &err);
	assert_true(s->sock >= 0);
	ask(s, "{\"do\":\"info\"}", NULL, 0);
	expect_ok(s);
}

/* Who was served so far stays, silent, and is the caller's. */
static int another_client_comes(struct served *s)
{
	int first = s->sock;

	s->sock = dup(first);
	client_leaves(s);
	return first;
}

static void free_running(struct served *s)
{
	struct machine_end how = { 0 };

	machine_end(s->made.machine, MACHINE_END_ASKED, 0, NULL);
	machine_run(s->made.machine, &how);
	control_free(s->control, &how);
	free_after(s);
	copies_go_on = false;
}

static void guest_that_stands_still_for_its_client_goes_on_without_it(void **state)
{
	struct served s;

	create_running(&s);
	snapshot_is_taken(&s);
	client_leaves(&s);
	assert_false(machine_is_paused(s.made.machine));
	free_running(&s);
}

static void client_that_leaves_while_memory_is_written_leaves_no_guest_behind(void **state)
{
	struct served s;
	int go;

	create_running(&s);
	go = ask_snapshot_as(&s, STAY);
	assert_int_equal(write(go, "", 1), 1);
	close(go);
	client_leaves(&s);
	for (uint64_t end = patience(); machine_is_paused(s.made.machine); turn(&s))
		assert_false(patience_ends(end));
	free_running(&s);
}

/* Neither the room on disk nor the next request waits for what nobody wants any more. */
static void copy_ends_with_its_client(const char *request, bool has_turn)
{
	int go = -1, fd = made_file(0);
	struct served s;
	json_t *o;

	create_running(&s);
	copies_go_on = false;
	copies_stop_at = &s;
	*(volatile uint8_t *)s.made.machine->mem->map = 1;
	if (has_turn) {
		go = ask_snapshot_as(&s, request);
		assert_int_equal(write(go, "", 1), 1);
		close(go);
	} else {
		ask(&s, request, &fd, 1);
	}
	await_copy(&s);
	client_leaves(&s);
	for (uint64_t end = patience();; turn(&s)) {
		ask(&s, "{\"do\":\"pause\"}", NULL, 0);
		o = answer(&s);
		if (json_is_true(json_object_get(o, "ok")))
			break;
		json_decref(o);
		assert_false(patience_ends(end));
	}
	json_decref(o);
	assert_int_equal(kill(*copy, 0), -1);
	*copy = 0;
	copies_stop_at = NULL;
	close(fd);
	free_running(&s);
}

static void snapshot_that_is_being_written_ends_with_its_client(void **state)
{
	copy_ends_with_its_client("{\"do\":\"snapshot\"}", true);
}

static void snapshot_before_the_end_that_is_being_written_ends_with_its_client(void **state)
{
	copy_ends_with_its_client(STAY, true);
}

static void core_that_is_being_written_ends_with_its_client(void **state)
{
	copy_ends_with_its_client("{\"do\":\"core\"}", false);
}

static void guest_that_was_paused_before_stays_so_without_its_client(void **state)
{
	struct served s;

	create_running(&s);
	made_pause(s.made.machine);
	snapshot_is_taken(&s);
	client_leaves(&s);
	assert_true(machine_is_paused(s.made.machine));
	free_running(&s);
}

static void guest_that_another_client_pauses_stays_so(void **state)
{
	struct served s;
	int first;

	create_running(&s);
	snapshot_is_taken(&s);
	first = another_client_comes(&s);
	assert_true(machine_is_paused(s.made.machine));
	ask(&s, "{\"do\":\"pause\"}", NULL, 0);
	expect_ok(&s);
	close(first);
	for (unsigned i = 0; i < 5; i++)
		turn(&s);
	assert_true(machine_is_paused(s.made.machine));
	free_running(&s);
}

/* Whoever asks for something else meanwhile has not said what becomes of the guest. */
static void guest_that_is_left_in_the_midst_of_something_goes_on_behind_it(void **state)
{
	struct served s;
	int first, go;

	create_running(&s);
	snapshot_is_taken(&s);
	first = another_client_comes(&s);
	go = ask_snapshot(&s);
	close(first);
	for (unsigned i = 0; i < 5; i++)
		turn(&s);
	assert_true(machine_is_paused(s.made.machine));
	assert_int_equal(write(go, "", 1), 1);
	close(go);
	expect_ok(&s);
	assert_false(machine_is_paused(s.made.machine));
	free_running(&s);
}

static void guest_that_was_left_alone_once_stands_still_for_others(void **state)
{
	struct served s;
	int first;

	create_running(&s);
	snapshot_is_taken(&s);
	first = another_client_comes(&s);
	ask(&s, "{\"do\":\"track\",\"on\":false}", NULL, 0);
	json_decref(answer(&s));
	assert_true(machine_is_paused(s.made.machine));
	close(first);
	for (unsigned i = 0; i < 5; i++)
		turn(&s);
	assert_false(machine_is_paused(s.made.machine));
	ask(&s, "{\"do\":\"pause\"}", NULL, 0);
	expect_ok(&s);
	client_leaves(&s);
	assert_true(machine_is_paused(s.made.machine));
	free_running(&s);
}

/* What its disks hold is no longer what goes with the memory that was saved. */
static void guest_that_somebody_had_go_on_does_not_end_for_its_snapshot(void **state)
{
	struct machine_end how = { 0 };
	struct served s;
	json_int_t runs;
	json_t *o;

	create_running(&s);
	runs = runs_of_snapshot(&s);
	ask(&s, "{\"do\":\"resume\"}", NULL, 0);
	expect_ok(&s);
	ask(&s, "{\"do\":\"pause\"}", NULL, 0);
	expect_ok(&s);
	ask_end(&s, runs);
	expect_errno(&s, ESTALE);
	assert_false(atomic_load(&s.made.machine->ending));
	ask_end(&s, runs_of_snapshot(&s));
	machine_run(s.made.machine, &how);
	assert_int_equal(how.reason, MACHINE_END_ASKED);
	control_free(s.control, &how);
	o = answer(&s);
	assert_string_equal(json_string_value(json_object_get(o, "end")), "asked");
	json_decref(o);
	free_after(&s);
	copies_go_on = false;
}

/* Whoever asks it to stop while memory is written has it go on as soon as that is over. */
static void guest_that_is_stopped_while_it_is_saved_does_not_end_for_its_snapshot(void **state)
{
	struct error err = { 0 };
	struct served s;
	json_int_t runs;
	int other, go;
	json_t *o;

	create_running(&s);
	go = ask_snapshot_as(&s, STAY);
	other = control_connect(s.dir.path, &err);
	assert_true(other >= 0);
	control_send(other, "{\"do\":\"stop\"}", 13, NULL, 0, 0);
	for (uint64_t end = patience(); !s.made.machine->resume_due; turn(&s))
		assert_false(patience_ends(end));
	assert_int_equal(write(go, "", 1), 1);
	close(go);
	o = answer(&s);
	runs = json_integer_value(json_object_get(o, "runs"));
	json_decref(o);
	assert_false(machine_is_paused(s.made.machine));
	ask_end(&s, runs);
	expect_errno(&s, ESTALE);
	close(other);
	free_running(&s);
}

/* It would be of one size in what is saved of the machine, and of another where it is kept. */
static void disk_is_not_resized_while_it_is_saved(void **state)
{
	static const char resize[] = "{\"do\":\"change\",\"device\":\"root\",\"size\":1048576}";
	struct error err = { 0 };
	struct served s;
	json_int_t runs;
	int first, go;

	create_running(&s);
	virtio_blk_image(s.made.machine->virtio[0].dev)->read_only = false;
	go = ask_snapshot_as(&s, STAY);
	first = s.sock;
	s.sock = control_connect(s.dir.path, &err);
	ask(&s, resize, NULL, 0);
	expect_errno(&s, EBUSY);
	close(s.sock);
	s.sock = first;
	close(go);
	json_decref(answer(&s));
	runs = runs_of_snapshot(&s);
	ask(&s, resize, NULL, 0);
	expect_ok(&s);
	ask_end(&s, runs);
	expect_errno(&s, ESTALE);
	free_running(&s);
}

/* ---- devices that come and go between two requests ---- */

static void expect_stale(struct served *s, const char *request)
{
	const int fds[4] = { s->sock, s->sock, s->sock, s->sock };
	json_t *o;

	ask(s, request, fds, 4);
	o = answer(s);
	assert_int_equal(json_integer_value(json_object_get(o, "errno")), ESTALE);
	json_decref(o);
	assert_true(machine_is_paused(s->made.machine));
}

/* A disk of which nobody knew would be in what is saved or moved, and nothing of what it holds. */
static void disks_that_were_looked_at_are_those_that_are_saved(void **state)
{
	struct served s;
	json_t *o;

	create(&s);
	ask(&s, "{\"do\":\"disks\"}", NULL, 0);
	o = answer(&s);
	assert_int_equal(json_integer_value(json_object_get(o, "generation")), 0);
	json_decref(o);
	s.made.machine->generation++;
	expect_stale(&s, "{\"do\":\"snapshot\",\"generation\":0}");
	expect_stale(&s, "{\"do\":\"clone\",\"generation\":0}");
	expect_stale(&s, "{\"do\":\"migrate\",\"uuid\":\"00112233445566778899aabbccddeeff\","
			 "\"generation\":0}");
	close(ask_snapshot_as(&s, "{\"do\":\"snapshot\",\"generation\":1}"));
	json_decref(answer(&s));
	free_running(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(snapshot_whose_client_has_its_turn_ends_with_the_machine),
		cmocka_unit_test(snapshot_that_is_being_written_ends_with_the_machine),
		cmocka_unit_test(copy_that_was_killed_is_said_to_be),
		cmocka_unit_test(core_that_is_being_written_ends_with_the_machine),
		cmocka_unit_test(unplugging_that_waits_for_the_guest_ends_with_the_machine),
		cmocka_unit_test(guest_that_stands_still_for_its_client_goes_on_without_it),
		cmocka_unit_test(
			client_that_leaves_while_memory_is_written_leaves_no_guest_behind),
		cmocka_unit_test(snapshot_that_is_being_written_ends_with_its_client),
		cmocka_unit_test(
			snapshot_before_the_end_that_is_being_written_ends_with_its_client),
		cmocka_unit_test(core_that_is_being_written_ends_with_its_client),
		cmocka_unit_test(guest_that_was_paused_before_stays_so_without_its_client),
		cmocka_unit_test(guest_that_another_client_pauses_stays_so),
		cmocka_unit_test(
			guest_that_is_left_in_the_midst_of_something_goes_on_behind_it),
		cmocka_unit_test(guest_that_was_left_alone_once_stands_still_for_others),
		cmocka_unit_test(guest_that_somebody_had_go_on_does_not_end_for_its_snapshot),
		cmocka_unit_test(
			guest_that_is_stopped_while_it_is_saved_does_not_end_for_its_snapshot),
		cmocka_unit_test(disk_is_not_resized_while_it_is_saved),
		cmocka_unit_test(disks_that_were_looked_at_are_those_that_are_saved),
	};

	copy = mmap(NULL, sizeof(*copy), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (copy == MAP_FAILED || pthread_atfork(NULL, NULL, copy_begins))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
