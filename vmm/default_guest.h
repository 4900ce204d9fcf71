/* The guest that `wisp run` boots when no kernel is named. */
#ifndef WISP_VMM_DEFAULT_GUEST_H
#define WISP_VMM_DEFAULT_GUEST_H

#include "vmm/config/config.h"

/*
 * The directory of this executable, without a slash at its end, into @dir.
 * 0 or -errno.
 */
int executable_dir(char *dir, size_t size);

/*
 * When @c names neither a kernel nor firmware: fill in kernel and initrd from
 * guests/default beside the executable (a build tree) or ../share/wisp/default
 * (an installation). Kind USAGE with a hint when there is none.
 */
int default_guest_find(struct machine_config *c, struct error *err);

#endif
