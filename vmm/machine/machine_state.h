/*
 * A whole machine in sections and back: the same for a snapshot, a clone and a
 * migration. Memory is not among them; it is on its own way.
 *
 * The sections, in this order: "machine" (format, architecture), "machine/config"
 * (vmm/config/config_state.h), "machine/cpu", the devices that every machine has, the
 * virtio devices by their ids, "machine/vm", "machine/vcpu" by index, and the seal.
 */
#ifndef WISP_VMM_MACHINE_STATE_H
#define WISP_VMM_MACHINE_STATE_H

#include "vmm/core/state.h"
#include "vmm/machine/machine.h"

/* What becomes of the guest's clocks: they go on from where they stood, or catch up. */
enum machine_clock { MACHINE_CLOCK_CONTINUE, MACHINE_CLOCK_REALTIME };

/*
 * A file as large as RAM, of which only some pages count: see guest_mem_load_pages(). With @packed
 * (vmm/saved/packed_memory.h) that is what has them, and there is no @fd.
 */
struct machine_layer {
	const char *name; /* as in machine_image */
	int fd;
	const struct packed_memory *packed;
	const uint64_t *pages;
};

/* What a machine begins with in place of a kernel. */
struct machine_image {
	struct state_set *state; /* with "machine" and "machine/config" taken */
	int memory_fd;		 /* guest RAM from its start to its end, or -1 */
	const char *memory_name; /* the snapshot that it is of, for messages; or NULL */
	const struct packed_memory *packed; /* the same, compressed, or NULL: needs @demand */
	const struct machine_layer *layer; /* what goes over that, in this order */
	unsigned num_layers;
	const struct working_set *working_set; /* what to bring in at once; NULL: nothing */
	bool records;  /* what the guest touches until the end is to be written to */
	int record_fd; /* this file */
	struct demand *demand; /* RAM comes when it is touched (vmm/saved/demand.h); NULL: now */
	struct guest_mem *mem;	 /* RAM that is there already, owned by the machine then; or NULL */
	enum machine_clock clock;
	bool changed_tsc; /* it may run on where the TSC has another rate and cannot be scaled */
	bool same_identity; /* it moves (migration): no new generation ID */
	/* It is still to come (migrate.h): @state only has what machine_save_kind() writes. */
	const struct migrate_arrival *arrival;
};

/*
 * The sections that say what @m is, without what it is at: "machine", "machine/config",
 * "machine/cpu". Any thread, while it runs; not sealed.
 */
void machine_save_kind(struct machine *m, struct state_writer *w);

/* All sections of @m, which is paused, into @w, sealed. On the loop. */
int machine_save(struct machine *m, struct state_writer *w, struct error *err);

/*
 * Is @state of a machine that this program understands? Takes its first
 * section; before the configuration is looked at. -EBADMSG with @err.
 */
int machine_check_state(struct state_set *state, struct error *err);

/* What machine_save_kind() wrote: can this host be such a machine? Used by machine_create(). */
int machine_load_kind(struct machine *m, const struct machine_image *image,
		      const struct x86_cpuid *host, struct error *err);

/*
 * The rest of it into a machine that machine_create() has just put together; used by that, unless
 * RAM comes on demand: that must have begun.
 */
int machine_load(struct machine *m, const struct machine_image *image, const struct x86_cpuid *host,
		 struct error *err);

/*
 * Put @m, which is paused, back to @image->state, an earlier one of its own; memory is the
 * caller's. A device that is as it was then is left alone. After a failure it is neither
 * the one nor the other, and must not run.
 */
int machine_reload(struct machine *m, const struct machine_image *image, struct error *err);

#endif
