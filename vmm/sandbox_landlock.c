/*
 * Landlock: everything it knows is handled and nothing is allowed. Descriptors that are open keep
 * working; connecting to a UNIX socket by its path is not its matter.
 */
#include <errno.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/sandbox_internal.h"

/* What newer kernels know beyond the headers that this is built with. */
struct ruleset {
	uint64_t handled_access_fs;
	uint64_t handled_access_net; /* from version 4 */
	uint64_t scoped;	     /* from version 6 */
};

#define ACCESS_NET_ALL 0x3 /* bind and connect of TCP */
#define SCOPE_ALL      0x3 /* abstract UNIX sockets and signals, of processes outside */

/* How many rights of the file system each version knows; the last entry is for newer ones. */
static const unsigned fs_rights[] = { 0, 13, 14, 15, 15, 16 };

int sandbox_landlock_version(void)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0,
			       LANDLOCK_CREATE_RULESET_VERSION);

	return version < 0 ? -errno : version;
}

int sandbox_landlock(struct sandbox *s, struct error *err)
{
	int version = sandbox_landlock_version();
	struct ruleset rules = { 0 };
	size_t size = sizeof(rules.handled_access_fs);
	int fd, r;

	if (version < 0)
		return sandbox_missing(s, version, "Landlock", err);
	rules.handled_access_fs =
		(1ull << fs_rights[MIN((size_t)version, ARRAY_SIZE(fs_rights) - 1)]) - 1;
	if (version >= 4) {
		rules.handled_access_net = ACCESS_NET_ALL;
		size = offsetof(struct ruleset, scoped);
	}
	if (version >= 6) {
		rules.scoped = SCOPE_ALL;
		size = sizeof(rules);
	}
	fd = syscall(SYS_landlock_create_ruleset, &rules, size, 0);
	if (fd < 0)
		return sandbox_missing(s, -errno, "Landlock", err);
	r = syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? -errno : 0;
	close(fd);
	return r < 0 ? sandbox_missing(s, r, "Landlock", err) : 0;
}
