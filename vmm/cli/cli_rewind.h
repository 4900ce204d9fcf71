/*
 * wisp rewind: a microVM taken back along a ring of forks of it.
 *
 * The recorder is a process of its own: every so often it has the microVM forked
 * (vmm/cli/cli_fork.h), keeps the fork as it is, and lets go of the oldest. Nothing of it runs, and
 * nothing but disks is copied: it costs page tables and the pages that were written since. Whoever
 * asks at the recorder's socket (RUNDIR/ID.rewind, requests as at a control socket) gets a microVM
 * made of the moment it wants; the one that runs ends then. The recorder outlives a guest that came
 * to a bad end.
 *
 * {"do":"rewind","ms":N,"paused":BOOL}: back by N ms, from now or from the guest's end. Reply:
 * {"id":the new one's,"back_ms"}. {"do":"list"}: {"moments":[{"back_ms","pause_us","fork_us"}...]},
 * the latest first, "end": how it ended, if it did. {"do":"drop"}: the recorder ends.
 */
#ifndef WISP_VMM_CLI_REWIND_H
#define WISP_VMM_CLI_REWIND_H

#include "vmm/config/config_parse.h"

extern const struct config_item rewind_options[];

/* A row of cli_text.c: the arguments behind the verb, its exit status (struct cli_verb). */
int rewind_main(int argc, char **argv);

/* Record moments of the microVM @id until it has ended, and hold them then. Returns a status. */
int rewind_record(const char *run_dir, const char *id, const struct config_rewind *config);

/* Where the recorder of @id listens, into @buf; with @create its directory is made. -errno. */
int rewind_path(char *buf, size_t size, const char *run_dir, const char *id, bool create,
		struct error *err);

#endif
