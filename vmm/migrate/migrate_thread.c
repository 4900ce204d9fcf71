#include "vmm/migrate/migrate_thread.h"

#include <sys/prctl.h>

#include "vmm/sandbox/sandbox.h"

int migrate_thread_begins(struct sandbox *sandbox, const char *name, struct error *err)
{
	int r;

	prctl(PR_SET_NAME, name);
	r = sandbox ? sandbox_filter(sandbox, SANDBOX_THREAD_MIGRATE) : 0;
	return r < 0 ? error_set(err, r, "migration: system call filter: %m") : 0;
}
