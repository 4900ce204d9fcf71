/*
 * Everything by which a guest ends, or is asked to: ACPI sleep and reset
 * registers, the keyboard controller's reset pulse, port 0xcf9, pvpanic, the
 * exit ports, and the generic event device (GED) with the power button.
 *
 * Handlers run on vCPU threads and report through ended(), which the machine
 * makes thread-safe.
 */
#ifndef WISP_DEVICES_POWER_H
#define WISP_DEVICES_POWER_H

#include "vmm/core/bus.h"
#include "vmm/core/irq.h"
#include "vmm/core/platform.h"
#include "vmm/core/state.h"

struct power;

enum power_event {
	POWER_OFF,	/* S5 */
	POWER_RESET,	/* reset register, 0xcf9, i8042 */
	POWER_PANIC,	/* pvpanic: panicked */
	POWER_CRASH_LOADED, /* pvpanic: a crash kernel takes over; the guest goes on */
	POWER_EXIT,	/* exit port: @value is the status */
};

struct power_config {
	bool test_device;
	void (*event)(void *arg, enum power_event event, uint8_t value);
	/* The guest has let go of these PCI slots, a bit each. May be NULL. */
	void (*eject)(void *arg, uint32_t slots);
	void *arg;
};

/* Put its ports on @pio. -errno with @err. Both bus and table outlive it. */
int power_create(struct power **ret_p, struct bus *pio, struct irq_table *irqs,
		 const struct power_config *config, struct error *err);
/* Its ports stay on the bus: no vCPU may run any more. NULL is fine. */
void power_free(struct power *p);

/* Raise the GED with these events: `wisp stop` presses the power button. Any thread. */
void power_ged_raise(struct power *p, uint32_t events);

/* A PCI slot appeared or is to go: bits for the hot-plug registers, then GED_PCI_HOTPLUG. */
void power_pci_hotplug(struct power *p, uint32_t slots_up, uint32_t slots_down);

/* Events that are pending and the slots of hot-plug, to and from the section that is open. */
void power_save(struct power *p, struct state_writer *w);
int power_load(struct power *p, struct state_reader *r);

#endif
