/*
 * Between the files of the PCI bus: pci.c (functions, BARs), pci_msix.c and
 * pci_host.c (the bridge and the ways into configuration space). Not for
 * devices.
 */
#ifndef WISP_DEVICES_PCI_INTERNAL_H
#define WISP_DEVICES_PCI_INTERNAL_H

#include "devices/pci.h"

struct pci_bus {
	struct pci_bus_params params;
	uint32_t intx_gsi[4];

	/* Configuration space, BARs, MSI-X tables of all functions; vCPU threads only. */
	pthread_mutex_t lock;
	struct pci_device *device[PCI_NUM_SLOTS];

	/* The INTx pins; loops take it too, and nothing waits inside. */
	pthread_mutex_t intx_lock;

	struct pci_device bridge;
	uint32_t config_address; /* port 0xcf8; under @lock */

	/* Port 0xcf9, which lies in the middle of 0xcf8: its owner's region. */
	struct bus_region reset_port;
};

static inline uint16_t pci_command(const struct pci_device *dev)
{
	return get_le16(dev->config + 4);
}

/* All three under bus->lock. */
void pci_msix_update(struct pci_device *dev);
void pci_msix_save(struct pci_device *dev, struct state_writer *w);
int pci_msix_load(struct pci_device *dev, struct state_reader *r);
void pci_msix_done(struct pci_device *dev);

#endif
