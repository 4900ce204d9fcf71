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

#include "tests/unit/patience.h"

#define WAIT_NS	   (20 * NSEC_PER_MSEC)
#define MSI_ADDR   0xfee00000u

#define AVAIL_BIT (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED_BIT  (1u << VRING_PACKED_DESC_F_USED)

/* ---- the machine ---- */

/* The guest: one access when there is one to do, else nothing. */
static enum fake_step guest_step(void *arg, unsigned vcpu, struct hv_exit *exit)
{
	struct fake_vm *vm = arg;

	if (!vm->access.due)
		return FAKE_STEP_HALT;
	vm->access.due = false;
	if (vm->access.write)
		return fake_mmio_write(exit, vm->access.addr, vm->access.len, vm->access.value);
	return fake_mmio_read(exit, vm->access.addr, vm->access.len);
}

void fake_vm_init(struct fake_vm *vm, enum loop_backend backend)
{
	static const uint32_t intx_gsi[4] = { 16, 17, 18, 19 };
	const struct guest_mem_range ranges[2] = {
		{ .gpa = 0, .size = FAKE_RAM_SPLIT },
		{ .gpa = FAKE_RAM_SPLIT, .size = FAKE_RAM_END - FAKE_RAM_SPLIT },
	};
	struct loop_params params = { .backend = backend, .clock = &vm->clock, .name = "test" };
	const struct fake_hv_params hv = { .guest = guest_step, .arg = vm, .never_wait = true };
	struct pci_bus_params pci = {
		.ecam_base = FAKE_ECAM_BASE,
		.ecam_size = 1 * MiB,
		.mmio32_base = FAKE_MMIO32,
		.mmio32_size = 16 * MiB,
		.mmio64_base = FAKE_MMIO64,
		.mmio64_size = 1 * GiB,
		.intx_gsi = intx_gsi,
	};

	memset(vm, 0, sizeof(*vm));
	vm->hv = fake_hv_create(&hv);
	assert_int_equal(vm->hv->ops->vcpu_create(vm->hv, 0, &vm->vcpu, NULL), 0);
	vm->next_alloc = PAGE_SIZE;
	clock_init_virtual(&vm->clock, NSEC_PER_SEC, NSEC_PER_SEC);
	assert_int_equal(guest_mem_create(&vm->mem, GUEST_MEM_ANON, ranges, 2, NULL), 0);
	assert_int_equal(loop_create(&vm->loop, &params, NULL), 0);
	assert_int_equal(bus_create(&vm->mmio, "mmio"), 0);
	assert_int_equal(bus_create(&vm->pio, "pio"), 0);
	assert_int_equal(irq_table_create(&vm->irqs, vm->hv), 0);
	pci.mmio = vm->mmio;
	pci.pio = vm->pio;
	pci.irqs = vm->irqs;
	assert_int_equal(pci_bus_create(&vm->pci, &pci, NULL), 0);
}

void fake_vm_done(struct fake_vm *vm)
{
	pci_bus_free(vm->pci);
	irq_table_free(vm->irqs);
	bus_free(vm->mmio);
	bus_free(vm->pio);
	vm->hv->ops->vcpu_free(vm->vcpu);
	vm->hv->ops->free(vm->hv);
	loop_free(vm->loop);
	guest_mem_free(vm->mem);
}

struct virtio_params fake_vm_params(struct fake_vm *vm, const char *id)
{
	return (struct virtio_params){ .id = id, .mem = vm->mem, .loop = vm->loop };
}

uint64_t fake_alloc(struct fake_vm *vm, uint64_t size, uint64_t align)
{
	uint64_t gpa = align_up(vm->next_alloc, align);

	/* Rings and tables do not lie across the two ranges; a test that wants that chooses. */
	if (gpa < FAKE_RAM_SPLIT && gpa + size > FAKE_RAM_SPLIT)
		gpa = FAKE_RAM_SPLIT;
	vm->next_alloc = gpa + size;
	memset(fake_ptr(vm, gpa, size), 0, size);
	return gpa;
}

void *fake_ptr(struct fake_vm *vm, uint64_t gpa, uint64_t len)
{
	void *p = guest_mem_ptr(vm->mem, gpa, len);

	assert_non_null(p);
	return p;
}

void fake_run(struct fake_vm *vm)
{
	while (loop_run_once(vm->loop, 0))
		;
}

/* Run the guest to its next exit; a doorbell makes none. */
static bool guest_exit(struct fake_vm *vm, struct hv_exit *exit)
{
	assert_int_equal(vm->hv->ops->vcpu_run(vm->vcpu, exit), 0);
	return exit->kind != HV_EXIT_NONE;
}

void fake_write(struct fake_vm *vm, uint64_t addr, uint64_t value, unsigned len)
{
	struct hv_exit exit;

	vm->access.due = vm->access.write = true;
	vm->access.addr = addr;
	vm->access.value = value;
	vm->access.len = len;
	if (guest_exit(vm, &exit))
		bus_write(vm->mmio, exit.addr, exit.data, exit.size);
}

uint64_t fake_read(struct fake_vm *vm, uint64_t addr, unsigned len)
{
	struct hv_exit exit;
	uint8_t data[8] = { 0 };

	vm->access.due = true;
	vm->access.write = false;
	vm->access.addr = addr;
	vm->access.len = len;
	assert_true(guest_exit(vm, &exit));
	memset(data, 0xff, len);
	bus_read(vm->mmio, exit.addr, data, exit.size);
	return get_le64(data);
}

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
			loop_run_once(d->vm->loop, WAIT_NS);
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

/* ---- the split ring ---- */

static struct vring_desc *descs(struct fake_driver *d, const struct fake_queue *q)
{
	return fake_ptr(d->vm, q->desc, q->size * sizeof(struct vring_desc));
}

static struct vring_avail *avail_ring(struct fake_driver *d, const struct fake_queue *q)
{
	return fake_ptr(d->vm, q->driver, 6 + 2 * q->size);
}

static struct vring_used *used_ring(struct fake_driver *d, const struct fake_queue *q)
{
	return fake_ptr(d->vm, q->device, 6 + 8 * q->size);
}

/*
 * Chains take neighbouring descriptors where there are free ones in a row: as
 * good as any other order, and easy to give back.
 */
static int find_run(const struct fake_queue *q, unsigned num)
{
	bool busy[VIRTQ_MAX_SIZE] = { false };
	unsigned i, run = 0;

	for (i = 0; i < q->size; i++) {
		unsigned k;

		for (k = 0; k < q->slots[i]; k++)
			busy[i + k] = true;
	}
	for (i = 0; i < q->size; i++) {
		run = busy[i] ? 0 : run + 1;
		if (run == num)
			return i + 1 - num;
	}
	return -1;
}

static int add_split(struct fake_driver *d, struct fake_queue *q, const struct vring_desc *chain,
		     unsigned num)
{
	struct vring_avail *avail = avail_ring(d, q);
	int head = find_run(q, num);
	unsigned i;

	if (head < 0)
		return -1;
	for (i = 0; i < num; i++) {
		struct vring_desc *e = &descs(d, q)[head + i];

		*e = chain[i];
		if (i + 1 < num) {
			e->flags |= VRING_DESC_F_NEXT;
			e->next = head + i + 1;
		}
	}
	q->slots[head] = num;
	avail->ring[q->next % q->size] = head;
	/* Release: the device may look at the entry once it sees the index. */
	__atomic_store_n(&avail->idx, ++q->next, __ATOMIC_SEQ_CST);
	return head;
}

static bool take_split(struct fake_driver *d, struct fake_queue *q, struct fake_used *used)
{
	struct vring_used *ring = used_ring(d, q);
	const struct vring_used_elem *e = &ring->ring[q->last_used % q->size];

	if (__atomic_load_n(&ring->idx, __ATOMIC_SEQ_CST) == q->last_used)
		return false;
	used->id = e->id;
	used->len = e->len;
	q->last_used++;
	return true;
}

static bool wants_kick_split(struct fake_driver *d, struct fake_queue *q)
{
	struct vring_used *ring = used_ring(d, q);
	uint16_t event = __atomic_load_n((uint16_t *)&ring->ring[q->size], __ATOMIC_SEQ_CST);
	uint16_t old = q->kicked;

	q->kicked = q->next;
	if (d->config.event_idx)
		return vring_need_event(event, q->next, old);
	return !(__atomic_load_n(&ring->flags, __ATOMIC_SEQ_CST) & VRING_USED_F_NO_NOTIFY);
}

/* ---- the packed ring ---- */

static int add_packed(struct fake_driver *d, struct fake_queue *q, const struct vring_desc *chain,
		      unsigned num)
{
	struct vring_packed_desc *ring = (struct vring_packed_desc *)descs(d, q);
	uint16_t head_flags = 0, head = q->next;
	unsigned i, id;

	for (id = 0; id < q->size && q->slots[id]; id++)
		;
	if (id == q->size || num > q->num_free)
		return -1;
	for (i = 0; i < num; i++) {
		struct vring_packed_desc *e = &ring[q->next];
		uint16_t flags = chain[i].flags | (q->wrap ? AVAIL_BIT : USED_BIT) |
				 (i + 1 < num ? VRING_DESC_F_NEXT : 0);

		e->addr = chain[i].addr;
		e->len = chain[i].len;
		e->id = id;
		if (i)
			e->flags = flags;
		else
			head_flags = flags;
		if (++q->next == q->size) {
			q->next = 0;
			q->wrap = !q->wrap;
		}
	}
	q->slots[id] = num;
	q->num_free -= num;
	q->pending += num;
	/* Release: the whole chain is there once its first slot is available. */
	__atomic_store_n(&ring[head].flags, head_flags, __ATOMIC_SEQ_CST);
	return id;
}

static bool take_packed(struct fake_driver *d, struct fake_queue *q, struct fake_used *used)
{
	struct vring_packed_desc *e = (struct vring_packed_desc *)descs(d, q) + q->last_used;
	uint16_t flags = __atomic_load_n(&e->flags, __ATOMIC_SEQ_CST);
	unsigned slots;

	if (!!(flags & AVAIL_BIT) != q->used_wrap || !!(flags & USED_BIT) != q->used_wrap)
		return false;
	used->id = e->id;
	used->len = e->len;
	assert_true(used->id < q->size);
	slots = q->slots[used->id];
	q->num_free += slots;
	q->last_used += slots;
	if (q->last_used >= q->size) {
		q->last_used -= q->size;
		q->used_wrap = !q->used_wrap;
	}
	return true;
}

static bool wants_kick_packed(struct fake_driver *d, struct fake_queue *q)
{
	uint32_t wish = __atomic_load_n((uint32_t *)used_ring(d, q), __ATOMIC_SEQ_CST);
	uint16_t event = wish & 0x7fff, mode = wish >> 16, old = q->next - q->pending;

	q->pending = 0;
	if (mode != VRING_PACKED_EVENT_FLAG_DESC)
		return mode != VRING_PACKED_EVENT_FLAG_DISABLE;
	if (!!(wish & 0x8000) != q->wrap)
		event -= q->size;
	return vring_need_event(event, q->next, old);
}

/* ---- both ---- */

static int add(struct fake_driver *d, unsigned queue, const struct vring_desc *chain, unsigned num)
{
	struct fake_queue *q = &d->queue[queue];

	return d->config.packed ? add_packed(d, q, chain, num) : add_split(d, q, chain, num);
}

int fake_add_table(struct fake_driver *d, unsigned queue, uint64_t table, uint32_t len)
{
	struct vring_desc desc = { .addr = table, .len = len, .flags = VRING_DESC_F_INDIRECT };

	return add(d, queue, &desc, 1);
}

int fake_add(struct fake_driver *d, unsigned queue, const struct fake_buf *bufs, unsigned num)
{
	struct vring_desc chain[VIRTQ_MAX_SIZE];
	unsigned i;

	assert_true(num && num <= ARRAY_SIZE(chain));
	for (i = 0; i < num; i++) {
		chain[i] = (struct vring_desc){
			.addr = bufs[i].gpa,
			.len = bufs[i].len,
			.flags = bufs[i].writable ? VRING_DESC_F_WRITE : 0,
		};
	}
	if (d->config.indirect && num > 1) {
		uint64_t table = fake_alloc(d->vm, num * sizeof(*chain), 16);

		for (i = 0; !d->config.packed && i + 1 < num; i++) {
			chain[i].flags |= VRING_DESC_F_NEXT;
			chain[i].next = i + 1;
		}
		if (d->config.packed) {
			struct vring_packed_desc *e = fake_ptr(d->vm, table, num * sizeof(*e));

			for (i = 0; i < num; i++) {
				e[i].addr = chain[i].addr;
				e[i].len = chain[i].len;
				e[i].flags = chain[i].flags;
			}
		} else {
			memcpy(fake_ptr(d->vm, table, num * sizeof(*chain)), chain,
			       num * sizeof(*chain));
		}
		return fake_add_table(d, queue, table, num * sizeof(*chain));
	}
	return add(d, queue, chain, num);
}

bool fake_kick(struct fake_driver *d, unsigned queue)
{
	struct fake_queue *q = &d->queue[queue];
	bool wanted = d->config.packed ? wants_kick_packed(d, q) : wants_kick_split(d, q);

	if (wanted)
		fake_write(d->vm, q->doorbell, queue, d->mmio ? 4 : 2);
	return wanted;
}

bool fake_take_used(struct fake_driver *d, unsigned queue, struct fake_used *used)
{
	struct fake_queue *q = &d->queue[queue];

	if (!(d->config.packed ? take_packed(d, q, used) : take_split(d, q, used)))
		return false;
	/* A device that returns what it was not given has no place in a test. */
	assert_true(used->id < q->size && q->slots[used->id]);
	q->slots[used->id] = 0;
	if (q->interrupts_on)
		fake_interrupts_on(d, queue);
	return true;
}

bool fake_wait_used(struct fake_driver *d, unsigned queue, struct fake_used *used)
{
	uint64_t end = patience();

	while (!fake_take_used(d, queue, used)) {
		if (patience_ends(end))
			return false;
		loop_run_once(d->vm->loop, WAIT_NS);
	}
	return true;
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

static void set_event(struct fake_driver *d, struct fake_queue *q, bool on)
{
	struct vring_avail *avail = avail_ring(d, q);
	uint32_t wish = VRING_PACKED_EVENT_FLAG_DISABLE << 16;

	q->interrupts_on = on;
	if (d->config.packed) {
		if (on && d->config.event_idx)
			wish = VRING_PACKED_EVENT_FLAG_DESC << 16 | q->last_used |
			       (uint32_t)q->used_wrap << 15;
		else if (on)
			wish = VRING_PACKED_EVENT_FLAG_ENABLE << 16;
		__atomic_store_n((uint32_t *)avail, wish, __ATOMIC_SEQ_CST);
	} else if (d->config.event_idx) {
		/* One behind is as far away as an event can be. */
		__atomic_store_n(&avail->ring[q->size], q->last_used - !on, __ATOMIC_SEQ_CST);
	} else {
		__atomic_store_n(&avail->flags, on ? 0 : VRING_AVAIL_F_NO_INTERRUPT,
				 __ATOMIC_SEQ_CST);
	}
}

void fake_interrupts_off(struct fake_driver *d, unsigned queue)
{
	set_event(d, &d->queue[queue], false);
}

void fake_interrupts_on(struct fake_driver *d, unsigned queue)
{
	set_event(d, &d->queue[queue], true);
}
