/*
 * MSI-X (PCI 3.0, 6.8.2): the capability, the table and the pending bits. A
 * vector that may not interrupt now has its irqfd deassigned, and its eventfd
 * goes on counting: the pending bit of the table is that count.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "devices/pci_internal.h"

#define ENTRY PCI_MSIX_ENTRY_SIZE

static uint64_t pba_offset(const struct pci_device *dev)
{
	return align_up(dev->msix_vectors * ENTRY, 8);
}

static uint64_t pba_size(const struct pci_device *dev)
{
	return align_up(dev->msix_vectors, 64) / 8;
}

/* Open a vector's eventfd and let pci_msix_fd() see it; it is kept until the device goes. */
static bool open_vector(struct pci_device *dev, unsigned vector)
{
	struct irq_msi *msi = &dev->msix[vector];

	if (atomic_load_explicit(&dev->msix_fd[vector], memory_order_relaxed) >= 0)
		return true;
	if (irq_msi_open(msi) < 0)
		return false;
	atomic_store_explicit(&dev->msix_fd[vector], msi->fd, memory_order_release);
	return true;
}

/* Make one vector agree with table and capability. */
static void update_vector(struct pci_device *dev, unsigned vector)
{
	struct irq_msi *msi = &dev->msix[vector];
	const uint8_t *e = dev->msix_table + vector * ENTRY;
	uint64_t addr = get_le64(e + PCI_MSIX_ENTRY_LOWER_ADDR);
	uint32_t data = get_le32(e + PCI_MSIX_ENTRY_DATA);
	bool masked = get_le32(e + PCI_MSIX_ENTRY_VECTOR_CTRL) & PCI_MSIX_ENTRY_CTRL_MASKBIT;

	/* A vector without a message is none yet: no descriptor for those a driver never uses. */
	if ((addr || data) && !open_vector(dev, vector))
		return;
	masked |= !dev->msix_enabled || dev->msix_masked || !(addr || data);
	if (masked && msi->assigned)
		irq_msi_mask(msi);
	else if (!masked && (!msi->assigned || msi->addr != addr || msi->data != data))
		irq_msi_unmask(msi, addr, data);
}

void pci_msix_update(struct pci_device *dev)
{
	uint16_t control;
	unsigned i;

	if (!dev->msix_vectors)
		return;
	control = get_le16(dev->config + dev->msix_cap + PCI_MSIX_FLAGS);
	dev->msix_enabled = control & PCI_MSIX_FLAGS_ENABLE;
	dev->msix_masked = control & PCI_MSIX_FLAGS_MASKALL;
	/* All at a stroke: each push of the table waits for the processors. */
	irq_table_hold(dev->bus->params.irqs);
	for (i = 0; i < dev->msix_vectors; i++)
		update_vector(dev, i);
	irq_table_release(dev->bus->params.irqs);
}

/* ---- the table's BAR ---- */

static uint8_t pending_byte(const struct pci_device *dev, unsigned index)
{
	uint8_t bits = 0;
	unsigned i;

	for (i = 0; i < 8 && index * 8 + i < dev->msix_vectors; i++) {
		const struct irq_msi *msi = &dev->msix[index * 8 + i];

		if (msi->fd >= 0 && !msi->assigned && irq_msi_pending(msi))
			bits |= 1u << i;
	}
	return bits;
}

static void table_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	struct pci_device *dev = opaque;
	uint8_t *p = data;
	unsigned i;

	pthread_mutex_lock(&dev->bus->lock);
	for (i = 0; i < len; i++, offset++) {
		if (offset < dev->msix_vectors * ENTRY)
			p[i] = dev->msix_table[offset];
		else if (range_inside(offset, 1, pba_offset(dev), pba_size(dev)))
			p[i] = pending_byte(dev, offset - pba_offset(dev));
		else
			p[i] = 0;
	}
	pthread_mutex_unlock(&dev->bus->lock);
}

static void table_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	struct pci_device *dev = opaque;
	uint8_t *ctrl;

	/* Aligned dwords and qwords only, 6.8.2; the pending bits are read-only. */
	if (len < 4 || offset % len || !range_inside(offset, len, 0, dev->msix_vectors * ENTRY))
		return;
	pthread_mutex_lock(&dev->bus->lock);
	memcpy(dev->msix_table + offset, data, len);
	ctrl = dev->msix_table + align_down(offset, ENTRY) + PCI_MSIX_ENTRY_VECTOR_CTRL;
	put_le32(ctrl, get_le32(ctrl) & PCI_MSIX_ENTRY_CTRL_MASKBIT);
	update_vector(dev, offset / ENTRY);
	pthread_mutex_unlock(&dev->bus->lock);
}

static const struct bus_ops table_ops = {
	.read = table_read,
	.write = table_write,
};

int pci_add_msix(struct pci_device *dev, unsigned index, unsigned vectors)
{
	uint8_t body[PCI_CAP_MSIX_SIZEOF - 2];
	struct pci_bar bar = {
		.size = PAGE_SIZE,
		.is_64 = true,
		.ops = &table_ops,
		.opaque = dev,
		.name = dev->name,
	};
	unsigned i;

	if (dev->bus->params.no_msi)
		return 0;
	if (!vectors || vectors > PCI_MSIX_FLAGS_QSIZE + 1u)
		return -EINVAL;
	dev->msix_table = calloc(vectors, ENTRY);
	dev->msix = calloc(vectors, sizeof(*dev->msix));
	dev->msix_fd = calloc(vectors, sizeof(*dev->msix_fd));
	if (!dev->msix_table || !dev->msix || !dev->msix_fd) {
		pci_msix_done(dev);
		return -ENOMEM;
	}
	dev->msix_bar = index;
	dev->msix_vectors = vectors;
	for (i = 0; i < vectors; i++) {
		irq_msi_init(&dev->msix[i], dev->bus->params.irqs);
		atomic_store_explicit(&dev->msix_fd[i], -1, memory_order_relaxed);
		put_le32(dev->msix_table + i * ENTRY + PCI_MSIX_ENTRY_VECTOR_CTRL,
			 PCI_MSIX_ENTRY_CTRL_MASKBIT);
	}

	while (bar.size < pba_offset(dev) + pba_size(dev))
		bar.size *= 2;
	pci_set_bar(dev, index, &bar);
	put_le16(body, vectors - 1);
	put_le32(body + PCI_MSIX_TABLE - 2, index);
	put_le32(body + PCI_MSIX_PBA - 2, pba_offset(dev) | index);
	dev->msix_cap = pci_add_capability(dev, PCI_CAP_ID_MSIX, body, PCI_CAP_MSIX_SIZEOF);
	put_le16(dev->writable + dev->msix_cap + PCI_MSIX_FLAGS,
		 PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	return 0;
}

void pci_msix_done(struct pci_device *dev)
{
	unsigned i;

	for (i = 0; i < dev->msix_vectors; i++)
		irq_msi_done(&dev->msix[i]);
	free(dev->msix_table);
	free(dev->msix);
	free((void *)dev->msix_fd);
	dev->msix_table = NULL;
	dev->msix = NULL;
	dev->msix_fd = NULL;
	dev->msix_vectors = 0;
}

/* ---- for devices ---- */

bool pci_msix_on(const struct pci_device *dev)
{
	return dev->msix_enabled;
}

int pci_msix_fd(struct pci_device *dev, unsigned vector)
{
	if (!dev->msix_enabled || vector >= dev->msix_vectors)
		return -1;
	/* Acquire: the descriptor was opened before its number was stored. */
	return atomic_load_explicit(&dev->msix_fd[vector], memory_order_acquire);
}

void pci_msix_raise(struct pci_device *dev, unsigned vector)
{
	int fd = pci_msix_fd(dev, vector);

	if (fd >= 0)
		eventfd_write(fd, 1);
}

/* ---- state ---- */

void pci_msix_save(struct pci_device *dev, struct state_writer *w)
{
	state_put_u16(w, dev->msix_vectors);
	state_put_bytes(w, dev->msix_table, dev->msix_vectors * ENTRY);
}

int pci_msix_load(struct pci_device *dev, struct state_reader *r)
{
	unsigned i, vectors = state_get_u16(r);

	if (r->failed)
		return r->failed;
	if (vectors != dev->msix_vectors)
		return state_reader_fail(r, "%u MSI-X vectors instead of %u", vectors,
					 dev->msix_vectors);
	state_get_bytes(r, dev->msix_table, vectors * ENTRY);
	for (i = 0; i < vectors; i++) {
		uint8_t *ctrl = dev->msix_table + i * ENTRY + PCI_MSIX_ENTRY_VECTOR_CTRL;

		put_le32(ctrl, get_le32(ctrl) & PCI_MSIX_ENTRY_CTRL_MASKBIT);
	}
	if (!r->failed)
		pci_msix_update(dev);
	return r->failed;
}
