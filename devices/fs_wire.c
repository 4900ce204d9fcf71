#include "devices/fs_wire.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

int fs_wire_take_fd(struct msghdr *msg)
{
	int fd = -1, more;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t bytes = c->cmsg_len - CMSG_LEN(0);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
			memcpy(&more, CMSG_DATA(c) + at, sizeof(int));
			if (fd < 0)
				fd = more;
			else
				close(more);
		}
	}
	return fd;
}

int fs_wire_send(int socket, const struct fs_wire *head, const void *body, size_t len, int fd,
		 int flags)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov[2] = { { (void *)head, sizeof(*head) }, { (void *)body, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	struct cmsghdr *c;

	if (fd >= 0) {
		msg.msg_control = control.buf;
		msg.msg_controllen = sizeof(control.buf);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	while (sendmsg(socket, &msg, flags | MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int fs_wire_receive(int socket, struct fs_wire *ret_head, void *body, size_t size, size_t *ret_len,
		    int *ret_fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov[2] = { { ret_head, sizeof(*ret_head) }, { body, size } };
	struct msghdr msg = {
		.msg_iov = iov,
		.msg_iovlen = 2,
		.msg_control = ret_fd ? control.buf : NULL,
		.msg_controllen = ret_fd ? sizeof(control.buf) : 0,
	};
	ssize_t n;

	do
		n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? -errno : 0;
	if (ret_fd)
		*ret_fd = fs_wire_take_fd(&msg);
	if ((size_t)n < sizeof(*ret_head) || msg.msg_flags & MSG_TRUNC) {
		if (ret_fd && *ret_fd >= 0)
			close(*ret_fd);
		return -EBADMSG;
	}
	*ret_len = n - sizeof(*ret_head);
	return 1;
}
