/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code in ring 3, for debuggers: hosts that interpret ring 0 run this natively, so that
 * breakpoints, watchpoints and traps are those of a processor.
 *
 * Calls work() a hundred times, which adds to "counter". An int3 and a single step of its own, on
 * the way, are its own business, whoever debugs it: they come to its handler, once each.
 */
#include "bare.h"

#define ROUNDS 100

/* What the segments' selectors are in our table. */
#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_DATA   0x1b
#define USER_CODE   0x23
#define TSS	    0x28

#define VECTOR_DB 1
#define VECTOR_BP 3
#define VECTOR_GP 13
#define TRAP_FLAG 0x100ul
#define DR6_STEP  0x4000ul

extern u64 pml4[512], pdpt[512];
extern u8 own_int3[], own_step[], user_end[];

static struct {
	u32 reserved;
	u64 rsp[3];
	u64 rest[9];
	u16 reserved2, io_map;
} __attribute__((packed)) tss;
static u8 kernel_stack[4096] __attribute__((aligned(16)));
static u8 stack_of_back[4096] __attribute__((aligned(16)));
static u8 user_stack[4096] __attribute__((aligned(16)));

/* volatile: a debugger watches it. */
volatile u64 counter;
static volatile u64 num_int3, int3_rip, num_steps, step_dr6, step_rip;

static void back(void);

static bool trapped(struct frame *f)
{
	switch (f->vector) {
	case VECTOR_BP:
		num_int3++;
		int3_rip = f->rip;
		return true;
	case VECTOR_DB:
		num_steps++;
		step_rip = f->rip;
		asm volatile("mov %%dr6, %0" : "=r"(step_dr6));
		f->rflags &= ~TRAP_FLAG;
		return true;
	case VECTOR_GP:
		/* Ring 3 may not hlt: it has come to its end. */
		if (f->rip != (u64)user_end)
			return false;
		f->rip = (u64)back;
		f->cs = KERNEL_CODE;
		f->ss = KERNEL_DATA;
		f->rsp = (u64)stack_of_back + sizeof(stack_of_back) - 8;
		return true;
	}
	return false;
}

/* Segments of ring 3, and the stack that exceptions there come in on. */
static void descriptors(void)
{
	static u64 table[7];
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) pointer = { sizeof(table) - 1, (u64)table };
	u64 at = (u64)&tss;

	tss.rsp[0] = (u64)kernel_stack + sizeof(kernel_stack);
	tss.io_map = sizeof(tss);
	table[1] = 0x00af9b000000ffff;
	table[2] = 0x00cf93000000ffff;
	table[3] = 0x00cff3000000ffff;
	table[4] = 0x00affb000000ffff;
	table[5] = (sizeof(tss) - 1) | (at & 0xffffff) << 16 | 0x89ul << 40 |
		   (at >> 24 & 0xff) << 56;
	table[6] = at >> 32;
	asm volatile("lgdt %0" : : "m"(pointer));
	asm volatile("ltr %w0" : : "r"(TSS));
}

/* All that is mapped belongs to ring 3 too: the first 4 GiB. */
static void open_memory(void)
{
	u64 cr3;

	pml4[0] |= 4;
	for (u32 i = 0; i < 4; i++) {
		u64 *pd = (u64 *)(pdpt[i] & ~0xffful);

		pdpt[i] |= 4;
		/* The rest is not touched there, and each store is interpreted. */
		for (u32 j = 0; i == 0 && j < 16; j++)
			pd[j] |= 4;
	}
	asm volatile("mov %%cr3, %0; mov %0, %%cr3" : "=r"(cr3) : : "memory");
}

__attribute__((noinline)) void work(u64 n)
{
	counter = counter + n;
}

static void user(void)
{
	for (u64 i = 1; i <= ROUNDS; i++)
		work(i);
	asm volatile(".globl own_int3\n int3\nown_int3:");
	asm volatile("pushfq\n orq %0, (%%rsp)\n popfq\n nop\n.globl own_step\nown_step: nop"
		     :
		     : "i"(TRAP_FLAG)
		     : "memory", "cc");
	asm volatile(".globl user_end\nuser_end: hlt");
}

/* In ring 0 again: ports are for it alone. */
static void back(void)
{
	check(counter == ROUNDS * (ROUNDS + 1) / 2, "each round counts (%lu)", counter);
	check(num_int3 == 1 && int3_rip == (u64)own_int3, "its own int3 is its own (%lu, rip %lx)",
	      num_int3, int3_rip);
	check(num_steps == 1 && step_rip == (u64)own_step,
	      "its own single step is its own (%lu, rip %lx)", num_steps, step_rip);
	check(step_dr6 & DR6_STEP, "and DR6 says so (%lx)", step_dr6);
	finish();
}

void payload(void)
{
	exception_handler = trapped;
	descriptors();
	open_memory();
	asm volatile("pushq %0\n pushq %1\n pushq $0x2\n pushq %2\n pushq %3\n iretq"
		     :
		     : "i"(USER_DATA), "r"((u64)user_stack + sizeof(user_stack) - 8),
		       "i"(USER_CODE), "r"((u64)user)
		     : "memory");
}
