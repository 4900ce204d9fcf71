/*
 * A bucket is kept as a time: when it would be full again if nothing more was
 * taken. Empty is one burst before that. No tokens are added by a clock, and
 * nothing is rounded away: the rest of each division is carried.
 */
#include "vmm/core/rate.h"

#include "vmm/core/clock.h"
#include "vmm/core/loop.h"

/* Long enough that a busy host loses nothing of the rate, short enough for 5% over 10 seconds. */
#define DEFAULT_BURST_NS (NSEC_PER_SEC / 4)
#define MAX_BURST_NS	 (1ull << 62) /* twice that, and a request of 4 GiB, still fit 64 bits */

static void bucket_set(struct rate_bucket *b, const struct rate *rate, uint64_t now_ns)
{
	uint64_t burst = rate->burst;

	*b = (struct rate_bucket){
		.per_second = rate->per_second,
		.burst_ns = DEFAULT_BURST_NS,
		.once = rate->once,
		.due_ns = now_ns,
	};
	if (!b->per_second)
		return;
	if (burst)
		b->burst_ns = MIN((__uint128_t)burst * NSEC_PER_SEC / b->per_second,
				  (__uint128_t)MAX_BURST_NS);
	/* Never 0, or nothing would ever go. */
	b->burst_ns = MAX(b->burst_ns, 1ull);
}

/* One whose numbers stay is as full as it is, or changing the other one would fill it again. */
static void bucket_change(struct rate_bucket *b, const struct rate *from, const struct rate *to,
			  uint64_t now_ns)
{
	if (from->per_second != to->per_second || from->burst != to->burst ||
	    from->once != to->once)
		bucket_set(b, to, now_ns);
}

static uint64_t bucket_wait_ns(const struct rate_bucket *b, uint64_t now_ns)
{
	uint64_t debt_ns = b->due_ns > now_ns ? b->due_ns - now_ns : 0;

	if (!b->per_second || b->once || debt_ns < b->burst_ns)
		return 0;
	return debt_ns - b->burst_ns + 1;
}

static void bucket_take(struct rate_bucket *b, uint64_t now_ns, uint64_t cost)
{
	uint64_t once = MIN(cost, b->once);
	__uint128_t parts;

	if (!b->per_second)
		return;
	b->once -= once;
	cost -= once;
	if (b->due_ns < now_ns) {
		b->due_ns = now_ns;
		b->rest = 0;
	}
	parts = (__uint128_t)cost * NSEC_PER_SEC + b->rest;
	b->due_ns += parts / b->per_second;
	b->rest = parts % b->per_second;
}

void rate_limiter_init(struct rate_limiter *l, const struct rate_limits *limits, uint64_t now_ns)
{
	memset(l, 0, sizeof(*l));
	pthread_mutex_init(&l->lock, NULL);
	rate_limiter_set(l, limits, now_ns);
}

void rate_limiter_done(struct rate_limiter *l)
{
	pthread_mutex_destroy(&l->lock);
}

void rate_limiter_set(struct rate_limiter *l, const struct rate_limits *limits, uint64_t now_ns)
{
	pthread_mutex_lock(&l->lock);
	bucket_change(&l->ops, &l->limits.ops, &limits->ops, now_ns);
	bucket_change(&l->bytes, &l->limits.bytes, &limits->bytes, now_ns);
	l->limited = limits->ops.per_second || limits->bytes.per_second;
	l->limits = *limits;
	pthread_mutex_unlock(&l->lock);
}

void rate_limiter_get(struct rate_limiter *l, struct rate_limits *ret_limits)
{
	pthread_mutex_lock(&l->lock);
	*ret_limits = l->limits;
	pthread_mutex_unlock(&l->lock);
}

uint64_t rate_limiter_wait_ns(struct rate_limiter *l, uint64_t now_ns)
{
	uint64_t wait_ns;

	if (!rate_limited(l))
		return 0;
	pthread_mutex_lock(&l->lock);
	wait_ns = MAX(bucket_wait_ns(&l->ops, now_ns), bucket_wait_ns(&l->bytes, now_ns));
	pthread_mutex_unlock(&l->lock);
	return wait_ns;
}

bool rate_limiter_holds(struct rate_limiter *l, struct loop *loop, struct loop_timer *t,
			uint64_t *ret_now_ns)
{
	uint64_t wait_ns;

	if (!rate_limited(l))
		return false;
	*ret_now_ns = clock_monotonic_ns(loop_clock(loop));
	wait_ns = rate_limiter_wait_ns(l, *ret_now_ns);
	if (wait_ns)
		loop_timer_set(loop, t, *ret_now_ns + wait_ns);
	return wait_ns;
}

void rate_limiter_take(struct rate_limiter *l, uint64_t now_ns, uint64_t ops, uint64_t bytes)
{
	if (!rate_limited(l))
		return;
	pthread_mutex_lock(&l->lock);
	bucket_take(&l->ops, now_ns, ops);
	bucket_take(&l->bytes, now_ns, bytes);
	pthread_mutex_unlock(&l->lock);
}
