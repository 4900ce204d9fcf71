/* --memory-hotplug: memory that comes and goes while the guest runs. */
#include <errno.h>

#include "virtio/virtio_mem.h"
#include "vmm/config/config_parse.h"
#include "vmm/core/guest_mem_later.h"

#define DEFAULT_SLOT (128 * MiB) /* Linux has memory in blocks of that size, most of the time */

static int parse_size(struct config_parse *p, const char *value, uint64_t *ret)
{
	if (!value || config_parse_size(value, MiB, ret) < 0)
		return config_fail(p, "'%s' is not a size such as 512M or 2G", value ? value : "");
	return 0;
}

static int set_size(struct config_parse *p, const char *value, void *target)
{
	struct config_hotplug *h = target;

	return parse_size(p, value, &h->bytes);
}

static int set_block(struct config_parse *p, const char *value, void *target)
{
	struct config_hotplug *h = target;

	return parse_size(p, value, &h->block_bytes);
}

static int set_requested(struct config_parse *p, const char *value, void *target)
{
	struct config_hotplug *h = target;

	return parse_size(p, value, &h->requested_bytes);
}

static int set_slot(struct config_parse *p, const char *value, void *target)
{
	struct config_hotplug *h = target;

	return parse_size(p, value, &h->slot_bytes);
}

const struct config_item config_hotplug_keys[] = {
	{ "block", "SIZE", "How much comes or goes at once, a power of two from 2M on (2M)",
	  CONFIG_CUSTOM, .parse = set_block },
	{ "requested", "SIZE", "How much of it the guest is asked to take to begin with (0)",
	  CONFIG_CUSTOM, .parse = set_requested },
	{ "slot", "SIZE",
	  "How much of it comes into and leaves the guest's reach at once, some blocks (128M, or "
	  "more, so that they are 256 at most)",
	  CONFIG_CUSTOM, .parse = set_slot },
	{ 0 },
};

int config_parse_hotplug(struct config_parse *p, const char *value, void *target)
{
	struct machine_config *c = target;

	c->hotplug = (struct config_hotplug){ .block_bytes = VIRTIO_MEM_MIN_BLOCK };
	if (config_set_keys(p, value, config_hotplug_keys, set_size, &c->hotplug) < 0)
		return -EINVAL;
	return c->hotplug.bytes ? 0 : config_fail(p, "0 is too little");
}

uint64_t config_hotplug_slot(const struct config_hotplug *h)
{
	uint64_t slot = MAX(h->block_bytes, DEFAULT_SLOT);

	if (h->slot_bytes)
		return h->slot_bytes;
	while (slot * GUEST_MEM_LATER_SLOTS < h->bytes)
		slot *= 2;
	return slot;
}

/* Each costs the hypervisor a look whenever it looks for one. */
static int check_slot(const struct config_hotplug *h, struct error *err)
{
	uint64_t slot = config_hotplug_slot(h);
	char size[24], block[24];

	config_size_text(size, sizeof(size), slot);
	config_size_text(block, sizeof(block), h->block_bytes);
	if (!slot || slot % h->block_bytes)
		return error_usage(err, -EINVAL,
				   "--memory-hotplug: slot: %s is not a multiple of a block, %s",
				   size, block);
	if (h->bytes / slot + (h->bytes % slot != 0) > GUEST_MEM_LATER_SLOTS)
		return error_usage(err, -ERANGE,
				   "--memory-hotplug: slot: %s is too little: there would be more "
				   "than %u",
				   size, GUEST_MEM_LATER_SLOTS);
	return 0;
}

int config_check_hotplug(const struct machine_config *c, struct error *err)
{
	const struct config_hotplug *h = &c->hotplug;
	char size[24], block[24];

	config_size_text(size, sizeof(size), h->bytes);
	config_size_text(block, sizeof(block), h->block_bytes);
	if (h->block_bytes < VIRTIO_MEM_MIN_BLOCK ||
	    h->block_bytes & (h->block_bytes - 1))
		return error_usage(err, -EINVAL,
				   "--memory-hotplug: block: %s is no power of two from 2M on",
				   block);
	if (h->bytes % h->block_bytes)
		return error_usage(err, -EINVAL,
				   "--memory-hotplug: %s is not a multiple of a block, %s", size,
				   block);
	if (h->bytes > CONFIG_MAX_MEMORY - c->memory_bytes)
		return error_usage(err, -ERANGE,
				   "--memory-hotplug: %s is too much: with --memory it is more "
				   "than %s",
				   size, config_size_text(block, sizeof(block), CONFIG_MAX_MEMORY));
	if (h->requested_bytes > h->bytes || h->requested_bytes % h->block_bytes)
		return error_usage(err, -ERANGE,
				   "--memory-hotplug: requested: not a multiple of a block, %s, up "
				   "to %s",
				   block, size);
	/*
	 * Blocks begin in the host where huge pages do, so that all of one goes back. And changes
	 * are told of in words of 64 pages, which no two kinds of memory may share.
	 */
	if (c->memory_bytes % HUGE_PAGE)
		return error_usage(err, -EINVAL,
				   "--memory-hotplug: --memory is then a multiple of 2M");
	if (c->memory_backing == GUEST_MEM_HUGETLB)
		return error_usage(err, -ENOTSUP,
				   "--memory-hotplug: not with --hugepages, whose pages the host "
				   "would set aside at the start");
	return check_slot(h, err);
}
