/* Parts of memory in segments, compared with the same memory in one piece. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "vmm/core/iov.h"
#include "vmm/core/util.h"

#define BYTES 12

/* Twelve bytes that count from 0, in segments with empty ones between them. */
struct segments {
	uint8_t byte[BYTES];
	struct iovec iov[6];
};

static void cut(struct segments *s)
{
	static const size_t len[] = { 0, 5, 0, 1, 6, 0 };
	size_t at = 0;

	for (unsigned i = 0; i < BYTES; i++)
		s->byte[i] = i;
	for (unsigned i = 0; i < ARRAY_SIZE(len); at += len[i++])
		s->iov[i] = (struct iovec){ s->byte + at, len[i] };
}

/* The @num segments are @len bytes from @first on, none of them empty. */
static void assert_bytes(const struct iovec *iov, unsigned num, unsigned first, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < num; i++) {
		assert_true(iov[i].iov_len > 0);
		for (size_t j = 0; j < iov[i].iov_len; j++)
			assert_int_equal(((uint8_t *)iov[i].iov_base)[j], first + done++);
	}
	assert_int_equal(done, len);
}

static void slice_is_what_was_asked_for_and_there(void **state)
{
	struct segments s;
	struct iovec to[ARRAY_SIZE(s.iov)];

	cut(&s);
	for (unsigned skip = 0; skip <= BYTES + 1; skip++) {
		for (unsigned len = 0; len <= BYTES + 1; len++) {
			unsigned there = skip < BYTES ? MIN(len, BYTES - skip) : 0;
			unsigned n = iov_slice(s.iov, ARRAY_SIZE(s.iov), skip, len, to);

			assert_bytes(to, n, skip, there);
			assert_int_equal(iov_slice(s.iov, ARRAY_SIZE(s.iov), skip, len, NULL), n);
		}
	}
	assert_int_equal(iov_slice(s.iov, 0, 0, 1, to), 0);
	assert_bytes(to, iov_slice(s.iov, ARRAY_SIZE(s.iov), 3, UINT64_MAX, to), 3, BYTES - 3);
	assert_int_equal(iov_slice(s.iov, ARRAY_SIZE(s.iov), UINT64_MAX, UINT64_MAX, to), 0);
}

static void slice_leaves_what_it_is_of_alone(void **state)
{
	struct segments s, before;
	struct iovec to[ARRAY_SIZE(s.iov)];

	cut(&s);
	before = s;
	assert_int_equal(iov_slice(s.iov, ARRAY_SIZE(s.iov), 2, 5, to), 3);
	assert_memory_equal(s.iov, before.iov, sizeof(s.iov));
}

static void advancing_leaves_the_rest(void **state)
{
	struct segments s;

	for (unsigned bytes = 0; bytes <= BYTES + 1; bytes++) {
		struct iovec *iov = s.iov, rest[ARRAY_SIZE(s.iov)];
		unsigned n, left = bytes < BYTES ? BYTES - bytes : 0;

		cut(&s);
		n = iov_advance(&iov, ARRAY_SIZE(s.iov), bytes);
		assert_int_equal(n > 0, left > 0);
		assert_ptr_equal(iov, s.iov + ARRAY_SIZE(s.iov) - n);
		if (n)
			assert_true(iov->iov_len > 0);
		assert_bytes(rest, iov_slice(iov, n, 0, UINT64_MAX, rest), bytes, left);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slice_is_what_was_asked_for_and_there),
		cmocka_unit_test(slice_leaves_what_it_is_of_alone),
		cmocka_unit_test(advancing_leaves_the_rest),
	};

	return cmocka_run_group_tests_name("iov", tests, NULL, NULL);
}
