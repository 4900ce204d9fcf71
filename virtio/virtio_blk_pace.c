#include "virtio/virtio_blk_pace.h"

#include "vmm/core/util.h"

static void begin(struct blk_pace *p, bool patient, uint32_t length)
{
	p->patient = patient;
	p->kicks = p->chains = 0;
	p->length = length;
}

void blk_pace_init(struct blk_pace *p)
{
	*p = (struct blk_pace){ .interval = BLK_PACE_FIRST };
	begin(p, false, p->interval);
}

void blk_pace_quiet(struct blk_pace *p)
{
	begin(p, false, p->interval);
}

/* At least three a doorbell, and half as many again as when it was served at once. */
static bool pays(const struct blk_pace *p)
{
	return p->chains >= 3 * p->kicks &&
	       2ull * p->chains * p->before_kicks >= 3ull * p->before_chains * p->kicks;
}

bool blk_pace_kicked(struct blk_pace *p, unsigned chains)
{
	p->kicks++;
	p->chains += chains;
	if (p->kicks < p->length)
		return p->patient;
	if (!p->patient) {
		p->before_kicks = p->kicks;
		p->before_chains = p->chains;
		p->windows = 0;
		begin(p, true, BLK_PACE_TRIAL);
	} else if (pays(p) && p->windows < BLK_PACE_WINDOWS) {
		p->windows++;
		begin(p, true, BLK_PACE_WINDOW);
	} else {
		/* One that failed is not soon repeated: it costs those who give one at a time. */
		p->interval = p->windows ? BLK_PACE_FIRST
					 : MIN(4 * p->interval, (uint32_t)BLK_PACE_LONGEST);
		begin(p, false, p->interval);
	}
	return p->patient;
}
