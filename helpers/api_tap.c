/* Can a tap be had? Asked when a network is named, since that is when Firecracker opens it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "helpers/api.h"

#define TUN_DEVICE "/dev/net/tun"

/* Take the tap @name on @fd, which has it until it is closed; 0 or an errno. */
static int attach(int fd, const char *name)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };

	/*
	 * To ask for one that is not there would make it, and wisp takes none that it has made.
	 * Those without privilege hear from the kernel that they may not.
	 */
	if (!if_nametoindex(name))
		return geteuid() == 0 ? ENODEV : EPERM;
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (ioctl(fd, TUNSETIFF, &ifr) == 0)
		return 0;
	/* One made with multi_queue is opened so; wisp takes these too. */
	ifr.ifr_flags |= IFF_MULTI_QUEUE;
	return errno == EINVAL && ioctl(fd, TUNSETIFF, &ifr) == 0 ? 0 : errno;
}

bool api_tap_works(const char *name, char *why, size_t size)
{
	int fd = open(TUN_DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC), error;

	if (fd < 0) {
		error = errno;
		snprintf(why, size, "Couldn't open " TUN_DEVICE ": %s (os error %d)",
			 strerror(error), error);
		return false;
	}
	if (strlen(name) >= IFNAMSIZ) {
		close(fd);
		snprintf(why, size, "Invalid interface name");
		return false;
	}
	error = attach(fd, name);
	/* Free again before the answer: the start wants it next. */
	close(fd);
	if (error)
		api_tap_fault(why, size, name, error);
	return !error;
}

void api_tap_fault(char *why, size_t size, const char *name, int error)
{
	snprintf(why, size,
		 "Error while creating ifreq structure: %s (os error %d). Invalid TUN/TAP Backend "
		 "provided by %s. Check our documentation on setting up the network devices.",
		 strerror(error), error, name);
}
