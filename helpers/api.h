/*
 * Firecracker's REST API, served over a UNIX socket by `wisp api`: what the files
 * helpers/api_*.c share.
 *
 * One thread. What clients configure is kept as they sent it, JSON objects
 * checked against the tables of api_schema.c, until InstanceStart makes a command line of `wisp
 * run` of it: so the same parser and the same validation see it, and the monitor
 * is as small as any other. From then on the server is a client of its control socket.
 */
#ifndef WISP_HELPERS_API_H
#define WISP_HELPERS_API_H

#include <jansson.h>
#include <sys/types.h>

#include "helpers/mmds.h"
#include "vmm/core/error.h"

#define API_VERSION "1.17.0" /* of the interface, which clients compare with theirs */
#define API_NO_DEVICE "Failed perform action on device: Device not found"

#define API_DEFAULT_PAYLOAD 51200 /* bytes of a request's body */

struct api_options {
	const char *api_sock; /* where to listen; NULL with --no-api */
	const char *id;
	const char *config_file;
	const char *metadata; /* the file with MMDS's first contents */
	const char *log_path, *level, *metrics_path;
	bool show_level, show_origin;
	bool no_api, enable_pci, no_sandbox;
	bool print_arguments; /* those of `wisp run`, and run nothing */
	size_t payload_limit, mmds_limit;
};

enum api_state { API_NOT_STARTED, API_RUNNING, API_PAUSED };

struct api {
	struct api_options options;
	enum api_state state;
	bool fatal;	 /* what was asked for last has left nothing to go on with */
	bool configured; /* something that a snapshot could not be loaded over */

	/* Resources as sent, with defaults filled in; NULL: not given. */
	json_t *machine, *boot, *balloon, *vsock, *entropy, *serial, *mmds_config;
	json_t *memory; /* that can be plugged */
	json_t *cpu_config; /* as sent, or the name of the file that it is in */
	int cpu_config_fd;  /* a file in memory, of what was sent; 0: nothing was */
	json_t *drives, *nets, *pmems; /* objects by id, in order */
	json_t *mmds;	       /* the data store; NULL: nothing was put yet */
	struct mmds mmds_server;

	int log_fd, metrics_fd; /* -1: not asked for */
	bool metrics_id;	/* a line of metrics has our id */
	json_t *metrics_properties;
	json_t *counts, *counts_told; /* by group and key, all in all, and in the last line */

	pid_t child;	 /* `wisp run` */
	int child_fd;	 /* a pidfd of it */
	int child_words; /* its standard error */
	int control;	 /* its control socket */
	int memory_handler_fd; /* to its handler of page faults, while it starts; else 0 */

	unsigned snapshots;	/* taken so far */
	char snapshot_base[40]; /* the one that changes of memory are counted from; or "" */
};

/* The answer to one request: 200 with @body, 204 without, or the status of a failure. */
struct api_answer {
	int status;
	json_t *body;
	const char *deprecated; /* what of the request will go away; NULL: nothing */
};

/* One thing that can be asked for. */
struct api_endpoint {
	const char *method, *path;    /* a path's last part may be "*": an id */
	const struct api_field *body; /* what it takes; NULL: it takes none */
	void (*handle)(struct api *api, const char *id, json_t *body, struct api_answer *answer);
	unsigned when;	      /* API_PREBOOT, API_RUNTIME */
	const char *id_field; /* which field repeats the id of the path */
	const char *metric;   /* what metrics call it; NULL: they do not count it */
	/* After it no snapshot can be loaded, even if it is refused for what its values are. */
	bool configures;
	/* What the table of fields cannot say; false with the answer given. In any state. */
	bool (*check)(const json_t *body, struct api_answer *answer);
};

#define API_PREBOOT 1u
#define API_RUNTIME 2u
#define API_ALWAYS  (API_PREBOOT | API_RUNTIME)

extern const struct api_endpoint api_endpoints[]; /* ends without a method */

/* ---- api_schema.c ---- */

enum api_type {
	API_STRING,
	API_PATH,  /* a string to which serde has another name */
	API_MAC,   /* a string, as api_is_mac() wants it */
	API_IPV4,  /* a string, four numbers with dots */
	API_LEVEL, /* a string, as api_is_level() wants it */
	API_BOOL,
	API_U8,
	API_U16,
	API_U32,
	API_U64,
	API_USIZE,  /* the same, of another name */
	API_OBJECT, /* of @fields, or of anything when NULL */
	API_STRINGS,
	API_STRING_MAP, /* an object of strings */
	API_ARRAY,	/* of objects of @fields */
	API_ENUM,	/* one of the words in @words, "A|B" */
};

struct api_field {
	const char *name;
	enum api_type type;
	bool required;
	const char *words;
	const struct api_field *fields;
	bool not_null; /* it may be left out, and has a default then, which null is not */
	bool open;     /* at the end: other fields are nothing to mind */
};

extern const struct api_field api_boot_source[], api_machine_config[], api_machine_update[],
	api_drive[], api_drive_update[], api_net[], api_net_update[], api_vsock[], api_entropy[],
	api_serial[], api_logger[], api_metrics[], api_action[], api_vm[], api_balloon[],
	api_balloon_update[], api_balloon_stats[], api_balloon_hinting[], api_pmem[],
	api_pmem_update[], api_memory_hotplug[], api_memory_update[], api_mmds_config[],
	api_snapshot_create[], api_snapshot_load[], api_cpu_config[], api_wisp_clone_body[],
	api_anything[];

/* Does @body have the fields it should and no others? -EINVAL with the words of serde if not. */
int api_check(const json_t *body, const struct api_field *fields, struct error *err);
/* "06:00:AC:10:00:02" */
bool api_is_mac(const char *text);
/* Of a log's lines: "Info", "WARNING". */
bool api_is_level(const char *text);
/* That of @net, if it is one, in small letters: it is a number, which is shown as all are. */
void api_lower_mac(json_t *net);

/* ---- api_answer.c ---- */

void api_no_content(struct api_answer *answer);
void api_ok(struct api_answer *answer, json_t *body);
void api_fault(struct api_answer *answer, const char *fmt, ...) __printf(2, 3);

/* Carry out one request, for a path or a URL; @text is NULL without a body. */
void api_handle(struct api *api, const char *method, const char *target, const char *text,
		size_t len, struct api_answer *answer);

/* ---- api_resources.c: before the start ---- */

int api_resources_init(struct api *api);
void api_resources_done(struct api *api);
/* Everything that is in a --config-file. */
int api_load_config(struct api *api, const char *path, struct error *err);

#define API_HANDLER(name) \
	void api_##name(struct api *api, const char *id, json_t *body, struct api_answer *answer)

API_HANDLER(get_instance);
API_HANDLER(get_version);
API_HANDLER(get_machine);
API_HANDLER(put_machine);
API_HANDLER(patch_machine);
bool api_check_machine_update(const json_t *body, struct api_answer *answer);
API_HANDLER(put_boot);
API_HANDLER(put_drive);
API_HANDLER(put_pmem);
API_HANDLER(put_net);
API_HANDLER(put_entropy);
API_HANDLER(put_serial);
API_HANDLER(put_logger);
API_HANDLER(put_metrics);

/* Can the files of persistent memory be mapped? -EINVAL with why not. */
int api_probe_pmems(const struct api *api, struct error *err);

/* ---- api_config.c ---- */

API_HANDLER(get_config);

/* ---- api_vsock.c ---- */

API_HANDLER(put_vsock);

/* ---- api_cpu.c ---- */

API_HANDLER(put_cpu_config);
bool api_check_cpu_config(const json_t *body, struct api_answer *answer);

void api_forget_cpu_config(struct api *api);
/* In a configuration file it is the name of another one. */
int api_name_cpu_config(struct api *api, const json_t *name, struct error *err);

/* ---- api_mmds.c ---- */

API_HANDLER(get_mmds);
API_HANDLER(put_mmds);
API_HANDLER(patch_mmds);
API_HANDLER(put_mmds_config);

/* Is the network @id one that metadata is served on? */
bool api_mmds_is_on(const struct api *api, const char *id);
/* Where it is then. */
const char *api_mmds_address(const struct api *api);
/* Serve on the microVM's networks, once it has a control socket. Nothing to do without a config. */
int api_mmds_start(struct api *api, struct error *err);

/* ---- api_machine.c: the start, and after it ---- */

API_HANDLER(put_action);
API_HANDLER(patch_vm);
API_HANDLER(patch_drive);
API_HANDLER(patch_pmem);
API_HANDLER(patch_net);

/* Where the executable of `wisp run` is. */
int api_find_wisp(char *path, size_t size, struct error *err);
/* Start the microVM; 0, or -errno with what `wisp run` said. */
int api_start(struct api *api, struct error *err);
/* The same of any command line that starts one by api_name(); says nothing of the state. */
int api_launch(struct api *api, char **argv, struct error *err);
/*
 * @text, what a child said before it failed, becomes why it failed: one line, without our name in
 * front, and not one that it warned with before.
 */
void api_say_why(char *text);
/* Of all devices that have any, from now on: not all are options of `wisp run`, or saved. */
int api_set_limits(struct api *api, struct error *err);
int api_limit_drive(struct api *api, const char *id, const json_t *drive, struct error *err);
int api_limit_net(struct api *api, const char *id, const json_t *net, struct error *err);
int api_limit_pmem(struct api *api, const char *id, const json_t *pmem, struct error *err);
/*
 * The disks that the guest has, as {"do":"disks"} answers, and their files: @ret_num of them in
 * @fds, which has room for CONFIG_MAX_DISKS. All are the caller's, also after an error.
 */
int api_disks(struct api *api, json_t **ret_reply, int *fds, unsigned *ret_num,
	      struct error *err);
/* `wisp run` has ended: its exit status. */
int api_reap(struct api *api);
void api_stop(struct api *api);
/* Pass on what it said on its standard error. */
void api_pass_words(struct api *api);

/* ---- api_snapshot_create.c ---- */

#define API_SNAPSHOT_VERSION "1.0.0" /* of the files that it writes */

API_HANDLER(create_snapshot);

/* ---- api_snapshot.c ---- */

API_HANDLER(load_snapshot);
/* Is there one memory, and not two? */
bool api_check_load(const json_t *body, struct api_answer *answer);

/* The version of the file at @path into @text, of @size; -errno when it is none of ours. */
int api_describe_snapshot(const char *path, char *text, size_t size, struct error *err);

/* ---- api_tap.c ---- */

/*
 * Can the tap @name be opened? It is closed again, and none is made. If not, what Firecracker says
 * then is in @why, of @size.
 */
bool api_tap_works(const char *name, char *why, size_t size);
/* What it says of the errno @error from the kernel. */
void api_tap_fault(char *why, size_t size, const char *name, int error);

/* ---- api_plug.c ---- */

API_HANDLER(delete_drive);
API_HANDLER(delete_net);
API_HANDLER(delete_pmem);

/* Before the start, or where devices can come later and none is called so; else it is answered. */
bool api_may_plug(const struct api *api, const json_t *devices, const char *id,
		  struct api_answer *answer);
/* After the start: plug it in, false with the answer given. Before it there is nothing to do. */
bool api_plug_drive(struct api *api, const char *id, json_t *drive, struct api_answer *answer);
bool api_plug_net(struct api *api, const char *id, json_t *net, struct api_answer *answer);
bool api_plug_pmem(struct api *api, const char *id, json_t *pmem, struct api_answer *answer);

/* ---- api_wisp.c ---- */

API_HANDLER(wisp_stat);
API_HANDLER(wisp_clone);

/* Run `wisp` and read what it says into @text. Its exit status, or -errno. */
int api_run_wisp(char *const *argv, char *text, size_t size);

/* ---- api_memory.c ---- */

API_HANDLER(get_memory);
API_HANDLER(put_memory);
API_HANDLER(patch_memory);

/* ---- api_balloon.c ---- */

API_HANDLER(get_balloon);
API_HANDLER(put_balloon);
API_HANDLER(patch_balloon);
API_HANDLER(get_balloon_stats);
API_HANDLER(patch_balloon_stats);
API_HANDLER(start_hinting);
API_HANDLER(stop_hinting);
API_HANDLER(get_hinting);

/* ---- api_arguments.c ---- */

/* What `wisp run` takes at most of a rate or a burst: more limits nothing. */
#define API_MAX_RATE ((json_int_t)1 << 40)

/* Devices as options of `wisp run`: "--disk=..." and so on, the caller's; NULL: no memory. */
char *api_disk_option(const char *id, const json_t *drive);
char *api_pmem_option(const char *id, const json_t *pmem);
char *api_net_option(const struct api *api, const char *id, const json_t *net);

/* A token bucket as a rate a second and a burst; false when it limits nothing. */
bool api_bucket(const json_t *bucket, json_int_t *ret_rate, json_int_t *ret_burst);

/* What a microVM is called among all that run. */
void api_name(const struct api *api, char *name, size_t size);

#define API_NAME_OPTION "--name="

/*
 * The command line of `wisp run` for what is configured: NULL-terminated, to be freed. Each option
 * is one word, "--option=value", so that a value may begin as it likes.
 */
char **api_arguments(const struct api *api, struct error *err);
void api_arguments_free(char **argv);

/* ---- api_log.c ---- */

uint64_t api_now_us(void); /* on a clock that only goes on */

/* Do lines of @level come into the log? It is one of PUT /logger's, "Warn" too. */
bool api_logs(const struct api *api, const char *level);
/* A line of @level. */
#define api_log(api, level, ...) api_log_at(api, __FILE__, __LINE__, level, __VA_ARGS__)
void api_log_at(struct api *api, const char *file, int line, const char *level, const char *fmt,
		...) __printf(5, 6);
/* @text in quotes, as Rust's {:?} has it, cut where @buf ends. */
const char *api_quote(char *buf, size_t size, const char *text, size_t len);

/* ---- api_metrics.c ---- */

/* @n more of what Firecracker's metrics call @group.@key. */
void api_count(struct api *api, const char *group, const char *key, json_int_t n);
/* The last of latencies_us.@key. */
void api_measure(struct api *api, const char *key, json_int_t us);
/* One line of metrics, if somebody wants them. */
int api_flush_metrics(struct api *api);

/* ---- api_signals.c ---- */

/*
 * Signals come by the descriptor returned from now on; -errno. No other thread may be there yet:
 * it would have them not blocked.
 */
int api_signals_open(void);
/* Log and count the one that has come. 0 to go on, else the exit status to end with. */
int api_signal(struct api *api, int fd);

/* ---- api_http.c ---- */

struct api_http;

int api_http_create(struct api_http **ret_http, struct api *api, int listen_fd, struct error *err);
int api_http_fd(const struct api_http *http); /* readable: there is something to do */
int api_http_timeout_ms(const struct api_http *http);
void api_http_run(struct api_http *http);
void api_http_free(struct api_http *http);

#endif
