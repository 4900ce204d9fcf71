/*
 * What the command line offers, told from one set of tables: the verbs here
 * and the options of vmm/config/config_parse.h. `wisp help`, the man page and shell
 * completion are printed from them and so cannot drift from what is parsed.
 *
 * No state; prints to the stream it is given.
 */
#ifndef WISP_VMM_CLI_H
#define WISP_VMM_CLI_H

#include <stdio.h>

#include "vmm/config/config_parse.h"

struct cli_verb {
	const char *name;
	const char *arguments; /* what follows it: "[OPTION]... [IMAGE]" */
	const char *text;      /* in one line */
	const char *more;      /* a paragraph, or NULL */
	const struct config_item *options; /* or NULL */
	/* For completion. What its first argument may be, and whether files are among the rest. */
	enum { CLI_WORDS, CLI_ID, CLI_VERB, CLI_FILE } first;
	bool takes_files;
	const char *words; /* that may be in the place of the first, or NULL */
	bool is_test;	   /* takes options of `wisp run` too, and a command of this host's */
	/* Carries it out: the arguments behind the verb. Returns the exit status. */
	int (*main)(int argc, char **argv);
};

/* Exit statuses, examples: a term and what it means. Both tables end without a term. */
struct cli_entry {
	const char *term;
	const char *text;
};

extern const struct cli_verb cli_verbs[];
extern const struct cli_entry cli_statuses[]; /* of `wisp run` */
extern const struct cli_entry cli_examples[];
extern const struct cli_entry cli_files[]; /* of the run directory */
extern const struct cli_entry cli_keys[]; /* what Ctrl-A does */
extern const char cli_values_text[];	  /* how values are written */

/*
 * The verbs themselves, each where its subject is: cli_verb's main(). Messages go to stderr; the
 * status is 2 for arguments or a host's resource that cannot be used, 1 for other failures, unless
 * the verb's help says otherwise. @argv is borrowed. One thread.
 */
int run_main(int argc, char **argv);
int ls_main(int argc, char **argv);
int stat_main(int argc, char **argv);
int top_main(int argc, char **argv);
int events_main(int argc, char **argv);
int pause_main(int argc, char **argv);
int change_main(int argc, char **argv);
int plug_main(int argc, char **argv);
int unplug_main(int argc, char **argv);
int resume_main(int argc, char **argv);
int stop_main(int argc, char **argv);
int core_main(int argc, char **argv);
int gdb_main(int argc, char **argv);
int kill_main(int argc, char **argv);
int console_main(int argc, char **argv);
int api_main(int argc, char **argv);
int jailer_main(int argc, char **argv); /* under that name alone */

extern const struct config_item cli_gdb_options[];

/* NULL when there is no such verb. */
const struct cli_verb *cli_find_verb(const char *name);

/*
 * `wisp help [VERB | --man | --bash]`, `wisp version`, and whatever else no
 * verb answers to: @argv[0] is the first word after "wisp", if there is one.
 * Returns the exit status: 2, with a message, for a word that is unknown.
 */
int cli_help(int argc, char **argv);

/* Is "--help" or "-h" among a verb's arguments, in front of any "--"? */
bool cli_asks_help(int argc, char **argv);

/*
 * `wisp help VERB`, as plain text in lines of 80 columns; all of it, as a man page in roff and as a
 * completion for bash. To @out, whose errors are the caller's to ask for.
 */
void cli_print_verb(FILE *out, const struct cli_verb *verb);
void cli_print_man(FILE *out);
void cli_print_bash(FILE *out);

/* How an option or key is written with its value: "--rng [on|off]", "ro[=on|off]". */
void cli_format_option(char *buf, size_t size, const struct config_item *option);
void cli_format_key(char *buf, size_t size, const struct config_item *key);

#endif
