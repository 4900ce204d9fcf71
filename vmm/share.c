#include "vmm/share.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/fs.h"
#include "vmm/sandbox.h"

enum { ROOT_FD = 3, SOCKET_FD = 4 };

/* Moving files between directories is possible under Landlock from this version on. */
#define LANDLOCK_WITH_REFER 2

static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

/* Of root's privileges, those by which files get the owners that a guest gives them. */
static void limit_privileges(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];
	const uint32_t keep = 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE |
			      1u << CAP_DAC_READ_SEARCH | 1u << CAP_FOWNER | 1u << CAP_FSETID |
			      1u << CAP_SETGID | 1u << CAP_SETUID | 1u << CAP_SETFCAP;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (syscall(SYS_capget, &head, caps) < 0)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(caps); i++) {
		caps[i].effective &= i ? 0 : keep;
		caps[i].permitted &= i ? 0 : keep;
		caps[i].inheritable = 0;
	}
	syscall(SYS_capset, &head, caps);
}

/* Everything beneath the directory and nothing elsewhere. -errno when the host cannot do that. */
static int lock_beneath(bool read_only)
{
	const uint64_t reading = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
	struct landlock_ruleset_attr rules = { 0 };
	struct landlock_path_beneath_attr beneath = { .parent_fd = ROOT_FD };
	int version = sandbox_landlock_version(), fd, r;

	if (version < LANDLOCK_WITH_REFER)
		return version < 0 ? version : -EOPNOTSUPP;
	rules.handled_access_fs = (LANDLOCK_ACCESS_FS_REFER << 1) - 1;
	beneath.allowed_access = read_only ? reading : rules.handled_access_fs;
	fd = syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules.handled_access_fs), 0);
	if (fd < 0)
		return -errno;
	r = syscall(SYS_landlock_add_rule, fd, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0);
	if (!r)
		r = syscall(SYS_landlock_restrict_self, fd, 0);
	r = r < 0 ? -errno : 0;
	close(fd);
	return r;
}

static __attribute__((noreturn)) void serve(const struct config_share *config, int root, int socket,
					    bool confine)
{
	struct fs_server_config server = {
		.root_fd = ROOT_FD,
		.cache = config->cache,
		.read_only = config->read_only,
		.writeback = config->writeback,
		.no_xattr = !config->xattr,
	};
	struct error err = { 0 };
	struct fs_server *s;
	sigset_t none;
	int r;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "wisp-fs");
	/* Terminal signals are the parent's to act on. */
	setpgid(0, 0);
	/* Away from their places first, so that neither overwrites the other. */
	root = fcntl(root, F_DUPFD_CLOEXEC, 10);
	socket = fcntl(socket, F_DUPFD_CLOEXEC, 10);
	if (dup2(root, ROOT_FD) < 0 || dup2(socket, SOCKET_FD) < 0)
		_exit(1);
	close_range(SOCKET_FD + 1, ~0u, 0);
	log_setup(STDERR_FILENO, LOG_WARN);
	/* Modes are what the guest says: its own umask is in them. */
	umask(0);
	limit_privileges();
	r = lock_beneath(config->read_only);
	if (r < 0)
		log_info("shared directory: goes without Landlock: %s", strerror(-r));
	if (fs_server_create(&s, &server, &err) < 0) {
		error_print(&err);
		_exit(1);
	}
	r = confine ? sandbox_filter_helper(SANDBOX_THREAD_FS) : 0;
	if (r < 0)
		log_info("shared directory: goes without a system call filter: %s", strerror(-r));
	fs_server_serve(s, SOCKET_FD);
	/* All its memory and files go with it. */
	_exit(0);
}

int share_start(struct share *s, const struct config_share *config, int *ret_socket,
		struct error *err)
{
	int pair[2], r, root = open(config->path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (root < 0)
		return error_usage(err, -errno, "%s '%s': cannot open: %m",
				   config->is_root ? "--rootfs" : "--share", config->path);
	raise_file_limit();
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		r = error_kind_set(err, ERROR_START, -errno, "shared directory: socket: %m");
		close(root);
		return r;
	}
	s->pid = fork();
	if (s->pid == 0)
		serve(config, root, pair[1], !s->no_filter);
	r = s->pid < 0 ? error_kind_set(err, ERROR_START, -errno, "shared directory: fork: %m") : 0;
	close(root);
	close(pair[1]);
	if (r < 0) {
		s->pid = 0;
		close(pair[0]);
		return r;
	}
	*ret_socket = pair[0];
	return 0;
}

void share_stop(struct share *s)
{
	if (s->pid <= 0)
		return;
	kill(s->pid, SIGKILL);
	while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
		;
	s->pid = 0;
}
