/* What a source says of itself first: earlier versions are understood, later ones refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "vmm/core/state.h"
#include "vmm/migrate/migrate.h"

/* A source of @version, whose disk of 77 MiB is followed by the @num bytes of @more. */
static int read_hello(uint32_t version, const uint8_t *more, size_t num, struct migrate_hello *ret,
		      struct error *err)
{
	static const uint8_t uuid[MIGRATE_UUID_BYTES] = { 1, 2, 3 };
	struct state_set set = { 0 };
	struct state_writer w;
	int r;

	state_writer_init(&w);
	state_begin(&w, "migrate", 0, version);
	state_put_bytes(&w, uuid, sizeof(uuid));
	state_put_string(&w, "vm1");
	state_put_u64(&w, 256 * MiB);
	state_put_u64(&w, 3 * MiB);
	state_put_u32(&w, 1);
	state_put_u64(&w, 77 * MiB);
	state_put_bytes(&w, more, num);
	state_end(&w);
	state_seal(&w);
	assert_int_equal(w.failed, 0);
	r = state_set_open(&set, w.buf, w.len, err);
	if (!r)
		r = migrate_read_hello(&set, ret, err);
	state_set_close(&set);
	state_writer_done(&w);
	return r;
}

/* What follows the disk's size: the way, whether the disk comes, the streams, whether late. */
#define HELLO(version, ...)                                                               \
	read_hello(version, (const uint8_t[]){ __VA_ARGS__ },                             \
		   sizeof((const uint8_t[]){ __VA_ARGS__ }), &hello, &err)

static void the_first_only_copies(void **state)
{
	struct migrate_hello hello;
	struct error err = { 0 };

	assert_int_equal(read_hello(1, NULL, 0, &hello, &err), 0);
	assert_string_equal(hello.name, "vm1");
	assert_int_equal(hello.disk_bytes[0], 77 * MiB);
	assert_int_equal(hello.way, MIGRATE_COPIED);
	assert_int_equal(HELLO(1, MIGRATE_WRITTEN), -EBADMSG);
}

static void the_second_says_the_way(void **state)
{
	struct migrate_hello hello;
	struct error err = { 0 };

	assert_int_equal(HELLO(2, MIGRATE_WRITTEN), 0);
	assert_int_equal(hello.way, MIGRATE_WRITTEN);
	assert_int_equal(read_hello(2, NULL, 0, &hello, &err), -EBADMSG);
	assert_int_equal(HELLO(2, MIGRATE_WRITTEN + 1), -EBADMSG);
	assert_int_equal(HELLO(2, MIGRATE_COPIED, 1), -EBADMSG);
}

static void the_third_says_of_each_disk_whether_it_comes(void **state)
{
	struct migrate_hello hello;
	struct error err = { 0 };

	assert_int_equal(HELLO(3, MIGRATE_COPIED), -EBADMSG);
	assert_int_equal(HELLO(3, MIGRATE_COPIED, 0), 0);
	assert_false(hello.disk_comes[0]);
	assert_int_equal(HELLO(3, MIGRATE_COPIED, 1), 0);
	assert_true(hello.disk_comes[0]);
	assert_int_equal(hello.streams, 1);
}

static void the_fourth_says_over_how_many_streams(void **state)
{
	struct migrate_hello hello;
	struct error err = { 0 };

	assert_int_equal(HELLO(4, MIGRATE_COPIED, 1), -EBADMSG);
	for (unsigned streams = 0; streams <= MIGRATE_MAX_STREAMS + 1; streams++) {
		bool good = streams >= 1 && streams <= MIGRATE_MAX_STREAMS;

		assert_int_equal(HELLO(4, MIGRATE_COPIED, 0, streams), good ? 0 : -EBADMSG);
		assert_true(!good || hello.streams == streams);
	}
	assert_false(hello.postcopy);
}

static void the_fifth_says_whether_pages_may_come_late(void **state)
{
	struct migrate_hello hello;
	struct error err = { 0 };

	assert_int_equal(HELLO(5, MIGRATE_COPIED, 0, 2), -EBADMSG);
	assert_int_equal(HELLO(5, MIGRATE_COPIED, 0, 2, 1), 0);
	assert_true(hello.postcopy);
	assert_int_equal(HELLO(5, MIGRATE_COPIED, 0, 2, 0), 0);
	assert_false(hello.postcopy);
	assert_int_equal(HELLO(5, MIGRATE_COPIED, 0, 2, 2), -EBADMSG);
}

static void the_sixth_says_whether_they_come_over_all_streams(void **state)
{
	struct migrate_hello hello;
	struct error err = { 0 };

	assert_int_equal(HELLO(5, MIGRATE_COPIED, 0, 2, 1), 0);
	assert_false(hello.late_streams);
	assert_int_equal(HELLO(6, MIGRATE_COPIED, 0, 2, 1), -EBADMSG);
	assert_int_equal(HELLO(6, MIGRATE_COPIED, 0, 2, 1, 1), 0);
	assert_true(hello.late_streams);
	assert_int_equal(HELLO(6, MIGRATE_COPIED, 0, 2, 1, 2), -EBADMSG);
}

static void later_ones_are_refused(void **state)
{
	struct migrate_hello hello;
	struct error err = { 0 };

	assert_int_equal(HELLO(7, MIGRATE_COPIED, 0, 2, 0), -EBADMSG);
	assert_non_null(strstr(err.msg, "version 7"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_only_copies),
		cmocka_unit_test(the_second_says_the_way),
		cmocka_unit_test(the_third_says_of_each_disk_whether_it_comes),
		cmocka_unit_test(the_fourth_says_over_how_many_streams),
		cmocka_unit_test(the_fifth_says_whether_pages_may_come_late),
		cmocka_unit_test(the_sixth_says_whether_they_come_over_all_streams),
		cmocka_unit_test(later_ones_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
