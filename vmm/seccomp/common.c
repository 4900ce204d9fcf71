/* What every thread of the monitor may do: compute, lock, log, end. */
#include "vmm/seccomp/rules.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

const struct seccomp_rule seccomp_common[] = {
	ALLOW(futex, "locks, waiting for other threads"),
	ALLOW(write, "lines of the log, eventfds"),
	ALLOW(read, "eventfds"),
	ALLOW(close, "eventfds of a device that is reset"),
	ALLOW(clock_gettime, "the time, where the vDSO cannot tell it"),

	ALLOW(brk, "malloc"),
	ALLOW_WITHOUT(mmap, 2, PROT_EXEC, "malloc, stacks, guest memory"),
	ALLOW_WITHOUT(mprotect, 2, PROT_EXEC, "malloc, guard pages"),
	ALLOW(munmap, "free"),
	ALLOW(mremap, "realloc"),
	ALLOW(madvise, "memory given back, huge pages, stacks of threads that end"),

	ALLOW(rt_sigprocmask, "threads that begin and end, the terminal"),
	ALLOW(rt_sigreturn, "the handler of the signal that interrupts a vCPU"),
	ALLOW(restart_syscall, "the kernel's own, after a stop"),
	REFUSE(sched_yield, EPERM, "locks of libraries that spin: they go on"),
	ALLOW(exit, "the end of a thread"),
	ALLOW(exit_group, "the end"),
	{ 0 },
};
