/* From a request to whoever carries it out: Firecracker's paths, methods and states. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "helpers/api.h"

void api_no_content(struct api_answer *answer)
{
	answer->status = 204;
}

void api_ok(struct api_answer *answer, json_t *body)
{
	answer->status = 200;
	answer->body = body;
}

void api_fault(struct api_answer *answer, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_decref(answer->body);
	if (!answer->status)
		answer->status = 400;
	answer->body = json_pack("{s:s}", "fault_message", text);
	/* It quotes what was no UTF-8. */
	if (!answer->body)
		answer->body = json_pack("{s:s}", "fault_message", "The request is not UTF-8.");
}

/* ---- what wisp does not do (docs/firecracker.md lists it) ---- */

const struct api_endpoint api_endpoints[] = {
	{ "GET", "", NULL, api_get_instance, API_ALWAYS, .metric = "instance_info" },
	{ "GET", "version", NULL, api_get_version, API_ALWAYS, .metric = "vmm_version" },
	{ "GET", "vm/config", NULL, api_get_config, API_ALWAYS },
	{ "GET", "machine-config", NULL, api_get_machine, API_ALWAYS, .metric = "machine_cfg" },
	{ "PUT", "machine-config", api_machine_config, api_put_machine, API_PREBOOT,
	  .metric = "machine_cfg", .configures = true },
	{ "PATCH", "machine-config", api_machine_update, api_patch_machine, API_PREBOOT,
	  .metric = "machine_cfg", .configures = true, .check = api_check_machine_update },
	{ "PUT", "boot-source", api_boot_source, api_put_boot, API_PREBOOT, .metric = "boot_source",
	  .configures = true },
	{ "PUT", "cpu-config", api_cpu_config, api_put_cpu_config, API_PREBOOT, .metric = "cpu_cfg",
	  .check = api_check_cpu_config },
	{ "PUT", "drives/*", api_drive, api_put_drive, API_ALWAYS, "drive_id", .metric = "drive",
	  .configures = true },
	{ "PATCH", "drives/*", api_drive_update, api_patch_drive, API_RUNTIME, "drive_id",
	  .metric = "drive" },
	{ "DELETE", "drives/*", NULL, api_delete_drive, API_RUNTIME },
	{ "PUT", "network-interfaces/*", api_net, api_put_net, API_ALWAYS, "iface_id",
	  .metric = "network", .configures = true },
	{ "PATCH", "network-interfaces/*", api_net_update, api_patch_net, API_RUNTIME,
	  "iface_id", .metric = "network" },
	{ "DELETE", "network-interfaces/*", NULL, api_delete_net, API_RUNTIME },
	{ "PUT", "vsock", api_vsock, api_put_vsock, API_PREBOOT, .metric = "vsock",
	  .configures = true },
	{ "PUT", "entropy", api_entropy, api_put_entropy, API_PREBOOT, .configures = true },
	{ "PUT", "serial", api_serial, api_put_serial, API_PREBOOT, .metric = "serial" },
	{ "PUT", "logger", api_logger, api_put_logger, API_PREBOOT, .metric = "logger" },
	{ "PUT", "metrics", api_metrics, api_put_metrics, API_PREBOOT, .metric = "metrics" },
	{ "PUT", "actions", api_action, api_put_action, API_ALWAYS, .metric = "actions" },
	{ "PATCH", "vm", api_vm, api_patch_vm, API_RUNTIME },
	{ "GET", "mmds", NULL, api_get_mmds, API_ALWAYS, .metric = "mmds" },
	{ "PUT", "mmds", api_anything, api_put_mmds, API_ALWAYS, .metric = "mmds" },
	{ "PATCH", "mmds", api_anything, api_patch_mmds, API_ALWAYS, .metric = "mmds" },
	{ "PUT", "mmds/config", api_mmds_config, api_put_mmds_config, API_PREBOOT, .metric = "mmds",
	  .configures = true },
	{ "GET", "balloon", NULL, api_get_balloon, API_ALWAYS },
	{ "PUT", "balloon", api_balloon, api_put_balloon, API_PREBOOT, .configures = true },
	{ "PATCH", "balloon", api_balloon_update, api_patch_balloon, API_RUNTIME },
	{ "GET", "balloon/statistics", NULL, api_get_balloon_stats, API_RUNTIME },
	{ "PATCH", "balloon/statistics", api_balloon_stats, api_patch_balloon_stats, API_RUNTIME },
	{ "PATCH", "balloon/hinting/start", api_balloon_hinting, api_start_hinting, API_RUNTIME },
	{ "GET", "balloon/hinting/status", NULL, api_get_hinting, API_RUNTIME },
	{ "PATCH", "balloon/hinting/stop", NULL, api_stop_hinting, API_RUNTIME },
	{ "PUT", "pmem/*", api_pmem, api_put_pmem, API_ALWAYS, "id", .metric = "pmem",
	  .configures = true },
	{ "PATCH", "pmem/*", api_pmem_update, api_patch_pmem, API_RUNTIME, "id", .metric = "pmem" },
	{ "DELETE", "pmem/*", NULL, api_delete_pmem, API_RUNTIME },
	{ "PUT", "hotplug/memory", api_memory_hotplug, api_put_memory, API_PREBOOT,
	  .metric = "hotplug_memory", .configures = true },
	{ "PATCH", "hotplug/memory", api_memory_update, api_patch_memory, API_RUNTIME,
	  .metric = "hotplug_memory" },
	{ "GET", "hotplug/memory", NULL, api_get_memory, API_RUNTIME,
	  .metric = "hotplug_memory" },
	{ "PUT", "snapshot/create", api_snapshot_create, api_create_snapshot, API_RUNTIME },
	{ "PUT", "snapshot/load", api_snapshot_load, api_load_snapshot, API_PREBOOT,
	  .check = api_check_load },
	{ "GET", "wisp/v1/stat", NULL, api_wisp_stat, API_RUNTIME },
	{ "PUT", "wisp/v1/clone", api_wisp_clone_body, api_wisp_clone, API_RUNTIME },
	{ 0 },
};

/* ---- routing ---- */

/* What of @path is behind @start: nothing, or a slash and more; NULL: it begins otherwise. */
static const char *behind(const char *start, const char *path)
{
	size_t len = strlen(start);

	if (strncmp(start, path, len) != 0 || (path[len] && path[len] != '/'))
		return NULL;
	return path + len;
}

/*
 * Does @path (without its first slash) fit @pattern? What is behind it does not matter. @ret_id:
 * where the part for "*" begins; it ends with @path or at a slash.
 */
static bool path_fits(const char *pattern, const char *path, const char **ret_id)
{
	const char *star = strchr(pattern, '*');
	size_t len = strlen(path);

	*ret_id = NULL;
	if (!star)
		return *pattern ? behind(pattern, path) != NULL : !*path;
	/* "drives" alone is the request with an empty id. */
	if (len + 1 == (size_t)(star - pattern) && !strncmp(pattern, path, len)) {
		*ret_id = "";
		return true;
	}
	if (strncmp(pattern, path, star - pattern) != 0)
		return false;
	*ret_id = path + (star - pattern);
	return true;
}

static bool is_id(const char *id)
{
	for (; *id; id++)
		if (!isalnum((unsigned char)*id) && *id != '_')
			return false;
	return true;
}

/* In Firecracker's order: what the method says of a body comes before the path. */
static bool body_fits(const char *method, const char *path, bool has_body,
		      struct api_answer *answer)
{
	if (!strcmp(method, "GET") && has_body)
		api_fault(answer, "GET request cannot have a body.");
	else if (!strcmp(method, "DELETE") && has_body)
		api_fault(answer, "Empty Delete request.");
	else if (!strcmp(method, "PUT") && !has_body)
		api_fault(answer, "Empty PUT request.");
	else if (!strcmp(method, "PATCH") && !has_body && !behind("balloon/hinting", path))
		api_fault(answer, "Empty PATCH request.");
	else
		return true;
	return false;
}

/* Of those that fit the one that says most of the path. */
static const struct api_endpoint *find_endpoint(const char *method, const char *path,
						const char **ret_id)
{
	const struct api_endpoint *found = NULL;
	const char *id;

	*ret_id = NULL;
	for (const struct api_endpoint *e = api_endpoints; e->method; e++) {
		if (strcmp(e->method, method) != 0 || !path_fits(e->path, path, &id) ||
		    (found && strlen(e->path) < strlen(found->path)))
			continue;
		found = e;
		*ret_id = id;
	}
	return found;
}

/* Where Firecracker minds what is behind a path: what it says around that, and when nothing is. */
static const struct {
	const char *method, *path, *before, *after, *nothing;
} particular[] = {
	{ "GET", "balloon/hinting", "Unrecognized GET request path `/hinting/", "`.",
	  "Unrecognized GET request path `/hinting/`." },
	{ "PATCH", "balloon/hinting", "Unrecognized PATCH request path `/hinting/", "`.",
	  "Unrecognized PATCH request path `/hinting/`." },
	{ "GET", "balloon", "Unrecognized GET request path `", "`.", NULL },
	{ "PUT", "mmds", "Unrecognized PUT request path `", "`.", NULL },
	{ "PUT", "snapshot", "Invalid request method and/or path: PUT /snapshot/", ".",
	  "Missing snapshot operation type." },
};

/* The request for @e, which is NULL when there is none; else it is answered. */
static bool path_is_good(const char *method, const char *path, const struct api_endpoint *e,
			 struct api_answer *answer)
{
	const char *rest;

	for (unsigned i = 0; i < ARRAY_SIZE(particular); i++) {
		if (strcmp(method, particular[i].method) != 0 ||
		    (e && strlen(e->path) > strlen(particular[i].path)))
			continue;
		rest = behind(particular[i].path, path);
		/* Between two slashes there is a word too, an empty one. */
		if (rest && *rest)
			api_fault(answer, "%s%.*s%s", particular[i].before,
				  (int)strcspn(rest + 1, "/"), rest + 1, particular[i].after);
		else if (rest && particular[i].nothing)
			api_fault(answer, "%s", particular[i].nothing);
		if (answer->status)
			return false;
	}
	if (!e)
		api_fault(answer, "Invalid request method and/or path: %s %.*s.", method,
			  (int)strcspn(path, "/"), path);
	return e;
}

/* How much of @text is one number, as far as its characters can tell: "-1.5e+3". */
static size_t number_length(const char *text, size_t len)
{
	size_t n = 0;

	while (n < len && text[n] && strchr("0123456789+-.eE", text[n]))
		n++;
	return n;
}

/* The string that begins at text[0], with the quotes at both ends. */
static size_t string_length(const char *text, size_t len)
{
	size_t n = 1;

	/* What a backslash hides, hides no quote. */
	while (n < len && text[n] != '"')
		n += text[n] == '\\' ? 2 : 1;
	return MIN(n + 1, len);
}

/* Append the number @text; only an integer that is too large for us becomes another one. */
static char *tame_number(char *to, const char *text, size_t len)
{
	bool negative = *text == '-';
	char number[24] = "";
	uint64_t value;

	to = mempcpy(to, text, len);
	/* In the copy, which has an end. */
	*to = '\0';
	if (strspn(to - len + negative, "0123456789") < len - negative)
		return to;
	memcpy(number, text + negative, MIN(len - negative, sizeof(number) - 1));
	errno = 0;
	value = strtoull(number, NULL, 10);
	if (errno || (negative && value > (uint64_t)INT64_MAX + 1))
		return stpcpy(to, ".0");
	if (!negative && value > INT64_MAX)
		return stpcpy(to - len, "9223372036854775807");
	return to;
}

/*
 * JSON's integers have no bounds, jansson's have: those beyond become the largest that it has when
 * they fit into 64 bits without a sign, which is more than anything here can be, and floating point
 * when they do not, as serde sees them. The text is the caller's.
 */
static char *tame_integers(const char *text, size_t len)
{
	/* Only numbers of 19 digits and more grow, by two characters. */
	char *out = malloc(len + len / 8 + 4), *to = out;
	size_t n;

	for (size_t i = 0; out && i < len; i += n) {
		if (text[i] == '"') {
			n = string_length(text + i, len - i);
			to = mempcpy(to, text + i, n);
		} else if ((n = number_length(text + i, len - i))) {
			to = tame_number(to, text + i, n);
		} else {
			n = 1;
			*to++ = text[i];
		}
	}
	if (out)
		*to = '\0';
	return out;
}

/* The body as checked JSON; NULL with the answer given. */
static json_t *parse_body(const struct api_endpoint *e, const char *text, size_t len,
			  struct api_answer *answer)
{
	static const char what[] =
		"An error occurred when deserializing the json body of a request";
	struct error err = { 0 };
	json_error_t why;
	json_t *body;

	body = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
	if (!body && json_error_code(&why) == json_error_numeric_overflow) {
		char *tame = tame_integers(text, len);

		if (tame)
			body = json_loads(tame, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
		free(tame);
	}
	if (!body) {
		api_fault(answer, "%s: %s at line %d column %d.", what, why.text, why.line,
			  why.column);
		return NULL;
	}
	if (api_check(body, e->body, &err) < 0) {
		/* The position is where serde gives up: in the end for all but the last. */
		api_fault(answer, "%s: %s at line 1 column %zu.", what, err.msg, len);
		json_decref(body);
		return NULL;
	}
	return body;
}

/* Does the body name the device that the path does? */
static bool same_id(const struct api_endpoint *e, const char *id, const json_t *body,
		    struct api_answer *answer)
{
	const char *repeated = NULL;

	if (e->id_field)
		repeated = json_string_value(json_object_get(body, e->id_field));
	if (!repeated || !strcmp(repeated, id))
		return true;
	/* Of networks it says which they are. */
	if (!strcmp(e->id_field, "iface_id"))
		api_fault(answer,
			  "The id from the path [%s] does not match the id from the body [%.60s]!",
			  id, repeated);
	else
		api_fault(answer, "The id from the path does not match the id from the body!");
	return false;
}

static void carry_out(struct api *api, const struct api_endpoint *e, const char *id, json_t *body,
		      struct api_answer *answer)
{
	if ((e->check && !e->check(body, answer)) || !same_id(e, id, body, answer))
		return;
	if (api->state == API_NOT_STARTED && !(e->when & API_PREBOOT))
		api_fault(answer, "The requested operation is not supported before starting the "
				  "microVM.");
	else if (api->state != API_NOT_STARTED && !(e->when & API_RUNTIME))
		api_fault(answer, "The requested operation is not supported after starting the "
				  "microVM.");
	if (answer->status)
		return;
	api->configured |= e->configures;
	e->handle(api, id, body, answer);
}

static void handle_named(struct api *api, const struct api_endpoint *e, const char *id,
			 const char *text, size_t len, struct api_answer *answer)
{
	json_t *body = NULL;

	if (id && !*id) {
		api_fault(answer, "The ID cannot be empty.");
		return;
	}
	if (id && !is_id(id)) {
		api_fault(answer, "API Resource IDs can only contain alphanumeric characters and "
				  "underscores.");
		return;
	}
	if (e->body && text) {
		body = parse_body(e, text, len, answer);
		if (!body)
			return;
	}
	carry_out(api, e, id, body, answer);
	json_decref(body);
}

static void handle(struct api *api, const char *method, const char *target, const char *text,
		   size_t len, struct api_answer *answer)
{
	char *path = strdup(target + strspn(target, "/"));
	const struct api_endpoint *e;
	const char *id;
	size_t end;

	if (!path) {
		api_fault(answer, "No memory.");
		return;
	}
	/* A slash ends a word: behind the last one there is none. */
	end = strlen(path);
	if (end && path[end - 1] == '/')
		path[end - 1] = '\0';
	e = find_endpoint(method, path, &id);
	if (body_fits(method, path, text != NULL, answer) &&
	    path_is_good(method, path, e, answer)) {
		/* An empty one need not be in @path. */
		if (id && *id)
			path[(id - path) + strcspn(id, "/")] = '\0';
		handle_named(api, e, id, text, len, answer);
	}
	free(path);
}

static void count(struct api *api, const char *method, const char *path,
		  const struct api_answer *answer)
{
	const struct api_endpoint *e;
	char group[40], key[60];
	const char *id;

	if (answer->deprecated)
		api_count(api, "deprecated_api", "deprecated_http_api_calls", 1);
	e = find_endpoint(method, path + strspn(path, "/"), &id);
	if (!e || !e->metric)
		return;
	snprintf(group, sizeof(group), "%s_api_requests",
		 !strcmp(method, "GET")	  ? "get"
		 : !strcmp(method, "PUT") ? "put"
					  : "patch");
	snprintf(key, sizeof(key), "%s_count", e->metric);
	api_count(api, group, key, 1);
	snprintf(key, sizeof(key), "%s_fails", e->metric);
	if (answer->status >= 400)
		api_count(api, group, key, 1);
}

/*
 * The path of a request's @target, with its query, which is no query to Firecracker: that of a URL
 * begins behind the host, and what neither is one nor begins with a slash has none.
 */
static const char *path_of(const char *target)
{
	static const char scheme[] = "http://";

	if (!strncmp(target, scheme, strlen(scheme)))
		target = strchrnul(target + strlen(scheme), '/');
	return *target == '/' ? target : "";
}

/* In Firecracker's words, which tools look for. Metadata may be secret, CPU templates are long. */
static void log_request(struct api *api, const char *method, const char *path, const char *text,
			size_t len)
{
	char body[2048] = "", where[300];
	const char *short_path = path + strspn(path, "/");
	bool long_one = text && behind("cpu-config", short_path) && !api_logs(api, "Debug");
	bool shown = text && !long_one && !behind("mmds", short_path);

	/* Methods as Rust's {:?} has them: "Put". */
	api_log(api, "Info", "The API server received a %c%s request on %s%s%s.", *method,
		!strcmp(method, "GET")	    ? "et"
		: !strcmp(method, "PUT")    ? "ut"
		: !strcmp(method, "PATCH")  ? "atch"
		: !strcmp(method, "DELETE") ? "elete"
					    : method + 1,
		api_quote(where, sizeof(where), path, strlen(path)),
		long_one ? ". To view the CPU template received by the API, configure log-level to "
			   "DEBUG"
		: shown	 ? " with body "
			 : "",
		shown ? api_quote(body, sizeof(body), text, len) : "");
}

void api_handle(struct api *api, const char *method, const char *target, const char *text,
		size_t len, struct api_answer *answer)
{
	const char *path = path_of(target);
	uint64_t begun = api_now_us();

	log_request(api, method, path, text, len);
	handle(api, method, path, text, len, answer);
	count(api, method, path, answer);
	if (answer->status >= 400) {
		api_log(api, "Error", "Received Error. Status code: %s. Message: %s",
			answer->status == 413 ? "413 Payload too large" : "400 Bad Request",
			json_string_value(json_object_get(answer->body, "fault_message")) ?: "");
	} else {
		api_log(api, "Info", "The request was executed successfully. Status code: %s.",
			answer->status == 204 ? "204 No Content" : "200 OK");
	}
	if (answer->deprecated)
		api_log(api, "Warn", "%s", answer->deprecated);
	api_log(api, "Debug", "Total previous API call duration: %llu us.",
		(unsigned long long)(api_now_us() - begun));
}
