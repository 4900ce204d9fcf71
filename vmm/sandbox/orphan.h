/*
 * The end of a monitor that is alone and does not come to an end by itself.
 *
 * When its parent dies, SIGTERM asks a monitor to end in good order. A loop that stands still does
 * not hear that, and one that waits for a disk that never answers does not come to its end. So
 * what tells of the death is SIGUSR2: its handler has timers send SIGTERM now and SIGKILL later,
 * and that one needs nobody's help. The main thread handles it until a filter forbids it to make
 * timers, and from then on another does (the maker, see maker.h, which sleeps and may).
 */
#ifndef WISP_VMM_ORPHAN_H
#define WISP_VMM_ORPHAN_H

#include <sys/types.h>

/* How long an orphan may take to end in good order, in seconds. */
#define ORPHAN_GRACE_S 10

/* In the main thread, first thing: it is told. The caller looks whether the parent is there. */
void orphan_begin(void);

/* After a change of user, which forgets who is to be told (PR_SET_PDEATHSIG in prctl(2)). */
void orphan_again(void);

/*
 * In the main thread, before it makes others, which block SIGUSR2 as it does from now on. A death
 * before somebody watches (orphan_watch()) waits until then.
 */
void orphan_leave(void);

/*
 * The calling thread is told of the death of its process's parent, which is or was @parent. In a
 * thread with a filter of system calls this takes prctl(PR_SET_PDEATHSIG) and getppid(), and then
 * timer_create() and timer_settime().
 */
void orphan_watch(pid_t parent);

#endif
