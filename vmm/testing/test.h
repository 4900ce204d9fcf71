/*
 * `wisp test`: boot a kernel over a directory tree, run a command in it, and
 * know how it ended. And `wisp bisect`, which tells git bisect the same.
 *
 * A supervisor (this process) starts for each kernel a process that is the
 * parent of its microVM (vmm/launch.h), reads the kernel's log and what the guest's
 * init (guests/test) says, and decides. No threads.
 */
#ifndef WISP_VMM_TEST_H
#define WISP_VMM_TEST_H

#include "vmm/config/config_parse.h"

extern const struct config_item test_options[];

/* Is @option one of `wisp run` that no test takes? Its machine has its own in place of that. */
bool test_refuses(const char *option);

/* @argv: behind the verb. The exit status. */
int test_main(int argc, char **argv);
int bisect_main(int argc, char **argv);

#endif
