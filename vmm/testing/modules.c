#include "vmm/testing/modules.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/core/io.h"

/* Of one file: a hundred times what there is. */
#define MAX_FILE (256 * MiB)

/* The setup header of a bzImage (Documentation/arch/x86/boot.rst). */
#define SETUP_MAGIC_AT	 0x202
#define SETUP_VERSION_AT 0x20e
#define SETUP_BASE	 0x200

static int map_file(const char *path, const char **ret_p, size_t *ret_len)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), r = 0;
	struct stat st;
	void *p;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode) || !st.st_size)
		r = -ENODATA;
	p = r ? MAP_FAILED : mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (!r && p == MAP_FAILED)
		r = -errno;
	close(fd);
	if (r < 0)
		return r;
	*ret_p = p;
	*ret_len = st.st_size;
	return 0;
}

/* The word at @at, up to @end. */
static bool copy_word(const char *at, const char *end, char *to, size_t size)
{
	size_t n = 0;

	while (at < end && *at > ' ' && *at < 0x7f && n + 1 < size)
		to[n++] = *at++;
	to[n] = '\0';
	return n > 0;
}

int kernel_release(const char *path, char *release, size_t size, struct error *err)
{
	static const char banner[] = "Linux version ";
	const char *p = NULL, *at;
	bool found = false;
	size_t len = 0;
	int r = map_file(path, &p, &len);

	if (r == -ENODATA)
		return error_usage(err, r, "--kernel '%s': is empty, or no regular file", path);
	if (r < 0)
		return error_usage(err, r, "--kernel '%s': cannot read: %m", path);
	if (len > SETUP_VERSION_AT + 2 && !memcmp(p + SETUP_MAGIC_AT, "HdrS", 4)) {
		size_t offset = get_le16(p + SETUP_VERSION_AT) + SETUP_BASE;

		found = offset < len && copy_word(p + offset, p + len, release, size);
	} else {
		/* In some, the format of the banner comes first, with a % for the release. */
		for (at = p; !found && (at = memmem(at, p + len - at, banner, sizeof(banner) - 1));)
			found = copy_word(at += sizeof(banner) - 1, p + len, release, size) &&
				*release != '%';
	}
	munmap((void *)p, len);
	/* It is going to be the name of a directory. */
	if (found && !strchr(release, '/'))
		return 0;
	return error_usage(err, -EINVAL, "--kernel '%s': it does not say its release", path);
}

/* ---- where they are ---- */

int modules_open(const struct modules *m, const char *path, uint64_t *ret_size)
{
	struct open_how how = {
		.flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC,
		.resolve = m->resolve | RESOLVE_NO_MAGICLINKS,
	};
	char whole[PATH_MAX];
	struct stat st;
	int fd, r = 0;

	if (snprintf(whole, sizeof(whole), "%s%s", m->below, path) >= (int)sizeof(whole))
		return -ENAMETOOLONG;
	fd = syscall(SYS_openat2, m->fd, whole, &how, sizeof(how));
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode))
		r = -EINVAL;
	else if ((uint64_t)st.st_size > MAX_FILE)
		r = -EFBIG;
	if (r < 0) {
		close(fd);
		return r;
	}
	*ret_size = st.st_size;
	return fd;
}

static int read_dep(struct modules *m)
{
	uint64_t size;
	int fd = modules_open(m, "modules.dep", &size), r;

	if (fd < 0)
		return fd;
	m->dep = malloc(size + 1);
	r = m->dep ? io_read_at(fd, m->dep, size, 0) : -ENOMEM;
	close(fd);
	if (r < 0) {
		free(m->dep);
		m->dep = NULL;
		return r;
	}
	m->dep[size] = '\0';
	m->dep_len = size;
	return 0;
}

/* Those in @below of the directory @dir: names lead no further than @resolve lets them. */
static int try_place(struct modules *m, const char *dir, const char *below, uint64_t resolve)
{
	int r;

	m->fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (m->fd < 0)
		return -errno;
	snprintf(m->below, sizeof(m->below), "%s", below);
	m->resolve = resolve;
	r = read_dep(m);
	if (r < 0) {
		close(m->fd);
		m->fd = -1;
	}
	return r;
}

/* Beside a kernel: where the user's own links have led to is what nothing leads out of. */
static int try_beside(struct modules *m, const char *dir, int dir_len, const char *up)
{
	snprintf(m->dir, sizeof(m->dir), "%.*s%s/lib/modules/%s", dir_len, dir, up, m->release);
	return try_place(m, m->dir, "", RESOLVE_BENEATH);
}

/* In a tree, whose links are about itself. */
static int try_tree(struct modules *m, const char *root)
{
	char below[sizeof(m->below)];

	snprintf(below, sizeof(below), "lib/modules/%s/", m->release);
	snprintf(m->dir, sizeof(m->dir), "%s/%s", root, below);
	return try_place(m, root, below, RESOLVE_IN_ROOT);
}

int modules_find(struct modules *m, const char *kernel, const char *root, struct error *err)
{
	const char *slash = strrchr(kernel, '/');
	int dir_len = slash ? (int)(slash - kernel) : 1, r;
	const char *dir = slash ? kernel : ".";

	*m = (struct modules){ .fd = -1 };
	r = kernel_release(kernel, m->release, sizeof(m->release), err);
	if (r < 0)
		return r;
	r = try_beside(m, dir, dir_len, "");
	if (r < 0)
		r = try_beside(m, dir, dir_len, "/..");
	if (r < 0 && root)
		r = try_tree(m, root);
	if (r < 0)
		r = try_tree(m, "/");
	if (r < 0)
		m->dir[0] = '\0';
	return r == -ENOMEM ? error_set(err, r, "modules.dep: %m") : 0;
}

void modules_done(struct modules *m)
{
	if (m->fd >= 0)
		close(m->fd);
	m->fd = -1;
	free(m->dep);
	m->dep = NULL;
}

/* ---- which of them ---- */

/* A module's name is its file's, up to the first dot; dashes and underscores are the same. */
static bool is_named(const char *path, const char *end, const char *name)
{
	const char *base = memrchr(path, '/', end - path);

	base = base ? base + 1 : path;
	for (; base < end && *base != '.'; base++, name++)
		if (*base != *name && !((*base == '-' || *base == '_') &&
					(*name == '-' || *name == '_')))
			return false;
	return !*name;
}

static int call_with(int (*fn)(void *arg, const char *path), void *arg, const char *path,
		     size_t len)
{
	char copy[PATH_MAX];

	if (len >= sizeof(copy))
		return -ENAMETOOLONG;
	/* It may come to stand in a message. */
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)path[i] < ' ' || path[i] == 0x7f)
			return -EINVAL;
	memcpy(copy, path, len);
	copy[len] = '\0';
	return fn(arg, copy);
}

/* A line is "path: what it needs", the nearest first: so it is loaded from the back. */
static int load_line(const char *line, const char *end, int (*fn)(void *arg, const char *path),
		     void *arg)
{
	const char *colon = memchr(line, ':', end - line), *at = end;
	int r = 0;

	while (!r && at > colon + 1) {
		const char *space = memrchr(colon + 1, ' ', at - colon - 1);
		const char *word = space ? space + 1 : colon + 1;

		if (word < at)
			r = call_with(fn, arg, word, at - word);
		at = space ? space : colon + 1;
	}
	return r ? r : call_with(fn, arg, line, colon - line);
}

int modules_for(const struct modules *m, const char *name, int (*fn)(void *arg, const char *path),
		void *arg)
{
	const char *line = m->dep, *end;

	for (; line && *line; line = *end ? end + 1 : end) {
		const char *colon;

		end = strchrnul(line, '\n');
		colon = memchr(line, ':', end - line);
		if (colon && is_named(line, colon, name))
			return load_line(line, end, fn, arg);
	}
	return 0;
}
