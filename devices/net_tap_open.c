#include "devices/net_tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/core/log.h"

#define TUN_DEVICE "/dev/net/tun"

/* ---- one queue ---- */

/* Does the kernel accept these for taps? Leaves them all off. */
static bool offload_works(int fd, const struct net_offloads *o)
{
	bool works = ioctl(fd, TUNSETOFFLOAD, net_tap_offload_flags(o)) == 0;

	ioctl(fd, TUNSETOFFLOAD, 0);
	return works;
}

/* The header that virtio 1.x has, before every frame, both ways. */
static int set_header(int fd, const char *what, struct error *err)
{
	int size = NET_VNET_HDR, little_endian = 1;

	if (ioctl(fd, TUNSETVNETHDRSZ, &size) < 0 || ioctl(fd, TUNSETVNETLE, &little_endian) < 0)
		return error_usage(err, -errno, "%s: cannot set the virtio header: %m", what);
	return 0;
}

static void find_offloads(struct net_tap *tap)
{
	struct net_offloads *o = &tap->offloads;
	int fd = tap->fd[0];

	*o = (struct net_offloads){ .csum = true };
	if (!offload_works(fd, o)) {
		o->csum = false;
		return;
	}
	o->tso4 = o->tso6 = o->ecn = true;
	if (!offload_works(fd, o))
		o->tso4 = o->tso6 = o->ecn = false;
	o->uso = true;
	if (!offload_works(fd, o))
		o->uso = false;
}

/* ---- the interface ---- */

static void hint_how(struct error *err, const char *name, unsigned num_queues)
{
	error_hint(err,
		   "make it once, as root: ip tuntap add dev %s mode tap%s user $USER; "
		   "ip link set %s up",
		   name, num_queues > 1 ? " multi_queue" : "", name);
}

/* The interface's MTU and state, where it is in our network namespace. */
static void look_at(struct net_tap *tap, const char *name)
{
	struct ifreq ifr = { 0 };
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (s < 0)
		s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (ioctl(s, SIOCGIFMTU, &ifr) == 0 && ifr.ifr_mtu > 0 && ifr.ifr_mtu <= UINT16_MAX &&
	    ifr.ifr_mtu != (int)NET_DEFAULT_MTU)
		tap->mtu = ifr.ifr_mtu;
	if (ioctl(s, SIOCGIFFLAGS, &ifr) == 0 && !(ifr.ifr_flags & IFF_UP))
		log_warn("tap '%s' is down: nothing passes before 'ip link set %s up'", name, name);
	close(s);
}

static int open_queue(const char *name, unsigned num_queues, struct error *err)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open(TUN_DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC), r;

	if (fd < 0) {
		r = error_usage(err, -errno, "tap '%s': cannot open " TUN_DEVICE ": %m", name);
		if (r == -ENOENT || r == -ENODEV)
			error_hint(err, "load the kernel module: modprobe tun");
		return r;
	}
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (num_queues > 1)
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
	if (ioctl(fd, TUNSETIFF, &ifr) == 0)
		return fd;
	/* One made with multi_queue is opened so, however many are wanted. */
	ifr.ifr_flags |= IFF_MULTI_QUEUE;
	if (errno == EINVAL && num_queues == 1 && ioctl(fd, TUNSETIFF, &ifr) == 0)
		return fd;
	r = -errno;
	switch (errno) {
	case EBUSY:
		error_usage(err, r, "tap '%s': is in use by another process", name);
		break;
	case EPERM:
		error_usage(err, r, "tap '%s': belongs to another user", name);
		hint_how(err, name, num_queues);
		break;
	case EINVAL:
		error_usage(err, r, "tap '%s': is not a tap%s", name,
			    num_queues > 1 ? " with several queues" : "");
		hint_how(err, name, num_queues);
		break;
	case E2BIG:
		error_usage(err, r, "tap '%s': has no queue left", name);
		break;
	default:
		error_usage(err, r, "tap '%s': %m", name);
	}
	close(fd);
	return r;
}

/* Made on the fly by someone privileged, it would be another one than was meant. */
static int check_exists(const char *name, unsigned num_queues, struct error *err)
{
	int r;

	if (strlen(name) >= IFNAMSIZ)
		return error_usage(err, -ENAMETOOLONG, "tap '%s': the name is longer than %d bytes",
				   name, IFNAMSIZ - 1);
	if (if_nametoindex(name))
		return 0;
	r = error_usage(err, -ENODEV, "tap '%s': there is no such interface", name);
	hint_how(err, name, num_queues);
	return r;
}

int net_tap_open(struct net_tap *tap, const char *name, unsigned num_queues, struct error *err)
{
	int r = check_exists(name, num_queues, err);

	*tap = (struct net_tap){ 0 };
	while (!r && tap->num_queues < num_queues) {
		int fd = open_queue(name, num_queues, err);

		if (fd < 0) {
			r = fd;
			break;
		}
		tap->fd[tap->num_queues++] = fd;
		r = set_header(fd, name, err);
	}
	if (r < 0) {
		net_tap_close(tap);
		return r;
	}
	find_offloads(tap);
	look_at(tap, name);
	return 0;
}

static struct net_offloads offloads_of(unsigned flags)
{
	return (struct net_offloads){
		.csum = flags & TUN_F_CSUM,
		.tso4 = flags & TUN_F_TSO4,
		.tso6 = flags & TUN_F_TSO6,
		.ecn = flags & TUN_F_TSO_ECN,
		.uso = flags & NET_TUN_F_USO4 && flags & NET_TUN_F_USO6,
	};
}

int net_tap_adopt(struct net_tap *tap, int fd, unsigned offloads, struct error *err)
{
	struct ifreq ifr = { 0 };
	char what[40];
	int r;

	*tap = (struct net_tap){ .num_queues = 1, .fd = { fd } };
	snprintf(what, sizeof(what), "tap on descriptor %d", fd);
	if (ioctl(fd, TUNGETIFF, &ifr) < 0)
		r = error_usage(err, -errno, "%s: is not a tap: %m", what);
	else if (!(ifr.ifr_flags & IFF_TAP) || !(ifr.ifr_flags & IFF_NO_PI) ||
		 !(ifr.ifr_flags & IFF_VNET_HDR))
		r = error_usage(err, -EINVAL,
				"%s: needs the flags IFF_TAP, IFF_NO_PI and IFF_VNET_HDR", what);
	else
		r = set_header(fd, what, err);
	if (!r &&
	    (fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0))
		r = error_usage(err, -errno, "%s: %m", what);
	if (r < 0) {
		net_tap_close(tap);
		return r;
	}
	if (offloads)
		tap->offloads = offloads_of(offloads);
	else
		find_offloads(tap);
	look_at(tap, ifr.ifr_name);
	return 0;
}

void net_tap_close(struct net_tap *tap)
{
	for (unsigned i = 0; i < tap->num_queues; i++) {
		if (tap->fd[i] >= 0)
			close(tap->fd[i]);
	}
	tap->num_queues = 0;
}
