/* What is configured before the start, and how it is shown again. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "helpers/api.h"

#define MAX_VCPUS 32

#define NOT_SUPPORTED "The requested operation is not supported: "

static const char *text_of(const json_t *o, const char *name)
{
	return json_string_value(json_object_get(o, name));
}

static json_int_t number_of(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

/* A field that was left out, or is null, becomes @value, which is taken over. */
static void fill(json_t *o, const char *name, json_t *value)
{
	const json_t *v = json_object_get(o, name);

	if (v && !json_is_null(v))
		json_decref(value);
	else
		json_object_set_new(o, name, value);
}

static void replace(json_t **slot, json_t *value)
{
	json_decref(*slot);
	*slot = json_incref(value);
}

/* "No such file or directory (os error 2)", as Rust says it. */
static const char *os_error(char *buf, size_t size, int error)
{
	snprintf(buf, size, "%s (os error %d)", strerror(error), error);
	return buf;
}

/* Can @path be opened? Errors are told when they are made, not at the start. */
static int probe(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

/* ---- what is asked ---- */

API_HANDLER(get_instance)
{
	static const char *const names[] = { "Not started", "Running", "Paused" };

	api_ok(answer,
	       json_pack("{s:s, s:s, s:s, s:s}", "id", api->options.id, "state", names[api->state],
			 "vmm_version", API_VERSION, "app_name", "Firecracker"));
}

API_HANDLER(get_version)
{
	api_ok(answer, json_pack("{s:s}", "firecracker_version", API_VERSION));
}

API_HANDLER(get_machine)
{
	api_ok(answer, json_incref(api->machine));
}

/* ---- the machine ---- */

/* Take @update over what is there, when the whole is right then. */
static void update_machine(struct api *api, json_t *update, const char *deprecated,
			   struct api_answer *answer)
{
	json_t *m = json_copy(api->machine), *v;
	const char *name, *template = text_of(update, "cpu_template");
	json_int_t cpus, memory;

	json_object_foreach(update, name, v) if (!json_is_null(v)) json_object_set(m, name, v);
	cpus = number_of(m, "vcpu_count");
	memory = number_of(m, "mem_size_mib");
	/* Which are for this host's processor is found out at the start. */
	if (template && !strcmp(template, "None"))
		json_object_del(m, "cpu_template");
	if (cpus < 1 || cpus > MAX_VCPUS ||
	    (json_is_true(json_object_get(m, "smt")) && cpus > 1 && cpus % 2))
		api_fault(answer, "Machine config error: The number of vCPUs must be greater than "
				  "0, less than 32 and must be 1 or an even number if SMT is "
				  "enabled.");
	else if (memory == 0 || (strcmp(text_of(m, "huge_pages"), "None") != 0 && memory % 2))
		api_fault(answer, "Machine config error: The memory size (MiB) is either 0, or not "
				  "a multiple of the configured page size.");
	else if (number_of(api->balloon, "amount_mib") > memory)
		api_fault(answer, "Machine config error: The memory size (MiB) is smaller than the "
				  "previously set balloon device target size.");
	else
		replace(&api->machine, m);
	json_decref(m);
	if (answer->status)
		return;
	if (template) {
		answer->deprecated = deprecated;
		api_forget_cpu_config(api);
	}
	api_no_content(answer);
}

API_HANDLER(put_machine)
{
	fill(body, "smt", json_false());
	fill(body, "track_dirty_pages", json_false());
	fill(body, "huge_pages", json_string("None"));
	update_machine(api, body, "PUT /machine-config: cpu_template field is deprecated.", answer);
}

/* Null is as good as absent. */
static bool is_empty(json_t *update)
{
	const char *name;
	json_t *v;

	json_object_foreach(update, name, v) if (!json_is_null(v)) return false;
	return true;
}

bool api_check_machine_update(const json_t *body, struct api_answer *answer)
{
	if (is_empty((json_t *)body))
		api_fault(answer, "Empty PATCH request.");
	return !answer->status;
}

API_HANDLER(patch_machine)
{
	update_machine(api, body, "PATCH /machine-config: cpu_template field is deprecated.",
		       answer);
}

API_HANDLER(put_boot)
{
	const char *kernel = text_of(body, "kernel_image_path"), *initrd;
	char why[120];
	int error;

	fill(body, "initrd_path", json_null());
	fill(body, "boot_args", json_null());
	initrd = text_of(body, "initrd_path");
	error = probe(kernel, O_RDONLY);
	if (error) {
		api_fault(answer, "Boot source error: The kernel file cannot be opened: %s",
			  os_error(why, sizeof(why), error));
		return;
	}
	error = initrd ? probe(initrd, O_RDONLY) : 0;
	if (error) {
		api_fault(answer,
			  "Boot source error: The initrd file cannot be opened due to invalid "
			  "path or invalid permissions. %s",
			  os_error(why, sizeof(why), error));
		return;
	}
	replace(&api->boot, body);
	api_no_content(answer);
}

/* ---- devices ---- */

/* Where @id comes among @devices, or how many there are. */
static size_t place_of(const json_t *devices, const char *id)
{
	const char *other;
	size_t place = 0;
	json_t *d;

	json_object_foreach((json_t *)devices, other, d)
	{
		if (!strcmp(other, id))
			break;
		place++;
	}
	return place;
}

/* Those at two places of @devices change places. Without memory all stays as it is. */
static void exchange(json_t **devices, size_t one, size_t two)
{
	const char **ids = calloc(json_object_size(*devices) + 1, sizeof(*ids)), *id;
	json_t *sorted = json_object(), *d;
	size_t num = 0;

	if (ids && sorted) {
		json_object_foreach(*devices, id, d)
		{
			ids[num++] = id;
		}
		for (size_t i = 0; i < num; i++) {
			id = ids[i == one ? two : i == two ? one : i];
			json_object_set(sorted, id, json_object_get(*devices, id));
		}
		replace(devices, sorted);
	}
	free(ids);
	json_decref(sorted);
}

/* Firecracker's order, by which the guest calls them: the root comes first, or to where it was. */
static void keep_drive(json_t **drives, const char *id, json_t *drive)
{
	size_t place = place_of(*drives, id);
	bool root = json_is_true(json_object_get(drive, "is_root_device"));
	bool is_new = place == json_object_size(*drives);
	json_t *first;

	json_object_set(*drives, id, drive);
	if (root && is_new) {
		first = json_pack("{s:O}", id, drive);
		json_object_update(first, *drives);
		replace(drives, first);
		json_decref(first);
	} else if (root && place) {
		exchange(drives, 0, place);
	}
}

/* As there: the last one takes the place of one that goes, or is another one from now on. */
static void drop_net(json_t **nets, const char *id)
{
	size_t place = place_of(*nets, id), num = json_object_size(*nets);

	if (place + 1 < num)
		exchange(nets, place, num - 1);
	json_object_del(*nets, id);
}

/* Does the field @name of one of @devices, other than @id, say that it is the root device? */
static bool has_root(json_t *devices, const char *name, const char *id)
{
	const char *other;
	json_t *d;

	json_object_foreach(devices, other, d)
	{
		if (strcmp(other, id) != 0 && json_is_true(json_object_get(d, name)))
			return true;
	}
	return false;
}

static bool drive_is_good(struct api *api, const char *id, const json_t *body,
			  struct api_answer *answer)
{
	static const char cannot[] = "Drive config error: Unable to create the virtio block "
				     "device: Virtio backend error:";
	const char *path = text_of(body, "path_on_host"), *socket = text_of(body, "socket");
	bool read_only = json_is_true(json_object_get(body, "is_read_only"));
	bool root = json_is_true(json_object_get(body, "is_root_device"));
	char why[120];
	int error;

	/* The guest has found its root by then, on whatever device it is. */
	if (root && api->state != API_NOT_STARTED) {
		api_fault(answer, "Drive config error: A root block device already exists!");
		return false;
	}
	if (root) {
		if (has_root(api->drives, "is_root_device", id)) {
			api_fault(answer,
				  "Drive config error: A root block device already exists!");
			return false;
		}
		if (has_root(api->pmems, "root_device", "")) {
			api_fault(answer, "Drive config error: Attempt to add block as a root "
					  "device while the root device defined as a pmem device");
			return false;
		}
	}
	if (!path == !socket) {
		api_fault(answer, "Drive config error: Unable to create the virtio block device: "
				  "Invalid block config.");
		return false;
	}
	if (socket) {
		api_fault(answer, NOT_SUPPORTED "wisp has no vhost-user block devices.");
		return false;
	}
	error = probe(path, read_only ? O_RDONLY : O_RDWR);
	if (error) {
		api_fault(answer, "%s Error manipulating the backing file: %s %s", cannot,
			  os_error(why, sizeof(why), error), path);
		return false;
	}
	return true;
}

API_HANDLER(put_drive)
{
	if (!api_may_plug(api, api->drives, id, answer) ||
	    !drive_is_good(api, id, body, answer))
		return;
	fill(body, "partuuid", json_null());
	fill(body, "is_read_only", json_false());
	fill(body, "cache_type", json_string("Unsafe"));
	fill(body, "rate_limiter", json_null());
	fill(body, "io_engine", json_string("Sync"));
	fill(body, "socket", json_null());
	if (!api_plug_drive(api, id, body, answer))
		return;
	keep_drive(&api->drives, id, body);
	api_no_content(answer);
}

/* Can it be mapped? 0, or what open() said; with an empty file -1. */
static int probe_pmem(const char *path, bool read_only)
{
	int error = probe(path, read_only ? O_RDONLY : O_RDWR);
	struct stat st;

	if (!error && stat(path, &st) == 0 && st.st_size == 0)
		error = -1;
	return error;
}

/* Can @pmem be mapped? If not, why is in @why. */
static bool can_map(const json_t *pmem, char *why, size_t size)
{
	char text[100];
	int error = probe_pmem(text_of(pmem, "path_on_host"),
			       json_is_true(json_object_get(pmem, "read_only")));

	if (error < 0)
		snprintf(why, size, "Error backing file size is 0");
	else if (error)
		snprintf(why, size, "Error accessing backing file: %s",
			 os_error(text, sizeof(text), error));
	return !error;
}

int api_probe_pmems(const struct api *api, struct error *err)
{
	char why[160];
	const char *id;
	json_t *pmem;

	json_object_foreach(api->pmems, id, pmem)
	{
		if (!can_map(pmem, why, sizeof(why)))
			return error_set(err, -EINVAL, "Cannot create pmem device: %s", why);
	}
	return 0;
}

static bool pmem_is_good(struct api *api, const char *id, const json_t *body,
			 struct api_answer *answer)
{
	bool root = json_is_true(json_object_get(body, "root_device"));
	char why[160];

	/* Whatever the guest's root is on, once it runs. */
	if (root &&
	    (api->state != API_NOT_STARTED || has_root(api->drives, "is_root_device", ""))) {
		api_fault(answer, "Pmem config error: Attempt to add pmem as a root device while "
				  "the root device defined as a block device");
		return false;
	}
	if (root && has_root(api->pmems, "root_device", id)) {
		api_fault(answer, "Pmem config error: A root pmem device already exist");
		return false;
	}
	/* Before the start files may still come. */
	if (api->state != API_NOT_STARTED && !can_map(body, why, sizeof(why)))
		api_fault(answer, "Pmem config error: Unable to create the virtio-pmem device: %s",
			  why);
	return !answer->status;
}

API_HANDLER(put_pmem)
{
	if (!api_may_plug(api, api->pmems, id, answer) || !pmem_is_good(api, id, body, answer))
		return;
	fill(body, "root_device", json_false());
	fill(body, "read_only", json_false());
	fill(body, "rate_limiter", json_null());
	if (!api_plug_pmem(api, id, body, answer))
		return;
	json_object_set(api->pmems, id, body);
	api_no_content(answer);
}

/* Is the host's interface @name taken by another network than @id? */
static bool tap_is_taken(const struct api *api, const char *id, const char *name)
{
	const char *other;
	json_t *n;

	json_object_foreach(api->nets, other,
			    n) if (strcmp(other, id) != 0 &&
				   !strcmp(text_of(n, "host_dev_name"), name)) return true;
	return false;
}

/* Is the host's interface @name there for the network @id? If not, why is in @why. */
static bool can_have_tap(const struct api *api, const char *id, const char *name, char *why,
			 size_t size)
{
	if (!tap_is_taken(api, id, name))
		return api_tap_works(name, why, size);
	api_tap_fault(why, size, name, EBUSY);
	return false;
}

static bool net_is_good(struct api *api, const char *id, const json_t *body,
			struct api_answer *answer)
{
	const char *mac = text_of(body, "guest_mac"), *other;
	const json_t *mtu = json_object_get(body, "mtu");
	char tap[400], why[440];
	json_t *n;

	json_object_foreach(api->nets, other, n)
	{
		const char *taken = text_of(n, "guest_mac");

		if (strcmp(other, id) != 0 && mac && taken && !strcasecmp(mac, taken)) {
			api_fault(answer,
				  "Network config error: The MAC address is already in use: %s",
				  mac);
			return false;
		}
	}
	if (json_is_integer(mtu) && json_integer_value(mtu) < 68)
		snprintf(why, sizeof(why), "MTU %lld is out of range [68, 65535]",
			 (long long)json_integer_value(mtu));
	else if (!can_have_tap(api, id, text_of(body, "host_dev_name"), tap, sizeof(tap)))
		snprintf(why, sizeof(why), "Open tap device failed: %s", tap);
	else
		return true;
	/* The one it was to replace has been closed by then, and is gone. */
	drop_net(&api->nets, id);
	api_fault(answer, "Network config error: Could not create the network device: %s", why);
	return false;
}

API_HANDLER(put_net)
{
	api_lower_mac(body);
	if (!api_may_plug(api, api->nets, id, answer) || !net_is_good(api, id, body, answer))
		return;
	fill(body, "guest_mac", json_null());
	fill(body, "mtu", json_null());
	fill(body, "rx_rate_limiter", json_null());
	fill(body, "tx_rate_limiter", json_null());
	if (!api_plug_net(api, id, body, answer))
		return;
	drop_net(&api->nets, id);
	json_object_set(api->nets, id, body);
	api_no_content(answer);
}

API_HANDLER(put_entropy)
{
	fill(body, "rate_limiter", json_null());
	replace(&api->entropy, body);
	api_no_content(answer);
}

API_HANDLER(put_serial)
{
	replace(&api->serial, body);
	api_no_content(answer);
}

/* ---- the log and the metrics ---- */

/* A pipe nobody reads from must not hold the server up. */
static int open_output(const char *path)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600);

	/* Both directions: a named pipe then opens before its reader is there. */
	if (fd < 0 && errno == ENXIO)
		fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	return fd;
}

API_HANDLER(put_logger)
{
	const char *path = text_of(body, "log_path"), *level = text_of(body, "level");
	const json_t *show = json_object_get(body, "show_level");
	const json_t *origin = json_object_get(body, "show_log_origin");
	static char kept[16];
	char why[120];
	int fd;

	fd = path ? open_output(path) : -1;
	if (path && fd < 0) {
		api_fault(answer, "Logger error: Failed to open target file: %s",
			  os_error(why, sizeof(why), errno));
		return;
	}
	if (path) {
		if (api->log_fd > STDERR_FILENO)
			close(api->log_fd);
		api->log_fd = fd;
	}
	/* Not to name one is to name the default. */
	snprintf(kept, sizeof(kept), "%s", level ? level : "Info");
	api->options.level = kept;
	if (json_is_boolean(show))
		api->options.show_level = json_is_true(show);
	if (json_is_boolean(origin))
		api->options.show_origin = json_is_true(origin);
	api_no_content(answer);
}

API_HANDLER(put_metrics)
{
	static const char bad[] =
		"Metrics error: Cannot initialize the metrics system due to bad user input:";
	char why[120];
	int fd;

	if (api->metrics_fd >= 0) {
		api_fault(answer, "%s Reinitialization of metrics not allowed.", bad);
		return;
	}
	fd = open_output(text_of(body, "metrics_path"));
	if (fd < 0) {
		api_fault(answer, "%s %s", bad, os_error(why, sizeof(why), errno));
		return;
	}
	api->metrics_fd = fd;
	api->metrics_id = json_is_true(json_object_get(body, "emit_id"));
	if (json_is_object(json_object_get(body, "properties")))
		api->metrics_properties = json_incref(json_object_get(body, "properties"));
	api_no_content(answer);
}

/* ---- all of it ---- */

int api_resources_init(struct api *api)
{
	api->machine = json_pack("{s:i, s:i, s:b, s:b, s:s}", "vcpu_count", 1, "mem_size_mib", 128,
				 "smt", 0, "track_dirty_pages", 0, "huge_pages", "None");
	api->drives = json_object();
	api->nets = json_object();
	api->pmems = json_object();
	return api->machine && api->drives && api->nets && api->pmems ? 0 : -ENOMEM;
}

void api_resources_done(struct api *api)
{
	json_decref(api->machine);
	json_decref(api->boot);
	json_decref(api->balloon);
	json_decref(api->memory);
	json_decref(api->vsock);
	json_decref(api->entropy);
	json_decref(api->serial);
	json_decref(api->mmds_config);
	api_forget_cpu_config(api);
	json_decref(api->drives);
	json_decref(api->nets);
	json_decref(api->pmems);
	json_decref(api->mmds);
	json_decref(api->metrics_properties);
	json_decref(api->counts);
	json_decref(api->counts_told);
}

/* One part of a configuration file, as if it had been PUT. */
static int put_part(struct api *api, const char *path, const json_t *body, struct error *err)
{
	struct api_answer answer = { 0 };
	char *text = json_dumps(body, JSON_COMPACT);
	int r = 0;

	if (!text)
		return error_set(err, -ENOMEM, "configuration: %m");
	api_handle(api, "PUT", path, text, strlen(text), &answer);
	if (answer.status >= 400)
		r = error_usage(err, -EINVAL, "%s: %s", path,
				text_of(answer.body, "fault_message"));
	json_decref(answer.body);
	free(text);
	return r;
}

static int put_parts(struct api *api, const char *stem, const char *id_field, const json_t *list,
		     struct error *err)
{
	char path[120];
	json_t *o;
	size_t i;
	int r = 0;

	if (!json_is_array(list))
		return error_usage(err, -EINVAL, "%s: not a list", stem);
	json_array_foreach(list, i, o)
	{
		const char *id = text_of(o, id_field);

		snprintf(path, sizeof(path), "%s/%s", stem, id ? id : "");
		if (!r)
			r = put_part(api, path, o, err);
	}
	return r;
}

/* What a configuration file may have, in the order in which it is put. */
static const struct section {
	const char *name, *path;
	const char *id_field; /* of each in a list; NULL: it is one object */
} sections[] = {
	{ "logger", "/logger" },
	{ "metrics", "/metrics" },
	{ "machine-config", "/machine-config" },
	{ "boot-source", "/boot-source" },
	{ "cpu-config", NULL }, /* the name of a file */
	{ "drives", "/drives", "drive_id" },
	{ "network-interfaces", "/network-interfaces", "iface_id" },
	{ "vsock", "/vsock" },
	{ "entropy", "/entropy" },
	{ "balloon", "/balloon" },
	{ "pmem", "/pmem", "id" },
	{ "memory-hotplug", "/hotplug/memory" },
	{ "mmds-config", "/mmds/config" },
};

static bool is_section(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(sections); i++)
		if (!strcmp(sections[i].name, name))
			return true;
	return false;
}

static int put_section(struct api *api, const struct section *s, const json_t *v, struct error *err)
{
	if (!s->path)
		return api_name_cpu_config(api, v, err);
	if (s->id_field)
		return put_parts(api, s->path, s->id_field, v, err);
	return put_part(api, s->path, v, err);
}

int api_load_config(struct api *api, const char *path, struct error *err)
{
	json_error_t why;
	json_t *all = json_load_file(path, JSON_REJECT_DUPLICATES, &why), *v;
	const char *name;
	int r = 0;

	/* One that cannot be opened has no lines. */
	if (!all && why.line < 0)
		return error_usage(err, -EINVAL, "--config-file '%s': %s", path, why.text);
	if (!all)
		return error_usage(err, -EINVAL, "--config-file '%s': line %d: %s", path, why.line,
				   why.text);
	json_object_foreach(all, name, v)
	{
		if (!r && !is_section(name))
			r = error_usage(err, -EINVAL, "--config-file '%s': unknown field '%s'",
					path, name);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(sections) && !r; i++) {
		v = json_object_get(all, sections[i].name);
		if (v && !json_is_null(v))
			r = put_section(api, &sections[i], v, err);
	}
	json_decref(all);
	return r;
}
