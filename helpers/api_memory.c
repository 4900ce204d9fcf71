/* Memory that is plugged while the guest runs: configured before the start, asked for after it. */
#include <errno.h>

#include "helpers/api.h"
#include "vmm/control/control_client.h"

#define DEFAULT_BLOCK_MIB 2
#define DEFAULT_SLOT_MIB  128

static const char not_there[] = API_NO_DEVICE;

static json_int_t number_of(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

/* What is wrong with it, as Firecracker says it, into @why; or false. */
static bool is_wrong(const json_t *o, char *why, size_t size)
{
	long long total = number_of(o, "total_size_mib"), slot = number_of(o, "slot_size_mib");
	long long block = number_of(o, "block_size_mib");

	if (block < DEFAULT_BLOCK_MIB)
		snprintf(why, size, "Block size must not be lower than %d MiB", DEFAULT_BLOCK_MIB);
	else if (block & (block - 1))
		snprintf(why, size, "Block size must be a power of 2");
	else if (slot < DEFAULT_SLOT_MIB)
		snprintf(why, size, "Slot size must not be lower than %d MiB", DEFAULT_SLOT_MIB);
	else if (slot % block)
		snprintf(why, size, "Slot size must be a multiple of block size (%lld MiB)", block);
	else if (total < slot)
		snprintf(why, size, "Total size must not be lower than slot size (%lld MiB)", slot);
	else if (total % slot)
		snprintf(why, size, "Total size must be a multiple of slot size (%lld MiB)", slot);
	else
		return false;
	return true;
}

API_HANDLER(put_memory)
{
	char why[100];

	if (!json_is_integer(json_object_get(body, "block_size_mib")))
		json_object_set_new(body, "block_size_mib", json_integer(DEFAULT_BLOCK_MIB));
	if (!json_is_integer(json_object_get(body, "slot_size_mib")))
		json_object_set_new(body, "slot_size_mib", json_integer(DEFAULT_SLOT_MIB));
	if (is_wrong(body, why, sizeof(why))) {
		api_fault(answer, "Memory hotplug config error: %s", why);
		return;
	}
	json_incref(body);
	json_decref(api->memory);
	api->memory = body;
	api_no_content(answer);
}

API_HANDLER(get_memory)
{
	struct error err = { 0 };
	json_t *reply = NULL, *o;

	if (!api->memory) {
		api_fault(answer, "Internal VMM error: %s", not_there);
	} else if (control_ask(api->control, json_pack("{s:s}", "do", "memory"), NULL, 0, &reply,
			       &err) < 0) {
		api_fault(answer, "Internal VMM error: %s", err.msg);
	} else {
		o = json_deep_copy(api->memory);
		json_object_set_new(o, "plugged_size_mib",
				    json_integer(number_of(reply, "plugged") >> 20));
		json_object_set_new(o, "requested_size_mib",
				    json_integer(number_of(reply, "requested") >> 20));
		api_ok(answer, o);
	}
	json_decref(reply);
}

API_HANDLER(patch_memory)
{
	static const char failed[] = "Memory hotplug update error:";
	/* So says Firecracker also when it is there already. */
	static const char device[] = "Failed to create memory hotplug device:";
	json_int_t bytes = number_of(body, "requested_size_mib") << 20;
	struct error err = { 0 };

	if (!api->memory)
		api_fault(answer, "%s %s", failed, not_there);
	else if (control_ask(api->control,
			     json_pack("{s:s, s:I, s:b}", "do", "memory", "requested", bytes,
				       "active", true),
			     NULL, 0, NULL, &err) == 0)
		api_no_content(answer);
	else if (err.code == -ENOTCONN)
		api_fault(answer, "%s %s Device is not active", failed, device);
	else if (err.code == -ERANGE)
		api_fault(answer,
			  "%s %s Size %lld is invalid: it must be a multiple of block size and "
			  "less than the total size",
			  failed, device, (long long)bytes);
	else
		api_fault(answer, "%s %s", failed, err.msg);
}
