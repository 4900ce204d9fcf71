/*
 * Snapshots in Firecracker's manner: a file with the state, and one with RAM from its first byte to
 * its last, both under names that the client chose. Disks are only named, and are as the guest
 * left them.
 *
 * The state file is a header, what the API's resources were (JSON), and the sections of
 * docs/snapshot.md. To load one, a directory of wisp's own kind is made of it for `wisp restore`.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "helpers/api.h"
#include "vmm/control/control_client.h"

#define MAX_RESOURCES (1u << 20)
#define MAX_STATE     (64u << 20)
#define MAX_ARGUMENTS 200

struct header {
	char magic[8];
	char version[24];
	uint32_t resources; /* bytes of JSON */
	uint32_t state;	    /* bytes of sections */
};

static const char magic[8] = "WISPFC\r\n";

static const char *text_of(const json_t *o, const char *name)
{
	return json_string_value(json_object_get(o, name));
}

/* ---- create ---- */

/* What the guest's files are told by the moment that it stands still: nothing needs to be done. */
static void let_go_on(void *arg, const json_t *progress)
{
	int *go = arg;

	if (*go >= 0 && write(*go, "", 1) == 1) {
		close(*go);
		*go = -1;
	}
}

static int ask_snapshot(struct api *api, int state_fd, int memory_fd, struct error *err)
{
	struct control_extra extra = { .progress = let_go_on };
	int go[2], r;

	if (pipe2(go, O_CLOEXEC) < 0)
		return error_set(err, -errno, "pipe: %m");
	extra.arg = &go[1];
	r = control_ask_extra(api->control, json_pack("{s:s}", "do", "snapshot"),
			      (int[]){ go[0], state_fd, memory_fd }, 3, NULL, &extra, err);
	close(go[0]);
	if (go[1] >= 0)
		close(go[1]);
	return r;
}

static json_t *or_null(json_t *o)
{
	return o ? json_incref(o) : json_null();
}

static char *resources_text(const struct api *api)
{
	json_t *o = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "machine",
			      or_null(api->machine), "drives", or_null(api->drives), "nets",
			      or_null(api->nets), "vsock", or_null(api->vsock), "entropy",
			      or_null(api->entropy), "balloon", or_null(api->balloon), "serial",
			      or_null(api->serial), "mmds_config", or_null(api->mmds_config));
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;

	json_decref(o);
	return text;
}

static bool write_all(int fd, const void *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		data = (const uint8_t *)data + n;
		len -= n;
	}
	return true;
}

/* Header, resources, and the sections that the monitor has left in @state_fd. */
static int write_state(struct api *api, int fd, int state_fd, struct error *err)
{
	struct header h = { .version = API_SNAPSHOT_VERSION };
	char *text = resources_text(api);
	void *state = MAP_FAILED;
	struct stat st;
	int r = 0;

	memcpy(h.magic, magic, sizeof(magic));
	if (text && fstat(state_fd, &st) == 0 && st.st_size > 0 && st.st_size <= MAX_STATE)
		state = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, state_fd, 0);
	if (state == MAP_FAILED) {
		r = error_set(err, -EIO, "no state");
	} else {
		h.resources = htole32(strlen(text));
		h.state = htole32(st.st_size);
		if (!write_all(fd, &h, sizeof(h)) || !write_all(fd, text, strlen(text)) ||
		    !write_all(fd, state, st.st_size) || fsync(fd) < 0)
			r = error_set(err, -errno, "%m");
		munmap(state, st.st_size);
	}
	free(text);
	return r;
}

/*
 * A file that is complete once it has its name: guests that run from an earlier one of that name
 * keep it.
 */
static int open_partial(const char *path, char *partial, size_t size)
{
	if ((size_t)snprintf(partial, size, "%s.partial", path) >= size) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return open(partial, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

static int create(struct api *api, const char *state_path, const char *memory_path,
		  struct error *err)
{
	char state_partial[PATH_MAX], memory_partial[PATH_MAX];
	int state_fd = open_partial(state_path, state_partial, sizeof(state_partial));
	int memory_fd, sections_fd, r = 0;

	if (state_fd < 0)
		return error_set(err, -errno,
				 "Cannot perform open on the snapshot backing file: %m");
	memory_fd = open_partial(memory_path, memory_partial, sizeof(memory_partial));
	if (memory_fd < 0)
		r = error_set(err, -errno, "Cannot perform open on the memory backing file: %m");
	sections_fd = memfd_create("state", MFD_CLOEXEC);
	if (!r && sections_fd < 0)
		r = error_set(err, -errno, "Cannot save the microVM state: %m");
	if (!r)
		r = ask_snapshot(api, sections_fd, memory_fd, err);
	if (!r)
		r = write_state(api, state_fd, sections_fd, err);
	if (!r && (rename(memory_partial, memory_path) < 0 ||
		   rename(state_partial, state_path) < 0))
		r = error_set(err, -errno, "Cannot rename the snapshot's files: %m");
	if (r < 0) {
		unlink(state_partial);
		if (memory_fd >= 0)
			unlink(memory_partial);
	}
	close(state_fd);
	if (memory_fd >= 0)
		close(memory_fd);
	if (sections_fd >= 0)
		close(sections_fd);
	return r;
}

API_HANDLER(create_snapshot)
{
	const char *type = text_of(body, "snapshot_type");
	struct error err = { 0 };

	if (api->state != API_PAUSED)
		api_fault(answer, "Create snapshot error: Cannot save the microVM state: Operation "
				  "not allowed: save/restore unavailable while running");
	else if (type && !strcmp(type, "Diff"))
		api_fault(answer, "The requested operation is not supported: wisp takes full "
				  "snapshots.");
	else if (create(api, text_of(body, "snapshot_path"), text_of(body, "mem_file_path"),
			&err) < 0)
		api_fault(answer, "Create snapshot error: %s", err.msg);
	else
		api_no_content(answer);
}

/* ---- load ---- */

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
	} else if (!S_ISREG(st.st_mode) || (size_t)st.st_size < sizeof(struct header) ||
		   st.st_size > MAX_STATE + MAX_RESOURCES) {
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
static int check_header(const uint8_t *data, size_t len, struct header *ret, struct error *err)
{
	memcpy(ret, data, sizeof(*ret));
	ret->resources = le32toh(ret->resources);
	ret->state = le32toh(ret->state);
	if (memcmp(ret->magic, magic, sizeof(magic)) != 0)
		return error_set(err, -EBADMSG, "Failed to load snapshot state from file: it is no "
						"snapshot of wisp's");
	if (strncmp(ret->version, API_SNAPSHOT_VERSION, sizeof(ret->version)) != 0)
		return error_set(err, -EBADMSG,
				 "Failed to load snapshot state from file: it is of version %.24s",
				 ret->version);
	if (ret->resources > MAX_RESOURCES || ret->state > MAX_STATE ||
	    sizeof(*ret) + (size_t)ret->resources + ret->state != len)
		return error_set(err, -EBADMSG,
				 "Failed to load snapshot state from file: it is cut off");
	return 0;
}

int api_describe_snapshot(const char *path, char *text, size_t size, struct error *err)
{
	struct header h;
	size_t len;
	uint8_t *data = read_file(path, &len, err);
	int r = data ? check_header(data, len, &h, err) : -EBADMSG;

	if (!r)
		snprintf(text, size, "%.24s", h.version);
	free(data);
	return r;
}

/* The resources of the file, each of the type that it has here; the caller's. */
static json_t *parse_resources(const char *text, size_t len, struct error *err)
{
	static const char *const objects[] = { "machine", "drives", "nets" };
	json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL), *d;
	const char *id;
	bool good = json_is_object(o);

	for (unsigned i = 0; i < ARRAY_SIZE(objects) && good; i++)
		good = json_is_object(json_object_get(o, objects[i]));
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

static int write_part(const char *dir, const char *name, const void *data, size_t len)
{
	char path[PATH_MAX];
	bool good;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	good = fd >= 0 && write_all(fd, data, len);
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

struct words {
	char *argv[MAX_ARGUMENTS];
	unsigned num;
};

static void add(struct words *w, const char *fmt, ...) __printf(2, 3);

static void add(struct words *w, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (w->num + 1 < MAX_ARGUMENTS && vasprintf(&w->argv[w->num], fmt, ap) >= 0)
		w->num++;
	va_end(ap);
}

static void add_arguments(struct words *w, const struct api *api, const char *dir,
			  const json_t *body)
{
	const json_t *vsock = json_object_get(body, "vsock_override"), *one;
	const char *memory = text_of(json_object_get(body, "mem_backend"), "backend_path"), *id;
	char name[40];
	json_t *drive;
	size_t i;

	api_name(api, name, sizeof(name));
	add(w, "wisp");
	add(w, "restore");
	add(w, API_NAME_OPTION "%s", name);
	add(w, "--memory-file=%s", memory ? memory : text_of(body, "mem_file_path"));
	/* As in Firecracker they are taken as they are. */
	add(w, "--changed-disks");
	json_object_foreach(api->drives, id, drive)
	{
		add(w, "--disk=%s=%s", id, text_of(drive, "path_on_host"));
	}
	json_array_foreach(json_object_get(body, "network_overrides"), i, one)
	{
		add(w, "--tap=%s=%s", text_of(one, "iface_id"), text_of(one, "host_dev_name"));
	}
	if (json_is_object(vsock))
		add(w, "--vsock=%s", text_of(vsock, "uds_path"));
	if (json_is_true(json_object_get(body, "clock_realtime")))
		add(w, "--clock=realtime");
	if (!json_is_true(json_object_get(body, "resume_vm")))
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
	size_t i;

	take(&api->machine, r, "machine");
	take(&api->drives, r, "drives");
	take(&api->nets, r, "nets");
	take(&api->vsock, r, "vsock");
	take(&api->entropy, r, "entropy");
	take(&api->balloon, r, "balloon");
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

static int load(struct api *api, const json_t *body, struct error *err)
{
	char dir[] = "/tmp/wisp-load-XXXXXX";
	struct words w = { .num = 0 };
	uint8_t *data;
	struct header h;
	json_t *resources = NULL;
	size_t len;
	int r;

	data = read_file(text_of(body, "snapshot_path"), &len, err);
	if (!data)
		return -EBADMSG;
	r = check_header(data, len, &h, err);
	if (!r)
		resources = parse_resources((char *)data + sizeof(h), h.resources, err);
	if (!r && resources) {
		take_resources(api, resources, body);
		r = make_directory(dir, api->drives, data + sizeof(h) + h.resources, h.state, err);
		add_arguments(&w, api, dir, body);
		if (!r)
			r = api_launch(api, w.argv, err);
		remove_directory(dir);
	}
	while (w.num)
		free(w.argv[--w.num]);
	free(data);
	if (!resources)
		return -EBADMSG;
	json_decref(resources);
	return r;
}

/* What of a request only makes sense together: false with the answer given. */
static bool is_sound(const struct api *api, const json_t *body, struct api_answer *answer)
{
	static const char what[] =
		"An error occurred when deserializing the json body of a request:";
	const json_t *backend = json_object_get(body, "mem_backend");
	const char *type = text_of(backend, "backend_type"), *pages = text_of(body, "huge_pages");
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
	else if (api->configured)
		api_fault(answer, "Load snapshot error: Loading a microVM snapshot not allowed "
				  "after configuring boot-specific resources.");
	else if (type && !strcmp(type, "Uffd"))
		api_fault(answer, "The requested operation is not supported: wisp maps the memory "
				  "file, and asks no other process for pages.");
	else if (pages && !strcmp(pages, "2M"))
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

	if (!is_sound(api, body, answer))
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
