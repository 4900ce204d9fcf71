#include "vmm/switch.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/net_switch.h"
#include "vmm/config/config.h"
#include "vmm/core/io.h"
#include "vmm/helper.h"
#include "vmm/run_dir.h"

#define BACKLOG 64

struct options {
	char *run_dir;
	bool stats, json;
	unsigned uplink_vlan;
	struct machine_config uplink; /* net[0] of it, when num_nets is 1 */
};

#define MEMBER(m) offsetof(struct options, m)

static int parse_uplink(struct config_parse *p, const char *value, void *target)
{
	struct options *o = target;
	int r = config_parse_net(p, value, &o->uplink);

	if (r < 0)
		return r;
	if (o->uplink.num_nets != 1 || o->uplink.net[0].kind != CONFIG_NET_USER)
		return config_fail(p, "takes one network of kind 'user'");
	return config_set_string(p, "uplink", &o->uplink.net[0].id);
}

const struct config_item switch_options[] = {
	{ "--uplink", "user[,KEY=VALUE]...",
	  "A user network as one more port, with DHCP, DNS and a way out for all guests; keys as "
	  "for "
	  "wisp run --net user",
	  CONFIG_CUSTOM, .parse = parse_uplink },
	{ "--uplink-vlan", "N", "The VLAN of that port, 1 to 4094 (1)", CONFIG_NUMBER,
	  MEMBER(uplink_vlan), 1, NET_SWITCH_MAX_VLAN },
	{ "--stats", NULL, "Print the counters of the switch that runs, and end", CONFIG_FLAG,
	  MEMBER(stats) },
	{ "--json", NULL, "The same as one JSON object", CONFIG_FLAG, MEMBER(json) },
	{ "--run-dir", "DIR", "Where the switch is found (as for run)", CONFIG_STRING,
	  MEMBER(run_dir) },
	{ 0 },
};

/* ---- where it is ---- */

int switch_path(char *buf, size_t size, const char *run_dir, const char *name, bool create,
		struct error *err)
{
	size_t len = 0;
	int r;

	if (!strchr(name, '/')) {
		r = config_check_name("switch", name, err);
		if (r < 0)
			return r;
		r = run_dir_root(buf, size, run_dir, create, err);
		if (r == -ENOENT)
			error_usage(err, r, "switch '%s': does not run", name);
		if (r < 0)
			return r;
		len = strlen(buf);
	}
	if ((size_t)snprintf(buf + len, size - len, len ? "/%s.switch" : "%s", name) >= size - len)
		return error_usage(err, -ENAMETOOLONG, "switch '%s': %m", name);
	return 0;
}

/* A socket that listens at @path. What a dead switch has left there is replaced. */
static int listen_at(const char *path, struct error *err)
{
	int fd = io_connect(path, SOCK_SEQPACKET);

	if (fd >= 0) {
		close(fd);
		return error_usage(err, -EADDRINUSE, "switch '%s': runs already", path);
	}
	io_remove_dead_socket(path, SOCK_SEQPACKET);
	fd = io_listen(path, SOCK_SEQPACKET, 0600, BACKLOG);
	return fd < 0 ? error_usage(err, fd, "switch '%s': %m", path) : fd;
}

/* ---- options ---- */

/* ---- the process ---- */

struct end_signal {
	struct loop_op op;
	struct loop *loop;
};

static void end_signalled(struct loop_op *op, int res)
{
	loop_stop(container_of(op, struct end_signal, op)->loop);
}

static int add_uplink(struct net_switch *sw, const struct options *o, struct helper *helper,
		      struct error *err)
{
	int fd, r = helper_start_net(helper, &o->uplink.net[0], &fd, err);

	if (r < 0)
		return r;
	r = helper_await_ready(helper, err);
	if (r < 0) {
		close(fd);
		return r;
	}
	r = net_switch_add_uplink(sw, fd, "uplink", o->uplink_vlan);
	return r < 0 ? error_set(err, r, "switch: uplink: %m") : 0;
}

static int run_switch(const struct options *o, int listen_fd, struct error *err)
{
	struct loop_params params = { .name = "switch" };
	struct helper helper = { .status_fd = -1 };
	struct end_signal end = { .op.done = end_signalled };
	struct net_switch *sw = NULL;
	sigset_t set;
	int signals = -1, r;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	r = loop_create(&end.loop, &params, err);
	if (!r)
		r = net_switch_create(&sw, end.loop, err);
	if (!r && o->uplink.num_nets)
		r = add_uplink(sw, o, &helper, err);
	if (!r) {
		signals = signalfd(-1, &set, SFD_CLOEXEC);
		r = signals < 0 ? error_set(err, -errno, "switch: signalfd: %m") : 0;
	}
	if (!r) {
		net_switch_listen(sw, listen_fd);
		listen_fd = -1;
		loop_poll(end.loop, &end.op, signals, POLLIN);
		loop_run(end.loop);
	}
	net_switch_free(sw);
	helper_stop(&helper);
	if (end.loop)
		loop_free(end.loop);
	if (signals >= 0)
		close(signals);
	if (listen_fd >= 0)
		close(listen_fd);
	return r;
}

static int print_stats(const char *path, bool json, struct error *err)
{
	char *text = NULL;
	int r = net_switch_ask(path, json, &text, err);

	if (!r)
		fputs(text, stdout);
	free(text);
	if (!r && fflush(stdout))
		r = error_set(err, -errno, "standard output: %m");
	return r;
}

int switch_main(int argc, char **argv)
{
	struct options o = { .uplink_vlan = NET_SWITCH_DEFAULT_VLAN };
	char path[PATH_MAX];
	struct error err = { 0 };
	const char *name;
	int fd, r;

	config_init(&o.uplink);
	r = config_parse_verb("switch", switch_options, &o, argc, argv, &name, 1, &err);
	if (!r)
		r = error_usage(&err, -EINVAL, "switch: which one? It needs a name");
	o.stats |= o.json;
	if (r > 0)
		r = switch_path(path, sizeof(path), o.run_dir, name, !o.stats, &err);
	if (!r && o.stats) {
		r = print_stats(path, o.json, &err);
	} else if (!r) {
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		fd = listen_at(path, &err);
		r = fd < 0 ? fd : run_switch(&o, fd, &err);
		if (fd >= 0)
			unlink(path);
	}
	free(o.run_dir);
	config_done(&o.uplink);
	if (r < 0) {
		error_print(&err);
		return error_status(&err);
	}
	return 0;
}
