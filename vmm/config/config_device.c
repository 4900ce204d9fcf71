/* Devices that may come and go, whatever kind they are of: what they have in common. */
#include "vmm/config/config.h"

const struct config_device_kind config_device_kinds[CONFIG_DEVICES] = {
	[CONFIG_DEVICE_DISK] = { "--disk", "disk", "a disk", CONFIG_MAX_DISKS },
	[CONFIG_DEVICE_NET] = { "--net", "net", "a network", CONFIG_MAX_NETS },
	[CONFIG_DEVICE_PMEM] = { "--pmem", "pmem", "persistent memory", CONFIG_MAX_PMEMS },
};

const char *config_device_name(enum config_device kind)
{
	const char *name = config_device_kinds[kind].name;

	return strncmp(name, "a ", 2) ? name : name + 2;
}

/* What a machine's configuration has of one kind. */
struct devices {
	void *first;
	size_t size; /* of each */
	unsigned *num;
};

static struct devices devices_of(struct machine_config *c, enum config_device kind)
{
	switch (kind) {
	case CONFIG_DEVICE_DISK:
		return (struct devices){ c->disk, sizeof(c->disk[0]), &c->num_disks };
	case CONFIG_DEVICE_NET:
		return (struct devices){ c->net, sizeof(c->net[0]), &c->num_nets };
	case CONFIG_DEVICE_PMEM:
		break;
	}
	return (struct devices){ c->pmem, sizeof(c->pmem[0]), &c->num_pmems };
}

unsigned config_num_devices(const struct machine_config *c, enum config_device kind)
{
	return *devices_of((struct machine_config *)c, kind).num;
}

char **config_device_id(struct machine_config *c, enum config_device kind, unsigned i)
{
	return kind == CONFIG_DEVICE_DISK ? &c->disk[i].id :
	       kind == CONFIG_DEVICE_NET  ? &c->net[i].id :
					    &c->pmem[i].id;
}

unsigned *config_device_slot(struct machine_config *c, enum config_device kind, unsigned i)
{
	return kind == CONFIG_DEVICE_DISK ? &c->disk[i].slot :
	       kind == CONFIG_DEVICE_NET  ? &c->net[i].slot :
					    &c->pmem[i].slot;
}

void config_drop_device(struct machine_config *c, enum config_device kind, unsigned i)
{
	const struct devices d = devices_of(c, kind);
	char *gone = (char *)d.first + i * d.size;

	*d.num -= 1;
	memmove(gone, gone + d.size, (*d.num - i) * d.size);
}
