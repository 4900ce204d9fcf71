#include "vmm/sandbox/core_sched.h"

#include <errno.h>
#include <stdint.h>
#include <sys/prctl.h>

#include "vmm/core/log.h"

int core_sched_check(void)
{
	uint64_t cookie;

	if (prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, 0, PR_SCHED_CORE_SCOPE_THREAD, &cookie) < 0)
		return -errno;
	return 0;
}

int core_sched_begin(struct error *err)
{
	int r;

	/* 0: ourselves. Threads that are made later get it from who makes them. */
	if (!prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, PR_SCHED_CORE_SCOPE_THREAD_GROUP, 0))
		return 0;
	r = -errno;
	if (r == -ENODEV) {
		log_info("--core-sched: every core of this host runs one thread: nothing to do");
		return 0;
	}
	if (r != -EINVAL)
		return error_kind_set(err, ERROR_REFUSED, r, "--core-sched: %m");
	error_kind_set(err, ERROR_REFUSED, r, "--core-sched: this kernel has no core scheduling");
	error_hint(err, "Linux 5.14 or newer with CONFIG_SCHED_CORE has it; booted with nosmt a "
			"host does not need it");
	return r;
}
