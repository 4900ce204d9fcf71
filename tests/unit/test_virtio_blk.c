#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/fake_driver.h"
#include "virtio/virtio_devices.h"

#define SECTORS	     512u
#define SIZE	     (SECTORS * 512ull)
/* All of the device's own; the rings' are the variant's to choose. */
#define ALL_FEATURES ((1ull << 28) - 1)
#define NO_STATUS    0x7f /* what the driver puts where the answer goes */

/* What a test runs with; the matrix in main() goes through all of them. */
struct variant {
	const char *name;
	struct fake_driver_config driver;
	enum loop_backend backend;
};

struct fixture {
	const struct variant *variant;
	struct fake_vm vm;
	struct fake_driver d;
	struct virtio_device *dev;
	char path[64];
	uint8_t data[SIZE]; /* what the image holds */
};

static void make_image(struct fixture *f)
{
	int fd;

	snprintf(f->path, sizeof(f->path), "/var/tmp/wisp-test-blk-XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	for (size_t i = 0; i < SIZE; i++)
		f->data[i] = (i * 5 + i / 512) | 1;
	assert_int_equal(write(fd, f->data, SIZE), SIZE);
	close(fd);
}

static struct virtio_device *make_device(struct fixture *f, struct block_config config,
					 unsigned queues)
{
	struct virtio_params params = fake_vm_params(&f->vm, "disk0");
	struct virtio_device *dev;
	struct error err = { 0 };
	struct block *b;

	config.path = f->path;
	config.fd = -1;
	if (block_open(&b, &config, &err) < 0)
		fail_msg("%s", err.msg);
	block_attach(b, f->vm.loop);
	params.num_queues = queues;
	assert_int_equal(virtio_blk_create(&dev, &params, b, "0123456789abcdefghij", NULL), 0);
	return dev;
}

static struct fixture *begin(const struct variant *v, struct block_config config, unsigned queues,
			     uint64_t features)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct fake_driver_config driver = v->driver;

	f->variant = v;
	make_image(f);
	fake_vm_init(&f->vm, v->backend);
	f->dev = make_device(f, config, queues);
	driver.features = features;
	fake_driver_init(&f->d, &f->vm, f->dev, &driver);
	return f;
}

static void end(struct fixture *f)
{
	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
	unlink(f->path);
	free(f);
}

static void assert_image_is(struct fixture *f)
{
	uint8_t *now = malloc(SIZE);
	int fd = open(f->path, O_RDONLY);

	assert_int_equal(read(fd, now, SIZE), SIZE);
	assert_memory_equal(now, f->data, SIZE);
	close(fd);
	free(now);
}

/* ---- requests ---- */

struct request {
	uint64_t header, data, status; /* guest addresses */
	uint32_t len;
	int id;
};

static struct request make_request(struct fixture *f, uint32_t type, uint64_t sector,
				   uint32_t len)
{
	struct request r = {
		.header = fake_alloc(&f->vm, sizeof(struct virtio_blk_outhdr), 16),
		.data = fake_alloc(&f->vm, MAX(len, 1u), 512),
		.status = fake_alloc(&f->vm, 1, 1),
		.len = len,
	};
	struct virtio_blk_outhdr h = { .type = htole32(type), .sector = htole64(sector) };

	memcpy(fake_ptr(&f->vm, r.header, sizeof(h)), &h, sizeof(h));
	*(uint8_t *)fake_ptr(&f->vm, r.status, 1) = NO_STATUS;
	return r;
}

static void *data_of(struct fixture *f, const struct request *r)
{
	return fake_ptr(&f->vm, r->data, r->len);
}

static uint8_t status_of(struct fixture *f, const struct request *r)
{
	return *(uint8_t *)fake_ptr(&f->vm, r->status, 1);
}

static void add_request(struct fixture *f, unsigned queue, struct request *r, bool data_writable)
{
	struct fake_buf bufs[3] = { { r->header, 16, false } };
	unsigned n = 1;

	if (r->len)
		bufs[n++] = (struct fake_buf){ r->data, r->len, data_writable };
	bufs[n++] = (struct fake_buf){ r->status, 1, true };
	r->id = fake_add(&f->d, queue, bufs, n);
	assert_true(r->id >= 0);
}

/* Hand it over and wait. Returns the status; the used length goes to @ret_len. */
static uint8_t run(struct fixture *f, struct request *r, bool data_writable, uint32_t *ret_len)
{
	struct fake_used used;

	add_request(f, 0, r, data_writable);
	fake_kick(&f->d, 0);
	assert_true(fake_wait_used(&f->d, 0, &used));
	assert_int_equal(used.id, r->id);
	if (ret_len)
		*ret_len = used.len;
	return status_of(f, r);
}

static uint8_t simple(struct fixture *f, uint32_t type, uint64_t sector, uint32_t len,
		      bool data_writable)
{
	struct request r = make_request(f, type, sector, len);

	return run(f, &r, data_writable, NULL);
}

/* ---- the promises, on every variant ---- */

static void reads_land_in_guest_memory(void **state)
{
	struct fixture *f = begin(*state, (struct block_config){ 0 }, 1, ALL_FEATURES);
	struct request r = make_request(f, VIRTIO_BLK_T_IN, 3, 4096);
	uint32_t len;

	assert_int_equal(run(f, &r, true, &len), VIRTIO_BLK_S_OK);
	assert_memory_equal(data_of(f, &r), f->data + 3 * 512, 4096);
	assert_int_equal(len, 4097);
	assert_int_equal(fake_interrupts(&f->d, 0), 1);
	end(f);
}

static void writes_reach_the_image(void **state)
{
	struct fixture *f = begin(*state, (struct block_config){ 0 }, 1, ALL_FEATURES);
	struct request r = make_request(f, VIRTIO_BLK_T_OUT, 8, 1024);
	uint32_t len;

	memset(data_of(f, &r), 0xee, 1024);
	memset(f->data + 8 * 512, 0xee, 1024);
	assert_int_equal(run(f, &r, false, &len), VIRTIO_BLK_S_OK);
	assert_int_equal(len, 1);
	assert_int_equal(simple(f, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
	assert_image_is(f);
	end(f);
}

/* 2.7.4.3: a device must not count on where segments begin and end. */
static void framing_is_the_drivers_choice(void **state)
{
	struct fixture *f = begin(*state, (struct block_config){ 0 }, 1, ALL_FEATURES);
	uint64_t out = fake_alloc(&f->vm, 16 + 1024, 1), in = fake_alloc(&f->vm, 1025, 1);
	struct virtio_blk_outhdr h = { .type = htole32(VIRTIO_BLK_T_OUT), .sector = htole64(2) };
	uint8_t *p = fake_ptr(&f->vm, out, 16 + 1024);
	struct fake_buf write[] = {
		/* The header in two parts, the second with data behind it. */
		{ out, 7, false }, { out + 7, 100, false }, { out + 107, 933, false },
		{ in, 1, true },
	};
	struct fake_buf read[] = {
		{ out, 16, false },
		/* Data in two parts, the second with the status behind it. */
		{ in, 300, true }, { in + 300, 725, true },
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
	assert_image_is(f);

	h.type = htole32(VIRTIO_BLK_T_IN);
	memcpy(p, &h, sizeof(h));
	*(uint8_t *)fake_ptr(&f->vm, in + 1024, 1) = NO_STATUS;
	fake_add(&f->d, 0, read, 3);
	fake_kick(&f->d, 0);
	assert_true(fake_wait_used(&f->d, 0, &used));
	assert_int_equal(used.len, 1025);
	assert_int_equal(*(uint8_t *)fake_ptr(&f->vm, in + 1024, 1), VIRTIO_BLK_S_OK);
	assert_memory_equal(fake_ptr(&f->vm, in, 1024), f->data + 1024, 1024);
	end(f);
}

static void nothing_past_the_capacity_is_touched(void **state)
{
	struct fixture *f = begin(*state, (struct block_config){ 0 }, 1, ALL_FEATURES);
	uint8_t io_err = VIRTIO_BLK_S_IOERR;

	assert_int_equal(simple(f, VIRTIO_BLK_T_OUT, SECTORS, 512, false), io_err);
	assert_int_equal(simple(f, VIRTIO_BLK_T_OUT, SECTORS - 1, 1024, false), io_err);
	/* Where the sector times 512 wraps to the start of the disk. */
	assert_int_equal(simple(f, VIRTIO_BLK_T_OUT, 1ull << 55, 512, false), io_err);
	assert_int_equal(simple(f, VIRTIO_BLK_T_OUT, UINT64_MAX, 512, false), io_err);
	assert_int_equal(simple(f, VIRTIO_BLK_T_OUT, 0, 513, false), io_err);
	assert_int_equal(simple(f, VIRTIO_BLK_T_IN, 0, 511, true), io_err);
	assert_int_equal(simple(f, VIRTIO_BLK_T_IN, SECTORS, 512, true), io_err);
	assert_int_equal(simple(f, VIRTIO_BLK_T_IN, SECTORS - 1, 512, true), VIRTIO_BLK_S_OK);
	assert_image_is(f);
	assert_int_equal(f->dev->needs_reset, 0);
	end(f);
}

static void a_full_queue_is_served_in_batches(void **state)
{
	struct fixture *f = begin(*state, (struct block_config){ 0 }, 1, ALL_FEATURES);
	enum { N = 64 };
	struct request r[N];
	struct fake_used used;
	unsigned interrupts;

	for (unsigned i = 0; i < N; i++) {
		r[i] = make_request(f, VIRTIO_BLK_T_IN, i, 512);
		add_request(f, 0, &r[i], true);
	}
	fake_kick(&f->d, 0);
	for (unsigned i = 0; i < N; i++)
		assert_true(fake_wait_used(&f->d, 0, &used));
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(status_of(f, &r[i]), VIRTIO_BLK_S_OK);
		assert_memory_equal(data_of(f, &r[i]), f->data + i * 512, 512);
	}
	interrupts = fake_interrupts(&f->d, 0);
	assert_in_range(interrupts, 1, N / 2);
	end(f);
}

static void a_chain_that_cannot_be_answered_fails_the_device(void **state)
{
	struct fixture *f = begin(*state, (struct block_config){ 0 }, 1, ALL_FEATURES);
	struct request r = make_request(f, VIRTIO_BLK_T_OUT, 0, 512);
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
		assert_int_equal(simple(f, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
	}
	assert_image_is(f);
	end(f);
}

static void drained(struct virtio_device *dev, void *arg)
{
	*(bool *)arg = true;
}

static void pause_waits_for_what_is_in_flight(void **state)
{
	struct fixture *f = begin(*state, (struct block_config){ 0 }, 1, ALL_FEATURES);
	enum { N = 32 };
	struct request r[N];
	struct fake_used used;
	bool done = false;

	for (unsigned i = 0; i < N; i++) {
		r[i] = make_request(f, VIRTIO_BLK_T_OUT, i, 512);
		memset(data_of(f, &r[i]), i, 512);
		memset(f->data + i * 512, i, 512);
		add_request(f, 0, &r[i], false);
	}
	fake_kick(&f->d, 0);
	/* The doorbell is heard, the writes are on their way. */
	loop_run_once(f->vm.loop, NSEC_PER_SEC);
	virtio_pause(f->dev, drained, &done);
	while (!done)
		loop_run_once(f->vm.loop, NSEC_PER_SEC);
	assert_int_equal(f->dev->queue[0].inflight, 0);
	/* What was not taken waits, and is done after the pause. */
	virtio_resume(f->dev);
	for (unsigned i = 0; i < N; i++)
		assert_true(fake_wait_used(&f->d, 0, &used));
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(status_of(f, &r[i]), VIRTIO_BLK_S_OK);
	assert_image_is(f);
	end(f);
}

static bool is_dirty(struct fixture *f, uint64_t gpa)
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
	struct fixture *f = begin(*state, (struct block_config){ 0 }, 1, ALL_FEATURES);
	struct request r = make_request(f, VIRTIO_BLK_T_IN, 0, 3 * PAGE_SIZE);

	/* Each in pages of its own. */
	r.header = fake_alloc(&f->vm, PAGE_SIZE, PAGE_SIZE);
	r.data = fake_alloc(&f->vm, 4 * PAGE_SIZE, PAGE_SIZE);
	r.status = fake_alloc(&f->vm, PAGE_SIZE, PAGE_SIZE);
	assert_int_equal(guest_mem_track_dirty(f->vm.mem, true), 0);
	assert_int_equal(run(f, &r, true, NULL), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 3; i++)
		assert_true(is_dirty(f, r.data + i * PAGE_SIZE));
	assert_false(is_dirty(f, r.data + 3 * PAGE_SIZE));
	assert_true(is_dirty(f, r.status));
	assert_false(is_dirty(f, r.header));

	/* A status far behind what little was written. */
	guest_mem_track_dirty(f->vm.mem, false);
	guest_mem_track_dirty(f->vm.mem, true);
	r = make_request(f, VIRTIO_BLK_T_GET_ID, 0, 20);
	r.status = fake_alloc(&f->vm, PAGE_SIZE, PAGE_SIZE);
	assert_int_equal(run(f, &r, true, NULL), VIRTIO_BLK_S_OK);
	assert_true(is_dirty(f, r.data));
	assert_true(is_dirty(f, r.status));
	end(f);
}

/* ---- the promises that need one variant only ---- */

static const struct variant plain = { "plain", { .event_idx = true, .indirect = true }, LOOP_AUTO };

static void config_space_describes_the_disk(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 3, ALL_FEATURES);
	const size_t size = offsetof(struct virtio_blk_config, max_secure_erase_sectors);
	struct virtio_blk_config c;

	fake_config_read(&f->d, 0, &c, size);
	assert_int_equal(le64toh(c.capacity), SECTORS);
	assert_int_equal(le32toh(c.blk_size), 512);
	assert_int_equal(c.physical_block_exp, 3);
	assert_int_equal(le16toh(c.num_queues), 3);
	/* With header and status it fits the ring. */
	assert_true(le32toh(c.seg_max) >= 126);
	assert_true(le32toh(c.seg_max) + 2 <= f->dev->queue[0].max_size);
	assert_int_equal(c.wce, 1);
	assert_true(virtio_has(f->dev, VIRTIO_BLK_F_MQ));
	assert_false(virtio_has(f->dev, VIRTIO_BLK_F_RO));
	end(f);
}

static void every_queue_works(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 4, ALL_FEATURES);
	struct fake_used used;

	for (unsigned i = 0; i < 4; i++) {
		struct request r = make_request(f, VIRTIO_BLK_T_IN, i, 512);

		add_request(f, i, &r, true);
		fake_kick(&f->d, i);
		assert_true(fake_wait_used(&f->d, i, &used));
		assert_int_equal(status_of(f, &r), VIRTIO_BLK_S_OK);
		assert_memory_equal(data_of(f, &r), f->data + i * 512, 512);
	}
	end(f);
}

static void the_largest_request_works(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 1, ALL_FEATURES);
	struct request r = make_request(f, VIRTIO_BLK_T_IN, 0, 0);
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
	assert_int_equal(status_of(f, &r), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 254; i++)
		assert_memory_equal(fake_ptr(&f->vm, data + i * 1024, 512), f->data + i * 512,
				    512);
	end(f);
}

static void get_id_gives_the_serial(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 1, ALL_FEATURES);
	struct request r = make_request(f, VIRTIO_BLK_T_GET_ID, 0, 20);
	uint32_t len;

	assert_int_equal(run(f, &r, true, &len), VIRTIO_BLK_S_OK);
	assert_memory_equal(data_of(f, &r), "0123456789abcdefghij", 20);
	assert_int_equal(len, 21);
	r = make_request(f, VIRTIO_BLK_T_GET_ID, 0, 4);
	assert_int_equal(run(f, &r, true, NULL), VIRTIO_BLK_S_OK);
	assert_memory_equal(data_of(f, &r), "0123", 4);
	end(f);
}

static void unknown_requests_are_unsupported(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 1, ALL_FEATURES);

	assert_int_equal(simple(f, 2, 0, 512, false), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(simple(f, 0xffffffff, 0, 0, false), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(f->dev->needs_reset, 0);
	end(f);
}

static void a_read_only_disk_says_so_and_refuses(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ .read_only = true }, 1,
				  ALL_FEATURES);

	assert_true(virtio_has(f->dev, VIRTIO_BLK_F_RO));
	assert_false(virtio_has(f->dev, VIRTIO_BLK_F_DISCARD));
	assert_int_equal(simple(f, VIRTIO_BLK_T_OUT, 0, 512, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(simple(f, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
	assert_int_equal(simple(f, VIRTIO_BLK_T_FLUSH, 0, 0, true), VIRTIO_BLK_S_OK);
	end(f);
	f = begin(&plain, (struct block_config){ .read_only = true }, 1, ALL_FEATURES);
	assert_image_is(f);
	end(f);
}

static uint8_t range(struct fixture *f, uint32_t type, uint64_t sector, uint32_t num,
		     uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes s = {
		.sector = htole64(sector),
		.num_sectors = htole32(num),
		.flags = htole32(flags),
	};
	struct request r = make_request(f, type, 0, sizeof(s));

	memcpy(data_of(f, &r), &s, sizeof(s));
	return run(f, &r, false, NULL);
}

static void zeroes_and_discards_are_checked(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 1, ALL_FEATURES);
	uint32_t wz = VIRTIO_BLK_T_WRITE_ZEROES, discard = VIRTIO_BLK_T_DISCARD;

	assert_int_equal(range(f, wz, 1, 2, 0), VIRTIO_BLK_S_OK);
	memset(f->data + 512, 0, 1024);
	assert_int_equal(range(f, wz, 16, 16, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), VIRTIO_BLK_S_OK);
	memset(f->data + 16 * 512, 0, 16 * 512);
	assert_int_equal(range(f, discard, 64, 64, 0), VIRTIO_BLK_S_OK);
	memset(f->data + 64 * 512, 0, 64 * 512);
	assert_image_is(f);

	/* 5.2.6.2: reserved flags, and unmap where it has no meaning. */
	assert_int_equal(range(f, wz, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range(f, discard, 0, 1, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range(f, wz, SECTORS - 1, 2, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range(f, discard, UINT64_MAX, 2, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range(f, wz, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
	/* More ranges than we said we take, and less than one. */
	assert_int_equal(simple(f, discard, 0, 32, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(simple(f, wz, 0, 15, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(simple(f, wz, 0, 0, false), VIRTIO_BLK_S_IOERR);
	assert_image_is(f);
	end(f);
}

static void features_not_taken_are_not_served(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 1, 0);

	assert_int_equal(range(f, VIRTIO_BLK_T_DISCARD, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	assert_image_is(f);
	end(f);
}

static void the_write_cache_can_be_turned_off(void **state)
{
	unsigned at = offsetof(struct virtio_blk_config, wce);
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 1, ALL_FEATURES);
	uint8_t v = 0;

	fake_config_write(&f->d, at, &v, 1);
	fake_config_read(&f->d, at, &v, 1);
	assert_int_equal(v, 0);
	assert_int_equal(simple(f, VIRTIO_BLK_T_OUT, 0, 512, false), VIRTIO_BLK_S_OK);
	/* A reset puts it back. */
	fake_driver_probe(&f->d);
	fake_config_read(&f->d, at, &v, 1);
	assert_int_equal(v, 1);
	end(f);

	/* Where the host writes through, a driver cannot change that. */
	f = begin(&plain, (struct block_config){ .cache = BLOCK_CACHE_WRITETHROUGH }, 1,
		  ALL_FEATURES);
	v = 1;
	fake_config_write(&f->d, at, &v, 1);
	fake_config_read(&f->d, at, &v, 1);
	assert_int_equal(v, 0);
	end(f);
}

/* ---- counters, limits, size ---- */

struct wanted_counter {
	const char *name;
	uint64_t value;
	bool found;
};

static void find_counter(void *arg, const char *name, uint64_t value)
{
	struct wanted_counter *w = arg;

	if (strcmp(name, w->name) != 0)
		return;
	w->value = value;
	w->found = true;
}

static uint64_t counter(struct fixture *f, const char *name)
{
	struct wanted_counter w = { .name = name };

	f->dev->ops->counters(f->dev, find_counter, &w);
	assert_true(w.found);
	return w.value;
}

static void everything_is_counted(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 1, ALL_FEATURES);

	simple(f, VIRTIO_BLK_T_IN, 0, 512, true);
	simple(f, VIRTIO_BLK_T_IN, 0, 4096, true);
	simple(f, VIRTIO_BLK_T_OUT, 0, 1024, false);
	simple(f, VIRTIO_BLK_T_FLUSH, 0, 0, false);
	simple(f, VIRTIO_BLK_T_IN, SECTORS, 512, true);
	simple(f, 77, 0, 512, true);
	assert_int_equal(counter(f, "reads"), 2);
	assert_int_equal(counter(f, "read_bytes"), 4608);
	assert_int_equal(counter(f, "writes"), 1);
	assert_int_equal(counter(f, "written_bytes"), 1024);
	assert_int_equal(counter(f, "flushes"), 1);
	assert_int_equal(counter(f, "refused"), 2);
	assert_int_equal(counter(f, "errors"), 0);
	assert_int_equal(counter(f, "batches"), 6);
	end(f);
}

static void the_host_failing_is_an_error_and_no_more(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 1, ALL_FEATURES);

	/* Cut short under us: what is gone cannot be read, what is there can. */
	assert_int_equal(truncate(f->path, SIZE / 2), 0);
	assert_int_equal(simple(f, VIRTIO_BLK_T_IN, SECTORS - 1, 512, true), VIRTIO_BLK_S_IOERR);
	assert_int_equal(simple(f, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
	assert_int_equal(counter(f, "errors"), 1);
	assert_int_equal(counter(f, "refused"), 0);
	assert_int_equal(f->dev->needs_reset, 0);
	end(f);
}

static unsigned take_all(struct fixture *f)
{
	struct fake_used used;
	unsigned n = 0;

	fake_run(&f->vm);
	while (fake_take_used(&f->d, 0, &used))
		n++;
	return n;
}

/* Does what is not yet served go on in the next second, @n of it? */
static void assert_served_in_a_second(struct fixture *f, unsigned n)
{
	unsigned served = 0;

	for (unsigned ms = 0; ms < 1000; ms++) {
		clock_advance(&f->vm.clock, NSEC_PER_MSEC);
		served += take_all(f);
	}
	assert_in_range(served, n - 1, n + 1);
}

static void a_rate_limit_holds_and_can_be_changed(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 1, ALL_FEATURES);
	struct rate_limits limits = { .ops = { .per_second = 20, .burst = 5 } };

	virtio_blk_limit(f->dev, &limits);
	for (unsigned i = 0; i < 80; i++) {
		struct request r = make_request(f, VIRTIO_BLK_T_IN, 0, 512);

		add_request(f, 0, &r, true);
	}
	fake_kick(&f->d, 0);
	/* The burst, and one on credit. */
	assert_in_range(take_all(f), 5, 6);
	assert_served_in_a_second(f, 20);
	assert_true(counter(f, "waits") > 0);
	/* Two requests' worth of bytes a second. */
	limits = (struct rate_limits){ .bytes = { .per_second = 1024, .burst = 1 } };
	virtio_blk_limit(f->dev, &limits);
	assert_served_in_a_second(f, 2);
	virtio_blk_limit(f->dev, &(struct rate_limits){ 0 });
	clock_advance(&f->vm.clock, NSEC_PER_SEC);
	assert_true(take_all(f) > 40);
	end(f);
}

static void a_limited_queue_pauses_and_goes_on(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 1, ALL_FEATURES);
	struct rate_limits limits = { .ops = { .per_second = 10, .burst = 1 } };
	bool done = false;

	virtio_blk_limit(f->dev, &limits);
	for (unsigned i = 0; i < 20; i++) {
		struct request r = make_request(f, VIRTIO_BLK_T_IN, 0, 512);

		add_request(f, 0, &r, true);
	}
	fake_kick(&f->d, 0);
	take_all(f);
	virtio_pause(f->dev, drained, &done);
	fake_run(&f->vm);
	assert_true(done);
	clock_advance(&f->vm.clock, NSEC_PER_SEC);
	assert_int_equal(take_all(f), 0);
	virtio_resume(f->dev);
	assert_served_in_a_second(f, 10);
	end(f);
}

static uint64_t capacity(struct fixture *f)
{
	uint64_t sectors;

	fake_config_read(&f->d, offsetof(struct virtio_blk_config, capacity), &sectors, 8);
	return le64toh(sectors);
}

static void a_disk_can_be_resized_while_it_runs(void **state)
{
	struct fixture *f = begin(&plain, (struct block_config){ 0 }, 1, ALL_FEATURES);

	assert_int_equal(virtio_blk_resize(f->dev, SIZE * 2), 0);
	assert_int_equal(fake_config_interrupts(&f->d), 1);
	assert_int_equal(capacity(f), SECTORS * 2);
	assert_int_equal(simple(f, VIRTIO_BLK_T_OUT, SECTORS * 2 - 1, 512, false),
			 VIRTIO_BLK_S_OK);
	/* Smaller again: what is past the end is refused. */
	assert_int_equal(virtio_blk_resize(f->dev, SIZE), 0);
	assert_int_equal(capacity(f), SECTORS);
	assert_int_equal(simple(f, VIRTIO_BLK_T_OUT, SECTORS, 512, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(virtio_blk_resize(f->dev, 1000), -EINVAL);
	assert_int_equal(virtio_blk_resize(f->dev, 0), -EINVAL);
	assert_image_is(f);
	end(f);

	f = begin(&plain, (struct block_config){ .read_only = true }, 1, ALL_FEATURES);
	assert_int_equal(virtio_blk_resize(f->dev, SIZE * 2), -EROFS);
	end(f);
}

/* Save @f's device and load it into one over the image at @path. Returns virtio_load(). */
static int move(struct fixture *f, const char *path)
{
	struct virtio_params params = fake_vm_params(&f->vm, "disk0");
	struct block_config config = { .path = path, .fd = -1, .read_only = true };
	struct state_writer w;
	struct state_reader reader = { .name = "disk0" };
	struct virtio_device *dev;
	struct block *b;
	bool done = false;
	int r;

	virtio_pause(f->dev, drained, &done);
	while (!done)
		loop_run_once(f->vm.loop, NSEC_PER_SEC);
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
	struct fixture *f = begin(&plain, (struct block_config){ .read_only = true }, 1,
				  ALL_FEATURES);
	char other[] = "/var/tmp/wisp-test-blk-XXXXXX";
	int fd = mkstemp(other);

	assert_int_equal(move(f, f->path), 0);
	assert_int_equal(ftruncate(fd, SIZE + 512), 0);
	assert_int_equal(move(f, other), -EBADMSG);
	close(fd);
	unlink(other);
	end(f);
}

#define VARIANTS(t) { #t, t, NULL, NULL, NULL }

int main(void)
{
	static const struct variant variants[] = {
		{ "split, mmio, epoll", { .transport = FAKE_MMIO }, LOOP_EPOLL },
		{ "split, pci, event index, indirect",
		  { .transport = FAKE_PCI, .event_idx = true, .indirect = true },
		  LOOP_AUTO },
		{ "packed, mmio, event index",
		  { .transport = FAKE_MMIO, .packed = true, .event_idx = true },
		  LOOP_AUTO },
		{ "packed, pci, indirect",
		  { .transport = FAKE_PCI, .packed = true, .indirect = true },
		  LOOP_EPOLL },
	};
	struct CMUnitTest matrix[] = {
		VARIANTS(reads_land_in_guest_memory),
		VARIANTS(writes_reach_the_image),
		VARIANTS(framing_is_the_drivers_choice),
		VARIANTS(nothing_past_the_capacity_is_touched),
		VARIANTS(a_full_queue_is_served_in_batches),
		VARIANTS(a_chain_that_cannot_be_answered_fails_the_device),
		VARIANTS(pause_waits_for_what_is_in_flight),
		VARIANTS(what_the_device_wrote_is_marked),
	};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(config_space_describes_the_disk),
		cmocka_unit_test(every_queue_works),
		cmocka_unit_test(the_largest_request_works),
		cmocka_unit_test(get_id_gives_the_serial),
		cmocka_unit_test(unknown_requests_are_unsupported),
		cmocka_unit_test(a_read_only_disk_says_so_and_refuses),
		cmocka_unit_test(zeroes_and_discards_are_checked),
		cmocka_unit_test(features_not_taken_are_not_served),
		cmocka_unit_test(the_write_cache_can_be_turned_off),
		cmocka_unit_test(everything_is_counted),
		cmocka_unit_test(the_host_failing_is_an_error_and_no_more),
		cmocka_unit_test(a_rate_limit_holds_and_can_be_changed),
		cmocka_unit_test(a_limited_queue_pauses_and_goes_on),
		cmocka_unit_test(a_disk_can_be_resized_while_it_runs),
		cmocka_unit_test(state_fits_only_a_disk_of_its_size),
	};
	int failed = 0;

	log_setup(STDERR_FILENO, LOG_ERROR);
	for (unsigned i = 0; i < ARRAY_SIZE(variants); i++) {
		for (unsigned j = 0; j < ARRAY_SIZE(matrix); j++)
			matrix[j].initial_state = (void *)&variants[i];
		failed += cmocka_run_group_tests_name(variants[i].name, matrix, NULL, NULL);
	}
	return failed + cmocka_run_group_tests_name("virtio_blk", tests, NULL, NULL);
}
