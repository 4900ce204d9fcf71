/*
 * A monitor in a guest's hands: wisp with this linked in makes one system call (or one entry of its
 * ring) of the test's choice in a thread of the test's choice, right after that thread was locked
 * in. Linked by --wrap into build/wisp-hostile alone (make hostile); nothing of it is in wisp.
 *
 * What to try comes on descriptor 99, read before the lock: "THREAD TRY", by the names below.
 * The thread writes "refused ERRNO" or "done" and goes on; or it is killed, and writes nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/hostile/rings.h"
#include "vmm/core/util.h"
#include "vmm/sandbox/sandbox.h"

#define ORDERS_FD 99

struct hostile_try {
	const char *name;
	long nr, arg[6]; /* a system call, or what else */
};

enum { ON_OWN_RING = -1, ON_OTHER_RING = -2 };

static const struct sockaddr_un elsewhere = { .sun_family = AF_UNIX, .sun_path = "/run/x.sock" };
static char page[4096] __attribute__((aligned(4096)));

#define P(x) ((long)(x))

static const struct hostile_try tries[] = {
	{ "open /etc/passwd", SYS_open, { P("/etc/passwd"), O_RDONLY } },
	{ "openat /etc/passwd", SYS_openat, { AT_FDCWD, P("/etc/passwd"), O_RDONLY } },
	{ "openat2", SYS_openat2, { AT_FDCWD, P("/etc/passwd"), P(page), 24 } },
	{ "open_by_handle_at", SYS_open_by_handle_at, { AT_FDCWD, P(page), O_RDONLY } },
	{ "creat", SYS_creat, { P("/tmp/hostile"), 0600 } },
	{ "unlink", SYS_unlink, { P("/tmp/hostile") } },
	{ "mkdir", SYS_mkdir, { P("/tmp/hostile"), 0700 } },
	{ "execve /bin/sh", SYS_execve, { P("/bin/sh"), 0, 0 } },
	{ "execveat of memory", SYS_execveat, { ORDERS_FD, P(""), 0, 0, AT_EMPTY_PATH } },
	{ "memfd_create", SYS_memfd_create, { P("x"), 0 } },
	{ "socket inet", SYS_socket, { AF_INET, SOCK_STREAM, 0 } },
	{ "socket unix", SYS_socket, { AF_UNIX, SOCK_STREAM, 0 } },
	{ "socket netlink", SYS_socket, { AF_NETLINK, SOCK_RAW, 0 } },
	{ "connect", SYS_connect, { 0, P(&elsewhere), sizeof(elsewhere) } },
	{ "sendto an address", SYS_sendto, { 0, P(page), 1, 0, P(&elsewhere), sizeof(elsewhere) } },
	{ "recvfrom an address", SYS_recvfrom, { 0, P(page), 1, 0, P(page), P(page) } },
	{ "getsockopt TCP_INFO", SYS_getsockopt, { 0, 6, 11, P(page), P(page) } },
	{ "socketpair", SYS_socketpair, { AF_UNIX, SOCK_STREAM, 0, P(page) } },
	{ "dup2", SYS_dup2, { 0, 99 } },
	{ "bind", SYS_bind, { 0, P(&elsewhere), sizeof(elsewhere) } },
	{ "ptrace attach", SYS_ptrace, { PTRACE_ATTACH, 1 } },
	{ "process_vm_readv", SYS_process_vm_readv, { 1, P(page), 1, P(page), 1 } },
	{ "process_vm_writev", SYS_process_vm_writev, { 1, P(page), 1, P(page), 1 } },
	{ "pidfd_open", SYS_pidfd_open, { 1, 0 } },
	{ "kill another process", SYS_kill, { 1, SIGTERM } },
	{ "kill everybody", SYS_kill, { -1, SIGKILL } },
	{ "tgkill another process", SYS_tgkill, { 1, 1, SIGTERM } },
	{ "rt_sigqueueinfo", SYS_rt_sigqueueinfo, { 1, SIGTERM, P(page) } },
	{ "fcntl F_SETOWN", SYS_fcntl, { 0, F_SETOWN, 1 } },
	{ "mount", SYS_mount, { P("none"), P("/"), P("tmpfs"), 0, 0 } },
	{ "umount", SYS_umount2, { P("/"), 2 } },
	{ "pivot_root", SYS_pivot_root, { P("."), P(".") } },
	{ "chroot", SYS_chroot, { P("..") } },
	{ "unshare user", SYS_unshare, { CLONE_NEWUSER } },
	{ "setns", SYS_setns, { 0, 0 } },
	{ "clone a user namespace", SYS_clone, { CLONE_NEWUSER | SIGCHLD } },
	{ "clone3", SYS_clone3, { P(page), 88 } },
	{ "vfork", SYS_vfork, { 0 } },
	{ "setuid 0", SYS_setuid, { 0 } },
	{ "capset", SYS_capset, { P(page), P(page) } },
	{ "prctl dumpable", SYS_prctl, { PR_SET_DUMPABLE, 1 } },
	{ "personality", SYS_personality, { 0x0400000 } },
	{ "mprotect executable", SYS_mprotect, { P(page), 4096, PROT_READ | PROT_EXEC } },
	{ "pkey_mprotect executable", SYS_pkey_mprotect, { P(page), 4096, PROT_EXEC, -1 } },
	{ "mmap executable",
	  SYS_mmap,
	  { 0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0 } },
	{ "remap_file_pages", SYS_remap_file_pages, { P(page), 4096, 0, 0, 0 } },
	{ "ioctl TIOCSTI", SYS_ioctl, { 0, TIOCSTI, P("x") } },
	{ "ioctl TIOCLINUX", SYS_ioctl, { 0, TIOCLINUX, P("\3") } },
	{ "ioctl FS_IOC_SETFLAGS", SYS_ioctl, { 0, 0x40086602, P(page) } },
	{ "ioctl TUNSETIFF", SYS_ioctl, { 0, 0x400454ca, P(page) } },
	{ "ioctl KVM_CREATE_DEVICE", SYS_ioctl, { 3, KVM_CREATE_DEVICE, P(page) } },
	{ "ioctl KVM_ASSIGN_SET_MSIX", SYS_ioctl, { 3, 0x4008ae73, P(page) } },
	{ "io_uring_setup", SYS_io_uring_setup, { 4, P(page) } },
	{ "io_uring_register buffers",
	  SYS_io_uring_register,
	  { 8, IORING_REGISTER_BUFFERS, 0, 0 } },
	{ "io_uring_register files", SYS_io_uring_register, { 8, IORING_REGISTER_FILES, 0, 0 } },
	{ "io_uring_register credentials",
	  SYS_io_uring_register,
	  { 8, IORING_REGISTER_PERSONALITY, 0, 0 } },
	{ "io_uring_register restrictions",
	  SYS_io_uring_register,
	  { 8, IORING_REGISTER_RESTRICTIONS, 0, 0 } },
	{ "bpf", SYS_bpf, { 0, P(page), 48 } },
	{ "perf_event_open", SYS_perf_event_open, { P(page), 0, -1, -1, 0 } },
	{ "userfaultfd", SYS_userfaultfd, { 0 } },
	{ "keyctl", SYS_keyctl, { 0, -3, 0 } },
	{ "add_key", SYS_add_key, { P("user"), P("x"), P("x"), 1, -3 } },
	{ "shmget", SYS_shmget, { 0, 4096, 0600 } },
	{ "msgget", SYS_msgget, { 0, 0600 } },
	{ "mq_open", SYS_mq_open, { P("/x"), O_CREAT, 0600, 0 } },
	{ "name_to_handle_at",
	  SYS_name_to_handle_at,
	  { 0, P(""), P(page), P(page), AT_EMPTY_PATH } },
	{ "inotify_init1", SYS_inotify_init1, { 0 } },
	{ "fanotify_init", SYS_fanotify_init, { 0, 0 } },
	{ "reboot", SYS_reboot, { 0xfee1dead, 672274793, 0x1234567, 0 } },
	{ "kexec_load", SYS_kexec_load, { 0, 0, 0, 0 } },
	{ "init_module", SYS_init_module, { P(page), 4096, P("") } },
	{ "sethostname", SYS_sethostname, { P("x"), 1 } },
	{ "settimeofday", SYS_settimeofday, { P(page), 0 } },
	{ "quotactl", SYS_quotactl, { 0, 0, 0, 0 } },
	{ "write of the x32 ABI", 0x40000000 | SYS_write, { 2, P("x32\n"), 4 } },
	{ "entries of its ring", ON_OWN_RING },
	{ "enter another thread's ring", ON_OTHER_RING },
};

/* What --wrap leaves the real ones as. */
int __real_sandbox_filter(struct sandbox *s, enum sandbox_thread kind);
int __wrap_sandbox_filter(struct sandbox *s, enum sandbox_thread kind);
int __real_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				      struct io_uring_params *p);
int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				      struct io_uring_params *p);

static const char *const threads[SANDBOX_NUM_THREADS] = {
	[SANDBOX_THREAD_MAIN] = "main",	  [SANDBOX_THREAD_VCPU] = "vcpu",
	[SANDBOX_THREAD_QUEUE] = "queue", [SANDBOX_THREAD_WORKER] = "worker",
	[SANDBOX_THREAD_FS] = "fs",	  [SANDBOX_THREAD_NET] = "net",
	[SANDBOX_THREAD_TLS] = "tls",	  [SANDBOX_THREAD_FAULT] = "fault",
	[SANDBOX_THREAD_MAKER] = "maker", [SANDBOX_THREAD_MIGRATE] = "migrate",
};

static char orders[128];
static struct hostile_rings rings;
static atomic_bool done;

/* --list prints what there is to try. */
__attribute__((constructor)) static void read_orders(void)
{
	ssize_t n = read(ORDERS_FD, orders, sizeof(orders) - 1);

	if (n < 0 || strcmp(orders, "list"))
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(tries); i++)
		printf("%s\n", tries[i].name);
	exit(0);
}

int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				      struct io_uring_params *p)
{
	int r = __real_io_uring_queue_init_params(entries, ring, p);

	if (!r && rings.num < MAX_RINGS)
		rings.ring[rings.num++] = ring;
	return r;
}

static void say(const char *what, int number)
{
	char line[64];
	int n = snprintf(line, sizeof(line), "hostile: %s %d\n", what, number);

	(void)!write(STDERR_FILENO, line, n);
}

/* The main loop's ring is made first; threads of queues begin with the last one. */
static long attack_rings(enum sandbox_thread kind, long which)
{
	struct io_uring *first = rings.ring[0], *last = first;
	bool owns_last = kind == SANDBOX_THREAD_QUEUE;

	if (rings.num < (which == ON_OWN_RING ? 1 : 2))
		return -ENODEV;
	last = rings.ring[rings.num - 1];
	if (which == ON_OWN_RING)
		return hostile_try_entries(owns_last ? last : first);
	return hostile_enter(owns_last ? first : last);
}

static void attack(const struct hostile_try *t, enum sandbox_thread kind)
{
	long r;

	if (t->nr < 0) {
		r = attack_rings(kind, t->nr);
	} else {
		r = syscall(t->nr, t->arg[0], t->arg[1], t->arg[2], t->arg[3], t->arg[4],
			    t->arg[5]);
		r = r < 0 ? -errno : r;
	}
	say(r < 0 ? "refused" : "DONE", r < 0 ? -r : r);
}

int __wrap_sandbox_filter(struct sandbox *s, enum sandbox_thread kind)
{
	int r = __real_sandbox_filter(s, kind);
	size_t len = strlen(threads[kind]);

	/* Of several threads of a kind the first one does it. */
	if (strncmp(orders, threads[kind], len) || orders[len] != ' ' ||
	    atomic_exchange(&done, true))
		return r;
	say("filtered", r);
	for (unsigned i = 0; i < ARRAY_SIZE(tries); i++)
		if (!strcmp(orders + len + 1, tries[i].name))
			attack(&tries[i], kind);
	return r;
}
