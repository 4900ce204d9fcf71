/* wisp balloon: how much memory a guest gives up, and what it says of the rest. */
#include "vmm/cli/cli_guest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/cli_control.h"
#include "vmm/control/control_client.h"

#define MEMBER(m) offsetof(struct balloon_options, m)

struct balloon_options {
	char *run_dir, *hint;
	bool json;
};

const struct config_item balloon_options[] = {
	{ "--run-dir", "DIR", "Where running microVMs have their directories (as for run)",
	  CONFIG_STRING, MEMBER(run_dir) },
	{ "--hint", "start|stop",
	  "Have the guest tell of all its free pages, which go back to the host (of a microVM with "
	  "--balloon hinting=on); stop: end that before it has told of all. Not while the guest is "
	  "short of memory: Linux may use pages again that it has told of, and lose what is there",
	  CONFIG_STRING, MEMBER(hint) },
	{ "--json", NULL, "Print one JSON object", CONFIG_FLAG, MEMBER(json) },
	{ 0 },
};

/* How long the guest may take to tell its statistics. */
#define PATIENCE_MS 1000
#define ROUND_MS    20

static json_int_t number(const json_t *reply, const char *name)
{
	return json_integer_value(json_object_get(reply, name));
}

/* Have the guest tell its statistics, and wait for that; a guest without a driver does not. */
static int ask_fresh(int sock, json_t *request, json_t **ret_reply, struct error *err)
{
	json_t *first = NULL, *reply = NULL;
	int r = control_ask(sock, request, NULL, 0, &first, err);

	for (int ms = 0; !r && ms < PATIENCE_MS; ms += ROUND_MS) {
		json_decref(reply);
		reply = NULL;
		usleep(ROUND_MS * 1000);
		r = control_ask(sock, json_pack("{s:s}", "do", "balloon"), NULL, 0, &reply, err);
		if (!r && number(reply, "told") != number(first, "told"))
			break;
	}
	json_decref(first);
	if (r < 0)
		json_decref(reply);
	else
		*ret_reply = reply;
	return r;
}

static void print_reply(const json_t *reply)
{
	const char *name;
	json_t *value;

	printf("%-20s %lld MiB\n", "target", (long long)number(reply, "target") >> 20);
	printf("%-20s %lld MiB\n", "balloon", (long long)number(reply, "actual") >> 20);
	printf("%-20s %lld MiB\n", "reported free", (long long)number(reply, "reported") >> 20);
	if (json_object_get(reply, "hints"))
		printf("%-20s %lld MiB\n", "hinted free",
		       (long long)number(json_object_get(reply, "hints"), "hinted") >> 20);
	json_object_foreach(json_object_get(reply, "statistics"), name, value)
		printf("%-20s %lld\n", name, (long long)json_integer_value(value));
}

int balloon_main(int argc, char **argv)
{
	struct balloon_options o = { 0 };
	json_t *request, *reply = NULL;
	struct error err = { 0 };
	const char *args[2];
	uint64_t bytes;
	int n, r, sock = -1;

	n = r = config_parse_verb("balloon", balloon_options, &o, argc, argv, args, 2, &err);
	if (n == 0)
		r = error_usage(&err, -EINVAL, "balloon: which microVM? ('wisp ls' lists them)");
	if (n == 2 && config_parse_size(args[1], MiB, &bytes) < 0)
		r = error_usage(&err, -EINVAL, "balloon: '%s' is not a size such as 512M or 2G",
				args[1]);
	if (r >= 0)
		sock = r = control_connect_awake(o.run_dir, args[0], &err);
	if (r >= 0) {
		request = json_pack("{s:s, s:b}", "do", "balloon", "refresh", true);
		if (n == 2)
			json_object_set_new(request, "target", json_integer((json_int_t)bytes));
		if (o.hint)
			json_object_set_new(request, "hint", json_string(o.hint));
		r = ask_fresh(sock, request, &reply, &err);
		close(sock);
	}
	if (r >= 0 && o.json) {
		control_print_json(reply, args[0]);
	} else if (r >= 0) {
		print_reply(reply);
	} else {
		error_print(&err);
	}
	json_decref(reply);
	free(o.run_dir);
	free(o.hint);
	return r < 0 ? error_status(&err) : 0;
}
