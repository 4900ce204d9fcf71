#include "vmm/core/fds.h"

#include <unistd.h>

void fds_attach(struct msghdr *msg, void *space, const int *fds, unsigned num)
{
	struct cmsghdr *c;

	msg->msg_control = space;
	msg->msg_controllen = CMSG_SPACE(num * sizeof(int));
	memset(space, 0, msg->msg_controllen);
	c = CMSG_FIRSTHDR(msg);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(num * sizeof(int));
	memcpy(CMSG_DATA(c), fds, num * sizeof(int));
}

unsigned fds_take(struct msghdr *msg, int *ret_fds, unsigned max)
{
	unsigned num = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t here;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		/* In the space of one there may be two: it is padded. */
		here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < here; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (num < max)
				ret_fds[num++] = fd;
			else
				close(fd);
		}
	}
	return num;
}

int fds_take_one(struct msghdr *msg)
{
	int fd;

	return fds_take(msg, &fd, 1) ? fd : -1;
}
