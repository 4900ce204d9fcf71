/*
 * Locks on image files, by the convention that QEMU's tools keep, so that
 * qemu-img and a monitor see each other.
 *
 * A user of an image holds shared locks on single bytes far below any that are
 * asked for by their content: at HELD + n for each right n that it exercises, at
 * DENIED + n for each that it grants to nobody else. Whoever comes looks for a
 * lock on DENIED + n of its own rights, and on HELD + n of those it denies. So
 * many readers agree, and a writer agrees with nobody.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "devices/block_internal.h"
#include "vmm/core/log.h"

#define HELD   100
#define DENIED 200

/* The rights' numbers. */
enum { CONSISTENT_READ, WRITE, RESIZE = 3, NUM_RIGHTS };

#define RIGHT(n) (1u << (n))

static int lock_bytes(int fd, int command, short type, off_t start, off_t number)
{
	struct flock lock = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = number
	};

	if (fcntl(fd, command, &lock) < 0)
		return errno == EACCES ? -EAGAIN : -errno;
	/* F_OFD_GETLK says which lock is in the way. */
	return command == F_OFD_GETLK && lock.l_type != F_UNLCK ? -EAGAIN : 0;
}

/* Rights that are side by side take one call. */
static int for_each(int fd, int command, short type, off_t base, unsigned rights)
{
	unsigned number;
	int r = 0;

	for (unsigned n = 0; n < NUM_RIGHTS && !r; n += number + 1) {
		number = 0;
		while (rights & RIGHT(n + number))
			number++;
		if (number)
			r = lock_bytes(fd, command, type, base + n, number);
	}
	return r;
}

/* A lock of somebody else's that denies one of @held or exercises one of @denied: -EAGAIN. */
static int look_at_theirs(int fd, unsigned held, unsigned denied)
{
	/* Nearly always nobody has any lock at all there. */
	int r = lock_bytes(fd, F_OFD_GETLK, F_WRLCK, HELD, DENIED + NUM_RIGHTS - HELD);

	if (r != -EAGAIN)
		return r;
	r = for_each(fd, F_OFD_GETLK, F_WRLCK, DENIED, held);
	return r < 0 ? r : for_each(fd, F_OFD_GETLK, F_WRLCK, HELD, denied);
}

int block_file_lock(const struct block_file *f, bool read_only, struct error *err)
{
	unsigned denied = RIGHT(WRITE) | RIGHT(RESIZE);
	unsigned held = RIGHT(CONSISTENT_READ) | (read_only ? 0 : denied);
	int r;

	/* Ours first, then a look at theirs: of two that come at once, at least one gives way. */
	r = for_each(f->fd, F_OFD_SETLK, F_RDLCK, HELD, held);
	if (!r)
		r = for_each(f->fd, F_OFD_SETLK, F_RDLCK, DENIED, denied);
	if (!r)
		r = look_at_theirs(f->fd, held, denied);
	if (!r)
		return 0;
	if (r == -EAGAIN) {
		block_unlock(f->fd);
		return error_usage(err, -EBUSY, "disk '%s': in use by another process", f->path);
	}
	/* Some network and FUSE file systems have no locks; that is no reason not to run. */
	log_warn("disk '%s': cannot be locked: %s", f->path, strerror(-r));
	return 0;
}

void block_unlock(int fd)
{
	fcntl(fd, F_OFD_SETLK, &(struct flock){ .l_type = F_UNLCK });
}

bool block_path_in_use(const char *path)
{
	struct flock lock = { .l_type = F_WRLCK,
			      .l_whence = SEEK_SET,
			      .l_start = HELD,
			      .l_len = DENIED + NUM_RIGHTS - HELD };
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), r;

	if (fd < 0)
		return false;
	r = fcntl(fd, F_OFD_GETLK, &lock);
	close(fd);
	return r == 0 && lock.l_type != F_UNLCK;
}
