/*
 * A back end of the event loop that does nothing by itself: what is carried out, when, in which
 * order, and whether it fails, is drawn from a seed. It takes the place of the epoll one (the
 * linker finds loop_epoll_ops here first), so that every part of wisp runs over it unchanged.
 *
 * An operation is first carried out, then delivered, at two moments of their own choice: a read
 * may fill its buffer long before anybody is told, or right before. All loops of the process
 * belong to one thread and to one struct loop_sim. A loop that waits lets the others run.
 */
#ifndef WISP_TESTS_LOOP_SIM_H
#define WISP_TESTS_LOOP_SIM_H

#include "vmm/core/loop.h"

/* Repeatable chance; any seed does. */
struct chance {
	uint64_t state;
};

static inline uint32_t chance_below(struct chance *c, uint32_t n)
{
	uint64_t z = c->state += 0x9e3779b97f4a7c15ull; /* splitmix64 */

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return (uint32_t)((z ^ (z >> 31)) >> 32) % n;
}

/* True @n times in a hundred. */
static inline bool chance_percent(struct chance *c, unsigned n)
{
	return chance_below(c, 100) < n;
}

#define LOOP_SIM_MAX_LOOPS 8

struct loop_sim {
	struct chance *chance;
	bool hurry;	     /* everything that can be done is done at once */
	unsigned fault_percent; /* of reads and writes of files */
	struct loop *loop[LOOP_SIM_MAX_LOOPS];
	unsigned num_loops;
	uint64_t operations, faults;
	void (*trace)(const char *fmt, ...) __printf(1, 2); /* of what the loops do */
	/* Something is wrong; does not return. */
	void (*wrong)(const char *fmt, ...) __printf(1, 2) __attribute__((noreturn));
};

/* Loops made from now on are @sim's. */
void loop_sim_use(struct loop_sim *sim);

/* Operations that have been submitted to @loop and not delivered, but for events and polls. */
unsigned loop_sim_outstanding(const struct loop *loop);

#endif
