/*
 * Interrupts of one machine: numbered lines, MSI routes, and the table that
 * the hypervisor is given.
 *
 * Owned by the machine. A device holds an irq_line (edge, through an irqfd), an
 * irq_level (level, shared, for INTx) or MSI routes. Changes to the table are
 * collected and pushed once: KVM replaces the whole table at each call and
 * waits for readers. Until a first message is routed nothing is pushed at all:
 * the hypervisor's own table already leads the pins where they should go. All functions take the
 * table's own lock; any thread.
 */
#ifndef WISP_CORE_IRQ_H
#define WISP_CORE_IRQ_H

#include "vmm/core/hv.h"

struct irq_table;
struct loop;

/* GSIs below are IOAPIC pins (and, below 16, PIC pins); MSI routes come from above. */
#define IRQ_NUM_PINS  24
#define IRQ_MAX_GSIS  4096

/* @hv is borrowed and outlives it. -ENOMEM. Lines and vectors are done before it is freed. */
int irq_table_create(struct irq_table **ret_table, struct hv *hv);
void irq_table_free(struct irq_table *table);

/*
 * Between these, unmasked vectors are only noted; the release pushes the table
 * once and binds them all. For a guest that enables many at a stroke. Nests.
 */
void irq_table_hold(struct irq_table *table);
int irq_table_release(struct irq_table *table);

/* The hypervisor used (for ioeventfds of the same device). */
struct hv *irq_table_hv(struct irq_table *table);

/* An edge-triggered line: an eventfd bound to a pin. */
struct irq_line {
	struct irq_table *table;
	uint32_t gsi;
	int fd; /* EFD_NONBLOCK; for irq_line_raise() and loop_signal(); -1 before first use */
};

/* Prepare a line; the eventfd and irqfd are made at first use or by irq_line_open(). */
void irq_line_init(struct irq_line *line, struct irq_table *table, uint32_t gsi);
void irq_line_done(struct irq_line *line);
int irq_line_open(struct irq_line *line);

/* Raise one edge. Any thread. */
void irq_line_raise(struct irq_line *line);

/*
 * A level-triggered pin shared by several sources (PCI INTx), numbered 0 to 63:
 * asserted while any source is. -EINVAL for other sources or pins.
 */
int irq_level_set(struct irq_table *table, uint32_t gsi, unsigned source, bool asserted);

/*
 * One MSI or MSI-X vector: a GSI whose route is the message, and an eventfd.
 * A masked vector has its irqfd deassigned and its eventfd goes on counting:
 * that is the pending bit; unmasking delivers it.
 */
struct irq_msi {
	struct irq_table *table;
	uint32_t gsi; /* 0 until allocated */
	int fd;	      /* EFD_NONBLOCK, -1 until opened */
	uint64_t addr;
	uint32_t data;
	bool assigned;
};

/*
 * Masked, without a GSI or an eventfd; @table outlives it. Done masks it, gives the GSI back to the
 * table and closes the eventfd: no more signals may come. Harmless when zeroed or repeated.
 */
void irq_msi_init(struct irq_msi *msi, struct irq_table *table);
void irq_msi_done(struct irq_msi *msi);

/* Open the eventfd; the vector stays masked. */
int irq_msi_open(struct irq_msi *msi);

/*
 * Unmask with this message: route it (pushed only when it changed) and bind the
 * irqfd; what the eventfd has counted is delivered. On failure it stays masked.
 */
int irq_msi_unmask(struct irq_msi *msi, uint64_t addr, uint32_t data);
void irq_msi_mask(struct irq_msi *msi);

/* For a masked vector: has the eventfd a count (the PBA bit)? Does not consume it. */
bool irq_msi_pending(const struct irq_msi *msi);

/* How often the table was pushed to the hypervisor, for tests and `wisp stat`. */
uint64_t irq_table_pushes(const struct irq_table *table);

#endif
