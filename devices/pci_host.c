/*
 * The host bridge: function 00:00.0, and the two ways into configuration
 * space, ECAM (PCI Express base 4.0, 7.2.2) and the ports 0xcf8 and 0xcfc
 * (PCI 3.0, 3.2.2.3.2).
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/pci_internal.h"

#define CONFIG_PORT	 0xcf8
#define CONFIG_PORT_SIZE 8
#define RESET_PORT	 0xcf9

/* Red Hat's generic PCI Express host bridge: no driver wants more of it than that. */
#define BRIDGE_VENDOR 0x1b36
#define BRIDGE_DEVICE 0x0008
#define BRIDGE_CLASS  0x060000

#define ECAM_FUNCTION_SIZE 4096

#define ADDRESS_ENABLE (1u << 31)
#define ADDRESS_BITS   0x80fffffcu

/* Only bus 0, function 0 is there. */
static bool is_ours(unsigned bus, unsigned function)
{
	return bus == 0 && function == 0;
}

/* ---- ECAM: bus, device, function, register in the address ---- */

static void ecam_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	unsigned reg = offset & (ECAM_FUNCTION_SIZE - 1), slot = offset >> 15 & 31;
	unsigned step = MIN(len, 4u), i;

	if (!is_ours(offset >> 20, offset >> 12 & 7))
		return; /* all ones already */
	for (i = 0; i < len; i += step)
		pci_bus_config_read(opaque, slot, reg + i, (uint8_t *)data + i, step);
}

static void ecam_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	unsigned reg = offset & (ECAM_FUNCTION_SIZE - 1), slot = offset >> 15 & 31;
	unsigned step = MIN(len, 4u), i;

	if (!is_ours(offset >> 20, offset >> 12 & 7))
		return;
	for (i = 0; i < len; i += step)
		pci_bus_config_write(opaque, slot, reg + i, (const uint8_t *)data + i, step);
}

static const struct bus_ops ecam_ops = {
	.read = ecam_read,
	.write = ecam_write,
};

/* ---- ports: an address register and a window of four bytes ---- */

static bool is_reset_port(const struct pci_bus *bus, uint64_t offset, unsigned len)
{
	return CONFIG_PORT + offset == RESET_PORT && len == 1 && bus->reset_port.ops;
}

/* Does the address register select one of our functions? Then slot and register. */
static bool selected(struct pci_bus *bus, unsigned offset, unsigned *ret_slot, unsigned *ret_reg)
{
	uint32_t a;

	pthread_mutex_lock(&bus->lock);
	a = bus->config_address;
	pthread_mutex_unlock(&bus->lock);
	*ret_slot = a >> 11 & 31;
	*ret_reg = (a & 0xfc) + (offset & 3);
	return (a & ADDRESS_ENABLE) && is_ours(a >> 16 & 0xff, a >> 8 & 7);
}

static void port_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	struct pci_bus *bus = opaque;
	unsigned slot, reg;

	if (is_reset_port(bus, offset, len)) {
		bus->reset_port.ops->read(bus->reset_port.opaque, 0, data, len);
	} else if (offset == 0 && len == 4) {
		pthread_mutex_lock(&bus->lock);
		put_le32(data, bus->config_address);
		pthread_mutex_unlock(&bus->lock);
	} else if (offset >= 4 && len <= 4 && selected(bus, offset, &slot, &reg)) {
		pci_bus_config_read(bus, slot, reg, data, len);
	}
}

static void port_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	struct pci_bus *bus = opaque;
	unsigned slot, reg;

	if (is_reset_port(bus, offset, len)) {
		bus->reset_port.ops->write(bus->reset_port.opaque, 0, data, len);
	} else if (offset == 0 && len == 4) {
		pthread_mutex_lock(&bus->lock);
		bus->config_address = get_le32(data) & ADDRESS_BITS;
		pthread_mutex_unlock(&bus->lock);
	} else if (offset >= 4 && len <= 4 && selected(bus, offset, &slot, &reg)) {
		pci_bus_config_write(bus, slot, reg, data, len);
	}
}

static const struct bus_ops port_ops = {
	.read = port_read,
	.write = port_write,
};

/* Regions do not overlap, and the reset register lies inside of ours: keep it reachable. */
static void find_reset_port(const struct bus_region *region, void *arg)
{
	struct pci_bus *bus = arg;

	if (region->base == RESET_PORT && region->size == 1)
		bus->reset_port = *region;
}

static int add_ports(struct pci_bus *bus, struct error *err)
{
	struct bus_region ports = {
		.base = CONFIG_PORT,
		.size = CONFIG_PORT_SIZE,
		.ops = &port_ops,
		.opaque = bus,
		.name = "pci-config",
	};

	bus_for_each(bus->params.pio, find_reset_port, bus);
	if (bus->reset_port.ops)
		bus_remove(bus->params.pio, RESET_PORT, bus->reset_port.opaque);
	return bus_add(bus->params.pio, &ports, err);
}

/* ---- life ---- */

int pci_bus_create(struct pci_bus **ret_bus, const struct pci_bus_params *params,
		   struct error *err)
{
	const struct pci_ids ids = {
		.vendor = BRIDGE_VENDOR,
		.device = BRIDGE_DEVICE,
		.subsystem_vendor = BRIDGE_VENDOR,
		.subsystem = BRIDGE_DEVICE,
		.class_code = BRIDGE_CLASS,
	};
	struct bus_region ecam = {
		.base = params->ecam_base,
		.size = params->ecam_size,
		.ops = &ecam_ops,
		.name = "pci-ecam",
	};
	struct pci_bus *bus = calloc(1, sizeof(*bus));
	int r;

	if (!bus)
		return error_set(err, -ENOMEM, "PCI bus: %m");
	bus->params = *params;
	memcpy(bus->intx_gsi, params->intx_gsi, sizeof(bus->intx_gsi));
	bus->params.intx_gsi = bus->intx_gsi;
	pthread_mutex_init(&bus->lock, NULL);
	pthread_mutex_init(&bus->intx_lock, NULL);

	ecam.opaque = bus;
	r = bus_add(params->mmio, &ecam, err);
	if (!r && params->pio)
		r = add_ports(bus, err);
	if (!r)
		r = pci_device_init(&bus->bridge, bus, 0, "host-bridge", &ids);
	if (!r)
		r = pci_bus_plug(&bus->bridge, err);
	if (r < 0) {
		pci_bus_free(bus);
		return r;
	}
	*ret_bus = bus;
	return 0;
}

void pci_bus_free(struct pci_bus *bus)
{
	if (!bus)
		return;
	pci_device_done(&bus->bridge);
	bus_remove(bus->params.mmio, bus->params.ecam_base, bus);
	if (bus->params.pio)
		bus_remove(bus->params.pio, CONFIG_PORT, bus);
	pthread_mutex_destroy(&bus->lock);
	pthread_mutex_destroy(&bus->intx_lock);
	free(bus);
}

struct irq_table *pci_bus_irqs(struct pci_bus *bus)
{
	return bus->params.irqs;
}

/* ---- state ---- */

void pci_bus_save(struct pci_bus *bus, struct state_writer *w)
{
	pthread_mutex_lock(&bus->lock);
	state_put_u32(w, bus->config_address);
	pthread_mutex_unlock(&bus->lock);
	pci_device_save(&bus->bridge, w);
}

int pci_bus_load(struct pci_bus *bus, struct state_reader *r)
{
	uint32_t address = state_get_u32(r);

	if (address & ~ADDRESS_BITS)
		return state_reader_fail(r, "configuration address %#x", address);
	pthread_mutex_lock(&bus->lock);
	bus->config_address = address;
	pthread_mutex_unlock(&bus->lock);
	return pci_device_load(&bus->bridge, r);
}
