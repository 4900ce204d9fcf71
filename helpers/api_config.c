/* GET /vm/config: all that is configured, as Firecracker shows it, which is not as it was sent. */
#include "helpers/api.h"

/* A bucket whose milliseconds are more than there are nanoseconds in 64 bits is none. */
#define MAX_REFILL_MS ((json_int_t)(UINT64_MAX / 1000000))

static json_int_t number_of(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

static json_t *or_null(json_t *o)
{
	return o ? json_incref(o) : json_null();
}

/*
 * A token bucket with all that it may have; null for one that was not given. @made: of a device
 * that has its buckets already, and none that limits nothing.
 */
static json_t *show_bucket(const json_t *bucket, bool made)
{
	json_int_t size = number_of(bucket, "size"), refill = number_of(bucket, "refill_time");
	json_t *burst = json_object_get(bucket, "one_time_burst");

	if (!json_is_object(bucket) || (made && (!size || !refill || refill > MAX_REFILL_MS)))
		return json_null();
	if (made && !json_integer_value(burst))
		burst = NULL;
	return json_pack("{s:I, s:o, s:I}", "size", size, "one_time_burst", or_null(burst),
			 "refill_time", refill);
}

/* A rate limiter; null when it was not given, or is @made and limits nothing. */
static json_t *show_limiter(const json_t *limiter, bool made)
{
	json_t *bandwidth = show_bucket(json_object_get(limiter, "bandwidth"), made);
	json_t *ops = show_bucket(json_object_get(limiter, "ops"), made);
	bool empty = json_is_null(bandwidth) && json_is_null(ops);
	json_t *shown = json_pack("{s:o, s:o}", "bandwidth", bandwidth, "ops", ops);

	if (json_is_object(limiter) && (!made || !empty))
		return shown;
	json_decref(shown);
	return json_null();
}

/* A copy of @device, its rate limiters as they are shown. */
static json_t *show_device(const json_t *device, bool made)
{
	json_t *shown = json_copy((json_t *)device), *v;
	const char *name;

	json_object_foreach((json_t *)device, name, v)
	{
		if (strstr(name, "rate_limiter"))
			json_object_set_new(shown, name, show_limiter(v, made));
	}
	return shown;
}

static json_t *show_all(const json_t *devices, bool made)
{
	json_t *list = json_array(), *v;
	const char *id;

	json_object_foreach((json_t *)devices, id, v)
	{
		json_array_append_new(list, show_device(v, made));
	}
	return list;
}

/* The root first, as the guest finds them. */
static json_t *show_drives(const struct api *api)
{
	json_t *list = json_array(), *d;
	const char *id;

	for (int root = 1; root >= 0; root--)
		json_object_foreach(api->drives, id, d)
		{
			if (json_is_true(json_object_get(d, "is_root_device")) == root)
				json_array_append_new(list, show_device(d, true));
		}
	return list;
}

API_HANDLER(get_config)
{
	json_t *o = json_object();

	json_object_set_new(o, "balloon", or_null(api->balloon));
	json_object_set_new(o, "drives", show_drives(api));
	json_object_set_new(o, "boot-source",
			    api->boot ? json_incref(api->boot)
				      : json_pack("{s:s, s:n, s:n}", "kernel_image_path", "",
						  "initrd_path", "boot_args"));
	json_object_set_new(o, "cpu-config", json_null());
	json_object_set_new(o, "logger", json_null());
	json_object_set(o, "machine-config", api->machine);
	json_object_set_new(o, "metrics", json_null());
	json_object_set_new(o, "mmds-config", or_null(api->mmds_config));
	json_object_set_new(o, "network-interfaces", show_all(api->nets, true));
	json_object_set_new(o, "vsock", or_null(api->vsock));
	json_object_set_new(o, "entropy",
			    api->entropy ? show_device(api->entropy, true) : json_null());
	/* These are made at the start, of what was sent. */
	json_object_set_new(o, "pmem", show_all(api->pmems, false));
	json_object_set_new(o, "memory-hotplug", or_null(api->memory));
	api_ok(answer, o);
}
