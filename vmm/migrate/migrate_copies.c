#include "vmm/migrate/migrate_copies.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/nbd.h"
#include "vmm/core/clock.h"

/*
 * Names are given while a directory is written to its medium, by a host that may be busy. Less than
 * the source waits to hear that the guest runs (RUN_MS), so that it hears that it does not.
 */
#define PUBLISH_MS 20000
/* At once. */
#define MAX_QUESTIONS 16

/* The parent's answer. */
struct published {
	int32_t error; /* errno */
	uint32_t disk; /* it was about */
};

void migrate_copies_init(struct migrate_copies *c)
{
	*c = (struct migrate_copies){ .parents = -1, .monitors = -1 };
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++) {
		c->copy[i].file.fd = -1;
		c->copy[i].disk_fd = -1;
	}
}

/* ---- receive's and the parent's ---- */

static int check_path(const struct machine_config *config, unsigned index, struct error *err)
{
	const struct config_disk *d = &config->disk[index];

	if (nbd_is_uri(d->path))
		return error_usage(err, -EINVAL, "disk '%s': a copy comes, which needs a file",
				   d->path);
	for (unsigned i = 0; i < index; i++)
		if (!strcmp(config->disk[i].path, d->path))
			return error_usage(err, -EINVAL, "disk '%s': two copies in one file",
					   d->path);
	if (faccessat(AT_FDCWD, d->path, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	error_usage(err, -EEXIST, "disk '%s': a copy comes, and there is a file of that name",
		    d->path);
	error_hint(err, "receive --disk %s=PATH puts the copy elsewhere", d->id);
	return -EEXIST;
}

static int create_copy(struct migrate_copy *copy, const struct config_disk *d, uint64_t bytes,
		       struct error *err)
{
	char self[32];
	int r = late_file_open(&copy->file, "disk", d->path, err);

	if (r < 0)
		return r;
	copy->bytes = bytes;
	if (ftruncate(copy->file.fd, (off_t)bytes) < 0)
		return error_usage(err, -errno, "disk '%s': a copy of %llu bytes: %m", d->path,
				   (unsigned long long)bytes);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", copy->file.fd);
	copy->disk_fd = open(self, (d->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (copy->disk_fd < 0)
		return error_usage(err, -errno, "disk '%s': its copy: %m", d->path);
	return 0;
}

int migrate_copies_create(struct migrate_copies *c, const struct machine_config *config,
			  const struct migrate_hello *hello, struct error *err)
{
	int r = 0;

	if (hello->num_disks != config->num_disks)
		return error_set(err, -EBADMSG, "migration: two numbers of disks");
	c->num = hello->num_disks;
	for (unsigned i = 0; i < c->num && !r; i++) {
		if (!hello->disk_comes[i])
			continue;
		r = check_path(config, i, err);
		if (!r)
			r = create_copy(&c->copy[i], &config->disk[i], hello->disk_bytes[i], err);
	}
	return r;
}

int migrate_copies_listen(struct migrate_copies *c, struct error *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "copies of disks: socket pair: %m");
	c->parents = pair[0];
	c->monitors = pair[1];
	if (fcntl(c->parents, F_SETOWN, getpid()) < 0 || fcntl(c->parents, F_SETFL, O_ASYNC) < 0)
		return error_set(err, -errno, "copies of disks: socket pair: %m");
	return 0;
}

static void withdraw(struct migrate_copies *c)
{
	for (unsigned i = 0; i < c->num; i++) {
		if (c->copy[i].published)
			unlink(c->copy[i].file.path);
		c->copy[i].published = false;
	}
}

/* All of them, or none. */
static struct published publish(struct migrate_copies *c)
{
	for (unsigned i = 0; i < c->num; i++) {
		struct migrate_copy *copy = &c->copy[i];
		int r;

		if (copy->file.fd < 0 || copy->published)
			continue;
		r = late_file_keep_new(&copy->file);
		copy->published = r == 0;
		if (r < 0) {
			withdraw(c);
			return (struct published){ .error = -r, .disk = i };
		}
	}
	return (struct published){ 0 };
}

void migrate_copies_serve(struct migrate_copies *c)
{
	struct published answer;
	char ask;

	/* A monitor asks once; one that does nothing else must not keep us here. */
	for (unsigned i = 0; i < MAX_QUESTIONS && c->parents >= 0; i++) {
		if (recv(c->parents, &ask, sizeof(ask), MSG_DONTWAIT) != 1)
			break;
		answer = publish(c);
		/* One who is gone has no use for it. */
		(void)!send(c->parents, &answer, sizeof(answer), MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

void migrate_copies_end(struct migrate_copies *c, bool keep)
{
	if (!keep)
		withdraw(c);
	for (unsigned i = 0; i < c->num; i++)
		late_file_close(&c->copy[i].file);
	migrate_copies_close(c);
}

/* ---- the monitor's ---- */

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void migrate_copies_in_monitor(struct migrate_copies *c)
{
	close_fd(&c->parents);
}

void migrate_copies_receive(const struct migrate_copies *c, struct migrate_mirror_sink *sink)
{
	sink->num = c->num;
	for (unsigned i = 0; i < c->num; i++)
		sink->file[i] = (struct migrate_mirror_file){
			.fd = c->copy[i].file.fd,
			.bytes = c->copy[i].bytes,
			.path = c->copy[i].file.path,
		};
}

/* The parent's answer is awaited. */
struct awaited {
	struct loop *loop;
	struct loop_op ready;
	struct loop_timer late;
	bool over, is_late;
};

static void answered(struct loop_op *op, int res)
{
	container_of(op, struct awaited, ready)->over = true;
}

static void too_late(struct loop_timer *t)
{
	struct awaited *a = container_of(t, struct awaited, late);

	/* One turn of the loop may have the answer and its time. */
	if (a->over)
		return;
	a->is_late = true;
	loop_cancel(a->loop, &a->ready);
}

/* False: there is no answer. */
static bool await_answer(const struct migrate_copies *c, struct loop *loop)
{
	struct awaited a = { .loop = loop, .ready.done = answered, .late.expired = too_late };

	loop_poll(loop, &a.ready, c->monitors, POLLIN);
	loop_timer_set(loop, &a.late,
		       clock_monotonic_ns(loop_clock(loop)) + PUBLISH_MS * NSEC_PER_MSEC);
	while (!a.over)
		loop_run_once(loop, UINT64_MAX);
	loop_timer_cancel(loop, &a.late);
	return !a.is_late;
}

int migrate_copies_publish(struct migrate_copies *c, struct loop *loop, struct error *err)
{
	struct published answer;

	if (send(c->monitors, "", 1, MSG_NOSIGNAL) == 1 && !await_answer(c, loop))
		return error_set(err, -ETIMEDOUT, "copies of disks: the parent does not answer");
	if (recv(c->monitors, &answer, sizeof(answer), MSG_DONTWAIT) != sizeof(answer))
		return error_set(err, -EPIPE, "copies of disks: the parent is gone");
	if (answer.error)
		return error_set(err, -answer.error, "disk '%s': its copy cannot be put there: %m",
				 answer.disk < c->num ? c->copy[answer.disk].file.path : "?");
	return 0;
}

void migrate_copies_close(struct migrate_copies *c)
{
	close_fd(&c->parents);
	close_fd(&c->monitors);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++) {
		close_fd(&c->copy[i].file.fd);
		close_fd(&c->copy[i].disk_fd);
	}
}
