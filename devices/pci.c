#include "devices/pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdio.h>
#include <stdlib.h>

#include "devices/pci_internal.h"

#define COMMAND_BITS                                                                               \
	(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR |         \
	 PCI_COMMAND_INTX_DISABLE)

int pci_device_init(struct pci_device *dev, struct pci_bus *bus, unsigned slot, const char *name,
		    const struct pci_ids *ids)
{
	uint8_t *c = dev->config;

	if (slot >= PCI_NUM_SLOTS)
		return -EINVAL;
	memset(dev, 0, sizeof(*dev));
	dev->bus = bus;
	dev->slot = slot;
	snprintf(dev->name, sizeof(dev->name), "%s", name);
	dev->next_cap = PCI_STD_HEADER_SIZEOF;
	dev->intx_gsi = bus->intx_gsi[slot % 4];

	put_le16(c + PCI_VENDOR_ID, ids->vendor);
	put_le16(c + PCI_DEVICE_ID, ids->device);
	put_le16(c + PCI_SUBSYSTEM_VENDOR_ID, ids->subsystem_vendor);
	put_le16(c + PCI_SUBSYSTEM_ID, ids->subsystem);
	put_le32(c + PCI_CLASS_REVISION, ids->class_code << 8 | ids->revision);
	put_le16(dev->writable + PCI_COMMAND, COMMAND_BITS);
	dev->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	dev->writable[PCI_INTERRUPT_LINE] = 0xff;
	return 0;
}

void pci_device_done(struct pci_device *dev)
{
	if (!dev->bus)
		return;
	pci_bus_unplug(dev);
	pci_msix_done(dev);
	dev->bus = NULL;
}

unsigned pci_add_capability(struct pci_device *dev, uint8_t id, const void *body, unsigned len)
{
	unsigned at = dev->next_cap;
	uint8_t *c = dev->config;

	/* Insert in front of the list: no walk, and the order means nothing. */
	c[at] = id;
	c[at + 1] = c[PCI_CAPABILITY_LIST];
	memcpy(c + at + 2, body, len - 2);
	c[PCI_CAPABILITY_LIST] = at;
	c[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	dev->next_cap = align_up(at + len, 4);
	return at;
}

/* ---- BARs ---- */

static unsigned bar_register(unsigned index)
{
	return PCI_BASE_ADDRESS_0 + 4 * index;
}

void pci_set_bar(struct pci_device *dev, unsigned index, const struct pci_bar *bar)
{
	unsigned at = bar_register(index);
	uint32_t flags = PCI_BASE_ADDRESS_SPACE_MEMORY;

	dev->bar[index] = *bar;
	if (bar->is_64)
		flags |= PCI_BASE_ADDRESS_MEM_TYPE_64;
	if (bar->prefetchable)
		flags |= PCI_BASE_ADDRESS_MEM_PREFETCH;
	put_le32(dev->config + at, flags);
	/* Bits below the size cannot be set: that is how the guest finds it out. */
	put_le32(dev->writable + at, ~(bar->size - 1) & PCI_BASE_ADDRESS_MEM_MASK);
	if (bar->is_64) {
		put_le32(dev->config + at + 4, 0);
		put_le32(dev->writable + at + 4, ~(bar->size - 1) >> 32);
	}
}

static uint64_t bar_value(const struct pci_device *dev, unsigned index)
{
	unsigned at = bar_register(index);
	uint64_t addr = get_le32(dev->config + at) & (uint32_t)PCI_BASE_ADDRESS_MEM_MASK;

	if (dev->bar[index].is_64)
		addr |= (uint64_t)get_le32(dev->config + at + 4) << 32;
	return addr;
}

static void set_bar_value(struct pci_device *dev, unsigned index, uint64_t addr)
{
	unsigned at = bar_register(index);
	uint32_t flags = get_le32(dev->config + at) & ~(uint32_t)PCI_BASE_ADDRESS_MEM_MASK;

	put_le32(dev->config + at, (uint32_t)addr | flags);
	if (dev->bar[index].is_64)
		put_le32(dev->config + at + 4, addr >> 32);
}

/*
 * Is this a place for a BAR? Only the bridge's windows are: a guest that is
 * sizing a BAR with decoding on, or means harm, moves it nowhere else.
 */
static bool in_window(const struct pci_bus *bus, uint64_t addr, uint64_t size)
{
	const struct pci_bus_params *p = &bus->params;

	return range_inside(addr, size, p->mmio32_base, p->mmio32_size) ||
	       range_inside(addr, size, p->mmio64_base, p->mmio64_size);
}

static void unmap_bar(struct pci_device *dev, struct pci_bar *bar)
{
	if (bar->mapped)
		bus_remove(dev->bus->params.mmio, bar->addr, bar->opaque);
	bar->mapped = false;
}

/* Whether @dev decodes at @addr what its BAR @bar covers; under bus->lock. */
static bool decodes(const struct pci_device *dev, const struct pci_bar *bar, uint64_t addr)
{
	return bar->size && (pci_command(dev) & PCI_COMMAND_MEMORY) &&
	       in_window(dev->bus, addr, bar->size);
}

/* Make what is decoded agree with the registers; under bus->lock. */
static void update_bars(struct pci_device *dev)
{
	struct pci_bus *bus = dev->bus;

	for (unsigned i = 0; i < PCI_NUM_BARS; i++) {
		struct pci_bar *bar = &dev->bar[i];
		bool decode;
		uint64_t addr;

		if (!bar->size)
			continue;
		addr = bar_value(dev, i);
		decode = decodes(dev, bar, addr);
		if (bar->mapped && decode && addr == bar->addr)
			continue;
		unmap_bar(dev, bar);
		bar->addr = addr;
		if (decode) {
			struct bus_region region = {
				.base = addr,
				.size = bar->size,
				.ops = bar->ops,
				.opaque = bar->opaque,
				.name = bar->name,
			};

			/* Over another function's BAR: then the one that was first answers. */
			bar->mapped = bus_add(bus->params.mmio, &region, NULL) == 0;
		}
	}
}

uint64_t pci_bar_addr(struct pci_device *dev, unsigned index)
{
	uint64_t addr;

	pthread_mutex_lock(&dev->bus->lock);
	addr = dev->bar[index].mapped ? dev->bar[index].addr : 0;
	pthread_mutex_unlock(&dev->bus->lock);
	return addr;
}

bool pci_device_is_placed(struct pci_device *dev)
{
	bool placed = true;

	pthread_mutex_lock(&dev->bus->lock);
	for (unsigned i = 0; i < PCI_NUM_BARS; i++) {
		const struct pci_bar *bar = &dev->bar[i];
		uint64_t addr = bar->size ? bar_value(dev, i) : 0;

		placed &= bar->mapped == decodes(dev, bar, addr) &&
			  (!bar->mapped || bar->addr == addr);
	}
	pthread_mutex_unlock(&dev->bus->lock);
	return placed;
}

void pci_bus_place(struct pci_bus *bus)
{
	pthread_mutex_lock(&bus->lock);
	for (unsigned slot = 0; slot < PCI_NUM_SLOTS; slot++)
		if (bus->device[slot])
			update_bars(bus->device[slot]);
	pthread_mutex_unlock(&bus->lock);
}

/* The BAR of any function that overlaps the range, or NULL. */
static const struct pci_bar *bar_in_range(const struct pci_bus *bus, uint64_t addr, uint64_t size)
{
	unsigned slot, i;

	for (slot = 0; slot < PCI_NUM_SLOTS; slot++) {
		for (i = 0; bus->device[slot] && i < PCI_NUM_BARS; i++) {
			const struct pci_bar *bar = &bus->device[slot]->bar[i];

			if (bar->size && bar->addr &&
			    ranges_overlap(addr, size, bar->addr, bar->size))
				return bar;
		}
	}
	return NULL;
}

/* First place for a BAR in a window, aligned to its size; 0 when it is full. */
static uint64_t find_place(const struct pci_bus *bus, uint64_t base, uint64_t window, uint64_t size)
{
	uint64_t addr = align_up(base, size);

	while (range_inside(addr, size, base, window)) {
		const struct pci_bar *other = bar_in_range(bus, addr, size);

		if (!other)
			return addr;
		addr = align_up(other->addr + other->size, size);
	}
	return 0;
}

static int assign_bars(struct pci_device *dev, struct error *err)
{
	const struct pci_bus_params *p = &dev->bus->params;
	unsigned i;

	for (i = 0; i < PCI_NUM_BARS; i++) {
		struct pci_bar *bar = &dev->bar[i];
		uint64_t addr = 0;

		if (!bar->size || bar_value(dev, i))
			continue;
		if (bar->is_64)
			addr = find_place(dev->bus, p->mmio64_base, p->mmio64_size, bar->size);
		if (!addr)
			addr = find_place(dev->bus, p->mmio32_base, p->mmio32_size, bar->size);
		if (!addr)
			return error_set(err, -ENOSPC, "PCI '%s': no room for a BAR of %llu bytes",
					 dev->name, (unsigned long long)bar->size);
		set_bar_value(dev, i, addr);
		bar->addr = addr;
	}
	return 0;
}

/* ---- the bus ---- */

int pci_bus_plug(struct pci_device *dev, struct error *err)
{
	struct pci_bus *bus = dev->bus;
	int r;

	pthread_mutex_lock(&bus->lock);
	if (bus->device[dev->slot]) {
		r = error_set(err, -EBUSY, "PCI '%s': slot %u is taken", dev->name, dev->slot);
	} else {
		/* Visible while BARs are placed, so that its own do not overlap either. */
		bus->device[dev->slot] = dev;
		r = assign_bars(dev, err);
		if (r < 0) {
			bus->device[dev->slot] = NULL;
		} else {
			dev->config[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
			update_bars(dev);
		}
	}
	pthread_mutex_unlock(&bus->lock);
	return r;
}

void pci_bus_unplug(struct pci_device *dev)
{
	struct pci_bus *bus = dev->bus;
	unsigned i;

	pci_intx_set(dev, false);
	pthread_mutex_lock(&bus->lock);
	for (i = 0; i < PCI_NUM_BARS; i++)
		unmap_bar(dev, &dev->bar[i]);
	if (bus->device[dev->slot] == dev)
		bus->device[dev->slot] = NULL;
	pthread_mutex_unlock(&bus->lock);
}

int pci_bus_free_slot(struct pci_bus *bus, uint32_t taken)
{
	int slot, found = -ENOSPC;

	pthread_mutex_lock(&bus->lock);
	for (slot = 0; slot < PCI_NUM_SLOTS && found < 0; slot++) {
		if (!bus->device[slot] && !(taken & 1u << slot))
			found = slot;
	}
	pthread_mutex_unlock(&bus->lock);
	return found;
}

struct pci_device *pci_bus_device(struct pci_bus *bus, unsigned slot)
{
	struct pci_device *dev = NULL;

	pthread_mutex_lock(&bus->lock);
	if (slot < PCI_NUM_SLOTS)
		dev = bus->device[slot];
	pthread_mutex_unlock(&bus->lock);
	return dev;
}

/* ---- configuration accesses ---- */

void pci_config_get(struct pci_device *dev, unsigned offset, void *data, unsigned len)
{
	pthread_mutex_lock(&dev->bus->lock);
	memcpy(data, dev->config + offset, len);
	pthread_mutex_unlock(&dev->bus->lock);
}

void pci_config_put(struct pci_device *dev, unsigned offset, const void *data, unsigned len)
{
	pthread_mutex_lock(&dev->bus->lock);
	memcpy(dev->config + offset, data, len);
	pthread_mutex_unlock(&dev->bus->lock);
}

void pci_bus_config_read(struct pci_bus *bus, unsigned slot, unsigned offset, void *data,
			 unsigned len)
{
	struct pci_device *dev = pci_bus_device(bus, slot);

	if (!dev || !range_inside(offset, len, 0, PCI_CONFIG_SIZE)) {
		memset(data, dev ? 0 : 0xff, len);
		return;
	}
	if (dev->config_read)
		dev->config_read(dev, offset, len);
	pci_config_get(dev, offset, data, len);
	if (ranges_overlap(offset, len, PCI_STATUS, 1)) {
		uint8_t *status = (uint8_t *)data + (PCI_STATUS - offset);

		pthread_mutex_lock(&bus->intx_lock);
		if (dev->intx_asserted)
			*status |= PCI_STATUS_INTERRUPT;
		pthread_mutex_unlock(&bus->intx_lock);
	}
}

static void update_intx(struct pci_device *dev)
{
	/* What another function on the same pin asserts is the table's to combine. */
	irq_level_set(dev->bus->params.irqs, dev->intx_gsi, dev->slot,
		      dev->intx_asserted && !dev->intx_disabled);
}

void pci_bus_config_write(struct pci_bus *bus, unsigned slot, unsigned offset, const void *data,
			  unsigned len)
{
	struct pci_device *dev = pci_bus_device(bus, slot);
	const uint8_t *p = data;
	bool intx_disabled;
	unsigned i;

	if (!dev || !range_inside(offset, len, 0, PCI_CONFIG_SIZE))
		return;
	pthread_mutex_lock(&bus->lock);
	for (i = 0; i < len; i++) {
		uint8_t mask = dev->writable[offset + i];

		dev->config[offset + i] = (dev->config[offset + i] & ~mask) | (p[i] & mask);
	}
	if (offset < PCI_CARDBUS_CIS)
		update_bars(dev);
	if (dev->msix_vectors && ranges_overlap(offset, len, dev->msix_cap, PCI_CAP_MSIX_SIZEOF))
		pci_msix_update(dev);
	intx_disabled = pci_command(dev) & PCI_COMMAND_INTX_DISABLE;
	pthread_mutex_unlock(&bus->lock);

	pthread_mutex_lock(&bus->intx_lock);
	if (dev->intx_disabled != intx_disabled) {
		dev->intx_disabled = intx_disabled;
		update_intx(dev);
	}
	pthread_mutex_unlock(&bus->intx_lock);

	if (dev->config_written)
		dev->config_written(dev, offset, len);
}

void pci_intx_set(struct pci_device *dev, bool asserted)
{
	pthread_mutex_lock(&dev->bus->intx_lock);
	if (dev->intx_asserted != asserted) {
		dev->intx_asserted = asserted;
		update_intx(dev);
	}
	pthread_mutex_unlock(&dev->bus->intx_lock);
}

/* ---- state ---- */

void pci_device_save(struct pci_device *dev, struct state_writer *w)
{
	pthread_mutex_lock(&dev->bus->lock);
	state_put_bytes(w, dev->config, PCI_CONFIG_SIZE);
	pci_msix_save(dev, w);
	pthread_mutex_unlock(&dev->bus->lock);
	state_put_u8(w, dev->intx_asserted);
}

int pci_device_load(struct pci_device *dev, struct state_reader *r)
{
	uint8_t config[PCI_CONFIG_SIZE];
	int ret = 0;
	unsigned i;

	state_get_bytes(r, config, sizeof(config));
	if (r->failed)
		return r->failed;
	for (i = 0; i < sizeof(config); i++) {
		if ((config[i] ^ dev->config[i]) & ~dev->writable[i])
			return state_reader_fail(r, "configuration byte %#x differs", i);
	}

	pthread_mutex_lock(&dev->bus->lock);
	memcpy(dev->config, config, sizeof(config));
	update_bars(dev);
	ret = pci_msix_load(dev, r);
	pthread_mutex_unlock(&dev->bus->lock);
	if (ret < 0)
		return ret;

	pthread_mutex_lock(&dev->bus->intx_lock);
	dev->intx_disabled = get_le16(config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE;
	dev->intx_asserted = state_get_u8(r);
	update_intx(dev);
	pthread_mutex_unlock(&dev->bus->intx_lock);
	return r->failed;
}
