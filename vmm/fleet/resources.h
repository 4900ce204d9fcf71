/*
 * What a microVM takes of the host: whether there is room for it (--admit), how much it may have
 * (a cgroup, vmm/fleet/cgroup.h), and on which processors it runs (--pin).
 *
 * For the parent of the microVM; resources_pin_vcpu() for the vCPUs' threads.
 */
#ifndef WISP_VMM_RESOURCES_H
#define WISP_VMM_RESOURCES_H

#include "vmm/fleet/cgroup.h"
#include "vmm/fleet/fleet.h"

/*
 * With --admit: is there room for @c beside all that run? 0 with a descriptor in @ret_lock that
 * keeps others who ask out until it is closed, so that this microVM is seen by the next of
 * them; -1 is there without --admit. -errno, kind USAGE, with the figures when there is no room.
 */
int resources_admit(const struct machine_config *c, int *ret_lock, struct error *err);

/* Does it fit? The rule alone. */
int resources_fit(const struct machine_config *c, const struct fleet_sum *sum,
		  const struct host_room *room, struct error *err);

/* Move this process, and so all that it starts, to where --pin and the limits have it. */
int resources_apply(const struct config_resources *r, const char *id, struct cgroup *cgroup,
		    struct error *err);

/* The calling thread is vCPU @index: with --pin it gets one of the processors, in their order. */
void resources_pin_vcpu(const struct config_resources *r, unsigned index);

/* Which one; -1 without --pin. */
int resources_vcpu_processor(const struct config_resources *r, unsigned index);

#endif
