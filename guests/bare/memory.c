/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RAM is where the memory map says, all of it, and no address is there twice.
 * expect_mem=BYTES: so much of it, but for the hole below 1 MiB.
 */
#include "bare.h"

#define LEGACY_HOLE (0x100000 - 0x9fc00)

extern u8 image_end[];

static u64 probes[256];
static u32 num_probes;

static void add_probe(u64 addr)
{
	/* Below are this program, its stacks and what the loader left. */
	if (addr < ((u64)image_end + 0x400000) || num_probes == ARRAY_SIZE(probes))
		return;
	map_high(addr);
	probes[num_probes++] = addr & ~7ul;
}

static u64 pattern(u64 addr)
{
	return addr * 0x9e3779b97f4a7c15 ^ 0x5555aaaa5555aaaa;
}

/* What the map says, and where to look whether it is so. */
static void test_map(void)
{
	u64 expect = argument_number("expect_mem", 0), total = 0, top = 0, last;
	bool sorted = true, hole_free = true;

	for (u32 i = 0; i < num_ranges; i++) {
		struct memory_range *r = &memory_map[i];

		note("%016lx-%016lx type %u", r->addr, r->addr + r->size, r->type);
		for (u32 j = i + 1; j < num_ranges; j++)
			if (r->addr < memory_map[j].addr + memory_map[j].size &&
			    memory_map[j].addr < r->addr + r->size)
				sorted = false;
		if (r->type != 1)
			continue;
		total += r->size;
		if (r->addr < 0x100000000 && r->addr + r->size > 0xfec00000)
			hole_free = false;
		if (r->addr + r->size > top)
			top = r->addr + r->size;
		last = r->addr + r->size - 8;
		add_probe(r->addr);
		add_probe(r->addr + r->size / 2);
		add_probe(last);
		for (u32 k = 0; k < 16; k++)
			add_probe(r->addr + random_next() % r->size);
		/* One address in each GiB: a map that wraps or repeats shows. */
		for (u64 a = r->addr; a < r->addr + r->size; a += 1ul << 30)
			add_probe(a + 0x12345678 % r->size);
	}
	check(sorted, "no two ranges overlap");
	check(hole_free, "no memory where the interrupt controllers are");
	if (expect) {
		check(total == expect - LEGACY_HOLE || total == expect - LEGACY_HOLE - 0x1000,
		      "memory adds up to %lu of %lu KiB", total >> 10, expect >> 10);
		if (expect > 0xc0000000)
			check(top > 0x100000000, "memory goes on above 4 GiB (to %lx)", top);
	}
}

static void test_places(void)
{
	bool good = true, clean = true;

	for (u32 i = 0; i < num_probes; i++)
		if (read64(probes[i]))
			clean = false;
	check(clean, "memory starts as zeros (%u places)", num_probes);
	for (u32 i = 0; i < num_probes; i++)
		write64(probes[i], pattern(probes[i]));
	for (u32 i = 0; i < num_probes; i++)
		if (read64(probes[i]) != pattern(probes[i])) {
			note("%lx reads %lx", probes[i], read64(probes[i]));
			good = false;
		}
	check(good, "each place keeps its own value");
}

static void test_page_crossing(void)
{
	u8 *p = alloc(3 * 4096, 4096);

	write64((u64)p + 4093, 0x1122334455667788);
	check(p[4093] == 0x88 && p[4096] == 0x55 && p[4100] == 0x11,
	      "a write across pages lands in both");
	check(read64((u64)p + 4093) == 0x1122334455667788, "a read across pages comes from both");
	memset(p, 0x5a, 3 * 4096);
	memcpy(p, p + 4000, 5000);
	check(p[0] == 0x5a && p[4999] == 0x5a, "string instructions move pages");
}

/* Nobody is there: what it reads is the VMM's affair, that it goes on is what counts. */
static void test_empty_addresses(void)
{
	note("an empty address reads %x, %lx", read32(0xfeb12340), read64(0xfeb12340));
	write32(0xfeb12340, 1);
	write64(0xfeb12ffc, 1);
	check(true, "accesses to nothing are survived");
}

void payload(void)
{
	test_map();
	test_places();
	test_page_crossing();
	test_empty_addresses();
}
