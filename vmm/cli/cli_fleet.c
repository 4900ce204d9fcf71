/* wisp ls, wisp stat, wisp top: running microVMs in lists and figures. */
#include "vmm/cli/cli_control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/control/control_client.h"
#include "vmm/fleet/fleet.h"
#include "vmm/fleet/prometheus.h"
#include "vmm/helper.h"

static int fail(const struct error *err)
{
	error_print(err);
	return error_status(err);
}

/* ---- ls ---- */

static void print_uptime(uint64_t ms)
{
	unsigned s = ms / 1000;
	char text[32];

	if (s < 60)
		snprintf(text, sizeof(text), "%us", s);
	else if (s < 3600)
		snprintf(text, sizeof(text), "%um%02us", s / 60, s % 60);
	else if (s < 86400)
		snprintf(text, sizeof(text), "%uh%02um", s / 3600, s / 60 % 60);
	else
		snprintf(text, sizeof(text), "%ud%02uh", s / 86400, s / 3600 % 24);
	printf("%10s", text);
}

/* As wide as the longest name; clones of clones have long ones. */
static int id_width(const json_t *machines)
{
	size_t width = 20, i;
	const json_t *m;

	json_array_foreach(machines, i, m) width = MAX(width, strlen(fleet_text(m, "id")));
	return (int)width;
}

static void print_machine(const json_t *m, int id)
{
	char memory[USAGE_SIZE_TEXT], used[USAGE_SIZE_TEXT];

	printf("%-*s %-12s", id, fleet_text(m, "id"), fleet_text(m, "state"));
	if (json_object_get(m, "pid")) {
		config_size_text(memory, sizeof(memory), fleet_number(m, "memory"));
		usage_size_text(used, fleet_number(m, "used.resident"));
		printf(" %4u %8s %8s ", (unsigned)fleet_number(m, "cpus"), memory, used);
		print_uptime(fleet_number(m, "uptime_ms"));
		printf(" %8d", (int)fleet_number(m, "pid"));
	}
	putchar('\n');
}

static void print_list(const json_t *machines, const struct fleet_sum *sum,
		       const struct host_room *room)
{
	char promised[USAGE_SIZE_TEXT], used[USAGE_SIZE_TEXT], total[USAGE_SIZE_TEXT],
		available[USAGE_SIZE_TEXT];
	int id = id_width(machines);
	const json_t *m;
	size_t i;

	printf("%-*s %-12s %4s %8s %8s %10s %8s\n", id, "ID", "STATE", "CPUS", "MEMORY", "USED",
	       "UPTIME", "PID");
	json_array_foreach(machines, i, m) print_machine(m, id);
	if (!sum->machines)
		return;
	printf("%u microVM%s: %u CPU%s and %s promised, %s used; the host: %u CPUs, %s, "
	       "%s available\n",
	       sum->machines, sum->machines == 1 ? "" : "s", sum->cpus, sum->cpus == 1 ? "" : "s",
	       usage_size_text(promised, sum->memory_bytes),
	       usage_size_text(used, sum->resident_bytes), room->cpus,
	       usage_size_text(total, room->memory_bytes),
	       usage_size_text(available, room->available_bytes));
}

static void print_list_json(const json_t *machines, const struct fleet_sum *sum,
			    const struct host_room *room)
{
	json_t *all = json_pack("{s:O, s:{s:i, s:i, s:i, s:I, s:I}, s:{s:i, s:I, s:I}}", "machines",
				(json_t *)machines, "sum", "machines", sum->machines,
				"unresponsive", sum->unresponsive, "cpus", sum->cpus, "memory",
				(json_int_t)sum->memory_bytes, "resident",
				(json_int_t)sum->resident_bytes, "host", "cpus", room->cpus,
				"memory", (json_int_t)room->memory_bytes, "available",
				(json_int_t)room->available_bytes);

	json_dumpf(all, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(all);
}

int ls_main(int argc, char **argv)
{
	struct control_options o = { 0 };
	struct fleet_query query = { 0 };
	struct host_room room = { 0 };
	struct error err = { 0 };
	struct fleet_sum sum;
	json_t *machines = NULL;
	int r;

	r = config_parse_verb("ls", control_report_options, &o, argc, argv, NULL, 0, &err);
	if (!r) {
		query.run_dir = o.run_dir;
		r = fleet_list(&query, &machines, &err);
	}
	if (!r && (r = host_room_read(&room)) < 0)
		error_set(&err, r, "/proc/meminfo: %s", strerror(-r));
	if (!r) {
		fleet_sum(machines, &sum);
		if (o.json)
			print_list_json(machines, &sum, &room);
		else
			print_list(machines, &sum, &room);
	}
	json_decref(machines);
	control_options_done(&o);
	return r < 0 ? fail(&err) : 0;
}

/* ---- stat ---- */

static int stat_all(const struct control_options *o, json_t **ret_machines, struct error *err)
{
	struct fleet_query query = { .run_dir = o->run_dir, .counters = true };

	return fleet_list(&query, ret_machines, err);
}

static int stat_one(const struct control_options *o, const char *id, json_t **ret_machines,
		    struct error *err)
{
	json_t *machine = NULL;
	int sock, r;

	sock = r = control_connect_awake(o->run_dir, id, err);
	if (sock >= 0) {
		r = fleet_ask(sock, true, &machine, err);
		close(sock);
	}
	if (!r)
		*ret_machines = json_pack("[o]", machine);
	return r;
}

int stat_main(int argc, char **argv)
{
	struct control_options o = { 0 };
	struct error err = { 0 };
	json_t *machines = NULL;
	const char *id = NULL;
	int r;

	r = config_parse_verb("stat", control_stat_options, &o, argc, argv, &id, 1, &err);
	if (r == 0 && !o.prometheus)
		r = error_usage(&err, -EINVAL, "stat: which microVM? ('wisp ls' lists them)");
	if (r >= 0)
		r = id ? stat_one(&o, id, &machines, &err) : stat_all(&o, &machines, &err);
	if (!r && o.prometheus) {
		prometheus_print(stdout, machines);
	} else if (!r) {
		json_dumpf(json_array_get(machines, 0), stdout,
			   o.json ? JSON_COMPACT : JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(machines);
	control_options_done(&o);
	return r < 0 ? fail(&err) : 0;
}

/* ---- top: a helper, which carries ncurses ---- */

int top_main(int argc, char **argv)
{
	struct error err = { 0 };

	/* The word in front of the arguments stands for the helper's name. */
	helper_exec("wisp-top", argv - 1, &err);
	return fail(&err);
}
