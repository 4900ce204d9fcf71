/*
 * How long a test waits for what is to come: until it is there, or long enough to be sure that it
 * never will be. By the clock, since a number of turns is an age on a busy machine and nothing on
 * an idle one.
 *
 *	for (uint64_t end = patience(); !done && !patience_ends(end);)
 *		loop_run_once(loop, NSEC_PER_MSEC);
 *	assert_true(done);
 */
#ifndef WISP_TESTS_PATIENCE_H
#define WISP_TESTS_PATIENCE_H

#include <stdlib.h>

#include "vmm/core/clock.h"
#include "vmm/core/util.h"

/* When a wait that begins now has been in vain: TEST_LIMIT seconds (150) from now. */
static inline uint64_t patience(void)
{
	const char *limit = getenv("TEST_LIMIT");
	uint64_t seconds = limit ? strtoul(limit, NULL, 10) : 0;

	return clock_monotonic_ns(NULL) + (seconds ? seconds : 150) * NSEC_PER_SEC;
}

static inline bool patience_ends(uint64_t end)
{
	return clock_monotonic_ns(NULL) >= end;
}

#endif
