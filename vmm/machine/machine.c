#include "vmm/machine/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "virtio/virtio_devices.h"
#include "virtio/virtio_mem.h"
#include "vmm/core/guest_mem_later.h"
#include "vmm/core/text.h"
#include "vmm/debug/gdb.h"
#include "vmm/hypervisor/x86_template.h"
#include "vmm/machine/machine_internal.h"
#include "vmm/machine/machine_state.h"
#include "vmm/migrate/migrate.h"
#include "vmm/migrate/migrate_fill.h"
#include "vmm/sandbox/maker.h"
#include "vmm/sandbox/sandbox.h"
#include "vmm/saved/reset_point.h"
#include "vmm/saved/snapshot_track.h"
#include "vmm/saved/working_set.h"

const char *machine_end_name(enum machine_end_reason reason)
{
	static const char *const name[] = {
		[MACHINE_END_NONE] = "none",
		[MACHINE_END_POWEROFF] = "poweroff",
		[MACHINE_END_REBOOT] = "reboot",
		[MACHINE_END_EXIT_PORT] = "exit",
		[MACHINE_END_PANIC] = "panic",
		[MACHINE_END_TRIPLE_FAULT] = "triple-fault",
		[MACHINE_END_INTERNAL] = "internal-error",
		[MACHINE_END_TIMEOUT] = "timeout",
		[MACHINE_END_ASKED] = "asked",
		[MACHINE_END_SIGNAL] = "signal",
		[MACHINE_END_MIGRATED] = "migrated",
		[MACHINE_END_START_FAILED] = "start-failed",
		[MACHINE_END_HANG] = "hang",
	};

	/* The page it is read from is shared with a process that trusts its guest less. */
	return (unsigned)reason < ARRAY_SIZE(name) ? name[reason] : "unknown";
}

int machine_end_say(struct machine_end *end, const struct error *err)
{
	error_print(err);
	memcpy(end->message, err->msg, sizeof(end->message));
	return error_status(err);
}

void machine_end_message(const struct machine_end *end, char *ret, size_t size)
{
	text_printable(ret, size, end->message, sizeof(end->message));
}

void machine_files_init(struct machine_files *files)
{
	files->kernel = NULL;
	files->cpu_template = NULL;
	files->initrd = files->serial = files->console = -1;
	files->gdb = -1;
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++) {
		files->disk[i] = files->dialer[i] = -1;
		files->beneath[i].num = 0;
	}
	for (unsigned i = 0; i < CONFIG_MAX_PMEMS; i++)
		files->pmem[i] = -1;
	for (unsigned i = 0; i < CONFIG_MAX_NETS; i++)
		net_ends_init(&files->net[i]);
	files->vsock_listen = files->vsock_broker = -1;
	for (unsigned i = 0; i < CONFIG_MAX_SHARES; i++)
		files->share[i] = -1;
	files->serial_out = -1;
	files->num_ports = 0;
}

static void close_file(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void machine_files_close(struct machine_files *files)
{
	fw_kernel_free(files->kernel);
	files->kernel = NULL;
	x86_template_free(files->cpu_template);
	files->cpu_template = NULL;
	close_file(&files->initrd);
	close_file(&files->gdb);
	close_file(&files->serial);
	close_file(&files->console);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++) {
		close_file(&files->disk[i]);
		close_file(&files->dialer[i]);
		block_chain_close(&files->beneath[i]);
	}
	for (unsigned i = 0; i < CONFIG_MAX_PMEMS; i++)
		close_file(&files->pmem[i]);
	for (unsigned i = 0; i < CONFIG_MAX_NETS; i++)
		net_ends_close(&files->net[i]);
	close_file(&files->vsock_listen);
	close_file(&files->vsock_broker);
	for (unsigned i = 0; i < CONFIG_MAX_SHARES; i++)
		close_file(&files->share[i]);
}

/* ---- creation, in the order in which things need one another ---- */

/* RAM from 0 up to the 32-bit hole, the rest from 4 GiB on, and behind it what is plugged later. */
static int reserve_memory(struct machine *m, const struct machine_image *image, struct error *err)
{
	const struct config_hotplug *h = &m->config->hotplug;
	uint64_t size = m->config->memory_bytes;
	struct guest_mem_range ranges[3] = { 0 };
	unsigned num = 1;

	ranges[0].size = MIN(size, FW_HOLE_START);
	if (size > FW_HOLE_START) {
		ranges[1].gpa = FW_HOLE_END;
		ranges[1].size = size - FW_HOLE_START;
		num = 2;
	}
	if (h->bytes) {
		ranges[num].gpa = MAX(ranges[num - 1].gpa + ranges[num - 1].size, FW_HOLE_END);
		ranges[num].gpa = align_up(ranges[num].gpa, MAX(VIRTIO_MEM_ALIGN, h->block_bytes));
		ranges[num].size = h->bytes;
		ranges[num++].is_later = true;
	}
	if (image && image->arrival && image->arrival->way == MIGRATE_SHARED)
		return guest_mem_adopt(&m->mem, image->arrival->wire->fd, ranges, num, err);
	return guest_mem_create(&m->mem, m->config->memory_backing, ranges, num, err);
}

/* Take over or map what a saved machine had in its RAM. */
static int fill_memory(struct machine *m, const struct machine_image *image, struct error *err)
{
	int r;

	if (image->mem) {
		m->mem = image->mem;
		return 0;
	}
	if (image->arrival || image->demand)
		return 0;
	r = guest_mem_load(m->mem, image->memory_fd, err);
	for (unsigned i = 0; i < image->num_layers && !r; i++) {
		r = guest_mem_load_pages(m->mem, image->layer[i].fd, image->layer[i].pages);
		if (r < 0)
			error_set(err, r, "snapshot '%s': its memory cannot be read: %m",
				  image->layer[i].name);
	}
	if (!r && image->working_set)
		working_set_bring_in(image->working_set, m->mem);
	return r;
}

/* RAM all of it, and what is plugged later in slots that come with it. */
static int map_range(struct machine *m, const struct guest_mem_range *range)
{
	const struct config_hotplug *h = &m->config->hotplug;

	if (!range->is_later)
		return m->hv->ops->mem_set(m->hv, range->slot, range->gpa, range->size, range->host,
					   0);
	m->hotplug_gpa = range->gpa;
	return guest_mem_later_create(m->mem, m->hv, h->block_bytes, config_hotplug_slot(h));
}

static int create_memory(struct machine *m, const struct machine_image *image, struct error *err)
{
	int r = image && image->mem ? 0 : reserve_memory(m, image, err);

	if (!r && image)
		r = fill_memory(m, image, err);
	if (r < 0)
		return r;
	if (image)
		guest_mem_hide(m->mem);
	for (unsigned i = 0; i < m->mem->num_ranges; i++) {
		struct guest_mem_range *range = &m->mem->range[i];

		range->slot = i;
		r = map_range(m, range);
		if (r < 0)
			return error_kind_set(err, ERROR_START, r,
					      "cannot give the guest %llu MiB at 0x%llx: %m",
					      (unsigned long long)(range->size / MiB),
					      (unsigned long long)range->gpa);
	}
	return 0;
}

static int create_buses(struct machine *m, struct error *err)
{
	int r = bus_create(&m->pio, "pio");

	if (!r)
		r = bus_create(&m->mmio, "mmio");
	if (!r)
		r = irq_table_create(&m->irqs, m->hv);
	return r < 0 ? error_set(err, r, "buses: %m") : 0;
}

/* The local APIC where every processor has it, enabled, on the boot processor (SDM 3, 11.4.4). */
#define APIC_BASE_BOOT (FW_LAPIC_ADDR | 1 << 11 | 1 << 8)

int machine_set_cpuid(struct machine *m, const struct x86_cpuid *cpuid, struct error *err)
{
	size_t bytes = offsetof(struct x86_cpuid, entry) + cpuid->num * sizeof(cpuid->entry[0]);
	struct x86_cpuid *own = malloc(sizeof(*own)), *smaller;
	int r = 0;

	if (!own)
		return error_set(err, -ENOMEM, "CPUID: %m");
	memcpy(own, cpuid, bytes);
	for (unsigned i = m->vcpus.num; i-- > 0 && !r;) {
		x86_cpuid_set_index(own, i);
		r = m->hv->ops->vcpu_setup(m->vcpus.vcpu[i].hv, own, err);
	}
	free(m->cpuid);
	/* Only what there is of it: a machine keeps this for its life. */
	smaller = realloc(own, bytes);
	m->cpuid = smaller ? smaller : own;
	return r;
}

/* Every vCPU gets its CPUID, of what the host offers and @t makes of that, which may be NULL. */
static int make_cpuid(struct machine *m, const struct x86_cpuid *host, const struct x86_template *t,
		      struct error *err)
{
	struct x86_cpuid *cpuid = calloc(1, sizeof(*cpuid)), *changed = NULL;
	int r = 0;

	if (!cpuid)
		return error_set(err, -ENOMEM, "CPUID: %m");
	if (t) {
		changed = malloc(sizeof(*changed));
		if (!changed) {
			r = error_set(err, -ENOMEM, "CPUID: %m");
		} else {
			*changed = *host;
			host = changed;
			r = x86_template_apply(t, changed, err);
		}
	}
	if (!r)
		r = x86_cpuid_make(cpuid, host, m->config->cpu, m->vcpus.num, m->tsc_khz, err);
	if (!r)
		r = machine_set_cpuid(m, cpuid, err);
	for (unsigned i = 0; t && i < m->vcpus.num && !r; i++)
		r = x86_template_set_msrs(t, m->hv->ops, m->vcpus.vcpu[i].hv, err);
	free(changed);
	free(cpuid);
	return r;
}

/* The boot processor starts where @start says, the rest wait for it. */
static int setup_vcpus(struct machine *m, const struct machine_params *params,
		       const struct fw_start *start, struct error *err)
{
	const struct hv_ops *ops = m->hv->ops;
	struct x86_vcpu_state state = { .sregs.apic_base = APIC_BASE_BOOT };
	struct vcpu *boot = &m->vcpus.vcpu[0];
	int r = 0;

	m->tsc_khz = ops->tsc_khz ? ops->tsc_khz(boot->hv) : 0;
	if (params->host_cpuid)
		r = make_cpuid(m, params->host_cpuid, params->files->cpu_template, err);
	if (r < 0)
		return r;
	x86_boot_state(&state, start);
	r = ops->vcpu_set(boot->hv, &state);
	return r < 0 ? error_kind_set(err, ERROR_START, r, "boot processor: registers: %m") : 0;
}

/* Put the kernel and all it finds into memory; @ret_start is where that begins. */
static int load_kernel(struct machine *m, const struct machine_params *params,
		       struct fw_start *ret_start, struct error *err)
{
	const struct machine_config *c = m->config;
	struct fw_boot_config boot = {
		.kernel = params->files->kernel,
		.protocol = c->protocol,
		.initrd_fd = params->files->initrd,
		.initrd_path = c->initrd,
		.platform = &m->platform,
	};
	char *cmdline = config_cmdline(c);
	int r;

	if (!cmdline)
		return error_set(err, -ENOMEM, "command line: %m");
	boot.cmdline = cmdline;
	r = fw_boot_setup(m->mem, &boot, ret_start, err);
	free(cmdline);
	return r;
}

/* The kernel is in memory, and the boot processor at its entry. */
static int load_guest(struct machine *m, const struct machine_params *params, struct error *err)
{
	struct fw_start start = { 0 };
	int r = load_kernel(m, params, &start, err);

	/* That it fits is all that is asked of a layout. */
	if (r < 0 || params->layout_only)
		return r;
	guest_mem_hide(m->mem);
	r = machine_first_identity(m);
	if (r < 0)
		return error_set(err, r, "generation ID: %m");
	r = x86_boot_tables(m->mem, &start);
	if (r < 0)
		return error_set(err, r, "boot tables: %m");
	return setup_vcpus(m, params, &start, err);
}

static int make_worker(void *machine, pthread_t *ret_thread, const pthread_attr_t *attr,
		       void *(*run)(void *arg), void *arg)
{
	struct machine *m = machine;

	return maker_thread(m->maker, ret_thread, attr, run, arg);
}

/* A worker that cannot be confined further is under the filter of who made it at least. */
static void worker_begins(void *machine)
{
	struct machine *m = machine;
	int r;

	prctl(PR_SET_NAME, "worker");
	r = m->vcpus.sandbox ? sandbox_filter(m->vcpus.sandbox, SANDBOX_THREAD_WORKER) : 0;
	if (r < 0)
		log_warn("worker: cannot load its system call filter: %s", strerror(-r));
}

int machine_create(struct machine **ret_m, const struct machine_params *params, struct error *err)
{
	const struct machine_config *c = params->config;
	struct loop_params loop = { .backend = c->loop,
				    .clock = params->clock,
				    .name = "main",
				    .may_wait = loop_thread_may_wait() };
	struct machine *m;
	int r;

	m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(err, -ENOMEM, "machine: %m");
	loop.workers = (struct loop_workers_params){ make_worker, worker_begins, m };
	m->config = c;
	m->clock = params->clock;
	m->hv = params->hv;
	m->may_wait = loop.may_wait;
	m->vcpus.sandbox = params->sandbox;
	m->arrival = params->image ? params->image->arrival : NULL;
	m->arriving = m->arrival != NULL;

	r = loop_create(&m->loop, &loop, err);
	if (!r)
		r = create_memory(m, params->image, err);
	if (!r)
		r = create_buses(m, err);
	/* Before ioeventfds and routes: KVM synchronises with vCPUs that exist at each of those. */
	if (!r)
		r = vcpu_set_init(&m->vcpus, m, m->hv, m->loop, c->cpus, err);
	if (!r)
		r = machine_add_devices(m, params->files, params->layout_only, err);
	if (!r && m->arriving)
		r = machine_load_kind(m, params->image, params->host_cpuid, err);
	else if (!r && params->image && !params->image->demand)
		r = machine_load(m, params->image, params->host_cpuid, err);
	else if (!r && !params->image && (params->files->kernel || !params->layout_only))
		r = load_guest(m, params, err);
	if (!r && params->files->gdb >= 0) {
		r = gdb_create(&m->gdb, m, params->files->gdb, c->gdb, err);
		if (!r)
			params->files->gdb = -1;
	}
	if (r < 0) {
		m->hv = NULL;
		machine_free(m);
		return r;
	}
	*ret_m = m;
	return 0;
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	vcpu_set_done(&m->vcpus);
	snapshot_track_free(m->track);
	reset_point_free(m->point);
	machine_free_devices(m);
	machine_free_plugging(m);
	machine_free_loops(m);
	migrate_fill_stop(m->fill);
	irq_table_free(m->irqs);
	bus_free(m->mmio);
	bus_free(m->pio);
	if (m->hv)
		m->hv->ops->free(m->hv);
	free(m->cpuid);
	guest_mem_free(m->mem);
	loop_free(m->loop);
	gdb_free(m->gdb);
	machine_free_pausers(m);
	maker_free(m->maker);
	free(m);
}

/* ---- running and ending ---- */

void machine_end(struct machine *m, enum machine_end_reason reason, int status, struct vcpu *v)
{
	bool hung;

	/* A kernel that an NMI made panic tells of it before it prints what was to be known. */
	if (m->hung && reason == MACHINE_END_PANIC)
		return;
	if (atomic_exchange(&m->ending, true))
		return;
	/* Whatever it does here after it was found to hang, it was ended for that. */
	hung = m->hung && reason != MACHINE_END_MIGRATED;
	m->end.reason = hung ? MACHINE_END_HANG : reason;
	m->end.status = hung ? MACHINE_STATUS_HANG : status;
	if (v && !hung)
		machine_dump_vcpu(m, v, m->end.evidence, sizeof(m->end.evidence));
	/* Release: whoever sees @ended may read @end. */
	atomic_store_explicit(&m->ended, true, memory_order_release);
	loop_stop(m->loop);
}

static void timed_out(struct loop_timer *t)
{
	struct machine *m = container_of(t, struct machine, timeout);

	if (!migrate_puts_off(m, t))
		machine_end(m, MACHINE_END_TIMEOUT, MACHINE_STATUS_TIMEOUT, NULL);
}

void machine_set_deadline(struct machine *m, uint64_t deadline_ns)
{
	m->timeout.expired = timed_out;
	loop_timer_set(m->loop, &m->timeout, deadline_ns);
}

int machine_start(struct machine *m, struct error *err)
{
	/* One that comes from elsewhere was let go there. */
	bool wait_gdb = m->gdb && m->config->wait_gdb && !m->arrival;
	int r = machine_start_loops(m, err);

	if (r < 0)
		return r;
	if (!m->paused && !wait_gdb)
		return vcpu_set_start(&m->vcpus, VCPU_RUN, err);
	/*
	 * All that can fail comes before the devices of a loaded machine go on: when it cannot run
	 * after all, nothing of what its guest had asked of them was done here.
	 */
	r = vcpu_set_start(&m->vcpus, VCPU_PAUSE, err);
	/* A source that hears that the guest runs here lets go of it. */
	if (!r && m->arrival)
		r = vcpu_set_await_parked(&m->vcpus, err);
	if (r < 0 || m->arrives_paused || (m->paused && m->config->start_paused))
		return r;
	if (m->paused)
		machine_resume_devices(m);
	m->debug_stopped = wait_gdb;
	if (wait_gdb)
		gdb_hold(m->gdb);
	else
		vcpu_set_want(&m->vcpus, VCPU_RUN, NULL, NULL);
	return 0;
}

static void set_flag(void *arg)
{
	*(bool *)arg = true;
}

/* How long the guest's last words may take to reach a slow reader. */
#define LAST_OUTPUT_NS (2 * NSEC_PER_SEC)
/* What programs wrote to ports waits as any program's would, for all practical purposes. */
#define PORT_OUTPUT_NS (86400 * NSEC_PER_SEC)

/*
 * vCPUs first, with the loop running: one may wait for the loop to acknowledge
 * a reset. Then the queues, so that what the guest was promised is done.
 */
static void wind_down(struct machine *m)
{
	bool quit = false;

	m->winding_down = true;
	/* Those who wait for a pause learn of the end. */
	machine_free_pausers(m);
	vcpu_set_want(&m->vcpus, VCPU_QUIT, set_flag, &quit);
	while (!quit)
		loop_run_once(m->loop, UINT64_MAX);
	vcpu_set_join(&m->vcpus);

	while (m->num_ports && !m->paused && virtio_console_flush(m->console))
		loop_run_once(m->loop, UINT64_MAX);
	if (!m->paused) {
		machine_drain(m);
		for (unsigned i = 0; i < m->num_virtio; i++)
			virtio_hurry(m->virtio[i].dev);
		while (m->undrained)
			loop_run_once(m->loop, UINT64_MAX);
	}
	for (unsigned i = 0; i < m->num_ports; i++)
		chardev_flush(m->port_char[i], PORT_OUTPUT_NS);
	if (m->console_char)
		chardev_flush(m->console_char, LAST_OUTPUT_NS);
	if (m->serial_char)
		chardev_flush(m->serial_char, LAST_OUTPUT_NS);
}

void machine_run(struct machine *m, struct machine_end *ret_end)
{
	while (!atomic_load_explicit(&m->ended, memory_order_acquire))
		loop_run(m->loop);
	loop_timer_cancel(m->loop, &m->timeout);
	loop_timer_cancel(m->loop, &m->stop);
	migrate_source_free(m);
	*ret_end = m->end;
	migrate_fill_end(m->fill, m->end.status);
	wind_down(m);
	gdb_ended(m->gdb, m->end.status);
	machine_note_requests(m);
	*ret_end = m->end;
}

void machine_power_button(struct machine *m)
{
	power_ged_raise(m->power, GED_POWER_BUTTON);
}

void machine_window_changed(struct machine *m)
{
	if (m->console_char)
		chardev_window_changed(m->console_char);
	if (m->serial_char)
		chardev_window_changed(m->serial_char);
}

void machine_set_monitor(struct machine *m, const struct monitor_params *params)
{
	m->monitor = params;
}

struct loop *machine_loop(struct machine *m)
{
	return m->loop;
}

struct guest_mem *machine_memory(struct machine *m)
{
	return m->mem;
}

int machine_vcpu_state(struct machine *m, unsigned index, struct x86_vcpu_state *state)
{
	if (index >= m->vcpus.num)
		return -EINVAL;
	return m->hv->ops->vcpu_get(m->vcpus.vcpu[index].hv, state);
}
