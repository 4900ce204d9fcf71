/*
 * Workers of the epoll loop: file I/O that cannot be waited for, on descriptors that are open.
 * Descriptors only: these are the calls that a disk needs, and that is all a worker does.
 */
#include "vmm/seccomp/rules.h"

#include <stddef.h>

const struct seccomp_rule seccomp_worker[] = {
	ALLOW(preadv2, "a disk is read, or a stream that cannot be polled"),
	ALLOW(pwritev2, "a disk is written, or a stream that cannot be polled"),
	ALLOW(fsync, "a disk is flushed"),
	ALLOW(fdatasync, "a disk is flushed"),
	ALLOW(fallocate, "discard, write zeroes"),
	ALLOW(set_robust_list, "the C library starts a thread"),
	ALLOW(rseq, "the C library starts a thread"),
	{ 0 },
};
