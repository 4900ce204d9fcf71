/* Descriptors of this process, for unit tests: whether one was left open, and what is done without.
 */
#ifndef WISP_TESTS_NUM_FDS_H
#define WISP_TESTS_NUM_FDS_H

#include <sys/resource.h>

struct loop;

/* How many are open. */
unsigned num_fds(void);

/* From here on none can be opened, until setrlimit(RLIMIT_NOFILE) with what it was before. */
void no_fds_left(struct rlimit *ret_before);

/* Let @loop turn 30 times, for a millisecond each, without any; how often it did something. */
unsigned rounds_without_fds(struct loop *loop);

#endif
