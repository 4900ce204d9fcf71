/*
 * A directory that is the whole world of one microVM, and the way into it, as Firecracker's
 * jailer makes them. One thread; nothing is undone on failure, since the process ends then.
 */
#ifndef WISP_HELPERS_JAIL_H
#define WISP_HELPERS_JAIL_H

#include "vmm/core/error.h"

#define JAIL_MAX_CGROUPS 32

struct jail {
	const char *id, *exec_file, *base, *netns, *parent_cgroup;
	unsigned uid, gid;
	bool uid_given, gid_given, daemonize, new_pid_ns;
	const char *cgroup[JAIL_MAX_CGROUPS]; /* "FILE=VALUE" */
	unsigned num_cgroups;
	int cgroup_version;
	unsigned long long max_file, max_files; /* 0: as they are */
	char **arguments;			/* for what runs there, up to a NULL */
};

/*
 * Make the directory, go there and become what runs in it. Returns -errno alone. With
 * new_pid_ns the caller's process ends with status 0.
 */
int jail_enter(const struct jail *j, struct error *err);

#endif
