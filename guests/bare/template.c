/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processor is what a CPU template made of it: the family, model and stepping eax=N; without
 * CMPXCHG16B; with the last entry of the PAT write-protected.
 */
#include "bare.h"

#define ECX_SSE3     (1u << 0)
#define ECX_CX16     (1u << 13)
#define ECX_GUEST    (1u << 31)
#define MSR_PAT	     0x277
#define PAT_LAST(v)  ((v) >> 56)
#define WRITE_PROTECTED 5

void payload(void)
{
	struct cpuid c = cpuid(1, 0);
	u64 pat = rdmsr(MSR_PAT);

	note("CPUID 1: %x %x %x %x, PAT %lx", c.eax, c.ebx, c.ecx, c.edx, pat);
	check(c.eax == argument_number("eax", 0), "a whole register is the template's");
	check(!(c.ecx & ECX_CX16), "a bit is gone");
	check(c.ecx & ECX_SSE3, "those that it does not name are the host's");
	check(c.ecx & ECX_GUEST, "and what tells of a microVM is there");
	check(PAT_LAST(pat) == WRITE_PROTECTED, "an MSR has the template's bits");
	check((pat & 0xff) == 6, "and the others that it had");
}
