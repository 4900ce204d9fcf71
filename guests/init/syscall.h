/* SPDX-License-Identifier: Apache-2.0 */
/* A system call, for programs that are too small for a C library. */
#ifndef WISP_INIT_SYSCALL_H
#define WISP_INIT_SYSCALL_H

static inline long syscall4(long n, long a, long b, long c, long d)
{
	register long r10 asm("r10") = d;
	long r;

	asm volatile("syscall"
		     : "=a"(r)
		     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10)
		     : "rcx", "r11", "memory");
	return r;
}

#endif
