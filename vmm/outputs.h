/*
 * Files that a microVM writes for its user: consoles, metrics, a core, a log. Each is written over
 * what was there, so before anything is opened it is seen that none of them is a file that the
 * guest is made of, or an image that somebody uses. One thread.
 */
#ifndef WISP_VMM_OUTPUTS_H
#define WISP_VMM_OUTPUTS_H

#include "vmm/config/config.h"

/*
 * Of the machine @c, and of --save-config's file @save (NULL: none). -EINVAL, -EBUSY, kind USAGE,
 * with both options named.
 */
int outputs_check(const struct machine_config *c, const char *save, struct error *err);

#endif
