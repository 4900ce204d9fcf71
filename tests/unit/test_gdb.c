/* The debugging stub: packets over a socket, to a machine over the fake hypervisor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/num_fds.h"
#include "vmm/debug/gdb.h"
#include "vmm/machine/machine.h"

#define CODE 0x200000u /* where the guest "executes" */

struct session {
	struct hv *hv;
	struct machine *machine;
	struct machine_config config;
	_Atomic uint64_t steps[2];
	_Atomic bool trap; /* vCPU 1 runs into what is at CODE */
	_Atomic bool own_step; /* vCPU 1 has a single step of its own */
	_Atomic unsigned injected;
	struct hv_debug injected_with; /* read once @injected is not 0 */
	char where[64];
	int fd;
};

/* Executes its memory at CODE: an int3 there is a breakpoint when one is looked for. */
static enum fake_step step(void *arg, unsigned vcpu, struct hv_exit *exit)
{
	struct session *s = arg;
	const struct hv_debug *debug = fake_hv_debug(s->hv, vcpu);
	uint8_t insn = 0;

	atomic_fetch_add(&s->steps[vcpu], 1);
	exit->kind = HV_EXIT_DEBUG;
	exit->addr = CODE;
	if (debug->inject != HV_INJECT_NONE) {
		s->injected_with = *debug;
		atomic_store(&s->trap, false);
		atomic_store(&s->own_step, false);
		atomic_fetch_add(&s->injected, 1);
		return FAKE_STEP_HALT;
	}
	if (vcpu == 1 && atomic_load(&s->trap)) {
		fake_hv_read(s->hv, CODE, &insn, 1);
		exit->size = 3;
		if (insn == 0xcc && debug->software)
			return FAKE_STEP_EXIT;
		for (unsigned i = 0; i < debug->num_hw; i++) {
			exit->size = 1;
			exit->detail = 1 << i;
			if (debug->hw[i].addr == CODE)
				return FAKE_STEP_EXIT;
		}
	}
	if (debug->step || (vcpu == 1 && atomic_load(&s->own_step))) {
		exit->size = 1;
		exit->detail = 1 << 14;
		return FAKE_STEP_EXIT;
	}
	return fake_pio_read(exit, 0x71, 1);
}

static int setup(void **state)
{
	static struct session session;
	struct session *s = &session;
	struct fake_hv_params params = { .guest = step, .arg = s };
	struct machine_params machine = { .config = &s->config };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct machine_files files;
	struct error err = { 0 };
	static struct fake_elf elf;

	memset(s, 0, sizeof(*s));
	config_init(&s->config);
	s->config.memory_bytes = 64 * MiB;
	s->config.num_nets = 0;
	s->config.console.kind = CHARDEV_NULL;
	s->config.kernel = strdup("fake");
	s->config.cpus = 2;
	machine_files_init(&files);
	fake_elf(&elf, true);
	assert_int_equal(fw_kernel_open(&files.kernel, "fake",
					fake_file(elf.image, sizeof(elf.image)), &err),
			 0);
	snprintf(s->where, sizeof(s->where), "unix:/tmp/wisp-test-gdb.%d", getpid());
	files.gdb = gdb_listen(s->where, &err);
	assert_true(files.gdb >= 0);
	s->hv = machine.hv = fake_hv_create(&params);
	machine.files = &files;
	if (machine_create(&s->machine, &machine, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(files.gdb, -1);
	machine_files_close(&files);
	assert_int_equal(machine_start(s->machine, &err), 0);

	s->fd = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", s->where + 5);
	assert_int_equal(connect(s->fd, (struct sockaddr *)&un, sizeof(un)), 0);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct session *s = *state;
	struct machine_end end;

	close(s->fd);
	machine_end(s->machine, MACHINE_END_ASKED, 0, NULL);
	machine_run(s->machine, &end);
	machine_free(s->machine);
	gdb_unlisten(s->where);
	config_done(&s->config);
	return 0;
}

static void tell(struct session *s, const char *packet)
{
	char frame[8192];
	uint8_t sum = 0;
	int n;

	for (const char *p = packet; *p; p++)
		sum += *p;
	n = snprintf(frame, sizeof(frame), "$%s#%02x", packet, sum);
	assert_int_equal(send(s->fd, frame, n, 0), n);
}

static size_t take(struct session *s, char *c)
{
	ssize_t n;

	while ((n = recv(s->fd, c, 1, MSG_DONTWAIT)) < 0 && errno == EAGAIN)
		loop_run_once(machine_loop(s->machine), 1000000);
	return n == 1;
}

/* The next packet's content, acknowledgements passed over. */
static const char *hear(struct session *s)
{
	static char text[8192];
	size_t n = 0;
	char c = 0;

	while (c != '$')
		assert_true(take(s, &c));
	while (take(s, &c) && c != '#' && n < sizeof(text) - 1)
		text[n++] = c;
	text[n] = '\0';
	assert_true(take(s, &c) && take(s, &c));
	send(s->fd, "+", 1, 0);
	return text;
}

static const char *ask(struct session *s, const char *packet)
{
	tell(s, packet);
	return hear(s);
}

/* ---- */

static void connecting_stops_the_machine(void **state)
{
	struct session *s = *state;
	uint64_t before;

	assert_string_equal(ask(s, "?"), "T02thread:1;");
	before = atomic_load(&s->steps[0]);
	for (unsigned i = 0; i < 20; i++)
		loop_run_once(machine_loop(s->machine), 1000000);
	assert_int_equal(atomic_load(&s->steps[0]), before);
	assert_string_equal(ask(s, "qfThreadInfo"), "m1,2");
}

static void client_that_goes_lets_the_machine_run(void **state)
{
	struct session *s = *state;
	uint8_t code;
	uint64_t before;

	ask(s, "?");
	assert_string_equal(ask(s, "Z0,200000,1"), "OK");
	before = atomic_load(&s->steps[0]);
	close(s->fd);
	s->fd = -1;
	while (atomic_load(&s->steps[0]) < before + 10)
		loop_run_once(machine_loop(s->machine), 1000000);
	fake_hv_read(s->hv, CODE, &code, 1);
	assert_int_not_equal(code, 0xcc);
}

static void memory_is_read_and_written(void **state)
{
	struct session *s = *state;
	uint8_t bytes[3];

	assert_string_equal(ask(s, "M200000,3:a1b2c3"), "OK");
	fake_hv_read(s->hv, CODE, bytes, 3);
	assert_memory_equal(bytes, "\xa1\xb2\xc3", 3);
	assert_string_equal(ask(s, "m200000,3"), "a1b2c3");
	assert_string_equal(ask(s, "X200001,2:}\x04x"), "OK"); /* an escaped '$' */
	assert_string_equal(ask(s, "m200000,3"), "a12478");
}

static void memory_that_is_not_there_is_an_error(void **state)
{
	struct session *s = *state;

	assert_string_equal(ask(s, "mfffffffffff00000,8"), "E0e");
	assert_string_equal(ask(s, "M4000000,2:0102"), "E0e");
	/* What is there is given, up to where it ends. */
	assert_string_equal(ask(s, "m3fffffe,8"), "0000");
}

static void software_breakpoint_stops_and_hides(void **state)
{
	struct session *s = *state;
	uint8_t code;

	ask(s, "M200000,1:90");
	assert_string_equal(ask(s, "Z0,200000,1"), "OK");
	fake_hv_read(s->hv, CODE, &code, 1);
	assert_int_equal(code, 0xcc);
	assert_string_equal(ask(s, "m200000,1"), "90");
	atomic_store(&s->trap, true);
	assert_string_equal(ask(s, "vCont;c"), "T05thread:2;swbreak:;");
	assert_string_equal(ask(s, "M200000,1:91"), "OK");
	assert_string_equal(ask(s, "m200000,1"), "91");
	assert_string_equal(ask(s, "z0,200000,1"), "OK");
	fake_hv_read(s->hv, CODE, &code, 1);
	assert_int_equal(code, 0x91);
	assert_string_equal(ask(s, "z0,200000,1"), "E02");
}

static void code_that_the_guest_replaced_stays(void **state)
{
	struct session *s = *state;
	uint8_t code = 0x55;

	ask(s, "Z0,200000,1");
	fake_hv_write(s->hv, CODE, &code, 1);
	assert_string_equal(ask(s, "z0,200000,1"), "OK");
	fake_hv_read(s->hv, CODE, &code, 1);
	assert_int_equal(code, 0x55);
}

static void foreign_int3_is_the_guests(void **state)
{
	struct session *s = *state;
	static const uint8_t int3 = 0xcc;

	/* Another breakpoint makes int3 exit; this one was the guest's own. */
	assert_string_equal(ask(s, "Z0,200010,1"), "OK");
	fake_hv_write(s->hv, CODE, &int3, 1);
	atomic_store(&s->trap, true);
	tell(s, "vCont;c");
	while (!atomic_load(&s->injected))
		loop_run_once(machine_loop(s->machine), 1000000);
	assert_int_equal(send(s->fd, "\x03", 1, 0), 1);
	assert_string_equal(hear(s), "T02thread:1;");
}

static void await_injection(struct session *s)
{
	while (!atomic_load(&s->injected))
		loop_run_once(machine_loop(s->machine), 1000000);
	assert_int_equal(send(s->fd, "\x03", 1, 0), 1);
	hear(s);
}

static void foreign_int3_leaves_the_step_that_was_asked_for(void **state)
{
	struct session *s = *state;
	static const uint8_t int3 = 0xcc;

	assert_string_equal(ask(s, "Z0,200010,1"), "OK");
	fake_hv_write(s->hv, CODE, &int3, 1);
	atomic_store(&s->trap, true);
	tell(s, "vCont;s:2");
	await_injection(s);
	assert_int_equal(s->injected_with.inject, HV_INJECT_BP);
	assert_true(s->injected_with.step);
	assert_true(s->injected_with.software);
}

static void foreign_trap_says_why_it_came(void **state)
{
	struct session *s = *state;

	/* A debug register in use makes #DB exit; this one is by the guest's own trap flag. */
	assert_string_equal(ask(s, "Z1,200010,1"), "OK");
	atomic_store(&s->own_step, true);
	tell(s, "vCont;c");
	await_injection(s);
	assert_int_equal(s->injected_with.inject, HV_INJECT_DB);
	assert_int_equal(s->injected_with.dr6, 1 << 14);
	assert_int_equal(s->injected_with.num_hw, 1);
}

static void watchpoint_names_its_address(void **state)
{
	struct session *s = *state;

	assert_string_equal(ask(s, "Z2,300000,4"), "OK");
	assert_string_equal(ask(s, "Z2,200000,8"), "OK");
	assert_int_equal(fake_hv_debug(s->hv, 0)->num_hw, 0);
	atomic_store(&s->trap, true);
	assert_string_equal(ask(s, "vCont;c"), "T05thread:2;watch:200000;");
	assert_int_equal(fake_hv_debug(s->hv, 0)->hw[0].addr, 0x300000);
}

static void debug_registers_are_four(void **state)
{
	struct session *s = *state;

	assert_string_equal(ask(s, "Z1,100,1"), "OK");
	assert_string_equal(ask(s, "Z1,200,1"), "OK");
	assert_string_equal(ask(s, "Z1,200,1"), "OK");
	assert_string_equal(ask(s, "Z3,300,2"), "OK");
	assert_string_equal(ask(s, "Z4,400,4"), "OK");
	assert_string_equal(ask(s, "Z1,500,1"), "E1c");
	assert_string_equal(ask(s, "z1,100,1"), "OK");
	assert_string_equal(ask(s, "Z2,501,4"), "E16");
	assert_string_equal(ask(s, "Z2,504,3"), "E16");
	assert_string_equal(ask(s, "Z1,500,1"), "OK");
}

static void one_thread_steps_and_the_other_stays(void **state)
{
	struct session *s = *state;
	uint64_t before;

	ask(s, "?");
	before = atomic_load(&s->steps[0]);
	assert_string_equal(ask(s, "vCont;s:2"), "T05thread:2;");
	assert_int_equal(atomic_load(&s->steps[0]), before);
	assert_true(fake_hv_debug(s->hv, 1)->step);
	assert_false(fake_hv_debug(s->hv, 0)->step);
	assert_string_equal(ask(s, "vCont;s:1;c"), "T05thread:1;");
}

static void registers_are_read_and_written(void **state)
{
	struct session *s = *state;
	char text[64];

	snprintf(text, sizeof(text), "P3=8877665544332211");
	assert_string_equal(ask(s, text), "OK");
	assert_string_equal(ask(s, "p3"), "8877665544332211"); /* rdx */
	assert_string_equal(ask(s, "P12=0000"), "E16");
	assert_string_equal(ask(s, "P12=00000000"), "E01"); /* cs */
	assert_string_equal(ask(s, "p99"), "E16");
	assert_true(strlen(ask(s, "g")) > 2 * 560);
	/* Another thread has its own. */
	assert_string_equal(ask(s, "Hg2"), "OK");
	assert_string_equal(ask(s, "p3"), "0000000000000000");
	assert_string_equal(ask(s, "Hg3"), "E16");
}

static void target_is_described_piece_by_piece(void **state)
{
	struct session *s = *state;
	static char whole[16384];
	size_t n = 0;
	char packet[64];

	for (;;) {
		const char *piece;

		snprintf(packet, sizeof(packet), "qXfer:features:read:target.xml:%zx,1f3", n);
		piece = ask(s, packet);
		n += snprintf(whole + n, sizeof(whole) - n, "%s", piece + 1);
		if (piece[0] == 'l')
			break;
		assert_int_equal(piece[0], 'm');
	}
	assert_non_null(strstr(whole, "<reg name=\"xmm15\" bitsize=\"128\""));
	assert_non_null(strstr(whole, "name=\"efer\""));
	assert_string_equal(whole + strlen(whole) - 9, "</target>");
}

static void damaged_packet_is_asked_for_again(void **state)
{
	struct session *s = *state;
	char c;

	assert_int_equal(send(s->fd, "$?#00", 5, 0), 5);
	assert_true(take(s, &c));
	assert_int_equal(c, '-');
	assert_string_equal(ask(s, "QStartNoAckMode"), "OK");
	assert_int_equal(send(s->fd, "$qC#00", 6, 0), 6);
	assert_string_equal(hear(s), "QC1");
}

static void unknown_and_malformed_packets_do_no_harm(void **state)
{
	struct session *s = *state;
	static const char *const packets[] = { "!", "vMustReplyEmpty", "qSymbol::", "", "R00" };
	static const char *const wrong[] = { "m", "mzz", "m1", "M1,2:1", "Z9,1,1", "Zx", "P", "Hg",
					     "vCont;x", "vCont;s:9", "T", "X1,9:a", "c1000" };

	for (unsigned i = 0; i < ARRAY_SIZE(packets); i++)
		assert_string_equal(ask(s, packets[i]), "");
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
		if (ask(s, wrong[i])[0] != 'E')
			fail_msg("'%s' was accepted", wrong[i]);
}

static void monitor_translates(void **state)
{
	struct session *s = *state;
	const char *hex = ask(s, "qRcmd,7472616e736c617465203078313030"); /* translate 0x100 */

	assert_non_null(strstr(hex, "677565737420706879736963616c")); /* guest physical */
}

static void pause_outlasts_the_debugger(void **state)
{
	struct session *s = *state;
	uint64_t before;

	ask(s, "?");
	machine_pause(s->machine, NULL, NULL);
	while (!machine_is_paused(s->machine))
		loop_run_once(machine_loop(s->machine), 1000000);
	before = atomic_load(&s->steps[0]);
	assert_string_equal(ask(s, "D"), "OK");
	for (unsigned i = 0; i < 20; i++)
		loop_run_once(machine_loop(s->machine), 1000000);
	assert_int_equal(atomic_load(&s->steps[0]), before);
	machine_resume(s->machine);
	while (atomic_load(&s->steps[0]) == before)
		loop_run_once(machine_loop(s->machine), 1000000);
}

static void pause_it(struct session *s)
{
	machine_pause(s->machine, NULL, NULL);
	while (!machine_is_paused(s->machine))
		loop_run_once(machine_loop(s->machine), 1000000);
}

static uint8_t code_at(struct session *s, uint64_t gpa)
{
	uint8_t code;

	fake_hv_read(s->hv, gpa, &code, 1);
	return code;
}

/* What is saved, copied or sent is the memory of a machine that is paused. */
static void memory_of_a_paused_machine_is_the_guests(void **state)
{
	struct session *s = *state;
	uint8_t code = 0x92;

	ask(s, "M200000,4:90919293");
	assert_string_equal(ask(s, "Z0,200000,1"), "OK");
	assert_string_equal(ask(s, "Z0,200001,1"), "OK");
	/* The guest's own, from now on. */
	fake_hv_write(s->hv, CODE + 1, &code, 1);
	pause_it(s);
	assert_int_equal(code_at(s, CODE), 0x90);
	assert_int_equal(code_at(s, CODE + 1), 0x92);
	/* Nor do those who come, go or change meanwhile. */
	assert_string_equal(ask(s, "Z0,200002,1"), "OK");
	assert_string_equal(ask(s, "Z0,200003,1"), "OK");
	assert_string_equal(ask(s, "z0,200003,1"), "OK");
	assert_string_equal(ask(s, "M200000,1:55"), "OK");
	assert_int_equal(code_at(s, CODE), 0x55);
	assert_int_equal(code_at(s, CODE + 2), 0x92);
	machine_resume(s->machine);
	assert_int_equal(code_at(s, CODE), 0xcc);
	assert_int_equal(code_at(s, CODE + 1), 0x92);
	assert_int_equal(code_at(s, CODE + 2), 0xcc);
	assert_int_equal(code_at(s, CODE + 3), 0x93);
	assert_string_equal(ask(s, "m200000,4"), "55929293");
	/* They still stop it. */
	atomic_store(&s->trap, true);
	assert_string_equal(ask(s, "vCont;c"), "T05thread:2;swbreak:;");
	/* Other memory is left as it is. */
	pause_it(s);
	fake_hv_write(s->hv, CODE, &code, 1);
	machine_resume(s->machine);
	assert_int_equal(code_at(s, CODE), 0x92);
	assert_int_equal(code_at(s, CODE + 2), 0xcc);
}

static void client_waits_while_there_is_no_descriptor_for_it(void **state)
{
	struct session *s = *state;

	assert_true(rounds_without_fds(machine_loop(s->machine)) < 10);
	assert_string_equal(ask(s, "?"), "T02thread:1;");
}

static void address_is_checked(void **state)
{
	static const char *const wrong[] = { "", "tcp", "tcp:", "tcp:0", "tcp:65536", "tcp:12x",
					     "tcp:host:1", "tcp::1", "unix:", "udp:1", "12345" };
	static const char *const right[] = { "tcp:1234", "tcp:0.0.0.0:1", "tcp:::1:1", "unix:/x" };
	struct error err;

	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(gdb_check_where(wrong[i], &err), -EINVAL);
	for (unsigned i = 0; i < ARRAY_SIZE(right); i++)
		assert_int_equal(gdb_check_where(right[i], &err), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(connecting_stops_the_machine),
		TEST(client_that_goes_lets_the_machine_run),
		TEST(memory_is_read_and_written),
		TEST(memory_that_is_not_there_is_an_error),
		TEST(software_breakpoint_stops_and_hides),
		TEST(code_that_the_guest_replaced_stays),
		TEST(foreign_int3_is_the_guests),
		TEST(foreign_int3_leaves_the_step_that_was_asked_for),
		TEST(foreign_trap_says_why_it_came),
		TEST(watchpoint_names_its_address),
		TEST(debug_registers_are_four),
		TEST(one_thread_steps_and_the_other_stays),
		TEST(registers_are_read_and_written),
		TEST(target_is_described_piece_by_piece),
		TEST(damaged_packet_is_asked_for_again),
		TEST(unknown_and_malformed_packets_do_no_harm),
		TEST(monitor_translates),
		TEST(pause_outlasts_the_debugger),
		TEST(memory_of_a_paused_machine_is_the_guests),
		TEST(client_waits_while_there_is_no_descriptor_for_it),
		cmocka_unit_test(address_is_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
