/* The screen of `wisp top`: rates between two moments, and what is drawn of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "helpers/top.h"

static struct top_machine machine(const char *id, uint64_t cpu_ms, uint64_t resident)
{
	struct top_machine m = {
		.state = "running",
		.cpus = 2,
		.memory_bytes = 256 * MiB,
		.resident_bytes = resident,
		.uptime_ms = 65000,
		.cpu_ms = cpu_ms,
	};

	snprintf(m.id, sizeof(m.id), "%s", id);
	return m;
}

struct two_moments {
	struct top_machine was[3], is[3];
	struct top_sample before, now;
	struct top_view view;
	struct top_screen screen;
};

/* Over two seconds "a" keeps half a processor busy, "b" two of them, "c" none. */
static struct two_moments *create(void)
{
	struct two_moments *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	t->was[0] = machine("a", 1000, 128 * MiB);
	t->was[1] = machine("b", 1000, 32 * MiB);
	t->was[2] = machine("c", 1000, 64 * MiB);
	memcpy(t->is, t->was, sizeof(t->is));
	t->is[0].cpu_ms += 1000;
	t->is[1].cpu_ms += 4000;
	t->is[1].disk_read = 2 * MiB;
	t->is[2].net_out = 4 * KiB;
	t->is[2].exits = 300;
	t->before = (struct top_sample){ .time_ms = 5000, .machine = t->was, .num = 3 };
	t->now = (struct top_sample){ .time_ms = 7000, .machine = t->is, .num = 3 };
	t->now.room = (struct host_room){ 4, 8 * GiB, 6 * GiB };
	top_screen_init(&t->screen, 24, 132);
	return t;
}

static const char *row_text(const struct top_screen *s, unsigned row)
{
	static char text[TOP_MAX_COLUMNS + 1];
	unsigned len = s->columns;

	for (unsigned c = 0; c < s->columns; c++)
		text[c] = s->cell[row][c].ch;
	while (len && text[len - 1] == ' ')
		len--;
	text[len] = '\0';
	return text;
}

/* The row that starts with @id, or -1. */
static int find_row(const struct top_screen *s, const char *id)
{
	for (unsigned r = 0; r < s->rows; r++)
		if (!strncmp(row_text(s, r), id, strlen(id)) && row_text(s, r)[strlen(id)] == ' ')
			return (int)r;
	return -1;
}

static void draw(struct two_moments *t)
{
	top_draw(&t->screen, &t->before, &t->now, &t->view);
}

static void rates_are_what_grew_by_the_second(void **state)
{
	struct two_moments *t = create();
	struct top_rates r;

	top_rates(&r, &t->before, &t->now, &t->is[0]);
	assert_true(r.cpu == 0.5 && r.disk_read == 0);
	top_rates(&r, &t->before, &t->now, &t->is[1]);
	assert_true(r.cpu == 2 && r.disk_read == MiB);
	top_rates(&r, &t->before, &t->now, &t->is[2]);
	assert_true(r.net_out == 2 * KiB && r.exits == 150);
	free(t);
}

static void another_microvm_of_the_same_name_starts_from_nothing(void **state)
{
	struct two_moments *t = create();
	struct top_rates r;

	t->is[1].uptime_ms = 10;
	top_rates(&r, &t->before, &t->now, &t->is[1]);
	assert_true(r.cpu == 0 && r.disk_read == 0);
	top_rates(&r, NULL, &t->now, &t->is[0]);
	assert_true(r.cpu == 0);
	/* Counters that fell, as after a restore, are no rate. */
	t->is[0].cpu_ms = 0;
	top_rates(&r, &t->before, &t->now, &t->is[0]);
	assert_true(r.cpu == 0);
	free(t);
}

static void bars_show_how_much_of_what_there_is(void **state)
{
	struct two_moments *t = create();
	const char *line;

	draw(t);
	line = row_text(&t->screen, find_row(&t->screen, "a"));
	assert_non_null(strstr(line, "50%/2]"));
	assert_non_null(strstr(line, "128M"));
	assert_non_null(strstr(line, "1:05"));
	line = row_text(&t->screen, find_row(&t->screen, "b"));
	/* All of its two processors: the bar is full up to its text. */
	assert_non_null(strstr(line, "[||||"));
	assert_non_null(strstr(line, "|200%/2]"));
	assert_non_null(strstr(line, "1.0M/s"));
	line = row_text(&t->screen, 1);
	assert_non_null(strstr(line, "250% of 400%"));
	assert_non_null(strstr(line, "224M of 8.0G"));
	assert_non_null(strstr(row_text(&t->screen, 2), "6 CPUs, 768M of memory"));
	free(t);
}

static void order_is_the_one_chosen(void **state)
{
	static const struct {
		enum top_order order;
		const char *first, *second;
	} orders[] = {
		{ TOP_BY_ID, "a", "b" },   { TOP_BY_CPU, "b", "a" }, { TOP_BY_MEMORY, "a", "c" },
		{ TOP_BY_DISK, "b", "a" }, { TOP_BY_NET, "c", "a" },
	};
	struct two_moments *t = create();

	for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
		t->view.order = orders[i].order;
		draw(t);
		assert_int_equal(find_row(&t->screen, orders[i].first), 5);
		assert_int_equal(find_row(&t->screen, orders[i].second), 6);
	}
	free(t);
}

static void selection_follows_its_microvm(void **state)
{
	struct two_moments *t = create();

	t->view.keys = true;
	draw(t);
	assert_string_equal(t->view.selected, "a");
	top_move(&t->before, &t->now, &t->view, 1);
	assert_string_equal(t->view.selected, "b");
	t->view.order = TOP_BY_CPU;
	draw(t);
	assert_string_equal(t->view.selected, "b");
	assert_int_equal(t->screen.cell[5][0].style, TOP_SELECTED);
	/* It ends: the next one by name takes its place. */
	t->view.order = TOP_BY_ID;
	t->is[1] = t->is[2];
	t->now.num = 2;
	draw(t);
	assert_string_equal(t->view.selected, "c");
	top_move(&t->before, &t->now, &t->view, 5);
	assert_string_equal(t->view.selected, "c");
	top_move(&t->before, &t->now, &t->view, -5);
	assert_string_equal(t->view.selected, "a");
	t->now.num = 0;
	draw(t);
	assert_string_equal(t->view.selected, "");
	top_move(&t->before, &t->now, &t->view, 1);
	assert_string_equal(t->view.selected, "");
	free(t);
}

static void selected_line_is_scrolled_into_sight(void **state)
{
	struct top_machine many[50];
	struct top_sample now = { .time_ms = 1, .machine = many, .num = ARRAY_SIZE(many) };
	struct two_moments *t = create();
	char id[8];

	for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
		snprintf(id, sizeof(id), "m%02u", i);
		many[i] = machine(id, 0, 0);
	}
	snprintf(t->view.selected, sizeof(t->view.selected), "m40");
	top_draw(&t->screen, NULL, &now, &t->view);
	assert_true(find_row(&t->screen, "m40") > 0);
	assert_int_equal(find_row(&t->screen, "m00"), -1);
	free(t);
}

/* Whatever the terminal is resized to. */
static void any_size_of_screen_is_drawn_within(void **state)
{
	struct two_moments *t = create();

	for (unsigned rows = 0; rows < 12; rows++) {
		for (unsigned columns = 0; columns < 150; columns += 7) {
			memset(t->screen.cell, 0x7f, sizeof(t->screen.cell));
			top_screen_init(&t->screen, rows, columns);
			draw(t);
			assert_int_equal(t->screen.cell[rows][0].ch, 0x7f);
			assert_int_equal(t->screen.cell[0][columns].ch, 0x7f);
		}
	}
	top_screen_init(&t->screen, 100000, 100000);
	draw(t);
	assert_int_equal(t->screen.rows, TOP_MAX_ROWS);
	free(t);
}

static void sample_takes_bytes_from_disks_and_networks(void **state)
{
	json_t *all = json_loads(
		"[{\"id\":\"x\",\"state\":\"running\",\"cpus\":1,\"memory\":4096,\"counters\":{"
		"\"exits\":{\"total\":9},\"devices\":[{\"type\":\"virtio-net\",\"queues\":["
		"{\"in_bytes\":10,\"out_bytes\":1},{\"in_bytes\":2,\"out_bytes\":20},"
		"{\"in_bytes\":100,\"out_bytes\":100}]},{\"type\":\"virtio-blk\",\"counters\":"
		"{\"read_bytes\":30,\"written_bytes\":40}}]}},{\"id\":\"y\","
		"\"state\":\"unresponsive\"}]",
		0, NULL);
	struct top_sample s = { 0 };

	assert_non_null(all);
	assert_int_equal(top_sample_fill(&s, all), 0);
	assert_int_equal(s.num, 2);
	assert_int_equal(s.machine[0].net_in, 10);
	assert_int_equal(s.machine[0].net_out, 20);
	assert_int_equal(s.machine[0].disk_read, 30);
	assert_int_equal(s.machine[0].disk_written, 40);
	assert_int_equal(s.machine[0].exits, 9);
	assert_string_equal(s.machine[1].state, "unresponsive");
	top_sample_done(&s);
	json_decref(all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rates_are_what_grew_by_the_second),
		cmocka_unit_test(another_microvm_of_the_same_name_starts_from_nothing),
		cmocka_unit_test(bars_show_how_much_of_what_there_is),
		cmocka_unit_test(order_is_the_one_chosen),
		cmocka_unit_test(selection_follows_its_microvm),
		cmocka_unit_test(selected_line_is_scrolled_into_sight),
		cmocka_unit_test(any_size_of_screen_is_drawn_within),
		cmocka_unit_test(sample_takes_bytes_from_disks_and_networks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
