/*
 * Fuzz target (libFuzzer): requests of Firecracker's REST API, and the files and answers that they
 * lead to. The input is parts with a NUL behind each. A part's first byte chooses a request, whose
 * body the rest is, or one of the operations below, which arrange for what follows.
 *
 * No microVM is started and no process: there is no `wisp` beside this program. What would have
 * started one goes on as if it had, with a monitor that answers as the input has it. Requests that
 * make, write or connect to files by name get those of a directory of ours instead.
 */
#include "tests/fuzz/fuzz_api.h"

#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "helpers/api.h"
#include "helpers/api_snapshot_file.h"
#include "vmm/control/control.h"
#include "vmm/control/control_client.h"
#include "vmm/core/io.h"
#include "vmm/saved/snapshot_pages.h"

#define MAX_ANSWERS 16
#define MAX_RAM	    (256 * MiB)
#define MAX_PAGES   256 /* of a snapshot, that changed */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * The other end of the control socket. Its thread reads the fields only between a request and the
 * last word of its answer, while the fuzzer's waits for that.
 */
static struct {
	int sock, api_sock;
	pthread_t thread;
	const char *answers[MAX_ANSWERS]; /* into the input */
	unsigned num, next;
	const char *sections; /* what it saves as state */
	const char *pages;    /* which of RAM it says that it wrote: a '1' for each */
	uint64_t ram_bytes;
} monitor;

/* Where files of ours are, "state", "memory", "log" and the socket "handler". */
static char base[64];
static int handler = -1;

/* No interface of this host's is opened or made: names that begin with a 't' are those of taps. */
bool __wrap_api_tap_works(const char *name, char *why, size_t size);
bool __wrap_api_tap_works(const char *name, char *why, size_t size)
{
	if (*name == 't')
		return true;
	api_tap_fault(why, size, name, EINVAL);
	return false;
}

static char *path_of(char *buf, const char *name)
{
	snprintf(buf, sizeof(base) + 32, "%s/%s", base, name);
	return buf;
}

static void write_file(const char *name, const void *data, size_t len)
{
	char path[sizeof(base) + 32];
	FILE *f = fopen(path_of(path, name), "we");

	if (!f || (len && fwrite(data, len, 1, f) != 1) || fclose(f) != 0)
		abort();
}

/* ---- the monitor ---- */

/* A set that is one: what is not is seen by fuzz_saved. */
static void write_pages(int fd)
{
	uint64_t *pages = calloc(monitor.ram_bytes / PAGE_SIZE / 64 + 1, sizeof(*pages));
	struct state_writer w;

	for (unsigned i = 0; pages && i < MAX_PAGES && monitor.pages[i]; i++)
		if (i < monitor.ram_bytes / PAGE_SIZE && monitor.pages[i] == '1')
			pages[i / 64] |= 1ull << i % 64;
	state_writer_init(&w);
	snapshot_pages_write(&w, pages, monitor.ram_bytes / PAGE_SIZE);
	if (!pages || io_write(fd, w.buf, w.len) < 0)
		abort();
	state_writer_done(&w);
	free(pages);
}

/* Of a request with descriptors: a snapshot's pipe, sections, memory and pages. */
static void save(const int *fds, unsigned num)
{
	if (num > 1 && monitor.sections)
		(void)io_write(fds[1], monitor.sections, strlen(monitor.sections));
	if (num > 2)
		(void)!ftruncate(fds[2], monitor.ram_bytes);
	if (num > 3 && monitor.pages)
		write_pages(fds[3]);
	for (unsigned i = 0; i < num; i++)
		close(fds[i]);
}

/*
 * Everything up to the first answer that is no word of progress. When that is sent the input may be
 * gone: what is said is a copy.
 */
static void answer(void)
{
	static char said[CONTROL_MAX_MESSAGE];
	bool last = false;

	while (!last) {
		const char *text = monitor.next < monitor.num ? monitor.answers[monitor.next++]
							      : "{\"error\":\"no\"}";
		json_t *o;

		snprintf(said, sizeof(said), "%s", text);
		o = json_loads(said, 0, NULL);
		last = !json_object_get(o, "progress");
		json_decref(o);
		control_send(monitor.sock, said, strlen(said), NULL, 0, 0);
	}
}

static void *monitor_run(void *arg)
{
	static char request[CONTROL_MAX_MESSAGE];
	int fds[CONTROL_MAX_FDS];
	unsigned num;
	ssize_t n;

	while ((n = control_receive(monitor.sock, request, sizeof(request), fds, CONTROL_MAX_FDS,
				    &num, 0)) > 0) {
		json_t *o = json_loadb(request, n, 0, NULL);

		/* Whatever a client sends, it is asked for something, and in JSON. */
		if (!json_string_value(json_object_get(o, "do")))
			abort();
		json_decref(o);
		save(fds, num);
		answer();
	}
	abort();
}

/* ---- names of files ---- */

/* One of ours by its first letter, else one that is not there. */
static json_t *our_path(const char *name)
{
	static const char *const ours[] = { "state", "memory", "log", "handler" };
	char path[sizeof(base) + 32];

	for (unsigned i = 0; i < ARRAY_SIZE(ours); i++)
		if (*name == *ours[i])
			return json_string(path_of(path, ours[i]));
	return json_string(path_of(path, "none/none"));
}

static bool is_path(const char *key)
{
	size_t len = strlen(key);

	return (len > 5 && !strcmp(key + len - 5, "_path")) || !strcmp(key, "path_on_host") ||
	       !strcmp(key, "cpu-config");
}

static void name_ours(json_t *v)
{
	const char *key;
	json_t *part;
	size_t i;

	json_array_foreach(v, i, part) name_ours(part);
	json_object_foreach(v, key, part)
	{
		if (json_is_string(part) && is_path(key))
			json_object_set_new(v, key, our_path(json_string_value(part)));
		else
			name_ours(part);
	}
}

/* @text with names of ours; the caller's. NULL: nobody can tell what would be done. */
static char *tamed(const char *text)
{
	json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	char *ours;

	name_ours(o);
	ours = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	return ours;
}

/* ---- requests ---- */

static bool does_files(const struct api_endpoint *e)
{
	static const char *const paths[] = { "logger", "metrics", "snapshot/create",
					     "snapshot/load" };

	for (unsigned i = 0; i < ARRAY_SIZE(paths); i++) {
		if (strcmp(e->path, paths[i]) == 0)
			return true;
	}
	return false;
}

/* What api_launch() and its callers do behind the start that there is none of here. */
static void go_on(struct api *api, const struct api_answer *a)
{
	const char *said = json_string_value(json_object_get(a->body, "fault_message"));
	struct error err = { 0 };
	const char *id;
	json_t *net;

	if (api->state != API_NOT_STARTED || !said || !strstr(said, "is not where its helper is"))
		return;
	api->fatal = false;
	json_object_foreach(api->nets, id, net) api_mmds_is_on(api, id);
	api->control = monitor.api_sock;
	api->state = api_set_limits(api, &err) < 0 ? API_PAUSED : API_RUNNING;
}

static void request(struct api *api, const struct api_endpoint *e, const char *text)
{
	struct api_answer a = { 0 };
	char path[256], *star, *ours = NULL;

	snprintf(path, sizeof(path), "/%s", e->path);
	star = strchr(path, '*');
	if (star)
		snprintf(star, sizeof(path) - (star - path), "%s",
			 strstr(text, "\"two\"") ? "two" : "id");
	if (does_files(e)) {
		ours = tamed(text);
		text = ours ? ours : "";
	}
	monitor.ram_bytes =
		(uint64_t)json_integer_value(json_object_get(api->machine, "mem_size_mib")) * MiB;
	monitor.ram_bytes = MIN(monitor.ram_bytes, (uint64_t)MAX_RAM);
	api_handle(api, e->method, path, *text ? text : NULL, strlen(text), &a);
	if (a.status != 200 && a.status != 204 && a.status != 400 && a.status != 413)
		abort();
	go_on(api, &a);
	json_decref(a.body);
	free(ours);
}

/* The file of a snapshot, whose header is right unless the text is one: of resources and state. */
static void write_state(const char *text)
{
	struct api_snapshot_header h = { .magic = API_SNAPSHOT_MAGIC,
					 .version = API_SNAPSHOT_VERSION,
					 .resources = htole32(strlen(text)),
					 .state = htole32(5) };
	size_t len = strlen(text);
	char *file = malloc(sizeof(h) + len + 5);

	if (!file)
		abort();
	memcpy(file, &h, sizeof(h));
	memcpy(file + sizeof(h), text, len);
	memcpy(file + sizeof(h) + len, "state", 5);
	if (*text == *API_SNAPSHOT_MAGIC)
		write_file("state", text, len);
	else
		write_file("state", file, sizeof(h) + len + 5);
	free(file);
}

static void load_config(struct api *api, const char *text)
{
	char path[sizeof(base) + 32], *ours = tamed(text);
	struct error err = { 0 };

	if (ours) {
		write_file("config", ours, strlen(ours));
		if (api_load_config(api, path_of(path, "config"), &err) < 0 && !*err.msg)
			abort();
	}
	free(ours);
}

/* Every option is one word, whatever the values are. */
static void check_arguments(const struct api *api)
{
	struct error err = { 0 };
	char **argv = api->boot ? api_arguments(api, &err) : NULL;

	for (unsigned i = 2; argv && argv[i]; i++)
		if (strncmp(argv[i], "--", 2) != 0 || !strchr(argv[i], '='))
			if (strcmp(argv[i], "--hugepages") != 0)
				abort();
	api_arguments_free(argv);
}

static void operate(struct api *api, unsigned op, const char *text)
{
	char path[sizeof(base) + 32];

	switch (op) {
	case FUZZ_API_ANSWER:
		if (monitor.num < MAX_ANSWERS)
			monitor.answers[monitor.num++] = text;
		break;
	case FUZZ_API_SECTIONS:
		monitor.sections = text;
		break;
	case FUZZ_API_PAGES:
		monitor.pages = text;
		break;
	case FUZZ_API_STATE:
		write_state(text);
		break;
	case FUZZ_API_CONFIG:
		load_config(api, text);
		break;
	case FUZZ_API_DESCRIBE: {
		char version[32];

		api_describe_snapshot(path_of(path, "state"), version, sizeof(version),
				      &(struct error){ 0 });
		break;
	}
	case FUZZ_API_PCI:
		api->options.enable_pci = true;
		break;
	}
}

static void part(struct api *api, uint8_t which, const char *text)
{
	unsigned num = 0;

	while (api_endpoints[num].method)
		num++;
	/* No part begins with a NUL. */
	which = (which - 1) % (num + FUZZ_API_NUM_OPS);
	if (which < num)
		request(api, &api_endpoints[which], text);
	else
		operate(api, which - num, text);
}

/* ---- the fuzzer's side ---- */

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *ftw)
{
	if (ftw->level > 0 && type != FTW_SL && !S_ISSOCK(st->st_mode))
		(void)remove(name);
	return 0;
}

static void clean_up(void)
{
	char path[sizeof(base) + 32];

	nftw(base, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	unlink(path_of(path, "handler"));
	rmdir(base);
}

static void open_handler(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	char path[sizeof(base) + 32];

	snprintf(name.sun_path, sizeof(name.sun_path), "%s", path_of(path, "handler"));
	handler = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (handler < 0 || bind(handler, (struct sockaddr *)&name, sizeof(name)) < 0 ||
	    listen(handler, 512) < 0)
		abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const struct rlimit small = { MAX_RAM, MAX_RAM };
	char wisp[4096];
	int pair[2];

	/* It would be run. */
	if (api_find_wisp(wisp, sizeof(wisp), &(struct error){ 0 }) == 0)
		abort();
	/* In memory, where there is such a place. */
	snprintf(base, sizeof(base), "%s/wisp-fuzz-api.XXXXXX",
		 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (!mkdtemp(base))
		abort();
	atexit(clean_up);
	setrlimit(RLIMIT_FSIZE, &small);
	open_handler();
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	monitor.sock = pair[0];
	monitor.api_sock = pair[1];
	if (pthread_create(&monitor.thread, NULL, monitor_run, NULL) != 0)
		abort();
	return 0;
}

/* What a run has left is gone. */
static void finish(struct api *api)
{
	int fd;

	check_arguments(api);
	if (api->log_fd >= 0)
		close(api->log_fd);
	if (api->metrics_fd >= 0)
		close(api->metrics_fd);
	api_resources_done(api);
	while ((fd = accept(handler, NULL, NULL)) >= 0)
		close(fd);
	nftw(base, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct api api = { .log_fd = -1,
			   .metrics_fd = -1,
			   .control = -1,
			   .child = -1,
			   .child_fd = -1,
			   .child_words = -1 };
	char *text = malloc(size + 1), *end = text + size;

	if (!text)
		abort();
	memcpy(text, data, size);
	*end = '\0';
	monitor.num = monitor.next = 0;
	monitor.sections = monitor.pages = NULL;
	api.options.id = "fuzz";
	api.options.mmds_limit = api.options.payload_limit = API_DEFAULT_PAYLOAD;
	if (api_resources_init(&api) < 0)
		abort();
	/* What one part leaves is what the next finds. */
	for (char *p = text; p < end; p += strlen(p) + 1) {
		if (*p)
			part(&api, (uint8_t)*p, p + 1);
	}
	finish(&api);
	free(text);
	return 0;
}
