/*
 * Disks, networks and persistent memory that come and go while the guest runs, in slots of the PCI
 * bus that the guest is told of by ACPI events. The configuration goes along: what is saved, cloned
 * or sent has the devices that are there then, in the slots where they are.
 *
 * On the loop; one change at a time.
 */
#ifndef WISP_VMM_MACHINE_PLUG_H
#define WISP_VMM_MACHINE_PLUG_H

#include "vmm/machine/machine.h"

/* How it ended: 0, or -errno with what @err says. On the loop. */
typedef void machine_plugged_fn(void *arg, int r, const struct error *err);

/* A device to be added. */
struct machine_addition {
	enum config_device kind;
	struct machine_config *config; /* with one of that kind, as parsed, and nothing else */
	const char *value;	       /* what it was parsed of */
	struct machine_files *files;   /* disk[0], net[0] or pmem[0] is the device's */
};

/*
 * Add a device: the guest stands still for a moment, then finds it. What @a has in its
 * configuration and its files is the machine's from here on, whatever happens. An id and the like
 * that are not given are made up. The transport is PCI, and nobody saves or moves the machine
 * meanwhile; otherwise -ENOTSUP, -EBUSY.
 */
void machine_plug(struct machine *m, const struct machine_addition *a, machine_plugged_fn *done,
		  void *arg);

/*
 * Take the device @name (ID, disk:ID, net:ID or pmem:ID) away, once the guest's driver has let go
 * of it: at once when none is in use, else the guest is asked. If it has not by @patience_ns from
 * now: with @force it is taken away all the same, as if somebody had pulled it out, else
 * -ETIMEDOUT.
 */
void machine_unplug(struct machine *m, const char *name, uint64_t patience_ns, bool force,
		    machine_plugged_fn *done, void *arg);

/* The machine has ended: whatever becomes of a change under way, nobody is told of it any more. */
void machine_plug_forget(struct machine *m);

#endif
