/*
 * Workers of the epoll loop: file I/O that cannot be waited for, on descriptors that are open.
 * Descriptors only: these are the calls that a disk needs, and that is all a worker does.
 */
#include "vmm/seccomp/rules.h"

#include <stddef.h>

const struct seccomp_rule seccomp_worker[] = {
	ALLOW(readv, "streams that cannot be polled"),
	ALLOW(writev, "streams that cannot be polled"),
	ALLOW(pread64, "a disk is read"),
	ALLOW(preadv, "a disk is read"),
	ALLOW(pwrite64, "a disk is written"),
	ALLOW(pwritev, "a disk is written"),
	ALLOW(fsync, "a disk is flushed"),
	ALLOW(fdatasync, "a disk is flushed"),
	ALLOW(fallocate, "discard, write zeroes"),
	ALLOW(set_robust_list, "the C library starts a thread"),
	ALLOW(rseq, "the C library starts a thread"),
	{ 0 },
};
