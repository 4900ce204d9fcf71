/*
 * wisp migrate --recover: what crashes have left of migrations, told from the journals and from
 * the monitors that are still there; settled where it is certain what became of the guest.
 *
 * A source that has committed never runs again by itself, a destination that was not told
 * of the commit neither. So it is safe to act whenever the other side is known: by
 * its journal, when it was on this host, or by a person who has looked there.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "vmm/cli/cli_migrate.h"
#include "vmm/control/control_client.h"
#include "vmm/migrate/migrate_journal.h"

struct recovery {
	const char *run_dir, *id;
	int left;
};

/* One side of a migration, as far as it can be seen from here. */
struct side {
	bool known; /* there is a journal of it here */
	struct migrate_journal journal;
	int sock;   /* of its monitor; -1: it is gone */
	bool waits; /* destination: for a word that will not come */
	bool unconfirmed; /* source: for the same */
};

static bool is(const struct side *s, const char *phase)
{
	return s->known && !strcmp(s->journal.phase, phase);
}

static void look(struct side *s, const struct recovery *rec)
{
	const char *role = s->journal.role == MIGRATE_SOURCE ? "source" : "destination";
	struct error ignored = { 0 };
	json_t *reply = NULL, *uuid;
	const char *phase;

	s->sock = control_connect_in(rec->run_dir, s->journal.id, &ignored);
	if (s->sock < 0)
		return;
	if (control_ask(s->sock, json_pack("{s:s}", "do", "migrate-status"), NULL, 0, &reply,
			&ignored) < 0)
		return;
	s->waits = json_is_true(json_object_get(reply, "waits"));
	phase = json_string_value(
		json_object_get(json_object_get(reply, "report"), "phase"));
	uuid = json_object_get(reply, "uuid");
	/* Another microVM may have the name by now, or another migration. */
	if (json_is_string(uuid) && strcmp(json_string_value(uuid), s->journal.uuid) != 0 &&
	    !strcmp(role, "source"))
		phase = NULL;
	s->unconfirmed = phase && !strcmp(phase, "unconfirmed");
	json_decref(reply);
}

static void open_side(struct side *s, const struct recovery *rec, const char *uuid,
		      enum migrate_role role)
{
	*s = (struct side){ .sock = -1 };
	s->known = migrate_journal_read(rec->run_dir, uuid, role, &s->journal) == 0;
	if (s->known)
		look(s, rec);
}

static void close_side(struct side *s, bool forget)
{
	if (s->sock >= 0)
		close(s->sock);
	if (forget && s->known)
		unlink(s->journal.path);
}

static int settle(struct side *s, const char *as)
{
	struct error err = { 0 };
	int r = control_ask(s->sock, json_pack("{s:s, s:s}", "do", "migrate-settle", "as", as),
			    NULL, 0, NULL, &err);

	if (r < 0)
		error_print(&err);
	return r;
}

/* One that waits for a guest may end faster than it answers. */
static bool end_destination(struct side *dst)
{
	struct error ignored = { 0 };
	int r = control_ask(dst->sock, json_pack("{s:s}", "do", "kill"), NULL, 0, NULL, &ignored);

	return r == 0 || r == -ECONNRESET;
}

/* The source is here, has committed, and does not know whether its guest runs. */
static bool settle_source(struct side *src, struct side *dst)
{
	if (dst->sock >= 0 && dst->waits) {
		printf("it was handed over and waits to be told so: '%s' runs now\n",
		       dst->journal.id);
		return settle(dst, "commit") == 0 && settle(src, "confirm") == 0;
	}
	if (is(dst, MIGRATE_PHASE_RUNNING) && dst->sock >= 0) {
		printf("it runs as '%s'\n", dst->journal.id);
		return settle(src, "confirm") == 0;
	}
	if (is(dst, MIGRATE_PHASE_RUNNING)) {
		printf("it ran as '%s', which has ended: the guest is no more\n", dst->journal.id);
		return settle(src, "confirm") == 0;
	}
	if (dst->known) {
		printf("'%s' ended before it ran: it goes on as '%s'\n", dst->journal.id,
		       src->journal.id);
		return settle(src, "take-back") == 0;
	}
	printf("it was handed over to %s, and whether it runs there is not known here. Stands "
	       "still as '%s'; look there, then 'wisp kill %s' when it runs\n",
	       src->journal.peer, src->journal.id, src->journal.id);
	return false;
}

/* The source is gone. */
static bool settle_destination(struct side *src, struct side *dst)
{
	if (dst->sock >= 0 && dst->waits && is(src, MIGRATE_PHASE_COMMITTED)) {
		printf("it was handed over, and '%s' ended: '%s' runs now\n", src->journal.id,
		       dst->journal.id);
		return settle(dst, "commit") == 0;
	}
	if (dst->sock >= 0 && dst->waits && src->known) {
		printf("'%s' ended and took its guest along, before it was handed over: '%s' "
		       "runs nothing and ends\n",
		       src->journal.id, dst->journal.id);
		return end_destination(dst);
	}
	if (dst->sock >= 0 && dst->waits) {
		printf("'%s' could run at once and waits to be told whether it was handed over: "
		       "ask 'wisp migrate --recover' at its source\n",
		       dst->journal.id);
		return false;
	}
	if (dst->sock >= 0)
		printf("it runs as '%s'\n", dst->journal.id);
	else if (is(src, MIGRATE_PHASE_COMMITTED) && !dst->known)
		printf("it was handed over to %s; '%s' has ended\n", src->journal.peer,
		       src->journal.id);
	else
		printf("neither side is there any more: the guest is no more\n");
	return true;
}

static int recover(void *arg, const struct migrate_journal *j)
{
	struct recovery *rec = arg;
	struct side src, dst;
	bool settled = true;

	open_side(&src, rec, j->uuid, MIGRATE_SOURCE);
	open_side(&dst, rec, j->uuid, MIGRATE_DESTINATION);
	/* Both journals here: once is enough. */
	if (j->role == MIGRATE_DESTINATION && src.known)
		goto out;
	if (rec->id && strcmp(rec->id, j->id) != 0 &&
	    (!dst.known || strcmp(rec->id, dst.journal.id) != 0))
		goto out;
	printf("%s: ", j->id);
	if (src.unconfirmed) {
		settled = settle_source(&src, &dst);
	} else if (src.sock >= 0) {
		printf("it is here, and as it was\n");
		if (dst.waits && dst.sock >= 0)
			end_destination(&dst);
	} else {
		settled = settle_destination(&src, &dst);
	}
	rec->left += !settled;
	/* A destination that runs keeps its own: it may yet have to be found by the source. */
	close_side(&src, settled);
	close_side(&dst, settled && dst.sock < 0);
	return 0;
out:
	close_side(&src, false);
	close_side(&dst, false);
	return 0;
}

int migrate_recover(const char *run_dir, const char *id, struct error *err)
{
	struct recovery rec = { .run_dir = run_dir, .id = id };
	int r = migrate_journal_for_each(run_dir, recover, &rec, err);

	return r < 0 ? r : rec.left;
}
