/* Disk images that are to be all in their files, so that these can be copied. */
#include "virtio/virtio_devices.h"
#include "vmm/machine/machine_internal.h"

static void settled(struct block_settling *b, int res)
{
	struct machine_settling_disk *d = container_of(b, struct machine_settling_disk, block);
	struct machine_settling *s = d->all;

	if (res < 0 && !s->err.code)
		error_set(&s->err, res, "disk '%s': its tables cannot be written: %m", d->id);
	if (!--s->pending)
		s->done(s);
}

bool machine_settle_disks(struct machine *m, struct machine_settling *s)
{
	const struct machine_config *c = m->config;

	s->err = (struct error){ 0 };
	s->pending = 0;
	for (unsigned i = 0; i < c->num_disks; i++) {
		struct virtio_device *dev = machine_virtio(m, VIRTIO_ID_BLOCK, c->disk[i].id);
		struct machine_settling_disk *d = &s->disk[s->pending];

		if (!dev || !block_keeps_tables(virtio_blk_image(dev)))
			continue;
		d->all = s;
		d->id = dev->id;
		d->block.done = settled;
		/* None comes back before our caller has returned to the loop. */
		block_settle(virtio_blk_image(dev), m->loop, &d->block);
		s->pending++;
	}
	return s->pending;
}
