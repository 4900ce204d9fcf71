#include "devices/net_vhost.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/core/log.h"

/* What our device offers in the way of rings: without it a driver's choice would not be served. */
#define NEEDED                                                                                     \
	(1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC |                        \
	 1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_NET_F_MRG_RXBUF)

struct net_vhost {
	int fd;
	bool running;
};

int net_vhost_open(struct error *err)
{
	int fd = open(NET_VHOST_DEVICE, O_RDWR | O_CLOEXEC), r;
	uint64_t features;

	if (fd < 0) {
		r = error_usage(err, -errno, "vhost: cannot open " NET_VHOST_DEVICE ": %m");
		if (r == -ENOENT || r == -ENODEV || r == -ENXIO)
			error_hint(err, "load the kernel module: modprobe vhost_net");
		return r;
	}
	if (ioctl(fd, VHOST_GET_FEATURES, &features) < 0)
		r = error_usage(err, -errno, "vhost: " NET_VHOST_DEVICE " is not one: %m");
	else if (~features & NEEDED)
		r = error_usage(err, -ENOTSUP,
				"vhost: this kernel's vhost-net lacks the features %#llx",
				(unsigned long long)(~features & NEEDED));
	else
		return fd;
	close(fd);
	return r;
}

static int set_memory(int fd, const struct guest_mem *mem)
{
	struct {
		struct vhost_memory table;
		struct vhost_memory_region region[GUEST_MEM_MAX_RANGES];
	} m = { 0 };

	for (unsigned i = 0; i < mem->num_ranges; i++) {
		const struct guest_mem_range *range = &mem->range[i];

		/* As for guest_mem_ptr(): no driver may have its rings or buffers there. */
		if (range->read_only)
			continue;
		m.region[m.table.nregions++] = (struct vhost_memory_region){
			.guest_phys_addr = range->gpa,
			.memory_size = range->size,
			.userspace_addr = (uintptr_t)range->host,
		};
	}
	return ioctl(fd, VHOST_SET_MEM_TABLE, &m);
}

int net_vhost_create(struct net_vhost **ret_vhost, int fd, const struct guest_mem *mem,
		     struct error *err)
{
	struct net_vhost *v = calloc(1, sizeof(*v));
	int r = 0;

	if (!v) {
		close(fd);
		return error_set(err, -ENOMEM, "vhost: %m");
	}
	v->fd = fd;
	if (ioctl(fd, VHOST_SET_OWNER) < 0)
		r = error_set(err, -errno, "vhost: the kernel starts no thread for it: %m");
	else if (set_memory(fd, mem) < 0)
		r = error_set(err, -errno, "vhost: cannot give the kernel the guest's memory: %m");
	if (r < 0)
		net_vhost_free(v);
	else
		*ret_vhost = v;
	return r;
}

/* Without a tap nothing goes; it returns when the kernel's thread has let go of the ring. */
static int set_backend(struct net_vhost *v, unsigned index, int tap)
{
	struct vhost_vring_file f = { .index = index, .fd = tap };

	return ioctl(v->fd, VHOST_NET_SET_BACKEND, &f);
}

/* Whoever serves the ring now has its doorbell: it would wake the kernel's thread for nothing. */
static int forget_kick(struct net_vhost *v, unsigned index)
{
	struct vhost_vring_file f = { .index = index, .fd = VHOST_FILE_UNBIND };

	return ioctl(v->fd, VHOST_SET_VRING_KICK, &f);
}

static int set_ring(struct net_vhost *v, unsigned index, const struct net_ring *ring)
{
	struct vhost_vring_state num = { index, ring->size }, base = { index, ring->position };
	struct vhost_vring_file kick = { index, ring->kick }, call = { index, ring->call };
	struct vhost_vring_file error = { index, ring->error };
	struct vhost_vring_addr addr = {
		.index = index,
		.desc_user_addr = (uintptr_t)ring->desc,
		.avail_user_addr = (uintptr_t)ring->avail,
		.used_user_addr = (uintptr_t)ring->used,
	};

	if (ioctl(v->fd, VHOST_SET_VRING_NUM, &num) < 0 ||
	    ioctl(v->fd, VHOST_SET_VRING_BASE, &base) < 0 ||
	    ioctl(v->fd, VHOST_SET_VRING_ADDR, &addr) < 0 ||
	    ioctl(v->fd, VHOST_SET_VRING_KICK, &kick) < 0 ||
	    ioctl(v->fd, VHOST_SET_VRING_CALL, &call) < 0 ||
	    ioctl(v->fd, VHOST_SET_VRING_ERR, &error) < 0)
		return -errno;
	return 0;
}

int net_vhost_start(struct net_vhost *v, int tap, uint64_t features, const struct net_ring ring[2])
{
	int r = 0;

	/* The tap has the header before each frame: VHOST_NET_F_VIRTIO_NET_HDR is left out. */
	features &= NEEDED;
	if (ioctl(v->fd, VHOST_SET_FEATURES, &features) < 0)
		return -errno;
	for (unsigned i = 0; i < 2 && !r; i++)
		r = set_ring(v, i, &ring[i]);
	for (unsigned i = 0; i < 2 && !r; i++)
		r = set_backend(v, i, tap) < 0 ? -errno : 0;
	if (r < 0) {
		for (unsigned i = 0; i < 2; i++) {
			set_backend(v, i, -1);
			forget_kick(v, i);
		}
		return r;
	}
	v->running = true;
	return 0;
}

void net_vhost_stop(struct net_vhost *v, uint16_t ret_position[2])
{
	for (unsigned i = 0; i < 2; i++) {
		struct vhost_vring_state base = { .index = i };

		/* Neither fails for a ring that exists. */
		if (set_backend(v, i, -1) < 0 || ioctl(v->fd, VHOST_GET_VRING_BASE, &base) < 0)
			log_warn("vhost: cannot take a ring back: %m");
		if (forget_kick(v, i) < 0)
			log_warn("vhost: cannot let go of a doorbell: %m");
		ret_position[i] = base.num;
	}
	v->running = false;
}

void net_vhost_free(struct net_vhost *v)
{
	uint16_t position[2];

	if (!v)
		return;
	if (v->running)
		net_vhost_stop(v, position);
	close(v->fd);
	free(v);
}
