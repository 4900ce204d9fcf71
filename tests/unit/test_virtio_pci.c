/* Virtio over PCI: areas, vectors, doorbells that follow the BAR, the access window. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>

#include "tests/unit/fake_driver.h"
#include "virtio/virtio_devices.h"

#define NO_VECTOR 0xffffu

struct fixture {
	struct fake_vm vm;
	struct fake_driver d;
};

static void begin(struct fixture *f, const struct fake_driver_config *base)
{
	struct fake_driver_config config = *base;
	struct virtio_device *dev;
	struct virtio_params params;

	config.transport = FAKE_PCI;
	fake_vm_init(&f->vm, LOOP_AUTO);
	params = fake_vm_params(&f->vm, "rng0");
	assert_int_equal(virtio_rng_create(&dev, &params, NULL), 0);
	fake_driver_init(&f->d, &f->vm, dev, &config);
}

static void end(struct fixture *f)
{
	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
}

static uint64_t config(struct fixture *f, unsigned reg)
{
	return FAKE_ECAM_BASE + (f->d.slot << 15) + reg;
}

static uint64_t get(struct fixture *f, unsigned field, unsigned len)
{
	return fake_read(&f->vm, f->d.common + field, len);
}

static void set(struct fixture *f, unsigned field, uint64_t v, unsigned len)
{
	fake_write(&f->vm, f->d.common + field, v, len);
}

/* Ask for entropy and wait for it: the device works from doorbell to used ring. */
static bool works(struct fixture *f)
{
	struct fake_buf buf = { fake_alloc(&f->vm, 64, 1), 64, true };
	struct fake_used used;

	fake_add(&f->d, 0, &buf, 1);
	fake_kick(&f->d, 0);
	return fake_wait_used(&f->d, 0, &used) && used.len == 64;
}

static void device_says_what_it_is(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .no_driver_ok = true });
	assert_int_equal(fake_read(&f.vm, config(&f, PCI_VENDOR_ID), 2), 0x1af4);
	assert_int_equal(fake_read(&f.vm, config(&f, PCI_DEVICE_ID), 2), 0x1040 + VIRTIO_ID_RNG);
	assert_true(fake_read(&f.vm, config(&f, PCI_REVISION_ID), 1) >= 1);
	assert_int_equal(fake_read(&f.vm, config(&f, PCI_INTERRUPT_PIN), 1), 1);
	assert_int_equal(get(&f, VIRTIO_PCI_COMMON_NUMQ, 2), 1);
	end(&f);
}

static void fields_are_accessed_by_their_width(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .no_driver_ok = true });
	fake_reset(&f.d);
	set(&f, VIRTIO_PCI_COMMON_Q_DESCLO, 0x1122334455667788, 8);
	assert_int_equal(get(&f, VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0x1122334455667788);
	assert_int_equal(get(&f, VIRTIO_PCI_COMMON_Q_DESCHI, 4), 0x11223344);
	set(&f, VIRTIO_PCI_COMMON_Q_DESCHI, 0x55, 4);
	assert_int_equal(get(&f, VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0x5555667788);
	/* Half a field, or two at once, is nothing. */
	set(&f, VIRTIO_PCI_COMMON_Q_DESCLO, 0, 2);
	set(&f, VIRTIO_PCI_COMMON_STATUS, 0x0101, 2);
	assert_int_equal(get(&f, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0x55667788);
	assert_int_equal(get(&f, VIRTIO_PCI_COMMON_STATUS, 1), 0);
	assert_int_equal(get(&f, VIRTIO_PCI_COMMON_DF, 2), 0);
	end(&f);
}

static void queue_that_is_not_there_has_no_size(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .no_driver_ok = true });
	set(&f, VIRTIO_PCI_COMMON_Q_SELECT, 1, 2);
	assert_int_equal(get(&f, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	set(&f, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	assert_int_equal(get(&f, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	end(&f);
}

static void vector_that_is_not_there_is_refused(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .no_driver_ok = true });
	set(&f, VIRTIO_PCI_COMMON_Q_SELECT, 0, 2);
	set(&f, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
	assert_int_equal(get(&f, VIRTIO_PCI_COMMON_Q_MSIX, 2), NO_VECTOR);
	set(&f, VIRTIO_PCI_COMMON_MSIX, 1, 2);
	assert_int_equal(get(&f, VIRTIO_PCI_COMMON_MSIX, 2), 1);
	fake_reset(&f.d);
	assert_int_equal(get(&f, VIRTIO_PCI_COMMON_MSIX, 2), NO_VECTOR);
	end(&f);
}

static void used_buffer_raises_the_queues_vector(void **state)
{
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .event_idx = true });
	assert_true(works(&f));
	assert_int_equal(fake_interrupts(&f.d, 0), 1);
	assert_int_equal(fake_config_interrupts(&f.d), 0);
	virtio_config_changed(f.d.dev);
	assert_int_equal(fake_config_interrupts(&f.d), 1);
	assert_int_equal(fake_interrupts(&f.d, 0), 0);
	end(&f);
}

static void intx_is_acknowledged_by_reading_the_isr(void **state)
{
	struct fixture f;
	uint32_t gsi;

	begin(&f, &(struct fake_driver_config){ .intx = true });
	gsi = virtio_pci_function(f.d.pci)->intx_gsi;
	assert_true(works(&f));
	assert_true(fake_hv_level(f.vm.hv, gsi));
	virtio_config_changed(f.d.dev);
	assert_int_equal(fake_read(&f.vm, f.d.isr, 1), 3);
	assert_false(fake_hv_level(f.vm.hv, gsi));
	assert_int_equal(fake_read(&f.vm, f.d.isr, 1), 0);
	/* A reset takes the line down too. */
	assert_true(works(&f));
	fake_reset(&f.d);
	assert_false(fake_hv_level(f.vm.hv, gsi));
	end(&f);
}

static void doorbells_follow_the_bar(void **state)
{
	const uint64_t moved = FAKE_MMIO64 + 0x10000000;
	struct fixture f;
	uint64_t offset;

	begin(&f, &(struct fake_driver_config){ 0 });
	offset = f.d.queue[0].doorbell & (PAGE_SIZE - 1);
	assert_int_equal(fake_hv_num_ioeventfds(f.vm.hv), 1);
	assert_true(fake_hv_has_ioeventfd(f.vm.hv, false, f.d.queue[0].doorbell, 0));

	fake_write(&f.vm, config(&f, PCI_BASE_ADDRESS_0), (uint32_t)moved, 4);
	assert_int_equal(fake_hv_num_ioeventfds(f.vm.hv), 1);
	assert_true(fake_hv_has_ioeventfd(f.vm.hv, false, moved + offset, 0));
	f.d.queue[0].doorbell = moved + offset;
	assert_true(works(&f));

	fake_write(&f.vm, config(&f, PCI_COMMAND), 0, 2);
	assert_int_equal(fake_hv_num_ioeventfds(f.vm.hv), 0);
	fake_write(&f.vm, config(&f, PCI_COMMAND), PCI_COMMAND_MEMORY, 2);
	assert_int_equal(fake_hv_num_ioeventfds(f.vm.hv), 1);
	end(&f);
}

static void window_reaches_the_areas(void **state)
{
	struct fixture f;
	unsigned cap, n;

	begin(&f, &(struct fake_driver_config){ .no_driver_ok = true });
	cap = fake_read(&f.vm, config(&f, PCI_CAPABILITY_LIST), 1);
	for (n = 0; cap && n < 48; n++, cap = fake_read(&f.vm, config(&f, cap + 1), 1)) {
		if (fake_read(&f.vm, config(&f, cap), 1) == PCI_CAP_ID_VNDR &&
		    fake_read(&f.vm, config(&f, cap + VIRTIO_PCI_CAP_CFG_TYPE), 1) ==
			    VIRTIO_PCI_CAP_PCI_CFG)
			break;
	}
	assert_int_not_equal(cap, 0);
	fake_reset(&f.d);
	fake_write(&f.vm, config(&f, cap + VIRTIO_PCI_CAP_BAR), 0, 1);
	fake_write(&f.vm, config(&f, cap + VIRTIO_PCI_CAP_OFFSET), VIRTIO_PCI_COMMON_STATUS, 4);
	fake_write(&f.vm, config(&f, cap + VIRTIO_PCI_CAP_LENGTH), 1, 4);
	fake_write(&f.vm, config(&f, cap + 16), VIRTIO_CONFIG_S_ACKNOWLEDGE, 1);
	assert_int_equal(fake_status(&f.d), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	fake_set_status(&f.d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	assert_int_equal(fake_read(&f.vm, config(&f, cap + 16), 1),
			 VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);

	/* Past the BAR, a width that does not exist, another BAR: nothing happens. */
	fake_write(&f.vm, config(&f, cap + VIRTIO_PCI_CAP_OFFSET), 0xfffffffc, 4);
	fake_write(&f.vm, config(&f, cap + VIRTIO_PCI_CAP_LENGTH), 4, 4);
	fake_write(&f.vm, config(&f, cap + 16), 0, 4);
	fake_write(&f.vm, config(&f, cap + VIRTIO_PCI_CAP_OFFSET), VIRTIO_PCI_COMMON_STATUS, 4);
	fake_write(&f.vm, config(&f, cap + VIRTIO_PCI_CAP_LENGTH), 3, 4);
	fake_write(&f.vm, config(&f, cap + 16), 0, 4);
	fake_write(&f.vm, config(&f, cap + VIRTIO_PCI_CAP_LENGTH), 1, 4);
	fake_write(&f.vm, config(&f, cap + VIRTIO_PCI_CAP_BAR), 2, 1);
	fake_write(&f.vm, config(&f, cap + 16), 0, 1);
	assert_int_equal(fake_status(&f.d), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	end(&f);
}

static void bus_without_msi_has_no_msix(void **state)
{
	static const uint32_t gsi[4] = { 16, 17, 18, 19 };
	struct fixture f;
	struct virtio_params params;

	fake_vm_init(&f.vm, LOOP_AUTO);
	pci_bus_free(f.vm.pci);
	assert_int_equal(pci_bus_create(&f.vm.pci,
					&(struct pci_bus_params){
						.mmio = f.vm.mmio,
						.pio = f.vm.pio,
						.irqs = f.vm.irqs,
						.ecam_base = FAKE_ECAM_BASE,
						.ecam_size = 1 * MiB,
						.mmio32_base = FAKE_MMIO32,
						.mmio32_size = 1 * MiB,
						.intx_gsi = gsi,
						.no_msi = true,
					},
					NULL),
			 0);
	params = fake_vm_params(&f.vm, "rng0");
	assert_int_equal(virtio_rng_create(&f.d.dev, &params, NULL), 0);
	fake_driver_init(&f.d, &f.vm, f.d.dev,
			 &(struct fake_driver_config){ .transport = FAKE_PCI, .intx = true });
	assert_int_equal(virtio_pci_function(f.d.pci)->msix_vectors, 0);
	assert_true(works(&f));
	assert_int_equal(fake_interrupts(&f.d, 0), 1);
	end(&f);
}

/* The driver has not looked yet whether its reset is over; what is saved has it behind. */
static void saved_during_a_reset_it_has_been_reset(void **state)
{
	struct state_writer first, second;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ 0 });
	fake_set_status(&f.d, 0);
	fake_run(&f.vm);
	state_writer_init(&first);
	state_writer_init(&second);
	virtio_pci_save(f.d.pci, 0, &first);
	virtio_pci_save(f.d.pci, 0, &second);
	assert_int_equal(first.len, second.len);
	assert_memory_equal(first.buf, second.buf, first.len);
	state_writer_done(&first);
	state_writer_done(&second);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(device_says_what_it_is),
		cmocka_unit_test(fields_are_accessed_by_their_width),
		cmocka_unit_test(queue_that_is_not_there_has_no_size),
		cmocka_unit_test(vector_that_is_not_there_is_refused),
		cmocka_unit_test(used_buffer_raises_the_queues_vector),
		cmocka_unit_test(intx_is_acknowledged_by_reading_the_isr),
		cmocka_unit_test(doorbells_follow_the_bar),
		cmocka_unit_test(window_reaches_the_areas),
		cmocka_unit_test(bus_without_msi_has_no_msix),
		cmocka_unit_test(saved_during_a_reset_it_has_been_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
