/* SPDX-License-Identifier: Apache-2.0 */
/* The shortest guest there is, as an ELF kernel with a PVH entry: writes 0 to the exit port. */
	.section .note.pvh, "a", @note
	.align	4
	.long	4, 8, 18	/* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz	"Xen"
	.quad	_start

	.text
	.code32
	.globl	_start
_start:
	xorl	%eax, %eax
	movw	$0x501, %dx
	outb	%al, %dx
1:	hlt
	jmp	1b
