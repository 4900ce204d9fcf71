/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's networks, without a DHCP client: what it would learn is in the plan. */
#include "init.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct network {
	unsigned index;
	unsigned address, mask, router, dns; /* 0: nobody has said */
};

static void set_address(struct sockaddr *to, unsigned address)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(address) };

	memcpy(to, &in, sizeof(in));
}

static void up(int fd, const char *name)
{
	struct ifreq r = { 0 };

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (ioctl(fd, SIOCGIFFLAGS, &r) < 0)
		return;
	r.ifr_flags |= IFF_UP | IFF_RUNNING;
	ioctl(fd, SIOCSIFFLAGS, &r);
}

static void set_up(int fd, const struct network *n)
{
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };
	struct ifreq r = { 0 };

	snprintf(r.ifr_name, sizeof(r.ifr_name), "eth%u", n->index);
	up(fd, r.ifr_name);
	if (!n->address)
		return;
	set_address(&r.ifr_addr, n->address);
	ioctl(fd, SIOCSIFADDR, &r);
	set_address(&r.ifr_netmask, n->mask);
	ioctl(fd, SIOCSIFNETMASK, &r);
	set_address(&route.rt_gateway, n->router);
	set_address(&route.rt_dst, 0);
	set_address(&route.rt_genmask, 0);
	ioctl(fd, SIOCADDRT, &route);
}

/* In a tree that is not to change, names are the tree's own affair. */
static void name_server(const struct plan *p, unsigned address)
{
	struct in_addr in = { .s_addr = htonl(address) };
	FILE *out;

	if (strcmp(p->root, "overlay") != 0)
		return;
	unlink("/etc/resolv.conf");
	out = fopen("/etc/resolv.conf", "we");
	if (!out)
		return;
	fprintf(out, "nameserver %s\n", inet_ntoa(in));
	fclose(out);
}

void networks_up(const struct plan *p)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	up(fd, "lo");
	for (unsigned i = 0; i < p->num_nets; i++) {
		struct network n = { 0 };
		int words = sscanf(p->net[i], "%u %u %u %u %u", &n.index, &n.address, &n.mask,
				   &n.router, &n.dns);

		if (words < 1)
			continue;
		set_up(fd, &n);
		if (words == 5)
			name_server(p, n.dns);
	}
	close(fd);
}
