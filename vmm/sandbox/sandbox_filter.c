/* Filters of system calls: made when wisp is built, loaded by each thread for itself. */
#include <errno.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/sandbox/sandbox_internal.h"

/* Sanitizers make system calls of their own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

int sandbox_check_seccomp(struct sandbox *s, struct error *err)
{
	unsigned action = SECCOMP_RET_KILL_PROCESS;

	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0)
		return sandbox_missing(s, -errno, "seccomp filters", err);
	s->filters = !SANITIZED;
	return 0;
}

int sandbox_filter(struct sandbox *s, enum sandbox_thread kind)
{
	const struct sandbox_filter *f = &sandbox_filters[kind];
	struct sock_fprog program = { .len = f->len, .filter = (struct sock_filter *)f->filter };

	if (!s->filters || (kind == SANDBOX_THREAD_MAKER && s->filtered))
		return 0;
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
		return -errno;
	if (kind == SANDBOX_THREAD_MAKER)
		s->filtered = true;
	return 0;
}

int sandbox_filter_helper(enum sandbox_thread kind)
{
	struct sandbox s = { .filters = !SANITIZED };

	return sandbox_filter(&s, kind);
}
