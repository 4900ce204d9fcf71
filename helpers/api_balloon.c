/* The balloon: configured before the start, asked and moved after it. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "helpers/api.h"
#include "vmm/control/control_client.h"

#define PAGES_A_MIB 256

/* How long a guest may take to tell its statistics anew before the last ones have to do. */
#define STATS_TRIES   20
#define STATS_WAIT_NS 5000000

static json_int_t number_of(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

/* Without a balloon everything is refused, in words that depend on whether it runs. */
static bool is_there(const struct api *api, const char *what, struct api_answer *answer)
{
	if (api->balloon)
		return true;
	if (api->state == API_NOT_STARTED)
		api_fault(answer, "Balloon config error: No balloon device found.");
	else
		api_fault(answer, "%s: " API_NO_DEVICE, what);
	return false;
}

/* ---- before the start ---- */

API_HANDLER(put_balloon)
{
	if (number_of(body, "amount_mib") > UINT32_MAX / PAGES_A_MIB ||
	    number_of(body, "amount_mib") > number_of(api->machine, "mem_size_mib")) {
		api_fault(answer, "Balloon config error: Amount of pages requested is too large.");
		return;
	}
	if (!json_is_integer(json_object_get(body, "stats_polling_interval_s")))
		json_object_set_new(body, "stats_polling_interval_s", json_integer(0));
	if (!json_is_boolean(json_object_get(body, "free_page_hinting")))
		json_object_set_new(body, "free_page_hinting", json_false());
	if (!json_is_boolean(json_object_get(body, "free_page_reporting")))
		json_object_set_new(body, "free_page_reporting", json_false());
	json_incref(body);
	json_decref(api->balloon);
	api->balloon = body;
	api_no_content(answer);
}

API_HANDLER(get_balloon)
{
	if (is_there(api, "Internal VMM error", answer))
		api_ok(answer, json_incref(api->balloon));
}

/* ---- while it runs ---- */

API_HANDLER(patch_balloon)
{
	json_int_t mib = number_of(body, "amount_mib");
	struct error err = { 0 };

	if (!is_there(api, "Balloon update error", answer))
		return;
	if (control_ask(api->control,
			json_pack("{s:s, s:I}", "do", "balloon", "target", mib << 20), NULL, 0,
			NULL, &err) == 0) {
		json_object_set_new(api->balloon, "amount_mib", json_integer(mib));
		api_no_content(answer);
	} else if (err.code == -ERANGE) {
		api_fault(answer,
			  "Balloon update error: Balloon: Requested memory should be less than "
			  "%lldMiB",
			  (long long)mib);
	} else {
		api_fault(answer, "Balloon update error: %s", err.msg);
	}
}

/* What the balloon is like now; the caller's, or NULL. */
static json_t *ask_balloon(struct api *api, bool refresh, struct error *err)
{
	json_t *reply = NULL;

	control_ask(api->control,
		    json_pack("{s:s, s:b}", "do", "balloon", "refresh", refresh), NULL, 0, &reply,
		    err);
	return reply;
}

/*
 * Firecracker has the guest tell them every so many seconds, and shows the last; here they are
 * asked for when somebody wants to know, and are as fresh as the guest is quick.
 */
static json_t *fresh_stats(struct api *api, struct error *err)
{
	struct timespec wait = { .tv_nsec = STATS_WAIT_NS };
	json_t *reply = ask_balloon(api, true, err);
	json_int_t told = number_of(reply, "told");

	for (unsigned i = 0; reply && i < STATS_TRIES && number_of(reply, "told") == told; i++) {
		json_decref(reply);
		nanosleep(&wait, NULL);
		reply = ask_balloon(api, false, err);
	}
	return reply;
}

API_HANDLER(get_balloon_stats)
{
	struct error err = { 0 };
	json_t *now, *stats;

	if (!is_there(api, "Internal VMM error", answer))
		return;
	if (!number_of(api->balloon, "stats_polling_interval_s")) {
		api_fault(answer, "Internal VMM error: Balloon: Received stats query when stats "
				  "are disabled.");
		return;
	}
	now = fresh_stats(api, &err);
	if (!now) {
		api_fault(answer, "Internal VMM error: %s", err.msg);
		return;
	}
	stats = json_pack("{s:I, s:I, s:I, s:I}", "target_pages", number_of(now, "target") >> 12,
			  "actual_pages", number_of(now, "actual") >> 12, "target_mib",
			  number_of(now, "target") >> 20, "actual_mib",
			  number_of(now, "actual") >> 20);
	json_object_update(stats, json_object_get(now, "statistics"));
	json_decref(now);
	api_ok(answer, stats);
}

API_HANDLER(patch_balloon_stats)
{
	json_int_t was, interval = number_of(body, "stats_polling_interval_s");

	if (!is_there(api, "Balloon update error", answer))
		return;
	was = number_of(api->balloon, "stats_polling_interval_s");
	if (!was != !interval) {
		api_fault(answer, "Balloon update error: Balloon: Statistics cannot be "
				  "enabled/disabled after activation.");
		return;
	}
	json_object_set_new(api->balloon, "stats_polling_interval_s", json_integer(interval));
	api_no_content(answer);
}

/* ---- hints, while it runs ---- */

/* A balloon that can hint; else the answer is given. */
static bool can_hint(const struct api *api, struct api_answer *answer)
{
	if (!is_there(api, "Balloon update error", answer))
		return false;
	if (json_is_true(json_object_get(api->balloon, "free_page_hinting")))
		return true;
	api_fault(answer, "Balloon update error: Balloon: Attempting to use hinting when not "
			  "enabled");
	return false;
}

static void hint(struct api *api, const char *what, bool acknowledge, struct api_answer *answer)
{
	struct error err = { 0 };

	if (control_ask(api->control,
			json_pack("{s:s, s:s, s:b}", "do", "balloon", "hint", what, "acknowledge",
				  acknowledge),
			NULL, 0, NULL, &err) == 0)
		api_no_content(answer);
	else if (err.code == -ENOTCONN)
		api_fault(answer, "Balloon update error: Balloon: Device not activated yet.");
	else
		api_fault(answer, "Balloon update error: %s", err.msg);
}

/* It ends by itself, unless that is to be left to a stop. */
API_HANDLER(start_hinting)
{
	if (can_hint(api, answer))
		hint(api, "start", !json_is_false(json_object_get(body, "acknowledge_on_stop")),
		     answer);
}

API_HANDLER(stop_hinting)
{
	if (can_hint(api, answer))
		hint(api, "stop", true, answer);
}

API_HANDLER(get_hinting)
{
	struct error err = { 0 };
	json_t *now, *hints;

	if (!can_hint(api, answer))
		return;
	now = ask_balloon(api, false, &err);
	hints = json_object_get(now, "hints");
	if (hints)
		api_ok(answer, json_pack("{s:O, s:O}", "host_cmd",
					 json_object_get(hints, "command"), "guest_cmd",
					 json_object_get(hints, "answer")));
	else
		api_fault(answer, "Balloon update error: %s", err.msg);
	json_decref(now);
}
