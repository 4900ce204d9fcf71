#include "tests/unit/fake_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/pci_regs.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_pci.h>
#include <sched.h>

#define MSI_ADDR 0xfee00000u

/* ---- registers ---- */

static uint64_t config_addr(const struct fake_driver *d, unsigned reg)
{
	return FAKE_ECAM_BASE + ((uint64_t)d->slot << 15) + reg;
}

static void mmio_set(struct fake_driver *d, unsigned reg, uint32_t v)
{
	fake_write(d->vm, FAKE_MMIO_BASE + reg, v, 4);
}

static uint32_t mmio_get(struct fake_driver *d, unsigned reg)
{
	return fake_read(d->vm, FAKE_MMIO_BASE + reg, 4);
}

uint8_t fake_status(struct fake_driver *d)
{
	if (d->mmio)
		return mmio_get(d, VIRTIO_MMIO_STATUS);
	return fake_read(d->vm, d->common + VIRTIO_PCI_COMMON_STATUS, 1);
}

void fake_set_status(struct fake_driver *d, uint8_t status)
{
	if (d->mmio)
		mmio_set(d, VIRTIO_MMIO_STATUS, status);
	else
		fake_write(d->vm, d->common + VIRTIO_PCI_COMMON_STATUS, status, 1);
}

void fake_config_read(struct fake_driver *d, unsigned offset, void *data, unsigned len)
{
	uint64_t base = d->mmio ? FAKE_MMIO_BASE + VIRTIO_MMIO_CONFIG : d->device_config;
	unsigned i;

	for (i = 0; i < len; i++)
		((uint8_t *)data)[i] = fake_read(d->vm, base + offset + i, 1);
}

void fake_config_write(struct fake_driver *d, unsigned offset, const void *data, unsigned len)
{
	uint64_t base = d->mmio ? FAKE_MMIO_BASE + VIRTIO_MMIO_CONFIG : d->device_config;

	assert_true(len == 1 || len == 2 || len == 4 || len == 8);
	bus_write(d->vm->mmio, base + offset, data, len);
}

static uint64_t offered_features(struct fake_driver *d)
{
	uint64_t v = 0;
	unsigned i;

	for (i = 0; i < 2; i++) {
		uint64_t word;

		if (d->mmio) {
			mmio_set(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, i);
			word = mmio_get(d, VIRTIO_MMIO_DEVICE_FEATURES);
		} else {
			fake_write(d->vm, d->common + VIRTIO_PCI_COMMON_DFSELECT, i, 4);
			word = fake_read(d->vm, d->common + VIRTIO_PCI_COMMON_DF, 4);
		}
		v |= word << (32 * i);
	}
	return v;
}

static void accept_features(struct fake_driver *d)
{
	unsigned i;

	for (i = 0; i < 2; i++) {
		uint32_t word = d->features >> (32 * i);

		if (d->mmio) {
			mmio_set(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
			mmio_set(d, VIRTIO_MMIO_DRIVER_FEATURES, word);
		} else {
			fake_write(d->vm, d->common + VIRTIO_PCI_COMMON_GFSELECT, i, 4);
			fake_write(d->vm, d->common + VIRTIO_PCI_COMMON_GF, word, 4);
		}
	}
}

/* ---- PCI: find the areas, switch MSI-X on ---- */

static uint64_t pci_bar(struct fake_driver *d, unsigned index)
{
	unsigned reg = PCI_BASE_ADDRESS_0 + 4 * index;
	uint32_t low = fake_read(d->vm, config_addr(d, reg), 4);
	uint64_t addr = low & (uint32_t)PCI_BASE_ADDRESS_MEM_MASK;

	if (low & PCI_BASE_ADDRESS_MEM_TYPE_64)
		addr |= fake_read(d->vm, config_addr(d, reg + 4), 4) << 32;
	return addr;
}

/* The data of a vector's message: different for each device and vector. */
static uint32_t msi_data(const struct fake_driver *d, unsigned vector)
{
	return 0x4000 + d->slot * 256 + vector;
}

static void enable_msix(struct fake_driver *d, unsigned cap)
{
	unsigned i, control = fake_read(d->vm, config_addr(d, cap + PCI_MSIX_FLAGS), 2);
	uint32_t table = fake_read(d->vm, config_addr(d, cap + PCI_MSIX_TABLE), 4);

	d->msix_table = pci_bar(d, table & PCI_MSIX_TABLE_BIR) + (table & ~PCI_MSIX_TABLE_BIR);
	for (i = 0; i <= (control & PCI_MSIX_FLAGS_QSIZE); i++) {
		uint64_t e = d->msix_table + i * PCI_MSIX_ENTRY_SIZE;

		fake_write(d->vm, e + PCI_MSIX_ENTRY_LOWER_ADDR, MSI_ADDR, 4);
		fake_write(d->vm, e + PCI_MSIX_ENTRY_UPPER_ADDR, 0, 4);
		fake_write(d->vm, e + PCI_MSIX_ENTRY_DATA, msi_data(d, i), 4);
		fake_write(d->vm, e + PCI_MSIX_ENTRY_VECTOR_CTRL, 0, 4);
	}
	fake_write(d->vm, config_addr(d, cap + PCI_MSIX_FLAGS), control | PCI_MSIX_FLAGS_ENABLE, 2);
}

static void find_areas(struct fake_driver *d)
{
	unsigned cap = fake_read(d->vm, config_addr(d, PCI_CAPABILITY_LIST), 1);

	for (; cap; cap = fake_read(d->vm, config_addr(d, cap + 1), 1)) {
		unsigned id = fake_read(d->vm, config_addr(d, cap), 1), type;
		uint64_t addr;

		if (id == PCI_CAP_ID_MSIX && !d->config.intx)
			enable_msix(d, cap);
		if (id != PCI_CAP_ID_VNDR)
			continue;
		type = fake_read(d->vm, config_addr(d, cap + VIRTIO_PCI_CAP_CFG_TYPE), 1);
		addr = pci_bar(d, fake_read(d->vm, config_addr(d, cap + VIRTIO_PCI_CAP_BAR), 1)) +
		       fake_read(d->vm, config_addr(d, cap + VIRTIO_PCI_CAP_OFFSET), 4);
		if (type == VIRTIO_PCI_CAP_COMMON_CFG)
			d->common = addr;
		else if (type == VIRTIO_PCI_CAP_NOTIFY_CFG)
			d->notify = addr;
		else if (type == VIRTIO_PCI_CAP_ISR_CFG)
			d->isr = addr;
		else if (type == VIRTIO_PCI_CAP_DEVICE_CFG)
			d->device_config = addr;
	}
	assert_true(d->common && d->notify && d->isr);
}

/* ---- setting up ---- */

static unsigned queue_max(struct fake_driver *d, unsigned index)
{
	if (d->mmio) {
		mmio_set(d, VIRTIO_MMIO_QUEUE_SEL, index);
		return mmio_get(d, VIRTIO_MMIO_QUEUE_NUM_MAX);
	}
	fake_write(d->vm, d->common + VIRTIO_PCI_COMMON_Q_SELECT, index, 2);
	return fake_read(d->vm, d->common + VIRTIO_PCI_COMMON_Q_SIZE, 2);
}

static void setup_queue_mmio(struct fake_driver *d, const struct fake_queue *q)
{
	mmio_set(d, VIRTIO_MMIO_QUEUE_NUM, q->size);
	mmio_set(d, VIRTIO_MMIO_QUEUE_DESC_LOW, q->desc);
	mmio_set(d, VIRTIO_MMIO_QUEUE_DESC_HIGH, q->desc >> 32);
	mmio_set(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, q->driver);
	mmio_set(d, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, q->driver >> 32);
	mmio_set(d, VIRTIO_MMIO_QUEUE_USED_LOW, q->device);
	mmio_set(d, VIRTIO_MMIO_QUEUE_USED_HIGH, q->device >> 32);
	mmio_set(d, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(mmio_get(d, VIRTIO_MMIO_QUEUE_READY), 1);
}

static void setup_queue_pci(struct fake_driver *d, const struct fake_queue *q, unsigned index)
{
	struct fake_vm *vm = d->vm;
	uint64_t c = d->common;

	fake_write(vm, c + VIRTIO_PCI_COMMON_Q_SIZE, q->size, 2);
	fake_write(vm, c + VIRTIO_PCI_COMMON_Q_DESCLO, (uint32_t)q->desc, 4);
	fake_write(vm, c + VIRTIO_PCI_COMMON_Q_DESCHI, q->desc >> 32, 4);
	fake_write(vm, c + VIRTIO_PCI_COMMON_Q_AVAILLO, (uint32_t)q->driver, 4);
	fake_write(vm, c + VIRTIO_PCI_COMMON_Q_AVAILHI, q->driver >> 32, 4);
	fake_write(vm, c + VIRTIO_PCI_COMMON_Q_USEDLO, (uint32_t)q->device, 4);
	fake_write(vm, c + VIRTIO_PCI_COMMON_Q_USEDHI, q->device >> 32, 4);
	if (!d->config.intx) {
		fake_write(vm, c + VIRTIO_PCI_COMMON_Q_MSIX, index + 1, 2);
		assert_int_equal(fake_read(vm, c + VIRTIO_PCI_COMMON_Q_MSIX, 2), index + 1);
	}
	fake_write(vm, c + VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	assert_int_equal(fake_read(vm, c + VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
}

static void setup_queue(struct fake_driver *d, unsigned index, unsigned max)
{
	struct fake_queue *q = &d->queue[index];
	unsigned size = d->config.ring_size ? MIN((unsigned)d->config.ring_size, max) : max;

	memset(q, 0, sizeof(*q));
	q->size = q->num_free = size;
	q->wrap = q->used_wrap = true;
	q->desc = fake_alloc(d->vm, size * sizeof(struct vring_desc), 16);
	q->driver = fake_alloc(d->vm, 6 + 2 * size, 4);
	q->device = fake_alloc(d->vm, 6 + 8 * size, 4);
	if (d->mmio) {
		setup_queue_mmio(d, q);
		q->doorbell = FAKE_MMIO_BASE + VIRTIO_MMIO_QUEUE_NOTIFY;
	} else {
		unsigned offset;

		setup_queue_pci(d, q, index);
		offset = fake_read(d->vm, d->common + VIRTIO_PCI_COMMON_Q_NOFF, 2);
		q->doorbell = d->notify + offset * 4;
	}
	fake_interrupts_on(d, index);
}

void fake_reset(struct fake_driver *d)
{
	fake_set_status(d, 0);
	while (fake_status(d)) {
		if (loop_is_mine(d->vm->loop))
			loop_run_once(d->vm->loop, FAKE_TURN_NS);
		else
			sched_yield();
	}
}

void fake_driver_probe(struct fake_driver *d)
{
	const uint64_t rings = 1ull << VIRTIO_F_VERSION_1 |
			       (uint64_t)d->config.packed << VIRTIO_F_RING_PACKED |
			       (uint64_t)d->config.event_idx << VIRTIO_RING_F_EVENT_IDX |
			       (uint64_t)d->config.indirect << VIRTIO_RING_F_INDIRECT_DESC;
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	unsigned i, max;

	fake_reset(d);
	fake_set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	fake_set_status(d, status);

	d->features = offered_features(d) & (d->config.features | rings);
	assert_int_equal(d->features & rings, rings);
	accept_features(d);
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	fake_set_status(d, status);
	assert_int_equal(fake_status(d), status);

	if (d->pci && !d->config.intx)
		fake_write(d->vm, d->common + VIRTIO_PCI_COMMON_MSIX, 0, 2);
	for (i = 0; i < VIRTIO_MAX_QUEUES && (max = queue_max(d, i)); i++)
		setup_queue(d, i, max);
	d->num_queues = i;
	if (!d->config.no_driver_ok)
		fake_driver_ok(d);
}

void fake_driver_ok(struct fake_driver *d)
{
	fake_set_status(d, fake_status(d) | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* Put the device behind a transport, where the machine has room for it. */
static void plug(struct fake_driver *d)
{
	struct fake_vm *vm = d->vm;

	d->mmio = NULL;
	d->pci = NULL;
	if (d->config.transport == FAKE_MMIO) {
		assert_int_equal(virtio_mmio_create(&d->mmio, d->dev, vm->mmio, FAKE_MMIO_BASE,
						    vm->irqs, FAKE_MMIO_GSI, NULL),
				 0);
	} else {
		d->slot = pci_bus_free_slot(vm->pci, 0);
		assert_int_equal(virtio_pci_create(&d->pci, d->dev, vm->pci, d->slot, NULL), 0);
		assert_int_equal(pci_bus_plug(virtio_pci_function(d->pci), NULL), 0);
	}
}

void fake_driver_init(struct fake_driver *d, struct fake_vm *vm, struct virtio_device *dev,
		      const struct fake_driver_config *config)
{
	memset(d, 0, sizeof(*d));
	d->vm = vm;
	d->dev = dev;
	d->config = *config;
	plug(d);
	if (d->pci)
		find_areas(d);
	fake_driver_probe(d);
}

void fake_driver_move(struct fake_driver *d, const struct fake_driver *from, struct fake_vm *vm,
		      struct virtio_device *dev)
{
	*d = *from;
	d->vm = vm;
	d->dev = dev;
	memset(d->seen, 0, sizeof(d->seen));
	plug(d);
	assert_int_equal(d->slot, from->slot);
}

void fake_driver_done(struct fake_driver *d)
{
	virtio_mmio_free(d->mmio);
	virtio_pci_free(d->pci);
	virtio_free(d->dev);
	d->mmio = NULL;
	d->pci = NULL;
	d->dev = NULL;
}

/* ---- interrupts ---- */

/* How many more there are than when we last looked. */
static unsigned since(uint64_t *seen, uint64_t now)
{
	unsigned n = now - *seen;

	*seen = now;
	return n;
}

static unsigned vector_count(struct fake_driver *d, unsigned vector)
{
	return since(&d->seen[vector],
		     fake_hv_messages(d->vm->hv, MSI_ADDR, msi_data(d, vector)));
}

/* mmio and INTx: is @bit in the status? Then acknowledge it. */
static unsigned status_count(struct fake_driver *d, uint32_t bit)
{
	unsigned n;

	if (d->pci) {
		if (!fake_hv_level(d->vm->hv, virtio_pci_function(d->pci)->intx_gsi))
			return 0;
		return !!(fake_read(d->vm, d->isr, 1) & bit);
	}
	if (!(mmio_get(d, VIRTIO_MMIO_INTERRUPT_STATUS) & bit))
		return 0;
	n = since(&d->seen[0], fake_hv_interrupts(d->vm->hv, FAKE_MMIO_GSI));
	mmio_set(d, VIRTIO_MMIO_INTERRUPT_ACK, bit);
	return n;
}

bool fake_take_interrupt(struct fake_driver *d, unsigned queue)
{
	uint32_t status;

	if (d->pci && !d->config.intx)
		return vector_count(d, queue + 1);
	if (d->pci) {
		/* Reading takes it down. */
		return fake_hv_level(d->vm->hv, virtio_pci_function(d->pci)->intx_gsi) &&
		       (fake_read(d->vm, d->isr, 1) & VIRTIO_MMIO_INT_VRING);
	}
	if (!since(&d->seen[0], fake_hv_interrupts(d->vm->hv, FAKE_MMIO_GSI)))
		return false;
	status = mmio_get(d, VIRTIO_MMIO_INTERRUPT_STATUS);
	mmio_set(d, VIRTIO_MMIO_INTERRUPT_ACK, status);
	return status & VIRTIO_MMIO_INT_VRING;
}

unsigned fake_interrupts(struct fake_driver *d, unsigned queue)
{
	fake_run(d->vm);
	if (d->pci && !d->config.intx)
		return vector_count(d, queue + 1);
	return status_count(d, VIRTIO_MMIO_INT_VRING);
}

unsigned fake_config_interrupts(struct fake_driver *d)
{
	fake_run(d->vm);
	if (d->pci && !d->config.intx)
		return vector_count(d, 0);
	return status_count(d, VIRTIO_MMIO_INT_CONFIG);
}
