/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registers: the guest's values stay in them across exits, model-specific ones keep or
 * refuse what they should, faults come as they should, CPUID tells the truth.
 */
#include "bare.h"

/* Fill all registers, leave to the VMM by @how, and see whether each came back. */
#define survives(how)                                                                           \
	({                                                                                      \
		u64 bad_;                                                                       \
		asm volatile(                                                                   \
			"push %%rbp\n"                                                          \
			"mov $0x1111111111111101, %%rbx\n mov $0x2222222222222202, %%rcx\n"     \
			"mov $0x3333333333333303, %%rsi\n mov $0x4444444444444404, %%rdi\n"     \
			"mov $0x5555555555555505, %%rbp\n mov $0x6666666666666606, %%r8\n"      \
			"mov $0x7777777777777707, %%r9\n mov $0x8888888888888808, %%r10\n"      \
			"mov $0x9999999999999909, %%r11\n mov $0xaaaaaaaaaaaaaa0a, %%r12\n"     \
			"mov $0xbbbbbbbbbbbbbb0b, %%r13\n mov $0xcccccccccccccc0c, %%r14\n"     \
			"mov $0xdddddddddddddd0d, %%r15\n" how "\n"                             \
			"xor %%eax, %%eax\n"                                                    \
			"mov $0x1111111111111101, %%rdx\n xor %%rdx, %%rbx\n or %%rbx, %%rax\n" \
			"mov $0x2222222222222202, %%rdx\n xor %%rdx, %%rcx\n or %%rcx, %%rax\n" \
			"mov $0x3333333333333303, %%rdx\n xor %%rdx, %%rsi\n or %%rsi, %%rax\n" \
			"mov $0x4444444444444404, %%rdx\n xor %%rdx, %%rdi\n or %%rdi, %%rax\n" \
			"mov $0x5555555555555505, %%rdx\n xor %%rdx, %%rbp\n or %%rbp, %%rax\n" \
			"mov $0x6666666666666606, %%rdx\n xor %%rdx, %%r8\n or %%r8, %%rax\n"   \
			"mov $0x7777777777777707, %%rdx\n xor %%rdx, %%r9\n or %%r9, %%rax\n"   \
			"mov $0x8888888888888808, %%rdx\n xor %%rdx, %%r10\n or %%r10, %%rax\n" \
			"mov $0x9999999999999909, %%rdx\n xor %%rdx, %%r11\n or %%r11, %%rax\n" \
			"mov $0xaaaaaaaaaaaaaa0a, %%rdx\n xor %%rdx, %%r12\n or %%r12, %%rax\n" \
			"mov $0xbbbbbbbbbbbbbb0b, %%rdx\n xor %%rdx, %%r13\n or %%r13, %%rax\n" \
			"mov $0xcccccccccccccc0c, %%rdx\n xor %%rdx, %%r14\n or %%r14, %%rax\n" \
			"mov $0xdddddddddddddd0d, %%rdx\n xor %%rdx, %%r15\n or %%r15, %%rax\n" \
			"pop %%rbp\n"                                                           \
			: "=a"(bad_)                                                            \
			:                                                                       \
			: "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",   \
			  "r13", "r14", "r15", "memory", "cc");                                 \
		!bad_;                                                                          \
	})

static bool msr_keeps(u32 msr, u64 v)
{
	u64 was = rdmsr(msr), is;

	wrmsr(msr, v);
	is = rdmsr(msr);
	wrmsr(msr, was);
	return is == v;
}

static u64 cr2(void)
{
	u64 v;

	asm volatile("mov %%cr2, %0" : "=r"(v));
	return v;
}

static void test_exits(void)
{
	check(survives("mov $0x80, %%edx\n out %%al, %%dx"), "registers survive a port write");
	check(survives("mov $0x3fd, %%edx\n in %%dx, %%al"), "registers survive a port read");
	check(survives("mov $0xfeb00000, %%eax\n mov %%edx, (%%rax)"),
	      "registers survive a write to nothing");
	check(survives("mov $0xfeb00000, %%eax\n mov (%%rax), %%rdx"),
	      "registers survive a read from nothing");
	check(survives("mov %%rbx, %%rdx\n mov %%rcx, %%rax\n push %%rax\n push %%rdx\n xor %%eax, "
		       "%%eax\n cpuid\n pop %%rbx\n pop %%rcx"),
	      "registers survive CPUID");
}

static void test_msrs(void)
{
	u32 fault, low, high;

	check((rdmsr(0xc0000080) & 0x500) == 0x500, "EFER: long mode enabled and active");
	check(msr_keeps(0xc0000100, 0x123456789000), "FS base keeps its value");
	check(msr_keeps(0xc0000101, 0xffff800012345678), "GS base keeps its value");
	check(msr_keeps(0xc0000102, 0x00007ffffffff000), "KERNEL_GS base keeps its value");
	check(msr_keeps(0xc0000081, 0x0023001000000000), "STAR keeps its value");
	check(msr_keeps(0xc0000082, 0xffffffff81000000), "LSTAR keeps its value");
	check(msr_keeps(0x174, 0x10), "SYSENTER_CS keeps its value");
	check(rdmsr(0x1b) & 1 << 8, "APIC base: this is the boot processor");
	check(rdmsr(0x277), "PAT has a value");

	fault = guard("rdmsr", : "=a"(low), "=d"(high) : "c"(0x12345678));
	check(fault == 14 || (!fault && !low && !high),
	      "an unknown MSR faults or reads zero (%d, %x)", (int)fault - 1, low);
	fault = guard("wrmsr", : : "a"(0), "d"(0), "c"(0xc0000100u | 0x00800000));
	note("writing an unknown MSR: exception %d", (int)fault - 1);
	fault = guard("wrmsr", : : "a"(0x00000000), "d"(0x00008000), "c"(0xc0000100));
	/* Not the VMM's doing: the processor sees to it, and QEMU's emulated one does not. */
	if (fault)
		check(fault == 14, "a base that is not canonical is refused (%d)", (int)fault - 1);
	else
		skip("a base that is not canonical is refused", "this processor takes it");
}

static void test_control(void)
{
	u64 v;

	asm volatile("mov %0, %%cr8" : : "r"(5ul));
	asm volatile("mov %%cr8, %0" : "=r"(v));
	asm volatile("mov %0, %%cr8" : : "r"(0ul));
	check(v == 5, "CR8 keeps the task priority");
	asm volatile("mov %0, %%cr2" : : "r"(0x123456789abcul));
	check(cr2() == 0x123456789abc, "CR2 keeps its value");
	asm volatile("mov %0, %%dr0\n mov %%dr0, %1" : "+r"(v), "=r"(v));
	asm volatile("mov %0, %%dr1" : : "r"(0xfedcba987654ul));
	asm volatile("mov %%dr1, %0" : "=r"(v));
	check(v == 0xfedcba987654, "DR1 keeps its value");
	asm volatile("mov %0, %%dr1" : : "r"(0ul));
	asm volatile("mov %%cr0, %0" : "=r"(v));
	check((v & 0x80000001) == 0x80000001, "CR0: protected, paging");
}

static void test_faults(void)
{
	u64 v;
	u32 fault;

	fault = guard("mov (%1), %0", : "=r"(v) : "r"(0x600000001000ul) : "memory");
	check(fault == 15 && cr2() == 0x600000001000 && guard_error == 0,
	      "a read of what is not mapped is a page fault (%d, error %x, at %lx)", (int)fault - 1,
	      guard_error, cr2());
	fault = guard("mov %0, (%1)", : : "r"(1ul), "r"(0x600000002000ul) : "memory");
	check(fault == 15 && guard_error == 2, "a write there too (error %x)", guard_error);
	fault = guard("div %2", : "=a"(v), "=d"(v) : "r"(0ul), "0"(1ul), "1"(0ul));
	check(fault == 1, "division by zero is one (%d)", (int)fault - 1);
	fault = guard("mov (%1), %0", : "=r"(v) : "r"(0x8000000000000000ul) : "memory");
	check(fault == 14, "an address that is not canonical is a protection fault (%d)",
	      (int)fault - 1);
}

static void test_cpuid(void)
{
	static u8 clock[32] __attribute__((aligned(32)));
	struct cpuid c = cpuid(0, 0), base = cpuid(0x40000000, 0), features;
	char name[13] = { 0 };
	u64 a, b;

	memcpy(name, &c.ebx, 4);
	memcpy(name + 4, &c.edx, 4);
	memcpy(name + 8, &c.ecx, 4);
	note("CPUID: '%s', leaves to %x and %x", name, c.eax, cpuid(0x80000000, 0).eax);
	check(c.eax >= 1, "CPUID: has leaf 1");
	c = cpuid(1, 0);
	check(c.ecx >> 31, "CPUID: there is a hypervisor");
	check((cpuid(0x80000001, 0).edx >> 29) & 1, "CPUID: long mode");
	apic_init();
	check(c.ebx >> 24 == apic_id(), "CPUID: the APIC ID is that of the APIC (%u)", apic_id());
	if (cpuid(0, 0).eax >= 0xb && cpuid(0xb, 0).ebx)
		check(cpuid(0xb, 0).edx == apic_id(), "CPUID: leaf 0xb has the same");

	a = rdtsc();
	b = rdtsc();
	check(b > a, "the time stamp counter counts");

	if (base.ebx != 0x4b4d564b || base.ecx != 0x564b4d56) {
		skip("kvm-clock", "this is not KVM");
		return;
	}
	features = cpuid(0x40000001, 0);
	note("KVM: features %x, TSC %u kHz by leaf 0x40000010", features.eax,
	     base.eax >= 0x40000010 ? cpuid(0x40000010, 0).eax : 0);
	if (features.eax & 1 << 3) {
		wrmsr(0x4b564d01, (u64)clock | 1);
		/* Filled in at the next entry. */
		(void)cpuid(0, 0);
		a = read64((u64)clock + 16);
		check(read32((u64)clock + 24), "kvm-clock: has a factor");
		check(!(read32((u64)clock) & 1), "kvm-clock: its version is even");
		wrmsr(0x4b564d01, 0);
	}
}

void payload(void)
{
	test_exits();
	test_msrs();
	test_control();
	test_faults();
	test_cpuid();
}
