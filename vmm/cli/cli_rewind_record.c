/* The recorder of `wisp rewind`: a ring of forks of one microVM. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/cli/cli_rewind.h"
#include "vmm/cli/moments.h"
#include "vmm/control/control_client.h"
#include "vmm/core/clock.h"
#include "vmm/core/io.h"
#include "vmm/core/log.h"
#include "vmm/run_dir.h"

#define MAX_REQUEST 4096
#define MAX_REASON  32

/* How long somebody who connected may take to say what they want. */
#define REQUEST_WAIT_MS 1000

struct recorder {
	const struct config_rewind *config;
	const char *run_dir, *id;
	char path[PATH_MAX]; /* of the socket */
	int listen_fd;
	int control;  /* the microVM's; -1: it has ended */
	int watch_fd; /* who waits for its end says here what it was */
	pid_t watcher; /* 0: it has ended and was waited for, so its number may be another's */
	struct moments moments;
	uint64_t next_ns; /* when the next one is due */
	uint64_t end_ns;  /* of the microVM; 0: it runs */
	char reason[MAX_REASON];
	const struct moment *chosen; /* what a microVM is being made of */
	bool went_back;
	bool failing; /* the last moment could not be taken, and that was said */
	bool over;
};

static uint64_t now_ns(void)
{
	return clock_monotonic_ns(NULL);
}

/* ---- moments ---- */

/* In the background process of a microVM that was made: the others are none of its business. */
static void leave(void *arg)
{
	struct recorder *r = arg;

	for (unsigned i = 0; i < r->moments.num; i++)
		if (moments_latest(&r->moments, i) != r->chosen)
			cli_fork_close(&moments_latest(&r->moments, i)->fork);
	close(r->listen_fd);
	if (r->watch_fd >= 0)
		close(r->watch_fd);
	if (r->control >= 0)
		close(r->control);
}

static bool is_running(struct recorder *r)
{
	struct error err = { 0 };
	json_t *reply = NULL;
	const char *state;
	bool yes = false;

	if (control_ask(r->control, json_pack("{s:s}", "do", "info"), NULL, 0, &reply, &err) == 0) {
		state = json_string_value(json_object_get(reply, "state"));
		yes = state && !strcmp(state, "running");
	}
	json_decref(reply);
	return yes;
}

static int take(struct recorder *r, struct error *err)
{
	struct moment *m = moments_free_slot(&r->moments);
	json_t *reply = NULL;
	int ret;

	cli_fork_init(&m->fork, r->run_dir);
	m->fork.leave = leave;
	m->fork.leave_arg = r;
	ret = cli_fork_take(&m->fork, r->control, &reply);
	m->at_ns = now_ns();
	m->pause_us = json_integer_value(json_object_get(reply, "pause_us"));
	m->fork_us = json_integer_value(json_object_get(reply, "fork_us"));
	json_decref(reply);
	if (ret < 0) {
		*err = m->fork.err;
		cli_fork_done(&m->fork);
	} else {
		moments_keep(&r->moments);
	}
	return ret;
}

/*
 * Whatever keeps this one from being taken may be over when the next one is due. A guest of which
 * none could ever be taken has no ring; what those that there are stand for stays as it was.
 */
static void take_if_due(struct recorder *r)
{
	struct error err = { 0 };
	uint64_t now = now_ns();
	int ret;

	if (r->control < 0 || now < r->next_ns)
		return;
	/* After a pause of our own, not as many as were missed. */
	r->next_ns = now + r->config->every_ms * NSEC_PER_MSEC;
	if (!is_running(r))
		return;
	ret = take(r, &err);
	if (ret == -ENOTSUP && !r->moments.num) {
		error_prefix(&err, "--rewind");
		error_print(&err);
		r->over = true;
		return;
	}
	if (ret < 0 && !r->failing) {
		error_prefix(&err, "--rewind: no moment can be taken, those before stay");
		error_print(&err);
	}
	r->failing = ret < 0;
}

/* ---- requests ---- */

static void answer(int fd, json_t *reply)
{
	char *text = json_dumps(reply, JSON_COMPACT);

	if (text && control_send(fd, text, strlen(text), NULL, 0, 0) < 0)
		log_debug("who asked did not wait");
	free(text);
	json_decref(reply);
}

static void refuse(int fd, int code, const struct error *err)
{
	answer(fd, json_pack("{s:s, s:i}", "error", err->msg, "errno", -code));
}

static json_int_t back_ms(const struct recorder *r, const struct moment *m)
{
	uint64_t from = r->end_ns ? r->end_ns : now_ns();

	return from < m->at_ns ? 0 : (json_int_t)((from - m->at_ns) / NSEC_PER_MSEC);
}

/* How far back one can go. There is a moment. */
static double oldest_s(const struct recorder *r)
{
	return (double)back_ms(r, moments_latest(&r->moments, r->moments.num - 1)) / 1000;
}

/* The latest one that is so long ago. */
static struct moment *find(struct recorder *r, json_int_t ms, struct error *err)
{
	for (unsigned i = 0; i < r->moments.num; i++)
		if (back_ms(r, moments_latest(&r->moments, i)) >= ms)
			return moments_latest(&r->moments, i);
	if (!r->moments.num)
		error_set(err, -ENOENT, "no moment is kept yet");
	else
		error_set(err, -ENOENT, "the oldest moment that is kept is %.1f s back",
			  oldest_s(r));
	return NULL;
}

/* What runs now is of a future that is not to be. */
static void end_present(struct recorder *r)
{
	struct error err = { 0 };

	if (r->control < 0)
		return;
	if (control_ask(r->control, json_pack("{s:s}", "do", "kill"), NULL, 0, NULL, &err) < 0)
		log_debug("the microVM has ended: %s", err.msg);
}

/*
 * As a clone would be called. Who goes back has no say in it: a name that leaves no room for a
 * number is cut.
 */
static void make_name(const struct recorder *r, char *name, size_t size)
{
	const char *slash = strrchr(r->id, '/'), *stem = slash ? slash + 1 : r->id;
	char cut[CONFIG_NAME_BYTES + 1];
	int len = CONFIG_NAME_BYTES;

	do
		snprintf(cut, sizeof(cut), "%.*s", len--, stem);
	while (snprintf(name, size, "%s-%u", cut, run_dir_free_number(r->run_dir, cut, 1)) >
	       CONFIG_NAME_BYTES);
}

static void go_back(struct recorder *r, int fd, const json_t *request)
{
	struct error err = { 0 };
	struct moment *m = find(r, json_integer_value(json_object_get(request, "ms")), &err);
	json_int_t back;
	char name[128];
	int ret;

	if (!m) {
		refuse(fd, err.code, &err);
		return;
	}
	back = back_ms(r, m);
	make_name(r, name, sizeof(name));
	m->fork.paused = json_is_true(json_object_get(request, "paused"));
	r->chosen = m;
	ret = cli_fork_start(&m->fork, name);
	if (ret < 0) {
		if (!m->fork.err.code)
			error_set(&m->fork.err, ret, "'%s' cannot be made", name);
		refuse(fd, ret, &m->fork.err);
		m->fork.err = (struct error){ 0 };
		return;
	}
	r->went_back = true;
	end_present(r);
	answer(fd, json_pack("{s:b, s:s, s:I}", "ok", true, "id", name, "back_ms", back));
}

static void list(struct recorder *r, int fd)
{
	json_t *moments = json_array();

	for (unsigned i = 0; i < r->moments.num; i++) {
		const struct moment *m = moments_latest(&r->moments, i);

		json_array_append_new(moments,
				      json_pack("{s:I, s:I, s:I}", "back_ms", back_ms(r, m),
						"pause_us", m->pause_us, "fork_us", m->fork_us));
	}
	answer(fd, json_pack("{s:b, s:o, s:s*}", "ok", true, "moments", moments, "end",
			     r->end_ns ? r->reason : NULL));
}

static void serve(struct recorder *r)
{
	int fd = accept4(r->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct error err = { 0 };
	char text[MAX_REQUEST];
	unsigned none;
	ssize_t n = 0;
	json_t *request;
	const char *what;

	if (fd < 0)
		return;
	if (poll(&p, 1, REQUEST_WAIT_MS) > 0)
		n = control_receive(fd, text, sizeof(text), NULL, 0, &none, MSG_DONTWAIT);
	request = n > 0 ? json_loadb(text, n, 0, NULL) : NULL;
	what = json_string_value(json_object_get(request, "do"));
	if (what && !strcmp(what, "rewind")) {
		go_back(r, fd, request);
	} else if (what && !strcmp(what, "list")) {
		list(r, fd);
	} else if (what && !strcmp(what, "drop")) {
		answer(fd, json_pack("{s:b}", "ok", true));
		r->over = true;
	} else {
		error_set(&err, -EINVAL, "not a request");
		refuse(fd, -EINVAL, &err);
	}
	json_decref(request);
	close(fd);
}

/* ---- its end ---- */

/* A process that waits for the microVM's end; @watch_fd has the reason then. */
static int start_watcher(struct recorder *r, struct error *err)
{
	struct error ignored = { 0 };
	json_t *reply = NULL;
	const char *reason = "killed";
	int fds[2], sock;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_set(err, -errno, "pipe: %m");
	r->watcher = fork();
	if (r->watcher < 0)
		return error_set(err, -errno, "cannot fork: %m");
	if (r->watcher > 0) {
		close(fds[1]);
		r->watch_fd = fds[0];
		return 0;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(r->listen_fd);
	sock = control_connect_in(r->run_dir, r->id, &ignored);
	if (sock >= 0 && control_ask(sock, json_pack("{s:s}", "do", "events"), NULL, 0, &reply,
				     &ignored) == 0)
		reason = json_string_value(json_object_get(reply, "end"));
	_exit(!reason || write(fds[1], reason, strlen(reason)) < 0);
}

static bool is_bad_end(const char *reason)
{
	static const char *const good[] = { "poweroff", "reboot",   "exit",    "asked",
					    "signal",	"migrated", "timeout", "start-failed" };

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
		if (!strcmp(reason, good[i]))
			return false;
	return true;
}

/* Who reads what the microVM's starter prints is not to wait for us. */
static void go_silent(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = STDIN_FILENO; null >= 0 && fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
	if (null >= 0)
		close(null);
}

static void note_end(struct recorder *r)
{
	ssize_t n = read(r->watch_fd, r->reason, sizeof(r->reason) - 1);
	r->reason[MAX(n, 0)] = '\0';
	close(r->watch_fd);
	close(r->control);
	r->watch_fd = r->control = -1;
	r->end_ns = now_ns();
	/* reap() may have been quicker than we. */
	while (r->watcher && waitpid(r->watcher, NULL, 0) < 0 && errno == EINTR)
		;
	r->watcher = 0;
	if (!r->moments.num || !(r->went_back || is_bad_end(r->reason))) {
		r->over = true;
		return;
	}
	if (!r->went_back)
		fprintf(stderr,
			"wisp: microVM '%s' ended (%s): moments of its last %.1f s are kept for "
			"%u s ('wisp rewind %s TIME')\n",
			r->id, r->reason, oldest_s(r), r->config->hold_seconds, r->id);
	go_silent();
}

static int wait_ms(const struct recorder *r)
{
	uint64_t due = r->end_ns ? r->end_ns + r->config->hold_seconds * NSEC_PER_SEC : r->next_ns;
	uint64_t now = now_ns();

	return now >= due ? 0 : (int)MIN((due - now) / NSEC_PER_MSEC + 1, (uint64_t)INT_MAX);
}

/* Background processes of microVMs that were made, and perhaps the watcher. */
static void reap(struct recorder *r)
{
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
		if (pid == r->watcher)
			r->watcher = 0;
}

static void run(struct recorder *r)
{
	while (!r->over) {
		struct pollfd p[2] = {
			{ .fd = r->listen_fd, .events = POLLIN },
			{ .fd = r->watch_fd, .events = POLLIN },
		};

		if (poll(p, 2, wait_ms(r)) < 0 && errno != EINTR)
			return;
		if (p[0].revents)
			serve(r);
		if (p[1].revents)
			note_end(r);
		if (r->end_ns && !wait_ms(r))
			r->over = true;
		take_if_due(r);
		reap(r);
	}
}

static int listen_at(struct recorder *r, struct error *err)
{
	int ret = rewind_path(r->path, sizeof(r->path), r->run_dir, r->id, true, err);

	if (ret < 0)
		return ret;
	io_remove_dead_socket(r->path, SOCK_SEQPACKET);
	r->listen_fd = io_listen(r->path, SOCK_SEQPACKET, 0600, 8);
	return r->listen_fd < 0 ? error_usage(err, r->listen_fd, "%s: %m", r->path) : 0;
}

int rewind_record(const char *run_dir, const char *id, const struct config_rewind *config)
{
	struct recorder r = { .config = config, .run_dir = run_dir, .id = id,
			      .listen_fd = -1, .control = -1, .watch_fd = -1 };
	struct error err = { 0 };
	int ret;

	signal(SIGPIPE, SIG_IGN);
	ret = moments_init(&r.moments, config->keep);
	if (ret < 0)
		error_set(&err, ret, "moments: %m");
	else
		ret = r.control = control_connect_in(run_dir, id, &err);
	if (ret >= 0)
		ret = listen_at(&r, &err);
	if (ret >= 0)
		ret = start_watcher(&r, &err);
	if (ret >= 0) {
		r.next_ns = now_ns() + config->every_ms * NSEC_PER_MSEC;
		run(&r);
		unlink(r.path);
	} else {
		error_print(&err);
	}
	moments_done(&r.moments);
	if (r.watcher > 0)
		kill(r.watcher, SIGTERM);
	return ret < 0 ? error_status(&err) : 0;
}
