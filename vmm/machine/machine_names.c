/*
 * What the devices of a machine are called. An ID is one among devices of a kind only: a disk and
 * a network may have the same, since clients of the API give them so.
 */
#include <errno.h>
#include <string.h>

#include "vmm/machine/machine_internal.h"

static const struct {
	const char *prefix;
	unsigned kind;
} named[] = {
	{ "disk:", VIRTIO_ID_BLOCK },
	{ "net:", VIRTIO_ID_NET },
};

int machine_virtio_index(const struct machine *m, unsigned kind, const char *id)
{
	for (unsigned i = 0; i < m->num_virtio; i++) {
		const struct virtio_device *dev = m->virtio[i].dev;

		if (dev->ops->id == kind && !strcmp(dev->id, id))
			return (int)i;
	}
	return -ENOENT;
}

struct virtio_device *machine_virtio(const struct machine *m, unsigned kind, const char *id)
{
	int i = machine_virtio_index(m, kind, id);

	return i < 0 ? NULL : m->virtio[i].dev;
}

struct virtio_device *machine_virtio_named(const struct machine *m, const char *name,
					   struct error *err)
{
	struct virtio_device *found = NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(named); i++) {
		const char *prefix = named[i].prefix;
		const char *id = name;
		struct virtio_device *dev;

		if (strchr(name, ':')) {
			if (strncmp(name, prefix, strlen(prefix)) != 0)
				continue;
			id += strlen(prefix);
		}
		dev = machine_virtio(m, named[i].kind, id);
		if (dev && found) {
			error_usage(err, -EEXIST,
				    "'%.40s' is the name of a disk and of a network: say "
				    "disk:%.40s or net:%.40s", name, name, name);
			return NULL;
		}
		if (dev)
			found = dev;
	}
	if (!found)
		error_usage(err, -ENOENT, "there is no disk or network '%.40s'", name);
	return found;
}

uint32_t machine_virtio_instance(const struct machine *m, const struct virtio_device *dev)
{
	for (unsigned i = 0; i < m->num_virtio; i++) {
		const struct virtio_device *other = m->virtio[i].dev;

		if (other != dev && !strcmp(other->id, dev->id))
			return dev->ops->id;
	}
	return 0;
}
