/* wisp memory: how much of its --memory-hotplug a guest has, and is to have. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/cli_control.h"
#include "vmm/cli/cli_guest.h"
#include "vmm/control/control_client.h"

#define MEMBER(m) offsetof(struct memory_options, m)

/* Between two looks at what the guest has done. */
#define ROUND_MS 50

struct memory_options {
	char *run_dir;
	unsigned wait_seconds;
	bool json;
};

const struct config_item memory_options[] = {
	{ "--run-dir", "DIR", "Where running microVMs have their directories (as for run)",
	  CONFIG_STRING, MEMBER(run_dir) },
	{ "--wait", "SECONDS",
	  "Wait until the guest has what it is asked to have, so long at most (0); the status is 1 "
	  "if it has not",
	  CONFIG_NUMBER, MEMBER(wait_seconds), 0, 3600 },
	{ "--json", NULL, "Print one JSON object", CONFIG_FLAG, MEMBER(json) },
	{ 0 },
};

static json_int_t number(const json_t *reply, const char *name)
{
	return json_integer_value(json_object_get(reply, name));
}

static int ask(int sock, bool set, uint64_t bytes, json_t **ret_reply, struct error *err)
{
	json_t *request = json_pack("{s:s}", "do", "memory");

	if (set)
		json_object_set_new(request, "requested", json_integer((json_int_t)bytes));
	return control_ask(sock, request, NULL, 0, ret_reply, err);
}

static int too_late(const json_t *reply, unsigned seconds, struct error *err)
{
	bool driver = json_is_true(json_object_get(reply, "driver"));

	return error_set(err, -ETIMEDOUT,
			 "memory: the guest has %lld MiB of %lld after %u second%s%s",
			 (long long)number(reply, "plugged") >> 20,
			 (long long)number(reply, "requested") >> 20, seconds,
			 seconds == 1 ? "" : "s", driver ? "" : ": it has no driver for it");
}

/* Ask again until the guest has done it, or @seconds are over. */
static int await(int sock, unsigned seconds, json_t **reply, struct error *err)
{
	int r = 0;

	for (uint64_t ms = 0; !r && number(*reply, "plugged") != number(*reply, "requested");
	     ms += ROUND_MS) {
		if (ms >= seconds * 1000ull)
			return too_late(*reply, seconds, err);
		usleep(ROUND_MS * 1000);
		json_decref(*reply);
		*reply = NULL;
		r = ask(sock, false, 0, reply, err);
	}
	return r;
}

static void print_reply(json_t *reply, const char *id, bool json)
{
	if (json) {
		control_print_json(reply, id);
		return;
	}
	printf("%-10s %lld MiB, in blocks of %lld MiB\n", "at most",
	       (long long)number(reply, "total") >> 20, (long long)number(reply, "block") >> 20);
	printf("%-10s %lld MiB\n", "requested", (long long)number(reply, "requested") >> 20);
	printf("%-10s %lld MiB%s\n", "plugged", (long long)number(reply, "plugged") >> 20,
	       json_is_true(json_object_get(reply, "driver")) ? "" : " (no driver)");
}

int memory_main(int argc, char **argv)
{
	struct memory_options o = { 0 };
	struct error err = { 0 };
	json_t *reply = NULL;
	const char *args[2];
	uint64_t bytes = 0;
	int n, r, sock = -1;

	n = r = config_parse_verb("memory", memory_options, &o, argc, argv, args, 2, &err);
	if (n == 0)
		r = error_usage(&err, -EINVAL, "memory: which microVM? ('wisp ls' lists them)");
	if (n == 2 && config_parse_size(args[1], MiB, &bytes) < 0)
		r = error_usage(&err, -EINVAL, "memory: '%s' is not a size such as 512M or 2G",
				args[1]);
	if (r >= 0)
		sock = r = control_connect_awake(o.run_dir, args[0], &err);
	if (r >= 0)
		r = ask(sock, n == 2, bytes, &reply, &err);
	if (r >= 0 && o.wait_seconds)
		r = await(sock, o.wait_seconds, &reply, &err);
	if (r >= 0)
		print_reply(reply, args[0], o.json);
	else
		error_print(&err);
	if (sock >= 0)
		close(sock);
	json_decref(reply);
	free(o.run_dir);
	return r < 0 ? error_status(&err) : 0;
}
