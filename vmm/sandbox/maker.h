/*
 * The thread that makes others, on behalf of the main thread.
 *
 * A filter of system calls can only be tightened and goes on to whatever is made under it. So if
 * the main thread forked the monitors of clones it would have to be allowed all that building a
 * machine takes, for as long as its guest runs. This thread is, and sleeps; the main thread's list
 * has what serving a guest takes, and asks here for a thread or a child.
 *
 * Owned by a machine; all calls are the main thread's, which waits meanwhile. Everywhere a NULL is
 * a maker that is not needed, as nothing is filtered: the caller's thread does it.
 */
#ifndef WISP_VMM_MAKER_H
#define WISP_VMM_MAKER_H

#include <pthread.h>
#include <sys/types.h>

#include "vmm/core/error.h"

struct maker;
struct sandbox;

/*
 * Start it, under its filter when this returns. *ret_maker is NULL when @sandbox (may be NULL) has
 * no filters. The caller's filter comes after that.
 */
int maker_create(struct maker **ret_maker, struct sandbox *sandbox, struct error *err);

/* Ends the thread; threads and children that it made live on. */
void maker_free(struct maker *m);

/*
 * pthread_create(), with all signals blocked in the new thread: they are for those that ask for
 * them. Its errors, positive.
 */
int maker_thread(struct maker *m, pthread_t *ret_thread, const pthread_attr_t *attr,
		 void *(*run)(void *arg), void *arg);

/*
 * fork(). The child calls @child with @arg and the writing end of a pipe, and must not return from
 * it; that end is open nowhere else. *ret_fd is the reading end, the caller's. The process, or
 * -errno.
 */
pid_t maker_fork(struct maker *m, void (*child)(void *arg, int fd), void *arg, int *ret_fd);

/* Wait for the end of a child of maker_fork(). */
void maker_reap(struct maker *m, pid_t pid);

#endif
