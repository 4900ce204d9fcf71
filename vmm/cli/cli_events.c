/* wisp events: what happens to a microVM, until its end. */
#include "vmm/cli/cli_control.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/control/control_client.h"

/* Whoever reads wants each line when it is true. */
static void print_line(json_t *line)
{
	json_dumpf(line, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(line);
}

static void print_event(void *arg, const json_t *progress)
{
	const char *event = json_string_value(json_object_get(progress, "event"));

	if (event)
		print_line(json_pack("{s:s, s:s}", "id", arg, "event", event));
}

static void print_end(const char *id, const json_t *reply)
{
	print_line(json_pack("{s:s, s:s, s:s, s:O}", "id", id, "event", "end", "reason",
			     json_string_value(json_object_get(reply, "end")), "status",
			     json_object_get(reply, "status")));
}

int events_main(int argc, char **argv)
{
	struct control_options o = { 0 };
	struct control_extra extra = { .progress = print_event, .give_up_fd = -1 };
	struct error err = { 0 };
	json_t *reply = NULL;
	const char *id;
	int sock, r;

	sock = r = control_open("events", control_plain_options, &o, argc, argv, &id, &err);
	if (sock >= 0) {
		extra.arg = (void *)id;
		r = control_ask_extra(sock, json_pack("{s:s}", "do", "events"), NULL, 0, &reply,
				      &extra, &err);
		close(sock);
	}
	if (!r)
		print_end(id, reply);
	else
		error_print(&err);
	json_decref(reply);
	control_options_done(&o);
	return r < 0 ? error_status(&err) : 0;
}
