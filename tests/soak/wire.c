/*
 * wire - a cable from a tap interface of this network namespace to a switch that runs. The
 * kernel's own TCP/IP is then one of its guests, where no guest can run or none is needed.
 *
 *   wire [-l LOSS] [-p] TAP SWITCH
 *
 *   -l LOSS  of 10000 frames, so many are lost, each way (0)
 *   -p       plain: no long segments, and every checksum is looked at
 *
 * Makes the interface, says "ready", and ends when the switch or stdin does.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net.h"
#include "devices/net_switch.h"

/* Frames of one side until the other has its turn. */
#define BURST 64

struct wire {
	int tap, peer;
	bool plain;
	unsigned loss;
	uint32_t random;
	uint8_t frame[NET_VNET_HDR + NET_MAX_FRAME];
};

static bool lost(struct wire *w)
{
	/* Marsaglia's xorshift: the same frames of a run are lost each time. */
	w->random ^= w->random << 13;
	w->random ^= w->random >> 17;
	w->random ^= w->random << 5;
	return w->random % 10000 < w->loss;
}

static int open_tap(const char *name, bool plain)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	unsigned offloads = plain ? 0 : TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
	int header = NET_VNET_HDR, fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (fd >= 0 && ioctl(fd, TUNSETIFF, &ifr) == 0 &&
	    ioctl(fd, TUNSETVNETHDRSZ, &header) == 0 && ioctl(fd, TUNSETOFFLOAD, offloads) == 0)
		return fd;
	perror(name);
	exit(1);
}

/* True when there may be more. */
static bool from_tap(struct wire *w)
{
	ssize_t n = read(w->tap, w->frame, sizeof(w->frame));

	/* What meets a full switch is lost. */
	if (n > 0 && !lost(w))
		send(w->peer, w->frame, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	return n > 0;
}

static bool from_peer(struct wire *w)
{
	struct virtio_net_hdr_v1 *hdr = (void *)w->frame;
	ssize_t n = recv(w->peer, w->frame, sizeof(w->frame), MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN))
		exit(0);
	if (n > (ssize_t)sizeof(*hdr) && !lost(w)) {
		if (w->plain)
			hdr->flags &= ~VIRTIO_NET_HDR_F_DATA_VALID;
		/* One that the interface does not take is lost. */
		if (write(w->tap, w->frame, n) < 0 && errno != EINVAL && errno != EIO)
			perror("tap");
	}
	return n > 0;
}

int main(int argc, char **argv)
{
	static struct wire w = { .random = 1 };
	struct error err = { 0 };
	struct net_hello hello;
	struct pollfd p[3];
	int option;

	while ((option = getopt(argc, argv, "l:p")) != -1) {
		if (option == 'l')
			w.loss = strtoul(optarg, NULL, 10);
		else if (option == 'p')
			w.plain = true;
		else
			return 2;
	}
	if (argc - optind != 2)
		return 2;
	w.tap = open_tap(argv[optind], w.plain);
	w.peer = net_switch_connect(argv[optind + 1], argv[optind], 1, &err);
	if (w.peer < 0) {
		fprintf(stderr, "wire: %s\n", err.msg);
		return 1;
	}
	hello = (struct net_hello){
		htole32(NET_HELLO_MAGIC),
		htole32(w.plain ? 0 : NET_HELLO_CSUM | NET_HELLO_TSO4 | NET_HELLO_TSO6),
	};
	if (send(w.peer, &hello, sizeof(hello), MSG_NOSIGNAL) < 0)
		return 1;
	puts("ready");
	fflush(stdout);
	p[0] = (struct pollfd){ w.tap, POLLIN, 0 };
	p[1] = (struct pollfd){ w.peer, POLLIN, 0 };
	p[2] = (struct pollfd){ STDIN_FILENO, 0, 0 };
	while (poll(p, ARRAY_SIZE(p), -1) > 0 && !p[2].revents) {
		for (int i = 0; i < BURST && p[0].revents && from_tap(&w); i++)
			;
		for (int i = 0; i < BURST && p[1].revents && from_peer(&w); i++)
			;
	}
	return 0;
}
