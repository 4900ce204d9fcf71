/* What a user says and hears of moments that are kept; cli_rewind_record.c keeps them. */
#include "vmm/cli/cli_rewind.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/cli_control.h"
#include "vmm/control/control_client.h"
#include "vmm/core/io.h"
#include "vmm/debug/gdb.h"
#include "vmm/run_dir.h"

struct rewind_options {
	struct config_rewind record;
	bool list, drop, paused, json;
	char *gdb, *run_dir;
};

#define MEMBER(m) offsetof(struct rewind_options, m)

static int parse_record(struct config_parse *p, const char *value, void *target)
{
	return config_set_rewind(p, value, &((struct rewind_options *)target)->record);
}

const struct config_item rewind_options[] = {
	{ "--record", "[every=]TIME[,KEY=VALUE]...",
	  "Keep moments from now on, in the foreground: what 'wisp run --rewind' does in the "
	  "background",
	  CONFIG_CUSTOM, .parse = parse_record, .keys = config_rewind_keys },
	{ "--list", NULL, "Print which moments there are, and what they cost", CONFIG_FLAG,
	  MEMBER(list) },
	{ "--drop", NULL, "Let go of all of them", CONFIG_FLAG, MEMBER(drop) },
	{ "--paused", NULL, "Let the guest stand still until 'wisp resume'", CONFIG_FLAG,
	  MEMBER(paused) },
	{ "--gdb", "tcp:PORT|unix:PATH",
	  "The same until gdb, whose remote protocol is served there, lets it go on",
	  CONFIG_STRING, MEMBER(gdb) },
	{ "--json", NULL, "Print one JSON object: id, back_ms", CONFIG_FLAG, MEMBER(json) },
	{ "--run-dir", "DIR", "Where running microVMs have their directories", CONFIG_STRING,
	  MEMBER(run_dir) },
	{ 0 },
};

int rewind_path(char *buf, size_t size, const char *run_dir, const char *id, bool create,
		struct error *err)
{
	size_t len = 0;
	int r;

	if (!strchr(id, '/')) {
		r = run_dir_root(buf, size, run_dir, create, err);
		if (r < 0 && r != -ENOENT)
			return r;
		len = r < 0 ? 0 : strlen(buf);
	}
	if ((size_t)snprintf(buf + len, size - len,
			     len ? "/%s" RUN_DIR_REWIND : "%s" RUN_DIR_REWIND, id) >= size - len ||
	    strlen(buf) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return error_usage(err, -ENAMETOOLONG, "microVM '%s': %m", id);
	return 0;
}

static int connect_recorder(const struct rewind_options *o, const char *id, struct error *err)
{
	char path[PATH_MAX];
	int r = rewind_path(path, sizeof(path), o->run_dir, id, false, err);

	if (r < 0)
		return r;
	r = io_connect(path, SOCK_SEQPACKET);
	if (r >= 0)
		return r;
	if (r == -ECONNREFUSED)
		r = -ENOENT;
	error_usage(err, r, "microVM '%s': no moments of it are kept", id);
	error_hint(err, "'wisp run --rewind 1s' keeps some");
	return r;
}

static int ask(const struct rewind_options *o, const char *id, json_t *request, json_t **ret_reply,
	       struct error *err)
{
	int sock = connect_recorder(o, id, err), r;

	if (sock < 0) {
		json_decref(request);
		return sock;
	}
	r = control_ask(sock, request, NULL, 0, ret_reply, err);
	close(sock);
	return r;
}

static double seconds(const json_t *o, const char *key, double unit)
{
	return (double)json_integer_value(json_object_get(o, key)) / unit;
}

static void print_reply(const struct rewind_options *o, const char *of, json_t *reply)
{
	const char *id = json_string_value(json_object_get(reply, "id"));
	json_t *moments = json_object_get(reply, "moments"), *m;
	size_t i;

	if (o->json) {
		/* Of one that went back the reply has the ID. */
		control_print_json(reply, id ? NULL : of);
		return;
	}
	json_array_foreach(moments, i, m)
		printf("%.1f s back: the guest stood still for %.3f ms, of which %.3f for the "
		       "fork\n", seconds(m, "back_ms", 1000), seconds(m, "pause_us", 1000),
		       seconds(m, "fork_us", 1000));
	if (!id)
		return;
	/* For scripts the name alone. Moments lie apart, so it was further than asked for. */
	printf("%s\n", id);
	fprintf(stderr, "back by %.1f s\n", seconds(reply, "back_ms", 1000));
}

/* gdb finds the guest standing still, and lets it go on. */
static int attach_gdb(const struct rewind_options *o, const char *id, struct error *err)
{
	int sock = control_connect_in(o->run_dir, id, err), fd, r;

	if (sock < 0)
		return sock;
	fd = r = gdb_listen(o->gdb, err);
	if (r >= 0) {
		r = control_ask(sock, json_pack("{s:s, s:b}", "do", "gdb", "hold", true), &fd, 1,
				NULL, err);
		close(fd);
		if (r < 0)
			gdb_unlisten(o->gdb);
	}
	close(sock);
	return r;
}

static int go_back(const struct rewind_options *o, const char *id, const char *by,
		   json_t **ret_reply, struct error *err)
{
	uint64_t ms;
	const char *made;
	int r = config_parse_duration(by, &ms);

	if (r < 0)
		return error_usage(err, r, "rewind: '%s' is not a time such as 500ms, 2s or 1m",
				   by);
	r = ask(o, id,
		json_pack("{s:s, s:I, s:b}", "do", "rewind", "ms", (json_int_t)ms, "paused",
			  o->paused || o->gdb),
		ret_reply, err);
	made = r < 0 ? NULL : json_string_value(json_object_get(*ret_reply, "id"));
	return made && o->gdb ? attach_gdb(o, made, err) : r;
}

int rewind_main(int argc, char **argv)
{
	struct rewind_options o = { 0 };
	struct error err = { 0 };
	json_t *reply = NULL;
	const char *args[2];
	int status = 0;
	int r = config_parse_verb("rewind", rewind_options, &o, argc, argv, args, 2, &err);
	bool other = o.record.every_ms || o.list || o.drop;

	if (r >= 0 && r != (other ? 1 : 2))
		r = error_usage(&err, -EINVAL, "rewind: needs ID, and how far back (2s)");
	else if (r >= 0 && o.record.every_ms)
		status = rewind_record(o.run_dir, args[0], &o.record);
	else if (r >= 0 && other)
		r = ask(&o, args[0], json_pack("{s:s}", "do", o.list ? "list" : "drop"), &reply,
			&err);
	else if (r >= 0)
		r = go_back(&o, args[0], args[1], &reply, &err);
	if (reply)
		print_reply(&o, args[0], reply);
	if (r < 0) {
		error_print(&err);
		status = error_status(&err);
	}
	json_decref(reply);
	free(o.gdb);
	free(o.run_dir);
	return status;
}
