/*
 * Descriptors that go along with a message over a UNIX socket (SCM_RIGHTS, unix(7)). Any thread.
 */
#ifndef WISP_CORE_FDS_H
#define WISP_CORE_FDS_H

#include <sys/socket.h>

#include "vmm/core/util.h"

/* What a message needs in its msg_control for @num descriptors, in a union with its alignment. */
#define FDS_SPACE(num)                                                                             \
	union {                                                                                    \
		struct cmsghdr align;                                                              \
		char bytes[CMSG_SPACE((num) * sizeof(int))];                                       \
	}

/*
 * Let @msg carry copies of @num descriptors, one or more; @space is FDS_SPACE() for them, and is
 * to live until @msg is sent.
 */
void fds_attach(struct msghdr *msg, void *space, const int *fds, unsigned num);

/*
 * What came with @msg, which was received with MSG_CMSG_CLOEXEC: up to @max into @ret_fds, the
 * caller's from here on. The rest is closed: who sends more than was asked for means no good.
 * Returns how many.
 */
unsigned fds_take(struct msghdr *msg, int *ret_fds, unsigned max);

/* The first of them, or -1. */
int fds_take_one(struct msghdr *msg);

#endif
