/*
 * wisp migrate --recover: what crashes have left of migrations, told from the journals and from
 * the monitors that are still there; settled where it is certain what became of the guest.
 *
 * A source that has committed never runs again by itself, a destination that was not told
 * of the commit neither. So it is safe to act whenever the other side is known: by
 * its journal, when it was on this host, or by a person who has looked there.
 * vmm/migrate/migrate_recovery.h decides.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vmm/cli/cli_control.h"
#include "vmm/cli/cli_migrate.h"
#include "vmm/control/control_client.h"
#include "vmm/core/clock.h"
#include "vmm/migrate/migrate_recovery.h"

/* How long a monitor may take to answer, and a destination to do what it was told. */
#define ANSWER_SECONDS 30
#define DEED_NS	       (30 * NSEC_PER_SEC)
#define LOOK_NS	       (10 * NSEC_PER_MSEC)

struct recovery {
	const char *run_dir, *id;
	int left;
	bool seen; /* something of a migration of @id */
};

/* One side, and the way to its monitor. */
struct party {
	struct migrate_side side;
	int sock; /* -1: there is none, or it is another microVM's */
};

static const char *id_of(const struct party *p)
{
	return p->side.journal.id;
}

/* ---- looking ---- */

static bool has_name(const json_t *reply, const char *key, const struct migrate_journal *j)
{
	const char *uuid = json_string_value(json_object_get(reply, key));

	return uuid && !strcmp(uuid, j->uuid);
}

static enum migrate_found source_found(const json_t *reply, const struct migrate_journal *j)
{
	const json_t *report = json_object_get(reply, "report");
	const char *phase = json_string_value(json_object_get(report, "phase"));

	/* Another migration, or another microVM. Or this one is to begin in a moment. */
	if (!phase || !has_name(reply, "uuid", j))
		return j->held ? MIGRATE_BUSY : MIGRATE_GONE;
	if (!strcmp(phase, migrate_phase_name(MIGRATE_UNCONFIRMED)) ||
	    !strcmp(phase, migrate_phase_name(MIGRATE_CUT_OFF)))
		return MIGRATE_WAITS;
	return !strcmp(phase, migrate_phase_name(MIGRATE_FAILED)) ? MIGRATE_HOLDS : MIGRATE_BUSY;
}

static enum migrate_found destination_found(const json_t *reply, const struct migrate_journal *j)
{
	const char *role = json_string_value(json_object_get(reply, "role"));

	/* A monitor of before that was told does not say which one it waits for. */
	if (role && !strcmp(role, "destination") && !json_object_get(reply, "arrival"))
		return MIGRATE_SILENT;
	if (!role || !has_name(reply, "arrival", j))
		return j->held ? MIGRATE_SILENT : MIGRATE_GONE;
	if (strcmp(role, "destination") != 0)
		return MIGRATE_HOLDS;
	return json_is_true(json_object_get(reply, "waits")) ? MIGRATE_WAITS : MIGRATE_BUSY;
}

/* Nothing that @sock is asked is waited for longer than that. */
static void be_patient(int sock)
{
	const struct timeval patience = { .tv_sec = ANSWER_SECONDS };

	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
}

static int ask_status(int sock, json_t **ret_reply)
{
	struct error ignored = { 0 };

	be_patient(sock);
	return control_ask(sock, json_pack("{s:s}", "do", "migrate-status"), NULL, 0, ret_reply,
			   &ignored);
}

/*
 * One that runs a guest, and whose loop may wait for a page of it, has somebody else to answer,
 * and before this phase knows nothing.
 */
static int ask_late(const struct party *p, const struct recovery *rec, json_t **ret_reply)
{
	struct error ignored = { 0 };
	int sock = !strcmp(p->side.journal.phase, MIGRATE_PHASE_FILLING) ?
			   control_connect_late(rec->run_dir, p->side.journal.id, &ignored) :
			   -ENOENT;
	int r = sock < 0 ? sock : ask_status(sock, ret_reply);

	if (sock >= 0)
		close(sock);
	return r;
}

/* Who was connected to, at @p's name: what it is to @p. */
static enum migrate_found ask_there(struct party *p, const struct recovery *rec)
{
	const struct migrate_journal *j = &p->side.journal;
	enum migrate_found found;
	json_t *reply = NULL;

	be_patient(p->sock);
	if (ask_late(p, rec, &reply) < 0 && ask_status(p->sock, &reply) < 0)
		return MIGRATE_SILENT;
	found = j->role == MIGRATE_SOURCE ? source_found(reply, j) : destination_found(reply, j);
	json_decref(reply);
	return found;
}

/* An upgrade that came to its end has given the guest its own name back: then @p's is that. */
static enum migrate_found ask_upgraded(struct party *p, const struct recovery *rec)
{
	struct migrate_journal *j = &p->side.journal;
	size_t len = strlen(j->id), suffix = strlen(UPGRADE_SUFFIX);
	struct error ignored = { 0 };
	enum migrate_found found;
	struct party own = *p;

	if (len <= suffix || strcmp(j->id + len - suffix, UPGRADE_SUFFIX) != 0)
		return MIGRATE_SILENT;
	own.side.journal.id[len - suffix] = '\0';
	own.sock = control_connect_in(rec->run_dir, id_of(&own), &ignored);
	if (own.sock < 0)
		return MIGRATE_SILENT;
	found = ask_there(&own, rec);
	if (found == MIGRATE_SILENT) {
		close(own.sock);
		return found;
	}
	*p = own;
	return found;
}

static enum migrate_found ask(struct party *p, const struct recovery *rec)
{
	const struct migrate_journal *j = &p->side.journal;
	struct error ignored = { 0 };

	p->sock = control_connect_in(rec->run_dir, j->id, &ignored);
	if (p->sock == -ENOENT || p->sock == -ECONNREFUSED) {
		p->sock = -1;
		/* It may be on its way out, or have its own name back. */
		return j->held ? ask_upgraded(p, rec) : MIGRATE_GONE;
	}
	if (p->sock < 0) {
		p->sock = -1;
		return MIGRATE_SILENT;
	}
	return ask_there(p, rec);
}

static void look(struct party *p, const struct recovery *rec, const char *uuid,
		 enum migrate_role role)
{
	struct migrate_journal *j = &p->side.journal;
	char id[sizeof(j->id)];

	*p = (struct party){ .sock = -1 };
	p->side.known = migrate_journal_read(rec->run_dir, uuid, role, j) == 0;
	if (!p->side.known)
		return;
	p->side.found = ask(p, rec);
	snprintf(id, sizeof(id), "%s", j->id);
	/* Since then it may have gone on: what it wrote before it answered is what counts. */
	if (migrate_journal_read(rec->run_dir, uuid, role, j) < 0)
		p->side.found = MIGRATE_SILENT;
	else
		memcpy(j->id, id, sizeof(id));
}

static void look_away(struct party *p)
{
	if (p->sock >= 0)
		close(p->sock);
	p->sock = -1;
}

/* ---- acting ---- */

static int settle(struct party *p, const char *as)
{
	struct error err = { 0 };
	int r = control_ask(p->sock, json_pack("{s:s, s:s}", "do", "migrate-settle", "as", as),
			    NULL, 0, NULL, &err);

	if (r < 0)
		error_print(&err);
	return r;
}

static bool has_decided(const struct migrate_journal *j)
{
	return !j->held || !strcmp(j->phase, MIGRATE_PHASE_RUNNING) ||
	       !strcmp(j->phase, MIGRATE_PHASE_FILLING) ||
	       !strcmp(j->phase, MIGRATE_PHASE_GIVEN_UP);
}

static bool has_ended(const struct migrate_journal *j)
{
	return !j->held;
}

/* Wait until the journal of @p says so, or is gone; not for ever. */
static bool await(const struct party *p, const struct recovery *rec,
		  bool (*done)(const struct migrate_journal *j))
{
	const struct timespec look = { .tv_nsec = LOOK_NS };
	uint64_t until_ns = clock_monotonic_ns(NULL) + DEED_NS;
	struct migrate_journal now = { 0 };

	while (migrate_journal_read(rec->run_dir, p->side.journal.uuid, p->side.journal.role,
				    &now) == 0 &&
	       !done(&now)) {
		if (clock_monotonic_ns(NULL) > until_ns)
			return false;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &look, NULL);
	}
	return true;
}

/* That it was told is not yet that it runs: its disks may be somebody else's by now. */
static bool run_there(struct party *dst, const struct recovery *rec)
{
	return settle(dst, "commit") == 0 && await(dst, rec, has_decided);
}

/* One that waits for a guest may end faster than it answers, or, for a page, not answer at all. */
static bool end_there(struct party *dst, const struct recovery *rec)
{
	struct error err = { 0 };
	int r = control_end_machine(dst->sock, json_pack("{s:s}", "do", "kill"),
				    CONTROL_FORCE_CHILD, NULL, &err);

	if (r < 0) {
		error_print(&err);
		return false;
	}
	return await(dst, rec, has_ended);
}

/* ---- saying ---- */

static void say_settled(const struct party *src, const struct party *dst)
{
	const struct migrate_side *s = &src->side, *d = &dst->side;

	if (migrate_side_is(d, MIGRATE_PHASE_RUNNING) && d->journal.held)
		printf("it runs as '%s'\n", id_of(dst));
	else if (migrate_side_is(d, MIGRATE_PHASE_RUNNING))
		printf("it ran as '%s', which has ended: the guest is no more\n", id_of(dst));
	else if (s->known && s->found == MIGRATE_HOLDS)
		printf("it is here, and as it was\n");
	else if (migrate_side_is(s, MIGRATE_PHASE_CONFIRMED) ||
		 (migrate_side_is(s, MIGRATE_PHASE_COMMITTED) && !d->known))
		printf("it was handed over to %s; '%s' has ended\n", s->journal.peer, id_of(src));
	else if (migrate_side_is(s, MIGRATE_PHASE_COMMITTED))
		printf("it was handed over, '%s' never ran it, and both have ended: the guest is "
		       "no more\n",
		       id_of(dst));
	else if (s->known)
		printf("it was not handed over\n");
	else
		printf("it never ran here; whether it was to is known at its source\n");
}

static void say_go_on(const struct party *src, const struct party *dst)
{
	if (src->side.known)
		printf("it runs at %s, and some of its memory is still here. Where the connection "
		       "is lost: there 'wisp receive --resume %s SOURCE', then 'wisp migrate "
		       "--resume %s DESTINATION'\n",
		       src->side.journal.peer, dst->side.known ? id_of(dst) : "ID", id_of(src));
	else
		printf("it runs here, and some of its memory is still at its source. Where the "
		       "connection is lost: 'wisp receive --resume %s SOURCE', then there 'wisp "
		       "migrate --resume'\n",
		       id_of(dst));
}

static void say_lost(const struct party *src, const struct party *dst)
{
	bool here = dst->side.known && dst->side.found != MIGRATE_GONE;

	printf("the guest is lost: '%s' ended with a part of its memory%s%s%s\n",
	       here || !dst->side.known ? id_of(src) : id_of(dst),
	       here || src->side.found == MIGRATE_WAITS ? "; '" : "",
	       here ? id_of(dst) : src->side.found == MIGRATE_WAITS ? id_of(src) : "",
	       here || src->side.found == MIGRATE_WAITS ? "' has the rest, and ends" : "");
}

static void say(enum migrate_verdict verdict, const struct party *src, const struct party *dst)
{
	const struct party *known = src->side.known ? src : dst;

	printf("%s: ", id_of(known));
	switch (verdict) {
	case MIGRATE_ASK_AGAIN:
		printf("'%s' is still there, or may be, and may yet hear from the other side: "
		       "nothing is done; try again\n",
		       src->side.found == MIGRATE_SILENT || !dst->side.known ? id_of(known) :
									       id_of(dst));
		break;
	case MIGRATE_UNDER_WAY:
		printf("is under way\n");
		break;
	case MIGRATE_ASK_THERE:
		if (src->side.known)
			printf("it was handed over to %s, and whether it runs there is not known "
			       "here. Stands still; look there, then 'wisp migrate --settle "
			       "confirm|take-back %s'\n",
			       src->side.journal.peer, id_of(src));
		else
			printf("it could run at once and waits to be told whether it was handed "
			       "over; look at its source, then 'wisp migrate --settle commit %s' "
			       "or 'wisp kill %s'\n",
			       id_of(dst), id_of(dst));
		break;
	case MIGRATE_RUN_THERE:
		printf("it was handed over, and '%s' waits to be told so\n", id_of(dst));
		break;
	case MIGRATE_GO_ON:
		say_go_on(src, dst);
		break;
	case MIGRATE_LOST:
		say_lost(src, dst);
		break;
	case MIGRATE_CONFIRM:
		printf("it %s as '%s'\n", dst->side.journal.held ? "runs" : "ran and ended",
		       id_of(dst));
		break;
	case MIGRATE_TAKE_BACK:
		printf("'%s' never ran it: it goes on as '%s'\n", id_of(dst), id_of(src));
		break;
	case MIGRATE_END_THERE:
		printf("it was not handed over%s; '%s' waits for nothing, and ends\n",
		       src->side.found == MIGRATE_HOLDS ? " and is as it was" :
							  " and ended with its monitor",
		       id_of(dst));
		break;
	case MIGRATE_SETTLED:
		say_settled(src, dst);
		break;
	}
	fflush(stdout);
}

static bool carry_out(enum migrate_verdict verdict, struct party *src, struct party *dst,
		      const struct recovery *rec)
{
	say(verdict, src, dst);
	switch (verdict) {
	case MIGRATE_CONFIRM:
		return settle(src, "confirm") == 0;
	case MIGRATE_TAKE_BACK:
		return settle(src, "take-back") == 0;
	case MIGRATE_END_THERE:
		return end_there(dst, rec);
	case MIGRATE_LOST:
		if (src->side.known && src->side.found == MIGRATE_WAITS)
			return settle(src, "confirm") == 0;
		return !dst->side.known || dst->side.found == MIGRATE_GONE || end_there(dst, rec);
	case MIGRATE_SETTLED:
		return true;
	default:
		return false;
	}
}

static bool recover_one(struct party *src, struct party *dst, const struct recovery *rec)
{
	enum migrate_verdict verdict = migrate_decide(&src->side, &dst->side);
	char uuid[MIGRATE_UUID_TEXT];

	if (verdict == MIGRATE_RUN_THERE) {
		say(verdict, src, dst);
		if (!run_there(dst, rec))
			return false;
		memcpy(uuid, dst->side.journal.uuid, sizeof(uuid));
		look_away(dst);
		look(dst, rec, uuid, MIGRATE_DESTINATION);
		verdict = migrate_decide(&src->side, &dst->side);
	}
	return carry_out(verdict, src, dst, rec);
}

static int recover(void *arg, const struct migrate_journal *j)
{
	struct recovery *rec = arg;
	struct party src, dst;
	bool ours;

	look(&src, rec, j->uuid, MIGRATE_SOURCE);
	look(&dst, rec, j->uuid, MIGRATE_DESTINATION);
	/* Both journals here: once is enough. */
	ours = j->role == MIGRATE_SOURCE ? src.side.known : dst.side.known && !src.side.known;
	if (ours && (!rec->id || !strcmp(rec->id, j->id) ||
		     (dst.side.known && !strcmp(rec->id, id_of(&dst))))) {
		rec->seen = true;
		if (recover_one(&src, &dst, rec))
			migrate_journal_forget(rec->run_dir, j->uuid);
		else
			rec->left++;
	}
	look_away(&src);
	look_away(&dst);
	return 0;
}

int migrate_recover(const char *run_dir, const char *id, struct error *err)
{
	struct recovery rec = { .run_dir = run_dir, .id = id };
	int r = migrate_journal_for_each(run_dir, recover, &rec, err), sock;

	/* One that runs has nothing to be settled. Of what is not there something was misspelt. */
	if (r >= 0 && id && !rec.seen) {
		sock = control_connect_in(run_dir, id, err);
		if (sock < 0)
			return sock;
		close(sock);
	}
	return r < 0 ? r : rec.left;
}
