#include "vmm/control/report_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/block.h"
#include "vmm/core/io.h"
#include "vmm/core/util.h"

/* Those of a file that anyone makes; late files are their owner's alone. */
static mode_t usual_mode(void)
{
	mode_t mask = umask(0);

	umask(mask);
	return 0666 & ~mask;
}

/* A file of ours can be replaced by another one and is, to everybody else, the same. */
static bool is_ours(const char *path, const struct stat *st)
{
	return S_ISREG(st->st_mode) && st->st_uid == geteuid() && access(path, W_OK) == 0;
}

/* A name that no other file can have (it is a mount point): what is there gets the words. */
static int copy_over(struct report_file *f, struct error *err)
{
	const char *path = f->late.path;
	int to = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC), r = to < 0 ? -errno : 0;
	off_t at = 0;
	char buf[4096];
	ssize_t n;

	while (!r && (n = pread(f->fd, buf, sizeof(buf), at)) != 0) {
		r = n < 0 ? -errno : io_write(to, buf, n);
		at += n;
	}
	if (to >= 0)
		close(to);
	return r < 0 ? error_set(err, r, "'%s': cannot write: %m", path) : 0;
}

int report_file_open(struct report_file *f, const char *option, const char *path,
		     struct error *err)
{
	struct error ignored = { 0 };
	struct stat st;
	bool there = lstat(path, &st) == 0;

	*f = (struct report_file)REPORT_FILE_NONE;
	if (block_path_in_use(path))
		return error_usage(err, -EBUSY, "%s: '%s' is a disk in use by another process",
				   option, path);
	/* A name in the place of /dev/stdout, which is a link, would be of no use to anybody. */
	if ((!there || is_ours(path, &st)) &&
	    late_file_open(&f->late, option, path, &ignored) == 0) {
		f->fd = f->late.fd;
		/* Where this fails it is less readable than it might be. */
		if (fchmod(f->fd, there ? st.st_mode & 0777 : usual_mode()) == 0)
			return 0;
		late_file_close(&f->late);
	}
	/* Also a file that may be written in a directory that may not. */
	f->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (f->fd < 0)
		return error_usage(err, -errno, "%s '%s': cannot write: %m", option, path);
	return 0;
}

int report_file_keep(struct report_file *f, struct error *err)
{
	int r = f->late.fd >= 0 ? late_file_keep(&f->late, err) : 0;

	if (r == -EBUSY || r == -EPERM || r == -EACCES)
		r = copy_over(f, err);
	report_file_close(f);
	return r;
}

void report_file_close(struct report_file *f)
{
	if (f->fd >= 0 && f->fd != f->late.fd)
		close(f->fd);
	late_file_close(&f->late);
	f->fd = -1;
}
