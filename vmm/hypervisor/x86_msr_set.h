/*
 * A set of model-specific registers, by number: which of hundreds were seen already is asked of
 * each of them whenever a processor is saved or loaded, and a guest is taken back in less time
 * than it took to search a list for each.
 *
 * Plain data, empty when it is zero; whoever has it in hand may use it, on any thread.
 */
#ifndef WISP_VMM_X86_MSR_SET_H
#define WISP_VMM_X86_MSR_SET_H

#include <stdbool.h>
#include <stdint.h>

/* A power of two, and twice what it may hold: X86_MAX_SAVED_MSRS. */
#define X86_MSR_SET_SLOTS 1024

struct x86_msr_set {
	uint32_t slot[X86_MSR_SET_SLOTS]; /* 0: nobody's */
	bool zero;			  /* register 0 is in it */
};

/* Where @index is, or would be. */
static inline unsigned x86_msr_set_find(const struct x86_msr_set *set, uint32_t index)
{
	/* Neighbours are the rule: by the golden ratio they are far apart. */
	unsigned at = index * 0x9e3779b1u >> 22;

	while (set->slot[at] && set->slot[at] != index)
		at = (at + 1) % X86_MSR_SET_SLOTS;
	return at;
}

/* Is register @index in @set? */
static inline bool x86_msr_set_has(const struct x86_msr_set *set, uint32_t index)
{
	return index ? set->slot[x86_msr_set_find(set, index)] == index : set->zero;
}

/*
 * Register @index is in @set from here on. False when it was before. The caller adds no more than
 * X86_MAX_SAVED_MSRS.
 */
static inline bool x86_msr_set_add(struct x86_msr_set *set, uint32_t index)
{
	if (x86_msr_set_has(set, index))
		return false;
	if (index)
		set->slot[x86_msr_set_find(set, index)] = index;
	else
		set->zero = true;
	return true;
}

#endif
