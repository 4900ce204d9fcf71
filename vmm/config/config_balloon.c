/* --balloon: memory that the guest gives back. */
#include "vmm/config/config_parse.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define BALLOON(m) offsetof(struct config_balloon, m)

const struct config_item config_balloon_keys[] = {
	{ "deflate-on-oom", "on|off",
	  "Let the guest take memory back when it has no other left (on)", CONFIG_SWITCH,
	  BALLOON(deflate_on_oom) },
	{ "reporting", "on|off", "Have the guest tell of its free pages (on)", CONFIG_SWITCH,
	  BALLOON(reporting) },
	{ "hinting", "on|off",
	  "Let the guest be asked for all its free pages: 'wisp balloon --hint' (off)",
	  CONFIG_SWITCH, BALLOON(hinting) },
	{ 0 },
};

static int set_size(struct config_parse *p, const char *value, void *target)
{
	struct config_balloon *b = target;

	if (*value && config_parse_size(value, MiB, &b->bytes) < 0)
		return config_fail(p, "'%s' is not a size such as 512M or 2G", value);
	return 0;
}

int config_parse_balloon(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;
	char *keys = NULL;
	int r;

	c->balloon_present = true;
	c->balloon = (struct config_balloon){ .deflate_on_oom = true, .reporting = true };
	/* A key at once: no size has such a sign in it. */
	if (value && value[strcspn(value, ",=")] == '=' && asprintf(&keys, ",%s", value) < 0)
		return error_set(p->err, -ENOMEM, "%s: %m", p->option);
	value = keys ? keys : value ? value : "";
	r = config_set_keys(p, value, config_balloon_keys, set_size, &c->balloon);
	free(keys);
	return r;
}
