/*
 * Faults: wisp with this linked in by --wrap (build/wisp-faults alone, make faults) fails one
 * call, the n-th of a kind, counted over all its processes and threads.
 *
 * Which one stands in the file at descriptor 99 (struct orders): "KIND ERRNO N"; KIND is a
 * function below, "memory" for any allocation, or "ring" for a completion of an io_uring. With
 * "step 0 N" nothing fails: before the n-th call that others can see the effect of, its process
 * stands still, to be killed there, and with it all that come to such a call. With "step 0 N TEXT"
 * they count from the first that writes or says TEXT. Nothing fails while its edition is 0; another
 * edition is a new order, also to processes that run, and counts from there. C library functions
 * call one another through these names too, as the monitor is static.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define ORDERS_FD 99

/* The file, in memory: seen by every process that is forked. tests/fault/lib.sh writes it. */
struct orders {
	char text[64];
	_Atomic char injected; /* 'I': the call was made, and failed; 'S': it is not made for now */
	_Atomic unsigned char edition;
	_Atomic unsigned calls;
	_Atomic char
		depth; /* 'S': of the process, '0' the one that was started, '1' its child... */
	_Atomic char begun; /* the step to count from has come */
	char step[38];	    /* 'S': the call, in words */
};

static struct orders *orders; /* NULL: nothing fails */

static char depth = '0';

/* The order as this thread has understood it last. */
static _Thread_local unsigned char edition;
static _Thread_local char kind[32];
static _Thread_local int error;
static _Thread_local unsigned which;
static _Thread_local char since[16];

void *__real_mmap(void *p, size_t n, int prot, int flags, int fd, off_t offset);

static __attribute__((constructor)) void find_orders(void)
{
	struct orders *o = __real_mmap(NULL, sizeof(*o), PROT_READ | PROT_WRITE, MAP_SHARED,
				       ORDERS_FD, 0);

	if (o != MAP_FAILED)
		orders = o;
}

/* False: there is none. */
static bool understand(void)
{
	unsigned char now = orders ? orders->edition : 0;

	if (now == edition)
		return now;
	edition = now;
	since[0] = '\0';
	if (!now || sscanf(orders->text, "%31s %d %u %15s", kind, &error, &which, since) < 3)
		kind[0] = '\0';
	return now;
}

static bool fails(const char *name)
{
	int saved = errno;

	if (!understand() || strcmp(name, kind) || ++orders->calls != which) {
		errno = saved;
		return false;
	}
	orders->injected = 'I';
	errno = error;
	return true;
}

/* Does step @text count, as the one to count from, or behind it? */
static bool counts(const char *text, size_t len)
{
	if (!since[0] || (len >= strlen(since) && !memcmp(text, since, strlen(since))))
		orders->begun = 1;
	return orders->begun;
}

/*
 * Before a call that leaves something behind, which @text, of @len bytes at most, tells more of. A
 * sandboxed process may not stop or kill itself: it waits until it is killed, or the order is gone.
 */
static void step(const char *name, const char *text, size_t len)
{
	int saved = errno, n = 0;

	if (understand() && !strcmp(kind, "step") && counts(text, len)) {
		if (++orders->calls == which) {
			while ((size_t)n < len && text[n] > ' ' && text[n] <= '~')
				n++;
			snprintf(orders->step, sizeof(orders->step), "%s %.*s", name, n, text);
			orders->depth = depth;
			orders->injected = 'S';
		}
		while (orders->edition == edition && orders->calls >= which)
			__builtin_ia32_pause();
	}
	errno = saved;
}

/* The same for what is sent: the type of record, where it begins with one (migrate_wire.h). */
static void step_to_peer(const char *name, const struct iovec *v, size_t n)
{
	char text[16] = "";
	uint32_t type;

	if (n && v->iov_len == 32) {
		memcpy(&type, v->iov_base, sizeof(type));
		snprintf(text, sizeof(text), "record-%u", type);
	}
	step(name, text, sizeof(text));
}

/* ---- memory ---- */

#define MEMORY(name, params, args)               \
	void *__real_##name params;              \
	void *__wrap_##name params;              \
	void *__wrap_##name params               \
	{                                        \
		if (fails("memory"))             \
			return NULL;             \
		return __real_##name args;       \
	}

MEMORY(malloc, (size_t n), (n))
MEMORY(calloc, (size_t n, size_t size), (n, size))
MEMORY(realloc, (void *p, size_t n), (p, n))
MEMORY(aligned_alloc, (size_t align, size_t n), (align, n))

void *__wrap_mmap(void *p, size_t n, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *p, size_t n, int prot, int flags, int fd, off_t offset)
{
	return fails("mmap") ? MAP_FAILED : __real_mmap(p, n, prot, flags, fd, offset);
}

/* ---- system calls. Optional arguments are passed on whether they are there or not ---- */

#define CALL(type, name, params, args)                               \
	type __real_##name params;                                   \
	type __wrap_##name params;                                   \
	type __wrap_##name params                                    \
	{                                                            \
		return fails(#name) ? (type)-1 : __real_##name args; \
	}

/* One that leaves something behind, told of by @text. */
#define STEP(type, name, params, args, text)                         \
	type __real_##name params;                                   \
	type __wrap_##name params;                                   \
	type __wrap_##name params                                    \
	{                                                            \
		step(#name, text, strlen(text));                     \
		return fails(#name) ? (type)-1 : __real_##name args; \
	}

static const char *base(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

CALL(int, open, (const char *path, int flags, long mode), (path, flags, mode))
CALL(int, openat, (int dir, const char *path, int flags, long mode), (dir, path, flags, mode))
CALL(ssize_t, read, (int fd, void *p, size_t n), (fd, p, n))
CALL(ssize_t, pread, (int fd, void *p, size_t n, off_t at), (fd, p, n, at))
CALL(ssize_t, preadv2, (int fd, const void *v, int n, off_t at, int f), (fd, v, n, at, f))
CALL(ssize_t, pwrite, (int fd, const void *p, size_t n, off_t at), (fd, p, n, at))
CALL(ssize_t, recvmsg, (int fd, struct msghdr *m, int flags), (fd, m, flags))
CALL(ssize_t, copy_file_range, (int a, off_t *x, int b, off_t *y, size_t n, unsigned f),
     (a, x, b, y, n, f))
CALL(off_t, lseek, (int fd, off_t at, int whence), (fd, at, whence))
STEP(int, fsync, (int fd), (fd), "")
STEP(int, fdatasync, (int fd), (fd), "")
CALL(int, accept4, (int fd, void *a, socklen_t *n, int flags), (fd, a, n, flags))
CALL(int, connect, (int fd, const void *a, socklen_t n), (fd, a, n))
CALL(int, dup3, (int from, int to, int flags), (from, to, flags))
CALL(int, memfd_create, (const char *name, unsigned flags), (name, flags))
CALL(int, ioctl, (int fd, unsigned long request, void *p), (fd, request, p))
CALL(int, fstat, (int fd, struct stat *s), (fd, s))
CALL(int, stat, (const char *path, struct stat *s), (path, s))
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode))
STEP(int, rename, (const char *from, const char *to), (from, to), base(to))
STEP(int, renameat2, (int a, const char *from, int b, const char *to, unsigned f),
     (a, from, b, to, f), base(to))
STEP(int, linkat, (int a, const char *from, int b, const char *to, int f), (a, from, b, to, f),
     base(to))
STEP(int, unlink, (const char *path), (path), base(path))
CALL(int, ftruncate, (int fd, off_t n), (fd, n))
CALL(int, mprotect, (void *p, size_t n, int prot), (p, n, prot))
CALL(int, madvise, (void *p, size_t n, int advice), (p, n, advice))
CALL(int, eventfd, (unsigned n, int flags), (n, flags))
CALL(int, signalfd, (int fd, const sigset_t *s, int flags), (fd, s, flags))
CALL(int, socketpair, (int a, int b, int c, int *fds), (a, b, c, fds))
CALL(int, socket, (int a, int b, int c), (a, b, c))
CALL(int, bind, (int fd, const void *a, socklen_t n), (fd, a, n))
CALL(int, listen, (int fd, int n), (fd, n))
CALL(int, pipe2, (int *fds, int flags), (fds, flags))
CALL(int, unshare, (int flags), (flags))
CALL(int, mount, (const char *a, const char *b, const char *c, unsigned long f, const void *d),
     (a, b, c, f, d))
CALL(int, umount2, (const char *path, int flags), (path, flags))
CALL(int, prctl, (int what, long a, long b, long c, long d), (what, a, b, c, d))
CALL(int, setrlimit, (int what, const void *limit), (what, limit))
CALL(long, syscall, (long nr, long a, long b, long c, long d, long e, long f),
     (nr, a, b, c, d, e, f))
CALL(int, epoll_create1, (int flags), (flags))
CALL(int, epoll_ctl, (int fd, int what, int of, struct epoll_event *e), (fd, what, of, e))
CALL(int, getrandom, (void *p, size_t n, unsigned flags), (p, n, flags))
CALL(int, timer_create, (int clock, void *event, void *timer), (clock, event, timer))

/* With an offset of its own to a disk, where steps are the guest's; without one to a peer. */
ssize_t __real_pwritev2(int fd, const struct iovec *v, int n, off_t at, int flags);
ssize_t __wrap_pwritev2(int fd, const struct iovec *v, int n, off_t at, int flags);
ssize_t __wrap_pwritev2(int fd, const struct iovec *v, int n, off_t at, int flags)
{
	if (at == -1)
		step_to_peer("writev", v, n);
	return fails("pwritev2") ? -1 : __real_pwritev2(fd, v, n, at, flags);
}

ssize_t __real_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags)
{
	step_to_peer("sendmsg", m->msg_iov, m->msg_iovlen);
	return fails("sendmsg") ? -1 : __real_sendmsg(fd, m, flags);
}

/* Locks on disks go with the guest. */
int __real_fcntl(int fd, int command, void *p);
int __wrap_fcntl(int fd, int command, void *p);
int __wrap_fcntl(int fd, int command, void *p)
{
	if (command == F_OFD_SETLK)
		step("fcntl", ((struct flock *)p)->l_type == F_UNLCK ? "unlock" : "lock", 8);
	return fails("fcntl") ? -1 : __real_fcntl(fd, command, p);
}

pid_t __real_fork(void);
pid_t __wrap_fork(void);
pid_t __wrap_fork(void)
{
	pid_t pid = fails("fork") ? -1 : __real_fork();

	depth += pid == 0;
	return pid;
}

/* What wisp has to say must arrive, or nothing can be said of how it ended. */
ssize_t __real_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n)
{
	uint64_t count = 0;

	/* Those that wake a loop: an eventfd takes them always. */
	if (n == sizeof(count))
		memcpy(&count, p, n);
	if (n == sizeof(count) && count <= UINT32_MAX)
		return __real_write(fd, p, n);
	/* Not what the guest says, either. */
	if (fd > STDERR_FILENO)
		step("write", p, n);
	return fd != STDERR_FILENO && fails("write") ? -1 : __real_write(fd, p, n);
}

int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg)
{
	return fails("pthread_create") ? error : __real_pthread_create(t, a, fn, arg);
}

/* ---- the ring: set-up, and completions before anybody sees them ---- */

#define RING(name, params, args)                                  \
	int __real_##name params;                                 \
	int __wrap_##name params;                                 \
	int __wrap_##name params                                  \
	{                                                         \
		return fails(#name) ? -error : __real_##name args; \
	}

RING(io_uring_queue_init_params, (unsigned n, struct io_uring *r, struct io_uring_params *p),
     (n, r, p))
RING(io_uring_register_restrictions,
     (struct io_uring *r, struct io_uring_restriction *res, unsigned n), (r, res, n))

/* All that are there are new: the loop takes them after each of these calls. */
static int spoil(struct io_uring *ring, int r)
{
	struct io_uring_cqe *cqe;
	unsigned head;

	io_uring_for_each_cqe (ring, head, cqe) {
		if (cqe->user_data && fails("ring"))
			cqe->res = -error;
	}
	return r;
}

#define WAIT(name, params, args)                          \
	int __real_##name params;                         \
	int __wrap_##name params;                         \
	int __wrap_##name params                          \
	{                                                 \
		return spoil(ring, __real_##name args);   \
	}

WAIT(io_uring_submit_and_wait, (struct io_uring *ring, unsigned n), (ring, n))
WAIT(io_uring_submit_and_get_events, (struct io_uring *ring), (ring))
WAIT(io_uring_submit_and_wait_timeout,
     (struct io_uring *ring, struct io_uring_cqe **cqe, unsigned n, struct __kernel_timespec *ts,
      sigset_t *mask),
     (ring, cqe, n, ts, mask))
