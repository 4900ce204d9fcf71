#include "vmm/control/control_guest.h"

#include <errno.h>
#include <unistd.h>

#include "devices/net_divert.h"
#include "virtio/virtio_balloon.h"
#include "virtio/virtio_devices.h"
#include "virtio/virtio_mem.h"
#include "vmm/config/config.h"
#include "vmm/machine/machine_internal.h"

static json_t *statistics(const struct virtio_balloon_info *info)
{
	static const char *const name[VIRTIO_BALLOON_S_NR] = {
		"swap_in",	    "swap_out",	   "major_faults",
		"minor_faults",	    "free_memory", "total_memory",
		"available_memory", "disk_caches", "hugetlb_allocations",
		"hugetlb_failures",
	};
	json_t *all = json_object();

	for (unsigned i = 0; i < VIRTIO_BALLOON_S_NR; i++)
		if (info->known & 1u << i)
			json_object_set_new(all, name[i], json_integer((json_int_t)info->stat[i]));
	return all;
}

/* "hint": "start" or "stop"; true when that was done or not asked for. */
static bool carry_out_hint(struct control_call *call, struct virtio_device *dev)
{
	const char *what;
	bool acknowledge;
	int r;

	if (control_arg_string(call, "hint", "", &what) < 0 ||
	    control_arg_bool(call, "acknowledge", true, &acknowledge) < 0)
		return false;
	if (!*what)
		return true;
	if (!strcmp(what, "start"))
		r = virtio_balloon_start_hints(dev, acknowledge);
	else if (!strcmp(what, "stop"))
		r = virtio_balloon_stop_hints(dev);
	else
		r = -EINVAL;
	if (r == -EOPNOTSUPP)
		control_fail(call, r, "this microVM was started without --balloon hinting=on");
	else if (r == -ENOTCONN)
		control_fail(call, r, "the guest has no driver that knows of hints now");
	else if (r < 0)
		control_fail(call, r, "'hint' is 'start' or 'stop'");
	return !r;
}

static json_t *hints(const struct virtio_device *dev, const struct virtio_balloon_info *info)
{
	if (!virtio_balloon_has_hints(dev))
		return NULL;
	return json_pack("{s:I, s:o, s:I}", "command", (json_int_t)info->hint_command, "answer",
			 info->hint_answered ? json_integer(info->hint_answer) : json_null(),
			 "hinted", (json_int_t)(info->counters.hinted << PAGE_SHIFT));
}

void control_balloon(struct control_call *call)
{
	struct virtio_device *dev = control_machine(call)->balloon;
	struct virtio_balloon_info info;
	uint64_t target;
	bool refresh;

	if (!dev) {
		control_fail(call, -ENODEV, "this microVM was started without --balloon");
		return;
	}
	if (control_arg_number(call, "target", UINT64_MAX, INT64_MAX, &target) < 0 ||
	    control_arg_bool(call, "refresh", false, &refresh) < 0 || !carry_out_hint(call, dev))
		return;
	if (target != UINT64_MAX && virtio_balloon_set_target(dev, target) < 0) {
		control_fail(call, -ERANGE, "balloon: more than the guest has");
		return;
	}
	if (refresh)
		virtio_balloon_ask_stats(dev);
	virtio_balloon_info(dev, &info);
	control_reply(call,
		      json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o*}", "target",
				(json_int_t)info.target_bytes, "actual",
				(json_int_t)info.actual_bytes, "inflated",
				(json_int_t)(info.counters.inflated << PAGE_SHIFT), "deflated",
				(json_int_t)(info.counters.deflated << PAGE_SHIFT), "reported",
				(json_int_t)(info.counters.reported << PAGE_SHIFT), "told",
				(json_int_t)info.told, "statistics", statistics(&info), "hints",
				hints(dev, &info)));
}

/* In the words in which sizes are given. */
static void fail_size(struct control_call *call, uint64_t bytes, const struct virtio_mem_info *info)
{
	char text[3][32];
	struct error err = { 0 };

	error_usage(&err, -ERANGE, "memory: %s is not a multiple of %s, up to %s",
		    config_size_text(text[0], sizeof(text[0]), bytes),
		    config_size_text(text[1], sizeof(text[1]), info->block_bytes),
		    config_size_text(text[2], sizeof(text[2]), info->region_bytes));
	control_fail_error(call, &err);
}

void control_memory(struct control_call *call)
{
	struct virtio_device *dev = control_machine(call)->hotplug;
	struct virtio_mem_info info;
	uint64_t requested;
	bool active;

	if (!dev) {
		control_fail(call, -ENODEV, "this microVM was started without --memory-hotplug");
		return;
	}
	if (control_arg_number(call, "requested", UINT64_MAX, INT64_MAX, &requested) < 0 ||
	    control_arg_bool(call, "active", false, &active) < 0)
		return;
	virtio_mem_info(dev, &info);
	if (active && !info.active) {
		control_fail(call, -ENOTCONN, "the guest has no driver for its memory now");
		return;
	}
	if (requested != UINT64_MAX && virtio_mem_request(dev, requested) < 0) {
		fail_size(call, requested, &info);
		return;
	}
	virtio_mem_info(dev, &info);
	control_reply(call, json_pack("{s:I, s:I, s:I, s:I, s:b}", "total",
				      (json_int_t)info.region_bytes, "block",
				      (json_int_t)info.block_bytes, "requested",
				      (json_int_t)info.requested_bytes, "plugged",
				      (json_int_t)info.plugged_bytes, "driver", info.active));
}

void control_connect_guest(struct control_call *call)
{
	struct virtio_device *dev = control_machine(call)->vsock;
	uint64_t port;
	int fd, r;

	if (control_arg_number(call, "port", 0, UINT32_MAX, &port) < 0)
		return;
	if (!dev) {
		control_fail(call, -ENODEV, "this microVM was started without --vsock");
		return;
	}
	/* Its guest would answer when it goes on, which may be never. */
	if (machine_is_paused(control_machine(call))) {
		control_fail(call, -ENOTCONN, "the microVM is paused");
		return;
	}
	fd = control_take_fd(call, 0);
	if (fd < 0) {
		control_fail(call, fd, "connect: no socket came along");
		return;
	}
	r = virtio_vsock_connect(dev, fd, port);
	if (r == -ENOTCONN)
		control_fail(call, r, "the guest has no driver for --vsock now");
	else if (r < 0)
		control_fail(call, r, "connect: %s", strerror(-r));
	else
		control_reply(call, NULL);
}

void control_serve_net(struct control_call *call)
{
	struct virtio_device *dev;
	const char *id;
	int fd, r;

	if (control_arg_string(call, "id", "", &id) < 0)
		return;
	dev = machine_virtio(control_machine(call), VIRTIO_ID_NET, id);
	if (!dev) {
		control_fail(call, -ENODEV, "there is no network '%.40s'", id);
		return;
	}
	fd = control_take_fd(call, 0);
	if (fd < 0) {
		control_fail(call, fd, "serve: no socket came along");
		return;
	}
	r = net_divert_attach(virtio_net_end(dev), fd);
	if (r < 0)
		close(fd);
	if (r == -EOPNOTSUPP)
		control_fail(call, r, "network '%s' was started without service=ADDRESS", id);
	else if (r < 0)
		control_fail(call, r, "network '%s' has a service already", id);
	else
		control_reply(call, NULL);
}
