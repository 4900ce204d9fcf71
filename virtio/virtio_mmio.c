#include "virtio/virtio_mmio.h"

#include <errno.h>
#include <linux/virtio_mmio.h>
#include <stdlib.h>

#define STATE_VERSION 1

#define MAGIC	    0x74726976u /* "virt" */
#define VERSION	    2u
#define NO_SUCH_SHM 0xffffffffu

struct virtio_mmio {
	struct virtio_device *dev;
	struct bus *bus;
	uint64_t base;
	struct irq_line line;

	/* Under dev->lock. */
	uint32_t features_sel, driver_features_sel, queue_sel;

	_Atomic uint32_t interrupt_status;
	bool *bound; /* which queues' doorbells are ioeventfds; control side */
};

/* ---- interrupts ---- */

static void mmio_interrupt(void *transport, unsigned queue)
{
	struct virtio_mmio *t = transport;

	/* The handler reads the status first thing, so it is there before the edge. */
	atomic_fetch_or(&t->interrupt_status, VIRTIO_MMIO_INT_VRING);
	if (t->line.fd >= 0)
		virtio_signal(t->dev, queue, t->line.fd);
}

static void mmio_config_changed(void *transport)
{
	struct virtio_mmio *t = transport;

	atomic_fetch_or(&t->interrupt_status, VIRTIO_MMIO_INT_CONFIG);
	irq_line_raise(&t->line);
}

static void mmio_reset(void *transport)
{
	struct virtio_mmio *t = transport;

	atomic_store(&t->interrupt_status, 0);
	pthread_mutex_lock(&t->dev->lock);
	t->features_sel = t->driver_features_sel = t->queue_sel = 0;
	pthread_mutex_unlock(&t->dev->lock);
}

/* ---- doorbells: a write of the queue's index to QueueNotify ---- */

static int bind_doorbell(struct virtio_mmio *t, unsigned queue, bool assign)
{
	struct hv *hv = irq_table_hv(t->line.table);
	struct hv_ioeventfd e = {
		.addr = t->base + VIRTIO_MMIO_QUEUE_NOTIFY,
		.len = 4,
		.match = true,
		.value = queue,
		.fd = t->dev->doorbell[queue].fd,
	};
	int r = hv->ops->ioeventfd(hv, &e, assign);

	if (!r)
		t->bound[queue] = assign;
	return r;
}

static int mmio_queues_on(void *transport)
{
	struct virtio_mmio *t = transport;
	int r = irq_line_open(&t->line);
	unsigned i;

	if (r < 0)
		return r;
	for (i = 0; i < t->dev->num_queues; i++) {
		if (t->dev->queue[i].ready && t->dev->doorbell[i].fd >= 0) {
			int e = bind_doorbell(t, i, true);

			r = r < 0 ? r : e;
		}
	}
	return r;
}

static void mmio_queues_off(void *transport)
{
	struct virtio_mmio *t = transport;
	unsigned i;

	for (i = 0; i < t->dev->num_queues; i++) {
		if (t->bound[i])
			bind_doorbell(t, i, false);
	}
}

static const struct virtio_transport_ops mmio_transport_ops = {
	.interrupt = mmio_interrupt,
	.config_changed = mmio_config_changed,
	.queues_on = mmio_queues_on,
	.queues_off = mmio_queues_off,
	.reset = mmio_reset,
};

/* ---- registers: Virtio 1.2, 4.2.2 ---- */

static uint32_t read_register(struct virtio_mmio *t, uint64_t offset)
{
	struct virtio_device *dev = t->dev;
	uint32_t v = 0;
	struct virtq *q;

	/* Those that take the lock themselves, or need none. */
	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return dev->ops->id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VIRTIO_VENDOR;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return atomic_load(&t->interrupt_status);
	case VIRTIO_MMIO_STATUS:
		return virtio_get_status(dev);
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return atomic_load(&dev->config_generation);
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return NO_SUCH_SHM;
	}

	pthread_mutex_lock(&dev->lock);
	q = virtio_queue(dev, t->queue_sel);
	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES:
		v = virtio_get_features(dev, t->features_sel);
		break;
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		v = q ? q->max_size : 0;
		break;
	case VIRTIO_MMIO_QUEUE_READY:
		v = q ? q->ready : 0;
		break;
	}
	pthread_mutex_unlock(&dev->lock);
	return v;
}

static void set_low(uint64_t *field, uint32_t v)
{
	*field = (*field & ~0xffffffffull) | v;
}

static void set_high(uint64_t *field, uint32_t v)
{
	*field = (*field & 0xffffffffull) | (uint64_t)v << 32;
}

/* Selectors and the queue selected; under dev->lock. */
static void write_setup(struct virtio_mmio *t, uint64_t offset, uint32_t v)
{
	struct virtq *q = virtio_queue_config(t->dev, t->queue_sel);

	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		t->features_sel = v;
		return;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		t->driver_features_sel = v;
		return;
	case VIRTIO_MMIO_QUEUE_SEL:
		t->queue_sel = v;
		return;
	}
	if (q && offset == VIRTIO_MMIO_QUEUE_READY)
		q->ready = v & 1;
	if (!q || q->ready)
		return;

	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		/* Out of range: left to virtq_start() to refuse. */
		q->size = MIN(v, 0xffffu);
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
		set_low(&q->desc_gpa, v);
		break;
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_high(&q->desc_gpa, v);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
		set_low(&q->driver_gpa, v);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_high(&q->driver_gpa, v);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
		set_low(&q->device_gpa, v);
		break;
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_high(&q->device_gpa, v);
		break;
	}
}

static void write_register(struct virtio_mmio *t, uint64_t offset, uint32_t v)
{
	struct virtio_device *dev = t->dev;
	uint32_t word;

	switch (offset) {
	case VIRTIO_MMIO_DRIVER_FEATURES:
		pthread_mutex_lock(&dev->lock);
		word = t->driver_features_sel;
		pthread_mutex_unlock(&dev->lock);
		virtio_set_features(dev, word, v);
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		virtio_kick(dev, v);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		atomic_fetch_and(&t->interrupt_status, ~v);
		break;
	case VIRTIO_MMIO_STATUS:
		virtio_set_status(dev, v, false);
		break;
	default:
		pthread_mutex_lock(&dev->lock);
		write_setup(t, offset, v);
		pthread_mutex_unlock(&dev->lock);
	}
}

/*
 * Registers are 32 bits wide and aligned; other accesses to them are the
 * driver's mistake (4.2.2.2), read as 0 and ignored. The configuration space
 * takes any width.
 */
static void mmio_read(void *opaque, uint64_t offset, void *data, unsigned len)
{
	struct virtio_mmio *t = opaque;

	if (offset >= VIRTIO_MMIO_CONFIG)
		virtio_config_read(t->dev, offset - VIRTIO_MMIO_CONFIG, data, len);
	else if (len == 4 && offset % 4 == 0)
		put_le32(data, read_register(t, offset));
	else
		memset(data, 0, len);
}

static void mmio_write(void *opaque, uint64_t offset, const void *data, unsigned len)
{
	struct virtio_mmio *t = opaque;

	if (offset >= VIRTIO_MMIO_CONFIG)
		virtio_config_write(t->dev, offset - VIRTIO_MMIO_CONFIG, data, len);
	else if (len == 4 && offset % 4 == 0)
		write_register(t, offset, get_le32(data));
}

static const struct bus_ops mmio_bus_ops = {
	.read = mmio_read,
	.write = mmio_write,
};

/* ---- life ---- */

int virtio_mmio_create(struct virtio_mmio **ret_t, struct virtio_device *dev, struct bus *bus,
		       uint64_t base, struct irq_table *irqs, uint32_t gsi, struct error *err)
{
	struct virtio_mmio *t = calloc(1, sizeof(*t));
	struct bus_region region = {
		.base = base,
		.size = VIRTIO_MMIO_SIZE,
		.ops = &mmio_bus_ops,
		.opaque = t,
		.name = dev->id,
	};
	int r = -ENOMEM;

	if (t)
		t->bound = calloc(dev->num_queues, sizeof(*t->bound));
	if (!t || !t->bound) {
		error_set(err, r, "virtio-mmio '%s': %m", dev->id);
		goto fail;
	}
	t->dev = dev;
	t->bus = bus;
	t->base = base;
	irq_line_init(&t->line, irqs, gsi);
	r = bus_add(bus, &region, err);
	if (r < 0)
		goto fail;
	dev->transport_ops = &mmio_transport_ops;
	dev->transport = t;
	*ret_t = t;
	return 0;

fail:
	if (t)
		free(t->bound);
	free(t);
	return r;
}

void virtio_mmio_free(struct virtio_mmio *t)
{
	if (!t)
		return;
	/* First out of the guest's sight, so that nothing can start the device again. */
	bus_remove(t->bus, t->base, t);
	virtio_detach(t->dev);
	irq_line_done(&t->line);
	free(t->bound);
	free(t);
}

void virtio_mmio_save(struct virtio_mmio *t, uint32_t instance, struct state_writer *w)
{
	virtio_settle(t->dev);
	state_begin(w, t->dev->id, instance, STATE_VERSION);
	state_put_u32(w, t->features_sel);
	state_put_u32(w, t->driver_features_sel);
	state_put_u32(w, t->queue_sel);
	state_put_u32(w, atomic_load(&t->interrupt_status));
	virtio_save(t->dev, w);
	state_end(w);
}

int virtio_mmio_load(struct virtio_mmio *t, struct state_reader *r)
{
	uint32_t pending;

	if (r->version != STATE_VERSION)
		return state_reader_fail(r, "version %u", r->version);
	t->features_sel = state_get_u32(r);
	t->driver_features_sel = state_get_u32(r);
	t->queue_sel = state_get_u32(r);
	pending = state_get_u32(r);
	if (pending & ~(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG))
		return state_reader_fail(r, "interrupt status %#x", pending);
	atomic_store(&t->interrupt_status, pending);
	return virtio_load(t->dev, r);
}
