#include "vmm/images/image.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/cache_dir.h"
#include "vmm/core/log.h"
#include "vmm/images/image_internal.h"
#include "vmm/sandbox/sandbox.h"

/* Beside a tree whose files have extended attributes. */
#define XATTRS "xattrs"

/* A tree that is not whole yet. One name, since one at a time unpacks: then none can pile up. */
#define PARTIAL "partial"

/* Counts what makes trees of the same layers differ, so that old ones are not taken for new. */
#define CACHE_FORMAT 3

/* What the process that unpacks has to tell. */
struct answer {
	int r;
	struct error err;
	char key[IMAGE_HEX];
};

/* ---- the cache ---- */

/* The user's directory of unpacked images; what is in it is nobody else's. */
static int open_cache(char *path, size_t size, struct error *err)
{
	return cache_dir_open("images", "images are unpacked", path, size, err);
}

/* ---- in a process of its own ---- */

/* What the tree is called: by what its layers hold, and by whose they are there. */
static void make_key(const struct image_manifest *m, char ret[IMAGE_HEX])
{
	struct sha256_ctx hash;
	char text[64];

	sha256_init(&hash);
	snprintf(text, sizeof(text), "wisp image %d, owners: %d\n", CACHE_FORMAT, geteuid() == 0);
	sha256_update(&hash, strlen(text), (const uint8_t *)text);
	for (unsigned i = 0; i < m->num_layers; i++)
		sha256_update(&hash, IMAGE_HEX, (const uint8_t *)m->diff_id[i]);
	image_digest_hex(&hash, ret);
}

static int unpack_layers(struct image_tree *t, struct image_source *s,
			 const struct image_manifest *m, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < m->num_layers && !r; i++) {
		const char *name = m->layer[i], *slash = strrchr(name, '/');
		struct image_blob blob;

		r = image_source_find(s, name, &blob);
		if (r < 0)
			return error_set(err, r, "layer '%.100s': %m", name);
		/* Digests are what tells them apart: docker's older ones are all "layer.tar". */
		r = image_tree_add(t, &blob, slash && strlen(slash) > 20 ? slash + 1 : name,
				   m->diff_id[i], i == 0, err);
		image_source_put(s, &blob);
	}
	return r < 0 ? r : image_tree_finish(t, err);
}

/* Into the directory @key of the cache, whole or not at all. The lock is ours. */
static int unpack(int cache, const char *key, struct image_source *s,
		  const struct image_manifest *m, struct error *err)
{
	struct image_tree tree;
	int fd, r;

	/* One that was there is of somebody who did not come to the end. */
	r = image_remove_tree(cache, PARTIAL);
	if (!r && (mkdirat(cache, PARTIAL, 0700) < 0 || mkdirat(cache, PARTIAL "/root", 0755) < 0))
		r = -errno;
	if (r < 0)
		return error_set(err, r, "the cache: %m");
	fd = openat(cache, PARTIAL "/root", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return error_set(err, -errno, "the cache: %m");
	image_tree_init(&tree, fd);
	r = unpack_layers(&tree, s, m, err);
	if (tree.skipped)
		log_debug("image '%s': %u device nodes left out", s->path, tree.skipped);
	if (tree.xattrs_lost)
		log_warn("image '%s': %u extended attributes left out, which the cache's file "
			 "system does not keep",
			 s->path, tree.xattrs_lost);
	if (!r && tree.xattrs && mknodat(cache, PARTIAL "/" XATTRS, S_IFREG | 0600, 0) < 0)
		r = error_set(err, -errno, "the cache: %m");
	image_tree_done(&tree);
	/* Only what is on disk in whole may have the name. */
	if (!r && (syncfs(fd) < 0 || renameat(cache, PARTIAL, cache, key) < 0))
		r = error_set(err, -errno, "the cache: %m");
	close(fd);
	if (r < 0)
		image_remove_tree(cache, PARTIAL);
	return r;
}

static int unpack_once(int cache, struct image_source *s, const struct image_manifest *m,
		       const char *key, struct error *err)
{
	int lock, r = 0;

	if (faccessat(cache, key, F_OK, 0) == 0)
		return 0;
	lock = openat(cache, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (lock < 0 || flock(lock, LOCK_EX) < 0)
		r = error_set(err, -errno, "the cache's lock: %m");
	/* Another may have done it meanwhile. */
	if (!r && faccessat(cache, key, F_OK, 0) < 0)
		r = unpack(cache, key, s, m, err);
	if (lock >= 0)
		close(lock);
	if (r < 0)
		error_prefix(err, "image '%s'", s->path);
	return r;
}

static void work(struct answer *a, const char *path, int source, int cache)
{
	struct image_manifest m;
	struct image_source s;
	struct stat st;
	bool is_layout = fstat(source, &st) == 0 && S_ISDIR(st.st_mode);
	int r = sandbox_beneath(cache, is_layout ? source : -1);

	if (r < 0)
		log_info("image '%s': unpacked without Landlock: %s", path, strerror(-r));
	a->r = image_source_open(&s, path, source, cache, &a->err);
	if (a->r < 0)
		return;
	a->r = image_manifest_read(&m, &s, &a->err);
	if (!a->r) {
		make_key(&m, a->key);
		a->r = unpack_once(cache, &s, &m, a->key, &a->err);
		image_manifest_done(&m);
	}
	image_source_close(&s);
}

static __attribute__((noreturn)) void run_worker(const char *path, int source, int cache, int out)
{
	struct answer a = { 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "wisp-image");
	/* Modes are what the image says. */
	umask(0);
	work(&a, path, source, cache);
	if (write(out, &a, sizeof(a)) != sizeof(a))
		_exit(1);
	_exit(0);
}

/* ---- in ours ---- */

/* Names of members are in it, which are to do nothing to a terminal. */
static void defuse(char *text, size_t size)
{
	text[size - 1] = '\0';
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
}

/* What came may be anything. */
static int check_answer(struct answer *a, ssize_t len, const char *path, struct error *err)
{
	if (len != sizeof(*a))
		return error_kind_set(err, ERROR_START, -EIO,
				      "image '%s': what unpacks it ended unexpectedly", path);
	defuse(a->err.msg, sizeof(a->err.msg));
	defuse(a->err.hint, sizeof(a->err.hint));
	if (a->r < 0) {
		error_usage(err, a->r, "%s", a->err.msg);
		if (a->err.hint[0])
			error_hint(err, "%s", a->err.hint);
		return a->r;
	}
	if (strnlen(a->key, sizeof(a->key)) != IMAGE_HEX - 1 ||
	    strspn(a->key, "0123456789abcdef") != IMAGE_HEX - 1)
		return error_kind_set(err, ERROR_START, -EIO, "image '%s': no tree came of it",
				      path);
	return 0;
}

static int unpack_apart(const char *path, int source, struct answer *a, char *cache_path,
			size_t cache_size, struct error *err)
{
	int cache = open_cache(cache_path, cache_size, err), pipe_fd[2], r;
	ssize_t n;
	pid_t pid;

	if (cache < 0)
		return cache;
	if (pipe2(pipe_fd, O_CLOEXEC) < 0) {
		r = error_set(err, -errno, "image '%s': %m", path);
		close(cache);
		return r;
	}
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		run_worker(path, source, cache, pipe_fd[1]);
	r = pid < 0 ? error_set(err, -errno, "image '%s': fork: %m", path) : 0;
	close(pipe_fd[1]);
	close(cache);
	if (!r) {
		/* Shorter than what a pipe passes in one piece. */
		do {
			n = read(pipe_fd[0], a, sizeof(*a));
		} while (n < 0 && errno == EINTR);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		r = check_answer(a, n, path, err);
	}
	close(pipe_fd[0]);
	return r;
}

_Static_assert(sizeof(struct answer) < PIPE_BUF, "an answer is written at once");

int image_find(const char *path, char **ret_dir, struct error *err)
{
	char cache[PATH_MAX], layout[PATH_MAX];
	struct answer a = { 0 };
	struct stat st;
	int fd, r;

	/* What cannot be looked at is for those to report who open it as a directory. */
	if (stat(path, &st) < 0 || (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)))
		return 0;
	if (S_ISDIR(st.st_mode)) {
		if (snprintf(layout, sizeof(layout), "%s/oci-layout", path) >= PATH_MAX ||
		    access(layout, F_OK) < 0)
			return 0;
	}
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return error_usage(err, -errno, "image '%s': cannot open: %m", path);
	r = unpack_apart(path, fd, &a, cache, sizeof(cache), err);
	close(fd);
	if (r < 0)
		return r;
	if (asprintf(ret_dir, "%s/%s/root", cache, a.key) < 0)
		return error_set(err, -ENOMEM, "image '%s': %m", path);
	return 1;
}

bool image_has_xattrs(const char *dir)
{
	char path[PATH_MAX];

	/* Beside the tree's "root", where nothing in it can be. */
	return snprintf(path, sizeof(path), "%.*s" XATTRS, (int)(strlen(dir) - strlen("root")),
			dir) < (int)sizeof(path) &&
	       access(path, F_OK) == 0;
}
