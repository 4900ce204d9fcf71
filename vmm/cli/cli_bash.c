/* Completion for bash: docs/wisp.bash is what this prints. */
#include "vmm/cli/cli.h"

#include <ctype.h>

#include "vmm/testing/test.h"

/*
 * The words of "stdio|none|file=PATH" as "stdio none file=": what a person
 * chooses (in capitals) is left out.
 */
static void put_words(FILE *out, const char *value)
{
	for (const char *w = value; *w;) {
		size_t len = strcspn(w, "|"), fixed = 0;

		while (fixed < len && !isupper((unsigned char)w[fixed]) && w[fixed] != '[')
			fixed++;
		fprintf(out, "%s%.*s", w == value ? "" : " ", (int)fixed, w);
		w += len;
		w += *w == '|';
	}
}

static bool is_path(const char *value)
{
	return !strncmp(value, "PATH", 4) || !strncmp(value, "FILE", 4) ||
	       !strncmp(value, "DIR", 3);
}

/* How the value of option @o is completed; options without a fixed set of values offer nothing. */
static void put_value(FILE *out, const struct config_item *o)
{
	if (!o->value || o->kind == CONFIG_FLAG)
		return;
	fprintf(out, "\t\t%s)\n", o->name);
	if (o->keys) {
		fputs("\t\t\tcase $cur in *,*)\n\t\t\t\t_wisp_keys \"", out);
		for (const struct config_item *k = o->keys; k->name; k++)
			fprintf(out, "%s%s%s", k == o->keys ? "" : " ", k->name,
				k->kind == CONFIG_FLAG ? "" : "=");
		fputs("\"\n\t\t\t\treturn ;;\n\t\t\tesac\n", out);
	}
	if (is_path(o->value)) {
		fputs("\t\t\t_wisp_files\n", out);
	} else if (strchr(o->value, '|') && o->value[0] != '[') {
		fputs("\t\t\t_wisp_words \"", out);
		put_words(out, o->value);
		fputs("\"\n", out);
	}
	fputs("\t\t\treturn ;;\n", out);
}

/* How arguments that are no options are completed: the first one, and those behind it. */
static void put_arguments(FILE *out, const struct cli_verb *v)
{
	const char *words = v->words ? v->words : "";

	if (v->first == CLI_FILE)
		fputs("\t\t*) _wisp_files ;;\n", out);
	else if (v->first == CLI_VERB)
		fputs("\t\t*) _wisp_words \"$verbs\" ;;\n", out);
	else if (v->first == CLI_ID || v->words)
		fprintf(out, "\t\t*) %s%s \"%s\"%s ;;\n",
			v->takes_files ?
				"if [ \"$COMP_CWORD\" -gt 2 ]; then _wisp_files; else " : "",
			v->first == CLI_ID ? "_wisp_ids" : "_wisp_words", words,
			v->takes_files ? "; fi" : "");
}

static bool has_own(const struct cli_verb *v, const char *option)
{
	for (const struct config_item *o = v->options; o->name; o++)
		if (!strcmp(o->name, option))
			return true;
	return false;
}

static void put_name(FILE *out, const struct config_item *o)
{
	fprintf(out, "%s ", o->name);
}

/* @put each option that @v takes. */
static void put_options(FILE *out, const struct cli_verb *v,
			void (*put)(FILE *out, const struct config_item *o))
{
	for (const struct config_item *o = v->options; o->name; o++)
		put(out, o);
	for (const struct config_item *o = config_run_options; v->is_test && o->name; o++)
		if (!has_own(v, o->name) && !test_refuses(o->name))
			put(out, o);
}

static void put_verb(FILE *out, const struct cli_verb *v)
{
	if (!v->options)
		return;
	fprintf(out, "\t%s)\n", v->name);
	if (v->is_test)
		fputs("\t\tcase \" ${COMP_WORDS[*]:2:COMP_CWORD-2} \" in *\" -- \"*)\n"
		      "\t\t\t_wisp_command\n\t\t\treturn ;;\n\t\tesac\n",
		      out);
	fputs("\t\tcase $prev in\n", out);
	put_options(out, v, put_value);
	fputs("\t\tesac\n\t\tcase $cur in\n\t\t-*) _wisp_words \"", out);
	put_options(out, v, put_name);
	fputs("--help\" ;;\n", out);
	put_arguments(out, v);
	fputs("\t\tesac ;;\n", out);
}

void cli_print_bash(FILE *out)
{
	fputs("# bash completion for wisp, printed by 'wisp help --bash' from the option tables.\n"
	      "# shellcheck shell=bash\n\n"
	      "_wisp_words()\n{\n"
	      "\tmapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$cur\")\n"
	      "\tcase ${COMPREPLY[0]-} in *=) compopt -o nospace ;; esac\n}\n\n"
	      "_wisp_files()\n{\n"
	      "\tcompopt -o filenames\n"
	      "\tmapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n}\n\n"
	      "# A command of this host's, and the files that are its arguments.\n"
	      "_wisp_command()\n{\n"
	      "\tif [ \"$prev\" = -- ]; then\n"
	      "\t\tmapfile -t COMPREPLY < <(compgen -c -- \"$cur\")\n"
	      "\telse\n\t\t_wisp_files\n\tfi\n}\n\n"
	      "# The names of running microVMs, and the words given.\n"
	      "_wisp_ids()\n{\n"
	      "\t_wisp_words \"$1 $(\"${COMP_WORDS[0]}\" ls 2>/dev/null | "
	      "sed '1d;$d;s/ .*//' | tr '\\n' ' ')\"\n}\n\n"
	      "_wisp_keys()\n{\n"
	      "\tcompopt -o nospace\n"
	      "\tmapfile -t COMPREPLY < <(compgen -P \"${cur%,*},\" -W \"$1\" -- "
	      "\"${cur##*,}\")\n}\n\n"
	      "_wisp()\n{\n"
	      "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
	      "\tlocal verbs=\"",
	      out);
	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		fprintf(out, "%s%s", v == cli_verbs ? "" : " ", v->name);
	fputs("\"\n\n\tCOMPREPLY=()\n"
	      "\tif [ \"$COMP_CWORD\" -eq 1 ]; then\n"
	      "\t\t_wisp_words \"$verbs\"\n"
	      "\t\treturn\n\tfi\n"
	      "\t# bash splits --option=value at the sign.\n"
	      "\tif [ \"$cur\" = = ]; then\n"
	      "\t\tcur=\n"
	      "\telif [ \"$prev\" = = ]; then\n"
	      "\t\tprev=${COMP_WORDS[COMP_CWORD-2]}\n"
	      "\tfi\n"
	      "\tcase ${COMP_WORDS[1]} in\n",
	      out);
	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		put_verb(out, v);
	fputs("\tesac\n}\n\ncomplete -F _wisp wisp\n", out);
}
