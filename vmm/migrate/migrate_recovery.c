#include "vmm/migrate/migrate_recovery.h"

bool migrate_side_is(const struct migrate_side *side, const char *phase)
{
	return side->known && !strcmp(side->journal.phase, phase);
}

/* The source never committed and never will: nobody else may run the guest. */
static enum migrate_verdict never_left(const struct migrate_side *dst)
{
	if (!dst->known || dst->found == MIGRATE_GONE ||
	    migrate_side_is(dst, MIGRATE_PHASE_GIVEN_UP))
		return MIGRATE_SETTLED;
	if (dst->found == MIGRATE_WAITS || dst->found == MIGRATE_BUSY)
		return MIGRATE_END_THERE;
	return MIGRATE_ASK_AGAIN;
}

/* It ran at its destination, of which some of its memory was not there yet. */
static enum migrate_verdict in_two(const struct migrate_side *src, const struct migrate_side *dst)
{
	if (dst->found == MIGRATE_GONE)
		return MIGRATE_LOST;
	if (src->known && src->found == MIGRATE_GONE)
		return dst->found == MIGRATE_HOLDS ? MIGRATE_LOST : MIGRATE_ASK_AGAIN;
	return dst->found == MIGRATE_HOLDS ? MIGRATE_GO_ON : MIGRATE_ASK_AGAIN;
}

/* The source has committed: the guest is the destination's, unless that never ran it. */
static enum migrate_verdict handed_over(const struct migrate_side *src,
					const struct migrate_side *dst)
{
	bool waits = src->found == MIGRATE_WAITS;

	if (!dst->known && migrate_side_is(src, MIGRATE_PHASE_SERVING))
		return waits ? MIGRATE_GO_ON : MIGRATE_LOST;
	if (!dst->known)
		return waits ? MIGRATE_ASK_THERE : MIGRATE_SETTLED;
	if (migrate_side_is(dst, MIGRATE_PHASE_FILLING))
		return in_two(src, dst);
	/* The source has heard that it ran: then somebody has to look what became of it. */
	if (migrate_side_is(src, MIGRATE_PHASE_SERVING) &&
	    !migrate_side_is(dst, MIGRATE_PHASE_RUNNING))
		return waits ? MIGRATE_ASK_THERE : MIGRATE_LOST;
	if (migrate_side_is(dst, MIGRATE_PHASE_RUNNING))
		return waits ? MIGRATE_CONFIRM : MIGRATE_SETTLED;
	if (dst->found == MIGRATE_GONE || migrate_side_is(dst, MIGRATE_PHASE_GIVEN_UP))
		return waits ? MIGRATE_TAKE_BACK : MIGRATE_SETTLED;
	return dst->found == MIGRATE_WAITS ? MIGRATE_RUN_THERE : MIGRATE_ASK_AGAIN;
}

static enum migrate_verdict destination_alone(const struct migrate_side *dst)
{
	if (migrate_side_is(dst, MIGRATE_PHASE_RUNNING) ||
	    migrate_side_is(dst, MIGRATE_PHASE_GIVEN_UP))
		return MIGRATE_SETTLED;
	if (migrate_side_is(dst, MIGRATE_PHASE_FILLING))
		return in_two(&(struct migrate_side){ 0 }, dst);
	switch (dst->found) {
	case MIGRATE_SILENT:
		return MIGRATE_ASK_AGAIN;
	case MIGRATE_BUSY:
		return MIGRATE_UNDER_WAY;
	case MIGRATE_WAITS:
		return MIGRATE_ASK_THERE;
	default:
		return MIGRATE_SETTLED;
	}
}

enum migrate_verdict migrate_decide(const struct migrate_side *src, const struct migrate_side *dst)
{
	if (!src->known)
		return destination_alone(dst);
	switch (src->found) {
	case MIGRATE_SILENT:
		return MIGRATE_ASK_AGAIN;
	case MIGRATE_BUSY:
		return MIGRATE_UNDER_WAY;
	case MIGRATE_WAITS:
		return handed_over(src, dst);
	case MIGRATE_HOLDS:
		return never_left(dst);
	case MIGRATE_GONE:
		break;
	}
	if (migrate_side_is(src, MIGRATE_PHASE_COMMITTED) ||
	    migrate_side_is(src, MIGRATE_PHASE_SERVING))
		return handed_over(src, dst);
	return migrate_side_is(src, MIGRATE_PHASE_CONFIRMED) ? MIGRATE_SETTLED : never_left(dst);
}
