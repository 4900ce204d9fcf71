#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "vmm/core/state.h"

static void write_two(struct state_writer *w)
{
	state_writer_init(w);
	state_begin(w, "virtio-blk", 3, 2);
	state_put_u8(w, 0x11);
	state_put_u16(w, 0x2233);
	state_put_u32(w, 0x44556677);
	state_put_u64(w, 0x8899aabbccddeeff);
	state_put_string(w, "disk0");
	state_put_bytes(w, "raw", 3);
	state_put_u8(w, 1);
	state_end(w);
	state_begin(w, "rtc", 0, 1);
	state_end(w);
	assert_int_equal(w->failed, 0);
}

static void fields_come_back_as_they_were_written(void **state)
{
	struct state_writer w;
	struct state_reader r;
	struct error err = { 0 };
	char text[16], raw[3];
	size_t pos = 0;

	write_two(&w);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, &err), 1);
	assert_string_equal(r.name, "virtio-blk");
	assert_int_equal(r.instance, 3);
	assert_int_equal(r.version, 2);
	assert_int_equal(state_get_u8(&r), 0x11);
	assert_int_equal(state_get_u16(&r), 0x2233);
	assert_int_equal(state_get_u32(&r), 0x44556677);
	assert_int_equal(state_get_u64(&r), 0x8899aabbccddeeff);
	state_get_string(&r, text, sizeof(text));
	assert_string_equal(text, "disk0");
	state_get_bytes(&r, raw, 3);
	assert_memory_equal(raw, "raw", 3);
	assert_true(state_get_bool(&r));
	assert_int_equal(state_reader_end(&r, &err), 0);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, &err), 1);
	assert_string_equal(r.name, "rtc");
	assert_int_equal(state_reader_end(&r, &err), 0);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, &err), 0);
	state_writer_done(&w);
}

static void the_format_is_little_endian_and_stable(void **state)
{
	static const uint8_t head[] = { 'W', 'S', 'E', 'C', 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0 };
	struct state_writer w;

	write_two(&w);
	assert_memory_equal(w.buf, head, sizeof(head));
	assert_int_equal(get_le64(w.buf + 16), 1 + 2 + 4 + 8 + 4 + 5 + 3 + 1);
	assert_int_equal(w.buf[81], 0x33);
	state_writer_done(&w);
}

static void a_reader_fails_once_and_stays_failed(void **state)
{
	uint8_t data[] = { 1, 2, 3 };
	struct state_reader r = { .p = data, .len = 3, .name = "x", .instance = 7 };
	struct error err = { 0 };
	uint8_t out[4] = { 9, 9, 9, 9 };

	assert_int_equal(state_get_u16(&r), 0x0201);
	assert_int_equal(state_get_u32(&r), 0);
	assert_int_equal(state_get_u8(&r), 0); /* though a byte is left */
	state_get_bytes(&r, out, 4);
	assert_int_equal(out[0] | out[3], 0);
	assert_int_equal(state_reader_fail(&r, "later"), -EBADMSG);
	assert_int_equal(state_reader_end(&r, &err), -EBADMSG);
	assert_string_equal(err.msg, "saved state: section 'x', instance 7: "
				     "ends in the middle of a field");
}

static void bytes_left_over_are_an_error(void **state)
{
	uint8_t data[] = { 1, 2, 3 };
	struct state_reader r = { .p = data, .len = 3, .name = "x" };
	struct error err = { 0 };

	state_get_u8(&r);
	assert_int_equal(state_reader_end(&r, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "2 bytes are left over"));
}

static void flags_and_strings_are_checked(void **state)
{
	uint8_t flag[] = { 2 };
	uint8_t big[] = { 0xff, 0xff, 0xff, 0xff, 'a' };
	uint8_t zero[] = { 2, 0, 0, 0, 'a', 0 };
	uint8_t exact[] = { 2, 0, 0, 0, 'a', 'b' };
	struct state_reader r = { .p = flag, .len = sizeof(flag), .name = "x" };
	char text[3];

	assert_false(state_get_bool(&r));
	assert_int_equal(r.failed, -EBADMSG);
	r = (struct state_reader){ .p = big, .len = sizeof(big), .name = "x" };
	state_get_string(&r, text, sizeof(text));
	assert_int_equal(r.failed, -EBADMSG);
	assert_string_equal(text, "");
	r = (struct state_reader){ .p = zero, .len = sizeof(zero), .name = "x" };
	state_get_string(&r, text, sizeof(text));
	assert_int_equal(r.failed, -EBADMSG);
	r = (struct state_reader){ .p = exact, .len = sizeof(exact), .name = "x" };
	state_get_string(&r, text, sizeof(text));
	assert_int_equal(r.failed, 0);
	assert_string_equal(text, "ab");
	r = (struct state_reader){ .p = exact, .len = sizeof(exact), .name = "x" };
	state_get_string(&r, text, 2);
	assert_int_equal(r.failed, -EBADMSG);
}

/* Any single change of any byte is noticed; so is the loss of any tail. */
static void damage_is_noticed(void **state)
{
	struct state_writer w;
	struct state_reader r;
	struct error err = { 0 };
	uint8_t *copy;

	write_two(&w);
	for (size_t i = 0; i < w.len; i++) {
		size_t pos = 0;
		int n = 0, res;

		w.buf[i] ^= 0x20;
		while ((res = state_next(w.buf, w.len, &pos, &r, &err)) == 1)
			n++;
		assert_int_equal(res, -EBADMSG);
		w.buf[i] ^= 0x20;
	}
	for (size_t len = 0; len < w.len; len++) {
		size_t pos = 0;
		int res;

		/* On its own, so that a sanitizer sees a read beyond it. */
		copy = malloc(len + 1);
		memcpy(copy, w.buf, len);
		while ((res = state_next(copy, len, &pos, &r, &err)) == 1)
			;
		assert_true(res == -EBADMSG || pos == len);
		free(copy);
	}
	state_writer_done(&w);
}

static void misuse_of_a_writer_is_remembered(void **state)
{
	struct state_writer w;
	char name[49];

	state_writer_init(&w);
	state_begin(&w, "a", 0, 1);
	state_begin(&w, "b", 0, 1);
	assert_int_equal(w.failed, -EINVAL);
	state_put_u64(&w, 1);
	state_end(&w);
	state_writer_done(&w);

	memset(name, 'n', 48);
	name[48] = 0;
	state_writer_init(&w);
	state_begin(&w, name, 0, 1);
	assert_int_equal(w.failed, -EINVAL);
	state_writer_done(&w);
	state_end(&w);
	assert_int_equal(w.failed, -EINVAL);
	state_writer_done(&w);
}

static void a_large_section_grows(void **state)
{
	struct state_writer w;
	struct state_reader r;
	size_t pos = 0;
	uint64_t sum = 0;

	state_writer_init(&w);
	state_begin(&w, "big", 0, 1);
	for (uint64_t i = 0; i < 20000; i++)
		state_put_u64(&w, i);
	state_end(&w);
	assert_int_equal(state_next(w.buf, w.len, &pos, &r, NULL), 1);
	for (uint64_t i = 0; i < 20000; i++)
		sum += state_get_u64(&r) == i;
	assert_int_equal(sum, 20000);
	assert_int_equal(state_reader_end(&r, NULL), 0);
	state_writer_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fields_come_back_as_they_were_written),
		cmocka_unit_test(the_format_is_little_endian_and_stable),
		cmocka_unit_test(a_reader_fails_once_and_stays_failed),
		cmocka_unit_test(bytes_left_over_are_an_error),
		cmocka_unit_test(flags_and_strings_are_checked),
		cmocka_unit_test(damage_is_noticed),
		cmocka_unit_test(misuse_of_a_writer_is_remembered),
		cmocka_unit_test(a_large_section_grows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
