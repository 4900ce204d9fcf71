/* What reports of a test say where there is no guest to speak for itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/testing/test_internal.h"

/* A job of one kernel, whose microVM did not start; to be freed. */
static struct test_job *failed_start(struct test_config *t, struct machine_end *end)
{
	static char *command[] = { "true", NULL };
	struct test_job *j = calloc(1, sizeof(*j));

	assert_non_null(j);
	t->command = command;
	end->reason = MACHINE_END_START_FAILED;
	*j = (struct test_job){ .config = t, .end = end, .out_fd = -1 };
	test_decide(j, 125 << 8);
	assert_int_equal(j->outcome, TEST_MONITOR_FAILURE);
	assert_int_equal(j->status, 125);
	return j;
}

static char *json_of(const struct test_job *j)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	test_print_json(j, 1, f);
	fclose(f);
	return text;
}

/* What @write makes of @j. */
static void expect_report(int (*write)(const struct test_job *, unsigned, const char *),
			  const struct test_job *j, const char *want)
{
	char path[] = "/tmp/wisp-report.XXXXXX", text[4096] = "";
	int fd = mkstemp(path);

	assert_int_equal(write(j, 1, path), 0);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	if (!strstr(text, want))
		fail_msg("'%s' is not in: %s", want, text);
	close(fd);
	unlink(path);
}

static void reports_say_why_a_monitor_did_not_start(void **state)
{
	struct test_config *t = calloc(1, sizeof(*t));
	struct machine_end end = { 0 };
	struct error err = { 0 };
	struct test_job *j;
	char *json;

	error_kind_set(&err, ERROR_START, -ENOMEM, "disk '\033ä\n': %m");
	assert_int_equal(machine_end_say(&end, &err), 125);
	j = failed_start(t, &end);
	json = json_of(j);
	assert_non_null(strstr(json, "\"message\":\"disk '?ä?': Cannot allocate memory\""));
	expect_report(test_write_junit, j, " message=\"disk '?ä?': Cannot allocate memory\">");
	expect_report(test_write_tap, j,
		      "# monitor-failure, status 125: disk '?ä?': Cannot allocate memory\n");
	free(json);
	free(j);
	free(t);
}

/* Well-formed characters stay, but for those that XML has not; stray bytes do not. */
static void junit_has_no_character_that_xml_has_not(void **state)
{
	char *command[] = {
		"ä<"
		"\xc3\x80\xff\xc0\x80\xed\xa0\x80\xef\xbf\xbe\xef\xbf\xbd\xf0\x9f\x98\x80\x01\xe2",
		NULL
	};
	struct test_config *t = calloc(1, sizeof(*t));
	struct machine_end end = { .message = "why" };
	struct test_job *j = failed_start(t, &end);

	t->command = command;
	expect_report(test_write_junit, j, " name=\"ä&lt;\xc3\x80\xef\xbf\xbd\xf0\x9f\x98\x80\" ");
	free(j);
	free(t);
}

/* A command is any text at all. */
static void a_command_forges_no_line_of_tap(void **state)
{
	char *command[] = { "a\nok 2 - b # SKIP", NULL };
	struct test_config *t = calloc(1, sizeof(*t));
	struct machine_end end = { .message = "why" };
	struct test_job *j = failed_start(t, &end);

	t->command = command;
	snprintf(j->release, sizeof(j->release), "6.1");
	expect_report(test_write_tap, j,
		      "1..1\nnot ok 1 - 6.1 a?ok 2 - b \\# SKIP\n"
		      "# monitor-failure, status 125: why\n");
	free(j);
	free(t);
}

/* Its page is shared with a process that may be in a guest's hands. */
static void a_message_without_an_end_is_cut_and_forges_no_line(void **state)
{
	struct test_config *t = calloc(1, sizeof(*t));
	struct machine_end end = { 0 };
	struct test_job *j;

	memset(end.message, '\n', sizeof(end.message));
	j = failed_start(t, &end);
	assert_int_equal(strlen(j->message), sizeof(j->message) - 1);
	assert_int_equal(strspn(j->message, "?"), sizeof(j->message) - 1);
	free(j);
	free(t);
}

static void what_the_monitor_left_says_nothing_of_a_command_that_ran(void **state)
{
	struct test_config *t = calloc(1, sizeof(*t));
	struct machine_end end = { .message = "forged" };
	struct test_job *j = failed_start(t, &end);
	char *json;

	end.reason = MACHINE_END_POWEROFF;
	j->ready = j->reported = true;
	j->command_status = 0;
	test_decide(j, 0);
	assert_int_equal(j->outcome, TEST_EXIT);
	json = json_of(j);
	assert_non_null(strstr(json, "\"message\":null"));
	free(json);
	free(j);
	free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reports_say_why_a_monitor_did_not_start),
		cmocka_unit_test(junit_has_no_character_that_xml_has_not),
		cmocka_unit_test(a_command_forges_no_line_of_tap),
		cmocka_unit_test(a_message_without_an_end_is_cut_and_forges_no_line),
		cmocka_unit_test(what_the_monitor_left_says_nothing_of_a_command_that_ran),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
