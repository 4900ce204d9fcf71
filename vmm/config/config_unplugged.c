/*
 * Devices that were there at the start and are unplugged now: a saved machine is described by its
 * first command line (config_state.h), and what has changed since.
 */
#include <errno.h>
#include <stdlib.h>

#include "vmm/config/config_parse.h"

int config_parse_unplugged(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;
	/* No ID has a colon, and one may be "net". */
	bool qualified = strchr(value, ':') != strrchr(value, ':');
	bool disk = qualified && !strncmp(value, "disk:", 5);
	bool net = qualified && !strncmp(value, "net:", 4);
	const char *id = value + (disk ? 5 : net ? 4 : 0);
	const char *colon = strchr(id, ':');
	char *end = NULL;
	unsigned long slot = colon ? strtoul(colon + 1, &end, 10) : 0;

	if (!colon || colon == id || *end || slot < 1 || slot > CONFIG_MAX_SLOT)
		return config_fail(p, "'%s' is not an ID, ':' and a slot from 1 to %d", value,
				   CONFIG_MAX_SLOT);
	if (p->num_unplugged == ARRAY_SIZE(p->unplugged))
		return config_fail(p, "more than %zu", ARRAY_SIZE(p->unplugged));
	p->unplugged[p->num_unplugged++] = (struct config_unplugged){
		.id = id,
		.len = colon - id,
		.no_disk = net,
		.no_net = disk,
	};
	c->empty_slots |= 1u << slot;
	return 0;
}

void config_drop_disk(struct machine_config *c, unsigned i)
{
	c->num_disks--;
	memmove(&c->disk[i], &c->disk[i + 1], (c->num_disks - i) * sizeof(c->disk[0]));
}

void config_drop_net(struct machine_config *c, unsigned i)
{
	c->num_nets--;
	memmove(&c->net[i], &c->net[i + 1], (c->num_nets - i) * sizeof(c->net[0]));
}

static bool is_called(const char *id, const struct config_unplugged *u)
{
	return strlen(id) == u->len && !memcmp(id, u->id, u->len);
}

/* False: there is none. */
static bool take_one(struct machine_config *c, const struct config_unplugged *u)
{
	for (unsigned i = 0; i < c->num_disks && !u->no_disk; i++) {
		if (is_called(c->disk[i].id, u)) {
			config_free_disk(&c->disk[i]);
			config_drop_disk(c, i);
			return true;
		}
	}
	for (unsigned i = 0; i < c->num_nets && !u->no_net; i++) {
		if (is_called(c->net[i].id, u)) {
			config_free_net(&c->net[i]);
			config_drop_net(c, i);
			return true;
		}
	}
	return false;
}

int config_take_unplugged(struct config_parse *p)
{
	for (unsigned i = 0; i < p->num_unplugged; i++) {
		const struct config_unplugged *u = &p->unplugged[i];

		p->option = "--unplugged";
		if (!take_one(p->config, u))
			return config_fail(p, "there is no %s '%.*s'",
					   u->no_net  ? "disk" :
					   u->no_disk ? "network" :
							"disk or network",
					   (int)u->len, u->id);
	}
	return 0;
}
