/*
 * Threads that send or receive a guest that moves: what the other side says is theirs to read. Part
 * of what the maker may, by whom they are made, or under whose filter the main thread is until the
 * guest that it receives runs. They make threads themselves: of streams, and of pages that come
 * when they are touched.
 */
#include "vmm/seccomp/rules.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

const struct seccomp_rule seccomp_migrate[] = {
	/* the connection */
	ALLOW(poll, "is it ready?"),
	ALLOW(recvmsg, "records, and memory that is handed over"),
	ALLOW(sendmsg, "records, and memory that is handed over"),
	ALLOW_ARG(getsockopt, 1, SOL_SOCKET, "can it be handed over"),
	ALLOW_ARG(fcntl, 1, F_GETFL, "is it O_NONBLOCK?"),
	ALLOW_ARG(fcntl, 1, F_SETFL, "O_NONBLOCK"),
	ALLOW_ARG(fcntl, 1, F_DUPFD_CLOEXEC, "what wakes a thread that outlives this one"),
	ALLOW_ARG(fcntl, 1, F_GET_SEALS, "memory of another process cannot shrink"),
	ALLOW(eventfd2, "what wakes the thread that brings pages"),

	/* disks that go along, and the journal */
	ALLOW(preadv2, "a disk's file"),
	ALLOW(pwritev2, "a disk's file"),
	ALLOW(pread64, "a disk's file, guest memory in a file"),
	ALLOW(lseek, "holes of a disk's file"),
	ALLOW(fallocate, "holes in a disk's file"),
	ALLOW(fdatasync, "a disk's file and the journal are on the medium"),
	ALLOW(fsync, "a disk's file is on the medium"),
	ALLOW_ARG(fcntl, 1, F_OFD_SETLK, "locks on disks go with the guest, or come back"),
	ALLOW_ARG(fcntl, 1, F_OFD_GETLK, "does somebody else have them by now"),
	ALLOW(fstat, "what was handed over"),
	ALLOW(fstatfs, "memory that was handed over is of ordinary pages"),
	ALLOW_ARG(newfstatat, 3, AT_EMPTY_PATH, "fstat() of glibc 2.33 to 2.38"),

	/* guest memory */
	ALLOW(mincore, "which guest memory there is"),
	ALLOW(sysinfo, "is any of it out on swap"),
	IOCTL(KVM_SET_USER_MEMORY_REGION, "memory is logged, or no longer"),
	IOCTL(KVM_CHECK_EXTENSION, "how it is logged"),
	IOCTL(KVM_ENABLE_CAP, "how it is logged"),
	IOCTL(KVM_GET_DIRTY_LOG, "which memory changed"),
	IOCTL(KVM_CLEAR_DIRTY_LOG, "which memory changed"),
	IOCTL(UFFDIO_REGISTER, "which memory is still to come"),
	IOCTL(UFFDIO_UNREGISTER, "it is not, after all, or all of it came"),
	IOCTL(UFFDIO_COPY, "a page has come"),
	IOCTL(UFFDIO_ZEROPAGE, "a page that is zero"),
	IOCTL(UFFDIO_WAKE, "who sleeps for a page looks again"),

	/* threads of streams and of pages */
	ALLOW_ARG(clone, 0, FLAGS_OF_A_THREAD, "a thread"),
	REFUSE(clone3, ENOSYS, "its flags cannot be looked at; the C library then calls clone"),
	ALLOW(set_robust_list, "a thread begins"),
	ALLOW(rseq, "a thread begins"),
	ALLOW_ARG(prctl, 0, PR_SET_NAME, "a thread says what it is"),
	ALLOW_ARG(seccomp, 0, SECCOMP_SET_MODE_FILTER, "a thread's own, tighter filter"),
	{ 0 },
};
