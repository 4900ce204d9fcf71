/*
 * Rate limits: token buckets, several of which may have to agree.
 *
 * A bucket refills at a steady rate up to its burst. A request may go as long as
 * the bucket is not empty, and then takes its whole cost, so that one that is
 * larger than the burst is late and not stuck; what it took too much is paid back
 * before the next one goes. Over time the rate is kept exactly.
 *
 * A limiter is shared by all queues of a device, whose loops may be threads of
 * their own, and its rates may change while it is in use: any thread.
 */
#ifndef WISP_CORE_RATE_H
#define WISP_CORE_RATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "vmm/core/util.h"

struct loop;
struct loop_timer;

struct rate {
	uint64_t per_second; /* 0: no limit */
	uint64_t burst;	     /* what may go at once after a pause; 0: what a quarter second gives */
	uint64_t once;	     /* beyond that, a single time: for what happens at boot */
};

/* What a device may do: operations (or frames) and bytes. */
struct rate_limits {
	struct rate ops, bytes;
};

struct rate_bucket {
	uint64_t per_second;
	uint64_t burst_ns; /* how long the burst takes to refill */
	uint64_t once;
	uint64_t due_ns;   /* when all that was taken will have been paid for */
	uint64_t rest;	   /* of due_ns, in parts of 1 / per_second ns */
};

struct rate_limiter {
	pthread_mutex_t lock;
	_Atomic bool limited; /* any rate is set */
	struct rate_bucket ops, bytes;
	struct rate_limits limits; /* as they were set */
};

/*
 * With @limits, which are copied, from the time @now_ns on, of the clock that all later calls go
 * by. Before threads share it; done when none does any more.
 */
void rate_limiter_init(struct rate_limiter *l, const struct rate_limits *limits, uint64_t now_ns);
void rate_limiter_done(struct rate_limiter *l);

/* As they were set last. */
void rate_limiter_get(struct rate_limiter *l, struct rate_limits *ret_limits);

/*
 * From now on. What was taken before is forgotten, but for a rate that stays as it is, burst and
 * all: what it gives once does not come again.
 */
void rate_limiter_set(struct rate_limiter *l, const struct rate_limits *limits, uint64_t now_ns);

/* How long to wait before the next request may go: 0 for not at all. */
uint64_t rate_limiter_wait_ns(struct rate_limiter *l, uint64_t now_ns);

/*
 * True when who serves on @loop has to wait before the next request: @t, a timer of that loop, then
 * expires when it may go. Else false and the time, for rate_limiter_take(); without a limit nothing
 * reads the clock and @ret_now_ns stays as it is. Called on the loop's thread.
 */
bool rate_limiter_holds(struct rate_limiter *l, struct loop *loop, struct loop_timer *t,
			uint64_t *ret_now_ns);

/* A request goes. */
void rate_limiter_take(struct rate_limiter *l, uint64_t now_ns, uint64_t ops, uint64_t bytes);

/* True when rate_limiter_take() has anything to do: saves reading the clock. */
static inline bool rate_limited(const struct rate_limiter *l)
{
	return atomic_load_explicit(&l->limited, memory_order_relaxed);
}

#endif
