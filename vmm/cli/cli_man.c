/* The manual page, wisp(1): docs/wisp.1 is what this prints. */
#include "vmm/cli/cli.h"

/* roff takes a backslash for an escape, "-" for a hyphen, and a line's first dot for a command. */
static void put_text(FILE *out, const char *text)
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", out);
	for (; *text; text++) {
		if (*text == '\\')
			fputs("\\e", out);
		else if (*text == '-')
			fputs("\\-", out);
		else
			fputc(*text, out);
	}
}

static void put_line(FILE *out, const char *text)
{
	put_text(out, text);
	fputc('\n', out);
}

static void put_entry(FILE *out, const char *term, const char *text)
{
	fputs(".TP\n\\fB", out);
	put_text(out, term);
	fputs("\\fR\n", out);
	put_line(out, text);
}

static void put_entries(FILE *out, const char *title, const struct cli_entry *e)
{
	fprintf(out, ".SH %s\n", title);
	for (; e->term; e++)
		put_entry(out, e->term, e->text);
}

static void put_option(FILE *out, const struct config_item *o)
{
	char term[120];

	cli_format_option(term, sizeof(term), o);
	put_entry(out, term, o->text);
	if (!o->keys)
		return;
	fputs(".RS\n", out);
	for (const struct config_item *k = o->keys; k->name; k++) {
		cli_format_key(term, sizeof(term), k);
		put_entry(out, term, k->text);
	}
	fputs(".RE\n", out);
}

static void put_verb(FILE *out, const struct cli_verb *v)
{
	fprintf(out, ".SS wisp %s%s", v->name, *v->arguments ? " " : "");
	put_line(out, v->arguments);
	put_text(out, v->text);
	fputs(".\n", out);
	if (v->more) {
		fputs(".PP\n", out);
		put_line(out, v->more);
	}
	for (const struct config_item *o = v->options; o && o->name; o++)
		put_option(out, o);
}

void cli_print_man(FILE *out)
{
	fputs(".\\\" Printed by 'wisp help \\-\\-man' from the option tables; edit those.\n"
	      ".TH WISP 1 \"\" \"wisp " WISP_VERSION "\" \"User Commands\"\n"
	      ".nh\n.ad l\n"
	      ".SH NAME\nwisp \\- a lightweight virtual machine monitor for KVM\n"
	      ".SH SYNOPSIS\n",
	      out);
	for (const struct cli_verb *v = cli_verbs; v->name; v++) {
		fprintf(out, "%s.B wisp %s\n", v == cli_verbs ? "" : ".br\n", v->name);
		if (*v->arguments)
			put_line(out, v->arguments);
	}
	fputs(".SH DESCRIPTION\n"
	      ".B wisp\nboots Linux guests on KVM without root. A microVM is a small parent "
	      "process, "
	      "the monitor that it forks, and a helper for user networking. There is no daemon.\n",
	      out);
	fputs(".SH VERBS\n", out);
	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		put_verb(out, v);
	fputs(".SH VALUES\n", out);
	put_line(out, cli_values_text);
	put_entries(out, "KEYS ON THE TERMINAL", cli_keys);
	put_entries(out, "EXIT STATUS", cli_statuses);
	put_entries(out, "FILES", cli_files);
	put_entries(out, "EXAMPLES", cli_examples);
}
