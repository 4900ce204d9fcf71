#include "vmm/saved/reset_devices.h"

#include <errno.h>

#include "devices/block_overlay.h"
#include "virtio/virtio_devices.h"
#include "vmm/core/log.h"
#include "vmm/machine/machine_internal.h"

/* The next disk from @i on that the guest may write, and where that is; NULL: none. */
static struct block *next_image(const struct machine *m, unsigned *i)
{
	const struct machine_config *c = m->config;

	for (; *i < c->num_disks; (*i)++)
		if (!c->disk[*i].read_only)
			return virtio_blk_image(machine_virtio(m, VIRTIO_ID_BLOCK,
							       c->disk[*i].id));
	return NULL;
}

unsigned reset_devices_files(const struct machine_config *c)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->num_disks; i++)
		n += !c->disk[i].read_only;
	return n;
}

static int set_disk(struct block *image, int *fd)
{
	int r;

	if (block_has_overlay(image))
		return block_overlay_keep(image);
	r = *fd < 0 ? -EBADF : block_overlay_create(image, *fd);
	if (!r)
		*fd = -1;
	return r;
}

int reset_devices_set(struct machine *m, int *fds, struct error *err)
{
	struct block *image;
	unsigned i = 0;
	int r;

	while ((image = next_image(m, &i))) {
		r = set_disk(image, fds++);
		if (r < 0)
			return error_set(err, r, "disk '%s': what is written to it cannot be kept "
					 "apart: %m", m->config->disk[i].id);
		i++;
	}
	return 0;
}

uint32_t reset_devices_overlaid(const struct machine *m)
{
	struct block *image;
	uint32_t disks = 0;

	for (unsigned i = 0; (image = next_image(m, &i)); i++)
		if (block_has_overlay(image))
			disks |= 1u << i;
	return disks;
}

void reset_devices_unset(struct machine *m, uint32_t overlaid)
{
	struct block *image;

	for (unsigned i = 0; (image = next_image(m, &i)); i++)
		if (block_has_overlay(image) && !(overlaid & 1u << i))
			block_overlay_remove(image);
}

static int disks_go_back(struct machine *m, struct error *err)
{
	struct block *image;
	unsigned i = 0;
	int r;

	while ((image = next_image(m, &i))) {
		r = block_overlay_go_back(image);
		if (r < 0)
			return error_set(err, r, "disk '%s': cannot go back: %m",
					 m->config->disk[i].id);
		i++;
	}
	return 0;
}

/* On a tap or a switch frames find their way as they did: nobody there waits for us. */
static void networks_forget(struct machine *m)
{
	const struct machine_config *c = m->config;

	for (unsigned i = 0; i < c->num_nets; i++) {
		struct net *n;
		int r;

		if (c->net[i].kind != CONFIG_NET_USER)
			continue;
		n = virtio_net_end(machine_virtio(m, VIRTIO_ID_NET, c->net[i].id));
		r = n->ops->forget ? n->ops->forget(n) : 0;
		if (r < 0)
			log_error("network '%s': its helper does not drop the connections: %s",
				  c->net[i].id, strerror(-r));
	}
}

int reset_devices_go_back(struct machine *m, struct error *err)
{
	int r = disks_go_back(m, err);

	if (!r)
		networks_forget(m);
	return r;
}

const char *reset_devices_forbid_copy(const struct machine *m)
{
	struct block *image;
	unsigned i = 0;

	for (; (image = next_image(m, &i)); i++)
		if (block_has_overlay(image))
			return "a guest with a reset point and disks that it may write can be "
			       "neither saved, cloned nor migrated: what it wrote is kept apart "
			       "from their files";
	return NULL;
}
