/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A processor gone mad: port accesses of every size, strings of them too, loads and stores to
 * everything that is no RAM, PCI configuration by both ways, MSRs, CPUID, at
 * random. The machine may make of it what it likes but end, and in the end it must be one
 * still. seed=N varies it, rounds=N (2000) lengthens it, 0 goes on for ever. What ends a machine
 * on purpose, and what would cut this program off, is left out unless end=1.
 */
#include "bare.h"

static u8 buffer[4096] __attribute__((aligned(4096)));
static u32 unknown_msrs;
static bool may_end;

static u64 pick(u64 n)
{
	return (random_next() >> 16) % n;
}

/* Numbers that find mistakes: at the edges, and anywhere. */
static u64 odd_number(void)
{
	static const u64 edges[] = { 0,		 1,	     0x7f,	 0x80,	 0xff,
				     0x100,	 0x7fff,     0x8000,	 0xffff, 0x10000,
				     0x7fffffff, 0x80000000, 0xffffffff, ~0ul };

	return random_next() & 1 ? edges[pick(ARRAY_SIZE(edges))]
				 : random_next() >> (random_next() >> 8) % 64;
}

/* ---- ports ---- */

/* Writes there are ways to end. */
static bool ends(u16 port, u32 size)
{
	static const u16 ways[] = { 0x64,  0xf4,  0x501, 0x505, 0x600, 0x601,
				    0x602, 0x604, 0x618, 0xcf9, 0xb2,  0x92 };

	for (u32 i = 0; i < ARRAY_SIZE(ways); i++)
		if (ways[i] >= port && ways[i] < port + size)
			return !may_end;
	return false;
}

/* One that somebody is behind, more often than not; the serial port says what we find. */
static u16 odd_port(void)
{
	static const u16 known[] = {
		0x20,  0x21,  0x40,  0x43,  0x60,  0x61,  0x64,	 0x70,	0x71,
		0x80,  0xa0,  0x402, 0x501, 0x505, 0x510, 0x511, 0x600, 0x604,
		0x606, 0x610, 0x614, 0x618, 0xcf8, 0xcfa, 0xcfc, 0xcff, 0xffff
	};
	u16 port = random_next() & 3 ? known[pick(ARRAY_SIZE(known))] : random_next();

	return port >= 0x3f8 - 3 && port < 0x400 ? 0x80 : port;
}

static void strings(u16 port, u32 size, bool in)
{
	u64 count = 1 + pick(sizeof(buffer) / 4 - 1), at = (u64)buffer;

	if (in && size == 1)
		asm volatile("rep insb" : "+D"(at), "+c"(count) : "d"(port) : "memory");
	else if (in && size == 2)
		asm volatile("rep insw" : "+D"(at), "+c"(count) : "d"(port) : "memory");
	else if (in)
		asm volatile("rep insl" : "+D"(at), "+c"(count) : "d"(port) : "memory");
	else if (size == 1)
		asm volatile("rep outsb" : "+S"(at), "+c"(count) : "d"(port) : "memory");
	else if (size == 2)
		asm volatile("rep outsw" : "+S"(at), "+c"(count) : "d"(port) : "memory");
	else
		asm volatile("rep outsl" : "+S"(at), "+c"(count) : "d"(port) : "memory");
}

static void odd_port_access(void)
{
	u16 port = odd_port();
	u32 size = 1 << pick(3);
	bool in = random_next() & 1;

	if (!in && ends(port, size))
		return;
	if (pick(16) == 0) {
		strings(port, size, in);
	} else if (in) {
		(void)(size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port));
	} else if (size == 1) {
		outb(port, odd_number());
	} else if (size == 2) {
		outw(port, odd_number());
	} else {
		outl(port, odd_number());
	}
}

/* ---- memory that is none ---- */

/*
 * From where RAM ends to 4 GiB: holes, ECAM, the interrupt controllers; and the first BARs above.
 * Not the local APIC's command register, which could send this processor to sleep.
 */
static u64 odd_address(void)
{
	static const u64 places[] = { 0xc0000000,  0xd0000000,	0xd0001000,  0xe8000000,
				      0xe8008000,  0xe8010000,	0xe80ff000,  0xfec00000,
				      0xfed00000,  0xfee00000,	0xfeffc000,  0xfffff000,
				      0x100000000, 0x100001000, 0x100002000, 0x100004000,
				      0x100100000, 0x13ffff000 };
	u64 page = places[pick(ARRAY_SIZE(places))];
	u64 at = page + pick(4096 - 8);

	return page == 0xfee00000 ? page + (at & 0x3c) : at;
}

static void odd_memory_access(void)
{
	u64 at = odd_address();

	switch (random_next() & 7) {
	case 0:
		(void)read8(at);
		break;
	case 1:
		(void)read16(at);
		break;
	case 2:
		(void)read32(at);
		break;
	case 3:
		(void)read64(at);
		break;
	case 4:
		write8(at, odd_number());
		break;
	case 5:
		write16(at, odd_number());
		break;
	case 6:
		write32(at, odd_number());
		break;
	case 7:
		write64(at, odd_number());
		break;
	}
}

/* ---- PCI ---- */

static void odd_configuration(void)
{
	u32 bdf = random_next() & 3 ? pick(8) << 3 : random_next() & 0xffff;
	u32 reg = random_next() & 3 ? pick(64) * 4 : random_next() & 0xfff;

	switch (random_next() & 3) {
	case 0:
		(void)pci_read(bdf & 0x7fff, reg & 0xffc);
		break;
	case 1:
		pci_write(bdf & 0x7fff, reg & 0xffc, odd_number());
		break;
	case 2:
		(void)pci_cf8_read(bdf, reg & 0xfc);
		break;
	case 3:
		pci_cf8_write(bdf, reg & 0xfc, odd_number());
		break;
	}
}

/* ---- the processor ---- */

static void odd_msr(void)
{
	/* Not EFER, segment bases or the APIC's base: without these this program is none. */
	static const u32 places[] = { 0x10,	  0x17,	      0x3a,	  0x8b,	      0xc1,
				      0xce,	  0xfe,	      0x10a,	  0x122,      0x174,
				      0x179,	  0x186,      0x198,	  0x1a0,      0x1d9,
				      0x200,	  0x20f,      0x250,	  0x277,      0x2ff,
				      0x345,	  0x400,      0x48b,	  0x4b564d00, 0x4b564d01,
				      0x4b564d02, 0x4b564d03, 0x4b564d06, 0x40000000, 0x40000073,
				      0xc0000081, 0xc0010015, 0xc0010114, 0xc0011029 };
	u32 msr = random_next() & 3 ? places[pick(ARRAY_SIZE(places))] : (u32)odd_number() | 0x1000;

	if (guard("rdmsr", : : "c"(msr) : "rax", "rdx", "memory"))
		unknown_msrs++;
}

static void odd_instruction(void)
{
	/* No hypercalls: a host that rewrites the wrong one of the two would do so for ever. */
	switch (pick(3)) {
	case 0:
		cpuid(odd_number(), odd_number());
		break;
	case 1:
		odd_msr();
		break;
	case 2:
		(void)rdtsc();
		break;
	}
}

void payload(void)
{
	u64 rounds = argument_number("rounds", 2000);
	struct cpuid before = cpuid(0, 0), after;

	may_end = argument_number("end", 0);
	map_high(0x100000000);
	for (u64 i = 0; !rounds || i < rounds; i++) {
		switch (pick(8)) {
		case 0:
		case 1:
		case 2:
			odd_port_access();
			break;
		case 3:
		case 4:
			odd_memory_access();
			break;
		case 5:
		case 6:
			odd_configuration();
			break;
		case 7:
			odd_instruction();
			break;
		}
	}
	after = cpuid(0, 0);
	check(before.ebx == after.ebx && before.eax == after.eax, "the processor is what it was");
	check(true, "%lu rounds of madness (%u unknown MSRs)", rounds, unknown_msrs);
}
