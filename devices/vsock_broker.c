#include "devices/vsock_broker.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/core/fds.h"
#include "vmm/core/io.h"

#define BACKLOG 128

/* A socket connected to @path's neighbour for @port, or -errno. */
static int open_port(const char *path, uint32_t port)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, n;

	n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", path, port);
	if (n >= (int)sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	/* Non-blocking: a server whose backlog is full must not stop us. */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	return fd;
}

static void answer(int fd, const struct vsock_open_request *request, int result)
{
	struct vsock_open_reply reply = { .id = request->id, .error = result < 0 ? -result : 0 };
	FDS_SPACE(1) space;
	struct iovec iov = { &reply, sizeof(reply) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (result >= 0)
		fds_attach(&msg, &space, &result, 1);
	/* A monitor that asks and does not listen harms itself alone. */
	(void)!sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (result >= 0)
		close(result);
}

int vsock_broker_serve(int fd, const char *path)
{
	struct vsock_open_request request;
	ssize_t n;

	while ((n = recv(fd, &request, sizeof(request), MSG_DONTWAIT)) != 0) {
		if (n == sizeof(request))
			answer(fd, &request, open_port(path, request.port));
		else if (n < 0 && errno != EINTR)
			return errno == EAGAIN ? 0 : -errno;
	}
	return -EPIPE;
}

int vsock_listen(const char *path, struct error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	const struct sockaddr *sa = (const struct sockaddr *)&addr;
	int fd, r = 0;

	if (strlen(path) + VSOCK_SUFFIX_BYTES >= sizeof(addr.sun_path))
		return error_usage(err, -ENAMETOOLONG,
				   "--vsock: path '%s' is longer than %zu bytes", path,
				   sizeof(addr.sun_path) - VSOCK_SUFFIX_BYTES - 1);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(err, -errno, "--vsock: socket: %m");
	if (bind(fd, sa, sizeof(addr)) < 0) {
		r = -errno;
		if (r == -EADDRINUSE && io_remove_dead_socket(path, SOCK_STREAM))
			r = bind(fd, sa, sizeof(addr)) < 0 ? -errno : 0;
	}
	if (!r && listen(fd, BACKLOG) < 0)
		r = -errno;
	if (r < 0) {
		close(fd);
		return error_usage(err, r, "--vsock: cannot listen at '%s': %m", path);
	}
	return fd;
}
