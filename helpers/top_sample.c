#include "helpers/top.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmm/fleet/fleet.h"

/* Bytes of its pairs of queues: the even ones receive. What is left over is the control queue. */
static void add_net(struct top_machine *m, const json_t *device)
{
	json_t *queues = json_object_get(device, "queues");

	for (size_t i = 0; i + 1 < json_array_size(queues); i += 2) {
		m->net_in += fleet_number(json_array_get(queues, i), "in_bytes");
		m->net_out += fleet_number(json_array_get(queues, i + 1), "out_bytes");
	}
}

static void fill_machine(struct top_machine *m, const json_t *o)
{
	const json_t *counters = json_object_get(o, "counters"), *d;
	size_t i;

	snprintf(m->id, sizeof(m->id), "%s", fleet_text(o, "id"));
	snprintf(m->state, sizeof(m->state), "%s", fleet_text(o, "state"));
	m->cpus = fleet_number(o, "cpus");
	m->memory_bytes = fleet_number(o, "memory");
	m->resident_bytes = fleet_number(o, "used.resident");
	m->uptime_ms = fleet_number(o, "uptime_ms");
	m->cpu_ms = fleet_number(o, "used.cpu_ms");
	m->exits = fleet_number(counters, "exits.total");
	json_array_foreach(json_object_get(counters, "devices"), i, d)
	{
		if (!strcmp(fleet_text(d, "type"), "virtio-net"))
			add_net(m, d);
		m->disk_read += fleet_number(d, "counters.read_bytes");
		m->disk_written += fleet_number(d, "counters.written_bytes");
	}
}

int top_sample_fill(struct top_sample *s, const json_t *machines)
{
	size_t num = json_array_size(machines);

	s->machine = calloc(num + 1, sizeof(*s->machine));
	if (!s->machine)
		return -ENOMEM;
	s->num = num;
	for (size_t i = 0; i < num; i++)
		fill_machine(&s->machine[i], json_array_get(machines, i));
	return 0;
}

void top_sample_done(struct top_sample *s)
{
	free(s->machine);
	s->machine = NULL;
	s->num = 0;
}

static double rate(uint64_t now, uint64_t before, double seconds)
{
	/* A device that was reset may count from 0 again. */
	return now > before ? (double)(now - before) / seconds : 0;
}

void top_rates(struct top_rates *ret, const struct top_sample *before, const struct top_sample *now,
	       const struct top_machine *m)
{
	const struct top_machine *old = NULL;
	double seconds;

	memset(ret, 0, sizeof(*ret));
	for (unsigned i = 0; before && i < before->num && !old; i++)
		if (!strcmp(before->machine[i].id, m->id))
			old = &before->machine[i];
	/* One that has run for less long than it had is another one. */
	if (!old || now->time_ms <= before->time_ms || m->uptime_ms < old->uptime_ms)
		return;
	seconds = (double)(now->time_ms - before->time_ms) / 1000;
	ret->cpu = rate(m->cpu_ms, old->cpu_ms, seconds) / 1000;
	ret->exits = rate(m->exits, old->exits, seconds);
	ret->disk_read = rate(m->disk_read, old->disk_read, seconds);
	ret->disk_written = rate(m->disk_written, old->disk_written, seconds);
	ret->net_in = rate(m->net_in, old->net_in, seconds);
	ret->net_out = rate(m->net_out, old->net_out, seconds);
}
