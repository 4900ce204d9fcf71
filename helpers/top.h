/*
 * What `wisp top` shows, apart from how a terminal is driven: figures of all microVMs at one
 * moment, and the screen that two such moments make. Pure code over plain data; the only
 * threads and terminals are helpers/wisp-top.c's.
 */
#ifndef WISP_HELPERS_TOP_H
#define WISP_HELPERS_TOP_H

#include <jansson.h>

#include "vmm/cli/usage.h"
#include "vmm/core/util.h"

#define TOP_MAX_COLUMNS 400
#define TOP_MAX_ROWS	200
#define TOP_MIN_ROWS	7 /* with fewer there is no list, but a word about that */

/* ---- figures ---- */

/* One microVM; what grows does so from its start. */
struct top_machine {
	char id[72];
	char state[16];
	unsigned cpus;
	uint64_t memory_bytes, resident_bytes;
	uint64_t uptime_ms;
	uint64_t cpu_ms, exits;
	uint64_t disk_read, disk_written; /* bytes */
	uint64_t net_in, net_out;	  /* bytes, headers between driver and device included */
};

struct top_sample {
	uint64_t time_ms; /* on any clock that all samples share */
	struct host_room room;
	double load[3];
	struct top_machine *machine;
	unsigned num;
};

/* Fill @s from @machines, as fleet_list() has them with counters. -ENOMEM. */
int top_sample_fill(struct top_sample *s, const json_t *machines);
void top_sample_done(struct top_sample *s);

/* What happened between two samples, each second. */
struct top_rates {
	double cpu; /* processors kept busy: 1.5 is one and a half */
	double exits, disk_read, disk_written, net_in, net_out;
};

/* Of @now since @before: zero for one that was not there, or is another of the same name. */
void top_rates(struct top_rates *ret, const struct top_sample *before, const struct top_sample *now,
	       const struct top_machine *machine);

/* ---- the screen ---- */

enum top_style { TOP_PLAIN, TOP_BOLD, TOP_LOW, TOP_MEDIUM, TOP_HIGH, TOP_HEAD, TOP_SELECTED };

struct top_cell {
	char ch;
	uint8_t style; /* enum top_style */
};

struct top_screen {
	unsigned rows, columns;
	struct top_cell cell[TOP_MAX_ROWS][TOP_MAX_COLUMNS];
};

/* Empty, at most as large as a screen can be. */
void top_screen_init(struct top_screen *s, unsigned rows, unsigned columns);

enum top_order { TOP_BY_ID, TOP_BY_CPU, TOP_BY_MEMORY, TOP_BY_DISK, TOP_BY_NET, TOP_NUM_ORDERS };

/* What its user has chosen. */
struct top_view {
	enum top_order order;
	char selected[72]; /* the id of a line, or nothing */
	char message[160]; /* in the last line, in place of the keys */
	bool keys;	   /* there is a keyboard */
};

/*
 * Draw @now, with rates since @before (none yet: NULL). Lines that do not fit scroll so
 * that the selected one is seen. A selected one that is gone gives way to the one that took
 * its place: view->selected is kept true.
 */
void top_draw(struct top_screen *screen, const struct top_sample *before,
	      const struct top_sample *now, struct top_view *view);

/* Select the line @by further down (or up, negative) in the order that is shown. */
void top_move(const struct top_sample *before, const struct top_sample *now, struct top_view *view,
	      int by);

#endif
