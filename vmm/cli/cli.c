#include "vmm/cli/cli.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/core/text.h"

#define WIDTH	    80
#define TERM_INDENT 2
#define TEXT_INDENT 24

const struct cli_verb *cli_find_verb(const char *name)
{
	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		if (!strcmp(v->name, name))
			return v;
	return NULL;
}

bool cli_asks_help(int argc, char **argv)
{
	for (int i = 0; i < argc && strcmp(argv[i], "--"); i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return true;
	return false;
}

void cli_format_option(char *buf, size_t size, const struct config_item *o)
{
	if (!o->value)
		snprintf(buf, size, "%s", o->name);
	else if (o->kind == CONFIG_FLAG)
		snprintf(buf, size, "%s [%s]", o->name, o->value);
	else
		snprintf(buf, size, "%s %s", o->name, o->value);
}

void cli_format_key(char *buf, size_t size, const struct config_item *k)
{
	snprintf(buf, size, k->kind == CONFIG_FLAG ? "%s[=%s]" : "%s=%s", k->name, k->value);
}

/* Print @text in words from column @indent on; the cursor is at @column. */
static void wrap(FILE *out, unsigned column, unsigned indent, const char *text)
{
	bool fresh = true;

	while (*text) {
		unsigned len = strcspn(text, " ");

		if (column > indent && column + 1 + len > WIDTH) {
			fputc('\n', out);
			column = 0;
			fresh = true;
		}
		if (column < indent)
			column += fprintf(out, "%*s", indent - column, "");
		else if (!fresh)
			column += fprintf(out, " ");
		column += fprintf(out, "%.*s", len, text);
		fresh = false;
		text += len;
		text += strspn(text, " ");
	}
	fputc('\n', out);
}

/* A term and, beside or below it, its text. */
static void print_entry(FILE *out, unsigned indent, const char *term, const char *text)
{
	unsigned column = fprintf(out, "%*s%s", indent, "", term);

	if (column + 2 > TEXT_INDENT) {
		fputc('\n', out);
		column = 0;
	}
	wrap(out, column, TEXT_INDENT, text);
}

static void print_entries(FILE *out, const char *title, const struct cli_entry *e)
{
	fprintf(out, "\n%s:\n", title);
	for (; e->term; e++)
		print_entry(out, TERM_INDENT, e->term, e->text);
}

static void print_help(FILE *out)
{
	fprintf(out, "wisp " WISP_VERSION ", a lightweight virtual machine monitor for KVM\n\n"
		     "usage: wisp VERB [ARGUMENT]...\n\n");
	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		print_entry(out, TERM_INDENT, v->name, v->text);
	fprintf(out, "\n'wisp help VERB' has the details, 'man wisp' all of them.\n");
}

static void print_option(FILE *out, const struct config_item *o)
{
	char term[120];

	cli_format_option(term, sizeof(term), o);
	print_entry(out, TERM_INDENT, term, o->text);
	for (const struct config_item *k = o->keys; k && k->name; k++) {
		cli_format_key(term, sizeof(term), k);
		print_entry(out, 2 * TERM_INDENT, term, k->text);
	}
}

void cli_print_verb(FILE *out, const struct cli_verb *v)
{
	fprintf(out, "usage: wisp %s%s%s\n\n", v->name, *v->arguments ? " " : "", v->arguments);
	wrap(out, 0, 0, v->more ? v->more : v->text);
	if (!v->options)
		return;
	fprintf(out, "\noptions:\n");
	for (const struct config_item *o = v->options; o->name; o++)
		print_option(out, o);
	if (v->options != config_run_options)
		return;
	fputc('\n', out);
	wrap(out, 0, 0, cli_values_text);
	print_entries(out, "keys on the terminal", cli_keys);
	print_entries(out, "exit status", cli_statuses);
}

static int unknown(const char *word)
{
	struct text_guess guess = { .typed = word, .len = strlen(word) };
	struct error err = { 0 };

	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		text_guess_add(&guess, v->name);
	if (guess.word)
		error_usage(&err, -EINVAL, "unknown command '%s': did you mean '%s'?", word,
			    guess.word);
	else
		error_usage(&err, -EINVAL, "unknown command '%s'", word);
	error_hint(&err, "'wisp help' lists what there is");
	error_print(&err);
	return error_status(&err);
}

static int one_too_many(const char *word)
{
	struct error err = { 0 };

	error_usage(&err, -EINVAL, "'%s' is one too many", word);
	error_print(&err);
	return error_status(&err);
}

static int help(int argc, char **argv)
{
	const struct cli_verb *v;

	if (argc > 1)
		return one_too_many(argv[1]);
	if (argc == 0)
		print_help(stdout);
	else if (!strcmp(argv[0], "--man"))
		cli_print_man(stdout);
	else if (!strcmp(argv[0], "--bash"))
		cli_print_bash(stdout);
	else if ((v = cli_find_verb(argv[0])))
		cli_print_verb(stdout, v);
	else
		return unknown(argv[0]);
	return fflush(stdout) ? 1 : 0;
}

static int version(int argc, char **argv)
{
	bool json = argc && !strcmp(argv[0], "--json");

	if (argc > json)
		return one_too_many(argv[json]);
	printf(json ? "{\"version\":\"" WISP_VERSION "\"}\n" : "wisp " WISP_VERSION "\n");
	return fflush(stdout) ? 1 : 0;
}

int cli_help(int argc, char **argv)
{
	const char *word = argc ? argv[0] : "help";

	if (!strcmp(word, "help") || !strcmp(word, "--help") || !strcmp(word, "-h"))
		return help(argc ? argc - 1 : 0, argv + 1);
	if (!strcmp(word, "version") || !strcmp(word, "--version"))
		return version(argc - 1, argv + 1);
	return cli_find_verb(word) ? help(1, argv) : unknown(word);
}
