/*
 * The control groups of a microVM in a jail, as Firecracker's jailer makes them: PARENT/ID in the
 * hierarchy of version 2, or in that of each controller of version 1, with the values that
 * --cgroup has. One thread; nothing is undone on failure, since the process ends then.
 */
#ifndef WISP_HELPERS_JAIL_CGROUP_H
#define WISP_HELPERS_JAIL_CGROUP_H

#include "helpers/jail.h"

/*
 * Make the groups of @j and move the calling process there, once all values of all groups are
 * written: those of cpuset take nobody before they have processors and memory. Above them
 * controllers are handed on (version 2), and empty values are those of the group above (version
 * 1). Without a --cgroup, in version 2, the process joins PARENT if that exists.
 *
 * @mounts is the table of mounts that tells where hierarchies are, "/proc/mounts"; @name is PARENT
 * where none was given. Returns 0 or -errno.
 */
int jail_join_cgroups(const struct jail *j, const char *mounts, const char *name,
		      struct error *err);

#endif
