#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "vmm/doctor.h"

static char *text_of(const struct doctor *d, void (*print)(const struct doctor *d, FILE *out))
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	print(d, f);
	assert_int_equal(fclose(f), 0);
	return text;
}

static void a_line_says_state_what_detail_and_how_to_mend(void **state)
{
	struct doctor d = { .can_run = true };
	char *text;

	doctor_say(&d, DOCTOR_OK, "kvm", NULL, "version %d", 12);
	doctor_say(&d, DOCTOR_WARN, "tap", "modprobe tun", "not there");
	text = text_of(&d, doctor_print);
	assert_string_equal(text, "ok       kvm: version 12\n"
				  "warn     tap: not there\n"
				  "         mend: modprobe tun\n"
				  "microVMs can run here\n");
	free(text);
}

static void json_is_escaped(void **state)
{
	struct doctor d = { 0 };
	char *text;

	doctor_say(&d, DOCTOR_MISSING, "x", "say \"hi\"", "a\\b\n");
	text = text_of(&d, doctor_print_json);
	assert_string_equal(text, "{\"can_run\":false,\"checks\":[{\"what\":\"x\",\"state\":"
				  "\"missing\",\"detail\":\"a\\\\b\\u000a\",\"mend\":"
				  "\"say \\\"hi\\\"\"}]}\n");
	free(text);
}

static void more_lines_than_fit_are_dropped(void **state)
{
	struct doctor d = { 0 };

	for (int i = 0; i < 2 * DOCTOR_MAX_LINES; i++)
		doctor_say(&d, DOCTOR_OK, "x", NULL, "%d", i);
	assert_int_equal(d.num_lines, DOCTOR_MAX_LINES);
	assert_string_equal(d.line[DOCTOR_MAX_LINES - 1].detail, "63");
}

static void every_check_fits_and_says_something(void **state)
{
	struct doctor d = { .can_run = true };

	doctor_check_kvm(&d);
	doctor_check_host(&d);
	assert_in_range(d.num_lines, 2, DOCTOR_MAX_LINES - 1);
	for (unsigned i = 0; i < d.num_lines; i++) {
		assert_true(d.line[i].what && *d.line[i].detail);
		/* What cannot be had comes with advice, or there is none to give: never for ok. */
		assert_false(d.line[i].state == DOCTOR_OK && d.line[i].mend);
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(d.line[i].what, d.line[k].what);
	}
}

static void an_unknown_argument_is_a_usage_error(void **state)
{
	char *argv[] = { "--xml" };

	assert_int_equal(doctor_main(1, argv), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_says_state_what_detail_and_how_to_mend),
		cmocka_unit_test(json_is_escaped),
		cmocka_unit_test(more_lines_than_fit_are_dropped),
		cmocka_unit_test(every_check_fits_and_says_something),
		cmocka_unit_test(an_unknown_argument_is_a_usage_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
