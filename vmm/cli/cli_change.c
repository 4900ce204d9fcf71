/* `wisp change`: other sizes, limits and links for devices of a running microVM. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/cli_control.h"
#include "vmm/control/control_client.h"
#include "vmm/helper.h"

/* What was given, as text; NULL: stays as it is. */
struct change_options {
	struct control_options control;
	char *size, *iops, *pps, *bps, *iops_burst, *pps_burst, *bps_burst;
	char *link, *forward, *unforward;
};

#define MEMBER(m) offsetof(struct change_options, m)

const struct config_item change_options[] = {
	{ "--run-dir", "DIR", "Where running microVMs have their directories (as for run)",
	  CONFIG_STRING, MEMBER(control.run_dir) },
	{ "--size", "SIZE", "Make the disk so large, and tell the guest; what is cut off is lost",
	  CONFIG_STRING, MEMBER(size) },
	{ "--link", "up|down", "Plug the network in, or pull the cable out", CONFIG_STRING,
	  MEMBER(link) },
	{ "--hostfwd", "tcp|udp:[ADDRESS]:PORT-:PORT",
	  "Of a user network: forward one more port of the host, until the guest reboots",
	  CONFIG_STRING, MEMBER(forward) },
	{ "--no-hostfwd", "tcp|udp:[ADDRESS]:PORT-:PORT",
	  "End a forward: no new connections, those there are stay", CONFIG_STRING,
	  MEMBER(unforward) },
	{ "--iops", "N", "Of a disk: at most so many requests a second; 0: no limit",
	  CONFIG_STRING, MEMBER(iops) },
	{ "--pps", "N", "Of a network: at most so many frames a second, each way; 0: no limit",
	  CONFIG_STRING, MEMBER(pps) },
	{ "--bps", "SIZE", "At most so many bytes a second; 0: no limit", CONFIG_STRING,
	  MEMBER(bps) },
	{ "--iops-burst", "N", "Requests that may go at once after a pause; 0: a quarter of --iops",
	  CONFIG_STRING, MEMBER(iops_burst) },
	{ "--pps-burst", "N", "Frames that may go at once after a pause; 0: a quarter of --pps",
	  CONFIG_STRING, MEMBER(pps_burst) },
	{ "--bps-burst", "SIZE", "Bytes that may go at once after a pause; 0: a quarter of --bps",
	  CONFIG_STRING, MEMBER(bps_burst) },
	{ 0 },
};

/* Add @text, a size, to @request under @name, if it was given. */
static int add_size(json_t *request, const char *name, const char *option, const char *text,
		    struct error *err)
{
	uint64_t n;

	if (!text)
		return 0;
	if (config_parse_size(text, 1, &n) < 0 || n > INT64_MAX)
		return error_usage(err, -EINVAL,
				   "change: %s: '%s' is not a number such as 1000 or 10M", option,
				   text);
	return json_object_set_new(request, name, json_integer((json_int_t)n));
}

static int add_link(json_t *request, const char *text, struct error *err)
{
	if (!text)
		return 0;
	if (strcmp(text, "up") && strcmp(text, "down"))
		return error_usage(err, -EINVAL, "change: --link: '%s' is not up or down", text);
	return json_object_set_new(request, "link", json_boolean(!strcmp(text, "up")));
}

static int make_request(const struct change_options *o, const char *device, json_t **ret_request,
			struct error *err)
{
	json_t *request = json_pack("{s:s, s:s}", "do", "change", "device", device);
	int r = request ? 0 : error_set(err, -ENOMEM, "change: no memory");

	if (!r)
		r = add_size(request, "size", "--size", o->size, err);
	if (!r)
		r = add_size(request, "iops", "--iops", o->iops, err);
	if (!r)
		r = add_link(request, o->link, err);
	if (!r)
		r = add_size(request, "pps", "--pps", o->pps, err);
	if (!r)
		r = add_size(request, "pps_burst", "--pps-burst", o->pps_burst, err);
	if (!r)
		r = add_size(request, "bps", "--bps", o->bps, err);
	if (!r)
		r = add_size(request, "iops_burst", "--iops-burst", o->iops_burst, err);
	if (!r)
		r = add_size(request, "bps_burst", "--bps-burst", o->bps_burst, err);
	if (!r && json_object_size(request) == 2 && !o->forward && !o->unforward)
		r = error_usage(err, -EINVAL, "change: what? (see 'wisp help change')");
	if (r < 0)
		json_decref(request);
	else
		*ret_request = request;
	return r;
}

static int change_forward(const struct change_options *o, const char *const *args,
			  const char *option, const char *action, const char *rule,
			  struct error *err)
{
	struct config_forward f = { 0 };
	int r = rule ? config_parse_forward(option, rule, &f, err) : 0;
	const char *id = args[1];

	/* Only networks have any. */
	if (!strncmp(id, "net:", 4))
		id += 4;
	if (rule && !r)
		r = helper_forward(o->control.run_dir, args[0], id, action, &f, err);
	free(f.host_addr);
	return r;
}

static int change_forwards(const struct change_options *o, const char *const *args,
			   struct error *err)
{
	int r = change_forward(o, args, "--no-hostfwd", "remove", o->unforward, err);

	return r < 0 ? r : change_forward(o, args, "--hostfwd", "add", o->forward, err);
}

static int change(struct change_options *o, int argc, char **argv, struct error *err)
{
	const char *args[2];
	json_t *request = NULL;
	int r = config_parse_verb("change", change_options, o, argc, argv, args, 2, err);
	int sock;

	if (r < 0)
		return r;
	if (r < 2)
		return error_usage(err, -EINVAL, "change: which microVM and which device of it?");
	r = make_request(o, args[1], &request, err);
	if (r < 0)
		return r;
	/* Before the helper of one of its networks is asked, which knows less of who is there. */
	r = sock = control_connect_awake(o->control.run_dir, args[0], err);
	if (r >= 0)
		r = change_forwards(o, args, err);
	if (r >= 0 && json_object_size(request) > 2)
		r = control_ask(sock, json_incref(request), NULL, 0, NULL, err);
	json_decref(request);
	if (sock >= 0)
		close(sock);
	return r;
}

int change_main(int argc, char **argv)
{
	struct change_options o = { 0 };
	struct error err = { 0 };
	int r = change(&o, argc, argv, &err);

	control_options_done(&o.control);
	free(o.size);
	free(o.iops);
	free(o.bps);
	free(o.pps);
	free(o.pps_burst);
	free(o.link);
	free(o.forward);
	free(o.unforward);
	free(o.iops_burst);
	free(o.bps_burst);
	if (r >= 0)
		return 0;
	error_print(&err);
	return error_status(&err);
}
