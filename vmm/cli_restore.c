/* wisp restore: a snapshot's machine, with what this host calls its files. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/cli_snapshot.h"
#include "vmm/config_state.h"
#include "vmm/default_guest.h"
#include "vmm/launch.h"
#include "vmm/machine_state.h"
#include "vmm/snapshot.h"

struct replacement {
	char *id, *path;
};

struct restore_options {
	/* Of this run, not of the machine: taken over into the configuration. */
	char *name, *run_dir, *metrics, *log_file, *console, *serial, *vsock;
	unsigned log_level, loop, sandbox, timeout_seconds;
	bool detach, json;

	unsigned clock; /* enum machine_clock */
	bool changed_disks;
	struct replacement disk[CONFIG_MAX_DISKS];
	unsigned num_disks;
};

#define MEMBER(m) offsetof(struct restore_options, m)

static int parse_disk(struct config_parse *p, const char *value, void *target)
{
	struct restore_options *o = target;
	struct replacement *d = &o->disk[o->num_disks];
	const char *equals = strchr(value, '=');

	if (!equals || equals == value || !equals[1])
		return config_fail(p, "'%s' is not ID=PATH", value);
	if (o->num_disks == CONFIG_MAX_DISKS)
		return config_fail(p, "more than %d disks", CONFIG_MAX_DISKS);
	o->num_disks++;
	d->id = strndup(value, equals - value);
	return config_set_string(p, equals + 1, &d->path);
}

const struct config_item restore_options[] = {
	{ "--disk", "ID=PATH",
	  "The file of this disk is now called PATH, and holds what it held. May be repeated",
	  CONFIG_CUSTOM, .repeat = true, .parse = parse_disk },
	{ "--changed-disks", NULL,
	  "Go on although a disk was written since: the guest's memory may contradict it",
	  CONFIG_FLAG, MEMBER(changed_disks) },
	{ "--clock", "continue|realtime",
	  "The guest's clocks go on from where they stood, or catch up with the host's (continue)",
	  CONFIG_CHOICE, MEMBER(clock) },
	{ "--console", "stdio|none|file=PATH|socket=PATH",
	  "Where the virtio console ends now (as before)", CONFIG_STRING, MEMBER(console) },
	{ "--serial", "stdio|none|file=PATH|socket=PATH",
	  "Where the serial port ends now (as before)", CONFIG_STRING, MEMBER(serial) },
	{ "--vsock", "PATH", "Where the guest's sockets end now (as before)", CONFIG_STRING,
	  MEMBER(vsock) },
	{ "--name", "ID", "Name of the microVM (vm and the process id)", CONFIG_STRING,
	  MEMBER(name) },
	{ "--detach", NULL, "Run in the background: print the name and return", CONFIG_FLAG,
	  MEMBER(detach) },
	{ "--run-dir", "DIR", "Where running microVMs have their directories", CONFIG_STRING,
	  MEMBER(run_dir) },
	{ "--loop", "auto|io_uring|epoll", "What drives I/O (auto)", CONFIG_CHOICE, MEMBER(loop) },
	{ "--sandbox", "off|on|strict", "Lock the monitor in (on)", CONFIG_CHOICE,
	  MEMBER(sandbox) },
	{ "--timeout", "SECONDS", "End the microVM with status 124 after so long", CONFIG_NUMBER,
	  MEMBER(timeout_seconds), 1, 31536000 },
	{ "--json", NULL, "At the end, print how it ended as one JSON object", CONFIG_FLAG,
	  MEMBER(json) },
	{ "--metrics", "FILE", "Write counters as JSON to FILE at the end", CONFIG_STRING,
	  MEMBER(metrics) },
	{ "--log-level", "error|warn|info|debug|trace", "How much to log (warn)", CONFIG_CHOICE,
	  MEMBER(log_level) },
	{ "--log-file", "FILE", "Append the log to FILE (standard error)", CONFIG_STRING,
	  MEMBER(log_file) },
	{ 0 },
};

static void options_done(struct restore_options *o)
{
	free(o->name);
	free(o->run_dir);
	free(o->metrics);
	free(o->log_file);
	free(o->console);
	free(o->serial);
	free(o->vsock);
	for (unsigned i = 0; i < o->num_disks; i++) {
		free(o->disk[i].id);
		free(o->disk[i].path);
	}
}

/* ---- what is different now ---- */

static void move(char **to, char **from)
{
	if (!*from)
		return;
	free(*to);
	*to = *from;
	*from = NULL;
}

/* The guest has the port or it has not: only where it ends is ours to say. */
static int replace_port(struct machine_config *c, const char *option, const char *value,
			const bool *present,
			int (*parse)(struct config_parse *p, const char *value, void *target),
			struct error *err)
{
	struct config_parse p = { .config = c, .target = c, .option = option, .err = err };
	bool had = *present;
	int r = value ? parse(&p, value, c) : 0;

	if (!r && *present != had)
		return error_usage(err, -EINVAL, "%s: the saved guest has %s such port", option,
				   had ? "one" : "no");
	return r;
}

/* Also notes in @given which disks were named. */
static int replace_disks(struct machine_config *c, struct restore_options *o, uint32_t *given,
			 struct error *err)
{
	for (unsigned i = 0; i < o->num_disks; i++) {
		unsigned k;

		for (k = 0; k < c->num_disks; k++)
			if (!strcmp(c->disk[k].id, o->disk[i].id))
				break;
		if (k == c->num_disks)
			return error_usage(err, -ENOENT, "--disk: the saved guest has no disk '%s'",
					   o->disk[i].id);
		move(&c->disk[k].path, &o->disk[i].path);
		*given |= 1u << k;
	}
	return 0;
}

static int apply(struct machine_config *c, struct restore_options *o, uint32_t *given_disks,
		 struct error *err)
{
	int r;

	move(&c->name, &o->name);
	move(&c->run_dir, &o->run_dir);
	move(&c->metrics_file, &o->metrics);
	move(&c->log_file, &o->log_file);
	c->log_level = o->log_level;
	c->loop = o->loop;
	c->sandbox = o->sandbox;
	c->timeout_seconds = o->timeout_seconds;
	c->detach = o->detach;
	c->json = o->json;
	r = replace_port(c, "--console", o->console, &c->console_present, config_parse_console,
			 err);
	if (!r)
		r = replace_port(c, "--serial", o->serial, &c->serial_present, config_parse_serial,
				 err);
	if (!r && o->vsock && !c->vsock_present)
		r = error_usage(err, -EINVAL, "--vsock: the saved guest has none");
	move(&c->vsock.path, &o->vsock);
	return r < 0 ? r : replace_disks(c, o, given_disks, err);
}

/* ---- the verb ---- */

/* Everything up to the first process. */
static int prepare(struct restore_options *o, const char *path, struct snapshot *s,
		   struct machine_config *c, int *disk_fds, struct error *err)
{
	uint32_t given = 0;
	int r = snapshot_open(s, path, err);

	if (!r)
		r = machine_check_state(&s->state, err);
	if (!r)
		r = config_load(c, &s->state, err);
	if (!r)
		r = apply(c, o, &given, err);
	if (!r)
		r = config_validate(c, err);
	if (!r)
		r = snapshot_check_memory(s, c->memory_bytes, err);
	/* A kernel is needed only when the guest is started again. */
	if (!r && c->reboot_resets)
		r = default_guest_find(c, err);
	if (!r)
		r = snapshot_disks(s, c, o->changed_disks, given, disk_fds, err);
	/* A snapshot is a file that was named, whatever is wrong with it. */
	if (r < 0 && err->kind == ERROR_OTHER)
		err->kind = ERROR_USAGE;
	return r;
}

int restore_main(int argc, char **argv)
{
	struct restore_options o = { .log_level = LOG_WARN, .sandbox = SANDBOX_ON };
	int disk_fds[CONFIG_MAX_DISKS];
	struct machine_image image;
	struct launch_ends ends = {
		.initrd = -1,
		.serial_out = -1,
		.image = &image,
		.disk_fds = disk_fds,
	};
	struct machine_config config;
	struct snapshot s = { .dir_fd = -1, .memory_fd = -1 };
	struct error err = { 0 };
	const char *path;
	int r, status;

	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		disk_fds[i] = -1;
	config_init(&config);
	r = config_parse_verb("restore", restore_options, &o, argc, argv, &path, 1, &err);
	if (r == 0)
		r = error_usage(&err, -EINVAL, "restore: needs DIR");
	if (r > 0)
		r = prepare(&o, path, &s, &config, disk_fds, &err);
	if (!r)
		r = launch_open_log(&config, &err);
	if (r < 0) {
		error_print(&err);
		status = error_status(&err);
	} else {
		image = (struct machine_image){
			.state = &s.state,
			.memory_fd = s.memory_fd,
			.clock = o.clock,
		};
		status = launch_run_with(&config, &ends);
	}
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		if (disk_fds[i] >= 0)
			close(disk_fds[i]);
	snapshot_close(&s);
	config_done(&config);
	options_done(&o);
	return status;
}
