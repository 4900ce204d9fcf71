/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wisp-exit STATUS: write STATUS to the exit port, which ends the microVM with it. Where
 * there is no such port (another monitor), nothing happens and the status is 1.
 *
 * Needed because Debian's cloud kernels have no /dev/port. Without the C library, since it
 * is all the initramfs holds beside busybox: 1 KiB in place of 700.
 */
#define EXIT_PORT 0x501

static long syscall3(long n, long a, long b, long c)
{
	long r;

	asm volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}

static __attribute__((used, noreturn)) void start(long *stack)
{
	const char *s = stack[0] > 1 ? (const char *)stack[2] : "0";
	unsigned char status = 0;

	for (; *s >= '0' && *s <= '9'; s++)
		status = status * 10 + (*s - '0');
	syscall3(162 /* sync */, 0, 0, 0);
	if (syscall3(173 /* ioperm */, EXIT_PORT, 1, 1) == 0)
		asm volatile("outb %0, %1" : : "a"(status), "Nd"((unsigned short)EXIT_PORT));
	for (;;)
		syscall3(231 /* exit_group */, 1, 0, 0);
}

asm(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
