/*
 * PCI functions and the bus they sit on: configuration space, BARs, MSI-X,
 * INTx (PCI 3.0, PCI Express base 4.0 chapter 7).
 *
 * One bus, 0000:00, 32 slots, function 0 each. Configuration writes come from
 * vCPU threads under the bus's lock; handlers of BARs run with no lock held.
 */
#ifndef WISP_DEVICES_PCI_H
#define WISP_DEVICES_PCI_H

#include <pthread.h>
#include <stdatomic.h>

#include "vmm/core/bus.h"
#include "vmm/core/irq.h"
#include "vmm/core/state.h"

#define PCI_NUM_SLOTS	32
#define PCI_NUM_BARS	6
#define PCI_CONFIG_SIZE 256 /* the extended space is there and reads as 0 */

struct pci_bus;
struct pci_device;

struct pci_bar {
	uint64_t size; /* 0: absent; a power of two, 4 KiB or more */
	bool is_64;    /* takes two registers */
	bool prefetchable;
	const struct bus_ops *ops; /* NULL for the MSI-X table, which pci_device serves */
	void *opaque;
	uint64_t addr;	/* where it is decoded now */
	bool mapped;
	const char *name;
};

struct pci_device {
	struct pci_bus *bus;
	unsigned slot;
	char name[32];
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable[PCI_CONFIG_SIZE]; /* which bits the guest may change */
	struct pci_bar bar[PCI_NUM_BARS];
	unsigned next_cap; /* where pci_add_capability() goes on */

	unsigned msix_bar, msix_vectors;
	uint16_t msix_cap;
	uint8_t *msix_table; /* 16 bytes a vector; with @msix under the bus's lock */
	struct irq_msi *msix;
	_Atomic int *msix_fd; /* of each vector that the guest gave a message, else -1 */
	_Atomic bool msix_enabled;
	bool msix_masked;

	/* Under the bus's INTx lock. */
	bool intx_asserted, intx_disabled;
	uint32_t intx_gsi;

	/*
	 * The guest is about to read configuration bytes, or has written some and BARs
	 * have been moved. No lock held; pci_config_put() changes bytes. May be NULL.
	 */
	void (*config_read)(struct pci_device *dev, unsigned offset, unsigned len);
	void (*config_written)(struct pci_device *dev, unsigned offset, unsigned len);
	void *opaque;
};

struct pci_bus_params {
	struct bus *mmio, *pio;
	struct irq_table *irqs;
	uint64_t ecam_base;	     /* 256 MiB window for 256 buses, or less: ecam_size */
	uint64_t ecam_size;
	uint64_t mmio32_base, mmio32_size;
	uint64_t mmio64_base, mmio64_size;
	const uint32_t *intx_gsi;    /* four GSIs: slot s gets number s % 4 (its INTA) */
	bool no_msi;		     /* pci=nomsi machines of the tests: no MSI-X capability */
};

/*
 * The host bridge (slot 0, class 0600) with ECAM and the 0xcf8/0xcfc ports. The
 * byte port 0xcf9 in their middle stays with whoever has it already.
 */
int pci_bus_create(struct pci_bus **ret_bus, const struct pci_bus_params *params,
		   struct error *err);
void pci_bus_free(struct pci_bus *bus);

struct pci_ids {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint32_t class_code; /* 24 bits */
	uint8_t revision;
};

/* Fill in the header of @dev, which the caller embeds or owns. Not yet visible. */
int pci_device_init(struct pci_device *dev, struct pci_bus *bus, unsigned slot, const char *name,
		    const struct pci_ids *ids);
void pci_device_done(struct pci_device *dev);

/*
 * Append a capability: its two header bytes are made here, @body is what
 * follows them and @len the length of all. Returns its offset.
 */
unsigned pci_add_capability(struct pci_device *dev, uint8_t id, const void *body, unsigned len);

/*
 * BAR @index, of @bar->size bytes, a power of two; a 64-bit one takes @index + 1 too. Before the
 * device is visible.
 */
void pci_set_bar(struct pci_device *dev, unsigned index, const struct pci_bar *bar);

/* MSI-X with @vectors entries in the 64-bit BAR @index (table at 0, PBA after it). */
int pci_add_msix(struct pci_device *dev, unsigned index, unsigned vectors);

/* Give unassigned BARs addresses, enable memory decoding, show the function to the guest. */
int pci_bus_plug(struct pci_device *dev, struct error *err);
void pci_bus_unplug(struct pci_device *dev); /* harmless when it is not plugged */

/* First slot without a function, none of those with a bit in @taken; -ENOSPC. */
int pci_bus_free_slot(struct pci_bus *bus, uint32_t taken);
struct pci_device *pci_bus_device(struct pci_bus *bus, unsigned slot);
struct irq_table *pci_bus_irqs(struct pci_bus *bus);

/* Where BAR @index is decoded now, or 0 while it is not. Any thread. */
uint64_t pci_bar_addr(struct pci_device *dev, unsigned index);

/* Is every BAR decoded where its register says? One that lies over another is not. Any thread. */
bool pci_device_is_placed(struct pci_device *dev);

/*
 * After functions were loaded, one after the other: decode also those BARs that were in the way of
 * one another meanwhile. Any thread.
 */
void pci_bus_place(struct pci_bus *bus);

/* Copy configuration bytes, whatever the guest may write. Any thread. */
void pci_config_get(struct pci_device *dev, unsigned offset, void *data, unsigned len);
void pci_config_put(struct pci_device *dev, unsigned offset, const void *data, unsigned len);

/*
 * An access of the guest's to function 0 of @slot; @len 1, 2 or 4, all ones when nobody is there.
 */
void pci_bus_config_read(struct pci_bus *bus, unsigned slot, unsigned offset, void *data,
			 unsigned len);
void pci_bus_config_write(struct pci_bus *bus, unsigned slot, unsigned offset, const void *data,
			  unsigned len);

/*
 * The eventfd to signal for MSI-X @vector, or -1 when MSI-X is off or the
 * vector is not configured. Any thread; one that raced with a change is
 * delivered late, never lost.
 */
int pci_msix_fd(struct pci_device *dev, unsigned vector);
bool pci_msix_on(const struct pci_device *dev);
void pci_msix_raise(struct pci_device *dev, unsigned vector);

/* The INTx pin, level; honours Interrupt Disable. Any thread. */
void pci_intx_set(struct pci_device *dev, bool asserted);

/* The host bridge: fields of the section that is open. */
void pci_bus_save(struct pci_bus *bus, struct state_writer *w);
int pci_bus_load(struct pci_bus *bus, struct state_reader *r);

/* Fields of the section that is open. Loading refuses another device's configuration space. */
void pci_device_save(struct pci_device *dev, struct state_writer *w);
int pci_device_load(struct pci_device *dev, struct state_reader *r);

#endif
