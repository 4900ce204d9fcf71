#include "vmm/net_ends.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net_divert.h"
#include "devices/net_switch.h"
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

int net_ends_open(struct net_ends *e, const struct config_net *net,
		  const struct machine_config *where, struct helper *h, struct error *err)
{
	net_ends_init(e);
	h->status_fd = -1; /* it has nothing to say unless it is started */
	switch (net->kind) {
	case CONFIG_NET_TAP:
		if (net->tap_fd_given)
			return net_tap_adopt(&e->tap, net->tap_fd, err);
		return net_tap_open(&e->tap, net->tap_name, net->queues, err);
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

int net_ends_take(struct net_ends *e, const struct config_net *net, struct loop *loop,
		  struct net **ret_pairs, unsigned *ret_num, struct error *err)
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
		fd = e->tap.fd[num];
		e->tap.fd[num] = -1;
		r = net_open_tap(&ret_pairs[num], fd, &e->tap, net->mac, err);
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
}
