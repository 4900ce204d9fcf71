#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "devices/power.h"
#include "tests/unit/fake_hv.h"

struct fixture {
	struct hv *hv;
	struct irq_table *irqs;
	struct bus *pio;
	struct power *power;
	unsigned events;
	enum power_event last;
	uint8_t value;
	uint32_t ejected;
};

static void event(void *arg, enum power_event e, uint8_t value)
{
	struct fixture *f = arg;

	f->events++;
	f->last = e;
	f->value = value;
}

static void eject(void *arg, uint32_t slots)
{
	((struct fixture *)arg)->ejected |= slots;
}

static void fixture_init(struct fixture *f, bool test_device)
{
	struct power_config config = { test_device, event, eject, f };

	*f = (struct fixture){ .hv = fake_hv_create(NULL) };
	assert_int_equal(irq_table_create(&f->irqs, f->hv), 0);
	assert_int_equal(bus_create(&f->pio, "pio"), 0);
	assert_int_equal(power_create(&f->power, f->pio, f->irqs, &config, NULL), 0);
}

static void fixture_done(struct fixture *f)
{
	power_free(f->power);
	bus_free(f->pio);
	irq_table_free(f->irqs);
	f->hv->ops->free(f->hv);
}

static int setup(void **state)
{
	static struct fixture f;

	fixture_init(&f, false);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	fixture_done(*state);
	return 0;
}

static uint32_t in(struct fixture *f, uint16_t port, unsigned len)
{
	uint8_t data[4] = { 0xff, 0xff, 0xff, 0xff };

	bus_read(f->pio, port, data, len);
	return get_le32(data) & (len == 4 ? UINT32_MAX : (1u << 8 * len) - 1);
}

static bool out(struct fixture *f, uint16_t port, uint32_t value, unsigned len)
{
	uint8_t data[4];

	put_le32(data, value);
	return bus_write(f->pio, port, data, len);
}

static void only_sleep_state_5_switches_off(void **state)
{
	struct fixture *f = *state;

	for (unsigned v = 0; v < 256; v++) {
		f->events = 0;
		out(f, POWER_SLEEP_CONTROL_PORT, v, 1);
		/* ACPI 6.4, 4.8.3.7: SLP_EN is bit 5, SLP_TYP bits 2 to 4. */
		assert_int_equal(f->events, (v & 0x20) && (v >> 2 & 7) == POWER_SLEEP_TYPE_S5);
		if (f->events)
			assert_int_equal(f->last, POWER_OFF);
	}
	/* The status register next to it: writes clear WAK_STS and end nothing. */
	f->events = 0;
	out(f, POWER_SLEEP_CONTROL_PORT + 1, 0x34, 1);
	assert_int_equal(f->events, 0);
	assert_int_equal(in(f, POWER_SLEEP_CONTROL_PORT, 1), 0);
	assert_int_equal(in(f, POWER_SLEEP_CONTROL_PORT + 1, 1), 0);
}

static void every_way_to_reset_resets(void **state)
{
	static const struct {
		uint16_t port;
		uint8_t value;
		bool resets;
	} writes[] = {
		{ POWER_RESET_PORT, POWER_RESET_VALUE, true },
		{ POWER_RESET_PORT, 0, false },
		{ 0xcf9, 0x02, false }, /* only says which kind */
		{ 0xcf9, 0x06, true },
		{ 0x64, 0xfe, true },
		{ 0x64, 0xaa, false },
	};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(writes); i++) {
		f->events = 0;
		assert_true(out(f, writes[i].port, writes[i].value, 1));
		assert_int_equal(f->events, writes[i].resets);
		if (f->events)
			assert_int_equal(f->last, POWER_RESET);
	}
}

static void the_keyboard_controller_is_idle(void **state)
{
	/* Neither output (bit 0) nor a busy input (bit 1): nobody waits for it. */
	assert_int_equal(in(*state, 0x64, 1), 0);
}

static void pvpanic_tells_a_panic_from_a_crash_kernel(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, POWER_PVPANIC_PORT, 1), 3);
	out(f, POWER_PVPANIC_PORT, 2, 1);
	assert_int_equal(f->last, POWER_CRASH_LOADED);
	out(f, POWER_PVPANIC_PORT, 1, 1);
	assert_int_equal(f->last, POWER_PANIC);
	assert_int_equal(f->events, 2);
	out(f, POWER_PVPANIC_PORT, 0, 1);
	assert_int_equal(f->events, 2);
}

static void the_exit_port_passes_its_value_on(void **state)
{
	struct fixture *f = *state;

	out(f, POWER_EXIT_PORT, 42, 1);
	assert_int_equal(f->last, POWER_EXIT);
	assert_int_equal(f->value, 42);
	/* Not there unless asked for. */
	assert_false(out(f, POWER_TEST_DEVICE_PORT, 0, 1));
	assert_int_equal(f->events, 1);
}

static void the_test_device_ends_with_an_odd_status(void **state)
{
	struct fixture f;

	fixture_init(&f, true);
	assert_true(out(&f, POWER_TEST_DEVICE_PORT, 0x10, 4));
	assert_int_equal(f.last, POWER_EXIT);
	assert_int_equal(f.value, 0x21);
	out(&f, POWER_TEST_DEVICE_PORT, 0, 1);
	assert_int_equal(f.value, 1);
	assert_int_equal(f.events, 2);
	fixture_done(&f);
}

static void events_interrupt_and_reading_takes_them(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fake_hv_num_irqfds(f->hv), 0); /* none before it is needed */
	power_ged_raise(f->power, GED_POWER_BUTTON);
	assert_int_equal(fake_hv_interrupts(f->hv, POWER_GED_GSI), 1);
	power_ged_raise(f->power, GED_VMGENID);
	assert_int_equal(in(f, POWER_GED_PORT, 4), GED_POWER_BUTTON | GED_VMGENID);
	assert_int_equal(in(f, POWER_GED_PORT, 4), 0);

	/* A narrow read takes what it has seen and no more. */
	power_ged_raise(f->power, GED_POWER_BUTTON);
	assert_int_equal(in(f, POWER_GED_PORT + 1, 1), 0);
	assert_int_equal(in(f, POWER_GED_PORT, 1), GED_POWER_BUTTON);
	assert_int_equal(in(f, POWER_GED_PORT, 4), 0);
}

static void pci_slots_come_and_go_by_bits(void **state)
{
	struct fixture *f = *state;

	power_pci_hotplug(f->power, 1u << 3, 0);
	power_pci_hotplug(f->power, 1u << 31, 1u << 4);
	assert_int_equal(fake_hv_interrupts(f->hv, POWER_GED_GSI) > 0, 1);
	assert_int_equal(in(f, POWER_GED_PORT, 4), GED_PCI_HOTPLUG);
	assert_int_equal(in(f, POWER_PCI_HOTPLUG_PORT, 4), 1u << 3 | 1u << 31);
	assert_int_equal(in(f, POWER_PCI_HOTPLUG_PORT, 4), 0);
	assert_int_equal(in(f, POWER_PCI_HOTPLUG_PORT + 4, 4), 1u << 4);
	assert_int_equal(in(f, POWER_PCI_HOTPLUG_PORT + 8, 4), 0);
	assert_int_equal(f->ejected, 0);
	out(f, POWER_PCI_HOTPLUG_PORT + 8, 1u << 4, 4);
	assert_int_equal(f->ejected, 1u << 4);
	/* The others are read-only. */
	out(f, POWER_PCI_HOTPLUG_PORT, UINT32_MAX, 4);
	assert_int_equal(in(f, POWER_PCI_HOTPLUG_PORT, 4), 0);
}

static void accesses_of_every_kind_stay_inside(void **state)
{
	struct fixture *f = *state;
	unsigned known = 0;

	power_pci_hotplug(f->power, UINT32_MAX, UINT32_MAX);
	for (unsigned len = 1; len <= 4; len *= 2) {
		for (unsigned port = 0; port < 0x1000; port++) {
			uint8_t data[8];

			memset(data, 0xa5, sizeof(data));
			known += bus_read(f->pio, port, data, len);
			/* What is past the access is not touched. */
			for (unsigned i = len; i < sizeof(data); i++)
				assert_int_equal(data[i], 0xa5);
			known += out(f, port, 0, len);
		}
	}
	assert_true(known > 0);
}

static void state_survives_and_a_wrong_one_changes_nothing(void **state)
{
	struct fixture *f = *state, g;
	struct state_writer w;
	struct state_reader r;
	size_t pos = 0;

	state_writer_init(&w);
	power_ged_raise(f->power, GED_VMGENID);
	power_pci_hotplug(f->power, 1u << 7, 1u << 8);
	state_begin(&w, "power", 0, 1);
	power_save(f->power, &w);
	state_end(&w);
	state_begin(&w, "power", 1, 1);
	state_put_u32(&w, 0x80);
	state_put_u64(&w, 1);
	state_end(&w);

	fixture_init(&g, false);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
	assert_int_equal(power_load(g.power, &r), 0);
	assert_int_equal(state_reader_end(&r, NULL), 0);
	assert_int_equal(fake_hv_interrupts(g.hv, POWER_GED_GSI), 0);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
	assert_int_equal(power_load(g.power, &r), -EBADMSG);
	assert_int_equal(in(&g, POWER_GED_PORT, 4), GED_VMGENID | GED_PCI_HOTPLUG);
	assert_int_equal(in(&g, POWER_PCI_HOTPLUG_PORT, 4), 1u << 7);
	assert_int_equal(in(&g, POWER_PCI_HOTPLUG_PORT + 4, 4), 1u << 8);
	fixture_done(&g);
	state_writer_done(&w);
}

#define power_test(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		power_test(only_sleep_state_5_switches_off),
		power_test(every_way_to_reset_resets),
		power_test(the_keyboard_controller_is_idle),
		power_test(pvpanic_tells_a_panic_from_a_crash_kernel),
		power_test(the_exit_port_passes_its_value_on),
		cmocka_unit_test(the_test_device_ends_with_an_odd_status),
		power_test(events_interrupt_and_reading_takes_them),
		power_test(pci_slots_come_and_go_by_bits),
		power_test(accesses_of_every_kind_stay_inside),
		power_test(state_survives_and_a_wrong_one_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
