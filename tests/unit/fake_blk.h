/*
 * A disk over an image file with its driver, for unit tests: one process, one thread.
 *
 *	f = fake_blk_begin(&fake_plain, (struct block_config){ 0 }, 1, FAKE_BLK_FEATURES);
 *	r = fake_blk_request(f, VIRTIO_BLK_T_IN, 3, 4096);
 *	assert_int_equal(fake_blk_run(f, &r, true, NULL), VIRTIO_BLK_S_OK);
 *	assert_memory_equal(fake_blk_data(f, &r), f->data + 3 * 512, 4096);
 *	fake_blk_end(f);
 *
 * All of it asserts (cmocka) that each step succeeds.
 */
#ifndef WISP_TESTS_FAKE_BLK_H
#define WISP_TESTS_FAKE_BLK_H

#include <linux/virtio_blk.h>

#include "devices/block.h"
#include "tests/unit/fake_driver.h"
#include "tests/unit/fake_variant.h"

#define FAKE_BLK_SECTORS   512u
#define FAKE_BLK_SIZE	   (FAKE_BLK_SECTORS * 512ull)
/* All of the device's own; the rings' are the variant's to choose. */
#define FAKE_BLK_FEATURES  ((1ull << 28) - 1)
#define FAKE_BLK_NO_STATUS 0x7f /* what the driver puts where the answer goes */

struct fake_blk {
	struct fake_vm vm;
	struct fake_driver d;
	struct virtio_device *dev;
	char path[64];
	uint8_t data[FAKE_BLK_SIZE]; /* what the image holds, as far as the test has told */
};

/* A disk with one queue over a new image, with all features. */
struct fake_blk *fake_blk_begin(const struct fake_variant *v);

/* One with @queues, opened as @config says but for its path, whose driver knows @features. */
struct fake_blk *fake_blk_begin_with(const struct fake_variant *v, struct block_config config,
				unsigned queues, uint64_t features);
void fake_blk_end(struct fake_blk *f);

/* The image file holds f->data. */
void fake_blk_assert_image(struct fake_blk *f);

/* ---- requests ---- */

struct fake_blk_request {
	uint64_t header, data, status; /* guest addresses */
	uint32_t len;		       /* of the data */
	int id;			       /* once it is added */
};

/* One in guest memory, with room for @len bytes of data; @sector counts 512 bytes. */
struct fake_blk_request fake_blk_request(struct fake_blk *f, uint32_t type, uint64_t sector,
					 uint32_t len);
void *fake_blk_data(struct fake_blk *f, const struct fake_blk_request *r);
uint8_t fake_blk_status(struct fake_blk *f, const struct fake_blk_request *r);

/* Make it available on @queue; no kick. */
void fake_blk_add(struct fake_blk *f, unsigned queue, struct fake_blk_request *r,
		  bool data_writable);

/* Hand it over and wait. Returns the status; the used length goes to @ret_len, or nowhere. */
uint8_t fake_blk_run(struct fake_blk *f, struct fake_blk_request *r, bool data_writable,
		     uint32_t *ret_len);

/* The status of a request whose data are of no interest. */
uint8_t fake_blk_simple(struct fake_blk *f, uint32_t type, uint64_t sector, uint32_t len,
			bool data_writable);

#endif
