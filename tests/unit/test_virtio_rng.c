#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/fake_device.h"
#include "tests/unit/fake_driver.h"
#include "virtio/virtio_devices.h"

struct fixture {
	struct fake_vm vm;
	struct fake_driver d;
};

static void begin(struct fixture *f, const struct fake_driver_config *config)
{
	struct virtio_device *dev;
	struct virtio_params params;

	fake_vm_init(&f->vm, LOOP_AUTO);
	params = fake_vm_params(&f->vm, "rng0");
	assert_int_equal(virtio_rng_create(&dev, &params, NULL), 0);
	fake_driver_init(&f->d, &f->vm, dev, config);
}

static void end(struct fixture *f)
{
	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
}

/* Buffers of 64 bytes, as many as the ring takes; how many. */
static unsigned fill_ring(struct fixture *f)
{
	struct fake_buf buf = { fake_alloc(&f->vm, 64, 1), 64, true };
	unsigned n = 0;

	while (fake_add(&f->d, 0, &buf, 1) >= 0)
		n++;
	fake_kick(&f->d, 0);
	return n;
}

static unsigned zeroes(const uint8_t *p, unsigned len)
{
	unsigned n = 0;

	while (len--)
		n += !*p++;
	return n;
}

static void every_byte_of_a_buffer_is_filled(void **state)
{
	struct fake_used used;
	struct fake_buf buf;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .event_idx = true });
	/* Across the two ranges of RAM. */
	buf = (struct fake_buf){ FAKE_RAM_SPLIT - 500, 1000, true };
	fake_add(&f.d, 0, &buf, 1);
	assert_true(fake_kick(&f.d, 0));
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_int_equal(used.len, 1000);
	assert_true(zeroes(fake_ptr(&f.vm, buf.gpa, 500), 500) < 50);
	assert_true(zeroes(fake_ptr(&f.vm, FAKE_RAM_SPLIT, 500), 500) < 50);
	/* Not one byte more. */
	assert_int_equal(zeroes(fake_ptr(&f.vm, FAKE_RAM_SPLIT + 500, 16), 16), 16);
	assert_int_equal(fake_interrupts(&f.d, 0), 1);
	end(&f);
}

static void huge_buffer_gets_a_share(void **state)
{
	struct fake_used used;
	struct fake_buf buf;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ 0 });
	buf = (struct fake_buf){ 0x200000, 0x400000, true };
	fake_add(&f.d, 0, &buf, 1);
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_true(used.len >= 256 && used.len <= 4096);
	end(&f);
}

static void readable_buffer_is_returned_untouched(void **state)
{
	struct fake_used used;
	struct fake_buf buf;
	struct fixture f;

	begin(&f, &(struct fake_driver_config){ .transport = FAKE_PCI, .packed = true });
	buf = (struct fake_buf){ fake_alloc(&f.vm, 64, 1), 64, false };
	fake_add(&f.d, 0, &buf, 1);
	fake_kick(&f.d, 0);
	assert_true(fake_wait_used(&f.d, 0, &used));
	assert_int_equal(used.len, 0);
	assert_int_equal(zeroes(fake_ptr(&f.vm, buf.gpa, 64), 64), 64);
	end(&f);
}

static void full_ring_is_served_with_one_kick(void **state)
{
	struct fake_used used;
	struct fake_buf buf;
	struct fixture f;
	unsigned n = 0, back = 0;

	begin(&f, &(struct fake_driver_config){ .packed = true, .event_idx = true });
	buf = (struct fake_buf){ fake_alloc(&f.vm, 64, 1), 64, true };
	while (fake_add(&f.d, 0, &buf, 1) >= 0)
		n++;
	fake_kick(&f.d, 0);
	while (back < n && fake_wait_used(&f.d, 0, &used))
		back++;
	assert_int_equal(back, n);
	/* The share of one kick is a ring; what comes after has a kick of its own. */
	fake_add(&f.d, 0, &buf, 1);
	assert_true(fake_kick(&f.d, 0));
	assert_true(fake_wait_used(&f.d, 0, &used));
	end(&f);
}

static void a_rate_limit_holds_and_can_be_lifted(void **state)
{
	/* Of bytes: a buffer and a half each second. */
	struct rate_limits limits = { .bytes = { .per_second = 96, .burst = 1 } };
	struct fixture f;
	unsigned n, back;

	begin(&f, &(struct fake_driver_config){ .event_idx = true });
	virtio_rng_limit(f.d.dev, &limits);
	n = fill_ring(&f);
	back = fake_take_all(&f.d, 0);
	assert_int_equal(back, 1);
	back += fake_take_for(&f.d, 0, 1000);
	assert_in_range(back, 2, 3);
	limits = (struct rate_limits){ .ops = { .per_second = 2, .burst = 1 } };
	virtio_rng_limit(f.d.dev, &limits);
	back += fake_take_for(&f.d, 0, 1000);
	assert_in_range(back, 4, 6);
	virtio_rng_limit(f.d.dev, &(struct rate_limits){ 0 });
	back += fake_take_for(&f.d, 0, 1000);
	assert_int_equal(back, n);
	/* And the driver's kicks are heard again. */
	assert_int_equal(fill_ring(&f), n);
	assert_int_equal(fake_take_all(&f.d, 0), n);
	end(&f);
}

static void a_limited_queue_pauses_and_goes_on(void **state)
{
	struct rate_limits limits = { .ops = { .per_second = 1, .burst = 1 } };
	struct fixture f;
	bool done = false;

	begin(&f, &(struct fake_driver_config){ .packed = true });
	virtio_rng_limit(f.d.dev, &limits);
	fill_ring(&f);
	assert_int_equal(fake_take_all(&f.d, 0), 1);
	virtio_pause(f.d.dev, fake_drained, &done);
	fake_run(&f.vm);
	assert_true(done);
	assert_int_equal(fake_take_for(&f.d, 0, 1000), 0);
	virtio_resume(f.d.dev);
	assert_in_range(fake_take_for(&f.d, 0, 1000), 1, 2);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_byte_of_a_buffer_is_filled),
		cmocka_unit_test(huge_buffer_gets_a_share),
		cmocka_unit_test(readable_buffer_is_returned_untouched),
		cmocka_unit_test(full_ring_is_served_with_one_kick),
		cmocka_unit_test(a_rate_limit_holds_and_can_be_lifted),
		cmocka_unit_test(a_limited_queue_pauses_and_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
