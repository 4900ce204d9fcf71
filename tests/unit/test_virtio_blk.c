/* A disk: requests, and what the driver may choose. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>
#include <unistd.h>

#include "tests/unit/fake_blk.h"
#include "tests/unit/fake_device.h"
#include "virtio/virtio_blk_pace.h"
#include "virtio/virtio_devices.h"

/* ---- the promises, on every variant ---- */

static void reads_land_in_guest_memory(void **state)
{
	struct fake_blk *f = fake_blk_begin(*state);
	struct fake_blk_request r = fake_blk_request(f, VIRTIO_BLK_T_IN, 3, 4096);
	uint32_t len;

	assert_int_equal(fake_blk_run(f, &r, true, &len), VIRTIO_BLK_S_OK);
	assert_memory_equal(fake_blk_data(f, &r), f->data + 3 * 512, 4096);
	assert_int_equal(len, 4097);
	assert_int_equal(fake_interrupts(&f->d, 0), 1);
	fake_blk_end(f);
}

static void writes_reach_the_image(void **state)
{
	struct fake_blk *f = fake_blk_begin(*state);
	struct fake_blk_request r = fake_blk_request(f, VIRTIO_BLK_T_OUT, 8, 1024);
	uint32_t len;

	memset(fake_blk_data(f, &r), 0xee, 1024);
	memset(f->data + 8 * 512, 0xee, 1024);
	assert_int_equal(fake_blk_run(f, &r, false, &len), VIRTIO_BLK_S_OK);
	assert_int_equal(len, 1);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
	fake_blk_assert_image(f);
	fake_blk_end(f);
}

/* 2.7.4.3: a device must not count on where segments begin and end. */
static void framing_is_the_drivers_choice(void **state)
{
	struct fake_blk *f = fake_blk_begin(*state);
	uint64_t out = fake_alloc(&f->vm, 16 + 1024, 1), in = fake_alloc(&f->vm, 1025, 1);
	struct virtio_blk_outhdr h = { .type = htole32(VIRTIO_BLK_T_OUT), .sector = htole64(2) };
	uint8_t *p = fake_ptr(&f->vm, out, 16 + 1024);
	struct fake_buf write[] = {
		/* The header in two parts, the second with data behind it. */
		{ out, 7, false },
		{ out + 7, 100, false },
		{ out + 107, 933, false },
		{ in, 1, true },
	};
	struct fake_buf read[] = {
		{ out, 16, false },
		/* Data in two parts, the second with the status behind it. */
		{ in, 300, true },
		{ in + 300, 725, true },
	};
	struct fake_used used;

	memcpy(p, &h, sizeof(h));
	for (int i = 0; i < 1024; i++)
		p[16 + i] = f->data[1024 + i] = i * 3;
	fake_add(&f->d, 0, write, 4);
	fake_kick(&f->d, 0);
	assert_true(fake_wait_used(&f->d, 0, &used));
	assert_int_equal(used.len, 1);
	assert_int_equal(*(uint8_t *)fake_ptr(&f->vm, in, 1), VIRTIO_BLK_S_OK);
	fake_blk_assert_image(f);

	h.type = htole32(VIRTIO_BLK_T_IN);
	memcpy(p, &h, sizeof(h));
	*(uint8_t *)fake_ptr(&f->vm, in + 1024, 1) = FAKE_BLK_NO_STATUS;
	fake_add(&f->d, 0, read, 3);
	fake_kick(&f->d, 0);
	assert_true(fake_wait_used(&f->d, 0, &used));
	assert_int_equal(used.len, 1025);
	assert_int_equal(*(uint8_t *)fake_ptr(&f->vm, in + 1024, 1), VIRTIO_BLK_S_OK);
	assert_memory_equal(fake_ptr(&f->vm, in, 1024), f->data + 1024, 1024);
	fake_blk_end(f);
}

static void nothing_past_the_capacity_is_touched(void **state)
{
	struct fake_blk *f = fake_blk_begin(*state);
	uint8_t io_err = VIRTIO_BLK_S_IOERR;

	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_OUT, FAKE_BLK_SECTORS, 512, false),
			 io_err);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_OUT, FAKE_BLK_SECTORS - 1, 1024, false),
			 io_err);
	/* Where the sector times 512 wraps to the start of the disk. */
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_OUT, 1ull << 55, 512, false), io_err);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_OUT, UINT64_MAX, 512, false), io_err);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_OUT, 0, 513, false), io_err);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_IN, 0, 511, true), io_err);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_IN, FAKE_BLK_SECTORS, 512, true), io_err);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_IN, FAKE_BLK_SECTORS - 1, 512, true),
			 VIRTIO_BLK_S_OK);
	fake_blk_assert_image(f);
	assert_int_equal(f->dev->needs_reset, 0);
	fake_blk_end(f);
}

static void a_full_queue_is_served_in_batches(void **state)
{
	struct fake_blk *f = fake_blk_begin(*state);
	enum { N = 64 };
	struct fake_blk_request r[N];
	struct fake_used used;
	unsigned interrupts;

	for (unsigned i = 0; i < N; i++) {
		r[i] = fake_blk_request(f, VIRTIO_BLK_T_IN, i, 512);
		fake_blk_add(f, 0, &r[i], true);
	}
	fake_kick(&f->d, 0);
	for (unsigned i = 0; i < N; i++)
		assert_true(fake_wait_used(&f->d, 0, &used));
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(fake_blk_status(f, &r[i]), VIRTIO_BLK_S_OK);
		assert_memory_equal(fake_blk_data(f, &r[i]), f->data + i * 512, 512);
	}
	interrupts = fake_interrupts(&f->d, 0);
	assert_in_range(interrupts, 1, N / 2);
	fake_blk_end(f);
}

static void a_chain_that_cannot_be_answered_fails_the_device(void **state)
{
	struct fake_blk *f = fake_blk_begin(*state);
	struct fake_blk_request r = fake_blk_request(f, VIRTIO_BLK_T_OUT, 0, 512);
	struct fake_buf no_status[] = { { r.header, 16, false }, { r.data, 512, false } };
	struct fake_buf short_header[] = { { r.header, 15, false }, { r.status, 1, true } };
	struct fake_buf *bad[] = { no_status, short_header };

	for (unsigned i = 0; i < 2; i++) {
		fake_add(&f->d, 0, bad[i], 2);
		fake_kick(&f->d, 0);
		fake_run(&f->vm);
		assert_true(fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		/* And a reset mends it. */
		fake_driver_probe(&f->d);
		assert_false(fake_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_IN, 0, 512, true),
				 VIRTIO_BLK_S_OK);
	}
	fake_blk_assert_image(f);
	fake_blk_end(f);
}

static void pause_waits_for_what_is_in_flight(void **state)
{
	struct fake_blk *f = fake_blk_begin(*state);
	enum { N = 32 };
	struct fake_blk_request r[N];
	struct fake_used used;

	for (unsigned i = 0; i < N; i++) {
		r[i] = fake_blk_request(f, VIRTIO_BLK_T_OUT, i, 512);
		memset(fake_blk_data(f, &r[i]), i, 512);
		memset(f->data + i * 512, i, 512);
		fake_blk_add(f, 0, &r[i], false);
	}
	fake_kick(&f->d, 0);
	/* The doorbell is heard, the writes are on their way. */
	loop_run_once(f->vm.loop, NSEC_PER_SEC);
	fake_pause(&f->d);
	assert_int_equal(f->dev->queue[0].inflight, 0);
	/* What was not taken waits, and is done after the pause. */
	virtio_resume(f->dev);
	for (unsigned i = 0; i < N; i++)
		assert_true(fake_wait_used(&f->d, 0, &used));
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(fake_blk_status(f, &r[i]), VIRTIO_BLK_S_OK);
	fake_blk_assert_image(f);
	fake_blk_end(f);
}

static bool is_dirty(struct fake_blk *f, uint64_t gpa)
{
	for (unsigned i = 0; i < f->vm.mem->num_ranges; i++) {
		const struct guest_mem_range *r = &f->vm.mem->range[i];
		uint64_t page = (gpa - r->gpa) / PAGE_SIZE;

		if (gpa - r->gpa < r->size)
			return r->dirty[page / 64] & (1ull << page % 64);
	}
	return false;
}

static void what_the_device_wrote_is_marked(void **state)
{
	struct fake_blk *f = fake_blk_begin(*state);
	struct fake_blk_request r = fake_blk_request(f, VIRTIO_BLK_T_IN, 0, 3 * PAGE_SIZE);

	/* Each in pages of its own. */
	r.header = fake_alloc(&f->vm, PAGE_SIZE, PAGE_SIZE);
	r.data = fake_alloc(&f->vm, 4 * PAGE_SIZE, PAGE_SIZE);
	r.status = fake_alloc(&f->vm, PAGE_SIZE, PAGE_SIZE);
	assert_int_equal(guest_mem_track_dirty(f->vm.mem, true), 0);
	assert_int_equal(fake_blk_run(f, &r, true, NULL), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 3; i++)
		assert_true(is_dirty(f, r.data + i * PAGE_SIZE));
	assert_false(is_dirty(f, r.data + 3 * PAGE_SIZE));
	assert_true(is_dirty(f, r.status));
	assert_false(is_dirty(f, r.header));

	/* A status far behind what little was written. */
	guest_mem_track_dirty(f->vm.mem, false);
	guest_mem_track_dirty(f->vm.mem, true);
	r = fake_blk_request(f, VIRTIO_BLK_T_GET_ID, 0, 20);
	r.status = fake_alloc(&f->vm, PAGE_SIZE, PAGE_SIZE);
	assert_int_equal(fake_blk_run(f, &r, true, NULL), VIRTIO_BLK_S_OK);
	assert_true(is_dirty(f, r.data));
	assert_true(is_dirty(f, r.status));
	fake_blk_end(f);
}

/* ---- the promises that need one variant only ---- */

static void config_space_describes_the_disk(void **state)
{
	struct fake_blk *f =
		fake_blk_begin_with(&fake_plain, (struct block_config){ 0 }, 3, FAKE_BLK_FEATURES);
	const size_t size = offsetof(struct virtio_blk_config, max_secure_erase_sectors);
	struct virtio_blk_config c;

	fake_config_read(&f->d, 0, &c, size);
	assert_int_equal(le64toh(c.capacity), FAKE_BLK_SECTORS);
	assert_int_equal(le32toh(c.blk_size), 512);
	assert_int_equal(c.physical_block_exp, 3);
	assert_int_equal(le16toh(c.num_queues), 3);
	/* With header and status it fits the ring. */
	assert_true(le32toh(c.seg_max) >= 126);
	assert_true(le32toh(c.seg_max) + 2 <= f->dev->queue[0].max_size);
	assert_int_equal(c.wce, 1);
	assert_true(virtio_has(f->dev, VIRTIO_BLK_F_MQ));
	assert_false(virtio_has(f->dev, VIRTIO_BLK_F_RO));
	fake_blk_end(f);
}

static void every_queue_works(void **state)
{
	struct fake_blk *f =
		fake_blk_begin_with(&fake_plain, (struct block_config){ 0 }, 4, FAKE_BLK_FEATURES);
	struct fake_used used;

	for (unsigned i = 0; i < 4; i++) {
		struct fake_blk_request r = fake_blk_request(f, VIRTIO_BLK_T_IN, i, 512);

		fake_blk_add(f, i, &r, true);
		fake_kick(&f->d, i);
		assert_true(fake_wait_used(&f->d, i, &used));
		assert_int_equal(fake_blk_status(f, &r), VIRTIO_BLK_S_OK);
		assert_memory_equal(fake_blk_data(f, &r), f->data + i * 512, 512);
	}
	fake_blk_end(f);
}

static void the_largest_request_works(void **state)
{
	struct fake_blk *f = fake_blk_begin(&fake_plain);
	struct fake_blk_request r = fake_blk_request(f, VIRTIO_BLK_T_IN, 0, 0);
	struct fake_buf bufs[256] = { { r.header, 16, false } };
	uint64_t data = fake_alloc(&f->vm, 254 * 512 * 2, 512);
	struct fake_used used;

	/* Every other 512 bytes, so that no two segments are neighbours. */
	for (unsigned i = 0; i < 254; i++)
		bufs[1 + i] = (struct fake_buf){ data + i * 1024, 512, true };
	bufs[255] = (struct fake_buf){ r.status, 1, true };
	fake_add(&f->d, 0, bufs, 256);
	fake_kick(&f->d, 0);
	assert_true(fake_wait_used(&f->d, 0, &used));
	assert_int_equal(fake_blk_status(f, &r), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 254; i++)
		assert_memory_equal(fake_ptr(&f->vm, data + i * 1024, 512), f->data + i * 512, 512);
	fake_blk_end(f);
}

static void get_id_gives_the_serial(void **state)
{
	struct fake_blk *f = fake_blk_begin(&fake_plain);
	struct fake_blk_request r = fake_blk_request(f, VIRTIO_BLK_T_GET_ID, 0, 20);
	uint32_t len;

	assert_int_equal(fake_blk_run(f, &r, true, &len), VIRTIO_BLK_S_OK);
	assert_memory_equal(fake_blk_data(f, &r), "0123456789abcdefghij", 20);
	assert_int_equal(len, 21);
	r = fake_blk_request(f, VIRTIO_BLK_T_GET_ID, 0, 4);
	assert_int_equal(fake_blk_run(f, &r, true, NULL), VIRTIO_BLK_S_OK);
	assert_memory_equal(fake_blk_data(f, &r), "0123", 4);
	fake_blk_end(f);
}

static void unknown_requests_are_unsupported(void **state)
{
	struct fake_blk *f = fake_blk_begin(&fake_plain);

	assert_int_equal(fake_blk_simple(f, 2, 0, 512, false), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(fake_blk_simple(f, 0xffffffff, 0, 0, false), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(f->dev->needs_reset, 0);
	fake_blk_end(f);
}

static void a_read_only_disk_says_so_and_refuses(void **state)
{
	struct fake_blk *f =
		fake_blk_begin_with(&fake_plain, (struct block_config){ .read_only = true }, 1,
				    FAKE_BLK_FEATURES);

	assert_true(virtio_has(f->dev, VIRTIO_BLK_F_RO));
	assert_false(virtio_has(f->dev, VIRTIO_BLK_F_DISCARD));
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_OUT, 0, 512, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_FLUSH, 0, 0, true), VIRTIO_BLK_S_OK);
	fake_blk_end(f);
	f = fake_blk_begin_with(&fake_plain, (struct block_config){ .read_only = true }, 1,
				FAKE_BLK_FEATURES);
	fake_blk_assert_image(f);
	fake_blk_end(f);
}

static uint8_t range(struct fake_blk *f, uint32_t type, uint64_t sector, uint32_t num,
		     uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes s = {
		.sector = htole64(sector),
		.num_sectors = htole32(num),
		.flags = htole32(flags),
	};
	struct fake_blk_request r = fake_blk_request(f, type, 0, sizeof(s));

	memcpy(fake_blk_data(f, &r), &s, sizeof(s));
	return fake_blk_run(f, &r, false, NULL);
}

static void zeroes_and_discards_are_checked(void **state)
{
	struct fake_blk *f = fake_blk_begin(&fake_plain);
	uint32_t wz = VIRTIO_BLK_T_WRITE_ZEROES, discard = VIRTIO_BLK_T_DISCARD;

	assert_int_equal(range(f, wz, 1, 2, 0), VIRTIO_BLK_S_OK);
	memset(f->data + 512, 0, 1024);
	assert_int_equal(range(f, wz, 16, 16, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), VIRTIO_BLK_S_OK);
	memset(f->data + 16 * 512, 0, 16 * 512);
	assert_int_equal(range(f, discard, 64, 64, 0), VIRTIO_BLK_S_OK);
	memset(f->data + 64 * 512, 0, 64 * 512);
	fake_blk_assert_image(f);

	/* 5.2.6.2: reserved flags, and unmap where it has no meaning. */
	assert_int_equal(range(f, wz, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range(f, discard, 0, 1, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range(f, wz, FAKE_BLK_SECTORS - 1, 2, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range(f, discard, UINT64_MAX, 2, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range(f, wz, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
	/* More ranges than we said we take, and less than one. */
	assert_int_equal(fake_blk_simple(f, discard, 0, 32, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(fake_blk_simple(f, wz, 0, 15, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(fake_blk_simple(f, wz, 0, 0, false), VIRTIO_BLK_S_IOERR);
	fake_blk_assert_image(f);
	fake_blk_end(f);
}

static const struct block_ops *real_ops;

static void submit_checked(struct block *b, struct block_req *req)
{
	bool has_data = req->op == BLOCK_READ || req->op == BLOCK_WRITE;

	assert_int_equal(req->iovcnt, has_data ? 1 : 0);
	assert_true(has_data == (req->iov != NULL));
	real_ops->submit(b, req);
}

/* Memory of a request is used again; back ends make room for as many segments as it has. */
static void request_without_data_has_no_segments_of_another(void **state)
{
	struct fake_blk *f = fake_blk_begin(&fake_plain);
	struct block *image = virtio_blk_image(f->dev);
	struct block_ops checked = *image->ops;

	real_ops = image->ops;
	checked.submit = submit_checked;
	image->ops = &checked;
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
	assert_int_equal(range(f, VIRTIO_BLK_T_WRITE_ZEROES, 1, 2, 0), VIRTIO_BLK_S_OK);
	image->ops = real_ops;
	fake_blk_end(f);
}

static void features_not_taken_are_not_served(void **state)
{
	struct fake_blk *f = fake_blk_begin_with(&fake_plain, (struct block_config){ 0 }, 1, 0);

	assert_int_equal(range(f, VIRTIO_BLK_T_DISCARD, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	fake_blk_assert_image(f);
	fake_blk_end(f);
}

static void the_write_cache_can_be_turned_off(void **state)
{
	unsigned at = offsetof(struct virtio_blk_config, wce);
	struct fake_blk *f = fake_blk_begin(&fake_plain);
	uint8_t v = 0;

	fake_config_write(&f->d, at, &v, 1);
	fake_config_read(&f->d, at, &v, 1);
	assert_int_equal(v, 0);
	assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_OUT, 0, 512, false), VIRTIO_BLK_S_OK);
	/* A reset puts it back. */
	fake_driver_probe(&f->d);
	fake_config_read(&f->d, at, &v, 1);
	assert_int_equal(v, 1);
	fake_blk_end(f);

	/* Where the host writes through, a driver cannot change that. */
	f = fake_blk_begin_with(&fake_plain,
				(struct block_config){ .cache = BLOCK_CACHE_WRITETHROUGH }, 1,
				FAKE_BLK_FEATURES);
	v = 1;
	fake_config_write(&f->d, at, &v, 1);
	fake_config_read(&f->d, at, &v, 1);
	assert_int_equal(v, 0);
	fake_blk_end(f);
}

static void tell_of_reads(struct fake_blk *f, unsigned doorbells)
{
	for (unsigned i = 0; i < doorbells; i++)
		assert_int_equal(fake_blk_simple(f, VIRTIO_BLK_T_IN, 0, 512, true),
				 VIRTIO_BLK_S_OK);
}

/* Its thread may be the main one: it has to be as it was soon after the driver's last doorbell. */
static void a_quiet_disk_has_its_thread_wait_no_longer(void **state)
{
	struct fake_blk *f = fake_blk_begin(&fake_plain);

	if (loop_backend(f->vm.loop) != LOOP_URING) {
		fake_blk_end(f);
		skip();
	}
	/* The queue's start was as good as a doorbell. */
	tell_of_reads(f, BLK_PACE_FIRST - 2);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
	tell_of_reads(f, 1);
	assert_int_equal(sched_getscheduler(0), SCHED_BATCH);
	/* One doorbell in time is enough to go on. */
	tell_of_reads(f, 1);
	clock_advance(&f->vm.clock, BLK_PACE_QUIET_NS);
	fake_run(&f->vm);
	assert_int_equal(sched_getscheduler(0), SCHED_BATCH);
	clock_advance(&f->vm.clock, BLK_PACE_QUIET_NS - 1);
	fake_run(&f->vm);
	assert_int_equal(sched_getscheduler(0), SCHED_BATCH);
	clock_advance(&f->vm.clock, 1);
	fake_run(&f->vm);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);

	/* The next trial is as far away as the first one was, and a pause ends one at once. */
	tell_of_reads(f, BLK_PACE_FIRST - 1);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
	tell_of_reads(f, 1);
	assert_int_equal(sched_getscheduler(0), SCHED_BATCH);
	fake_driver_probe(&f->d);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
	fake_blk_end(f);
}

int main(void)
{
	struct CMUnitTest matrix[] = {
		fake_variant_test(reads_land_in_guest_memory),
		fake_variant_test(writes_reach_the_image),
		fake_variant_test(framing_is_the_drivers_choice),
		fake_variant_test(nothing_past_the_capacity_is_touched),
		fake_variant_test(a_full_queue_is_served_in_batches),
		fake_variant_test(a_chain_that_cannot_be_answered_fails_the_device),
		fake_variant_test(pause_waits_for_what_is_in_flight),
		fake_variant_test(what_the_device_wrote_is_marked),
	};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(config_space_describes_the_disk),
		cmocka_unit_test(every_queue_works),
		cmocka_unit_test(the_largest_request_works),
		cmocka_unit_test(get_id_gives_the_serial),
		cmocka_unit_test(unknown_requests_are_unsupported),
		cmocka_unit_test(a_read_only_disk_says_so_and_refuses),
		cmocka_unit_test(zeroes_and_discards_are_checked),
		cmocka_unit_test(request_without_data_has_no_segments_of_another),
		cmocka_unit_test(features_not_taken_are_not_served),
		cmocka_unit_test(the_write_cache_can_be_turned_off),
		cmocka_unit_test(a_quiet_disk_has_its_thread_wait_no_longer),
	};
	int failed;

	log_setup(STDERR_FILENO, LOG_ERROR);
	failed = fake_variants_run(matrix, ARRAY_SIZE(matrix));
	return failed + cmocka_run_group_tests_name("virtio_blk", tests, NULL, NULL);
}
