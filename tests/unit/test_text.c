#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
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

static void distance_counts_letters(void **state)
{
	static const struct {
		const char *a, *b;
		unsigned distance;
	} pairs[] = {
		{ "", "", 0 },
		{ "", "run", 3 },
		{ "run", "", 3 },
		{ "run", "run", 0 },
		{ "rnu", "run", 1 },
		{ "ru", "run", 1 },
		{ "runn", "run", 1 },
		{ "rin", "run", 1 },
		{ "memroy", "memory", 1 },
		{ "snaphsot", "snapshot", 1 },
		{ "kitten", "sitting", 3 },
		{ "abcdef", "badcfe", 3 },
	};

	for (unsigned i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		const char *a = pairs[i].a, *b = pairs[i].b;

		assert_int_equal(text_distance(a, strlen(a), b), pairs[i].distance);
		assert_int_equal(text_distance(b, strlen(b), a), pairs[i].distance);
	}
	assert_int_equal(text_distance("run=1", 3, "run"), 0);
}

static void distance_of_long_words_is_none(void **state)
{
	char fits[TEXT_MAX_WORD + 1], longer[TEXT_MAX_WORD + 2];

	memset(fits, 'x', sizeof(fits));
	memset(longer, 'x', sizeof(longer));
	fits[TEXT_MAX_WORD] = longer[TEXT_MAX_WORD + 1] = '\0';
	assert_int_equal(text_distance(fits, TEXT_MAX_WORD, ""), TEXT_MAX_WORD);
	assert_int_equal(text_distance("", 0, fits), TEXT_MAX_WORD);
	assert_int_equal(text_distance(longer, TEXT_MAX_WORD + 1, fits), UINT_MAX);
	assert_int_equal(text_distance(fits, TEXT_MAX_WORD, longer), UINT_MAX);
}

static const char *guess(const char *typed)
{
	static const char *const words[] = { "run", "ls", "cp", "stop", "top", "snapshot" };
	struct text_guess g = { .typed = typed, .len = strlen(typed) };

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		text_guess_add(&g, words[i]);
	return g.word ?: "";
}

static void a_guess_is_the_nearest_word_or_none(void **state)
{
	assert_string_equal(guess("rnu"), "run");
	assert_string_equal(guess("sl"), "ls");
	assert_string_equal(guess("stp"), "stop"); /* "top" is as near */
	assert_string_equal(guess("snpashto"), "snapshot");
	/* Any two letters are two letters from any others. */
	assert_string_equal(guess("xy"), "");
	assert_string_equal(guess("xyn"), "");
	assert_string_equal(guess("frobnicate"), "");
	assert_string_equal(guess(""), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_printable_moves_no_cursor_and_begins_no_line),
		cmocka_unit_test(what_is_printable_is_bounded_on_both_sides),
		cmocka_unit_test(json_is_quoted),
		cmocka_unit_test(json_keeps_utf8_and_has_nothing_else),
		cmocka_unit_test(distance_counts_letters),
		cmocka_unit_test(distance_of_long_words_is_none),
		cmocka_unit_test(a_guess_is_the_nearest_word_or_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
