/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio.h"

/* PCI: struct virtio_pci_common_cfg (virtio 1.2, 4.1.4.3). */
#define C_DEVICE_FEATURE_SELECT 0x00
#define C_DEVICE_FEATURE	0x04
#define C_DRIVER_FEATURE_SELECT 0x08
#define C_DRIVER_FEATURE	0x0c
#define C_CONFIG_VECTOR		0x10
#define C_STATUS		0x14
#define C_QUEUE_SELECT		0x16
#define C_QUEUE_SIZE		0x18
#define C_QUEUE_VECTOR		0x1a
#define C_QUEUE_ENABLE		0x1c
#define C_QUEUE_NOTIFY_OFF	0x1e
#define C_QUEUE_DESC		0x20
#define C_QUEUE_DRIVER		0x28
#define C_QUEUE_DEVICE		0x30

/* MMIO (4.2.2). */
#define M_DEVICE_ID	       0x08
#define M_DEVICE_FEATURES      0x10
#define M_DEVICE_FEATURES_SEL  0x14
#define M_DRIVER_FEATURES      0x20
#define M_DRIVER_FEATURES_SEL  0x24
#define M_QUEUE_SEL	       0x30
#define M_QUEUE_NUM_MAX	       0x34
#define M_QUEUE_NUM	       0x38
#define M_QUEUE_READY	       0x44
#define M_QUEUE_NOTIFY	       0x50
#define M_INTERRUPT_STATUS     0x60
#define M_INTERRUPT_ACK	       0x64
#define M_STATUS	       0x70
#define M_QUEUE_DESC	       0x80
#define M_QUEUE_DRIVER	       0x90
#define M_QUEUE_DEVICE	       0xa0
#define M_CONFIG	       0x100

static const char *const kinds[] = { "0", "net", "blk", "console", "rng", "balloon" };

static void set_name(struct vdev *d, const char *bus, u32 number)
{
	const char *kind = d->id < ARRAY_SIZE(kinds) ? kinds[d->id] : "device";
	char *to = d->name;

	while (*kind)
		*to++ = *kind++;
	*to++ = '@';
	while (*bus)
		*to++ = *bus++;
	if (number >= 10)
		*to++ = '0' + number / 10;
	*to++ = '0' + number % 10;
	*to = 0;
}

static bool find_pci(struct vdev *d, u32 bdf)
{
	u32 id = pci_read(bdf, 0), cap = 0;

	if ((id & 0xffff) != 0x1af4 || id >> 16 < 0x1000 || id >> 16 > 0x107f)
		return false;
	memset(d, 0, sizeof(*d));
	d->pci = true;
	d->bdf = bdf;
	d->id = id >> 16 >= 0x1040 ? (id >> 16) - 0x1040 : pci_read16(bdf, 0x2e);
	while ((cap = pci_capability(bdf, 9, cap))) {
		u64 at = pci_bar(bdf, pci_read8(bdf, cap + 4)) + pci_read(bdf, cap + 8);

		switch (pci_read8(bdf, cap + 3)) {
		case 1:
			d->base = at;
			break;
		case 2:
			d->notify = at;
			d->notify_multiplier = pci_read(bdf, cap + 16);
			break;
		case 3:
			d->isr = at;
			break;
		case 4:
			d->config = at;
			break;
		}
	}
	cap = pci_capability(bdf, 0x11, 0);
	if (cap) {
		u32 table = pci_read(bdf, cap + 4);

		d->msix = pci_bar(bdf, table & 7) + (table & ~7u);
		d->num_vectors = (pci_read16(bdf, cap + 2) & 0x7ff) + 1;
	}
	pci_write16(bdf, 4, pci_read16(bdf, 4) | 6);
	if (cap)
		pci_write16(bdf, cap + 2, 0x8000);
	set_name(d, "pci", bdf >> 3);
	return d->base && d->notify;
}

u32 virtio_find(struct vdev *devs, u32 max)
{
	u32 n = 0;

	apic_init();
	if (acpi.ecam || pci_cf8_read(0, 0) != 0xffffffff)
		for (u32 slot = 0; slot < 32 && n < max; slot++)
			if (find_pci(&devs[n], slot << 3))
				n++;
	for (u32 i = 0; i < acpi.num_mmio && n < max; i++) {
		struct vdev *d = &devs[n];

		memset(d, 0, sizeof(*d));
		d->base = acpi.mmio[i].base;
		d->gsi = acpi.mmio[i].gsi;
		d->config = d->base + M_CONFIG;
		if (read32(d->base) != 0x74726976 || read32(d->base + 4) != 2)
			continue;
		d->id = read32(d->base + M_DEVICE_ID);
		if (!d->id)
			continue;
		set_name(d, "mmio", i);
		n++;
	}
	return n;
}

struct vdev *virtio_first(struct vdev *devs, u32 n, u32 id)
{
	for (u32 i = 0; i < n; i++)
		if (devs[i].id == id)
			return &devs[i];
	return NULL;
}

u8 virtio_status(struct vdev *d)
{
	return d->pci ? read8(d->base + C_STATUS) : read32(d->base + M_STATUS);
}

void virtio_set_status(struct vdev *d, u8 status)
{
	if (d->pci)
		write8(d->base + C_STATUS, status);
	else
		write32(d->base + M_STATUS, status);
}

bool virtio_reset(struct vdev *d)
{
	virtio_set_status(d, 0);
	/* On PCI the device may take its time (4.1.4.3.2). */
	return wait_for(virtio_status(d) == 0);
}

u64 virtio_offered(struct vdev *d)
{
	u32 part[2];

	for (u32 i = 0; i < 2; i++) {
		write32(d->base + (d->pci ? C_DEVICE_FEATURE_SELECT : M_DEVICE_FEATURES_SEL), i);
		part[i] = read32(d->base + (d->pci ? C_DEVICE_FEATURE : M_DEVICE_FEATURES));
	}
	return (u64)part[1] << 32 | part[0];
}

void virtio_write_features(struct vdev *d, u64 features)
{
	for (u32 i = 0; i < 2; i++) {
		write32(d->base + (d->pci ? C_DRIVER_FEATURE_SELECT : M_DRIVER_FEATURES_SEL), i);
		write32(d->base + (d->pci ? C_DRIVER_FEATURE : M_DRIVER_FEATURES),
			features >> 32 * i);
	}
}

bool virtio_begin(struct vdev *d, u64 want)
{
	if (!virtio_reset(d))
		return false;
	virtio_set_status(d, STATUS_ACKNOWLEDGE);
	virtio_set_status(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	d->features = virtio_offered(d) & (want | F_VERSION_1);
	virtio_write_features(d, d->features);
	virtio_set_status(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	return virtio_status(d) & STATUS_FEATURES_OK;
}

static void select_queue(struct vdev *d, u32 index)
{
	if (d->pci)
		write16(d->base + C_QUEUE_SELECT, index);
	else
		write32(d->base + M_QUEUE_SEL, index);
}

u32 virtio_queue_max(struct vdev *d, u32 index)
{
	select_queue(d, index);
	return d->pci ? read16(d->base + C_QUEUE_SIZE) : read32(d->base + M_QUEUE_NUM_MAX);
}

static void write_addr(u64 reg, u64 addr)
{
	write32(reg, addr);
	write32(reg + 4, addr >> 32);
}

void virtio_queue_set(struct vdev *d, u32 index, u32 size, u64 desc, u64 driver, u64 device,
		      bool ready)
{
	select_queue(d, index);
	if (d->pci) {
		write16(d->base + C_QUEUE_SIZE, size);
		write_addr(d->base + C_QUEUE_DESC, desc);
		write_addr(d->base + C_QUEUE_DRIVER, driver);
		write_addr(d->base + C_QUEUE_DEVICE, device);
		write16(d->base + C_QUEUE_ENABLE, ready);
	} else {
		write32(d->base + M_QUEUE_NUM, size);
		write_addr(d->base + M_QUEUE_DESC, desc);
		write_addr(d->base + M_QUEUE_DRIVER, driver);
		write_addr(d->base + M_QUEUE_DEVICE, device);
		write32(d->base + M_QUEUE_READY, ready);
	}
}

/* Have the queue's interrupt arrive at @vector. */
static void route(struct vdev *d, u32 index, u8 vector)
{
	if (!d->pci) {
		ioapic_route(d->gsi, vector, false, false);
		return;
	}
	write16(d->base + C_CONFIG_VECTOR, 0xffff);
	if (!d->msix)
		return;
	write32(d->msix, acpi.lapic | apic_id() << 12);
	write32(d->msix + 4, 0);
	write32(d->msix + 8, vector);
	write32(d->msix + 12, 0);
	select_queue(d, index);
	write16(d->base + C_QUEUE_VECTOR, 0);
}

bool virtio_queue(struct vdev *d, struct vq *q, u32 index, u32 size)
{
	static u8 next_vector = 0x60;
	/* Rings are made once for each struct vq, and used again: there is no free(). */
	bool made = q->desc && q->size >= size;
	u32 max = virtio_queue_max(d, index);

	if (!max)
		return false;
	if (size > max)
		size = max;
	if (!made) {
		memset(q, 0, sizeof(*q));
		q->desc = alloc(16 * size, 4096);
		q->avail = alloc(6 + 2 * size, 64);
		q->used = alloc(6 + 8 * size, 64);
		q->table = alloc(16 * 16, 64);
		q->vector = next_vector++;
		if (next_vector == 0xf0)
			next_vector = 0x60;
	}
	memset(q->desc, 0, 16 * size);
	memset(q->avail, 0, 6 + 2 * size);
	memset(q->used, 0, 6 + 8 * size);
	q->dev = d;
	q->index = index;
	q->size = size;
	q->packed = d->features & F_PACKED;
	q->next = q->seen = 0;
	q->wrap = q->seen_wrap = true;
	route(d, index, q->vector);
	virtio_queue_set(d, index, size, (u64)q->desc, (u64)q->avail, (u64)q->used, true);
	return true;
}

void virtio_ready(struct vdev *d)
{
	virtio_set_status(d, virtio_status(d) | STATUS_DRIVER_OK);
}

void virtio_kick(struct vdev *d, u32 index)
{
	barrier();
	if (d->pci) {
		select_queue(d, index);
		write16(d->notify +
				(u64)read16(d->base + C_QUEUE_NOTIFY_OFF) * d->notify_multiplier,
			index);
	} else {
		write32(d->base + M_QUEUE_NOTIFY, index);
	}
}

u8 virtio_config8(struct vdev *d, u32 at)
{
	return d->config ? read8(d->config + at) : 0;
}

u32 virtio_config32(struct vdev *d, u32 at)
{
	return d->config ? read32(d->config + at) : 0;
}

u64 virtio_config64(struct vdev *d, u32 at)
{
	return virtio_config32(d, at) | (u64)virtio_config32(d, at + 4) << 32;
}

/* ---- rings ---- */

static void send_split(struct vq *q, const struct buffer *b, u32 n, bool indirect)
{
	struct desc *d = indirect ? q->table : q->desc;
	/* Requests start anywhere, so that chains go over the end of the table too. */
	u32 first = indirect ? 0 : q->next * 3 % q->size, at = first;

	for (u32 i = 0; i < n; i++) {
		u32 next = indirect ? i + 1 : (at + 1) % q->size;

		d[at] = (struct desc){ (u64)b[i].data, b[i].len,
				       (b[i].in ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0),
				       next };
		at = next;
	}
	if (indirect) {
		first = q->next % q->size;
		q->desc[first] = (struct desc){ (u64)q->table, 16 * n, DESC_INDIRECT, 0 };
	}
	q->avail[2 + q->next % q->size] = first;
	/* With event index: interrupt for the next one used. */
	q->avail[2 + q->size] = q->seen;
	barrier();
	((volatile u16 *)q->avail)[1] = ++q->next;
	barrier();
}

static void send_packed(struct vq *q, const struct buffer *b, u32 n, bool indirect)
{
	u16 head = q->next, head_flags = 0;
	u32 table_len = 16 * n;

	/* A driver event structure: flags 0 (always), or 2 (by index) with event index. */
	if (q->dev->features & F_EVENT_IDX) {
		q->avail[0] = q->seen | q->seen_wrap << 15;
		q->avail[1] = 2;
	}
	if (indirect) {
		for (u32 i = 0; i < n; i++)
			q->table[i] = (struct desc){ (u64)b[i].data, b[i].len, 0,
						     b[i].in ? DESC_WRITE : 0 };
		n = 1;
	}
	for (u32 i = 0; i < n; i++) {
		struct desc *d = &q->desc[q->next];
		u16 flags = q->wrap ? DESC_AVAIL : DESC_USED;

		if (indirect) {
			d->addr = (u64)q->table;
			d->len = table_len;
			flags |= DESC_INDIRECT;
		} else {
			d->addr = (u64)b[i].data;
			d->len = b[i].len;
			flags |= (b[i].in ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0);
		}
		d->flags = 7; /* the id */
		if (i)
			d->next = flags;
		else
			head_flags = flags;
		if (++q->next == q->size) {
			q->next = 0;
			q->wrap = !q->wrap;
		}
	}
	q->chain = n;
	/* The head last: with it the device has the whole chain. */
	barrier();
	((volatile struct desc *)q->desc)[head].next = head_flags;
	barrier();
}

void vq_send(struct vq *q, const struct buffer *b, u32 n)
{
	bool indirect = q->dev->features & F_INDIRECT;

	if (q->packed)
		send_packed(q, b, n, indirect);
	else
		send_split(q, b, n, indirect);
	virtio_kick(q->dev, q->index);
}

static bool is_used(struct vq *q)
{
	u16 flags;

	if (!q->packed)
		return ((volatile u16 *)q->used)[1] != q->seen;
	flags = ((volatile struct desc *)q->desc)[q->seen].next;
	return !!(flags & DESC_AVAIL) == !!(flags & DESC_USED) &&
	       !!(flags & DESC_USED) == q->seen_wrap;
}

bool vq_wait(struct vq *q, u32 *ret_len)
{
	u32 len;

	if (!wait_for(is_used(q)))
		return false;
	barrier();
	if (q->packed) {
		len = q->desc[q->seen].len;
		q->seen += q->chain;
		if (q->seen >= q->size) {
			q->seen -= q->size;
			q->seen_wrap = !q->seen_wrap;
		}
	} else {
		len = *(u32 *)&q->used[2 + 4 * (q->seen % q->size) + 2];
		q->seen++;
	}
	if (!q->dev->pci)
		write32(q->dev->base + M_INTERRUPT_ACK, read32(q->dev->base + M_INTERRUPT_STATUS));
	if (ret_len)
		*ret_len = len;
	return true;
}

bool virtio_start(struct vdev *d, struct vq *q)
{
	const char *ring = argument("ring");
	u64 features = ring && starts_with(ring, "packed") ? F_PACKED | F_EVENT_IDX : F_EVENT_IDX;

	if (!virtio_begin(d, features) || !virtio_queue(d, q, 0, 8))
		return false;
	virtio_ready(d);
	return true;
}

bool vq_random(struct vq *q)
{
	static u64 bytes[4];
	struct buffer b = { bytes, sizeof(bytes), true };
	u32 len = 0;

	bytes[0] = 0;
	vq_send(q, &b, 1);
	return vq_wait(q, &len) && len && *(volatile u64 *)bytes;
}
