#include "vmm/cli_control.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/cli.h"
#include "vmm/control_client.h"
#include "vmm/run_dir.h"

#define MEMBER(m) offsetof(struct control_options, m)

#define RUN_DIR_ITEM                                                                               \
	{ "--run-dir", "DIR", "Where running microVMs have their directories (as for run)",        \
	  CONFIG_STRING, MEMBER(run_dir) }
#define JSON_ITEM                                                                                  \
	{ "--json", NULL, "Print one JSON object", CONFIG_FLAG, MEMBER(json) }

const struct config_item control_plain_options[] = { RUN_DIR_ITEM, { 0 } };
const struct config_item control_report_options[] = { RUN_DIR_ITEM, JSON_ITEM, { 0 } };
const struct config_item control_ls_options[] = { RUN_DIR_ITEM, JSON_ITEM, { 0 } };
const struct config_item control_stop_options[] = {
	RUN_DIR_ITEM,
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

int control_open(const char *verb, const struct config_item *options, struct control_options *o,
		 int argc, char *const *argv, const char **ret_id, struct error *err)
{
	int n = config_parse_verb(verb, options, o, argc, argv, ret_id, 1, err);

	if (n < 0)
		return n;
	if (n == 0)
		return error_usage(err, -EINVAL, "%s: which microVM? ('wisp ls' lists them)", verb);
	return control_connect_in(o->run_dir, *ret_id, err);
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

int stat_main(int argc, char **argv)
{
	struct control_options o = { 0 };
	struct error err = { 0 };
	json_t *reply = NULL;
	const char *id;
	int sock, r;

	sock = r = control_open("stat", control_report_options, &o, argc, argv, &id, &err);
	if (sock >= 0) {
		r = control_ask(sock, json_pack("{s:s}", "do", "stat"), NULL, 0, &reply, &err);
		close(sock);
	}
	if (!r) {
		json_object_del(reply, "ok");
		json_dumpf(reply, stdout, o.json ? JSON_COMPACT : JSON_INDENT(2));
		putchar('\n');
		json_decref(reply);
	}
	control_options_done(&o);
	return r < 0 ? fail(&err) : 0;
}

/* ---- ends ---- */

/* Who listens at the other end: the microVM's parent; 0 when that cannot be said. */
static pid_t peer_pid(int sock)
{
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);

	return getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 ? peer.pid : 0;
}

/*
 * A monitor that is stuck: kill it by force. It is a child of the process that listens; that one
 * notices, and cleans up.
 */
static int kill_stuck(pid_t parent, struct error *err)
{
	char path[64];
	FILE *f;
	int child, killed = 0;

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

int control_end_machine(int sock, json_t *request, bool force, struct error *err)
{
	pid_t parent = peer_pid(sock);
	int pidfd = parent > 0 ? (int)syscall(SYS_pidfd_open, parent, 0) : -1;
	int r = control_ask(sock, request, NULL, 0, NULL, err);

	if (force && (r == -ETIMEDOUT || r == -EAGAIN) && parent > 0)
		r = kill_stuck(parent, err);
	/* That it is gone is what was wanted. */
	if (r == -ECONNRESET || r == -EPIPE)
		r = 0;
	if (!r && pidfd >= 0)
		await_parent(pidfd);
	if (pidfd >= 0)
		close(pidfd);
	return r;
}

int stop_main(int argc, char **argv)
{
	struct control_options o = { .timeout_seconds = 30 };
	struct error err = { 0 };
	const char *id;
	json_t *request;
	int sock, r;

	sock = r = control_open("stop", control_stop_options, &o, argc, argv, &id, &err);
	if (sock >= 0) {
		request = json_pack("{s:s, s:i}", "do", "stop", "timeout", o.timeout_seconds);
		r = control_end_machine(sock, request, false, &err);
		close(sock);
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
	int sock, r;

	sock = r = control_open("kill", control_plain_options, &o, argc, argv, &id, &err);
	if (sock >= 0) {
		setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
		r = control_end_machine(sock, json_pack("{s:s}", "do", "kill"), true, &err);
		close(sock);
	}
	control_options_done(&o);
	return r < 0 ? fail(&err) : 0;
}

/* ---- ls ---- */

static void print_uptime(json_int_t ms)
{
	json_int_t s = ms / 1000;
	char text[32];

	if (s < 60)
		snprintf(text, sizeof(text), "%ds", (int)s);
	else if (s < 3600)
		snprintf(text, sizeof(text), "%dm%02ds", (int)(s / 60), (int)(s % 60));
	else if (s < 86400)
		snprintf(text, sizeof(text), "%dh%02dm", (int)(s / 3600), (int)(s / 60 % 60));
	else
		snprintf(text, sizeof(text), "%dd%02dh", (int)(s / 86400), (int)(s / 3600 % 24));
	printf("%10s", text);
}

static json_int_t number(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

static const char *text_of(const json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));

	return s ? s : "";
}

static void print_machine(const json_t *m)
{
	char memory[24];

	printf("%-20s %-12s", text_of(m, "id"), text_of(m, "state"));
	if (json_object_get(m, "pid")) {
		config_size_text(memory, sizeof(memory), number(m, "memory"));
		printf(" %4d %8s ", (int)number(m, "cpus"), memory);
		print_uptime(number(m, "uptime_ms"));
		printf(" %8d", (int)number(m, "pid"));
	}
	putchar('\n');
}

/* One microVM for the list; what a dead one left is removed. */
static int add_machine(void *arg, const char *id, const char *path)
{
	struct timeval patience = { .tv_sec = PATIENCE_SECONDS };
	struct error err = { 0 };
	json_t *machines = arg, *info = NULL;
	int sock, r;

	if (run_dir_remove_dead(path))
		return 0;
	sock = run_dir_connect(NULL, path, RUN_DIR_CONTROL, SOCK_SEQPACKET, &err);
	if (sock < 0)
		return 0; /* it has ended meanwhile, or is none */
	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	r = control_ask(sock, json_pack("{s:s}", "do", "info"), NULL, 0, &info, &err);
	close(sock);
	if (r == -ECONNRESET)
		return 0;
	if (r < 0)
		info = json_pack("{s:s, s:s}", "id", id, "state", "unresponsive");
	json_object_del(info, "ok");
	json_array_append_new(machines, info);
	return 0;
}

int ls_main(int argc, char **argv)
{
	struct control_options o = { 0 };
	json_t *machines = json_array(), *m, *all;
	struct error err = { 0 };
	size_t i;
	int r;

	r = config_parse_verb("ls", control_ls_options, &o, argc, argv, NULL, 0, &err);
	if (!r)
		r = run_dir_for_each(o.run_dir, add_machine, machines, &err);
	if (!r && o.json) {
		all = json_pack("{s:O}", "machines", machines);
		json_dumpf(all, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(all);
	} else if (!r) {
		printf("%-20s %-12s %4s %8s %10s %8s\n", "ID", "STATE", "CPUS", "MEMORY", "UPTIME",
		       "PID");
		json_array_foreach(machines, i, m)
			print_machine(m);
	}
	json_decref(machines);
	control_options_done(&o);
	return r < 0 ? fail(&err) : 0;
}
