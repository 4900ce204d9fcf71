#include "vmm/core/clock.h"

#include <time.h>

static uint64_t host_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

uint64_t clock_monotonic_ns(const struct clock *c)
{
	return c && c->is_virtual ? c->monotonic_ns : host_ns(CLOCK_MONOTONIC);
}

uint64_t clock_realtime_ns(const struct clock *c)
{
	return c && c->is_virtual ? c->realtime_ns : host_ns(CLOCK_REALTIME);
}

void clock_init_virtual(struct clock *c, uint64_t monotonic_ns, uint64_t realtime_ns)
{
	c->is_virtual = true;
	c->monotonic_ns = monotonic_ns;
	c->realtime_ns = realtime_ns;
}

void clock_advance(struct clock *c, uint64_t ns)
{
	c->monotonic_ns += ns;
	c->realtime_ns += ns;
}
