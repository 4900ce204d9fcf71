#include "vmm/fleet/prometheus.h"

#include "vmm/fleet/fleet.h"

struct family {
	const char *name, *type, *help;
	/* Prints all samples of one machine. */
	void (*print)(FILE *out, const struct family *f, const json_t *machine);
	const char *key; /* of the number; "a.b" is inside of "a" */
	double scale;	 /* what it is multiplied by; 0: nothing */
};

/* A label's value: what would end it is escaped. */
static void print_escaped(FILE *out, const char *s)
{
	for (; *s; s++) {
		if (*s == '\n') {
			fputs("\\n", out);
			continue;
		}
		if (*s == '"' || *s == '\\')
			fputc('\\', out);
		fputc(*s, out);
	}
}

static void print_label(FILE *out, const char *name, const char *value)
{
	fprintf(out, ",%s=\"", name);
	print_escaped(out, value);
	fputc('"', out);
}

static void begin(FILE *out, const struct family *f, const json_t *machine)
{
	fprintf(out, "%s{vm=\"", f->name);
	print_escaped(out, fleet_text(machine, "id"));
	fputc('"', out);
}

static void end(FILE *out, const struct family *f, uint64_t value)
{
	if (f->scale != 0)
		fprintf(out, "} %.3f\n", (double)value * f->scale);
	else
		fprintf(out, "} %llu\n", (unsigned long long)value);
}

static void print_number(FILE *out, const struct family *f, const json_t *machine)
{
	begin(out, f, machine);
	end(out, f, fleet_number(machine, f->key));
}

static void print_state(FILE *out, const struct family *f, const json_t *machine)
{
	begin(out, f, machine);
	print_label(out, "state", fleet_text(machine, "state"));
	end(out, f, 1);
}

static void print_exits(FILE *out, const struct family *f, const json_t *machine)
{
	json_t *exits = json_object_get(json_object_get(machine, "counters"), "exits"), *value;
	const char *reason;

	json_object_foreach(exits, reason, value)
	{
		/* The sum is the scraper's to make. */
		if (!strcmp(reason, "total"))
			continue;
		begin(out, f, machine);
		print_label(out, "reason", reason);
		end(out, f, json_integer_value(value));
	}
}

static void print_regions(FILE *out, const struct family *f, const json_t *machine)
{
	json_t *regions = json_object_get(json_object_get(machine, "counters"), "regions"), *r;
	size_t i;

	json_array_foreach(regions, i, r)
	{
		char base[24];

		snprintf(base, sizeof(base), "0x%llx", (unsigned long long)fleet_number(r, "base"));
		begin(out, f, machine);
		print_label(out, "bus", fleet_text(r, "bus"));
		print_label(out, "region", fleet_text(r, "name"));
		print_label(out, "base", base);
		end(out, f, fleet_number(r, f->key));
	}
}

static json_t *devices_of(const json_t *machine)
{
	return json_object_get(json_object_get(machine, "counters"), "devices");
}

static void begin_device(FILE *out, const struct family *f, const json_t *machine,
			 const json_t *device)
{
	begin(out, f, machine);
	print_label(out, "device", fleet_text(device, "id"));
	print_label(out, "type", fleet_text(device, "type"));
}

static void print_devices(FILE *out, const struct family *f, const json_t *machine)
{
	const json_t *d;
	size_t i;

	json_array_foreach(devices_of(machine), i, d)
	{
		begin_device(out, f, machine, d);
		end(out, f, fleet_number(d, f->key));
	}
}

static void print_device_counters(FILE *out, const struct family *f, const json_t *machine)
{
	const json_t *d;
	json_t *value;
	const char *name;
	size_t i;

	json_array_foreach(devices_of(machine), i, d)
	{
		json_object_foreach(json_object_get(d, "counters"), name, value)
		{
			begin_device(out, f, machine, d);
			print_label(out, "counter", name);
			end(out, f, json_integer_value(value));
		}
	}
}

static void print_queues(FILE *out, const struct family *f, const json_t *machine)
{
	const json_t *d, *q;
	size_t i, n;

	json_array_foreach(devices_of(machine), i, d)
	{
		json_array_foreach(json_object_get(d, "queues"), n, q)
		{
			char queue[24];

			snprintf(queue, sizeof(queue), "%zu", n);
			begin_device(out, f, machine, d);
			print_label(out, "queue", queue);
			end(out, f, fleet_number(q, f->key));
		}
	}
}

static const struct family families[] = {
	{ "wisp_state", "gauge", "1 for the state that the microVM is in", print_state },
	{ "wisp_uptime_seconds", "gauge", "How long it has been running", print_number, "uptime_ms",
	  0.001 },
	{ "wisp_cpus", "gauge", "Virtual processors", print_number, "cpus" },
	{ "wisp_memory_bytes", "gauge", "RAM that the guest is promised", print_number, "memory" },
	{ "wisp_resident_bytes", "gauge", "Memory of the host that its processes hold",
	  print_number, "used.resident" },
	{ "wisp_cpu_seconds_total", "counter", "Processor time of all its processes", print_number,
	  "used.cpu_ms", 0.001 },
	{ "wisp_guest_seconds_total", "counter", "Processor time of it in the guest", print_number,
	  "used.guest_ms", 0.001 },
	{ "wisp_processes", "gauge", "Processes of the host that it is made of", print_number,
	  "used.processes" },
	{ "wisp_exits_total", "counter", "Exits of virtual processors to the monitor",
	  print_exits },
	{ "wisp_region_reads_total", "counter", "Reads of registers by the guest", print_regions,
	  "reads" },
	{ "wisp_region_writes_total", "counter", "Writes of registers by the guest", print_regions,
	  "writes" },
	{ "wisp_msi_table_updates_total", "counter", "Interrupt routes given to KVM", print_number,
	  "counters.msi_table_updates" },
	{ "wisp_device_resets_total", "counter", "Resets by the driver", print_devices, "resets" },
	{ "wisp_device_failures_total", "counter", "Mistakes of the driver that stopped the device",
	  print_devices, "failures" },
	{ "wisp_device_config_accesses_total", "counter", "Accesses to the configuration space",
	  print_devices, "config_accesses" },
	{ "wisp_queue_kicks_total", "counter", "Doorbells of the driver", print_queues, "kicks" },
	{ "wisp_queue_chains_total", "counter", "Requests taken", print_queues, "chains" },
	{ "wisp_queue_interrupts_total", "counter", "Interrupts raised", print_queues,
	  "interrupts" },
	{ "wisp_queue_suppressed_total", "counter", "Interrupts that the driver did not want",
	  print_queues, "suppressed" },
	{ "wisp_queue_errors_total", "counter", "Malformed requests", print_queues, "errors" },
	{ "wisp_queue_out_bytes_total", "counter", "Bytes of the driver's in requests taken",
	  print_queues, "out_bytes" },
	{ "wisp_queue_in_bytes_total", "counter", "Bytes written for the driver", print_queues,
	  "in_bytes" },
	{ "wisp_device_counter", "untyped", "What devices of this type count besides",
	  print_device_counters },
	{ 0 },
};

void prometheus_print(FILE *out, const json_t *machines)
{
	for (const struct family *f = families; f->name; f++) {
		const json_t *m;
		size_t i;

		fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", f->name, f->help, f->name, f->type);
		json_array_foreach(machines, i, m)
		{
			/* Of one that does not answer that much is known. */
			if (json_object_get(m, "pid") || f->print == print_state)
				f->print(out, f, m);
		}
	}
}
