#include "tests/hostile/rings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/core/util.h"

#define MINE	    4711 /* user_data of our entries */
#define NOT_OPEN    9999
#define IN_A_KERNEL ((uint64_t)0xffff888000000000)

/* For people who read the list; later kernels have more. */
static const char *const names[] = {
	"nop", "readv", "writev", "fsync", "read_fixed", "write_fixed", "poll_add", "poll_remove",
	"sync_file_range", "sendmsg", "recvmsg", "timeout", "timeout_remove", "accept",
	"async_cancel", "link_timeout", "connect", "fallocate", "openat", "close", "files_update",
	"statx", "read", "write", "fadvise", "madvise", "send", "recv", "openat2", "epoll_ctl",
	"splice", "provide_buffers", "remove_buffers", "tee", "shutdown", "renameat", "unlinkat",
	"mkdirat", "symlinkat", "linkat", "msg_ring", "fsetxattr", "setxattr", "fgetxattr",
	"getxattr", "socket", "uring_cmd", "send_zc", "sendmsg_zc", "read_multishot", "waitid",
	"futex_wait", "futex_wake", "futex_waitv", "fixed_fd_install", "ftruncate", "bind",
	"listen", "recv_zc", "epoll_wait", "readv_fixed", "writev_fixed", "pipe",
};

static const char *name_of(unsigned opcode)
{
	return opcode < ARRAY_SIZE(names) ? names[opcode] : "unknown";
}

/* Carry out one entry; its result. Others on the ring may be there from before. */
static int one_entry(struct io_uring *ring, const struct io_uring_sqe *entry)
{
	struct __kernel_timespec limit = { .tv_sec = 5 };
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int r;

	if (!sqe)
		return -EBUSY;
	*sqe = *entry;
	sqe->user_data = MINE;
	for (;;) {
		r = io_uring_submit_and_wait_timeout(ring, &cqe, 1, &limit, NULL);
		if (r < 0 || io_uring_peek_cqe(ring, &cqe))
			return r < 0 ? r : -ETIME;
		r = cqe->res;
		if (cqe->user_data == MINE) {
			io_uring_cqe_seen(ring, cqe);
			return r;
		}
		io_uring_cqe_seen(ring, cqe);
	}
}

static void report(const struct io_uring_sqe *entry, const char *what, int r)
{
	char line[128];
	int n = snprintf(line, sizeof(line), "hostile: entry %u %s flags %#x, %s: %d\n",
			 entry->opcode, name_of(entry->opcode), entry->flags, what, r);

	(void)!write(STDERR_FILENO, line, n);
}

static int try_entry(struct io_uring *ring, const struct io_uring_sqe *entry, const char *what)
{
	int r = one_entry(ring, entry);

	report(entry, what, r);
	return r;
}

/* With what opens, makes or names something where it is allowed. */
static struct io_uring_sqe plain(unsigned opcode)
{
	struct io_uring_sqe e = { .opcode = opcode, .fd = AT_FDCWD };

	e.addr = (uintptr_t)"/etc/passwd";
	return e;
}

/* An operation that the ring takes, on what it must not reach. */
static int try_arguments(struct io_uring *ring, unsigned opcode)
{
	static const int files[] = { -1, NOT_OPEN };
	struct io_uring_sqe e = plain(opcode);
	int n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(files); i++, n++) {
		e.fd = files[i];
		try_entry(ring, &e, "a descriptor that is not open");
	}
	e.fd = STDERR_FILENO;
	e.len = 1;
	e.addr = IN_A_KERNEL;
	e.off = opcode == IORING_OP_ACCEPT ? IN_A_KERNEL : 0;
	/* These look at no memory. */
	if (opcode != IORING_OP_FSYNC && opcode != IORING_OP_FALLOCATE &&
	    opcode != IORING_OP_POLL_ADD) {
		try_entry(ring, &e, "memory of the kernel's");
		n++;
	}
	e = plain(opcode);
	e.fd = STDERR_FILENO;
	e.personality = 1;
	try_entry(ring, &e, "somebody else's credentials");
	return n + 1;
}

int hostile_try_entries(struct io_uring *ring)
{
	bool allowed[256] = { false };
	int n = 0, r;

	io_uring_enable_rings(ring);
	for (unsigned opcode = 0; opcode < ARRAY_SIZE(allowed); opcode++, n++) {
		struct io_uring_sqe e = plain(opcode);

		r = try_entry(ring, &e, "alone");
		if (r == -EBUSY || r == -EEXIST || r == -EBADFD)
			return r;
		/* Before it looks at anything else of an entry the kernel looks at this. */
		allowed[opcode] = r != -EACCES && opcode < ARRAY_SIZE(names);
	}
	for (unsigned opcode = 0; opcode < ARRAY_SIZE(allowed); opcode++) {
		struct io_uring_sqe e = plain(opcode);

		if (!allowed[opcode])
			continue;
		for (unsigned flag = 1; flag <= 0x80; flag <<= 1) {
			if (flag == IOSQE_CQE_SKIP_SUCCESS)
				continue; /* in use; says nothing when all is well */
			e.flags = flag;
			try_entry(ring, &e, "a flag");
			n++;
		}
		n += try_arguments(ring, opcode);
	}
	return n;
}

int hostile_enter(struct io_uring *ring)
{
	return syscall(SYS_io_uring_enter, ring->ring_fd, 1, 0, 0, NULL, 0) < 0 ? -errno : 0;
}
