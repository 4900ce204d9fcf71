/* A machine in words: --dry-run, and the counters of --metrics. */
#include <inttypes.h>
#include <stdlib.h>

#include "virtio/virtio_devices.h"
#include "vmm/machine/machine_internal.h"

#define MAX_MAP_ENTRIES 32

static const char *size_text(char *buf, size_t len, uint64_t bytes)
{
	if (bytes >= GiB && bytes % GiB == 0)
		snprintf(buf, len, "%" PRIu64 " GiB", (uint64_t)(bytes / GiB));
	else if (bytes >= MiB && bytes % MiB == 0)
		snprintf(buf, len, "%" PRIu64 " MiB", (uint64_t)(bytes / MiB));
	else if (bytes >= KiB && bytes % KiB == 0)
		snprintf(buf, len, "%" PRIu64 " KiB", (uint64_t)(bytes / KiB));
	else
		snprintf(buf, len, "%" PRIu64 " B", bytes);
	return buf;
}

static void print_memory(struct machine *m, FILE *out)
{
	struct fw_e820 map[MAX_MAP_ENTRIES];
	unsigned n = fw_memory_map(m->mem, &m->platform, map, MAX_MAP_ENTRIES);
	char size[32];

	fprintf(out, "memory map\n");
	for (unsigned i = 0; i < n; i++)
		fprintf(out, "  0x%012" PRIx64 "-0x%012" PRIx64 "  %-9s %s\n", map[i].addr,
			map[i].addr + map[i].size - 1,
			map[i].type == 1   ? "ram" :
			map[i].type == 3   ? "acpi" :
					     "reserved",
			size_text(size, sizeof(size), map[i].size));
	if (m->hotplug)
		fprintf(out, "  0x%012" PRIx64 "-0x%012" PRIx64 "  %-9s %s\n", m->hotplug_gpa,
			m->hotplug_gpa + m->config->hotplug.bytes - 1, "hot-plug",
			size_text(size, sizeof(size), m->config->hotplug.bytes));
}

static void print_region(const struct bus_region *r, void *arg)
{
	fprintf(arg, "  0x%012" PRIx64 "-0x%012" PRIx64 "  %s\n", r->base, r->base + r->size - 1,
		r->name);
}

static void print_area(const struct virtio_device *dev, FILE *out)
{
	struct virtio_pmem_area area;
	char size[32];

	virtio_pmem_area(dev, &area);
	fprintf(out, "  %-10s %-15s memory 0x%012" PRIx64 "-0x%012" PRIx64 ", %s\n", "", "",
		area.gpa, area.gpa + area.size - 1, size_text(size, sizeof(size), area.size));
}

static void print_devices(struct machine *m, FILE *out)
{
	fprintf(out, "devices\n");
	for (unsigned i = 0; i < m->num_virtio; i++) {
		const struct machine_virtio *v = &m->virtio[i];

		fprintf(out, "  %-10s %-15s %u queue%s, ", v->dev->id, v->dev->ops->name,
			v->dev->num_queues, v->dev->num_queues == 1 ? "" : "s");
		if (v->pci)
			fprintf(out, "pci 0000:00:%02x.0, MSI-X, INT%c on IRQ %u\n", v->slot,
				'A', virtio_pci_function(v->pci)->intx_gsi);
		else
			fprintf(out, "mmio 0x%" PRIx64 ", IRQ %u\n", v->base, v->gsi);
		if (v->dev->ops->id == VIRTIO_ID_PMEM)
			print_area(v->dev, out);
	}
	if (m->serial)
		fprintf(out, "  %-10s %-15s port 0x%x, IRQ %u\n", "serial0", "16550A",
			SERIAL_COM1_PORT, SERIAL_COM1_IRQ);
	fprintf(out, "  %-10s %-15s port 0x%x, IRQ %u\n", "rtc0", "MC146818", RTC_PORT, RTC_IRQ);
	fprintf(out, "  %-10s %-15s port 0x%x, IRQ %u\n", "ged0", "ACPI0013", POWER_GED_PORT,
		POWER_GED_GSI);
}

void machine_print(struct machine *m, FILE *out)
{
	const struct machine_config *c = m->config;
	char size[32];
	char *cmdline = config_cmdline(c);

	fprintf(out, "machine   %u vCPU%s (%s), %s of memory, %s transport, %s loop\n", c->cpus,
		c->cpus == 1 ? "" : "s", x86_cpu_model_name(c->cpu),
		size_text(size, sizeof(size), c->memory_bytes), m->pci ? "pci" : "mmio",
		loop_backend(m->loop) == LOOP_URING ? "io_uring" : "epoll");
	fprintf(out, "kernel    %s\n", c->kernel ? c->kernel : "(none)");
	if (c->initrd)
		fprintf(out, "initrd    %s\n", c->initrd);
	fprintf(out, "cmdline   %s\n", cmdline ? cmdline : "");
	free(cmdline);
	print_memory(m, out);
	print_devices(m, out);
	fprintf(out, "ports\n");
	bus_for_each(m->pio, print_region, out);
	fprintf(out, "memory-mapped registers\n");
	bus_for_each(m->mmio, print_region, out);
}

/* ---- counters ---- */

struct region_counters {
	FILE *out;
	const char *bus;
	bool any;
};

static void print_counter(const struct bus_region *r, void *arg)
{
	struct region_counters *c = arg;

	if (!r->reads && !r->writes)
		return;
	fprintf(c->out,
		"%s{\"bus\":\"%s\",\"name\":\"%s\",\"base\":%" PRIu64 ",\"reads\":%" PRIu64
		",\"writes\":%" PRIu64 "}",
		c->any ? "," : "", c->bus, r->name, r->base, r->reads, r->writes);
	c->any = true;
}

static void print_queues(const struct machine_virtio *v, FILE *out)
{
	for (unsigned i = 0; i < v->dev->num_queues; i++) {
		const struct virtq_stats *s = &v->dev->queue[i].stats;

		fprintf(out,
			"%s{\"kicks\":%" PRIu64 ",\"chains\":%" PRIu64 ",\"interrupts\":%" PRIu64
			",\"suppressed\":%" PRIu64 ",\"errors\":%" PRIu64
			",\"out_bytes\":%" PRIu64 ",\"in_bytes\":%" PRIu64 "}",
			i ? "," : "", counter_get(&s->kicks), counter_get(&s->chains),
			counter_get(&s->interrupts), counter_get(&s->suppressed),
			counter_get(&s->errors), counter_get(&s->out_bytes),
			counter_get(&s->in_bytes));
	}
}

struct device_counters {
	FILE *out;
	bool any;
};

static void print_device_counter(void *arg, const char *name, uint64_t value)
{
	struct device_counters *c = arg;

	fprintf(c->out, "%s\"%s\":%" PRIu64, c->any ? "," : "", name, value);
	c->any = true;
}

/* What a device counts beside its queues. */
static void print_device_counters(const struct machine_virtio *v, FILE *out)
{
	struct device_counters c = { .out = out };

	if (!v->dev->ops->counters)
		return;
	fprintf(out, ",\"counters\":{");
	v->dev->ops->counters(v->dev, print_device_counter, &c);
	fprintf(out, "}");
}

void machine_print_metrics(struct machine *m, FILE *out)
{
	struct region_counters regions = { .out = out, .bus = "pio" };
	uint64_t total = 0;

	fprintf(out, "{\"exits\":{");
	for (unsigned k = 0; k < HV_EXIT_NUM_KINDS; k++) {
		uint64_t n = vcpu_set_exits(&m->vcpus, k);

		total += n;
		fprintf(out, "\"%s\":%" PRIu64 ",", hv_exit_name(k), n);
	}
	fprintf(out, "\"total\":%" PRIu64 "},\"unknown\":{\"pio\":%" PRIu64 ",\"mmio\":%" PRIu64
		     "},\"regions\":[",
		total, bus_unknown(m->pio), bus_unknown(m->mmio));
	bus_for_each(m->pio, print_counter, &regions);
	regions.bus = "mmio";
	bus_for_each(m->mmio, print_counter, &regions);
	fprintf(out, "],\"devices\":[");
	for (unsigned i = 0; i < m->num_virtio; i++) {
		const struct machine_virtio *v = &m->virtio[i];

		fprintf(out,
			"%s{\"id\":\"%s\",\"type\":\"%s\",\"resets\":%" PRIu64
			",\"failures\":%" PRIu64 ",\"config_accesses\":%" PRIu64 ",\"queues\":[",
			i ? "," : "", v->dev->id, v->dev->ops->name,
			(uint64_t)v->dev->stats.resets, (uint64_t)v->dev->stats.failures,
			(uint64_t)v->dev->stats.config_accesses);
		print_queues(v, out);
		fprintf(out, "]");
		print_device_counters(v, out);
		fprintf(out, "}");
	}
	fputc(']', out);
	if (m->serial)
		fprintf(out, ",\"serial\":{\"dropped\":%" PRIu64 "}", serial_dropped(m->serial));
	fprintf(out,
		",\"forks\":{\"alive\":%u,\"taken\":%" PRIu64 ",\"pause_us\":%" PRIu64
		",\"fork_us\":%" PRIu64 "}",
		m->forks.alive, m->forks.taken, m->forks.pause_ns / 1000, m->forks.fork_ns / 1000);
	fprintf(out, ",\"msi_table_updates\":%" PRIu64 ",\"end\":\"%s\"}\n",
		irq_table_pushes(m->irqs), machine_end_name(m->end.reason));
}
