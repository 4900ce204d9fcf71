/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From long mode down through 32-bit protected mode without paging and 16-bit protected mode to
 * real mode, with some work in each, and back up.
 */
#include "bare.h"

/* Where the 16-bit part runs: the base of the GDT's 16-bit segments. */
#define LOW 0x10000ul

struct results {
	u32 efer32, cr0_32, stack32, pushed32, lsr32, wrap32;
	u32 marker16;
};

struct results results;
void modes_run(void);
extern u8 low16[], low16_end[];

asm(
"	.set	CODE64, 0x08\n"
"	.set	DATA, 0x10\n"
"	.set	CODE32, 0x18\n"
"	.set	CODE16, 0x20\n"
"	.set	DATA16, 0x28\n"
"	.code64\n"
"modes_run:\n"
"	push	%rbx\n"
"	push	%rbp\n"
"	push	%r12\n"
"	push	%r13\n"
"	push	%r14\n"
"	push	%r15\n"
"	mov	%rsp, saved_rsp\n"
"	pushq	$CODE32\n"
"	pushq	$1f\n"
"	lretq\n"

"	.code32\n"
"1:	mov	$DATA, %eax\n"
"	mov	%eax, %ds\n"
"	mov	%eax, %es\n"
"	mov	%eax, %ss\n"
	/* Out of long mode: paging off, then the enable bit. */
"	mov	%cr0, %eax\n"
"	and	$0x7fffffff, %eax\n"
"	mov	%eax, %cr0\n"
"	mov	$0xc0000080, %ecx\n"
"	rdmsr\n"
"	and	$~0x100, %eax\n"
"	wrmsr\n"
"	rdmsr\n"
"	mov	%eax, results\n"
"	mov	%cr0, %eax\n"
"	mov	%eax, results + 4\n"
	/* Short forms that 64-bit code does not have, and a stack of four-byte steps. */
"	mov	%esp, %edx\n"
"	pushal\n"
"	sub	%esp, %edx\n"
"	mov	%edx, results + 8\n"
"	mov	$0x12345678, %ebx\n"
"	pushl	%ebx\n"
"	popl	results + 12\n"
"	popal\n"
"	mov	$0x3fd, %edx\n"
"	in	%dx, %al\n"
"	movzbl	%al, %eax\n"
"	mov	%eax, results + 16\n"
"	mov	$0xffffffff, %eax\n"
"	.byte	0x40\n" /* inc %eax */
"	mov	%eax, results + 20\n"
"	ljmp	$CODE16, $0\n"

"	.code16\n"
"low16:\n"
"	mov	$DATA16, %ax\n"
"	mov	%ax, %ds\n"
"	mov	%ax, %es\n"
"	mov	%ax, %ss\n"
"	mov	%cr0, %eax\n"
"	and	$~1, %al\n"
"	mov	%eax, %cr0\n"
"	ljmp	$0x1000, $2f - low16\n"
"2:	mov	%cs, %ax\n"
"	mov	%ax, %ds\n"
"	mov	%ax, %ss\n"
"	mov	$0xf000, %sp\n"
	/* The same byte by two segments. */
"	mov	$0x1080, %ax\n"
"	mov	%ax, %es\n"
"	movw	$0x1234, 0x900\n"
"	mov	%es:0x100, %ax\n"
"	mov	%ax, 0x810\n"
	/* Words on a stack of two-byte steps. */
"	mov	%sp, %bx\n"
"	push	%ax\n"
"	sub	%sp, %bx\n"
"	mov	%bx, 0x812\n"
"	pop	%cx\n"
"	mov	%cx, 0x814\n"
	/* Strings and a port. */
"	push	%ds\n"
"	pop	%es\n"
"	mov	$0x900, %si\n"
"	mov	$0x910, %di\n"
"	mov	$2, %cx\n"
"	cld\n"
"	rep movsb\n"
"	mov	0x910, %ax\n"
"	mov	%ax, 0x816\n"
"	mov	$0x3fd, %dx\n"
"	in	%dx, %al\n"
"	xor	%ah, %ah\n"
"	mov	%ax, 0x818\n"
	/* Offsets wrap at 64 KiB. */
"	mov	$0xffff, %ax\n"
"	add	$2, %ax\n"
"	mov	%ax, 0x81a\n"
	/* A near and a far call. */
"	call	3f\n"
"	mov	%ax, 0x81c\n"
"	lcall	$0x1000, $4f - low16\n"
"	mov	%ax, 0x81e\n"
"	movw	$0xbeef, 0x820\n"
	/* And up again. */
"	lgdtl	5f - low16\n"
"	mov	%cr0, %eax\n"
"	or	$1, %al\n"
"	mov	%eax, %cr0\n"
"	ljmpl	$CODE32, $back32\n"
"3:	mov	$0x5511, %ax\n"
"	ret\n"
"4:	mov	$0x5522, %ax\n"
"	lret\n"
"	.balign	8\n"
"5:	.word	6 * 8 - 1\n"
"	.long	gdt\n"
"low16_end:\n"

"	.code32\n"
"back32:	mov	$DATA, %eax\n"
"	mov	%eax, %ds\n"
"	mov	%eax, %es\n"
"	mov	%eax, %ss\n"
"	mov	saved_rsp, %esp\n"
"	mov	$pml4, %eax\n"
"	mov	%eax, %cr3\n"
"	mov	$0xc0000080, %ecx\n"
"	rdmsr\n"
"	or	$0x100, %eax\n"
"	wrmsr\n"
"	mov	%cr0, %eax\n"
"	or	$0x80000000, %eax\n"
"	mov	%eax, %cr0\n"
"	ljmp	$CODE64, $back64\n"
"	.code64\n"
"back64:	mov	saved_rsp, %rsp\n"
"	lgdt	gdt_pointer\n"
"	pop	%r15\n"
"	pop	%r14\n"
"	pop	%r13\n"
"	pop	%r12\n"
"	pop	%rbp\n"
"	pop	%rbx\n"
"	ret\n"
"	.data\n"
"saved_rsp: .quad 0\n"
"	.text\n");

void payload(void)
{
	memcpy((void *)LOW, low16, low16_end - low16);
	memset((void *)(LOW + 0x800), 0, 0x200);
	modes_run();
	check(!(results.efer32 & 0x500), "32-bit: long mode is off (EFER %x)", results.efer32);
	check((results.cr0_32 & 0x80000001) == 1, "32-bit: protected, no paging (CR0 %x)",
	      results.cr0_32);
	check(results.stack32 == 32, "32-bit: eight registers are 32 bytes (%u)", results.stack32);
	check(results.pushed32 == 0x12345678, "32-bit: a value goes over the stack");
	check(results.lsr32 & 0x20, "32-bit: a port can be read (%x)", results.lsr32);
	check(results.wrap32 == 0, "32-bit: registers wrap");
	check(read16(LOW + 0x810) == 0x1234, "16-bit: a segment is sixteen times its number (%x)",
	      read16(LOW + 0x810));
	check(read16(LOW + 0x812) == 2, "16-bit: a push takes two bytes");
	check(read16(LOW + 0x814) == 0x1234, "16-bit: and gives them back");
	check(read16(LOW + 0x816) == 0x1234, "16-bit: string instructions move");
	check(read16(LOW + 0x818) & 0x20, "16-bit: a port can be read");
	check(read16(LOW + 0x81a) == 1, "16-bit: registers wrap");
	check(read16(LOW + 0x81c) == 0x5511, "16-bit: near calls return");
	check(read16(LOW + 0x81e) == 0x5522, "16-bit: far calls return");
	check(read16(LOW + 0x820) == 0xbeef, "16-bit: came to its end");
	check(rdmsr(0xc0000080) & 0x400, "64-bit: back again");
}
