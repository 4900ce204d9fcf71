/* `wisp plug` and `wisp unplug`: devices of a running microVM that come and go. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/nbd.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/cli_control.h"
#include "vmm/control/control_client.h"
#include "vmm/net_ends.h"

#define UNPLUG_SECONDS 10 /* that a guest has to let go */

struct plug_options {
	struct control_options control;
	char *disk, *pmem, *net;
	unsigned timeout_seconds;
	bool force;
};

#define MEMBER(m) offsetof(struct plug_options, m)

const struct config_item plug_options[] = {
	{ "--run-dir", "DIR", "Where running microVMs have their directories (as for run)",
	  CONFIG_STRING, MEMBER(control.run_dir) },
	{ "--disk", "PATH[,KEY=VALUE]...",
	  "A disk, as for run; without queues, backing files or a server", CONFIG_STRING,
	  MEMBER(disk) },
	{ "--pmem", "PATH[,KEY=VALUE]...", "A file as memory of the guest's, as for run",
	  CONFIG_STRING, MEMBER(pmem) },
	{ "--net", "tap|switch=NAME[,KEY=VALUE]...", "A network, as for run", CONFIG_STRING,
	  MEMBER(net) },
	{ 0 },
};

const struct config_item unplug_options[] = {
	{ "--run-dir", "DIR", "Where running microVMs have their directories (as for run)",
	  CONFIG_STRING, MEMBER(control.run_dir) },
	{ "--timeout", "SECONDS", "How long the guest may take to let go of it (10)",
	  CONFIG_NUMBER, MEMBER(timeout_seconds), 0, 3600 },
	{ "--force", NULL, "Then take it away all the same, as if it were pulled out", CONFIG_FLAG,
	  MEMBER(force) },
	{ 0 },
};

/* ---- plug ---- */

/* The file @path of the device that @value describes, for the request. */
static int open_file(const char *word, const char *value, const char *path, int flags,
		     json_t *request, int *ret_fd, struct error *err)
{
	char whole[PATH_MAX];

	*ret_fd = open(path, O_CLOEXEC | O_NOCTTY | O_NONBLOCK | flags);
	if (*ret_fd < 0 || !realpath(path, whole))
		return error_usage(err, -errno, "--%s '%s': cannot open: %m", word, path);
	return json_object_set_new(request, word, json_string(value)) |
	       json_object_set_new(request, "path", json_string(whole));
}

static int open_pmem(const char *value, json_t *request, int *ret_fd, struct error *err)
{
	struct machine_config *c = calloc(1, sizeof(*c));
	struct config_parse p = { .config = c, .target = c, .option = "--pmem", .err = err };
	int r;

	if (!c)
		return error_set(err, -ENOMEM, "plug: %m");
	r = config_parse_pmem(&p, value, c);
	if (!r)
		r = open_file("pmem", value, c->pmem[0].path,
			      c->pmem[0].read_only ? O_RDONLY : O_RDWR, request, ret_fd, err);
	config_done(c);
	free(c);
	return r;
}

static int open_disk(const char *value, json_t *request, int *ret_fd, struct error *err)
{
	struct machine_config *c = calloc(1, sizeof(*c));
	struct config_parse p = { .config = c, .target = c, .option = "--disk", .err = err };
	const struct config_disk *d;
	int r;

	if (!c)
		return error_set(err, -ENOMEM, "plug: %m");
	d = &c->disk[0];
	r = config_parse_disk(&p, value, c);
	if (!r && nbd_is_uri(d->path))
		r = error_usage(err, -ENOTSUP,
				"--disk: servers are for disks that are there from the start");
	if (!r)
		r = open_file("disk", value, d->path,
			      (d->read_only ? O_RDONLY : O_RDWR) | (d->direct ? O_DIRECT : 0),
			      request, ret_fd, err);
	config_done(c);
	free(c);
	return r;
}

static unsigned offload_bits(const struct net_offloads *o)
{
	return (o->csum ? NET_HELLO_CSUM : 0) | (o->tso4 ? NET_HELLO_TSO4 : 0) |
	       (o->tso6 ? NET_HELLO_TSO6 : 0) | (o->ecn ? NET_HELLO_ECN : 0) |
	       (o->uso ? NET_HELLO_USO : 0);
}

/* @where: the microVM, of which a switch wants to know the name. */
static int open_net(const char *value, struct machine_config *where, json_t *request,
		    struct net_ends *ends, struct error *err)
{
	struct machine_config *c = calloc(1, sizeof(*c));
	struct config_parse p = { .config = c, .target = c, .option = "--net", .err = err };
	struct helper none = { 0 };
	int r;

	if (!c)
		return error_set(err, -ENOMEM, "plug: %m");
	r = config_parse_net(&p, value, c);
	if (!r && (!c->num_nets || c->net[0].kind == CONFIG_NET_USER))
		r = error_usage(err, -ENOTSUP,
				"--net: only a tap or a switch can be plugged in: user networks "
				"are there from the start");
	/* Once locked in the monitor gives nobody its memory. */
	if (!r && c->net[0].vhost)
		r = error_usage(err, -ENOTSUP,
				"--net: vhost=on is for networks that are there from the start");
	if (!r && !c->net[0].id)
		c->net[0].id = strdup("plugged");
	if (!r)
		r = net_ends_open(ends, &c->net[0], where, &none, err);
	if (!r)
		r = json_object_set_new(request, "net", json_string(value)) |
		    json_object_set_new(request, "mtu", json_integer(ends->tap.mtu)) |
		    json_object_set_new(request, "offloads",
					json_integer(offload_bits(&ends->tap.offloads)));
	config_done(c);
	free(c);
	return r;
}

static int plug(const struct plug_options *o, const char *id, int sock, struct error *err)
{
	json_t *request = json_pack("{s:s}", "do", "plug");
	struct machine_config where = { .name = (char *)id, .run_dir = o->control.run_dir };
	int fd = -1, num = 1, r;
	struct net_ends ends;

	net_ends_init(&ends);
	if (o->disk)
		r = open_disk(o->disk, request, &fd, err);
	else if (o->pmem)
		r = open_pmem(o->pmem, request, &fd, err);
	else
		r = open_net(o->net, &where, request, &ends, err);
	if (!r && ends.tap.num_queues)
		num = (int)ends.tap.num_queues;
	if (!r)
		r = control_ask(sock, json_incref(request),
				!o->net ? &fd : ends.tap.num_queues ? ends.tap.fd : &ends.socket,
				num, NULL, err);
	json_decref(request);
	net_ends_close(&ends);
	if (fd >= 0)
		close(fd);
	return r;
}

static int finish(struct plug_options *o, int sock, int r, const struct error *err)
{
	control_options_done(&o->control);
	free(o->disk);
	free(o->pmem);
	free(o->net);
	if (sock >= 0)
		close(sock);
	if (r >= 0)
		return 0;
	error_print(err);
	return error_status(err);
}

int plug_main(int argc, char **argv)
{
	struct plug_options o = { 0 };
	struct error err = { 0 };
	const char *id;
	int sock = -1;
	int r = config_parse_verb("plug", plug_options, &o, argc, argv, &id, 1, &err);

	if (r == 0)
		r = error_usage(&err, -EINVAL, "plug: which microVM? ('wisp ls' lists them)");
	if (r > 0 && !!o.disk + !!o.pmem + !!o.net != 1)
		r = error_usage(&err, -EINVAL, "plug: one --disk, one --pmem or one --net");
	if (r > 0)
		r = sock = control_connect_awake(o.control.run_dir, id, &err);
	if (r >= 0)
		r = plug(&o, id, sock, &err);
	return finish(&o, sock, r, &err);
}

/* ---- unplug ---- */

static int unplug(int sock, const char *device, unsigned patience, bool force, struct error *err)
{
	return control_ask(sock,
			   json_pack("{s:s, s:s, s:i, s:b}", "do", "unplug", "device", device,
				     "patience", (int)patience, "force", force),
			   NULL, 0, NULL, err);
}

int control_replug_net(const char *run_dir, const char *id, const char *net, const char *value,
		       struct error *err)
{
	const struct plug_options o = {
		.control.run_dir = (char *)run_dir,
		.net = (char *)value,
	};
	char device[96];
	int sock = control_connect_awake(run_dir, id, err), r = sock;

	snprintf(device, sizeof(device), "net:%s", net);
	if (r >= 0)
		r = unplug(sock, device, UNPLUG_SECONDS, false, err);
	if (r >= 0)
		r = plug(&o, id, sock, err);
	if (sock >= 0)
		close(sock);
	if (r < 0)
		error_prefix(err, "'%s': network '%s' cannot be replugged", id, net);
	return r;
}

int unplug_main(int argc, char **argv)
{
	struct plug_options o = { .timeout_seconds = UNPLUG_SECONDS };
	struct error err = { 0 };
	const char *args[2];
	int sock = -1;
	int r = config_parse_verb("unplug", unplug_options, &o, argc, argv, args, 2, &err);

	if (r >= 0 && r < 2)
		r = error_usage(&err, -EINVAL, "unplug: which microVM and which device of it?");
	if (r > 0)
		r = sock = control_connect_awake(o.control.run_dir, args[0], &err);
	if (r >= 0)
		r = unplug(sock, args[1], o.timeout_seconds, o.force, &err);
	return finish(&o, sock, r, &err);
}
