/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wisp-foreground PROGRAM [ARG...]: run PROGRAM (a path) with SIGINT and SIGQUIT as they were
 * before a shell started it in the background.
 *
 * The guest's process 1 is a shell that must go on to take signals (busybox's poweroff sends
 * it one) while another has the console. It can only do so by starting that one with "&",
 * and then Ctrl-C would be ignored there for good.
 */
#include "syscall.h"

static __attribute__((used, noreturn)) void start(long *stack)
{
	static const long default_action[4];
	long argc = stack[0];
	long *argv = stack + 1, *envp = argv + argc + 1;

	syscall4(13 /* rt_sigaction */, 2 /* SIGINT */, (long)default_action, 0, 8);
	syscall4(13 /* rt_sigaction */, 3 /* SIGQUIT */, (long)default_action, 0, 8);
	if (argc > 1)
		syscall4(59 /* execve */, argv[1], (long)(argv + 1), (long)envp, 0);
	for (;;)
		syscall4(231 /* exit_group */, 127, 0, 0, 0);
}

asm(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
