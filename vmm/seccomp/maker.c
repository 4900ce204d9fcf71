/*
 * The maker, with all that the main thread may: threads that begin later, and a whole monitor in
 * the child of a live fork. A child inherits this filter and cannot loosen it, so every other kind
 * is contained in it: its threads are first under this one and then under their own. A main
 * thread to which a guest comes from elsewhere is under it until the guest runs.
 */
#include "vmm/seccomp/rules.h"

#include <errno.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <time.h>

/* As glibc calls clone() in fork(). */
#define FLAGS_OF_A_FORK (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD)

/* Signal the guest's vCPU threads with it; handlers of others are not ours to change. */
#define KICK_SIGNAL SIGUSR1
/* The second of two real-time signals that glibc keeps to itself. */
#define SETXID_SIGNAL 33

const struct seccomp_rule seccomp_maker[] = {
	/* threads, and processes that are copies of this one */
	ALLOW_ARG(clone, 0, FLAGS_OF_A_THREAD, "a thread"),
	ALLOW_ARG(clone, 0, FLAGS_OF_A_FORK, "a live fork, a copy that writes a snapshot"),
	REFUSE(clone3, ENOSYS, "its flags cannot be looked at; the C library then calls clone"),
	ALLOW(set_robust_list, "a thread or a fork begins"),
	ALLOW(rseq, "a thread begins"),
	ALLOW(gettid, "a vCPU thread says who it is"),
	ALLOW_ARG(sched_setaffinity, 0, 0, "a vCPU of a clone, or of a guest that came, is pinned"),
	ALLOW(sched_getscheduler, "may the threads of a clone's disks be told to wait"),
	ALLOW_ARG(sched_setscheduler, 1, SCHED_BATCH, "the same"),
	ALLOW_ARG(sched_setscheduler, 1, SCHED_OTHER, "the same"),
	ALLOW_ARG(prctl, 0, PR_SET_NAME, "a thread says what it is"),
	ALLOW_ARG(prctl, 0, PR_SCHED_CORE, "a clone shares its cores with nobody either"),
	ALLOW_ARG(prctl, 0, PR_SET_PDEATHSIG, "a copy ends with the monitor it was made of"),
	ALLOW_ARG(seccomp, 0, SECCOMP_SET_MODE_FILTER, "a thread's own, tighter filter"),
	ALLOW(wait4, "copies that have ended"),
	ALLOW(pipe2, "by which a copy says what came of it"),
	ALLOW_ARG(timer_create, 0, CLOCK_MONOTONIC, "by which a vCPU is told to leave the guest"),
	ALLOW_ARG(rt_sigaction, 0, KICK_SIGNAL, "a vCPU is to leave the guest"),
	ALLOW_ARG(rt_sigaction, 0, SETXID_SIGNAL, "the C library's, with the first thread"),

	/* a clone's start */
	REFUSE(io_uring_setup, EPERM, "it would be unrestricted; clones use epoll"),
	ALLOW(epoll_create1, "its loop"),
	ALLOW(close_range, "it leaves its parent's descriptors"),
	ALLOW(dup3, "its log"),
	ALLOW(geteuid, "whom its control socket listens to"),
	ALLOW(getpid, "what `wisp ls` is told"),
	ALLOW(getppid, "what `wisp ls` is told; is the parent still there?"),
	ALLOW_ARG(prlimit64, 2, 0, "how many files its guest may have open"),

	/* a clone's VM */
	IOCTL(KVM_RUN, "vCPU threads of a clone are under this filter too"),
	IOCTL(KVM_CREATE_VM, "a clone's"),
	IOCTL(KVM_CREATE_IRQCHIP, "a clone's"),
	IOCTL(KVM_CREATE_VCPU, "a clone's"),
	IOCTL(KVM_GET_VCPU_MMAP_SIZE, "how much a vCPU shares with us"),
	IOCTL(KVM_SET_TSS_ADDR, "VMX wants it"),
	IOCTL(KVM_SET_IDENTITY_MAP_ADDR, "VMX wants it"),
	IOCTL(KVM_SET_CPUID2, "a clone's vCPUs"),
	IOCTL(KVM_GET_SUPPORTED_CPUID, "what a restored guest may have"),
	{ 0 },
};
