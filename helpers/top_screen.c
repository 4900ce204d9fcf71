/* The screen of `wisp top`: what is where, and in which colour. */
#include "helpers/top.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define HEAD_ROWS 5 /* title, bars, sums, a blank, the heads of columns */
#define MIN_ID	  8
#define MAX_ID	  24
#define MIN_BAR	  12
#define MAX_BAR	  40

/* Wide enough for "1023K/s", and for a number of exits. */
#define RATE_WIDTH 8

/* A line of the list. */
struct line {
	const struct top_machine *machine;
	struct top_rates rates;
};

struct layout {
	unsigned id, bar;
};

void top_screen_init(struct top_screen *s, unsigned rows, unsigned columns)
{
	s->rows = MIN(rows, (unsigned)TOP_MAX_ROWS);
	s->columns = MIN(columns, (unsigned)TOP_MAX_COLUMNS);
	for (unsigned r = 0; r < s->rows; r++)
		for (unsigned c = 0; c < s->columns; c++)
			s->cell[r][c] = (struct top_cell){ ' ', TOP_PLAIN };
}

/* Returns the column behind the text; what does not fit is cut off. */
__printf(5, 6) static unsigned put(struct top_screen *s, unsigned row, unsigned column,
				   enum top_style style, const char *fmt, ...)
{
	char text[TOP_MAX_COLUMNS + 1];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (const char *p = text; *p; p++, column++)
		if (row < s->rows && column < s->columns)
			s->cell[row][column] = (struct top_cell){ *p, style };
	return column;
}

static void paint(struct top_screen *s, unsigned row, enum top_style style)
{
	for (unsigned c = 0; row < s->rows && c < s->columns; c++)
		s->cell[row][c].style = style;
}

/* "[||||||    text]" of @width, full to @part of 1; the text stands over the bar's end. */
static unsigned put_bar(struct top_screen *s, unsigned row, unsigned column, unsigned width,
			double part, const char *text)
{
	unsigned inner = width - 2, len = strlen(text), full;
	enum top_style style = part < 0.5 ? TOP_LOW : part < 0.8 ? TOP_MEDIUM : TOP_HIGH;

	part = part < 0 ? 0 : part > 1 ? 1 : part;
	full = (unsigned)(part * inner + 0.5);
	/* Anything at all is seen. */
	if (part > 0.005 && !full)
		full = 1;
	put(s, row, column, TOP_BOLD, "[");
	for (unsigned i = 0; i < inner; i++) {
		bool in_text = len < inner && i >= inner - len;

		put(s, row, column + 1 + i, i < full ? style : TOP_PLAIN, "%c",
		    in_text    ? text[i - (inner - len)]
		    : i < full ? '|'
			       : ' ');
	}
	return put(s, row, column + width - 1, TOP_BOLD, "]");
}

static void put_rate(struct top_screen *s, unsigned row, unsigned column, double bytes)
{
	char size[USAGE_SIZE_TEXT];

	if (bytes < 0.5)
		put(s, row, column, TOP_PLAIN, "%*s", RATE_WIDTH, "-");
	else
		put(s, row, column, TOP_PLAIN, "%*s/s", RATE_WIDTH - 2,
		    usage_size_text(size, (uint64_t)bytes));
}

static const char *uptime_text(char *buf, size_t size, uint64_t ms)
{
	unsigned s = ms / 1000;

	if (s < 3600)
		snprintf(buf, size, "%u:%02u", s / 60, s % 60);
	else if (s < 86400)
		snprintf(buf, size, "%uh%02um", s / 3600, s / 60 % 60);
	else
		snprintf(buf, size, "%ud%02uh", s / 86400, s / 3600 % 24);
	return buf;
}

/* ---- order ---- */

static const char *order_name(enum top_order order)
{
	static const char *const names[] = {
		[TOP_BY_ID] = "name",	[TOP_BY_CPU] = "CPU",	  [TOP_BY_MEMORY] = "memory",
		[TOP_BY_DISK] = "disk", [TOP_BY_NET] = "network",
	};

	return names[order];
}

static double weight(const struct line *l, enum top_order order)
{
	switch (order) {
	case TOP_BY_CPU:
		return l->rates.cpu;
	case TOP_BY_MEMORY:
		return (double)l->machine->resident_bytes;
	case TOP_BY_DISK:
		return l->rates.disk_read + l->rates.disk_written;
	case TOP_BY_NET:
		return l->rates.net_in + l->rates.net_out;
	default:
		return 0;
	}
}

/* The most first; those of equal weight as they came, by name. */
static int compare(const void *a, const void *b, void *arg)
{
	const struct line *x = a, *y = b;
	const enum top_order *order = arg;
	double wx = weight(x, *order), wy = weight(y, *order);

	if (wx != wy)
		return wx > wy ? -1 : 1;
	return strcmp(x->machine->id, y->machine->id);
}

/* All lines in the order of @view, for the caller to free; NULL without memory. */
static struct line *make_lines(const struct top_sample *before, const struct top_sample *now,
			       const struct top_view *view)
{
	enum top_order order = view->order;
	struct line *lines = calloc(now->num + 1, sizeof(*lines));

	for (unsigned i = 0; lines && i < now->num; i++) {
		lines[i].machine = &now->machine[i];
		top_rates(&lines[i].rates, before, now, lines[i].machine);
	}
	if (lines)
		qsort_r(lines, now->num, sizeof(*lines), compare, &order);
	return lines;
}

/* Which line is selected: by name, so that it stays so when the order changes. */
static unsigned find_selected(const struct line *lines, unsigned num, const struct top_view *view)
{
	unsigned i = 0;

	while (i < num && strcmp(lines[i].machine->id, view->selected) != 0)
		i++;
	if (i < num)
		return i;
	/* It has ended: the one with the next name. */
	for (i = 0; i < num; i++)
		if (strcmp(lines[i].machine->id, view->selected) > 0)
			return i;
	return num ? num - 1 : 0;
}

static void select_line(const struct line *lines, unsigned num, unsigned index,
			struct top_view *view)
{
	snprintf(view->selected, sizeof(view->selected), "%s",
		 index < num ? lines[index].machine->id : "");
}

void top_move(const struct top_sample *before, const struct top_sample *now, struct top_view *view,
	      int by)
{
	struct line *lines = make_lines(before, now, view);
	int index;

	if (!lines)
		return;
	index = (int)find_selected(lines, now->num, view) + by;
	index = MIN(index, (int)now->num - 1);
	select_line(lines, now->num, (unsigned)MAX(index, 0), view);
	free(lines);
}

/* ---- parts ---- */

struct totals {
	struct top_rates rates;
	unsigned running, paused, other, cpus;
	uint64_t memory_bytes, resident_bytes;
};

static void add_up(struct totals *t, const struct line *lines, unsigned num)
{
	memset(t, 0, sizeof(*t));
	for (unsigned i = 0; i < num; i++) {
		const struct top_machine *m = lines[i].machine;
		const struct top_rates *r = &lines[i].rates;

		if (!strcmp(m->state, "running"))
			t->running++;
		else if (!strcmp(m->state, "paused"))
			t->paused++;
		else
			t->other++;
		t->cpus += m->cpus;
		t->memory_bytes += m->memory_bytes;
		t->resident_bytes += m->resident_bytes;
		t->rates.cpu += r->cpu;
		t->rates.exits += r->exits;
		t->rates.disk_read += r->disk_read;
		t->rates.disk_written += r->disk_written;
		t->rates.net_in += r->net_in;
		t->rates.net_out += r->net_out;
	}
}

static void draw_head(struct top_screen *s, const struct top_sample *now, const struct totals *t,
		      const struct top_view *view)
{
	char a[USAGE_SIZE_TEXT], b[USAGE_SIZE_TEXT], text[80];
	const struct host_room *room = &now->room;
	unsigned half = s->columns / 2, bar, c;

	c = put(s, 0, 0, TOP_BOLD, "wisp top");
	c = put(s, 0, c, TOP_PLAIN, "  %u microVM%s: %u running", now->num,
		now->num == 1 ? "" : "s", t->running);
	if (t->paused)
		c = put(s, 0, c, TOP_PLAIN, ", %u paused", t->paused);
	if (t->other)
		c = put(s, 0, c, TOP_HIGH, ", %u unresponsive", t->other);
	snprintf(text, sizeof(text), "by %s   load %.2f %.2f %.2f", order_name(view->order),
		 now->load[0], now->load[1], now->load[2]);
	if (c + 2 + strlen(text) <= s->columns)
		put(s, 0, s->columns - strlen(text), TOP_PLAIN, "%s", text);

	bar = MAX(half, 20u) - 9;
	c = put(s, 1, 0, TOP_BOLD, "CPU    ");
	snprintf(text, sizeof(text), "%.0f%% of %u%%", t->rates.cpu * 100, room->cpus * 100);
	put_bar(s, 1, c, bar, room->cpus ? t->rates.cpu / room->cpus : 0, text);
	c = put(s, 1, half, TOP_BOLD, "Memory ");
	snprintf(text, sizeof(text), "%s of %s", usage_size_text(a, t->resident_bytes),
		 usage_size_text(b, room->memory_bytes));
	put_bar(s, 1, c, bar,
		room->memory_bytes ? (double)t->resident_bytes / room->memory_bytes : 0, text);

	c = put(s, 2, 0, TOP_PLAIN, "promised: %u CPU%s, %s of memory; the host has %s available",
		t->cpus, t->cpus == 1 ? "" : "s", usage_size_text(a, t->memory_bytes),
		usage_size_text(b, room->available_bytes));
	snprintf(text, sizeof(text), "%.0f exits/s", t->rates.exits);
	if (c + 2 + strlen(text) <= s->columns)
		put(s, 2, s->columns - strlen(text), TOP_PLAIN, "%s", text);
}

/* Columns from left to right; the narrower the screen, the more of the last are cut off. */
static unsigned columns_width(const struct layout *l)
{
	return l->id + 1 + 9 + 2 * (l->bar + 1) + 4 * (RATE_WIDTH + 1) + 9 + 8;
}

static void choose_layout(struct layout *l, const struct line *lines, unsigned num,
			  unsigned columns)
{
	l->id = MIN_ID;
	for (unsigned i = 0; i < num; i++)
		l->id = MAX(l->id, (unsigned)strlen(lines[i].machine->id));
	l->id = MIN(l->id, (unsigned)MAX_ID);
	l->bar = MIN_BAR;
	while (l->bar < MAX_BAR && columns_width(l) + 2 <= columns)
		l->bar++;
}

static void draw_columns(struct top_screen *s, unsigned row, const struct layout *l)
{
	put(s, row, 0, TOP_HEAD, "%-*s %-9s%-*s %-*s %*s %*s %*s %*s %8s %7s", l->id, "ID", "STATE",
	    l->bar, "CPU", l->bar, "MEMORY", RATE_WIDTH, "READ", RATE_WIDTH, "WRITTEN", RATE_WIDTH,
	    "NET IN", RATE_WIDTH, "NET OUT", "EXITS/s", "UPTIME");
	paint(s, row, TOP_HEAD);
}

static void draw_line(struct top_screen *s, unsigned row, const struct layout *l,
		      const struct line *line, bool selected)
{
	const struct top_machine *m = line->machine;
	const struct top_rates *r = &line->rates;
	char a[USAGE_SIZE_TEXT], b[USAGE_SIZE_TEXT], text[64];
	unsigned c = l->id + 1;

	put(s, row, 0, TOP_PLAIN, "%.*s", l->id, m->id);
	put(s, row, c, !strcmp(m->state, "running") ? TOP_PLAIN : TOP_MEDIUM, "%.8s", m->state);
	c += 9;
	if (m->cpus) {
		snprintf(text, sizeof(text), "%.0f%%/%u", r->cpu * 100, m->cpus);
		put_bar(s, row, c, l->bar, r->cpu / m->cpus, text);
		c += l->bar + 1;
		snprintf(text, sizeof(text), l->bar >= 16 ? "%s/%s" : "%s",
			 usage_size_text(a, m->resident_bytes),
			 usage_size_text(b, m->memory_bytes));
		put_bar(s, row, c, l->bar, (double)m->resident_bytes / (double)m->memory_bytes,
			text);
		c += l->bar + 1;
		put_rate(s, row, c, r->disk_read);
		put_rate(s, row, c += RATE_WIDTH + 1, r->disk_written);
		put_rate(s, row, c += RATE_WIDTH + 1, r->net_in);
		put_rate(s, row, c += RATE_WIDTH + 1, r->net_out);
		put(s, row, c += RATE_WIDTH + 1, TOP_PLAIN, "%8.0f", r->exits);
		put(s, row, c + 9, TOP_PLAIN, "%7s", uptime_text(text, sizeof(text), m->uptime_ms));
	}
	if (selected)
		paint(s, row, TOP_SELECTED);
}

static void draw_foot(struct top_screen *s, const struct top_view *view)
{
	if (*view->message)
		put(s, s->rows - 1, 0, TOP_BOLD, "%s", view->message);
	else if (view->keys)
		put(s, s->rows - 1, 0, TOP_PLAIN,
		    "up/down select   p pause, resume   s stop   k kill   o order   q quit");
}

void top_draw(struct top_screen *s, const struct top_sample *before, const struct top_sample *now,
	      struct top_view *view)
{
	struct line *lines = make_lines(before, now, view);
	unsigned room, first = 0, selected;
	struct layout layout;
	struct totals totals;

	top_screen_init(s, s->rows, s->columns);
	if (s->rows < TOP_MIN_ROWS)
		put(s, 0, 0, TOP_BOLD, "wisp top: %u lines are too few   q quit", s->rows);
	if (!lines || s->rows < TOP_MIN_ROWS)
		goto out;
	selected = find_selected(lines, now->num, view);
	select_line(lines, now->num, selected, view);
	add_up(&totals, lines, now->num);
	draw_head(s, now, &totals, view);
	choose_layout(&layout, lines, now->num, s->columns);
	draw_columns(s, HEAD_ROWS - 1, &layout);
	room = s->rows - HEAD_ROWS - 1;
	if (selected >= room)
		first = selected - room + 1;
	for (unsigned i = 0; i < room && first + i < now->num; i++)
		draw_line(s, HEAD_ROWS + i, &layout, &lines[first + i],
			  view->keys && first + i == selected);
	draw_foot(s, view);
out:
	free(lines);
}
