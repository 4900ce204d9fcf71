/*
 * Snapshots in Firecracker's manner, loaded: of the state file a directory of wisp's own kind is
 * made for `wisp restore`, which maps the file with RAM or asks another process for its pages.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "helpers/api.h"
#include "helpers/api_snapshot_file.h"
#include "vmm/control/control_client.h"
#include "vmm/core/io.h"

static const char *text_of(const json_t *o, const char *name)
{
	return json_string_value(json_object_get(o, name));
}

/* ---- the state file ---- */

/* The whole file; the caller's. */
static uint8_t *read_file(const char *path, size_t *ret_len, struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	uint8_t *data = NULL;
	struct stat st;
	size_t len = 0;

	if (fd < 0 || fstat(fd, &st) < 0) {
		error_set(err, -errno, "Failed to open snapshot file: %s (os error %d)",
			  strerror(errno), errno);
	} else if (!S_ISREG(st.st_mode) ||
		   (size_t)st.st_size < sizeof(struct api_snapshot_header) ||
		   st.st_size > API_MAX_STATE + API_MAX_RESOURCES) {
		error_set(err, -EBADMSG,
			  "Failed to load snapshot state from file: it is no snapshot of wisp's");
	} else {
		data = malloc(st.st_size);
		while (data && len < (size_t)st.st_size) {
			ssize_t n = read(fd, data + len, st.st_size - len);

			if (n <= 0)
				break;
			len += n;
		}
	}
	if (fd >= 0)
		close(fd);
	if (data && len < (size_t)st.st_size) {
		error_set(err, -EIO, "Failed to load snapshot state from file: it is cut off");
		free(data);
		return NULL;
	}
	*ret_len = len;
	return data;
}

/* Does the file say what it is, and is it as long as it says? Values are checked where used. */
static int check_header(const uint8_t *data, size_t len, struct api_snapshot_header *ret,
			struct error *err)
{
	memcpy(ret, data, sizeof(*ret));
	ret->resources = le32toh(ret->resources);
	ret->state = le32toh(ret->state);
	if (memcmp(ret->magic, API_SNAPSHOT_MAGIC, sizeof(ret->magic)) != 0)
		return error_set(err, -EBADMSG,
				 "Failed to load snapshot state from file: it is no "
				 "snapshot of wisp's");
	if (strncmp(ret->version, API_SNAPSHOT_VERSION, sizeof(ret->version)) != 0)
		return error_set(err, -EBADMSG,
				 "Failed to load snapshot state from file: it is of version %.24s",
				 ret->version);
	if (ret->resources > API_MAX_RESOURCES || ret->state > API_MAX_STATE ||
	    sizeof(*ret) + (size_t)ret->resources + ret->state != len)
		return error_set(err, -EBADMSG,
				 "Failed to load snapshot state from file: it is cut off");
	return 0;
}

int api_describe_snapshot(const char *path, char *text, size_t size, struct error *err)
{
	struct api_snapshot_header h;
	size_t len;
	uint8_t *data = read_file(path, &len, err);
	int r = data ? check_header(data, len, &h, err) : -EBADMSG;

	if (!r)
		snprintf(text, size, "%.24s", h.version);
	free(data);
	return r;
}

/* The parts of a file's resources, and what requests make them of. */
static const struct resource {
	const char *name;
	const struct api_field *fields;
	bool required, many; /* many: an object of them, by id */
} resources_known[] = {
	{ "machine", api_machine_config, .required = true },
	{ "boot", api_boot_source },
	{ "drives", api_drive, .required = true, .many = true },
	{ "nets", api_net, .required = true, .many = true },
	{ "pmems", api_pmem, .many = true },
	{ "vsock", api_vsock },
	{ "entropy", api_entropy },
	{ "balloon", api_balloon },
	{ "memory", api_memory_hotplug },
	{ "serial", api_serial },
	{ "mmds_config", api_mmds_config },
};

/* As if a request had made it? Whoever uses it later relies on that, and an enemy may have. */
static bool resource_is_good(const struct resource *known, const json_t *v)
{
	struct error ignored = { 0 };
	const char *id;
	json_t *one;

	if (!v || json_is_null(v))
		return !known->required;
	if (!known->many)
		return api_check(v, known->fields, &ignored) == 0;
	if (!json_is_object(v))
		return false;
	json_object_foreach((json_t *)v, id, one)
	{
		if (api_check(one, known->fields, &ignored) < 0)
			return false;
	}
	return true;
}

/* The resources of the file, each as it is here; the caller's. */
static json_t *parse_resources(const char *text, size_t len, struct error *err)
{
	json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL), *d;
	const char *id;
	bool good = json_is_object(o);

	for (unsigned i = 0; i < ARRAY_SIZE(resources_known) && good; i++)
		good = resource_is_good(&resources_known[i],
					json_object_get(o, resources_known[i].name));
	/* What a request may leave out, and is there once it was answered. */
	json_object_foreach(json_object_get(o, "drives"), id, d)
	{
		if (!text_of(d, "path_on_host"))
			good = false;
	}
	d = json_object_get(o, "mmds_config");
	if (json_is_object(d) && (!text_of(d, "version") || !text_of(d, "ipv4_address")))
		good = false;
	if (good)
		return o;
	json_decref(o);
	error_set(err, -EBADMSG, "Invalid snapshot state");
	return NULL;
}

/* ---- what wisp restore is given ---- */

static int write_part(const char *dir, const char *name, const void *data, size_t len)
{
	char path[PATH_MAX];
	bool good;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	good = fd >= 0 && io_write(fd, data, len) == 0;
	if (fd >= 0)
		close(fd);
	return good ? 0 : -1;
}

static const char *const parts[] = { "state", "memory", "manifest.json" };

/* What `wisp restore` wants, in a directory of its own; RAM is named to it. */
static int make_directory(char *dir, const json_t *drives, const void *state, size_t len,
			  struct error *err)
{
	json_t *disks = json_array(), *drive, *manifest;
	const char *id;
	char *text;
	int r = 0;

	json_object_foreach((json_t *)drives, id, drive)
		json_array_append_new(disks, json_pack("{s:s, s:O}", "id", id, "path",
						       json_object_get(drive, "path_on_host")));
	manifest = json_pack("{s:i, s:o}", "format", 1, "disks", disks);
	text = json_dumps(manifest, JSON_COMPACT);
	if (!text || !mkdtemp(dir) || write_part(dir, "state", state, len) < 0 ||
	    write_part(dir, "memory", "", 0) < 0 ||
	    write_part(dir, "manifest.json", text, strlen(text)) < 0)
		r = error_set(err, -errno, "Failed to load snapshot state from file: %m");
	free(text);
	json_decref(manifest);
	return r;
}

static void remove_directory(const char *dir)
{
	char path[PATH_MAX];

	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, parts[i]);
		unlink(path);
	}
	rmdir(dir);
}

/* The command line of `wisp restore`: as many words as the request makes it, and a NULL. */
struct words {
	char **argv;
	unsigned num;
	bool failed; /* one is missing for want of memory */
};

static void add(struct words *w, const char *fmt, ...) __printf(2, 3);

static void add(struct words *w, const char *fmt, ...)
{
	char **argv = realloc(w->argv, (w->num + 2) * sizeof(*argv));
	va_list ap;

	va_start(ap, fmt);
	if (argv)
		w->argv = argv;
	if (!argv || vasprintf(&argv[w->num], fmt, ap) < 0)
		w->failed = true;
	else
		argv[++w->num] = NULL;
	va_end(ap);
}

static void free_words(struct words *w)
{
	while (w->num)
		free(w->argv[--w->num]);
	free(w->argv);
}

static bool uses_uffd(const json_t *body)
{
	const char *type = text_of(json_object_get(body, "mem_backend"), "backend_type");

	return type && !strcmp(type, "Uffd");
}

/*
 * To the process that has the guest's pages; wisp restore inherits the connection. Connected here
 * since a handler may ask who we are, to end us when it fails.
 */
static int connect_handler(struct api *api, const json_t *body, struct error *err)
{
	const char *path = text_of(json_object_get(body, "mem_backend"), "backend_path");
	int fd = io_connect(path, SOCK_STREAM);

	if (fd < 0)
		return error_set(err, fd,
				 "Failed to load guest memory: Error creating guest memory from "
				 "uffd: Failed to connect to UDS Unix stream: %s (os error %d)",
				 strerror(-fd), -fd);
	api->memory_handler_fd = fd;
	return 0;
}

static void close_handler(struct api *api)
{
	if (api->memory_handler_fd)
		close(api->memory_handler_fd);
	api->memory_handler_fd = 0;
}

/* Where the pages are. */
static void add_memory(struct words *w, const struct api *api, const json_t *body)
{
	const char *memory = text_of(json_object_get(body, "mem_backend"), "backend_path");
	const char *pages = text_of(body, "huge_pages");

	if (uses_uffd(body))
		add(w, "--memory-handler=fd:%d", api->memory_handler_fd);
	else
		add(w, "--memory-file=%s", memory ? memory : text_of(body, "mem_file_path"));
	if (pages && !strcmp(pages, "2M"))
		add(w, "--hugepages");
}

/* What changes is to be known from the moment of the load on. */
static bool tracks(const json_t *body)
{
	return json_is_true(json_object_get(body, "track_dirty_pages")) ||
	       json_is_true(json_object_get(body, "enable_diff_snapshots"));
}

/* Another tap for each network that the request has one for; of several for one, the last. */
static void add_taps(struct words *w, const json_t *overrides)
{
	json_t *taps = json_object(), *one, *tap;
	const char *id;
	size_t i;

	json_array_foreach(overrides, i, one)
	{
		json_object_set(taps, text_of(one, "iface_id"),
				json_object_get(one, "host_dev_name"));
	}
	json_object_foreach(taps, id, tap)
	{
		add(w, "--tap=%s=%s", id, json_string_value(tap));
	}
	w->failed |= !taps;
	json_decref(taps);
}

static void add_arguments(struct words *w, const struct api *api, const char *dir,
			  const json_t *body)
{
	const json_t *vsock = json_object_get(body, "vsock_override");
	const char *id;
	char name[40];
	json_t *drive;

	api_name(api, name, sizeof(name));
	add(w, "wisp");
	add(w, "restore");
	add(w, API_NAME_OPTION "%s", name);
	add_memory(w, api, body);
	/* As in Firecracker they are taken as they are. */
	add(w, "--changed-disks");
	json_object_foreach(api->drives, id, drive)
	{
		add(w, "--disk=%s=%s", id, text_of(drive, "path_on_host"));
	}
	add_taps(w, json_object_get(body, "network_overrides"));
	if (json_is_object(vsock))
		add(w, "--vsock=%s", text_of(vsock, "uds_path"));
	if (json_is_true(json_object_get(body, "clock_realtime")))
		add(w, "--clock=realtime");
	if (!json_is_true(json_object_get(body, "resume_vm")) || tracks(body))
		add(w, "--paused");
	if (api->options.no_sandbox)
		add(w, "--sandbox=off");
	add(w, "%s", dir);
}

static void take(json_t **slot, const json_t *resources, const char *name)
{
	json_t *v = json_object_get(resources, name);

	json_decref(*slot);
	*slot = json_is_object(v) ? json_incref(v) : NULL;
}

static void take_resources(struct api *api, const json_t *r, const json_t *body)
{
	const json_t *vsock = json_object_get(body, "vsock_override"), *one;
	const char *pages = text_of(body, "huge_pages");
	size_t i;

	take(&api->machine, r, "machine");
	take(&api->boot, r, "boot");
	json_object_set_new(api->machine, "track_dirty_pages", json_boolean(tracks(body)));
	if (pages && strcmp(pages, "Snapshot") != 0)
		json_object_set_new(api->machine, "huge_pages", json_string(pages));
	take(&api->drives, r, "drives");
	take(&api->nets, r, "nets");
	take(&api->pmems, r, "pmems");
	take(&api->vsock, r, "vsock");
	take(&api->entropy, r, "entropy");
	take(&api->balloon, r, "balloon");
	take(&api->memory, r, "memory");
	take(&api->serial, r, "serial");
	take(&api->mmds_config, r, "mmds_config");
	if (api->vsock && json_is_object(vsock))
		json_object_set(api->vsock, "uds_path", json_object_get(vsock, "uds_path"));
	json_array_foreach(json_object_get(body, "network_overrides"), i, one)
	{
		json_t *net = json_object_get(api->nets, text_of(one, "iface_id"));

		if (net)
			json_object_set(net, "host_dev_name",
					json_object_get(one, "host_dev_name"));
	}
}

/* Are the devices there that the request has other names for? As Firecracker says it if not. */
static int check_overrides(const json_t *resources, const json_t *body, struct error *err)
{
	static const char failed[] = "Failed to get snapshot state from file:";
	const json_t *nets = json_object_get(resources, "nets"), *one;
	size_t i;

	json_array_foreach(json_object_get(body, "network_overrides"), i, one)
	{
		if (!json_object_get(nets, text_of(one, "iface_id")))
			return error_set(err, -ENODEV, "%s Unknown Network Device.", failed);
	}
	if (json_is_object(json_object_get(body, "vsock_override")) &&
	    !json_is_object(json_object_get(resources, "vsock")))
		return error_set(err, -ENODEV, "%s Unknown Vsock Device.", failed);
	return 0;
}

/*
 * Of the machine that stands still with its memory as in the file: differential snapshots may
 * follow that are written over it.
 */
static int begin_tracking(struct api *api, const json_t *body, struct error *err)
{
	struct error why = { 0 };
	int r;

	snprintf(api->snapshot_base, sizeof(api->snapshot_base), "api-%d-load", getpid());
	r = control_ask(api->control,
			json_pack("{s:s, s:s, s:s}", "do", "track", "id", api->snapshot_base,
				  "path", text_of(body, "snapshot_path")),
			NULL, 0, NULL, &why);
	if (!r && json_is_true(json_object_get(body, "resume_vm")))
		r = control_ask(api->control, json_pack("{s:s}", "do", "resume"), NULL, 0, NULL,
				&why);
	return r < 0 ? error_set(err, r, "%s", why.msg) : 0;
}

static int load(struct api *api, const json_t *body, struct error *err)
{
	char dir[] = "/tmp/wisp-load-XXXXXX";
	struct words w = { 0 };
	uint8_t *data;
	struct api_snapshot_header h;
	json_t *resources = NULL;
	size_t len;
	int r;

	data = read_file(text_of(body, "snapshot_path"), &len, err);
	if (!data)
		return -EBADMSG;
	r = check_header(data, len, &h, err);
	if (!r)
		resources = parse_resources((char *)data + sizeof(h), h.resources, err);
	if (resources)
		r = check_overrides(resources, body, err);
	if (!r && resources && uses_uffd(body))
		r = connect_handler(api, body, err);
	if (!r && resources) {
		take_resources(api, resources, body);
		r = make_directory(dir, api->drives, data + sizeof(h) + h.resources, h.state, err);
		add_arguments(&w, api, dir, body);
		if (!r && w.failed)
			r = error_set(err, -ENOMEM, "%s", strerror(ENOMEM));
		if (!r)
			r = api_launch(api, w.argv, err);
		if (!r)
			r = api_set_limits(api, err);
		if (!r && tracks(body))
			r = begin_tracking(api, body, err);
		remove_directory(dir);
	}
	free_words(&w);
	free(data);
	close_handler(api);
	if (!resources)
		return -EBADMSG;
	json_decref(resources);
	return r;
}

/* ---- the request ---- */

bool api_check_load(const json_t *body, struct api_answer *answer)
{
	static const char what[] =
		"An error occurred when deserializing the json body of a request:";
	const json_t *backend = json_object_get(body, "mem_backend");
	bool named = text_of(body, "mem_file_path");

	if (json_is_object(backend) && named)
		api_fault(answer,
			  "%s too many fields: either `mem_backend` or `mem_file_path` exclusively "
			  "is required.",
			  what);
	else if (!json_is_object(backend) && !named)
		api_fault(answer,
			  "%s missing field: either `mem_backend` or `mem_file_path` is required.",
			  what);
	return !answer->status;
}

/* Can this be loaded here? Else the answer is given. */
static bool may_load(const struct api *api, const json_t *body, struct api_answer *answer)
{
	const char *pages = text_of(body, "huge_pages");

	if (api->configured)
		api_fault(answer, "Load snapshot error: Loading a microVM snapshot not allowed "
				  "after configuring boot-specific resources.");
	else if (pages && !strcmp(pages, "2M") && !uses_uffd(body))
		api_fault(answer, "Load snapshot error: Failed to restore from snapshot: Failed to "
				  "load guest memory: Error creating guest memory from file: "
				  "Cannot restore hugetlbfs backed snapshot by mapping the memory "
				  "file. Please use uffd.");
	else
		return true;
	return false;
}

API_HANDLER(load_snapshot)
{
	struct error err = { 0 };

	if (!may_load(api, body, answer))
		return;
	if (text_of(body, "mem_file_path") ||
	    json_is_true(json_object_get(body, "enable_diff_snapshots")))
		answer->deprecated = "PUT /snapshot/load: mem_file_path and enable_diff_snapshots "
				     "fields are deprecated.";
	if (load(api, body, &err) < 0) {
		api_fault(answer, "Load snapshot error: Failed to restore from snapshot: %s",
			  err.msg);
		/* Half of another machine's resources are here: as in Firecracker, the end. */
		api->fatal = true;
		return;
	}
	api->state = json_is_true(json_object_get(body, "resume_vm")) ? API_RUNNING : API_PAUSED;
	api_flush_metrics(api);
	api_no_content(answer);
}
