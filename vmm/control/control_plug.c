/*
 * Devices that come and go (vmm/machine/machine_plug.h), as `wisp plug` and `wisp unplug` ask for
 * them. Files come along with the request.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/nbd.h"
#include "vmm/config/config_parse.h"
#include "vmm/control/control.h"
#include "vmm/machine/machine_plug.h"

#define MAX_PATIENCE_S 3600

static void done(void *arg, int r, const struct error *err)
{
	struct control_call *call = arg;

	if (r < 0)
		control_fail_error(call, err);
	else
		control_reply(call, NULL);
}

static void give_up(void *arg)
{
	struct control_call *call = arg;

	machine_plug_forget(control_machine(call));
	control_fail_ended(call);
}

/* Of one disk: the file is open, and where it is, whatever directory the option was given in. */
static int take_disk(struct control_call *call, struct machine_config *c, const char *value,
		     const char *path, struct machine_files *files, struct error *err)
{
	struct config_parse p = { .config = c, .target = c, .option = "--disk", .err = err };
	int r = config_parse_disk(&p, value, c);

	if (r < 0)
		return r;
	if (nbd_is_uri(c->disk[0].path) || c->disk[0].num_backing || c->disk[0].follow_backing ||
	    c->disk[0].queues)
		return error_usage(err, -ENOTSUP,
				   "--disk: servers, backing files and queues of their own are for "
				   "disks that are there from the start");
	free(c->disk[0].path);
	c->disk[0].path = strdup(path);
	files->disk[0] = control_take_fd(call, 0);
	if (!c->disk[0].path || *path != '/' || files->disk[0] < 0)
		return error_set(err, -EBADF, "--disk: the request came without its file");
	return 0;
}

/* The guest has the whole of its file as memory. */
static int take_pmem(struct control_call *call, struct machine_config *c, const char *value,
		     const char *path, struct machine_files *files, struct error *err)
{
	struct config_parse p = { .config = c, .target = c, .option = "--pmem", .err = err };
	int r = config_parse_pmem(&p, value, c);

	if (r < 0)
		return r;
	free(c->pmem[0].path);
	c->pmem[0].path = strdup(path);
	files->pmem[0] = control_take_fd(call, 0);
	if (!c->pmem[0].path || *path != '/' || files->pmem[0] < 0)
		return error_set(err, -EBADF, "--pmem: the request came without its file");
	return 0;
}

/* What the tap can do is for who opened it to ask. */
static int take_tap(struct control_call *call, struct net_tap *tap, struct error *err)
{
	uint64_t mtu, offloads;

	if (control_arg_number(call, "mtu", 0, UINT16_MAX, &mtu) < 0 ||
	    control_arg_number(call, "offloads", 0, UINT8_MAX, &offloads) < 0)
		return -EALREADY;
	*tap = (struct net_tap){
		.mtu = mtu,
		.offloads = {
			.csum = offloads & NET_HELLO_CSUM,
			.tso4 = offloads & NET_HELLO_TSO4,
			.tso6 = offloads & NET_HELLO_TSO6,
			.ecn = offloads & NET_HELLO_ECN,
			.uso = offloads & NET_HELLO_USO,
		},
	};
	while (tap->num_queues < NET_MAX_PAIRS && tap->num_queues < control_num_fds(call)) {
		tap->fd[tap->num_queues] = control_take_fd(call, tap->num_queues);
		tap->num_queues++;
	}
	return tap->num_queues ? 0 : error_set(err, -EBADF, "--net: the request came without it");
}

static int take_net(struct control_call *call, struct machine_config *c, const char *value,
		    struct machine_files *files, struct error *err)
{
	struct config_parse p = { .config = c, .target = c, .option = "--net", .err = err };
	int r = config_parse_net(&p, value, c);

	if (r < 0)
		return r;
	if (!c->num_nets || c->net[0].kind == CONFIG_NET_USER)
		return error_usage(err, -ENOTSUP,
				   "--net: only a tap or a switch can be plugged in: user networks "
				   "are there from the start");
	if (c->net[0].vhost)
		return error_usage(err, -ENOTSUP,
				   "--net: vhost=on is for networks that are there from the start");
	if (c->net[0].kind == CONFIG_NET_TAP)
		return take_tap(call, &files->net[0].tap, err);
	files->net[0].socket = control_take_fd(call, 0);
	return files->net[0].socket < 0 ?
		       error_set(err, -EBADF, "--net: the request came without it") :
		       0;
}

/*
 * {"do":"plug","disk":VALUE,"path":PATH} or "pmem":VALUE, with the file, or "net":VALUE, with a
 * tap's queues or a switch's socket: VALUE as of the option of wisp run.
 */
void control_verb_plug(struct control_call *call)
{
	struct machine_config *c = calloc(1, sizeof(*c));
	struct machine_files files;
	struct machine_addition a = { .config = c, .files = &files };
	const char *value[CONFIG_DEVICES], *path;
	struct error err = { 0 };
	int r = 0;

	machine_files_init(&files);
	if (!c) {
		control_fail(call, -ENOMEM, "no memory");
		return;
	}
	for (enum config_device kind = 0; kind < CONFIG_DEVICES && !r; kind++) {
		r = control_arg_string(call, config_device_kinds[kind].word, "", &value[kind]);
		if (!r && *value[kind])
			a.kind = kind;
	}
	if (r < 0 || control_arg_string(call, "path", "", &path) < 0) {
		free(c);
		return;
	}
	a.value = value[a.kind];
	if (a.kind == CONFIG_DEVICE_DISK)
		r = take_disk(call, c, a.value, path, &files, &err);
	else if (a.kind == CONFIG_DEVICE_NET)
		r = take_net(call, c, a.value, &files, &err);
	else
		r = take_pmem(call, c, a.value, path, &files, &err);
	if (!r) {
		control_on_end(call, give_up, call);
		machine_plug(control_machine(call), &a, done, call);
	} else {
		config_done(c);
		machine_files_close(&files);
		/* A field of the wrong type was answered to already. */
		if (r != -EALREADY)
			control_fail_error(call, &err);
	}
	free(c);
}

/* {"do":"unplug","device":NAME,"patience":SECONDS,"force":BOOL} */
void control_verb_unplug(struct control_call *call)
{
	const char *id;
	uint64_t patience;
	bool force;

	if (control_arg_string(call, "device", "", &id) < 0 ||
	    control_arg_number(call, "patience", 10, MAX_PATIENCE_S, &patience) < 0 ||
	    control_arg_bool(call, "force", false, &force) < 0)
		return;
	control_on_end(call, give_up, call);
	machine_unplug(control_machine(call), id, patience * NSEC_PER_SEC, force, done, call);
}
