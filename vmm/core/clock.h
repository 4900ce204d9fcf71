/*
 * Time as devices and timers see it: the host's clocks, or in tests a virtual
 * one that moves only when told to. Embedded or static; any thread may read.
 */
#ifndef WISP_CORE_CLOCK_H
#define WISP_CORE_CLOCK_H

#include "vmm/core/util.h"

struct clock {
	/* NULL: the host's clocks. Otherwise the virtual clock's own state. */
	bool is_virtual;
	uint64_t monotonic_ns;
	uint64_t realtime_ns;
};

/* Nanoseconds of CLOCK_MONOTONIC (or the virtual clock). @c may be NULL: the host's. */
uint64_t clock_monotonic_ns(const struct clock *c);

/* Nanoseconds since the epoch. */
uint64_t clock_realtime_ns(const struct clock *c);

/* A clock that stands still at the given times. */
void clock_init_virtual(struct clock *c, uint64_t monotonic_ns, uint64_t realtime_ns);

/* Move a virtual clock forward; both times advance alike. One thread only. */
void clock_advance(struct clock *c, uint64_t ns);

#endif
