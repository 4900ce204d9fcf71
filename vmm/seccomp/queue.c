/*
 * Threads of single queues: one event loop each, with the disk it serves. Part of what the main
 * thread may, since threads that are made later are first under its filter; their epoll workers
 * are under this one.
 */
#include "vmm/seccomp/rules.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>

const struct seccomp_rule seccomp_queue[] = {
	/* the loop over io_uring */
	ALLOW(io_uring_enter, "submit, and wait"),
	ALLOW_ARG(io_uring_register, 1, IORING_REGISTER_ENABLE_RINGS, "a ring's first use"),

	/* a deep queue is served when the vCPU sleeps */
	ALLOW_ARG(sched_setscheduler, 1, SCHED_BATCH, "a disk's thread that gains by waiting"),
	ALLOW_ARG(sched_setscheduler, 1, SCHED_OTHER, "and no longer does"),

	/* the loop over epoll */
	ALLOW(epoll_ctl, "wait for one more descriptor"),
	ALLOW(epoll_wait, "wait"),
	ALLOW(poll, "is it ready?"),
	ALLOW(recvmsg, "a disk behind a server"),
	ALLOW(sendmsg, "a disk behind a server"),
	ALLOW_ARG(clone, 0, FLAGS_OF_A_THREAD, "a worker"),
	REFUSE(clone3, ENOSYS, "its flags cannot be looked at; the C library then calls clone"),

	/* a disk that is resized */
	ALLOW(ftruncate, "its file grows or shrinks"),
	ALLOW(fstat, "is it a file"),
	ALLOW_ARG(newfstatat, 3, AT_EMPTY_PATH, "fstat() of glibc 2.33 to 2.38"),
	IOCTL(BLKGETSIZE64, "the size of a block device"),

	/* interrupts that are no eventfds: INTx, a vector whose route is not there */
	IOCTL(KVM_IRQ_LINE, "level-triggered lines"),
	IOCTL(KVM_SIGNAL_MSI, "a message"),
	{ 0 },
};
