/* SPDX-License-Identifier: Apache-2.0 */
/*
 * join TAP FD: frames between the tap interface TAP and user networking's socket FD, both ways, in
 * the place of a monitor. It takes what a monitor does (checksums to fill, TCP segments of up to
 * 64 KiB), and makes about its system calls: all frames of a round with one sendmmsg(), and one
 * recv() for each that comes. Says "ready", and ends with its peer.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net.h"

#define ROUND	 32 /* frames from the tap with one call */
#define RECEIVED 64 /* frames from the socket before the tap is looked at again */
#define ROOM	 (NET_VNET_HDR + NET_MAX_FRAME)

struct join {
	int tap, sock;
	char *frame[ROUND];
};

static void give_up(const char *what)
{
	perror(what);
	exit(1);
}

static int open_tap(const char *name)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK), header = NET_VNET_HDR;

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 ||
	    ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0)
		give_up(name);
	return fd;
}

static void send_all(struct join *j, struct mmsghdr *msg, int num)
{
	struct pollfd full = { .fd = j->sock, .events = POLLOUT };
	int done = 0;

	while (done < num) {
		int n = sendmmsg(j->sock, msg + done, num - done, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0)
			done += n;
		else if (errno != EAGAIN)
			give_up("send");
		else
			poll(&full, 1, -1);
	}
}

static void from_tap(struct join *j)
{
	struct mmsghdr msg[ROUND] = { 0 };
	struct iovec iov[ROUND];
	int num = 0;

	while (num < ROUND) {
		ssize_t len = read(j->tap, j->frame[num], ROOM);

		if (len <= 0)
			break;
		iov[num] = (struct iovec){ j->frame[num], len };
		msg[num].msg_hdr = (struct msghdr){ .msg_iov = &iov[num], .msg_iovlen = 1 };
		num++;
	}
	send_all(j, msg, num);
}

static void from_socket(struct join *j)
{
	for (unsigned i = 0; i < RECEIVED; i++) {
		ssize_t len = recv(j->sock, j->frame[0], ROOM, MSG_DONTWAIT);

		if (!len)
			exit(0);
		if (len < 0)
			return;
		/* A word from side to side is no frame; one for a tap that is down is lost. */
		if (len >= (ssize_t)(NET_VNET_HDR + NET_ETH_HDR) &&
		    write(j->tap, j->frame[0], len) < 0 && errno != EIO)
			give_up("tap");
	}
}

int main(int argc, char **argv)
{
	const struct net_hello hello = { htole32(NET_HELLO_MAGIC),
					 htole32(NET_HELLO_CSUM | NET_HELLO_TSO4 |
						 NET_HELLO_TSO6 | NET_HELLO_ECN) };
	struct join j;
	struct pollfd p[2];

	if (argc != 3)
		return 2;
	j.tap = open_tap(argv[1]);
	j.sock = strtol(argv[2], NULL, 10);
	for (unsigned i = 0; i < ROUND; i++) {
		j.frame[i] = malloc(ROOM);
		if (!j.frame[i])
			give_up("join");
	}
	if (send(j.sock, &hello, sizeof(hello), 0) < 0)
		give_up("hello");
	printf("ready\n");
	fflush(stdout);
	p[0] = (struct pollfd){ .fd = j.tap, .events = POLLIN };
	p[1] = (struct pollfd){ .fd = j.sock, .events = POLLIN };
	for (;;) {
		poll(p, 2, -1);
		if (p[0].revents & POLLIN)
			from_tap(&j);
		if (p[1].revents)
			from_socket(&j);
	}
}
