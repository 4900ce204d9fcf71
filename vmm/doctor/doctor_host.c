/* What the rest of the host offers: I/O, networks, memory, and means to confine processes. */
#include "vmm/doctor/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/net_vhost.h"
#include "vmm/sandbox/sandbox.h"

bool doctor_read_line(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n < 0)
		return false;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return true;
}

static void check_kernel(struct doctor *d)
{
	struct utsname u;
	int major = 0, minor = 0;

	if (uname(&u) < 0 || sscanf(u.release, "%d.%d", &major, &minor) != 2)
		return;
	if (major < 6 || (major == 6 && minor < 1))
		doctor_say(d, DOCTOR_WARN, "kernel", "6.1 or newer is what wisp is tested on",
			   "Linux %s", u.release);
	else
		doctor_say(d, DOCTOR_OK, "kernel", NULL, "Linux %s", u.release);
}

static void check_io_uring(struct doctor *d)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
	};
	int fd = syscall(SYS_io_uring_setup, 4, &p);

	if (fd < 0 && errno == EINVAL) {
		memset(&p, 0, sizeof(p));
		fd = syscall(SYS_io_uring_setup, 4, &p);
		if (fd >= 0) {
			doctor_say(d, DOCTOR_WARN, "io_uring", "Linux 6.1 or newer",
				   "works, without deferred task work");
			close(fd);
			return;
		}
	}
	if (fd < 0) {
		doctor_say(d, DOCTOR_WARN, "io_uring",
			   errno == ENOSYS ? "a kernel with CONFIG_IO_URING"
					   : "sysctl kernel.io_uring_disabled=0, or a container "
					     "profile that allows io_uring_setup",
			   "not allowed: %m; epoll and threads take its place");
		return;
	}
	doctor_say(d, DOCTOR_OK, "io_uring", NULL, "works, with deferred task work");
	close(fd);
}

static void check_tap(struct doctor *d)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		doctor_say(d, DOCTOR_WARN, "tap",
			   errno == ENOENT ? "modprobe tun; user networking works without"
					   : "let your user open /dev/net/tun; user networking "
					     "works without",
			   "cannot open /dev/net/tun: %m");
		return;
	}
	doctor_say(d, DOCTOR_OK, "tap", NULL, "/dev/net/tun opens");
	close(fd);
}

static void check_vhost(struct doctor *d)
{
	struct error err = { 0 };
	int fd = net_vhost_open(&err);

	if (fd < 0) {
		doctor_say(d, DOCTOR_WARN, "vhost-net",
			   fd == -EACCES || fd == -EPERM
				   ? "let your user open " NET_VHOST_DEVICE "; vhost=on needs it"
				   : "modprobe vhost_net; vhost=on needs it",
			   "%s", err.msg);
		return;
	}
	doctor_say(d, DOCTOR_OK, "vhost-net", NULL, NET_VHOST_DEVICE " opens and can what we ask");
	close(fd);
}

static void check_seccomp(struct doctor *d)
{
	unsigned action = SECCOMP_RET_KILL_PROCESS;

	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0)
		doctor_say(d, DOCTOR_WARN, "seccomp", "a kernel with CONFIG_SECCOMP_FILTER",
			   "no filters of system calls: %m");
	else
		doctor_say(d, DOCTOR_OK, "seccomp", NULL, "system calls can be filtered");
}

static void check_landlock(struct doctor *d)
{
	int abi = sandbox_landlock_version();

	errno = -abi;
	if (abi < 0)
		doctor_say(d, DOCTOR_WARN, "landlock",
			   "boot the kernel with lsm=landlock,... and CONFIG_SECURITY_LANDLOCK",
			   "not available: %m");
	else
		doctor_say(d, DOCTOR_OK, "landlock", NULL, "ABI %d", abi);
}

/* The version 2 cgroup of this process: what follows "0::" in /proc/self/cgroup. */
static bool own_cgroup(char *path, size_t size)
{
	char line[256];
	FILE *f = fopen("/proc/self/cgroup", "re");
	bool found = false;

	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		found = !strncmp(line, "0::", 3);
	}
	fclose(f);
	if (found)
		snprintf(path, size, "/sys/fs/cgroup%s", line + 3);
	return found;
}

static void check_cgroup(struct doctor *d)
{
	char path[300], file[340];

	if (!own_cgroup(path, sizeof(path)) || access("/sys/fs/cgroup/cgroup.controllers", F_OK)) {
		doctor_say(d, DOCTOR_WARN, "cgroup", "boot with systemd.unified_cgroup_hierarchy=1",
			   "no version 2 hierarchy at /sys/fs/cgroup");
		return;
	}
	snprintf(file, sizeof(file), "%s/cgroup.procs", path);
	if (access(path, W_OK) || access(file, W_OK))
		doctor_say(d, DOCTOR_WARN, "cgroup",
			   "start wisp by 'systemd-run --user --scope -p Delegate=yes wisp ...'",
			   "version 2, but %.120s is not ours to divide", path);
	else
		doctor_say(d, DOCTOR_OK, "cgroup", NULL, "version 2, %.120s is ours to divide",
			   path);
}

static void check_user_namespaces(struct doctor *d)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(unshare(CLONE_NEWUSER) < 0 ? errno : 0);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return;
	errno = WEXITSTATUS(status);
	if (errno)
		doctor_say(
			d, DOCTOR_WARN, "user-namespaces",
			"sysctl kernel.unprivileged_userns_clone=1 (Debian), "
			"kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), or a root file "
			"system that is no plain chroot",
			"cannot be made: %m");
	else
		doctor_say(d, DOCTOR_OK, "user-namespaces", NULL, "can be made");
}

static void check_huge_pages(struct doctor *d)
{
	char buf[64], *chosen;
	long pages;

	if (!doctor_read_line("/sys/kernel/mm/transparent_hugepage/enabled", buf, sizeof(buf))) {
		doctor_say(d, DOCTOR_WARN, "transparent-huge-pages",
			   "a kernel with CONFIG_TRANSPARENT_HUGEPAGE", "not there");
	} else {
		/* "always [madvise] never" */
		chosen = strchr(buf, '[');
		if (chosen)
			chosen[1 + strcspn(chosen + 1, "]")] = '\0';
		if (chosen && !strcmp(chosen, "[never"))
			doctor_say(d, DOCTOR_WARN, "transparent-huge-pages",
				   "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
				   "switched off");
		else
			doctor_say(d, DOCTOR_OK, "transparent-huge-pages", NULL, "%s",
				   chosen ? chosen + 1 : buf);
	}
	if (!doctor_read_line("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", buf,
		       sizeof(buf)))
		return;
	pages = strtol(buf, NULL, 10);
	if (pages > 0)
		doctor_say(d, DOCTOR_OK, "huge-pages", NULL, "%ld of 2 MiB free for --hugepages",
			   pages);
	else
		doctor_say(d, DOCTOR_WARN, "huge-pages",
			   "sysctl vm.nr_hugepages=N, if you want to use --hugepages",
			   "none of 2 MiB is free for --hugepages");
}

static void check_userfaultfd(struct doctor *d)
{
	char buf[16] = "0";

	if (access("/dev/userfaultfd", R_OK | W_OK) == 0)
		doctor_say(d, DOCTOR_OK, "userfaultfd", NULL,
			   "/dev/userfaultfd, for kernel faults "
			   "too");
	else if (geteuid() == 0 ||
		 (doctor_read_line("/proc/sys/vm/unprivileged_userfaultfd", buf, sizeof(buf)) &&
		  buf[0] == '1'))
		doctor_say(d, DOCTOR_OK, "userfaultfd", NULL,
			   "by system call, for kernel faults "
			   "too");
	else
		doctor_say(d, DOCTOR_WARN, "userfaultfd",
			   "let your user open /dev/userfaultfd, if you want to fetch memory on "
			   "demand (restore --memory-backend uffd), or to receive guests by "
			   "migrate --postcopy",
			   "only for faults of this process's own code");
}

void doctor_check_host(struct doctor *d)
{
	check_kernel(d);
	check_io_uring(d);
	check_tap(d);
	check_vhost(d);
	check_seccomp(d);
	check_landlock(d);
	check_cgroup(d);
	check_user_namespaces(d);
	check_huge_pages(d);
	check_userfaultfd(d);
	doctor_check_speculation(d, "");
}
