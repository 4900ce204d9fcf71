/* HTTP: requests in, answers out. All that is Firecracker's is elsewhere. */
#include <errno.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "helpers/api.h"

#define MAX_CONNECTIONS 100
/* A client that says nothing for so long may connect again. */
#define IDLE_SECONDS 60

struct api_http {
	struct MHD_Daemon *daemon;
	struct api *api;
	int epoll_fd;
};

/* One request while it comes in. */
struct incoming {
	char *target; /* as the request line has it: a query is part of Firecracker's paths */
	bool begun;
	char *text;
	size_t len;
	size_t refused; /* its body is longer than allowed, by its own account or in fact */
};

static enum MHD_Result respond(struct MHD_Connection *c, int status, const char *text,
			       bool deprecated)
{
	struct MHD_Response *response;
	enum MHD_Result done;

	response = MHD_create_response_from_buffer(text ? strlen(text) : 0, (void *)(text ?: ""),
						   MHD_RESPMEM_MUST_COPY);
	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, "Server", "Firecracker API");
	if (text)
		MHD_add_response_header(response, "Content-Type", "application/json");
	if (deprecated)
		MHD_add_response_header(response, "Deprecation", "true");
	done = MHD_queue_response(c, status, response);
	MHD_destroy_response(response);
	return done;
}

static enum MHD_Result answer_request(struct api *api, struct MHD_Connection *c, const char *method,
				      const char *path, const struct incoming *in)
{
	struct api_answer answer = { 0 };
	enum MHD_Result done;
	char *text = NULL;

	api_handle(api, method, path, in->len ? in->text : NULL, in->len, &answer);
	if (answer.body)
		text = json_dumps(answer.body, JSON_COMPACT | JSON_ENCODE_ANY);
	json_decref(answer.body);
	done = respond(c, answer.status, text, answer.deprecated != NULL);
	free(text);
	return done;
}

/* What is wrong with HTTP itself, and not with what is asked: Firecracker's server says so. */
static enum MHD_Result refuse(struct MHD_Connection *c, const char *why)
{
	char text[240];

	/* Its newline has no backslash, so that nobody can parse its answer; ours has. */
	snprintf(text, sizeof(text),
		 "{\"error\":\"%s\\nAll previous unanswered requests will be dropped.\"}", why);
	return respond(c, MHD_HTTP_BAD_REQUEST, text, false);
}

static enum MHD_Result refuse_size(const struct api *api, struct MHD_Connection *c, size_t size)
{
	char why[140];

	snprintf(why, sizeof(why),
		 "Request payload with size %zu is larger than the limit of %zu allowed by server.",
		 size, api->options.payload_limit);
	return refuse(c, why);
}

/* HTTP has more, and a server of Firecracker's does not know them, whatever the path. */
static bool is_known(const char *method)
{
	static const char *const known[] = { "GET", "PUT", "PATCH", "DELETE" };

	for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(method, known[i]))
			return true;
	return false;
}

/* Keep a piece of the body. */
static void take_body(const struct api *api, struct incoming *in, const char *data, size_t len)
{
	char *grown;

	if (in->refused || in->len + len > api->options.payload_limit) {
		in->refused = MAX(in->refused, in->len) + len;
		return;
	}
	grown = realloc(in->text, in->len + len);
	if (!grown) {
		in->refused = in->len + len;
		return;
	}
	memcpy(grown + in->len, data, len);
	in->text = grown;
	in->len += len;
}

/* The body's length by the client's own account. */
static size_t announced(struct MHD_Connection *c)
{
	const char *text = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");

	return text ? strtoull(text, NULL, 10) : 0;
}

static enum MHD_Result request_arrives(void *arg, struct MHD_Connection *c, const char *url,
				       const char *method, const char *version, const char *data,
				       size_t *len, void **state)
{
	struct api_http *http = arg;
	struct incoming *in = *state;

	if (!in)
		return MHD_NO;
	if (!in->begun) {
		in->begun = true;
		if (!is_known(method))
			return refuse(c, "Invalid HTTP Method: Unsupported HTTP method.");
		/* At once: the client should not send it first. */
		if (announced(c) > http->api->options.payload_limit)
			return refuse_size(http->api, c, announced(c));
		return MHD_YES;
	}
	if (*len) {
		take_body(http->api, in, data, *len);
		*len = 0;
		return MHD_YES;
	}
	if (in->refused)
		return refuse_size(http->api, c, in->refused);
	return answer_request(http->api, c, method, in->target, in);
}

static void request_done(void *arg, struct MHD_Connection *c, void **state,
			 enum MHD_RequestTerminationCode why)
{
	struct incoming *in = *state;

	if (in) {
		free(in->target);
		free(in->text);
	}
	free(in);
	*state = NULL;
}

/* The first that is known of a request; request_done() frees what it returns. NULL: no memory. */
static void *request_begins(void *arg, const char *target, struct MHD_Connection *c)
{
	struct incoming *in = calloc(1, sizeof(*in));

	if (in)
		in->target = strdup(target);
	if (in && !in->target) {
		free(in);
		in = NULL;
	}
	return in;
}

/* Paths are taken as they are: "%2F" is no slash. */
static size_t keep_escapes(void *arg, struct MHD_Connection *c, char *text)
{
	return strlen(text);
}

static void log_nothing(void *arg, const char *fmt, va_list ap)
{
}

int api_http_create(struct api_http **ret_http, struct api *api, int listen_fd, struct error *err)
{
	struct api_http *http = calloc(1, sizeof(*http));
	const union MHD_DaemonInfo *info;

	if (!http)
		return error_set(err, -ENOMEM, "HTTP server: %m");
	http->api = api;
	http->daemon =
		MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, request_arrives, http,
				 MHD_OPTION_EXTERNAL_LOGGER, log_nothing, NULL,
				 MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_CONNECTION_LIMIT,
				 MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS,
				 MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL,
				 MHD_OPTION_URI_LOG_CALLBACK, request_begins, NULL,
				 MHD_OPTION_NOTIFY_COMPLETED, request_done, NULL, MHD_OPTION_END);
	info = http->daemon ? MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (!info) {
		api_http_free(http);
		return error_set(err, -EIO, "HTTP server: cannot start");
	}
	http->epoll_fd = info->epoll_fd;
	*ret_http = http;
	return 0;
}

int api_http_fd(const struct api_http *http)
{
	return http->epoll_fd;
}

int api_http_timeout_ms(const struct api_http *http)
{
	MHD_UNSIGNED_LONG_LONG ms;

	return MHD_get_timeout(http->daemon, &ms) == MHD_YES ? (int)MIN(ms, 1000000ull) : -1;
}

static unsigned num_connections(const struct api_http *http)
{
	const union MHD_DaemonInfo *info =
		MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);

	return info ? info->num_connections : 0;
}

void api_http_run(struct api_http *http)
{
	unsigned before;

	/* A server that was full listens again only in the round after one in which somebody left.
	 */
	do {
		before = num_connections(http);
		MHD_run(http->daemon);
	} while (num_connections(http) < before);
}

void api_http_free(struct api_http *http)
{
	if (!http)
		return;
	if (http->daemon)
		MHD_stop_daemon(http->daemon);
	free(http);
}
