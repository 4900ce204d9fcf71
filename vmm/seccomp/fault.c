/*
 * The thread that brings guest pages when they are touched: from a file that is open, or by asking
 * for them on a socket. Part of what the main thread may, under whose filter it begins.
 */
#include "vmm/seccomp/rules.h"

#include <linux/userfaultfd.h>
#include <stddef.h>
#include <sys/ioctl.h>

const struct seccomp_rule seccomp_fault[] = {
	ALLOW(poll, "does somebody sleep for a page?"),
	IOCTL(UFFDIO_COPY, "a page has come"),
	IOCTL(UFFDIO_ZEROPAGE, "a page that is zero"),
	IOCTL(UFFDIO_WAKE, "who sleeps for a page looks again"),
	ALLOW(pread64, "a memory file"),
	ALLOW(pwritev2, "the peer that has the page is asked for it, over a stream"),
	{ 0 },
};
