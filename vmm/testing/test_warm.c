/*
 * --warm: guests that were started once, and saved when their root was mounted and nothing yet was
 * known of a command. They are kept in the cache, under names made of what they depend on, and are
 * read like any snapshot: as if an enemy had made them.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <nettle/sha2.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm/cache_dir.h"
#include "vmm/cli/cli_snapshot.h"
#include "vmm/config/config_state.h"
#include "vmm/core/io.h"
#include "vmm/helper.h"
#include "vmm/testing/test_internal.h"

/* Counts what makes such guests differ that no file and no option shows. */
#define WARM_FORMAT 1

/* What all together may take on the disk: those that were used last stay. */
#define MAX_BYTES (2 * GiB)

/* Older ones are of somebody who was killed while he made them. */
#define MAX_PARTIAL_SECONDS 3600

/* How long who is killed may take to go. */
#define KILLED_MS 1000

/* ---- the name ---- */

/* What it all depends on goes into a digest, in text. */
struct key {
	struct sha256_ctx hash;
	const struct modules *modules;
	struct error *err;
};

static __attribute__((format(printf, 2, 3))) void add(struct key *k, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* With its zero byte: two of them never look like another two. */
	sha256_update(&k->hash, MIN((size_t)n + 1, sizeof(text)), (const uint8_t *)text);
}

static void add_string(struct key *k, const char *what, const char *text)
{
	add(k, "%s", what);
	sha256_update(&k->hash, strlen(text) + 1, (const uint8_t *)text);
}

/* Nobody but root can have another content look like this one: ctime is the kernel's. */
static void add_stat(struct key *k, const char *what, const struct stat *st)
{
	add(k, "%s %ju:%ju %jd %jd.%09ld %jd.%09ld", what, (uintmax_t)st->st_dev,
	    (uintmax_t)st->st_ino, (intmax_t)st->st_size, (intmax_t)st->st_mtim.tv_sec,
	    st->st_mtim.tv_nsec, (intmax_t)st->st_ctim.tv_sec, st->st_ctim.tv_nsec);
}

static int add_file(struct key *k, const char *what, const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return error_usage(k->err, -errno, "'%s': %m", path);
	add_stat(k, what, &st);
	return 0;
}

static int add_module(void *arg, const char *path)
{
	struct key *k = arg;
	uint64_t size;
	struct stat st;
	int fd = modules_open(k->modules, path, &size);

	if (fd < 0)
		return error_set(k->err, fd, "module '%s': %m", path);
	add_string(k, "module", path);
	if (fstat(fd, &st) == 0)
		add_stat(k, "module", &st);
	close(fd);
	return 0;
}

/* What is said of the run is nothing to the guest; so it starts from the same one. */
static bool is_of_the_run(const char *arg)
{
	static const char *const option[] = { "--timeout",  "--name",	 "--core",    "--metrics",
					      "--log-file", "--log-level", "--run-dir" };

	for (unsigned i = 0; i < ARRAY_SIZE(option); i++)
		if (!strncmp(arg, option[i], strcspn(arg, "=")) &&
		    strlen(option[i]) == strcspn(arg, "="))
			return true;
	return false;
}

static void add_options(struct key *k, const struct test_config *t)
{
	for (unsigned i = 0; i < t->num_run_args; i++) {
		if (!is_of_the_run(t->run_arg[i]))
			add_string(k, "option", t->run_arg[i]);
		else if (!strchr(t->run_arg[i], '='))
			i++; /* its value */
	}
}

/* Whose guest it could not be on another day: this program, this host, its kernel's KVM. */
static int add_host(struct key *k)
{
	char init[PATH_MAX + 64];
	struct error none = { 0 };
	struct utsname host;
	int r = 0;

	if (uname(&host) < 0)
		return error_set(k->err, -errno, "uname: %m");
	add(k, "wisp %s, format %d, on %s, %s %s", WISP_VERSION, WARM_FORMAT, host.nodename,
	    host.release, host.version);
	/* Without it no guest is made either, which is said then. */
	if (helper_find("wisp-init", init, sizeof(init), &none) == 0)
		r = add_file(k, "init", init);
	return r ? r : add_file(k, "wisp", "/proc/self/exe");
}

static int make_key(struct test_job *j, struct key *k)
{
	const struct test_config *t = j->config;
	int r = add_host(k);

	add_string(k, "cmdline", j->machine.cmdline);
	add(k, "terminal %d, image %d", j->tty, t->is_image);
	add_options(k, t);
	if (!r)
		r = add_file(k, "kernel", j->machine.kernel);
	if (!r && j->machine.cpu_template)
		r = add_file(k, "cpu template", j->machine.cpu_template);
	/* The root directory itself is all that such a guest still knows of the tree. */
	if (!r)
		r = add_file(k, "root", t->root);
	return r ? r : test_guest_drivers(k->modules, &j->machine, add_module, k);
}

int test_warm_find(struct test_job *j, struct error *err)
{
	uint8_t sum[SHA256_DIGEST_SIZE];
	char dir[PATH_MAX], hex[33];
	struct modules modules;
	struct key k = { .modules = &modules, .err = err };
	int r = cache_dir_open("warm", "a guest that was started is saved", dir, sizeof(dir), err);

	if (r < 0)
		return r;
	close(r);
	sha256_init(&k.hash);
	r = modules_find(&modules, j->machine.kernel,
			 j->config->is_image ? NULL : j->config->root, err);
	if (!r) {
		snprintf(j->release, sizeof(j->release), "%s", modules.release);
		r = make_key(j, &k);
	}
	modules_done(&modules);
	if (r < 0)
		return r;
	sha256_digest(&k.hash, sizeof(sum), sum);
	for (unsigned i = 0; i < sizeof(hex) / 2; i++)
		snprintf(hex + 2 * i, 3, "%02x", sum[i]);
	if (asprintf(&j->warm, "%s/%s", dir, hex) < 0) {
		j->warm = NULL;
		return error_set(err, -ENOMEM, "--warm: %m");
	}
	return 0;
}

/* ---- one that is there ---- */

static bool is_whole(const char *path)
{
	char manifest[PATH_MAX];

	return snprintf(manifest, sizeof(manifest), "%s/" SNAPSHOT_MANIFEST, path) <
		       (int)sizeof(manifest) &&
	       access(manifest, F_OK) == 0;
}

/*
 * Remove what is called @path if it is the directory @is still. Others make and remove under the
 * same names, so it gets one of our own before it is looked at: nobody else removes it by that, and
 * one that came in its place goes back to it.
 */
static void remove_this(const char *path, const struct stat *is)
{
	char own[PATH_MAX];
	struct stat st;

	if (snprintf(own, sizeof(own), "%s.partial-%d", path, getpid()) >= (int)sizeof(own) ||
	    renameat2(AT_FDCWD, path, AT_FDCWD, own, RENAME_NOREPLACE) < 0)
		return;
	if (lstat(own, &st) == 0 && st.st_dev == is->st_dev && st.st_ino == is->st_ino)
		snapshot_remove(own);
	else if (renameat2(AT_FDCWD, own, AT_FDCWD, path, RENAME_NOREPLACE) < 0)
		snapshot_remove(own);
}

bool test_warm_is_there(struct test_job *j)
{
	if (lstat(j->warm, &j->warm_is) < 0)
		return false;
	if (is_whole(j->warm))
		return true;
	/* Half of one would keep another from taking its name. */
	remove_this(j->warm, &j->warm_is);
	return false;
}

void test_warm_remove(const struct test_job *j)
{
	remove_this(j->warm, &j->warm_is);
}

int test_warm_open(struct test_job *j, struct test_warm_start *w, struct error *err)
{
	struct machine_config was;
	int r = snapshot_open(&w->snapshot, j->warm, err);

	/* Its machine is the one that we would make, or the name would be another. */
	config_init(&was);
	if (!r && w->snapshot.base)
		r = error_usage(err, -EBADMSG, "snapshot '%s': is differential", j->warm);
	if (!r && snapshot_is_packed(&w->snapshot))
		r = error_usage(err, -EBADMSG, "snapshot '%s': is compressed", j->warm);
	if (!r)
		r = machine_check_state(&w->snapshot.state, err);
	if (!r)
		r = config_load(&was, &w->snapshot.state, err);
	config_done(&was);
	if (!r)
		r = snapshot_check_memory(&w->snapshot, config_memory_total(&j->machine), err);
	if (r < 0)
		return r;
	/* The last one used is the last one removed. */
	futimens(w->snapshot.dir_fd, NULL);
	w->image = (struct machine_image){
		.state = &w->snapshot.state,
		.memory_fd = w->snapshot.memory_fd,
		/* The time of day comes with the plan: no clock of the guest's ever leaps. */
		.clock = MACHINE_CLOCK_CONTINUE,
	};
	return 0;
}

void test_warm_read_log(struct test_job *j)
{
	struct snapshot s = { .dir_fd = open(j->warm, O_RDONLY | O_DIRECTORY | O_CLOEXEC) };
	struct error err = { 0 };
	uint8_t *text;
	size_t len;

	if (s.dir_fd < 0)
		return;
	/* A kernel without trouble may have said nothing. */
	if (snapshot_read_file(&s, j->warm, SNAPSHOT_LOG, &text, &len, &err) == 0) {
		test_take_log(j, (const char *)text, len);
		free(text);
	}
	close(s.dir_fd);
}

/* ---- room ---- */

struct entry {
	char name[64];
	uint64_t bytes;
	struct stat is;
};

/* What the files of the directory @name take on the disk. */
static uint64_t size_of(int cache, const char *name)
{
	int fd = openat(cache, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	uint64_t bytes = 0;
	struct dirent *d;
	struct stat st;

	while (dir && (d = readdir(dir)))
		if (fstatat(fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
			bytes += st.st_blocks * 512ull;
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		close(fd);
	return bytes;
}

static int newest_first(const void *a, const void *b)
{
	const struct timespec *x = &((const struct entry *)a)->is.st_mtim;
	const struct timespec *y = &((const struct entry *)b)->is.st_mtim;

	if (x->tv_sec != y->tv_sec)
		return x->tv_sec < y->tv_sec ? 1 : -1;
	return x->tv_nsec < y->tv_nsec ? 1 : x->tv_nsec > y->tv_nsec ? -1 : 0;
}

static void remove_entry(const char *dir, const char *name, const struct stat *is)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) < (int)sizeof(path))
		remove_this(path, is);
}

/* In the directory @cache, which is closed. All that is not of our making stays. */
static struct entry *list_entries(int cache, const char *dir, unsigned *ret_num)
{
	DIR *d = fdopendir(cache);
	struct entry *list = NULL;
	unsigned num = 0;
	struct dirent *e;
	struct stat st;

	while (d && (e = readdir(d))) {
		size_t digits = strspn(e->d_name, "0123456789abcdef");
		struct entry *more;

		if (digits != 32 || fstatat(cache, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		    !S_ISDIR(st.st_mode))
			continue;
		if (e->d_name[digits]) {
			if (time(NULL) - st.st_mtim.tv_sec > MAX_PARTIAL_SECONDS)
				remove_entry(dir, e->d_name, &st);
			continue;
		}
		more = reallocarray(list, num + 1, sizeof(*list));
		if (!more)
			break;
		list = more;
		list[num] = (struct entry){ .is = st, .bytes = size_of(cache, e->d_name) };
		memcpy(list[num++].name, e->d_name, digits + 1);
	}
	if (d)
		closedir(d);
	else
		close(cache);
	*ret_num = num;
	return list;
}

void test_warm_prune(const char *dir, uint64_t max_bytes)
{
	int cache = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct entry *list;
	uint64_t sum = 0;
	unsigned num;

	if (cache < 0)
		return;
	list = list_entries(cache, dir, &num);
	if (!list)
		return;
	qsort(list, num, sizeof(*list), newest_first);
	for (unsigned i = 0; i < num; i++) {
		sum += list[i].bytes;
		/* The one that was just made may take all of it. */
		if (sum > max_bytes && i > 0)
			remove_entry(dir, list[i].name, &list[i].is);
	}
	free(list);
}

/* ---- making one ---- */

static void write_log(const struct test_job *j)
{
	int dir = open(j->warm, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
	int fd = dir < 0 ? -1 : openat(dir, SNAPSHOT_LOG, flags, 0600);

	/* It goes without. */
	if (fd >= 0 && io_write_at(fd, j->boot.text, j->boot.len, 0) < 0)
		unlinkat(dir, SNAPSHOT_LOG, 0);
	if (fd >= 0)
		close(fd);
	if (dir >= 0)
		close(dir);
}

static int save(struct test_job *j, struct error *err)
{
	char dir[PATH_MAX];
	int r = snapshot_and_end(j->machine.run_dir, j->machine.name, j->warm, err);

	if (r < 0)
		return r;
	if (j->boot.len)
		write_log(j);
	snprintf(dir, sizeof(dir), "%.*s", (int)(strrchr(j->warm, '/') - j->warm), j->warm);
	test_warm_prune(dir, MAX_BYTES);
	return 0;
}

int test_warm_save(struct test_job *j, struct error *err)
{
	if (j->boot.out)
		fflush(j->boot.out);
	fflush(NULL);
	j->saver = fork();
	if (j->saver < 0) {
		j->saver = 0;
		return error_kind_set(err, ERROR_START, -errno, "test: fork: %m");
	}
	if (j->saver == 0) {
		struct error why = { 0 };

		prctl(PR_SET_PDEATHSIG, SIGTERM);
		test_unblock_signals();
		if (save(j, &why) < 0) {
			error_prefix(&why, "test: --warm");
			error_print(&why);
			_exit(1);
		}
		_exit(0);
	}
	return 0;
}

void test_warm_reap(struct test_job *j, int wait_ms)
{
	struct pollfd end = { .events = POLLIN };
	int status;
	pid_t pid;

	if (!j->saver)
		return;
	end.fd = syscall(SYS_pidfd_open, j->saver, 0);
	if (wait_ms && end.fd >= 0)
		poll(&end, 1, wait_ms);
	if (end.fd >= 0)
		close(end.fd);
	pid = waitpid(j->saver, &status, WNOHANG);
	if (pid == 0)
		return;
	j->saved = pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
	j->saver = 0;
}

void test_warm_give_up(struct test_job *j)
{
	if (j->saver)
		kill(j->saver, SIGKILL);
	/* One that a disk without answer keeps from dying is nobody's to wait for. */
	test_warm_reap(j, KILLED_MS);
	j->saver = 0;
}
