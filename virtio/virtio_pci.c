#include "virtio/virtio_pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>

#define STATE_VERSION 1

#define DEVICE_ID_BASE 0x1040 /* modern: plus the virtio device id; Virtio 1.2, 4.1.2 */
#define REVISION       1

/* The areas in the first BAR, which is one page. */
#define VIRTIO_BAR    0
#define MSIX_BAR      2
#define BAR_SIZE      PAGE_SIZE
#define COMMON_OFFSET 0x000u
#define COMMON_SIZE   0x040u
#define ISR_OFFSET    0x100u
#define ISR_SIZE      0x004u
#define NOTIFY_OFFSET 0x200u
#define NOTIFY_SIZE   (VIRTIO_MAX_QUEUES * NOTIFY_STRIDE)
#define NOTIFY_STRIDE 4u /* a doorbell address for each queue, so that its value need not match */
#define DEVICE_OFFSET 0x400u
#define DEVICE_SIZE   (BAR_SIZE - DEVICE_OFFSET)

#define ISR_QUEUE  1u
#define ISR_CONFIG 2u

struct virtio_pci {
	struct virtio_device *dev;
	struct pci_device pci;
	unsigned window_cap; /* VIRTIO_PCI_CAP_PCI_CFG */

	/* Under dev->lock. */
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;

	_Atomic uint16_t config_vector;
	_Atomic uint16_t *queue_vector;

	/* INTx: whoever changes the status computes the pin's level from it, under this lock. */
	_Atomic uint8_t isr;
	pthread_mutex_t intx_lock;

	/* Doorbells follow the BAR: rung at @bound_at, 0 while not bound. */
	pthread_mutex_t doorbell_lock;
	bool doorbells_wanted;
	uint64_t bound_at;
	bool *bound;
};

/* ---- interrupts ---- */

/* Two threads may get here; the last one sees all changes, so the pin ends up right. */
static void update_pin(struct virtio_pci *t)
{
	pthread_mutex_lock(&t->intx_lock);
	pci_intx_set(&t->pci, atomic_load(&t->isr) && !pci_msix_on(&t->pci));
	pthread_mutex_unlock(&t->intx_lock);
}

static void pci_interrupt(void *transport, unsigned queue)
{
	struct virtio_pci *t = transport;

	if (pci_msix_on(&t->pci)) {
		int fd = pci_msix_fd(&t->pci, atomic_load(&t->queue_vector[queue]));

		if (fd >= 0)
			virtio_signal(t->dev, queue, fd);
		return;
	}
	atomic_fetch_or(&t->isr, ISR_QUEUE);
	update_pin(t);
}

/* Masked or not: a masked vector's descriptor counts what it is owed. */
static int pci_interrupt_fd(void *transport, unsigned queue)
{
	struct virtio_pci *t = transport;

	return pci_msix_fd(&t->pci, atomic_load(&t->queue_vector[queue]));
}

static void pci_config_changed(void *transport)
{
	struct virtio_pci *t = transport;

	/* Virtio 1.2, 4.1.5.4: the ISR bit too, a driver may poll it. */
	atomic_fetch_or(&t->isr, ISR_CONFIG);
	if (pci_msix_on(&t->pci))
		pci_msix_raise(&t->pci, atomic_load(&t->config_vector));
	else
		update_pin(t);
}

static void pci_reset(void *transport)
{
	struct virtio_pci *t = transport;
	unsigned i;

	atomic_store(&t->config_vector, VIRTIO_MSI_NO_VECTOR);
	for (i = 0; i < t->dev->num_queues; i++)
		atomic_store(&t->queue_vector[i], VIRTIO_MSI_NO_VECTOR);
	atomic_store(&t->isr, 0);
	update_pin(t);
	pthread_mutex_lock(&t->dev->lock);
	t->device_feature_select = t->driver_feature_select = 0;
	t->queue_select = 0;
	pthread_mutex_unlock(&t->dev->lock);
}

/* ---- doorbells ---- */

static int bind_doorbell(struct virtio_pci *t, unsigned queue, bool assign)
{
	struct hv *hv = irq_table_hv(pci_bus_irqs(t->pci.bus));
	struct hv_ioeventfd e = {
		.addr = t->bound_at + NOTIFY_OFFSET + queue * NOTIFY_STRIDE,
		/* Linux writes 16 bits, 32 are allowed too (4.1.5.2): any length. */
		.len = 0,
		.fd = t->dev->doorbell[queue].fd,
	};
	int r = hv->ops->ioeventfd(hv, &e, assign);

	if (!r)
		t->bound[queue] = assign;
	return r;
}

/*
 * Bind the doorbells where the BAR is now. Called after every change of either,
 * so that whichever of two racing vCPUs comes last leaves them right.
 */
static int sync_doorbells(struct virtio_pci *t)
{
	uint64_t addr;
	unsigned i;
	int r = 0;

	addr = t->doorbells_wanted ? pci_bar_addr(&t->pci, VIRTIO_BAR) : 0;
	if (addr == t->bound_at)
		return 0;
	for (i = 0; i < t->dev->num_queues; i++) {
		if (t->bound[i])
			bind_doorbell(t, i, false);
	}
	t->bound_at = addr;
	for (i = 0; addr && i < t->dev->num_queues; i++) {
		if (t->dev->queue[i].ready && t->dev->doorbell[i].fd >= 0) {
			int e = bind_doorbell(t, i, true);

			r = r < 0 ? r : e;
		}
	}
	return r;
}

static int want_doorbells(struct virtio_pci *t, bool wanted)
{
	int r;

	pthread_mutex_lock(&t->doorbell_lock);
	t->doorbells_wanted = wanted;
	r = sync_doorbells(t);
	pthread_mutex_unlock(&t->doorbell_lock);
	return r;
}

static int pci_queues_on(void *transport)
{
	return want_doorbells(transport, true);
}

static void pci_queues_off(void *transport)
{
	want_doorbells(transport, false);
}

static const struct virtio_transport_ops pci_transport_ops = {
	.interrupt = pci_interrupt,
	.interrupt_fd = pci_interrupt_fd,
	.config_changed = pci_config_changed,
	.queues_on = pci_queues_on,
	.queues_off = pci_queues_off,
	.reset = pci_reset,
};

/* ---- the common configuration: Virtio 1.2, 4.1.4.3 ---- */

/* The fields at @offset that the lock covers. */
static uint64_t read_common_locked(struct virtio_pci *t, unsigned offset)
{
	struct virtq *q = virtio_queue(t->dev, t->queue_select);

	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		return t->device_feature_select;
	case VIRTIO_PCI_COMMON_DF:
		return virtio_get_features(t->dev, t->device_feature_select);
	case VIRTIO_PCI_COMMON_GFSELECT:
		return t->driver_feature_select;
	case VIRTIO_PCI_COMMON_GF:
		return t->driver_feature_select < 2 ?
			       (uint32_t)(t->dev->features >> (32 * t->driver_feature_select)) :
			       0;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		return t->queue_select;
	}
	if (!q)
		return 0;
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		return q->size;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		return atomic_load(&t->queue_vector[q->index]);
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return q->ready;
	case VIRTIO_PCI_COMMON_Q_NOFF:
	case VIRTIO_PCI_COMMON_Q_NDATA:
		return q->index;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
		return q->desc_gpa;
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		return q->desc_gpa >> 32;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
		return q->driver_gpa;
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		return q->driver_gpa >> 32;
	case VIRTIO_PCI_COMMON_Q_USEDLO:
		return q->device_gpa;
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		return q->device_gpa >> 32;
	}
	return 0;
}

static uint64_t read_common(struct virtio_pci *t, unsigned offset)
{
	uint64_t v;

	switch (offset) {
	case VIRTIO_PCI_COMMON_MSIX:
		return atomic_load(&t->config_vector);
	case VIRTIO_PCI_COMMON_NUMQ:
		return t->dev->num_queues;
	case VIRTIO_PCI_COMMON_STATUS:
		return virtio_get_status(t->dev);
	case VIRTIO_PCI_COMMON_CFGGENERATION:
		return (uint8_t)atomic_load(&t->dev->config_generation);
	}
	pthread_mutex_lock(&t->dev->lock);
	v = read_common_locked(t, offset);
	pthread_mutex_unlock(&t->dev->lock);
	return v;
}

/* A vector that does not exist is refused: the driver reads back that there is none. */
static uint16_t valid_vector(const struct virtio_pci *t, uint16_t vector)
{
	return vector < t->pci.msix_vectors ? vector : VIRTIO_MSI_NO_VECTOR;
}

/* Replace @len bytes of the little-endian @field, from byte @at of it. */
static void set_part(uint64_t *field, unsigned at, uint64_t v, unsigned len)
{
	uint64_t mask = len == 8 ? UINT64_MAX : (1ull << (8 * len)) - 1;

	*field = (*field & ~(mask << (8 * at))) | (v & mask) << (8 * at);
}

/* Selectors and the queue selected; under dev->lock. */
static void write_common_locked(struct virtio_pci *t, unsigned offset, uint64_t v, unsigned len)
{
	struct virtq *q;

	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		t->device_feature_select = v;
		return;
	case VIRTIO_PCI_COMMON_GFSELECT:
		t->driver_feature_select = v;
		return;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		t->queue_select = v;
		return;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		/* Allowed at any time: whoever serves the queue finds out. */
		q = virtio_queue(t->dev, t->queue_select);
		if (!q)
			return;
		atomic_store(&t->queue_vector[q->index], valid_vector(t, v));
		virtio_interrupts_moved(t->dev);
		return;
	}

	q = virtio_queue_config(t->dev, t->queue_select);
	if (!q || q->ready)
		return;
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		/* Out of range: left to virtq_start() to refuse. */
		q->size = v;
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		/* 4.1.4.3.2: a driver only ever writes 1. */
		q->ready = v == 1;
		break;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		set_part(&q->desc_gpa, offset - VIRTIO_PCI_COMMON_Q_DESCLO, v, len);
		break;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		set_part(&q->driver_gpa, offset - VIRTIO_PCI_COMMON_Q_AVAILLO, v, len);
		break;
	case VIRTIO_PCI_COMMON_Q_USEDLO:
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		set_part(&q->device_gpa, offset - VIRTIO_PCI_COMMON_Q_USEDLO, v, len);
		break;
	}
}

static void write_common(struct virtio_pci *t, unsigned offset, uint64_t v, unsigned len)
{
	uint32_t word;

	switch (offset) {
	case VIRTIO_PCI_COMMON_GF:
		pthread_mutex_lock(&t->dev->lock);
		word = t->driver_feature_select;
		pthread_mutex_unlock(&t->dev->lock);
		virtio_set_features(t->dev, word, v);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		atomic_store(&t->config_vector, valid_vector(t, v));
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		/* Without waiting: a driver reads the status until it is 0 (4.1.4.3.2). */
		virtio_set_status(t->dev, v, true);
		break;
	default:
		pthread_mutex_lock(&t->dev->lock);
		write_common_locked(t, offset, v, len);
		pthread_mutex_unlock(&t->dev->lock);
	}
}

/* How wide the field at @offset is; 0 where none begins. Addresses are two of 32 bits. */
static unsigned common_width(unsigned offset)
{
	if (offset < VIRTIO_PCI_COMMON_MSIX)
		return offset % 4 ? 0 : 4;
	if (offset == VIRTIO_PCI_COMMON_STATUS || offset == VIRTIO_PCI_COMMON_CFGGENERATION)
		return 1;
	if (offset < VIRTIO_PCI_COMMON_Q_DESCLO || offset >= VIRTIO_PCI_COMMON_Q_NDATA)
		return offset % 2 ? 0 : 2;
	return offset % 4 ? 0 : 4;
}

/*
 * 4.1.3.1: a driver accesses each field by its own width, and 64-bit ones as
 * two halves; one access to both halves at once is taken too.
 */
static bool common_access_ok(unsigned offset, unsigned len)
{
	unsigned width = common_width(offset);

	return len == width || (len == 8 && offset % 8 == 0 &&
				offset >= VIRTIO_PCI_COMMON_Q_DESCLO &&
				offset < VIRTIO_PCI_COMMON_Q_NDATA);
}

static void store_le(void *data, uint64_t v, unsigned len)
{
	uint8_t bytes[8];

	put_le64(bytes, v);
	memcpy(data, bytes, len);
}

static uint64_t load_le(const void *data, unsigned len)
{
	uint8_t bytes[8] = { 0 };

	memcpy(bytes, data, len);
	return get_le64(bytes);
}

/* ---- the BAR ---- */

static void bar_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	struct virtio_pci *t = opaque;

	memset(data, 0, len);
	if (offset >= DEVICE_OFFSET) {
		virtio_config_read(t->dev, offset - DEVICE_OFFSET, data, len);
	} else if (range_inside(offset, len, COMMON_OFFSET, COMMON_SIZE)) {
		uint64_t v;

		if (!common_access_ok(offset, len))
			return;
		v = read_common(t, offset);
		if (len == 8)
			v |= read_common(t, offset + 4) << 32;
		store_le(data, v, len);
	} else if (offset == ISR_OFFSET) {
		/* Reading it acknowledges: 4.1.4.5. */
		*(uint8_t *)data = atomic_exchange(&t->isr, 0);
		update_pin(t);
	}
}

static void bar_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	struct virtio_pci *t = opaque;

	if (offset >= DEVICE_OFFSET) {
		virtio_config_write(t->dev, offset - DEVICE_OFFSET, data, len);
	} else if (range_inside(offset, len, NOTIFY_OFFSET, NOTIFY_SIZE)) {
		virtio_kick(t->dev, (offset - NOTIFY_OFFSET) / NOTIFY_STRIDE);
	} else if (range_inside(offset, len, COMMON_OFFSET, COMMON_SIZE)) {
		if (common_access_ok(offset, len))
			write_common(t, offset, load_le(data, len), len);
	}
}

static const struct bus_ops bar_ops = {
	.read = bar_read,
	.write = bar_write,
};

/* ---- configuration space: capabilities and the access window of 4.1.4.9 ---- */

/*
 * Is the guest touching the window's data? Then which bytes of the BAR it
 * stands for; a length or place that is not allowed is no access at all.
 */
static bool window_access(struct virtio_pci *t, unsigned offset, unsigned len, unsigned *ret_at,
			  unsigned *ret_len)
{
	struct virtio_pci_cfg_cap cap;
	unsigned data = t->window_cap + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data);
	uint32_t at, n;

	if (!t->window_cap || !ranges_overlap(offset, len, data, sizeof(cap.pci_cfg_data)))
		return false;
	pci_config_get(&t->pci, t->window_cap, &cap, sizeof(cap));
	at = le32toh(cap.cap.offset);
	n = le32toh(cap.cap.length);
	if (cap.cap.bar != VIRTIO_BAR || (n != 1 && n != 2 && n != 4) || at % n ||
	    !range_inside(at, n, 0, BAR_SIZE))
		return false;
	*ret_at = at;
	*ret_len = n;
	return true;
}

static void config_read(struct pci_device *pci, unsigned offset, unsigned len)
{
	struct virtio_pci *t = pci->opaque;
	unsigned at, n;
	uint8_t data[4] = { 0 };

	if (!window_access(t, offset, len, &at, &n))
		return;
	bar_read(t, at, data, n);
	pci_config_put(pci, t->window_cap + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data),
		       data, n);
}

static void config_written(struct pci_device *pci, unsigned offset, unsigned len)
{
	struct virtio_pci *t = pci->opaque;
	unsigned at, n;
	uint8_t data[4];

	if (window_access(t, offset, len, &at, &n)) {
		pci_config_get(pci,
			       t->window_cap + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data),
			       data, n);
		bar_write(t, at, data, n);
	}
	if (offset < PCI_STD_HEADER_SIZEOF) {
		/* Decoding may have been turned on or off, or the BAR moved. */
		pthread_mutex_lock(&t->doorbell_lock);
		sync_doorbells(t);
		pthread_mutex_unlock(&t->doorbell_lock);
	} else {
		/* MSI-X on or off: then the pin is not or is ours. */
		update_pin(t);
		virtio_interrupts_moved(t->dev);
	}
}

static unsigned add_area(struct virtio_pci *t, uint8_t type, uint32_t offset, uint32_t size,
			 uint32_t multiplier, unsigned len)
{
	struct virtio_pci_notify_cap cap = {
		.cap = {
			.cap_len = len,
			.cfg_type = type,
			.bar = VIRTIO_BAR,
			.offset = htole32(offset),
			.length = htole32(size),
		},
		.notify_off_multiplier = htole32(multiplier),
	};

	return pci_add_capability(&t->pci, PCI_CAP_ID_VNDR, &cap.cap.cap_len, len);
}

static void add_areas(struct virtio_pci *t)
{
	const unsigned len = sizeof(struct virtio_pci_cap);
	uint8_t *w;

	add_area(t, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_OFFSET, COMMON_SIZE, 0, len);
	add_area(t, VIRTIO_PCI_CAP_ISR_CFG, ISR_OFFSET, ISR_SIZE, 0, len);
	if (t->dev->ops->config_size)
		add_area(t, VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE_OFFSET, t->dev->ops->config_size, 0,
			 len);
	add_area(t, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_OFFSET, t->dev->num_queues * NOTIFY_STRIDE,
		 NOTIFY_STRIDE, sizeof(struct virtio_pci_notify_cap));
	t->window_cap = add_area(t, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0,
				 sizeof(struct virtio_pci_cfg_cap));

	w = t->pci.writable + t->window_cap;
	w[offsetof(struct virtio_pci_cap, bar)] = 0xff;
	put_le32(w + offsetof(struct virtio_pci_cap, offset), UINT32_MAX);
	put_le32(w + offsetof(struct virtio_pci_cap, length), UINT32_MAX);
	put_le32(w + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data), UINT32_MAX);
}

/* ---- life ---- */

int virtio_pci_create(struct virtio_pci **ret_t, struct virtio_device *dev, struct pci_bus *bus,
		      unsigned slot, struct error *err)
{
	const struct pci_ids ids = {
		.vendor = VIRTIO_VENDOR,
		.device = DEVICE_ID_BASE + dev->ops->id,
		.subsystem_vendor = VIRTIO_VENDOR,
		.subsystem = DEVICE_ID_BASE + dev->ops->id,
		.class_code = dev->ops->pci_class,
		.revision = REVISION,
	};
	struct virtio_pci *t = calloc(1, sizeof(*t));
	struct pci_bar bar = {
		.size = BAR_SIZE,
		.is_64 = true,
		.ops = &bar_ops,
		.opaque = t,
		.name = dev->id,
	};
	int r = -ENOMEM;

	if (!t)
		return error_set(err, r, "virtio-pci '%s': %m", dev->id);
	t->dev = dev;
	pthread_mutex_init(&t->intx_lock, NULL);
	pthread_mutex_init(&t->doorbell_lock, NULL);
	t->queue_vector = calloc(dev->num_queues, sizeof(*t->queue_vector));
	t->bound = calloc(dev->num_queues, sizeof(*t->bound));
	if (!t->queue_vector || !t->bound)
		goto fail;

	r = pci_device_init(&t->pci, bus, slot, dev->id, &ids);
	if (r < 0)
		goto fail;
	t->pci.opaque = t;
	t->pci.config_read = config_read;
	t->pci.config_written = config_written;
	t->pci.config[PCI_INTERRUPT_PIN] = 1;
	t->pci.config[PCI_INTERRUPT_LINE] = t->pci.intx_gsi;
	pci_set_bar(&t->pci, VIRTIO_BAR, &bar);
	add_areas(t);
	/* One vector for each queue and one for the configuration: the fastest Linux knows. */
	r = pci_add_msix(&t->pci, MSIX_BAR, dev->num_queues + 1);
	if (r < 0)
		goto fail;
	pci_reset(t);
	dev->transport_ops = &pci_transport_ops;
	dev->transport = t;
	*ret_t = t;
	return 0;

fail:
	error_set(err, r, "virtio-pci '%s' in slot %u: %m", dev->id, slot);
	virtio_pci_free(t);
	return r;
}

void virtio_pci_free(struct virtio_pci *t)
{
	if (!t)
		return;
	/* First out of the guest's sight, so that nothing can start the device again. */
	if (t->pci.bus)
		pci_bus_unplug(&t->pci);
	if (t->dev->transport == t)
		virtio_detach(t->dev);
	pci_device_done(&t->pci);
	pthread_mutex_destroy(&t->intx_lock);
	pthread_mutex_destroy(&t->doorbell_lock);
	free((void *)t->queue_vector);
	free(t->bound);
	free(t);
}

struct pci_device *virtio_pci_function(struct virtio_pci *t)
{
	return &t->pci;
}

/* ---- state ---- */

void virtio_pci_save(struct virtio_pci *t, uint32_t instance, struct state_writer *w)
{
	unsigned i;

	virtio_settle(t->dev);
	state_begin(w, t->dev->id, instance, STATE_VERSION);
	pci_device_save(&t->pci, w);
	state_put_u32(w, t->device_feature_select);
	state_put_u32(w, t->driver_feature_select);
	state_put_u16(w, t->queue_select);
	state_put_u8(w, atomic_load(&t->isr));
	state_put_u16(w, atomic_load(&t->config_vector));
	for (i = 0; i < t->dev->num_queues; i++)
		state_put_u16(w, atomic_load(&t->queue_vector[i]));
	virtio_save(t->dev, w);
	state_end(w);
}

int virtio_pci_load(struct virtio_pci *t, struct state_reader *r)
{
	unsigned i;
	int ret;

	if (r->version != STATE_VERSION)
		return state_reader_fail(r, "version %u", r->version);
	ret = pci_device_load(&t->pci, r);
	if (ret < 0)
		return ret;
	t->device_feature_select = state_get_u32(r);
	t->driver_feature_select = state_get_u32(r);
	t->queue_select = state_get_u16(r);
	atomic_store(&t->isr, state_get_u8(r) & (ISR_QUEUE | ISR_CONFIG));
	atomic_store(&t->config_vector, valid_vector(t, state_get_u16(r)));
	for (i = 0; i < t->dev->num_queues; i++)
		atomic_store(&t->queue_vector[i], valid_vector(t, state_get_u16(r)));
	return virtio_load(t->dev, r);
}
