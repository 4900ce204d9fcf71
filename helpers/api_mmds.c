/* Instance metadata as clients of the API see it; guests are served by helpers/mmds.c. */
#include <arpa/inet.h>
#include <errno.h>
#include <unistd.h>

#include "helpers/api.h"
#include "vmm/control/control_client.h"

#define DEFAULT_ADDRESS "169.254.169.254"

static const char *text_of(const json_t *o, const char *name)
{
	return json_string_value(json_object_get(o, name));
}

/* ---- the contents ---- */

/* A microVM that runs without a metadata service has no use for contents. */
static bool is_there(const struct api *api, struct api_answer *answer)
{
	if (api->state == API_NOT_STARTED || api->mmds_server.pid > 0)
		return true;
	api_fault(answer, "MMDS error: The MMDS data store is not initialized.");
	return false;
}

API_HANDLER(get_mmds)
{
	/* What is nothing is shown as what holds nothing. */
	bool nothing = !api->mmds || json_is_null(api->mmds);

	if (is_there(api, answer))
		api_ok(answer, nothing ? json_object() : json_incref(api->mmds));
}

static void set_contents(struct api *api, json_t *value, struct api_answer *answer)
{
	if (json_dumpb(value, NULL, 0, JSON_COMPACT | JSON_ENCODE_ANY) > api->options.mmds_limit) {
		answer->status = 413;
		api_fault(answer, "MMDS limit exceeded error: The MMDS patch request doesn't fit.");
		return;
	}
	if (api->mmds_server.pid > 0 && mmds_put(&api->mmds_server, value) < 0) {
		api_fault(answer, "MMDS error: the metadata service has ended.");
		return;
	}
	json_incref(value);
	json_decref(api->mmds);
	api->mmds = value;
	api_no_content(answer);
}

API_HANDLER(put_mmds)
{
	if (is_there(api, answer))
		set_contents(api, body, answer);
}

/* JSON Merge Patch (RFC 7396). The result is the caller's. */
static json_t *merge(const json_t *target, const json_t *patch)
{
	json_t *result, *v;
	const char *name;

	if (!json_is_object(patch))
		return json_deep_copy(patch);
	result = json_is_object(target) ? json_copy((json_t *)target) : json_object();
	json_object_foreach((json_t *)patch, name, v)
	{
		if (json_is_null(v))
			json_object_del(result, name);
		else
			json_object_set_new(result, name, merge(json_object_get(result, name), v));
	}
	return result;
}

API_HANDLER(patch_mmds)
{
	json_t *merged;

	if (!is_there(api, answer))
		return;
	if (!api->mmds) {
		api_fault(answer, "MMDS error: The MMDS data store is not initialized.");
		return;
	}
	merged = merge(api->mmds, body);
	set_contents(api, merged, answer);
	json_decref(merged);
}

/* ---- where it is served ---- */

/* Link-local but for the first and the last 256, which are reserved (RFC 3927, 2.1). */
static bool is_link_local(const char *text)
{
	struct in_addr a;

	return inet_pton(AF_INET, text, &a) == 1 && ntohl(a.s_addr) >= 0xa9fe0100 &&
	       ntohl(a.s_addr) <= 0xa9fefeff;
}

API_HANDLER(put_mmds_config)
{
	const json_t *ids = json_object_get(body, "network_interfaces"), *id_of_one;
	const char *address = text_of(body, "ipv4_address"), *version = text_of(body, "version");
	size_t i;

	/* The three m's are Firecracker's. */
	if (address && !is_link_local(address)) {
		api_fault(answer,
			  "MMMDS config error: The MMDS IPv4 address is not link local.");
		return;
	}
	if (json_array_size(ids) == 0) {
		api_fault(answer, "MMMDS config error: The list of network interface IDs that "
				  "allow forwarding MMDS requests is empty.");
		return;
	}
	json_array_foreach(ids, i, id_of_one) if (!json_object_get(api->nets,
								   json_string_value(id_of_one)))
	{
		api_fault(answer, "MMMDS config error: The list of network interface IDs provided "
				  "contains at least one ID that does not correspond to any "
				  "existing network interface.");
		return;
	}
	if (!version)
		json_object_set_new(body, "version", json_string("V1"));
	if (!address)
		json_object_set_new(body, "ipv4_address", json_string(DEFAULT_ADDRESS));
	if (!json_is_boolean(json_object_get(body, "imds_compat")))
		json_object_set_new(body, "imds_compat", json_false());
	if (!version || !strcmp(version, "V1"))
		answer->deprecated = "PUT /mmds/config: V1 is deprecated. Use V2 instead.";
	json_incref(body);
	json_decref(api->mmds_config);
	api->mmds_config = body;
	api_no_content(answer);
}

bool api_mmds_is_on(const struct api *api, const char *id)
{
	const json_t *one;
	size_t i;

	json_array_foreach(json_object_get(api->mmds_config, "network_interfaces"), i,
			   one) if (!strcmp(json_string_value(one), id)) return true;
	return false;
}

const char *api_mmds_address(const struct api *api)
{
	return text_of(api->mmds_config, "ipv4_address");
}

int api_mmds_start(struct api *api, struct error *err)
{
	struct mmds_config config = {
		.needs_token = api->mmds_config &&
			       !strcmp(text_of(api->mmds_config, "version"), "V2"),
		.always_text = json_is_true(json_object_get(api->mmds_config, "imds_compat")),
		.no_sandbox = api->options.no_sandbox,
	};
	const char *ids[MMDS_MAX_LINKS] = { 0 }, *id;
	int links[MMDS_MAX_LINKS], r;
	json_t *net;

	if (!api->mmds_config)
		return 0;
	json_object_foreach(api->nets, id, net) if (api_mmds_is_on(api, id) &&
						    config.num_links < MMDS_MAX_LINKS)
		ids[config.num_links++] = id;
	inet_pton(AF_INET, api_mmds_address(api), &config.address);
	r = mmds_start(&api->mmds_server, &config, links, err);
	if (r < 0)
		return r;
	if (api->mmds && mmds_put(&api->mmds_server, api->mmds) < 0)
		r = error_set(err, -EPIPE, "metadata service: it has ended");
	for (unsigned i = 0; i < config.num_links; i++) {
		if (!r)
			r = control_ask(api->control,
					json_pack("{s:s, s:s}", "do", "serve", "id", ids[i]),
					&links[i], 1, NULL, err);
		close(links[i]);
	}
	return r;
}
