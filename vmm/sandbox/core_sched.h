/*
 * Core scheduling: while a thread of this microVM runs on a core, its other hardware threads run
 * this microVM or nothing, so that what siblings share (caches, buffers) has one user at a time.
 *
 * The mark (a cookie of the kernel's) belongs to a thread and is inherited by those that it makes
 * and by what it forks. Works for ordinary users; Linux 5.14 with CONFIG_SCHED_CORE. prctl(2).
 */
#ifndef WISP_VMM_CORE_SCHED_H
#define WISP_VMM_CORE_SCHED_H

#include "vmm/core/error.h"

/*
 * A mark of its own for the calling process, which has one thread yet, and for all threads to come.
 * On a host whose cores have one thread each there is nothing to do. 0, or -errno with the reason.
 */
int core_sched_begin(struct error *err);

/* 0: the kernel can; -ENODEV: no core here has siblings that run; -EINVAL: it cannot. */
int core_sched_check(void);

#endif
