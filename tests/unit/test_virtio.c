/* The device core: status, features, mistakes, reset, pause, state; over both transports. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "tests/unit/fake_echo.h"
#include "tests/unit/num_fds.h"

/* ---- status and features ---- */

static void features_ok_is_refused_for_what_is_not_offered(void **state)
{
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ .no_driver_ok = true });
	fake_set_status(&f.d, 0);
	virtio_set_features(&f.e->dev, 0, 1u << 6);
	virtio_set_features(&f.e->dev, 1, 1u << (VIRTIO_F_VERSION_1 - 32));
	virtio_set_status(&f.e->dev, VIRTIO_CONFIG_S_FEATURES_OK, false);
	assert_int_equal(fake_status(&f.d), 0);

	/* And without VERSION_1, since nothing here speaks the older dialect. */
	virtio_set_features(&f.e->dev, 0, 1u << 5);
	virtio_set_features(&f.e->dev, 1, 0);
	virtio_set_status(&f.e->dev, VIRTIO_CONFIG_S_FEATURES_OK, false);
	assert_int_equal(fake_status(&f.d), 0);

	virtio_set_features(&f.e->dev, 1, 1u << (VIRTIO_F_VERSION_1 - 32));
	virtio_set_status(&f.e->dev, VIRTIO_CONFIG_S_FEATURES_OK, false);
	assert_int_equal(fake_status(&f.d), VIRTIO_CONFIG_S_FEATURES_OK);
	/* From now on they are final. */
	virtio_set_features(&f.e->dev, 0, 0);
	assert_true(virtio_has(&f.e->dev, 5));
	assert_int_equal(virtio_get_features(&f.e->dev, 2), 0);
	echo_end(&f);
}

static void driver_ok_needs_features_ok(void **state)
{
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ .no_driver_ok = true });
	fake_set_status(&f.d, 0);
	fake_set_status(&f.d, VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(fake_status(&f.d), VIRTIO_CONFIG_S_DRIVER);
	assert_int_equal(f.e->starts, 0);
	echo_end(&f);
}

static void status_bits_go_by_reset_only(void **state)
{
	struct echo_machine f;
	uint8_t all;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ 0 });
	all = fake_status(&f.d);
	fake_set_status(&f.d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(fake_status(&f.d), all);
	fake_set_status(&f.d, 0);
	assert_int_equal(fake_status(&f.d), 0);
	assert_int_equal(f.e->resets, 1);
	echo_end(&f);
}

static void queue_of_a_running_device_cannot_be_changed(void **state)
{
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ 0 });
	assert_null(virtio_queue_config(&f.e->dev, 0));
	assert_null(virtio_queue(&f.e->dev, 2));
	fake_set_status(&f.d, 0);
	assert_non_null(virtio_queue_config(&f.e->dev, 0));
	assert_false(virtio_queue(&f.e->dev, 0)->ready);
	echo_end(&f);
}

/* ---- requests ---- */

static void what_is_sent_comes_back(void **state)
{
	struct fake_used used;
	struct echo_machine f;
	int id;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ 0 });
	id = echo_request(&f, "hello");
	assert_true(fake_kick(&f.d, 0));
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_int_equal(used.id, id);
	assert_int_equal(used.len, 64);
	assert_string_equal(fake_ptr(&f.vm, f.vm.next_alloc - 64, 64), "hello");
	assert_int_equal(fake_interrupts(&f.d, 0), 1);
	assert_int_equal(fake_interrupts(&f.d, 1), 0);
	echo_end(&f);
}

static void one_interrupt_for_a_batch(void **state)
{
	struct fake_used used;
	struct echo_machine f;
	unsigned i;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ .event_idx = true });
	for (i = 0; i < 5; i++)
		echo_request(&f, "batch");
	fake_kick(&f.d, 0);
	assert_int_equal(fake_interrupts(&f.d, 0), 1);
	for (i = 0; i < 5; i++)
		assert_true(fake_take_used(&f.d, 0, &used));
	echo_end(&f);
}

/* ---- mistakes ---- */

static void mistake_needs_a_reset_and_a_reset_mends_it(void **state)
{
	struct fake_buf bad = { FAKE_RAM_END, 64, true };
	struct fake_used used;
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ 0 });
	fake_add(&f.d, 0, &bad, 1);
	fake_kick(&f.d, 0);
	assert_int_equal(fake_config_interrupts(&f.d), 1);
	assert_true(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(f.e->dev.stats.failures, 1);

	/* Good requests are not served either, on no queue. */
	echo_request(&f, "late");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	assert_false(fake_take_used(&f.d, 0, &used));

	fake_driver_probe(&f.d);
	assert_false(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	echo_request(&f, "again");
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	echo_end(&f);
}

static void ring_outside_ram_needs_a_reset(void **state)
{
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ .no_driver_ok = true });
	pthread_mutex_lock(&f.e->dev.lock);
	virtio_queue_config(&f.e->dev, 1)->device_gpa = FAKE_RAM_END;
	pthread_mutex_unlock(&f.e->dev.lock);
	fake_driver_ok(&f.d);
	assert_true(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(f.e->starts, 0);
	assert_false(f.e->dev.queue[0].started);
	fake_driver_probe(&f.d);
	fake_driver_ok(&f.d);
	assert_int_equal(f.e->starts, 1);
	echo_end(&f);
}

static void device_that_cannot_start_needs_a_reset(void **state)
{
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ .no_driver_ok = true });
	f.e->start_result = -EIO;
	fake_driver_ok(&f.d);
	assert_true(fake_status(&f.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	fake_set_status(&f.d, 0);
	/* What did not start is not stopped. */
	assert_int_equal(f.e->stops, 0);
	echo_end(&f);
}

/* ---- reset ---- */

static void reset_waits_for_what_is_in_flight(void **state)
{
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ 0 });
	f.e->hold = true;
	echo_request(&f, "slow");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	assert_int_equal(f.e->num_held, 1);
	fake_set_status(&f.d, 0);
	assert_int_equal(f.e->num_held, 0);
	assert_int_equal(f.e->resets, 1);
	assert_int_equal(fake_status(&f.d), 0);
	echo_end(&f);
}

static void pci_status_reads_non_zero_until_drained(void **state)
{
	struct fake_used used;
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ .transport = FAKE_PCI });
	f.e->hold = true;
	echo_request(&f, "slow");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	fake_set_status(&f.d, 0);
	assert_int_not_equal(fake_status(&f.d), 0);
	/* Writing 0 again does no harm. */
	fake_set_status(&f.d, 0);
	fake_run(&f.vm);
	assert_int_equal(fake_status(&f.d), 0);
	assert_int_equal(f.e->resets, 1);
	f.e->hold = false;
	fake_driver_probe(&f.d);
	echo_request(&f, "again");
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	echo_end(&f);
}

static void pci_driver_that_does_not_wait_is_made_to(void **state)
{
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ .transport = FAKE_PCI });
	f.e->hold = true;
	echo_request(&f, "slow");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	fake_set_status(&f.d, 0);
	fake_set_status(&f.d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(fake_status(&f.d), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(f.e->resets, 1);
	echo_end(&f);
}

/* Its message would come to a device that was freed. */
static void reset_that_nobody_waited_for_leaves_no_message(void **state)
{
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO,
		   &(struct fake_driver_config){ .transport = FAKE_PCI, .no_driver_ok = true });
	/* Running, but with no queue: none of its own waits runs the loop at the end. */
	fake_set_status(&f.d, 0);
	virtio_set_features(&f.e->dev, 1, 1u << (VIRTIO_F_VERSION_1 - 32));
	virtio_set_status(&f.e->dev, VIRTIO_CONFIG_S_FEATURES_OK, false);
	virtio_set_status(&f.e->dev, VIRTIO_CONFIG_S_DRIVER_OK, false);
	virtio_set_status(&f.e->dev, 0, true);
	loop_run_once(f.vm.loop, 0);
	/* Drained, and the driver did not look: the end resets it once more. */
	fake_driver_done(&f.d);
	assert_int_equal(loop_run_once(f.vm.loop, 0), 0);
	fake_vm_done(&f.vm);
}

static void resets_leak_no_descriptor_and_no_doorbell(void **state)
{
	for (int pci = 0; pci < 2; pci++) {
		unsigned i, before;
		struct echo_machine f;

		echo_begin(&f, LOOP_AUTO,
			   &(struct fake_driver_config){ .transport = pci ? FAKE_PCI : FAKE_MMIO });
		assert_int_equal(fake_hv_num_ioeventfds(f.vm.hv), 2);
		before = num_fds();
		for (i = 0; i < 20; i++) {
			fake_set_status(&f.d, 0);
			fake_run(&f.vm);
			assert_int_equal(fake_status(&f.d), 0);
			assert_int_equal(fake_hv_num_ioeventfds(f.vm.hv), 0);
			fake_driver_probe(&f.d);
			assert_int_equal(fake_hv_num_ioeventfds(f.vm.hv), 2);
		}
		assert_int_equal(num_fds(), before);
		echo_end(&f);
	}
}

static void doorbell_that_exits_kicks_too(void **state)
{
	struct fake_used used;
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ .no_driver_ok = true });
	fake_hv_fail(f.vm.hv, FAKE_HV_IOEVENTFD, 0, -ENOSPC);
	fake_driver_ok(&f.d);
	assert_int_equal(fake_hv_num_ioeventfds(f.vm.hv), 1);
	echo_request(&f, "slow way");
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	/* A queue that does not exist is nobody's. */
	virtio_kick(&f.e->dev, 2);
	virtio_kick(&f.e->dev, UINT32_MAX);
	echo_end(&f);
}

/* ---- pause and state ---- */

static void count(struct virtio_device *dev, void *arg)
{
	++*(unsigned *)arg;
}

static void pause_drains_and_resume_loses_nothing(void **state)
{
	struct fake_used used;
	unsigned paused = 0;
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ .event_idx = true });
	f.e->hold = true;
	echo_request(&f, "first");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	virtio_pause(&f.e->dev, count, &paused);
	assert_int_equal(paused, 0);
	fake_run(&f.vm);
	assert_int_equal(paused, 1);
	assert_false(f.e->dev.queue[0].started);
	assert_true(fake_take_used(&f.d, 0, &used));
	fake_interrupts(&f.d, 0);

	/* A kick while it is paused is not for now, and not forgotten. */
	f.e->hold = false;
	echo_request(&f, "second");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	assert_false(fake_take_used(&f.d, 0, &used));
	virtio_resume(&f.e->dev);
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_true(fake_interrupts(&f.d, 0) >= 1);
	echo_end(&f);
}

static void pause_of_a_device_without_driver_is_at_once(void **state)
{
	unsigned paused = 0;
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ .no_driver_ok = true });
	virtio_pause(&f.e->dev, count, &paused);
	assert_int_equal(paused, 1);
	virtio_resume(&f.e->dev);
	assert_int_equal(f.e->starts, 0);
	echo_end(&f);
}

static void reset_and_pause_wait_for_the_same_drain(void **state)
{
	unsigned paused = 0;
	struct echo_machine f;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ .transport = FAKE_PCI });
	f.e->hold = true;
	echo_request(&f, "slow");
	fake_kick(&f.d, 0);
	fake_run(&f.vm);
	fake_set_status(&f.d, 0);
	virtio_pause(&f.e->dev, count, &paused);
	fake_run(&f.vm);
	assert_int_equal(paused, 1);
	assert_int_equal(f.e->stops, 1);
	assert_int_equal(fake_status(&f.d), 0);
	virtio_resume(&f.e->dev);
	assert_int_equal(f.e->starts, 1);
	echo_end(&f);
}

/* The one section in @w. */
static struct state_reader reader_of(const struct state_writer *w)
{
	struct state_reader r;
	size_t pos = 0;

	assert_int_equal(w->failed, 0);
	assert_int_equal(state_next(w->buf, w->len, &pos, &r, NULL), 1);
	assert_int_equal(pos, w->len);
	assert_string_equal(r.name, "echo0");
	return r;
}

static void loaded_device_goes_on_with_the_same_rings(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		struct fake_driver_config config = {
			.transport = i & 1 ? FAKE_PCI : FAKE_MMIO,
			.packed = i & 2,
			.event_idx = true,
		};
		struct fake_used used;
		struct state_writer w;
		struct state_reader r;
		unsigned paused = 0;
		struct echo_machine f;

		echo_begin(&f, LOOP_AUTO, &config);
		echo_request(&f, "before");
		fake_kick(&f.d, 0);
		assert_true(fake_wait_used(&f.d, 0, &used));
		virtio_pause(&f.e->dev, count, &paused);
		echo_request(&f, "waiting, its kick lost with the other machine");
		state_writer_init(&w);
		if (f.d.pci)
			virtio_pci_save(f.d.pci, 0, &w);
		else
			virtio_mmio_save(f.d.mmio, 0, &w);
		r = reader_of(&w);

		/* A second device in the place of the first, over the same memory. */
		if (f.d.pci)
			virtio_pci_free(f.d.pci);
		virtio_mmio_free(f.d.mmio);
		virtio_free(&f.e->dev);
		f.e = echo_create(&f.vm);
		f.d.dev = &f.e->dev;
		if (f.d.pci) {
			assert_int_equal(virtio_pci_create(&f.d.pci, f.d.dev, f.vm.pci, f.d.slot,
							   NULL), 0);
			assert_int_equal(pci_bus_plug(virtio_pci_function(f.d.pci), NULL), 0);
			assert_int_equal(virtio_pci_load(f.d.pci, &r), 0);
		} else {
			assert_int_equal(virtio_mmio_create(&f.d.mmio, f.d.dev, f.vm.mmio,
							    FAKE_MMIO_BASE, f.vm.irqs,
							    FAKE_MMIO_GSI, NULL), 0);
			assert_int_equal(virtio_mmio_load(f.d.mmio, &r), 0);
		}
		assert_int_equal(state_reader_end(&r, NULL), 0);
		virtio_resume(&f.e->dev);
		assert_true(fake_wait_used(&f.d, 0, &used));
		assert_true(fake_interrupts(&f.d, 0) >= 1);
		echo_request(&f, "after");
		assert_true(fake_kick(&f.d, 0));
		assert_true(fake_wait_used(&f.d, 0, &used));
		state_writer_done(&w);
		echo_end(&f);
	}
}

static void load_refuses_every_truncation(void **state)
{
	struct state_writer w;
	struct state_reader r;
	unsigned paused = 0;
	struct echo_machine f;
	size_t len;

	echo_begin(&f, LOOP_AUTO, &(struct fake_driver_config){ 0 });
	virtio_pause(&f.e->dev, count, &paused);
	state_writer_init(&w);
	virtio_mmio_save(f.d.mmio, 0, &w);
	r = reader_of(&w);
	for (len = 0; len < r.len; len++) {
		struct state_reader cut = r;

		cut.len = len;
		assert_true(virtio_mmio_load(f.d.mmio, &cut) < 0);
	}
	assert_int_equal(virtio_mmio_load(f.d.mmio, &r), 0);
	state_writer_done(&w);
	echo_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(features_ok_is_refused_for_what_is_not_offered),
		cmocka_unit_test(driver_ok_needs_features_ok),
		cmocka_unit_test(status_bits_go_by_reset_only),
		cmocka_unit_test(queue_of_a_running_device_cannot_be_changed),
		cmocka_unit_test(what_is_sent_comes_back),
		cmocka_unit_test(one_interrupt_for_a_batch),
		cmocka_unit_test(mistake_needs_a_reset_and_a_reset_mends_it),
		cmocka_unit_test(ring_outside_ram_needs_a_reset),
		cmocka_unit_test(device_that_cannot_start_needs_a_reset),
		cmocka_unit_test(reset_waits_for_what_is_in_flight),
		cmocka_unit_test(pci_status_reads_non_zero_until_drained),
		cmocka_unit_test(pci_driver_that_does_not_wait_is_made_to),
		cmocka_unit_test(reset_that_nobody_waited_for_leaves_no_message),
		cmocka_unit_test(resets_leak_no_descriptor_and_no_doorbell),
		cmocka_unit_test(doorbell_that_exits_kicks_too),
		cmocka_unit_test(pause_drains_and_resume_loses_nothing),
		cmocka_unit_test(pause_of_a_device_without_driver_is_at_once),
		cmocka_unit_test(reset_and_pause_wait_for_the_same_drain),
		cmocka_unit_test(loaded_device_goes_on_with_the_same_rings),
		cmocka_unit_test(load_refuses_every_truncation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
