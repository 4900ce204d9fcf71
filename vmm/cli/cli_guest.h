/* The verbs that reach into a running guest, and their options, for vmm/cli/cli_text.c. */
#ifndef WISP_VMM_CLI_GUEST_H
#define WISP_VMM_CLI_GUEST_H

#include "vmm/config/config_parse.h"

extern const struct config_item balloon_options[];
extern const struct config_item exec_options[];
extern const struct config_item memory_options[];
extern const struct config_item cp_options[];

/* Rows of cli_text.c: the arguments behind the verb, its exit status (struct cli_verb). */
int balloon_main(int argc, char **argv);
int exec_main(int argc, char **argv);
int memory_main(int argc, char **argv);
int cp_main(int argc, char **argv);

#endif
