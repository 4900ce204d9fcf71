/* The verbs that save microVMs and bring them back: rows of cli_text.c. */
#ifndef WISP_VMM_CLI_SNAPSHOT_H
#define WISP_VMM_CLI_SNAPSHOT_H

#include "vmm/config/config_parse.h"

extern const struct config_item snapshot_options[];
extern const struct config_item restore_options[];

extern const struct config_item clone_options[];
extern const struct config_item reset_options[];

int snapshot_main(int argc, char **argv);
int restore_main(int argc, char **argv);
int clone_main(int argc, char **argv);
int reset_main(int argc, char **argv);

#endif
