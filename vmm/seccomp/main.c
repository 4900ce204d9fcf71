/*
 * The main thread: the event loop with every back end, control, and what a live fork needs, since a
 * child inherits this filter and cannot loosen it. So other kinds are contained in it: threads
 * that begin later are first under this one and then under their own.
 */
#include "vmm/seccomp/rules.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>

/* As glibc calls clone(): pthread_create() and fork(). */
#define FLAGS_OF_A_THREAD                                                                   \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SIGHAND | CLONE_THREAD | \
	 CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)
#define FLAGS_OF_A_FORK (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD)

/* Signal the guest's vCPU threads with it; handlers of others are not ours to change. */
#define KICK_SIGNAL SIGUSR1
/* The second of two real-time signals that glibc keeps to itself. */
#define SETXID_SIGNAL 33

const struct seccomp_rule seccomp_main[] = {
	/* the loop over io_uring; rings are restricted when they are made */
	ALLOW(io_uring_enter, "submit, and wait"),
	ALLOW_ARG(io_uring_register, 1, IORING_REGISTER_ENABLE_RINGS, "a ring's first use"),
	REFUSE(io_uring_setup, EPERM, "it would be unrestricted; clones use epoll"),

	/* the loop over epoll */
	ALLOW(epoll_create1, "a clone's loop"),
	ALLOW(epoll_ctl, "wait for one more descriptor"),
	ALLOW(epoll_wait, "wait"),
	ALLOW(poll, "is it ready?"),
	ALLOW(accept4, "console sockets, control"),
	ALLOW(recvmsg, "frames, control requests with their descriptors"),
	IOCTL(UFFDIO_UNREGISTER, "all of the guest's memory was fetched from its handler"),
	ALLOW(sendmsg, "frames, control replies with their descriptors"),
	ALLOW(sendmmsg, "all frames of one round"),
	ALLOW_ARG(recvfrom, 4, 0, "recv() of the same"),
	ALLOW_ARG(sendto, 4, 0, "send() of the same: to the peer, no other address"),
	ALLOW(shutdown, "the end of a vsock connection"),
	ALLOW_ARG(getsockopt, 1, SOL_SOCKET, "what kind of socket was handed over"),

	/* files that are open; by the calls with flags, which do the same as those without */
	ALLOW(preadv2, "a stream, or a disk's file"),
	ALLOW(pwritev2, "a stream, or a disk's file"),
	ALLOW(pread64, "a disk's file, a snapshot"),
	ALLOW(pwrite64, "a disk's file, a snapshot"),
	ALLOW(fsync, "a disk is flushed"),
	ALLOW(fdatasync, "a disk is flushed"),
	ALLOW(fallocate, "discard, write zeroes"),
	ALLOW(ftruncate, "a disk or a snapshot grows"),
	ALLOW(lseek, "holes of sparse files, stdio"),
	ALLOW(fstat, "what was handed over"),
	ALLOW(fstatfs, "memory that was handed over is of ordinary pages"),
	ALLOW_ARG(newfstatat, 3, AT_EMPTY_PATH, "fstat() of glibc 2.33 to 2.38"),
	ALLOW(copy_file_range, "copies of disks"),
	ALLOW(close_range, "a clone leaves its parent's descriptors"),
	ALLOW(dup3, "a descriptor for a second user of it"),
	ALLOW(pipe2, "streams of commands in the guest"),
	ALLOW(eventfd2, "doorbells, vectors, a clone's loop"),
	ALLOW_ARG(fcntl, 1, F_GETFL, "is it O_NONBLOCK?"),
	ALLOW_ARG(fcntl, 1, F_SETFL, "O_NONBLOCK, O_DIRECT"),
	ALLOW_ARG(fcntl, 1, F_DUPFD_CLOEXEC, "a descriptor for a second user of it"),
	ALLOW_ARG(fcntl, 1, F_OFD_SETLK, "locks on disks"),
	ALLOW_ARG(fcntl, 1, F_OFD_GETLK, "who holds a lock on a disk"),
	ALLOW_ARG(fcntl, 1, F_GET_SEALS, "memory of another monitor's cannot shrink"),
	IOCTL(BLKGETSIZE64, "the size of a block device"),
	IOCTL(BLKSSZGET, "its logical blocks"),
	IOCTL(BLKPBSZGET, "its physical blocks"),
	IOCTL(FICLONE, "a disk's file is shared with a snapshot"),
	IOCTL(TUNSETOFFLOAD, "what the guest's driver lets a tap leave to it"),
	IOCTL(TUNSETQUEUE, "queues of a tap that the guest uses or not"),

	ALLOW(mincore, "which guest memory there is to save"),
	ALLOW(sysinfo, "is any of it out on swap"),
	ALLOW_ARG(prlimit64, 2, 0, "how many files a clone's guest may have open"),

	/* guest pages that come when they are touched; other threads, too, place them */
	IOCTL(UFFDIO_REGISTER, "which memory is still to come"),
	IOCTL(UFFDIO_UNREGISTER, "it is not, after all"),
	IOCTL(UFFDIO_COPY, "a page has come"),
	IOCTL(UFFDIO_ZEROPAGE, "a page that is zero"),
	IOCTL(UFFDIO_WAKE, "who sleeps for a page looks again"),

	/* the terminal: not TIOCSTI, which would type for the user */
	IOCTL(TCGETS, "is it one, and how was it set"),
	IOCTL(TCSETS, "raw, and back"),
	IOCTL(TIOCGWINSZ, "its size, for the guest"),
	IOCTL(TIOCGPGRP, "are we in the background"),
	ALLOW(getpgrp, "are we in the background"),

	/* random numbers for the guest */
	ALLOW(getrandom, "the entropy device, names of things"),

	/* threads: workers now, the vCPUs of a clone */
	ALLOW_ARG(clone, 0, FLAGS_OF_A_THREAD, "a thread"),
	ALLOW_ARG(clone, 0, FLAGS_OF_A_FORK, "a live fork"),
	REFUSE(clone3, ENOSYS, "its flags cannot be looked at; the C library then calls clone"),
	ALLOW(set_robust_list, "a thread or a fork begins"),
	ALLOW(rseq, "a thread begins"),
	ALLOW(gettid, "a vCPU thread of a clone says who it is"),
	ALLOW_ARG(sched_setaffinity, 0, 0, "a vCPU of a clone, or of a guest that came, is pinned"),
	ALLOW(sched_getscheduler, "the thread of a disk that is plugged in"),
	ALLOW_ARG(sched_setscheduler, 1, SCHED_BATCH, "the same"),
	ALLOW_ARG(sched_setscheduler, 1, SCHED_OTHER, "the same"),
	ALLOW_ARG(prctl, 0, PR_SET_NAME, "a thread says what it is"),
	ALLOW_ARG(prctl, 0, PR_SCHED_CORE, "a clone shares its cores with nobody either"),
	ALLOW_ARG(prctl, 0, PR_SET_PDEATHSIG, "a clone ends with whom it belongs to"),
	ALLOW_ARG(seccomp, 0, SECCOMP_SET_MODE_FILTER, "a thread's own, tighter filter"),
	ALLOW(wait4, "snapshot writers that have ended"),
	ALLOW(getpid, "logs"),
	ALLOW(geteuid, "whom a clone's control socket listens to"),
	ALLOW(getppid, "is whom a clone belongs to still there"),

	/* interrupting vCPUs: timers reach threads of this process only, unlike tgkill */
	ALLOW_ARG(timer_create, 0, CLOCK_MONOTONIC, "a vCPU is to leave the guest"),
	ALLOW(timer_settime, "a vCPU is to leave the guest"),
	ALLOW(timer_delete, "a vCPU is gone"),
	ALLOW_ARG(rt_sigaction, 0, KICK_SIGNAL, "a vCPU is to leave the guest"),
	ALLOW_ARG(rt_sigaction, 0, SETXID_SIGNAL, "the C library's, with the first thread"),

	REFUSE(unlink, EROFS, "a console's socket: the parent removes it"),
	{ 0 },
};
