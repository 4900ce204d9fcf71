/* A restored machine knows that it is another one, and what became of its time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <errno.h>

#include "firmware/vmclock.h"
#include "tests/unit/fake_hv.h"
#include "tests/unit/made_machine.h"

static void restored_machine_has_another_generation_and_its_event(void **unused)
{
	struct made first, second;
	uint8_t before[16], after[16];
	struct state_writer w;

	made_first(&first, "pci");
	made_save(first.machine, &w);
	guest_mem_read(machine_memory(first.machine), FW_VMGENID_ADDR, before, sizeof(before));
	made_restore_with(&second, &w, &first, FW_VMGENID_ADDR, sizeof(before));
	guest_mem_read(machine_memory(second.machine), FW_VMGENID_ADDR, after, sizeof(after));
	assert_memory_not_equal(before, after, sizeof(before));
	assert_true(fake_hv_wait_interrupts(second.hv, 9, 1, 60000));
	state_writer_done(&w);
	made_free(&first);
	made_free(&second);
}

/* ---- VMClock ---- */

static struct vmclock vmclock_of(struct made *m)
{
	struct vmclock c;

	assert_int_equal(guest_mem_read(machine_memory(m->machine), FW_VMCLOCK_ADDR, &c, sizeof(c)),
			 0);
	return c;
}

/* What the guest is told of by the event that is pending now. */
static uint32_t events_of(struct made *m)
{
	uint8_t events[4];

	bus_read(m->machine->pio, POWER_GED_PORT, events, sizeof(events));
	return get_le32(events);
}

static void vmclock_is_there_from_the_start(void **unused)
{
	struct vmclock c;
	struct made m;

	made_first(&m, "pci");
	c = vmclock_of(&m);
	assert_memory_equal(&c.magic, "VCLK", 4);
	assert_int_equal(le32toh(c.size), PAGE_SIZE);
	assert_int_equal(le16toh(c.version), 1);
	assert_int_equal(c.counter_id, 0xff);
	assert_int_equal(c.status, 0);
	assert_int_equal(le64toh(c.flags), 0x300);
	assert_int_equal(c.sequence & 1, 0);
	assert_int_equal(events_of(&m), 0);
	made_free(&m);
}

static void vmclock_of_a_restored_guest_is_raised(void **unused)
{
	struct made first, second, third;
	struct vmclock a, b, c;
	struct state_writer w;

	made_first(&first, "pci");
	made_save(first.machine, &w);
	made_restore_with(&second, &w, &first, FW_VMCLOCK_ADDR, sizeof(a));
	made_restore_with(&third, &w, &first, FW_VMCLOCK_ADDR, sizeof(a));
	a = vmclock_of(&first);
	b = vmclock_of(&second);
	c = vmclock_of(&third);
	assert_true(le64toh(b.generation) > le64toh(a.generation));
	assert_true(le64toh(b.disruption) > le64toh(a.disruption));
	assert_int_equal(le32toh(b.sequence), le32toh(a.sequence) + 2);
	assert_int_equal(events_of(&second), GED_VMGENID | GED_VMCLOCK);
	/* Siblings are told apart, and nothing else is another one. */
	assert_true(b.generation != c.generation);
	b.generation = a.generation;
	b.disruption = a.disruption;
	b.sequence = a.sequence;
	assert_memory_equal(&a, &b, sizeof(a));
	state_writer_done(&w);
	made_free(&first);
	made_free(&second);
	made_free(&third);
}

static void guest_that_moved_is_no_other(void **unused)
{
	struct vmclock before, after;
	struct made m;

	made_first(&m, "pci");
	before = vmclock_of(&m);
	assert_int_equal(machine_time_jumped(m.machine), 0);
	after = vmclock_of(&m);
	assert_true(le64toh(after.disruption) > le64toh(before.disruption));
	assert_true(after.generation == before.generation);
	assert_int_equal(events_of(&m), GED_VMCLOCK);
	made_free(&m);
}

static void guest_of_a_version_without_vmclock_gets_none(void **unused)
{
	static const struct vmclock none;
	struct made first, second;
	struct vmclock c;
	struct state_writer w;

	made_first(&first, "pci");
	made_save(first.machine, &w);
	made_restore_with(&second, &w, &first, FW_VMGENID_ADDR, 16);
	c = vmclock_of(&second);
	assert_memory_equal(&c, &none, sizeof(c));
	assert_int_equal(events_of(&second), GED_VMGENID);
	state_writer_done(&w);
	made_free(&first);
	made_free(&second);
}

/* ---- the TSC's rate ---- */

/* @host is made of a machine that ran at 2 GHz: what comes of it, and its rate then. */
static int load_on(const struct made_host *host, uint64_t *ret_khz, struct error *err)
{
	const struct made_host there = { .tsc_khz = 2000000 };
	struct made first, second;
	struct state_writer w;
	int r;

	*err = (struct error){ 0 };
	made_first_on(&first, "pci", &there);
	made_save(first.machine, &w);
	r = made_load_on(&second, w.buf, w.len, host, err);
	*ret_khz = r ? 0 : second.machine->tsc_khz;
	state_writer_done(&w);
	made_free(&first);
	made_free(&second);
	return r;
}

static void the_tsc_runs_on_as_it_did_or_the_machine_is_refused(void **unused)
{
	const struct made_host same = { .tsc_khz = 2000400 };
	const struct made_host scales = { .tsc_khz = 2600000, .tsc_scales = true };
	const struct made_host other = { .tsc_khz = 2600000 };
	struct error err;
	uint64_t khz;

	assert_int_equal(load_on(&same, &khz, &err), 0);
	assert_int_equal(khz, 2000400);
	assert_int_equal(load_on(&scales, &khz, &err), 0);
	assert_int_equal(khz, 2000000);
	assert_int_equal(load_on(&other, &khz, &err), -ENOTSUP);
	assert_int_equal(err.kind, ERROR_REFUSED);
	assert_non_null(strstr(err.msg, "2000000 kHz, this host's at 2600000 kHz"));
	assert_non_null(strstr(err.hint, "--changed-tsc"));
}

static void a_changed_tsc_is_scaled_where_it_can_be_and_taken_where_not(void **unused)
{
	const struct made_host scales = { .tsc_khz = 2600000,
					  .tsc_scales = true,
					  .changed_tsc = true };
	const struct made_host other = { .tsc_khz = 2600000, .changed_tsc = true };
	struct error err;
	uint64_t khz;

	assert_int_equal(load_on(&scales, &khz, &err), 0);
	assert_int_equal(khz, 2000000);
	assert_int_equal(load_on(&other, &khz, &err), 0);
	assert_int_equal(khz, 2600000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(restored_machine_has_another_generation_and_its_event),
		cmocka_unit_test(vmclock_is_there_from_the_start),
		cmocka_unit_test(vmclock_of_a_restored_guest_is_raised),
		cmocka_unit_test(guest_that_moved_is_no_other),
		cmocka_unit_test(guest_of_a_version_without_vmclock_gets_none),
		cmocka_unit_test(the_tsc_runs_on_as_it_did_or_the_machine_is_refused),
		cmocka_unit_test(a_changed_tsc_is_scaled_where_it_can_be_and_taken_where_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
