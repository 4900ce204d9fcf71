/* The microVM from InstanceStart on: a child `wisp run`, and its control socket. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "helpers/api.h"
#include "vmm/control/control_client.h"
#include "vmm/default_guest.h"

#define MAX_MEMORY_MIB (64u << 20) /* of `wisp run` */

/* Where `wisp` is, seen from this helper: beside it, or where `make install` puts both. */
static const char *const places[] = { "%s/wisp", "%s/../../bin/wisp" };

int api_find_wisp(char *path, size_t size, struct error *err)
{
	char dir[PATH_MAX];
	int r = executable_dir(dir, sizeof(dir));

	for (unsigned i = 0; i < ARRAY_SIZE(places) && !r; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(path, size, places[i], dir);
#pragma GCC diagnostic pop
		if (access(path, X_OK) == 0)
			return 0;
	}
	return error_set(err, -ENOENT, "'wisp' is not where its helper is");
}

/* In the child. @ready gets a byte when the guest runs; @words is its standard error. */
static void exec_wisp(const struct api *api, const char *path, char **argv, int ready, int words)
{
	char **with_ready;
	sigset_t none;
	char fd[16];
	unsigned n = 0;

	while (argv[n])
		n++;
	with_ready = calloc(n + 3, sizeof(char *));
	if (!with_ready)
		_exit(125);
	memcpy(with_ready, argv, n * sizeof(char *));
	snprintf(fd, sizeof(fd), "%d", ready);
	with_ready[n] = "--ready-fd";
	with_ready[n + 1] = fd;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	fcntl(ready, F_SETFD, 0);
	if (api->cpu_config_fd)
		fcntl(api->cpu_config_fd, F_SETFD, 0);
	if (api->memory_handler_fd)
		fcntl(api->memory_handler_fd, F_SETFD, 0);
	dup2(words, STDERR_FILENO);
	execv(path, with_ready);
	_exit(127);
}

void api_say_why(char *text)
{
	static const char prefix[] = "wisp: ", warning[] = "wisp: warn: ";
	const char *why = text, *next;

	while (!strncmp(why, warning, strlen(warning)) && (next = strchr(why, '\n')) && next[1])
		why = next + 1;
	if (!strncmp(why, prefix, strlen(prefix)))
		why += strlen(prefix);
	memmove(text, why, strlen(why) + 1);
	text[strcspn(text, "\n")] = '\0';
}

/* What the child said before it failed. */
static void read_words(int fd, char *text, size_t size)
{
	ssize_t n = read(fd, text, size - 1);

	text[n > 0 ? n : 0] = '\0';
	api_say_why(text);
}

static int await_ready(struct api *api, int ready, struct error *err)
{
	char text[2000], byte;
	ssize_t n;

	do
		n = read(ready, &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n == 1)
		return 0;
	while (waitpid(api->child, NULL, 0) < 0 && errno == EINTR)
		;
	api->child = 0;
	read_words(api->child_words, text, sizeof(text));
	close(api->child_words);
	api->child_words = -1;
	return error_set(err, -ECHILD, "%s", *text ? text : "the microVM ended at once");
}

void api_pass_words(struct api *api)
{
	char buf[4096];
	ssize_t n = read(api->child_words, buf, sizeof(buf));

	if (n > 0 && write(STDERR_FILENO, buf, n) == n)
		return;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	close(api->child_words);
	api->child_words = -1;
}

/* Returns 0 when the guest runs. */
static int start_child(struct api *api, const char *path, char **argv, struct error *err)
{
	int ready[2], words[2], r;

	if (pipe2(ready, O_CLOEXEC) < 0)
		return error_set(err, -errno, "start: %m");
	if (pipe2(words, O_CLOEXEC) < 0) {
		r = error_set(err, -errno, "start: %m");
		close(ready[0]);
		close(ready[1]);
		return r;
	}
	api->child = fork();
	if (api->child == 0)
		exec_wisp(api, path, argv, ready[1], words[1]);
	r = api->child < 0 ? error_set(err, -errno, "cannot fork: %m") : 0;
	close(ready[1]);
	close(words[1]);
	fcntl(words[0], F_SETFL, O_NONBLOCK);
	api->child_words = words[0];
	if (!r)
		r = await_ready(api, ready[0], err);
	close(ready[0]);
	return r;
}

/* ---- rate limits ---- */

/* Put one bucket of a rate limiter into a request for the monitor. */
static void add_limit(json_t *request, const json_t *limiter, const char *bucket, const char *key)
{
	const json_t *b = json_object_get(limiter, bucket);
	json_int_t once = json_integer_value(json_object_get(b, "one_time_burst"));
	json_int_t rate, burst;
	char name[20];

	if (!api_bucket(b, &rate, &burst))
		return;
	json_object_set_new(request, key, json_integer(rate));
	snprintf(name, sizeof(name), "%s-burst", key);
	json_object_set_new(request, name, json_integer(burst));
	snprintf(name, sizeof(name), "%s-once", key);
	json_object_set_new(request, name, json_integer(MIN(once, API_MAX_RATE)));
}

/* The entropy device's, which has no other ID. */
static int limit_entropy(struct api *api, struct error *err)
{
	const json_t *limiter = json_object_get(api->entropy, "rate_limiter");
	json_t *request;

	if (!json_is_object(limiter))
		return 0;
	request = json_pack("{s:s, s:s, s:b}", "do", "limit", "id", "rng0", "entropy", true);
	add_limit(request, limiter, "ops", "ops");
	add_limit(request, limiter, "bandwidth", "bytes");
	return control_ask(api->control, request, NULL, 0, NULL, err);
}

/* The serial port's, whose one bucket is of bytes. */
static int limit_serial(struct api *api, struct error *err)
{
	const json_t *bucket = json_object_get(api->serial, "rate_limiter");
	json_t *request, *limiter;

	if (!json_is_object(bucket))
		return 0;
	request = json_pack("{s:s, s:b}", "do", "limit", "serial", true);
	limiter = json_pack("{s:O}", "bandwidth", bucket);
	add_limit(request, limiter, "bandwidth", "bytes");
	json_decref(limiter);
	return control_ask(api->control, request, NULL, 0, NULL, err);
}

/* What is limited: an operation of a disk, a frame one way, a flush. */
enum limited { OF_DISK, OF_RX, OF_TX, OF_PMEM };

static int set_limits(struct api *api, const char *id, enum limited what, const json_t *limiter,
		      struct error *err)
{
	const char *way = what == OF_RX ? "rx" : what == OF_TX ? "tx" : NULL;
	json_t *request = json_pack("{s:s, s:s, s:s*, s:b}", "do", "limit", "id", id, "way", way,
				    "pmem", what == OF_PMEM);

	add_limit(request, limiter, "ops", "ops");
	add_limit(request, limiter, "bandwidth", "bytes");
	return control_ask(api->control, request, NULL, 0, NULL, err);
}

/* What @update says of the limiter @name of @device: buckets that are not named, or null, stay. */
static int update_limiter(struct api *api, json_t *device, const char *id, const char *name,
			  enum limited what, json_t *update, struct error *err)
{
	json_t *limiter = json_object_get(device, name), *bucket;
	const char *which;
	int r;

	if (!json_is_object(update))
		return 0;
	limiter = json_is_object(limiter) ? json_copy(limiter) : json_object();
	json_object_foreach(update, which, bucket)
	{
		if (!json_is_null(bucket))
			json_object_set(limiter, which, bucket);
	}
	r = set_limits(api, id, what, limiter, err);
	if (!r)
		json_object_set(device, name, limiter);
	json_decref(limiter);
	return r;
}

/* Limits that `wisp run` has no keys for: each way its own. */
int api_limit_net(struct api *api, const char *id, const json_t *net, struct error *err)
{
	const json_t *rx = json_object_get(net, "rx_rate_limiter");
	const json_t *tx = json_object_get(net, "tx_rate_limiter");
	int r = 0;

	if (json_is_object(rx))
		r = set_limits(api, id, OF_RX, rx, err);
	if (!r && json_is_object(tx))
		r = set_limits(api, id, OF_TX, tx, err);
	return r;
}

static int limit_nets(struct api *api, struct error *err)
{
	const char *id;
	json_t *net;
	int r = 0;

	json_object_foreach(api->nets, id, net)
	{
		if (!r)
			r = api_limit_net(api, id, net, err);
	}
	return r;
}

static int limit_device(struct api *api, const char *id, const json_t *device, enum limited what,
			struct error *err)
{
	const json_t *limiter = json_object_get(device, "rate_limiter");

	return json_is_object(limiter) ? set_limits(api, id, what, limiter, err) : 0;
}

int api_limit_drive(struct api *api, const char *id, const json_t *drive, struct error *err)
{
	return limit_device(api, id, drive, OF_DISK, err);
}

int api_limit_pmem(struct api *api, const char *id, const json_t *pmem, struct error *err)
{
	return limit_device(api, id, pmem, OF_PMEM, err);
}

/* One-time bursts of disks, and all limits of flushes: `wisp run` has no keys for them. */
static int limit_each(struct api *api, json_t *devices, enum limited what, struct error *err)
{
	const char *id;
	json_t *device;
	int r = 0;

	json_object_foreach(devices, id, device)
	{
		if (!r)
			r = limit_device(api, id, device, what, err);
	}
	return r;
}

int api_set_limits(struct api *api, struct error *err)
{
	int r = limit_nets(api, err);

	if (!r)
		r = limit_each(api, api->drives, OF_DISK, err);
	if (!r)
		r = limit_each(api, api->pmems, OF_PMEM, err);
	if (!r)
		r = limit_serial(api, err);
	return r ? r : limit_entropy(api, err);
}

int api_launch(struct api *api, char **argv, struct error *err)
{
	char path[PATH_MAX + 64], name[40];
	int r = api_find_wisp(path, sizeof(path), err);

	api_name(api, name, sizeof(name));
	if (!r)
		r = start_child(api, path, argv, err);
	if (!r) {
		api->child_fd = (int)syscall(SYS_pidfd_open, api->child, 0);
		/* Its end would go unseen, and ours never come. */
		if (api->child_fd < 0)
			r = error_set(err, -errno, "Its process cannot be watched: %m");
		else
			api->control = r = control_connect(name, err);
	}
	if (r >= 0)
		r = api_mmds_start(api, err);
	return MIN(r, 0);
}

int api_start(struct api *api, struct error *err)
{
	char **argv;
	int r;

	if (!api->boot)
		return error_set(err, -EINVAL,
				 "Cannot start microvm without kernel configuration.");
	/* What mmap() says to sizes that no host has. */
	if (json_integer_value(json_object_get(api->machine, "mem_size_mib")) > MAX_MEMORY_MIB)
		return error_set(err, -ENOMEM,
				 "Invalid Memory Configuration: Cannot create mmap region: Out of "
				 "memory (os error 12)");
	r = api_probe_pmems(api, err);
	if (r < 0)
		return r;
	argv = api_arguments(api, err);
	if (!argv)
		return -EINVAL;
	r = api_launch(api, argv, err);
	api_arguments_free(argv);
	if (!r)
		r = api_set_limits(api, err);
	if (!r) {
		api->state = API_RUNNING;
		api_flush_metrics(api);
	}
	return r;
}

int api_reap(struct api *api)
{
	int status;

	while (waitpid(api->child, &status, 0) < 0 && errno == EINTR)
		;
	api->child = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void api_stop(struct api *api)
{
	if (api->child <= 0)
		return;
	kill(api->child, SIGTERM);
	api_reap(api);
}

/* ---- requests ---- */

static int ask(struct api *api, const char *verb, struct error *err)
{
	return control_ask(api->control, json_pack("{s:s}", "do", verb), NULL, 0, NULL, err);
}

static void start(struct api *api, struct api_answer *answer)
{
	struct error err = { 0 };

	if (api->state != API_NOT_STARTED)
		api_fault(answer, "The requested operation is not supported after starting the "
				  "microVM.");
	else if (api_start(api, &err) < 0) {
		api_fault(answer, "Start microvm error: %s", err.msg);
		/* It runs, and not as was asked for: there is nothing to go on with. */
		api->fatal = api->child > 0;
	} else {
		api_no_content(answer);
	}
}

API_HANDLER(put_action)
{
	const char *action = json_string_value(json_object_get(body, "action_type"));
	struct error err = { 0 };

	if (!strcmp(action, "InstanceStart")) {
		start(api, answer);
	} else if (api->state == API_NOT_STARTED) {
		api_fault(answer, "The requested operation is not supported before starting the "
				  "microVM.");
	} else if (!strcmp(action, "FlushMetrics")) {
		if (api_flush_metrics(api) < 0)
			api_fault(answer, "Internal VMM error: Metrics error: cannot write");
		else
			api_no_content(answer);
	} else if (ask(api, "power-button", &err) < 0) {
		api_fault(answer, "Internal VMM error: %s", err.msg);
	} else {
		api_no_content(answer);
	}
}

API_HANDLER(patch_vm)
{
	bool pause = !strcmp(json_string_value(json_object_get(body, "state")), "Paused");
	uint64_t begun = api_now_us();
	struct error err = { 0 };

	if (ask(api, pause ? "pause" : "resume", &err) < 0) {
		api_fault(answer, "Internal VMM error: %s", err.msg);
		return;
	}
	api_measure(api, pause ? "pause_vm" : "resume_vm", (json_int_t)(api_now_us() - begun));
	api_measure(api, pause ? "vmm_pause_vm" : "vmm_resume_vm",
		    (json_int_t)(api_now_us() - begun));
	api->state = pause ? API_PAUSED : API_RUNNING;
	api_no_content(answer);
}

API_HANDLER(patch_net)
{
	static const char cannot[] = "Network config error: Unable to update the net device:";
	json_t *net = json_object_get(api->nets, id);
	struct error err = { 0 };
	int r;

	if (!net) {
		api_fault(answer, "%s " API_NO_DEVICE, cannot);
		return;
	}
	r = update_limiter(api, net, id, "rx_rate_limiter", OF_RX,
			   json_object_get(body, "rx_rate_limiter"), &err);
	if (!r)
		r = update_limiter(api, net, id, "tx_rate_limiter", OF_TX,
				   json_object_get(body, "tx_rate_limiter"), &err);
	if (r < 0)
		api_fault(answer, "%s %s", cannot, err.msg);
	else
		api_no_content(answer);
}

int api_disks(struct api *api, json_t **ret_reply, int *fds, unsigned *ret_num, struct error *err)
{
	struct control_extra extra = {
		.fds = fds,
		.max_fds = CONFIG_MAX_DISKS,
		.give_up_fd = -1,
	};
	int r = control_ask_extra(api->control, json_pack("{s:s}", "do", "disks"), NULL, 0,
				  ret_reply, &extra, err);

	*ret_num = extra.num_fds;
	return r;
}

/* What the guest's drive @id is on: a name may stand for another file since. */
static int stat_drive(struct api *api, const char *id, struct stat *ret_st, struct error *err)
{
	int fds[CONFIG_MAX_DISKS];
	unsigned num = 0;
	json_t *reply = NULL, *disk;
	int r = api_disks(api, &reply, fds, &num, err);
	size_t i;

	if (!r)
		r = error_set(err, -ENOENT, "the microVM does not have it");
	json_array_foreach(json_object_get(reply, "disks"), i, disk)
	{
		const char *name = json_string_value(json_object_get(disk, "id"));

		if (i < num && name && !strcmp(name, id) && fstat(fds[i], ret_st) == 0)
			r = 0;
	}
	while (num > 0)
		close(fds[--num]);
	json_decref(reply);
	return r;
}

/*
 * PATCH with the path that the drive has: its file has another size by now; the guest is told.
 * No other file is put beneath it.
 */
static int rescan_drive(struct api *api, const char *id, const char *path, struct error *err)
{
	struct stat now, used;
	int r = stat_drive(api, id, &used, err);

	if (r < 0)
		return r;
	if (stat(path, &now) < 0)
		return error_set(err, -errno,
				 "Block: Virtio backend error: Error manipulating the backing "
				 "file: %m (os error %d) %s",
				 errno, path);
	if (now.st_dev != used.st_dev || now.st_ino != used.st_ino || !S_ISREG(now.st_mode))
		return error_set(err, -ENOTSUP, "The requested operation is not supported: wisp "
				 "puts no other file beneath a disk that is in use.");
	/* To be set to less would cut the file. */
	if (now.st_size % 512)
		return error_set(err, -EINVAL, "The requested operation is not supported: the "
				 "file is no whole number of sectors.");
	return control_ask(api->control,
			   json_pack("{s:s, s:s+, s:I}", "do", "change", "device", "disk:", id,
				     "size", (json_int_t)now.st_size),
			   NULL, 0, NULL, err);
}

API_HANDLER(patch_drive)
{
	const json_t *path = json_object_get(body, "path_on_host");
	const json_t *limiter = json_object_get(body, "rate_limiter");
	json_t *drive = json_object_get(api->drives, id);
	static const char cannot[] = "Drive config error: Unable to patch the block device:";
	static const char hint[] = "Please verify the request arguments.";
	struct error err = { 0 };

	if (!drive) {
		api_fault(answer, "%s " API_NO_DEVICE " %s", cannot, hint);
		return;
	}
	/* Which would have a disk's server asked for what it has now. */
	if (!json_is_string(path) && !json_is_object(limiter)) {
		api_fault(answer, "%s Block: Running method expected different backend. %s", cannot,
			  hint);
		return;
	}
	if (json_is_string(path) && rescan_drive(api, id, json_string_value(path), &err) < 0) {
		api_fault(answer, "%s %s %s", cannot, err.msg, hint);
		return;
	}
	if (update_limiter(api, drive, id, "rate_limiter", OF_DISK,
			   json_object_get(body, "rate_limiter"), &err) < 0)
		api_fault(answer, "%s %s %s", cannot, err.msg, hint);
	else
		api_no_content(answer);
}

API_HANDLER(patch_pmem)
{
	static const char cannot[] = "Pmem config error: Unable to patch the pmem device:";
	static const char hint[] = "Please verify the request arguments.";
	json_t *limiter = json_object_get(body, "rate_limiter");
	json_t *pmem = json_object_get(api->pmems, id);
	struct error err = { 0 };

	/* Where nothing is to change, nobody looks for the device. */
	if (!pmem && json_is_object(limiter))
		api_fault(answer, "%s " API_NO_DEVICE " %s", cannot, hint);
	else if (pmem && update_limiter(api, pmem, id, "rate_limiter", OF_PMEM, limiter, &err) < 0)
		api_fault(answer, "%s %s %s", cannot, err.msg, hint);
	else
		api_no_content(answer);
}
