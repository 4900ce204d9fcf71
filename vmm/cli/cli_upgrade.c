/*
 * wisp upgrade: a running guest goes on in this program, without a pause to speak of.
 *
 * The guest is handed from its monitor to one that this process starts, over a socket pair: as by
 * `wisp migrate --hand-off`, with all that holds for that. Two microVMs cannot have one name, so
 * the new one is found as ID.upgrade until the old one is gone. Nor can they listen at one place:
 * forwards, and the socket of --vsock, are the new one's a moment after the guest.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm/cli/cli_control.h"
#include "vmm/cli/cli_migrate.h"
#include "vmm/control/control_client.h"
#include "vmm/core/clock.h"
#include "vmm/core/io.h"
#include "vmm/helper.h"
#include "vmm/launch.h"
#include "vmm/run_dir.h"

/* How long the old one may take to go, once the guest is not its any more; and then its ports. */
#define GOING_MS 10000
#define PORTS_MS 1000
#define LOOK_MS	 10

struct upgrade_options {
	char *run_dir;
	bool json;
};

#define MEMBER(m) offsetof(struct upgrade_options, m)

const struct config_item upgrade_options[] = {
	{ "--json", NULL, "Print the report as one JSON object", CONFIG_FLAG, MEMBER(json) },
	{ "--run-dir", "DIR", "Where running microVMs have their directories (as for run)",
	  CONFIG_STRING, MEMBER(run_dir) },
	{ 0 },
};

/*
 * How the old microVM @id is locked in: the new one is to be the same way. One of an older wisp
 * does not say; then it is as for `wisp receive`.
 */
static int ask_old(struct receive_in_place *p, const char *id, struct error *err)
{
	int sock = control_connect_awake(p->run_dir, id, err), r;
	json_t *reply = NULL;
	const char *name;

	if (sock < 0)
		return sock;
	r = control_ask(sock, json_pack("{s:s}", "do", "info"), NULL, 0, &reply, err);
	close(sock);
	name = json_string_value(json_object_get(reply, "sandbox"));
	for (enum sandbox_mode mode = SANDBOX_OFF; mode <= SANDBOX_STRICT; mode++)
		if (name && !strcmp(name, sandbox_mode_name(mode)))
			p->sandbox = mode;
	p->core_sched = json_is_true(json_object_get(reply, "core_sched"));
	json_decref(reply);
	return r;
}

/* The new microVM's side, in a process of its own: it has the guest's options from the old one. */
static int become_receiver(struct receive_in_place *p, int fd, int later_fd)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	char source[32];

	/* That it runs, or why it does not, is ours to say: the stream tells us. */
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	snprintf(source, sizeof(source), "fd:%d", fd);
	p->source = source;
	p->later_fd = later_fd;
	return receive_in_place(p);
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

static int await_receiver(pid_t pid, struct error *err)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return error_set(err, -errno, "upgrade: %m");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return error_set(err, -ECHILD, "upgrade: the new monitor did not start");
}

/* The old microVM's name, as soon as it lets go of it. */
static int take_name(const struct upgrade_options *o, const char *run_id, const char *id,
		     struct error *err)
{
	const struct timespec look = { .tv_nsec = LOOK_MS * NSEC_PER_MSEC };
	uint64_t until_ns = clock_monotonic_ns(NULL) + GOING_MS * NSEC_PER_MSEC;
	int r;

	while ((r = run_dir_rename(o->run_dir, run_id, id, err)) == -EEXIST &&
	       clock_monotonic_ns(NULL) < until_ns)
		clock_nanosleep(CLOCK_MONOTONIC, 0, &look, NULL);
	if (r < 0)
		error_hint(err, "the guest runs, as '%s'", run_id);
	return r;
}

/* The forward "NET RULE" of @id. */
static int forward_again(const struct upgrade_options *o, const char *id, char *net,
			 struct error *err)
{
	const struct timespec look = { .tv_nsec = LOOK_MS * NSEC_PER_MSEC };
	uint64_t until_ns = clock_monotonic_ns(NULL) + PORTS_MS * NSEC_PER_MSEC;
	struct config_forward f = { 0 };
	char *rule = net + strcspn(net, " ");
	int r;

	if (*rule)
		*rule++ = '\0';
	r = config_parse_forward("--hostfwd", rule, &f, err);
	/* Helpers of one that was killed go a moment after it. */
	while (!r && (r = helper_forward(o->run_dir, id, net, "add", &f, err)) < 0 &&
	       clock_monotonic_ns(NULL) < until_ns) {
		clock_nanosleep(CLOCK_MONOTONIC, 0, &look, NULL);
		r = 0;
	}
	if (r < 0)
		error_hint(err, "'wisp change %s %s --hostfwd %s' adds it once it is free", id, net,
			   rule);
	free(f.host_addr);
	return r;
}

/*
 * The socket of --vsock that is at @path with a suffix gets that name, where an old one that was
 * killed may have left its socket. Another file there is somebody's, and stays.
 */
static int take_path(const char *path, struct error *err)
{
	char now[PATH_MAX];

	snprintf(now, sizeof(now), "%s" LAUNCH_LATER_SUFFIX, path);
	io_remove_dead_socket(path, SOCK_STREAM);
	if (renameat2(AT_FDCWD, now, AT_FDCWD, path, RENAME_NOREPLACE) == 0)
		return 0;
	error_set(err, -errno, "--vsock: cannot rename '%s' to '%s': %m", now, path);
	return err->code;
}

/* All that @later names: the guest runs, so what does not work is said, and no failure. */
static void listen_again(const struct upgrade_options *o, const char *id, FILE *later)
{
	char *line = NULL, *what;
	size_t size = 0;

	while (getdelim(&line, &size, '\0', later) > 0) {
		struct error err = { 0 };

		what = line + strcspn(line, " ") + 1;
		if ((*line == 's' ? take_path(what, &err) : forward_again(o, id, what, &err)) < 0)
			error_print(&err);
	}
	free(line);
}

static void report(const struct upgrade_options *o, const char *id, json_t *reply)
{
	const char *way = json_string_value(json_object_get(reply, "memory"));
	double written = (double)json_integer_value(json_object_get(reply, "page_bytes"));
	double paused = (double)json_integer_value(json_object_get(reply, "blackout_us"));

	if (o->json) {
		control_print_json(reply, id);
		return;
	}
	printf("'%s' runs in wisp " WISP_VERSION ": ", id);
	if (way && !strcmp(way, "shared"))
		printf("its memory was handed over as it is, ");
	else
		printf("%.1f MiB of its memory were copied, ", written / MiB);
	printf("guest paused for %.1f ms\n", paused / 1000);
}

/* The other end of @ret_fd; what it is to listen at comes to @ret_later, the caller's to close. */
static int start_receiver(struct receive_in_place *p, pid_t *ret_pid, int *ret_fd, FILE **ret_later,
			  struct error *err)
{
	int pair[2] = { -1, -1 }, ends[2] = { -1, -1 };
	int r = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
	    pipe2(ends, O_CLOEXEC) < 0 || !(*ret_later = fdopen(ends[0], "r")))
		r = error_set(err, -errno, "upgrade: %m");
	*ret_pid = r ? -1 : fork();
	if (*ret_pid == 0) {
		close(pair[0]);
		close(ends[0]);
		exit(become_receiver(p, pair[1], ends[1]));
	}
	if (!r && *ret_pid < 0)
		r = error_set(err, -errno, "upgrade: cannot fork: %m");
	*ret_fd = pair[0];
	/* Nobody will write to those. */
	close_if_open(pair[1]);
	close_if_open(ends[1]);
	if (!r)
		return 0;
	close_if_open(pair[0]);
	if (*ret_later)
		fclose(*ret_later);
	else
		close_if_open(ends[0]);
	return r;
}

static int upgrade(const struct upgrade_options *o, const char *id, struct error *err)
{
	char dest[32], run_id[128];
	struct receive_in_place in_place = {
		.run_dir = o->run_dir,
		.run_id = run_id,
		.sandbox = SANDBOX_ON,
	};
	json_t *reply = NULL;
	FILE *later = NULL;
	pid_t pid;
	int fd, r;

	if ((size_t)snprintf(run_id, sizeof(run_id), "%s" UPGRADE_SUFFIX, id) >= sizeof(run_id))
		return error_usage(err, -ENAMETOOLONG, "microVM '%s': %m", id);
	r = ask_old(&in_place, id, err);
	if (r < 0)
		return r;
	r = start_receiver(&in_place, &pid, &fd, &later, err);
	if (r < 0)
		return r;
	snprintf(dest, sizeof(dest), "fd:%d", fd);
	r = migrate_in_place(o->run_dir, id, dest, run_id, &reply, err);
	/* Nobody will write there any more: a receiver that still waits for a guest ends. */
	close(fd);
	/*
	 * One that failed ends by itself, and one that waits to be told whether the guest is its
	 * does not: that is for --recover, and nothing to wait for here.
	 */
	if (r == 0)
		r = await_receiver(pid, err);
	if (!r)
		r = take_name(o, run_id, id, err);
	if (!r) {
		listen_again(o, id, later);
		report(o, id, reply);
	}
	fclose(later);
	json_decref(reply);
	return r;
}

int upgrade_main(int argc, char **argv)
{
	struct upgrade_options o = { 0 };
	struct error err = { 0 };
	const char *id;
	int r;

	r = config_parse_verb("upgrade", upgrade_options, &o, argc, argv, &id, 1, &err);
	if (r == 0)
		r = error_usage(&err, -EINVAL, "upgrade: needs ID");
	if (r > 0)
		r = upgrade(&o, id, &err);
	free(o.run_dir);
	if (r < 0)
		error_print(&err);
	return r < 0 ? error_status(&err) : 0;
}
