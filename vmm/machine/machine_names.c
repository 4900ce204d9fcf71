/*
 * What the devices of a machine are called. An ID is one among devices of a kind only: a disk and
 * a network may have the same, since clients of the API give them so.
 */
#include <errno.h>
#include <string.h>

#include "vmm/machine/machine_internal.h"

static const unsigned virtio_ids[CONFIG_DEVICES] = {
	[CONFIG_DEVICE_DISK] = VIRTIO_ID_BLOCK,
	[CONFIG_DEVICE_NET] = VIRTIO_ID_NET,
	[CONFIG_DEVICE_PMEM] = VIRTIO_ID_PMEM,
};

unsigned machine_virtio_id(enum config_device kind)
{
	return virtio_ids[kind];
}

enum config_device machine_device_kind(const struct virtio_device *dev)
{
	enum config_device kind = 0;

	while (kind < CONFIG_DEVICES && virtio_ids[kind] != dev->ops->id)
		kind++;
	return kind;
}

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

/* The device that is "KIND:ID", or one of @kind by its ID alone; NULL: there is none. */
static struct virtio_device *named(const struct machine *m, enum config_device kind,
				   const char *name)
{
	const char *word = config_device_kinds[kind].word, *colon = strchr(name, ':');
	size_t len = strlen(word);

	if (colon && ((size_t)(colon - name) != len || strncmp(name, word, len)))
		return NULL;
	return machine_virtio(m, virtio_ids[kind], colon ? colon + 1 : name);
}

struct virtio_device *machine_virtio_named(const struct machine *m, const char *name,
					   struct error *err)
{
	struct virtio_device *found = NULL;

	for (enum config_device kind = 0; kind < CONFIG_DEVICES; kind++) {
		struct virtio_device *dev = named(m, kind, name);
		const struct config_device_kind *one, *other = &config_device_kinds[kind];

		if (dev && found) {
			one = &config_device_kinds[machine_device_kind(found)];
			error_usage(err, -EEXIST,
				    "'%.40s' is the name of %s and of %s: say %s:%.40s or %s:%.40s",
				    name, one->name, other->name, one->word, name, other->word,
				    name);
			return NULL;
		}
		if (dev)
			found = dev;
	}
	if (!found)
		error_usage(err, -ENOENT, "there is no disk, network or persistent memory '%.40s'",
			    name);
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
