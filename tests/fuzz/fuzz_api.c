/*
 * Fuzz target (libFuzzer): the bodies of Firecracker's REST API. The first byte chooses the
 * request, the rest is its body. Requests that start processes or open files by name are left out:
 * those act for whoever owns the socket, and a fuzzer must not.
 */
#include <stdlib.h>

#include "helpers/api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_safe(const struct api_endpoint *e)
{
	static const char *const never[] = { "actions", "logger", "metrics", "snapshot/create",
					     "snapshot/load",
					     "wisp/v1/clone" };

	for (unsigned i = 0; i < ARRAY_SIZE(never); i++) {
		if (strcmp(e->path, never[i]) == 0)
			return false;
	}
	return true;
}

static const struct api_endpoint *choose(unsigned n)
{
	unsigned num = 0;

	while (api_endpoints[num].method)
		num++;
	return &api_endpoints[n % num];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct api api = { .log_fd = -1,
			   .metrics_fd = -1,
			   .control = -1,
			   .child = -1,
			   .child_fd = -1,
			   .child_words = -1 };
	char path[256];

	api.options.id = "fuzz";
	api.options.mmds_limit = api.options.payload_limit = API_DEFAULT_PAYLOAD;
	if (api_resources_init(&api) < 0)
		abort();
	/* Several in a row, separated by NUL: what one leaves is what the next finds. */
	while (size) {
		const struct api_endpoint *e = choose(data[0]);
		struct api_answer answer = { 0 };
		const uint8_t *end = memchr(data + 1, 0, size - 1);
		size_t len = end ? (size_t)(end - data) - 1 : size - 1;
		char *text = malloc(len + 1), *star;

		if (!text)
			abort();
		memcpy(text, data + 1, len);
		text[len] = 0;
		snprintf(path, sizeof(path), "%s", e->path);
		star = strchr(path, '*');
		if (star)
			snprintf(star, sizeof(path) - (star - path), "id");
		if (is_safe(e))
			api_handle(&api, e->method, path, len ? text : NULL, len, &answer);
		json_decref(answer.body);
		free(text);
		data += MIN(size, len + 2);
		size -= MIN(size, len + 2);
	}
	api_resources_done(&api);
	return 0;
}
