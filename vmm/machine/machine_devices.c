/*
 * What the guest can see beside processors and memory: read it from top to
 * bottom, in the order in which a guest meets it.
 */
#include <errno.h>
#include <stdlib.h>

#include "virtio/virtio_balloon.h"
#include "virtio/virtio_devices.h"
#include "virtio/virtio_mem.h"
#include "vmm/control/agent_wire.h"
#include "vmm/machine/machine_internal.h"

/* INTA to INTD; above the pins that ISA devices could want. */
static const uint32_t intx_gsi[4] = { 16, 17, 18, 19 };

/*
 * Pins for virtio-mmio, one each since a shared edge is lost. 4, 8 and 9 are the
 * serial port's, the clock's and the event device's; 0 to 3 have ISA meanings.
 */
static const uint32_t mmio_gsi[] = {
	5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23
};

/* A window above all RAM for 64-bit BARs; persistent memory is above that, whoever needs it. */
#define MMIO64_ALIGN (1 * GiB)
#define MMIO64_SIZE  (16 * GiB)

/*
 * A kernel that panics before it has a pvpanic driver can only reboot. Under the
 * default command line (reboot=panic_warm) it asks for a warm boot then, as one
 * asks a BIOS: by a word in its data area.
 */
#define BIOS_RESET_FLAG_ADDR 0x472
#define BIOS_RESET_WARM	     0x1234

static bool reset_out_of_panic(struct machine *m)
{
	uint8_t flag[2];

	return guest_mem_read(m->mem, BIOS_RESET_FLAG_ADDR, flag, sizeof(flag)) == 0 &&
	       get_le16(flag) == BIOS_RESET_WARM;
}

static void power_event(void *arg, enum power_event event, uint8_t value)
{
	struct machine *m = arg;

	switch (event) {
	case POWER_OFF:
		machine_end(m, MACHINE_END_POWEROFF, 0, NULL);
		break;
	case POWER_RESET:
		if (reset_out_of_panic(m))
			machine_end(m, MACHINE_END_PANIC, MACHINE_STATUS_PANIC, NULL);
		else
			machine_end(m, MACHINE_END_REBOOT, 0, NULL);
		break;
	case POWER_PANIC:
		machine_end(m, MACHINE_END_PANIC, MACHINE_STATUS_PANIC, NULL);
		break;
	case POWER_CRASH_LOADED:
		log_info("the guest panicked and starts its crash kernel");
		break;
	case POWER_EXIT:
		machine_end(m, MACHINE_END_EXIT_PORT, value, NULL);
		break;
	}
}

static void escape_key(void *arg, char key)
{
	struct machine *m = arg;

	if (key == 'x')
		machine_end(m, MACHINE_END_ASKED, 0, NULL);
}

static int add_chardev(struct machine *m, const struct config_char *c, int *listen_fd,
		       bool layout_only, struct chardev **ret_c, struct error *err)
{
	struct chardev_config config = {
		.kind = layout_only ? CHARDEV_NULL : c->kind,
		.path = c->path,
		/* What it said where it comes from may be in the same file. */
		.append = m->arriving,
		.listen_fd = *listen_fd,
	};
	int r = chardev_create(ret_c, &config, m->loop, err);

	*listen_fd = -1;
	if (!r && config.kind == CHARDEV_STDIO)
		chardev_on_escape(*ret_c, escape_key, m);
	return r;
}

static int add_serial_char(struct machine *m, struct machine_files *files, bool layout_only,
			   struct error *err)
{
	struct chardev_config config = {
		.kind = CHARDEV_FDS,
		.in_fd = -1,
		.out_fd = files->serial_out,
	};

	if (files->serial_out < 0)
		return add_chardev(m, &m->config->serial, &files->serial, layout_only,
				   &m->serial_char, err);
	return chardev_create(&m->serial_char, &config, m->loop, err);
}

static uint64_t mmio64_base(const struct machine *m)
{
	uint64_t end = MAX(guest_mem_high_end(m->mem), FW_HOLE_END);

	return align_up(MAX(end, m->hotplug_gpa + m->config->hotplug.bytes), MMIO64_ALIGN);
}

static int add_pci(struct machine *m, struct error *err)
{
	struct pci_bus_params params = {
		.mmio = m->mmio,
		.pio = m->pio,
		.irqs = m->irqs,
		.ecam_base = FW_ECAM_ADDR,
		.ecam_size = FW_ECAM_SIZE,
		.mmio32_base = FW_PCI_MMIO32_ADDR,
		.mmio32_size = FW_PCI_MMIO32_SIZE,
		.mmio64_base = mmio64_base(m),
		.mmio64_size = MMIO64_SIZE,
		.intx_gsi = intx_gsi,
	};

	m->platform.pci = true;
	m->platform.intx_gsi = intx_gsi;
	m->platform.pci_mmio64_base = params.mmio64_base;
	m->platform.pci_mmio64_size = params.mmio64_size;
	return pci_bus_create(&m->pci, &params, err);
}

/* Slots that a device is to have later, or that one had before. */
static uint32_t slots_of_others(const struct machine_config *c)
{
	uint32_t slots = c->empty_slots;

	for (unsigned i = 0; i < c->num_disks; i++)
		slots |= 1u << c->disk[i].slot;
	for (unsigned i = 0; i < c->num_nets; i++)
		slots |= 1u << c->net[i].slot;
	for (unsigned i = 0; i < c->num_pmems; i++)
		slots |= 1u << c->pmem[i].slot;
	return slots;
}

/*
 * Put a device, which the machine owns from now on, behind the transport of this machine; @slot of
 * the PCI bus, 0: the next one.
 */
static int add_virtio(struct machine *m, struct virtio_device *dev, unsigned slot,
		      struct error *err)
{
	struct machine_virtio *v = &m->virtio[m->num_virtio];
	unsigned n = m->num_virtio++;
	int r;

	v->dev = dev;
	if (m->pci) {
		r = slot ? (int)slot : pci_bus_free_slot(m->pci, slots_of_others(m->config));
		if (r < 0)
			return error_usage(err, r, "--transport pci: no slot left for '%s'",
					   dev->id);
		v->slot = r;
		r = virtio_pci_create(&v->pci, dev, m->pci, v->slot, err);
		return r < 0 ? r : pci_bus_plug(virtio_pci_function(v->pci), err);
	}
	if (n >= ARRAY_SIZE(mmio_gsi))
		return error_usage(err, -ENOSPC,
				   "--transport mmio: room for %zu devices, '%s' is one more",
				   ARRAY_SIZE(mmio_gsi), dev->id);
	v->base = FW_VIRTIO_MMIO_ADDR + n * PAGE_SIZE;
	v->gsi = mmio_gsi[n];
	m->mmio_device[n] = (struct fw_mmio_device){
		.base = v->base,
		.size = VIRTIO_MMIO_SIZE,
		.gsi = v->gsi,
	};
	m->platform.num_mmio = n + 1;
	return virtio_mmio_create(&v->mmio, dev, m->mmio, v->base, m->irqs, v->gsi, err);
}

static struct virtio_params common_params(struct machine *m, const char *id)
{
	return (struct virtio_params){
		.id = id,
		.mem = m->mem,
		.loop = m->loop,
		.no_packed = !m->config->virtio_packed,
	};
}

/*
 * The loops of a disk's queues into @loops: one each, where the format lets them all work at the
 * same time, or one for all.
 */
static int add_disk_loops(struct machine *m, const struct config_disk *c, const struct block *b,
			  struct loop **loops, struct error *err)
{
	unsigned own = block_can_share(b) ? c->queues : 1;
	int r = 0;

	for (unsigned i = 0; i < c->queues && !r; i++) {
		if (i < own)
			r = machine_add_loop(m, c->id, i, &loops[i], err);
		else
			loops[i] = loops[0];
	}
	return r;
}

int machine_add_disk(struct machine *m, unsigned number, struct machine_files *files,
		     struct error *err)
{
	const struct config_disk *c = &m->config->disk[number];
	int *fd = &files->disk[number], *dialer = &files->dialer[number];
	struct block_config backing[BLOCK_MAX_CHAIN];
	struct virtio_params params = common_params(m, c->id);
	struct block_config config = {
		.path = c->path,
		.fd = *fd,
		.format = c->format,
		.cache = c->cache,
		.read_only = c->read_only,
		.direct = c->direct,
		.unlocked = m->arriving,
		.dialer = *dialer,
		.reconnect_seconds = *dialer < 0 ? 0 : c->reconnect_seconds,
	};
	const struct rate_limits limits = machine_disk_limits(c);
	struct loop *loops[CONFIG_MAX_QUEUES] = { m->loop };
	struct virtio_device *dev = NULL;
	struct block *block;
	int r;

	m->disk_fd[number] = *fd;
	*fd = -1; /* block_open() owns it, also when it fails */
	config.backing = block_chain_take(&files->beneath[number], backing, &config);
	r = block_open(&block, &config, err);
	if (r < 0)
		return r;
	*dialer = -1;
	r = add_disk_loops(m, c, block, loops, err);
	if (!r) {
		block_attach(block, loops[0]);
		params.num_queues = c->queues;
		params.queue_loops = loops;
		r = virtio_blk_create(&dev, &params, block, c->serial, err);
	}
	if (r < 0) {
		block_close(block);
		return r;
	}
	virtio_blk_limit(dev, &limits);
	return add_virtio(m, dev, c->slot, err);
}

int machine_add_net(struct machine *m, const struct config_net *c, struct net_ends *ends,
		    struct error *err)
{
	const struct rate_limits limits = machine_net_limits(c);
	struct virtio_params params = common_params(m, c->id);
	struct net *pairs[NET_MAX_PAIRS];
	struct virtio_device *dev;
	unsigned num = 0;
	int r;

	/* The kernel's vhost-net knows the split ring alone. */
	params.no_packed |= c->vhost;
	r = net_ends_take(ends, c, m->loop, m->mem, pairs, &num, err);
	if (r < 0)
		return r;
	r = virtio_net_create(&dev, &params, pairs, num, err);
	if (r < 0) {
		while (num > 0)
			net_close(pairs[--num]);
		return r;
	}
	virtio_net_limit(dev, &limits, &limits);
	return add_virtio(m, dev, c->slot, err);
}

uint64_t machine_pmem_end(const struct machine *m)
{
	uint64_t end = mmio64_base(m) + MMIO64_SIZE;
	struct virtio_pmem_area area;

	for (unsigned i = 0; i < ARRAY_SIZE(m->pmem); i++) {
		if (!m->pmem[i])
			continue;
		virtio_pmem_area(m->pmem[i], &area);
		end = MAX(end, area.gpa + area.size);
	}
	return end;
}

/* Give the guest the file's pages where it will look for them. */
static int map_pmem(struct machine *m, const struct virtio_device *dev, bool read_only,
		    struct error *err)
{
	struct virtio_pmem_area area;
	unsigned i = 0;
	int r;

	while (m->pmem[i])
		i++;
	virtio_pmem_area(dev, &area);
	r = m->hv->ops->mem_set(m->hv, m->mem->num_ranges + i, area.gpa, area.size, area.host,
				read_only ? HV_MEM_READ_ONLY : 0);
	if (r < 0)
		return error_kind_set(err, ERROR_START, r,
				      "'%s': cannot give the guest %llu MiB at 0x%llx: %m", dev->id,
				      (unsigned long long)(area.size / MiB),
				      (unsigned long long)area.gpa);
	m->pmem[i] = dev;
	return 0;
}

void machine_unmap_pmem(struct machine *m, const struct virtio_device *dev)
{
	struct virtio_pmem_area area;
	int r;

	for (unsigned i = 0; i < ARRAY_SIZE(m->pmem); i++) {
		if (m->pmem[i] != dev)
			continue;
		virtio_pmem_area(dev, &area);
		r = m->hv->ops->mem_set(m->hv, m->mem->num_ranges + i, area.gpa, 0, area.host, 0);
		if (r < 0)
			log_warn("'%s': stays in the guest's reach: %s", dev->id, strerror(-r));
		m->pmem[i] = NULL;
	}
}

int machine_add_pmem(struct machine *m, const struct config_pmem *c, int *fd, struct error *err)
{
	uint64_t next = machine_pmem_end(m), gpa = c->gpa ? c->gpa : next;
	struct block_file file = { .fd = *fd, .path = c->path };
	struct virtio_params params = common_params(m, c->id);
	struct virtio_device *dev;
	int r;

	if (c->gpa && (gpa < next || gpa >= CONFIG_MAX_MEMORY))
		return error_usage(err, -ERANGE,
				   "--pmem '%s': address: 0x%llx is not from 0x%llx to 0x%llx",
				   c->path, (unsigned long long)gpa, (unsigned long long)next,
				   CONFIG_MAX_MEMORY - VIRTIO_PMEM_ALIGN);
	r = block_file_lock(&file, c->read_only, err);
	if (r < 0)
		return r;
	r = virtio_pmem_create(&dev, &params, *fd, gpa, c->read_only, err);
	if (r < 0) {
		error_prefix(err, "--pmem '%s'", c->path);
		return r;
	}
	*fd = -1;
	r = map_pmem(m, dev, c->read_only, err);
	if (r < 0) {
		virtio_free(dev);
		return r;
	}
	return add_virtio(m, dev, c->slot, err);
}

static int add_share(struct machine *m, const struct config_share *c, int *fd, struct error *err)
{
	struct virtio_params params = common_params(m, c->id);
	struct virtio_device *dev;
	struct fs_client *client;
	int r, socket = *fd;

	*fd = -1; /* the client owns it, also when it fails */
	r = fs_client_create(&client, socket, m->loop, c->id, err);
	if (r < 0)
		return r;
	r = virtio_fs_create(&dev, &params, client, c->tag, err);
	if (r < 0) {
		fs_client_free(client);
		return r;
	}
	return add_virtio(m, dev, 0, err);
}

/* The console on the terminal, if there is one, then the ports for programs. */
static int add_console(struct machine *m, struct machine_files *files, bool layout_only,
		       struct error *err)
{
	struct virtio_console_port port[1 + MACHINE_MAX_PORTS];
	struct virtio_params params = common_params(m, "console0");
	unsigned n = 0;
	int r = 0;

	if (m->config->console_present) {
		r = add_chardev(m, &m->config->console, &files->console, layout_only,
				&m->console_char, err);
		port[n++] = (struct virtio_console_port){
			.is_console = true,
			.chardev = m->console_char,
		};
	}
	for (unsigned i = 0; i < files->num_ports && !r; i++) {
		const struct machine_port *p = &files->port[i];
		struct chardev_config config = {
			.kind = CHARDEV_FDS,
			.in_fd = p->in,
			.out_fd = p->out,
		};

		r = chardev_create(&m->port_char[i], &config, m->loop, err);
		if (!r)
			m->num_ports++;
		port[n++] = (struct virtio_console_port){
			.name = p->name,
			.chardev = m->port_char[i],
		};
	}
	if (!r)
		r = virtio_console_create(&m->console, &params, port, n, err);
	return r < 0 ? r : add_virtio(m, m->console, 0, err);
}

static int add_vsock(struct machine *m, struct machine_files *files, struct error *err)
{
	const struct virtio_vsock_notice notice = {
		.port = AGENT_IDENTITY_PORT,
		.write = machine_write_identity,
		.ctx = m,
	};
	struct virtio_params params = common_params(m, "vsock0");
	int r = virtio_vsock_create(&m->vsock, &params, m->config->vsock.cid, files->vsock_listen,
				    files->vsock_broker, &notice, err);

	if (r < 0)
		return r;
	files->vsock_listen = files->vsock_broker = -1;
	return add_virtio(m, m->vsock, 0, err);
}

static int add_balloon(struct machine *m, struct error *err)
{
	const struct config_balloon *c = &m->config->balloon;
	struct virtio_params params = common_params(m, "balloon0");
	struct virtio_balloon_params balloon = {
		.target_bytes = c->bytes,
		.deflate_on_oom = c->deflate_on_oom,
		.reporting = c->reporting,
		.hinting = c->hinting,
	};
	int r = virtio_balloon_create(&m->balloon, &params, &balloon, err);

	return r < 0 ? r : add_virtio(m, m->balloon, 0, err);
}

int machine_plugged_pages(struct machine *m, uint64_t **ret_pages)
{
	const struct guest_mem *mem = m->mem;
	uint64_t *pages;

	*ret_pages = NULL;
	if (!m->hotplug)
		return 0;
	pages = calloc(guest_mem_bitmap_words(guest_mem_size(mem)), sizeof(*pages));
	if (!pages)
		return -ENOMEM;
	for (unsigned i = 0; i < mem->num_ranges; i++) {
		const struct guest_mem_range *r = &mem->range[i];
		uint64_t first = (uint64_t)(r->host - mem->map) >> PAGE_SHIFT;

		if (r->is_later)
			virtio_mem_mark_plugged(m->hotplug, pages, first);
		for (uint64_t k = 0; k < r->size >> PAGE_SHIFT && !r->is_later; k++)
			pages[(first + k) / 64] |= 1ull << (first + k) % 64;
	}
	*ret_pages = pages;
	return 0;
}

void machine_note_requests(struct machine *m)
{
	struct virtio_mem_info info;

	if (!m->hotplug)
		return;
	virtio_mem_info(m->hotplug, &info);
	m->end.has_requested = true;
	m->end.requested_bytes = info.requested_bytes;
}

void machine_ask_again(struct machine *m, const struct machine_end *before)
{
	if (m->hotplug && before->has_requested &&
	    virtio_mem_request(m->hotplug, before->requested_bytes) < 0)
		log_warn("the guest is not asked for the memory that it had before");
}

static int add_hotplug(struct machine *m, struct error *err)
{
	const struct config_hotplug *c = &m->config->hotplug;
	struct virtio_params params = common_params(m, "mem0");
	struct virtio_mem_params mem = {
		.gpa = m->hotplug_gpa,
		.region_bytes = c->bytes,
		.block_bytes = c->block_bytes,
		.requested_bytes = c->requested_bytes,
	};
	int r = virtio_mem_create(&m->hotplug, &params, &mem, err);

	return r < 0 ? r : add_virtio(m, m->hotplug, 0, err);
}

static int add_rng(struct machine *m, struct error *err)
{
	struct virtio_params params = common_params(m, "rng0");
	struct virtio_device *dev;
	int r = virtio_rng_create(&dev, &params, err);

	return r < 0 ? r : add_virtio(m, dev, 0, err);
}

/* The parts of the platform that are on no bus of devices' own. */
static int add_platform(struct machine *m, struct machine_files *files, bool layout_only,
			struct error *err)
{
	const struct machine_config *c = m->config;
	uint64_t high = guest_mem_high_end(m->mem);
	struct power_config power = {
		.test_device = c->test_device,
		.event = power_event,
		.eject = machine_ejected,
		.arg = m,
	};
	int r;

	m->platform.num_cpus = c->cpus;
	m->platform.mmio = m->mmio_device;
	m->platform.serial = c->serial_present;
	m->platform.rtc = c->rtc;
	m->platform.vmgenid = true;
	m->platform.vmclock = true;

	m->eject_task.run = machine_eject_seen;
	r = power_create(&m->power, m->pio, m->irqs, &power, err);
	if (!r)
		r = rtc_create(&m->rtc, m->pio, m->irqs, m->loop, m->clock,
			       guest_mem_low_end(m->mem),
			       high > FW_HOLE_END ? high - FW_HOLE_END : 0, err);
	if (!r && c->serial_present)
		r = add_serial_char(m, files, layout_only, err);
	if (!r && c->serial_present)
		r = serial_create(&m->serial, m->pio, SERIAL_COM1_PORT, m->irqs, SERIAL_COM1_IRQ,
				  m->serial_char, m->loop, err);
	return r;
}

/* What there may be several of. */
static int add_numbered(struct machine *m, struct machine_files *files, struct error *err)
{
	const struct machine_config *c = m->config;
	int r = 0;

	for (unsigned i = 0; i < c->num_disks && !r; i++)
		r = machine_add_disk(m, i, files, err);
	for (unsigned i = 0; i < c->num_nets && !r; i++)
		r = machine_add_net(m, &c->net[i], &files->net[i], err);
	for (unsigned i = 0; i < c->num_pmems && !r; i++)
		r = machine_add_pmem(m, &c->pmem[i], &files->pmem[i], err);
	for (unsigned i = 0; i < c->num_shares && !r; i++)
		r = add_share(m, &c->share[i], &files->share[i], err);
	return r;
}

/* The order is that of addresses and interrupts, and so of what is saved. */
int machine_add_devices(struct machine *m, struct machine_files *files, bool layout_only,
			struct error *err)
{
	const struct machine_config *c = m->config;
	int r = add_platform(m, files, layout_only, err);

	if (!r && c->transport == CONFIG_PCI)
		r = add_pci(m, err);
	if (!r)
		r = add_numbered(m, files, err);
	if (!r && (c->console_present || files->num_ports))
		r = add_console(m, files, layout_only, err);
	if (!r && c->vsock_present)
		r = add_vsock(m, files, err);
	if (!r && c->balloon_present)
		r = add_balloon(m, err);
	if (!r && c->hotplug.bytes)
		r = add_hotplug(m, err);
	if (!r && c->rng)
		r = add_rng(m, err);
	return r;
}

void machine_free_devices(struct machine *m)
{
	for (unsigned i = 0; i < m->num_virtio; i++) {
		virtio_pci_free(m->virtio[i].pci);
		virtio_mmio_free(m->virtio[i].mmio);
		virtio_free(m->virtio[i].dev);
	}
	pci_bus_free(m->pci);
	serial_free(m->serial);
	rtc_free(m->rtc);
	power_free(m->power);
	for (unsigned i = 0; i < m->num_ports; i++)
		chardev_free(m->port_char[i]);
	m->num_ports = 0;
	chardev_free(m->console_char);
	/* The loop runs on while the other one closes: a resize must not find this one. */
	m->console_char = NULL;
	chardev_free(m->serial_char);
	m->serial_char = NULL;
}
