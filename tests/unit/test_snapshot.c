/* Differential snapshots: what changed is known, and written down. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "tests/unit/fake_hv.h"
#include "vmm/saved/snapshot_pages.h"
#include "vmm/saved/snapshot_track.h"

/* Two ranges, of which the first ends with a word of a bitmap and the second does not. */
#define LOW_PAGES  128u
#define HIGH_PAGES 70u
#define PAGES	   (LOW_PAGES + HIGH_PAGES)
#define HIGH_GPA   (4 * GiB)

/* ---- watching ---- */

struct watched {
	struct guest_mem *mem;
	struct hv *hv;
	struct snapshot_track *track;
};

static struct guest_mem *create_memory(void)
{
	const struct guest_mem_range ranges[] = {
		{ .gpa = 0, .size = LOW_PAGES * PAGE_SIZE },
		{ .gpa = HIGH_GPA, .size = HIGH_PAGES * PAGE_SIZE },
	};
	struct guest_mem *mem;
	struct error err = { 0 };

	assert_int_equal(guest_mem_create(&mem, GUEST_MEM_ANON, ranges, 2, &err), 0);
	return mem;
}

static void watch_by(struct watched *w, const struct fake_hv_params *hv)
{
	struct error err = { 0 };

	w->mem = create_memory();
	w->hv = fake_hv_create(hv);
	for (unsigned i = 0; i < 2; i++) {
		struct guest_mem_range *r = &w->mem->range[i];

		r->slot = i;
		assert_int_equal(w->hv->ops->mem_set(w->hv, i, r->gpa, r->size, r->host, 0), 0);
	}
	assert_int_equal(snapshot_track_create(&w->track, w->mem, w->hv, &err), 0);
}

static void watch(struct watched *w)
{
	const struct fake_hv_params hv = { 0 };

	watch_by(w, &hv);
}

static void unwatch(struct watched *w)
{
	snapshot_track_free(w->track);
	w->hv->ops->free(w->hv);
	guest_mem_free(w->mem);
}

static void take(struct watched *w, const char *id)
{
	struct error err = { 0 };

	assert_int_equal(snapshot_track_take(w->track, id, &err), 0);
}

/* All that its taker does: its copy is written, and then it is safe. */
static void keep(struct watched *w, const char *id)
{
	snapshot_track_written(w->track, id);
	assert_int_equal(snapshot_track_keep(w->track, id, "/there"), 0);
}

static void guest_writes(struct watched *w, uint64_t gpa)
{
	assert_int_equal(fake_hv_write(w->hv, gpa, "g", 1), 0);
}

/* Exactly the @num pages of @expected, in ascending order, changed. */
static void expect_changed(struct watched *w, unsigned num, const unsigned *expected)
{
	const uint64_t *changed = snapshot_track_changed(w->track);
	uint64_t at = 0, end;

	for (unsigned i = 0; i < num; i++) {
		at = guest_mem_next_run(changed, PAGES, at, &end);
		assert_int_equal(at, expected[i]);
		at++;
	}
	assert_int_equal(guest_mem_next_run(changed, PAGES, at, &end), PAGES);
}

static void writes_of_guest_and_monitor_are_known(void **state)
{
	static const unsigned both[] = { 3, LOW_PAGES + HIGH_PAGES - 1 };
	struct watched w;

	watch(&w);
	take(&w, "one");
	keep(&w, "one");
	guest_writes(&w, 3 * PAGE_SIZE);
	assert_int_equal(guest_mem_write(w.mem, HIGH_GPA + (HIGH_PAGES - 1) * PAGE_SIZE, "m", 1),
			 0);
	take(&w, "two");
	expect_changed(&w, 2, both);
	unwatch(&w);
}

static void what_the_load_itself_wrote_is_no_part_of_its_snapshot(void **state)
{
	static const unsigned both[] = { 3, LOW_PAGES + 1 };
	const struct fake_hv_params hv = { 0 };
	struct snapshot_base base;
	struct error err = { 0 };
	struct watched w;

	watch_by(&w, &hv);
	snapshot_track_free(w.track);
	assert_int_equal(guest_mem_track_dirty(w.mem, true), 0);
	assert_int_equal(guest_mem_write(w.mem, HIGH_GPA + PAGE_SIZE, "m", 1), 0);
	assert_int_equal(snapshot_track_loaded(&w.track, w.mem, w.hv, "file", "/file", &err), 0);
	assert_true(snapshot_track_base(w.track, &base));
	assert_string_equal(base.path, "/file");
	guest_writes(&w, 3 * PAGE_SIZE);
	take(&w, "one");
	expect_changed(&w, 2, both);
	unwatch(&w);
}

static void nothing_is_a_base_until_it_is_kept(void **state)
{
	struct snapshot_base base;
	struct watched w;

	watch(&w);
	assert_false(snapshot_track_base(w.track, &base));
	take(&w, "one");
	assert_false(snapshot_track_base(w.track, &base));
	keep(&w, "one");
	assert_true(snapshot_track_base(w.track, &base));
	assert_string_equal(base.id, "one");
	assert_string_equal(base.path, "/there");
	unwatch(&w);
}

static void nothing_is_a_base_until_it_is_written(void **state)
{
	struct snapshot_base base;
	struct watched w;

	watch(&w);
	take(&w, "one");
	assert_int_equal(snapshot_track_keep(w.track, "one", "/one"), -EBUSY);
	assert_false(snapshot_track_base(w.track, &base));
	keep(&w, "one");
	assert_true(snapshot_track_base(w.track, &base));
	/* What was written is the snapshot before, not the one that is being taken. */
	take(&w, "two");
	snapshot_track_written(w.track, "one");
	assert_int_equal(snapshot_track_keep(w.track, "two", "/two"), -EBUSY);
	unwatch(&w);
}

static void log_that_begins_with_all_pages_means_none(void **state)
{
	static const unsigned one[] = { 3 };
	const struct fake_hv_params hv = { .log_begins_full = true };
	struct watched w;

	watch_by(&w, &hv);
	take(&w, "one");
	expect_changed(&w, 0, NULL);
	keep(&w, "one");
	guest_writes(&w, 3 * PAGE_SIZE);
	take(&w, "two");
	expect_changed(&w, 1, one);
	unwatch(&w);
}

static void changes_before_a_snapshot_that_was_lost_come_again(void **state)
{
	static const unsigned all[] = { 1, 5 }, last[] = { 7 };
	struct watched w;

	watch(&w);
	take(&w, "one");
	keep(&w, "one");
	guest_writes(&w, 1 * PAGE_SIZE);
	take(&w, "lost");
	guest_writes(&w, 5 * PAGE_SIZE);
	take(&w, "three");
	expect_changed(&w, 2, all);
	/* Too late: what changed after it is in "three" already. */
	snapshot_track_written(w.track, "lost");
	assert_int_equal(snapshot_track_keep(w.track, "lost", "/lost"), -ESTALE);
	assert_int_equal(snapshot_track_keep(w.track, "three", "/three"), -EBUSY);
	keep(&w, "three");
	assert_int_equal(snapshot_track_keep(w.track, "three", "/three"), -ESTALE);
	guest_writes(&w, 7 * PAGE_SIZE);
	take(&w, "four");
	expect_changed(&w, 1, last);
	unwatch(&w);
}

/* ---- which pages ---- */

static void list_of_pages_comes_back(void **state)
{
	uint64_t pages[4] = { 1, 0, 1ull << 63, 5 }, *again;
	struct state_writer w;
	struct error err = { 0 };

	state_writer_init(&w);
	snapshot_pages_write(&w, pages, PAGES);
	assert_int_equal(w.failed, 0);
	assert_int_equal(snapshot_pages_read(w.buf, w.len, PAGES, &again, &err), 0);
	assert_memory_equal(pages, again, sizeof(pages));
	free(again);
	/* RAM of another size, cut off, changed. */
	assert_int_equal(snapshot_pages_read(w.buf, w.len, PAGES - 1, &again, &err), -EBADMSG);
	assert_int_equal(snapshot_pages_read(w.buf, w.len - 1, PAGES, &again, &err), -EBADMSG);
	w.buf[100] ^= 1;
	assert_int_equal(snapshot_pages_read(w.buf, w.len, PAGES, &again, &err), -EBADMSG);
	state_writer_done(&w);
}

static void pages_beyond_ram_are_refused(void **state)
{
	uint64_t pages[4] = { [3] = 1ull << (PAGES % 64) }, *again;
	struct state_writer w;
	struct error err = { 0 };

	state_writer_init(&w);
	snapshot_pages_write(&w, pages, PAGES);
	assert_int_equal(snapshot_pages_read(w.buf, w.len, PAGES, &again, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "beyond"));
	state_writer_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_of_guest_and_monitor_are_known),
		cmocka_unit_test(what_the_load_itself_wrote_is_no_part_of_its_snapshot),
		cmocka_unit_test(nothing_is_a_base_until_it_is_kept),
		cmocka_unit_test(nothing_is_a_base_until_it_is_written),
		cmocka_unit_test(log_that_begins_with_all_pages_means_none),
		cmocka_unit_test(changes_before_a_snapshot_that_was_lost_come_again),
		cmocka_unit_test(list_of_pages_comes_back),
		cmocka_unit_test(pages_beyond_ram_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
