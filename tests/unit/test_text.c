#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "vmm/core/text.h"

static void what_is_printable_moves_no_cursor_and_begins_no_line(void **state)
{
	char buf[32];

	text_printable(buf, sizeof(buf), "\033[2Ja\nb\tä\x7f", 99);
	assert_string_equal(buf, "?[2Ja?b\tä?");
}

static void what_is_printable_is_bounded_on_both_sides(void **state)
{
	static const char endless[4] = { 'a', 'b', 'c', 'd' };
	char buf[4];

	memset(buf, 'x', sizeof(buf));
	text_printable(buf, sizeof(buf), "abcdef", 99);
	assert_string_equal(buf, "abc");
	text_printable(buf, 3, endless, sizeof(endless));
	assert_string_equal(buf, "ab");
	text_printable(buf, sizeof(buf), endless, 1);
	assert_string_equal(buf, "a");
	text_printable(buf, 1, endless, sizeof(endless));
	assert_string_equal(buf, "");
}

static void expect_json(const char *s, size_t len, const char *want)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	text_put_json(f, s, len);
	fclose(f);
	assert_string_equal(text, want);
	free(text);
}

#define EXPECT_JSON(s, want) expect_json(s, sizeof(s) - 1, want)

static void json_is_quoted(void **state)
{
	EXPECT_JSON("", "\"\"");
	EXPECT_JSON("a \"b\" \\c\n\t\x7f", "\"a \\\"b\\\" \\\\c\\n\\u0009\\u007f\"");
	EXPECT_JSON("a\0b", "\"a\\u0000b\"");
}

static void json_keeps_utf8_and_has_nothing_else(void **state)
{
	EXPECT_JSON("ä€😀", "\"ä€😀\"");
	/* Cut off, a stray end, too long a form, a surrogate, beyond the last character. */
	EXPECT_JSON("\xc3", "\"\\u00c3\"");
	EXPECT_JSON("\xe2\x82", "\"\\u00e2\\u0082\"");
	EXPECT_JSON("\xa4z", "\"\\u00a4z\"");
	EXPECT_JSON("\xc3z", "\"\\u00c3z\"");
	EXPECT_JSON("\xc0\x80", "\"\\u00c0\\u0080\"");
	EXPECT_JSON("\xe0\x9f\x80", "\"\\u00e0\\u009f\\u0080\"");
	EXPECT_JSON("\xed\xa0\x80", "\"\\u00ed\\u00a0\\u0080\"");
	EXPECT_JSON("\xf4\x90\x80\x80", "\"\\u00f4\\u0090\\u0080\\u0080\"");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_printable_moves_no_cursor_and_begins_no_line),
		cmocka_unit_test(what_is_printable_is_bounded_on_both_sides),
		cmocka_unit_test(json_is_quoted),
		cmocka_unit_test(json_keeps_utf8_and_has_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
