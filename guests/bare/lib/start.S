/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ways in: PVH (32-bit, ebx = hvm_start_info), the 64-bit entry of a Linux
 * ELF file (rsi = boot_params), and an application processor out of its start-up
 * interrupt. All end in long mode on page tables of our own, which map 4 GiB one to one.
 */
#define CODE64 0x08
#define DATA   0x10
#define CODE32 0x18
#define CODE16 0x20
#define DATA16 0x28

#define STACK_SIZE 4096

	/* Where a PVH loader enters: XEN_ELFNOTE_PHYS32_ENTRY. */
	.section .note.Xen, "a", @note
	.long	4, 8, 18
	.asciz	"Xen"
	.quad	start_pvh

	.text
	.code32
	.globl	start_pvh
start_pvh:
	cli
	cld
	movl	%ebx, boot_info
	movl	$1, boot_is_pvh
	movl	$stacks + STACK_SIZE, %esp
	lgdt	gdt_pointer
	movl	%cr4, %eax
	orl	$0x20, %eax			/* PAE */
	movl	%eax, %cr4
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx		/* EFER */
	rdmsr
	orl	$0x100, %eax			/* LME */
	wrmsr
	movl	%cr0, %eax
	orl	$0x80000001, %eax		/* PG, PE */
	movl	%eax, %cr0
	ljmp	$CODE64, $enter

	.code64
	.globl	start64
start64:
	cli
	cld
	mov	%rsi, boot_info
	movl	$0, boot_is_pvh
	mov	$stacks + STACK_SIZE, %esp
	lgdt	gdt_pointer
	mov	$pml4, %eax
	mov	%rax, %cr3
	/* A far return: the only far jump to a constant that 64-bit code has. */
	pushq	$CODE64
	pushq	$enter
	lretq

enter:
	mov	$DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	xor	%eax, %eax
	mov	%eax, %fs
	mov	%eax, %gs
	call	bare_main
1:	hlt
	jmp	1b

/*
 * An application processor. Copied to a page below 1 MiB, so nothing here may be
 * addressed where it is linked until long mode is reached.
 */
	.globl	ap_trampoline, ap_trampoline_end
	.code16
ap_trampoline:
	cli
	movw	%cs, %ax
	movw	%ax, %ds
	lgdtl	ap_gdt_pointer - ap_trampoline
	movl	%cr4, %eax
	orl	$0x20, %eax
	movl	%eax, %cr4
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	%cr0, %eax
	andl	$~0x60000000, %eax		/* caches on: CD, NW */
	orl	$0x80000001, %eax
	movl	%eax, %cr0
	ljmpl	$CODE64, $ap_enter
	.balign	8
ap_gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt
ap_trampoline_end:

	.code64
ap_enter:
	mov	$DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	/* A number of its own, and with it a stack; 0 is the boot processor's. */
	mov	$1, %eax
	lock xaddl %eax, ap_next
	mov	%eax, %edi
	inc	%eax
	imul	$STACK_SIZE, %eax, %eax
	lea	stacks(%rax), %rsp
	call	ap_main
1:	cli
	hlt
	jmp	1b

/*
 * Interrupts and exceptions: vectors 0 to 255, each eight bytes or more apart. A
 * struct frame is left on the stack for the handler, which may change it.
 */
	.balign	16
	.globl	vectors
vectors:
	.set	v, 0
	.rept	256
	.balign	16
	.if	!(v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21)
	pushq	$0
	.endif
	pushq	$v
	jmp	common
	.set	v, v + 1
	.endr

common:
	push	%rax
	push	%rcx
	push	%rdx
	push	%rbx
	push	%rbp
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, %rdi
	mov	%rsp, %rbx
	and	$-16, %rsp
	call	interrupt
	mov	%rbx, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rbp
	pop	%rbx
	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$16, %rsp
	iretq

	.data
	.balign	4096
	.globl	pml4
pml4:	.quad	pdpt + 3
	.fill	511, 8, 0
	.globl	pdpt
pdpt:	.quad	pds + 0x0003, pds + 0x1003, pds + 0x2003, pds + 0x3003
	.fill	508, 8, 0
pds:	.set	i, 0
	.rept	2048
	.quad	(i << 21) + 0x83
	.set	i, i + 1
	.endr

	.balign	16
	.globl	gdt, gdt_pointer
gdt:	.quad	0
	.quad	0x00af9b000000ffff		/* 08: 64-bit code */
	.quad	0x00cf93000000ffff		/* 10: data, 4 GiB */
	.quad	0x00cf9b000000ffff		/* 18: 32-bit code, 4 GiB */
	.quad	0x00009b010000ffff		/* 20: 16-bit code at 0x10000 */
	.quad	0x000093010000ffff		/* 28: 16-bit data at 0x10000 */
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt

	.balign	8
	.globl	boot_info, boot_is_pvh, ap_next
boot_info:
	.quad	0
boot_is_pvh:
	.long	0
ap_next:
	.long	1

	.bss
	.balign	4096
	.globl	stacks
stacks:	.skip	STACK_SIZE * 256
