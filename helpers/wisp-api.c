/*
 * wisp-api - Firecracker's REST API for one microVM. Run by `wisp api`, and by wisp under the name
 * `firecracker`; takes Firecracker's arguments. See docs/firecracker.md.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "helpers/api.h"
#include "vmm/core/io.h"

/* Firecracker's exit statuses. */
#define STATUS_ERROR	  1
#define STATUS_BAD_CONFIG 152
#define STATUS_ARGUMENTS  153

#define METRICS_SECONDS 60

/* What getopt_long() returns of the first one: no character. */
#define FIRST_OPTION 256

#define DEFAULT_SOCK "/run/firecracker.socket"

/* What an option does with its value, or with being there. */
enum option_kind { TEXT, FLAG, SIZE, IDENTITY, IGNORED, REFUSED, ANSWERED };

struct api_option {
	const char *name;
	enum option_kind kind;
	bool has_value;
	size_t at;			  /* TEXT, FLAG, SIZE, IDENTITY: in struct api_options */
	int (*answer)(const char *value); /* ANSWERED: and nothing is run; the exit status */
};

static bool parse_size(const char *text, size_t *ret)
{
	char *end;
	unsigned long long n;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno || *end || end == text || *text == '-' || n == 0)
		return false;
	*ret = n;
	return true;
}

/* Firecracker's ids: up to 64 letters, digits and dashes. */
static bool is_instance_id(const char *id)
{
	size_t len = strlen(id);

	return len >= 1 && len <= 64 &&
	       strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == len;
}

static int bad_arguments(const char *what)
{
	fprintf(stderr, "wisp: api: %s\n", what);
	return STATUS_ARGUMENTS;
}

static int bad_value(const char *name, const char *value, const char *what)
{
	fprintf(stderr, "wisp: api: --%s '%s': %s\n", name, value, what);
	return STATUS_ARGUMENTS;
}

static int describe(const char *path)
{
	struct error err = { 0 };
	char version[40];

	if (api_describe_snapshot(path, version, sizeof(version), &err) < 0)
		return bad_arguments(err.msg);
	printf("v%s\n", version);
	return 0;
}

static int print_version(const char *value)
{
	printf("Firecracker v" API_VERSION "\n\n");
	return 0;
}

static int print_snapshot_version(const char *value)
{
	printf("v" API_SNAPSHOT_VERSION "\n");
	return 0;
}

static int print_help(const char *value);

/* clang-format off */
#define WITH_TEXT(name, member) { name, TEXT, true, offsetof(struct api_options, member), NULL }
#define WITH_SIZE(name, member) { name, SIZE, true, offsetof(struct api_options, member), NULL }
#define WITH_FLAG(name, member) { name, FLAG, false, offsetof(struct api_options, member), NULL }
#define IS_ANSWERED(name, value, by) { name, ANSWERED, value, 0, by }
/* clang-format on */

static const struct api_option options[] = {
	WITH_TEXT("api-sock", api_sock),
	{ "id", IDENTITY, true, offsetof(struct api_options, id), NULL },
	WITH_TEXT("config-file", config_file),
	WITH_TEXT("metadata", metadata),
	WITH_FLAG("no-api", no_api),
	WITH_TEXT("log-path", log_path),
	WITH_TEXT("level", level),
	WITH_FLAG("show-level", show_level),
	WITH_FLAG("show-log-origin", show_origin),
	WITH_TEXT("metrics-path", metrics_path),
	WITH_FLAG("no-seccomp", no_sandbox),
	WITH_SIZE("http-api-max-payload-size", payload_limit),
	WITH_SIZE("mmds-size-limit", mmds_limit),
	WITH_FLAG("enable-pci", enable_pci),
	WITH_FLAG("print-arguments", print_arguments),
	/* What these ask for is not measured; they change nothing else. */
	{ "module", IGNORED, true, 0, NULL },
	{ "boot-timer", IGNORED, false, 0, NULL },
	{ "start-time-us", IGNORED, true, 0, NULL },
	{ "start-time-cpu-us", IGNORED, true, 0, NULL },
	{ "parent-cpu-time-us", IGNORED, true, 0, NULL },
	{ "seccomp-filter", REFUSED, true, 0, NULL },
	IS_ANSWERED("version", false, print_version),
	IS_ANSWERED("snapshot-version", false, print_snapshot_version),
	IS_ANSWERED("describe-snapshot", true, describe),
	IS_ANSWERED("help", false, print_help),
};

static int print_help(const char *value)
{
	printf("usage: wisp api [OPTION]...\n\noptions:\n");
	for (unsigned i = 0; i < ARRAY_SIZE(options); i++)
		printf("  --%s%s\n", options[i].name, options[i].has_value ? " VALUE" : "");
	printf("\ndocs/firecracker.md and 'wisp help api' tell what they do.\n");
	return 0;
}

/* -1 to go on, or the exit status. */
static int take_option(struct api_options *o, const struct api_option *option, const char *value)
{
	void *member = (char *)o + option->at;

	switch (option->kind) {
	case IDENTITY:
		if (!is_instance_id(value))
			return bad_value(option->name, value,
					 "1 to 64 letters, digits and dashes are an id");
		*(const char **)member = value;
		break;
	case TEXT:
		*(const char **)member = value;
		break;
	case FLAG:
		*(bool *)member = true;
		break;
	case SIZE:
		if (!parse_size(value, member))
			return bad_value(option->name, value, "not a number of bytes");
		break;
	case IGNORED:
		break;
	case REFUSED:
		return bad_value(option->name, value, "wisp has filters of its own");
	case ANSWERED:
		return option->answer(value);
	}
	return -1;
}

/* As take_option(), of all of them. */
static int parse(struct api_options *o, int argc, char **argv)
{
	struct option known[ARRAY_SIZE(options) + 1] = { 0 };
	int i, status;

	for (i = 0; i < (int)ARRAY_SIZE(options); i++)
		known[i] = (struct option){
			.name = options[i].name,
			.has_arg = options[i].has_value ? required_argument : no_argument,
			.val = FIRST_OPTION + i, /* or a name that begins two would do for either */
		};
	while ((status = getopt_long(argc, argv, "", known, &i)) != -1) {
		if (status < FIRST_OPTION)
			return STATUS_ARGUMENTS; /* getopt_long() has said why */
		status = take_option(o, &options[i], optarg);
		if (status >= 0)
			return status;
	}
	if (optind < argc)
		return bad_arguments("takes options only");
	o->no_api |= o->print_arguments;
	if (o->no_api && !o->config_file)
		return bad_arguments("--no-api needs --config-file");
	if (!o->mmds_limit)
		o->mmds_limit = o->payload_limit;
	return -1;
}

static int open_socket(const char *path, struct error *err)
{
	int fd = io_listen(path, SOCK_STREAM | SOCK_NONBLOCK, 0, 64);

	if (fd == -ENAMETOOLONG)
		return error_usage(err, fd, "--api-sock '%s': %m", path);
	if (fd < 0)
		return error_usage(err, fd,
				   "Failed to open the API socket at: %s. Check that it is not "
				   "already used.",
				   path);
	return fd;
}

/* What the options say that requests could say too. */
static int apply_options(struct api *api, struct error *err)
{
	const struct api_options *o = &api->options;
	struct api_answer answer = { 0 };
	json_t *body;

	if (o->level && !api_is_level(o->level))
		return error_usage(err, -EINVAL,
				   "Invalid value for logger level: Failed to parse string to "
				   "level filter: %s."
				   "Possible values: [Error, Warning, Info, Debug]",
				   o->level);
	if (o->log_path || o->level) {
		body = json_pack("{s:s*, s:s*}", "log_path", o->log_path, "level", o->level);
		api_put_logger(api, NULL, body, &answer);
		json_decref(body);
	}
	if (o->metrics_path && answer.status < 400) {
		body = json_pack("{s:s}", "metrics_path", o->metrics_path);
		api_put_metrics(api, NULL, body, &answer);
		json_decref(body);
	}
	if (answer.status >= 400) {
		error_usage(err, -EINVAL, "%s",
			    json_string_value(json_object_get(answer.body, "fault_message")));
		json_decref(answer.body);
		return -EINVAL;
	}
	if (o->metadata) {
		api->mmds = json_load_file(o->metadata, 0, NULL);
		if (!json_is_object(api->mmds))
			return error_usage(err, -EINVAL, "--metadata '%s': no JSON object",
					   o->metadata);
	}
	return 0;
}

/* When metrics are due. -1 comes to no metrics but on demand. */
static int open_timer(void)
{
	struct itimerspec every = { { METRICS_SECONDS, 0 }, { METRICS_SECONDS, 0 } };
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	if (fd >= 0)
		timerfd_settime(fd, 0, &every, NULL);
	return fd;
}

/* Until the microVM ends, or a signal comes. Returns the exit status. */
static int serve(struct api *api, struct api_http *http, int signals, int timer)
{
	uint64_t ticks;
	int status;

	for (;;) {
		struct pollfd p[] = {
			{ .fd = http ? api_http_fd(http) : -1, .events = POLLIN },
			{ .fd = signals, .events = POLLIN },
			{ .fd = api->child_fd, .events = POLLIN },
			{ .fd = api->child_words, .events = POLLIN },
			{ .fd = timer, .events = POLLIN },
		};

		if (poll(p, ARRAY_SIZE(p), http ? api_http_timeout_ms(http) : -1) < 0)
			continue;
		/* First: a request that comes with it asks for metrics that count it. */
		status = p[1].revents ? api_signal(api, signals) : 0;
		if (status) {
			api_stop(api);
			return status;
		}
		if (http)
			api_http_run(http);
		if (api->fatal) {
			api_http_run(http); /* the answer goes out */
			api_log(api, "Error", "Firecracker exiting with error. exit_code=%d",
				STATUS_ERROR);
			return STATUS_ERROR;
		}
		if (p[3].revents)
			api_pass_words(api);
		if (p[4].revents && read(timer, &ticks, sizeof(ticks)) == sizeof(ticks) &&
		    api->state != API_NOT_STARTED)
			api_flush_metrics(api);
		if (p[2].revents) {
			status = api_reap(api);
			api_flush_metrics(api);
			api_log(api, status ? "Error" : "Info",
				status ? "Firecracker exiting with error. exit_code=%d"
				       : "Firecracker exiting successfully. exit_code=%d",
				status);
			return status;
		}
	}
}

/*
 * For `wisp run --config-file`: each option as one word, with a NUL behind it. What only a control
 * socket can set, one way's limits of a network and metadata, is not among them.
 */
static int print_arguments(struct api *api, struct error *err)
{
	char **argv;

	if (!api->boot)
		return error_usage(err, -EINVAL, "'boot-source' is missing");
	argv = api_arguments(api, err);
	if (!argv)
		return err->code;
	/* A name is for each run to choose. */
	for (char **word = argv + 2; *word; word++)
		if (strncmp(*word, API_NAME_OPTION, strlen(API_NAME_OPTION)) != 0)
			printf("%s%c", *word, 0);
	api_arguments_free(argv);
	return 0;
}

static int run(struct api *api, struct error *err)
{
	const struct api_options *o = &api->options;
	struct api_http *http = NULL;
	int listen_fd = -1, signals, status, r;

	r = api_resources_init(api);
	if (!r)
		r = apply_options(api, err);
	if (r < 0)
		return r;
	/* Standard output is for the arguments then. */
	if (o->print_arguments)
		api->log_fd = -1;
	api_log(api, "Info", "Running Firecracker v" API_VERSION);
	if (o->config_file) {
		r = api_load_config(api, o->config_file, err);
		if (r < 0)
			return r;
	}
	if (o->print_arguments)
		return print_arguments(api, err);
	if (!o->no_api) {
		listen_fd = open_socket(o->api_sock, err);
		if (listen_fd < 0)
			return listen_fd;
		r = api_http_create(&http, api, listen_fd, err);
	}
	signals = api_signals_open();
	if (!r && signals < 0)
		r = error_set(err, signals, "signals: %m");
	if (!r && o->config_file)
		r = api_start(api, err);
	if (!r) {
		if (http)
			api_log(api, "Info", "API server started.");
		status = serve(api, http, signals, open_timer());
	} else {
		status = r;
	}
	api_http_free(http);
	if (listen_fd >= 0)
		unlink(o->api_sock);
	return status;
}

int main(int argc, char **argv)
{
	struct api api = {
		.options = {
			.api_sock = DEFAULT_SOCK,
			.id = "anonymous-instance",
			.payload_limit = API_DEFAULT_PAYLOAD,
		},
		.log_fd = STDOUT_FILENO,
		.metrics_fd = -1,
		.child_fd = -1,
		.child_words = -1,
		.control = -1,
	};
	struct error err = { 0 };
	int status;

	signal(SIGPIPE, SIG_IGN);
	status = parse(&api.options, argc, argv);
	if (status >= 0)
		return status;
	status = run(&api, &err);
	if (status < 0) {
		error_print(&err);
		api_log(&api, "Error", "%s", err.msg);
		status = err.kind == ERROR_USAGE && api.options.config_file ? STATUS_BAD_CONFIG
									    : STATUS_ERROR;
	}
	if (api.control >= 0)
		close(api.control);
	mmds_stop(&api.mmds_server);
	api_resources_done(&api);
	return status;
}
