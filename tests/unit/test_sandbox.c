/*
 * The sandbox's layers, each tried from inside by a child that is in it: what must go on goes on,
 * and what must not kills the child with SIGSYS, or fails where that is enough.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/sandbox/core_sched.h"
#include "vmm/sandbox/maker.h"
#include "vmm/sandbox/orphan.h"
#include "vmm/sandbox/sandbox_internal.h"

/* What became of a child: by signal, or the errno of its call (0: it succeeded). */
#define KILLED (-1)

static bool has_seccomp(void)
{
	unsigned action = 0x80000000; /* SECCOMP_RET_KILL_PROCESS */

	return syscall(SYS_seccomp, 2 /* SECCOMP_GET_ACTION_AVAIL */, 0, &action) == 0;
}

/* Sanitizers make calls of their own when threads begin and processes fork: then there are none. */
static bool has_filters(void)
{
	struct sandbox s = { 0 };
	struct error err = { 0 };

	return sandbox_check_seccomp(&s, &err) == 0 && s.filters;
}

/* As _exit(), before which a sanitizer would make calls of its own. */
static void leave(int status)
{
	syscall(SYS_exit_group, status);
}

static int outcome(pid_t child)
{
	int status;

	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFSIGNALED(status)) {
		assert_int_equal(WTERMSIG(status), SIGSYS);
		return KILLED;
	}
	return WEXITSTATUS(status);
}

/* The calls of @kind, as a thread of it would make system call @nr. */
static int try_call(enum sandbox_thread kind, long nr, long a, long b, long c, long d)
{
	struct sandbox s = { .filters = true };
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		prctl(PR_SET_DUMPABLE, 0);
		if (sandbox_filter(&s, kind) < 0)
			_exit(255);
		leave(syscall(nr, a, b, c, d, 0, 0) < 0 ? errno : 0);
	}
	return outcome(child);
}

static void no_thread_executes_opens_traces_or_signals(void **state)
{
	static const struct {
		long nr, a, b, c;
	} calls[] = {
		{ SYS_execve, 0, 0, 0 },
		{ SYS_execveat, AT_FDCWD, 0, 0 },
		{ SYS_open, (long)"/etc/passwd", O_RDONLY, 0 },
		{ SYS_openat, AT_FDCWD, (long)"/etc/passwd", O_RDONLY },
		{ SYS_openat2, AT_FDCWD, (long)"/etc/passwd", 0 },
		{ SYS_socket, AF_INET, SOCK_STREAM, 0 },
		{ SYS_socket, AF_UNIX, SOCK_STREAM, 0 },
		{ SYS_connect, 0, 0, 0 },
		{ SYS_bind, 0, 0, 0 },
		{ SYS_ptrace, 16, 1, 0 },
		{ SYS_process_vm_readv, 1, 0, 0 },
		{ SYS_process_vm_writev, 1, 0, 0 },
		{ SYS_pidfd_open, 1, 0, 0 },
		{ SYS_kill, 1, SIGTERM, 0 },
		{ SYS_tgkill, 1, 1, SIGTERM },
		{ SYS_tkill, 1, SIGTERM, 0 },
		{ SYS_rt_sigqueueinfo, 1, SIGTERM, 0 },
		{ SYS_mount, 0, 0, 0 },
		{ SYS_umount2, 0, 0, 0 },
		{ SYS_unshare, CLONE_NEWUSER, 0, 0 },
		{ SYS_setns, 0, 0, 0 },
		{ SYS_bpf, 0, 0, 0 },
		{ SYS_keyctl, 0, 0, 0 },
		{ SYS_userfaultfd, 0, 0, 0 },
		{ SYS_perf_event_open, 0, 0, 0 },
		{ SYS_memfd_secret, 0, 0, 0 },
		{ SYS_personality, 0x400000 /* READ_IMPLIES_EXEC */, 0, 0 },
		{ SYS_setuid, 0, 0, 0 },
		{ SYS_capset, 0, 0, 0 },
		{ SYS_prctl, PR_SET_DUMPABLE, 1, 0 },
		{ SYS_ioctl, 0, TIOCSTI, 0 },
		{ SYS_fcntl, 0, F_SETOWN, 1 },
		{ SYS_fcntl, 0, F_SETFD, 0 },
		{ SYS_socketpair, AF_UNIX, SOCK_STREAM, 0 },
		{ SYS_memfd_create, (long)"x", 0, 0 },
		{ SYS_getsockopt, 0, IPPROTO_TCP, 0 },
		{ SYS_dup, 0, 0, 0 },
		{ SYS_dup2, 0, 1, 0 },
		{ SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0 },
		{ SYS_clone, SIGCHLD | CLONE_VM | CLONE_VFORK, 0, 0 },
		{ SYS_mprotect, 0, 4096, PROT_READ | PROT_EXEC },
		{ SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC },
		{ SYS_pkey_mprotect, 0, 4096, PROT_EXEC },
		{ SYS_shmat, 0, 0, 0 },
		{ 0x40000000 | SYS_write, 2, 0, 0 }, /* as the x32 ABI counts them */
	};

	if (!has_seccomp())
		skip();
	for (unsigned kind = 0; kind <= SANDBOX_THREAD_WORKER; kind++)
		for (unsigned i = 0; i < ARRAY_SIZE(calls); i++)
			if (try_call(kind, calls[i].nr, calls[i].a, calls[i].b, calls[i].c,
				     MAP_PRIVATE | MAP_ANONYMOUS) != KILLED)
				fail_msg("thread kind %u: call %ld (entry %u) lives on", kind,
					 calls[i].nr, i);
}

static void every_thread_computes_locks_and_logs(void **state)
{
	struct timespec ts = { .tv_nsec = 1 };

	if (!has_seccomp())
		skip();
	for (unsigned kind = 0; kind < SANDBOX_NUM_THREADS; kind++) {
		assert_int_equal(try_call(kind, SYS_write, 1, 0, 0, 0), 0);
		assert_int_equal(try_call(kind, SYS_clock_gettime, 1, (long)&ts, 0, 0), 0);
		assert_int_equal(try_call(kind, SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS),
				 0);
	}
}

static void a_vcpu_thread_may_run_the_guest_and_not_make_one(void **state)
{
	if (!has_seccomp())
		skip();
	static const struct {
		long nr, a, b;
	} killed[] = {
		{ SYS_ioctl, -1, KVM_CREATE_VM },
		{ SYS_ioctl, -1, KVM_SET_USER_MEMORY_REGION },
		{ SYS_recvmsg, -1, 0 },
		{ SYS_io_uring_enter, -1, 0 },
		{ SYS_clone, SIGCHLD, 0 },
		{ SYS_timer_create, CLOCK_MONOTONIC, 0 },
		{ SYS_preadv2, -1, 0 },
		{ SYS_fcntl, -1, F_GETFL },
	};

	assert_int_equal(try_call(SANDBOX_THREAD_VCPU, SYS_ioctl, -1, KVM_RUN, 0, 0), EBADF);
	for (unsigned i = 0; i < ARRAY_SIZE(killed); i++)
		assert_int_equal(try_call(SANDBOX_THREAD_VCPU, killed[i].nr, killed[i].a,
					  killed[i].b, 0, 0),
				 KILLED);
}

static void a_worker_reads_and_writes_what_is_open(void **state)
{
	if (!has_seccomp())
		skip();
	assert_int_equal(try_call(SANDBOX_THREAD_WORKER, SYS_preadv2, -1, 0, 0, 0), EBADF);
	assert_int_equal(try_call(SANDBOX_THREAD_WORKER, SYS_fdatasync, -1, 0, 0, 0), EBADF);
	assert_int_equal(try_call(SANDBOX_THREAD_WORKER, SYS_ioctl, -1, KVM_RUN, 0, 0), KILLED);
	assert_int_equal(try_call(SANDBOX_THREAD_WORKER, SYS_sendmsg, -1, 0, 0, 0), KILLED);
	assert_int_equal(try_call(SANDBOX_THREAD_WORKER, SYS_ftruncate, -1, 0, 0, 0), KILLED);
}

static void the_thread_that_brings_pages_reads_files_and_has_no_kvm(void **state)
{
	if (!has_seccomp())
		skip();
	assert_int_equal(try_call(SANDBOX_THREAD_FAULT, SYS_ioctl, -1, UFFDIO_COPY, 0, 0), EBADF);
	assert_int_equal(try_call(SANDBOX_THREAD_MAIN, SYS_ioctl, -1, UFFDIO_COPY, 0, 0), EBADF);
	assert_int_equal(try_call(SANDBOX_THREAD_FAULT, SYS_pread64, -1, 0, 0, 0), EBADF);
	assert_int_equal(try_call(SANDBOX_THREAD_FAULT, SYS_pwritev2, -1, 0, 0, 0), EBADF);
	assert_int_equal(try_call(SANDBOX_THREAD_FAULT, SYS_ioctl, -1, KVM_RUN, 0, 0), KILLED);
	assert_int_equal(try_call(SANDBOX_THREAD_FAULT, SYS_pwrite64, -1, 0, 0, 0), KILLED);
	assert_int_equal(try_call(SANDBOX_THREAD_FAULT, SYS_clone, SIGCHLD, 0, 0, 0), KILLED);
}

static void a_thread_of_a_migration_speaks_and_makes_no_machine(void **state)
{
	static const struct {
		long nr, a, b;
	} killed[] = {
		{ SYS_ioctl, -1, KVM_RUN },
		{ SYS_ioctl, -1, KVM_CREATE_VM },
		{ SYS_ioctl, -1, KVM_SET_REGS },
		{ SYS_clone, SIGCHLD, 0 },
		{ SYS_accept4, -1, 0 },
		{ SYS_sendto, -1, 0 },
		{ SYS_io_uring_enter, -1, 0 },
		{ SYS_prctl, PR_SET_PDEATHSIG, SIGKILL },
		{ SYS_wait4, -1, 0 },
		{ SYS_ftruncate, -1, 0 },
	};

	if (!has_seccomp())
		skip();
	assert_int_equal(try_call(SANDBOX_THREAD_MIGRATE, SYS_recvmsg, -1, 0, 0, 0), EBADF);
	assert_int_equal(try_call(SANDBOX_THREAD_MIGRATE, SYS_ioctl, -1, KVM_GET_DIRTY_LOG, 0, 0),
			 EBADF);
	/* Threads that it makes may load theirs: what they may is part of what it may. */
	assert_int_equal(try_call(SANDBOX_THREAD_MIGRATE, SYS_ioctl, -1, UFFDIO_COPY, 0, 0), EBADF);
	assert_int_equal(try_call(SANDBOX_THREAD_MIGRATE, SYS_pwritev2, -1, 0, 0, 0), EBADF);
	/* Disks of a guest that comes back: locks are taken, and who has them is asked. */
	assert_int_equal(try_call(SANDBOX_THREAD_MIGRATE, SYS_fcntl, -1, F_OFD_SETLK, 0, 0), EBADF);
	assert_int_equal(try_call(SANDBOX_THREAD_MIGRATE, SYS_fcntl, -1, F_OFD_GETLK, 0, 0), EBADF);
	for (unsigned i = 0; i < ARRAY_SIZE(killed); i++)
		assert_int_equal(try_call(SANDBOX_THREAD_MIGRATE, killed[i].nr, killed[i].a,
					  killed[i].b, 0, 0),
				 KILLED);
}

static void a_queue_thread_does_input_and_output_and_has_no_kvm(void **state)
{
	if (!has_seccomp())
		skip();
	assert_int_equal(try_call(SANDBOX_THREAD_QUEUE, SYS_pwritev2, -1, 0, 0, 0), EBADF);
	assert_int_equal(try_call(SANDBOX_THREAD_QUEUE, SYS_io_uring_enter, -1, 0, 0, 0), EBADF);
	assert_int_equal(try_call(SANDBOX_THREAD_QUEUE, SYS_ioctl, -1, KVM_RUN, 0, 0), KILLED);
	assert_int_equal(try_call(SANDBOX_THREAD_QUEUE, SYS_clone, SIGCHLD, 0, 0, 0), KILLED);
	assert_int_equal(try_call(SANDBOX_THREAD_QUEUE, SYS_memfd_create, 0, 0, 0, 0), KILLED);
	assert_int_equal(try_call(SANDBOX_THREAD_QUEUE, SYS_accept4, -1, 0, 0, 0), KILLED);
}

static void wisp_net_has_the_internet_and_nothing_else(void **state)
{
	static const struct {
		long nr, a, b, c;
	} killed[] = {
		{ SYS_execve, 0, 0, 0 },
		{ SYS_mount, 0, 0, 0 },
		{ SYS_socket, AF_NETLINK, SOCK_RAW, 0 },
		{ SYS_socket, AF_PACKET, SOCK_RAW, 0 },
		{ SYS_kill, 1, SIGTERM, 0 },
		{ SYS_ptrace, 16, 1, 0 },
		{ SYS_clone, SIGCHLD, 0, 0 },
		{ SYS_unshare, CLONE_NEWUSER, 0, 0 },
		{ SYS_ioctl, -1, KVM_RUN, 0 },
		{ SYS_mprotect, 0, 4096, PROT_EXEC },
		{ SYS_unlink, 0, 0, 0 },
	};

	if (!has_seccomp())
		skip();
	for (unsigned i = 0; i < ARRAY_SIZE(killed); i++)
		assert_int_equal(try_call(SANDBOX_THREAD_NET, killed[i].nr, killed[i].a,
					  killed[i].b, killed[i].c, 0),
				 KILLED);
	assert_int_equal(try_call(SANDBOX_THREAD_NET, SYS_socket, AF_INET, SOCK_STREAM, 0, 0), 0);
	assert_int_equal(try_call(SANDBOX_THREAD_NET, SYS_socket, AF_UNIX, SOCK_STREAM, 0, 0),
			 EAFNOSUPPORT);
}

static void a_helper_reads_only_where_it_may(void **state)
{
	static const char *const readable[] = { "/etc", "/nowhere", NULL };
	pid_t child;

	if (!has_seccomp() || sandbox_landlock_version() < 0)
		skip();
	child = fork();
	if (child == 0) {
		sandbox_lock_helper(SANDBOX_THREAD_NET, readable);
		_exit((openat(AT_FDCWD, "/etc/passwd", O_RDONLY) < 0) |
		      (openat(AT_FDCWD, "/etc/passwd", O_RDWR) >= 0) << 1 |
		      (openat(AT_FDCWD, "/proc/self/maps", O_RDONLY) >= 0) << 2);
	}
	assert_int_equal(outcome(child), 0);
}

static void nobody_makes_a_ring_after_the_lock(void **state)
{
	char params[256] = { 0 };

	if (!has_seccomp())
		skip();
	/* A clone's loop then takes epoll, so this one fails and does not kill. */
	assert_int_equal(try_call(SANDBOX_THREAD_MAKER, SYS_io_uring_setup, 4, (long)params, 0, 0),
			 EPERM);
	assert_int_equal(try_call(SANDBOX_THREAD_MAIN, SYS_io_uring_setup, 4, (long)params, 0, 0),
			 KILLED);
	assert_int_not_equal(try_call(SANDBOX_THREAD_MAIN, SYS_io_uring_register, -1, 12, 0, 0),
			     KILLED);
	assert_int_equal(try_call(SANDBOX_THREAD_MAIN, SYS_io_uring_register, -1, 0, 0, 0), KILLED);
	assert_int_equal(try_call(SANDBOX_THREAD_MAKER, SYS_clone3, 0, 0, 0, 0), ENOSYS);
}

static void the_main_thread_makes_no_threads_and_no_machine(void **state)
{
	static const struct {
		long nr, a, b;
	} killed[] = {
		{ SYS_clone, SIGCHLD, 0 },
		{ SYS_clone3, 0, 0 },
		{ SYS_prctl, PR_SET_NAME, 0 },
		{ SYS_prctl, PR_SET_PDEATHSIG, SIGKILL },
		{ SYS_sched_setaffinity, 0, 0 },
		{ SYS_timer_create, CLOCK_MONOTONIC, 0 },
		{ SYS_rt_sigaction, SIGUSR1, 0 },
		{ SYS_seccomp, 1, 0 },
		{ SYS_ioctl, -1, KVM_CREATE_VM },
		{ SYS_ioctl, -1, KVM_CREATE_VCPU },
		{ SYS_ioctl, -1, KVM_RUN },
		{ SYS_copy_file_range, -1, 0 },
	};

	if (!has_seccomp())
		skip();
	for (unsigned i = 0; i < ARRAY_SIZE(killed); i++)
		assert_int_equal(try_call(SANDBOX_THREAD_MAIN, killed[i].nr, killed[i].a,
					  killed[i].b, 0, 0),
				 KILLED);
}

static void the_maker_may_fork_for_a_clone(void **state)
{
	struct sandbox s = { .filters = true };
	pid_t child, grandchild;
	int status;

	if (!has_filters())
		skip();
	child = fork();
	if (child == 0) {
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		if (sandbox_filter(&s, SANDBOX_THREAD_MAKER) < 0)
			_exit(255);
		grandchild = fork();
		if (grandchild == 0)
			/* Already filtered, by inheritance: nothing more is loaded. */
			leave(s.filtered && !sandbox_filter(&s, SANDBOX_THREAD_MAKER) ? 7 : 8);
		if (waitpid(grandchild, &status, 0) != grandchild || !WIFEXITED(status))
			leave(254);
		leave(WEXITSTATUS(status));
	}
	assert_int_equal(outcome(child), 7);
}

static void *tell(void *arg)
{
	*(int *)arg = 5;
	return NULL;
}

static void report(void *arg, int fd)
{
	leave(write(fd, arg, sizeof(int)) != sizeof(int));
}

/* As a monitor does it: 0, or at which step it failed. */
static int make_things(void)
{
	struct sandbox s = { .filters = true };
	struct maker *maker = NULL;
	struct error err = { 0 };
	int told = 0, fd, heard;
	pthread_t thread;
	pid_t pid;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (maker_create(&maker, &s, &err) < 0 || !maker)
		return 1;
	if (sandbox_filter(&s, SANDBOX_THREAD_MAIN) < 0)
		return 2;
	if (maker_thread(maker, &thread, NULL, tell, &told) || pthread_join(thread, NULL) ||
	    told != 5)
		return 3;
	pid = maker_fork(maker, report, &told, &fd);
	if (pid <= 0 || read(fd, &heard, sizeof(heard)) != sizeof(heard) || heard != 5)
		return 4;
	/* The writing end was the child's alone. */
	if (read(fd, &heard, sizeof(heard)) != 0)
		return 5;
	maker_reap(maker, pid);
	maker_free(maker);
	return 0;
}

static void a_maker_makes_threads_and_children_for_a_main_thread_that_may_not(void **state)
{
	pid_t child;

	if (!has_filters())
		skip();
	child = fork();
	if (child == 0)
		leave(make_things());
	assert_int_equal(outcome(child), 0);
}

static void without_filters_no_thread_is_there_to_make_others(void **state)
{
	struct sandbox s = { 0 };
	struct maker *maker = NULL;
	struct error err = { 0 };
	pthread_t thread;
	int told = 0;

	assert_int_equal(maker_create(&maker, &s, &err), 0);
	assert_null(maker);
	assert_int_equal(maker_thread(maker, &thread, NULL, tell, &told), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(told, 5);
}

static void who_is_an_orphan_already_when_it_begins_to_watch_ends_at_once(void **state)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		orphan_begin();
		orphan_leave();
		orphan_watch(getppid());
		/* Nothing came of that: its parent lives. */
		usleep(10000);
		/* One that was its parent before: we are not. */
		orphan_watch(getpid());
		alarm(5);
		for (;;)
			pause();
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGTERM);
}

static void off_does_nothing(void **state)
{
	struct sandbox_params params = { .mode = SANDBOX_OFF };
	struct sandbox s = { 0 };
	struct error err = { 0 };

	assert_int_equal(sandbox_enter(&s, &params, &err), 0);
	assert_int_equal(sandbox_lock(&s, &err), 0);
	assert_int_equal(sandbox_filter(&s, SANDBOX_THREAD_MAIN), 0);
	assert_int_equal(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
	assert_int_equal(access("/", R_OK), 0);
}

/* In the child: 0 when no path leads anywhere and what was open is still of use. */
static int look_around(int fd)
{
	char c;

	if (access("/etc", F_OK) == 0 || access("/proc", F_OK) == 0 || access("..", W_OK) == 0)
		return 1;
	if (open("/x", O_CREAT | O_WRONLY, 0600) >= 0 || open("/", O_RDONLY | O_DIRECTORY) >= 0)
		return 2;
	if (pread(fd, &c, 1, 0) != 1)
		return 3;
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 || prctl(PR_GET_DUMPABLE) != 0)
		return 4;
	return 0;
}

static void locked_in_no_path_leads_anywhere(void **state)
{
	struct sandbox_params params = { .mode = SANDBOX_STRICT };
	struct sandbox s = { 0 };
	struct error err = { 0 };
	int etc, file, r;
	pid_t child = fork();

	if (child == 0) {
		file = open("/proc/self/exe", O_RDONLY);
		etc = open("/etc", O_PATH | O_DIRECTORY);
		if (sandbox_enter(&s, &params, &err) < 0 || sandbox_lock(&s, &err) < 0)
			_exit(77);
		r = look_around(file);
		/* A directory from before is no way around Landlock. */
		if (!r && openat(etc, "passwd", O_RDONLY) >= 0)
			r = 5;
		_exit(r);
	}
	r = outcome(child);
	if (r == 77)
		skip();
	assert_int_equal(r, 0);
}

/* Run in a child, which would keep the mark for good. 0: marked, or it does what it should here. */
static int share_no_core(int can)
{
	struct error err = { 0 };
	uint64_t cookie = 0;
	int r = core_sched_begin(&err);

	if (can == -ENODEV)
		return r != 0;
	if (can)
		return r != can || err.kind != ERROR_REFUSED || !*err.hint;
	prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, 0, PR_SCHED_CORE_SCOPE_THREAD, &cookie);
	return r || !cookie;
}

static void core_scheduling_marks_the_process_or_says_why_not(void **state)
{
	int can = core_sched_check();
	pid_t child = fork();

	if (child == 0)
		_exit(share_no_core(can));
	assert_int_equal(outcome(child), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_thread_executes_opens_traces_or_signals),
		cmocka_unit_test(every_thread_computes_locks_and_logs),
		cmocka_unit_test(a_vcpu_thread_may_run_the_guest_and_not_make_one),
		cmocka_unit_test(a_worker_reads_and_writes_what_is_open),
		cmocka_unit_test(the_thread_that_brings_pages_reads_files_and_has_no_kvm),
		cmocka_unit_test(a_thread_of_a_migration_speaks_and_makes_no_machine),
		cmocka_unit_test(a_queue_thread_does_input_and_output_and_has_no_kvm),
		cmocka_unit_test(wisp_net_has_the_internet_and_nothing_else),
		cmocka_unit_test(a_helper_reads_only_where_it_may),
		cmocka_unit_test(nobody_makes_a_ring_after_the_lock),
		cmocka_unit_test(the_main_thread_makes_no_threads_and_no_machine),
		cmocka_unit_test(the_maker_may_fork_for_a_clone),
		cmocka_unit_test(a_maker_makes_threads_and_children_for_a_main_thread_that_may_not),
		cmocka_unit_test(without_filters_no_thread_is_there_to_make_others),
		cmocka_unit_test(who_is_an_orphan_already_when_it_begins_to_watch_ends_at_once),
		cmocka_unit_test(off_does_nothing),
		cmocka_unit_test(core_scheduling_marks_the_process_or_says_why_not),
		cmocka_unit_test(locked_in_no_path_leads_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
