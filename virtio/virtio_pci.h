/*
 * Virtio over PCI, modern only (virtio 1.2, 4.1): one 64-bit memory BAR with
 * the common, notify, ISR and device areas, and the MSI-X table in another;
 * INTx when the driver does not enable MSI-X. Control side: vCPU threads.
 */
#ifndef WISP_VIRTIO_PCI_H
#define WISP_VIRTIO_PCI_H

#include "devices/pci.h"
#include "virtio/virtio.h"

struct virtio_pci;

/*
 * Make @dev (borrowed; it outlives the transport) a function of @bus at
 * @slot. BARs are assigned by @bus before the guest runs.
 */
int virtio_pci_create(struct virtio_pci **ret_t, struct virtio_device *dev, struct pci_bus *bus,
		      unsigned slot, struct error *err);
void virtio_pci_free(struct virtio_pci *t);

struct pci_device *virtio_pci_function(struct virtio_pci *t);

/* Stopped device; @instance of the section that has its ID for a name. */
void virtio_pci_save(struct virtio_pci *t, uint32_t instance, struct state_writer *w);
int virtio_pci_load(struct virtio_pci *t, struct state_reader *r);

#endif
