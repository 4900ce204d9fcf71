/* What --recover decides, for every pair of sides that could be found; and what journals say. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/migrate/migrate_recovery.h"

#define NUM_FOUND (MIGRATE_HOLDS + 1)

static struct migrate_side side(enum migrate_found found, const char *phase)
{
	struct migrate_side s = { .known = phase != NULL, .found = found };

	if (phase)
		snprintf(s.journal.phase, sizeof(s.journal.phase), "%s", phase);
	return s;
}

static enum migrate_verdict decide(enum migrate_found src, const char *src_phase,
				   enum migrate_found dst, const char *dst_phase)
{
	const struct migrate_side s = side(src, src_phase), d = side(dst, dst_phase);

	return migrate_decide(&s, &d);
}

static const char *const source_phases[] = {
	NULL,
	MIGRATE_PHASE_STARTED,
	MIGRATE_PHASE_COMMITTED,
	MIGRATE_PHASE_SERVING,
	MIGRATE_PHASE_CONFIRMED,
	MIGRATE_PHASE_RETURNED,
};

static const char *const destination_phases[] = {
	NULL,
	MIGRATE_PHASE_STARTED,
	MIGRATE_PHASE_PREPARED,
	MIGRATE_PHASE_FILLING,
	MIGRATE_PHASE_RUNNING,
	MIGRATE_PHASE_GIVEN_UP,
};

/* Call check() with all there could be, and what is decided. */
static void for_each_pair(void (*check)(const struct migrate_side *src,
					const struct migrate_side *dst,
					enum migrate_verdict verdict))
{
	for (unsigned i = 0; i < NUM_FOUND * ARRAY_SIZE(source_phases); i++) {
		for (unsigned k = 0; k < NUM_FOUND * ARRAY_SIZE(destination_phases); k++) {
			const struct migrate_side s = side(i % NUM_FOUND,
							   source_phases[i / NUM_FOUND]);
			const struct migrate_side d = side(k % NUM_FOUND,
							   destination_phases[k / NUM_FOUND]);

			if (s.known || d.known)
				check(&s, &d, migrate_decide(&s, &d));
		}
	}
}

static void check_take_back(const struct migrate_side *src, const struct migrate_side *dst,
			    enum migrate_verdict verdict)
{
	if (verdict != MIGRATE_TAKE_BACK)
		return;
	assert_true(src->known && src->found == MIGRATE_WAITS);
	assert_true(dst->known);
	assert_false(migrate_side_is(dst, MIGRATE_PHASE_RUNNING));
	assert_false(migrate_side_is(dst, MIGRATE_PHASE_FILLING));
	assert_true(dst->found == MIGRATE_GONE || migrate_side_is(dst, MIGRATE_PHASE_GIVEN_UP));
}

static void the_source_goes_on_only_when_the_destination_never_will(void **state)
{
	for_each_pair(check_take_back);
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_COMMITTED, MIGRATE_GONE,
				MIGRATE_PHASE_PREPARED),
			 MIGRATE_TAKE_BACK);
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_COMMITTED, MIGRATE_GONE,
				MIGRATE_PHASE_GIVEN_UP),
			 MIGRATE_TAKE_BACK);
}

static void check_run_there(const struct migrate_side *src, const struct migrate_side *dst,
			    enum migrate_verdict verdict)
{
	if (verdict != MIGRATE_RUN_THERE)
		return;
	assert_int_equal(dst->found, MIGRATE_WAITS);
	assert_true(src->found == MIGRATE_WAITS ||
		    (src->found == MIGRATE_GONE && migrate_side_is(src, MIGRATE_PHASE_COMMITTED)));
}

static void the_destination_runs_only_what_the_source_gave_away(void **state)
{
	for_each_pair(check_run_there);
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_COMMITTED, MIGRATE_WAITS,
				MIGRATE_PHASE_PREPARED),
			 MIGRATE_RUN_THERE);
	assert_int_equal(decide(MIGRATE_GONE, MIGRATE_PHASE_COMMITTED, MIGRATE_WAITS,
				MIGRATE_PHASE_PREPARED),
			 MIGRATE_RUN_THERE);
}

static void check_confirm(const struct migrate_side *src, const struct migrate_side *dst,
			  enum migrate_verdict verdict)
{
	if (verdict == MIGRATE_CONFIRM)
		assert_true(src->found == MIGRATE_WAITS &&
			    migrate_side_is(dst, MIGRATE_PHASE_RUNNING));
}

static void the_source_ends_only_when_the_destination_has_run(void **state)
{
	for_each_pair(check_confirm);
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_COMMITTED, MIGRATE_HOLDS,
				MIGRATE_PHASE_RUNNING),
			 MIGRATE_CONFIRM);
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_COMMITTED, MIGRATE_GONE,
				MIGRATE_PHASE_RUNNING),
			 MIGRATE_CONFIRM);
}

static void check_end_there(const struct migrate_side *src, const struct migrate_side *dst,
			    enum migrate_verdict verdict)
{
	if (verdict != MIGRATE_END_THERE)
		return;
	assert_true(src->known && (src->found == MIGRATE_HOLDS || src->found == MIGRATE_GONE));
	if (src->found == MIGRATE_GONE)
		assert_false(migrate_side_is(src, MIGRATE_PHASE_COMMITTED));
	assert_true(dst->found == MIGRATE_WAITS || dst->found == MIGRATE_BUSY);
}

static void the_destination_ends_only_when_the_guest_was_never_its(void **state)
{
	for_each_pair(check_end_there);
	assert_int_equal(decide(MIGRATE_HOLDS, MIGRATE_PHASE_STARTED, MIGRATE_WAITS,
				MIGRATE_PHASE_PREPARED),
			 MIGRATE_END_THERE);
	assert_int_equal(decide(MIGRATE_GONE, MIGRATE_PHASE_STARTED, MIGRATE_WAITS,
				MIGRATE_PHASE_PREPARED),
			 MIGRATE_END_THERE);
}

static void check_left_alone(const struct migrate_side *src, const struct migrate_side *dst,
			     enum migrate_verdict verdict)
{
	if (src->known && src->found == MIGRATE_BUSY)
		assert_int_equal(verdict, MIGRATE_UNDER_WAY);
	if (src->known && src->found == MIGRATE_SILENT)
		assert_int_equal(verdict, MIGRATE_ASK_AGAIN);
}

static void what_is_under_way_or_silent_is_left_alone(void **state)
{
	for_each_pair(check_left_alone);
	/* It was told nothing yet, and may be in a moment. */
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_COMMITTED, MIGRATE_BUSY,
				MIGRATE_PHASE_PREPARED),
			 MIGRATE_ASK_AGAIN);
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_COMMITTED, MIGRATE_SILENT,
				MIGRATE_PHASE_PREPARED),
			 MIGRATE_ASK_AGAIN);
	assert_int_equal(decide(MIGRATE_HOLDS, MIGRATE_PHASE_STARTED, MIGRATE_SILENT,
				MIGRATE_PHASE_PREPARED),
			 MIGRATE_ASK_AGAIN);
}

static void check_settled(const struct migrate_side *src, const struct migrate_side *dst,
			  enum migrate_verdict verdict)
{
	if (verdict == MIGRATE_SETTLED) {
		assert_false(src->known && src->found == MIGRATE_WAITS);
		if (dst->known && dst->found == MIGRATE_WAITS &&
		    !migrate_side_is(src, MIGRATE_PHASE_CONFIRMED))
			assert_true(migrate_side_is(dst, MIGRATE_PHASE_RUNNING) ||
				    migrate_side_is(dst, MIGRATE_PHASE_GIVEN_UP));
	}
}

static void nobody_is_left_waiting_by_what_is_settled(void **state)
{
	for_each_pair(check_settled);
	assert_int_equal(decide(MIGRATE_HOLDS, MIGRATE_PHASE_STARTED, MIGRATE_GONE, NULL),
			 MIGRATE_SETTLED);
	assert_int_equal(decide(MIGRATE_GONE, NULL, MIGRATE_HOLDS, MIGRATE_PHASE_RUNNING),
			 MIGRATE_SETTLED);
}

static void one_side_alone_is_for_a_person_to_settle(void **state)
{
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_COMMITTED, MIGRATE_GONE, NULL),
			 MIGRATE_ASK_THERE);
	assert_int_equal(decide(MIGRATE_GONE, NULL, MIGRATE_WAITS, MIGRATE_PHASE_PREPARED),
			 MIGRATE_ASK_THERE);
}

static void check_lost(const struct migrate_side *src, const struct migrate_side *dst,
		       enum migrate_verdict verdict)
{
	if (verdict != MIGRATE_LOST)
		return;
	/* It was in both, one of which is there no more. */
	assert_true(migrate_side_is(dst, MIGRATE_PHASE_FILLING) ||
		    migrate_side_is(src, MIGRATE_PHASE_SERVING));
	assert_false(migrate_side_is(dst, MIGRATE_PHASE_RUNNING));
	assert_true(src->found == MIGRATE_GONE || dst->found == MIGRATE_GONE);
}

static void a_guest_in_two_is_lost_only_with_one_of_them(void **state)
{
	for_each_pair(check_lost);
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_SERVING, MIGRATE_HOLDS,
				MIGRATE_PHASE_FILLING),
			 MIGRATE_GO_ON);
	/* Committed, and the source has not heard that it ran. */
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_COMMITTED, MIGRATE_HOLDS,
				MIGRATE_PHASE_FILLING),
			 MIGRATE_GO_ON);
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_SERVING, MIGRATE_GONE,
				MIGRATE_PHASE_FILLING),
			 MIGRATE_LOST);
	assert_int_equal(decide(MIGRATE_GONE, MIGRATE_PHASE_SERVING, MIGRATE_HOLDS,
				MIGRATE_PHASE_FILLING),
			 MIGRATE_LOST);
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_SERVING, MIGRATE_HOLDS,
				MIGRATE_PHASE_RUNNING),
			 MIGRATE_CONFIRM);
	assert_int_equal(decide(MIGRATE_BUSY, MIGRATE_PHASE_SERVING, MIGRATE_HOLDS,
				MIGRATE_PHASE_FILLING),
			 MIGRATE_UNDER_WAY);
	assert_int_equal(decide(MIGRATE_WAITS, MIGRATE_PHASE_SERVING, MIGRATE_SILENT,
				MIGRATE_PHASE_FILLING),
			 MIGRATE_ASK_AGAIN);
}

/* ---- what a journal says, and whose it is ---- */

static void a_journals_last_whole_line_counts(void **state)
{
	char dir[] = "/tmp/test_migrate.XXXXXX";
	struct migrate_journal j = { .fd = -1, .role = MIGRATE_SOURCE }, found;
	uint8_t uuid[MIGRATE_UUID_BYTES] = { 0xab, 1 };
	struct error err = { 0 };

	assert_non_null(mkdtemp(dir));
	migrate_uuid_print(uuid, j.uuid);
	strcpy(j.id, "vm1");
	strcpy(j.peer, "tcp:1.2.3.4:5");
	if (migrate_journal_create(&j, dir, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(migrate_journal_read(dir, j.uuid, MIGRATE_SOURCE, &found), 0);
	assert_string_equal(found.phase, "started");
	assert_string_equal(found.id, "vm1");
	assert_string_equal(found.peer, "tcp:1.2.3.4:5");
	assert_int_equal(migrate_note(j.fd, MIGRATE_PHASE_COMMITTED), 0);
	/* Killed in the middle of a word. */
	assert_int_equal(write(j.fd, "confi", 5), 5);
	assert_int_equal(migrate_journal_read(dir, j.uuid, MIGRATE_SOURCE, &found), 0);
	assert_string_equal(found.phase, MIGRATE_PHASE_COMMITTED);
	assert_int_equal(migrate_journal_read(dir, j.uuid, MIGRATE_DESTINATION, &found), -ENOENT);
	migrate_journal_remove(&j);
	assert_int_equal(migrate_journal_read(dir, j.uuid, MIGRATE_SOURCE, &found), -ENOENT);
	snprintf(found.path, sizeof(found.path), "%s/.migrations", dir);
	rmdir(found.path);
	rmdir(dir);
}

static void names_of_migrations_survive_text(void **state)
{
	uint8_t uuid[MIGRATE_UUID_BYTES], back[MIGRATE_UUID_BYTES];
	char text[MIGRATE_UUID_TEXT];

	assert_int_equal(migrate_uuid_new(uuid), 0);
	migrate_uuid_print(uuid, text);
	assert_int_equal(migrate_uuid_parse(text, back), 0);
	assert_memory_equal(uuid, back, sizeof(uuid));
	text[3] = 'G';
	assert_int_equal(migrate_uuid_parse(text, back), -EINVAL);
	assert_int_equal(migrate_uuid_parse("ab", back), -EINVAL);
}

struct journals {
	char dir[40];
	struct migrate_journal src, dst;
};

static void create(struct migrate_journal *j, enum migrate_role role, const char *dir)
{
	struct error err = { 0 };

	*j = (struct migrate_journal){ .role = role, .fd = -1 };
	memset(j->uuid, 'a', MIGRATE_UUID_TEXT - 1);
	strcpy(j->id, "web");
	strcpy(j->peer, "elsewhere");
	if (migrate_journal_create(j, dir, &err) < 0)
		fail_msg("%s", err.msg);
}

static int begin(void **state)
{
	struct journals *js = calloc(1, sizeof(*js));

	strcpy(js->dir, "/tmp/test_recovery.XXXXXX");
	assert_non_null(mkdtemp(js->dir));
	create(&js->src, MIGRATE_SOURCE, js->dir);
	create(&js->dst, MIGRATE_DESTINATION, js->dir);
	*state = js;
	return 0;
}

static int end(void **state)
{
	struct journals *js = *state;
	char path[64];

	migrate_journal_remove(&js->src);
	migrate_journal_remove(&js->dst);
	unlink(js->src.path);
	unlink(js->dst.path);
	snprintf(path, sizeof(path), "%s/.migrations", js->dir);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(rmdir(js->dir), 0);
	free(js);
	return 0;
}

static int read_it(const struct journals *js, enum migrate_role role, struct migrate_journal *ret)
{
	return migrate_journal_read(js->dir, js->src.uuid, role, ret);
}

static void a_journal_is_held_as_long_as_somebody_could_write_to_it(void **state)
{
	struct journals *js = *state;
	struct migrate_journal now;
	int monitor = fcntl(js->src.fd, F_DUPFD_CLOEXEC, 3);

	assert_int_equal(read_it(js, MIGRATE_SOURCE, &now), 0);
	assert_true(now.held);
	/* The verb is gone, and the monitor that got a copy of its descriptor is there. */
	migrate_journal_leave(&js->src);
	assert_int_equal(read_it(js, MIGRATE_SOURCE, &now), 0);
	assert_true(now.held);
	close(monitor);
	assert_int_equal(read_it(js, MIGRATE_SOURCE, &now), 0);
	assert_false(now.held);
}

static void nothing_is_left_of_a_destination_that_has_ended(void **state)
{
	struct journals *js = *state;
	struct migrate_journal now;

	migrate_journal_leave(&js->dst);
	migrate_journal_forget(js->dir, js->src.uuid);
	assert_int_not_equal(read_it(js, MIGRATE_SOURCE, &now), 0);
	assert_int_not_equal(read_it(js, MIGRATE_DESTINATION, &now), 0);
}

static void nothing_is_left_of_a_destination_that_gave_up(void **state)
{
	struct journals *js = *state;
	struct migrate_journal now;

	assert_int_equal(migrate_note(js->dst.fd, MIGRATE_PHASE_GIVEN_UP), 0);
	migrate_journal_forget(js->dir, js->src.uuid);
	assert_int_not_equal(read_it(js, MIGRATE_DESTINATION, &now), 0);
}

static void a_destination_that_is_there_keeps_its_journal(void **state)
{
	struct journals *js = *state;
	struct migrate_journal now;

	migrate_journal_forget(js->dir, js->src.uuid);
	assert_int_not_equal(read_it(js, MIGRATE_SOURCE, &now), 0);
	assert_int_equal(read_it(js, MIGRATE_DESTINATION, &now), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_source_goes_on_only_when_the_destination_never_will),
		cmocka_unit_test(the_destination_runs_only_what_the_source_gave_away),
		cmocka_unit_test(the_source_ends_only_when_the_destination_has_run),
		cmocka_unit_test(the_destination_ends_only_when_the_guest_was_never_its),
		cmocka_unit_test(what_is_under_way_or_silent_is_left_alone),
		cmocka_unit_test(nobody_is_left_waiting_by_what_is_settled),
		cmocka_unit_test(one_side_alone_is_for_a_person_to_settle),
		cmocka_unit_test(a_guest_in_two_is_lost_only_with_one_of_them),
		cmocka_unit_test(a_journals_last_whole_line_counts),
		cmocka_unit_test(names_of_migrations_survive_text),
		cmocka_unit_test_setup_teardown(
			a_journal_is_held_as_long_as_somebody_could_write_to_it, begin, end),
		cmocka_unit_test_setup_teardown(nothing_is_left_of_a_destination_that_has_ended,
						begin, end),
		cmocka_unit_test_setup_teardown(nothing_is_left_of_a_destination_that_gave_up,
						begin, end),
		cmocka_unit_test_setup_teardown(a_destination_that_is_there_keeps_its_journal,
						begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
