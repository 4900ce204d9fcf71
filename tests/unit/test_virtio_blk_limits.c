/* A disk that is counted, limited, resized and moved while it runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/fake_blk.h"
#include "tests/unit/fake_device.h"
#include "virtio/virtio_devices.h"

static void everything_is_counted(void **state)
{
	struct fake_blk *f = fake_blk_begin(&fake_plain);

	fake_blk_simple(f, VIRTIO_BLK_T_IN, 0, 512, true);
	fake_blk_simple(f, VIRTIO_BLK_T_IN, 0, 4096, true);
	fake_blk_simple(f, VIRTIO_BLK_T_OUT, 0, 1024, false);
	fake_blk_simple(f, VIRTIO_BLK_T_FLUSH, 0, 0, false);
	fake_blk_simple(f, VIRTIO_BLK_T_IN, FAKE_BLK_SECTORS, 512, true);
	fake_blk_simple(f, 77, 0, 512, true);
	assert_int_equal(fake_counter(f->dev, "reads"), 2);
	assert_int_equal(fake_counter(f->dev, "read_bytes"), 4608);
	assert_int_equal(fake_counter(f->dev, "writes"), 1);
	assert_int_equal(fake_counter(f->dev, "written_bytes"), 1024);
	assert_int_equal(fake_counter(f->dev, "flushes"), 1);
	assert_int_equal(fake_counter(f->dev, "refused"), 2);
	assert_int_equal(fake_counter(f->dev, "errors"), 0);
	assert_int_equal(fake_counter(f->dev, "batches"), 6);
	fake_blk_end(f);
}

static void the_host_failing_is_an_error_and_no_more(void **state)
{
	struct fake_blk *f = fake_blk_begin(&fake_plain);

	/* Cut short under us: what is gone cannot be read, what is there can. */
	assert_int_equal(truncate(f->path, FAKE_BLK_SIZE / 2), 0);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_IN, FAKE_BLK_SECTORS - 1, 512, true),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
	assert_int_equal(fake_counter(f->dev, "errors"), 1);
	assert_int_equal(fake_counter(f->dev, "refused"), 0);
	assert_int_equal(f->dev->needs_reset, 0);
	fake_blk_end(f);
}

/* Does what is not yet served go on in the next second, @n of it? */
static void assert_served_in_a_second(struct fake_blk *f, unsigned n)
{
	assert_in_range(fake_take_for(&f->d, 0, 1000), n - 1, n + 1);
}

static void a_rate_limit_holds_and_can_be_changed(void **state)
{
	struct fake_blk *f = fake_blk_begin(&fake_plain);
	struct rate_limits limits = { .ops = { .per_second = 20, .burst = 5 } };

	virtio_blk_limit(f->dev, &limits);
	for (unsigned i = 0; i < 80; i++) {
		struct fake_blk_request r = fake_blk_request(f, VIRTIO_BLK_T_IN, 0, 512);

		fake_blk_add(f, 0, &r, true);
	}
	fake_kick(&f->d, 0);
	/* The burst, and one on credit. */
	assert_in_range(fake_take_all(&f->d, 0), 5, 6);
	assert_served_in_a_second(f, 20);
	assert_true(fake_counter(f->dev, "waits") > 0);
	/* Two requests' worth of bytes a second. */
	limits = (struct rate_limits){ .bytes = { .per_second = 1024, .burst = 1 } };
	virtio_blk_limit(f->dev, &limits);
	assert_served_in_a_second(f, 2);
	virtio_blk_limit(f->dev, &(struct rate_limits){ 0 });
	clock_advance(&f->vm.clock, NSEC_PER_SEC);
	assert_true(fake_take_all(&f->d, 0) > 40);
	fake_blk_end(f);
}

static void a_limited_queue_pauses_and_goes_on(void **state)
{
	struct fake_blk *f = fake_blk_begin(&fake_plain);
	struct rate_limits limits = { .ops = { .per_second = 10, .burst = 1 } };
	bool done = false;

	virtio_blk_limit(f->dev, &limits);
	for (unsigned i = 0; i < 20; i++) {
		struct fake_blk_request r = fake_blk_request(f, VIRTIO_BLK_T_IN, 0, 512);

		fake_blk_add(f, 0, &r, true);
	}
	fake_kick(&f->d, 0);
	fake_take_all(&f->d, 0);
	virtio_pause(f->dev, fake_drained, &done);
	fake_run(&f->vm);
	assert_true(done);
	clock_advance(&f->vm.clock, NSEC_PER_SEC);
	assert_int_equal(fake_take_all(&f->d, 0), 0);
	virtio_resume(f->dev);
	assert_served_in_a_second(f, 10);
	fake_blk_end(f);
}

static uint64_t capacity(struct fake_blk *f)
{
	uint64_t sectors;

	fake_config_read(&f->d, offsetof(struct virtio_blk_config, capacity), &sectors, 8);
	return le64toh(sectors);
}

static void a_disk_can_be_resized_while_it_runs(void **state)
{
	struct fake_blk *f = fake_blk_begin(&fake_plain);

	assert_int_equal(virtio_blk_resize(f->dev, FAKE_BLK_SIZE * 2), 0);
	assert_int_equal(fake_config_interrupts(&f->d), 1);
	assert_int_equal(capacity(f), FAKE_BLK_SECTORS * 2);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_OUT, FAKE_BLK_SECTORS * 2 - 1, 512, false),
			 VIRTIO_BLK_S_OK);
	/* Smaller again: what is past the end is refused. */
	assert_int_equal(virtio_blk_resize(f->dev, FAKE_BLK_SIZE), 0);
	assert_int_equal(capacity(f), FAKE_BLK_SECTORS);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_OUT, FAKE_BLK_SECTORS, 512, false),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(virtio_blk_resize(f->dev, 1000), -EINVAL);
	assert_int_equal(virtio_blk_resize(f->dev, 0), -EINVAL);
	fake_blk_assert_image(f);
	fake_blk_end(f);

	f = fake_blk_begin_with(&fake_plain, (struct block_config){ .read_only = true }, 1,
				FAKE_BLK_FEATURES);
	assert_int_equal(virtio_blk_resize(f->dev, FAKE_BLK_SIZE * 2), -EROFS);
	fake_blk_end(f);
}

/* Save @f's device and load it into one over the image at @path. Returns virtio_load(). */
static int move(struct fake_blk *f, const char *path)
{
	struct virtio_params params = fake_vm_params(&f->vm, "disk0");
	struct block_config config = { .path = path, .fd = -1, .read_only = true };
	struct state_writer w;
	struct state_reader reader = { .name = "disk0" };
	struct virtio_device *dev;
	struct block *b;
	int r;

	fake_pause(&f->d);
	state_writer_init(&w);
	virtio_save(f->dev, &w);
	assert_int_equal(w.failed, 0);

	assert_int_equal(block_open(&b, &config, NULL), 0);
	block_attach(b, f->vm.loop);
	assert_int_equal(virtio_blk_create(&dev, &params, b, NULL, NULL), 0);
	dev->offered = f->dev->offered;
	reader.p = w.buf;
	reader.len = w.len;
	r = virtio_load(dev, &reader);
	if (!r)
		r = state_reader_end(&reader, NULL);
	virtio_free(dev);
	state_writer_done(&w);
	return r;
}

static void state_fits_only_a_disk_of_its_size(void **state)
{
	struct fake_blk *f =
		fake_blk_begin_with(&fake_plain, (struct block_config){ .read_only = true }, 1,
				    FAKE_BLK_FEATURES);
	char other[] = "/var/tmp/wisp-test-blk-XXXXXX";
	int fd = mkstemp(other);

	assert_int_equal(move(f, f->path), 0);
	assert_int_equal(ftruncate(fd, FAKE_BLK_SIZE + 512), 0);
	assert_int_equal(move(f, other), -EBADMSG);
	close(fd);
	unlink(other);
	fake_blk_end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_is_counted),
		cmocka_unit_test(the_host_failing_is_an_error_and_no_more),
		cmocka_unit_test(a_rate_limit_holds_and_can_be_changed),
		cmocka_unit_test(a_limited_queue_pauses_and_goes_on),
		cmocka_unit_test(a_disk_can_be_resized_while_it_runs),
		cmocka_unit_test(state_fits_only_a_disk_of_its_size),
	};

	log_setup(STDERR_FILENO, LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
