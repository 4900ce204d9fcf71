/*
 * An address space of device registers: who answers at this address.
 *
 * One bus for port I/O and one for memory-mapped I/O. Lookups come from all
 * vCPU threads; regions are added and moved while they run (PCI BARs). A
 * lookup copies the region under the bus's lock and calls the handler outside
 * of it, so a handler may move regions; a region's owner lives as long as the
 * machine.
 */
#ifndef WISP_CORE_BUS_H
#define WISP_CORE_BUS_H

#include "vmm/core/error.h"
#include "vmm/core/util.h"

struct bus;

/*
 * @offset is relative to the region. @len is 1, 2, 4 or 8 and the access lies
 * within the region (an access that crosses its end is not delivered). @data is
 * @len bytes, little-endian. On read @data is pre-filled with 0xff. Called on a
 * vCPU thread with no lock held.
 */
struct bus_ops {
	void (*read)(void *opaque, uint64_t offset, void *data, unsigned len);
	void (*write)(void *opaque, uint64_t offset, const void *data, unsigned len);
};

struct bus_region {
	uint64_t base;
	uint64_t size;
	const struct bus_ops *ops;
	void *opaque;
	const char *name; /* for --dry-run and diagnostics; borrowed */
	uint64_t reads, writes; /* counters, kept by the bus */
};

/* An empty one; @name is borrowed. -ENOMEM. What is on it is its devices' when it is freed. */
int bus_create(struct bus **ret_bus, const char *name);
void bus_free(struct bus *bus);

/* -EEXIST when it overlaps another region, -EINVAL when empty or wrapping. */
int bus_add(struct bus *bus, const struct bus_region *region, struct error *err);

/* Remove the region that @opaque registered at @base; -ENOENT when there is none. */
int bus_remove(struct bus *bus, uint64_t base, const void *opaque);

/*
 * Deliver an access. False when nobody answers: reads then give all ones,
 * writes vanish, and the access is counted as unknown. So is one of an odd
 * @len, which a guest can cause by crossing a page.
 */
bool bus_read(struct bus *bus, uint64_t addr, void *data, unsigned len);
bool bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned len);

/* Accesses nobody answered so far. */
uint64_t bus_unknown(const struct bus *bus);

/* Walk the regions in ascending order; for --dry-run. @fn must not change the bus. */
void bus_for_each(struct bus *bus, void (*fn)(const struct bus_region *region, void *arg),
		  void *arg);

#endif
