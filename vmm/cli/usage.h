/*
 * What processes use of the host, and what the host has, as /proc tells it.
 *
 * For the verbs that look at microVMs from outside, with their user's rights; the monitor
 * itself never reads /proc. No state, any thread.
 */
#ifndef WISP_VMM_USAGE_H
#define WISP_VMM_USAGE_H

#include <sys/types.h>

#include "vmm/core/util.h"

/* Zero-initialised, it is a sum to add to. */
struct usage {
	uint64_t cpu_ns;	 /* processor time, of which */
	uint64_t guest_ns;	 /* this in the guest */
	uint64_t resident_bytes; /* pages shared between processes count in each */
	unsigned processes, threads;
};

/* Add what @text, a line of /proc/PID/stat, says. -EBADMSG when it is none. */
int usage_add_stat(struct usage *sum, const char *text);

/* Add process @pid and all below it. -ESRCH when there is no such process any more. */
int usage_add_tree(struct usage *sum, pid_t pid);

/*
 * Add the microVM whose monitor is @monitor: its parent @parent and all below, when that is a
 * process of ours. A clone's is not: it was left to init, or to whoever else takes orphans.
 */
int usage_add_machine(struct usage *sum, pid_t monitor, pid_t parent);

/*
 * Is a microVM's monitor stopped by a signal, as by SIGSTOP? It is @monitor or, when that is 0,
 * the child of @parent that goes by its name: helpers have names of their own. Its process, or 0.
 */
pid_t usage_stopped_monitor(pid_t monitor, pid_t parent);

struct host_room {
	unsigned cpus; /* that we may run on */
	uint64_t memory_bytes;
	uint64_t available_bytes; /* for new work, without swapping */
};

/* @text is that of /proc/meminfo. -EBADMSG when a figure is not there. */
int host_room_parse(struct host_room *room, const char *text);

/* This host's, and the processors that the calling thread may run on. -errno of /proc/meminfo. */
int host_room_read(struct host_room *ret_room);

#define USAGE_SIZE_TEXT 24

/* @bytes in at most five characters and a letter, rounded: "84.2M". Returns @buf. */
const char *usage_size_text(char buf[static USAGE_SIZE_TEXT], uint64_t bytes);

#endif
