#include "tests/unit/fake_blk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "virtio/virtio_devices.h"

static void make_image(struct fake_blk *f)
{
	int fd;

	snprintf(f->path, sizeof(f->path), "/var/tmp/wisp-test-blk-XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	for (size_t i = 0; i < FAKE_BLK_SIZE; i++)
		f->data[i] = (i * 5 + i / 512) | 1;
	assert_int_equal(write(fd, f->data, FAKE_BLK_SIZE), FAKE_BLK_SIZE);
	close(fd);
}

static struct virtio_device *make_device(struct fake_blk *f, struct block_config config,
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

struct fake_blk *fake_blk_begin_with(const struct fake_variant *v, struct block_config config,
				     unsigned queues, uint64_t features)
{
	struct fake_blk *f = calloc(1, sizeof(*f));
	struct fake_driver_config driver = v->driver;

	make_image(f);
	fake_vm_init(&f->vm, v->backend);
	f->dev = make_device(f, config, queues);
	driver.features = features;
	fake_driver_init(&f->d, &f->vm, f->dev, &driver);
	return f;
}

struct fake_blk *fake_blk_begin(const struct fake_variant *v)
{
	return fake_blk_begin_with(v, (struct block_config){ 0 }, 1, FAKE_BLK_FEATURES);
}

void fake_blk_end(struct fake_blk *f)
{
	fake_driver_done(&f->d);
	fake_vm_done(&f->vm);
	unlink(f->path);
	free(f);
}

void fake_blk_assert_image(struct fake_blk *f)
{
	uint8_t *now = malloc(FAKE_BLK_SIZE);
	int fd = open(f->path, O_RDONLY);

	assert_int_equal(read(fd, now, FAKE_BLK_SIZE), FAKE_BLK_SIZE);
	assert_memory_equal(now, f->data, FAKE_BLK_SIZE);
	close(fd);
	free(now);
}

/* ---- requests ---- */

struct fake_blk_request fake_blk_request(struct fake_blk *f, uint32_t type, uint64_t sector,
					 uint32_t len)
{
	struct fake_blk_request r = {
		.header = fake_alloc(&f->vm, sizeof(struct virtio_blk_outhdr), 16),
		.data = fake_alloc(&f->vm, MAX(len, 1u), 512),
		.status = fake_alloc(&f->vm, 1, 1),
		.len = len,
	};
	struct virtio_blk_outhdr h = { .type = htole32(type), .sector = htole64(sector) };

	memcpy(fake_ptr(&f->vm, r.header, sizeof(h)), &h, sizeof(h));
	*(uint8_t *)fake_ptr(&f->vm, r.status, 1) = FAKE_BLK_NO_STATUS;
	return r;
}

void *fake_blk_data(struct fake_blk *f, const struct fake_blk_request *r)
{
	return fake_ptr(&f->vm, r->data, r->len);
}

uint8_t fake_blk_status(struct fake_blk *f, const struct fake_blk_request *r)
{
	return *(uint8_t *)fake_ptr(&f->vm, r->status, 1);
}

void fake_blk_add(struct fake_blk *f, unsigned queue, struct fake_blk_request *r,
		  bool data_writable)
{
	struct fake_buf bufs[3] = { { r->header, 16, false } };
	unsigned n = 1;

	if (r->len)
		bufs[n++] = (struct fake_buf){ r->data, r->len, data_writable };
	bufs[n++] = (struct fake_buf){ r->status, 1, true };
	r->id = fake_add(&f->d, queue, bufs, n);
	assert_true(r->id >= 0);
}

uint8_t fake_blk_run(struct fake_blk *f, struct fake_blk_request *r, bool data_writable,
		     uint32_t *ret_len)
{
	struct fake_used used;

	fake_blk_add(f, 0, r, data_writable);
	fake_kick(&f->d, 0);
	assert_true(fake_wait_used(&f->d, 0, &used));
	assert_int_equal(used.id, r->id);
	if (ret_len)
		*ret_len = used.len;
	return fake_blk_status(f, r);
}

uint8_t fake_blk_simple(struct fake_blk *f, uint32_t type, uint64_t sector, uint32_t len,
			bool data_writable)
{
	struct fake_blk_request r = fake_blk_request(f, type, sector, len);

	return fake_blk_run(f, &r, data_writable, NULL);
}
