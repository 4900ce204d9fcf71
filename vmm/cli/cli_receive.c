/* wisp receive: the machine that another monitor hands over, by what this host calls its files. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/cli/cli_migrate.h"
#include "vmm/cli/cli_saved.h"
#include "vmm/config/config_state.h"
#include "vmm/control/control_client.h"
#include "vmm/core/guest_mem.h"
#include "vmm/default_guest.h"
#include "vmm/helper.h"
#include "vmm/launch.h"
#include "vmm/machine/machine_state.h"
#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_address.h"
#include "vmm/migrate/migrate_copies.h"
#include "vmm/migrate/migrate_fill.h"
#include "vmm/migrate/migrate_gather.h"
#include "vmm/migrate/migrate_journal.h"
#include "vmm/migrate/migrate_wire.h"
#include "vmm/run_dir.h"

/* How long a source that has connected may take to say who it is. */
#define HELLO_MS 10000

/* Of one network. All of them fit into a pipe, which nobody reads before the guest is here. */
#define LATER_FORWARDS_BYTES 4096

struct receiving {
	struct saved_options options;
	struct migrate_wire wire;
	struct migrate_wire streams[MIGRATE_MAX_STREAMS - 1];
	struct migrate_gather gather; /* of those streams */
	struct migrate_arrival arrival;
	struct migrate_fill fill; /* for @arrival, if its memory may come late */
	struct migrate_journal journal;
	struct machine_config config;
	struct migrate_copies copies;
	int disk_fds[CONFIG_MAX_DISKS]; /* of those copies; -1: a disk of this host's */
	struct state_set state;
	uint8_t *hello; /* what @state borrows from */
	const char *run_id; /* where it is found for now; NULL: by its name */
	struct {
		char name[MIGRATE_MAX_TAP + 1];
		unsigned offloads; /* that its kernel does for it; 0: not known */
		int fd;		/* -1: taken */
	} tap[CONFIG_MAX_NETS]; /* the source's, on this host */
	unsigned num_taps;
	int tap_fds[CONFIG_MAX_NETS]; /* of each network: one of those, or -1 */
	unsigned tap_offloads[CONFIG_MAX_NETS];
	int later_fd; /* who is told what it is to listen at later; -1: it listens at once */
};

/*
 * The source says which files and networks its guest has, and they are opened here with our user's
 * rights. So it has to be somebody who could open them anyway: this user, or whoever is at
 * the other end of a command or descriptor that this user provided.
 */
static int check_source(const struct receiving *x, const char *source, struct error *err)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	/* With certificates it is somebody to whom our authority gave one, for this. */
	if (x->options.trust_source || x->options.tls)
		return 0;
	if (!strncmp(source, "tcp:", strlen("tcp:"))) {
		error_usage(err, -EPERM,
			    "'%s': whoever connects there could name any file of yours", source);
		error_hint(err, "--tls; or exec: with ssh; or --trust-source, where only those can "
				"that you trust");
		return -EPERM;
	}
	if (!strncmp(source, "unix:", strlen("unix:")) &&
	    (getsockopt(x->wire.in, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
	     (peer.uid != geteuid() && peer.uid != 0)))
		return error_usage(err, -EPERM, "'%s': another user has connected", source);
	return 0;
}

/* The other connections, and then nobody else can connect. */
static int receive_streams(struct receiving *x, struct error *err)
{
	int r = migrate_gather_streams(&x->gather, x->arrival.hello.uuid,
				       x->arrival.hello.streams - 1, x->streams, err);

	x->arrival.more = x->streams;
	migrate_gather_done(&x->gather);
	return r;
}

/* Taps that come before HELLO, and that. Where only bytes are forwarded there is none of them. */
static int receive_taps(struct receiving *x, struct migrate_record *ret_hello, struct error *err)
{
	int r;

	while ((r = migrate_wire_receive(&x->wire, ret_hello, HELLO_MS, err)) == 0 &&
	       ret_hello->type == MIGRATE_TAP && x->num_taps < ARRAY_SIZE(x->tap)) {
		snprintf(x->tap[x->num_taps].name, sizeof(x->tap[0].name), "%.*s",
			 (int)ret_hello->len, (const char *)ret_hello->payload);
		x->tap[x->num_taps].offloads = ret_hello->page;
		x->tap[x->num_taps++].fd = x->wire.fd;
		x->wire.fd = -1;
	}
	return r < 0 ? r : migrate_wire_check(ret_hello, MIGRATE_HELLO, err);
}

static int receive_hello(struct receiving *x, struct error *err)
{
	struct migrate_record rec;
	int r = migrate_gather_until(&x->gather, x->wire.in, err);

	if (!r)
		r = migrate_wire_expect_greeting(&x->wire, HELLO_MS, err);
	x->wire.wants_fd = true;
	if (!r)
		r = receive_taps(x, &rec, err);
	x->wire.wants_fd = false;
	if (r < 0)
		return r;
	x->hello = malloc(MAX(rec.len, 1u));
	if (!x->hello)
		return error_set(err, -ENOMEM, "migration: %m");
	memcpy(x->hello, rec.payload, rec.len);
	r = state_set_open(&x->state, x->hello, rec.len, err);
	if (!r)
		r = machine_check_state(&x->state, err);
	if (!r)
		r = migrate_read_hello(&x->state, &x->arrival.hello, err);
	if (!r && x->arrival.hello.postcopy)
		x->arrival.fill = &x->fill;
	if (!r)
		r = receive_streams(x, err);
	if (!r)
		r = config_load(&x->config, &x->state, err);
	/* No source asks for that; one that does is not to choose which of our files are memory. */
	if (!r && x->config.num_pmems)
		r = error_set(err, -EBADMSG, "migration: a guest with persistent memory stays "
					     "where it is");
	return r;
}

/*
 * Memory takes the way that the source asks for, if descriptors pass between us. What it is to
 * write to must be a file that both can map: private memory is sent.
 */
static int choose_way(struct receiving *x, struct error *err)
{
	const struct migrate_hello *hello = &x->arrival.hello;
	bool file = x->options.backing != SAVED_BACKING_ANON;

	if (x->options.backing != SAVED_BACKING_SAME)
		x->config.memory_backing = file ? GUEST_MEM_SHARED : GUEST_MEM_ANON;
	if (hello->way == MIGRATE_SHARED && x->wire.fd >= 0 && file)
		x->arrival.way = MIGRATE_SHARED;
	else if (hello->way == MIGRATE_WRITTEN && migrate_wire_is_local(&x->wire) && file)
		x->arrival.way = MIGRATE_WRITTEN;
	if (x->arrival.way != MIGRATE_COPIED)
		x->config.memory_backing = GUEST_MEM_SHARED;
	return x->arrival.way == MIGRATE_SHARED ?
		       guest_mem_check_fd(x->wire.fd, hello->memory_bytes, err) :
		       0;
}

/* As the kernel guesses it; 0: it does not say. */
static uint64_t available_bytes(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	uint64_t kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib * KiB;
}

static int check_memory(const struct receiving *x, struct error *err)
{
	const struct migrate_hello *hello = &x->arrival.hello;
	uint64_t available = available_bytes();

	if (hello->memory_bytes != config_memory_total(&x->config))
		return error_set(err, -EBADMSG, "migration: two sizes of memory");
	/* What is there already takes no more. */
	if (x->arrival.way == MIGRATE_SHARED)
		return 0;
	if (available && available < hello->populated_bytes)
		return error_set(err, -ENOMEM,
				 "the guest uses %llu MiB of memory, and this host has only %llu "
				 "MiB left",
				 hello->populated_bytes / MiB, available / MiB);
	return 0;
}

/* It keeps its name, unless it is told another one. */
static int take_name(struct receiving *x)
{
	if (x->options.name)
		return 0;
	x->options.name = strdup(x->arrival.hello.name);
	return x->options.name ? 0 : -ENOMEM;
}

/* Is @port where `wisp console` attaches to a microVM in the background? */
static bool is_own_console(const struct config_char *port, const char *name)
{
	const char *file = port->path ? strrchr(port->path, '/') : NULL;
	size_t len = strlen(name);

	if (port->kind != CHARDEV_SOCKET || !file || strcmp(file + 1, RUN_DIR_CONSOLE) != 0)
		return false;
	/* Of one that came by an upgrade itself. */
	if (!strncmp(port->path, "/proc/self/fd/", strlen("/proc/self/fd/")))
		return true;
	return (size_t)(file - port->path) > len && file[-1 - (ssize_t)len] == '/' &&
	       !memcmp(file - len, name, len);
}

/* That one stays behind with its directory; here it is the terminal, or a new one by --detach. */
static void take_console(struct receiving *x)
{
	struct config_char *const ports[] = { &x->config.serial, &x->config.console };

	for (unsigned i = 0; i < ARRAY_SIZE(ports); i++) {
		if (!is_own_console(ports[i], x->arrival.hello.name))
			continue;
		free(ports[i]->path);
		*ports[i] = (struct config_char){ .kind = CHARDEV_STDIO };
	}
}

/* Files for the disks that come along, if any does. */
static int take_disks(struct receiving *x, struct error *err)
{
	const struct migrate_hello *hello = &x->arrival.hello;
	int r = 0;

	for (unsigned i = 0; i < hello->num_disks && !x->arrival.copies; i++)
		if (hello->disk_comes[i])
			x->arrival.copies = &x->copies;
	if (x->arrival.copies)
		r = migrate_copies_create(&x->copies, &x->config, hello, err);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		x->disk_fds[i] = x->copies.copy[i].disk_fd;
	return r;
}

/* The guest's networks on taps that came along; whatever its options here say goes first. */
static void take_taps(struct receiving *x)
{
	const struct machine_config *c = &x->config;

	for (unsigned i = 0; i < CONFIG_MAX_NETS; i++) {
		x->tap_fds[i] = -1;
		for (unsigned k = 0; i < c->num_nets && k < x->num_taps; k++) {
			if (!c->net[i].tap_name || strcmp(c->net[i].tap_name, x->tap[k].name) != 0)
				continue;
			x->tap_fds[i] = x->tap[k].fd;
			x->tap_offloads[i] = x->tap[k].offloads;
			x->tap[k].fd = -1;
			break;
		}
	}
}

/* As the old one's helper has them now, or, where it cannot say, as they were at its start. */
static void tell_forwards(const struct receiving *x, const struct config_net *net)
{
	char rule[HELPER_FORWARD_TEXT], rules[LATER_FORWARDS_BYTES], old[128], *next, *rest;
	struct error ignored = { 0 };

	snprintf(old, sizeof(old), "%.*s", (int)(strlen(x->run_id) - strlen(UPGRADE_SUFFIX)),
		 x->run_id);
	if (!helper_list_forwards(x->config.run_dir, old, net->id, rules, sizeof(rules),
				  &ignored)) {
		for (next = rules; (next = strtok_r(next, "\n", &rest)); next = NULL)
			dprintf(x->later_fd, "forward %s %s%c", net->id, next, '\0');
		return;
	}
	for (unsigned i = 0; i < net->num_forwards; i++) {
		helper_print_forward(rule, sizeof(rule), &net->forward[i]);
		dprintf(x->later_fd, "forward %s %s%c", net->id, rule, '\0');
	}
}

/* What is left to whoever knows that the old one listens there no more: see receive_in_place(). */
static void tell_later(struct receiving *x)
{
	const struct machine_config *c = &x->config;

	for (unsigned i = 0; i < c->num_nets; i++)
		if (c->net[i].kind == CONFIG_NET_USER)
			tell_forwards(x, &c->net[i]);
	if (c->vsock.path)
		dprintf(x->later_fd, "socket %s%c", c->vsock.path, '\0');
	close(x->later_fd);
}

/* Everything up to the first process. */
static int prepare(struct receiving *x, const char *source, struct error *err)
{
	uint32_t given = 0;
	int r = take_name(x) < 0 ? error_set(err, -ENOMEM, "migration: %m") : 0;

	/* By its name, which is the old one's for now. */
	if (!r && x->later_fd >= 0 && x->config.rewind.every_ms)
		r = error_set(err, -ENOTSUP,
			      "its moments (--rewind) are kept by a process of the old monitor's, "
			      "and would end with it");
	take_console(x);
	if (!r)
		r = saved_options_apply(&x->config, &x->options, &given, err);
	if (!r)
		r = choose_way(x, err);
	if (!r)
		r = config_validate(&x->config, err);
	take_taps(x);
	if (!r)
		r = check_memory(x, err);
	if (!r)
		r = take_disks(x, err);
	/* A kernel is needed only when the guest is started again. */
	if (!r && x->config.reboot_resets)
		r = default_guest_find(&x->config, err);
	if (!r)
		r = launch_open_log(&x->config, err);
	if (r < 0)
		return r;
	x->journal.role = MIGRATE_DESTINATION;
	migrate_uuid_print(x->arrival.hello.uuid, x->journal.uuid);
	snprintf(x->journal.id, sizeof(x->journal.id), "%s",
		 x->run_id ? x->run_id : x->config.name);
	snprintf(x->journal.peer, sizeof(x->journal.peer), "%.200s", source);
	r = migrate_journal_create(&x->journal, x->config.run_dir, err);
	x->arrival.journal = x->journal.fd;
	return r;
}

/*
 * The microVM is over. What somebody may still have to be told stays: that it was killed when the
 * guest was all but here, or, while the source has not heard of it, that it ran or never will.
 */
static void end_journal(struct receiving *x)
{
	struct migrate_journal here = { 0 }, source = { 0 };
	const char *run_dir = x->config.run_dir, *uuid = x->journal.uuid;
	bool known = migrate_journal_read(run_dir, uuid, MIGRATE_DESTINATION, &here) == 0;

	/* Before we look for the source's: see migrate_journal_forget(). */
	migrate_journal_leave(&x->journal);
	if (known && (!strcmp(here.phase, MIGRATE_PHASE_PREPARED) ||
		      !strcmp(here.phase, MIGRATE_PHASE_FILLING) ||
		      (strcmp(here.phase, MIGRATE_PHASE_STARTED) != 0 &&
		       migrate_journal_read(run_dir, uuid, MIGRATE_SOURCE, &source) == 0)))
		return;
	unlink(x->journal.path);
}

/*
 * Copies of disks are the guest's from the moment it runs here, and nothing before. They are taken
 * away only where it is certain that it never did, which is what the journal says last.
 */
static void end_copies(struct receiving *x)
{
	struct migrate_journal here = { 0 };
	bool never_ran = migrate_journal_read(x->config.run_dir, x->journal.uuid,
					      MIGRATE_DESTINATION, &here) == 0 &&
			 strcmp(here.phase, MIGRATE_PHASE_RUNNING) != 0 &&
			 strcmp(here.phase, MIGRATE_PHASE_FILLING) != 0;

	migrate_copies_end(&x->copies, !never_ran);
}

static int launch(struct receiving *x)
{
	struct machine_image image = {
		.state = &x->state,
		.memory_fd = -1,
		.clock = MACHINE_CLOCK_REALTIME,
		.same_identity = true,
		.arrival = &x->arrival,
	};
	struct error why = { 0 };
	struct launch_ends ends = {
		.initrd = -1,
		.serial_out = -1,
		.image = &image,
		.run_id = x->run_id,
		.listens_later = x->later_fd >= 0,
		.tap_fds = x->tap_fds,
		.tap_offloads = x->tap_offloads,
		.disk_fds = x->disk_fds,
		.why = &why,
	};
	pid_t self = getpid();
	int status;

	if (x->later_fd >= 0)
		tell_later(x);
	x->arrival.wire = &x->wire;
	status = launch_run_with(&x->config, &ends);
	/* What the monitor refuses it says itself. The journal first: the source looks there. */
	if (why.msg[0]) {
		migrate_note(x->journal.fd, MIGRATE_PHASE_GIVEN_UP);
		migrate_refuse(&x->arrival, &why);
	}
	/* With --detach another process lives as long as the guest, if one came to be. */
	if (!x->config.detach || getpid() != self || why.msg[0]) {
		end_copies(x);
		end_journal(x);
	}
	return status;
}

/* Have it come from @source, and run it to its end; the exit status. Says what went wrong. */
static int receive(struct receiving *x, const char *source)
{
	struct error err = { 0 };
	int in = -1, out = -1, r;

	r = migrate_address_await(source, x->options.tls, &x->gather.listener, &in, &out, &err);
	if (!r) {
		r = migrate_wire_init(&x->wire, in, out, &err);
		x->arrival.wire = &x->wire;
		if (!r)
			r = check_source(x, source, &err);
		if (!r)
			r = receive_hello(x, &err);
		migrate_gather_done(&x->gather);
		if (!r)
			r = prepare(x, source, &err);
		if (r < 0) {
			migrate_refuse(&x->arrival, &err);
			migrate_copies_end(&x->copies, false);
		}
	}
	if (r == 0)
		return launch(x);
	error_print(&err);
	return error_status(&err);
}

/* Where it is asked, whatever its loop waits for; or, when nothing is late, for why not. */
static int connect_late(const struct saved_options *o, struct error *err)
{
	int sock = control_connect_late(o->run_dir, o->resume, err);

	return sock == -ENOENT ? control_connect_in(o->run_dir, o->resume, err) : sock;
}

/* Connect @source to a guest that is here, and waits for memory that its source still has. */
static int resume(struct receiving *x, const char *source, struct error *err)
{
	/* Before anybody is waited for: is there such a microVM? */
	int sock = control_connect_in(x->options.run_dir, x->options.resume, err);
	int in = -1, out = -1, hold[2] = { -1, -1 }, r;

	if (sock < 0)
		return sock;
	r = pipe2(hold, O_CLOEXEC) < 0 ? error_set(err, -errno, "pipe: %m") : 0;
	if (!r)
		r = migrate_address_await(source, x->options.tls, &x->gather.listener, &in, &out,
					  err);
	migrate_gather_done(&x->gather);
	close(sock);
	sock = r ? r : connect_late(&x->options, err);
	if (!r && sock < 0)
		r = sock;
	/* Whether it is the source is for the monitor to find out, which knows its secret. */
	if (!r)
		r = control_ask(sock, json_pack("{s:s}", "do", "migrate-resume"),
				(int[]){ in, out, hold[0] }, 3, NULL, err);
	for (unsigned i = 0; i < 2; i++)
		if (hold[i] >= 0)
			close(hold[i]);
	if (in >= 0)
		close(in);
	if (out >= 0 && out != in)
		close(out);
	if (sock >= 0)
		close(sock);
	return r;
}

static void receiving_init(struct receiving *x)
{
	*x = (struct receiving){
		.options = { .log_level = LOG_WARN, .sandbox = SANDBOX_ON },
		.wire = { .in = -1, .out = -1, .fd = -1 },
		.gather = { .listener.fd = -1, .patience_ms = HELLO_MS },
		.journal.fd = -1,
		.fill.fd = -1,
		.later_fd = -1,
	};
	migrate_copies_init(&x->copies);
	config_init(&x->config);
}

static void receiving_done(struct receiving *x)
{
	for (unsigned i = 0; x->arrival.more && i + 1 < x->arrival.hello.streams; i++)
		migrate_wire_done(&x->streams[i]);
	migrate_wire_done(&x->wire);
	for (unsigned i = 0; i < x->num_taps; i++)
		if (x->tap[i].fd >= 0)
			close(x->tap[i].fd);
	state_set_close(&x->state);
	free(x->hello);
	config_done(&x->config);
	saved_options_done(&x->options);
}

int receive_in_place(const struct receive_in_place *p)
{
	struct receiving x;
	int status = 1;

	receiving_init(&x);
	x.run_id = p->run_id;
	x.later_fd = p->later_fd;
	x.options.detach = true;
	x.options.sandbox = p->sandbox;
	x.options.core_sched = p->core_sched;
	x.options.run_dir = p->run_dir ? strdup(p->run_dir) : NULL;
	if (!p->run_dir || x.options.run_dir)
		status = receive(&x, p->source);
	receiving_done(&x);
	return status;
}

int receive_main(int argc, char **argv)
{
	struct error err = { 0 };
	struct receiving x;
	const char *source;
	int r, status = 1;

	receiving_init(&x);
	r = config_parse_verb("receive", receive_options, &x.options, argc, argv, &source, 1,
			      &err);
	if (r == 0)
		r = error_usage(&err, -EINVAL, "receive: needs SOURCE");
	/* Before anybody can connect, where that is known already. */
	if (r > 0 && !x.options.resume && !strncmp(source, "tcp:", strlen("tcp:")))
		r = check_source(&x, source, &err);
	if (r >= 0 && x.options.name)
		r = config_check_name("--name", x.options.name, &err);
	if (r >= 0 && x.options.resume) {
		r = resume(&x, source, &err);
		status = 0;
	} else if (r >= 0) {
		status = receive(&x, source);
	}
	if (r < 0) {
		error_print(&err);
		status = error_status(&err);
	}
	receiving_done(&x);
	return status;
}
