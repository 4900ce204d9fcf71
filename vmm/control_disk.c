/* Changes to a disk of a running machine, as its owner asks for them: size and limits. */
#include <errno.h>

#include "virtio/virtio_devices.h"
#include "vmm/control.h"
#include "vmm/machine_internal.h"

#define MAX_DISK_BYTES (1ull << 62)
#define MAX_RATE       (1ull << 40)
#define NOT_GIVEN      UINT64_MAX

static struct virtio_device *find_disk(struct machine *m, const char *id)
{
	for (unsigned i = 0; i < m->num_virtio; i++) {
		struct virtio_device *dev = m->virtio[i].dev;

		if (dev->ops->id == VIRTIO_ID_BLOCK && !strcmp(dev->id, id))
			return dev;
	}
	return NULL;
}

static int arg_rate(struct control_call *call, const char *name, uint64_t *rate)
{
	return control_arg_number(call, name, *rate, MAX_RATE, rate);
}

/*
 * {"do":"change-disk","disk":ID,"size":BYTES,"iops":N,"bps":N,"iops_burst":N,"bps_burst":N}, all
 * but the disk as wanted: what is not given stays, a rate of 0 is no limit.
 */
void control_change_disk(struct control_call *call)
{
	struct virtio_device *dev;
	struct rate_limits limits;
	const char *id;
	uint64_t size;
	int r;

	if (control_arg_string(call, "disk", "", &id) < 0)
		return;
	dev = find_disk(control_machine(call), id);
	if (!dev) {
		control_fail(call, -ENOENT, "there is no disk '%s'", id);
		return;
	}
	virtio_blk_limits(dev, &limits);
	if (control_arg_number(call, "size", NOT_GIVEN, MAX_DISK_BYTES, &size) < 0 ||
	    arg_rate(call, "iops", &limits.ops.per_second) < 0 ||
	    arg_rate(call, "bps", &limits.bytes.per_second) < 0 ||
	    arg_rate(call, "iops_burst", &limits.ops.burst) < 0 ||
	    arg_rate(call, "bps_burst", &limits.bytes.burst) < 0)
		return;
	if (size != NOT_GIVEN) {
		r = virtio_blk_resize(dev, size);
		if (r == -EINVAL) {
			control_fail(call, r, "%llu bytes are not a size in sectors of 512",
				     (unsigned long long)size);
			return;
		}
		if (r < 0) {
			control_fail(call, r, "disk '%s' cannot be resized: %s", id, strerror(-r));
			return;
		}
	}
	virtio_blk_limit(dev, &limits);
	control_reply(call, json_pack("{s:I}", "size", (json_int_t)virtio_blk_size(dev)));
}
