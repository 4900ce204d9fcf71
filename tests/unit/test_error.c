#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <unistd.h>

#include "vmm/core/error.h"

static void error_set_returns_the_code_and_prints_its_text(void **state)
{
	struct error err = { 0 };

	errno = EPERM;
	assert_int_equal(error_set(&err, -ENOENT, "disk '%s': %m", "a.img"), -ENOENT);
	assert_string_equal(err.msg, "disk 'a.img': No such file or directory");
	assert_int_equal(err.code, -ENOENT);
	assert_int_equal(errno, EPERM);
	assert_int_equal(error_status(&err), 1);
}

static void error_may_be_null(void **state)
{
	assert_int_equal(error_set(NULL, -EIO, "x"), -EIO);
	assert_int_equal(error_usage(NULL, -EINVAL, "x"), -EINVAL);
	assert_int_equal(error_kind_set(NULL, ERROR_START, -EIO, "x"), -EIO);
	error_hint(NULL, "x");
	error_prefix(NULL, "x");
}

static void error_kind_survives_a_later_message(void **state)
{
	struct error err = { 0 };

	error_usage(&err, -EINVAL, "first");
	error_set(&err, -EINVAL, "second");
	assert_int_equal(error_status(&err), 2);
	error_kind_set(&err, ERROR_START, -EIO, "third");
	assert_int_equal(error_status(&err), 125);
	error_kind_set(&err, ERROR_REFUSED, -EIO, "fourth");
	assert_int_equal(error_status(&err), 126);
}

static void error_prefix_goes_in_front_and_never_overflows(void **state)
{
	struct error err = { 0 };

	error_set(&err, -EINVAL, "bad value");
	error_prefix(&err, "--disk '%s'", "x");
	assert_string_equal(err.msg, "--disk 'x': bad value");
	for (int i = 0; i < 200; i++)
		error_prefix(&err, "again");
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
	assert_string_equal(err.msg + sizeof(err.msg) - 4, "...");
}

static void a_message_that_is_cut_says_so(void **state)
{
	struct error err = { 0 };

	error_set(&err, -EINVAL, "%0*d", (int)sizeof(err.msg) - 1, 7);
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
	assert_string_equal(err.msg + sizeof(err.msg) - 5, "0007");
	error_set(&err, -EINVAL, "%0*d", (int)sizeof(err.msg), 7);
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
	assert_string_equal(err.msg + sizeof(err.msg) - 5, "0...");
}

static void error_hint_replaces_an_earlier_one(void **state)
{
	struct error err = { 0 };

	error_hint(&err, "a %d", 1);
	error_hint(&err, "b %d", 2);
	assert_string_equal(err.hint, "b 2");
}

static void what_is_printed_neither_moves_the_cursor_nor_forges_lines(void **state)
{
	struct error err = { 0 };
	char said[256] = "";
	int pair[2], saved = dup(STDERR_FILENO);

	assert_int_equal(pipe(pair), 0);
	error_set(&err, -EISDIR, "cp: cannot create '%s'", "\033]0;mine\a\nwisp: done\x7f\tä");
	error_hint(&err, "%s", "\033[2J");
	dup2(pair[1], STDERR_FILENO);
	error_print(&err);
	dup2(saved, STDERR_FILENO);
	assert_true(read(pair[0], said, sizeof(said) - 1) > 0);
	assert_string_equal(said, "wisp: cp: cannot create '?]0;mine??wisp: done?\tä'\n"
				  "wisp: hint: ?[2J\n");
	close(pair[0]);
	close(pair[1]);
	close(saved);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(error_set_returns_the_code_and_prints_its_text),
		cmocka_unit_test(error_may_be_null),
		cmocka_unit_test(error_kind_survives_a_later_message),
		cmocka_unit_test(error_prefix_goes_in_front_and_never_overflows),
		cmocka_unit_test(a_message_that_is_cut_says_so),
		cmocka_unit_test(error_hint_replaces_an_earlier_one),
		cmocka_unit_test(what_is_printed_neither_moves_the_cursor_nor_forges_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
