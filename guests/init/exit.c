/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wisp-exit STATUS: write STATUS to the exit port, which ends the microVM with it. Where
 * there is no such port (another monitor), nothing happens and the status is 1.
 *
 * Debian's cloud kernels have no /dev/port, so an OUT instruction does it here. QEMU's TCG
 * refuses that one inside a nested guest, in spite of ioperm (it does not take a busy TSS for one):
 * there only kernels with /dev/port reach the exit port, and init's last line tells the rest.
 *
 * Without the C library, since it is all the initramfs holds beside busybox: a few KiB in
 * place of 700.
 */
#include "syscall.h"

#define EXIT_PORT 0x501

static __attribute__((noreturn)) void leave(void)
{
	for (;;)
		syscall4(231 /* exit_group */, 1, 0, 0, 0);
}

static __attribute__((used, noreturn)) void start(long *stack)
{
	const char *p = stack[0] > 1 ? (const char *)stack[2] : "0";
	/* handler, flags, restorer, mask; the handler does not return, so nothing restores. */
	const long on_fault[4] = { (long)leave, 0x04000000, (long)leave, 0 };
	unsigned char status = 0;

	for (; *p >= '0' && *p <= '9'; p++)
		status = status * 10 + (*p - '0');
	/* What was said before is to come out before the end: tcdrain. */
	syscall4(16 /* ioctl */, 1, 0x5409 /* TCSBRK */, 1, 0);
	syscall4(162 /* sync */, 0, 0, 0, 0);
	syscall4(13 /* rt_sigaction */, 11 /* SIGSEGV */, (long)on_fault, 0, 8);
	syscall4(18 /* pwrite64 */, syscall4(2 /* open */, (long)"/dev/port", 1, 0, 0),
		 (long)&status, 1, EXIT_PORT);
	if (syscall4(173 /* ioperm */, EXIT_PORT, 1, 1, 0) == 0)
		asm volatile("outb %0, %1" : : "a"(status), "d"((unsigned short)EXIT_PORT));
	leave();
}

asm(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
