/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shortest guest there is, for monitors that start in real mode: a firmware image for QEMU,
 * whose last 16 bytes hold the reset vector, and a flat kernel for kvmtool, which
 * enters its first byte. It ends the machine with its first instructions.
 */
	.code16
	.globl	_start
_start:
	movw	$0x501, %dx	/* QEMU's isa-debug-exit */
	outb	%al, %dx
	movb	$0xfe, %al	/* the keyboard controller's reset, which kvmtool takes for the end */
	outb	%al, $0x64
1:	hlt
	jmp	1b

	.org	0xfff0, 0xf4
	jmp	_start
	.org	0x10000, 0xf4
