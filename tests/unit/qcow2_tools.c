#include "tests/unit/qcow2_tools.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "tests/unit/block_result.h"

int images_setup(void **state, enum loop_backend backend)
{
	struct loop_params params = { .backend = backend, .name = "test" };
	struct images *im = calloc(1, sizeof(*im));

	assert_non_null(im);
	assert_int_equal(loop_create(&im->loop, &params, NULL), 0);
	snprintf(im->dir, sizeof(im->dir), "/dev/shm/wisp-test-XXXXXX");
	assert_non_null(mkdtemp(im->dir));
	*state = im;
	return 0;
}

int images_teardown(void **state)
{
	struct images *im = *state;

	must(im, "rm -rf '%s'", im->dir);
	loop_free(im->loop);
	free(im);
	return 0;
}

const char *image_path(const struct images *im, const char *name)
{
	static char buf[4][160];
	static unsigned turn;
	char *p = buf[turn++ % 4];

	snprintf(p, sizeof(buf[0]), "%s/%s", im->dir, name);
	return p;
}

static int run(const struct images *im, const char *fmt, va_list ap)
{
	char command[1024];
	int n = snprintf(command, sizeof(command), "cd '%s' && ", im->dir);
	int status;

	vsnprintf(command + n, sizeof(command) - n, fmt, ap);
	status = system(command);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 127)
		fail_msg("cannot run: %s", command);
	return WEXITSTATUS(status);
}

int shell(const struct images *im, const char *fmt, ...)
{
	va_list ap;
	int status;

	va_start(ap, fmt);
	status = run(im, fmt, ap);
	va_end(ap);
	return status;
}

void must(const struct images *im, const char *fmt, ...)
{
	va_list ap;
	int status;

	va_start(ap, fmt);
	status = run(im, fmt, ap);
	va_end(ap);
	if (status)
		fail_msg("'%s' ended with %d", fmt, status);
}

void check_image(const struct images *im, const char *name, bool leaks)
{
	int status = shell(im, "qemu-img check -q '%s' >check.txt 2>&1", name);

	if (status && !(leaks && status == 3)) {
		shell(im, "head -20 check.txt");
		fail_msg("qemu-img check %s: %d", name, status);
	}
}

struct block *image_open(const struct images *im, const char *name, struct block_config config)
{
	struct error err = { 0 };
	struct block *b = NULL;

	config.path = image_path(im, name);
	config.fd = -1;
	if (block_open(&b, &config, &err) < 0)
		fail_msg("%s", err.msg);
	block_attach(b, im->loop);
	return b;
}

void image_refused(const struct images *im, const char *name, struct block_config config,
		   const char *why)
{
	struct error err = { 0 };
	struct block *b = NULL;

	config.path = image_path(im, name);
	config.fd = -1;
	assert_true(block_open(&b, &config, &err) < 0);
	assert_null(b);
	assert_int_equal(error_status(&err), 2);
	if (!strstr(err.msg, why))
		fail_msg("'%s' does not say '%s'", err.msg, why);
}

int image_io(const struct images *im, struct block *b, enum block_op op, void *buf, uint64_t offset,
	     uint64_t len)
{
	struct iovec iov = { buf, len };
	struct block_req req = { .op = op, .offset = offset, .len = len, .iov = &iov, .iovcnt = 1 };

	return block_do(im->loop, b, req);
}

int image_flush(const struct images *im, struct block *b)
{
	struct block_req req = { .op = BLOCK_FLUSH };

	return block_do(im->loop, b, req);
}

int image_zero(const struct images *im, struct block *b, uint64_t offset, uint64_t len, bool unmap)
{
	struct block_req req = {
		.op = BLOCK_WRITE_ZEROES, .may_unmap = unmap, .offset = offset, .len = len
	};

	return block_do(im->loop, b, req);
}
