/* Whole machines over the fake hypervisor, several in one process, on a virtual clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/patience.h"
#include "vmm/core/platform.h"
#include "vmm/hypervisor/x86.h"
#include "vmm/machine/machine_internal.h"

/* What the guest program does; one per machine. */
enum program {
	HALT,		 /* wait for interrupts, for ever */
	EXIT_42,	 /* write 42 to the exit port */
	POWER_OFF_S5,
	RESET,
	RESET_WARM,	 /* as a kernel does that panicked without a pvpanic driver */
	PANIC,
	TRIPLE_FAULT,
	FAIL_ENTRY,
	COUNT,		 /* read a port again and again */
	STRING_OUTPUT,	 /* rep outsb to an empty port, then exit with 7 */
	READ_PVPANIC,	 /* exit with what the pvpanic port reads as */
	AWAIT_BUTTON,	 /* wait for the event device, exit with its events */
};

struct guest {
	enum program program;
	struct hv *hv;
	struct machine *machine;
	struct machine_config config;
	struct clock clock;
	_Atomic uint64_t steps;
	unsigned stage;
};

static enum fake_step exit_with(struct hv_exit *exit, uint8_t status)
{
	return fake_pio_write(exit, POWER_EXIT_PORT, 1, status);
}

static enum fake_step step(void *arg, unsigned vcpu, struct hv_exit *exit)
{
	struct guest *g = arg;

	/* The others wait to be started, as application processors do. */
	if (vcpu != 0)
		return FAKE_STEP_HALT;
	atomic_fetch_add(&g->steps, 1);
	switch (g->program) {
	case HALT:
		return FAKE_STEP_HALT;
	case EXIT_42:
		return g->stage++ ? FAKE_STEP_HALT : exit_with(exit, 42);
	case POWER_OFF_S5:
		return fake_pio_write(exit, POWER_SLEEP_CONTROL_PORT, 1,
				      POWER_SLEEP_TYPE_S5 << 2 | 1 << 5);
	case RESET_WARM:
		fake_hv_write(g->hv, 0x472, (const uint8_t[]){ 0x34, 0x12 }, 2);
		/* fall through */
	case RESET:
		return fake_pio_write(exit, POWER_RESET_PORT, 1, POWER_RESET_VALUE);
	case PANIC:
		return fake_pio_write(exit, POWER_PVPANIC_PORT, 1, 1);
	case TRIPLE_FAULT:
		exit->kind = HV_EXIT_SHUTDOWN;
		return FAKE_STEP_EXIT;
	case FAIL_ENTRY:
		exit->kind = HV_EXIT_FAIL_ENTRY;
		exit->detail = 0x80000021;
		return FAKE_STEP_EXIT;
	case COUNT:
		return fake_pio_read(exit, 0x71, 1);
	case STRING_OUTPUT:
		if (g->stage++)
			return exit_with(exit, 7);
		fake_pio_write(exit, 0x1234, 1, 'x');
		exit->count = 16;
		return FAKE_STEP_EXIT;
	case READ_PVPANIC:
		if (!g->stage++)
			return fake_pio_read(exit, POWER_PVPANIC_PORT, 1);
		return exit_with(exit, fake_result(exit, 1));
	case AWAIT_BUTTON:
		if (g->stage == 2)
			return exit_with(exit, fake_result(exit, 4));
		if (!fake_hv_interrupts(g->hv, POWER_GED_GSI))
			return FAKE_STEP_HALT;
		g->stage = 2;
		return fake_pio_read(exit, POWER_GED_PORT, 4);
	}
	return FAKE_STEP_HALT;
}

static void configure(struct machine_config *c, enum config_transport transport)
{
	config_init(c);
	c->memory_bytes = 64 * MiB;
	c->num_nets = 0;
	c->transport = transport;
	c->console.kind = CHARDEV_NULL;
	c->kernel = strdup("fake");
}

static void create_with(struct guest *g, enum program program, enum loop_backend loop,
			enum fw_protocol protocol)
{
	struct fake_hv_params params = { .guest = step, .arg = g };
	struct machine_params machine = { .config = &g->config, .clock = &g->clock };
	struct machine_files files;
	struct error err = { 0 };
	static struct fake_elf elf;

	memset(g, 0, sizeof(*g));
	g->program = program;
	configure(&g->config, CONFIG_PCI);
	g->config.loop = loop;
	g->config.protocol = protocol;
	g->config.cpus = 2;
	clock_init_virtual(&g->clock, NSEC_PER_SEC, 1700000000 * NSEC_PER_SEC);
	machine_files_init(&files);
	fake_elf(&elf, true);
	assert_int_equal(fw_kernel_open(&files.kernel, "fake",
					fake_file(elf.image, sizeof(elf.image)), &err),
			 0);
	g->hv = machine.hv = fake_hv_create(&params);
	machine.files = &files;
	if (machine_create(&g->machine, &machine, &err) < 0)
		fail_msg("%s", err.msg);
	machine_files_close(&files);
}

static void create(struct guest *g, enum program program)
{
	create_with(g, program, LOOP_AUTO, FW_PROTOCOL_AUTO);
}

static void destroy(struct guest *g)
{
	machine_free(g->machine);
	config_done(&g->config);
}

static void start(struct guest *g)
{
	struct error err = { 0 };

	assert_int_equal(machine_start(g->machine, &err), 0);
}

/* One life from creation to the end. */
static struct machine_end live(enum program program)
{
	struct machine_end end = { 0 };
	struct guest g;

	create(&g, program);
	start(&g);
	machine_run(g.machine, &end);
	destroy(&g);
	return end;
}

static void machine_ends_with_the_reason_the_guest_gives(void **state)
{
	static const struct {
		enum program program;
		enum machine_end_reason reason;
		int status;
	} ends[] = {
		{ EXIT_42, MACHINE_END_EXIT_PORT, 42 },
		{ POWER_OFF_S5, MACHINE_END_POWEROFF, 0 },
		{ RESET, MACHINE_END_REBOOT, 0 },
		{ RESET_WARM, MACHINE_END_PANIC, 3 },
		{ PANIC, MACHINE_END_PANIC, 3 },
		{ TRIPLE_FAULT, MACHINE_END_TRIPLE_FAULT, 4 },
		{ FAIL_ENTRY, MACHINE_END_INTERNAL, 5 },
		{ STRING_OUTPUT, MACHINE_END_EXIT_PORT, 7 },
		{ READ_PVPANIC, MACHINE_END_EXIT_PORT, 3 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
		struct machine_end end = live(ends[i].program);

		assert_int_equal(end.reason, ends[i].reason);
		assert_int_equal(end.status, ends[i].status);
	}
}

static void machine_that_fails_shows_registers_and_how_rip_translates(void **state)
{
	struct machine_end end = live(FAIL_ENTRY);

	assert_non_null(strstr(end.evidence, "fail_entry, detail 0x80000021"));
	assert_non_null(strstr(end.evidence, "rip 0000000001000850"));
	assert_non_null(strstr(end.evidence, "paging is off"));
	assert_null(strstr(live(EXIT_42).evidence, "rip"));
}

static void two_machines_live_in_one_process(void **state)
{
	struct machine_end end_a = { 0 }, end_b = { 0 };
	struct guest a, b;

	create(&a, COUNT);
	create(&b, EXIT_42);
	start(&a);
	start(&b);
	machine_run(b.machine, &end_b);
	assert_int_equal(end_b.status, 42);

	/* The other one has not noticed. */
	machine_end(a.machine, MACHINE_END_ASKED, 0, NULL);
	machine_run(a.machine, &end_a);
	assert_int_equal(end_a.reason, MACHINE_END_ASKED);
	destroy(&a);
	destroy(&b);
}

static void timeout_follows_the_machines_own_clock(void **state)
{
	struct machine_end end = { 0 };
	struct guest slow, fast;

	create(&slow, HALT);
	create(&fast, HALT);
	/* Their clocks begin at one second. */
	machine_set_deadline(slow.machine, 11 * NSEC_PER_SEC);
	machine_set_deadline(fast.machine, 11 * NSEC_PER_SEC);
	start(&slow);
	start(&fast);
	clock_advance(&fast.clock, 11 * NSEC_PER_SEC);
	clock_advance(&slow.clock, 9 * NSEC_PER_SEC);
	machine_run(fast.machine, &end);
	assert_int_equal(end.reason, MACHINE_END_TIMEOUT);
	assert_int_equal(end.status, 124);

	/* Nine seconds are not ten: what ends this one is not its timeout. */
	loop_run_once(machine_loop(slow.machine), 0);
	machine_end(slow.machine, MACHINE_END_ASKED, 0, NULL);
	machine_run(slow.machine, &end);
	assert_int_equal(end.reason, MACHINE_END_ASKED);
	destroy(&slow);
	destroy(&fast);
}

static void first_end_wins(void **state)
{
	struct machine_end end = { 0 };
	struct guest g;

	create(&g, HALT);
	start(&g);
	machine_end(g.machine, MACHINE_END_SIGNAL, 143, NULL);
	machine_end(g.machine, MACHINE_END_POWEROFF, 0, NULL);
	machine_run(g.machine, &end);
	assert_int_equal(end.reason, MACHINE_END_SIGNAL);
	assert_int_equal(end.status, 143);
	destroy(&g);
}

static void is_paused(void *arg)
{
	*(bool *)arg = true;
}

static void pause_and_wait(struct guest *g)
{
	bool done = false;

	machine_pause(g->machine, is_paused, &done);
	while (!done)
		loop_run_once(machine_loop(g->machine), UINT64_MAX);
	assert_true(machine_is_paused(g->machine));
}

static void paused_guest_does_not_run_and_resumed_one_does(void **state)
{
	struct machine_end end = { 0 };
	uint64_t before;
	struct guest g;

	create(&g, COUNT);
	start(&g);
	while (atomic_load(&g.steps) < 100)
		loop_run_once(machine_loop(g.machine), 0);
	for (unsigned i = 0; i < 20; i++) {
		pause_and_wait(&g);
		before = atomic_load(&g.steps);
		loop_run_once(machine_loop(g.machine), NSEC_PER_MSEC);
		assert_int_equal(atomic_load(&g.steps), before);
		machine_resume(g.machine);
		while (atomic_load(&g.steps) == before)
			loop_run_once(machine_loop(g.machine), 0);
	}
	machine_end(g.machine, MACHINE_END_ASKED, 0, NULL);
	machine_run(g.machine, &end);
	destroy(&g);
}

static void held_machine_goes_on_when_the_last_one_lets_go(void **state)
{
	struct machine_end end = { 0 };
	struct guest g;

	create(&g, COUNT);
	start(&g);
	pause_and_wait(&g);
	machine_hold(g.machine);
	machine_hold(g.machine);
	machine_resume(g.machine);
	assert_true(machine_is_paused(g.machine));
	machine_release(g.machine);
	assert_true(machine_is_paused(g.machine));
	machine_release(g.machine);
	assert_false(machine_is_paused(g.machine));
	/* And nobody's wish is left over. */
	pause_and_wait(&g);
	machine_hold(g.machine);
	machine_release(g.machine);
	assert_true(machine_is_paused(g.machine));
	machine_end(g.machine, MACHINE_END_ASKED, 0, NULL);
	machine_run(g.machine, &end);
	destroy(&g);
}

static void all_who_wait_for_a_pause_are_told(void **state)
{
	struct machine_end end = { 0 };
	bool first = false, second = false;
	struct guest g;

	create(&g, COUNT);
	start(&g);
	machine_pause(g.machine, is_paused, &first);
	machine_pause(g.machine, is_paused, &second);
	for (uint64_t over = patience(); !(first && second) && !patience_ends(over);)
		loop_run_once(machine_loop(g.machine), NSEC_PER_MSEC);
	assert_true(first);
	assert_true(second);
	machine_end(g.machine, MACHINE_END_ASKED, 0, NULL);
	machine_run(g.machine, &end);
	destroy(&g);
}

static void machine_ends_in_the_middle_of_a_pause(void **state)
{
	struct machine_end end = { 0 };
	bool paused = false;
	struct guest g;

	create(&g, COUNT);
	start(&g);
	machine_pause(g.machine, is_paused, &paused);
	machine_end(g.machine, MACHINE_END_ASKED, 0, NULL);
	machine_run(g.machine, &end);
	assert_int_equal(end.reason, MACHINE_END_ASKED);
	destroy(&g);
}

/* A device with something in flight, which it gives up when it is told to hurry. */
struct slow {
	struct virtio_ops ops;
	struct loop_task task;
	struct virtio_device *dev;
	struct machine *machine;
	unsigned stops;
};

static void slow_stop(struct virtio_device *dev)
{
	container_of(dev->ops, struct slow, ops)->stops++;
}

static void slow_hurry(struct virtio_device *dev, unsigned queue)
{
}

static void give_up_when_hurried(struct loop_task *task)
{
	struct slow *s = container_of(task, struct slow, task);

	if (s->dev->hurried)
		virtio_stopped(s->dev);
	else
		loop_post(s->machine->loop, task);
}

static void machine_that_ends_while_a_pause_drains_hurries_what_is_left(void **state)
{
	struct slow slow = { .task.run = give_up_when_hurried };
	struct machine_end end = { 0 };
	bool paused = false;
	struct guest g;

	create(&g, COUNT);
	start(&g);
	slow.machine = g.machine;
	slow.dev = g.machine->virtio[0].dev;
	slow.ops = *slow.dev->ops;
	slow.ops.stop_queue = NULL;
	slow.ops.stop = slow_stop;
	slow.ops.hurry = slow_hurry;
	slow.dev->ops = &slow.ops;
	slow.dev->running = true;
	machine_pause(g.machine, is_paused, &paused);
	while (!slow.stops)
		loop_run_once(g.machine->loop, UINT64_MAX);
	assert_int_equal(g.machine->undrained, 1);
	loop_post(g.machine->loop, &slow.task);
	machine_end(g.machine, MACHINE_END_ASKED, 0, NULL);
	/* One that counts a device twice, or never, waits for ever. */
	alarm(60);
	machine_run(g.machine, &end);
	alarm(0);
	assert_int_equal(slow.stops, 1);
	assert_int_equal(g.machine->undrained, 0);
	assert_true(machine_is_paused(g.machine));
	/* Who waited for the pause learns of the end. */
	assert_false(paused);
	destroy(&g);
}

static void paused_machine_can_end(void **state)
{
	struct machine_end end = { 0 };
	struct guest g;

	create(&g, COUNT);
	start(&g);
	pause_and_wait(&g);
	machine_end(g.machine, MACHINE_END_SIGNAL, 130, NULL);
	machine_run(g.machine, &end);
	assert_int_equal(end.status, 130);
	destroy(&g);
}

static void power_button_reaches_the_guest_as_an_event(void **state)
{
	struct machine_end end = { 0 };
	struct guest g;

	create(&g, AWAIT_BUTTON);
	start(&g);
	machine_power_button(g.machine);
	machine_run(g.machine, &end);
	assert_int_equal(end.reason, MACHINE_END_EXIT_PORT);
	assert_int_equal(end.status, GED_POWER_BUTTON);
	destroy(&g);
}

/* Some hosts forbid io_uring. */
static bool is_there(enum loop_backend backend)
{
	struct loop_params params = { .backend = backend, .name = "test" };
	struct error err = { 0 };
	struct loop *loop;

	if (loop_create(&loop, &params, &err) < 0)
		return false;
	loop_free(loop);
	return true;
}

static void both_loops_carry_a_machine(void **state)
{
	static const enum loop_backend backends[] = { LOOP_EPOLL, LOOP_URING };

	for (unsigned i = 0; i < ARRAY_SIZE(backends); i++) {
		struct machine_end end = { 0 };
		struct guest g;

		if (!is_there(backends[i]))
			skip();
		create_with(&g, EXIT_42, backends[i], FW_PROTOCOL_AUTO);
		start(&g);
		machine_run(g.machine, &end);
		assert_int_equal(end.status, 42);
		destroy(&g);
	}
}

static void boot_processor_passes_the_entry_checks_of_both_vendors(void **state)
{
	static const enum fw_protocol protocols[] = { FW_PROTOCOL_LINUX64, FW_PROTOCOL_PVH };

	for (unsigned i = 0; i < ARRAY_SIZE(protocols); i++) {
		struct x86_vcpu_state vcpu;
		struct error err = { 0 };
		struct guest g;

		create_with(&g, HALT, LOOP_AUTO, protocols[i]);
		assert_int_equal(machine_vcpu_state(g.machine, 0, &vcpu), 0);
		if (x86_check_vmx(&vcpu, 48, &err) < 0 || x86_check_svm(&vcpu, 48, &err) < 0)
			fail_msg("%s", err.msg);
		assert_int_equal(machine_vcpu_state(g.machine, 2, &vcpu), -EINVAL);
		destroy(&g);
	}
}

static void printed_machine_names_every_device_once(void **state)
{
	char *text = NULL;
	size_t len = 0;
	struct guest g;
	FILE *out;

	create(&g, HALT);
	out = open_memstream(&text, &len);
	machine_print(g.machine, out);
	fclose(out);
	assert_non_null(strstr(text, "2 vCPUs"));
	assert_non_null(strstr(text, "64 MiB"));
	assert_non_null(strstr(text, "console0   virtio-console  4 queues, pci 0000:00:01.0"));
	assert_non_null(strstr(text, "rng0       virtio-rng      1 queue, pci 0000:00:02.0"));
	assert_null(strstr(text, "serial0"));
	free(text);
	destroy(&g);
}

/* A file of @bytes as one more of the configuration's; a descriptor of it for the test. */
static int add_pmem(struct machine_config *c, struct machine_files *files, uint64_t bytes,
		    bool read_only)
{
	unsigned n = c->num_pmems++;
	int fd = memfd_create("pmem", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	c->pmem[n] = (struct config_pmem){ .path = strdup("file"), .read_only = read_only };
	assert_true(asprintf(&c->pmem[n].id, "pmem%u", n) > 0);
	files->pmem[n] = dup(fd);
	return fd;
}

/* Above RAM and above the window of BARs, whether there is one or not. */
#define PMEM_ADDR (20 * GiB)

static void files_are_memory_beside_ram(enum config_transport transport)
{
	struct fake_hv_params params = { .guest = step };
	struct machine_params machine = { 0 };
	struct machine_config config;
	struct machine_files files;
	struct machine *m = NULL;
	struct error err = { 0 };
	char *text = NULL, byte = 'x';
	int first, second;
	size_t len = 0;
	FILE *out;

	configure(&config, transport);
	machine_files_init(&files);
	first = add_pmem(&config, &files, 3 * MiB, false);
	second = add_pmem(&config, &files, 2 * MiB, true);
	machine.config = &config;
	machine.files = &files;
	machine.layout_only = true;
	machine.hv = fake_hv_create(&params);
	if (machine_create(&m, &machine, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(fake_hv_write(machine.hv, PMEM_ADDR + MiB, "y", 1), 0);
	assert_int_equal(pread(first, &byte, 1, MiB), 1);
	assert_int_equal(byte, 'y');
	assert_int_equal(fake_hv_write(machine.hv, PMEM_ADDR + 4 * MiB, "y", 1), -EPERM);
	assert_int_equal(pwrite(second, "z", 1, MiB), 1);
	assert_int_equal(fake_hv_read(machine.hv, PMEM_ADDR + 5 * MiB, &byte, 1), 0);
	assert_int_equal(byte, 'z');
	assert_int_equal(fake_hv_read(machine.hv, PMEM_ADDR + 6 * MiB, &byte, 1), -EFAULT);
	/* Nothing that a device could be made to read or write. */
	assert_null(guest_mem_find(machine_memory(m), PMEM_ADDR, 1));
	out = open_memstream(&text, &len);
	machine_print(m, out);
	fclose(out);
	assert_non_null(strstr(text, "memory 0x000500000000-0x0005003fffff, 4 MiB"));
	assert_non_null(strstr(text, "memory 0x000500400000-0x0005005fffff, 2 MiB"));
	free(text);
	machine_free(m);
	machine_files_close(&files);
	config_done(&config);
	close(first);
	close(second);
}

static void files_are_memory_beside_ram_on_both_transports(void **state)
{
	files_are_memory_beside_ram(CONFIG_PCI);
	files_are_memory_beside_ram(CONFIG_MMIO);
}

static void machine_that_cannot_be_built_leaves_nothing(void **state)
{
	struct fake_hv_params params = { .guest = step };
	struct machine_params machine = { 0 };
	struct machine_config config;
	struct machine_files files;
	struct machine *m = NULL;
	static struct fake_elf elf;

	fake_elf(&elf, true);
	for (unsigned skip = 0; skip < 2; skip++) {
		struct error err = { 0 };

		configure(&config, CONFIG_MMIO);
		config.cpus = 2;
		machine_files_init(&files);
		assert_int_equal(fw_kernel_open(&files.kernel, "fake",
						fake_file(elf.image, sizeof(elf.image)), &err),
				 0);
		machine.config = &config;
		machine.files = &files;
		machine.hv = fake_hv_create(&params);
		fake_hv_fail(machine.hv, FAKE_HV_VCPU_CREATE, skip, -EMFILE);
		assert_int_equal(machine_create(&m, &machine, &err), -EMFILE);
		assert_null(m);
		assert_int_equal(fake_hv_num_ioeventfds(machine.hv), 0);
		machine.hv->ops->free(machine.hv);
		machine_files_close(&files);
		config_done(&config);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(machine_ends_with_the_reason_the_guest_gives),
		cmocka_unit_test(machine_that_fails_shows_registers_and_how_rip_translates),
		cmocka_unit_test(two_machines_live_in_one_process),
		cmocka_unit_test(timeout_follows_the_machines_own_clock),
		cmocka_unit_test(first_end_wins),
		cmocka_unit_test(paused_guest_does_not_run_and_resumed_one_does),
		cmocka_unit_test(held_machine_goes_on_when_the_last_one_lets_go),
		cmocka_unit_test(all_who_wait_for_a_pause_are_told),
		cmocka_unit_test(machine_ends_in_the_middle_of_a_pause),
		cmocka_unit_test(machine_that_ends_while_a_pause_drains_hurries_what_is_left),
		cmocka_unit_test(paused_machine_can_end),
		cmocka_unit_test(power_button_reaches_the_guest_as_an_event),
		cmocka_unit_test(both_loops_carry_a_machine),
		cmocka_unit_test(boot_processor_passes_the_entry_checks_of_both_vendors),
		cmocka_unit_test(printed_machine_names_every_device_once),
		cmocka_unit_test(files_are_memory_beside_ram_on_both_transports),
		cmocka_unit_test(machine_that_cannot_be_built_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
