/* wisp migrate: hand a running guest to a `wisp receive`, without stopping it for long. */
#include "vmm/cli/cli_migrate.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "vmm/cli/cli_control.h"
#include "vmm/cli/cli_disks.h"
#include "vmm/control/control_client.h"
#include "vmm/core/clock.h"
#include "vmm/migrate/migrate_address.h"
#include "vmm/migrate/migrate_journal.h"

/* How long a destination of this host may take to see that the connection is lost. */
#define GIVING_UP_NS (2 * NSEC_PER_SEC)
#define LOOK_NS	     (10 * NSEC_PER_MSEC)

struct migrate_options {
	char *run_dir, *tls, *settle;
	uint64_t bandwidth;
	unsigned level, max_rounds, downtime_ms, streams;
	unsigned postcopy; /* enum migrate_postcopy */
	bool converge, hand_off, copy_disks, json, progress, cancel, recover, resume;
};

/* Of what the request takes along: there the further connections begin. */
#define FIRST_STREAM_FD 4

#define MEMBER(m) offsetof(struct migrate_options, m)

static int parse_bandwidth(struct config_parse *p, const char *value, void *target)
{
	struct migrate_options *o = target;

	/* Slower than this, a record may take longer than the other side waits for one. */
	if (config_parse_size(value, 1, &o->bandwidth) < 0 || o->bandwidth < MiB)
		return config_fail(p, "'%s' is not a size of at least 1M", value);
	return 0;
}

const struct config_item migrate_options[] = {
	{ "--bandwidth", "SIZE",
	  "Send at most so many bytes a second while the guest runs (no limit)",
	  CONFIG_CUSTOM, .parse = parse_bandwidth },
	{ "--downtime", "MS",
	  "Stop the guest for the rest when that should take no longer, in milliseconds (100)",
	  CONFIG_NUMBER, MEMBER(downtime_ms), 1, 600000 },
	{ "--max-rounds", "N", "Stop it after so many rounds in any case (30)", CONFIG_NUMBER,
	  MEMBER(max_rounds), 1, 1000 },
	{ "--converge", "on|off",
	  "Slow the guest down when it changes memory faster than it can be sent (on)",
	  CONFIG_SWITCH, MEMBER(converge) },
	{ "--postcopy", "off|auto|on",
	  "Let the guest run there before all of its memory has arrived: after the first round "
	  "(on), or when it changes memory too fast (auto); until it is whole it needs both hosts "
	  "(off)",
	  CONFIG_CHOICE, MEMBER(postcopy) },
	{ "--hand-off", NULL,
	  "To a monitor of this host, by a UNIX socket: hand shared memory over as it is, write "
	  "private memory straight into the other's",
	  CONFIG_FLAG, MEMBER(hand_off) },
	{ "--copy-disks", NULL,
	  "To a host that does not have the guest's disks: send them too, while the guest writes",
	  CONFIG_FLAG, MEMBER(copy_disks) },
	{ "--streams", "N",
	  "Send memory over so many connections at once, each by a thread at either side: tcp: and "
	  "unix: (1)",
	  CONFIG_NUMBER, MEMBER(streams), 1, MIGRATE_MAX_STREAMS },
	{ "--tls", "DIR",
	  "Encrypt tcp:, with the certificates of DIR: ca.pem, cert.pem, key.pem "
	  "(docs/migration.md)",
	  CONFIG_STRING, MEMBER(tls) },
	{ "--zstd", "LEVEL", "Compress pages (0: not)", CONFIG_NUMBER, MEMBER(level), 0, 19 },
	{ "--progress", NULL, "Print a line for each round and half second, on standard error",
	  CONFIG_FLAG, MEMBER(progress) },
	{ "--json", NULL,
	  "Print progress (with --progress) and the report as JSON objects, one a line",
	  CONFIG_FLAG, MEMBER(json) },
	{ "--cancel", NULL, "Give up the migration of ID that is under way", CONFIG_FLAG,
	  MEMBER(cancel) },
	{ "--resume", NULL,
	  "Of a guest that runs at DESTINATION ('wisp receive --resume') and waits for memory that "
	  "is still here, since the connection was lost: go on",
	  CONFIG_FLAG, MEMBER(resume) },
	{ "--recover", NULL,
	  "Settle what crashes have left of migrations, of ID or of all microVMs of this user",
	  CONFIG_FLAG, MEMBER(recover) },
	{ "--settle", "WORD",
	  "Of a guest that stands still between two hosts, as somebody says who has looked at "
	  "both: at its destination 'commit' (it is that one's, and runs), at its source "
	  "'confirm' (it runs there) or 'take-back' (it never will there)",
	  CONFIG_STRING, MEMBER(settle) },
	{ "--run-dir", "DIR", "Where running microVMs have their directories (as for run)",
	  CONFIG_STRING, MEMBER(run_dir) },
	{ 0 },
};

/* One that is being carried out. */
struct migration {
	const struct migrate_options *options;
	struct migrate_journal journal;
	struct cli_disks disks;
	int in, out;
	int hold[2]; /* while the second is open we are there */
	int more[MIGRATE_MAX_STREAMS - 1]; /* connections, @num_more of them */
	unsigned num_more;
};

static double number(const json_t *o, const char *key)
{
	return (double)json_integer_value(json_object_get(o, key));
}

static void print_json(const json_t *o)
{
	json_dumpf(o, stdout, JSON_COMPACT);
	printf("\n");
	fflush(stdout);
}

static void show(void *arg, const json_t *p)
{
	const struct migration *mig = arg;
	double pending;

	if (!mig->options->progress)
		return;
	if (mig->options->json) {
		print_json(p);
		return;
	}
	pending = number(p, "pending_pages") * PAGE_SIZE + number(p, "pending_disk_bytes");
	fprintf(stderr,
		"wisp: %s: round %.0f, %.1f MiB sent, %.1f MiB to go, %.0f MiB/s, "
		"%.0f MiB/s change, expected pause %.0f ms, %.1f s\n",
		json_string_value(json_object_get(p, "phase")), number(p, "rounds"),
		number(p, "bytes") / MiB, pending / MiB, number(p, "bytes_per_second") / MiB,
		number(p, "dirty_bytes_per_second") / MiB,
		number(p, "expected_downtime_us") / 1000, number(p, "total_us") / 1e6);
}

static const char *way_text(const json_t *reply)
{
	const char *way = json_string_value(json_object_get(reply, "memory"));

	if (way && !strcmp(way, "shared"))
		return ", handed over as they are";
	return way && !strcmp(way, "written") ? ", written there" : "";
}

static void report(const struct migrate_options *o, const char *id, const char *dest,
		   json_t *reply)
{
	const char *refused = json_string_value(json_object_get(reply, "no_postcopy"));

	if (refused)
		fprintf(stderr, "wisp: no post-copy, memory was sent before the guest ran there: "
				"%s\n", refused);
	if (o->json) {
		control_print_json(reply, id);
		return;
	}
	printf("'%s' runs at %s: %.1f MiB sent in %.2f s (pages %.1f MiB%s, ", id, dest,
	       number(reply, "bytes") / MiB, number(reply, "total_us") / 1e6,
	       number(reply, "page_bytes") / MiB, way_text(reply));
	if (o->copy_disks)
		printf("disks %.1f MiB, ", number(reply, "disk_bytes") / MiB);
	if (o->streams > 1)
		printf("%.0f streams, ", number(reply, "streams"));
	printf("state %.1f KiB), %.0f rounds, guest paused for %.1f ms",
	       number(reply, "state_bytes") / KiB, number(reply, "rounds"),
	       number(reply, "blackout_us") / 1000);
	if (json_is_true(json_object_get(reply, "postcopy")))
		printf(", %.1f MiB came late, %.0f times waited for",
		       number(reply, "late_pages") * PAGE_SIZE / MiB,
		       number(reply, "wanted_pages"));
	printf("\n");
}

static int ask(struct migration *mig, int sock, json_t **ret_reply, struct error *err)
{
	static const char *const postcopy[] = {
		[MIGRATE_NO_POSTCOPY] = "off",
		[MIGRATE_POSTCOPY_AUTO] = "auto",
		[MIGRATE_POSTCOPY] = "on",
	};
	const struct migrate_options *o = mig->options;
	struct control_extra extra = { .progress = show, .arg = mig, .give_up_fd = -1 };
	int fds[FIRST_STREAM_FD + MIGRATE_MAX_STREAMS - 1] = { mig->in, mig->out, mig->journal.fd,
							       mig->hold[0] };
	json_t *request = json_pack("{s:s, s:s, s:i, s:i, s:i, s:I, s:b, s:b, s:b, s:i, s:s, s:I}",
				    "do",
				    "migrate", "uuid", mig->journal.uuid, "level", o->level,
				    "max_rounds", o->max_rounds, "downtime_ms", o->downtime_ms,
				    "bandwidth", (json_int_t)o->bandwidth, "converge", o->converge,
				    "hand_off", o->hand_off, "copy_disks", o->copy_disks,
				    "streams", 1 + mig->num_more, "postcopy",
				    postcopy[o->postcopy], "generation",
				    cli_disks_generation(&mig->disks));

	memcpy(fds + FIRST_STREAM_FD, mig->more, mig->num_more * sizeof(*fds));
	return control_ask_extra(sock, request, fds, FIRST_STREAM_FD + mig->num_more, ret_reply,
				 &extra, err);
}

static int begin_journal(struct migration *mig, const char *id, const char *dest, struct error *err)
{
	uint8_t uuid[MIGRATE_UUID_BYTES];

	if (migrate_uuid_new(uuid) < 0)
		return error_set(err, -EIO, "migration: no random numbers");
	migrate_uuid_print(uuid, mig->journal.uuid);
	snprintf(mig->journal.id, sizeof(mig->journal.id), "%s", id);
	snprintf(mig->journal.peer, sizeof(mig->journal.peer), "%.200s", dest);
	return migrate_journal_create(&mig->journal, mig->options->run_dir, err);
}

/* Does its monitor still answer? Connected it may be to one that was killed just now. */
static bool is_there(const struct migration *mig)
{
	struct error ignored = { 0 };
	int sock = control_connect_in(mig->options->run_dir, mig->journal.id, &ignored), r;

	if (sock < 0)
		return false;
	r = control_ask(sock, json_pack("{s:s}", "do", "migrate-status"), NULL, 0, NULL, &ignored);
	close(sock);
	return r == 0;
}

/*
 * Is there a destination on this host that has not given up? One that was ready when its
 * connection was lost waits to be told. Most have seen by themselves that nothing comes of it, or
 * will in a moment.
 */
static bool waits_here(const struct migration *mig)
{
	const struct timespec look = { .tv_nsec = LOOK_NS };
	uint64_t until_ns = clock_monotonic_ns(NULL) + GIVING_UP_NS;
	struct migrate_journal dst = { 0 };

	while (migrate_journal_read(mig->options->run_dir, mig->journal.uuid, MIGRATE_DESTINATION,
				    &dst) == 0 &&
	       dst.held && strcmp(dst.phase, MIGRATE_PHASE_GIVEN_UP) != 0) {
		if (clock_monotonic_ns(NULL) > until_ns)
			return true;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &look, NULL);
	}
	return false;
}

/*
 * The guest is here as before, or there and known to run: then nothing is left to be settled.
 * With the answer missing, or one that cannot be read, the journal stays for --recover: also when
 * the guest was killed here, for a destination may be ready by now, and be waiting to be told of
 * the commit or of that.
 */
static void end_journal(struct migration *mig, int r)
{
	struct migrate_journal now = { 0 };
	bool keep = false;

	if (r < 0 &&
	    migrate_journal_read(mig->options->run_dir, mig->journal.uuid, MIGRATE_SOURCE, &now) ==
		    0 &&
	    (!strcmp(now.phase, MIGRATE_PHASE_COMMITTED) ||
	     !strcmp(now.phase, MIGRATE_PHASE_SERVING) ||
	     (!strcmp(now.phase, MIGRATE_PHASE_STARTED) &&
	      (r == -EPROTO || !is_there(mig) || waits_here(mig)))))
		keep = true;
	migrate_journal_leave(&mig->journal);
	if (!keep)
		migrate_journal_forget(mig->options->run_dir, mig->journal.uuid);
}

/* Does a destination on this host run it with all of its memory, or will it in a moment? */
static bool is_whole_here(const struct migration *mig, bool *ret_known)
{
	const struct timespec look = { .tv_nsec = LOOK_NS };
	uint64_t until_ns = clock_monotonic_ns(NULL) + GIVING_UP_NS;
	struct migrate_journal dst = { 0 };

	*ret_known = false;
	while (migrate_journal_read(mig->options->run_dir, mig->journal.uuid, MIGRATE_DESTINATION,
				    &dst) == 0) {
		*ret_known = true;
		if (!strcmp(dst.phase, MIGRATE_PHASE_RUNNING))
			return true;
		/* What was under way when its source ended may be the last that it needs. */
		if (!dst.held || clock_monotonic_ns(NULL) > until_ns)
			return false;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &look, NULL);
	}
	return false;
}

/* The guest ran there, and what was still here of its memory has ended: is it lost by that? */
static void say_if_lost(const struct migration *mig, struct error *err)
{
	const char *id = mig->journal.id, *peer = mig->journal.peer;
	struct migrate_journal now = { 0 };
	bool known;

	if (migrate_journal_read(mig->options->run_dir, mig->journal.uuid, MIGRATE_SOURCE, &now) <
		    0 ||
	    strcmp(now.phase, MIGRATE_PHASE_SERVING) != 0 || is_there(mig))
		return;
	if (is_whole_here(mig, &known))
		error_prefix(err,
			     "the guest '%s' runs at %s with all of its memory, but its "
			     "source has ended before it was told so",
			     id, peer);
	else if (known)
		error_prefix(err,
			     "the guest '%s' is lost: it ran at %s, and the part of its "
			     "memory that was still here has ended",
			     id, peer);
	else
		error_prefix(err,
			     "the guest '%s' is lost, unless all of its memory had arrived "
			     "at %s, where it ran: what was still here has ended",
			     id, peer);
}

/* What a qcow2 file holds is not what the guest sees, which a copy would have to be of. */
static int check_copied(const struct cli_disks *d, struct error *err)
{
	for (unsigned i = 0; i < d->num; i++) {
		if (!d->disk[i].qcow2)
			continue;
		error_usage(err, -ENOTSUP, "disk '%s': of format qcow2, which cannot be copied yet",
			    d->disk[i].path);
		error_hint(err, "'wisp disk convert' makes it a raw one; without --copy-disks both "
				"sides use the file itself");
		return -ENOTSUP;
	}
	return 0;
}

/* The first connection, then the others: the destination tells them apart by what we say. */
static int connect_to(struct migration *mig, const char *dest, struct error *err)
{
	const struct migrate_options *o = mig->options;
	int r = migrate_address_open(dest, o->tls, &mig->in, &mig->out, err);

	while (!r && mig->num_more + 1 < o->streams) {
		int *fd = &mig->more[mig->num_more];

		r = migrate_address_open(dest, o->tls, fd, fd, err);
		mig->num_more += !r;
	}
	return r;
}

/* To @dest, which is called @peer in words. */
static int hand_over(const struct migrate_options *o, const char *id, const char *dest,
		     const char *peer, json_t **ret_report, struct error *err)
{
	struct migration mig = {
		.options = o,
		.journal.fd = -1,
		.in = -1,
		.out = -1,
		.hold = { -1, -1 },
	};
	int sock, r;

	sock = control_connect_awake(o->run_dir, id, err);
	if (sock < 0)
		return sock;
	r = cli_disks_get(&mig.disks, sock, err);
	if (!r && o->copy_disks)
		r = check_copied(&mig.disks, err);
	if (!r && pipe2(mig.hold, O_CLOEXEC) < 0)
		r = error_set(err, -errno, "pipe: %m");
	if (!r)
		r = connect_to(&mig, dest, err);
	if (!r)
		r = begin_journal(&mig, id, peer, err);
	if (!r) {
		r = ask(&mig, sock, ret_report, err);
		if (r < 0)
			say_if_lost(&mig, err);
		end_journal(&mig, r);
	}
	cli_disks_done(&mig.disks);
	for (unsigned i = 0; i < 2; i++)
		if (mig.hold[i] >= 0)
			close(mig.hold[i]);
	for (unsigned i = 0; i < mig.num_more; i++)
		close(mig.more[i]);
	if (mig.in >= 0)
		close(mig.in);
	if (mig.out >= 0 && mig.out != mig.in)
		close(mig.out);
	close(sock);
	return r;
}

static int migrate(const struct migrate_options *o, const char *id, const char *dest,
		   struct error *err)
{
	json_t *reply = NULL;
	int r = hand_over(o, id, dest, dest, &reply, err);

	if (!r)
		report(o, id, dest, reply);
	json_decref(reply);
	return r;
}

/* The rest of a guest that runs at @dest already. */
static int resume(const struct migrate_options *o, const char *id, const char *dest,
		  struct error *err)
{
	struct migration mig = { .options = o };
	struct control_extra extra = { .progress = show, .arg = &mig, .give_up_fd = -1 };
	int sock = control_connect_in(o->run_dir, id, err), in = -1, out = -1, hold[2], r;
	json_t *status = NULL, *reply = NULL;

	if (sock < 0)
		return sock;
	/* Its journals are settled with it. */
	r = control_ask(sock, json_pack("{s:s}", "do", "migrate-status"), NULL, 0, &status, err);
	if (!r && pipe2(hold, O_CLOEXEC) < 0)
		r = error_set(err, -errno, "pipe: %m");
	if (!r) {
		r = migrate_address_open(dest, o->tls, &in, &out, err);
		if (!r)
			r = control_ask_extra(sock,
					      json_pack("{s:s, s:I}", "do", "migrate-resume",
							"bandwidth", (json_int_t)o->bandwidth),
					      (int[]){ in, out, hold[0] }, 3, &reply, &extra, err);
		close(hold[0]);
		close(hold[1]);
	}
	if (in >= 0)
		close(in);
	if (out >= 0 && out != in)
		close(out);
	close(sock);
	if (!r) {
		report(o, id, dest, reply);
		migrate_journal_forget(o->run_dir,
				       json_string_value(json_object_get(status, "uuid")));
	}
	json_decref(status);
	json_decref(reply);
	return r;
}

/* Have the monitor of @id do as @request says, which is taken over. */
static int tell(const struct migrate_options *o, const char *id, json_t *request, struct error *err)
{
	int sock = control_connect_in(o->run_dir, id, err), r;

	if (sock < 0) {
		json_decref(request);
		return sock;
	}
	r = control_ask(sock, request, NULL, 0, NULL, err);
	close(sock);
	return r;
}

static int carry_out(const struct migrate_options *o, const char *const *args, int num,
		     struct error *err)
{
	if (o->recover && num < 2)
		return migrate_recover(o->run_dir, num ? args[0] : NULL, err);
	if (o->cancel && num == 1)
		return tell(o, args[0], json_pack("{s:s}", "do", "migrate-cancel"), err);
	if (o->settle && num == 1)
		return tell(o, args[0],
			    json_pack("{s:s, s:s}", "do", "migrate-settle", "as", o->settle), err);
	if (o->resume && num == 2)
		return resume(o, args[0], args[1], err);
	if (o->postcopy && o->hand_off)
		return error_usage(err, -EINVAL, "migrate: --hand-off sends no memory late: not "
						 "with --postcopy");
	if (o->copy_disks && o->hand_off)
		return error_usage(err, -EINVAL, "migrate: --hand-off is within one host, which "
						 "has the disks: not with --copy-disks");
	if (o->streams > 1 && o->hand_off)
		return error_usage(err, -EINVAL, "migrate: --hand-off sends no memory over its "
						 "connection: not with --streams");
	if (o->streams > 1 && o->bandwidth && o->bandwidth < o->streams * MiB)
		return error_usage(err, -EINVAL,
				   "migrate: --bandwidth with --streams %u: at least %uM",
				   o->streams, o->streams);
	if (o->streams > 1 && num == 2 && !migrate_address_is_socket(args[1]))
		return error_usage(err, -EINVAL,
				   "migrate: --streams: '%s' is one pipe, and cannot be connected "
				   "to again", args[1]);
	if (num == 2 && !o->recover && !o->cancel && !o->settle && !o->resume)
		return migrate(o, args[0], args[1], err);
	return error_usage(err, -EINVAL, "migrate: needs ID and DESTINATION (also with --resume), "
					 "--cancel ID, --settle WORD ID, or --recover [ID]");
}

#define DEFAULTS .streams = 1, .max_rounds = 30, .downtime_ms = 100, .converge = true

int migrate_in_place(const char *run_dir, const char *id, const char *dest, const char *peer,
		     json_t **ret_report, struct error *err)
{
	const struct migrate_options o = {
		.run_dir = (char *)run_dir,
		.hand_off = true,
		DEFAULTS,
	};

	return hand_over(&o, id, dest, peer, ret_report, err);
}

int migrate_main(int argc, char **argv)
{
	struct migrate_options o = { DEFAULTS };
	const char *args[2];
	struct error err = { 0 };
	int r;

	r = config_parse_verb("migrate", migrate_options, &o, argc, argv, args, 2, &err);
	if (r >= 0)
		r = carry_out(&o, args, r, &err);
	free(o.run_dir);
	free(o.settle);
	free(o.tls);
	if (r < 0)
		error_print(&err);
	return r < 0 ? error_status(&err) : r > 0;
}
