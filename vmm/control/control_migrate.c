#include "vmm/control/control_migrate.h"
#include "vmm/control/control_snapshot.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/machine/machine_internal.h"
#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_fill.h"
#include "vmm/migrate/migrate_journal.h"
#include "vmm/saved/reset_devices.h"

#define MAX_ROUNDS    1000
#define MAX_BANDWIDTH (1ull << 50)
#define MAX_DOWNTIME  600000

/* Of a request's descriptors: there the further connections begin. */
#define FIRST_STREAM_FD 4

struct going {
	struct control_call *call;
	struct machine *m;
	struct loop_op hang_up; /* of the client */
	int client_fd;
	bool over;
};

static void let_go(struct going *g)
{
	close(g->client_fd);
	free(g);
}

static void client_gone(struct loop_op *op, int res)
{
	struct going *g = container_of(op, struct going, hang_up);

	if (g->over)
		let_go(g);
	else
		migrate_cancel(g->m);
	g->over = true;
}

static json_t *describe(const struct migrate_report *r)
{
	return json_pack("{s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
			 "s:I, s:I, s:I, s:i, s:b, s:I, s:I, s:s*}",
			 "phase", migrate_phase_name(r->phase),
			 "memory", migrate_way_name(r->way),
			 "rounds", r->rounds,
			 "throttle", r->throttle,
			 "pages_sent", (json_int_t)r->pages_sent,
			 "zero_pages", (json_int_t)r->zero_pages,
			 "page_bytes", (json_int_t)r->page_bytes,
			 "state_bytes", (json_int_t)r->state_bytes,
			 "bytes", (json_int_t)r->bytes,
			 "pending_pages", (json_int_t)r->pending_pages,
			 "disk_bytes", (json_int_t)r->disk_bytes,
			 "pending_disk_bytes", (json_int_t)r->pending_disk_bytes,
			 "bytes_per_second", (json_int_t)r->bytes_per_second,
			 "dirty_bytes_per_second", (json_int_t)r->dirty_bytes_per_second,
			 "expected_downtime_us", (json_int_t)(r->expected_ns / 1000),
			 "total_us", (json_int_t)(r->total_ns / 1000),
			 "blackout_us", (json_int_t)(r->blackout_ns / 1000),
			 "streams", r->streams,
			 "postcopy", r->postcopy,
			 "late_pages", (json_int_t)r->late_pages,
			 "wanted_pages", (json_int_t)r->wanted,
			 "no_postcopy", *r->refused ? r->refused : NULL);
}

static void progress(void *arg, const struct migrate_report *report)
{
	struct going *g = arg;

	control_progress(g->call, describe(report));
}

static void done(void *arg, int r, const struct error *err, const struct migrate_report *report)
{
	struct going *g = arg;
	struct error told = *err;

	if (report->phase == MIGRATE_UNCONFIRMED)
		error_prefix(&told, "the guest was handed over, and whether it runs is not known");
	if (report->phase == MIGRATE_CUT_OFF)
		error_prefix(&told, "the guest runs at its destination, which waits for memory "
				    "that is still here ('wisp migrate --resume' goes on)");
	if (r < 0)
		control_fail_error(g->call, &told);
	else
		control_reply(g->call, describe(report));
	if (report->phase == MIGRATE_CONFIRMED)
		machine_end(g->m, MACHINE_END_MIGRATED, 0, NULL);
	if (g->over) {
		let_go(g);
		return;
	}
	g->over = true;
	loop_cancel(g->m->loop, &g->hang_up);
}

static int read_postcopy(struct control_call *call, struct migrate_params *p)
{
	const char *word;

	if (control_arg_string(call, "postcopy", "off", &word) < 0)
		return -EINVAL;
	if (!strcmp(word, "auto"))
		p->postcopy = MIGRATE_POSTCOPY_AUTO;
	else if (!strcmp(word, "on"))
		p->postcopy = MIGRATE_POSTCOPY;
	else if (strcmp(word, "off") != 0)
		control_fail(call, -EINVAL, "post-copy is on, off or auto");
	else
		return 0;
	if (p->postcopy && p->hand_off)
		control_fail(call, -EINVAL, "a hand-off sends no memory late");
	return p->postcopy && !p->hand_off ? 0 : -EINVAL;
}

static int read_params(struct control_call *call, struct migrate_params *p)
{
	uint64_t level, rounds, downtime, streams;
	const char *uuid;

	if (control_arg_string(call, "uuid", "", &uuid) < 0 ||
	    control_arg_number(call, "level", 0, 19, &level) < 0 ||
	    control_arg_number(call, "max_rounds", 30, MAX_ROUNDS, &rounds) < 0 ||
	    control_arg_number(call, "bandwidth", 0, MAX_BANDWIDTH, &p->bandwidth) < 0 ||
	    control_arg_number(call, "downtime_ms", 100, MAX_DOWNTIME, &downtime) < 0 ||
	    control_arg_number(call, "streams", 1, MIGRATE_MAX_STREAMS, &streams) < 0 ||
	    control_arg_bool(call, "converge", true, &p->converge) < 0 ||
	    control_arg_bool(call, "hand_off", false, &p->hand_off) < 0 ||
	    control_arg_bool(call, "copy_disks", false, &p->copy_disks) < 0)
		return -EINVAL;
	if (p->hand_off && p->copy_disks) {
		control_fail(call, -EINVAL, "a hand-off is within one host, where the disks are");
		return -EINVAL;
	}
	/* Each of them is silent while the others send. */
	if (streams > 1 && p->bandwidth && p->bandwidth < streams * MiB) {
		control_fail(call, -EINVAL, "a bandwidth below 1 MiB/s for each stream");
		return -EINVAL;
	}
	if (migrate_uuid_parse(uuid, p->uuid) < 0 || !rounds || !streams) {
		control_fail(call, -EINVAL,
			     "a migration needs a name, a round and a stream at least");
		return -EINVAL;
	}
	if (p->hand_off && streams > 1) {
		control_fail(call, -EINVAL, "a hand-off sends no memory over its stream");
		return -EINVAL;
	}
	if (read_postcopy(call, p) < 0)
		return -EINVAL;
	p->num_more = streams - 1;
	p->level = level;
	p->max_rounds = rounds;
	p->downtime_ns = downtime * NSEC_PER_MSEC;
	return 0;
}

/* For @call, whose client holds the other end of its descriptor @client; NULL: it was told so. */
static struct going *new_going(struct control_call *call, unsigned client)
{
	struct going *g = calloc(1, sizeof(*g));

	if (!g) {
		control_fail(call, -ENOMEM, "no memory");
		return NULL;
	}
	*g = (struct going){
		.call = call,
		.m = control_machine(call),
		.client_fd = control_take_fd(call, client),
		.hang_up.done = client_gone,
	};
	return g;
}

void control_verb_migrate(struct control_call *call)
{
	struct machine *m = control_machine(call);
	struct migrate_params params = { 0 };
	struct migrate_watcher watcher = { .progress = progress, .done = done };
	struct error err = { 0 };
	struct going *g;

	if (read_params(call, &params) < 0)
		return;
	if (control_num_fds(call) != FIRST_STREAM_FD + params.num_more) {
		control_fail(call, -EBADF, "the request came without its descriptors");
		return;
	}
	if (!control_knows_devices(call))
		return;
	if (m->config->num_pmems) {
		control_fail(call, -ENOTSUP,
			     "a guest with persistent memory (--pmem) cannot be migrated: its file "
			     "stays here");
		return;
	}
	if (reset_devices_forbid_copy(m)) {
		control_fail(call, -ENOTSUP, "%s", reset_devices_forbid_copy(m));
		return;
	}
	if (m->fill) {
		control_fail(call, -EBUSY, "some of its memory is still to come from where it was");
		return;
	}
	g = new_going(call, 3);
	if (!g)
		return;
	params.in = control_take_fd(call, 0);
	params.out = control_take_fd(call, 1);
	params.journal = control_take_fd(call, 2);
	for (unsigned i = 0; i < params.num_more; i++)
		params.more[i] = control_take_fd(call, FIRST_STREAM_FD + i);
	watcher.arg = g;
	if (migrate_start(m, &params, &watcher, &err) < 0) {
		control_fail_error(call, &err);
		let_go(g);
		return;
	}
	loop_poll(m->loop, &g->hang_up, g->client_fd, POLLIN);
}

/* The source's side: it sends what is still here. */
static void resume_sending(struct control_call *call)
{
	struct migrate_watcher watcher = { .progress = progress, .done = done };
	struct migrate_params params = { .journal = -1 };
	struct machine *m = control_machine(call);
	struct error err = { 0 };
	struct going *g;

	if (control_arg_number(call, "bandwidth", 0, MAX_BANDWIDTH, &params.bandwidth) < 0)
		return;
	g = new_going(call, 2);
	if (!g)
		return;
	params.in = control_take_fd(call, 0);
	params.out = control_take_fd(call, 1);
	watcher.arg = g;
	if (migrate_resume(m, &params, &watcher, &err) < 0) {
		control_fail_error(call, &err);
		let_go(g);
		return;
	}
	loop_poll(m->loop, &g->hang_up, g->client_fd, POLLIN);
}

void control_verb_migrate_resume(struct control_call *call)
{
	struct machine *m = control_machine(call);
	struct error err = { 0 };
	int in, out;

	if (control_num_fds(call) != 3) {
		control_fail(call, -EBADF, "the request came without its descriptors");
		return;
	}
	if (migrate_is_away(m)) {
		resume_sending(call);
		return;
	}
	in = control_take_fd(call, 0);
	out = control_take_fd(call, 1);
	if (migrate_fill_resume(m->fill, in, out, &err) < 0)
		control_fail_error(call, &err);
	else
		control_reply(call, NULL);
}

void control_verb_migrate_cancel(struct control_call *call)
{
	int r = migrate_cancel(control_machine(call));

	if (r < 0)
		control_fail(call, r, "there is no migration that could still be cancelled");
	else
		control_reply(call, NULL);
}

void control_verb_migrate_status(struct control_call *call)
{
	struct machine *m = control_machine(call);
	uint8_t uuid[MIGRATE_UUID_BYTES];
	struct migrate_report report;
	char text[MIGRATE_UUID_TEXT];
	json_t *reply;

	if (m->arriving) {
		reply = json_pack("{s:s, s:b}", "role", "destination", "waits", m->commit_by_hand);
	} else if (migrate_status(m, &report, uuid)) {
		migrate_uuid_print(uuid, text);
		reply = json_pack("{s:s, s:s, s:o}", "role", "source", "uuid", text, "report",
				  describe(&report));
	} else {
		reply = json_pack("{s:s}", "role", "none");
	}
	if (m->fill) {
		struct migrate_fill_report fill = migrate_fill_report(m->fill);

		json_object_update_new(reply, json_pack("{s:I, s:I, s:b}", "missing_pages",
							(json_int_t)fill.missing, "wanted_pages",
							(json_int_t)fill.wanted, "cut_off",
							fill.is_cut));
	}
	if (m->arrival) {
		migrate_uuid_print(m->arrival->hello.uuid, text);
		json_object_set_new(reply, "arrival", json_string(text));
	}
	control_reply(call, reply);
}

void control_verb_migrate_settle(struct control_call *call)
{
	struct machine *m = control_machine(call);
	struct error err = { 0 };
	bool confirm;
	const char *as;
	int r;

	if (control_arg_string(call, "as", "", &as) < 0)
		return;
	confirm = !strcmp(as, "confirm");
	if (confirm)
		r = migrate_confirm(m, &err);
	else if (!strcmp(as, "take-back"))
		r = migrate_take_back(m, &err);
	else if (!strcmp(as, "commit"))
		r = migrate_commit_here(m, &err);
	else
		r = error_set(&err, -EINVAL, "there is no way '%.20s' to settle a migration", as);
	if (r < 0)
		control_fail_error(call, &err);
	else
		control_reply(call, NULL);
	/* After the answer, which @as is gone with. */
	if (r == 0 && confirm)
		machine_end(m, MACHINE_END_MIGRATED, 0, NULL);
}
