#include "devices/fs_wire.h"

#include <errno.h>
#include <unistd.h>

#include "vmm/core/fds.h"

int fs_wire_send(int socket, const struct fs_wire *head, const void *body, size_t len, int fd,
		 int flags)
{
	FDS_SPACE(1) space;
	struct iovec iov[2] = { { (void *)head, sizeof(*head) }, { (void *)body, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	if (fd >= 0)
		fds_attach(&msg, &space, &fd, 1);
	while (sendmsg(socket, &msg, flags | MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int fs_wire_receive(int socket, struct fs_wire *ret_head, void *body, size_t size, size_t *ret_len,
		    int *ret_fd)
{
	FDS_SPACE(1) space;
	struct iovec iov[2] = { { ret_head, sizeof(*ret_head) }, { body, size } };
	struct msghdr msg = {
		.msg_iov = iov,
		.msg_iovlen = 2,
		.msg_control = ret_fd ? &space : NULL,
		.msg_controllen = ret_fd ? sizeof(space) : 0,
	};
	ssize_t n;

	do
		n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? -errno : 0;
	if (ret_fd)
		*ret_fd = fds_take_one(&msg);
	if ((size_t)n < sizeof(*ret_head) || msg.msg_flags & MSG_TRUNC) {
		if (ret_fd && *ret_fd >= 0)
			close(*ret_fd);
		return -EBADMSG;
	}
	*ret_len = n - sizeof(*ret_head);
	return 1;
}
