/*
 * Devices that were there at the start and are unplugged now: a saved machine is described by its
 * first command line (config_state.h), and what has changed since.
 */
#include <errno.h>
#include <stdlib.h>

#include "virtio/virtio_devices.h"
#include "vmm/config/config_parse.h"

/* The kind that @value begins with; or CONFIG_DEVICES, when it begins with an ID. */
static enum config_device cut_kind(const char **value)
{
	enum config_device kind;
	size_t len;

	/* No ID has a colon, and one may be "net". */
	if (strchr(*value, ':') == strrchr(*value, ':'))
		return CONFIG_DEVICES;
	for (kind = 0; kind < CONFIG_DEVICES; kind++) {
		len = strlen(config_device_kinds[kind].word);
		if (strncmp(*value, config_device_kinds[kind].word, len) || (*value)[len] != ':')
			continue;
		*value += len + 1;
		break;
	}
	return kind;
}

int config_parse_unplugged(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;
	const char *id = value;
	enum config_device kind = cut_kind(&id);
	const char *colon = strchr(id, ':');
	char *end = NULL;
	unsigned long slot = colon ? strtoul(colon + 1, &end, 10) : 0;
	uint64_t next = 0;

	if (colon && *end == ':' && kind == CONFIG_DEVICE_PMEM)
		next = strtoull(end + 1, &end, 16);
	if (!colon || colon == id || *end || slot < 1 || slot > CONFIG_MAX_SLOT)
		return config_fail(p, "'%s' is not an ID, ':' and a slot from 1 to %d", value,
				   CONFIG_MAX_SLOT);
	if (next % VIRTIO_PMEM_ALIGN)
		return config_fail(p, "'%s' does not end at a multiple of 2M", value);
	if (p->num_unplugged == ARRAY_SIZE(p->unplugged))
		return config_fail(p, "more than %zu", ARRAY_SIZE(p->unplugged));
	p->unplugged[p->num_unplugged++] = (struct config_unplugged){
		.id = id,
		.len = colon - id,
		.kind = kind,
		.next_gpa = next,
	};
	c->empty_slots |= 1u << slot;
	return 0;
}

static void free_device(struct machine_config *c, enum config_device kind, unsigned i)
{
	if (kind == CONFIG_DEVICE_DISK)
		config_free_disk(&c->disk[i]);
	else if (kind == CONFIG_DEVICE_NET)
		config_free_net(&c->net[i]);
	else
		config_free_pmem(&c->pmem[i]);
}

static bool is_called(const char *id, const struct config_unplugged *u)
{
	return strlen(id) == u->len && !memcmp(id, u->id, u->len);
}

/* False: there is none of @kind. */
static bool take_one(struct machine_config *c, enum config_device kind,
		     const struct config_unplugged *u)
{
	for (unsigned i = 0; i < config_num_devices(c, kind); i++) {
		if (!is_called(*config_device_id(c, kind, i), u))
			continue;
		free_device(c, kind, i);
		config_drop_device(c, kind, i);
		/* What came behind it stays where it is. */
		if (kind == CONFIG_DEVICE_PMEM && i < c->num_pmems && !c->pmem[i].gpa)
			c->pmem[i].gpa = u->next_gpa;
		return true;
	}
	return false;
}

int config_take_unplugged(struct config_parse *p)
{
	for (unsigned i = 0; i < p->num_unplugged; i++) {
		const struct config_unplugged *u = &p->unplugged[i];
		bool taken = false;

		p->option = "--unplugged";
		for (enum config_device kind = 0; kind < CONFIG_DEVICES && !taken; kind++)
			if (u->kind == kind || u->kind == CONFIG_DEVICES)
				taken = take_one(p->config, kind, u);
		if (!taken)
			return config_fail(p, "there is no %s '%.*s'",
					   u->kind == CONFIG_DEVICES ?
						   "disk, network or persistent memory" :
						   config_device_name(u->kind),
					   (int)u->len, u->id);
	}
	return 0;
}
