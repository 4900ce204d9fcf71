/*
 * Memory that is plugged while the guest runs: what of the range that is_later the guest and its
 * devices reach.
 *
 * A device reaches whole blocks, those that are plugged, and every access is looked at
 * (guest_mem_find()). For vCPUs the hypervisor has the range in slots of a size that is chosen when
 * the guest starts, each of which it has while something in it is plugged: elsewhere an access
 * leaves the guest, reads as all ones, and takes no memory of the host's. So it reaches no more
 * than what is plugged, rounded up to slots; where a slot is a block, no more than what is plugged.
 * A hypervisor drops all that it knows of a guest's memory when a slot goes, hence not always that.
 *
 * Where such a range has none of this (tests of devices) all of it is memory.
 *
 * Plugging is for one thread at a time, the loop's; logs of changes are read by another one
 * meanwhile, which a lock keeps apart.
 */
#ifndef WISP_CORE_GUEST_MEM_LATER_H
#define WISP_CORE_GUEST_MEM_LATER_H

#include "vmm/core/guest_mem.h"
#include "vmm/core/hv.h"

#define GUEST_MEM_LATER_SLOTS	   256 /* at most */
#define GUEST_MEM_LATER_FIRST_SLOT 32  /* of the hypervisor's, behind all others */

/*
 * Have the range of @mem that is_later in blocks of @block_bytes and slots of @slot_bytes, a
 * multiple of those, at most GUEST_MEM_LATER_SLOTS of them (the last may be shorter); nothing is
 * plugged. What @mem had of this before, over another hypervisor, is forgotten: a copy of a
 * machine. @hv outlives all use of this. Harmless without such a range. -ENOMEM.
 */
int guest_mem_later_create(struct guest_mem *mem, struct hv *hv, uint64_t block_bytes,
			   uint64_t slot_bytes);
void guest_mem_later_free(struct guest_mem_plugged *p);

/*
 * Blocks [gpa, gpa+len), none of which is plugged, are from now on. They hold what they did, zeros
 * if nobody was here. -errno: none is, the hypervisor has no slots left.
 */
int guest_mem_plug(struct guest_mem *mem, uint64_t gpa, uint64_t len);

/*
 * Give those blocks, all of which are plugged, back to the host; they read as zero when they are
 * plugged again. -errno: all are still plugged.
 */
int guest_mem_unplug(struct guest_mem *mem, uint64_t gpa, uint64_t len);

/*
 * Exactly the blocks with a bit in @plugged (a word for 64 of them) are plugged, and nothing is
 * given back: of a machine that is loaded, while its guest stands still. -errno.
 */
int guest_mem_plug_exactly(struct guest_mem *mem, const uint64_t *plugged);

/* ---- the hypervisor's log of changes, for vmm/core/dirty_log.h alone ---- */

/* Log what is written in @r's slots, also those to come; or no longer. -errno. Any thread. */
int guest_mem_later_log(struct guest_mem_range *r, bool on);

/* As the hypervisor's functions of these names, of all of @r; what has no slot is clean. */
int guest_mem_later_dirty_get(struct guest_mem_range *r, uint64_t *bitmap);
int guest_mem_later_dirty_clear(struct guest_mem_range *r, uint64_t first_page, uint64_t num_pages,
				const uint64_t *bitmap);

#endif
