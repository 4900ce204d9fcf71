/*
 * What tests of qcow2 images share: a folder for files, QEMU's tools (they are
 * the reference), and requests to a block, waited for. One thread, cmocka.
 */
#ifndef WISP_TESTS_QCOW2_TOOLS_H
#define WISP_TESTS_QCOW2_TOOLS_H

#include "devices/block.h"

struct images {
	struct loop *loop;
	char dir[64];
};

/* Group or test fixtures: *@state becomes a struct images. @backend: of its loop. */
int images_setup(void **state, enum loop_backend backend);
int images_teardown(void **state);

/* "DIR/NAME", in one of four buffers that take turns. */
const char *image_path(const struct images *im, const char *name);

/* Run a shell command in the folder; its status. The test fails when it is 127. */
int shell(const struct images *im, const char *fmt, ...) __printf(2, 3);
/* It must succeed. */
void must(const struct images *im, const char *fmt, ...) __printf(2, 3);
/* `qemu-img check` finds NAME clean (0), or at worst leaking (3) when @leaks. */
void check_image(const struct images *im, const char *name, bool leaks);

struct block *image_open(const struct images *im, const char *name, struct block_config config);
/* Opening must fail for a reason that contains @why. */
void image_refused(const struct images *im, const char *name, struct block_config config,
		   const char *why);

/* One request, waited for: its result. */
int image_io(const struct images *im, struct block *b, enum block_op op, void *buf,
	     uint64_t offset, uint64_t len);
int image_flush(const struct images *im, struct block *b);
int image_zero(const struct images *im, struct block *b, uint64_t offset, uint64_t len, bool unmap);

#endif
