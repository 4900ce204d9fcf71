/* New files: complete before they have their name. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/block.h"
#include "vmm/disk/disk.h"

/* Is the image that is to be replaced in use? Who may not read it cannot know, and goes on. */
static int refuse_in_use(const char *path, struct error *err)
{
	struct block_file file = { .path = path };
	int r;

	file.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (file.fd < 0)
		return 0;
	r = block_file_lock(&file, false, err);
	close(file.fd);
	return r;
}

int disk_new_open(struct disk_new *n, const char *path, bool force, struct error *err)
{
	struct stat st;
	mode_t mask;
	int r;

	*n = (struct disk_new){ .path = path, .fd = -1 };
	if (lstat(path, &st) == 0 && (!force || !S_ISREG(st.st_mode))) {
		r = error_usage(err, -EEXIST, "'%s': %s", path,
				S_ISREG(st.st_mode) ? "exists already" :
						      "exists, and is not a regular file");
		if (S_ISREG(st.st_mode))
			error_hint(err, "--force replaces it");
		return r;
	}
	r = force ? refuse_in_use(path, err) : 0;
	if (r < 0)
		return r;
	if (asprintf(&n->temporary, "%s.XXXXXX", path) < 0) {
		n->temporary = NULL;
		return error_set(err, -ENOMEM, "'%s': %m", path);
	}
	n->fd = mkostemp(n->temporary, O_CLOEXEC);
	if (n->fd < 0) {
		r = error_usage(err, -errno, "'%s': cannot be made: %m", path);
		free(n->temporary);
		n->temporary = NULL;
		return r;
	}
	/* As any other new file's, and not as a secret's. */
	mask = umask(0);
	umask(mask);
	fchmod(n->fd, 0666 & ~mask);
	return 0;
}

static void sync_folder(const char *path)
{
	char *copy = strdup(path);
	int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
	free(copy);
}

int disk_new_commit(struct disk_new *n, struct error *err)
{
	if (fsync(n->fd) < 0)
		return error_usage(err, -errno, "'%s': %m", n->path);
	if (rename(n->temporary, n->path) < 0)
		return error_usage(err, -errno, "'%s': cannot be named: %m", n->path);
	sync_folder(n->path);
	free(n->temporary);
	n->temporary = NULL;
	return 0;
}

void disk_new_done(struct disk_new *n)
{
	if (n->temporary)
		unlink(n->temporary);
	free(n->temporary);
	n->temporary = NULL;
	if (n->fd >= 0)
		close(n->fd);
	n->fd = -1;
}
