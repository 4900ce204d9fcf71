/*
 * The main thread: the event loop with every back end, and control. It makes no threads and no
 * children: it asks the maker (maker.c), which may do all that stands here and more.
 */
#include "vmm/seccomp/rules.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <linux/vhost.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>

const struct seccomp_rule seccomp_main[] = {
	/* the loop over io_uring; rings are restricted when they are made */
	ALLOW(io_uring_enter, "submit, and wait"),
	ALLOW_ARG(io_uring_register, 1, IORING_REGISTER_ENABLE_RINGS, "a ring's first use"),

	/* a deep queue of a disk is served when the vCPU sleeps */
	ALLOW_ARG(sched_setscheduler, 1, SCHED_BATCH, "a disk that gains by waiting"),
	ALLOW_ARG(sched_setscheduler, 1, SCHED_OTHER, "and no longer does"),

	/* the loop over epoll */
	ALLOW(epoll_ctl, "wait for one more descriptor"),
	ALLOW(epoll_wait, "wait"),
	ALLOW(poll, "is it ready?"),
	ALLOW(accept4, "console sockets, control"),
	ALLOW(recvmsg, "frames, control requests with their descriptors"),
	ALLOW(sendmsg, "frames, control replies with their descriptors"),
	ALLOW(sendmmsg, "all frames of one round"),
	ALLOW_ARG(recvfrom, 4, 0, "recv() of the same"),
	ALLOW_ARG(sendto, 4, 0, "send() of the same: to the peer, no other address"),
	ALLOW(shutdown, "the end of a vsock connection"),
	ALLOW_ARG(getsockopt, 1, SOL_SOCKET, "what kind of socket was handed over"),

	/* files that are open; by the calls with flags, which do the same as those without */
	ALLOW(preadv2, "a stream, or a disk's file"),
	ALLOW(pwritev2, "a stream, a disk's file, or a snapshot"),
	ALLOW(pread64, "a disk's file, a snapshot"),
	ALLOW(fadvise64, "what is cached of an image that another host has written"),
	ALLOW(fsync, "a disk is flushed"),
	ALLOW(fdatasync, "a disk is flushed"),
	ALLOW(fallocate, "discard, write zeroes"),
	ALLOW(ftruncate, "a disk or a snapshot grows"),
	ALLOW(lseek, "holes of sparse files, stdio"),
	ALLOW(fstat, "what was handed over"),
	ALLOW(fstatfs, "memory that was handed over is of ordinary pages"),
	ALLOW_ARG(newfstatat, 3, AT_EMPTY_PATH, "fstat() of glibc 2.33 to 2.38"),
	ALLOW(eventfd2, "doorbells, vectors"),
	ALLOW_ARG(fcntl, 1, F_GETFL, "is it O_NONBLOCK?"),
	ALLOW_ARG(fcntl, 1, F_SETFL, "O_NONBLOCK, O_DIRECT"),
	ALLOW_ARG(fcntl, 1, F_DUPFD_CLOEXEC, "a descriptor for a second user of it"),
	ALLOW_ARG(fcntl, 1, F_OFD_SETLK, "locks on disks"),
	ALLOW_ARG(fcntl, 1, F_OFD_GETLK, "who holds a lock on a disk"),
	ALLOW_ARG(fcntl, 1, F_GET_SEALS, "memory of another process cannot shrink"),
	IOCTL(BLKGETSIZE64, "the size of a block device"),
	IOCTL(BLKSSZGET, "its logical blocks"),
	IOCTL(BLKPBSZGET, "its physical blocks"),
	IOCTL(TUNSETOFFLOAD, "what the guest's driver lets a tap leave to it"),
	IOCTL(TUNSETQUEUE, "queues of a tap that the guest uses or not"),
	IOCTL(VHOST_SET_FEATURES, "the host's kernel serves rings, as the driver wants them"),
	IOCTL(VHOST_SET_VRING_NUM, "how large such a ring is"),
	IOCTL(VHOST_SET_VRING_BASE, "which of its chains is next"),
	IOCTL(VHOST_SET_VRING_ADDR, "where it is: in our memory, as set before"),
	IOCTL(VHOST_SET_VRING_KICK, "its doorbell"),
	IOCTL(VHOST_SET_VRING_CALL, "its interrupt"),
	IOCTL(VHOST_SET_VRING_ERR, "who hears that it is malformed"),
	IOCTL(VHOST_NET_SET_BACKEND, "the tap that its frames go to; or none, for a pause"),
	IOCTL(VHOST_GET_VRING_BASE, "how far it came"),

	ALLOW(mincore, "which guest memory there is to save"),
	ALLOW(sysinfo, "is any of it out on swap"),

	/* guest pages that come when they are touched; other threads, too, place them */
	IOCTL(UFFDIO_REGISTER, "which memory is still to come"),
	IOCTL(UFFDIO_UNREGISTER, "it is not, after all, or all of it came"),
	IOCTL(UFFDIO_COPY, "a page has come"),
	IOCTL(UFFDIO_ZEROPAGE, "a page that is zero"),
	IOCTL(UFFDIO_WAKE, "who sleeps for a page looks again"),

	/* the terminal: not TIOCSTI, which would type for the user */
	IOCTL(TCGETS, "is it one, and how was it set"),
	IOCTL(TCSETS, "raw, and back"),
	IOCTL(TIOCGWINSZ, "its size, for the guest"),
	IOCTL(TIOCGPGRP, "are we in the background"),

	/* random numbers for the guest */
	ALLOW(getrandom, "the entropy device, names of things"),

	/* interrupting vCPUs: timers reach threads of this process only, unlike tgkill */
	ALLOW(timer_settime, "a vCPU is to leave the guest"),
	ALLOW(timer_delete, "a vCPU is gone"),

	REFUSE(unlink, EROFS, "a console's socket: the parent removes it"),
	{ 0 },
};
