#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "vmm/cli/cli.h"

#define MAX_FILE (1 << 20)

/* What @print writes; the caller frees it. */
static char *text_of(void (*print)(FILE *out))
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	print(f);
	assert_int_equal(fclose(f), 0);
	return text;
}

static void print_run(FILE *out)
{
	cli_print_verb(out, cli_find_verb("run"));
}

static void expect_file(const char *path, void (*print)(FILE *out), const char *how)
{
	char *want = text_of(print), *got = calloc(1, MAX_FILE);
	FILE *f = fopen(path, "r");

	assert_non_null(got);
	if (!f)
		fail_msg("%s is not there: run this in the top folder", path);
	assert_true(fread(got, 1, MAX_FILE - 1, f) < MAX_FILE - 1);
	fclose(f);
	if (strcmp(got, want))
		fail_msg("%s is out of date: %s", path, how);
	free(got);
	free(want);
}

static void the_manual_in_the_tree_is_what_the_tables_say(void **state)
{
	expect_file("docs/wisp.1", cli_print_man, "make docs");
}

static void the_completion_in_the_tree_is_what_the_tables_say(void **state)
{
	expect_file("docs/wisp.bash", cli_print_bash, "make docs");
}

static void help_and_completion_name_every_option_and_key(void **state)
{
	char *help = text_of(print_run), *bash = text_of(cli_print_bash);

	for (const struct config_item *o = config_run_options; o->name; o++) {
		assert_non_null(strstr(help, o->name));
		assert_non_null(strstr(bash, o->name));
		for (const struct config_item *k = o->keys; k && k->name; k++) {
			assert_non_null(strstr(help, k->name));
			assert_non_null(strstr(bash, k->name));
		}
	}
	free(help);
	free(bash);
}

/* Where to look when one that is detached does not do as it should. */
static void the_manual_names_the_files_of_a_running_microvm(void **state)
{
	char *man = text_of(cli_print_man);

	assert_non_null(strstr(man, ".SH FILES\n"));
	assert_non_null(strstr(man, ".TP\n\\fBRUNDIR/ID/log\\fR\n"));
	free(man);
}

/* What is offered in place of an option of @verb, for the caller to free. */
static char *offered(const char *bash, const char *verb)
{
	char label[32];
	const char *from, *end;

	snprintf(label, sizeof(label), "\n\t%s)\n", verb);
	from = strstr(bash, label);
	from = from ? strstr(from, "\t\t-*) _wisp_words \"") : NULL;
	if (!from)
		fail_msg("nothing is offered for %s", verb);
	from = strchr(from, '"') + 1;
	end = strstr(from, "\" ;;");
	assert_non_null(end);
	return strndup(from, end - from);
}

static bool is_offered(const char *words, const char *option)
{
	size_t len = strlen(option);

	for (const char *p = words; (p = strstr(p, option)); p += len)
		if ((p == words || p[-1] == ' ') && (p[len] == ' ' || !p[len]))
			return true;
	return false;
}

static void completion_offers_each_verb_what_it_takes(void **state)
{
	char *bash = text_of(cli_print_bash), *words;

	for (const struct cli_verb *v = cli_verbs; v->name; v++) {
		if (!v->options)
			continue;
		words = offered(bash, v->name);
		for (const struct config_item *o = v->options; o->name; o++)
			if (!is_offered(words, o->name))
				fail_msg("%s %s is not offered", v->name, o->name);
		assert_true(is_offered(words, "--help"));
		free(words);
	}
	/* A test is a run too, but for what its machine has of its own. */
	words = offered(bash, "test");
	assert_true(is_offered(words, "--disk") && is_offered(words, "--gdb"));
	assert_false(is_offered(words, "--initrd") || is_offered(words, "--detach"));
	free(words);
	free(bash);
}

static void tables_are_fit_to_be_parsed_by(void **state)
{
	unsigned n = 0;

	for (const struct config_item *o = config_run_options; o->name; o++, n++) {
		assert_true(!strncmp(o->name, "--", 2));
		assert_true(o->kind != CONFIG_CUSTOM || o->parse);
		assert_true(o->kind != CONFIG_NUMBER || o->max);
		/* A flag without a word for its value can only be switched on. */
		assert_true(o->kind == CONFIG_FLAG || o->kind == CONFIG_CUSTOM || o->value);
		for (const struct config_item *p = config_run_options; p < o; p++)
			assert_string_not_equal(o->name, p->name);
		for (const struct config_item *k = o->keys; k && k->name; k++)
			assert_non_null(k->value);
	}
	/* One bit each says what was given. */
	assert_true(n <= 64);
}

static void help_fits_a_terminal(void **state)
{
	char *help = text_of(print_run), *save = NULL;

	for (char *line = strtok_r(help, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		assert_true(strlen(line) <= 80);
	free(help);
}

static void manual_lines_never_start_with_an_accidental_command(void **state)
{
	static const char *const commands[] = { ".SH", ".SS", ".TP", ".PP", ".RS", ".RE",
						".TH", ".B ", ".br", ".nh", ".ad", ".\\\"" };
	char *man = text_of(cli_print_man), *save = NULL;

	for (char *line = strtok_r(man, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		bool known = false;

		for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
			known |= !strncmp(line, commands[i], strlen(commands[i]));
		assert_true(known || (line[0] != '.' && line[0] != '\''));
	}
	free(man);
}

static void help_is_asked_for_only_in_front_of_a_double_dash(void **state)
{
	char *asks[] = { "--cpus", "2", "--help" }, *after[] = { "--", "-h" },
	     *shortly[] = { "-h" };

	assert_true(cli_asks_help(3, asks));
	assert_true(cli_asks_help(1, shortly));
	assert_false(cli_asks_help(2, after));
	assert_false(cli_asks_help(0, NULL));
}

static void an_unknown_verb_is_a_usage_error(void **state)
{
	char *verb[] = { "frob" }, *help[] = { "help", "frob" };

	assert_null(cli_find_verb("frob"));
	assert_int_equal(cli_help(1, verb), 2);
	assert_int_equal(cli_help(2, help), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_manual_names_the_files_of_a_running_microvm),
		cmocka_unit_test(the_manual_in_the_tree_is_what_the_tables_say),
		cmocka_unit_test(the_completion_in_the_tree_is_what_the_tables_say),
		cmocka_unit_test(help_and_completion_name_every_option_and_key),
		cmocka_unit_test(completion_offers_each_verb_what_it_takes),
		cmocka_unit_test(tables_are_fit_to_be_parsed_by),
		cmocka_unit_test(help_fits_a_terminal),
		cmocka_unit_test(manual_lines_never_start_with_an_accidental_command),
		cmocka_unit_test(help_is_asked_for_only_in_front_of_a_double_dash),
		cmocka_unit_test(an_unknown_verb_is_a_usage_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
