#include "vmm/cli/cli_saved.h"

#include <errno.h>
#include <stdlib.h>

#define MEMBER(m) offsetof(struct saved_options, m)

/* "ID=..." as one more of @num, of which there may be @max. */
static int parse_replacement(struct config_parse *p, const char *value,
			     struct saved_replacement *list, unsigned *num, unsigned max)
{
	const char *equals = strchr(value, '=');
	char *id;

	if (!equals || equals == value || !equals[1])
		return config_fail(p, "'%s' is not an ID, '=' and what it is now", value);
	if (*num == max)
		return config_fail(p, "more than %u", max);
	id = strndup(value, equals - value);
	if (!id)
		return error_set(p->err, -ENOMEM, "%s: %m", p->option);
	list[*num].id = id;
	return config_set_string(p, equals + 1, &list[(*num)++].path);
}

static int parse_disk(struct config_parse *p, const char *value, void *target)
{
	struct saved_options *o = target;

	return parse_replacement(p, value, o->disk, &o->num_disks, CONFIG_MAX_DISKS);
}

static int parse_net(struct config_parse *p, const char *value, void *target)
{
	struct saved_options *o = target;

	return parse_replacement(p, value, o->net, &o->num_nets, CONFIG_MAX_NETS);
}

/* clang-format off */
#define COMMON_OPTIONS \
	{ "--disk", "ID=PATH", \
	  "The file of this disk is now called PATH, and holds what it held. May be repeated", \
	  CONFIG_CUSTOM, .repeat = true, .parse = parse_disk }, \
	{ "--console", "stdio|none|file=PATH|socket=PATH", \
	  "Where the virtio console ends now (as before)", CONFIG_STRING, MEMBER(console) }, \
	{ "--serial", "stdio|none|file=PATH|socket=PATH", \
	  "Where the serial port ends now (as before)", CONFIG_STRING, MEMBER(serial) }, \
	{ "--vsock", "PATH", "Where the guest's sockets end now (as before)", CONFIG_STRING, \
	  MEMBER(vsock) }, \
	{ "--name", "ID", "Name of the microVM (vm and the process id)", CONFIG_STRING, \
	  MEMBER(name) }, \
	{ "--detach", NULL, "Run in the background: print the name and return", CONFIG_FLAG, \
	  MEMBER(detach) }, \
	{ "--run-dir", "DIR", "Where running microVMs have their directories", CONFIG_STRING, \
	  MEMBER(run_dir) }, \
	{ "--loop", "auto|io_uring|epoll", "What drives I/O (auto)", CONFIG_CHOICE, \
	  MEMBER(loop) }, \
	{ "--sandbox", "off|on|strict", "Lock the monitor in (on)", CONFIG_CHOICE, \
	  MEMBER(sandbox) }, \
	{ "--core-sched", NULL, "Share no core with anybody else", CONFIG_FLAG, \
	  MEMBER(core_sched) }, \
	{ "--timeout", "SECONDS", "End the microVM with status 124 after so long", CONFIG_NUMBER, \
	  MEMBER(timeout_seconds), 1, 31536000 }, \
	{ "--json", NULL, "At the end, print how it ended as one JSON object", CONFIG_FLAG, \
	  MEMBER(json) }, \
	{ "--metrics", "FILE", "Write counters as JSON to FILE at the end", CONFIG_STRING, \
	  MEMBER(metrics) }, \
	{ "--log-level", "error|warn|info|debug|trace", "How much to log (warn)", CONFIG_CHOICE, \
	  MEMBER(log_level) }, \
	{ "--log-file", "FILE", "Append the log to FILE (standard error)", CONFIG_STRING, \
	  MEMBER(log_file) },
/* clang-format on */

const struct config_item restore_options[] = {
	COMMON_OPTIONS
	{ "--changed-disks", NULL,
	  "Go on although a disk was written since: the guest's memory may contradict it",
	  CONFIG_FLAG, MEMBER(changed_disks) },
	{ "--changed-tsc", NULL,
	  "Go on although this host's TSC has another rate and cannot be scaled: kvm-clock stays "
	  "right, what the guest times by the TSC itself does not",
	  CONFIG_FLAG, MEMBER(changed_tsc) },
	{ "--clone", "N",
	  "Run N copies in the background, called ID-1, ID-2, ... (the saved name), as far as no "
	  "microVM is called so yet, with private copies of the disks; paths of consoles and "
	  "sockets get the same numbers, interfaces on a tap or switch have no cable",
	  CONFIG_NUMBER, MEMBER(clones), 1, 1000 },
	{ "--prefetch", "on|off|record",
	  "Read at once what earlier runs needed of memory (on, where that was recorded); record: "
	  "write down what this run needs until its end, into DIR",
	  CONFIG_CHOICE, MEMBER(prefetch) },
	{ "--memory-backend", "auto|map|uffd",
	  "How RAM gets what was saved: as a mapping of its file (one that is compressed is "
	  "unpacked first), or page by page when it is touched and in the background, by "
	  "userfaultfd, where the host allows that; auto: uffd when it is compressed (auto)",
	  CONFIG_CHOICE, MEMBER(memory) },
	{ "--clock", "continue|realtime",
	  "The guest's clocks go on from where they stood, or catch up with the host's (continue)",
	  CONFIG_CHOICE, MEMBER(clock) },
	{ "--net", "ID=NAME",
	  "This network is on the tap interface, or the switch, NAME now. May be repeated",
	  CONFIG_CUSTOM, .repeat = true, .parse = parse_net },
	{ "--tap", "ID=INTERFACE", "The same, as it was called first", CONFIG_CUSTOM,
	  .repeat = true, .parse = parse_net },
	{ "--memory-file", "PATH", "RAM is in this file in place of the snapshot's own",
	  CONFIG_STRING, MEMBER(memory_file) },
	{ "--memory-handler", "PATH|fd:N",
	  "RAM's pages come from the process that listens on this UNIX socket, by userfaultfd and "
	  "as Firecracker asks for them (docs/snapshot.md)",
	  CONFIG_STRING, MEMBER(memory_handler) },
	{ "--hugepages", NULL, "Take RAM from the host's reserved huge pages now", CONFIG_FLAG,
	  MEMBER(hugepages) },
	{ "--paused", NULL, "Let the guest stand still until 'wisp resume'", CONFIG_FLAG,
	  MEMBER(paused) },
	{ "--ready-fd", "N", "Write one byte to this descriptor when the guest runs, and close it",
	  CONFIG_NUMBER, MEMBER(ready_fd), 3, 1023 },
	{ 0 },
};

const struct config_item receive_options[] = {
	COMMON_OPTIONS
	{ "--tls", "DIR",
	  "Encrypt tcp:, and let only those connect who have a certificate by the authority of "
	  "DIR: ca.pem, cert.pem, key.pem (docs/migration.md)",
	  CONFIG_STRING, MEMBER(tls) },
	{ "--trust-source", NULL,
	  "Also whoever connects by tcp: may say which of this user's files and networks to open",
	  CONFIG_FLAG, MEMBER(trust_source) },
	{ "--memory-backend", "same|anon|shared",
	  "What kind of memory it has here: as where it comes from, or private or shared all the "
	  "same (same)",
	  CONFIG_CHOICE, MEMBER(backing) },
	{ "--resume", "ID",
	  "No new one: let ID, which came by --postcopy and lost its connection, go on with the "
	  "memory that its source still has ('wisp migrate --resume')",
	  CONFIG_STRING, MEMBER(resume) },
	{ 0 },
};

void saved_options_done(struct saved_options *o)
{
	free(o->name);
	free(o->run_dir);
	free(o->metrics);
	free(o->log_file);
	free(o->console);
	free(o->serial);
	free(o->vsock);
	free(o->memory_file);
	free(o->memory_handler);
	free(o->tls);
	free(o->resume);
	for (unsigned i = 0; i < o->num_nets; i++) {
		free(o->net[i].id);
		free(o->net[i].path);
	}
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
static int replace_disks(struct machine_config *c, struct saved_options *o, uint32_t *given,
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

/* What the host calls that which @n is on; NULL: a user network, which has no such name. */
static char **uplink_of(struct config_net *n)
{
	switch (n->kind) {
	case CONFIG_NET_TAP:
		return &n->tap_name;
	case CONFIG_NET_SWITCH:
		return &n->switch_name;
	case CONFIG_NET_USER:
		break;
	}
	return NULL;
}

static int replace_nets(struct machine_config *c, struct saved_options *o, struct error *err)
{
	for (unsigned i = 0; i < o->num_nets; i++) {
		char **uplink;
		unsigned k;

		for (k = 0; k < c->num_nets; k++)
			if (!strcmp(c->net[k].id, o->net[i].id))
				break;
		if (k == c->num_nets)
			return error_usage(err, -ENOENT,
					   "--net: the saved guest has no network '%s'",
					   o->net[i].id);
		uplink = uplink_of(&c->net[k]);
		if (!uplink)
			return error_usage(err, -EINVAL,
					   "--net: '%s' is a user network, on no interface or "
					   "switch",
					   o->net[i].id);
		move(uplink, &o->net[i].path);
		c->net[k].tap_fd_given = false;
	}
	return 0;
}

int saved_options_apply(struct machine_config *c, struct saved_options *o, uint32_t *given,
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
	c->core_sched = o->core_sched;
	c->timeout_seconds = o->timeout_seconds;
	c->detach = o->detach;
	c->json = o->json;
	c->ready_fd = o->ready_fd;
	c->start_paused = o->paused;
	if (o->hugepages)
		c->memory_backing = GUEST_MEM_HUGETLB;
	r = replace_nets(c, o, err);
	if (r < 0)
		return r;
	r = replace_port(c, "--console", o->console, &c->console_present, config_parse_console,
			 err);
	if (!r)
		r = replace_port(c, "--serial", o->serial, &c->serial_present, config_parse_serial,
				 err);
	if (!r && o->vsock && !c->vsock_present)
		r = error_usage(err, -EINVAL, "--vsock: the saved guest has none");
	move(&c->vsock.path, &o->vsock);
	return r < 0 ? r : replace_disks(c, o, given, err);
}
