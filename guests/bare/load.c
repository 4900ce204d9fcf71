/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes all of RAM, page after page, again and again, and says so after each pass ("pass N"). A
 * page holds its address and the pass before until it is written, else memory was lost.
 * passes=N: an end after so many. Without it, a load for whatever is to happen meanwhile.
 */
#include "bare.h"

extern u8 image_end[];

/* Below are this program, its stacks and what the loader left. */
static u64 first_free(const struct memory_range *r)
{
	u64 low = ((u64)image_end + 0x400000) & ~0xffful;

	return r->addr < low ? low : r->addr;
}

static void map_range(const struct memory_range *r)
{
	for (u64 a = r->addr; a < r->addr + r->size; a += 1ul << 30)
		map_high(a);
}

/* The first that is not what it was, or 0. */
static u64 write_range(const struct memory_range *r, u64 pass)
{
	u64 end = r->addr + r->size;

	for (u64 a = first_free(r); a + 4096 <= end; a += 4096) {
		volatile u64 *p = (volatile u64 *)a;

		if (*p != (pass ? a + pass - 1 : 0))
			return a;
		*p = a + pass;
	}
	return 0;
}

void payload(void)
{
	u64 passes = argument_number("passes", ~0ul), bad = 0;

	for (u32 i = 0; i < num_ranges; i++)
		if (memory_map[i].type == 1)
			map_range(&memory_map[i]);
	for (u64 pass = 0; pass < passes && !bad; pass++) {
		for (u32 i = 0; i < num_ranges && !bad; i++)
			if (memory_map[i].type == 1)
				bad = write_range(&memory_map[i], pass);
		note("pass %lu", pass);
	}
	if (bad)
		note("%lx holds %lx", bad, read64(bad));
	check(!bad, "every page holds what was written last");
}
