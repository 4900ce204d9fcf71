/*
 * Landlock: everything it knows is handled and nothing is allowed. Descriptors that are open keep
 * working; connecting to a UNIX socket by its path is not its matter.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/sandbox/sandbox_internal.h"

/* What newer kernels know beyond the headers that this is built with. */
struct ruleset {
	uint64_t handled_access_fs;
	uint64_t handled_access_net; /* from version 4 */
	uint64_t scoped;	     /* from version 6 */
};

#define ACCESS_FS_ALL  UINT64_MAX /* cut to what the host knows */
#define ACCESS_NET_ALL 0x3	  /* bind and connect of TCP */
#define SCOPE_ALL      0x3	  /* abstract UNIX sockets and signals, of processes outside */

/* How many rights of the file system each version knows; the last entry is for newer ones. */
static const unsigned fs_rights[] = { 0, 13, 14, 15, 15, 16 };

int sandbox_landlock_version(void)
{
	long version =
		syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	return version < 0 ? -errno : version;
}

/* A ruleset that handles all the host knows of @rules, which is all there is. -errno. */
static int create_ruleset(const struct ruleset *all)
{
	int version = sandbox_landlock_version(), fd;
	struct ruleset rules = *all;
	size_t size = sizeof(rules);

	if (version < 0)
		return version;
	rules.handled_access_fs &=
		(1ull << fs_rights[MIN((size_t)version, ARRAY_SIZE(fs_rights) - 1)]) - 1;
	if (version < 4)
		size = offsetof(struct ruleset, handled_access_net);
	else if (version < 6)
		size = offsetof(struct ruleset, scoped);
	fd = syscall(SYS_landlock_create_ruleset, &rules, size, 0);
	return fd < 0 ? -errno : fd;
}

/* Under the ruleset @fd, which is closed, from now on. */
static int restrict_self(int fd)
{
	int r = syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? -errno : 0;

	close(fd);
	return r;
}

int sandbox_landlock(struct sandbox *s, struct error *err)
{
	static const struct ruleset all = { ACCESS_FS_ALL, ACCESS_NET_ALL, SCOPE_ALL };
	int r = create_ruleset(&all);

	if (r >= 0)
		r = restrict_self(r);
	return r < 0 ? sandbox_missing(s, r, "Landlock", err) : 0;
}

int sandbox_landlock_readable(const char *const *readable)
{
	static const struct ruleset all = { ACCESS_FS_ALL, 0, SCOPE_ALL };
	struct landlock_path_beneath_attr rule = { LANDLOCK_ACCESS_FS_READ_FILE, -1 };
	int fd = create_ruleset(&all);

	if (fd < 0)
		return fd;
	for (; *readable; readable++) {
		rule.parent_fd = open(*readable, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (rule.parent_fd < 0)
			continue; /* not every host has all of them */
		syscall(SYS_landlock_add_rule, fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
		close(rule.parent_fd);
	}
	return restrict_self(fd);
}
