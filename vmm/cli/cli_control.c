#include "vmm/cli/cli_control.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/control/control_client.h"
#include "vmm/run_dir.h"

#define MEMBER(m) offsetof(struct control_options, m)

#define RUN_DIR_ITEM                                                                               \
	{ "--run-dir", "DIR", "Where running microVMs have their directories (as for run)",        \
	  CONFIG_STRING, MEMBER(run_dir) }
#define JSON_ITEM                                                                                  \
	{ "--json", NULL, "Print one JSON object", CONFIG_FLAG, MEMBER(json) }

const struct config_item control_plain_options[] = { RUN_DIR_ITEM, { 0 } };
const struct config_item control_report_options[] = { RUN_DIR_ITEM, JSON_ITEM, { 0 } };
const struct config_item control_stat_options[] = {
	RUN_DIR_ITEM,
	JSON_ITEM,
	{ "--prometheus", NULL,
	  "Print the text that Prometheus reads; without ID of all microVMs of this user",
	  CONFIG_FLAG, MEMBER(prometheus) },
	{ 0 },
};
const struct config_item control_top_options[] = {
	RUN_DIR_ITEM,
	{ "--delay", "SECONDS", "How often the figures change (2)", CONFIG_NUMBER,
	  MEMBER(delay_seconds), 1, 3600 },
	{ "--once", NULL, "Print one screen as text, of the figures of one --delay, and end",
	  CONFIG_FLAG, MEMBER(once) },
	{ 0 },
};
const struct config_item control_stop_options[] = {
	RUN_DIR_ITEM,
	JSON_ITEM,
	{ "--timeout", "SECONDS", "How long the guest may take to power off (30)", CONFIG_NUMBER,
	  MEMBER(timeout_seconds), 0, 86400 },
	{ 0 },
};

/* A monitor that does not answer within this is stuck. */
#define PATIENCE_SECONDS 3

void control_options_done(struct control_options *o)
{
	free(o->run_dir);
}

static int fail(const struct error *err)
{
	error_print(err);
	return error_status(err);
}

void control_print_json(json_t *o, const char *id)
{
	json_t *all = id ? json_pack("{s:s}", "id", id) : json_object();

	json_object_update_missing(all, o);
	json_object_del(all, "ok");
	json_dumpf(all, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(all);
}

/* The options, and which microVM it is. */
static int parse(const char *verb, const struct config_item *options, struct control_options *o,
		 int argc, char *const *argv, const char **ret_id, struct error *err)
{
	int n = config_parse_verb(verb, options, o, argc, argv, ret_id, 1, err);

	if (n == 0)
		return error_usage(err, -EINVAL, "%s: which microVM? ('wisp ls' lists them)", verb);
	return n < 0 ? n : 0;
}

int control_open(const char *verb, const struct config_item *options, struct control_options *o,
		 int argc, char *const *argv, const char **ret_id, struct error *err)
{
	int r = parse(verb, options, o, argc, argv, ret_id, err);

	return r < 0 ? r : control_connect_awake(o->run_dir, *ret_id, err);
}

/* A verb that asks one thing and has nothing to say when that is done. */
static int ask_plain(const char *verb, int argc, char **argv)
{
	struct control_options o = { 0 };
	struct error err = { 0 };
	const char *id;
	int sock, r;

	sock = r = control_open(verb, control_plain_options, &o, argc, argv, &id, &err);
	if (sock >= 0) {
		r = control_ask(sock, json_pack("{s:s}", "do", verb), NULL, 0, NULL, &err);
		close(sock);
	}
	control_options_done(&o);
	return r < 0 ? fail(&err) : 0;
}

int pause_main(int argc, char **argv)
{
	return ask_plain("pause", argc, argv);
}

int resume_main(int argc, char **argv)
{
	return ask_plain("resume", argc, argv);
}

/* ---- ends ---- */

/*
 * A monitor that is stuck: kill it by force. Its process is known, or it is a child of the one that
 * listens; that one notices, and cleans up.
 */
static int kill_stuck(pid_t monitor, pid_t parent, struct error *err)
{
	char path[64];
	FILE *f;
	int child, killed = 0;

	if (monitor > 0)
		return kill(monitor, SIGKILL) < 0 && errno != ESRCH
			       ? error_set(err, -errno, "process %d cannot be killed: %m", monitor)
			       : 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", parent, parent);
	f = fopen(path, "re");
	while (f && fscanf(f, "%d", &child) == 1)
		killed += kill(child, SIGKILL) == 0;
	if (f)
		fclose(f);
	if (!killed)
		return error_set(err, -ETIMEDOUT,
				 "the microVM does not answer, and process %d has no child to kill",
				 parent);
	return 0;
}

/* The monitor said that it ends; its parent ends next, and takes the run directory away. */
static void await_parent(int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	poll(&p, 1, PATIENCE_SECONDS * 1000);
}

int control_end_machine(int sock, json_t *request, pid_t force, json_t **ret_reply,
			struct error *err)
{
	pid_t parent = control_peer(sock);
	int pidfd = parent > 0 ? (int)syscall(SYS_pidfd_open, parent, 0) : -1;
	int r;

	if (ret_reply)
		*ret_reply = NULL;
	r = control_ask(sock, request, NULL, 0, ret_reply, err);
	if (force && (r == -ETIMEDOUT || r == -EAGAIN) && parent > 0)
		r = kill_stuck(force, parent, err);
	/* That it is gone is what was wanted. */
	if (r == -ECONNRESET || r == -EPIPE)
		r = 0;
	if (!r && pidfd >= 0)
		await_parent(pidfd);
	if (pidfd >= 0)
		close(pidfd);
	return r;
}

/* Whether the guest obeyed is told apart by a line, or "forced"; that it is gone is a success. */
static void print_stopped(const struct control_options *o, const char *id, const json_t *reply)
{
	const char *end = json_string_value(json_object_get(reply, "end"));
	bool forced = end && !strcmp(end, "signal");
	json_t *said;

	if (o->json) {
		said = json_pack("{s:s*, s:b}", "end", end, "forced", forced);
		control_print_json(said, id);
		json_decref(said);
	} else if (forced) {
		fprintf(stderr, "wisp: stop: '%s' did not power off within %u s: it was ended\n",
			id, o->timeout_seconds);
	}
}

int stop_main(int argc, char **argv)
{
	struct control_options o = { .timeout_seconds = 30 };
	json_t *request, *reply = NULL;
	struct error err = { 0 };
	const char *id;
	int sock, r;

	sock = r = control_open("stop", control_stop_options, &o, argc, argv, &id, &err);
	if (sock >= 0) {
		request = json_pack("{s:s, s:i}", "do", "stop", "timeout", o.timeout_seconds);
		r = control_end_machine(sock, request, 0, &reply, &err);
		close(sock);
		if (!r)
			print_stopped(&o, id, reply);
		json_decref(reply);
	}
	control_options_done(&o);
	return r < 0 ? fail(&err) : 0;
}

int kill_main(int argc, char **argv)
{
	struct timeval patience = { .tv_sec = PATIENCE_SECONDS };
	struct control_options o = { 0 };
	struct error err = { 0 };
	const char *id;
	pid_t monitor;
	int sock, r;

	r = parse("kill", control_plain_options, &o, argc, argv, &id, &err);
	/* Also one that cannot answer. */
	sock = r = r < 0 ? r : control_connect_in(o.run_dir, id, &err);
	if (sock >= 0) {
		setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
		/* What a clone's keeper has for children are its helpers. */
		monitor = run_dir_monitor(o.run_dir, id);
		r = control_end_machine(sock, json_pack("{s:s}", "do", "kill"),
					monitor ? monitor : CONTROL_FORCE_CHILD, NULL, &err);
		close(sock);
	}
	control_options_done(&o);
	return r < 0 ? fail(&err) : 0;
}
