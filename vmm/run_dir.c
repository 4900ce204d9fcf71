#include "vmm/run_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/core/io.h"
#include "vmm/core/log.h"

/* Connections that wait for the monitor, which takes them as soon as its loop runs. */
#define BACKLOG 16

/*
 * A directory whose name begins so is being made, with NEW behind it, or removed, with the process
 * id of who does it.
 */
#define HIDDEN ".wisp-"
#define NEW    "new."

/* ---- RUNDIR ---- */

/* Only for us: in a directory that others may write to, they could put a socket of their own. */
static int check_root(const char *path, bool strict, struct error *err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? -ENOENT :
					 error_usage(err, -errno, "run directory '%s': %m", path);
	if (!S_ISDIR(st.st_mode))
		return error_usage(err, -ENOTDIR, "run directory '%s': %m", path);
	if (st.st_uid != geteuid())
		return error_usage(err, -EPERM, "run directory '%s' belongs to user %u, not to us",
				   path, st.st_uid);
	if (st.st_mode & (strict ? 077 : 022))
		return error_usage(err, -EPERM,
				   "run directory '%s' is open to other users (mode %03o)", path,
				   st.st_mode & 0777);
	return 0;
}

static int default_root(char *buf, size_t size)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int n;

	if (runtime && *runtime == '/') {
		n = snprintf(buf, size, "%s/wisp", runtime);
	} else {
		unsigned uid = geteuid();

		snprintf(buf, size, "/run/user/%u", uid);
		n = snprintf(buf, size,
			     access(buf, W_OK | X_OK) == 0 ? "/run/user/%u/wisp" : "/tmp/wisp-%u",
			     uid);
	}
	return (size_t)n < size ? 0 : -ENAMETOOLONG;
}

int run_dir_root(char *buf, size_t size, const char *given, bool create, struct error *err)
{
	int r;

	if (given)
		r = (size_t)snprintf(buf, size, "%s", given) < size ? 0 : -ENAMETOOLONG;
	else
		r = default_root(buf, size);
	if (r < 0)
		return error_usage(err, r, "run directory: %m");
	/* One call when it is there, as it nearly always is. */
	if (create && mkdir(buf, 0700) < 0 && errno != EEXIST)
		return error_usage(err, -errno, "run directory '%s': cannot make it: %m", buf);
	r = check_root(buf, !given, err);
	if (r == -ENOENT && given)
		error_usage(err, r, "run directory '%s': %m", buf);
	return r;
}

/* ---- sockets ---- */

/*
 * The address of @dir/@name. Longer than an address may be, it leads through a descriptor of
 * the directory, to be closed afterwards; else @ret_fd is -1.
 */
static int socket_address(struct sockaddr_un *addr, const char *dir, const char *name, int *ret_fd)
{
	int n;

	*ret_fd = -1;
	addr->sun_family = AF_UNIX;
	n = snprintf(addr->sun_path, sizeof(addr->sun_path), "%s/%s", dir, name);
	if ((size_t)n < sizeof(addr->sun_path))
		return 0;
	*ret_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*ret_fd < 0)
		return -errno;
	snprintf(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d/%s", *ret_fd, name);
	return 0;
}

/* Returns the connected socket. */
static int connect_in(const char *dir, const char *name, int type)
{
	struct sockaddr_un addr;
	int fd, dir_fd, r;

	r = socket_address(&addr, dir, name, &dir_fd);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	r = fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
	if (r < 0 && fd >= 0)
		close(fd);
	if (dir_fd >= 0)
		close(dir_fd);
	return r < 0 ? r : fd;
}

/* Returns the listening socket. */
static int listen_in(const char *dir, const char *name)
{
	struct sockaddr_un addr;
	int fd, dir_fd, r;

	r = socket_address(&addr, dir, name, &dir_fd);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    listen(fd, BACKLOG) < 0) {
		r = -errno;
		if (fd >= 0)
			close(fd);
	}
	if (dir_fd >= 0)
		close(dir_fd);
	return r < 0 ? r : fd;
}

/* ---- one microVM's directory ---- */

static void lock_file(int fd)
{
	while (flock(fd, LOCK_EX) < 0 && errno == EINTR)
		;
}

static void unlock(int fd)
{
	if (fd >= 0)
		close(fd);
}

/* Removes files only: whoever put a directory into ours may keep it. */
static void remove_directory(const char *path)
{
	struct dirent *e;
	DIR *d = opendir(path);

	while (d && (e = readdir(d)))
		unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(path);
}

/*
 * The cgroup that a dead microVM left: empty by now, or it stays, since rmdir() takes no other.
 * Who wrote the link is who we are; all the same it names nothing but what we make.
 */
static void remove_cgroup(const char *dir)
{
	char link[PATH_MAX + 64], path[PATH_MAX];
	const char *last;
	ssize_t n;

	snprintf(link, sizeof(link), "%s/" RUN_DIR_CGROUP, dir);
	n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0)
		return;
	path[n] = '\0';
	last = strrchr(path, '/');
	if (last && !strncmp(last, "/wisp-", 6))
		rmdir(path);
}

static void remove_dead(const char *path)
{
	remove_cgroup(path);
	remove_directory(path);
}

/*
 * Make a directory that has not got its name yet, @ret_path. Returns a descriptor that holds it,
 * for the caller to close once it has: one that nobody holds is what somebody killed has left.
 * Process ids would not tell, where several PID namespaces share @root.
 */
static int make_hidden(char *ret_path, size_t size, const char *root)
{
	struct stat st;
	int fd, r;

	for (;;) {
		if ((size_t)snprintf(ret_path, size, "%s/" HIDDEN NEW "XXXXXX", root) >= size)
			return -ENAMETOOLONG;
		if (!mkdtemp(ret_path))
			return -errno;
		fd = open(ret_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 && errno != ENOENT) {
			r = -errno;
			rmdir(ret_path);
			return r;
		}
		/* Where there are no such locks nobody removes it either. */
		if (fd >= 0)
			lock_file(fd);
		/* Before that somebody may have taken it for one that is left. */
		if (fd >= 0 && fstat(fd, &st) == 0 && st.st_nlink)
			return fd;
		unlock(fd);
	}
}

/* What one of us calls a directory that has no name any more. */
static int hidden_path(char *buf, size_t size, const char *root)
{
	return (size_t)snprintf(buf, size, "%s/" HIDDEN "%d", root, getpid()) < size ?
		       0 :
		       -ENAMETOOLONG;
}

/*
 * Did whoever made this directory die? Only one with a socket that nobody listens to is taken
 * for that: any other is not ours to remove.
 */
static bool is_dead(const char *path)
{
	char socket_path[PATH_MAX + 64];
	struct stat st;
	int fd;

	snprintf(socket_path, sizeof(socket_path), "%s/" RUN_DIR_CONTROL, path);
	if (lstat(socket_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	fd = connect_in(path, RUN_DIR_CONTROL, SOCK_SEQPACKET | SOCK_NONBLOCK);
	if (fd >= 0)
		close(fd);
	return fd == -ECONNREFUSED;
}

/*
 * Whoever takes the name @path from a dead one, or removes that, holds this from his last look on:
 * a microVM that was given the name meanwhile would lose its directory. Close it to let go. A name
 * that is free is taken without: rename() replaces nothing that has a socket in it. Where there are
 * no such locks (-1 where the directory cannot even be opened) there is only the look.
 */
static int lock_above(const char *path)
{
	char above[PATH_MAX];
	size_t len = (size_t)snprintf(above, sizeof(above), "%s", path);
	int fd;

	if (len >= sizeof(above))
		return -1;
	while (len && above[len - 1] == '/')
		len--;
	while (len && above[len - 1] != '/')
		len--;
	above[len] = '\0';
	fd = open(len ? above : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		lock_file(fd);
	return fd;
}

/* Was the microVM of @path killed? Then all that it left is gone. */
static bool remove_if_dead(const char *path)
{
	bool dead = is_dead(path);
	int lock;

	if (!dead)
		return false;
	lock = lock_above(path);
	dead = is_dead(path);
	if (dead)
		remove_dead(path);
	unlock(lock);
	return dead;
}

/* As rename(), with -EEXIST when something is there already. */
static int rename_to(const char *from, const char *to)
{
	if (rename(from, to) == 0)
		return 0;
	return errno == ENOTEMPTY ? -EEXIST : -errno;
}

/* Give the directory @from, which listens, the name @to; one that a dead microVM left gives way. */
static int take_name(const char *from, const char *to)
{
	int r = rename_to(from, to), lock;

	if (r != -EEXIST)
		return r;
	lock = lock_above(to);
	if (is_dead(to))
		remove_dead(to);
	/* What was there may be gone by now in any case. */
	r = rename_to(from, to);
	unlock(lock);
	return r;
}

int run_dir_create(struct run_dir *dir, const char *root, const char *id, struct error *err)
{
	char base[PATH_MAX - 300], hidden[PATH_MAX];
	int lock, r;

	/* Whoever checked it before: a name is no way out of the directory. */
	if (!*id || *id == '.' || strchr(id, '/'))
		return error_usage(err, -EINVAL, "'%s' is no name for a microVM", id);
	r = run_dir_root(base, sizeof(base), root, true, err);
	if (r < 0)
		return r;
	snprintf(dir->path, sizeof(dir->path), "%s/%s", base, id);
	/* Without its name until it listens: nobody sees a directory to be taken for a dead one. */
	lock = make_hidden(hidden, sizeof(hidden), base);
	if (lock < 0)
		return error_usage(err, lock, "run directory '%s': cannot make it: %m", dir->path);
	dir->listen_fd = listen_in(hidden, RUN_DIR_CONTROL);
	r = dir->listen_fd < 0 ? dir->listen_fd : take_name(hidden, dir->path);
	if (r < 0)
		remove_directory(hidden);
	unlock(lock);
	if (r == 0)
		return 0;
	if (dir->listen_fd >= 0)
		close(dir->listen_fd);
	dir->listen_fd = -1;
	if (r == -EEXIST)
		return error_usage(err, r, "--name: a microVM '%s' is running", id);
	return error_usage(err, r, "run directory '%s': %m", dir->path);
}

unsigned run_dir_free_number(const char *root, const char *stem, unsigned from)
{
	char base[PATH_MAX - 300], path[PATH_MAX];

	if (run_dir_root(base, sizeof(base), root, false, NULL) < 0)
		return from;
	for (;; from++) {
		snprintf(path, sizeof(path), "%s/%s-%u", base, stem, from);
		if (access(path, F_OK) < 0 || is_dead(path))
			return from;
	}
}

int run_dir_may_move(struct run_dir *dir)
{
	int fd = open(dir->path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	dir->moving_fd = fd;
	return 0;
}

/* What the directory is called by now. */
static void find_path(struct run_dir *dir)
{
	char link[64];
	ssize_t n;

	if (dir->moving_fd <= 0)
		return;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", dir->moving_fd);
	n = readlink(link, dir->path, sizeof(dir->path) - 1);
	if (n > 0)
		dir->path[n] = '\0';
	close(dir->moving_fd);
	dir->moving_fd = 0;
}

int run_dir_rename(const char *root, const char *from, const char *to, struct error *err)
{
	char base[PATH_MAX - 300], old[PATH_MAX], new[PATH_MAX];
	int r = run_dir_root(base, sizeof(base), root, false, err);

	if (r < 0)
		return r;
	snprintf(old, sizeof(old), "%s/%s", base, from);
	snprintf(new, sizeof(new), "%s/%s", base, to);
	r = take_name(old, new);
	if (r == -EEXIST)
		return error_usage(err, r, "a microVM '%s' is running", to);
	return r < 0 ? error_usage(err, r, "run directory '%s': %m", old) : 0;
}

void run_dir_inherit(struct run_dir *dir)
{
	/* Listening again changes whose credentials a client is shown (SO_PEERCRED). */
	listen(dir->listen_fd, BACKLOG);
}

void run_dir_note_cgroup(const struct run_dir *dir, const char *path)
{
	char *link = dir->listen_fd < 0 ? NULL : run_dir_file(dir, RUN_DIR_CGROUP);

	/* Without it, one that is killed leaves its cgroup; no reason not to run. */
	if (link && symlink(path, link) < 0)
		log_warn("'%s': %m", link);
	free(link);
}

void run_dir_note_monitor(const struct run_dir *dir, pid_t pid)
{
	char *link = run_dir_file(dir, RUN_DIR_MONITOR), text[16];

	snprintf(text, sizeof(text), "%d", pid);
	/* Without it, one that is stuck is not found; no reason not to run. */
	if (link && symlink(text, link) < 0)
		log_warn("'%s': %m", link);
	free(link);
}

void run_dir_remove(struct run_dir *dir)
{
	char root[PATH_MAX], hidden[PATH_MAX - 32], *slash;

	if (dir->listen_fd < 0)
		return;
	find_path(dir);
	snprintf(root, sizeof(root), "%s", dir->path);
	slash = strrchr(root, '/');
	if (slash)
		*slash = '\0';
	/* Its name goes first: whoever looks sees all of it or nothing. */
	if (hidden_path(hidden, sizeof(hidden), root) == 0 && rename(dir->path, hidden) == 0) {
		/* Most hold nothing but the socket. */
		snprintf(root, sizeof(root), "%s/" RUN_DIR_CONTROL, hidden);
		if (unlink(root) < 0 || rmdir(hidden) < 0)
			remove_directory(hidden);
	}
	close(dir->listen_fd);
	dir->listen_fd = -1;
}

/* A way to the directory that stays the same whatever it is called, for those who need that. */
static int stable_path(const struct run_dir *dir, char *buf, size_t size)
{
	int n = dir->moving_fd > 0 ? snprintf(buf, size, "/proc/self/fd/%d", dir->moving_fd) :
				     snprintf(buf, size, "%s", dir->path);

	return (size_t)n < size ? 0 : -ENAMETOOLONG;
}

char *run_dir_file(const struct run_dir *dir, const char *name)
{
	char base[PATH_MAX], *path;

	if (stable_path(dir, base, sizeof(base)) < 0)
		return NULL;
	return asprintf(&path, "%s/%s", base, name) < 0 ? NULL : path;
}

int run_dir_listen(const struct run_dir *dir, const char *name)
{
	char *path = run_dir_file(dir, name), base[PATH_MAX];

	int fd;

	if (!path)
		return -ENOMEM;
	fd = stable_path(dir, base, sizeof(base)) < 0 ? -ENAMETOOLONG : listen_in(base, name);
	/* One from the guest's last life, which nearly always is its first. */
	if (fd == -EADDRINUSE && unlink(path) == 0)
		fd = listen_in(base, name);
	free(path);
	return fd;
}

/* ---- finding them ---- */

/* The path of the microVM @id's directory. */
static int find_directory(const char *root, const char *id, char *buf, size_t size,
			  struct error *err)
{
	char base[PATH_MAX - 300];
	int r;

	if (strchr(id, '/')) {
		snprintf(buf, size, "%s", id);
		return 0;
	}
	r = run_dir_root(base, sizeof(base), root, false, err);
	if (r < 0 && r != -ENOENT)
		return r;
	snprintf(buf, size, "%s/%s", base, id);
	return 0;
}

pid_t run_dir_monitor(const char *root, const char *id)
{
	char path[PATH_MAX], link[PATH_MAX + 16], text[16], *end;
	ssize_t n = -1;
	long pid;

	if (find_directory(root, id, path, sizeof(path), NULL) == 0) {
		snprintf(link, sizeof(link), "%s/" RUN_DIR_MONITOR, path);
		n = readlink(link, text, sizeof(text) - 1);
	}
	if (n <= 0)
		return 0;
	text[n] = '\0';
	pid = strtol(text, &end, 10);
	return *end || pid <= 0 || pid > INT_MAX ? 0 : (pid_t)pid;
}

int run_dir_connect(const char *root, const char *id, const char *name, int type,
		    struct error *err)
{
	char path[PATH_MAX];
	int r;

	if (!*id)
		return error_usage(err, -ENOENT, "there is no microVM without a name");
	r = find_directory(root, id, path, sizeof(path), err);
	if (r < 0)
		return r;
	r = connect_in(path, name, type);
	if (r >= 0)
		return r;
	if (r != -ECONNREFUSED && r != -ENOENT)
		return error_usage(err, r, "microVM '%s': %m", id);
	if (!remove_if_dead(path) && access(path, F_OK) == 0)
		return error_usage(err, -ENOENT, "microVM '%s' has no %s", id, name);
	error_usage(err, -ENOENT, "there is no microVM '%s'", id);
	error_hint(err, "'wisp ls' lists those that run");
	return -ENOENT;
}

static int visible(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

static bool is_hidden(const char *name)
{
	const char *rest = name + strlen(HIDDEN);

	if (strncmp(name, HIDDEN, strlen(HIDDEN)) != 0)
		return false;
	return !strncmp(rest, NEW, strlen(NEW)) || (*rest && !rest[strspn(rest, "0123456789")]);
}

/* The socket of somebody who kept moments and was killed. */
static bool remove_dead_keeper(const char *path)
{
	size_t len = strlen(path), end = strlen(RUN_DIR_REWIND);

	return len > end && !strcmp(path + len - end, RUN_DIR_REWIND) &&
	       io_remove_dead_socket(path, SOCK_SEQPACKET);
}

/* Those of processes that were killed before they had a name for it, or while they removed it. */
static void remove_unfinished(const char *root)
{
	char path[PATH_MAX];
	struct dirent *e;
	DIR *d = opendir(root);

	while (d && (e = readdir(d))) {
		int fd;

		if (!is_hidden(e->d_name))
			continue;
		snprintf(path, sizeof(path), "%s/%s", root, e->d_name);
		fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
			remove_directory(path);
		unlock(fd);
	}
	if (d)
		closedir(d);
}

bool run_dir_remove_dead(const char *path)
{
	return remove_if_dead(path);
}

int run_dir_for_each(const char *root, int (*fn)(void *arg, const char *id, const char *path),
		     void *arg, struct error *err)
{
	char base[PATH_MAX - 300], path[PATH_MAX];
	struct dirent **entry;
	int n, r = run_dir_root(base, sizeof(base), root, false, err);

	if (r < 0)
		return r == -ENOENT && !root ? 0 : r;
	remove_unfinished(base);
	n = scandir(base, &entry, visible, alphasort);
	if (n < 0)
		return error_set(err, -errno, "run directory '%s': %m", base);
	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", base, entry[i]->d_name);
		if (r == 0 && !remove_dead_keeper(path))
			r = fn(arg, entry[i]->d_name, path);
		free(entry[i]);
	}
	free(entry);
	return r;
}
