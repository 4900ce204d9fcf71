/* A disk whose image keeps requests for as long as it likes, until it is told that nobody waits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/fake_device.h"
#include "tests/unit/fake_driver.h"
#include "virtio/virtio_devices.h"

#define NO_STATUS 0x7f

struct fixture {
	struct fake_vm vm;
	struct fake_driver d;
	struct virtio_device *dev;
	struct block image;
	struct list kept;
	bool drained;
	uint8_t *status; /* of the request that keep_one() has made */
};

static void keep(struct block *b, struct block_req *req)
{
	struct fixture *f = container_of(b, struct fixture, image);

	list_add_tail(&f->kept, &req->link);
}

static void hurry(struct block *b)
{
	struct fixture *f = container_of(b, struct fixture, image);

	while (!list_empty(&f->kept)) {
		struct block_req *req = list_entry(f->kept.next, struct block_req, link);

		list_del(&req->link);
		block_finish(req, -EIO);
	}
}

static int nothing_to_free(struct block *b)
{
	return 0;
}

static const struct block_ops keeper_ops = {
	.submit = keep,
	.hurry = hurry,
	.free = nothing_to_free,
};

/* A flush that the image has and keeps. */
static void keep_one(struct fixture *f)
{
	struct virtio_blk_outhdr h = { .type = htole32(VIRTIO_BLK_T_FLUSH) };
	uint64_t header = fake_alloc(&f->vm, sizeof(h), 16), status = fake_alloc(&f->vm, 1, 1);
	struct fake_buf bufs[] = { { header, sizeof(h), false }, { status, 1, true } };

	memcpy(fake_ptr(&f->vm, header, sizeof(h)), &h, sizeof(h));
	f->status = fake_ptr(&f->vm, status, 1);
	*f->status = NO_STATUS;
	assert_true(fake_add(&f->d, 0, bufs, ARRAY_SIZE(bufs)) >= 0);
	fake_kick(&f->d, 0);
	while (list_empty(&f->kept))
		loop_run_once(f->vm.loop, NSEC_PER_SEC);
}

static void a_reset_does_not_wait_for_what_the_driver_gives_up(void **state)
{
	struct fixture *f = *state;

	keep_one(f);
	fake_reset(&f->d);
	assert_true(list_empty(&f->kept));
	assert_int_equal(fake_status(&f->d), 0);
	fake_driver_probe(&f->d);
	keep_one(f);
	hurry(&f->image);
}

static void a_pause_waits_and_is_hurried_by_the_machines_end(void **state)
{
	struct fixture *f = *state;

	keep_one(f);
	virtio_pause(f->dev, fake_drained, &f->drained);
	fake_run(&f->vm);
	assert_false(f->drained);
	assert_int_equal(*f->status, NO_STATUS);
	virtio_hurry(f->dev);
	fake_run(&f->vm);
	assert_true(f->drained);
	assert_int_equal(*f->status, VIRTIO_BLK_S_IOERR);
}

static void a_device_may_be_freed_before_it_hears_that_nobody_waits(void **state)
{
	struct fixture *f = *state;

	keep_one(f);
	virtio_pause(f->dev, fake_drained, &f->drained);
	fake_run(&f->vm);
	hurry(&f->image);
	virtio_hurry(f->dev);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct virtio_params params;

	list_init(&f->kept);
	fake_vm_init(&f->vm, LOOP_AUTO);
	f->image = (struct block){ .ops = &keeper_ops, .size_bytes = MiB };
	f->image.logical_block = f->image.physical_block = BLOCK_SECTOR;
	block_attach(&f->image, f->vm.loop);
	params = fake_vm_params(&f->vm, "disk0");
	assert_int_equal(virtio_blk_create(&f->dev, &params, &f->image, NULL, NULL), 0);
	fake_driver_init(&f->d, &f->vm, f->dev,
			 &(struct fake_driver_config){ .features = 1ull << VIRTIO_BLK_F_FLUSH });
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
	free(f);
	return 0;
}

#define hurry_test(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		hurry_test(a_reset_does_not_wait_for_what_the_driver_gives_up),
		hurry_test(a_pause_waits_and_is_hurried_by_the_machines_end),
		hurry_test(a_device_may_be_freed_before_it_hears_that_nobody_waits),
	};

	log_setup(STDERR_FILENO, LOG_ERROR);
	return cmocka_run_group_tests_name("hurry", tests, NULL, NULL);
}
