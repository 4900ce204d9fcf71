/* The verbs that move a running microVM to another monitor: rows of cli_text.c. */
#ifndef WISP_VMM_CLI_MIGRATE_H
#define WISP_VMM_CLI_MIGRATE_H

#include "vmm/config_parse.h"

extern const struct config_item migrate_options[];
extern const struct config_item receive_options[];

int migrate_main(int argc, char **argv);
int receive_main(int argc, char **argv);

/*
 * Settle what crashed migrations left, as far as it can be told from here; says each case in
 * words. @id: of this microVM alone; or NULL. Returns how many are left, or -errno.
 */
int migrate_recover(const char *run_dir, const char *id, struct error *err);

#endif
