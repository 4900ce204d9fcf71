/*
 * The rings of a monitor in a guest's hands: what the kernel says to entries of an attacker's
 * choice. Part of build/wisp-hostile alone.
 */
#ifndef WISP_TESTS_HOSTILE_RINGS_H
#define WISP_TESTS_HOSTILE_RINGS_H

#include <liburing.h>

#define MAX_RINGS 8

/* Every ring of the process, in the order in which they were made: the main loop's first. */
struct hostile_rings {
	struct io_uring *ring[MAX_RINGS];
	unsigned num;
};

/*
 * On a ring that the calling thread may use: every operation there is, every flag on those that
 * are allowed, and those on descriptors, buffers and credentials that are none. A line on
 * stderr for each,
 *   hostile: entry NUMBER NAME flags FLAGS, WHAT: RESULT
 * Returns how many there were, or -errno when the ring takes none.
 */
int hostile_try_entries(struct io_uring *ring);

/* Enter a ring that is another thread's. Returns what the kernel says. */
int hostile_enter(struct io_uring *ring);

#endif
