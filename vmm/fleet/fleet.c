#include "vmm/fleet/fleet.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "vmm/control/control_client.h"
#include "vmm/run_dir.h"

#define PATIENCE_MS 3000

static const json_t *member(const json_t *o, const char *name)
{
	const char *dot = strchr(name, '.');

	if (!dot)
		return json_object_get(o, name);
	return json_object_get(json_object_getn(o, name, dot - name), dot + 1);
}

uint64_t fleet_number(const json_t *machine, const char *name)
{
	return json_integer_value(member(machine, name));
}

const char *fleet_text(const json_t *machine, const char *name)
{
	const char *s = json_string_value(member(machine, name));

	return s ? s : "";
}

static json_t *used(pid_t monitor, pid_t parent)
{
	struct usage u = { 0 };

	/* One that ended meanwhile used nothing. */
	(void)usage_add_machine(&u, monitor, parent);
	return json_pack("{s:I, s:I, s:I, s:i, s:i}", "cpu_ms",
			 (json_int_t)(u.cpu_ns / NSEC_PER_MSEC), "guest_ms",
			 (json_int_t)(u.guest_ns / NSEC_PER_MSEC), "resident",
			 (json_int_t)u.resident_bytes, "processes", u.processes, "threads",
			 u.threads);
}

int fleet_ask(int sock, bool counters, json_t **ret_machine, struct error *err)
{
	json_t *info = NULL, *stat = NULL;
	int r = control_ask(sock, json_pack("{s:s}", "do", "info"), NULL, 0, &info, err);

	if (!r && counters)
		r = control_ask(sock, json_pack("{s:s}", "do", "stat"), NULL, 0, &stat, err);
	if (r < 0) {
		json_decref(info);
		return r;
	}
	json_object_del(info, "ok");
	json_object_set_new(info, "used",
			    used((pid_t)fleet_number(info, "pid"),
				 (pid_t)fleet_number(info, "parent")));
	if (stat)
		json_object_set(info, "counters", json_object_get(stat, "counters"));
	json_decref(stat);
	*ret_machine = info;
	return 0;
}

struct listing {
	const struct fleet_query *query;
	json_t *machines;
};

static int add_machine(void *arg, const char *id, const char *path)
{
	struct listing *l = arg;
	unsigned ms = l->query->patience_ms ? l->query->patience_ms : PATIENCE_MS;
	struct timeval patience = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };
	struct error err = { 0 };
	json_t *machine = NULL;
	int sock, r;

	if (run_dir_remove_dead(path))
		return 0;
	sock = run_dir_connect(NULL, path, RUN_DIR_CONTROL, SOCK_SEQPACKET, &err);
	if (sock < 0)
		return 0; /* it has ended meanwhile, or is none */
	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	r = fleet_ask(sock, l->query->counters, &machine, &err);
	close(sock);
	if (r == -ECONNRESET || r == -ECANCELED)
		return 0;
	if (r < 0)
		machine = json_pack("{s:s, s:s}", "id", id, "state", "unresponsive");
	else /* Where it is found, which is not always what it is called (wisp upgrade). */
		json_object_set_new(machine, "id", json_string(id));
	json_array_append_new(l->machines, machine);
	return 0;
}

int fleet_list(const struct fleet_query *query, json_t **ret_machines, struct error *err)
{
	struct listing l = { .query = query, .machines = json_array() };
	int r = run_dir_for_each(query->run_dir, add_machine, &l, err);

	if (r < 0)
		json_decref(l.machines);
	else
		*ret_machines = l.machines;
	return r;
}

void fleet_sum(const json_t *machines, struct fleet_sum *ret_sum)
{
	struct fleet_sum sum = { 0 };
	const json_t *m;
	size_t i;

	json_array_foreach(machines, i, m)
	{
		uint64_t promised = fleet_number(m, "memory");
		uint64_t resident = fleet_number(m, "used.resident");

		sum.machines++;
		sum.unresponsive += !strcmp(fleet_text(m, "state"), "unresponsive");
		sum.cpus += fleet_number(m, "cpus");
		sum.memory_bytes += promised;
		sum.resident_bytes += resident;
		sum.reserved_bytes += promised > resident ? promised - resident : 0;
	}
	*ret_sum = sum;
}
