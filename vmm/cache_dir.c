#include "vmm/cache_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int make_path(const char *path)
{
	char part[PATH_MAX];

	for (const char *slash = path; slash;) {
		slash = strchr(slash + 1, '/');
		snprintf(part, sizeof(part), "%.*s",
			 slash ? (int)(slash - path) : (int)strlen(path), path);
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return -errno;
	}
	return 0;
}

int cache_dir_open(const char *name, const char *what, char *path, size_t size, struct error *err)
{
	const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	struct stat st;
	int n, r, fd;

	if (base && *base == '/')
		n = snprintf(path, size, "%s/wisp/%s", base, name);
	else if (home && *home == '/')
		n = snprintf(path, size, "%s/.cache/wisp/%s", home, name);
	else
		return error_usage(err, -ENOENT,
				   "%s into the cache, but neither XDG_CACHE_HOME nor HOME says "
				   "where that is",
				   what);
	if (n < 0 || (size_t)n >= size || n >= PATH_MAX)
		return error_usage(err, -ENAMETOOLONG, "the cache's path is too long");
	r = make_path(path);
	if (r < 0)
		return error_usage(err, r, "the cache '%s': cannot create: %m", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_usage(err, -errno, "the cache '%s': cannot open: %m", path);
	if (fstat(fd, &st) < 0 || st.st_uid != geteuid() || st.st_mode & 022) {
		close(fd);
		return error_usage(err, -EPERM, "the cache '%s': others may write it", path);
	}
	return fd;
}
