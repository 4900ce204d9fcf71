/* Options of `wisp run` in files: wisp's own kind. Firecracker's is for tests/guest/api. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/config/config_file.h"

#define MAX_GIVEN 16

struct place {
	char dir[40], file[64], saved[64];
};

static int setup(void **state)
{
	static struct place p;

	snprintf(p.dir, sizeof(p.dir), "/tmp/wisp-test-XXXXXX");
	assert_non_null(mkdtemp(p.dir));
	snprintf(p.file, sizeof(p.file), "%s/given", p.dir);
	snprintf(p.saved, sizeof(p.saved), "%s/saved", p.dir);
	*state = &p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	unlink(p->file);
	unlink(p->saved);
	return rmdir(p->dir);
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

/* Expand "--config-file FILE" and what follows; the words in one line. */
static int expand(const struct place *p, const char *text, char *const *more,
		  struct config_words *words, char *line, struct error *err)
{
	char *argv[MAX_GIVEN] = { "--config-file", (char *)p->file };
	int argc = 2, r;

	write_file(p->file, text);
	while (more && *more)
		argv[argc++] = *more++;
	r = config_words_expand(words, argc, argv, err);
	*line = '\0';
	for (int i = 0; i < words->argc; i++) {
		strcat(line, i ? " " : "");
		strcat(line, words->argv[i]);
	}
	return r;
}

static void expect(const struct place *p, const char *text, char *const *more, const char *want)
{
	struct config_words words = { 0 };
	struct error err = { 0 };
	char line[1000];

	assert_int_equal(expand(p, text, more, &words, line, &err), 0);
	assert_string_equal(line, want);
	config_words_free(&words);
}

static void file_names_options_as_the_command_line_does(void **state)
{
	expect(*state,
	       "{\"wisp-run\":{\"kernel\":\"k\",\"cpus\":2,\"disk\":[\"a,ro\",\"b\"],"
	       "\"admit\":true,"
	       "\"detach\":false,\"rng\":false,\"balloon\":true,\"image\":\"i.img\"}}",
	       NULL, "--kernel=k --cpus=2 --disk=a,ro --disk=b --admit --rng=off --balloon i.img");
}

static void command_line_goes_before_the_file(void **state)
{
	char *more[] = { "--cpus", "4", "--disk=c", "--", "--memory", NULL };

	/* What may be repeated is added; what comes after "--" is no option. */
	expect(*state, "{\"wisp-run\":{\"cpus\":2,\"disk\":\"a\",\"memory\":\"1G\"}}", more,
	       "--disk=a --memory=1G --cpus 4 --disk=c -- --memory");
}

static void refuse(const struct place *p, const char *text, const char *why)
{
	struct config_words words = { 0 };
	struct error err = { 0 };
	char line[1000];

	assert_true(expand(p, text, NULL, &words, line, &err) < 0);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_non_null(strstr(err.msg, why));
	assert_null(words.argv);
}

static void bad_files_are_refused_with_a_reason(void **state)
{
	refuse(*state, "{", "line 1");
	refuse(*state, "{\"wisp-run\":[]}", "is no object");
	refuse(*state, "{\"wisp-run\":{\"cpu-s\":1}}", "there is no option '--cpu-s'");
	refuse(*state, "{\"wisp-run\":{\"cpus\":{}}}", "'cpus' is no text");
	refuse(*state, "{\"wisp-run\":{\"disk\":[[\"a\"]]}}", "'disk' is no text");
	refuse(*state, "{\"wisp-run\":{},\"drives\":[]}", "nothing goes beside");
}

static void files_that_cannot_be_read_say_why(void **state)
{
	struct config_words words = { 0 };
	struct error err = { 0 };

	assert_true(config_words_expand(&words, 1, (char *[]){ "--config-file=/nonexistent/x" },
					&err) < 0);
	assert_string_equal(err.msg, "--config-file '/nonexistent/x': cannot open: "
				     "No such file or directory");
	assert_true(config_words_expand(&words, 1, (char *[]){ "--config-file=/" }, &err) < 0);
	assert_string_equal(err.msg, "--config-file '/': cannot read: Is a directory");
}

static void file_is_given_once(void **state)
{
	char *argv[] = { "--config-file=a", "--config-file=b" };
	struct config_words words = { 0 };
	struct error err = { 0 };

	assert_true(config_words_expand(&words, 2, argv, &err) < 0);
	assert_string_equal(err.msg, "--config-file: given twice");
	assert_true(config_words_expand(&words, 1, (char *[]){ "--save-config" }, &err) < 0);
	assert_string_equal(err.msg, "--save-config: needs a value: FILE");
}

static void what_is_saved_reads_back_the_same(void **state)
{
	struct place *p = *state;
	char *argv[] = { "--save-config", p->saved, "--cpus", "3",	"--disk=a,ro", "--disk",
			 "b",		  "--admit", "--detach", "--rng=off",   "--dry-run",
			 "image" };
	char *read[] = { "--config-file", p->saved };
	struct config_words words = { 0 }, again = { 0 };
	struct error err = { 0 };
	char line[1000] = "";

	assert_int_equal(config_words_expand(&words, ARRAY_SIZE(argv), argv, &err), 0);
	assert_int_equal(config_words_save(&words, &err), 0);
	assert_int_equal(config_words_expand(&again, 2, read, &err), 0);
	for (int i = 0; i < again.argc; i++) {
		strcat(line, again.argv[i]);
		strcat(line, " ");
	}
	assert_string_equal(line, "--cpus=3 --disk=a,ro --disk=b --admit --detach --rng=off "
				  "image ");
	assert_null(again.save);
	/* A --dry-run is meant for this once: nothing would ever start from the file otherwise. */
	config_words_free(&words);
	config_words_free(&again);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(file_names_options_as_the_command_line_does, setup,
						teardown),
		cmocka_unit_test_setup_teardown(command_line_goes_before_the_file, setup, teardown),
		cmocka_unit_test_setup_teardown(bad_files_are_refused_with_a_reason, setup,
						teardown),
		cmocka_unit_test(files_that_cannot_be_read_say_why),
		cmocka_unit_test(file_is_given_once),
		cmocka_unit_test_setup_teardown(what_is_saved_reads_back_the_same, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
