#include "helpers/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "helpers/jail_cgroup.h"
#include "vmm/default_guest.h"

#define MAX_ARGUMENTS 128

/* Room for the path of the jail, and for one in it. */
#define ROOT_SIZE (PATH_MAX + 400)
#define PATH_SIZE (ROOT_SIZE + 400)

/* A file that is ours alone to make; everything else in the jail is root's. */
#define EXECUTABLE 0555

static int fail(struct error *err, const char *what, const char *path)
{
	return error_set(err, -errno, "Failed to %s %s: %m", what, path);
}

/* All of @path. */
static int make_path(const char *path, mode_t mode, struct error *err)
{
	char part[PATH_SIZE];

	for (size_t i = 1;; i++) {
		if (path[i] && path[i] != '/')
			continue;
		snprintf(part, sizeof(part), "%.*s", (int)i, path);
		if (mkdir(part, mode) < 0 && errno != EEXIST)
			return fail(err, "create directory", part);
		if (!path[i])
			return 0;
	}
}

/*
 * @below of the jail, all of which has to be directories. Who ran there before, and may write
 * there, could have left links in their place, which lead to where only root may make files.
 */
static int make_below(const char *root, const char *below, mode_t mode, struct error *err)
{
	size_t root_len = strlen(root);
	char path[PATH_SIZE], part[PATH_SIZE];
	struct stat st;

	snprintf(path, sizeof(path), "%s%s", root, below);
	for (size_t i = root_len;; i++) {
		if (path[i] && (path[i] != '/' || i == root_len))
			continue;
		snprintf(part, sizeof(part), "%.*s", (int)i, path);
		if (mkdir(part, mode) < 0 && errno != EEXIST)
			return fail(err, "create directory", part);
		if (lstat(part, &st) < 0)
			return fail(err, "find", part);
		if (!S_ISDIR(st.st_mode)) {
			errno = ENOTDIR;
			return fail(err, "use", part);
		}
		if (!path[i])
			return 0;
	}
}

/* The file @from as @to, which must not be there. */
static int copy_file(const char *from, const char *to, struct error *err)
{
	int in = open(from, O_RDONLY | O_CLOEXEC), out, r = 0;
	struct stat st;
	off_t done = 0;

	if (in < 0)
		return fail(err, "open", from);
	unlink(to);
	out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, EXECUTABLE);
	if (out < 0 || fstat(in, &st) < 0)
		r = fail(err, "copy to", to);
	while (!r && done < st.st_size) {
		ssize_t n;

		/* Its end comes too early where somebody writes it just now. */
		errno = EIO;
		n = sendfile(out, in, &done, st.st_size - done);
		if (n <= 0)
			r = fail(err, "copy to", to);
	}
	close(in);
	if (out >= 0)
		close(out);
	return r;
}

/* ---- what is in it ---- */

/* wisp under the name that was asked for, and what it runs itself. */
static int copy_programs(const struct jail *j, const char *root, const char *name,
			 struct error *err)
{
	static const char *const names[] = { "wisp", "wisp-api", "wisp-net" };
	char dir[PATH_MAX], from[PATH_SIZE], to[PATH_SIZE];
	int r;

	snprintf(to, sizeof(to), "%s/%s", root, name);
	r = copy_file(j->exec_file, to, err);
	if (!r && executable_dir(dir, sizeof(dir)) < 0)
		r = fail(err, "find", "/proc/self/exe");
	for (unsigned i = 0; i < ARRAY_SIZE(names) && !r; i++) {
		snprintf(from, sizeof(from), "%s/%s", dir, names[i]);
		/* Installed, the helpers are in a directory of their own. */
		if (access(from, X_OK) < 0)
			snprintf(from, sizeof(from), "%s/../../bin/%s", dir, names[i]);
		snprintf(to, sizeof(to), "%s/%s", root, names[i]);
		r = copy_file(from, to, err);
	}
	return r;
}

static int make_device(const struct jail *j, const char *root, const char *name, unsigned major,
		       unsigned minor, struct error *err)
{
	char path[PATH_SIZE];

	snprintf(path, sizeof(path), "%s/dev/%s", root, name);
	unlink(path);
	if (mknod(path, S_IFCHR | 0600, makedev(major, minor)) < 0 ||
	    lchown(path, j->uid, j->gid) < 0)
		return fail(err, "create device", path);
	return 0;
}

/* The number of a device of many minors (/proc/misc), or -1 where there is none. */
static int misc_minor(const char *name)
{
	FILE *f = fopen("/proc/misc", "re");
	char found[64];
	int minor, ret = -1;

	while (f && fscanf(f, "%d %63s", &minor, found) == 2)
		if (!strcmp(found, name))
			ret = minor;
	if (f)
		fclose(f);
	return ret;
}

static int make_devices(const struct jail *j, const char *root, struct error *err)
{
	int uffd = misc_minor("userfaultfd");
	int r = make_device(j, root, "kvm", 10, 232, err);

	if (!r)
		r = make_device(j, root, "net/tun", 10, 200, err);
	if (!r)
		r = make_device(j, root, "urandom", 1, 9, err);
	if (!r)
		r = make_device(j, root, "null", 1, 3, err);
	if (!r && uffd >= 0)
		r = make_device(j, root, "userfaultfd", 10, uffd, err);
	return r;
}

/* Directories, of which those at the end are what runs there may write to. */
static int make_directories(const struct jail *j, const char *root, struct error *err)
{
	static const char *const names[] = { "/dev/net", "/proc", "/run", "/tmp", "" };
	char path[PATH_SIZE];
	int r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(names) && !r; i++) {
		snprintf(path, sizeof(path), "%s%s", root, names[i]);
		r = make_below(root, names[i], 0700, err);
		if (!r && lchown(path, j->uid, j->gid) < 0)
			r = fail(err, "change the owner of", path);
	}
	snprintf(path, sizeof(path), "%s/dev", root);
	if (!r && lchown(path, j->uid, j->gid) < 0)
		r = fail(err, "change the owner of", path);
	return r;
}

/* The host's libraries, to be read: wisp is static, its helpers are not. */
static int bind_libraries(const char *root, struct error *err)
{
	static const char *const dirs[] = { "/lib", "/lib64", "/usr/lib" };
	char path[PATH_SIZE];
	int r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(dirs) && !r; i++) {
		if (access(dirs[i], F_OK) < 0)
			continue;
		snprintf(path, sizeof(path), "%s%s", root, dirs[i]);
		r = make_below(root, dirs[i], 0755, err);
		if (r < 0)
			break;
		if (mount(dirs[i], path, NULL, MS_BIND | MS_REC, NULL) < 0 ||
		    mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV,
			  NULL) < 0)
			r = fail(err, "mount", path);
	}
	return r;
}

/* ---- the way in ---- */

static int join_netns(const char *path, struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), r = 0;

	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
		r = error_set(err, -errno, "Failed to join network namespace: netns: %m");
	if (fd >= 0)
		close(fd);
	return r;
}

static int set_limit(int resource, const char *name, unsigned long long n, struct error *err)
{
	struct rlimit limit = { n, n };

	if (n && setrlimit(resource, &limit) < 0)
		return error_set(err, -errno, "Failed to set limit for resource: %s", name);
	return 0;
}

static int change_root(const char *root, struct error *err)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ||
	    mount(root, root, NULL, MS_BIND | MS_REC, NULL) < 0)
		return fail(err, "mount", root);
	return 0;
}

static int pivot(const char *root, struct error *err)
{
	if (chdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
		return fail(err, "pivot to", root);
	/* The old root lies over the new one now. */
	if (umount2(".", MNT_DETACH) < 0)
		return fail(err, "unmount", "the old root");
	if (chdir("/") < 0)
		return fail(err, "change to", "/");
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return fail(err, "mount", "/proc");
	return 0;
}

static int save_pid(const struct jail *j, const char *name, pid_t pid, struct error *err)
{
	char path[PATH_MAX];
	int fd, r = 0;

	snprintf(path, sizeof(path), "/%s.pid", name);
	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0 || dprintf(fd, "%d", pid) < 0 || fchown(fd, j->uid, j->gid) < 0)
		r = fail(err, "write", path);
	if (fd >= 0)
		close(fd);
	return r;
}

/* Of nobody's session, with nothing to read or write: the parent ends. */
static int become_daemon(struct error *err)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return fail(err, "open", "/dev/null");
	for (unsigned i = 0; i < 2; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return fail(err, "fork", "a daemon");
		if (pid > 0)
			_exit(0);
		if (i == 0 && setsid() < 0)
			return error_set(err, -errno, "Failed to daemonize: setsid: %m");
	}
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
	return 0;
}

static uint64_t now_us(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* Give up all we are but @uid and @gid, and become what runs there. */
static int run(const struct jail *j, const char *name, struct error *err)
{
	static char run_dir[] = "XDG_RUNTIME_DIR=/run";
	char *env[] = { run_dir, NULL };
	char path[PATH_MAX], words[3][40], id[80], *argv[MAX_ARGUMENTS + 6];
	unsigned n = 0;

	snprintf(path, sizeof(path), "/%s", name);
	snprintf(id, sizeof(id), "--id=%s", j->id);
	snprintf(words[0], sizeof(words[0]), "--start-time-us=%" PRIu64, now_us(CLOCK_MONOTONIC));
	snprintf(words[1], sizeof(words[1]), "--start-time-cpu-us=%" PRIu64,
		 now_us(CLOCK_PROCESS_CPUTIME_ID));
	snprintf(words[2], sizeof(words[2]), "--parent-cpu-time-us=0");
	argv[n++] = path;
	argv[n++] = id;
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		argv[n++] = words[i];
	for (unsigned i = 0; i < MAX_ARGUMENTS && j->arguments[i]; i++)
		argv[n++] = j->arguments[i];
	argv[n] = NULL;
	if (setgroups(0, NULL) < 0 || setresgid(j->gid, j->gid, j->gid) < 0 ||
	    setresuid(j->uid, j->uid, j->uid) < 0)
		return fail(err, "become", "the user");
	execve(path, argv, env);
	return fail(err, "exec into", name);
}

/* In a PID namespace of its own what runs is init; we leave, telling its number. */
static int run_as_init(const struct jail *j, const char *name, struct error *err)
{
	pid_t pid;

	if (unshare(CLONE_NEWPID) < 0)
		return fail(err, "unshare", "a PID namespace");
	pid = fork();
	if (pid < 0)
		return fail(err, "fork into", "a PID namespace");
	if (pid > 0) {
		int r = save_pid(j, name, pid, err);

		if (r < 0)
			return r;
		_exit(0);
	}
	if (getsid(0) == getppid())
		setsid();
	/* Processes are numbered anew, also for /proc. */
	if (umount2("/proc", MNT_DETACH) < 0 ||
	    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return fail(err, "mount", "/proc");
	return run(j, name, err);
}

int jail_enter(const struct jail *j, struct error *err)
{
	char base[PATH_MAX], given[PATH_MAX], root[ROOT_SIZE], path[PATH_SIZE];
	const char *name;
	struct stat st;
	int r;

	if (!realpath(j->base, base))
		return error_set(err, -errno, "Failed to canonicalize path %s: %m", j->base);
	if (stat(j->exec_file, &st) < 0)
		return error_set(err, -errno, "Failed to canonicalize path %s: %m", j->exec_file);
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "%s is not a file", j->exec_file);
	/* By the name it was given: wisp knows what to be by that. */
	snprintf(given, sizeof(given), "%s", j->exec_file);
	name = basename(given);
	snprintf(root, sizeof(root), "%s/%.200s/%s/root", base, name, j->id);
	umask(022);
	r = make_path(root, 0700, err);
	/* Who waits for it is not to find that of whoever was here before. */
	snprintf(path, sizeof(path), "%s/%s.pid", root, name);
	unlink(path);
	if (!r)
		r = copy_programs(j, root, name, err);
	if (!r)
		r = make_directories(j, root, err);
	if (!r)
		r = make_devices(j, root, err);
	if (!r)
		r = jail_join_cgroups(j, "/proc/mounts", name, err);
	if (!r && j->netns)
		r = join_netns(j->netns, err);
	if (!r)
		r = set_limit(RLIMIT_FSIZE, "fsize", j->max_file, err);
	if (!r)
		r = set_limit(RLIMIT_NOFILE, "no-file", j->max_files, err);
	if (!r && j->daemonize)
		r = become_daemon(err);
	if (!r && unshare(CLONE_NEWNS) < 0)
		r = error_set(err, -errno, "Failed to unshare into new mount namespace: %m");
	if (!r)
		r = change_root(root, err);
	if (!r)
		r = bind_libraries(root, err);
	if (!r)
		r = pivot(root, err);
	if (r < 0)
		return r;
	if (j->new_pid_ns)
		return run_as_init(j, name, err);
	r = save_pid(j, name, getpid(), err);
	return r < 0 ? r : run(j, name, err);
}
