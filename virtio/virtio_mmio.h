/*
 * Virtio over MMIO, version 2 (virtio 1.2, 4.2): one page of registers, one
 * edge-triggered line. Control side: vCPU threads.
 */
#ifndef WISP_VIRTIO_MMIO_H
#define WISP_VIRTIO_MMIO_H

#include "virtio/virtio.h"
#include "vmm/core/bus.h"
#include "vmm/core/irq.h"

#define VIRTIO_MMIO_SIZE 0x200u

struct virtio_mmio;

/*
 * Put @dev (borrowed; it outlives the transport) at @base of @bus with
 * interrupt @gsi. Queue doorbells become ioeventfds when the driver starts it.
 */
int virtio_mmio_create(struct virtio_mmio **ret_t, struct virtio_device *dev, struct bus *bus,
		       uint64_t base, struct irq_table *irqs, uint32_t gsi, struct error *err);
void virtio_mmio_free(struct virtio_mmio *t);

/*
 * Selectors, interrupt status, then the device's core and own fields. Stopped device; @instance of
 * the section that has its ID for a name.
 */
void virtio_mmio_save(struct virtio_mmio *t, uint32_t instance, struct state_writer *w);
int virtio_mmio_load(struct virtio_mmio *t, struct state_reader *r);

#endif
