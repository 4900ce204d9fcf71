/*
 * A cgroup (version 2) of the microVM's own, with all its processes in it, where the user may make
 * one: below our own cgroup, or below one above it that is ours to divide.
 *
 * Blocking, no threads; the struct belongs to the parent of the microVM.
 */
#ifndef WISP_VMM_CGROUP_H
#define WISP_VMM_CGROUP_H

#include <limits.h>

#include "vmm/config/config.h"

/* Zero-initialised: none. */
struct cgroup {
	char path[PATH_MAX]; /* ours */
	char home[PATH_MAX]; /* where we came from */
	char given[24];	     /* what it hands on for us, if ours is in there: "-cpu -memory" */
};

/* Is there anything among @r that takes a cgroup? */
bool cgroup_wanted(const struct config_resources *r);

/*
 * Make the cgroup "wisp-@id" with the limits of @r, and move this process into it. -errno, kind
 * USAGE with a hint, where no cgroup is ours to divide.
 */
int cgroup_enter(struct cgroup *g, const char *id, const struct config_resources *r,
		 struct error *err);

/* Go back, and remove it. All other processes in it have ended. Harmless without one. */
void cgroup_leave(struct cgroup *g);

/*
 * Where in the file system the cgroup of a process is whose /proc/PID/cgroup is @cgroup and whose
 * /proc/PID/mountinfo is @mountinfo. -ENOENT: there is no version 2 hierarchy.
 */
int cgroup_find(char *buf, size_t size, const char *cgroup, const char *mountinfo);

#endif
