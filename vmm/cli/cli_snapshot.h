/* The verbs that save microVMs and bring them back: rows of cli_text.c. */
#ifndef WISP_VMM_CLI_SNAPSHOT_H
#define WISP_VMM_CLI_SNAPSHOT_H

#include "vmm/config/config_parse.h"

extern const struct config_item snapshot_options[];
extern const struct config_item restore_options[];

extern const struct config_item clone_options[];
extern const struct config_item reset_options[];

/*
 * Save the microVM @id, found in @run_dir (NULL: where they are by default), as `wisp snapshot
 * --stop` does it: at @path, and then it ends. Prints nothing.
 */
int snapshot_and_end(const char *run_dir, const char *id, const char *path, struct error *err);

/* Rows of cli_text.c: the arguments behind the verb, its exit status (struct cli_verb). */
int snapshot_main(int argc, char **argv);
int restore_main(int argc, char **argv);
int clone_main(int argc, char **argv);
int reset_main(int argc, char **argv);

#endif
