/* --rewind: moments of a guest that are kept, to go back to. And how durations are written. */
#include <errno.h>
#include <stdlib.h>

#include "vmm/config/config_parse.h"

#define MAX_MS (24 * 3600 * 1000ull)

#define REWIND(m) offsetof(struct config_rewind, m)

const struct config_item config_rewind_keys[] = {
	{ "keep", "N", "So many moments, the latest ones (10)", CONFIG_NUMBER, REWIND(keep), 1,
	  CONFIG_MAX_MOMENTS },
	{ "hold", "SECONDS", "And so long after a panic or another bad end (600)", CONFIG_NUMBER,
	  REWIND(hold_seconds), 0, 86400 },
	{ 0 },
};

int config_parse_duration(const char *text, uint64_t *ret_ms)
{
	static const struct {
		const char *unit;
		uint64_t ms;
	} units[] = { { "ms", 1 }, { "s", 1000 }, { "", 1000 }, { "m", 60000 }, { "h", 3600000 } };
	unsigned long long n;
	char *end;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	for (unsigned i = 0; i < ARRAY_SIZE(units); i++) {
		if (strcmp(end, units[i].unit))
			continue;
		if (errno || n > MAX_MS / units[i].ms)
			return -ERANGE;
		*ret_ms = n * units[i].ms;
		return 0;
	}
	return -EINVAL;
}

static int set_interval(struct config_parse *p, const char *value, void *target)
{
	struct config_rewind *rewind = target;
	const char *text = strncmp(value, "every=", 6) ? value : value + 6;
	uint64_t ms;
	int r = config_parse_duration(text, &ms);

	if (r == -EINVAL)
		return config_fail(p, "'%s' is not a time such as 500ms, 1s or 2m", text);
	if (r < 0 || ms < CONFIG_MIN_REWIND_MS)
		return config_fail(p, "%s is out of range (%dms to 24h)", text,
				   CONFIG_MIN_REWIND_MS);
	rewind->every_ms = ms;
	return 0;
}

int config_set_rewind(struct config_parse *p, const char *value, struct config_rewind *rewind)
{
	*rewind = (struct config_rewind){ .keep = 10, .hold_seconds = 600 };
	return config_set_keys(p, value, config_rewind_keys, set_interval, rewind);
}

int config_parse_rewind(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;

	return config_set_rewind(p, value, &c->rewind);
}
