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
	char neighbour[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	int n = snprintf(neighbour, sizeof(neighbour), "%s_%u", path, port);

	if (n >= (int)sizeof(neighbour))
		return -ENAMETOOLONG;
	/* Non-blocking: a server whose backlog is full must not stop us. */
	return io_connect(neighbour, SOCK_STREAM | SOCK_NONBLOCK);
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

	for (unsigned i = 0; i < VSOCK_MAX_REQUESTS; i++) {
		n = recv(fd, &request, sizeof(request), MSG_DONTWAIT);
		if (n == sizeof(request))
			answer(fd, &request, open_port(path, request.port));
		else if (!n)
			return -EPIPE;
		else if (n < 0 && errno != EINTR)
			return errno == EAGAIN ? 0 : -errno;
	}
	return 1;
}

int vsock_listen(const char *path, const char *suffix, struct error *err)
{
	const size_t most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - VSOCK_SUFFIX_BYTES - 1;
	const int type = SOCK_STREAM | SOCK_NONBLOCK;
	char name[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	int fd;

	if (strlen(path) > most)
		return error_usage(err, -ENAMETOOLONG,
				   "--vsock: path '%s' is longer than %zu bytes", path, most);
	snprintf(name, sizeof(name), "%s%s", path, suffix);
	fd = io_listen(name, type, 0, BACKLOG);
	if (fd == -EADDRINUSE && io_remove_dead_socket(name, SOCK_STREAM))
		fd = io_listen(name, type, 0, BACKLOG);
	return fd < 0 ? error_usage(err, fd, "--vsock: cannot listen at '%s': %m", name) : fd;
}
