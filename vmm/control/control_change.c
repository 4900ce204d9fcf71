/*
 * Changes to a disk or a network interface of a running machine, as its owner asks for them:
 * size, limits, link.
 */
#include <errno.h>

#include "virtio/virtio_devices.h"
#include "vmm/control/control.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/migrate/migrate.h"

#define MAX_DISK_BYTES (1ull << 62)
#define NOT_GIVEN      UINT64_MAX

static int arg_rate(struct control_call *call, const char *name, uint64_t *rate)
{
	return control_arg_number(call, name, *rate, CONTROL_MAX_RATE, rate);
}

/* Is there one of @keys, which are not for @kind of device? Then the call has failed. */
static bool has_foreign(struct control_call *call, const char *const *keys, const char *kind)
{
	struct error err = { 0 };

	for (; *keys; keys++) {
		if (json_object_get(control_args(call), *keys)) {
			error_usage(&err, -EINVAL, "'%s' is not for %s", *keys, kind);
			control_fail_error(call, &err);
			return true;
		}
	}
	return false;
}

/* Why the size of a disk has to stay what it is for now; NULL: it may change. */
static const char *forbids_resize(struct machine *m)
{
	/*
	 * A disk of another size is another one: the other side has made its own by the size it
	 * was told, and what is copied is copied by it.
	 */
	if (migrate_is_under_way(m))
		return "while the microVM moves";
	/* It is saved with the machine's state, and what the disk holds afterwards, if at all. */
	if (m->holds)
		return "while the microVM stands still to be saved, or for another device";
	return NULL;
}

/* 0, or -errno and the call has failed. */
static int resize_disk(struct control_call *call, struct virtio_device *dev, uint64_t size)
{
	struct machine *m = control_machine(call);
	const char *why = forbids_resize(m);
	struct error err = { 0 };
	int r = why ? -EBUSY : virtio_blk_resize(dev, size);

	if (!r) {
		m->runs++;
		return 0;
	}
	if (why)
		error_set(&err, r, "disk '%s' cannot be resized %s", dev->id, why);
	else if (r == -EINVAL)
		error_usage(&err, r, "%llu bytes are not a size in sectors of 512",
			    (unsigned long long)size);
	else
		error_set(&err, r, "disk '%s' cannot be resized: %s", dev->id, strerror(-r));
	control_fail_error(call, &err);
	return r;
}

static void change_disk(struct control_call *call, struct virtio_device *dev)
{
	static const char *const foreign[] = { "link", "pps", "pps_burst", NULL };
	struct rate_limits limits;
	uint64_t size;

	virtio_blk_limits(dev, &limits);
	if (has_foreign(call, foreign, "disks") ||
	    control_arg_number(call, "size", NOT_GIVEN, MAX_DISK_BYTES, &size) < 0 ||
	    arg_rate(call, "iops", &limits.ops.per_second) < 0 ||
	    arg_rate(call, "bps", &limits.bytes.per_second) < 0 ||
	    arg_rate(call, "iops_burst", &limits.ops.burst) < 0 ||
	    arg_rate(call, "bps_burst", &limits.bytes.burst) < 0)
		return;
	if (size != NOT_GIVEN && resize_disk(call, dev, size) < 0)
		return;
	virtio_blk_limit(dev, &limits);
	control_reply(call, json_pack("{s:I}", "size", (json_int_t)virtio_blk_size(dev)));
}

/* Of what is given, each way; the rest stays. */
static int net_limits(struct control_call *call, struct rate_limits *l)
{
	if (arg_rate(call, "pps", &l->ops.per_second) < 0 ||
	    arg_rate(call, "bps", &l->bytes.per_second) < 0 ||
	    arg_rate(call, "pps_burst", &l->ops.burst) < 0 ||
	    arg_rate(call, "bps_burst", &l->bytes.burst) < 0)
		return -EINVAL;
	return 0;
}

static void change_net(struct control_call *call, struct virtio_device *dev)
{
	static const char *const foreign[] = { "size", "iops", "iops_burst", NULL };
	struct rate_limits rx, tx;
	bool link;

	virtio_net_limits(dev, &rx, &tx);
	if (has_foreign(call, foreign, "networks") ||
	    control_arg_bool(call, "link", true, &link) < 0 || net_limits(call, &rx) < 0 ||
	    net_limits(call, &tx) < 0)
		return;
	virtio_net_limit(dev, &rx, &tx);
	if (json_object_get(control_args(call), "link"))
		virtio_net_plug(dev, link);
	control_reply(call, json_pack("{s:b}", "link", virtio_net_has_link(dev)));
}

/*
 * {"do":"change","device":NAME,...}, with "size":BYTES and "iops":N for a disk, "link":BOOL and
 * "pps":N for a network, "bps":N for both, and "iops_burst" and the like: what is not given
 * stays, a rate of 0 is no limit.
 */
void control_change(struct control_call *call)
{
	struct error err = { 0 };
	struct virtio_device *dev;
	const char *name;

	if (control_arg_string(call, "device", "", &name) < 0)
		return;
	dev = machine_virtio_named(control_machine(call), name, &err);
	if (dev && dev->ops->id == VIRTIO_ID_PMEM) {
		error_usage(&err, -ENOTSUP, "nothing of persistent memory can be changed");
		dev = NULL;
	}
	if (!dev)
		control_fail_error(call, &err);
	else if (dev->ops->id == VIRTIO_ID_BLOCK)
		change_disk(call, dev);
	else
		change_net(call, dev);
}
