/* What is at the other end of a chardev: opened here, by kind, and closed. */
#include "devices/chardev_internal.h"
#include "devices/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/core/io.h"

static int open_socket(struct chardev_ends *e, const char *path, struct error *err)
{
	int fd = io_listen(path, SOCK_STREAM, 0, 1);

	if (fd == -EADDRINUSE && io_remove_dead_socket(path, SOCK_STREAM))
		fd = io_listen(path, SOCK_STREAM, 0, 1);
	if (fd < 0)
		return error_usage(err, fd, "socket '%s': cannot listen: %m", path);
	e->listen_fd = fd;
	e->path = strdup(path);
	if (!e->path) {
		unlink(path);
		return error_set(err, -ENOMEM, "socket '%s': %m", path);
	}
	return 0;
}

static int open_file(struct chardev_ends *e, const char *path, bool append, struct error *err)
{
	int how = append ? O_APPEND : O_TRUNC;

	e->out_fd = open(path, O_WRONLY | O_CREAT | how | O_CLOEXEC | O_NOCTTY, 0666);
	if (e->out_fd < 0)
		return error_usage(err, -errno, "file '%s': cannot write: %m", path);
	e->owns_out = true;
	return 0;
}

static void open_stdio(struct chardev_ends *e)
{
	int fd;

	e->in_fd = STDIN_FILENO;
	e->out_fd = STDOUT_FILENO;
	e->terminal = terminal_is(STDIN_FILENO);
	e->stands_for_terminal = !e->terminal;
	/*
	 * A write to a terminal may block, and O_NONBLOCK would be seen by everybody
	 * who shares the descriptor; opened again, it is ours alone. When that is
	 * not possible the loop has other, slower means.
	 */
	if (!terminal_is(STDOUT_FILENO))
		return;
	fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return;
	e->out_fd = fd;
	e->owns_out = true;
}

static int open_kind(struct chardev_ends *e, const struct chardev_config *config, struct error *err)
{
	switch (config->kind) {
	case CHARDEV_NULL:
		e->name = "null";
		return 0;
	case CHARDEV_STDIO:
		e->name = "stdio";
		open_stdio(e);
		return 0;
	case CHARDEV_FILE:
		e->name = "file";
		return open_file(e, config->path, config->append, err);
	case CHARDEV_SOCKET:
		e->name = "socket";
		if (!config->path) {
			e->listen_fd = config->listen_fd;
			return 0;
		}
		return open_socket(e, config->path, err);
	case CHARDEV_FDS:
		e->name = "descriptors";
		e->in_fd = config->in_fd;
		e->out_fd = config->out_fd;
		return 0;
	}
	return error_set(err, -EINVAL, "character device of unknown kind %d", config->kind);
}

int chardev_open_ends(struct chardev_ends *ret_ends, const struct chardev_config *config,
		      struct error *err)
{
	struct chardev_ends e = { .in_fd = -1, .out_fd = -1, .listen_fd = -1 };
	int r = open_kind(&e, config, err);

	if (r < 0)
		chardev_close_ends(&e);
	else
		*ret_ends = e;
	return r;
}

void chardev_close_ends(struct chardev_ends *e)
{
	if (e->listen_fd >= 0) {
		close(e->listen_fd);
		if (e->in_fd >= 0)
			close(e->in_fd);
	} else if (e->owns_out) {
		close(e->out_fd);
	}
	if (e->path)
		unlink(e->path);
	free(e->path);
}
