/*
 * Metrics as Firecracker writes them: a line of JSON with every key it has. What counts
 * events tells how many there were since the line before.
 *
 * The keys are a table; a value is looked for in what the server counts itself and in the counters
 * of the microVM, and is 0 where wisp has nothing like it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "helpers/api.h"
#include "vmm/control/control_client.h"

/*
 * A group of keys. "+" behind a name: a latency, of which there are min_us, max_us and sum_us;
 * "=": a value as it is now, and no count.
 */
struct group {
	const char *name;
	const char *const *keys;
};

#define KEYS(...)                      \
	(const char *const[])          \
	{                              \
		__VA_ARGS__, NULL      \
	}

#define BLOCK_KEYS                                                                             \
	"activate_fails", "cfg_fails", "no_avail_buffer", "event_fails", "execute_fails",      \
		"invalid_reqs_count", "flush_count", "queue_event_count",                      \
		"rate_limiter_event_count", "update_count", "update_fails", "read_bytes",      \
		"write_bytes", "read_count", "write_count", "read_agg+", "write_agg+",         \
		"rate_limiter_throttled_events", "io_engine_throttled_events",                 \
		"remaining_reqs_count"

#define NET_KEYS                                                                               \
	"activate_fails", "cfg_fails", "no_rx_avail_buffer", "no_tx_avail_buffer",             \
		"event_fails", "rx_queue_event_count", "rx_event_rate_limiter_count",          \
		"rx_rate_limiter_throttled", "rx_tap_event_count", "rx_bytes_count",           \
		"rx_packets_count", "rx_fails", "rx_count", "tap_read_fails",                  \
		"tap_write_fails", "tap_write_agg+", "tx_bytes_count", "tx_malformed_frames",  \
		"tx_fails", "tx_count", "tx_packets_count", "tx_queue_event_count",            \
		"tx_rate_limiter_event_count", "tx_rate_limiter_throttled",                    \
		"tx_spoofed_mac_count", "tx_remaining_reqs_count"

#define PMEM_KEYS                                                                            \
	"activate_fails", "cfg_fails", "event_fails", "queue_event_count",                     \
		"rate_limiter_throttled_events", "rate_limiter_event_count"

#define COUNT_AND_FAILS(what) what "_count", what "_fails"

static const struct group groups[] = {
	{ "api_server", KEYS("process_startup_time_us=", "process_startup_time_cpu_us=") },
	{ "balloon", KEYS("activate_fails", "inflate_count", "stats_updates_count",
			  "stats_update_fails", "deflate_count", "event_fails",
			  "free_page_report_count", "free_page_report_freed",
			  "free_page_report_fails", "free_page_hint_count", "free_page_hint_freed",
			  "free_page_hint_fails") },
	{ "block", KEYS(BLOCK_KEYS) },
	{ "deprecated_api", KEYS("deprecated_http_api_calls") },
	{ "get_api_requests", KEYS("instance_info_count", "machine_cfg_count", "mmds_count",
				   "vmm_version_count", "hotplug_memory_count") },
	{ "i8042", KEYS("error_count", "missed_read_count", "missed_write_count", "read_count",
			"reset_count", "write_count") },
	{ "uart", KEYS("error_count", "flush_count", "missed_read_count", "missed_write_count",
		       "read_count", "write_count", "rate_limiter_dropped_bytes") },
	{ "latencies_us",
	  KEYS("full_create_snapshot=", "diff_create_snapshot=", "load_snapshot=", "pause_vm=",
	       "resume_vm=", "vmm_full_create_snapshot=", "vmm_diff_create_snapshot=",
	       "vmm_load_snapshot=", "vmm_pause_vm=", "vmm_resume_vm=") },
	{ "logger", KEYS("missed_metrics_count", "metrics_fails", "missed_log_count",
			 "rate_limited_log_count") },
	{ "mmds", KEYS("rx_accepted", "rx_accepted_err", "rx_accepted_unusual", "rx_bad_eth",
		       "rx_invalid_token", "rx_no_token", "rx_count", "tx_bytes", "tx_count",
		       "tx_errors", "tx_frames", "connections_created", "connections_destroyed") },
	{ "net", KEYS(NET_KEYS) },
	{ "patch_api_requests",
	  KEYS(COUNT_AND_FAILS("drive"), COUNT_AND_FAILS("network"), COUNT_AND_FAILS("machine_cfg"),
	       COUNT_AND_FAILS("mmds"), COUNT_AND_FAILS("hotplug_memory"),
	       COUNT_AND_FAILS("pmem")) },
	{ "put_api_requests",
	  KEYS(COUNT_AND_FAILS("actions"), COUNT_AND_FAILS("boot_source"), COUNT_AND_FAILS("drive"),
	       COUNT_AND_FAILS("logger"), COUNT_AND_FAILS("machine_cfg"),
	       COUNT_AND_FAILS("cpu_cfg"), COUNT_AND_FAILS("metrics"), COUNT_AND_FAILS("network"),
	       COUNT_AND_FAILS("mmds"), COUNT_AND_FAILS("vsock"), COUNT_AND_FAILS("pmem"),
	       COUNT_AND_FAILS("serial"), COUNT_AND_FAILS("hotplug_memory")) },
	{ "seccomp", KEYS("num_faults=") },
	{ "vcpu", KEYS("exit_io_in", "exit_io_out", "exit_mmio_read", "exit_mmio_write", "failures",
		       "kvmclock_ctrl_fails", "exit_io_in_agg+", "exit_io_out_agg+",
		       "exit_mmio_read_agg+", "exit_mmio_write_agg+") },
	{ "vmm", KEYS("panic_count=") },
	{ "signals", KEYS("sigbus=", "sigsegv=", "sigxfsz=", "sigxcpu=", "sigpipe", "sighup=",
			  "sigill=") },
	{ "vsock", KEYS("activate_fails", "cfg_fails", "rx_queue_event_fails",
			"tx_queue_event_fails", "ev_queue_event_fails", "muxer_event_fails",
			"conn_event_fails", "rx_queue_event_count", "tx_queue_event_count",
			"rx_bytes_count", "tx_bytes_count", "rx_packets_count", "tx_packets_count",
			"conns_added", "conns_killed", "conns_removed", "killq_resync",
			"tx_flush_fails", "tx_write_fails", "rx_read_fails") },
	{ "entropy", KEYS("activate_fails", "entropy_event_fails", "entropy_event_count",
			  "entropy_bytes", "host_rng_fails", "entropy_rate_limiter_throttled",
			  "rate_limiter_event_count") },
	{ "pmem", KEYS(PMEM_KEYS) },
	{ "interrupts", KEYS("triggers", "config_updates") },
	{ "memory_hotplug",
	  KEYS("activate_fails", "queue_event_fails", "queue_event_count", "plug_agg+",
	       "plug_count", "plug_bytes", "plug_fails", "unplug_agg+", "unplug_count",
	       "unplug_bytes", "unplug_fails", "unplug_discard_fails", "unplug_all_agg+",
	       "unplug_all_count", "unplug_all_fails", "state_agg+", "state_count",
	       "state_fails") },
};

static const char *const block_keys[] = { BLOCK_KEYS, NULL };
static const char *const net_keys[] = { NET_KEYS, NULL };
static const char *const pmem_keys[] = { PMEM_KEYS, NULL };

/* ---- totals: {"group": {"key": N}} ---- */

static json_t *group_of(json_t *totals, const char *group)
{
	json_t *g = json_object_get(totals, group);

	if (!g) {
		g = json_object();
		json_object_set_new(totals, group, g);
	}
	return g;
}

/* Of what a monitor says, which may be anything: up to the largest number. */
static json_int_t sum(json_int_t a, json_int_t b)
{
	json_int_t total;

	return __builtin_add_overflow(MAX(a, 0), MAX(b, 0), &total) ? INT64_MAX : total;
}

static void add(json_t *totals, const char *group, const char *key, json_int_t n)
{
	json_t *g = group_of(totals, group);

	n = sum(n, json_integer_value(json_object_get(g, key)));
	json_object_set_new(g, key, json_integer(n));
}

void api_count(struct api *api, const char *group, const char *key, json_int_t n)
{
	if (!api->counts)
		api->counts = json_object();
	add(api->counts, group, key, n);
}

void api_measure(struct api *api, const char *key, json_int_t us)
{
	if (!api->counts)
		api->counts = json_object();
	json_object_set_new(group_of(api->counts, "latencies_us"), key, json_integer(us));
}

/* Which counter of a wisp device is which key of Firecracker's. */
struct same {
	const char *theirs, *ours;
};

static const struct same block_same[] = {
	{ "read_count", "reads" },	  { "write_count", "writes" },
	{ "flush_count", "flushes" },	  { "read_bytes", "read_bytes" },
	{ "write_bytes", "written_bytes" }, { "execute_fails", "errors" },
	{ "invalid_reqs_count", "refused" }, { "rate_limiter_throttled_events", "waits" },
	{ 0 },
};

static json_int_t of_queue(const json_t *device, unsigned queue, const char *key)
{
	return json_integer_value(
		json_object_get(json_array_get(json_object_get(device, "queues"), queue), key));
}

/* Both for the device (@one, NULL: it has no line of its own) and for all of its kind. */
static void add_device(json_t *totals, const char *one, const char *all, const char *key,
		       json_int_t n)
{
	add(totals, all, key, n);
	if (one)
		add(totals, one, key, n);
}

/* Firecracker counts requests that it refuses among all, too. */
static void take_memory(json_t *totals, const json_t *device)
{
	static const struct {
		const char *kind, *ours;
		bool bytes;
	} requests[] = {
		{ "plug", "plugs", true },
		{ "unplug", "unplugs", true },
		{ "unplug_all", "unplug_alls", false },
		{ "state", "states", false },
	};
	const json_t *counters = json_object_get(device, "counters");
	char key[40], ours[40];

	add(totals, "memory_hotplug", "queue_event_count", of_queue(device, 0, "kicks"));
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		json_int_t n = json_integer_value(json_object_get(counters, requests[i].ours));
		json_int_t refused;

		snprintf(ours, sizeof(ours), "%s_refused", requests[i].ours);
		refused = json_integer_value(json_object_get(counters, ours));
		snprintf(key, sizeof(key), "%s_count", requests[i].kind);
		add(totals, "memory_hotplug", key, sum(n, refused));
		snprintf(key, sizeof(key), "%s_fails", requests[i].kind);
		add(totals, "memory_hotplug", key, refused);
		snprintf(ours, sizeof(ours), "%s_bytes", requests[i].ours);
		snprintf(key, sizeof(key), "%s_bytes", requests[i].kind);
		if (requests[i].bytes)
			add(totals, "memory_hotplug", key,
			    json_integer_value(json_object_get(counters, ours)));
	}
}

static void take_device(json_t *totals, const json_t *device)
{
	const char *type = json_string_value(json_object_get(device, "type"));
	const char *id = json_string_value(json_object_get(device, "id"));
	const json_t *counters = json_object_get(device, "counters"), *q;
	char name[100];
	size_t i;

	if (!type || !id)
		return;
	json_array_foreach(json_object_get(device, "queues"), i, q)
		add(totals, "interrupts", "triggers", of_queue(device, i, "interrupts"));
	if (!strcmp(type, "virtio-blk")) {
		snprintf(name, sizeof(name), "block_%s", id);
		for (const struct same *s = block_same; s->theirs; s++)
			add_device(totals, name, "block", s->theirs,
				   json_integer_value(json_object_get(counters, s->ours)));
		json_array_foreach(json_object_get(device, "queues"), i, q)
			add_device(totals, name, "block", "queue_event_count",
				   of_queue(device, i, "kicks"));
	} else if (!strcmp(type, "virtio-net")) {
		snprintf(name, sizeof(name), "net_%s", id);
		add_device(totals, name, "net", "rx_queue_event_count",
			   of_queue(device, 0, "kicks"));
		add_device(totals, name, "net", "tx_queue_event_count",
			   of_queue(device, 1, "kicks"));
		add_device(totals, name, "net", "tx_count", of_queue(device, 1, "chains"));
		add_device(totals, name, "net", "tx_packets_count", of_queue(device, 1, "chains"));
		add_device(totals, name, "net", "rx_count", of_queue(device, 0, "chains"));
		add_device(totals, name, "net", "rx_packets_count", of_queue(device, 0, "chains"));
	} else if (!strcmp(type, "virtio-vsock")) {
		add(totals, "vsock", "rx_queue_event_count", of_queue(device, 0, "kicks"));
		add(totals, "vsock", "tx_queue_event_count", of_queue(device, 1, "kicks"));
		add(totals, "vsock", "rx_packets_count", of_queue(device, 0, "chains"));
		add(totals, "vsock", "tx_packets_count", of_queue(device, 1, "chains"));
	} else if (!strcmp(type, "virtio-rng")) {
		add(totals, "entropy", "entropy_event_count", of_queue(device, 0, "chains"));
	} else if (!strcmp(type, "virtio-pmem")) {
		snprintf(name, sizeof(name), "pmem_%s", id);
		add_device(totals, name, "pmem", "queue_event_count", of_queue(device, 0, "kicks"));
		add_device(totals, name, "pmem", "event_fails",
			   json_integer_value(json_object_get(counters, "failed")));
		add_device(totals, name, "pmem", "rate_limiter_throttled_events",
			   json_integer_value(json_object_get(counters, "throttled")));
	} else if (!strcmp(type, "virtio-mem")) {
		take_memory(totals, device);
	} else if (!strcmp(type, "virtio-balloon")) {
		add(totals, "balloon", "inflate_count", of_queue(device, 0, "chains"));
		add(totals, "balloon", "deflate_count", of_queue(device, 1, "chains"));
		add(totals, "balloon", "free_page_hint_count",
		    json_integer_value(json_object_get(counters, "hints")));
		add(totals, "balloon", "free_page_hint_freed",
		    json_integer_value(json_object_get(counters, "hinted_pages")) << 12);
	}
}

static void take_machine(json_t *totals, int control)
{
	static const struct same exits[] = {
		{ "exit_io_in", "pio_read" },	   { "exit_io_out", "pio_write" },
		{ "exit_mmio_read", "mmio_read" }, { "exit_mmio_write", "mmio_write" },
		{ "failures", "fail_entry" },	   { 0 },
	};
	json_t *stat = NULL, *counters, *device;
	size_t i;

	if (control < 0 ||
	    control_ask(control, json_pack("{s:s}", "do", "stat"), NULL, 0, &stat, NULL) < 0)
		return;
	counters = json_object_get(stat, "counters");
	for (const struct same *s = exits; s->theirs; s++)
		add(totals, "vcpu", s->theirs,
		    json_integer_value(
			    json_object_get(json_object_get(counters, "exits"), s->ours)));
	add(totals, "uart", "rate_limiter_dropped_bytes",
	    json_integer_value(
		    json_object_get(json_object_get(counters, "serial"), "dropped")));
	json_array_foreach(json_object_get(counters, "devices"), i, device)
		take_device(totals, device);
	json_decref(stat);
}

static void take_mmds(json_t *totals, const struct mmds_counters *c)
{
	if (!c)
		return;
	add(totals, "mmds", "rx_accepted", (json_int_t)c->rx_accepted);
	add(totals, "mmds", "rx_accepted_err", (json_int_t)c->rx_accepted_err);
	add(totals, "mmds", "rx_accepted_unusual", (json_int_t)c->rx_accepted_unusual);
	add(totals, "mmds", "rx_bad_eth", (json_int_t)c->rx_bad_eth);
	add(totals, "mmds", "rx_invalid_token", (json_int_t)c->rx_invalid_token);
	add(totals, "mmds", "rx_no_token", (json_int_t)c->rx_no_token);
	add(totals, "mmds", "rx_count", (json_int_t)c->rx_count);
	add(totals, "mmds", "tx_bytes", (json_int_t)c->tx_bytes);
	add(totals, "mmds", "tx_count", (json_int_t)c->tx_count);
	add(totals, "mmds", "tx_errors", (json_int_t)c->tx_errors);
	add(totals, "mmds", "tx_frames", (json_int_t)c->tx_frames);
	add(totals, "mmds", "connections_created", (json_int_t)c->connections_created);
	add(totals, "mmds", "connections_destroyed", (json_int_t)c->connections_destroyed);
}

/* ---- the line ---- */

static json_t *latency(void)
{
	return json_pack("{s:i, s:i, s:i}", "min_us", 0, "max_us", 0, "sum_us", 0);
}

/* What @totals have of a group, less what @told had; every key is there. */
static json_t *keys_of(const char *const *keys, const json_t *totals, const json_t *told)
{
	json_t *o = json_object();

	for (; *keys; keys++) {
		size_t len = strcspn(*keys, "+=");
		char key[60];
		json_int_t n;

		snprintf(key, sizeof(key), "%.*s", (int)len, *keys);
		if ((*keys)[len] == '+') {
			json_object_set_new(o, key, latency());
			continue;
		}
		n = json_integer_value(json_object_get(totals, key));
		if (!(*keys)[len])
			n -= json_integer_value(json_object_get(told, key));
		json_object_set_new(o, key, json_integer(MAX(n, 0)));
	}
	return o;
}

static json_t *make_line(struct api *api, const json_t *totals)
{
	struct timespec now;
	json_t *line, *v;
	const char *name;

	clock_gettime(CLOCK_REALTIME, &now);
	line = json_pack("{s:I}", "utc_timestamp_ms",
			 (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
	if (api->metrics_id)
		json_object_set_new(line, "id", json_string(api->options.id));
	if (api->metrics_properties)
		json_object_set(line, "properties", api->metrics_properties);
	for (unsigned i = 0; i < ARRAY_SIZE(groups); i++)
		json_object_set_new(line, groups[i].name,
				    keys_of(groups[i].keys,
					    json_object_get(totals, groups[i].name),
					    json_object_get(api->counts_told, groups[i].name)));
	json_object_foreach((json_t *)totals, name, v)
	{
		const char *const *keys = !strncmp(name, "block_", 6)  ? block_keys
					  : !strncmp(name, "net_", 4)  ? net_keys
					  : !strncmp(name, "pmem_", 5) ? pmem_keys
								       : NULL;

		if (keys)
			json_object_set_new(
				line, name,
				keys_of(keys, v, json_object_get(api->counts_told, name)));
	}
	return line;
}

int api_flush_metrics(struct api *api)
{
	json_t *totals, *line;
	char *text;
	int r = 0;

	if (api->metrics_fd < 0)
		return 0;
	totals = api->counts ? json_deep_copy(api->counts) : json_object();
	take_machine(totals, api->control);
	take_mmds(totals, api->mmds_server.counters);
	line = make_line(api, totals);
	text = json_dumps(line, JSON_COMPACT);
	json_decref(line);
	if (!text || dprintf(api->metrics_fd, "%s\n", text) < 0) {
		r = -EIO;
		api_count(api, "logger", "missed_metrics_count", 1);
		json_decref(totals);
	} else {
		json_decref(api->counts_told);
		api->counts_told = totals;
	}
	free(text);
	return r;
}
