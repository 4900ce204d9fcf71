/* Configuration space, BARs, MSI-X and INTx of a function that does nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>

#include "tests/unit/fake_driver.h"

#define BAR_SIZE 0x4000u
#define VECTORS	 3u
#define PBA	 (VECTORS * PCI_MSIX_ENTRY_SIZE)

struct fixture {
	struct fake_vm vm;
	struct pci_device dev;
	uint64_t offset; /* of the last BAR access */
	uint32_t value;
	unsigned written; /* calls of config_written() */
};

static void bar_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	struct fixture *f = opaque;

	f->offset = offset;
	memset(data, 0x11, len);
}

static void bar_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	struct fixture *f = opaque;

	f->offset = offset;
	memcpy(&f->value, data, len);
}

static const struct bus_ops bar_ops = { .read = bar_read, .write = bar_write };

static void config_written(struct pci_device *dev, unsigned offset, unsigned len)
{
	((struct fixture *)dev->opaque)->written++;
}

static void make_device(struct fixture *f, struct pci_device *dev, unsigned slot, bool msix)
{
	const struct pci_ids ids = {
		.vendor = 0x1234,
		.device = 0x5678,
		.subsystem_vendor = 0x9abc,
		.subsystem = 0xdef0,
		.class_code = 0x010203,
		.revision = 4,
	};
	const struct pci_bar bar = {
		.size = BAR_SIZE,
		.is_64 = true,
		.ops = &bar_ops,
		.opaque = f,
		.name = "test",
	};

	assert_int_equal(pci_device_init(dev, f->vm.pci, slot, "test", &ids), 0);
	dev->opaque = f;
	dev->config_written = config_written;
	dev->config[PCI_INTERRUPT_PIN] = 1;
	pci_set_bar(dev, 0, &bar);
	if (msix)
		assert_int_equal(pci_add_msix(dev, 2, VECTORS), 0);
	assert_int_equal(pci_bus_plug(dev, NULL), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	fake_vm_init(&f->vm, LOOP_AUTO);
	make_device(f, &f->dev, 3, true);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	pci_device_done(&f->dev);
	fake_vm_done(&f->vm);
	free(f);
	return 0;
}

static uint64_t ecam(unsigned slot, unsigned reg)
{
	return FAKE_ECAM_BASE + (slot << 15) + reg;
}

static uint32_t get(struct fixture *f, unsigned reg, unsigned len)
{
	return fake_read(&f->vm, ecam(3, reg), len);
}

static void set(struct fixture *f, unsigned reg, uint32_t v, unsigned len)
{
	fake_write(&f->vm, ecam(3, reg), v, len);
}

static uint64_t bar_addr(struct fixture *f, unsigned index)
{
	uint64_t low = get(f, PCI_BASE_ADDRESS_0 + 4 * index, 4);

	return (low & ~0xfull) | (uint64_t)get(f, PCI_BASE_ADDRESS_0 + 4 * index + 4, 4) << 32;
}

/* ---- configuration space ---- */

static void header_says_what_it_is(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, 0, 4), 0x56781234);
	assert_int_equal(get(f, PCI_CLASS_REVISION, 4), 0x01020304);
	assert_int_equal(get(f, PCI_SUBSYSTEM_ID, 2), 0xdef0);
	assert_int_equal(get(f, PCI_HEADER_TYPE, 1), 0);
	assert_true(get(f, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST);
	/* What is read-only stays. */
	set(f, 0, 0, 4);
	set(f, PCI_CLASS_REVISION, 0xffffffff, 4);
	assert_int_equal(get(f, 0, 4), 0x56781234);
	assert_int_equal(get(f, PCI_CLASS_REVISION, 4), 0x01020304);
	/* The extended space is empty, not absent. */
	assert_int_equal(get(f, 0x100, 4), 0);
	assert_int_equal(get(f, 0xffc, 4), 0);
}

static void host_bridge_is_in_slot_0(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fake_read(&f->vm, ecam(0, PCI_CLASS_DEVICE), 2), 0x0600);
	assert_int_equal(pci_bus_free_slot(f->vm.pci, 0), 1);
	assert_true(pci_bus_free_slot(f->vm.pci, 1u << 1) > 1);
}

static void absent_functions_read_all_ones(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fake_read(&f->vm, ecam(4, 0), 4), 0xffffffff);
	assert_int_equal(fake_read(&f->vm, ecam(3, 0) + (1 << 12), 4), 0xffffffff);
	fake_write(&f->vm, ecam(4, 0), 0, 4);
}

static uint32_t port_read(struct fixture *f, unsigned port, unsigned len)
{
	uint8_t data[4] = { 0xff, 0xff, 0xff, 0xff };

	bus_read(f->vm.pio, port, data, len);
	return get_le32(data) & (len == 4 ? UINT32_MAX : (1u << (8 * len)) - 1);
}

static void port_write(struct fixture *f, unsigned port, uint32_t v, unsigned len)
{
	bus_write(f->vm.pio, port, &v, len);
}

static void ports_reach_the_same_registers(void **state)
{
	struct fixture *f = *state;

	port_write(f, 0xcf8, 0x80000000 | 3 << 11, 4);
	assert_int_equal(port_read(f, 0xcf8, 4), 0x80000000 | 3 << 11);
	assert_int_equal(port_read(f, 0xcfc, 4), 0x56781234);
	assert_int_equal(port_read(f, 0xcfe, 2), 0x5678);
	assert_int_equal(port_read(f, 0xcff, 1), 0x56);
	port_write(f, 0xcf8, 0x80000000 | 3 << 11 | PCI_INTERRUPT_LINE, 4);
	port_write(f, 0xcfc, 7, 1);
	assert_int_equal(get(f, PCI_INTERRUPT_LINE, 1), 7);

	/* Not enabled, another bus, another function: nobody. */
	port_write(f, 0xcf8, 3 << 11, 4);
	assert_int_equal(port_read(f, 0xcfc, 4), 0xffffffff);
	port_write(f, 0xcf8, 0x80010000 | 3 << 11, 4);
	assert_int_equal(port_read(f, 0xcfc, 4), 0xffffffff);
	port_write(f, 0xcf8, 0x80000100 | 3 << 11, 4);
	assert_int_equal(port_read(f, 0xcfc, 4), 0xffffffff);
	/* The address register takes 32 bits only. */
	port_write(f, 0xcf8, 0x12, 1);
	assert_int_equal(port_read(f, 0xcf8, 4), 0x80000100 | 3 << 11);
}

static void reset_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	*(unsigned *)opaque = *(const uint8_t *)data;
}

static void reset_port_stays_with_its_owner(void **state)
{
	static const struct bus_ops ops = { .read = bar_read, .write = reset_write };
	unsigned written = 0;
	const struct bus_region region = {
		.base = 0xcf9, .size = 1, .ops = &ops, .opaque = &written, .name = "reset",
	};
	struct fixture *f = *state;
	struct pci_bus_params params = {
		.mmio = f->vm.mmio,
		.irqs = f->vm.irqs,
		.ecam_base = 0xf0000000,
		.ecam_size = 1 * MiB,
		.intx_gsi = (uint32_t[4]){ 16, 17, 18, 19 },
	};
	struct pci_bus *bus;

	assert_int_equal(bus_create(&params.pio, "ports"), 0);
	assert_int_equal(bus_add(params.pio, &region, NULL), 0);
	assert_int_equal(pci_bus_create(&bus, &params, NULL), 0);
	assert_true(bus_write(params.pio, 0xcf9, &(uint8_t){ 6 }, 1));
	assert_int_equal(written, 6);
	pci_bus_free(bus);
	bus_free(params.pio);
}

/* ---- BARs ---- */

static void plugging_places_bars(void **state)
{
	struct fixture *f = *state;
	struct pci_device other;

	make_device(f, &other, 4, true);
	assert_true(range_inside(bar_addr(f, 0), BAR_SIZE, FAKE_MMIO64, 1 * GiB));
	assert_int_equal(bar_addr(f, 0) % BAR_SIZE, 0);
	assert_false(ranges_overlap(pci_bar_addr(&f->dev, 0), BAR_SIZE, pci_bar_addr(&other, 0),
				    BAR_SIZE));
	assert_int_not_equal(pci_bar_addr(&f->dev, 2), pci_bar_addr(&other, 2));
	assert_int_equal(fake_read(&f->vm, bar_addr(f, 0) + 0x20, 4), 0x11111111);
	assert_int_equal(f->offset, 0x20);
	pci_device_done(&other);
}

static void sizing_finds_the_size_and_moves_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t addr = bar_addr(f, 0);

	/* With decoding on, as Linux does for a device that it must not disturb. */
	set(f, PCI_BASE_ADDRESS_0, 0xffffffff, 4);
	assert_int_equal(get(f, PCI_BASE_ADDRESS_0, 4), (uint32_t)-BAR_SIZE | 4);
	set(f, PCI_BASE_ADDRESS_1, 0xffffffff, 4);
	assert_int_equal(get(f, PCI_BASE_ADDRESS_1, 4), 0xffffffff);
	assert_int_equal(pci_bar_addr(&f->dev, 0), 0);
	set(f, PCI_BASE_ADDRESS_0, addr, 4);
	set(f, PCI_BASE_ADDRESS_1, addr >> 32, 4);
	assert_int_equal(pci_bar_addr(&f->dev, 0), addr);
	assert_int_equal(fake_read(&f->vm, addr, 1), 0x11);
	/* BARs that are not there have no size. */
	set(f, PCI_BASE_ADDRESS_4, 0xffffffff, 4);
	assert_int_equal(get(f, PCI_BASE_ADDRESS_4, 4), 0);
}

static void bar_follows_its_register(void **state)
{
	struct fixture *f = *state;
	uint64_t old = bar_addr(f, 0);

	set(f, PCI_BASE_ADDRESS_1, 0, 4);
	set(f, PCI_BASE_ADDRESS_0, FAKE_MMIO32 + 0x100000, 4);
	assert_int_equal(pci_bar_addr(&f->dev, 0), FAKE_MMIO32 + 0x100000);
	assert_int_equal(fake_read(&f->vm, old, 4), 0xffffffff);
	assert_int_equal(fake_read(&f->vm, FAKE_MMIO32 + 0x100000, 4), 0x11111111);
	assert_true(f->written >= 2);
}

static void bar_answers_only_while_decoding_is_on(void **state)
{
	struct fixture *f = *state;
	uint64_t addr = bar_addr(f, 0);

	set(f, PCI_COMMAND, 0, 2);
	assert_int_equal(fake_read(&f->vm, addr, 4), 0xffffffff);
	assert_int_equal(pci_bar_addr(&f->dev, 0), 0);
	set(f, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(fake_read(&f->vm, addr, 4), 0x11111111);
}

static void bar_covers_nothing_outside_the_windows(void **state)
{
	struct fixture *f = *state;

	set(f, PCI_BASE_ADDRESS_1, 0, 4);
	set(f, PCI_BASE_ADDRESS_0, FAKE_ECAM_BASE, 4);
	assert_int_equal(pci_bar_addr(&f->dev, 0), 0);
	assert_int_equal(get(f, 0, 4), 0x56781234);
	set(f, PCI_BASE_ADDRESS_0, 0, 4); /* RAM */
	assert_int_equal(pci_bar_addr(&f->dev, 0), 0);
}

static void full_window_is_an_error_that_says_so(void **state)
{
	struct fixture *f = *state;
	struct error err = { 0 };
	struct pci_device big;

	memset(&big, 0, sizeof(big));
	assert_int_equal(pci_device_init(&big, f->vm.pci, 5, "big", &(struct pci_ids){ 0 }), 0);
	pci_set_bar(&big, 0, &(struct pci_bar){ .size = 4 * GiB, .is_64 = true, .ops = &bar_ops });
	assert_int_equal(pci_bus_plug(&big, &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "big"));
	assert_null(pci_bus_device(f->vm.pci, 5));
	pci_device_done(&big);
}

static void unplugged_function_is_gone_and_its_place_is_free(void **state)
{
	struct fixture *f = *state;
	uint64_t addr = bar_addr(f, 0);
	struct pci_device other;

	pci_bus_unplug(&f->dev);
	assert_int_equal(get(f, 0, 4), 0xffffffff);
	assert_int_equal(fake_read(&f->vm, addr, 4), 0xffffffff);
	make_device(f, &other, 3, false);
	assert_int_equal(bar_addr(f, 0), addr);
	assert_int_equal(pci_bus_plug(&f->dev, NULL), -EBUSY);
	pci_device_done(&other);
}

/* ---- MSI-X ---- */

static unsigned find_cap(struct fixture *f, unsigned id)
{
	unsigned cap = get(f, PCI_CAPABILITY_LIST, 1), n;

	for (n = 0; cap && n < 48; n++, cap = get(f, cap + 1, 1)) {
		if (get(f, cap, 1) == id)
			return cap;
	}
	return 0;
}

static void set_vector(struct fixture *f, unsigned vector, uint32_t data, bool masked)
{
	uint64_t e = bar_addr(f, 2) + vector * PCI_MSIX_ENTRY_SIZE;

	fake_write(&f->vm, e + PCI_MSIX_ENTRY_LOWER_ADDR, 0xfee01000, 4);
	fake_write(&f->vm, e + PCI_MSIX_ENTRY_DATA, data, 4);
	fake_write(&f->vm, e + PCI_MSIX_ENTRY_VECTOR_CTRL, masked, 4);
}

static void set_msix(struct fixture *f, uint16_t flags)
{
	set(f, find_cap(f, PCI_CAP_ID_MSIX) + PCI_MSIX_FLAGS, flags, 2);
}

static void vector_leads_to_its_message(void **state)
{
	struct fixture *f = *state;
	unsigned cap = find_cap(f, PCI_CAP_ID_MSIX);

	assert_int_equal(get(f, cap + PCI_MSIX_FLAGS, 2), VECTORS - 1);
	assert_int_equal(pci_msix_fd(&f->dev, 1), -1);
	set_msix(f, PCI_MSIX_FLAGS_ENABLE);
	assert_true(pci_msix_on(&f->dev));
	assert_int_equal(pci_msix_fd(&f->dev, 1), -1); /* no message yet */
	set_vector(f, 1, 0x4041, false);
	assert_true(pci_msix_fd(&f->dev, 1) >= 0);
	pci_msix_raise(&f->dev, 1);
	assert_int_equal(fake_hv_messages(f->vm.hv, 0xfee01000, 0x4041), 1);
	/* A vector that does not exist, and one without a message. */
	pci_msix_raise(&f->dev, VECTORS);
	pci_msix_raise(&f->dev, 0);
	assert_int_equal(pci_msix_fd(&f->dev, VECTORS), -1);
	assert_int_equal(fake_hv_lost(f->vm.hv), 0);
}

static void masked_vector_is_pending_until_unmasked(void **state)
{
	struct fixture *f = *state;
	uint64_t pba = bar_addr(f, 2) + PBA;

	set_msix(f, PCI_MSIX_FLAGS_ENABLE);
	set_vector(f, 0, 0x4040, false);
	set_vector(f, 2, 0x4042, true);
	assert_int_equal(fake_hv_num_irqfds(f->vm.hv), 1);
	pci_msix_raise(&f->dev, 2);
	assert_int_equal(fake_read(&f->vm, pba, 8), 1 << 2);
	assert_int_equal(fake_hv_messages(f->vm.hv, 0xfee01000, 0x4042), 0);
	set_vector(f, 2, 0x4042, false);
	assert_int_equal(fake_hv_num_irqfds(f->vm.hv), 2);
	assert_int_equal(fake_hv_messages(f->vm.hv, 0xfee01000, 0x4042), 1);
	assert_int_equal(fake_read(&f->vm, pba, 8), 0);

	/* The function's own mask is over all of them. */
	set_msix(f, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	assert_int_equal(fake_hv_num_irqfds(f->vm.hv), 0);
	set_msix(f, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(fake_hv_num_irqfds(f->vm.hv), 2);
	set_msix(f, 0);
	assert_int_equal(fake_hv_num_irqfds(f->vm.hv), 0);
	assert_false(pci_msix_on(&f->dev));
}

static void table_takes_what_the_specification_allows(void **state)
{
	struct fixture *f = *state;
	uint64_t table = bar_addr(f, 2);

	/* Masked after reset. */
	assert_int_equal(fake_read(&f->vm, table + PCI_MSIX_ENTRY_VECTOR_CTRL, 4), 1);
	fake_write(&f->vm, table + PCI_MSIX_ENTRY_VECTOR_CTRL, 0xfffffffe, 4);
	assert_int_equal(fake_read(&f->vm, table + PCI_MSIX_ENTRY_VECTOR_CTRL, 4), 0);
	fake_write(&f->vm, table, 0x12345678fee00000, 8);
	assert_int_equal(fake_read(&f->vm, table, 8), 0x12345678fee00000);
	fake_write(&f->vm, table, 0xff, 1);
	assert_int_equal(fake_read(&f->vm, table, 4), 0xfee00000);
	fake_write(&f->vm, table + PBA, 0xffffffff, 4);
	assert_int_equal(fake_read(&f->vm, table + PBA, 4), 0);
	assert_int_equal(fake_read(&f->vm, table + 0xff8, 8), 0);
}

/* ---- INTx ---- */

static void intx_honours_interrupt_disable(void **state)
{
	struct fixture *f = *state;
	uint32_t gsi = f->dev.intx_gsi;

	assert_int_equal(gsi, 16 + 3);
	pci_intx_set(&f->dev, true);
	assert_true(fake_hv_level(f->vm.hv, gsi));
	assert_true(get(f, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	set(f, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE, 2);
	assert_false(fake_hv_level(f->vm.hv, gsi));
	assert_true(get(f, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	set(f, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_true(fake_hv_level(f->vm.hv, gsi));
	pci_intx_set(&f->dev, false);
	assert_false(fake_hv_level(f->vm.hv, gsi));
}

static void shared_pin_stays_up_for_the_other(void **state)
{
	struct fixture *f = *state;
	struct pci_device other;

	make_device(f, &other, 7, false); /* 7 % 4 is 3 % 4 */
	pci_intx_set(&f->dev, true);
	pci_intx_set(&other, true);
	pci_intx_set(&f->dev, false);
	assert_true(fake_hv_level(f->vm.hv, 19));
	pci_device_done(&other);
	assert_false(fake_hv_level(f->vm.hv, 19));
}

/* ---- state ---- */

static void load_restores_place_and_vectors(void **state)
{
	struct fixture *f = *state;
	struct state_writer w;
	struct state_reader r;
	uint64_t moved = FAKE_MMIO64 + 0x100000;
	uint8_t other[PCI_CONFIG_SIZE];
	size_t pos = 0;

	set(f, PCI_BASE_ADDRESS_0, moved, 4);
	set_msix(f, PCI_MSIX_FLAGS_ENABLE);
	set_vector(f, 1, 0x4041, false);
	state_writer_init(&w);
	state_begin(&w, "test", 0, 1);
	pci_device_save(&f->dev, &w);
	state_end(&w);

	pci_device_done(&f->dev);
	memset(&f->dev, 0, sizeof(f->dev));
	make_device(f, &f->dev, 3, true);
	assert_int_not_equal(pci_bar_addr(&f->dev, 0), moved);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
	memcpy(other, r.p, sizeof(other));
	assert_int_equal(pci_device_load(&f->dev, &r), 0);
	assert_int_equal(state_reader_end(&r, NULL), 0);
	assert_int_equal(pci_bar_addr(&f->dev, 0), moved);
	assert_true(pci_msix_fd(&f->dev, 1) >= 0);
	assert_int_equal(fake_hv_num_irqfds(f->vm.hv), 1);

	/* Another device's state is not ours. */
	other[PCI_DEVICE_ID] ^= 1;
	r = (struct state_reader){ .p = other, .len = sizeof(other), .name = "test" };
	assert_int_equal(pci_device_load(&f->dev, &r), -EBADMSG);
	state_writer_done(&w);
}

static void put_bar(struct pci_device *dev, struct fixture *f, uint64_t addr)
{
	pci_bus_config_write(f->vm.pci, dev->slot, PCI_BASE_ADDRESS_1,
			     (uint32_t[]){ htole32(addr >> 32) }, 4);
	pci_bus_config_write(f->vm.pci, dev->slot, PCI_BASE_ADDRESS_0,
			     (uint32_t[]){ htole32(addr) }, 4);
}

/* Whichever is loaded first finds the other one in its place. */
static void functions_that_changed_places_are_loaded_to_theirs(void **state)
{
	struct fixture *f = *state;
	struct state_writer w[2];
	struct pci_device other;
	uint64_t here, there;
	struct pci_device *const devs[2] = { &f->dev, &other };

	make_device(f, &other, 9, false);
	here = pci_bar_addr(&f->dev, 0);
	there = pci_bar_addr(&other, 0);
	for (unsigned i = 0; i < 2; i++) {
		state_writer_init(&w[i]);
		state_begin(&w[i], "test", 0, 1);
		pci_device_save(devs[i], &w[i]);
		state_end(&w[i]);
	}
	put_bar(&other, f, FAKE_MMIO32 + 0x200000);
	put_bar(&f->dev, f, there);
	put_bar(&other, f, here);
	assert_int_equal(pci_bar_addr(&f->dev, 0), there);
	assert_int_equal(pci_bar_addr(&other, 0), here);
	for (unsigned i = 0; i < 2; i++) {
		struct state_reader r;
		size_t pos = 0;

		assert_int_equal(state_next(w[i].buf, w[i].len, &pos, &r, NULL), 1);
		assert_int_equal(pci_device_load(devs[i], &r), 0);
		state_writer_done(&w[i]);
	}
	assert_false(pci_device_is_placed(&f->dev));
	pci_bus_place(f->vm.pci);
	assert_true(pci_device_is_placed(&f->dev));
	assert_int_equal(pci_bar_addr(&f->dev, 0), here);
	assert_int_equal(pci_bar_addr(&other, 0), there);
	pci_device_done(&other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(header_says_what_it_is),
		TEST(host_bridge_is_in_slot_0),
		TEST(absent_functions_read_all_ones),
		TEST(ports_reach_the_same_registers),
		TEST(reset_port_stays_with_its_owner),
		TEST(plugging_places_bars),
		TEST(sizing_finds_the_size_and_moves_nothing),
		TEST(bar_follows_its_register),
		TEST(bar_answers_only_while_decoding_is_on),
		TEST(bar_covers_nothing_outside_the_windows),
		TEST(full_window_is_an_error_that_says_so),
		TEST(unplugged_function_is_gone_and_its_place_is_free),
		TEST(vector_leads_to_its_message),
		TEST(masked_vector_is_pending_until_unmasked),
		TEST(table_takes_what_the_specification_allows),
		TEST(intx_honours_interrupt_disable),
		TEST(shared_pin_stays_up_for_the_other),
		TEST(functions_that_changed_places_are_loaded_to_theirs),
		TEST(load_restores_place_and_vectors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
