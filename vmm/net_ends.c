#include "vmm/net_ends.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net_divert.h"
#include "devices/net_switch.h"
#include "devices/net_vhost.h"
#include "vmm/switch.h"

void net_ends_init(struct net_ends *e)
{
	*e = (struct net_ends){ .socket = -1 };
}

static int join_switch(struct net_ends *e, const struct config_net *net,
		       const struct machine_config *where, struct error *err)
{
	char path[PATH_MAX], name[NET_SWITCH_PORT_NAME];
	int r = switch_path(path, sizeof(path), where->run_dir, net->switch_name, false, err);

	if (r < 0)
		return r;
	/* Ports are told apart by microVM where it has a name. */
	snprintf(name, sizeof(name), "%.15s%s%.15s", where->name ? where->name : "",
		 where->name ? "." : "", net->id);
	r = net_switch_connect(path, name, net->vlan, err);
	if (r < 0)
		return r;
	e->socket = r;
	return 0;
}

static int open_tap(struct net_ends *e, const struct config_net *net, struct error *err)
{
	int r = net->tap_fd_given ? net_tap_adopt(&e->tap, net->tap_fd, net->tap_offloads, err)
				  : net_tap_open(&e->tap, net->tap_name, net->queues, err);

	while (!r && net->vhost && e->num_vhost < e->tap.num_queues) {
		int fd = net_vhost_open(err);

		if (fd < 0)
			r = fd;
		else
			e->vhost[e->num_vhost++] = fd;
	}
	if (r < 0)
		net_ends_close(e);
	return r;
}

int net_ends_open(struct net_ends *e, const struct config_net *net,
		  const struct machine_config *where, struct helper *h, struct error *err)
{
	net_ends_init(e);
	h->status_fd = -1; /* it has nothing to say unless it is started */
	switch (net->kind) {
	case CONFIG_NET_TAP:
		return open_tap(e, net, err);
	case CONFIG_NET_SWITCH:
		return join_switch(e, net, where, err);
	case CONFIG_NET_USER:
		break;
	}
	return helper_start_net(h, net, &e->socket, err);
}

int net_ends_open_nothing(struct net_ends *e, struct error *err)
{
	int pair[2];

	net_ends_init(e);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "socket: %m");
	e->socket = pair[0];
	close(pair[1]);
	return 0;
}

/* The next queue of the tap, which the kernel serves where it was asked to. */
static int take_tap(struct net_ends *e, unsigned i, const struct config_net *net,
		    const struct guest_mem *mem, struct net **ret_net, struct error *err)
{
	int fd = e->tap.fd[i], r;

	e->tap.fd[i] = -1;
	r = net_open_tap(ret_net, fd, &e->tap, net->mac, err);
	if (r < 0 || i >= e->num_vhost)
		return r;
	fd = e->vhost[i];
	e->vhost[i] = -1;
	r = net_tap_use_vhost(*ret_net, fd, mem, err);
	if (r < 0)
		net_close(*ret_net);
	return r;
}

int net_ends_take(struct net_ends *e, const struct config_net *net, struct loop *loop,
		  const struct guest_mem *mem, struct net **ret_pairs, unsigned *ret_num,
		  struct error *err)
{
	unsigned num = 0;
	int fd, r = 0;

	if (e->socket >= 0) {
		fd = e->socket;
		e->socket = -1;
		r = net_open_socket(&ret_pairs[num], fd, net->mac, err);
		if (!r)
			num++;
	}
	while (!r && num < e->tap.num_queues) {
		r = take_tap(e, num, net, mem, &ret_pairs[num], err);
		if (!r)
			num++;
	}
	net_ends_close(e);
	for (unsigned i = 0; i < num; i++) {
		net_attach(ret_pairs[i], loop);
		if (net->mtu)
			ret_pairs[i]->mtu = net->mtu;
	}
	if (!r && net->service.s_addr)
		r = net_divert_create(&ret_pairs[0], ret_pairs[0], net->service, err);
	/* Whoever starts it again may not think of its guests. */
	if (!r && net->kind == CONFIG_NET_SWITCH)
		ret_pairs[0]->peer = "switch";
	if (r < 0) {
		while (num > 0)
			net_close(ret_pairs[--num]);
		return r;
	}
	*ret_num = num;
	return 0;
}

void net_ends_close(struct net_ends *e)
{
	if (e->socket >= 0)
		close(e->socket);
	e->socket = -1;
	net_tap_close(&e->tap);
	while (e->num_vhost > 0) {
		if (e->vhost[--e->num_vhost] >= 0)
			close(e->vhost[e->num_vhost]);
	}
}
