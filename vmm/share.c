#include "vmm/share.h"

#include <errno.h>
#include <fcntl.h>
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
#include "vmm/images/image.h"
#include "vmm/sandbox/sandbox.h"

enum { ROOT_FD = 3, SOCKET_FD = 4 };

static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
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
		.acl = config->acl,
		.kept_xattr = config->is_image,
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
	r = config->read_only ? sandbox_beneath(-1, ROOT_FD) : sandbox_beneath(ROOT_FD, -1);
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

static int start(struct share *s, const struct config_share *config, int *ret_socket,
		 struct error *err)
{
	int pair[2], r, root = open(config->path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (root < 0)
		return error_usage(err, -errno, "%s '%s': cannot open: %m",
				   config->is_root ? "--rootfs" : "--share", config->path);
	/* Else it is the guest that finds out, and nobody there knows why. */
	if (faccessat(root, ".", R_OK | X_OK, AT_EACCESS) < 0) {
		r = error_usage(err, -errno, "%s '%s': cannot read: %m",
				config->is_root ? "--rootfs" : "--share", config->path);
		close(root);
		return r;
	}
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

int share_start(struct share *s, const struct config_share *config, int *ret_socket,
		struct error *err)
{
	struct config_share tree = *config;
	int r = config->is_root ? image_find(config->path, &tree.path, err) : 0;

	if (r < 0)
		return r;
	if (!r)
		return start(s, config, ret_socket, err);
	/* Nobody changes it: it is also that of others, and of later runs. */
	tree.read_only = true;
	tree.cache = FS_CACHE_ALWAYS;
	tree.is_image = true;
	tree.xattr = config->xattr && image_has_xattrs(tree.path);
	tree.acl = config->acl && tree.xattr;
	r = start(s, &tree, ret_socket, err);
	free(tree.path);
	return r;
}

void share_mourn(struct share *s, const struct config_share *config)
{
	int status;

	if (s->pid <= 0 || waitpid(s->pid, &status, WNOHANG) != s->pid)
		return;
	s->pid = 0;
	if (WIFSIGNALED(status))
		log_warn("--share '%s': who served it was killed by signal %d: its files are out "
			 "of the guest's reach",
			 config->tag, WTERMSIG(status));
	else if (WEXITSTATUS(status))
		log_warn("--share '%s': who served it has ended: its files are out of the guest's "
			 "reach",
			 config->tag);
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
